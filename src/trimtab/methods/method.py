"""What a method is to the rest of the house."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.data import PairSet
from trimtab.errors import FitDivergedError
from trimtab.fitting import FitOptions
from trimtab.methods.saved import Saved
from trimtab.methods.steerable import Baseline, Steerable
from trimtab.models import Model
from trimtab.steering import SteeringVector


@dataclass(frozen=True)
class Method:
    """One published recipe that turns a model and data into something that steers.

    Args:
        name: As the registry and the command line know it.
        family: `interchange`, `closed-form`, ...
        paper: Where it comes from.
        summary: One line.
        settings: Its frozen settings dataclass.
        fit: (model, pairs, settings, options) -> vector; of a baseline, the baseline.
        trial: settings -> those of a short fit, good enough to compare layers; None where a fit is cheap anyway.
        places: `layer`: it edits at the layers it is told, or at one that is looked for; `model`: it finds its places
            by itself (every block, or the best of all) or edits no state, takes no layer, and none is looked for.
        needs: What else it must be told that no default can be, in words for people; empty for most.
        many: (model, concepts, settings, options) -> a vector each, or the error in place of one that diverged: all
            trained together. None if there is nothing to gain.
        restore: Of a baseline, (what was read from its folder) -> the baseline; None for methods that make vectors.
    """

    name: str
    family: str
    paper: str
    summary: str
    settings: type
    fit: Callable[[Any, Any, Any, Any], Steerable]
    trial: Callable[[Any], Any] | None = None
    places: Literal["layer", "model"] = "layer"
    needs: str = ""
    many: Callable[[Any, Any, Any, Any], Sequence[SteeringVector | FitDivergedError]] | None = None
    restore: Callable[[Saved], Baseline] | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether it makes a baseline, which edits no hidden state, and no vector."""
        return self.restore is not None

    def vector(self, model: Model, pairs: PairSet, settings: object, options: FitOptions) -> SteeringVector:
        """What `fit` makes, of a method that makes vectors."""
        made = self.fit(model, pairs, settings, options)
        assert isinstance(made, SteeringVector)
        return made
