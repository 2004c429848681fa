"""What TensorBoard, MLflow and Weights & Biases get of a run."""

import sys
from pathlib import Path

import pandas
import pytest

from transenc.errors import InputError
from transenc.loop import distill


def test_tensorboard_has_curves_by_stage_also_of_stages_that_were_reused(setting):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def tags(folder):
        events = EventAccumulator(str(Path(folder) / "tensorboard"))
        events.Reload()
        return events.Tags()

    first = tags(setting.run())
    assert {"1/cross/loss", "1/cross/learning_rate", "1/cross/selection", "1/bi/loss"} <= set(first["scalars"])
    assert {"spearman/test/bi", "spearman/test/cross"} <= set(first["scalars"])
    assert set(first["histograms"]) == {"labels/bi", "labels/cross"}
    assert tags(setting.run(name="again")) == first


def test_tensorboard_holds_the_settings_and_what_the_hparams_tab_compares_runs_by(setting):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    distill(setting.config(), setting.root, ["distill.iterations=1", "trainer=cpu", "hydra.run.dir=x"])
    events = EventAccumulator(str(setting.root / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("config/text_summary")
    assert b'"iterations": 1' in text.tensor_proto.string_val[0]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    chosen = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert chosen["distill.iterations"].number_value == 1
    assert chosen["trainer"].string_value == "cpu"
    assert set(chosen) == {"distill.iterations", "trainer", "model.bi", "model.cross", "seed"}
    results = pandas.read_csv(setting.root / "results.csv")
    for kind in ("bi", "cross"):
        (score,) = events.Scalars(f"selected/{kind}/test")
        assert any(abs(results[results.encoder == kind].spearman - score.value) < 1e-6)


def test_mlflow_gets_settings_curves_and_scores(setting, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{setting.root}/mlflow.db")
    setting.run("loggers=[mlflow]")
    client = mlflow.MlflowClient(f"sqlite:///{setting.root}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("transenc").experiment_id])
    assert run.data.params["distill.iterations"] == "1"
    assert {"1/cross/loss", "spearman/test/bi", "labels/bi/mean", "selected/bi/test"} <= set(run.data.metrics)
    assert run.info.status == "FINISHED"


def test_weights_and_biases_gets_the_run_without_a_network(setting, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = setting.run("loggers=[wandb]")
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    for tag in (b"1/cross/loss", b"spearman/test/bi", b"selected/bi/test"):
        assert tag in file.read_bytes()


def test_a_tracker_that_fails_is_warned_of_once_and_ends_no_run(setting, monkeypatch, caplog):
    class Broken:
        def log_metrics(self, values, step):
            raise ConnectionError("no way\nto the server")

    monkeypatch.setattr("transenc.trackers._make_logger", lambda *_: Broken())
    folder = setting.run("loggers=[mlflow]")
    assert [r.message for r in caplog.records if "mlflow" in r.message] == [
        "mlflow: ConnectionError: no way to the server; it gets no more of this run"
    ]
    assert (folder / "run.json").exists()


def test_a_logger_that_is_not_installed_is_one_line_that_says_what_to_install(setting, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("wandb")

    monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger", missing)
    with pytest.raises(InputError, match=r"loggers=\[wandb\]: wandb is not installed; pip install wandb"):
        setting.run("loggers=[wandb]")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["loggers=[wandb]"], "wandb"),
        (["data.limit=2", "data.dev=null"], "too few to hold some out"),
        (["data.limit=2", "data.dev=null", "data.flatten=true"], "too few to hold some out"),
    ],
)
def test_a_logger_or_a_pool_that_is_refused_leaves_an_earlier_run_as_it_was(setting, monkeypatch, settings, says):
    folder = setting.run()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=says):
        setting.run(*settings)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
