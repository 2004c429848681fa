"""The rules of the house: imports point one way, configuration stops at the stages, recipes compose."""

import ast
from pathlib import Path

import pytest

from transenc.composition import CONF, SCHEMAS, choices, compose

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "transenc"
ORDER = [  # each may import those before it, never those after
    ["errors", "artifacts", "metrics"],
    ["distributed"],
    ["results", "config.schema", "model_hub"],
    ["model_folder"],
    ["model_description"],
    ["config.checks"],
    ["terminal", "run_folder"],
    ["report.run"],
    ["report.tables", "report.plots"],
    ["report.comparison"],
    ["report.page"],
    ["report.__main__"],
    ["data.scores", "data.lines"],
    ["data.files", "data.sentences", "data.tokens"],
    ["data.published", "data.hub", "data.mining", "data.crops", "data.module"],
    ["data.known"],
    [
        "encoders.lora",
        "encoders.used_rows",
        "encoders.inputs",
        "encoders.cpu_layers",
        "encoders.cuda_graphs",
        "encoders.cuda_kernels",
        "encoders.losses",
    ],
    ["encoders.loading", "encoders.modules", "encoders.late_interaction"],
    ["encoders.base"],
    ["encoders.bi", "encoders.cross"],
    ["encoders"],
    ["progress", "checkpoint"],
    ["training"],
    ["stages.pairs"],
    ["stages.models"],
    ["stages.labels", "stages.interpolation", "stages.teachers"],
    ["stages.training"],
    ["stages.evaluation"],
    ["stages.pool"],
    ["stages.run"],
    ["selection", "trackers"],
    ["model_card"],
    ["run_writer"],
    ["loop", "in_memory"],
    ["hydra_folders"],
    ["composition", "sweep"],
    ["cli"],
    ["evaluate", "publish", "api"],
    ["score"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("__init__", "config", "data", "report", "stages"):  # which hold a docstring
            yield name, path


def test_imports_point_one_way():
    for name, path in modules():
        for imported in imports(path):
            target = imported.removeprefix("transenc.")
            if imported.startswith("transenc.") and target in RANK:
                inside = name == "encoders" or RANK[target] < RANK[name]
                assert inside, f"{name} imports {target}"


def test_every_module_has_its_place():
    assert {name for name, _ in modules()} == set(RANK)


def test_nothing_below_the_command_line_imports_hydra_or_omegaconf():
    for name, path in modules():
        if name not in ("cli", "composition", "hydra_folders", "sweep"):
            assert not [i for i in imports(path) if i.split(".")[0] in ("hydra", "omegaconf")], name


def test_nothing_below_the_stages_takes_a_config():
    for name, path in modules():
        if RANK[name] < RANK["stages.models"] and not name.startswith("config."):
            assert not [i for i in imports(path) if i.startswith("transenc.config")], name


RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_against_the_schema_and_says_what_it_is(recipe):
    compose("train", [f"experiment={recipe}"])
    head = (CONF / "experiment" / f"{recipe}.yaml").read_text().split("defaults:")[0]
    for word in ("python train.py experiment=", "device", "minutes", "expected"):
        assert word in head, f"the header of {recipe} lacks {word!r}"
    assert "TODO" not in head


@pytest.mark.parametrize("group", ["model", "data", "distill", "trainer"])
def test_every_choice_of_every_group_composes(group):
    for choice in choices("train")[group]:
        compose("train", [f"{group}={choice}"])


def test_values_live_in_conf_and_not_in_the_schema():
    import dataclasses

    def nodes(schema):
        yield schema
        for field in dataclasses.fields(schema):
            if dataclasses.is_dataclass(field.type):
                yield from nodes(field.type)

    for schema in SCHEMAS.values():
        for node in nodes(schema):
            assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(node)), node


@pytest.mark.parametrize("folder", ["transenc", "tests", "benchmarks"])
def test_no_file_is_longer_than_400_lines(folder):
    lengths = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {path: lines for path, lines in lengths.items() if lines > 400}
