"""The layers of BERT's family on a CPU: what transformers computes, less what costs time and changes nothing.

- What acts on one token alone (products, normalisation, dropout) sees the batch's real tokens, one after another. Only
  attention, which relates the tokens of a sequence, lays them out in padded rows.
- Where only the first token is read, the last layer attends from that one alone, and has one token a sequence behind.
- Query, key and value are one product.
- Dropout masks come from 16 random bits an element and integer arithmetic, not from a random number each.

Under autocast the linear layers and what lies between two of them are in bf16. The residual stream, normalisation and
attention stay in fp32, as transformers has them; in bf16 they would be no faster on a CPU.

Axes: B sequences, L tokens in the longest, T real tokens, D width, H heads, C columns.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

STEP = 64  # rows of packed tokens are filled up to a multiple: oneDNN prepares every new shape, and keeps only some
FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "electra")  # model types that have these layers, part for part


def speed_up(backbone: Any, first_only: bool, on: bool = True) -> None:
    """Let a model of BERT's family run its layers here, and any model make its dropout masks here, on a CPU.

    Parameters, their names, and what is saved stay as they are. On other devices, and with LoRA adapters, transformers'
    own layers run.

    Args:
        backbone: a transformers model.
        first_only: whether only the first token's last hidden state is read; it is then the only one that comes out.
        on: False takes it back.
    """
    before, after = (nn.Dropout, Dropout) if on else (Dropout, nn.Dropout)
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if type(child) is before:
                setattr(module, name, after(child.p).train(child.training))
    config = getattr(backbone, "config", None)  # a static embedding has none
    if config is None or config.model_type not in FAMILY or config.is_decoder or getattr(config, "is_causal", None):
        return
    encoder = backbone.base_model.encoder
    plain = getattr(encoder, "plain", type(encoder))
    encoder.first_only = first_only
    # The layers here read their own weights, not what an adapter adds to them.
    encoder.__class__ = _fast(plain) if on and not _adapted(encoder) else plain


@cache
def _fast(plain: type[nn.Module]) -> type[nn.Module]:
    """A subclass of one of transformers' encoders, whose layers run here on a CPU.

    It replaces the class of an encoder. A `forward` set on the encoder itself would be a reference cycle, which keeps
    the weights in memory until a full garbage collection.
    """

    def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Any:
        if hidden_states.device.type != "cpu":
            return plain.forward(self, hidden_states, attention_mask=attention_mask, **more)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_states.dtype
        with torch.autocast("cpu", enabled=False):
            hidden = run(self.layer, hidden_states, attention_mask, self.first_only, dtype)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

    return type(plain.__name__, (plain,), {"forward": forward, "plain": plain})


def _adapted(encoder: nn.Module) -> bool:
    """Whether a layer of peft's stands in the place of one of its linear layers."""
    return any(name.rpartition(".")[2] == "base_layer" for name, _ in encoder.named_modules())


def run(layers: nn.ModuleList, embedded: Tensor, mask: Tensor | None, first_only: bool, dtype: torch.dtype) -> Tensor:
    """Last hidden states.

    Args:
        layers: transformers' own.
        embedded: [B, L, D] float32.
        mask: transformers' own, [B, 1, L, L] or [B, 1, 1, L], true or 0 where a token is attended to; None: everywhere.
        first_only: see `speed_up`.
        dtype: of the linear layers.

    Returns:
        [B, L, D] float32, anything finite for padding; or [B, 1, D], the first tokens'.
    """
    rows = Rows(embedded, mask)
    x = _Pack.apply(embedded.flatten(0, 1), rows)
    for number, layer in enumerate(layers, 1):
        x = _layer(layer, x, rows, first_only and number == len(layers), dtype)
    return x[:, None] if first_only else _Spread.apply(x, rows).view(embedded.shape)


class Rows:
    """Where the T real tokens of a padded batch are.

    T is rounded up to a multiple of `STEP`. What stands in the rows behind the real tokens is read by nobody and has no
    gradient.

    Attributes:
        places: [real tokens] int64, their positions among the B * L.
        packed: [B * L] int64, the packed row of each position; for padding, of a real token before it: what a masked
            token holds does not matter, as long as it is finite.
        bias: [B, 1, 1, L] added to attention's scores, or None where nothing is padding.
    """

    def __init__(self, embedded: Tensor, mask: Tensor | None):
        self.size, self.length, _ = embedded.shape
        if mask is None:
            attended, self.bias = torch.ones(self.size, self.length, dtype=torch.bool), None
        else:
            attended = mask[:, 0, 0] if mask.dtype == torch.bool else mask[:, 0, 0] == 0
            lowest = torch.finfo(embedded.dtype).min
            self.bias = torch.zeros(attended.shape).masked_fill_(~attended, lowest)[:, None, None]
        self.places = attended.flatten().nonzero()[:, 0]
        self.packed = attended.flatten().cumsum(0) - 1

    def pack(self, x: Tensor) -> Tensor:
        """[B * L, C] to [T, C]."""
        return F.pad(x.index_select(0, self.places), (0, 0, 0, -len(self.places) % STEP))

    def spread(self, x: Tensor) -> Tensor:
        """[T, C] to [B * L, C], what is not real being something finite."""
        return x.index_select(0, self.packed)

    def spread_gradient(self, x: Tensor) -> Tensor:
        """[T, C] to [B * L, C], what is not real being 0."""
        return x.new_zeros(len(self.packed), x.shape[1]).index_copy_(0, self.places, x[: len(self.places)])


