"""The records of a faithfulness run, put in order: what every contender has at every multiplier, concept by concept."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from trimtab.evaluation.contenders import PLAIN
from trimtab.evaluation.likelihoods import NLL as TEXT_NLL
from trimtab.evaluation.odds import Odds, mean_odds
from trimtab.evaluation.passages import JS, KL, NLL
from trimtab.evaluation.protocols.faithfulness import ANSWERS, DOSE, RUNNING, SIDES, STABILITY, pair_kind
from trimtab.evaluation.rated import Rated, rated
from trimtab.evaluation.records import Run
from trimtab.evaluation.repetition import repetition
from trimtab.evaluation.statistics import Interval, clustered

KL_RUNNING, JS_RUNNING = "running kl", "running js"
CE, CE_RUNNING = "ce", "running ce"
REPETITION, LENGTH, ENDED, PERPLEXITY = "repetition", "length", "ended", "perplexity"
PREFERENCE, UTILITY, UNDEFINED, GAIN = "preference", "utility", "undefined", "gain"


class Measure(NamedTuple):
    """How a measure is called and drawn.

    Attributes:
        title: In titles of curves.
        unit: Of the axis.
        better: As of a table's column.
        digits: Likewise.
        plain: What the plain model has by definition; None where it is measured.
    """

    title: str
    unit: str
    better: str | None
    digits: int
    plain: float | None


MEASURES: Mapping[str, Measure] = {
    KL: Measure("KL", "KL(plain || steered), nats a token", "lower", 3, 0.0),
    JS: Measure("JS", "Jensen-Shannon, nats a token", "lower", 3, 0.0),
    CE: Measure("CE change", "change of cross-entropy, nats a token", "lower", 3, 0.0),
    KL_RUNNING: Measure("KL, running text", "KL(plain || steered), nats a token", "lower", 3, 0.0),
    JS_RUNNING: Measure("JS, running text", "Jensen-Shannon, nats a token", "lower", 3, 0.0),
    CE_RUNNING: Measure("CE change, running text", "change of cross-entropy, nats a token", "lower", 3, 0.0),
    REPETITION: Measure("repetition change", "change of the share of repeated 4-grams", "lower", 3, 0.0),
    LENGTH: Measure("length ratio", "tokens of the answer / of the plain answer", None, 2, 1.0),
    ENDED: Measure("ended", "share of answers that end by themselves", "higher", 2, None),
    PERPLEXITY: Measure("perplexity", "plain model's perplexity of the answers", "lower", 2, None),
}
"""All that is measured on unrelated material, in the order of the table."""


class Spot(NamedTuple):
    """A contender in one direction at one multiplier, for all its concepts; the plain model has neither."""

    label: str
    way: str | None
    multiplier: float | None


Values = dict[str, dict[Spot, dict[Hashable, list[float]]]]
"""By measure, spot and concept (of the plain model: kind of prompts)."""


@dataclass(frozen=True)
class Results:
    """The records of a run, put in order.

    Attributes:
        run: The run.
    """

    run: Run

    @property
    def settings(self) -> Mapping[str, Any]:
        """The protocol's settings."""
        return self.run.identity["settings"]

    @cached_property
    def texts(self) -> list[Rated]:
        """All texts."""
        return rated(self.run)

    def items(self, kind: str) -> list[Mapping[str, Any]]:
        """Rows of one kind."""
        return [row for row in self.run.log("items").rows if row["kind"] == kind]

    @cached_property
    def own(self) -> dict[tuple[str, str], dict[str, float]]:
        """By label and direction, in the order of the run: each concept's own multiplier."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        for row in self.items(DOSE):
            multipliers = found.setdefault((row["label"], row["way"]), {})
            if row["own"]:
                multipliers[row["concept"]] = row["multiplier"]
        return found

    @cached_property
    def controls(self) -> dict[str, str]:
        """Labels of controls, and what each accompanies."""
        return {row["label"]: row["control_of"] for row in self.items(DOSE) if row["control_of"] is not None}

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        """Labels and directions in the order of the contenders, each with its control behind it."""
        ordered = []
        for label, way in (key for key in self.own if key[0] not in self.controls):
            ordered.append((label, way))
            ordered += [key for key in self.own if self.controls.get(key[0]) == label and key[1] == way]
        return ordered

    @cached_property
    def kinds(self) -> dict[str, str]:
        """By concept, the kind of prompts that it is measured on."""
        return {text["concept"]: text["condition"] for text in self.texts if text["way"] is not None}

    @cached_property
    def has_stability(self) -> bool:
        """Whether any fits were compared."""
        return any(row["cosines"] for row in self.items(STABILITY))

    def cosines(self, label: str, how: str | None = None, *, of_pairs: bool = False) -> dict[Hashable, list[float]]:
        """By concept, cosines of fits with the vector, or with each other; of one kind, or of both."""
        found: dict[Hashable, list[float]] = {}
        for row in (row for row in self.items(STABILITY) if row["label"] == label):
            for each in row["cosines"]:
                is_wanted = how in (None, each["how"]) and (each["other"] is not None) == of_pairs
                if is_wanted and each["cosine"] is not None:
                    found.setdefault(row["concept"], []).append(each["cosine"])
        return found

    @cached_property
    def values(self) -> Values:
        """Everything that is measured on unrelated material."""
        found: Values = {name: {} for name in MEASURES}
        _gather_readings(self, ANSWERS, {KL: KL, JS: JS, NLL: CE}, found)
        _gather_readings(self, RUNNING, {KL: KL_RUNNING, JS: JS_RUNNING, NLL: CE_RUNNING}, found)
        _gather_texts(self, found)
        return found

    @cached_property
    def sizes(self) -> dict[Spot, dict[Hashable, list[float]]]:
        """How far each spot moves the states."""
        found: dict[Spot, dict[Hashable, list[float]]] = {}
        for row in self.items(DOSE):
            if row["size"] is not None:
                found.setdefault(_spot(row), {})[row["concept"]] = [row["size"]]
        return found

    @cached_property
    def odds(self) -> dict[str, dict[Spot, dict[Hashable, list[float]]]]:
        """Preference and utility odds, and the share of pairs without the latter; the plain model's by direction."""
        return _gather_odds(self)

    def mean(self, groups: Mapping[Hashable, Sequence[float]] | None) -> Interval | None:
        """The mean over concepts of each one's mean."""
        settings = self.settings
        return clustered(groups, seed=settings["seed"], resamples=settings["resamples"]) if groups else None

    def at_own(self, values: Mapping[Spot, Mapping[Hashable, list[float]]], label: str, way: str) -> Interval | None:
        """A mean over concepts, each at its own multiplier."""
        groups = {
            concept: values.get(Spot(label, way, multiplier), {}).get(concept, [])
            for concept, multiplier in self.own[label, way].items()
        }
        return self.mean({concept: group for concept, group in groups.items() if group})

    def line(
        self, values: Mapping[Spot, Mapping[Hashable, list[float]]], label: str, way: str
    ) -> list[tuple[float, Interval]]:
        """A mean at every multiplier that all concepts have."""
        concepts, found = self.own[label, way].keys(), {}
        for spot, groups in values.items():
            mean = self.mean(groups) if spot[:2] == (label, way) and groups.keys() >= concepts else None
            if mean is not None and spot.multiplier is not None:
                found[spot.multiplier] = mean
        return sorted(found.items())


