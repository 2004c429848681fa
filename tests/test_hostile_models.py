"""Nothing that was downloaded is trusted: hostile model folders and values end in one line, and run nothing."""

import ast
import json
import resource
import shutil
import sys
from pathlib import Path

import pytest
from conftest import PAIRS, QUERY, refused, spoil
from safetensors import safe_open
from safetensors.torch import save_file
from standin import change

from transenc.encoders import BiEncoder, CrossEncoder
from transenc.stages.models import find_model

PACKAGE = Path(__file__).parents[1] / "transenc"


def test_code_in_a_folder_never_runs_and_nobody_is_asked(model_copy, tmp_path):
    (model_copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Evil: pass\n")
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForSequenceClassification"), "evil.Evil")
    change(model_copy / "config.json", auto_map=auto)
    change(model_copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    BiEncoder.load(model_copy).save(tmp_path / "saved")
    CrossEncoder.load(model_copy, new_head=0)
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "saved" / name).read_text())
    change(model_copy / "config.json", model_type="evil")
    refused(model_copy)
    (model_copy / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    refused(model_copy, "has a module of code of its own, evil.Evil")
    assert not (tmp_path / "ran").exists()


def test_code_that_a_model_names_and_that_is_not_run_is_told(model_copy, caplog):
    find_model("model", str(model_copy))
    assert not caplog.text
    change(model_copy / "config.json", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Bidirectional"})
    find_model("model", str(model_copy))
    assert f"model={model_copy}: its own code (own.Bidirectional) is not run" in caplog.text
    with safe_open(model_copy / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys() if "position" not in name}  # noqa: SIM118
    save_file(weights, model_copy / "model.safetensors")  # as models with relative positions
    refused(model_copy, r"needs code of its own \(own.Bidirectional\), which never runs here", pooling="mean")


def test_a_tokenizer_without_a_fast_form_is_refused_as_such(model_copy):
    change(model_copy / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="basic")
    (model_copy / "tokenizer.json").unlink()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (model_copy / "vocab.txt").write_text("\n".join(tokens) + "\n")
    refused(model_copy, "its tokenizer has no fast form", pooling="mean")


def test_a_similarity_that_orders_pairs_otherwise_than_cosines_is_told_where_embeddings_are_compared(
    models, tmp_path, caplog
):
    folder = tmp_path / "model"
    BiEncoder.load(models["bert"], pooling="mean").save(folder)
    settings, modules = folder / "config_sentence_transformers.json", json.loads((folder / "modules.json").read_text())
    normalize = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    for similarity, listed, key, told in [
        ("cosine", modules, "model.bi", False),
        ("dot", [*modules, normalize], "model.bi", False),  # of length 1, where dot products are cosines
        ("manhattan", [*modules, normalize], "model.reference", True),
        ("dot", modules, "model.cross", False),  # where nothing is embedded
        ("dot", modules, "model.bi", True),
    ]:
        change(settings, similarity_fn_name=similarity)
        (folder / "modules.json").write_text(json.dumps(listed))
        caplog.clear()
        find_model(key, str(folder))
        assert (f"embeddings compared by {similarity}, and cosines are taken here" in caplog.text) == told


def test_a_configuration_names_no_code_for_attention(model_copy):
    change(model_copy / "config.json", attn_implementation="someone/kernel", _attn_implementation="someone/kernel")
    assert BiEncoder.load(model_copy).backbone.config._attn_implementation in ("sdpa", "eager")


def test_a_chat_template_is_never_evaluated(model_copy, tmp_path):
    code = f"{{{{ cycler.__init__.__globals__.os.mkdir({str(tmp_path / 'ran')!r}) }}}}"
    change(model_copy / "tokenizer_config.json", chat_template=code)
    (model_copy / "chat_template.jinja").write_text(code)
    encoder = BiEncoder.load(model_copy)
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


JSON_FILES = [
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json",
]  # fmt: skip


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_that_is_not_what_it_should_be_is_one_line(model_copy, name):
    BiEncoder.load(model_copy).save(model_copy)
    for text in ("", "{", "5", "null", '"a"', "[" * 100_000, "{}" if name == "modules.json" else "[]"):
        (model_copy / name).write_text(text)
        refused(model_copy)


@pytest.mark.parametrize("path", ["../1_Pooling", "/1_Pooling", "a/../../1_Pooling", None, 3, ["1_Pooling"]])
def test_a_module_outside_the_folder_is_not_read(model_copy, path):
    BiEncoder.load(model_copy).save(model_copy)
    shutil.copytree(model_copy / "1_Pooling", model_copy.parent / "1_Pooling")
    modules = json.loads((model_copy / "modules.json").read_text())
    (model_copy / "modules.json").write_text(json.dumps([modules[0], {**modules[1], "path": path}]))
    refused(model_copy, "modules.json: names .* no path inside the model's folder")


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
def test_absurd_sizes_are_one_line_and_allocate_nothing(model_copy, key, little_memory):
    for value in (10**12, 10**9, 10**6, 0, -1, "many", None, [], 0.5, float("nan")):
        if (key, value) != ("vocab_size", None):
            change(model_copy / "config.json", **{key: value})
            refused(model_copy)
            refused(model_copy, None, CrossEncoder, new_head=0)
    change(model_copy / "config.json", **{key: 2**20})
    spoil(
        model_copy, lambda weights: [weights.pop(name) for name in list(weights) if name != QUERY]
    )  # no shape contradicts
    refused(model_copy, "config.json describes|config.json says 1048576 layers|attention heads")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_labels", 10**9), ("num_labels", "two"), ("id2label", []), ("architectures", 5), ("architectures", {}),
        ("model_type", []), ("model_type", "none"), ("hidden_act", "os.system"), ("dtype", "many"),
        ("quantization_config", {"quant_method": "bitsandbytes"}), ("quantization_config", 3),
        ("output_hidden_states", "x"), ("hidden_dropout_prob", "x"),
    ],
)  # fmt: skip
def test_an_absurd_setting_is_one_line(model_copy, key, value):
    change(model_copy / "config.json", **{key: value})
    refused(model_copy)


