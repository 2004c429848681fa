"""Reading pairs: each format, and one clear line for whatever is wrong with a file."""

import gzip
import io
import json
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pandas
import pyarrow.parquet
import pytest

from transenc.data.files import Format, Reader, read_file, read_pairs
from transenc.data.lines import STDIN, read_lines, read_sentences
from transenc.errors import InputError

FORM = Format("sentence1", "sentence2", "score", 0, 5)
UNSCORED = Format("sentence1", "sentence2", None, 0, 5)
EXPECTED = [('He said "hi", twice.', "None", 4.5), ("Zoë's café", "null", 0.0)]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def as_tsv(rows):
    return "sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{s}\n" for a, b, s in rows)


def as_csv(rows):
    quoted = ('"' + a.replace('"', '""') + f'","{b}",{s}\n' for a, b, s in rows)
    return "sentence1,sentence2,score\n" + "".join(quoted)


def as_jsonl(rows):
    return "".join(json.dumps({"sentence1": a, "sentence2": b, "score": s}) + "\n" for a, b, s in rows)


def as_bars(rows):
    return "".join(f"{a}||{b}||{s}\n" for a, b, s in rows)


@pytest.mark.parametrize(
    ("suffix", "text"), [(".tsv", as_tsv), (".csv", as_csv), (".jsonl", as_jsonl), (".txt", as_bars)]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_format_gives_the_same_pairs(tmp_path, suffix, text, end, mark):
    path = write(tmp_path / f"pairs{suffix}", mark + text(EXPECTED).replace("\n", end))
    assert read_file(path, FORM) == EXPECTED


def test_parquet_gives_the_same_pairs(tmp_path):
    import pandas

    many = EXPECTED * 1000  # more than is read at once
    table = pandas.DataFrame(many, columns=["sentence1", "sentence2", "score"])
    table.to_parquet(tmp_path / "pairs.parquet", row_group_size=300)
    assert read_file(tmp_path / "pairs.parquet", FORM) == many


def test_standard_input_is_read_as_the_format_says(monkeypatch):
    for kind, text in ((None, as_tsv), ("tsv", as_tsv), ("csv", as_csv), ("jsonl", as_jsonl), ("txt", as_bars)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text(EXPECTED).encode())))
        assert [record[1:3] for record in Reader(STDIN, FORM, kind)] == [pair[:2] for pair in EXPECTED]


def test_csv_may_have_semicolons_and_decimal_commas_as_spreadsheets_save_it_in_europe(tmp_path):
    rows = [("a, b", "c; d", 3.5), ('"e"', "", 0.25)]
    table = pandas.DataFrame(rows, columns=["sentence1", "sentence2", "score"])
    table.to_csv(tmp_path / "pairs.csv", sep=";", decimal=",", index=False)
    assert read_file(tmp_path / "pairs.csv", FORM) == rows
    table.to_csv(tmp_path / "comma.csv", header=["sentence1", "sentence2", "score"], index=False)
    assert read_file(tmp_path / "comma.csv", FORM) == rows


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (None, "sentence1,sentence2\na,b\n", "-:1: its columns are separated by commas; set format=csv"),
        (None, "sentence1;sentence2\na;b\n", "-:1: its columns are separated by semicolons; set format=csv"),
        ("csv", "sentence1\tsentence2\na\tb\n", "-:1: its columns are separated by tabs; set format=tsv"),
        ("csv", '"sentence1;sentence2"\n"a;b"\n', "-:1: no column 'sentence1' among"),
    ],
)
def test_another_separator_on_standard_input_is_named_with_the_format_to_set(monkeypatch, kind, text, says):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    with pytest.raises(InputError, match=says):
        list(Reader(STDIN, UNSCORED, kind))


def test_the_format_that_is_said_wins_over_the_suffix(tmp_path):
    path = write(tmp_path / "pairs.csv", as_tsv(EXPECTED))
    assert [record[1:3] for record in Reader(path, FORM, "tsv")] == [pair[:2] for pair in EXPECTED]


