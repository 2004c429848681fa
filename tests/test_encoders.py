"""The encoders, on every family: inputs as its own tokenizer makes them, scores that depend on the pair alone."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import PAIRS
from families import ENCODERS
from standin import change
from transformers import AutoModel, AutoTokenizer

from transenc.cli import Interrupted
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder, CrossEncoder, OptimizerConfig
from transenc.encoders.inputs import in_batches
from transenc.encoders.losses import cosent, pair_loss
from transenc.errors import InputError
from transenc.stages.models import model_facts

QUICK = ["bert", "roberta", "deberta-v2", "modernbert"]  # one of each tokenizer and architecture that differ most
EACH_FAMILY = [*QUICK, *(pytest.param(family, marks=pytest.mark.slow) for family in ENCODERS if family not in QUICK)]
CLASSES = {"bi": BiEncoder, "cross": CrossEncoder}


def load(kind, folder, **settings):
    return BiEncoder.load(folder, **settings) if kind == "bi" else CrossEncoder.load(folder, new_head=1, **settings)


def tokens_of(encoder, pairs=PAIRS):
    sentences, numbers = number_sentences(pairs)
    return tokenise(sentences, numbers, encoder.tokenizer)


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("max_tokens", [64, 13, 12])
def test_pairs_are_framed_and_cut_as_the_familys_tokenizer_does(models, family, max_tokens):
    encoder = load("cross", models[family], max_tokens=max_tokens)
    tokens, tokenizer = tokens_of(encoder), AutoTokenizer.from_pretrained(models[family])
    for swapped in (False, True):
        rows = np.arange(len(PAIRS))
        ours = encoder.collate(tokens, rows, np.full(len(PAIRS), swapped))
        first, second = zip(*[pair[::-1] if swapped else pair for pair in PAIRS], strict=True)
        theirs = tokenizer(
            list(first), list(second), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )
        assert set(ours) <= set(theirs)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("max_tokens", [64, 7])
def test_sentences_are_framed_and_cut_as_the_familys_tokenizer_does(models, family, max_tokens):
    encoder = load("bi", models[family], max_tokens=max_tokens)
    tokenizer = AutoTokenizer.from_pretrained(models[family])
    ours = encoder.collate(tokens_of(encoder), np.arange(len(PAIRS)), np.zeros(len(PAIRS), dtype=bool))
    sentences = [pair[0] for pair in PAIRS] + [pair[1] for pair in PAIRS]
    theirs = tokenizer(sentences, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_what_is_longer_than_max_tokens_is_counted(models, kind):
    encoder = load(kind, models["bert"])
    tokens = tokens_of(encoder)
    own = tokens.lengths if kind == "bi" else tokens.lengths[tokens.pairs].sum(axis=1)
    added = 2 if kind == "bi" else 3
    for longest in sorted(set(own)):
        encoder = load(kind, models["bert"], max_tokens=int(longest) + added)
        assert encoder.truncated(tokens) == sum(own > longest)


def test_a_sentence_is_counted_with_the_prompts_it_is_read_with_alone(models):
    encoder = load("bi", models["bert"], max_tokens=4)
    tokens = tokenise(["a b c d", "e"], np.array([[0, 1]]), encoder.tokenizer, prompts=("", "f "))
    assert tokens.second_offset  # each sentence is stored with either prompt
    assert encoder.truncated(tokens) == 1


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_models_with_segments_are_given_them_in_pairs(models, family):
    encoder = load("cross", models[family])
    inputs = encoder.collate(tokens_of(encoder), np.arange(2), np.zeros(2, dtype=bool))
    assert set(inputs["token_type_ids"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("kind", ["bi", "cross"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_score_does_not_depend_on_what_else_is_in_the_batch(models, family, kind):
    encoder = load(kind, models[family])
    tokens = tokens_of(encoder)
    together = encoder.similarities(tokens, batch_tokens=10_000)
    alone = np.concatenate([encoder.similarities(tokens.select(np.array([row]))) for row in range(len(PAIRS))])
    small = encoder.similarities(tokens, batch_tokens=40)
    assert np.ptp(together) > 1e-3
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(small, together, atol=1e-5)


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("kind", CLASSES)
def test_scores_in_bf16_are_those_in_fp32_to_its_two_digits(models, family, kind):
    encoder = load(kind, models[family])
    exact, quick = (encoder.similarities(tokens_of(encoder), precision=p) for p in ("32-true", "bf16-mixed"))
    assert exact.dtype == quick.dtype == np.float32
    if family == "deberta":  # which transformers cannot run in bf16
        assert np.array_equal(exact, quick)
        return
    assert not np.array_equal(exact, quick)
    assert not np.array_equal(
        quick, torch.from_numpy(quick).bfloat16().float().numpy()
    )  # only what leads there is bf16
    exact, quick = (encoder.to_score(torch.from_numpy(raw)) for raw in (exact, quick))
    torch.testing.assert_close(quick, exact, atol=0.04, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_cosine_is_that_of_the_plain_models_vectors(bert, pooling):
    encoder, model, tokenizer = (
        BiEncoder.load(bert, pooling=pooling),
        AutoModel.from_pretrained(bert).eval(),
        AutoTokenizer.from_pretrained(bert),
    )
    vectors = []
    for sentence in PAIRS[1]:
        with torch.no_grad():
            hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        vectors.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    expected = torch.cosine_similarity(*vectors, dim=0)
    assert encoder.similarities(tokens_of(encoder))[1] == pytest.approx(expected.item(), abs=1e-5)


def test_a_bi_encoder_encodes_each_sentence_once_however_many_pairs_it_is_in(bert, monkeypatch):
    encoder, encoded = BiEncoder.load(bert), []
    embed = encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda inputs: encoded.append(len(inputs["input_ids"])) or embed(inputs))
    pairs = [(a, b) for a, _ in PAIRS for _, b in PAIRS]
    encoder.similarities(tokens_of(encoder, pairs))
    assert sum(encoded) == len({sentence for pair in pairs for sentence in pair})


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_scoring_is_without_dropout_and_leaves_the_mode_as_it_was(bert, kind):
    encoder = load(kind, bert).train()
    tokens = tokens_of(encoder)
    np.testing.assert_array_equal(encoder.similarities(tokens), encoder.similarities(tokens))
    assert encoder.training
    assert encoder.backbone.training


def test_a_score_is_the_cosine_or_the_sigmoid_of_the_logit(bert):
    bi, cross = load("bi", bert), load("cross", bert)
    raw = torch.tensor([-0.5, 0.0, 0.9])
    assert torch.equal(bi.to_score(raw), raw)
    assert torch.equal(cross.to_score(raw), torch.sigmoid(raw))
    for encoder in (bi, cross):
        scores = encoder.predict(PAIRS)
        assert ((scores >= 0) & (scores <= 1)).all()


def test_a_symmetric_logit_is_the_mean_over_both_orders_and_a_folder_says_so(bert, tmp_path):
    swapped = [(b, a) for a, b in PAIRS]
    plain = load("cross", bert)
    there, back = (plain.similarities(tokens_of(plain, pairs)) for pairs in (PAIRS, swapped))
    assert not np.allclose(there, back, atol=1e-5)
    load("cross", bert, symmetric=True).save(tmp_path)
    both = CrossEncoder.load(tmp_path)
    for pairs in (PAIRS, swapped):
        np.testing.assert_allclose(both.similarities(tokens_of(both, pairs)), (there + back) / 2, atol=1e-6)
    np.testing.assert_allclose(
        CrossEncoder.load(tmp_path, symmetric=False).similarities(tokens_of(both)), there, atol=1e-6
    )


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", sorted(set(ENCODERS) - {"modernbert"}))
def test_a_mean_centred_encoders_vectors_have_mean_zero_also_once_saved(models, family, pooling, tmp_path):
    encoder = BiEncoder.load(models[family], pooling=pooling)
    tokens = tokens_of(encoder)
    sentences = np.arange(len(tokens.lengths))

    def vectors(of):
        found = np.empty((len(sentences), of.width), np.float32)
        of.encode(tokens, sentences, found, 4096, lambda count: None, unit=False)
        return found

    before = vectors(encoder)
    share = encoder.centre(tokens, 4096)
    assert share == pytest.approx(np.linalg.norm(before.mean(0)) / np.linalg.norm(before, axis=1).mean(), rel=1e-4)
    encoder.save(tmp_path)
    np.testing.assert_allclose(vectors(BiEncoder.load(tmp_path)), before - before.mean(0), atol=1e-5)


def test_an_encoder_that_cannot_be_mean_centred_raises_and_is_left_as_it_was(models):
    encoder = BiEncoder.load(models["modernbert"])  # its normalisations have no bias
    tokens = tokens_of(encoder)
    before = encoder.similarities(tokens)
    with pytest.raises(InputError, match="a modernbert cannot be centred"):
        encoder.centre(tokens, 4096)
    np.testing.assert_array_equal(encoder.similarities(tokens), before)


def test_batches_hold_every_index_once_within_the_budget():
    lengths, groups = np.random.default_rng(0).integers(3, 60, 200), []
    in_batches(lengths, 256, groups.append)
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    assert all(len(group) * lengths[group].max() <= 256 or len(group) == 1 for group in groups)


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_where_memory_is_short_batches_are_halved_and_scores_stay(bert, kind, monkeypatch, caplog):
    encoder = load(kind, bert)
    tokens, sizes, forward = tokens_of(encoder), [], encoder.backbone.forward
    expected = encoder.similarities(tokens)

    def short_of_memory(input_ids, **more):
        sizes.append(input_ids.numel())
        if sizes[-1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(encoder.backbone, "forward", short_of_memory)
    done = []
    np.testing.assert_allclose(encoder.similarities(tokens, progress=done.append), expected, atol=1e-5)
    assert sum(done) == encoder.work(tokens)
    assert sorted(sizes, reverse=True) == sizes  # what failed once is not tried again
    assert "the GPU's memory is full: batches of" in caplog.text


def test_a_sequence_that_memory_does_not_hold_is_an_error_that_says_so(bert, monkeypatch):
    encoder = load("cross", bert)

    def short_of_memory(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder.backbone, "forward", short_of_memory)
    with pytest.raises(InputError, match=r"a text of \d+ tokens does not fit .*; lower model.bi_max_tokens"):
        encoder.similarities(tokens_of(encoder))


@pytest.mark.parametrize("kind", ["bi", "cross"])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_losses_are_the_published_ones(bert, kind, loss):
    encoder = load(kind, bert)
    encoder.optimizer_config = OptimizerConfig(loss, 1e-4, 0.0, 0.0)
    raw, labels = torch.tensor([-0.3, 0.2, 0.8]), torch.tensor([0.1, 0.5, 0.9])
    score = torch.sigmoid(raw) if kind == "cross" or loss == "bce" else raw
    expected = (
        -(labels * score.log() + (1 - labels) * (1 - score).log()).mean()
        if loss == "bce"
        else ((score - labels) ** 2).mean()
    )
    assert encoder.loss(raw, labels).item() == pytest.approx(expected.item(), abs=1e-6)


def test_cosent_is_that_of_sentence_transformers_and_a_batch_of_one_asks_nothing():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    first, second = torch.randn(2, 9, 5, generator=torch.manual_seed(0))
    labels = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.2, 0.0, 1.0, 0.3, 0.3])
    theirs = losses.CoSENTLoss(None).compute_loss_from_embeddings([first, second], labels)
    scores = torch.cosine_similarity(first, second).requires_grad_()
    torch.testing.assert_close(cosent(scores, labels), theirs)
    assert cosent(scores[:1], labels[:1]).item() == 0


def test_a_loss_of_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="loss='MSE': there are bce, mse and cosent"):
        pair_loss("MSE", torch.zeros(2), torch.zeros(2), torch.sigmoid)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_first_layers_only_gives_the_hidden_state_after_them(models, family):
    encoder, model = BiEncoder.load(models[family], layers=2), AutoModel.from_pretrained(models[family]).eval()
    assert encoder.backbone.config.num_hidden_layers == 2
    inputs = encoder.collate(tokens_of(encoder), np.arange(1), np.zeros(1, dtype=bool))
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[2][:, 0]
        if family == "modernbert":  # its last normalisation follows the last layer that is kept
            states = model.final_norm(states)
        ours = encoder.backbone(**inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(ours, states, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["bi", "cross"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_saved_model_scores_the_same_here_and_in_sentence_transformers(models, family, kind, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    encoder = load(kind, models[family], max_tokens=20)  # cuts the longer pairs and sentences
    encoder.save(tmp_path)
    scores = encoder.similarities(tokens_of(encoder))
    np.testing.assert_allclose(CLASSES[kind].load(tmp_path).similarities(tokens_of(encoder)), scores, atol=1e-6)
    if kind == "bi":
        model = st.SentenceTransformer(str(tmp_path), device="cpu")
        first, second = (model.encode(list(side), convert_to_tensor=True) for side in zip(*PAIRS, strict=True))
        theirs = torch.cosine_similarity(first, second).numpy()
    else:
        theirs = st.CrossEncoder(str(tmp_path), device="cpu").predict(PAIRS)
        scores = encoder.to_score(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(theirs, scores, atol=1e-5)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_saved_model_loads_in_plain_transformers_and_names_no_machine(models, family, tmp_path):
    load("bi", models[family]).save(tmp_path)
    AutoModel.from_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert not {"is_local", "local_files_only", "name_or_path"} & set(saved)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_is_read_from_a_sentence_transformers_folder_old_or_new(bert, pooling, tmp_path):
    BiEncoder.load(bert, pooling=pooling).save(tmp_path / "old")
    assert BiEncoder.load(tmp_path / "old").pooling == pooling
    st = pytest.importorskip("sentence_transformers")
    st.SentenceTransformer(str(tmp_path / "old"), device="cpu").save(str(tmp_path / "new"))
    assert BiEncoder.load(tmp_path / "new").pooling == pooling
    assert BiEncoder.load(tmp_path / "new", pooling="mean").pooling == "mean"


def test_a_plain_folder_is_read_through_cls(bert):
    assert BiEncoder.load(bert).pooling == "cls"


def test_a_new_head_depends_on_its_seed_alone(bert):
    torch.manual_seed(5)
    first = CrossEncoder.load(bert, new_head=3)
    torch.manual_seed(6)
    second, other = CrossEncoder.load(bert, new_head=3), CrossEncoder.load(bert, new_head=4)
    assert torch.equal(first.backbone.classifier.weight, second.backbone.classifier.weight)
    assert not torch.equal(first.backbone.classifier.weight, other.backbone.classifier.weight)


def test_a_hub_model_in_the_local_cache_loads_by_name_and_revision(bert, tmp_path, monkeypatch):
    commit = "a" * 40
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / commit).symlink_to(bert)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    from transenc import model_folder

    source = model_folder.find("some/model")
    assert source.folder.name == commit
    assert model_folder.find(f"some/model@{commit}").weights == source.weights == (source.folder / "model.safetensors",)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere/no-such-model", "hub cannot be reached.*cache.*local folder"),
        ("./no-such-folder", "no such folder"),
        ("package://no_such_package/model", "no package no_such_package"),
        ("{empty}", "there is no model there"),
        ("{pickled}", "pytorch_model.bin is damaged, or holds more than tensors"),
        ("{bert}#sha256=00", "has not the sha256 00"),
        ("{cross}", "is a cross-encoder"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_one_line(bert, tmp_path, name, says):
    for folder in ("empty", "pickled", "cross"):
        (tmp_path / folder).mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "pickled" / file).write_text((bert / file).read_text())
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    CrossEncoder.load(bert, new_head=0).save(tmp_path / "cross")
    places = {folder: tmp_path / folder for folder in ("empty", "pickled", "cross")}
    with pytest.raises(InputError, match=says) as error:
        BiEncoder.load(name.format(bert=bert, **places))
    assert "\n" not in str(error.value)


def test_a_bi_encoder_is_no_cross_encoder(bert, tmp_path):
    BiEncoder.load(bert).save(tmp_path)
    with pytest.raises(InputError, match="is no cross-encoder"):
        CrossEncoder.load(tmp_path)


def test_models_share_tokens_only_where_file_and_settings_of_the_tokenizer_are_the_same(bert, tmp_path):
    found = []
    for name, changed in (("same", {"model_max_length": 20}), ("other", {"split_special_tokens": True})):
        shutil.copytree(bert, tmp_path / name)
        change(tmp_path / name / "tokenizer_config.json", **changed)
    for folder in (bert, tmp_path / "same", tmp_path / "other"):
        encoder = BiEncoder.load(folder)
        encoder.save(tmp_path / "saved" / folder.name)
        found.append(model_facts(tmp_path / "saved" / folder.name, encoder)["tokenizer"])
    assert found[0] == found[1] != found[2]


def test_a_signal_while_a_model_loads_is_no_fault_of_its_files(bert, monkeypatch):
    def interrupted(*_, **__):
        raise Interrupted(2)

    monkeypatch.setattr(BiEncoder, "from_source", interrupted)
    with pytest.raises(Interrupted):
        BiEncoder.load(bert)