@pytest.mark.parametrize("value", [-1, 0, "long", [], {}, float("nan"), True])
def test_a_length_that_is_none_is_one_line(model_copy, value):
    BiEncoder.load(model_copy).save(model_copy)
    if value != 0:  # which says nothing
        change(model_copy / "sentence_bert_config.json", max_seq_length=value)
        refused(model_copy)
        (model_copy / "sentence_bert_config.json").unlink()
    change(model_copy / "tokenizer_config.json", model_max_length=value)
    refused(model_copy)


# Tokenizers.


def retokenise(model_copy, edit):
    path = model_copy / "tokenizer.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("number", [10**4, 2**31 + 1, -1, 2**70, "x"])
def test_token_ids_beyond_the_models_table_are_one_line(model_copy, number):
    retokenise(model_copy, lambda content: content["model"]["vocab"].update(dog=number))
    refused(model_copy, "its tokenizer gives ids up to|: ")


def test_special_tokens_beyond_the_models_table_are_one_line(models, tmp_path):
    model_copy = Path(shutil.copytree(models["modernbert"], tmp_path / "model"))  # BERT's own class frames by itself

    def edit(content):
        for token in content["post_processor"]["special_tokens"].values():
            token["ids"] = [9999]

    retokenise(model_copy, edit)
    refused(model_copy, "its tokenizer gives ids up to 9999")


def test_a_tokenizer_without_its_special_tokens_is_one_line(models, tmp_path):
    model_copy = Path(shutil.copytree(models["modernbert"], tmp_path / "model"))
    retokenise(model_copy, lambda content: content.update(post_processor=None))
    refused(model_copy, r"its tokenizer puts no \[CLS\] before a text")
    change(model_copy / "tokenizer_config.json", pad_token=None)
    refused(model_copy, r"its tokenizer has no padding token; set pad_token in tokenizer_config.json")
