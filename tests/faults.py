"""Disturb runs of the real command in every way a night can, and hold what comes of it against an undisturbed run.

    python tests/faults.py kill --times 100     SIGKILL at random moments, until a run comes through
    python tests/faults.py interrupt            SIGINT and SIGTERM likewise
    python tests/faults.py full-disk            a disk of random size, then room (needs the right to mount)
    python tests/faults.py read-only            a folder that may not be written to, then may (likewise)
    python tests/faults.py damage               a file of a finished artifact cut, changed, emptied, removed
    python tests/faults.py checkpoint           the same to what an interrupted training goes on from
    python tests/faults.py together             two runs at once on one artifact folder
    python tests/faults.py one-folder           two runs at once in one run folder
    python tests/faults.py clock                a clock that jumps by years, forwards and backwards
    python tests/faults.py two-users            one store for two users of one group, umask 002 and 022 (needs root)
    python tests/faults.py all --times 20       each of them
    python tests/faults.py soak --minutes 30    two sweeps at once, killed at random, again and again: what leaks?

After a fault, and the same command again where it stopped the run, results.csv, labels, models and every artifact must
be byte for byte those of the undisturbed run; what stopped by itself must have reported it in one line. Exit status 1
if not. Runs are of one thread each, on a tiny random model: two iterations, some 400 training steps.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import Bench, Place, Wrong, check_one_line, ended

# Each fault disturbs one run and counts how often; what it calls raises `Wrong`.


def signals(bench: Bench, rng: random.Random, *kinds: signal.Signals) -> Counter:
    """Signals at random moments, each followed by the same command, until a run comes through."""
    place, counts = bench.place(), Counter()
    while True:
        process, kind = place.start(), rng.choice(kinds)
        # Before that not even Python may have started, which tests nothing.
        moment = rng.uniform(3, bench.seconds)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(kind)
        status, output = ended(process)
        if status == 0 or (status == -kind and "in all" in output):  # done, and hit while Python was packing up
            place.compare()
            return counts
        counts[f"{kind.name} in the middle of a training" if list(place.artifacts.glob(".train-*")) else kind.name] += 1
        if kind is signal.SIGKILL:
            if status != -signal.SIGKILL:
                raise Wrong(f"status {status}\n{output[-2000:]}")
        elif status != 128 + kind or "the same command goes on" not in output or "Traceback" in output:
            raise Wrong(f"{kind.name}: status {status}\n{output[-2000:]}")


def kill(bench: Bench, rng: random.Random) -> Counter:
    return signals(bench, rng, signal.SIGKILL)


def interrupt(bench: Bench, rng: random.Random) -> Counter:
    return signals(bench, rng, signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", *options, folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def full_disk(bench: Bench, rng: random.Random) -> Counter:
    """From too small for the first file to just too small for the last."""
    size = sum(file.stat().st_size for file in bench.undisturbed.rglob("*") if file.is_file())
    place, counts = bench.place(), Counter()
    with mounted(place.folder, "-t", "tmpfs", "-o", f"size={int(rng.uniform(16, size / 1024))}k", "tmpfs"):
        status, output = ended(place.start())
        if status:
            check_one_line(status, output, "No space left on device")
            counts["full"] += 1
        subprocess.run(["mount", "-o", "remount,size=1g", place.folder], check=True)
        place.finish()
    return counts


def read_only(bench: Bench, rng: random.Random) -> Counter:
    """What may not be written to: the artifacts, the run folder, or both; half done before."""
    place = bench.place()
    process = place.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0.4, 1) * bench.seconds)
    process.kill()
    ended(process)
    locked = rng.choice([place.artifacts, place.run, place.folder])
    locked.mkdir(exist_ok=True)
    with mounted(locked, "--bind", str(locked)):
        subprocess.run(["mount", "-o", "remount,bind,ro", locked], check=True)
        status, output = ended(place.start())
        if status or locked != place.artifacts:  # a run that finds all built writes nothing there
            check_one_line(status, output, "Read-only file system")
    place.finish()
    return Counter([f"{locked.relative_to(bench.work)}".rpartition("/")[2].strip("0123456789") or "both"])


def _cut(file: Path, rng: random.Random) -> None:
    os.truncate(file, rng.randrange(max(1, file.stat().st_size)))


def _changed(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def _emptied(file: Path, _: random.Random) -> None:
    os.truncate(file, 0)


def _removed(file: Path, _: random.Random) -> None:
    file.unlink()


DAMAGE = {"cut": _cut, "changed by a bit": _changed, "emptied": _emptied, "removed": _removed}


def damage(bench: Bench, rng: random.Random) -> Counter:
    place = bench.place(copied=True)
    file, how = rng.choice([file for file in place.files() if file.stat().st_size]), rng.choice(list(DAMAGE))
    DAMAGE[how](file, rng)
    place.finish()
    return Counter([how])


def checkpoint(bench: Bench, rng: random.Random) -> Counter:
    while True:
        place = bench.place()
        process = place.start()
        while process.poll() is None and not list(place.artifacts.glob(".train-*/*.checkpoint")):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        process.kill()
        ended(process)
        checkpoints = list(place.artifacts.glob(".train-*/*.checkpoint"))
        if checkpoints:
            break
    how = rng.choice(list(DAMAGE))
    DAMAGE[how](checkpoints[0], rng)
    place.finish()
    return Counter([how])


def together(bench: Bench, rng: random.Random) -> Counter:
    place = bench.place()
    other = Place(bench, place.folder, "other")
    processes = [place.start()]
    time.sleep(rng.uniform(0, 1))
    processes.append(other.start())
    for process in processes:
        status, output = ended(process)
        if status:
            raise Wrong(f"status {status}\n{output[-2000:]}")
    place.compare()
    other.compare()
    return Counter(["pairs of runs"])


def two_users(bench: Bench, rng: random.Random) -> Counter:
    """One store for two users: with umask 002 each goes on where the other was killed, with 022 the second may read."""
    umask = rng.choice([0o002, 0o022])
    for path in (bench.work.parent, bench.work, *bench.work.glob("*.tsv"), *(bench.work / "model").rglob("*")):
        path.chmod(0o755)
    (bench.work / "model").chmod(0o755)
    bench.temporary.chmod(0o1777)
    bench.home.chmod(0o1777)
    place = bench.place()
    other = Place(bench, place.folder, "other")
    users = [{"user": user, "group": 4000, "extra_groups": [], "umask": umask} for user in (4001, 4002)]
    for folder, user in ((place.artifacts, 4001), (place.run, 4001), (other.run, 4002)):
        folder.mkdir()
        os.chown(folder, user, 4000)
        folder.chmod(0o2777 & ~umask)
    first = place.start(process=users[0])
    with contextlib.suppress(subprocess.TimeoutExpired):
        first.wait(rng.uniform(3, 1.5 * bench.seconds))
    first.kill()
    status, output = ended(first)
    if status not in (0, -signal.SIGKILL):
        raise Wrong(f"status {status}\n{output[-2000:]}")
    if umask == 0o022 and status:
        check_one_line(*ended(other.start(process=users[1])), "Permission denied")
        place.finish(**users[0])
    other.finish(**users[1])
    place.finish(**users[0])
    return Counter([f"umask {umask:03o}, {'killed' if status else 'finished'}"])


def one_folder(bench: Bench, rng: random.Random) -> Counter:
    place = bench.place()
    first = place.start()
    while first.poll() is None and not (place.run / "tensorboard").exists():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1))
    first.send_signal(signal.SIGSTOP)  # or it might be done before the second has begun
    second = place.start()
    try:
        check_one_line(*ended(second), "another run writes there")
    finally:
        first.send_signal(signal.SIGCONT)
    status, output = ended(first)
    if status:
        raise Wrong(f"status {status}\n{output[-2000:]}")
    place.compare()
    return Counter(["second run refused"])


JUMPING = """
import random, time
rng, real, real_ns = random.Random({seed}), time.time, time.time_ns
at = [0.0]
def jump():
    if rng.random() < 0.05:
        at[0] = rng.uniform(-10, 10) * 365 * 86400
    return at[0]
