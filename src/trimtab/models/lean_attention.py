"""Attention of lean blocks: tokens are kept one after the other, without pads, and are laid out in rows only for it.

Letters: b rows, s tokens of a row, t tokens of a batch, p tokens of the shared prefix, h query heads, g key-value
heads, e head size, n queries of a batch, q queries of the row that has most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.models.lean_ops import Attend, Collect, Lay, Rotate

SHORT = 64
"""Keys a row up to which, on a CPU, all scores at once are faster than attention block by block (measured)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, one after the other.

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
        rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        columns = torch.arange(len(rows), device=lengths.device) - starts[rows]
        return cls(lengths, starts, rows, columns)

    def padded(self, most: int) -> Tensor:
        """(b, most) the token of every column; that of a pad is its row's last."""
        columns = torch.arange(most, device=self.lengths.device)
        return self.starts[:, None] + torch.minimum(columns[None], self.lengths[:, None] - 1)

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


@dataclass(frozen=True, eq=False)
class Angles:
    """Cosines and sines (n, e) of the places of tokens, the first half of the sines negated."""

    cos: Tensor
    sin: Tensor


class Attention:
    """Attention of tokens of a batch to all that stand before them in their rows, and to a shared prefix.

    Args:
        batch: All tokens; on the CPU.
        scored: Those that ask; None for all.
        angles: Of all tokens.
        prefix: p.
        like: Of the dtype and device of what is to come.
        heads: h and g.
    """

    def __init__(
        self, batch: Batch, scored: Scored | None, angles: Angles, prefix: int, like: Tensor, heads: tuple[int, int]
    ) -> None:
        (h, g), b, s = heads, len(batch.lengths), int(batch.lengths.max())
        groups, queries = h // g, batch if scored is None else scored.batch
        self._heads, self._shape = heads, (b, prefix + s)
        self._keys = self._queries = angles
        if scored is not None:
            places = scored.places.to(like.device)
            self._queries = Angles(angles.cos[places], angles.sin[places])
        wide = like.dtype in (torch.float32, torch.float64)
        self._is_short = like.device.type == "cpu" and wide and prefix + s <= SHORT

        # which (token, head) of keys stands at (row, head, column), those of the prefix in front; and back
        head = torch.arange(g)
        old = (torch.arange(prefix) * g + head[:, None]).expand(b, -1, -1)
        new = (prefix + batch.padded(s))[:, None] * g + head[:, None]
        at = (batch.rows[:, None] * g + head) * (prefix + s) + prefix + batch.columns[:, None]
        self._lay_keys, self._keys_back = _moved(like.device, torch.cat([old, new], dim=2), at)

        # the same for queries at (row, key-value head, column, which of its query heads)
        most, head = int(queries.lengths.max()), torch.arange(h)
        padded = queries.padded(most)
        lay = padded[:, None, :, None] * h + head.view(g, 1, groups)
        rank = torch.arange(len(queries.rows)) - queries.starts[queries.rows]
        at = ((queries.rows[:, None] * g + head // groups) * most + rank[:, None]) * groups + head % groups
        found = torch.full((lay.numel(),), at.numel())
        found[at.view(-1)] = torch.arange(at.numel())
        self._lay_queries, self._queries_back, self._found_back = _moved(like.device, lay, at, found)

        columns = torch.arange(s)[None] if scored is None else queries.columns[padded]  # (b or 1, q)
        hidden = (torch.arange(-prefix, s) > columns[..., None]).repeat_interleave(groups, dim=1)
        mask = torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(hidden, -torch.inf).to(like.device)
        self._mask = mask.repeat_interleave(g, dim=0) if self._is_short and len(mask) > 1 else mask

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
        (h, g), (b, m) = self._heads, self._shape
        e = q.shape[1] // h
        turned = Rotate.apply(q.view(-1, h, e), self._queries.cos, self._queries.sin).view(-1, e)
        keys = Rotate.apply(k.view(-1, g, e), self._keys.cos, self._keys.sin).view(-1, e)
        old_keys, old_values = (None, None) if past is None else (_rows(past[0]), _rows(past[1]))
        queries = Lay.apply(turned, None, self._lay_queries, self._queries_back)
        keys = Lay.apply(keys, old_keys, self._lay_keys, self._keys_back).view(b * g, m, e)
        values = Lay.apply(v.view(-1, e), old_values, self._lay_keys, self._keys_back).view(keys.shape)
        queries = queries.view(b * g, -1, e)
        if self._is_short:
            found = Attend.apply(queries, keys, values, self._mask, scale)
        else:
            four = [x.view(b, g, -1, e) for x in (queries, keys, values)]
            found = F.scaled_dot_product_attention(four[0], four[1], four[2], self._mask[:, None], scale=scale)
        return Collect.apply(found.reshape(-1, e), self._queries_back, self._found_back).view(-1, h * e)


def _rows(past: Tensor) -> Tensor:
    """(1, g, p, e) -> (p * g, e)."""
    return past[0].transpose(0, 1).reshape(-1, past.shape[-1])


def _moved(device: torch.device, *indices: Tensor) -> tuple[Tensor, ...]:
    return tuple(index.reshape(-1).to(device) for index in indices)