def _spot(row: Mapping[str, Any]) -> Spot:
    return Spot(row["label"], row["way"], row["multiplier"])


def _gather_readings(results: Results, kind: str, names: Mapping[str, str], found: Values) -> None:
    """Metrics of passages of a kind under measures' names; of likelihoods the change."""
    rows = results.items(kind)
    plain = {(row["condition"], row["item"]): row["metrics"][NLL] for row in rows if row["way"] is None}
    for row in (row for row in rows if row["way"] is not None):
        for metric, name in names.items():
            value, before = row["metrics"].get(metric), plain.get((row["condition"], row["item"]))
            if metric == NLL:
                value = None if value is None or before is None else value - before
            if value is not None:
                found[name].setdefault(_spot(row), {}).setdefault(row["concept"], []).append(value)


def _gather_texts(results: Results, found: Values) -> None:
    """Measures of the texts that were written; perplexities as nats a token, of which the mean is taken."""
    plain = {(text["condition"], text["prompt"]): text for text in results.texts if text["way"] is None}
    for text in results.texts:
        before = plain[text["condition"], text["prompt"]]
        now, then = repetition(text["ids"]), repetition(before["ids"])
        values = {
            REPETITION: None if now is None or then is None else now - then,
            LENGTH: len(text["ids"]) / len(before["ids"]),
            ENDED: float(text["ended"]),
            PERPLEXITY: text.measures.get(TEXT_NLL),
        }
        group = text["condition"] if text["way"] is None else text["concept"]
        for name, value in values.items():
            if value is not None:
                found[name].setdefault(_spot(text.row), {}).setdefault(group, []).append(value)


def _gather_odds(results: Results) -> dict[str, dict[Spot, dict[Hashable, list[float]]]]:
    losses: dict[tuple[Spot, str], dict[str, dict[int, float]]] = {}
    for way in results.settings["ways"]:
        for side in SIDES:
            for row in results.items(pair_kind(side, way)):
                if row["metrics"][NLL] is not None:
                    sides = losses.setdefault((Spot(row["label"], way, row["multiplier"]), row["condition"]), {})
                    sides.setdefault(side, {})[row["item"]] = row["metrics"][NLL]
    odds = {key: _odds_of(sides) for key, sides in losses.items()}
    found: dict[str, dict[Spot, dict[Hashable, list[float]]]] = {
        name: {} for name in (PREFERENCE, UTILITY, UNDEFINED, GAIN)
    }
    for (spot, concept), by_item in odds.items():
        plain = odds.get((Spot(PLAIN, spot.way, None), concept), {})
        sign = 1 if spot.way == "elicit" else -1
        for item, each in by_item.items():
            gain = sign * (each.preference - plain[item].preference) if item in plain else None
            values = {PREFERENCE: each.preference, UTILITY: each.utility, UNDEFINED: each.undefined, GAIN: gain}
            for name, value in values.items():
                if value is not None:
                    found[name].setdefault(spot, {}).setdefault(concept, []).append(float(value))
    return found


def _odds_of(sides: Mapping[str, Mapping[int, float]]) -> dict[int, Odds]:
    """The odds of each pair that has both losses."""
    positive, negative = (sides.get(side, {}) for side in SIDES)
    return {k: mean_odds([positive[k]], [negative[k]]) for k in sorted(positive.keys() & negative.keys())}
