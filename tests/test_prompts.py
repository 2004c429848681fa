"""Prompts: the folder's by default, as sentence-transformers does; a person's; two of them; kept in what is saved."""

import json

import numpy as np
import pandas
import pytest
from conftest import PAIRS
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from sentence_transformers import SentenceTransformer
from standin import change

from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError

PROMPTS = {"query": "the man: ", "document": "food: "}


@pytest.fixture
def folder(models, tmp_path):
    """A mean-pooled folder with two named prompts, none of them the default."""
    BiEncoder.load(models["roberta"], pooling="mean").save(tmp_path / "model")
    change(tmp_path / "model" / "config_sentence_transformers.json", prompts=PROMPTS)
    return tmp_path / "model"


def theirs(folder, **settings):
    model = SentenceTransformer(str(folder), device="cpu")
    first, second = (
        model.encode(list(side), normalize_embeddings=True, **settings) for side in zip(*PAIRS, strict=True)
    )
    return (first * second).sum(1)


def test_without_a_default_no_prompt_is_put_before_a_sentence_and_all_are_kept(folder, tmp_path):
    encoder = BiEncoder.load(folder)
    np.testing.assert_allclose(encoder.predict(PAIRS), theirs(folder), atol=1e-5)
    encoder.save(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert settings["prompts"] == PROMPTS
    assert "default_prompt_name" not in settings


@pytest.mark.parametrize(("prompts", "name"), [({"query": None}, "query"), ({}, "document")])
def test_a_default_prompt_without_a_text_is_none(folder, prompts, name):
    change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=name)
    np.testing.assert_allclose(BiEncoder.load(folder).predict(PAIRS), theirs(folder), atol=1e-5)


@pytest.mark.parametrize("settings", [{"prompt": "food: "}, {"prompt_name": "document"}, {"prompt": "a new one: "}])
def test_a_prompt_that_a_person_gives_is_used_and_is_the_default_of_what_is_saved(folder, tmp_path, settings):
    encoder = BiEncoder.load(folder, **settings)
    expected = theirs(folder, **settings)
    assert np.abs(expected - theirs(folder)).max() > 1e-3
    encoder.save(tmp_path / "saved")
    for scores in (
        encoder.predict(PAIRS),
        BiEncoder.load(tmp_path / "saved").predict(PAIRS),
        theirs(tmp_path / "saved"),
    ):
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert PROMPTS.items() <= SentenceTransformer(str(tmp_path / "saved"), device="cpu").prompts.items()


