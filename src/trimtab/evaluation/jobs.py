"""Jobs: one generation each, with a seed and an identity of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.records import canonical, digest
from trimtab.methods.steerable import Use
from trimtab.models.messages import Prompt, as_messages

IDENTITY = 16
"""Hexadecimal digits of a job's name: 64 bits, so that a run of a million jobs has two alike once in 10^7 runs."""


@dataclass(frozen=True, eq=False)
class Job:
    """One text to be written.

    Attributes:
        contender: Who writes it: what is applied to the model.
        prompt: What is asked, before the contender adds anything of its own.
        number: Of the prompt, within its concept and condition.
        condition: Which prompts it is of, such as `free`.
        way: The direction; None for the plain model.
        multiplier: Of the contender; None where there is none.
        concept: What is asked about; the contender's own, or for the plain model the one it is compared on.
        seed: Of its draws.
        instruction: What the user wants, for a judge; None = the last user turn.
        uses: What is at work together, where a text is written by several steerables at once; none = the contender's
            own, in its direction and at its multiplier. They are no part of its name: what decides them (the number of
            the prompt, the multiplier) has to be.
    """

    contender: Contender
    prompt: Prompt
    number: int
    condition: str
    way: str | None
    multiplier: float | None
    concept: str | None
    seed: int
    instruction: str | None = None
    uses: tuple[Use, ...] = ()

    @cached_property
    def columns(self) -> Mapping[str, Any]:
        """What its record says of it, apart from the text."""
        turns = as_messages(self.prompt)
        last = next(turn["content"] for turn in reversed(turns) if turn["role"] == "user")
        return {
            "label": self.contender.label,
            "concept": self.concept,
            "way": self.way,
            "multiplier": self.multiplier,
            "condition": self.condition,
            "prompt": self.number,
            "seed": self.seed,
            "instruction": last if self.instruction is None else self.instruction,
        }

    @cached_property
    def id(self) -> str:
        """Its name in all records: a hash of what it is."""
        turns = [dict(turn) for turn in as_messages(self.prompt)]
        return digest({**self.columns, "messages": turns})[:IDENTITY]


def seed_of(*parts: str | int | float | None) -> int:
    """A seed (63 bits) that these decide and nothing else does."""
    hashed = hashlib.sha256(canonical(list(parts)).encode()).digest()
    return int.from_bytes(hashed[:8], "big") >> 1
