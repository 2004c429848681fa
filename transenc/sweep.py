"""A sweep, Hydra's multirun: how its jobs share the machine, and the table that it ends with."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback

COMPARISON = "comparison.html"


def begin_job(number: int) -> None:
    """What a job's process does before its run."""
    take_gpu(number)
    if multiprocessing.current_process().name.startswith("LokyProcess"):  # joblib's
        end_with_parent()


def take_gpu(job: int) -> None:
    """Let a sweep's job see one GPU of several, by its number. A process keeps the one it has seen for its next job."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[job % len(gpus)]


def end_with_parent() -> None:
    """End this process when its parent ends, even if that is killed: joblib's workers would go on by themselves."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class Sweep(Callback):
    """Ends a multirun with one table, whatever became of its jobs."""

    folder: ClassVar[Path | None] = None
    earlier: ClassVar[dict[Path, int]] = {}  # jobs of earlier sweeps in this folder, by when Hydra wrote their settings

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir)
        Sweep.earlier = Sweep.written()
        (Sweep.folder / COMPARISON).unlink(missing_ok=True)

    @classmethod
    def written(cls) -> dict[Path, int]:
        assert cls.folder is not None
        return {path.parents[1]: path.stat().st_mtime_ns for path in cls.folder.rglob(".hydra/overrides.yaml")}

    @staticmethod
    def finished(job: Path) -> bool:
        """Whether the job has ended. A run.json that is older than its settings is of an earlier run."""
        record = job / "run.json"
        return record.exists() and record.stat().st_mtime_ns >= (job / ".hydra/overrides.yaml").stat().st_mtime_ns

    @classmethod
    def report(cls) -> None:
        if cls.folder is None:
            return
        own = [job for job, when in cls.written().items() if cls.earlier.get(job) != when]
        jobs = sorted(own, key=lambda path: path.name.zfill(9))
        finished = [job for job in jobs if cls.finished(job)]
        if not finished:
            return
        from transenc.report.comparison import sweep_table
        from transenc.report.page import write_report

        print(f"\n{sweep_table(jobs, finished)}")
        print("(x100: the selected encoders, averaged over the test sets; their selection scores if there are none)")
        if len(jobs) > 1:
            failed = [job.name for job in jobs if job not in finished]
            write_report(finished, cls.folder / COMPARISON, failed)
            print(cls.folder / COMPARISON)
