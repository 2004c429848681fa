"""Training only the rows of the word-embedding table that the training pairs use.

A table of 30,522 rows is more than half of MiniLM's parameters, and the pairs of STS-B use a third of it. The other
rows get no gradient, yet a dense gradient is cleared, clipped and stepped over for all of them in every step. Held
apart, the used rows learn just as before, and the others keep their value (AdamW would only shrink them by its weight
decay).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
