"""The two encoders. Read `base` (the training step, the optimiser), then `bi` and `cross`; `inputs` makes the model's
inputs from tokens, and `cpu_layers` runs the backbone fast on a CPU.
"""

from transenc.encoders.base import OptimizerConfig, PairEncoder
from transenc.encoders.bi import BiEncoder
from transenc.encoders.cross import CrossEncoder

__all__ = ["BiEncoder", "CrossEncoder", "OptimizerConfig", "PairEncoder"]