def test_an_empty_prompt_turns_the_folders_default_off(folder):
    expected = theirs(folder)
    change(folder / "config_sentence_transformers.json", default_prompt_name="query")
    assert np.abs(BiEncoder.load(folder).predict(PAIRS) - expected).max() > 1e-3
    np.testing.assert_allclose(BiEncoder.load(folder, prompt="").predict(PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize("settings", [{"prompt": ["q: ", "d: "]}, {"prompt_name": ["query", "document"]}])
def test_two_prompts_are_those_of_encode_query_and_encode_document_of_what_is_saved(folder, tmp_path, settings):
    encoder = BiEncoder.load(folder, **settings)
    encoder.save(tmp_path / "saved")
    model = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    queries, documents = zip(*PAIRS, strict=True)
    first = model.encode_query(list(queries), normalize_embeddings=True)
    second = model.encode_document(list(documents), normalize_embeddings=True)
    expected = (first * second).sum(1)
    assert np.abs(expected - theirs(folder)).max() > 1e-3
    np.testing.assert_allclose(encoder.predict(PAIRS), expected, atol=1e-5)


def test_a_run_with_two_prompts_trains_and_reports_with_them(setting, folder):
    run = setting.run(f"model.bi={folder}", "model.bi_prompt=['q: ','d: ']", "data.ordered=true", "distill.select=last")
    predictions = pandas.read_csv(run / "predictions" / "1-bi-test.csv")
    model = SentenceTransformer(str(run / "models" / "bi-encoder"), device="cpu")
    first = model.encode_query(list(predictions.sentence1), normalize_embeddings=True)
    second = model.encode_document(list(predictions.sentence2), normalize_embeddings=True)
    np.testing.assert_allclose((first * second).sum(1), predictions.score, atol=1e-5)
    assert "model.encode_query(" in (run / "models" / "bi-encoder" / "README.md").read_text()
    assert "prompts 'q: ' and 'd: '" in "\n".join(model["read_as"] for model in run_json(run)["models"])


def run_json(folder):
    return json.loads((folder / "run.json").read_text())


def test_two_prompts_are_for_ordered_pairs_only(setting, folder):
    with pytest.raises(InputError, match=r"model.bi_prompt: two prompts are for .* set data.ordered=true"):
        setting.run(f"model.bi={folder}", "model.bi_prompt=['q: ','d: ']")


def test_two_default_prompts_are_for_ordered_pairs_only(setting, folder, tmp_path):
    BiEncoder.load(folder, prompt=["q: ", "d: "]).save(tmp_path / "two")
    with pytest.raises(InputError, match=r"two: has one prompt for first and one for second .* set data.ordered=true"):
        setting.run(f"model.bi={tmp_path}/two")


def test_a_prompt_and_a_name_of_one_are_not_given_together(setting, folder):
    with pytest.raises(InputError, match=r"model.bi_prompt_name=query: must be null, as model.bi_prompt is given too"):
        setting.run(f"model.bi={folder}", "model.bi_prompt='q: '", "model.bi_prompt_name=query")


def test_a_prompt_name_that_is_not_there_is_one_line_with_those_that_are(folder):
    with pytest.raises(InputError, match="has no prompt named 'passage'; it has query, document"):
        BiEncoder.load(folder, prompt_name="passage")
    change(folder / "config_sentence_transformers.json", default_prompt_name="lost")
    with pytest.raises(InputError, match=r"default_prompt_name='lost' is none of its prompts \['query', 'document'\]"):
        BiEncoder.load(folder)


@pytest.mark.slow
def test_members_have_prompts_of_their_own(setting, folder):
    run = setting.run(
        f"model.bi=[{folder},{folder}]", f"model.cross=[{setting.model},{setting.model}]",
        "model.bi_prompt=['q: ','d: ']", "distill.select=last",
    )  # fmt: skip
    for number, prompt in enumerate(("q: ", "d: ")):
        general = run / "models" / f"bi-encoder-{number}" / "config_sentence_transformers.json"
        assert json.loads(general.read_text())["prompts"]["default"] == prompt


def test_a_cross_encoders_prompt_stands_before_the_first_sentence_and_is_kept(models, tmp_path):
    CrossEncoder.load(models["roberta"], new_head=0).save(tmp_path / "plain")
    model = TheirCrossEncoder(
        str(tmp_path / "plain"), device="cpu", prompts={"task": "the man: "}, default_prompt_name="task"
    )
    model.save_pretrained(str(tmp_path / "cross"))
    encoder = CrossEncoder.load(tmp_path / "cross")
    encoder.save(tmp_path / "saved")
    expected = TheirCrossEncoder(str(tmp_path / "cross"), device="cpu").predict(PAIRS)
    assert np.abs(expected - CrossEncoder.load(models["roberta"], new_head=0).predict(PAIRS)).max() > 1e-3
    again = TheirCrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PAIRS)
    for scores in (encoder.predict(PAIRS), again, CrossEncoder.load(tmp_path / "saved").predict(PAIRS)):
        np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.slow
def test_with_two_prompts_neighbours_are_found_among_first_sentences(setting, folder, files, tmp_path):
    sentences = pandas.read_csv(files / "pool.tsv", sep="\t").sentence1.drop_duplicates()
    (tmp_path / "corpus.txt").write_text("\n".join(sentences))
    run = setting.run(
        f"model.bi={folder}", "model.bi_prompt=['q: ','d: ']", "data.ordered=true", "data.path=null",
        f"data.sentences={tmp_path}/corpus.txt", "data.mining.pairs=40", "data.mining.nearest=1", "distill.select=last",
        "distill.failure=ignore",
    )  # fmt: skip
    assert len(pandas.read_csv(run / "labels" / "1-bi.csv")) > 20


@pytest.mark.slow
def test_with_two_prompts_neighbours_of_queries_are_found_among_documents_with_theirs(setting, folder, files, tmp_path):
    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    texts = {
        "queries": list(pool.sentence1.drop_duplicates()),
        "documents": list(pool.sentence2.drop_duplicates()),
    }
    for name, lines in texts.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    setting.run(
        f"model.bi={folder}", "model.bi_prompt=['q: ','d: ']", "data.ordered=true", "data.path=null",
        f"data.queries={tmp_path}/queries.txt", f"data.documents={tmp_path}/documents.txt", "distill.failure=ignore",
    )  # fmt: skip
    (found,) = (setting.root / "artifacts").glob("embed-*/vectors.npy")
    model = SentenceTransformer(str(folder), device="cpu")
    expected = [
        model.encode([prompt + text for text in texts[name]], normalize_embeddings=True)
        for name, prompt in (("queries", "q: "), ("documents", "d: "))
    ]
    np.testing.assert_allclose(np.load(found), np.concatenate(expected), atol=2e-3)