@pytest.mark.parametrize(("kind", "text"), [("csv", as_csv), ("tsv", as_tsv), ("jsonl", as_jsonl), ("txt", as_bars)])
def test_a_record_is_read_when_it_is_asked_for(monkeypatch, kind, text):
    lines = text(EXPECTED).encode().splitlines(keepends=True)
    source = iter([*lines, b"not yet read\n", b"\xff"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=source))
    records = iter(Reader(STDIN, FORM, kind))
    assert [next(records)[1:3] for _ in EXPECTED] == [pair[:2] for pair in EXPECTED]
    assert next(source) == b"not yet read\n"
    with pytest.raises(InputError, match=f"-:{len(lines) + 1}: not UTF-8"):
        next(records)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("csv", 'sentence1,n,sentence2\n"a, ""b"",\r\nc",1.10,"d"\n e ,,f\n'),
        ("tsv", 'sentence1\tn\tsentence2\n"a\t1.10\td\n e \t\tf\n'),
        ("jsonl", '{"sentence1": "a \\ud83d", "n": 1.10, "sentence2": "d"}\n{"sentence1": " e ", "sentence2":"f"}\n'),
        ("txt", '"a || d\n e ||f\n'),
    ],
)
def test_records_hold_their_text_as_it_is_written(tmp_path, kind, text):
    reader = Reader(write(tmp_path / "pairs", text), UNSCORED, kind)
    lines = [record.text for record in reader]
    assert "".join(f"{line}\n" for line in ([] if reader.header is None else [reader.header]) + lines) == text


def test_many_lines_in_one_row_of_csv_are_warned_of_and_a_mistake_is_where_the_row_begins(tmp_path, caplog):
    rows = [f"a {number},b\n" for number in range(30)]
    rows[5], rows[25] = 'left,"opening\n', 'closes"\n'
    text = "sentence1,sentence2\n" + "".join([*rows, *rows])
    assert len(read_file(write(tmp_path / "pairs.csv", text), UNSCORED)) == 20
    assert caplog.messages == [f"{tmp_path}/pairs.csv: lines 7 to 27 are one row; is a quote not closed?"]
    rows[25] = 'closes",c\n'
    with pytest.raises(InputError, match=r"pairs.csv:7: 3 columns where the header has 2"):
        read_file(write(tmp_path / "pairs.csv", "sentence1,sentence2\n" + "".join(rows)), UNSCORED)


@pytest.mark.parametrize("columns", [("a", "a", None), ("a", "b", "a"), (0, 1, 1)])
def test_a_column_has_one_meaning(columns):
    with pytest.raises(InputError, match=r"^data.columns: one column twice among .*; name another$"):
        Format(*columns, 0, 5)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_without_a_column_of_scores_says_how_to_name_it(tmp_path, kind):
    frame, path = pandas.DataFrame({"sentence1": ["a"], "sentence2": ["b"], "gold": [1]}), tmp_path / f"pairs.{kind}"
    frame.to_parquet(path) if kind == "parquet" else frame.to_json(path, orient="records", lines=True)
    with pytest.raises(InputError, match=r"1: no column 'score' .*'gold'\); .* name their column with data.columns"):
        read_file(path, FORM)


@pytest.mark.parametrize("first", ["sentence1||sentence2", "a dog||a cat"])
def test_a_first_line_that_looks_like_a_header_is_told_in_lines_of_pairs(tmp_path, caplog, first):
    assert len(read_file(write(tmp_path / "pairs.txt", f"{first}\na b||c d\n"), UNSCORED)) == 2
    assert ("line 1 is read as a pair" in caplog.text) == first.startswith("sentence1")


def test_a_short_row_is_filled_up_to_the_header_and_a_long_one_is_refused(tmp_path):
    path = write(tmp_path / "pairs.tsv", "sentence1\tsentence2\tx\ty\na\tb\n")
    assert [record.text for record in Reader(path, UNSCORED)] == ["a\tb\t\t"]
    path = write(tmp_path / "pairs.csv", "sentence1,sentence2\nHello, world,Hi\n")
    with pytest.raises(InputError, match=r"pairs.csv:2: 3 columns where the header has 2; is there a ',' too many"):
        read_file(path, UNSCORED)


@pytest.mark.parametrize("row", ["Well, he left,She left", "alone"])
def test_a_row_of_another_width_in_a_file_without_a_header_is_refused(tmp_path, row):
    """Its sentences would be read from where others have something else."""
    path = write(tmp_path / "pairs.csv", f"He went,She went\n{row}\n")
    numbered = Format(0, 1, None, 0, 5)
    says = rf"pairs.csv:2: {len(row.split(','))} columns where the first row has 2"
    with pytest.raises(InputError, match=says):
        read_file(path, numbered)


