"""docs/settings.md says of every setting what the schema says."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from transenc.composition import CONF, SCHEMAS, compose, keys

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


def test_a_configuration_is_composed_in_a_program_of_hydras_and_in_threads():
    with initialize_config_dir(str(CONF), version_base="1.3"), ThreadPoolExecutor(4) as pool:
        seeds = pool.map(lambda seed: compose("train", [f"seed={seed}"]).seed, range(8))
        assert list(seeds) == list(range(8))
        assert GlobalHydra.instance().is_initialized()