time.time = lambda: real() + jump()
time.time_ns = lambda: real_ns() + int(jump() * 1e9)
"""


def clock(bench: Bench, rng: random.Random) -> Counter:
    """Python's clock jumps in the killed run and in the next; files are of any age in between."""
    place = bench.place()
    for moment in (rng.uniform(0.3, 1) * bench.seconds, 600.0):
        site = Path(tempfile.mkdtemp(dir=bench.work))
        (site / "sitecustomize.py").write_text(JUMPING.format(seed=rng.random()))
        process = place.start(PYTHONPATH=str(site))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        status, output = ended(process)
        for file in place.artifacts.rglob("*"):
            os.utime(file, (rng.uniform(0, 2**31),) * 2)
    if status:
        raise Wrong(f"status {status}\n{output[-2000:]}")
    place.finish()
    return Counter(["jumps"])


FAULTS: dict[str, Callable[[Bench, random.Random], Counter]] = {
    "kill": kill, "interrupt": interrupt, "full-disk": full_disk, "read-only": read_only, "damage": damage,
    "checkpoint": checkpoint, "together": together, "one-folder": one_folder, "clock": clock,
    "two-users": two_users,
}  # fmt: skip


def disturb(bench: Bench, fault: str, times: int, seed: int, jobs: int = 1) -> Counter:
    """Until the fault has struck so often; how often it did, by kind.

    Raises:
        Wrong: a run ended otherwise than it must.
    """
    counts, seeds = Counter(), itertools.count(seed)

    def strike(number: int) -> Counter:
        return FAULTS[fault](bench, random.Random(f"{fault}/{number}"))

    with ThreadPoolExecutor(jobs) as pool:
        while counts.total() < times:
            for found in pool.map(strike, itertools.islice(seeds, jobs)):
                counts += found
    return counts


