"""Which layer, which multiplier: what a fit is asked when it is not told.

Both are found on inputs that the fit does not see, from what the steered model writes by itself
(`trimtab.fitting.calibration`); no judge, no labels. For the layer, a short trial fit is made at every candidate, and
tried on a few inputs; at the better ones the fit itself is made, and tried on more.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from trimtab.data import PairSet, TokenisedPair, tokenise_pairs
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting.calibration import HIGH, Curve, Effect, Reader, calibrated_curves
from trimtab.fitting.held_out import FEWEST_INPUTS, LONGEST, MOST_INPUTS, Split, drawn, with_room
from trimtab.fitting.joining import joined
from trimtab.models.model import Model
from trimtab.progress import Progress, ProgressCallback, renamed
from trimtab.steering import Steering, SteeringVector
from trimtab.steering.content import JSON
from trimtab.steering.factors import DIRECTIONS

logger = logging.getLogger(__name__)

CONTRAST = 0.5
"""How much more often natural answers to positive prompts must read as such than those to negative ones."""
CANDIDATES = 8
"""Layers that are tried at first; in a deeper model neighbours of the best follow."""
TRIAL_PAIRS = 32
"""Pairs of a trial fit, at most; and no more than half of those to learn from, if these are many."""
ROUNDS = ((10, (1.0, 1.5)), (24, (1.0, 1.25, 1.5)))
"""(inputs, multipliers) on which trial fits compete, and the whole fits of the best."""
WIDER = (2.25, 3.4)
"""More multipliers, where no layer serves both directions well at those."""
BEHIND = 0.25
"""A layer whose effect (harmonic mean of the directions) is so far behind the best one's drops out."""
POOR = 0.5
"""If no more than this effect is reached at any layer that short fits chose, whole fits are made at all of them."""
FEW = 0.1
"""A multiplier with no more effect than this is not worth storing: it would be found in noise."""
FINALISTS = 3
"""Layers at which whole fits compete, at most."""

Tried = tuple[Effect, Steering]
Place = TypeVar("Place", bound=Hashable)
"""What competes: a layer, or a layer and how states are read."""
Contest = Mapping[int, Mapping[str, Tried]]
"""By layer and direction: the greatest effect, and the steering that has it."""
Trial = Callable[[PairSet, int], SteeringVector]
"""(pairs, layer) -> the vector of a short fit."""


@dataclass(frozen=True)
class Calibrated:
    """A vector with its multipliers.

    Attributes:
        vector: The vector.
        shares: Answers turned, in each direction that is wanted; empty where that cannot be measured.
        warnings: What is to be said of each direction if it is taken.
    """

    vector: SteeringVector
    shares: Mapping[str, float]
    warnings: Mapping[str, str]

    @property
    def effect(self) -> float:
        """The harmonic mean of the shares, 1 without any."""
        return _harmonic([*self.shares.values()] or [1.0])

    @property
    def poor(self) -> list[str]:
        """The directions in which few answers are turned."""
        return [way for way, share in self.shares.items() if share <= POOR]


def calibration_inputs(model: Model, split: Split) -> Sequence[TokenisedPair]:
    """What is calibrated on: at most `MOST_INPUTS` pairs, drawn at random, with room for answers.

    Raises:
        InputError: Pairs that do not fit the model's context, or fewer than two.
    """
    context = model.context_length or sys.maxsize
    pairs = drawn(split.calibration, MOST_INPUTS, "calibration inputs")
    if len(pairs) < 2:
        raise InputError(
            f"too few pairs to calibrate on: {len(pairs)}; give at least two, or a layer (--layer N) and "
            "--no-calibrate (calibrate=False)"
        )
    return with_room(tokenise_pairs(model.chat, pairs, context_length=context, truncate=True), context)


