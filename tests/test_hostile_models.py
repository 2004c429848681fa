"""Nothing that was downloaded is trusted: hostile model folders and values end in one line, and run nothing."""

import ast
import copy
import dataclasses
import json
import os
import pickle
import resource
import shutil
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import PAIRS
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file, save_file

from transenc.cli import SCHEMAS, check_overrides, compose, explain, keys
from transenc.config.checks import check, check_evaluation
from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.model_card import card
from transenc.results import Row

PACKAGE = Path(__file__).parents[1] / "transenc"


@pytest.fixture
def folder(bert, tmp_path):
    """A copy of a right model, to be spoilt."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch):
    """A question on the terminal is a failure."""

    def ask(*_):
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", ask)


def refused(folder, says=None, cls=BiEncoder, **settings):
    with pytest.raises(InputError, match=says) as error:
        cls.load(folder, **settings)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def change(path, **values):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


# Weights.

QUERY = "encoder.layer.1.attention.self.query.weight"

PICKLERS = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "plain": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.mark.parametrize("form", PICKLERS)
@pytest.mark.parametrize("hidden", [False, True], ids=["alone", "among the weights"])
def test_code_in_pickled_weights_never_runs_and_is_refused_with_the_way_out(folder, tmp_path, form, hidden):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    bomb = Bomb(tmp_path / "ran")
    PICKLERS[form]({**weights, "x": bomb} if hidden else bomb, folder / "pytorch_model.bin")
    refused(folder, r"pytorch_model.bin is damaged, or holds more than tensors.*copy it again, or take .* safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.pt", "weights.pkl", "tf_model.h5", "other.bin", "adapter_model.safetensors"])
def test_weights_of_other_names_are_not_taken_for_the_models(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, "holds no weights that are read, model.safetensors or pytorch_model.bin")


CONTENTS = {
    "nested": lambda weights: {"state_dict": weights},
    "a number": lambda weights: {**weights, "epoch": 3},
    "a tensor": lambda weights: weights["pooler.dense.bias"],
    "a sparse tensor": lambda weights: {**weights, QUERY: torch.zeros(32, 32).to_sparse()},
    "a view of 4 terabytes": lambda weights: {**weights, QUERY: torch.zeros(1).expand(10**6, 10**6)},
    "names that are none": lambda weights: dict(enumerate(weights.values())),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_pickle_that_holds_more_than_tensors_by_name_is_refused(folder, content):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(CONTENTS[content](weights), folder / "pytorch_model.bin")
    refused(folder, "holds more than tensors by name")


@pytest.mark.parametrize("damage", ["cut in the middle", "empty"])
def test_a_damaged_pickle_is_one_line(folder, damage):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(HEADERS[damage]((folder / "pytorch_model.bin").read_bytes()))
    refused(folder, "pytorch_model.bin is damaged")


def test_pickled_weights_of_old_names_and_half_precision_load_and_are_checked_like_any(folder):
    """Gamma and beta, a prefix, buffers and other heads beside the weights: as BERT's first checkpoints."""
    expected = BiEncoder.load(folder).predict(PAIRS)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    old = {f"bert.{name}": weight.half() for name, weight in weights.items()}
    old = {name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): w for name, w in old.items()}
    old |= {"bert.embeddings.position_ids": torch.arange(64)[None], "cls.predictions.bias": torch.zeros(9)}
    torch.save(old, folder / "pytorch_model.bin")
    np.testing.assert_allclose(BiEncoder.load(folder).predict(PAIRS), expected, atol=0.01)
    torch.save(old | {f"bert.{QUERY}": torch.full((32, 32), float("nan"))}, folder / "pytorch_model.bin")
    refused(folder, "holds values that are no numbers")
    torch.save(old | {f"bert.{QUERY}": torch.zeros(3, 3)}, folder / "pytorch_model.bin")
    refused(folder, r"is \[3, 3\] in the weights, \[32, 32\] by config.json")
    del old[f"bert.{QUERY}"]
    torch.save(old, folder / "pytorch_model.bin")
    refused(folder, f"its weights lack {QUERY}")


