"""The score command: a person's file comes out as it went in, with one column more."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from conftest import PAIRS

from transenc import score
from transenc.composition import compose
from transenc.data.files import Reader
from transenc.encoders import BiEncoder
from transenc.errors import InputError

ROOT = Path(__file__).parents[1]
TABLE = [(f"{i:02}", first, 'ü, "quoted"', second) for i, (first, second) in enumerate([*PAIRS, ("a dog", " ")])]


class Lengths:
    """Stands in for an encoder: a score that shows which pair it is of."""

    cut = 0

    def predict(self, pairs, batch_tokens):
        print("a library's remark")
        return [(len(first) * 100 + len(second)) / 1e5 for first, second in pairs]


@pytest.fixture
def scored(monkeypatch, capsys):
    """Run the command in this process, with `Lengths` and chunks of three pairs; gives what it writes."""
    monkeypatch.setattr(score, "load", lambda cfg: ([Lengths()], 2048))
    monkeypatch.setattr(score, "CHUNK", 3)

    def scored(*arguments):
        score.main(["model=x", *map(str, arguments)])
        return capsys.readouterr().out

    return scored


def test_text_that_the_tokenizer_does_not_know_is_warned_of_once(bert, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(score, "CHUNK", 3)
    rows = "".join(f"狗 {i}\t猫 {i}\n" for i in range(20))
    (tmp_path / "zh.tsv").write_text(f"sentence1\tsentence2\n{rows}", encoding="utf-8")
    score.main([f"model={bert}", "model.pooling=mean", f"{tmp_path}/zh.tsv"])
    assert len(capsys.readouterr().out.splitlines()) == 21
    (told,) = [record.getMessage() for record in caplog.records if "unknown" in record.getMessage()]
    assert told.startswith("pairs: 50% of the tokens are unknown to the tokenizer")


@pytest.mark.parametrize(("limit", "told"), [(5, ["3 sentences cut to 5 tokens"]), (32, [])])
def test_how_many_texts_were_cut_is_told_once_at_the_end(bert, tmp_path, caplog, monkeypatch, limit, told):
    monkeypatch.setattr(score, "CHUNK", 2)
    rows = "a dog\ta cat\na man is eating\ta dog\na dog is running\ta man is eating a dog\n"
    (tmp_path / "pairs.tsv").write_text(f"sentence1\tsentence2\n{rows}")
    score.main([f"model={bert}", "model.pooling=mean", f"model.max_tokens={limit}", f"{tmp_path}/pairs.tsv"])
    assert [record.getMessage() for record in caplog.records] == [f"{bert}: {line}" for line in told]


def test_several_processes_do_not_each_write_the_scores(bert, tmp_path, monkeypatch, capsys):
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\na\tb\n")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were launched as one run"):
        score.main([f"model={bert}", f"{tmp_path}/pairs.tsv"])
    assert capsys.readouterr().out == ""


def expected(first, second):
    return f"{(len(first) * 100 + len(second)) / 1e5:.6f}" if first.strip() and second.strip() else ""


def lines(kind):
    """The header, if there is one, and the lines of `TABLE`."""
    names = ("id", "sentence1", "note", "sentence2")
    if kind == "tsv":
        return ["\t".join(names), *map("\t".join, TABLE)]
    if kind == "csv":
        quoted = (",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in TABLE)
        return [",".join(names), *quoted]
    if kind == "jsonl":
        return [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in TABLE]
    return [f"{a}||{b}" for _, a, _, b in TABLE]


@pytest.fixture
def files(tmp_path):
    for kind in ("tsv", "csv", "jsonl", "txt"):
        (tmp_path / f"pairs.{kind}").write_text("\n".join(lines(kind)) + "\n", encoding="utf-8")
    return tmp_path


SCORES = [expected(first, second) for _, first, _, second in TABLE]
CSV = [",score", *(f",{s}" for s in SCORES)]
TSV = ["\tscore", *(f"\t{s}" for s in SCORES)]


def test_csv_gains_a_last_column_and_changes_in_nothing_else(scored, files):
    assert scored(files / "pairs.csv").splitlines() == [a + b for a, b in zip(lines("csv"), CSV, strict=True)]


def test_csv_with_semicolons_keeps_them(scored, tmp_path):
    (tmp_path / "pairs.csv").write_text('sentence1;n;sentence2\n"a; b";1,5;cc\nd;;\n')
    out = scored(tmp_path / "pairs.csv", "column=near")
    assert out == f'sentence1;n;sentence2;near\n"a; b";1,5;cc;{expected("a; b", "cc")}\nd;;;\n'


def test_tsv_and_bars_gain_a_last_column_and_change_in_nothing_else(scored, files):
    assert scored(files / "pairs.tsv").splitlines() == [a + b for a, b in zip(lines("tsv"), TSV, strict=True)]
    assert scored(files / "pairs.txt").splitlines() == [f"{a}||{s}" for a, s in zip(lines("txt"), SCORES, strict=True)]


def test_jsonl_gains_a_last_value_which_is_null_for_a_pair_without_a_score(scored, files):
    out = scored(files / "pairs.jsonl", "column=how near").splitlines()
    assert [line.rpartition(', "how near": ')[0] + "}" for line in out] == lines("jsonl")
    assert [json.loads(line)["how near"] for line in out] == [float(s) if s else None for s in SCORES]


def test_parquet_comes_out_as_csv(scored, tmp_path):
    table = pandas.DataFrame(TABLE, columns=["id", "sentence1", "note", "sentence2"])
    table.to_parquet(tmp_path / "pairs.parquet")
    out = pandas.read_csv(io.StringIO(scored(tmp_path / "pairs.parquet")), dtype=str, keep_default_na=False)
    pandas.testing.assert_frame_equal(out, table.assign(score=SCORES).astype(out.dtypes))


def test_a_file_without_a_header_gets_none(scored, tmp_path):
    (tmp_path / "bare.tsv").write_text("7\ta\tbb\n8\tccc\td\n")
    out = scored(tmp_path / "bare.tsv", "data.columns.sentence1=1", "data.columns.sentence2=2")
    assert out == f"7\ta\tbb\t{expected('a', 'bb')}\n8\tccc\td\t{expected('ccc', 'd')}\n"


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_a_column_that_is_there_already_is_refused_and_another_name_helps(scored, files, kind):
    file = files / f"pairs.{kind}"
    with pytest.raises(InputError, match=r"there is a 'note' already; name the new column with column=NAME") as error:
        scored(file, "column=note")
    assert str(error.value).startswith(f"{file}:")
    assert "near" in scored(file, "column=near")


def test_standard_input_is_tsv_unless_format_says_otherwise(scored, files, monkeypatch):
    for kind, arguments in (("tsv", []), ("csv", ["format=csv"]), ("txt", ["format=txt"])):
        with (files / f"pairs.{kind}").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            piped = scored("-", *arguments)
        assert piped == scored(files / f"pairs.{kind}")


def test_the_output_holds_nothing_but_the_table(files, monkeypatch, capsys):
    monkeypatch.setattr(score, "load", lambda cfg: ([Lengths()], 2048))
    score.main(["model=x", str(files / "pairs.txt")])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == len(TABLE)
    assert captured.err == "a library's remark\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "one file of pairs belongs here, not 0; --help shows how"),
        (["a.tsv", "b.tsv"], "one file of pairs belongs here, not 2"),
        (["a.tsv", "data.path=b.tsv"], "one file of pairs belongs here, not 2"),
        (["a.tsv", "format=cvs"], r"format=cvs: no such choice; did you mean csv\?"),
        (["a.tsv", "column=a,b"], "column=a,b: a name without tabs, commas, semicolons and quotes belongs here"),
        (["a.tsv", "modl=b"], r"modl: no such key; did you mean model\?"),
        (["./nowhere.tsv"], r"nowhere.tsv: no such file"),
    ],
)
def test_what_is_wrong_with_the_command_is_reported(arguments, says):
    with pytest.raises(InputError, match=says):
        score.main(["model=x", *arguments])


def test_bf16_is_refused_as_scores_are_computed_in_fp32():
    with pytest.raises(InputError, match=r"^trainer.precision=bf16-mixed: .* leave it out$"):
        score.main(["model=x", "pairs.tsv", "trainer.precision=bf16-mixed"])


def test_no_more_than_a_chunk_is_held(monkeypatch):
    monkeypatch.setattr(score, "CHUNK", 3)
    taken = iter(range(10))
    assert next(score.chunks(taken)) == [0, 1, 2]
    assert next(taken) == 3


def test_scores_are_the_encoders_own_in_the_order_of_the_file(bert, files, monkeypatch):
    monkeypatch.setattr(score, "CHUNK", 3)
    cfg, out = compose("evaluate", ["data=pairs", f"model.path={bert}", "trainer=cpu"]), io.StringIO()
    score.run(cfg, Reader(files / "pairs.tsv", score.Format("sentence1", "sentence2", None, 0, 5)), "score", out)
    *scores, last = pandas.read_csv(io.StringIO(out.getvalue()), sep="\t", quoting=3)["score"]
    assert scores == pytest.approx(BiEncoder.load(bert).predict(PAIRS).tolist(), abs=1e-5)
    assert pandas.isna(last)


def command(model, *arguments, **settings):
    run = [sys.executable, "-m", "transenc.score", f"model={model}", "trainer=cpu", *map(str, arguments)]
    return subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def test_an_unknown_flag_is_no_file(capsys):
    with pytest.raises(SystemExit) as error:
        score.main(["model=x", "pairs.csv", "--verbose"])
    assert (error.value.code, capsys.readouterr().err) == (2, "--verbose: no such flag; --help shows how\n")


@pytest.mark.slow
def test_a_mistake_in_the_middle_comes_after_the_scores_before_it(bert, tmp_path):
    (tmp_path / "pairs.txt").write_text("a dog||a cat\n||a cat\na dog\na man||a woman\n")
    process = command(bert, tmp_path / "pairs.txt")
    out, error = process.communicate(timeout=120)
    first, second = out.splitlines()
    assert 0 <= float(first.removeprefix("a dog||a cat||")) <= 1
    assert second == "||a cat||"
    assert error.startswith(f"{tmp_path}/pairs.txt:3: 1 parts where sentence1||sentence2 belongs")
    assert error.endswith("; the output ends before it\n")
    assert (error.count("\n"), process.returncode) == (1, 1)


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly(bert, tmp_path):
    (tmp_path / "pairs.txt").write_text("a dog||a cat\n" * 10_000)
    process = command(bert, "-", "format=txt", stdin=(tmp_path / "pairs.txt").open())
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=120)) == ("", 0)


def test_several_models_give_their_mean_score(bert, models, tmp_path, capsys):
    (tmp_path / "pairs.txt").write_text("a dog||a cat\na man||the man\n")
    scores = []
    for name in (str(bert), str(models["roberta"]), f"[{bert},{models['roberta']}]"):
        score.main([f"model={name}", str(tmp_path / "pairs.txt"), "trainer=cpu"])
        scores.append([float(line.split("||")[2]) for line in capsys.readouterr().out.splitlines()])
    assert scores[2] == pytest.approx(
        [(first + second) / 2 for first, second in zip(*scores[:2], strict=True)], abs=2e-6
    )


@pytest.mark.parametrize("name", ["null", "5", "[]"])
def test_what_is_no_model_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "pairs.txt").write_text("a||b\n")
    with pytest.raises(InputError, match=r"^model=.*: must be a hub name, a folder"):
        score.main([f"model={name}", str(tmp_path / "pairs.txt")])


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_line_ends_and_a_byte_order_mark_stay(scored, tmp_path, kind):
    file = tmp_path / f"pairs.{kind}"
    file.write_bytes(("\ufeff" + "\r\n".join(lines(kind)) + "\r\n").encode())
    plain = tmp_path / f"plain.{kind}"
    plain.write_text("\n".join(lines(kind)) + "\n", encoding="utf-8")
    assert scored(file) == "\ufeff" + scored(plain).replace("\n", "\r\n")


def test_a_files_name_may_hold_an_equals_sign(scored, tmp_path):
    file = tmp_path / "column=x.tsv"
    file.write_text("\n".join(lines("tsv")), encoding="utf-8")
    assert scored(file).count("\n") == len(lines("tsv"))
