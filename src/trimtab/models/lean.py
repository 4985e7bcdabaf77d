"""The blocks of Llama's kind with fewer and larger operations than the family's own forward, for training an edit.

A step of a fit is many small operations: of its time on a CPU, the family's own code spends less than half in matrix
products. Here a norm, a rotation, a gated activation and the projections that share an input are one operation each,
with a gradient of their own that knows that weights are frozen; and in the last block queries, projection and MLP are
made for scored tokens only.

This is a second way to compute what a family's code says, so it is never trusted: `trimtab.models.upper` tries it on
the longest sequences of every fit against the family's own forward, and leaves it alone where the two differ by more
than rounding. What looks like it (`lean_blocks`) is tried: norm, attention with rotary positions, norm, gated MLP.

Letters: b batch, s tokens of a row, p tokens of the shared prefix, d hidden, h query heads, g key-value heads,
q queries a row, e head size, n scored tokens, t tokens of a batch that are no pads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers import DynamicCache

from trimtab.models.layout import CheckedLayout

Editor = Callable[[Tensor], Tensor]
"""(b, s, d) -> (b, s, d), differentiable: an edit at a block's output."""

PARTS = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
OPTIONAL = frozenset({"q_norm", "k_norm"})


@dataclass(frozen=True, eq=False)
class LeanBlock:
    """What is needed of one block: its modules, and what its attention multiplies scores by."""

    before: nn.Module
    attention: nn.Module
    after: nn.Module
    mlp: nn.Module
    eps: tuple[float, float]
    scaling: float
    head: int


def lean_blocks(layout: CheckedLayout, first: int) -> list[LeanBlock] | None:
    """The blocks from `first` on, or None if one of them is of another kind."""
    if layout.norm is None or not isinstance(getattr(layout.stack, "rotary_emb", None), nn.Module):
        return None
    found = [_lean_block(block) for block in layout.blocks[first:]]
    return None if any(block is None for block in found) else [block for block in found if block is not None]


def _lean_block(block: nn.Module) -> LeanBlock | None:
    children = dict(block.named_children())
    if set(children) != PARTS:
        return None
    attention, mlp = children["self_attn"], children["mlp"]
    inside = dict(attention.named_children())
    if not {*PROJECTIONS} <= set(inside) <= {*PROJECTIONS} | OPTIONAL or not hasattr(mlp, "act_fn"):
        return None
    linear = [*(inside[name] for name in PROJECTIONS), *_gated(mlp)]
    if len(linear) != 7 or any(type(module) is not nn.Linear for module in linear):
        return None
    norms = [children["input_layernorm"], children["post_attention_layernorm"]]
    eps = [vars(norm).get("variance_epsilon") for norm in norms]
    scaling, head = vars(attention).get("scaling"), vars(attention).get("head_dim")
    if not all(isinstance(value, float) for value in (*eps, scaling)) or not isinstance(head, int):
        return None
    return LeanBlock(norms[0], attention, norms[1], mlp, (eps[0], eps[1]), scaling, head)  # pyright: ignore


def _gated(mlp: nn.Module) -> list[nn.Module]:
    children = dict(mlp.named_children())
    return [children[name] for name in ("gate_proj", "up_proj", "down_proj") if name in children]


