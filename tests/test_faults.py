"""The faults of `faults.py`, few times each: a disturbed run ends in the bytes of an undisturbed one."""

import subprocess

import faults
import pytest


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    return faults.Bench(tmp_path_factory.mktemp("faults") / "bench")


@pytest.fixture(scope="session")
def mounts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("may not mount, and a full or read-only disk is one that is mounted so")
    subprocess.run(["umount", folder], check=True)


# "interrupt" is left to test_cli.py, which sends the same signals.
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "damage", "checkpoint", "together", "one-folder", "clock"])
def test_a_disturbed_run_ends_in_the_bytes_of_an_undisturbed_one(bench, fault):
    assert faults.disturb(bench, fault, times=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full-disk", "read-only"])
def test_a_full_or_read_only_disk_is_reported_in_one_line_and_loses_nothing(bench, mounts, fault):
    assert faults.disturb(bench, fault, times=1, seed=0)


@pytest.mark.slow
def test_the_harness_sees_a_byte_that_differs(bench):
    place = bench.place(copied=True)
    file = next(file for file in place.files() if file.name == "labels.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(faults.Wrong, match=r"differs from an undisturbed run in label-\w+/labels.npy"):
        place.compare()
