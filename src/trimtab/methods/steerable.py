"""What a method returns: something that can be applied to a model, saved, and has directions.

Most methods return a `SteeringVector`. The baselines that edit no hidden state (a system prompt, an adapter) return a
`Baseline`; `applied` puts either of them to work in the same way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trimtab.errors import InputError
from trimtab.models import Model
from trimtab.models.apply import Row
from trimtab.models.compat import card_problems
from trimtab.models.messages import Prompt
from trimtab.steering import ModelCard, SteeringVector
from trimtab.steering.content import JSON


def as_it_is(prompt: Prompt) -> Prompt:
    """The prompt itself."""
    return prompt


@dataclass(frozen=True)
class Applied:
    """A steerable at work.

    Attributes:
        steering: What the rows of a batch get.
        prompt: What becomes of a prompt before it is rendered.
    """

    steering: Row = None
    prompt: Callable[[Prompt], Prompt] = as_it_is

    @property
    def keeps_prompts(self) -> bool:
        """Whether prompts stay what they are."""
        return self.prompt is as_it_is


class Baseline(ABC):
    """A steerable that edits no hidden state.

    Attributes:
        method: Name of the method that made it.
        directions: Which directions it has.
        changes_weights: Whether it changes the model itself while it is at work.
        model: The model it was made for.
        settings: How it was made.
        provenance: Where it comes from: data, run, versions.
    """

    method: str
    directions: Sequence[str]
    changes_weights: ClassVar[bool] = False
    model: ModelCard
    settings: Mapping[str, JSON]
    provenance: Mapping[str, JSON]

    def check_fits(self, model: Model) -> list[str]:
        """Everything about it that does not fit a model, one sentence each; empty when it fits."""
        return card_problems(model, self.model, self.method)

    @abstractmethod
    def applied(self, model: Model, direction: str, multiplier: float) -> AbstractContextManager[Applied]:
        """It at work on the model, as long as the context lasts; afterwards the model is what it was."""

    @abstractmethod
    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write its directory, atomically."""


Steerable = SteeringVector | Baseline


def require_one(method: str, multiplier: float, reason: str) -> None:
    """Raise InputError, with the reason, for a multiplier that something without strength cannot take."""
    if multiplier != 1:
        raise InputError(f"multiplier is {multiplier:g}, and {method} takes 1 alone: {reason}")


@contextmanager
def applied(
    model: Model, steerable: Steerable, direction: str = "elicit", multiplier: float | None = None
) -> Iterator[Applied]:
    """A steerable at work on a model, as long as the context lasts.

    Args:
        model: The model.
        steerable: A vector, or a baseline.
        direction: `elicit` or `suppress`.
        multiplier: As for a vector; a baseline takes what it can do with it, by default 1.

    Raises:
        InputError: A direction that it does not have, or a multiplier that it cannot take.
    """
    if isinstance(steerable, SteeringVector):
        yield Applied(steerable.steering(direction, multiplier))
        return
    if direction not in steerable.directions:
        has = " and ".join(steerable.directions)
        raise InputError(f"{steerable.method} has no direction {direction!r}; it has {has}")
    share = 1.0 if multiplier is None else multiplier
    if not math.isfinite(share):
        raise InputError(f"multiplier is {share}; give a finite number")
    before = model.changed_by
    with steerable.applied(model, direction, share) as at_work:
        model.changed_by = steerable.method if steerable.changes_weights else before
        try:
            yield at_work
        finally:
            model.changed_by = before
