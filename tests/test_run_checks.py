"""What a run refuses before anything is built: settings, models and files, each in one line."""

import shutil
from pathlib import Path

import pytest
from families import build

from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["distill.iterations=0"], "distill.iterations=0: must be at least 1"),
        (["distill.cross.warmup=1"], "distill.cross.warmup=1.0: must be at least 0 and below 1"),
        (["distill.select=dev", "data.dev=null"], "distill.select=dev: there is no development set"),
        (["data.path=null"], "data.path: no pairs to learn from"),
        (["data.path=null", "data.pool=[nothing]"], "nothing: neither a file nor a known set"),
        (
            ["data=stsb", "data.dev=null", "data.path=null", "paths.dataset=nowhere"],
            "stsb-train: .*download_dataset.sh",
        ),
        (["data.path=null", "data.pool=[stsb-trian]"], "stsb-trian: .* did you mean stsb-train"),
        (["data.path=null", "data.sentences=nowhere.txt"], "data.sentences=nowhere.txt: no such file"),
        (["data.path=null", "data.queries=a", "data.documents=nowhere.txt"], "data.queries: .*; set data.ordered=true"),
        (["data.path=null", "data.queries=a"], "data.queries: give data.sentences alone, or both data.queries and"),
        (["data.documents=a"], "data.documents: give data.sentences alone, or both data.queries and data.documents"),
        (["data.sentences=a", "data.queries=b", "data.documents=c"], "data.sentences, data.queries, .*: give"),
        (
            ["data=queries", "data.queries=train.py", "data.documents=nowhere.txt"],
            "data.documents=nowhere.txt: no such file",
        ),
        (["data.extra=qqp-train"], "qqp-train: cannot be read from the Hugging Face hub"),
        (["data.flatten=true"], "data.flatten=true: .*data.limit=N"),
        (["data.limit=0"], "data.limit=0: must be at least 1"),
        (["data.extra=5"], "data.extra=5: must be a known set, a file, or a list"),
        (["data.columns.sentence1=-2"], "data.columns.sentence1=-2: must be a column's name, or its number from 0"),
        (["data.columns.sentence2=null"], "data.columns.sentence2=None: must be a column's name, or its number from 0"),
        (["data.path=pairs.cvs"], "pairs.cvs: no such file"),
        (["data.path=tests"], "tests: a folder; give a file of pairs"),
        (["model.reference=no/model"], "model.reference=no/model: .*hub cannot be reached"),
        (["model.bi=minilm"], "model.bi=minilm: .*; the hub's names are OWNER/NAME"),
        (["data.columns.score=null"], "dev.tsv: has to be scored, and data.columns.score=null"),
        (["paths.artifacts=''"], "paths.artifacts=: must be a folder"),
        (["data.dev=''"], "data.dev=: must be a set, a file, or null"),
        (["paths.artifacts=train.py"], "paths.artifacts=train.py: must be a folder, or nothing yet"),
        (
            ["distill.direction=gold_to_bi", "data.flatten=true", "data.limit=9"],
            "takes no data.flatten, no data.extra and no distill.centre",
        ),
        (["data.mining.random=0", "data.mining.nearest=0", "data.mining.lexical=0"], "data.mining: the shares"),
        (["data.clean.repeated=false", "distill.folds=2"], "copies of a held-out pair would be learnt from"),
        (["data.clean.repeated=false", "distill.select=agreement"], "copies of a held-out pair would be learnt from"),
        (
            ["distill.direction=bi_to_cross", "distill.iterations=2"],
            "bi_to_cross is one step; set distill.iterations=1",
        ),
        (["distill.direction=gold_to_cross"], "gold_to_cross: no gold scores to learn from; give data.gold"),
        (["model.bi=[a,b]"], "model.bi names 2 and model.cross 1 models: members come in pairs"),
        (["model.bi_layers=[1,2]"], "model.bi_layers: a list of 2, where model.bi names 1 models"),
        (["model.pooling=men"], "model.pooling=men: no such choice; did you mean mean?"),
        (["model.cross_layers=0"], "model.cross_layers=0: must be at least 1, or null"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["model.bi=null"], "model.bi=None: must be a hub name"),
        (["model.cross=[]"], r"model.cross=\[\]: must be a hub name"),
        (["model.bi=no/model"], "model.bi=no/model: .*hub cannot be reached"),
        (["model.bi_layers=9"], "9 layers asked for, the model has 3"),
        (["data.test=[quickstart-train]"], "quickstart-train: has no scores; it is for data.pool or data.extra"),
        (["data.test=[snli]"], "snli: has no scores; it is for data.pool or data.extra"),
        (["data.dev='caf\udce9.tsv'"], "data.dev=.*: must be UTF-8; rename the file"),
        (["model.bi_max_tokens=100"], "max_tokens=100, but the model reads 64 at most"),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: torch sees no GPU here"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_and_nothing_is_built(setting, overrides, says):
    if "gpu" in overrides[0] and __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=says) as error:
        setting.run(*overrides)
    assert "\n" not in str(error.value)
    assert setting.trained() == []
    assert not (setting.root / "run" / "results.csv").exists()