class LeanStack:
    """The blocks above a site, in the lean way.

    Args:
        layout: The model's parts.
        blocks: From `lean_blocks`; the first is number `first`.
        first: Number of the first block that runs.
        past: Keys and values of the shared prefix, one row, for all blocks of the model; None without a prefix.
    """

    def __init__(
        self,
        layout: CheckedLayout,
        blocks: Sequence[LeanBlock],
        first: int,
        past: DynamicCache | None,
    ) -> None:
        self._layout, self._blocks, self._first = layout, list(blocks), first
        self._past = [None if past is None else (layer.keys, layer.values) for layer in _layers(past, layout)][first:]
        self._prefix = 0 if past is None else int(past.get_seq_length())
        self._rotary: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        states: Tensor,
        rows: Tensor,
        columns: Tensor,
        lengths: Tensor,
        editors: Mapping[int, Editor] = MappingProxyType({}),
    ) -> Tensor:
        """The head's input (n, d) at scored tokens, differentiable.

        Args:
            states: (b, s, d), output of the block below the first, behind the prefix, right-padded.
            rows: (n,) int64, the row of each scored token, in ascending order.
            columns: (n,) int64, its place behind the prefix.
            lengths: (b,) int64 on the CPU, tokens of each row.
            editors: Edits at the output of blocks, by number; they are given padded rows.
        """
        b, s, d = states.shape
        batch = _Batch.of(lengths, s, states.device)
        x = _Pick.apply(states.reshape(b * s, d), batch.real)  # (t, d)
        cos, sin = self._angles(s, states)
        attention = _Attention(cos, sin, _causal(batch.columns, s, self._prefix, states.dtype), batch)
        for place, block in enumerate(self._blocks):
            edit = editors.get(self._first + place)
            if edit is None and block is self._blocks[-1]:
                break
            x = self._block(block, place, x, attention)
            x = x if edit is None else _Pick.apply(edit(attention.padded(x)).reshape(b * s, d), batch.real)
        scored = batch.starts[rows] + columns
        if self._blocks and self._first + len(self._blocks) - 1 not in editors:
            picked = self._last(self._blocks[-1], x, _Chosen.of(rows, columns, scored, b), attention)
        else:
            picked = _Pick.apply(x, scored)
        return self._layout.norm(picked)  # pyright: ignore[reportOptionalCall]

    def _block(self, block: LeanBlock, place: int, x: Tensor, attention: _Attention) -> Tensor:
        q, k, v = _heads(block, _norm(block.before, x, block.eps[0]), ("q_proj", "k_proj", "v_proj"))
        keys, values = self._keys(place, k, v, block, attention)
        found = attention(attention.padded(q), keys, values, block)
        return _mlp(block, _onto(block.attention.o_proj, _Pick.apply(found, attention.batch.real), x))  # pyright: ignore

    def _last(self, block: LeanBlock, x: Tensor, chosen: _Chosen, attention: _Attention) -> Tensor:
        xn = _norm(block.before, x, block.eps[0])
        k, v = _heads(block, xn, ("k_proj", "v_proj"))
        keys, values = self._keys(len(self._blocks) - 1, k, v, block, attention)
        (q,) = _heads(block, _Pick.apply(xn, chosen.padded), ("q_proj",))
        found = attention.of(chosen, self._prefix)(q.view(len(keys), chosen.most, -1), keys, values, block)
        return _mlp(block, _onto(block.attention.o_proj, _Pick.apply(found, chosen.kept), _Pick.apply(x, chosen.flat)))  # pyright: ignore

    def _keys(self, place: int, k: Tensor, v: Tensor, block: LeanBlock, attention: _Attention) -> tuple[Tensor, Tensor]:
        """Keys and values (b, g, p + s, e) of padded rows, those of the prefix in front; from (t, g * e)."""
        new = attention.rotated(attention.padded(k), block.head, 1), _by_heads(attention.padded(v), block.head)
        past = self._past[place]
        if past is None:
            return new
        keys, values = (
            torch.cat([old.expand(len(part), -1, -1, -1), part], dim=2) for old, part in zip(past, new, strict=True)
        )
        return keys, values

    def _angles(self, s: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (s, e) behind the prefix, as the family's own module gives them."""
        if s not in self._rotary:
            places = torch.arange(self._prefix, self._prefix + s, device=states.device)[None]
            with torch.no_grad():
                cos, sin = self._layout.stack.rotary_emb(states, position_ids=places)  # pyright: ignore
            half = cos.shape[-1] // 2
            signed = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
            self._rotary[s] = cos[0].to(states.dtype), signed.to(states.dtype)
        return self._rotary[s]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Where the tokens of padded rows are.

    Attributes:
        real: (t,) places of the tokens among b * s columns.
        padded: (b * s,) for every column its token; that of a pad is its row's last.
        columns: (1, s) the columns.
        starts: (b,) each row's first token.
        shape: (b, s).
    """

    real: Tensor
    padded: Tensor
    columns: Tensor
    starts: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, lengths: Tensor, s: int, device: torch.device) -> _Batch:
        """The batch of rows of these lengths (b,)."""
        columns = torch.arange(s)
        starts = lengths.cumsum(0) - lengths
        padded = starts[:, None] + torch.minimum(columns[None], lengths[:, None] - 1)
        real = (columns[None] < lengths[:, None]).view(-1).nonzero()[:, 0]
        places = padded.view(-1).to(device)
        return cls(real.to(device), places, columns[None].to(device), starts.to(device), (len(lengths), s))


@dataclass(frozen=True, eq=False)
class _Attention:
    """Attention of queries at given places of padded rows.

    Attributes:
        cos: (q, e) or (b, q, e), of the queries' places.
        sin: The same, the first half of e negative.
        mask: (b or 1, 1, q, p + s), added to scores.
        batch: The rows.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor
    batch: _Batch

    def of(self, chosen: _Chosen, prefix: int) -> _Attention:
        """That of some tokens of each row."""
        places = chosen.columns
        mask = _causal(places, self.batch.shape[1], prefix, self.mask.dtype)
        return _Attention(self.cos[places], self.sin[places], mask, self.batch)

    def padded(self, x: Tensor) -> Tensor:
        """(t, a) -> (b, s, a)."""
        return _Pad.apply(x, self.batch.padded, self.batch.real).view(*self.batch.shape, -1)

    def rotated(self, x: Tensor, head: int, groups: int) -> Tensor:
        """(b, q, h * e) -> (b, g, q * groups, e), turned."""
        return _Rotate.apply(x.view(*x.shape[:2], -1, head), self.cos, self.sin, groups)

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, block: LeanBlock) -> Tensor:
        """What queries (b, q, h * e) find: (b * q, h * e)."""
        (b, n, width), g = q.shape, keys.shape[1]
        groups = width // block.head // g
        queries = self.rotated(q, block.head, groups)
        mask = self.mask.repeat_interleave(groups, dim=-2) if groups > 1 else self.mask
        found = F.scaled_dot_product_attention(queries, keys, values, mask, scale=block.scaling)
        return found.view(b, g, n, groups, block.head).permute(0, 2, 1, 3, 4).reshape(b * n, width)


