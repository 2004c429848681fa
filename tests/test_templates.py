"""Chat templates of rerankers: pairs are put into one with the roles query and document, as elsewhere."""

import shutil

import numpy as np
import pytest
import torch
from conftest import PAIRS
from families import build
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from transformers import AutoTokenizer

from transenc.data.tokens import number_sentences
from transenc.encoders import CrossEncoder
from transenc.encoders.used_rows import train_used_rows
from transenc.errors import InputError

RERANKER = (
    "<|im_start|>judge\n{% for m in messages %}{% if m['role'] == 'query' %}<Query>: {{ m['content'] }}\n"
    "{% elif m['role'] == 'document' %}<Document>: {{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}answer:\n"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return build("qwen3", tmp_path_factory.mktemp("qwen3") / "model")


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "model")


def set_template(folder, template, length=200):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.model_max_length = template, length
    tokenizer.save_pretrained(folder)


def theirs(folder):
    return TheirCrossEncoder(str(folder), device="cpu").predict([list(pair) for pair in PAIRS], batch_size=3)


@pytest.mark.parametrize("length", [200, 64, 50])
def test_pairs_are_put_into_a_rerankers_template_and_cut_as_sentence_transformers_does(folder, tmp_path, length):
    set_template(folder, RERANKER, length)
    encoder = CrossEncoder.load(folder, new_head=1)
    assert encoder.prompts == ("<|im_start|>judge\n<Query>: ", "\n<Document>: ")
    encoder.save(tmp_path / "saved")
    expected = theirs(tmp_path / "saved")
    assert np.ptp(expected) > 0.05
    for scores in (encoder.predict(PAIRS), CrossEncoder.load(tmp_path / "saved").predict(PAIRS)):
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_template_without_these_roles_is_not_used_and_not_saved(folder, tmp_path):
    set_template(folder, "{% for m in messages if m['role'] == 'user' %}U: {{ m['content'] }}{% endfor %}")
    encoder = CrossEncoder.load(folder, new_head=1)
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(encoder.predict(PAIRS), theirs(tmp_path / "saved"), atol=1e-5)
    template = (tmp_path / "saved" / "chat_template.jinja").read_text()
    assert "U: " not in template


def test_a_new_head_on_a_tokenizer_that_puts_nothing_between_two_sentences_gets_a_line_for_each(plain, tmp_path):
    encoder = CrossEncoder.load(plain, new_head=1)
    tokens = encoder.tokenise(["a", "b"], np.array([[0, 1]]))
    ids = encoder.collate(tokens, np.array([0]), np.array([False]))["input_ids"][0]
    assert encoder.tokenizer.decode(ids) == "a\nb<|endoftext|>"
    ids = encoder.collate(tokens, np.array([0]), np.array([True]))["input_ids"][0]
    assert encoder.tokenizer.decode(ids) == "b\na<|endoftext|>"
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(encoder.predict(PAIRS), theirs(tmp_path / "saved"), atol=1e-5)


def test_a_template_runs_no_code(folder, tmp_path):
    code = f"{{{{ cycler.__init__.__globals__.os.mkdir({str(tmp_path / 'ran')!r}) }}}}"
    set_template(folder, RERANKER + code)
    CrossEncoder.load(folder, new_head=1).predict(PAIRS)
    assert not (tmp_path / "ran").exists()


def test_a_template_whose_tokens_span_its_parts_is_one_line(models, tmp_path):
    folder = tmp_path / "model"
    CrossEncoder.load(models["xlm-roberta"], new_head=0).save(folder)
    set_template(
        folder, "{% for m in messages %}{{ m['role'] }}{{ m['content'] }}{% endfor %}", 60
    )  # a word begins with a space
    with pytest.raises(
        InputError, match="its chat template has tokens that span its parts, which is not supported"
    ) as error:
        CrossEncoder.load(folder)
    assert "\n" not in str(error.value)


def test_swapped_pairs_have_each_sentence_in_the_others_place(folder):
    set_template(folder, RERANKER)
    encoder = CrossEncoder.load(folder, new_head=1)
    both = CrossEncoder.load(folder, new_head=1, symmetric=True)
    from transenc.data.tokens import number_sentences

    there, back = (
        encoder.similarities(encoder.tokenise(*number_sentences(pairs)))
        for pairs in (PAIRS, [pair[::-1] for pair in PAIRS])
    )
    np.testing.assert_allclose(
        both.similarities(both.tokenise(*number_sentences(PAIRS))), (there + back) / 2, atol=1e-6
    )


def test_the_tokens_round_a_pair_are_among_the_embeddings_that_are_trained(folder):
    set_template(folder, RERANKER)
    encoder = CrossEncoder.load(folder, new_head=1)
    tokens = encoder.tokenise(*number_sentences(PAIRS))
    behind = {token for token, _ in encoder.inputs.behind}
    assert behind - set(tokens.ids.tolist()) - {encoder.inputs.pad}
    inputs = encoder.collate(tokens, np.arange(len(PAIRS)), np.zeros(len(PAIRS), dtype=bool))
    expected = encoder(inputs).detach()
    with train_used_rows(encoder, tokens):
        encoder.train()
        torch.testing.assert_close(encoder(inputs).detach(), expected)  # it has no dropout
