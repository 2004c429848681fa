"""Late interaction: a bi-encoder's labels by its tokens."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from families import FOLDERS, LENGTH, ROBERTA, SIZE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModel, RobertaConfig, RobertaTokenizer

import transenc.data.tokens
from transenc.data.tokens import TokenisedPairs
from transenc.encoders import BiEncoder
from transenc.encoders.late_interaction import inverse_document_frequencies, late_interaction, mean_cosine
from transenc.errors import InputError
from transenc.metrics import spearman
from transenc.stages.labels import average

PAIRS = [("a cat sat", "the dog ran far away"), ("a cat sat", "a cat sat"), ("two", "three small dogs")]


def test_it_is_the_mean_of_the_best_cosines_of_both_sides_over_the_tokens_that_count():
    first = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    second = torch.tensor([[[1.0, 0.0], [5.0, 5.0], [3.0, 4.0]]])
    found = late_interaction(first, second, torch.tensor([[[1, 1, 0]]]), torch.tensor([[[1, 0, 1]]]))
    assert found.tolist() == [pytest.approx([((1 + 0.8) / 2 + (1 + 0.8) / 2) / 2])]


def test_each_weighting_averages_the_same_cosines_by_its_own_weights():
    first = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    second = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    found = late_interaction(first, second, torch.tensor([[[1, 1]], [[1, 3]]]), torch.tensor([[[1, 1]], [[4, 1]]]))
    assert found.squeeze(1).tolist() == pytest.approx([0.9, ((1 + 3 * 0.8) / 4 + (4 + 0.8) / 5) / 2])


def test_a_sentence_without_a_token_has_nothing_in_common():
    hidden = torch.ones(1, 2, 3)
    assert late_interaction(hidden, hidden, torch.tensor([[[1, 1]]]), torch.tensor([[[0, 0]]])).item() == 0


def test_sentences_without_any_token_have_nothing_in_common():
    hidden, weights = torch.ones(1, 0, 3), torch.ones(2, 1, 0)
    assert late_interaction(hidden, hidden, weights, weights).tolist() == [[0], [0]]


def test_a_token_weighs_less_the_more_sentences_have_it():
    pairs = TokenisedPairs(np.array([5, 5, 2, 5, 7, 7, 2]), np.array([0, 3, 4, 7, 7]), np.zeros((1, 2), dtype=np.int32))
    counts = pairs.sentence_counts(9)
    assert counts.tolist() == [0, 0, 2, 0, 0, 2, 0, 1, 0]
    assert pairs.sentence_counts(9, (1, 1)).tolist() == [0, 0, 2, 0, 0, 1, 0, 1, 0]  # behind prompts of one token
    assert pairs.sentence_counts(9, sentences=2).tolist() == [0, 0, 1, 0, 0, 2, 0, 0, 0]
    two = replace(pairs, second_offset=2)  # prompts: the sentences come twice
    assert two.sentence_counts(9, (1, 1), 1).tolist() == [0, 0, 2, 0, 0, 1, 0, 1, 0]
    weights = inverse_document_frequencies(counts, 4)
    assert weights[[2, 7, 0]] == pytest.approx([math.log(5 / 3), math.log(5 / 2), math.log(5)])
    assert inverse_document_frequencies(np.array([4]), 4)[0] > 0  # what all sentences have still counts for a little


def test_sentences_are_counted_in_parts_as_in_one(monkeypatch):
    lengths = np.arange(20) % 5
    ids = np.random.default_rng(0).integers(0, 9, lengths.sum()).astype(np.int32)
    pairs = TokenisedPairs(ids, np.concatenate([[0], np.cumsum(lengths)]), np.zeros((1, 2), dtype=np.int32))
    whole = pairs.sentence_counts(9)
    monkeypatch.setattr(transenc.data.tokens, "COUNTED", 3)
    assert (
        whole.tolist()
        == pairs.sentence_counts(9).tolist()
        == [sum(token in pairs.tokens(sentence) for sentence in range(20)) for token in range(9)]
    )


def test_the_mean_of_the_tokens_that_count_has_the_cosine_of_mean_pooling():
    first = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    second = torch.tensor([[[1.0, 0.0], [5.0, 5.0], [3.0, 4.0]]])
    counts = torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 1]])
    expected = torch.nn.functional.cosine_similarity(torch.tensor([2.0, 1.0]), torch.tensor([4.0, 4.0]), dim=0)
    assert mean_cosine(first, second, *counts).item() == pytest.approx(expected.item())
    assert mean_cosine(first, second, counts[0], torch.zeros(1, 3)).item() == 0


def numbered(encoder, pairs):
    sentences = [sentence for pair in pairs for sentence in pair]
    return encoder.tokenise(sentences, np.arange(len(sentences)).reshape(-1, 2))


def test_scores_depend_neither_on_the_pooling_nor_on_the_batch_and_leave_the_encoder_as_it_was(bert):
    cls, mean = (BiEncoder.load(bert, pooling=pooling) for pooling in ("cls", "mean"))
    pairs = numbered(cls, PAIRS)
    before = cls.similarities(pairs)
    scores = cls.late_interaction(pairs, 4096)
    np.testing.assert_allclose(scores, mean.late_interaction(pairs, 4096), atol=1e-6)
    np.testing.assert_allclose(scores, mean.late_interaction(pairs, 1), atol=1e-5)
    assert scores[:, 1] == pytest.approx(1, abs=1e-6)
    assert abs(scores[0, 0] - scores[1, 0]) > 1e-3
    assert (cls.similarities(pairs) == before).all()


@pytest.mark.parametrize(("tokens", "encoded"), [(10_000, 3), (1, 5)])
def test_each_sentence_of_a_block_of_pairs_is_encoded_once_and_blocks_change_no_score(
    bert, monkeypatch, tokens, encoded
):
    encoder = BiEncoder.load(bert, pooling="mean", prompt=["small ", ""])
    sentences = ["a cat sat", "the dog ran far away", "two"]
    pairs = encoder.tokenise(sentences, np.array([[0, 1], [0, 2], [0, 0]]))
    expected = [encoder.late_interaction(pairs.select(np.array([row])), 4096)[:, 0] for row in range(3)]
    singles, seen = encoder.inputs.singles, []
    monkeypatch.setattr(encoder.inputs, "singles", lambda of, some: seen.extend(some.tolist()) or singles(of, some))
    monkeypatch.setattr("transenc.encoders.bi.BLOCK_TOKENS", tokens)
    np.testing.assert_allclose(encoder.late_interaction(pairs, 4096).T, expected, atol=1e-5)
    assert len(seen) == encoded + 1  # the first sentence also as a second one, behind another prompt


def test_special_tokens_and_prompts_do_not_count(bert):
    encoder = BiEncoder.load(bert, pooling="mean", prompt=["the small ", ""])
    pairs = numbered(encoder, PAIRS[:1])
    inputs = encoder.inputs.singles(pairs, pairs.sides(slice(None))[0])
    with torch.inference_mode():
        first, second = torch.nn.functional.normalize(encoder.backbone(**inputs).last_hidden_state, dim=-1)
    counts = [len(encoder.tokenizer(sentence, add_special_tokens=False)["input_ids"]) for sentence in PAIRS[0]]
    skipped = 1 + len(encoder.tokenizer("the small", add_special_tokens=False)["input_ids"])
    cosines = first[skipped : skipped + counts[0]] @ second[1 : 1 + counts[1]].T
    expected = (cosines.amax(0).mean() + cosines.amax(1).mean()) / 2
    assert encoder.late_interaction(pairs, 4096)[0, 0] == pytest.approx(expected.item(), abs=1e-5)


def test_a_prompt_that_ends_in_a_space_hides_no_word(tmp_path):
    """With merges, as of RoBERTa, the space belongs to the word behind it."""
    vocabulary, merges = {piece: i for i, piece in enumerate([*ROBERTA, *sorted(ByteLevel.alphabet())])}, []
    for word in ("food", "dog"):
        for end in range(len(word)):
            merges.append(("Ġ" + word[:end], word[end]))
            vocabulary["Ġ" + word[: end + 1]] = len(vocabulary)
    sizes = SIZE | {"vocab_size": len(vocabulary), "max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
    AutoModel.from_config(RobertaConfig(**sizes, type_vocab_size=1)).save_pretrained(tmp_path)
    RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH).save_pretrained(tmp_path)
    for prompt in ("query: ", "query:"):
        encoder = BiEncoder.load(tmp_path, pooling="mean", prompt=prompt)
        assert encoder.late_interaction(numbered(encoder, [("food", "food")]), 4096)[0, 0] == pytest.approx(1)


def late_run(setting, *more):
    """Both kinds label, the bi-encoder by its tokens too."""
    return setting.run(
        "distill.late_interaction=true", "distill.teachers=both", "distill.average=z", "distill.failure=ignore", *more
    )


def test_a_prompt_hides_no_word_of_static_embeddings(tmp_path):
    """They have no special tokens, and no token depends on another."""
    folder = FOLDERS["StaticEmbedding"](tmp_path)
    with_prompt, without = (BiEncoder.load(folder, prompt=prompt) for prompt in ("the small dog ", ""))
    pairs = [("a cat sat", "the dog ran"), ("dog", "cat")]
    expected = without.late_interaction(numbered(without, pairs), 4096)
    np.testing.assert_allclose(with_prompt.late_interaction(numbered(with_prompt, pairs), 4096), expected, atol=1e-5)


@pytest.mark.parametrize("well_pooled", [False, True])
def test_a_bi_encoder_labels_by_tokens_twice_unless_its_embeddings_agree_with_them(
    setting, artifacts_by_title, monkeypatch, well_pooled
):
    made = artifacts_by_title
    monkeypatch.setattr("transenc.stages.models.WELL_POOLED", -1 if well_pooled else 1)
    run = late_run(setting)
    embedded, late, cross = (
        np.load(made[title] / "scores.npy") for title in ("0/bi pool", "0/bi late pool", "1/cross pool")
    )
    encoder = BiEncoder.load(made["load bi"].path)
    tokens = TokenisedPairs.load(made["tokenise pool"].path)
    alike, weighted, _ = encoder.late_interaction(tokens, 4096)
    np.testing.assert_allclose(late, np.stack([embedded, alike] if well_pooled else [alike, weighted]), atol=1e-5)
    assert made["0/bi late pool"].facts["agreement"] == pytest.approx(spearman(embedded, alike))
    for name, teachers in (("1-bi", late), ("1-cross", [*late, cross])):
        labels = pandas.read_csv(run / "labels" / f"{name}.csv").label
        np.testing.assert_allclose(labels, np.clip(average(np.vstack(teachers), "z"), 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "said"),
    [("cls", True), ("auto", True), ("before Normalize", True), ("mean", False), ("named by the folder", False)],
)
def test_mean_pooling_is_advised_where_no_file_names_another(setting, tmp_path, bert, caplog, pooling, said):
    if pooling == "named by the folder":
        BiEncoder.load(bert, pooling="cls").save(tmp_path / "named")
        late_run(setting, "model.pooling=auto", f"model.bi={tmp_path / 'named'}")
    elif pooling == "before Normalize":
        late_run(setting, "model.pooling=cls", f"model.bi={FOLDERS['Normalize'](tmp_path)}")
    else:
        late_run(setting, f"model.pooling={pooling}")
    assert (
        len(re.findall("mean pooling agrees better .* than cls pooling .*; try model.pooling=mean", caplog.text))
        == said
    )


@pytest.mark.parametrize(
    "spoilt", ["transenc.stages.run.WELL_POOLED", "transenc.encoders.late_interaction.mean_cosine"]
)
def test_it_is_not_advised_where_the_pooling_is_good_or_the_mean_agrees_no_better(setting, caplog, monkeypatch, spoilt):
    nothing = -1 if spoilt.endswith("POOLED") else lambda first, *_: torch.zeros(len(first))
    monkeypatch.setattr(spoilt, nothing)
    late_run(setting, "model.pooling=cls")
    assert "agrees better" not in caplog.text


def test_only_a_bi_encoder_is_judged_by_how_it_is_pooled(setting, monkeypatch):
    judged = set()
    for module in ("models", "run"):
        monkeypatch.setattr(f"transenc.stages.{module}.WELL_POOLED", 1)
    monkeypatch.setattr(
        "transenc.stages.training.interpolate",
        lambda encoder, *arguments: judged.add((encoder.kind, arguments[-1])) or 1.0,
    )
    late_run(setting, "distill.select=agreement", "distill.start=previous", "distill.iterations=2")
    assert judged == {("bi", False), ("cross", True)}


@pytest.mark.parametrize("direction", ["cross_to_bi", "gold_to_bi"])
def test_it_is_refused_where_no_bi_encoder_labels(setting, direction):
    more = ["distill.iterations=1"] + (["data.gold=[x.tsv]"] if direction == "gold_to_bi" else [])
    with pytest.raises(InputError, match=r"^distill.late_interaction=true: .* set distill.late_interaction=false$"):
        setting.run("distill.late_interaction=true", f"distill.direction={direction}", *more)