def _by_heads(x: Tensor, head: int) -> Tensor:
    """(b, s, g * e) -> (b, g, s, e)."""
    return x.view(*x.shape[:2], -1, head).transpose(1, 2)


def _layers(past: DynamicCache | None, layout: CheckedLayout) -> list[Any]:
    return [None] * layout.n_blocks if past is None else list(past.layers)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Scored tokens of a batch, and the same padded to as many a row.

    Attributes:
        flat: (n,) which tokens they are, of all of the batch.
        padded: (b * most,) the same with a row's last one repeated.
        columns: (b, most) their places in their rows.
        kept: (n,) where they stand among the padded ones.
        most: Scored tokens of the row that has most.
    """

    flat: Tensor
    padded: Tensor
    columns: Tensor
    kept: Tensor
    most: int

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, flat: Tensor, b: int) -> _Chosen:
        """Those of (row, column), each at least once a row; `flat` says which tokens they are."""
        counts = torch.bincount(rows, minlength=b)
        most = int(counts.max())
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(rows), device=rows.device) - starts[rows]
        index = starts[:, None] + torch.minimum(torch.arange(most, device=rows.device)[None], counts[:, None] - 1)
        return cls(flat, flat[index.view(-1)], columns[index], rows * most + rank, most)


def _causal(places: Tensor, s: int, prefix: int, dtype: torch.dtype) -> Tensor:
    """What is added to scores: (b or 1, 1, q, p + s), 0 where a query at `places` (b or 1, q) sees a key, else -inf."""
    keys = torch.arange(-prefix, s, device=places.device)
    hidden = keys > places[..., None]
    return torch.zeros(hidden.shape, dtype=dtype, device=places.device).masked_fill_(hidden, -torch.inf)[:, None]


def _heads(block: LeanBlock, x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """Projections of one input (t, d), each (t, heads * e), normalised by head where the family does so."""
    projections = [getattr(block.attention, name) for name in names]
    found = _Linears.apply(x, [module.weight for module in projections], [module.bias for module in projections])
    return tuple(_by_head(block, name[0], one) for name, one in zip(names, found, strict=True))


def _by_head(block: LeanBlock, letter: str, x: Tensor) -> Tensor:
    norm = dict(block.attention.named_children()).get(f"{letter}_norm")
    if norm is None:
        return x
    return _norm(norm, x.view(-1, block.head), vars(norm)["variance_epsilon"]).view(x.shape)


def _norm(norm: nn.Module, x: Tensor, eps: float) -> Tensor:
    return _Norm.apply(x, norm.weight, eps)


def _onto(projection: nn.Linear, x: Tensor, residual: Tensor) -> Tensor:
    """residual + projection(x)."""
    found = _Onto.apply(x, projection.weight, residual)
    return found if projection.bias is None else found + projection.bias


def _mlp(block: LeanBlock, x: Tensor) -> Tensor:
    mlp = block.mlp
    gate, up = mlp.gate_proj, mlp.up_proj
    weights, biases = [gate.weight, up.weight], [gate.bias, up.bias]  # pyright: ignore
    g, u = _Linears.apply(_norm(block.after, x, block.eps[1]), weights, biases)
    gated = _SiluGate.apply(g, u) if isinstance(mlp.act_fn, SILU) else mlp.act_fn(g) * u  # pyright: ignore
    return _onto(mlp.down_proj, gated, x)  # pyright: ignore


SILU = (nn.SiLU,)


class _Norm(Function):
    """x / rms(x) * weight over the last dimension; x (t, d), statistics in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale)
        ctx.weight = weight
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale = ctx.saved_tensors
        wide, inner = x.float(), (gradient * ctx.weight).float()
        along = torch.linalg.vecdot(inner, wide)[:, None].mul_(scale.pow(3)).div_(-x.shape[-1])
        return inner.mul_(scale).addcmul_(wide, along).to(x.dtype), None, None


