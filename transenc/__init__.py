"""Trans-Encoder: better bi- and cross-encoders from unlabelled sentence pairs.

    import transenc
    run = transenc.distill("model=minilm", pairs="pairs.csv")    # as python train.py, see transenc.api.distill

The words, used everywhere:

- pair: two sentences. score: their similarity, 1 for the same meaning. A cross-encoder's is the sigmoid of its logit,
  in (0, 1); a bi-encoder's is its cosine, in [-1, 1], which labels and `transenc.score` clamp to [0, 1].
- teacher, student: roles, never types. stage: a pure step, (configuration, artifacts) -> artifact.
- pool: the unlabelled pairs. label: a teacher's score for a pair of the pool.
- iteration: the bi-encoder labels for the cross-encoder, then the cross-encoder for the bi-encoder. Iteration 0 is the
  initial bi-encoder.
- member: one encoder of an ensemble, and what it becomes in each iteration. Self-distillation has one member, mutual
  distillation several.
- checkpoint: what an interrupted training resumes from.
- recipe: a file in conf/experiment/, a small delta over the defaults.

The code, in reading order: `loop` (the method, on one screen), `stages` (what each step of it does), `artifacts` (how
the result of a stage is kept and found again), `encoders`, `training` (one student on one teacher's labels), `data`,
`selection`, `run_writer` (what a run writes), `report` (its page), `cli`.
"""

import os
import sys
from typing import Any

# Before the first product on a GPU: torch reads it there, and needs it to give the same bits again.
if "torch" not in sys.modules or not sys.modules["torch"].cuda.is_initialized():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

__all__ = ["distill"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'transenc' has no attribute {name!r}")
    from transenc import api  # here, so that `python train.py --help` need not load torch

    return getattr(api, name)
