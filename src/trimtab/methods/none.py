"""None: the plain model, with which everything is to be compared.

    p(y | x) stays p(y | x), in both directions

What it scores is what the prompts bring about by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.vectors import origin
from trimtab.methods.method import Method
from trimtab.methods.saved import Saved
from trimtab.methods.steerable import Applied, Baseline, require_one
from trimtab.models import Model
from trimtab.steering import ModelCard
from trimtab.steering.content import JSON
from trimtab.steering.factors import DIRECTIONS


@dataclass(frozen=True)
class NoSettings:
    """There is nothing to be set."""


@dataclass(frozen=True, eq=False)
class Nothing(Baseline):
    """The plain model; attributes as of every `Baseline`."""

    model: ModelCard
    settings: Mapping[str, JSON]
    provenance: Mapping[str, JSON]
    method: str = "none"
    directions: Sequence[str] = DIRECTIONS

    def check_fits(self, model: Model) -> list[str]:
        """Nothing fits every model."""
        return []

    @contextmanager
    def applied(self, model: Model, direction: str, multiplier: float, *, force: bool = False) -> Iterator[Applied]:
        """The plain model.

        Raises:
            InputError: A multiplier other than 1.
        """
        require_one("none", multiplier, "nothing has no strength")
        yield Applied()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write its directory, atomically; InputError as `Saved.write`."""
        return Saved.of(self).write(path, overwrite=overwrite)


def fit_none(model: Model, pairs: PairSet, settings: NoSettings, options: FitOptions) -> Nothing:
    """Nothing is learnt; the pairs are noted."""
    return Nothing(model.card(), {}, origin(model, pairs) | {"training": {"seconds": 0.0, "steps": 0}})


def restore_none(saved: Saved) -> Nothing:
    """From its folder."""
    saved.check_directions(Nothing.directions)
    return Nothing(saved.model, saved.settings, saved.provenance)


NONE = Method(
    name="none",
    family="baseline",
    paper="a control",
    summary="the plain model, unchanged",
    settings=NoSettings,
    fit=fit_none,
    places="model",
    restore=restore_none,
)
