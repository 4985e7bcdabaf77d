"""Attention of lean blocks: tokens are kept one after the other, without pads, and are laid out in rows only for it.

Rows are taken a few at a time, those of like length together, so that there is little padding.

Letters: b rows, s tokens of a row, t tokens of a batch, p tokens of the shared prefix, h query heads, g key-value
heads, e head size, n queries of a batch, q queries of the row that has most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from trimtab.models.lean_ops import Lay

SHORT = 64
"""Keys a row up to which, on a CPU, all scores at once are faster than attention block by block (measured)."""

ROWS = 16
"""Rows that are taken together then."""

LONGEST = 4096
"""Keys a row up to which masks are made here; the families' own attention needs none, or smaller ones."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, one after the other; on the CPU.

    Attributes:
        lengths: (b,) int64, tokens of each.
        starts: (b,) int64, the first of each.
        rows: (t,) int64, each token's row.
        columns: (t,) int64, each token's place in its row.
    """

    lengths: Tensor
    starts: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, lengths: Tensor) -> Batch:
        """The batch of rows of these lengths (b,) int64."""
        starts = lengths.cumsum(0) - lengths
        rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return cls(lengths, starts, rows, torch.arange(len(rows)) - starts[rows])

    def padded(self, most: int) -> Tensor:
        """(b, most) the token of every column; that of a pad is its row's last."""
        return self.starts[:, None] + torch.minimum(torch.arange(most)[None], self.lengths[:, None] - 1)

    def some(self, rows: Tensor, columns: Tensor) -> Scored:
        """The tokens at (row, column), in ascending order of rows, each row at least once."""
        counts = torch.bincount(rows, minlength=len(self.lengths))
        return Scored(self.starts[rows] + columns, Batch(counts, counts.cumsum(0) - counts, rows, columns))


@dataclass(frozen=True, eq=False)
class Scored:
    """Some tokens of a batch.

    Attributes:
        places: (n,) int64, which they are among all.
        batch: They as a batch of their own, but `columns` are those of the whole rows.
    """

    places: Tensor
    batch: Batch


class Angles(NamedTuple):
    """Cosines and sines (n, h * e) of the places of tokens, the first half of a head's sines negated; heads are alike.

    Written out for all heads, because products of rows of one length are several times as fast as with rows of a head
    repeated, and one table serves all blocks, forward and back.
    """

    cos: Tensor
    sin: Tensor
    e: int

    @classmethod
    def of(cls, cos: Tensor, sin: Tensor, heads: int) -> Angles:
        """From tables (n, e) of one head."""
        return cls(cos.repeat(1, heads), sin.repeat(1, heads), cos.shape[-1])

    def turned(self, x: Tensor, *, back: bool = False, scale: float = 1.0) -> Tensor:
        """Rotary positions of x (n, heads * e), times `scale`: x cos + swap(x) sin; swap exchanges a head's halves.

        As Llama's rotation of halves has it, cosines of both halves are alike, and sines but for the sign; the
        rotation back is then its gradient.
        """
        width, half = x.shape[-1], self.e // 2
        swapped = x.view(len(x), -1, self.e).roll(half, -1).view(x.shape)
        found = (x * self.cos[:, :width]).addcmul_(swapped, self.sin[:, :width], value=-1 if back else 1)
        return found if scale == 1.0 else found.mul_(scale)


@dataclass(frozen=True, eq=False)
class _KeyRows:
    """How keys and values of some rows are laid out: (rows, g, p + s), those of the prefix in front.

    Attributes:
        tokens: Which of the batch they are.
        lay: (rows * g * (p + s),) for every place which (token, head) stands there, of those of the prefix and then
            of `tokens`.
        back: (tokens * g,) for every (token, head) its place.
        m: p + s.
    """

    tokens: slice
    lay: Tensor
    back: Tensor
    m: int

    @classmethod
    def of(cls, part: _Part, prefix: int, g: int, device: torch.device) -> _KeyRows:
        """Those of a part."""
        s, head = int(part.lengths.max()), np.arange(g)
        lay = np.empty((len(part.lengths), g, prefix + s), dtype=np.int64)
        lay[..., :prefix] = np.arange(prefix) * g + head[:, None]
        lay[..., prefix:] = (prefix + part.padded(s))[:, None] * g + head[:, None]
        back = (part.rows[:, None] * g + head) * (prefix + s) + (prefix + part.columns)[:, None]
        return cls(part.tokens, _index(lay, device), _index(back, device), prefix + s)


