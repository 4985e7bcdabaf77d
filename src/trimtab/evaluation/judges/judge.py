"""What a judge is: something that rates one aspect of one text at a time, by one interface whoever reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.clients.cost import Estimate
from trimtab.errors import InputError
from trimtab.steering.content import JSON

if TYPE_CHECKING:
    from trimtab.models.messages import Message
    from trimtab.progress import ProgressCallback

RATED = ("concept", "instruction", "fluency")
"""Aspects that are rated 0, 1 or 2, each by a question of its own (AxBench)."""
TOLD = ("refusal", "hostile")
"""Aspects that are there or not: 1 or 0."""
ASPECTS = (*RATED, *TOLD)
"""Everything that can be asked about a text."""


@dataclass(frozen=True)
class Question:
    """One aspect of one text.

    Attributes:
        aspect: One of `ASPECTS`.
        text: What the model wrote.
        concept: What to look for, where the aspect is `concept`; else None, or the concept that was steered.
        instruction: What the user asked for, without what a system prompt or a steering prompt added.
        messages: The prompt of the protocol, without what a contender added.
    """

    aspect: str
    text: str
    concept: str | None
    instruction: str
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a judge says.

    Attributes:
        rating: 0 to 2 for `RATED`, 0 or 1 for `TOLD`; None where no reply could be read.
        reply: What the judge wrote, if it writes.
        attempts: How often it was asked.
    """

    rating: float | None
    reply: str | None = None
    attempts: int = 1


class Judge(ABC):
    """Rates texts.

    Attributes:
        name: What tables call it: `exact`, `rules`, `openai:gpt-4o-mini`.
        aspects: What it can be asked.
    """

    name: str
    aspects: frozenset[str]

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, JSON]:
        """All that decides its ratings, as JSON; it is hashed into the configuration of a run."""

    @abstractmethod
    def rate(self, questions: Sequence[Question], progress: ProgressCallback | None = None) -> list[Verdict]:
        """A verdict a question, in their order.

        Args:
            questions: Each of an aspect that it has.
            progress: Told of every verdict, or batch of them.

        Raises:
            InputError: An aspect it does not have, or a question that it cannot judge.
            NetworkError: An endpoint that still fails after all retries.
        """

    def require(self, questions: Sequence[Question]) -> None:
        """Raise InputError for what would keep it from rating such questions, before any text is written.

        Args:
            questions: As they will be, their texts empty.
        """
        for question in questions:
            if question.aspect not in self.aspects:
                rates = ", ".join(sorted(self.aspects))
                raise InputError(f"the judge {self.name} does not rate {question.aspect!r}; it rates {rates}")

    def estimate(self, questions: Sequence[Question]) -> Estimate | None:
        """Calls, tokens and price of rating these; None where that costs nothing."""
        return None
