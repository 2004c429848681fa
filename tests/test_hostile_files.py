"""Bad input at every door: a file is read rightly or refused in one line that names it, whatever is in it.

60 files a reader with the other tests; 10,000 a reader, different ones each time, by

    python -m pytest tests/test_hostile_files.py --hypothesis-profile=long
"""

import csv
import io
import json
import os
import signal
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transenc.composition import compose
from transenc.data.files import KINDS, Format, Reader, read_file
from transenc.data.hub import HUB, SUFFIXES
from transenc.data.lines import one_line, read_lines, read_sentences
from transenc.data.published import PUBLISHED
from transenc.errors import InputError
from transenc.stages.evaluation import Evaluation

NAMED = Format("sentence1", "sentence2", "score", 0, 5)


NUMBERED = Format(0, 1, None, 0, 5)


BOM = b"\xef\xbb\xbf"


# What a file may hold where it should not.
SNIPPETS = [
    *(b"\x00", b"\x00" * 5000, b"\xff", b"\xc3", b"\xed\xa0\xbd", BOM, b"\r", b"\n", b"\r\n", b"\n\n\n", b"\x1b[2J"),
    *(b"\t", b",", b"||", b"|", b'"', b'""', b'"\n', b"\\", b"\\ud83d", b"\\u0000", b"{", b"}", b"[", b"[" * 5000),
    *(b'{"a":' * 5000, b"null", b"true", b"9" * 400, b"9" * 5000, b"x" * 200_000, b"\t" * 5000),
    *(b"nan", b"-inf", b"1e999", b"-1", b"5.1", b"1_0", b"0x1", b"sentence1", b"sentence2", b"score", b"label"),
    *("\U0001f469\u200d\U0001f680".encode(), "שלום \u202eمرحبا".encode(), "\u2028\x85\xa0".encode(), b"caf\xe9"),
]


CODECS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-8-sig"]


def pairs(text):
    scores = st.floats(0, 5).map(abs)  # there are two zeros
    return st.lists(st.tuples(text, text, scores), min_size=1, max_size=5)


def texts(without=""):
    special = sorted(set("\0\t\n\r ,|\"'\\\x85\u2028\ufeff") - set(without))
    any_other = st.characters(codec="utf-8", exclude_characters=without)
    return st.text(st.sampled_from(special) | any_other, max_size=12)


def as_tsv(rows, header=("sentence1", "sentence2", "score")):
    return "".join("\t".join(map(str, row)) + "\n" for row in [header, *rows]).encode()


def as_csv(rows, header=("sentence1", "sentence2", "score")):
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue().encode()


def as_jsonl(rows, header=("sentence1", "sentence2", "score")):
    return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode()


def as_txt(rows):
    return "".join("||".join(map(str, row)) + "\n" for row in rows).encode()


def as_parquet(rows, header=("sentence1", "sentence2", "score")):
    out = io.BytesIO()
    columns = map(pyarrow.array, zip(*rows, strict=True))
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(list(columns), names=list(header)), out)
    return out.getvalue()


WRITERS = {"tsv": as_tsv, "csv": as_csv, "jsonl": as_jsonl, "txt": as_txt, "parquet": as_parquet}


FORBIDDEN = {"tsv": "\0\t\r\n", "csv": "\0", "jsonl": "\0", "txt": "\0\r\n|\ufeff", "parquet": "\0"}


ROWS = [("a dog", 'he said "hi"', 4.5), ("Zoë's café", "שלום", 0.0), ("x" * 300, "😀", 5.0)]