class _Linears(Function):
    """Several linear maps of one input (t, d); in the backward their gradients are added up as they are made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        ctx.weights = weights
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradients[0] @ ctx.weights[0]
        for gradient, weight in zip(gradients[1:], ctx.weights[1:], strict=True):
            total.addmm_(gradient, weight)
        return total, None, None


class _Onto(Function):
    """residual + x W^T; x (t, a), residual (t, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        ctx.weight = weight
        return torch.addmm(residual, x, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient @ ctx.weight, None, gradient


class _Rotate(Function):
    """Rotary positions of x (b, s, heads, e), laid out for attention: (b, g, s * heads / g, e), heads / g = `groups`.

    x cos + swap(x) sin, where swap exchanges the halves of a head and sin has its first half negated; both (s, e) or
    (b, s, e). As Llama's rotation of halves has it, cosines of both halves are alike, and sines but for the sign.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, groups: int) -> Tensor:
        b, s, heads, e = x.shape
        cos, sin, ctx.groups = cos.unsqueeze(-2), sin.unsqueeze(-2), groups
        ctx.save_for_backward(cos, sin)
        turned = torch.addcmul(x * cos, x.roll(e // 2, -1), sin)
        if groups == 1:
            return turned.transpose(1, 2)
        return turned.view(b, s, -1, groups, e).transpose(1, 2).reshape(b, heads // groups, s * groups, e)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        b, g, n, e = gradient.shape
        spread = gradient.reshape(b, g, n // ctx.groups, ctx.groups, e).transpose(1, 2)
        spread = spread.reshape(b, n // ctx.groups, g * ctx.groups, e)
        return torch.addcmul(spread * cos, spread.roll(e // 2, -1), sin, value=-1), None, None, None


class _SiluGate(Function):
    """silu(g) * u."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(g, u)
        return F.silu(g).mul_(u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, u = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * u, g), F.silu(g).mul_(gradient)


class _Pad(Function):
    """Rows `index` of x (t, d), of which the places `real` are the t rows in order; the others' gradient is left out.

    For pads: whatever stands there is masked or never looked at.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(real)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (real,) = ctx.saved_tensors
        return gradient.reshape(-1, gradient.shape[-1]).index_select(0, real), None, None


class _Pick(Function):
    """Rows `index` of x (t, d). Rows may be named twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.t = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.t, gradient.shape[1]).index_add_(0, index, gradient), None