def test_a_sentence_is_one_line_and_keeps_the_blanks_around_it(tmp_path):
    path = write(tmp_path / "pairs.csv", 'sentence1,sentence2\n" a\r\nb ","\nc"\n')
    assert read_file(path, UNSCORED) == [(" a  b ", " c", None)]


def test_rows_without_sentences_are_pairs_but_blank_lines_and_trailing_tabs_are_not(tmp_path):
    path = write(tmp_path / "pairs.tsv", "sentence1\tsentence2\tscore\n \na\t\t1\n\t\t\n")
    assert read_file(path, FORM) == [("a", "", 1.0)]
    assert [record.text for record in Reader(path, FORM)] == ["a\t\t1", "\t\t"]


@pytest.mark.parametrize(("name", "end"), [("pairs.csv", ",,\n"), ("pairs.tsv", "\t\t\n")])
def test_rows_of_delimiters_alone_that_a_spreadsheet_leaves_are_no_pairs(tmp_path, name, end):
    text = {"pairs.csv": as_csv, "pairs.tsv": as_tsv}[name]([("a", "b", 1)])
    assert read_file(write(tmp_path / name, text + end), FORM) == [("a", "b", 1)]


def test_a_sentence_may_be_longer_than_pythons_csv_reader_takes_by_itself(tmp_path):
    long = "word " * 40_000
    assert read_file(write(tmp_path / "pairs.csv", as_csv([(long, "b", 1)])), FORM) == [(long, "b", 1)]


def test_numbered_and_named_columns_are_not_mixed(tmp_path):
    with pytest.raises(InputError, match=r"pairs.csv: some data.columns are numbered and some named"):
        read_file(write(tmp_path / "pairs.csv", as_csv([("a", "b", 1)])), Format(0, 1, "score", 0, 5))


def test_sentences_are_one_a_line(tmp_path):
    path = write(tmp_path / "any.suffix", "\ufeff one \r\n\n||two||\u2028\tthree\none\n \nlast")
    assert read_sentences(path) == ["one", "||two||\u2028\tthree", "one", "last"]
    for text, says in (
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        (b"a\n\xff", "any.suffix:2: not UTF-8"),
    ):
        with pytest.raises(InputError, match=says):
            read_sentences(write(path, text))
    with pytest.raises(InputError, match="no such file"):
        read_sentences(tmp_path / "nothing")


def test_lines_are_all_lines(tmp_path):
    assert read_lines(write(tmp_path / "lines", "\ufeffa\r\n\n b\n\n")) == ["a", "", " b", ""]


def test_of_parquet_only_the_columns_that_count_are_read_unless_the_whole_row_is_asked_for(tmp_path):
    table = pyarrow.table([["a"], ["b"], [1.0], ["x"], ["y"]], names=["sentence1", "sentence2", "score", "id", "id"])
    pyarrow.parquet.write_table(table, tmp_path / "pairs.parquet")
    assert read_file(tmp_path / "pairs.parquet", FORM) == [("a", "b", 1)]
    with pytest.raises(InputError, match="two columns of one name"):
        list(Reader(tmp_path / "pairs.parquet", FORM, whole=True))


@pytest.mark.parametrize("written", ["1_0", "1_0.5"])
def test_a_number_with_an_underscore_is_no_score(tmp_path, written):
    with pytest.raises(InputError, match=f"the score '{written}' is not a number"):
        read_file(write(tmp_path / "pairs.csv", as_csv([("a", "b", written)])), replace(FORM, score_max=20))


def test_pairs_to_learn_from_carry_no_score_even_if_the_file_has_one(tmp_path):
    path = write(tmp_path / "pairs.tsv", as_tsv([("a", "b", "not a number")]))
    assert read_file(path, UNSCORED) == [("a", "b", None)]


