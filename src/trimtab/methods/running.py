"""One fit of one method: at a layer it is told or one that is looked for, with a reading it is told or looks for."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions, FrozenRuns
from trimtab.fitting.calibration import HIGH
from trimtab.fitting.held_out import Split
from trimtab.fitting.search import POOR, Search, Trial, calibration_inputs
from trimtab.fitting.settings import build_settings
from trimtab.fitting.states import SharedStates
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector
from trimtab.steering.content import JSON
from trimtab.steering.factors import DIRECTIONS

logger = logging.getLogger(__name__)

Layer = int | Sequence[int] | str

SHARED_BYTES = 2 * 1024**3
"""Most that fits of one search keep of the forwards they share, for each set of pairs, unless `cache_bytes` says."""

AUTO: Mapping[str, Sequence[str]] = MappingProxyType(
    {"auto": DIRECTIONS, **{f"auto:{direction}": (direction,) for direction in DIRECTIONS}}
)
"""What `layer` may be besides a number, and the directions that the layer is then to serve."""

TRIED_READINGS = ("last", "response", "tokens", "mean")
"""What is read of a row where that is looked for, besides a method's own."""
ALIKE = frozenset({"tokens", "mean"})
"""Of these, one is enough: the means of all tokens are nearly those of rows."""


def settings_at(method: Method, layer: int | Sequence[int], settings: Mapping[str, object]) -> Any:
    """The settings of a fit at a layer, which a method that finds its places has no use for."""
    place = {} if method.places == "model" else {"layer": layer}
    return build_settings(method.settings, {**place, **settings})


def readings_of(method: Method, settings: Mapping[str, object]) -> tuple[str, ...]:
    """The readings that `reading="auto"` tries, the method's own first; none if it has no such setting.

    Args:
        method: The method.
        settings: The other settings.
    """
    fields = {field.name: field for field in dataclasses.fields(method.settings)}
    if "reading" not in fields:
        return ()
    found = [str(fields["reading"].default)]
    for reading in TRIED_READINGS:
        if reading in found or (reading in ALIKE and ALIKE & {*found}):
            continue
        try:
            settings_at(method, 0, {**settings, "reading": reading})
        except InputError:
            continue
        found.append(reading)
    return tuple(found)


def check_settings(method: Method, layer: Layer, settings: Mapping[str, object]) -> None:
    """Raise InputError unless these are settings of the method; `reading` may be `auto`."""
    if settings.get("reading") == "auto":
        settings = _without_reading(settings)
        if not readings_of(method, settings):
            raise InputError(f"{method.name} reads no states of the two classes; leave out the setting 'reading'")
    settings_at(method, 0 if isinstance(layer, str) else layer, settings)


