"""report.html: everything of a run on one page, safe to open, the same each time; several runs side by side."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import PAIRS
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from transenc.composition import compose
from transenc.loop import distill
from transenc.report import plots
from transenc.report.__main__ import main
from transenc.report.comparison import sweep_table
from transenc.report.page import write_report
from transenc.report.run import Run, read_table
from transenc.results import Row, averaged_over, table
from transenc.sweep import Sweep

HOSTILE = ("<script>alert('a')</script>", '& <b>bold</b> "quoted"')


@pytest.fixture(scope="session")
def runs(bert, tmp_path_factory):
    """Two runs that differ in their seed, and the pairs they were trained on."""
    root = tmp_path_factory.mktemp("reports")
    rows = [(*pair, number) for number, pair in enumerate([*PAIRS, HOSTILE])]
    for name in ("pool", "dev", "test"):
        pandas.DataFrame(rows, columns=["sentence1", "sentence2", "score"]).to_csv(
            root / f"{name}.tsv", sep="\t", index=False, quoting=3
        )
    folders = [root / "sweep" / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        settings = [
            "data=pairs", f"data.path={root}/pool.tsv", f"data.dev={root}/dev.tsv", f"data.test=[{root}/test.tsv]",
            "data.score_max=10", f"model.bi={bert}", f"model.cross={bert}", f"paths.artifacts={root}/artifacts",
            "trainer=cpu", "data.transductive=true", "distill=paper", "distill.iterations=2",
            "distill.bi.epochs=2", f"seed={seed}",
        ]  # fmt: skip
        distill(compose("train", settings), folder)
    return folders


def text(page):
    return re.sub(r"<(style|script|svg)\b.*?</\1>", "", page, flags=re.DOTALL)


def test_a_run_ends_with_a_page_that_shows_its_results(runs):
    page = (runs[0] / "report.html").read_text()
    results = pandas.read_csv(runs[0] / "results.csv")
    for value in results.spearman:
        assert f">{100 * value:.2f}<" in page
    # Scores, labels, teacher and student of two iterations, gold and loss of two encoders, selection, seconds.
    assert page.count("<svg") == 10
    assert text(page).count("<tr class=chosen>") == 2
    run = json.loads((runs[0] / "run.json").read_text())
    for word in (run["versions"]["torch"], "Where the labels differ", "Largest errors", "distill"):
        assert word in page


def test_a_page_needs_no_network_and_runs_nothing_of_what_it_quotes(runs):
    page = (runs[0] / "report.html").read_text()
    assert not re.findall(
        r"(?:src|href)=[\"']?(?!#)", page.replace('xlink:href="#', "").replace('xlink:href="data:', "")
    )
    assert "@import" not in page
    assert "url(http" not in page
    assert page.count("<script>") == 1  # our own
    assert "&lt;script&gt;alert" in page
    assert "<b>bold" not in page


def test_the_command_rebuilds_the_same_page_from_the_folder_alone(runs, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(runs[0], folder)
    (folder / "report.html").unlink()
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text() == (runs[0] / "report.html").read_text()


def test_runs_are_compared_with_mean_and_spread_over_seeds(runs, tmp_path):
    assert main([str(runs[0].parent), str(runs[0]), "--out", str(tmp_path / "both.html")]) == 0  # one of them twice
    page = (tmp_path / "both.html").read_text()
    for name in ("bi", "cross"):
        values = [100 * run.value(run.key(name), "test") for run in map(Run.read, runs)]
        for value in values:
            assert f">{value:.2f}<" in page
        assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in page
    assert "2 runs" in page


@pytest.mark.parametrize("name", ["run.json", "results.csv", "curves.csv", "labels/1-bi.csv", "predictions/*.csv"])
@pytest.mark.parametrize(
    "damage",
    [
        "",
        *(
            pytest.param(text, marks=pytest.mark.slow)
            for text in ("{", "\x00\x01", "a,b\n1\n1,2,3\n", "[]", '{"selected": 3}')
        ),
    ],
)
def test_a_damaged_run_has_a_page_or_is_one_line(runs, tmp_path, capsys, name, damage):
    folder = Path(shutil.copytree(runs[0], tmp_path / "run"))
    (folder / "report.html").unlink()
    for path in folder.glob(name):
        path.write_text(damage)
    if main([str(folder)]):
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert not (folder / "report.html").exists()
    else:
        assert (folder / "report.html").exists()


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing(runs, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    assert main([str(runs[0]), "--out", str(tmp_path / "folder")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/folder: Is a directory\n"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_undefined_selection_score_is_a_number_that_is_missing(tmp_path):
    (tmp_path / "curves.csv").write_text("place,step,selection\n1/bi,0,nan\n1/bi,1,0.5\n1/bi,2,\n")
    assert read_table(tmp_path / "curves.csv").selection.tolist() == pytest.approx([np.nan, 0.5, np.nan], nan_ok=True)


def test_sentences_that_look_like_numbers_stay_as_they_are_written(tmp_path):
    (tmp_path / "labels.csv").write_text("sentence1,sentence2,label\n007,3e2,0.5\nTrue,NA,0.25\n")
    table = read_table(tmp_path / "labels.csv")
    assert table.values.tolist() == [["007", "3e2", 0.5], ["True", "NA", 0.25]]


def test_files_of_others_among_the_labels_are_left_alone(runs, tmp_path):
    folder = Path(shutil.copytree(runs[0], tmp_path / "run"))
    for name in ("my-notes.csv", "1-bi-annotated.csv", "9-bi.csv"):
        (folder / "labels" / name).write_text("a\n1\n")
    assert main([str(folder)]) == 0


def test_a_folder_without_a_finished_run_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: no finished run (its run.json is missing or damaged)\n"
    (tmp_path / "run.json").write_text("{")
    assert main([str(tmp_path)]) == 1
    (tmp_path / "run.json").write_text("{}")
    assert main([str(tmp_path)]) == 1
    assert "a run of an earlier version, or files are missing; run its command again" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_the_name_of_a_test_file_is_text_wherever_it_stands(runs, tmp_path):
    name = "<img src=x onerror=alert(1)>\x00\x1b"
    folder = Path(shutil.copytree(runs[0], tmp_path / "run"))
    for path, shown in ((folder / "results.csv", name), (folder / "run.json", json.dumps(name))):
        path.write_text(re.sub('(?<=,)test(?=,)|"test"(?=:)', shown.replace("\\", r"\\"), path.read_text()))
    for file in (folder / "predictions").glob("*-test.csv"):
        file.rename(file.with_name(file.name.replace("-test.csv", "-other.csv")))
    write_report([folder], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page
    assert not set(page) & {"\x00", "\x1b"}


def test_a_run_without_gold_scores_has_a_page_too(runs, bert, tmp_path):
    root = runs[0].parents[1]
    settings = [
        "data=pairs", f"data.path={root}/pool.tsv", f"model.bi={bert}", f"model.cross={bert}", "trainer=cpu",
        f"paths.artifacts={tmp_path}/artifacts", "distill=bi_to_cross",
        "distill.cross.min_steps=0", "distill.select=last",
    ]  # fmt: skip
    distill(compose("train", settings), folder := tmp_path / "run")
    page = (folder / "report.html").read_text()
    assert "<b>cross</b>: iteration 1" in page
    assert "whether the encoders beat the initial bi-encoder is not known" in page
    write_report([folder, folder], tmp_path / "two.html")
    assert "cross selection score" in (tmp_path / "two.html").read_text()


def test_a_setting_of_a_sweeps_job_stands_whole_on_its_line(tmp_path):
    path = tmp_path / "0" / ".hydra" / "overrides.yaml"
    path.parent.mkdir(parents=True)
    long = "model.bi_prompt='" + "a long prompt " * 12 + "'"
    OmegaConf.save([long], path)  # over several lines
    assert sweep_table([tmp_path / "0"], []).splitlines()[1].endswith(long)


def test_a_sweeps_table_has_its_own_jobs_and_no_earlier_results_of_one_that_failed(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Sweep, "folder", None)
    monkeypatch.setattr(Sweep, "earlier", {})

    def job(number, finished):
        if finished:
            shutil.copytree(runs[0], tmp_path / number, dirs_exist_ok=True)
        OmegaConf.save([f"seed={number}"], (tmp_path / number / ".hydra" / "overrides.yaml"))
        if finished:
            (tmp_path / number / "run.json").touch()

    for number in "012":
        (tmp_path / number / ".hydra").mkdir(parents=True)
        job(number, True)
    Sweep().on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    time.sleep(0.02)
    job("0", True)
    job("1", False)
    Sweep.report()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith(("seed=0", "seed=1", "seed=2"))] == ["0", "1"]
    assert [line.split()[1] == "failed" for line in lines if line[:2] in ("0 ", "1 ")] == [False, True]


def test_published_figures_stand_beside_the_scores_on_the_page_and_the_terminal(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    facts = json.loads((folder / "run.json").read_text())
    facts["published"] = {"cross": {"test": 84.69}}
    (folder / "run.json").write_text(json.dumps(facts))
    write_report([folder], tmp_path / "page.html")
    page = text((tmp_path / "page.html").read_text())
    assert re.search(r"<td>paper cross</td>.*>84\.69<", page)
    rows = [Row(1, "cross", 0, name, 3, 0.5, 0.5) for name in ("dev", "a", "b")]
    shown = table(rows, ["a", "b"], {}, {"cross": {"a": 84.0, "b": 86.0}, "bi": {"a": 80.0}}).splitlines()
    assert shown[-2].split() == ["paper", "cross", "84.00", "86.00", "85.00"]
    assert shown[-1].split() == ["paper", "bi", "80.00"]


def test_curves_of_ten_iterations_and_more_are_drawn_in_their_order(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_figure", lambda draw, caption: drawn.append(draw))
    rows = pandas.DataFrame([(f"{i}/bi", step, 0.1) for i in range(1, 13) for step in (1, 2)])
    plots._curve(rows.set_axis(["place", "step", "loss"], axis=1), "loss", "")
    axes = Figure().subplots()
    drawn[0](axes)
    assert [line.get_label() for line in axes.lines] == [f"{i}/bi" for i in range(1, 13)]
    darkness = [line.get_alpha() for line in axes.lines]
    assert sorted(darkness) == darkness
    assert darkness[-1] <= 1


def test_a_mean_over_sets_of_different_metrics_names_them():
    assert averaged_over({"sts12": "spearman"}) == "sts12"
    assert averaged_over({"sts12": "spearman", "sts13": "spearman"}) == "2 test sets on average"
    assert averaged_over({"sts12": "spearman", "own": "auc"}) == "2 test sets on average (Spearman and AUC)"


def test_seconds_of_labelling_are_not_those_of_evaluation(monkeypatch):
    drawn, own = [], ["1/cross/fold-0 train", "1/cross soup"]
    titles = ["0/bi pool", "0/bi late crops", "1/bi label", "0/bi stsb-test", *own, "read $x^$ pairs", "read  "]
    monkeypatch.setattr(plots, "_figure", lambda draw, caption, long_names: drawn.append(draw))
    run = type("", (), {"facts": {"stages": [{"title": title, "seconds": 2.0} for title in titles]}})
    plots._seconds(run)
    axes = Figure().subplots()
    drawn[0](axes)
    named = dict(zip([label.get_text() for label in axes.get_yticklabels()], axes.patches, strict=True))
    assert {name: bar.get_width() for name, bar in named.items()} == {
        "0/bi label": 4, "1/bi label": 2, "evaluate": 2, "1/cross/fold-0 train": 2, "1/cross soup": 2, "read": 4
    }  # fmt: skip


def test_a_name_in_a_plot_is_no_formula():
    assert "$x^$ train" in plots._figure(lambda axes: axes.barh(["$x^$ train"], [1]), "", long_names=True)
