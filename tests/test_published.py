"""The published sets, in small copies of their layouts, and whole where they are at hand."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from transenc.data.known import KNOWN
from transenc.data.published import PUBLISHED
from transenc.errors import InputError

ROOT = Path(__file__).parents[1]


def small(monkeypatch, name, rows, scored):
    monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], rows=rows, scored=scored))


def lay(root, name, *texts):
    for file, text in zip(KNOWN[name].files, texts, strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(text.encode())
    return KNOWN[name].find(root)


STSB = (
    'main-news\tMSRpar\t2012\t0001\t4.750\t"He left," she said.\tShe said "he left\n'
    "main-forum\tx\t2015\t0002\t0.000\tNone\tnull\tsource\tsource\n"
)


def test_stsb_has_seven_or_nine_columns_and_quotes_are_text(tmp_path, monkeypatch):
    small(monkeypatch, "stsb-dev", 2, 2)
    paths = lay(tmp_path, "stsb-dev", STSB)
    assert KNOWN["stsb-dev"].read(paths, scored=True) == [
        ('"He left," she said.', 'She said "he left', 4.75),
        ("None", "null", 0.0),
    ]


def test_pairs_to_learn_from_have_no_scores(tmp_path, monkeypatch):
    small(monkeypatch, "stsb-dev", 2, 2)
    pairs = KNOWN["stsb-dev"].read(lay(tmp_path, "stsb-dev", STSB), scored=False)
    assert [pair.score for pair in pairs] == [None, None]


def test_unscored_sts_lines_are_kept_to_learn_from_and_dropped_for_testing(tmp_path, monkeypatch):
    small(monkeypatch, "sts16", 10, 5)
    texts = ["a\tb\tsource\tsource\nc\td\tsource\tsource\n", "\n3.5\n"] * 5
    paths = lay(tmp_path, "sts16", *texts)
    assert len(KNOWN["sts16"].read(paths, scored=False)) == 10
    assert KNOWN["sts16"].read(paths, scored=True) == [("c", "d", 3.5)] * 5


def test_sick_skips_its_header_and_carriage_returns(tmp_path, monkeypatch):
    small(monkeypatch, "sickr-dev", 1, 1)
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    paths = lay(tmp_path, "sickr-dev", header + "4\tA dog runs\tA dog sleeps\t3.6\tNEUTRAL\r\n")
    assert KNOWN["sickr-dev"].read(paths, scored=True) == [("A dog runs", "A dog sleeps", 3.6)]


def test_a_wrong_number_of_rows_is_an_error(tmp_path):
    paths = lay(tmp_path, "stsb-dev", STSB)
    with pytest.raises(InputError, match=r"2 rows, 2 of them scored.*1500 and 1500 belong"):
        KNOWN["stsb-dev"].read(paths, scored=True)


def test_a_short_row_is_named_by_file_and_line(tmp_path):
    paths = lay(tmp_path, "stsb-dev", STSB + "too\tshort\n")
    with pytest.raises(InputError, match=r"sts-dev.csv:3: 2 columns where 7 or 9 belong"):
        KNOWN["stsb-dev"].read(paths, scored=True)


@pytest.mark.parametrize(("name", "get"), [("stsb-train", ""), ("sts14", " sts"), ("sickr-all", " sick")])
def test_a_missing_set_says_how_to_get_it(tmp_path, name, get):
    with pytest.raises(InputError, match=f"get it with 'sh download_dataset.sh{get}'"):
        KNOWN[name].find(tmp_path)


def test_the_quickstart_sets_are_whole_graded_and_share_no_pair():
    seen = set()
    for name, least in (("quickstart-train", 600), ("quickstart-dev", 150), ("quickstart-test", 300)):
        scored = name != "quickstart-train"
        pairs = KNOWN[name].read(KNOWN[name].find(Path("unused")), scored=scored)
        assert len(pairs) >= least
        assert all(pair.sentence1 and pair.sentence2 for pair in pairs)
        assert all((pair.score is not None) == scored for pair in pairs)
        sentences = {sentence for pair in pairs for sentence in pair[:2]}
        assert not sentences & seen
        seen |= sentences


@pytest.mark.skipif("TRANSENC_DATASET" not in os.environ, reason="TRANSENC_DATASET names no folder with the real sets")
@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.startswith("quickstart")])
def test_the_real_sets_have_their_published_rows(name):
    KNOWN[name].read(KNOWN[name].find(Path(os.environ["TRANSENC_DATASET"])), scored=True)


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell script")
def test_a_download_that_cannot_be_trusted_leaves_nothing(tmp_path):
    mirror = tmp_path / "mirror" / "stswiki" / "images" / "4" / "48"
    mirror.mkdir(parents=True)
    environment = os.environ | {"BASE_URL": f"file://{tmp_path}/mirror", "DATASET": str(tmp_path / "dataset")}
    for content in (None, b"no archive"):
        if content is not None:
            (mirror / "Stsbenchmark.tar.gz").write_bytes(content)
        done = subprocess.run(["sh", ROOT / "download_dataset.sh"], env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("download_dataset.sh: ")
        assert list((tmp_path / "dataset").iterdir()) == []


@pytest.mark.skipif("TRANSENC_MIRROR" not in os.environ, reason="TRANSENC_MIRROR names no folder with the archives")
def test_the_download_lays_out_the_real_sets_and_does_nothing_the_second_time(tmp_path):
    environment = os.environ | {"BASE_URL": f"file://{os.environ['TRANSENC_MIRROR']}", "DATASET": str(tmp_path)}
    first, second = (
        subprocess.run(["sh", ROOT / "download_dataset.sh", "all"], env=environment, capture_output=True, text=True)
        for _ in range(2)
    )
    assert (first.returncode, second.returncode) == (0, 0)
    assert {line.split()[0] for line in second.stdout.splitlines()} == {"have"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SICK", "STS", "stsbenchmark"]
