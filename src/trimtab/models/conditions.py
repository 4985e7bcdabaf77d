"""Conditions on the prompt while a model is steered: read in the forward of the prompt, kept for the row.

A condition's state belongs to the batch of sequences (`trimtab.models.rows.Chain`), so that rows are told apart under
any padding, with and without a cache, and for beams. Letters: b rows, s columns of a forward, d hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.models.layout import state_of
from trimtab.steering import Positions, PromptGate

if TYPE_CHECKING:
    from trimtab.models.rows import Forward, RowTracker

Condition = tuple[PromptGate, tuple[int, ...]]
"""A gate, and the template prefix behind which it reads."""

PROMPT = Positions("prompt")


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read of a batch's prompts so far.

    Attributes:
        total: (b, d) float32, the sum of the states.
        count: (b,) tokens in it.
        known: (b,) bool, the rows whose whole prompt was read.
        met: (b,) bool, the rows whose prompt meets the condition, as far as it is known. A prompt of nothing but the
            prefix meets none.
        is_complete: Whether all rows are known.
    """

    total: Tensor
    count: Tensor
    known: Tensor
    met: Tensor
    is_complete: bool


@dataclass(frozen=True, eq=False)
class ConditionReader:
    """Reads the conditions of one block's output; a forward hook that changes nothing."""

    conditions: Sequence[Condition]
    tracker: RowTracker

    @torch.no_grad()
    def __call__(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """Forward hook."""
        forward, state = self.tracker.current, state_of(output).detach()
        if forward is None:
            raise InputError(
                "a block whose output a condition reads ran outside a forward of the model; run the whole model, and "
                "switch gradient checkpointing on before steer() is entered, not inside"
            )
        if state.shape[:-1] != forward.shape:
            raise InputError(
                f"a condition cannot be read: the block's output is {tuple(state.shape)}, not (rows, tokens, width) of "
                f"{forward.shape} tokens"
            )
        forward.check_prompt("a condition on the prompt needs")
        if forward.picks_none(PROMPT):
            return
        for condition in self.conditions:
            if condition not in forward.read:  # gradient checkpointing runs a block a second time
                forward.read.add(condition)
                _read(condition, forward, state)


def _read(condition: Condition, forward: Forward, state: Tensor) -> None:
    """Add a forward's prompt tokens to what was read before, and decide the rows whose prompt ends in it."""
    (gate, prefix), chain = condition, forward.chain
    assert chain.prompt is not None  # checked by the caller
    mask = forward.mask(PROMPT, prefix)
    assert mask is not None  # only forwards that hold no prompt pick every token
    mask = mask.to(state.device)
    total = torch.where(mask[..., None], state.to(torch.float32), 0.0).sum(dim=1)
    count = mask.sum(dim=1)
    before = chain.readings.get(condition)
    if before is not None:
        total, count = before.total.to(total.device) + total, before.count.to(count.device) + count
    wanted = (chain.prompt - chain.matched[prefix]).clamp_min(0).to(count.device)
    known = count == wanted
    met = known & (count > 0) & gate.to(state.device).meets(total / count.clamp_min(1)[:, None])
    chain.readings[condition] = Reading(total, count, known, met, bool(known.all()))


def conditioned(forward: Forward, condition: Condition, mask: Tensor | None) -> Tensor:
    """The tokens (b, s) of a mask (None = every token) that lie in rows whose prompt meets the condition.

    Raises:
        InputError: Tokens are to be edited before the whole prompt was read.
    """
    reading = forward.chain.readings.get(condition)
    if mask is None:
        mask = torch.ones(forward.shape, dtype=torch.bool, device=forward.chain.pads.device)
    if reading is None or (not reading.is_complete and bool((mask & ~reading.known.to(mask.device)[:, None]).any())):
        raise InputError(
            "a condition on the prompt is not known yet where the first tokens are to be edited, because the prompt is "
            "read in several forwards or was begun outside steer(); read it in one forward (leave out "
            "prefill_chunk_size), or edit the response alone (positions 'response')"
        )
    return mask & reading.met.to(mask.device)[:, None]
