"""Training only the rows of the word-embedding table that the training pairs use.

A table of 30,522 rows is more than half of MiniLM's parameters, and the pairs of STS-B use a third of it. The other
rows get no gradient, yet a dense gradient is cleared, clipped and stepped over for all of them in every step. Held
apart, the used rows learn just as before, and the others keep their value (AdamW would only shrink them by its weight
decay).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transenc.data.tokens import TokenisedPairs


class UsedRows(nn.Module):
    """Stands in for an embedding of V rows of width D, of which U are trained.

    Args:
        table: the embedding. `whole`, its weights, is brought up to date in eval mode; it is a copy once this module
            has moved to another device.
        used: [U] row numbers; in training mode no other row may be looked up.
    """

    def __init__(self, table: nn.Embedding, used: np.ndarray):
        super().__init__()
        self.rows = nn.Parameter(table.weight.detach()[torch.from_numpy(used)].clone())
        places = torch.full((table.num_embeddings,), -1)
        places[torch.from_numpy(used)] = torch.arange(len(used))
        self.register_buffer("used", torch.from_numpy(used), persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("whole", table.weight.detach(), persistent=False)
        # The padding row has no gradient in the table either.
        padding = -1 if table.padding_idx is None else int(places[table.padding_idx])
        self.padding = None if padding < 0 else padding

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L] row numbers to [B, L, D]."""
        if not self.training:
            return F.embedding(ids, self.whole)
        return F.embedding(self.places[ids], self.rows, padding_idx=self.padding)

    def train(self, mode: bool = True) -> "UsedRows":
        if not mode:
            self.update()
        return super().train(mode)

    @torch.no_grad()
    def update(self) -> None:
        """Write the trained rows into the table."""
        self.whole[self.used] = self.rows


@contextmanager
def train_used_rows(encoder: Any, pairs: TokenisedPairs) -> Iterator[None]:
    """Train only the word embeddings of a `PairEncoder` that `pairs` and the special tokens use; batches may hold no
    others.
    """
    backbone, inputs = encoder.backbone, encoder.inputs
    table = backbone.get_input_embeddings()
    if type(table) is not nn.Embedding or not table.weight.requires_grad:  # Gemma's scales what it looks up
        yield
        return
    used = np.zeros(table.num_embeddings, dtype=bool)
    used[inputs.added] = True
    if inputs.segments and not any("token_type" in name for name, _ in backbone.named_modules()):
        used[:2] = True  # XLM's segments are words
    for ids in np.array_split(pairs.ids, 1 + len(pairs.ids) // 2**20):  # memory-mapped: a part at a time
        used[ids] = True
    rows = UsedRows(table, np.flatnonzero(used))
    backbone.set_input_embeddings(rows)
    try:
        yield
    finally:
        rows.update()
        table.weight.data.copy_(rows.whole)  # a copy of its own where training was on another device
        backbone.set_input_embeddings(table)