@st.composite
def spoilt(draw, content):
    """Bytes that began as `content`."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200) | st.sampled_from([b"", BOM, *SNIPPETS]))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.just(start) | st.integers(start, min(start + 8, len(content))) | st.integers(start, len(content)))
        new = draw(st.sampled_from(SNIPPETS) | st.binary(max_size=8) | st.just(content[start:end] * 2))
        content = content[:start] + new + content[end:]
    if draw(st.integers(0, 4)) == 0:
        ends = draw(st.sampled_from([b"\r\n", b"\r", b"\n\r", b"\x00"]))
        content = content.replace(b"\n", ends)
    if draw(st.integers(0, 4)) == 0:
        content = content.decode("utf-8", "replace").encode(draw(st.sampled_from(CODECS)), "replace")
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


def result(read, *names):
    """What a reader gives, or None where it refuses as it should."""
    try:
        return read()
    except InputError as error:
        message = str(error)
        assert message.isprintable()
        assert any(str(name) in message for name in names), message
        assert len(message) < 1000
        return None


def sound(read, low=0, high=5):
    """Whether these are pairs as all that follows takes them: text on one line that can be written, scores in range."""
    for first, second, score in read:
        for sentence in (first, second):
            sentence.encode()
            assert not set(sentence) & set("\r\n")
        assert score is None or (isinstance(score, float) and low <= score <= high)
    return bool(read)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_pairs_come_back_from_every_format_as_they_were(folder, kind, data):
    rows = data.draw(pairs(texts(FORBIDDEN[kind])))
    path = folder / f"whole.{kind}"
    content, expected = WRITERS[kind](rows), [(one_line(a), one_line(b), score) for a, b, score in rows]
    if kind != "parquet":
        content = data.draw(st.sampled_from([b"", BOM])) + content
    path.write_bytes(content)
    assert read_file(path, NAMED) == expected
    if kind != "txt":  # where no score is read, its lines have no third part
        assert read_file(path, replace(NAMED, score=None)) == [(*row[:2], None) for row in expected]


@given(st.lists(texts("\0\r\n\ufeff"), min_size=1))
def test_sentences_come_back_as_they_were_but_for_blanks(folder, sentences):
    path = folder / "whole.sentences"
    path.write_bytes("".join(f"{sentence}\r\n" for sentence in sentences).encode())
    assume(any(map(str.strip, sentences)))
    assert read_sentences(path) == [stripped for sentence in sentences if (stripped := sentence.strip())]
    assert read_lines(path) == sentences


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_file_of_pairs_is_read_rightly_or_refused_in_one_line(folder, kind, data):
    content = data.draw(spoilt(WRITERS[kind](ROWS)))
    form = data.draw(st.sampled_from([NAMED, NUMBERED, replace(NAMED, score=None), replace(NAMED, binary=True)]))
    path = folder / f"spoilt.{kind}"
    path.write_bytes(content)
    read = result(lambda: read_file(path, form), path)
    if read is None:
        return
    assert sound(read)
    if kind in ("tsv", "csv", "txt"):
        assert len(read) <= content.count(b"\n") + 1
        there = one_line(content.decode()).replace('"', "")
        assert all(sentence.replace('"', "") in there for pair in read for sentence in pair[:2])


@given(content=spoilt("one\n\ntwo \r\n\tthree 😀\n".encode()))
def test_a_file_of_sentences_is_read_rightly_or_refused_in_one_line(folder, content):
    path = folder / "spoilt.sentences"
    path.write_bytes(content)
    for read in (read_sentences, read_lines):
        lines = result(lambda read=read: read(path), path)
        if lines is not None:
            text = content.removeprefix(BOM).decode()
            assert "\0" not in text
            expected = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
            if read is read_sentences:
                expected = [stripped for line in expected if (stripped := one_line(line).strip())]
            assert lines == expected


SETS = {
    "stsb-dev": ['g\tf\t2012\t1\t4.750\t"He left," she said.\tShe\rleft\ng\tf\t2015\t2\t0.000\tNone\tnull\ts\ts\n'],
    "sts16": ["a\rb\tb\tsource\tsource\nc\td\tsource\tsource\n", "\n3.5\n"],  # one subset of five
    "sickr-dev": ["id\tA\tB\tscore\tjudgment\n4\tA dog runs\tA dog sleeps\t3.6\tNEUTRAL\r\n5\ta\rb\tb\t1\tNEUTRAL\r\n"],
    "quickstart-dev": ["genre\tscore\ta\tb\ng\t2.5\tone\rmore\ttwo\ng\t0\tthree\tfour\n"],
}


@pytest.mark.parametrize("name", SETS)
@given(data=st.data())
def test_a_published_set_is_read_rightly_or_refused_in_one_line(folder, name, data):
    contents = [text.encode() for text in SETS[name]]
    paths = [folder / Path(file).name for file in PUBLISHED[name].files[: len(contents)]]
    for number in data.draw(st.sets(st.integers(0, len(paths) - 1), max_size=2)):
        contents[number] = data.draw(spoilt(contents[number]))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    rows = data.draw(st.sampled_from([2, 2, 2, 1, 3]))
    small = replace(PUBLISHED[name], rows=rows, scored=rows // 2 if name == "sts16" else rows)
    for scored in (True, False):
        read = result(partial(small.read, paths, scored), *paths, f"{name}: ")
        assert read is None or (sound(read) and len(read) == (small.scored if scored else rows))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.data())
def test_a_local_file_of_a_hubs_set_is_read_rightly_or_refused_in_one_line(folder, suffix, data):
    name, header = data.draw(st.sampled_from([("mrpc-dev", "sentence1 sentence2"), ("qnli-dev", "question sentence")]))
    rows = [("a", "b", 1), ("c d", "é", 0), ("e", "f", 1)]
    path = folder / f"validation{suffix}"
    path.write_bytes(data.draw(spoilt(WRITERS[suffix[1:]](rows, (*header.split(), "label")))))
    for scored in (True, False):
        read = result(partial(HUB[name].read, [path], scored), path)
        assert read is None or sound(read, 0, 1)


READERS = {kind: lambda path: read_file(path, NAMED) for kind in KINDS} | {"sentences": read_sentences, "": read_lines}


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    folder, loop, pipe = (tmp_path / f"{name}.{kind}" for name in ("folder", "loop", "pipe"))
    folder.mkdir()
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    device = tmp_path / f"device.{kind}"
    device.symlink_to("/dev/zero")
    signal.alarm(20)  # a reader that waits at the pipe, or reads all of the device, ends here
    for path, says in (
        (folder, "is not a file"),
        (pipe, "is not a file"),
        (device, "is not a file"),
        (loop, "no such file"),
        (folder / "x", "no such file"),
        (tmp_path / ("x" * 300), "no such file"),
        (tmp_path / "a\0b", "no such file"),
    ):
        with pytest.raises(InputError, match=says):
            READERS[kind](path)
    signal.alarm(0)


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_cannot_be_read_says_so(tmp_path, kind):
    path = tmp_path / f"closed.{kind}"
    if os.path.isfile("/proc/self/mem"):  # its first byte is nobody's to read
        path.symlink_to("/proc/self/mem")
    else:
        path.write_text("a||b\n")
        path.chmod(0)
    if os.access(path, os.R_OK) and not path.is_symlink():
        pytest.skip("nothing is closed to this user")
    with pytest.raises(InputError, match=r"cannot be read|not a readable parquet file"):
        READERS[kind](path)
    cfg = compose("train", ["data=pairs", f"data.path={path}"])
    with pytest.raises(InputError, match=r"cannot be read"):
        Evaluation(None, cfg.data, cfg.paths, cfg.trainer, None).read(str(path), False)


def test_a_name_with_a_line_break_makes_no_second_line(tmp_path):
    with pytest.raises(InputError, match=r"a\\nb\\x1b.tsv: no such file") as error:
        read_file(tmp_path / "a\nb\x1b.tsv", NAMED)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "parquet"])
@pytest.mark.parametrize("filling", [b"x", b"\0", b"\t", b",", b"|", b'"', b"[", b"\r", b"\xff", b" "])
def test_a_megabyte_in_a_line_takes_little_memory(tmp_path, kind, filling):
    path = tmp_path / f"long.{kind}"
    start = WRITERS[kind](ROWS) if kind in WRITERS else b"one\ntwo\n"
    for content in (filling * 2**20, start + filling * 2**20, start[:-1] + filling * 2**20 + b"\n"):
        path.write_bytes(content)
        tracemalloc.start()
        try:
            result(lambda: READERS[kind](path), path)
            assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.tsv", as_tsv(ROWS, ("sentence1", "sentence1", "sentence2")), r"a.tsv:1: 2 columns are called 'sentence1'"),
        ("a.csv", as_csv(ROWS, ("sentence1", "sentence2", "sentence2")), r"a.csv:1: 2 columns are called 'sentence2'"),
        ("a.parquet", as_parquet(ROWS, ("sentence1", "sentence2", "sentence2")), "two columns of one name"),
        ("a.tsv", as_tsv(ROWS).replace(b"\n", b"\r"), "a.tsv: lines end in carriage returns alone"),
        ("a.tsv", as_tsv(ROWS).decode().encode("utf-16-le"), r"a.tsv:1: holds a NUL character; remove it"),
        ("a.tsv", as_tsv(ROWS).decode().encode("utf-16"), r"a.tsv:1: not UTF-8 \(byte 0xff\)"),
        ("a.tsv", as_tsv(ROWS[1:2]).decode("utf-8").replace("שלום", "b").encode("latin-1"), r"a.tsv:2: not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON"),
        ("a.jsonl", as_jsonl([("a", "b", 10**400)]), r"a.jsonl:1: the score 1000000000000\d* is not a number"),
        ("a.jsonl", as_jsonl([("a", "b", "7\n")]), r"a.jsonl:1: the score 7\\n is not in \[0, 5\]"),
        ("a.tsv", as_tsv([("a", "b", "x" * 10**6)]), r"a.tsv:2: the score 'x{39} is not a number"),
        ("a.csv", b"sentence1,sentence2\na\rb,c\nd,e\n", "a.csv:2: new-line character seen in unquoted field; are"),
    ],
)
def test_a_common_fault_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    form = NAMED if name.endswith("l") or b"score" in content else replace(NAMED, score=None)
    assert result(lambda: read_file(tmp_path / name, form), tmp_path / name) is None
    with pytest.raises(InputError, match=says):
        read_file(tmp_path / name, form)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [float("inf"), float("-inf"), -0.001, 5.001])
def test_a_score_outside_its_range_is_refused(tmp_path, kind, score):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(WRITERS[kind]([("a", "b", score)]))
    with pytest.raises(InputError, match=rf"a.{kind}:.* the score {score} is not in \[0, 5\]"):
        read_file(path, NAMED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_that_is_not_a_number_is_refused_as_such(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(WRITERS[kind]([("a", "b", float("nan"))]))
    with pytest.raises(InputError, match=rf"a.{kind}:.* the score '?nan'? is not a number"):
        read_file(path, NAMED)


def test_half_a_character_is_read_as_one_that_can_be_written(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentence1": "a \\ud83d", "sentence2": "b", "score": 1}')
    assert sound(read_file(path, NAMED))


def test_a_cell_that_python_cannot_hold_is_refused_where_the_whole_row_is_asked_for(tmp_path):
    for dates in (pyarrow.array([2**30], pyarrow.date32()), pyarrow.array([2**62], pyarrow.duration("s"))):
        table = pyarrow.table({"sentence1": ["a"], "sentence2": ["b"], "score": [1.0], "date": dates})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert read_file(tmp_path / "a.parquet", NAMED) == [("a", "b", 1.0)]
        with pytest.raises(InputError, match=r"a.parquet: not a readable parquet file"):
            list(Reader(tmp_path / "a.parquet", NAMED, whole=True))
