"""Settings: `schema` names them and says what they mean, `checks` holds their values to their ranges."""
