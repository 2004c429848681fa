"""Pairs: the published sets (`published`), a person's own files (`files`), tokens (`tokens`), batches (`module`)."""
