"""A run takes from the store what it would have built: the key of a stage holds all that its result depends on."""

import pytest

from transenc.artifacts import file_digest

BASE = [
    "distill.teachers=both", "distill.average=z", "distill.select=agreement", "distill.holdout=0.3",
    "distill.interpolate=0.5", "distill.failure=ignore", "distill.retries=0", "data.limit=36",
]  # fmt: skip
CHANGES = [
    "seed=1", "data.seed=1", "data.limit=24", "data.ordered=true", "data.clean.identical=false", "model.pooling=mean",
    "model.bi_layers=1", "model.bi_max_tokens=6", "model.bi_prompt='the '", "model.cross_layers=1",
    "model.cross_max_tokens=10", "distill.iterations=2", "distill.select=last", "distill.select=dev",
    "distill.holdout=0.4", "distill.folds=2", "distill.teachers=other", "distill.average=mean",
    "distill.late_interaction=true", "distill.symmetric=true", "distill.centre=starts",
    "distill.centre=students & distill.select=last",
    "distill.select=last & distill.interpolate=1", "distill.cross.both_orders=false", "distill.cross.loss=mse",
    "distill.cross.init_bias=true", "distill.cross.min_steps=20 & distill.cross.crops_below=1000",
    "distill.cross.lora_rank=2", "distill.bi.loss=cosent", "distill.bi.epochs=1", "distill.bi.batch_size=8",
    "distill.bi.learning_rate=1e-3", "distill.bi.warmup=0.5", "distill.bi.clip=0.01", "distill.bi.weight_decay=0.5",
    "trainer.precision=bf16-mixed", "trainer.cpu_layers=false",
]  # fmt: skip


def content(folder):
    kinds = (
        "results.csv",
        "curves.csv",
        "labels/*.csv",
        "predictions/*.csv",
        "models/*/*.safetensors",
        "models/*/*.json",
    )
    paths = [path for kind in kinds for path in folder.glob(kind)]
    return {str(path.relative_to(folder)): file_digest(path) for path in paths}


@pytest.mark.slow
def test_a_run_on_a_store_full_of_others_that_differ_in_one_setting_leaves_what_it_leaves_on_an_empty_one(setting):
    base = content(setting.run(*BASE, f"paths.artifacts={setting.root}/shared", name="base"))
    for number, change in enumerate(CHANGES):
        stores = {"shared": setting.root / "shared", "empty": setting.root / f"empty-{number}"}
        shared, empty = (
            content(setting.run(*BASE, *change.split(" & "), f"paths.artifacts={store}", name=f"on-{name}"))
            for name, store in stores.items()
        )
        assert shared == empty, change
        assert shared != base, change
