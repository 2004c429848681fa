"""Settings of any type and value: a configuration that passes, or one line; never a traceback."""

import copy
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from transenc.composition import SCHEMAS, check_overrides, choices, compose, explain, keys
from transenc.config.checks import check, check_evaluation
from transenc.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(
    st.integers().map(str), st.floats().map(str), st.sampled_from(["1e400", "-0", "0x10", "nan", "-inf"])
)
WORDS = ["null", "true", "no", "''", "[]", "{}", "???", "auto", "paper", "${seed}", "${oc.env:HOME}"]
PLAIN = st.one_of(NUMBERS, st.sampled_from(WORDS), TEXT)
VALUES = st.one_of(
    PLAIN,
    st.lists(PLAIN, max_size=3).map(lambda values: f"[{','.join(values)}]"),
    st.tuples(TEXT, PLAIN).map(lambda pair: f"{{{pair[0]}:{pair[1]}}}"),
    st.lists(PLAIN, min_size=2, max_size=3).map(",".join),  # a sweep, outside of multirun
)


# A composition takes a tenth of a second and more.
fewer = settings(max_examples=settings.default.max_examples // 2)


def python(*arguments):
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=root, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def keys_of(name):
    ours = [group for group in choices(name) if not group.startswith("hydra")]  # whose errors Hydra's main shows itself
    known = st.sampled_from([*keys(SCHEMAS[name]), *ours])
    return st.one_of(known, known, known, st.tuples(known, TEXT).map("".join), TEXT)


def refusal(name, argument):
    """The error that is shown, or None where the configuration passes."""
    try:
        cfg = compose(name, [argument])
        {"train": check, "evaluate": check_evaluation}[name](cfg)
    except (InputError, HydraException, OmegaConfBaseException) as error:
        return explain(error, name)
    return None


@pytest.mark.parametrize("name", ["train", pytest.param("evaluate", marks=pytest.mark.slow)])
@fewer
@given(st.data())
def test_any_setting_passes_or_is_refused_in_one_line(name, data):
    prefix = data.draw(st.sampled_from(["", "", "", "+", "++", "~"]))
    argument = f"{prefix}{data.draw(keys_of(name))}={data.draw(VALUES)}"
    line = refusal(name, argument)
    assert line is None or (line.strip() and "\n" not in line), argument


@pytest.mark.slow
@fewer
@given(NUMBERS)
def test_a_number_where_a_count_belongs_is_held_to_its_range(text):
    line = refusal("train", f"distill.iterations={text}")
    try:
        wanted = 1 <= int(text) < 2**32
    except ValueError:
        wanted = False
    assert (line is None) == wanted
    assert line is None or line.startswith("distill.iterations")


def test_a_recipe_of_others_names_no_class_to_be_made(tmp_path):
    (tmp_path / "experiment").mkdir()
    recipe = "# @package _global_\ndata:\n  _target_: os.system\n  command: touch hacked\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(recipe)
    status, output = python("train.py", "--config-dir", tmp_path, "experiment=mine", f"hydra.run.dir={tmp_path}/run")
    assert status == 1
    assert "Key '_target_' not in 'Data'" in output.strip().splitlines()[-1]
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.parametrize("key", ["_target_", "model._target_", "distill.bi._target_"])
def test_a_target_is_an_unknown_key(key):
    for name in SCHEMAS:
        for plus in ("", "+", "++"):
            with pytest.raises(InputError, match="_target_: no such key"):
                check_overrides(name, [f"{plus}{key}=os.system"])
    with pytest.raises(Exception, match="_target_") as error:
        compose("train", ["data.columns={_target_: os.system}"])
    assert "_target_: no such key" in explain(error.value, "train")


SINGLE = [
    "a\nb", "", -1, 1.5, 10**30, float("nan"), float("inf"), -float("inf"), True, None, [], ["a", 1], [["a"]], {"a": 1},
    {"_target_": "os.system"}, "${seed}", "${paths}",
]  # fmt: skip


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_any_value_of_any_key_is_accepted_or_refused_in_one_line(name):
    base = OmegaConf.structured(SCHEMAS[name])
    right = compose(name, ["model.path=x"] if name == "evaluate" else [])
    base = OmegaConf.merge(base, OmegaConf.structured(right))
    checked = {"train": check, "evaluate": check_evaluation}[name]
    holders = {
        key for key in keys(SCHEMAS[name]) if any(longer.startswith(f"{key}.") for longer in keys(SCHEMAS[name]))
    }
    for key in keys(SCHEMAS[name]):
        for value in SINGLE:
            cfg = copy.deepcopy(base)
            try:
                if key in holders and not isinstance(value, dict):
                    check_overrides(name, [f"{key}={json.dumps(value)}"])
                    raise AssertionError(f"{key}={value!r} passed")
                OmegaConf.update(cfg, key, value)
                checked(OmegaConf.to_object(cfg))
            except (InputError, OmegaConfBaseException) as error:
                output = explain(error, name)
                assert output.strip(), (key, value)
                assert "\n" not in output, (key, value)
            else:
                assert not (isinstance(value, float) and value - value != 0 and typed(name, key) in (int, float)), key


def typed(name, key):
    kind = SCHEMAS[name]
    for part in key.split("."):
        kind = typing.get_type_hints(kind)[part]
    return kind