class _Pack(torch.autograd.Function):
    """`Rows.pack`. Autograd's own index_select would add up gradients, though no row is taken twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return rows.pack(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.rows.spread_gradient(grad), None


class _Spread(torch.autograd.Function):
    """`Rows.spread`, for readers that leave padding alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return rows.spread(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.rows.pack(grad), None


def _layer(layer: Any, x: Tensor, rows: Rows, last: bool, dtype: torch.dtype) -> Tensor:
    """[T, D] to [T, D], or to [B, D] if only the first tokens are wanted."""
    attention, out = layer.attention.self, layer.attention.output
    parts = (attention.query, attention.key, attention.value)
    weight = torch.cat([part.weight.to(dtype) for part in parts])
    shift = torch.cat([part.bias.to(dtype) for part in parts])
    narrow, width, query = x.to(dtype), x.shape[1], None
    if last:
        first = rows.packed.view(rows.size, rows.length)[:, 0]
        x = x.index_select(0, first)
        query = F.linear(x.to(dtype), weight[:width], shift[:width])
        weight, shift = weight[width:], shift[width:]
    p = attention.dropout.p if layer.training else 0.0
    columns = F.linear(narrow, weight, shift)
    mixed = _Attention.apply(columns, query, rows, attention.num_attention_heads, attention.scaling, p)
    x = _norm(out.LayerNorm, x + out.dropout(_linear(out.dense, mixed)))
    inner = layer.intermediate.intermediate_act_fn(_linear(layer.intermediate.dense, x.to(dtype)))
    return _norm(layer.output.LayerNorm, x + layer.output.dropout(_linear(layer.output.dense, inner)))


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, module.weight.to(x.dtype), module.bias.to(x.dtype))


def _norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)


class _Attention(torch.autograd.Function):
    """Softmax attention with dropout, in fp32; its gradient by hand, which spares a third of autograd's passes.

    Args of `apply`:
        columns: [T, 3 D], query, key and value of each token; or [T, 2 D], key and value.
        query: [B, D] of the first tokens, or None where it is in `columns`.
        rows, heads, scale, p: the batch, H, what scores are multiplied by, and the share of weights dropped.

    Returns:
        [T, D], or [B, D] for the first tokens.
    """

    @staticmethod
    def forward(
        ctx: Any, columns: Tensor, query: Tensor | None, rows: Rows, heads: int, scale: float, p: float
    ) -> Tensor:
        ctx.rows, ctx.scale, ctx.dtype, ctx.first = rows, scale, columns.dtype, query is not None
        parts = _split(rows.spread(columns), rows.size, heads, 3 if query is None else 2)
        q = parts[0] if query is None else _split(query, rows.size, heads, 1)[0]
        k, v = parts[-2:]
        if any(ctx.needs_input_grad):
            q = q * scale
            scores = q @ k.mT
            weights = (scores if rows.bias is None else scores.add_(rows.bias)).softmax(-1)
            dropped = weights * dropout_mask(weights.shape, p)
            mixed = dropped @ v
            ctx.save_for_backward(q, k, v, weights, dropped)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, rows.bias, dropout_p=p, scale=scale)
        merged = _merge(mixed[None], columns.dtype)
        return merged if ctx.first else rows.pack(merged)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, dropped = ctx.saved_tensors
        rows = ctx.rows
        (grad,) = _split(grad if ctx.first else rows.spread_gradient(grad), rows.size, k.shape[1], 1)
        parts = k.new_empty(2 if ctx.first else 3, *k.shape)
        torch.matmul(dropped.mT, grad, out=parts[-1])
        inner = (grad @ v.mT).mul_(dropped)
        inner.addcmul_(weights, inner.sum(-1, keepdim=True), value=-1)  # what softmax makes of it
        torch.matmul(inner.mT, q, out=parts[-2])
        query = (inner @ k).mul_(ctx.scale)
        if not ctx.first:
            parts[0] = query
        columns = rows.pack(_merge(parts, ctx.dtype))
        return columns, _merge(query[None], ctx.dtype) if ctx.first else None, None, None, None, None


def _split(columns: Tensor, size: int, heads: int, parts: int) -> Tensor:
    """[B * L, parts * D] to [parts, B, H, L, D / H] float32."""
    split = columns.view(size, len(columns) // size, parts, heads, -1).permute(2, 0, 3, 1, 4)
    return split.to(torch.float32, memory_format=torch.contiguous_format).contiguous()  # in one pass


def _merge(split: Tensor, dtype: torch.dtype) -> Tensor:
    """[parts, B, H, L, D / H] to [B * L, parts * D]."""
    parts, size, heads, length, width = split.shape
    merged = torch.empty(size, length, parts, heads, width, dtype=dtype)
    for number, part in enumerate(split):  # one by one: all of them at once take three times as long
        merged[:, :, number] = part.transpose(1, 2)
    return merged.view(size * length, -1)


class Dropout(nn.Dropout):
    """nn.Dropout with `dropout_mask` where it is on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        return x * dropout_mask(x.shape, self.p).to(x.dtype)


def dropout_mask(shape: torch.Size, p: float) -> Tensor:
    """bfloat16 zeros with probability near p, else what keeps the mean.

    That is 1 / (1 - p) rounded to bfloat16, and p is made to fit it: 0.1 is 0.0986.
    """
    count = shape.numel()
    scale = torch.tensor(1 / (1 - p), dtype=torch.bfloat16)
    cut = round(2**15 * (1 - 1 / float(scale)))
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_().view(torch.int16)[:count]
    # 15 random bits less the cut: the sign, spread over the word, tells what is dropped; the rest get the scale's bits.
    bits = bits.bitwise_and_(2**15 - 1).sub_(cut).bitwise_right_shift_(15)
    return bits.bitwise_not_().bitwise_and_(int(scale.view(torch.int16))).view(torch.bfloat16).view(shape)
