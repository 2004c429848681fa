"""Every family and every module: scores as sentence-transformers', an iteration of the loop, an export that loads."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import PAIRS
from families import FOLDERS, PARTS, build, pooling_for
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from sentence_transformers import SentenceTransformer

from transenc.data.tokens import number_sentences
from transenc.encoders import BiEncoder, CrossEncoder

QUICK = ["bert", "qwen3", "gemma3_text", "Dense", "a default prompt", "StaticEmbedding"]
BI = [*PARTS, *FOLDERS]


def some_slow(names, quick=QUICK):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders by name, each made when first needed."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def get(name):
        if name not in made:
            folder = root / f"{len(made)}"
            made[name] = FOLDERS[name](folder) if name in FOLDERS else build(name, folder)
        return made[name]

    return get


def raw_scores(encoder, batch_tokens=4096):
    return encoder.similarities(encoder.tokenise(*number_sentences(PAIRS)), batch_tokens)


def cosines(folder, pairs=PAIRS, batch_size=3):
    model = SentenceTransformer(str(folder), device="cpu")
    first, second = (
        torch.from_numpy(model.encode(list(side), batch_size=batch_size)) for side in zip(*pairs, strict=True)
    )
    return torch.cosine_similarity(first, second).numpy()


def logits(folder, pairs=PAIRS):
    model = TheirCrossEncoder(str(folder), device="cpu")
    return model.predict([list(pair) for pair in pairs], batch_size=3, activation_fn=torch.nn.Identity())


@pytest.mark.parametrize("name", some_slow(BI))
def test_cosines_are_those_of_sentence_transformers_in_any_batch_before_and_after_saving(folders, name, tmp_path):
    encoder = BiEncoder.load(folders(name), **pooling_for(name))
    encoder.save(tmp_path)
    ours = raw_scores(encoder)
    assert np.ptp(ours) > 0.05
    for theirs in (
        raw_scores(encoder, 40),
        raw_scores(BiEncoder.load(tmp_path)),
        cosines(tmp_path),
        cosines(tmp_path, batch_size=1),
    ):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
    if name in FOLDERS:
        np.testing.assert_allclose(cosines(folders(name)), ours, atol=1e-5)


@pytest.mark.parametrize("name", some_slow([name for name in PARTS if name != "t5"]))
def test_logits_are_those_of_sentence_transformers_in_any_batch_before_and_after_saving(folders, name, tmp_path):
    encoder = CrossEncoder.load(folders(name), new_head=1)
    encoder.save(tmp_path)
    ours = raw_scores(encoder)
    assert np.ptp(ours) > 0.05
    for theirs in (raw_scores(encoder, 40), raw_scores(CrossEncoder.load(tmp_path)), logits(tmp_path)):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("name", some_slow(BI, quick=["qwen3", "Dense"]))
def test_an_iteration_runs_and_sentence_transformers_scores_what_comes_out_as_the_run_did(folders, name, setting, bert):
    cross = folders(name) if name in PARTS and name != "t5" else bert
    pooling = [f"model.pooling={value}" for value in pooling_for(name).values()]
    setting.run(
        f"model.bi={folders(name)}", f"model.cross={cross}", *pooling, "distill.select=last", "distill.failure=ignore",
        "distill.bi.epochs=1",
    )  # fmt: skip
    for kind, scores in (("bi", cosines), ("cross", logits)):
        predictions = pandas.read_csv(setting.root / "run" / "predictions" / f"1-{kind}-test.csv")
        pairs = list(zip(predictions.sentence1, predictions.sentence2, strict=True))
        theirs = scores(setting.root / "run" / "models" / f"{kind}-encoder", pairs)
        if kind == "cross":
            theirs = 1 / (1 + np.exp(-theirs))
        np.testing.assert_allclose(theirs, predictions.score, atol=2e-5)


@pytest.mark.slow
def test_the_tables_of_the_page_are_as_measured():
    spec = importlib.util.spec_from_file_location("page", Path(__file__).parents[1] / "docs" / "encoders.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.rendered(text) == text, "run python docs/encoders.py"


@pytest.mark.parametrize("name", ["qwen3", *some_slow(["gemma3_text", "mistral", "llama"])])
def test_scores_of_decoders_in_bf16_are_those_in_fp32_to_its_two_digits(folders, name):
    for encoder in (BiEncoder.load(folders(name), **pooling_for(name)), CrossEncoder.load(folders(name), new_head=1)):
        tokens = encoder.tokenise(*number_sentences(PAIRS))
        exact, quick = (encoder.similarities(tokens, precision=precision) for precision in ("32-true", "bf16-mixed"))
        assert exact.dtype == quick.dtype == np.float32
        assert not np.array_equal(exact, quick)
        assert not np.array_equal(quick, torch.from_numpy(quick).bfloat16().float().numpy())
        exact, quick = (encoder.to_score(torch.from_numpy(raw)) for raw in (exact, quick))
        torch.testing.assert_close(quick, exact, atol=0.06, rtol=0)
