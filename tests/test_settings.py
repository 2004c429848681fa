"""docs/settings.md says of every setting what the schema says."""

import importlib.util
from pathlib import Path

from transenc.composition import SCHEMAS, keys

DOCS = Path(__file__).parents[1] / "docs"


def test_the_settings_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("settings_page", DOCS / "settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == module.page(), "run: python docs/settings.py"


def test_every_setting_is_on_the_settings_page():
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    groups = {"model", "data", "distill", "trainer", "paths", "data.clean", "data.mining", "data.columns"}
    for key in set(keys(SCHEMAS["train"])) - groups - {"distill.cross", "distill.bi"}:
        name = key.removeprefix("distill.cross.").removeprefix("distill.bi.")
        assert f"|`{name}`|" in page, key