def test_a_pickle_beside_the_weights_is_never_opened(folder, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    for name in ("pytorch_model.bin", "training_args.bin", "scheduler.pt", "optimizer.pt", "rng_state.pth", "x.pkl"):
        (folder / name).write_bytes(bomb)
    BiEncoder.load(folder).save(tmp_path / "saved")
    assert not (tmp_path / "ran").exists()
    assert not [path for path in (tmp_path / "saved").iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    pickle.loads(bomb)  # the bomb is live: without this a dud would pass for a refusal
    assert (tmp_path / "ran").exists()


def test_a_configuration_cannot_name_other_weights(folder, tmp_path):
    torch.save({"x": torch.zeros(1)}, folder / "other.bin")
    expected = BiEncoder.load(folder).predict(PAIRS)
    for name in ("other.bin", "../other.safetensors", "/etc/passwd"):
        change(folder / "config.json", transformers_weights=name)
        assert BiEncoder.load(folder).predict(PAIRS).tolist() == expected.tolist()


HEADERS = {
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "a header of 4 exabytes": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "a header of 90 megabytes": lambda whole: (90_000_000).to_bytes(8, "little") + whole[8:],
    "a header that is not JSON": lambda whole: whole[:8] + b"x" * (len(whole) - 8),
}


@pytest.mark.parametrize("damage", HEADERS)
def test_a_damaged_weight_file_is_one_line(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(HEADERS[damage](path.read_bytes()))
    refused(folder, "weights cannot be loaded")
    refused(folder, "weights cannot be loaded", CrossEncoder, new_head=0)


def spoil(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("cls", [BiEncoder, CrossEncoder])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, cls, value):
    spoil(folder, lambda weights: weights[QUERY].view(-1)[5:6].fill_(value))
    refused(
        folder, f"{QUERY} holds values that are no numbers", cls, **({"new_head": 0} if cls is CrossEncoder else {})
    )


@pytest.mark.parametrize("cls", [BiEncoder, CrossEncoder])
def test_missing_and_misshapen_weights_are_refused_by_name(folder, cls):
    settings = {"new_head": 0} if cls is CrossEncoder else {}
    spoil(folder, lambda weights: weights.update({QUERY: torch.zeros(3, 3)}))
    refused(folder, rf"{QUERY} is \[3, 3\] in the weights, \[32, 32\] by config.json", cls, **settings)
    spoil(folder, lambda weights: weights.pop(QUERY))
    refused(folder, f"its weights lack .*{QUERY}", cls, **settings)


def test_a_new_head_and_its_pooler_may_be_missing_and_a_trained_ones_may_not(folder, tmp_path):
    spoil(folder, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("pooler")])
    BiEncoder.load(folder)
    CrossEncoder.load(folder, new_head=0).save(tmp_path / "trained")
    CrossEncoder.load(tmp_path / "trained")
    spoil(tmp_path / "trained", lambda weights: weights.pop("classifier.weight"))
    refused(tmp_path / "trained", "lack classifier.weight", CrossEncoder)
    refused(tmp_path / "trained", "lack classifier.weight", CrossEncoder, new_head=0)


@pytest.mark.parametrize("shard", ["../out.safetensors", "/out.safetensors", "a/../../out.safetensors", "out.bin", 5])
def test_a_shard_outside_the_folder_or_pickled_is_refused(folder, shard):
    weights = folder / "model.safetensors"
    names = dict.fromkeys(load_file(weights), shard)
    shutil.copy(weights, folder.parent / "out.safetensors")
    weights.rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}))
    BiEncoder.load(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    refused(folder, "index.json: names .*(no path inside the model's folder|only .safetensors files)")


# Code.


def test_code_in_a_folder_never_runs_and_nobody_is_asked(folder, tmp_path):
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Evil: pass\n")
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForSequenceClassification"), "evil.Evil")
    change(folder / "config.json", auto_map=auto)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    BiEncoder.load(folder).save(tmp_path / "saved")
    CrossEncoder.load(folder, new_head=0)
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "saved" / name).read_text())
    change(folder / "config.json", model_type="evil")
    refused(folder)
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    refused(folder, "has a module of code of its own, evil.Evil")
    assert not (tmp_path / "ran").exists()


