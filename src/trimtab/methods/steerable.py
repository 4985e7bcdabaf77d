"""What a method returns: something that can be applied to a model, saved, and has directions.

Most methods return a `SteeringVector`. The baselines that edit no hidden state (a system prompt, an adapter) return a
`Baseline`; `applied` puts either of them to work in the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.settings import check_number
from trimtab.models import Model
from trimtab.models.apply import Row
from trimtab.models.compat import adopted, kind_problems, require_fit, size_problems
from trimtab.models.messages import Prompt, as_messages, with_system
from trimtab.models.weights import refuse_adapter
from trimtab.steering import ModelCard, Steering, SteeringVector
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

    def prompts(self, prompts: Sequence[Prompt], system: str | None = None, *, raw: bool = False) -> list[Prompt]:
        """Prompts as the model is to be asked them, to be handed to `Model.generate` without a system message.

        Args:
            prompts: Texts or message lists.
            system: A system message for every prompt; what the steerable puts in front comes before it.
            raw: They are texts that are rendered already.

        Raises:
            InputError: Raw prompts that something is to stand in front of, or a prompt that is none.
        """
        if raw:
            if not self.keeps_prompts or system is not None:
                what = "a prompt" if system is None else "a system message"
                raise InputError(f"raw takes prompts as they are, and {what} in front of them needs the chat template")
            return list(prompts)
        asked = prompts if system is None else [with_system(as_messages(prompt), system) for prompt in prompts]
        return [self.prompt(prompt) for prompt in asked]


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

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The weights that were trained, by name; none where nothing was."""
        return {}

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
    before = model.changed_by
    with steerable.applied(model, direction, share, force=force) as at_work:
        model.changed_by = steerable.method if steerable.changes_weights else before
        try:
            yield at_work
        finally:
            model.changed_by = before


@dataclass(frozen=True)
class Use:
    """A steerable, and what it is to do beside others.

    Args:
        steerable: A vector, or a baseline.
        direction: `elicit` or `suppress`.
        multiplier: As of `applied`.
        scale: What the multiplier of a vector moves along: `gap` (the default) or `published`.
        values: Clamp a vector's coordinates to these instead, one a rank.

    Raises:
        InputError: A scale or values for a baseline, or values beside a multiplier or scale.
    """

    steerable: Steerable
    direction: str = "elicit"
    multiplier: float | None = None
    scale: str | None = None
    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        is_baseline = isinstance(self.steerable, Baseline)
        if is_baseline and (self.scale, self.values) != (None, None):
            raise InputError(
                f"values and scale (--at and --scale) are about a vector's coordinate, and "
                f"{self.steerable.method} is a baseline; leave them out"
            )
        if self.values is not None and (self.multiplier, self.scale) != (None, None):
            raise InputError("values set the coordinate itself; leave out multiplier and scale")

    def steering(self) -> Steering | None:
        """What a vector does; None for a baseline.

        Raises:
            InputError: A direction, multiplier, scale or values that the vector cannot take.
        """
        if isinstance(self.steerable, Baseline):
            return None
        if self.values is not None:
            return self.steerable.at(*self.values)
        return self.steerable.steering(self.direction, self.multiplier, self.scale or "gap")


def check_together(uses: Sequence[Use]) -> None:
    """Raise InputError unless these can act together: any number of vectors, and one baseline."""
    names = [use.steerable.method for use in uses if isinstance(use.steerable, Baseline)]
    if len(names) > 1:
        raise InputError(f"{' and '.join(names)} are baselines, of which one at a time can be at work")
    for use in uses:
        use.steering()


@contextmanager
def applied_together(model: Model, uses: Sequence[Use], *, force: bool = False) -> Iterator[Applied]:
    """Several steerables at work on a model at once: the vectors' edits add up, and one baseline may stand beside them.

    Args:
        model: The model.
        uses: What each is to do.
        force: Let another family, prefix or template pass; for a baseline other weights too.

    Raises:
        InputError: Two baselines, one of them that does not fit, or what it is to do and cannot.
    """
    check_together(uses)
    rows: list[Steering] = []
    work: AbstractContextManager[Applied] = nullcontext(Applied())
    for use in uses:
        if isinstance(use.steerable, Baseline):
            work = applied(model, use.steerable, use.direction, use.multiplier, force=force)
            continue
        require_fit(model, use.steerable, force=force)
        steering = use.steering()
        assert steering is not None
        rows.append(adopted(model, steering, force=force))
    with work as at_work:
        yield replace(at_work, steering=reduce(add, rows)) if rows else at_work