def test_a_cross_encoder_as_the_bi_encoder_is_refused(setting, tmp_path):
    CrossEncoder.load(setting.model, new_head=0).save(tmp_path / "cross")
    with pytest.raises(InputError, match=r"model.bi=.*is a cross-encoder; name a bi-encoder here"):
        setting.run(f"model.bi={tmp_path}/cross")


def test_a_test_file_whose_name_is_too_long_to_report_under_is_refused_before_anything_is_built(setting, files):
    path = setting.root / f"{'n' * 245}.tsv"
    path.write_bytes((files / "test.tsv").read_bytes())
    with pytest.raises(InputError, match="results are written under this name, which is too long; rename the file"):
        setting.run(f"data.test=[{path}]")
    assert setting.trained() == []


def test_a_model_that_changes_while_it_is_read_is_refused_though_the_change_is_undone(setting, bert, monkeypatch):
    folder = Path(shutil.copytree(bert, setting.root / "model"))
    load = BiEncoder.load.__func__

    def changing(cls, *arguments, **settings):
        weights = folder / "model.safetensors"
        weights.rename(folder / "aside")
        shutil.copy(folder / "aside", weights)
        loaded = load(cls, *arguments, **settings)
        (folder / "aside").replace(weights)
        return loaded

    monkeypatch.setattr(BiEncoder, "load", classmethod(changing))
    with pytest.raises(InputError, match=r"model.bi=.*: changed while it was read; give the command again"):
        setting.run(f"model.bi={folder}")
    monkeypatch.undo()


def test_two_files_that_would_be_reported_under_one_name_are_refused(setting, files, tmp_path):
    """Else selection by the one would be selection by the other."""
    (tmp_path / "dev.tsv").write_bytes((files / "test.tsv").read_bytes())
    with pytest.raises(InputError, match=r"dev.tsv and .*dev.tsv would be reported under one name"):
        setting.run(f"data.test=[{tmp_path}/dev.tsv]")


def test_an_encoder_decoder_is_refused_in_one_line(setting, tmp_path):
    import shutil

    import transformers as hf

    config = hf.BartConfig(vocab_size=90, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=48,
                           decoder_ffn_dim=48, encoder_attention_heads=2, decoder_attention_heads=2)  # fmt: skip
    hf.AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(setting.model / name, tmp_path / "model")
    with pytest.raises(InputError, match=r"model.bi=.*bart is an encoder-decoder; of these, t5, mt5, umt5 are read"):
        setting.run(f"model.bi={tmp_path}/model")


def test_a_reference_that_cannot_be_read_is_refused_before_any_training(setting):
    with pytest.raises(InputError, match=r"model.reference=.*: its files name no pooling, .* no \[CLS\]"):
        setting.run(f"model.reference={build('qwen3', setting.root / 'decoder')}", "distill.failure=ignore")
    assert setting.trained() == []


def test_human_scores_that_are_all_alike_teach_nothing_and_are_refused(setting, tmp_path):
    rows = "".join(f"the dog runs {i}\ta dog {i}\t3\n" for i in range(20))
    (tmp_path / "flat.tsv").write_text("sentence1\tsentence2\tscore\n" + rows)
    with pytest.raises(InputError, match=r"^data.gold: the scores are nearly constant"):
        setting.run("distill.direction=gold_to_bi", f"data.gold=[{tmp_path}/flat.tsv]")
    assert setting.trained() == []


def test_scores_that_use_a_fifth_of_their_scale_are_told(setting, tmp_path, caplog):
    (tmp_path / "unit.tsv").write_text("sentence1\tsentence2\tscore\nthe dog\ta dog\t0.9\na cat\ta man\t0.1\n")
    setting.run(f"data.test=[{tmp_path}/unit.tsv]", "distill.failure=ignore")
    assert f"{tmp_path}/unit.tsv: no score is above 0.9; set data.score_max, now 5, to your scale's" in caplog.text
    caplog.clear()
    setting.run(f"data.test=[{tmp_path}/unit.tsv]", f"data.dev={tmp_path}/unit.tsv", "data.score_max=1", name="right")
    assert "no score is above" not in caplog.text


def test_scores_of_0_and_1_only_are_told_as_they_may_be_binary(setting, tmp_path, caplog):
    (tmp_path / "binary.tsv").write_text("sentence1\tsentence2\tscore\nthe dog\ta dog\t1\na cat\ta man\t0\n")
    setting.run(f"data.test=[{tmp_path}/binary.tsv]", "distill.failure=ignore")
    assert f"{tmp_path}/binary.tsv: all scores are 0 or 1; for AUC set data.scores=binary" in caplog.text


def test_a_reference_without_scored_pairs_is_not_loaded_and_the_log_says_so(setting, caplog):
    setting.run(f"model.reference={setting.model}", "data.dev=null", "data.test=[]")
    assert f"model.reference={setting.model}: is not evaluated, as there are no scored pairs (data.test)" in caplog.text
    assert "load reference" not in caplog.text