def test_columns_are_mapped_by_name_and_by_number(tmp_path):
    path = write(tmp_path / "named.csv", "id,question,answer\n7,why?,because\n")
    assert read_file(path, Format("question", "answer", None, 0, 1))[0][:2] == ("why?", "because")
    path = write(tmp_path / "bare.tsv", "7\twhy?\tbecause\n")
    assert read_file(path, Format(1, 2, None, 0, 1))[0][:2] == ("why?", "because")


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = write(tmp_path / "pairs.tsv", as_tsv([("one\u2028line", "one\x85line", 1.0)]))
    assert read_file(path, FORM) == [("one\u2028line", "one\x85line", 1.0)]


@pytest.mark.parametrize("first", ["question,answer", "Sentence 1,Sentence 2", "1,2", "a dog,a cat"])
def test_a_first_row_that_looks_like_a_header_is_told_where_columns_are_numbered(tmp_path, caplog, first):
    (tmp_path / "pairs.csv").write_text(f"{first}\nthe man eats,a man is eating\n")
    assert len(read_file(tmp_path / "pairs.csv", Format(0, 1, None, 0, 5))) == 2
    assert ("pairs.csv: line 1 is read as a pair; if it is a header" in caplog.text) == ("dog" not in first)


def test_a_header_of_the_columns_numbers_is_refused_and_read_by_its_names(tmp_path):
    path = write(tmp_path / "pairs.csv", "0,1,2\nthe man eats,a man is eating,4\n")  # as pandas names columns
    with pytest.raises(InputError, match=r"pairs.csv:1: is a header of numbers; name its columns as texts"):
        read_file(path, Format(0, 1, 2, 0, 5))
    assert read_file(path, Format("0", "1", "2", 0, 5)) == [("the man eats", "a man is eating", 4)]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("Hello, world;foo bar\nHi, you;baz\n", (0, 1)),
        ("\n \nsentence1;sentence2\nHello, world;foo bar\n", ("sentence1", "sentence2")),
        ("sentence1;sentence2;score (0, 5)\nHello, world;foo bar;3\n", ("sentence1", "sentence2")),
        ("sentence1;sentence2;score (0,5)\nHello, world;foo bar;3\n", ("sentence1", "sentence2")),
        ("Hello, world;foo bar;1,5\nHi, you;baz;2,5\n", (0, 1)),
        ('Hello, world;foo bar\n"""Well,"" he said.";this,that\na;b\n', (0, 1)),
    ],
)
def test_commas_in_texts_and_numbers_and_a_blank_line_do_not_hide_semicolons(tmp_path, text, columns):
    path = write(tmp_path / "pairs.csv", text)
    assert read_file(path, Format(*columns, None, 0, 5))[0][:2] == ("Hello, world", "foo bar")


