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
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.activations import ACT2FN

from trimtab.models.layout import CheckedLayout
from trimtab.models.lean_attention import Angles, Attention, Batch, Keys, Scored
from trimtab.models.lean_ops import GatedMlp, Lay, Linears, Norm, Onto, Pick, SiluGate

Editor = Callable[[Tensor], Tensor]
"""(b, s, d) -> (b, s, d) or (t, d) -> (t, d), differentiable: an edit at a block's output."""

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
    if not {*PROJECTIONS} <= set(inside) <= {*PROJECTIONS} | OPTIONAL or "act_fn" not in dict(mlp.named_children()):
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
    """The blocks from one on, in the lean way.

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
        self._rotary: dict[int, Angles] = {}

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
        (b, s, d), batch = states.shape, Batch.of(lengths)
        real = (batch.rows * s + batch.columns).to(states.device)
        padded = batch.padded(s).view(-1).to(states.device)

        def flat(edit: Editor) -> Editor:
            return lambda x: Pick.apply(edit(Lay.apply(x, None, padded, real).view(b, s, d)).reshape(b * s, d), real)

        x = Pick.apply(states.reshape(b * s, d), real)
        scored = batch.some(rows.cpu(), columns.cpu())
        return self.finals(x, batch, scored, {layer: flat(edit) for layer, edit in editors.items()})

    def finals(
        self, x: Tensor, batch: Batch, scored: Scored, editors: Mapping[int, Editor] = MappingProxyType({})
    ) -> Tensor:
        """The head's input (n, d) at scored tokens, differentiable.

        Args:
            x: (t, d), output of the block below the first, without pads.
            batch: Where its rows are.
            scored: Which tokens are wanted.
            editors: Edits at the output of blocks, by number; they are given the states (t, d) as they are.
        """
        chosen = scored.places.to(x.device)
        last = self._first + len(self._blocks) - 1
        if not self._blocks or last in editors:
            return self._normed(Pick.apply(self.states(x, batch, last, editors), chosen))
        keys = self._keys(batch, x)
        x = self._through(x, keys, last - 1, editors)
        return self._normed(self._last(self._blocks[-1], x, chosen, Attention(keys, scored)))

    def states(
        self, x: Tensor, batch: Batch, last: int, editors: Mapping[int, Editor] = MappingProxyType({})
    ) -> Tensor:
        """Output (t, d) of block `last`; arguments as of `finals`."""
        return self._through(x, self._keys(batch, x), last, editors) if self._blocks else x

    def _through(self, x: Tensor, keys: Keys, last: int, editors: Mapping[int, Editor]) -> Tensor:
        blocks = self._blocks[: last - self._first + 1]
        attention = Attention(keys, None) if blocks else None
        for place, block in enumerate(blocks):
            x = self._block(block, place, x, attention)  # pyright: ignore[reportArgumentType]
            edit = editors.get(self._first + place)
            x = x if edit is None else edit(x)
        return x

    def _normed(self, x: Tensor) -> Tensor:
        return self._layout.norm(x)  # pyright: ignore[reportOptionalCall]

    def _keys(self, batch: Batch, x: Tensor) -> Keys:
        """What the tokens of a batch offer to attention in all blocks."""
        block = self._blocks[0]
        widths = (getattr(block.attention, name).out_features for name in ("q_proj", "k_proj"))
        h, g = (width // block.head for width in widths)
        table, columns = self._angles(int(batch.lengths.max()), h, x), batch.columns.to(x.device)
        angles = Angles(table.cos[columns], table.sin[columns], block.head)
        return Keys(batch, angles, self._prefix, (h, g), x)

    def _block(self, block: LeanBlock, place: int, x: Tensor, attention: Attention) -> Tensor:
        q, k, v = _heads(block, _norm(block.before, x, block.eps[0]), ("q_proj", "k_proj", "v_proj"))
        found = attention(q, k, v, self._past[place], block.scaling)
        return _mlp(block, _onto(block.attention.o_proj, found, x))  # pyright: ignore

    def _last(self, block: LeanBlock, x: Tensor, chosen: Tensor, attention: Attention) -> Tensor:
        xn = _norm(block.before, x, block.eps[0])
        k, v = _heads(block, xn, ("k_proj", "v_proj"))
        (q,) = _heads(block, Pick.apply(xn, chosen), ("q_proj",))
        found = attention(q, k, v, self._past[len(self._blocks) - 1], block.scaling)
        return _mlp(block, _onto(block.attention.o_proj, found, Pick.apply(x, chosen)))  # pyright: ignore

    def _angles(self, s: int, heads: int, states: Tensor) -> Angles:
        """Cosines and sines of the s places behind the prefix, as the family's own module gives them."""
        if s not in self._rotary:
            places = torch.arange(self._prefix, self._prefix + s, device=states.device)[None]
            with torch.no_grad():
                cos, sin = self._layout.stack.rotary_emb(states[None], position_ids=places)  # pyright: ignore
            half = cos.shape[-1] // 2
            signed = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
            self._rotary[s] = Angles.of(cos[0].to(states.dtype), signed.to(states.dtype), heads)
        return self._rotary[s]


def _layers(past: DynamicCache | None, layout: CheckedLayout) -> list[Any]:
    return [None] * layout.n_blocks if past is None else list(past.layers)


def _heads(block: LeanBlock, x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """Projections of one input (t, d), each (t, heads * e), normalised by head where the family does so."""
    projections = [getattr(block.attention, name) for name in names]
    found = Linears.apply(x, [module.weight for module in projections], [module.bias for module in projections])
    return tuple(_by_head(block, name[0], one) for name, one in zip(names, found, strict=True))


def _by_head(block: LeanBlock, letter: str, x: Tensor) -> Tensor:
    norm = dict(block.attention.named_children()).get(f"{letter}_norm")
    if norm is None:
        return x
    return _norm(norm, x.view(-1, block.head), vars(norm)["variance_epsilon"]).view(x.shape)


def _norm(norm: nn.Module, x: Tensor, eps: float) -> Tensor:
    return Norm.apply(x, norm.weight, eps)


def _onto(projection: nn.Linear, x: Tensor, residual: Tensor) -> Tensor:
    """residual + projection(x)."""
    found = Onto.apply(x, projection.weight, residual)
    return found if projection.bias is None else found + projection.bias


SILU = (nn.SiLU, type(ACT2FN["silu"]))
"""transformers has a class of its own for it, in some of its versions."""


def _mlp(block: LeanBlock, x: Tensor) -> Tensor:
    mlp = block.mlp
    gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    biases = [gate.bias, up.bias]  # pyright: ignore
    if isinstance(mlp.act_fn, SILU) and biases == [None, None] and down.bias is None:  # pyright: ignore
        return GatedMlp.apply(x, (block.after.weight, block.eps[1]), gate.weight, up.weight, down.weight)  # pyright: ignore
    g, u = Linears.apply(_norm(block.after, x, block.eps[1]), [gate.weight, up.weight], biases)  # pyright: ignore
    gated = SiluGate.apply(g, u) if isinstance(mlp.act_fn, SILU) else mlp.act_fn(g) * u  # pyright: ignore
    return _onto(down, gated, x)  # pyright: ignore
