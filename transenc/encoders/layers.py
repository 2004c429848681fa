"""The layers of BERT's family on a CPU: what transformers computes, less what costs time and changes nothing.

- What acts on one token alone (products, normalisation, dropout) sees the batch's real tokens, one after another. Only
  attention, which relates the tokens of a sequence, lays them out in padded rows.
- Where only the first token is read, the last layer attends from that one alone, and has one token a sequence behind.
- Query, key and value are one product.
- Dropout masks come from 16 random bits an element and integer arithmetic, not from a random number each.

Axes: B sequences, L tokens in the longest, T real tokens, D width, C columns.
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

STEP = 64  # rows of packed tokens are filled up to a multiple: oneDNN prepares every new shape, and keeps only some
FAMILY = ("bert", "roberta", "xlm-roberta", "electra")  # model types that have these layers, part for part


def speed_up(backbone: Any, first_only: bool) -> None:
    """Let a model of BERT's family run its layers here, and any model make its dropout masks here, on a CPU.

    Parameters, their names, and what is saved stay as they are. On other devices transformers' own layers run.

    Args:
        backbone: a transformers model.
        first_only: whether only the first token's last hidden state is read; it is then the only one that comes out.
    """
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
    if backbone.config.model_type not in FAMILY:
        return
    encoder = backbone.base_model.encoder
    elsewhere = encoder.forward

    def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Any:
        if hidden_states.device.type != "cpu":
            return elsewhere(hidden_states, attention_mask=attention_mask, **more)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_states.dtype
        with torch.autocast("cpu", enabled=False):
            hidden = run(self.layer, hidden_states.to(dtype), attention_mask, first_only)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

    encoder.forward = MethodType(forward, encoder)


def run(layers: nn.ModuleList, embedded: Tensor, mask: Tensor | None, first_only: bool) -> Tensor:
    """Last hidden states.

    Args:
        layers: transformers' own.
        embedded: [B, L, D], in the type to compute in.
        mask: transformers' own, [B, 1, L, L] or [B, 1, 1, L], true or 0 where a token is attended to; None: everywhere.
        first_only: see `speed_up`.

    Returns:
        [B, L, D], zeros for padding; or [B, 1, D], the first tokens'.
    """
    rows = Rows(embedded, mask)
    x = rows.pack(embedded.flatten(0, 1))
    for number, layer in enumerate(layers, 1):
        x = _layer(layer, x, rows, first_only and number == len(layers))
    return x[:, None] if first_only else rows.spread(x).view(embedded.shape)


class Rows:
    """Where the real tokens of a padded batch are: `pack` takes [B * L, C] to [T, C], `spread` brings them back.

    T is rounded up to a multiple of `STEP`; the rows behind the real tokens are zeros that no token attends to.
    """

    def __init__(self, embedded: Tensor, mask: Tensor | None):
        self.size, self.length, _ = embedded.shape
        self.places = self.bias = None
        if mask is not None:
            attended = mask[:, 0, 0] if mask.dtype == torch.bool else mask[:, 0, 0] == 0
            self.places = attended.flatten().nonzero()[:, 0]
            lowest = torch.finfo(embedded.dtype).min
            self.bias = torch.zeros_like(attended, dtype=embedded.dtype).masked_fill_(~attended, lowest)[:, None, None]

    def pack(self, x: Tensor) -> Tensor:
        return x if self.places is None else _Pack.apply(x, self.places)

    def spread(self, x: Tensor) -> Tensor:
        return x if self.places is None else _Spread.apply(x, self.places, self.size * self.length)


def _layer(layer: Any, x: Tensor, rows: Rows, last: bool) -> Tensor:
    """[T, D] to [T, D], or to [B, D] if only the first tokens are wanted."""
    attention, out = layer.attention.self, layer.attention.output
    parts = (attention.query, attention.key, attention.value)
    weight = torch.cat([part.weight.to(x.dtype) for part in parts])
    shift = torch.cat([part.bias.to(x.dtype) for part in parts])

    def heads(columns: Tensor, length: int) -> Tensor:
        """[B * length, n D] to [n, B, heads, length, D / heads]."""
        split = columns.view(rows.size, length, -1, attention.num_attention_heads, attention.attention_head_size)
        return split.permute(2, 0, 3, 1, 4)

    if last:
        width = x.shape[1]
        key, value = heads(rows.spread(F.linear(x, weight[width:], shift[width:])), rows.length)
        x = rows.spread(x).view(rows.size, rows.length, width)[:, 0]
        (query,) = heads(F.linear(x, weight[:width], shift[:width]), 1)
    else:
        query, key, value = heads(rows.spread(F.linear(x, weight, shift)), rows.length)
    if layer.training:
        scores = query @ key.transpose(-1, -2) * attention.scaling
        scores = scores if rows.bias is None else scores + rows.bias
        mixed = drop(scores.softmax(-1), attention.dropout.p) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, rows.bias, scale=attention.scaling)
    mixed = mixed.transpose(1, 2).reshape(-1, x.shape[1])
    x = _norm(out.LayerNorm, x + out.dropout(_linear(out.dense, mixed if last else rows.pack(mixed))))
    inner = layer.intermediate.intermediate_act_fn(_linear(layer.intermediate.dense, x))
    return _norm(layer.output.LayerNorm, x + layer.output.dropout(_linear(layer.output.dense, inner)))


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, module.weight.to(x.dtype), module.bias.to(x.dtype))


def _norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, module.normalized_shape, module.weight.to(x.dtype), module.bias.to(x.dtype), module.eps)


class _Pack(torch.autograd.Function):
    """Indexing, with a backward pass that need not add, since no row is taken twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(x)
        return _fill(x.index_select(0, places))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return grad.new_zeros(ctx.size, grad.shape[1]).index_copy_(0, places, grad[: len(places)]), None


class _Spread(torch.autograd.Function):
    """The way back. Zeros between, not just anything: a masked key's weight is 0, and 0 times NaN is none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return x.new_zeros(size, x.shape[1]).index_copy_(0, places, x[: len(places)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _fill(grad.index_select(0, ctx.saved_tensors[0])), None, None


def _fill(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, -len(x) % STEP))


class Dropout(nn.Dropout):
    """nn.Dropout with `drop` where it is on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.p) if self.training and x.device.type == "cpu" else super().forward(x)


def drop(x: Tensor, p: float) -> Tensor:
    """Dropout: zeros with probability near p, the rest scaled up so that the mean stays.

    The scale 1 / (1 - p) is rounded to bfloat16 and p made to fit it, so 0.1 is 0.0986.
    """
    if p == 0:
        return x
    scale = torch.tensor(1 / (1 - p), dtype=torch.bfloat16)
    cut = round(2**15 * (1 - 1 / float(scale)))
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_().view(torch.int16)[: x.numel()]
    # 15 random bits less the cut: the sign, spread over the word, tells what is dropped; the rest get the scale's bits.
    bits = bits.bitwise_and_(2**15 - 1).sub_(cut).bitwise_right_shift_(15)
    mask = bits.bitwise_not_().bitwise_and_(int(scale.view(torch.int16))).view(torch.bfloat16).view(x.shape)
    return x * mask.to(x.dtype)