def test_a_configuration_names_no_code_for_attention(folder):
    change(folder / "config.json", attn_implementation="someone/kernel", _attn_implementation="someone/kernel")
    assert BiEncoder.load(folder).backbone.config._attn_implementation in ("sdpa", "eager")


def test_a_chat_template_is_never_evaluated(folder, tmp_path):
    code = f"{{{{ cycler.__init__.__globals__.os.mkdir({str(tmp_path / 'ran')!r}) }}}}"
    change(folder / "tokenizer_config.json", chat_template=code)
    (folder / "chat_template.jinja").write_text(code)
    encoder = BiEncoder.load(folder)
    encoder.predict(PAIRS)
    encoder.save(tmp_path / "saved")
    assert not (tmp_path / "ran").exists()


FORBIDDEN = {"eval", "exec", "compile", "__import__", "import_module", "instantiate", "get_class", "pickle", "joblib"}


def test_no_code_of_ours_runs_what_a_file_or_a_setting_names():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {part for name in node.names for part in name.name.split(".")}
                names |= set((getattr(node, "module", None) or "").split("."))
                assert not names & {"pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve", "instantiate"}, (
                    where
                )
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if isinstance(node.func, ast.Name):
                    assert called not in FORBIDDEN, where
                assert called.rpartition(".")[2] not in FORBIDDEN - {"eval", "compile"}, where
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert called != "torch.load" or given.get("weights_only") == "True", where
                assert given.get("trust_remote_code", "False") == given.get("allow_pickle", "False") == "False", where


@pytest.mark.parametrize("key", ["_target_", "model._target_", "distill.bi._target_"])
def test_a_target_is_an_unknown_key(key):
    for name in SCHEMAS:
        for plus in ("", "+", "++"):
            with pytest.raises(InputError, match="_target_: no such key"):
                check_overrides(name, [f"{plus}{key}=os.system"])
    with pytest.raises(Exception, match="_target_") as error:
        compose("train", ["data.columns={_target_: os.system}"])
    assert "_target_: no such key" in explain(error.value, "train")


# What a folder says of itself.


JSON_FILES = [
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json",
]  # fmt: skip


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_that_is_not_what_it_should_be_is_one_line(folder, name):
    for text in ("", "{", "5", "null", '"a"', "[" * 100_000, "{}" if name == "modules.json" else "[]"):
        (folder / name).write_text(text)
        refused(folder)


@pytest.mark.parametrize("path", ["../1_Pooling", "/1_Pooling", "a/../../1_Pooling", None, 3, ["1_Pooling"]])
def test_a_module_outside_the_folder_is_not_read(folder, path):
    BiEncoder.load(folder).save(folder)
    shutil.copytree(folder / "1_Pooling", folder.parent / "1_Pooling")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0], {**modules[1], "path": path}]))
    refused(folder, "modules.json: names .* no path inside the model's folder")