class Search:
    """Looks for layer and multipliers on one set of pairs.

    Args:
        model: The model.
        split: Pairs to learn from and to calibrate on; of the latter at most `MOST_INPUTS` are used, drawn at random.
        progress: Told of every stage.
        directions: What the layer is to serve. Multipliers are found for all that a vector has.

    Raises:
        InputError: Pairs that do not fit the model's context, or fewer than two.
    """

    def __init__(
        self,
        model: Model,
        split: Split,
        progress: ProgressCallback | None = None,
        directions: Sequence[str] = DIRECTIONS,
    ) -> None:
        self._model, self._split, self._progress = model, split, progress
        self._wanted = frozenset(directions)
        self._told: list[str] | None = None
        pairs = calibration_inputs(model, split)
        self._reader = Reader(
            model,
            [pair.positive for pair in pairs],
            [pair.negative for pair in pairs],
            [(len(pair.positive_response), len(pair.negative_response)) for pair in pairs],
            max_new_tokens=LONGEST,
            progress=renamed(progress, lambda _: "calibrate"),
        )

    @property
    def is_possible(self) -> bool:
        """Whether the model's own answers to the two classes of prompts can be told apart at all."""
        return self._reader.contrast >= CONTRAST

    @contextmanager
    def keeping(self, told: list[str]) -> Iterator[None]:
        """Keeps what there is to be said of vectors in a list instead of saying it: where some are tried in vain."""
        before, self._told = self._told, told
        try:
            yield
        finally:
            self._told = before

    def _tell(self, warning: str) -> None:
        if self._told is None:
            logger.warning("%s", warning)
        else:
            self._told.append(warning)

    def _tell_poor(self, layer: int, shares: Mapping[str, float]) -> None:
        """Says which directions the layer that is taken does not serve."""
        poor = [way for way, share in shares.items() if share <= POOR]
        if poor:
            self._tell(
                f"layer {layer} is taken, where the vector can {' and '.join(poor)} at most half of the answers; no "
                "layer does better both ways"
            )

    def serving(self, directions: Sequence[str]) -> Search:
        """The same search for a layer that is to serve other directions; what was read is not read again."""
        other = copy.copy(self)
        other._wanted = frozenset(directions)
        return other

    def vector(self, short: Trial | None, whole: Trial) -> SteeringVector:
        """The calibrated vector at the best layer; its provenance has the record of the competition.

        Where it turns too few answers, whole fits compete at all layers: a short one does not always end where the
        whole one does. A direction that no layer serves together with the other comes from the layer that serves it
        alone.

        Args:
            short: Makes a short fit; None if there is nothing shorter than the whole.
            whole: Makes the fit itself.
        """
        made: dict[int, SteeringVector] = {}
        once = _kept_in(made, whole)
        layer, found, record = self._best_calibrated(short, once, made)
        vector, served = found.vector, dict.fromkeys(found.shares, layer)
        warnings, alone = dict(found.warnings), {}
        for way in found.poor if len(served) > 1 else ():
            its_layer, its, again = self.serving((way,))._best_calibrated(None, once, made)
            record += again
            if its_layer != layer and not its.poor:
                alone[way], served[way] = its.vector, its_layer
                warnings.pop(way, None)
        if alone and alone.keys() == served.keys():  # nothing of the first vector is left, nor may its settings be
            vector = next(iter(alone.values()))
        for way, its_vector in alone.items():
            vector = vector if its_vector is vector else joined(vector, way, its_vector)
        if len({*served.values()}) > 1:
            where = ", ".join(f"layer {at} to {way}" for way, at in served.items())
            self._tell(f"no layer serves both directions well; the vector has two: {where}")
        self._tell_poor(layer, {way: share for way, share in found.shares.items() if served[way] == layer})
        for warning in warnings.values():
            self._tell(warning)
        return dataclasses.replace(vector, provenance={**vector.provenance, "layers": record}) if record else vector

    def layer(self, short: Trial | None, whole: Trial) -> tuple[int, list[JSON]]:
        """The layer at which a fit turns most answers, and the record of the competition.

        Short fits compete at all layers, whole ones at the best of these: what else a vector moves is only known when
        its fit has ended. Where short fits turn few answers at any layer, whole ones are made at all. It is the middle
        layer, with a warning, where the classes cannot be told apart. Arguments as in `vector`.
        """
        contest, record = self._best_layers(short, _kept_in({}, whole))
        if not contest:
            return self._middle, record
        best, tried = next(iter(contest.items()))
        self._tell_poor(best, {way: effect.share for way, (effect, _) in tried.items()})
        return best, record

    def _best_layers(self, short: Trial | None, whole: Trial) -> tuple[Contest, list[JSON]]:
        """The layers that are left in the end, best first; none where the classes cannot be told apart."""
        contest, record = {}, []
        if not self.is_possible:
            self._tell(f"{self._alike()}; layer {self._middle}, the middle one, is taken")
            return contest, record
        if short is not None:
            contest, record = self._competition(short, self._trial_pairs(), whole)
        if not contest or _served(contest.values()) <= POOR:
            if contest:
                logger.info("few answers are turned at any layer; whole fits are made at all")
            contest, again = self._competition(whole, self._split.train, whole)
            record += again
        return contest, record

    def _best_calibrated(
        self, short: Trial | None, whole: Trial, made: Mapping[int, SteeringVector]
    ) -> tuple[int, Calibrated, list[JSON]]:
        """The layer whose calibrated vector turns most answers, that vector, and the record of the competition.

        The first layer that turns enough is taken. `made` are the whole fits so far.
        """
        contest, record = self._best_layers(short, whole)
        order = list(contest) or [self._middle]
        tried = {order[0]: self._calibrated(whole(self._split.train, order[0]))}
        if tried[order[0]].effect < HIGH and not made.keys() >= {*self.candidates} and contest:
            logger.info("layer %d turns %.0f %% of the answers; whole fits are made at all",
                        order[0], 100 * tried[order[0]].effect)  # fmt: skip
            contest, again = self._competition(whole, self._split.train, whole)
            record, order = record + again, list(contest)
        for layer in order:
            if max(found.effect for found in tried.values()) >= HIGH:
                break
            if layer not in tried:
                tried[layer] = self._calibrated(whole(self._split.train, layer))
        best = max(tried, key=lambda layer: tried[layer].effect)
        return best, tried[best], record

    @property
    def _middle(self) -> int:
        """The layer that is taken where nothing says which."""
        return self._last // 2

    @property
    def _last(self) -> int:
        """The first layer that is not looked at: an edit behind the last block reaches nothing but the head."""
        return max(1, self._model.n_blocks - 1)

    @property
    def _step(self) -> int:
        """Distance between the layers that are tried at first."""
        return -(-self._last // CANDIDATES)

    @property
    def candidates(self) -> range:
        """The layers that are tried at first."""
        return range(self._step // 2, self._last, self._step)

    def _competition(self, trial: Trial, pairs: PairSet, whole: Trial) -> tuple[Contest, list[JSON]]:
        """The layers that are left of all, best first: those of trial fits compete, then whole fits at the best ones.

        In a deep model the neighbours of the best of the first ones take part. Where trial fits turn few answers at any
        layer, no whole ones follow.
        """
        (n, grid), (more, finer) = ROUNDS
        stage = "whole fits" if trial is whole else "trial fits"
        vectors = self._fits(trial, pairs, self.candidates, stage=stage)
        contest = self._tried(vectors, grid, n)
        if self._step > 1:
            best, half = self._ordered(contest, n)[0], self._step // 2
            beside = [layer for layer in (best - half, best + half) if 0 <= layer < self._last and layer not in vectors]
            contest |= self._tried(self._fits(trial, pairs, beside, stage=stage, needed=False), grid, n)
        record = _record(contest, n)
        order = self._ordered(contest, n)[:FINALISTS]
        hopeless = trial is not whole and _served(contest.values()) <= POOR
        if len(order) > 1 and not hopeless:
            finalists = self._fits(whole, self._split.train, order, stage="whole fits")
            contest = self._tried(finalists, finer, more)
            record += _record(contest, more)
            order = self._ordered(contest, more, behind=1.0)
        return {layer: contest[layer] for layer in order}, record

    def calibrated(self, vector: SteeringVector) -> SteeringVector:
        """The vector with the best multiplier of each direction, and the curves behind it in its provenance."""
        found = self._calibrated(vector)
        for warning in found.warnings.values():
            self._tell(warning)
        return found.vector

    def best_of(self, vectors: Mapping[str, Mapping[Place, SteeringVector]]) -> dict[str, SteeringVector]:
        """Of each of several methods the vector of its best place, calibrated; all are tried in the same batches.

        As a search does it, but fits are compared as they are: no short ones before, and none after.

        Args:
            vectors: By name of the method and by place: a layer, or whatever else its fits differ in. A method with
                one vector only is calibrated as it is.
        """
        (n, grid), _ = ROUNDS
        several = {name: by_layer for name, by_layer in vectors.items() if len(by_layer) > 1}
        flat = {(name, layer): vector for name, by_layer in several.items() for layer, vector in by_layer.items()}
        tried = dict(zip(flat, self._best(list(flat.values()), grid, n) if flat else [], strict=True))
        poor = [
            name for name, by_layer in several.items() if _served([tried[name, layer] for layer in by_layer]) <= POOR
        ]
        again = {key: vector for key, vector in flat.items() if key[0] in poor}
        for key, wider in zip(again, self._best(list(again.values()), WIDER, n) if again else [], strict=True):
            for way, each in wider.items():
                tried[key][way] = max(tried[key][way], each, key=lambda one: one[0].rank)
        chosen = {name: next(iter(by_layer)) for name, by_layer in vectors.items()}
        for name, by_layer in several.items():
            chosen[name] = self._ordered({layer: tried[name, layer] for layer in by_layer}, n)[0]
        best = {name: by_layer[chosen[name]] for name, by_layer in vectors.items()}
        able = {name: vector for name, vector in best.items() if self.is_possible and _can_be_scaled(vector)}
        curves = dict(zip(able, calibrated_curves(self._reader, list(able.values())), strict=True))
        return {name: self._with_curves(vector, curves.get(name)).vector for name, vector in best.items()}

    def effect(self, vector: SteeringVector) -> float | None:
        """What a vector that was calibrated here reached: the harmonic mean of the answers turned each wanted way.

        None where there is nothing to be calibrated.
        """
        calibration = vector.provenance["calibration"]
        assert isinstance(calibration, dict)
        found = cast("dict[str, dict[str, float]]", calibration["directions"])
        wanted = [entry["effect"] for way, entry in found.items() if way in self._wanted]
        return _harmonic(wanted) if wanted else None

    def _calibrated(self, vector: SteeringVector) -> Calibrated:
        able = self.is_possible and _can_be_scaled(vector)
        return self._with_curves(vector, calibrated_curves(self._reader, [vector])[0] if able else None)

    def _with_curves(self, vector: SteeringVector, curves: Mapping[str, Curve] | None) -> Calibrated:
        found: dict[str, JSON] = {
            "inputs": self._reader.n,
            "held_out": self._split.is_held_out,
            "contrast": self._reader.contrast,
        }
        multipliers, record, shares, warnings = dict(vector.multipliers), {}, {}, {}
        if not self.is_possible:
            warnings["any"] = f"{self._alike()}; the multiplier stays at 1"
        elif curves is None:
            logger.info("nothing of this vector is scaled by a multiplier; none is looked for")
        else:
            shares = {way: curve.greatest.share for way, curve in curves.items() if way in self._wanted}
            for direction, curve in curves.items():
                record[direction] = {"effect": curve.greatest.share, "curve": curve.record()}
                if curve.greatest.share > FEW:
                    multipliers[direction] = curve.best
                    record[direction]["side_effects"] = [[m, kl] for m, kl in sorted(curve.side_effects.items())]
                else:
                    warnings[direction] = (
                        f"no multiplier makes this vector {direction} more than {curve.greatest.share:.0%} of "
                        f"{self._reader.n} inputs; it stays at 1, and another layer or more pairs may help"
                    )
        found["directions"] = record
        provenance = {**vector.provenance, "calibration": found}
        made = dataclasses.replace(vector, multipliers=multipliers, provenance=provenance)
        return Calibrated(made, shares, warnings)

    def _alike(self) -> str:
        return (
            f"the model answers prompts with and without the concept too much alike to tell them apart "
            f"(contrast {self._reader.contrast:.2f}, needed {CONTRAST})"
        )

    def _trial_pairs(self) -> PairSet:
        """What short fits learn from."""
        n = len(self._split.train)
        return drawn(self._split.train, min(n, TRIAL_PAIRS, max(FEWEST_INPUTS, n // 2)), "trial pairs")

    def _fits(
        self, trial: Trial, pairs: PairSet, layers: Sequence[int], *, stage: str, needed: bool = True
    ) -> dict[int, SteeringVector]:
        """Fits at these layers; one that diverges or is refused drops out, all of them is an error if one is needed."""
        started, found, failures = time.monotonic(), {}, {}
        for number, layer in enumerate(layers, 1):
            try:
                found[layer] = trial(pairs, layer)
            except (FitDivergedError, InputError) as error:
                failures[layer] = error
            if self._progress is not None:
                self._progress(Progress(stage, number, len(layers), time.monotonic() - started))
        if failures and not found and needed:
            raise next(iter(failures.values()))
        for layer, error in failures.items():
            self._tell(f"layer {layer} drops out of the search: {error}")
        return found

    def _ordered(self, of: Mapping[Place, Mapping[str, Tried]], n: int, behind: float = BEHIND) -> list[Place]:
        """The layers that are not far behind, best first, tried on `n` inputs.

        One answer less counts as equal; of equals the one comes first that does least where nothing is to be done.
        """
        rank = _together if _served(of.values()) > POOR else _apart
        ranks = {layer: rank({way: effect for way, (effect, _) in tried.items()}) for layer, tried in of.items()}
        best, _ = max(ranks.values())
        spilt = {
            layer: sum(self._reader.side_effect(way, steering, n) for way, (_, steering) in tried.items())
            for layer, tried in of.items()
            if ranks[layer][0] >= best - 1.01 / n
        }
        others = [layer for layer in of if layer not in spilt and ranks[layer][0] >= best - behind]
        return sorted(spilt, key=spilt.__getitem__) + sorted(others, key=ranks.__getitem__, reverse=True)

    def _tried(
        self, vectors: Mapping[int, SteeringVector], grid: Sequence[float], n: int
    ) -> dict[int, dict[str, Tried]]:
        """What each layer does at its best multiplier of the grid; of a wider one if none serves both directions."""
        if not vectors:
            return {}
        found = self._best(list(vectors.values()), grid, n)
        if _served(found) <= POOR:
            for tried, wider in zip(found, self._best(list(vectors.values()), WIDER, n), strict=True):
                for way, each in wider.items():
                    tried[way] = max(tried[way], each, key=lambda one: one[0].rank)
        return dict(zip(vectors, found, strict=True))

    def _best(self, vectors: Sequence[SteeringVector], grid: Sequence[float], n: int) -> list[dict[str, Tried]]:
        """The greatest effect of each vector in each of its directions; all answers in one batch."""
        plan = [
            (k, direction, vector.steering(direction, m))
            for k, vector in enumerate(vectors)
            for direction in ([way for way in vector.directions if way in self._wanted] or vector.directions)
            for m in grid
        ]
        effects = self._reader.effects([(direction, steering) for _, direction, steering in plan], n)
        found: list[dict[str, Tried]] = [{} for _ in vectors]
        for (k, direction, steering), effect in zip(plan, effects, strict=True):
            if direction not in found[k] or effect.rank > found[k][direction][0].rank:
                found[k][direction] = effect, steering
        return found


def _can_be_scaled(vector: SteeringVector) -> bool:
    """Whether a multiplier changes anything."""
    return any(edit.scales != "nothing" for edit in vector.edits)


def _kept_in(made: dict[int, SteeringVector], fit: Trial) -> Trial:
    """The fit, made once a layer."""

    def once(pairs: PairSet, layer: int) -> SteeringVector:
        if layer not in made:
            made[layer] = fit(pairs, layer)
        return made[layer]

    return once


def _record(contest: Contest, n: int) -> list[JSON]:
    return [
        {"layer": layer, "inputs": n, **{way: effect.share for way, (effect, _) in tried.items()}}
        for layer, tried in contest.items()
    ]


def _served(found: Iterable[Mapping[str, Tried]]) -> float:
    """The best layer's effect in all its directions."""
    return max(_together({way: effect for way, (effect, _) in tried.items()})[0] for tried in found)


def _together(effects: Mapping[str, Effect]) -> tuple[float, float]:
    """What layers are compared by: the harmonic mean, as a layer must serve all directions; then what came near.

    It is that of the degrees: where one layer turns answers by half and another throughout, the shares may be equal.
    """
    return _harmonic([effect.degree for effect in effects.values()]), _nearness(effects)


def _harmonic(shares: Sequence[float]) -> float:
    return len(shares) / sum(1 / share for share in shares) if all(shares) and shares else 0.0


def _apart(effects: Mapping[str, Effect]) -> tuple[float, float]:
    """What they are compared by where none serves all: the mean, of which eliciting, a vector's main use, is more."""
    weights = {way: 2.0 if way == "elicit" else 1.0 for way in effects}
    total = sum(weights[way] * effect.degree for way, effect in effects.items())
    return total / sum(weights.values()), _nearness(effects)


def _nearness(effects: Mapping[str, Effect]) -> float:
    return sum(sum(effect.rank) for effect in effects.values())
