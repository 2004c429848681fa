"""A folder is read as sentence-transformers reads it, or refused in one line: never accepted and read otherwise."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PAIRS, refused
from families import FOLDERS, build, gpt2
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from sentence_transformers import SentenceTransformer
from standin import change
from transformers import AutoTokenizer

from transenc.artifacts import file_digest
from transenc.data.tokens import number_sentences
from transenc.encoders import BiEncoder, CrossEncoder
from transenc.encoders.loading import saved_tokenizer


@pytest.fixture
def folder(models, tmp_path):
    BiEncoder.load(models["bert"], pooling="mean").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def cross(models, tmp_path):
    """As sentence-transformers saves one."""
    CrossEncoder.load(models["bert"], new_head=1).save(tmp_path / "plain")
    TheirCrossEncoder(str(tmp_path / "plain"), device="cpu").save_pretrained(str(tmp_path / "cross"))
    return tmp_path / "cross"


def equal(folder, **settings):
    encoder = BiEncoder.load(folder, **settings)
    model = SentenceTransformer(str(folder), device="cpu")
    first, second = (torch.from_numpy(model.encode(list(side), batch_size=3)) for side in zip(*PAIRS, strict=True))
    theirs = torch.cosine_similarity(first, second).numpy()
    np.testing.assert_allclose(encoder.similarities(encoder.tokenise(*number_sentences(PAIRS))), theirs, atol=1e-5)


def test_whole_weights_come_before_parts_as_in_transformers_and_the_digest_is_theirs(folder):
    shutil.copy(folder / "model.safetensors", folder / "good.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(folder / "good.safetensors"), "good.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    digest = file_digest(folder / "good.safetensors")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    equal(folder)
    refused(f"{folder}#sha256={digest}", "has not the sha256")


def test_a_model_with_an_adapter_in_its_folder_is_refused(folder):
    change(folder / "adapter_config.json", base_model_name_or_path="x")
    refused(folder, r"holds a model and an adapter \(adapter_config.json\); move one of them")


def test_an_adapter_of_itself_is_one_line(folder):
    (folder / "config.json").unlink()
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")
    change(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    refused(folder, "whose base model is missing: .*is an adapter itself")


def test_left_padding_is_refused_where_positions_are_absolute_and_equal_where_they_are_not(folder, tmp_path):
    change(folder / "tokenizer_config.json", padding_side="left")
    refused(folder, "pads on the left, which changes its scores; set padding_side=right")
    change(folder / "tokenizer_config.json", padding_side="right")
    change(folder / "sentence_bert_config.json", processor_kwargs={"padding_side": "left"})
    refused(folder, "pads on the left")
    equal(FOLDERS["mistral with lasttoken pooling, as E5-Mistral"](tmp_path / "mistral"))
    change(gpt2(tmp_path / "gpt2") / "tokenizer_config.json", padding_side="left")
    refused(tmp_path / "gpt2", "pads on the left", pooling="lasttoken")


def test_a_special_token_without_an_embedding_is_text_like_any_other(tmp_path):
    pairs = [("a <image_soft_token> b", "b"), ("a", "b")]
    build("gemma3_text", tmp_path / "model")
    encoder = BiEncoder.load(tmp_path / "model", pooling="mean")
    expected = encoder.predict(pairs)
    assert np.isfinite(expected).all()
    encoder.save(tmp_path / "saved")
    np.testing.assert_array_equal(BiEncoder.load(tmp_path / "saved").predict(pairs), expected)
    tokens = saved_tokenizer(tmp_path / "saved")(pairs[0][0], add_special_tokens=False)["input_ids"]
    assert tokens == encoder.tokenise(*number_sentences(pairs)).tokens(0).tolist()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(tmp_path / "model")
    refused(tmp_path / "model", "its tokenizer gives ids up to .*; take the tokenizer that belongs", pooling="mean")


def test_a_folders_length_beyond_a_table_of_positions_is_cut_to_it_and_ones_own_is_refused(folder, tmp_path):
    change(folder / "sentence_bert_config.json", max_seq_length=514)
    assert BiEncoder.load(folder).max_tokens == 64
    equal(folder)
    refused(folder, "max_tokens=100, but the model reads 64 at most", max_tokens=100)
    build("nomic_bert", tmp_path / "rotary")
    SentenceTransformer(str(tmp_path / "rotary"), device="cpu").save_pretrained(str(tmp_path / "long"))
    change(tmp_path / "long" / "sentence_bert_config.json", max_seq_length=200)
    assert BiEncoder.load(tmp_path / "long").max_tokens == 200
    equal(tmp_path / "long")


def test_settings_that_change_no_score_are_passed_over(folder):
    change(folder / "config.json", rope_theta=5_000_000)
    change(folder / "sentence_bert_config.json", model_args={"trust_remote_code": True, "add_pooling_layer": False})
    equal(folder)


def test_attention_that_changes_with_the_batches_before_is_refused(folder):
    change(folder / "config.json", model_type="big_bird")
    refused(folder, "the first short batch changes how big_bird reads long ones")


FILES = {
    "config": "config.json",
    "general": "config_sentence_transformers.json",
    "lengths": "sentence_bert_config.json",
}


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        (
            "general",
            {"model_type": "SparseEncoder"},
            "model_type='SparseEncoder', and only SentenceTransformer and Cross",
        ),
        ("general", {"truncate_dim": 0}, "truncate_dim=0 must be at least 1"),
        ("general", {"truncate_dim": -4}, "truncate_dim=-4 must be at least 1"),
        ("general", {"transenc_prompts": ["a"]}, "is none of its prompts"),
        ("general", {"transenc_prompts": [["a"], "a"]}, "is none of its prompts"),
        ("lengths", {"tokenizer_args": {"model_max_length": 10}}, "has tokenizer_args=.*, which is not supported"),
        ("lengths", {"module_output_name": "sentence_embedding"}, "has module_output_name='sentence_embedding'"),
        ("lengths", {"foo": [1]}, r"has foo=\[1\] in sentence_bert_config.json"),
        (
            "lengths",
            {"modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}},
            "has modality_config=",
        ),
        ("config", {"is_causal": True}, "depend on what else is in a batch"),
        ("config", {"transformers_weights": "other.safetensors"}, "transformers_weights names other weights"),
    ],
)
def test_what_would_be_read_otherwise_is_refused_by_name(folder, file, changes, says):
    change(folder / FILES[file], **changes)
    refused(folder, says)


def test_a_decoder_of_berts_kind_is_read_as_one(folder):
    change(folder / "config.json", is_decoder=True)
    equal(folder)


def test_a_tokenizer_that_gives_no_mask_is_refused(folder):
    for names in (["input_ids"], [], "input_ids"):
        change(folder / "tokenizer_config.json", model_input_names=names)
        refused(folder, "has to name attention_mask, without which padding would count|make no encoder")


def test_files_of_sentence_transformers_count_only_beside_a_modules_file(folder):
    change(folder / "sentence_bert_config.json", max_seq_length=8, do_lower_case=True)
    (folder / "modules.json").unlink()
    encoder = BiEncoder.load(folder, pooling="mean")
    assert encoder.max_tokens == 64
    equal(folder, pooling="mean")


def test_other_names_of_the_settings_file_are_looked_for_in_the_same_order(folder):
    shutil.copy(folder / "sentence_bert_config.json", folder / "sentence_albert_config.json")
    change(folder / "sentence_albert_config.json", max_seq_length=5)
    (folder / "sentence_foo_config.json").write_text('{"max_seq_length": 5}')
    equal(folder)
    assert BiEncoder.load(folder).max_tokens == 64


@pytest.mark.parametrize("order", [["Pooling", "Pooling"], ["Normalize", "Pooling"]])
def test_one_pooling_comes_first(folder, order):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "2_Normalize").mkdir()
    paths = {"Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    more = [
        {"idx": i, "name": str(i), "path": paths[name], "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(order, 1)
    ]
    (folder / "modules.json").write_text(json.dumps([modules[0], *more]))
    refused(folder, f"has modules in the order {', '.join(order)}, where one Pooling comes first")


def test_two_modules_of_one_name_are_refused(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0], {**modules[1], "name": "0"}]))
    refused(folder, "two modules are named '0'; rename one")


def test_a_prompt_beyond_the_limit_that_is_not_pooled_is_cut_before_it_is_counted(folder):
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    prompt = {"prompts": {"long": "the man eats food in the park. " * 20}, "default_prompt_name": "long"}
    change(folder / "config_sentence_transformers.json", **prompt)
    equal(folder)


def test_a_dense_whose_width_does_not_fit_or_that_its_file_does_not_hold_is_one_line(tmp_path):
    folder = FOLDERS["Dense"](tmp_path)
    change(folder / "2_Dense" / "config.json", in_features=31)
    refused(
        folder, "its Dense in 2_Dense cannot be loaded|its Dense takes 31 numbers, and what stands before it gives 32"
    )
    change(folder / "2_Dense" / "config.json", in_features=2**20, out_features=2**14)
    refused(folder, "describes 1.72e[+]10 weights, which its files do not hold")
    change(folder / "1_Pooling" / "config.json", embedding_dimension=16)
    refused(folder, "its Pooling takes 16 numbers, and what stands before it gives 32|cannot be loaded")


def test_pickled_modules_are_refused_without_advice_to_trust_them(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path, "ran").touch, ())

    folder = FOLDERS["Dense"](tmp_path)
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({"linear.weight": Evil()}, folder / "2_Dense" / "pytorch_model.bin")
    change(folder / "2_Dense" / "config.json", in_features=1, out_features=1)
    refused(folder, r"\(a pickled file is damaged, or holds more than tensors\); copy it again$")
    assert not (tmp_path / "ran").exists()


def test_static_embeddings_cut_as_their_tokenizer_does_and_are_pooled_by_their_mean_only(tmp_path):
    folder = FOLDERS["StaticEmbedding"](tmp_path)
    refused(folder, "static embeddings are pooled by their mean; set model.pooling=auto", pooling="max")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    equal(folder)
    BiEncoder.load(folder).save(tmp_path / "saved")
    equal(tmp_path / "saved")
    BiEncoder.load(folder).similarities(
        BiEncoder.load(folder).tokenise([""], np.array([[0, 0]]))
    )  # of no tokens at all
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight[:-1] for name, weight in weights.items()}, folder / "model.safetensors")
    refused(folder, "its tokenizer gives ids up to .*, and it has .* rows")


def test_a_cross_encoder_that_pads_otherwise_than_its_tokenizer_is_refused_where_that_matters(cross, models, tmp_path):
    change(cross / "config.json", pad_token_id=3)
    theirs = TheirCrossEncoder(str(cross), device="cpu").predict([list(pair) for pair in PAIRS], batch_size=3)
    np.testing.assert_allclose(CrossEncoder.load(cross).predict(PAIRS), theirs, atol=1e-5)
    CrossEncoder.load(models["roberta"], new_head=1).save(tmp_path / "roberta")
    change(tmp_path / "roberta" / "config.json", pad_token_id=3)
    refused(tmp_path / "roberta", "pad_token_id=3 in config.json, and its tokenizer pads with 1; take", CrossEncoder)


def test_a_cross_encoder_that_sentence_transformers_would_convert_is_refused(cross):
    change(cross / "config_sentence_transformers.json", model_type="SentenceTransformer")
    refused(cross, "without model_type=CrossEncoder", CrossEncoder)


ROLES = "{% for m in messages %}{{ m['role'] }}: {{ CONTENT }} {% endfor %}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (ROLES.replace("CONTENT", "m['content'][:20]"), "changes its contents"),
        (ROLES.replace("CONTENT", "m['content']|replace('cat', 'dog')"), "changes its contents"),
        (ROLES.replace("CONTENT", "m['content']|e"), "changes its contents"),
        (ROLES.replace("CONTENT", "m['content']") + "{# .type #}", "takes contents in parts"),
        ("{{ messages[1]['content'] }} {{ messages[0]['content'] }}", "does not show a query and then a document"),
        ("{% if messages[0]['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}", "has not the roles"),
    ],
)
def test_a_trained_reranker_whose_template_is_not_plain_is_refused(tmp_path, template, says):
    build("qwen3", tmp_path / "base")
    CrossEncoder.load(tmp_path / "base", new_head=1).save(tmp_path / "cross")
    (tmp_path / "cross" / "chat_template.jinja").write_text(template)
    refused(tmp_path / "cross", f"its chat template {says}.*, which is not supported", CrossEncoder)
    CrossEncoder.load(tmp_path / "base", new_head=1)