@pytest.fixture
def little_memory():
    """No more than 3 GB beyond what is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**9, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and read as on Linux")
@pytest.mark.parametrize("key", [*SIZES, "vocab_size"])
def test_absurd_sizes_are_one_line_and_allocate_nothing(folder, key, little_memory):
    for value in (10**12, 10**9, 10**6, 0, -1, "many", None, [], 0.5, float("nan")):
        if (key, value) != ("vocab_size", None):
            change(folder / "config.json", **{key: value})
            refused(folder)
            refused(folder, None, CrossEncoder, new_head=0)
    change(folder / "config.json", **{key: 2**20})
    spoil(
        folder, lambda weights: [weights.pop(name) for name in list(weights) if name != QUERY]
    )  # no shape contradicts
    refused(folder, "config.json describes|config.json says 1048576 layers|attention heads")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_labels", 10**9), ("num_labels", "two"), ("id2label", []), ("architectures", 5), ("architectures", {}),
        ("model_type", []), ("model_type", "none"), ("hidden_act", "os.system"), ("dtype", "many"),
        ("quantization_config", {"quant_method": "bitsandbytes"}), ("quantization_config", 3),
        ("output_hidden_states", "x"), ("hidden_dropout_prob", "x"),
    ],
)  # fmt: skip
def test_an_absurd_setting_is_one_line(folder, key, value):
    change(folder / "config.json", **{key: value})
    refused(folder)


@pytest.mark.parametrize("value", [-1, 0, "long", [], {}, float("nan"), True])
def test_a_length_that_is_none_is_one_line(folder, value):
    if value != 0:  # which says nothing
        change(folder / "sentence_bert_config.json", max_seq_length=value)
        refused(folder)
        (folder / "sentence_bert_config.json").unlink()
    change(folder / "tokenizer_config.json", model_max_length=value)
    refused(folder)


# Tokenizers.


def retokenise(folder, edit):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("number", [10**4, 2**31 + 1, -1, 2**70, "x"])
def test_token_ids_beyond_the_models_table_are_one_line(folder, number):
    retokenise(folder, lambda content: content["model"]["vocab"].update(dog=number))
    refused(folder, "its tokenizer gives ids up to|: ")


def test_special_tokens_beyond_the_models_table_are_one_line(models, tmp_path):
    folder = Path(shutil.copytree(models["modernbert"], tmp_path / "model"))  # BERT's own class frames by itself

    def edit(content):
        for token in content["post_processor"]["special_tokens"].values():
            token["ids"] = [9999]

    retokenise(folder, edit)
    refused(folder, "its tokenizer gives ids up to 9999")


def test_a_tokenizer_without_its_special_tokens_is_one_line(models, tmp_path):
    folder = Path(shutil.copytree(models["modernbert"], tmp_path / "model"))
    retokenise(folder, lambda content: content.update(post_processor=None))
    refused(folder, "puts no special tokens")
    for name in ("pad_token", "cls_token"):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {name: None}))
        refused(folder, "no encoder of BERT's kind|puts no special tokens")


# Cards.

NAMES = [
    "a\n---\nlicense: mit", "a: b # c", '"quoted" \\ \\n', "`code`", "``", "<script>alert(1)</script>", "a|b|c", "***",
    "", "- [x](y)", "\x00\x1b[31m\x85\u2028", "naïve 漢字 😀", "{{ x }}", "!!python/object:x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_breaks_a_card(name):
    rows = [Row(1, "bi", 0, name, 7, 0.5, 0.5, None, None)]
    plain = card("bi", "x", "made.", ["x"], 0, [dataclasses.replace(rows[0], task="x")], "x")
    text = card("bi", name, "made.", [name], 0, rows, name)
    (_, body), (_, plain_body) = (one.split("\n---\n", 1) for one in (text, plain))
    said, expected = (yaml.safe_load(one.split("\n---\n", 1)[0].removeprefix("---\n")) for one in (text, plain))
    assert "base_model" not in said
    assert expected.pop("base_model") == "x"
    assert said["model-index"][0]["results"][0]["dataset"]["name"] == name
    assert list(said) == list(expected)
    assert len(body.split("\n")) == len(plain_body.split("\n"))
    quoted = f"`{name}`" if "`" not in name else "``"
    for line in body.split("\n"):
        if line.startswith("| ") and "task" not in line:
            assert line.replace("\\|", "").count("|") == 5
            assert "<" not in line.replace("\\<", "")
        if line.startswith(("- Learnt", "- Command")) and name.isprintable():
            assert quoted in line


# Settings.

SINGLE = [
    "a\nb", "", -1, 1.5, 10**30, float("nan"), float("inf"), -float("inf"), True, None, [], ["a", 1], [["a"]], {"a": 1},
    {"_target_": "os.system"}, "${seed}", "${paths}",
]  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_any_value_of_any_key_is_accepted_or_refused_in_one_line(name):
    base = OmegaConf.structured(SCHEMAS[name])
    right = compose(name, ["model.path=x"] if name == "evaluate" else [])
    base = OmegaConf.merge(base, OmegaConf.structured(right))
    checked = {"train": check, "evaluate": check_evaluation}[name]
    holders = {key for key in keys(SCHEMAS[name]) if any(one.startswith(f"{key}.") for one in keys(SCHEMAS[name]))}
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
                said = explain(error, name)
                assert said.strip(), (key, value)
                assert "\n" not in said, (key, value)
            else:
                assert not (isinstance(value, float) and value - value != 0 and typed(name, key) in (int, float)), key


def typed(name, key):
    kind = SCHEMAS[name]
    for part in key.split("."):
        kind = typing.get_type_hints(kind)[part]
    return kind
