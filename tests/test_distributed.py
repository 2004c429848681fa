"""Several processes as one run: the same labels and results as one process gives; none goes on without the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import MODELS, PAIRS
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop as TrainingEpochLoop

from transenc import distributed
from transenc.data.module import PairDataModule
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder, OptimizerConfig
from transenc.errors import InputError
from transenc.run_writer import RunWriter
from transenc.sweep import take_gpu

ROOT = Path(__file__).parents[1]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
QUIET = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # two processes on two cores


@pytest.fixture(scope="module")
def model(bert, tmp_path_factory):
    """Without dropout, of which each rank would draw its own."""
    folder = tmp_path_factory.mktemp("still") / "model"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def settings(files, model, root, *more):
    return [
        "train.py", "data=pairs", f"data.path={files}/pool.tsv", f"data.dev={files}/dev.tsv",
        f"data.test=[{files}/test.tsv]", f"model.bi={model}", f"model.cross={model}", "trainer.precision=32-true",
        "distill=paper", "distill.iterations=1",
        "distill.bi.batch_size=16", "distill.cross.batch_size=16", "distill.cross.epochs=2",
        "distill.cross.eval_steps=3", f"paths.artifacts={root}/artifacts", f"hydra.run.dir={root}/run", *more,
    ]  # fmt: skip


def python(*arguments, env=QUIET):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("folds", [1, 2], ids=["plain", "cross-fitting and late interaction"])
def test_two_processes_give_the_labels_and_results_of_one(files, model, tmp_path, folds):
    method = [f"distill.folds={folds}", f"distill.late_interaction={folds > 1}"]
    single = tmp_path / "one" / "run"
    done = python(*settings(files, model, single.parent, *method))
    assert done.returncode == 0, done.stderr
    done = python(*TWO, *settings(files, model, tmp_path, *method))
    assert done.returncode == 0, done.stderr
    for name in ("1-bi", "1-cross"):
        expected, found = (pandas.read_csv(run / "labels" / f"{name}.csv") for run in (single, tmp_path / "run"))
        np.testing.assert_allclose(found.label, expected.label, atol=1e-4)
    expected, found = (pandas.read_csv(run / "results.csv") for run in (single, tmp_path / "run"))
    assert list(found.task) == list(expected.task)
    np.testing.assert_allclose(found.spearman, expected.spearman, atol=5e-3)  # some of 30 pairs may change places
    curves = [pandas.read_csv(run / "curves.csv") for run in (single, tmp_path / "run")]
    np.testing.assert_allclose(curves[1].loss, curves[0].loss, atol=1e-4)  # NaN where there is none, in both
    trained = ["1/cross train"] if folds == 1 else ["1/cross/fold-0 train", "1/cross/fold-1 train"]
    assert all(done.stdout.count(title) == 1 for title in trained)  # each stage once, logged by one process
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_when_one_process_is_killed_all_end_and_the_same_command_ends_in_the_same_bytes(files, model, tmp_path):
    longer = "distill.cross.epochs=100", "distill.retries=0"
    command = settings(files, model, tmp_path, *longer)
    started = subprocess.Popen(
        [sys.executable, *TWO, *command], cwd=ROOT, env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    checkpoints = tmp_path / "artifacts"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob(".train-*/*.checkpoint")):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    helper = next(pid for pid in children if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(int(helper), signal.SIGKILL)
    out, err = started.communicate(timeout=120)
    assert started.returncode != 0
    assert "the same command goes on from the last stage or checkpoint" in out + err, (out, err)
    assert (out + err).count("Traceback (most recent") == 1  # torchrun's own
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    again = python(*TWO, *command)
    assert again.returncode == 0, again.stderr[:3000]
    assert "resumed at step" in again.stdout
    undisturbed = python(*TWO, *settings(files, model, tmp_path / "undisturbed", *longer))
    assert undisturbed.returncode == 0, undisturbed.stderr[:3000]
    for name in ("results.csv", "curves.csv", *(f"models/{kind}/model.safetensors" for kind in MODELS)):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / "run" / name).read_bytes(), name


@pytest.mark.slow
def test_a_sweep_in_several_processes_is_refused_in_one_line(files, model, tmp_path):
    done = python(*TWO, *settings(files, model, tmp_path, "--multirun"))
    assert done.returncode != 0
    refusal = "--multirun: the jobs of a sweep run in one process each"
    assert (done.stdout + done.stderr).count(refusal) == 1
    assert not list(tmp_path.glob("artifacts/train-*"))


def test_the_parts_of_a_batch_are_the_batch_and_their_weighted_mean_is_its_loss(bert):
    encoder = BiEncoder.load(bert)
    sentences, numbers = number_sentences(PAIRS)
    pairs, labels = tokenise(sentences, numbers, encoder.tokenizer), np.linspace(0, 1, len(PAIRS), dtype=np.float32)

    def batches(part):
        datamodule = PairDataModule(pairs, labels, encoder.collate, batch_size=3, both_orders=True, seed=0, shard=part)
        return list(datamodule.train_dataloader())

    for full, first, second in zip(batches((0, 1)), batches((0, 2)), batches((1, 2)), strict=True):
        assert full["weight"] == 1
        weights = [first["weight"], second["weight"]]
        joined = [*first["labels"].tolist(), *(second["labels"].tolist() if weights[1] else [])]
        assert sorted(joined) == sorted(full["labels"].tolist())
        means = [float(batch["labels"].mean()) for batch in (first, second)]
        assert np.average(means, weights=weights) == pytest.approx(float(full["labels"].mean()))
        assert np.mean(weights) == 1


def test_a_part_counts_by_its_weight(bert):
    encoder = BiEncoder.load(bert)
    encoder.optimizer_config = OptimizerConfig("mse", 1e-3, 0.0, 0.0)
    sentences, numbers = number_sentences(PAIRS)
    pairs, labels = tokenise(sentences, numbers, encoder.tokenizer), np.linspace(0, 1, len(PAIRS), dtype=np.float32)
    (batch,) = PairDataModule(
        pairs, labels, encoder.collate, batch_size=len(PAIRS), both_orders=False, seed=0
    ).train_dataloader()
    full = encoder.training_step(batch, 0).item()
    assert encoder.training_step(batch | {"weight": 0.5}, 0).item() == pytest.approx(full / 2)


def test_lightning_still_broadcasts_at_each_step_what_training_keeps_it_from():
    assert callable(TrainingEpochLoop._broadcast_sigterm_tensor)


def test_a_rank_without_a_pair_in_a_batch_gets_one_that_weighs_nothing(bert):
    encoder = BiEncoder.load(bert)
    sentences, numbers = number_sentences(PAIRS)
    pairs, labels = tokenise(sentences, numbers, encoder.tokenizer), np.zeros(len(PAIRS), dtype=np.float32)
    datamodule = PairDataModule(pairs, labels, encoder.collate, batch_size=6, both_orders=False, seed=0, shard=(1, 2))
    weights = [batch["weight"] for batch in datamodule.train_dataloader()]
    assert weights == [1, 0]


@pytest.mark.parametrize(
    ("size", "here", "says"),
    [
        (2, 2, "2 processes on this machine see 1 GPUs; start one for each"),
        (3, 2, "3 processes, 2 of them here: every"),
    ],
)
def test_processes_that_cannot_have_a_gpu_each_are_refused(size, here, says, monkeypatch):
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", here)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1 if size == here else 0)
    with pytest.raises(InputError, match=says), distributed.group():
        pass


def test_a_rank_without_what_torchrun_sets_beside_it_is_one_line(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(InputError, match="but not WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; "),
        distributed.group(),
    ):
        pass


def test_jobs_of_a_sweep_take_turns_on_the_gpus_there_are_and_keep_to_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    take_gpu(4)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    take_gpu(5)  # the same process, its next job
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    take_gpu(1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_alone_every_exchange_gives_back_what_it_gets():
    assert (distributed.rank(), distributed.size()) == (0, 1)
    assert distributed.broadcast("x") == "x"
    assert distributed.gather("x") == ["x"]
    assert distributed.shard(3).tolist() == [0, 1, 2]
    assert distributed.gather_shards(np.arange(3), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("ranks", "local", "launcher"),
    [(1, None, "python"), (2, "2", "torchrun --nproc-per-node 2"), (16, "8", "torchrun --nnodes 2 --nproc-per-node 8")],
)
def test_a_run_records_the_command_of_one_machine_however_many_it_ran_on(
    setting, tmp_path, monkeypatch, ranks, local, launcher
):
    monkeypatch.setattr(distributed, "size", lambda: ranks)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert RunWriter(setting.config(), tmp_path, ["seed=1"])._command() == f"{launcher} train.py seed=1"