@dataclass(frozen=True, eq=False)
class _QueryRows:
    """How queries of some rows are laid out: (rows, g, q, h / g), the heads of one key head side by side.

    Attributes:
        tokens: Which of all queries they are.
        lay: As of `_KeyRows`, without a prefix.
        back: The same.
        real: (rows * g, q * h / g, 1) 1 where no pad stands, else 0.
        mask: (rows or 1, q * h / g, p + s) what is added to scores: 0, or -inf for a key that is not seen.
    """

    tokens: slice
    lay: Tensor
    back: Tensor
    real: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, part: _Part, keys: _KeyRows, prefix: int, heads: tuple[int, int], like: Tensor, *, whole: bool
    ) -> _QueryRows:
        """Those of a part; `whole` says that they are all tokens of their rows."""
        h, g = heads
        groups, most, head = h // g, int(part.lengths.max()), np.arange(h)
        padded = part.padded(most)
        lay = padded[:, None, :, None] * h + head.reshape(g, 1, groups)
        rank = np.arange(len(part.rows)) - part.starts[part.rows]
        back = ((part.rows[:, None] * g + head // groups) * most + rank[:, None]) * groups + head % groups
        real = (np.arange(most) < part.lengths[:, None]).repeat(g, axis=0).repeat(groups, axis=1)
        columns = np.arange(most)[None] if whole else part.columns[padded]  # (rows or 1, q)
        hidden = (np.arange(-prefix, keys.m - prefix) > columns[..., None]).repeat(groups, axis=1)
        mask = torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(torch.from_numpy(hidden), -torch.inf)
        own = torch.from_numpy(real[..., None]).to(like.device, like.dtype)
        return cls(part.tokens, _index(lay, like.device), _index(back, like.device), own, mask.to(like.device))


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of a batch, as numbers of their own; small index arithmetic is much faster in numpy.

    Attributes:
        tokens: Which of the batch they are.
        lengths: As of `Batch`.
        starts: The same.
        rows: The same.
        columns: The same.
    """

    tokens: slice
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, batch: Batch, first: int, last: int) -> _Part:
        """The rows from `first` up to `last`."""
        lengths, starts, rows, columns = (x.numpy() for x in (batch.lengths, batch.starts, batch.rows, batch.columns))
        start = int(starts[first])
        own = slice(start, int(starts[last - 1] + lengths[last - 1]))
        return cls(own, lengths[first:last], starts[first:last] - start, rows[own] - first, columns[own])

    def padded(self, most: int) -> NDArray[np.int64]:
        """(rows, most) the token of every column; that of a pad is its row's last."""
        return self.starts[:, None] + np.minimum(np.arange(most)[None], self.lengths[:, None] - 1)


def _index(places: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(places.reshape(-1)).to(device)


class Keys:
    """What all tokens of a batch offer to attention, for all blocks.

    Args:
        batch: The tokens.
        angles: Of all of them.
        prefix: p.
        heads: h and g.
        like: Of the dtype and device of what is to come.
    """

    def __init__(self, batch: Batch, angles: Angles, prefix: int, heads: tuple[int, int], like: Tensor) -> None:
        self.batch, self.angles, self.prefix, self.heads, self.like = batch, angles, prefix, heads, like
        b, longest = len(batch.lengths), prefix + int(batch.lengths.max())
        if longest > LONGEST:
            raise ValueError(f"{longest} keys a row are too many for masks of our own")
        wide = like.dtype in (torch.float32, torch.float64)
        self.is_short = like.device.type == "cpu" and wide and longest <= SHORT
        size = ROWS if self.is_short else b
        self.parts = [(first, min(first + size, b)) for first in range(0, b, size)]
        self.rows = [_KeyRows.of(_Part.of(batch, *part), prefix, heads[1], like.device) for part in self.parts]


class Attention:
    """Attention of tokens of a batch to all that stand before them in their rows, and to a shared prefix.

    Args:
        keys: What is looked at.
        scored: The tokens that ask; None for all.
    """

    def __init__(self, keys: Keys, scored: Scored | None) -> None:
        self.keys, self.angles = keys, keys.angles
        queries = keys.batch if scored is None else scored.batch
        if scored is not None:
            places = scored.places.to(keys.like.device)
            self.angles = Angles(keys.angles.cos[places], keys.angles.sin[places], keys.angles.e)
        self.rows = [
            _QueryRows.of(_Part.of(queries, *part), of_keys, keys.prefix, keys.heads, keys.like, whole=scored is None)
            for part, of_keys in zip(keys.parts, keys.rows, strict=True)
        ]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor] | None, scale: float) -> Tensor:
        """What the queries find.

        Args:
            q: (n, h * e), not yet turned.
            k: (t, g * e), not yet turned.
            v: (t, g * e).
            past: Keys and values (1, g, p, e) of the prefix.
            scale: What scores are multiplied by.

        Returns:
            (n, h * e).
        """
        e = self.angles.e
        old = k.new_empty(0, e), k.new_empty(0, e)
        if past is not None:
            old = _flat(past[0]), _flat(past[1])
        if self.keys.is_short:
            return _ShortRows.apply(q, k, v, self, old, scale)
        (h, g), (rows,), (of_keys,) = self.keys.heads, self.rows, self.keys.rows
        b = len(self.keys.batch.lengths)
        queries = Lay.apply(_Turn.apply(q, self.angles).view(-1, e), None, rows.lay, rows.back)
        keys = Lay.apply(_Turn.apply(k, self.keys.angles).view(-1, e), old[0], of_keys.lay, of_keys.back)
        values = Lay.apply(v.view(-1, e), old[1], of_keys.lay, of_keys.back)
        four = [x.view(b, g, -1, e) for x in (queries, keys, values)]
        mask = rows.mask[:, None]  # (b or 1, 1, q * h / g, m): the same for all heads of a row
        found = F.scaled_dot_product_attention(four[0], four[1], four[2], mask, scale=scale)
        real = rows.real.view(b, g, -1, 1)
        return Lay.apply((found * real).reshape(-1, e), None, rows.back, rows.lay).view(-1, h * e)


def _flat(past: Tensor) -> Tensor:
    """(1, g, p, e) -> (p * g, e)."""
    return past[0].transpose(0, 1).reshape(-1, past.shape[-1])


class _Turn(Function):
    """Rotary positions, see `Angles.turned`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Angles) -> Tensor:
        ctx.angles = angles
        return angles.turned(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.angles.turned(gradient, back=True), None


class _ShortRows(Function):
    """Attention with all scores at once, a few rows at a time: q (n, h * e), k and v (t, g * e), and the prefix's."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, attention: Attention, old: tuple[Tensor, Tensor], scale: float
    ) -> Tensor:
        keys, angles = attention.keys, attention.angles
        e = angles.e
        ctx.attention, ctx.scale = attention, scale
        turned, offered, found = angles.turned(q, scale=scale), keys.angles.turned(k), torch.empty_like(q)
        saved = []
        for rows, of_keys in zip(attention.rows, keys.rows, strict=True):
            laid = _by_head(turned, rows.tokens, e).index_select(0, rows.lay).view(len(rows.real), -1, e)
            mine, values = (
                torch.cat([past, _by_head(new, of_keys.tokens, e)]).index_select(0, of_keys.lay).view(len(laid), -1, e)
                for past, new in zip(old, (offered, v), strict=True)
            )
            p = torch.baddbmm(_for_heads(rows.mask, len(laid)), laid, mine.transpose(1, 2)).softmax(dim=-1)
            at = torch.bmm(p, values).view(-1, e)
            torch.index_select(at, 0, rows.back, out=_by_head(found, rows.tokens, e))
            saved += [laid, mine, values, p]
        ctx.save_for_backward(*saved)
        ctx.shapes = q.shape, k.shape
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        attention, saved = ctx.attention, ctx.saved_tensors
        keys, angles, e = attention.keys, attention.angles, attention.angles.e
        of_q, of_k, of_v = (gradient.new_empty(ctx.shapes[place]) for place in (0, 1, 1))
        gradient = gradient.contiguous()
        for part, (rows, of_keys) in enumerate(zip(attention.rows, keys.rows, strict=True)):
            laid, mine, values, p = saved[4 * part : 4 * part + 4]
            outer = _by_head(gradient, rows.tokens, e).index_select(0, rows.lay).view(laid.shape).mul_(rows.real)
            of_scores = torch.bmm(outer, values.transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_scores, p, -1, p.dtype)
            for found, whole, tokens, back in (
                (torch.bmm(of_scores, mine), of_q, rows.tokens, rows.back),
                (torch.bmm(of_scores.transpose(1, 2), laid), of_k, of_keys.tokens, of_keys.back),
                (torch.bmm(p.transpose(1, 2), outer), of_v, of_keys.tokens, of_keys.back),
            ):
                torch.index_select(found.view(-1, e), 0, back, out=_by_head(whole, tokens, e))
        of_q = angles.turned(of_q, back=True, scale=ctx.scale)
        return of_q, keys.angles.turned(of_k, back=True), of_v, None, None, None


def _for_heads(mask: Tensor, n: int) -> Tensor:
    """A mask of rows, or of one row for all, for the n (row, key head) pairs."""
    return mask.expand(n, -1, -1) if len(mask) == 1 else mask.repeat_interleave(n // len(mask), dim=0)


def _by_head(x: Tensor, tokens: slice, e: int) -> Tensor:
    """Some tokens of x (t, heads * e), a row a head: a view (tokens * heads, e)."""
    return x[tokens].view(-1, e)
