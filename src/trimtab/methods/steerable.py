"""What a method returns: something that can be applied to a model, saved, and has directions.

Most methods return a `SteeringVector`. The baselines that edit no hidden state (a system prompt, an adapter) return a
`Baseline`; `applied` puts either of them to work in the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import InputError
from trimtab.fitting.settings import check_number
from trimtab.models import Model
from trimtab.models.apply import Row
from trimtab.models.compat import kind_problems, size_problems
from trimtab.models.messages import Prompt
from trimtab.models.weights import refuse_adapter
from trimtab.steering import ModelCard, SteeringVector
from trimtab.steering.content import JSON

MAX_MULTIPLIER = 1e6
"""Largest multiplier; what it does is noise long before, and beyond it no longer a number."""
SAMPLE = "weights_sample"
"""Where a provenance keeps what identifies the weights that were trained from."""


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
        model: The model it was made for.
        settings: How it was made.
        provenance: Where it comes from: data, run, versions.
    """

    method: str
    directions: Sequence[str]
    model: ModelCard
    settings: Mapping[str, JSON]
    provenance: Mapping[str, JSON]

    def check_fits(self, model: Model) -> list[str]:
        """Everything about it that does not fit a model, one sentence each; empty when it fits."""
        shapes = self.check_shapes(model)
        return [*self.check_identity(model, with_weights=not shapes), *shapes]

    def check_shapes(self, model: Model) -> list[str]:
        """Why it cannot be applied to a model at all, one sentence each."""
        return size_problems(model, self.model, self.method)

    def check_identity(self, model: Model, *, with_weights: bool = True) -> list[str]:
        """Where a model is not the one it was made for, though it might be applied there; one sentence each.

        Args:
            model: The model.
            with_weights: Look at its weights too, which must have the right shapes.
        """
        problems = kind_problems(model, self.model, self.method)
        sample = self.provenance.get(SAMPLE)
        if with_weights and sample is not None and self._sample(model) != sample:
            problems.append(
                f"the {self.method} was trained from other weights of these shapes (or loaded in a precision that "
                f"rounds them, this model is in {str(model.dtype).removeprefix('torch.')})"
            )
        return problems

    def require_fit(self, model: Model, *, force: bool = False) -> None:
        """Raise InputError, which lists what differs, unless it fits a model that has no adapter already.

        Args:
            model: The model.
            force: Let another family, prefix, template or other weights pass; other shapes never do.
        """
        refuse_adapter(model.hf)
        shapes = self.check_shapes(model)
        problems = shapes if force else self.check_fits(model)
        if problems:
            remedy = "fit it again for this model" + (
                "" if shapes else ", or --force (force=True) applies it all the same"
            )
            raise InputError(
                f"{self.method} for {self.model.id!r} does not fit {model.name!r}: {'; '.join(problems)}; {remedy}"
            )

    def _sample(self, model: Model) -> JSON:
        """What the provenance of one that was trained here keeps of the weights that it was trained from."""
        return None

    @abstractmethod
    def applied(
        self, model: Model, direction: str, multiplier: float, *, force: bool = False
    ) -> AbstractContextManager[Applied]:
        """It at work on the model, as long as the context lasts; afterwards the model is what it was.

        Args:
            model: The model.
            direction: One that it has.
            multiplier: Its strength.
            force: As of `require_fit`.
        """

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
    model: Model,
    steerable: Steerable,
    direction: str = "elicit",
    multiplier: float | None = None,
    *,
    force: bool = False,
) -> Iterator[Applied]:
    """A steerable at work on a model, as long as the context lasts.

    Args:
        model: The model.
        steerable: A vector, or a baseline.
        direction: `elicit` or `suppress`.
        multiplier: As for a vector; a baseline takes what it can do with it, by default 1.
        force: Apply a baseline although the model's family, template, prefix or weights are not those it was made
            with; other shapes are refused all the same. For a vector see `Model.generate` and `steer`.

    Raises:
        InputError: A direction that it does not have, or a multiplier that it cannot take.
    """
    if multiplier is not None:
        check_number("multiplier", multiplier, least=-MAX_MULTIPLIER, most=MAX_MULTIPLIER)
    if isinstance(steerable, SteeringVector):
        yield Applied(steerable.steering(direction, multiplier))
        return
    if direction not in steerable.directions:
        has = " and ".join(steerable.directions)
        raise InputError(f"{steerable.method} has no direction {direction!r}; it has {has}")
    share = 1.0 if multiplier is None else multiplier
    with steerable.applied(model, direction, share, force=force) as at_work:
        yield at_work
