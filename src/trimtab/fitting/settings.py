"""Settings that every interchange-trained method shares, checked when they are made."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from trimtab.errors import InputError
from trimtab.steering import Positions

WEIGHTINGS = ("minibatch", "response")
STARTS = ("random", "means")
SCHEDULES = ("linear", "cosine")
MAX_SEED = 2**63 - 1
"""What torch's generators take."""
MAX_STEP = 1e6
"""Largest learning rate and weight decay: directions have length 1, so nothing above can mean anything."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrainSettings:
    """How a direction is trained.

    Args:
        layer: 0-based block whose output is edited.
        epochs: Passes over the pairs.
        lr: First learning rate of AdamW; it falls to 0.
        batch_size: Pairs a step; each gives one item a direction, so a step sees twice as many sequences.
        seed: Seeds the start vector and the order of the pairs.
        positions: Which tokens of prompt and response are edited: all, prompt, response, last, f<N>+l<M>.
        rank: Number of directions r.
        weighting: `minibatch` (published: mean over the scored tokens of each of a step's two minibatches) or
            `response` (mean over each response, then over responses).
        start: Where training begins if no start vector is given: `random` (published) or `means`, along the difference
            of the classes' mean source states, from where far fewer epochs suffice.
        grad_clip: Largest norm of the gradient.
        weight_decay: Of AdamW.
        schedule: How the learning rate falls: `linear` (published) or `cosine`.
        warmup_steps: Steps over which it rises from 0 before.
        max_response_tokens: Cut responses to this many tokens; None = whole.
        truncate: Cut responses that do not fit the context instead of refusing them.
        cache_bytes: Memory for frozen states and teacher distributions; what does not fit is computed again each step.
        max_tokens: Most tokens in one forward of the blocks above the site.

    Raises:
        InputError: A setting that is no finite number or outside its range.
    """

    layer: int | tuple[int, ...]
    epochs: int = 18
    lr: float = 0.04
    batch_size: int = 8
    seed: int = 42
    positions: str = "all"
    rank: int = 1
    weighting: str = "minibatch"
    start: str = "random"
    grad_clip: float = 1.0
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup_steps: int = 0
    max_response_tokens: int | None = None
    truncate: bool = False
    cache_bytes: int = 2 * 1024**3
    max_tokens: int = 8192

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", checked_layers(self.layer))
        check_number("cache_bytes", self.cache_bytes, least=0, whole=True)
        check_number("seed", self.seed, least=0, most=MAX_SEED, whole=True)
        check_number("weight_decay", self.weight_decay, least=0, most=MAX_STEP)
        for name in ("epochs", "batch_size", "rank", "max_tokens"):
            check_number(name, getattr(self, name), least=1, whole=True)
        check_number("lr", self.lr, above=0, most=MAX_STEP)
        check_number("grad_clip", self.grad_clip, above=0)
        if self.max_response_tokens is not None:
            check_number("max_response_tokens", self.max_response_tokens, least=1, whole=True)
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting is {self.weighting!r}; allowed: {', '.join(WEIGHTINGS)}")
        check_number("warmup_steps", self.warmup_steps, least=0, whole=True)
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if self.start not in STARTS:
            raise InputError(f"start is {self.start!r}; allowed: {', '.join(STARTS)}")
        Positions.parse(self.positions)

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited blocks in ascending order, of which there is one or more."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a 0-based step of `steps`, as a part of `lr`."""
        return falling_rate(self.schedule, self.warmup_steps, step, steps)


def falling_rate(schedule: str, warmup_steps: int, step: int, steps: int) -> float:
    """The part of the first learning rate that a 0-based step of `steps` has: it rises for a while, then falls to 0."""
    warm = min(warmup_steps, steps - 1)
    if step < warm:
        return (step + 1) / (warm + 1)
    left = 1 - (step - warm) / (steps - warm)
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


@dataclass(frozen=True)
class InterchangeSettings(TrainSettings):
    """How directions are trained along which coordinates are exchanged.

    Args:
        tangent: Whether steps go along the sphere of directions: the part of the gradient along the directions
            themselves, which changes nothing that they do, is taken out before the optimiser sees it. Published code
            leaves it in; AdamW, which scales every coordinate by itself, then pulls a direction towards its own signs.

    Raises:
        InputError: A setting that is no finite number or outside its range.
    """

    tangent: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tangent, bool):
            raise InputError(f"tangent is {self.tangent!r}; give true or false")


def checked_layers(layer: object) -> int | tuple[int, ...]:
    """A block number, or several in ascending order; one alone is a number.

    Raises:
        InputError: Something else, a negative number, or one that is named twice.
    """
    if not isinstance(layer, (list, tuple)):
        check_number("layer", layer, least=0, whole=True)
        assert isinstance(layer, int)
        return layer
    for number in layer:
        check_number("layer", number, least=0, whole=True)
    if not layer or len({*layer}) != len(layer):
        raise InputError(f"layer is {list(layer)}; name one block or several, each once")
    return layer[0] if len(layer) == 1 else tuple(sorted(layer))


TRIAL_EPOCHS, TRIAL_BATCH = 2, 2


def trial_settings(settings: T, *, start: str = "means") -> T:
    """Settings of a fit that is just good enough to tell layers apart: from the means, in few, small, shorter steps.

    Where a method knows no means, it begins at another `start`.

    Measured in docs/design/calibration.md.
    """
    assert isinstance(settings, TrainSettings)
    batch = min(settings.batch_size, TRIAL_BATCH)
    return dataclasses.replace(
        settings,
        epochs=min(settings.epochs, TRIAL_EPOCHS),
        batch_size=batch,
        lr=settings.lr * (batch / settings.batch_size) ** 0.5,
        start=start,
    )


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Raise InputError unless `value` is a finite number (an integer where `whole`) within the bounds given."""
    bound = f"at least {least}" if least is not None else f"above {above}"
    bound += "" if most is None else f" and at most {most:g}"
    kind = "a whole number" if whole else "a finite number"
    allowed = (int,) if whole else (int, float)
    # NaN is not, and an integer may be too large to be a float
    good = isinstance(value, allowed) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if good and all(
        [least is None or value >= least, above is None or value > above, most is None or value <= most]  # pyright: ignore
    ):
        return
    raise InputError(f"{name} is {value!r}; it must be {kind} {bound}")


def build_settings(cls: type[T], values: Mapping[str, object]) -> T:
    """A settings dataclass from named values.

    Raises:
        InputError: A name the method does not have (with the nearest one it has), or a missing or bad value.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"unknown setting {name!r}{hint} (allowed: {', '.join(fields)})")
    missing = [name for name, field in fields.items() if _is_required(field) and name not in values]
    if missing:
        raise InputError(f"setting {missing[0]!r} is missing; give it a value")
    return cls(**values)


def _is_required(field: dataclasses.Field[object]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
