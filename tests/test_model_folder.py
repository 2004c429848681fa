"""What a model folder asks for is done, or refused by name; what is saved is complete."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PAIRS, refused
from families import ENCODERS
from safetensors.torch import load_file
from standin import change
from transformers import AutoModel

from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.model_description import read_as
from transenc.model_folder import find

st = pytest.importorskip("sentence_transformers")


@pytest.fixture
def folder(models, tmp_path):
    """A sentence-transformers folder of a cased model, mean-pooled."""
    BiEncoder.load(models["roberta"], pooling="mean").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def cross(models, tmp_path):
    CrossEncoder.load(models["roberta"], new_head=0).save(tmp_path / "cross")
    return tmp_path / "cross"


@pytest.mark.parametrize("kind", ["custom_st.Transformer", "model.Pooling", "Transformer"])
def test_a_module_of_code_of_its_own_is_refused_though_it_is_called_like_ours(folder, kind):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**modules[0], "type": kind}, modules[1]]))
    refused(folder, f"has a module of code of its own, {kind}, which is not supported")


@pytest.mark.parametrize("name", ["CNN", "LSTM", "BoW", "WeightedLayerPooling", "SpladePooling"])
def test_a_module_that_is_not_supported_is_refused_by_name(folder, name):
    modules = json.loads((folder / "modules.json").read_text())
    more = {"idx": 2, "name": "2", "path": f"2_{name}", "type": f"sentence_transformers.models.{name}"}
    (folder / "modules.json").write_text(json.dumps([*modules, more]))
    refused(folder, f"has a module {name}, which is not supported")
    CrossEncoder.load(folder, new_head=0)


def test_a_model_that_needs_code_of_its_own_is_refused_without_advice_to_run_it(folder):
    code = "Alibaba-NLP/new-impl--modeling.NewModel"
    change(folder / "config.json", model_type="new", auto_map={"AutoModel": code})
    refused(folder, f"needs code of its own \\({code}\\), which never runs here; take another model")


def test_word_vectors_without_a_transformer_are_refused_by_name(folder):
    modules = json.loads((folder / "modules.json").read_text())
    first = {"path": "0_Words", "type": "sentence_transformers.models.WordEmbeddings"}
    (folder / "modules.json").write_text(json.dumps([first, modules[1]]))
    refused(folder, "has a module WordEmbeddings, which is not supported")


def test_a_router_is_refused_with_what_it_is(folder):
    (folder / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.models.Router"}]))
    refused(folder, "has a Router, different modules for queries and documents, which is not supported")


@pytest.mark.parametrize(
    "setting",
    [{"query_length": 8}, {"model_kwargs": {"subfolder": "x"}}, {"processing_kwargs": {"text": {"max_length": 3}}}],
)
def test_a_setting_of_a_transformer_that_is_not_known_is_refused_by_name(folder, setting):
    change(folder / "sentence_bert_config.json", model_args={"attn_implementation": "sdpa"})
    BiEncoder.load(folder)
    change(folder / "sentence_bert_config.json", **setting)
    refused(folder, f"has {next(iter(setting))}=.* in sentence_bert_config.json, which is not supported")


def test_texts_in_a_chat_template_are_refused(folder):
    modality = {"message": {"method": "forward", "method_output_name": "last_hidden_state"}}
    change(folder / "sentence_bert_config.json", modality_config=modality)
    refused(folder, r"has texts put into a chat template \(sentence_bert_config.json\)")


TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_a_model_without_a_tokenizer_is_refused(models, tmp_path, family):
    """As `save_pretrained` of the model alone leaves it; transformers would make up a tokenizer that knows no words."""
    folder = Path(shutil.copytree(models[family], tmp_path / "model"))
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
    refused(folder, "there is no tokenizer in this folder .*tokenizer.save_pretrained")
    refused(folder, "there is no tokenizer in this folder", CrossEncoder, new_head=0)


CAPITALS = [(a.title(), b.upper()) for a, b in PAIRS]


@pytest.mark.parametrize("file", ["sentence_bert_config.json", "sentence_roberta_config.json"])
@pytest.mark.parametrize(
    "family", ["roberta", "deberta-v2", *(pytest.param(family, marks=pytest.mark.slow) for family in ("bert", "mpnet"))]
)
def test_text_is_brought_to_lower_case_where_the_folder_says_so_and_what_is_saved_keeps_that(
    models, tmp_path, family, file
):
    folder = tmp_path / "model"
    BiEncoder.load(models[family], pooling="mean").save(folder)
    (folder / "sentence_bert_config.json").rename(folder / file)
    change(folder / file, do_lower_case=True)
    encoder, cross = BiEncoder.load(folder), CrossEncoder.load(folder, new_head=0)
    encoder.save(tmp_path / "bi")
    cross.save(tmp_path / "cross")
    for ours, saved in ((encoder, tmp_path / "bi"), (cross, tmp_path / "cross")):
        expected = ours.predict([(a.lower(), b.lower()) for a, b in CAPITALS])
        np.testing.assert_allclose(ours.predict(CAPITALS), expected, atol=1e-6)
        np.testing.assert_allclose(type(ours).load(saved).predict(CAPITALS), expected, atol=1e-6)
    theirs = st.SentenceTransformer(str(folder), device="cpu")
    first, second = (theirs.encode(list(side), normalize_embeddings=True) for side in zip(*CAPITALS, strict=True))
    np.testing.assert_allclose(encoder.predict(CAPITALS), (first * second).sum(1), atol=1e-5)
    theirs = st.CrossEncoder(str(tmp_path / "cross"), device="cpu")
    np.testing.assert_allclose(cross.predict(CAPITALS), theirs.predict(CAPITALS), atol=1e-5)


def test_a_pooling_that_a_person_names_is_taken_before_the_folders_is_read(folder, models):
    expected = BiEncoder.load(models["roberta"], pooling="cls").predict(PAIRS)
    for mode in ({"pooling_mode": "median", "embedding_dimension": 32}, {"pooling_mode": 5}, {}):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(mode))
        refused(folder, "its Pooling in 1_Pooling cannot be loaded")
        np.testing.assert_array_equal(BiEncoder.load(folder, pooling="cls").predict(PAIRS), expected)
        CrossEncoder.load(folder, new_head=0)  # which has none


@pytest.mark.parametrize("family", ENCODERS)
def test_a_saved_bi_encoder_is_complete_for_a_loader_that_makes_a_pooler_too(models, tmp_path, family):
    """Else sentence-transformers reports weights as missing, and advises to train the model."""
    BiEncoder.load(models[family]).save(tmp_path)
    _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before, after = (load_file(folder / "model.safetensors") for folder in (models[family], tmp_path))
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_pooler_that_the_source_lacks_is_made_and_always_the_same(models, tmp_path):
    source = Path(shutil.copytree(models["bert"], tmp_path / "source"))
    weights = load_file(source / "model.safetensors")
    from safetensors.torch import save_file

    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    for name in ("one", "other"):
        torch.manual_seed(len(name))
        BiEncoder.load(source).save(tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert first == second
    assert set(load_file(tmp_path / "one" / "model.safetensors")) == set(weights)


def dependent(name, folder):
    """A tiny model of a family whose scores depend on padding."""
    import transformers as hf
    from families import SIZE, VOCABULARY

    sizes = dict(SIZE) if name != "FNetConfig" else {k: v for k, v in SIZE.items() if k != "num_attention_heads"}
    more = {
        "ConvBertConfig": {"embedding_size": 32, "head_ratio": 1, "conv_kernel_size": 3},
        "NystromformerConfig": {"num_landmarks": 8, "segment_means_seq_len": 8},
        "FNetConfig": {},
    }[name]
    torch.manual_seed(0)
    AutoModel.from_config(getattr(hf, name)(**sizes, **more)).save_pretrained(folder)
    hf.BertTokenizer(vocab=VOCABULARY, model_max_length=64).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["ConvBertConfig", "NystromformerConfig", "FNetConfig"])
def test_a_model_whose_scores_depend_on_what_else_is_in_a_batch_is_refused(name, tmp_path):
    refused(dependent(name, tmp_path), "its scores depend on what else is in a batch", pooling="mean")


def test_a_logit_whose_folder_names_no_sigmoid_is_the_same_its_score_a_sigmoid_and_that_is_said(cross):
    change(cross / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    encoder = CrossEncoder.load(cross)
    logits = st.CrossEncoder(str(cross), device="cpu").predict([list(pair) for pair in PAIRS])
    np.testing.assert_allclose(encoder.predict(PAIRS), 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert "scores are the sigmoid of its logit (its folder says Identity)" in read_as(encoder.facts)


def test_the_folder_of_a_run_is_no_model_and_the_line_says_where_its_models_are(tmp_path):
    for name in ("bi-encoder", "cross-encoder"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "models"):
        with pytest.raises(InputError, match=r"there is one in .*/models/bi-encoder and in .*/models/cross-encoder$"):
            find(str(folder))


def test_a_file_of_a_model_is_no_model(bert):
    with pytest.raises(InputError, match=r"model.safetensors: is a file; give its folder"):
        find(f"{bert}/model.safetensors")


def test_a_number_sign_in_the_name_of_a_folder_is_a_part_of_it(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "exp#2")
    assert find(str(folder)).public == (str(folder), None)