# The soak.


def soak(bench: Bench, minutes: float, seed: int) -> None:
    """Two equal sweeps at once on one artifact folder, killed at random and given again until both are through."""
    until, counts, states = time.monotonic() + 60 * minutes, Counter(), []

    def sweep(place: Place, rng: random.Random) -> None:
        for turn in itertools.count():
            process, began = place.start("-m", "seed=0,1,2,3"), time.monotonic()
            moment = rng.uniform(1, 4 * bench.seconds) if turn < 3 else 600.0
            while process.poll() is None and time.monotonic() - began < moment:
                time.sleep(0.5)
                job = len(list(place.run.glob("[0-9]*/train.log")))
                with contextlib.suppress(OSError, IndexError):
                    states.append((turn, job, *_state(process.pid)))
            process.kill()
            status, output = ended(process)
            counts["kills" if status else "sweeps of four"] += 1
            if status == 0:
                return
            if status != -signal.SIGKILL:
                raise Wrong(f"status {status}\n{output[-2000:]}")

    for turn in itertools.count():
        if time.monotonic() > until:
            break
        folder = bench.place().folder
        lanes = [Place(bench, folder, f"lane-{number}") for number in range(2)]
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(sweep, lane, random.Random(f"{seed}/{turn}/{lane.run}")) for lane in lanes]:
                done.result()
        first, second = (
            [Place(bench, folder, f"{lane.run.name}/{job}").digests() for job in range(4)] for lane in lanes
        )
        if first != second:
            raise Wrong(f"{folder}: two equal sweeps differ")
        differ = [name for name, digest in bench.wanted.items() if first[0].get(name) != digest]
        if differ:
            raise Wrong(f"{folder}: seed 0 differs from an undisturbed run in {', '.join(differ)}")
        used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{time.monotonic() - until + 60 * minutes:5.0f} s: {dict(counts)}, {used >> 10} KiB", flush=True)
        shutil.rmtree(folder)
    for job in range(1, 5):  # of sweeps that nothing disturbed
        of_job = [state[2:] for state in states if state[0] == 3 and state[1] == job]
        if of_job:
            print(f"job {job}: up to {max(s[0] for s in of_job)} MiB, {max(s[1] for s in of_job)} handles")
    left = [path.name for path in bench.temporary.iterdir()]
    running = [path for path in Path("/proc").glob("[0-9]*") if _runs(path, str(bench.work))]
    print(f"left in the temporary folder: {', '.join(left) or 'nothing'}; processes left: {len(running)}")
    if left or running:
        raise Wrong("something leaks")


def _state(pid: int) -> tuple[int, int]:
    """Resident MiB and open handles of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) >> 10, len(os.listdir(f"/proc/{pid}/fd"))


def _runs(process: Path, word: str) -> bool:
    try:
        return "train.py" in (line := (process / "cmdline").read_text()) and word in line
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=(*FAULTS, "all", "soak"))
    parser.add_argument("--times", type=int, default=20, help="how often a fault is to strike")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="runs at once")
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        try:
            # A sweep has seeds with which no cross-encoder learns anything.
            bench = Bench(Path(work) / "bench")
            print(f"undisturbed: {bench.seconds:.1f} s, {len(bench.wanted)} files", flush=True)
            if options.fault == "soak":
                soak(bench, options.minutes, options.seed)
                return 0
            for fault in FAULTS if options.fault == "all" else [options.fault]:
                began = time.monotonic()
                counts = disturb(bench, fault, options.times, options.seed, options.jobs)
                kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
                seconds = time.monotonic() - began
                print(f"{fault:<10} {counts.total():4d} times, all well, {seconds:.0f} s ({kinds})", flush=True)
        except Wrong as wrong:
            print(f"WRONG {wrong}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
