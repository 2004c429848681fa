"""Archives that were downloaded are not trusted: unpacked, they change nothing outside of the data folder."""

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "download_dataset.sh"


def tar(path, *members):
    """Members are (name, bytes) of files, or (name, type, where to) of links and the like."""
    with tarfile.open(path, "w:gz") as archive:
        for name, *content in members:
            info = tarfile.TarInfo(name)
            if len(content) == 1:
                info.size = len(content[0])
                archive.addfile(info, io.BytesIO(content[0]))
            else:
                info.type, info.linkname = content
                archive.addfile(info)


def zipped(path, *members):
    """Members as of `tar`, whose links are all symbolic."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, *content in members:
            info = zipfile.ZipInfo(name)
            if len(content) == 2:
                info.create_system, info.external_attr = 3, 0o120777 << 16  # made on Unix, a symbolic link
            archive.writestr(info, content[-1])


def hostile_archives(outside):
    """Members that would write, link or delete outside of the folder they are unpacked in."""
    link, hard, pipe = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE
    train = "stsbenchmark/sts-train.csv"
    return [
        [(f"{outside}/new", b"x")],
        [("../../../outside/new", b"x")],
        [("stsbenchmark/../../../../outside/new", b"x")],
        [("stsbenchmark", link, str(outside))],  # whatever is deleted in it is deleted outside
        [("stsbenchmark", link, str(outside)), ("stsbenchmark/new", b"x")],
        [("stsbenchmark", link, "../../../outside"), ("stsbenchmark/correlation.pl", b"x")],
        [(train, link, f"{outside}/correlation.pl"), (train, b"x")],
        [(train, hard, f"{outside}/correlation.pl"), (train, b"x")],
        [(train, pipe, "")],
        [(train, link, "sts-train.csv")],
        [(train, b"x"), ("stsbenchmark/sts-dev.csv", b"x"), ("stsbenchmark/sts-test.csv", b"x")],
    ]


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell script")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("number", range(11))
@pytest.mark.parametrize(
    ("task", "file", "pack"),
    [
        ("stsb", "stswiki/images/4/48/Stsbenchmark.tar.gz", tar),
        ("sts", "stswiki/images/4/40/STS2012-en-test.zip", zipped),
        ("sick", "semeval2014/task1/data/uploads/sick_train.zip", zipped),
    ],
)
@pytest.mark.parametrize("intact", [True, False])
def test_an_archive_changes_nothing_outside_and_leaves_nothing_half_written(tmp_path, number, task, file, pack, intact):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "correlation.pl").write_text("as it was")
    archive = tmp_path / "mirror" / file
    archive.parent.mkdir(parents=True)
    pack(archive, *hostile_archives(outside)[number])
    if not intact:
        archive.write_bytes(archive.read_bytes()[:-20])
    environment = os.environ | {"BASE_URL": f"file://{tmp_path}/mirror", "DATASET": str(tmp_path / "dataset")}
    done = subprocess.run(
        ["sh", SCRIPT, task], env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if line.startswith("download_dataset.sh: ")]
    assert ours == done.stderr.splitlines()[-1:]
    assert list((tmp_path / "dataset").iterdir()) == []
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("correlation.pl", "as it was")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "mirror", "outside"]