def test_scores_on_lines_of_pairs_are_passed_over_where_none_are_read(tmp_path):
    path = write(tmp_path / "pairs.txt", "a b||c d||3.5\ne||f\n")
    assert [pair[:2] for pair in read_file(path, Format("sentence1", "sentence2", None, 0, 5))] == [
        ("a b", "c d"), ("e", "f"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"pairs.txt:1: 3 parts where sentence1\|\|sentence2 belongs"):
        read_file(write(tmp_path / "pairs.txt", "a||b||c\n"), Format("sentence1", "sentence2", None, 0, 5))


def test_a_compressed_file_is_told_by_its_bytes_too(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(gzip.compress(b"sentence1,sentence2\na,b\n"))
    with pytest.raises(InputError, match=r"pairs.csv: is compressed; unpack it first"):
        read_lines(tmp_path / "pairs.csv")


def test_a_sentence_that_is_null_is_empty_as_in_csv(tmp_path):
    rows = [{"sentence1": "a", "sentence2": None}, {"sentence1": "b", "sentence2": "c"}]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = read_file(tmp_path / "pairs.jsonl", Format("sentence1", "sentence2", None, 0, 5))
    assert [pair[:2] for pair in found] == [("a", ""), ("b", "c")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("pairs.tsv", "sentence1\tsentence2\tscore\na\tb\t1\nonly one\n", r"pairs.tsv:3: 1 columns where at least 3"),
        ("pairs.csv", 'sentence1,sentence2,score\n"a,b,1\n', r"pairs.csv:2: unexpected end of data"),
        ("pairs.txt", "a||b||1\na||b\n", r"pairs.txt:2: 2 parts where sentence1\|\|sentence2\|\|score belongs"),
        ("pairs.txt", "a||b||c||1\n", r"pairs.txt:1: 4 parts"),
        ("pairs.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1}\n{"a', r"pairs.jsonl:2: not JSON"),
        ("pairs.jsonl", "[1]\n", r"pairs.jsonl:1: a JSON object belongs here"),
        ("pairs.jsonl", '{"sentence1": 3, "sentence2": "b"}\n', r"pairs.jsonl:1: 'sentence1' is 3, not a text; mend"),
        ("pairs.jsonl", '{"sentence1": "a\\u0000", "sentence2": "b"}\n', "pairs.jsonl:1: holds a NUL character"),
        (
            "pairs.jsonl",
            '{"sentence1": "a", "sentence2": "b", "score": 1}\n{"sentence1": "a"}\n',
            r"pairs.jsonl:2: no column 'sentence2' \(there are 'sentence1'\); mend or remove it",
        ),
        ("pairs.jsonl", '{"a": "a", "b": "b"}\n', r"pairs.jsonl:1: no column 'sentence1' \(there are 'a', 'b'\); name"),
        ("pairs.tsv", "a\tb\tc\n1\t2\t3\n", r"pairs.tsv:1: no column 'sentence1' among 'a', 'b', 'c'; name yours"),
        ("pairs.csv.gz", "", "pairs.csv.gz: is compressed; unpack it first"),
        ("pairs.xlsx", "", "pairs.xlsx: is a spreadsheet; save it as .csv"),
        ("pairs.tsv", "sentence1;sentence2\na;b\n", "pairs.tsv:1: its columns are separated by semicolons; name it"),
        ("pairs.csv", "sentence1\tsentence2\na\tb\n", "pairs.csv:1: its columns are separated by tabs; name it .tsv"),
        ("pairs.tsv", "sentence1,sentence2\na,b\n", "pairs.tsv:1: its columns are separated by commas; name it .csv"),
        (
            "pairs.tsv",
            '"sentence1"\t"sentence2"\n"a"\t"b"\n',
            "pairs.tsv:1: its cells are in quotes, which",
        ),
        ("pairs.tsv", as_tsv([("a", "b", "high")]), r"pairs.tsv:2: the score 'high' is not a number"),
        ("pairs.tsv", as_tsv([("a", "b", 5.5)]), r"pairs.tsv:2: the score 5.5 is not in \[0, 5\]"),
        ("pairs.tsv", as_tsv([("a", "b", "nan")]), r"pairs.tsv:2: the score 'nan' is not a number"),
        ("pairs.tsv", b"sentence1\tsentence2\tscore\na\tb\t1\n\xff\xfe\t\n", r"pairs.tsv:3: not UTF-8 \(byte 0xff\)"),
        ("pairs.tsv", "", "the file is empty"),
        ("pairs.tsv", "\n \n", "the file is empty"),
        ("pairs.csv", "\n \n", "the file is empty"),
        ("pairs.tsv", "sentence1\tsentence2\tscore\n", "there are no pairs"),
        ("pairs.parquet", "no parquet", "not a readable parquet file"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line_with_file_and_line(tmp_path, name, text, says):
    with pytest.raises(InputError, match=says) as error:
        read_file(write(tmp_path / name, text), FORM)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_have_different_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_file(tmp_path / "nothing.tsv", FORM)
    with pytest.raises(InputError, match="is not a file"):
        read_file(tmp_path, FORM)


def test_sentences_in_a_spreadsheets_quotes_are_warned_of_and_quotations_are_not(tmp_path, caplog):
    file = tmp_path / "pairs.tsv"
    file.write_text('sentence1\tsentence2\n"a ""big"" dog"\t"a dog, big"\n"Go away."\t"a" or "b"\n')
    assert read_file(file, UNSCORED)[0].sentence1 == '"a ""big"" dog"'
    assert "2 sentences are in quotes, as a spreadsheet puts them" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_labels_may_be_the_booleans_of_pandas(tmp_path, suffix):
    frame = pandas.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [True, False]})
    path = tmp_path / f"scored.{suffix}"
    as_jsonl = partial(frame.to_json, orient="records", lines=True)
    {"csv": frame.to_csv, "parquet": frame.to_parquet, "jsonl": as_jsonl}[suffix](path)
    form = Format("sentence1", "sentence2", "score", 0, 1, binary=True)
    assert [pair.score for pair in read_pairs(path, form)] == [1, 0]