@dataclass(frozen=True)
class Fit:
    """A method on the pairs of one concept.

    Args:
        method: The method.
        model: The model.
        pairs: All of them; what is learnt from where no multiplier is looked for.
        split: They, or some of them, to learn from, and what is calibrated on.
        layer: A block number, several, or a word of `AUTO`.
        settings: Besides the layer; checked.
        options: What the fit is given besides.
    """

    method: Method
    model: Model
    pairs: PairSet
    split: Split
    layer: Layer
    settings: Mapping[str, object]
    options: FitOptions

    def vector(self, *, calibrate: bool) -> SteeringVector:
        """The vector; see `trimtab.fit`.

        Raises:
            InputError: Pairs that cannot be used, or `reading="auto"` without calibration.
            FitDivergedError: The loss left the finite numbers.
        """
        if self.settings.get("reading") != "auto":
            if not calibrate:
                return self._plain()
            vector = self._calibrated(self.settings)
            self._tell_reading(vector)
            return vector
        if not calibrate:
            raise InputError(
                "reading 'auto' is found by calibrating; name a reading, or leave out --no-calibrate (calibrate=False)"
            )
        return self._with_best_reading(_without_reading(self.settings))

    @cached_property
    def _search(self) -> Search:
        """The model's own answers are written and read once for all fits."""
        wanted = AUTO[self.layer] if isinstance(self.layer, str) else DIRECTIONS
        return Search(self.model, self.split, self.options.progress, wanted)

    @cached_property
    def _shared(self) -> FitOptions:
        """What does not depend on layer or reading."""
        budget, candidates = self.settings.get("cache_bytes", SHARED_BYTES), self._search.candidates
        assert isinstance(budget, int)  # checked with the other settings
        return FitOptions(runs=FrozenRuns(candidates, budget), states=SharedStates(candidates))

    @property
    def _place(self) -> int | Sequence[int] | None:
        """Where the fit is to be made; None where that is looked for."""
        if self.method.places == "model":
            return 0  # which says nothing to it
        return None if isinstance(self.layer, str) else self.layer

    def _made(
        self, settings: Mapping[str, object], pairs: PairSet, layer: int | Sequence[int], options: FitOptions
    ) -> SteeringVector:
        return self.method.vector(self.model, pairs, settings_at(self.method, layer, settings), options)

    def _plain(self) -> SteeringVector:
        """The vector without multipliers, learnt from all pairs; the layer may be looked for."""
        place, layers = self._place, []
        if place is None:
            _, short, whole = self._trials(self.settings)
            place, layers = self._search.layer(short, whole)
        vector = self._made(self.settings, self.pairs, place, self.options)
        return dataclasses.replace(vector, provenance={**vector.provenance, "layers": layers}) if layers else vector

    def _calibrated(self, settings: Mapping[str, object]) -> SteeringVector:
        train, place = self.split.train, self._place
        if place is not None:
            calibration_inputs(self.model, self.split)  # what cannot be calibrated on is refused before the fit
            vector = self._made(settings, train, place, self.options)  # what it refuses, it refuses before any answer
            return self._search.calibrated(vector)
        made, short, whole = self._trials(settings)
        vector = self._search.vector(short, whole)
        layer = vector.edits[0].intervention.site.layer
        if self.options.trace is not None and made[-1] != layer:  # it is to be that of the layer that was found
            self._made(settings, train, layer, self.options)
        return vector

    def _trials(self, settings: Mapping[str, object]) -> tuple[list[int], Trial | None, Trial]:
        """Short fits (if there are any) and whole ones that share what does not depend on the layer.

        With the list of the layers at which whole ones were made so far.
        """
        method, model, shared, made = self.method, self.model, self._shared, list[int]()
        trial = method.trial

        def short(train: PairSet, layer: int) -> SteeringVector:
            assert trial is not None
            return method.vector(model, train, trial(settings_at(method, layer, settings)), shared)

        def whole(train: PairSet, layer: int) -> SteeringVector:
            made.append(layer)
            options = dataclasses.replace(self.options, runs=shared.runs, states=shared.states)
            return self._made(settings, train, layer, options)

        return made, None if trial is None else short, whole

    def _with_best_reading(self, settings: Mapping[str, object]) -> SteeringVector:
        """The calibrated vector of the reading that turns most answers; one that turns nearly all ends the search.

        A reading that the method refuses on these pairs drops out.
        """
        search, made, told = self._search, dict[str, SteeringVector](), dict[str, list[str]]()
        effects: dict[str, float] = {}
        failures: dict[str, InputError] = {}
        readings = readings_of(self.method, settings)
        for reading in readings if search.is_possible else readings[:1]:
            try:
                with search.keeping(told.setdefault(reading, [])):
                    made[reading] = self._calibrated({**settings, "reading": reading})
            except InputError as error:
                failures[reading] = error
                continue
            effect = search.effect(made[reading])
            effects[reading] = 0.0 if effect is None else effect
            if effect is None or effect >= HIGH:
                break
        if not made:
            raise next(iter(failures.values()))
        chosen = max(effects, key=effects.__getitem__)
        for warning in told[chosen]:
            logger.warning("%s", warning)
        record: list[JSON] = [{"reading": reading, "effect": effect} for reading, effect in effects.items()]
        for reading, error in failures.items():
            record.append({"reading": reading, "refused": str(error)})
        return dataclasses.replace(made[chosen], provenance={**made[chosen].provenance, "readings": record})

    def _tell_reading(self, vector: SteeringVector) -> None:
        """Says that another reading may do better, where a vector does little."""
        others = readings_of(self.method, _without_reading(self.settings))[1:]
        effect = self._search.effect(vector) if others and self.method.family != "control" else None
        if effect is not None and effect <= POOR:
            logger.warning(
                "%s may do better with another reading of the states; reading='auto' (--set reading=auto) looks for it",
                self.method.name,
            )


def _without_reading(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name != "reading"}
