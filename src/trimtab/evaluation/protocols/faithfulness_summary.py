"""What the records of a faithfulness run say: side effects at every dose, odds with their decay, stability, controls.

A figure is the mean over concepts of each one's mean, with an interval over concepts (over texts where there is one). A
multiplier is shown in curves where all concepts of a label have it, so that a line is of the same concepts throughout.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from trimtab.evaluation import blocks
from trimtab.evaluation.contenders import PLAIN
from trimtab.evaluation.odds import LEAST, Decay, fit_decay
from trimtab.evaluation.passages import KL
from trimtab.evaluation.protocols.faithfulness import BEHIND, DOSE, STABILITY
from trimtab.evaluation.protocols.faithfulness_results import (
    GAIN,
    MEASURES,
    PERPLEXITY,
    PREFERENCE,
    UNDEFINED,
    UTILITY,
    Results,
    Spot,
)
from trimtab.evaluation.rated import Rated, sample_blocks
from trimtab.evaluation.records import Run
from trimtab.evaluation.stability import RESAMPLES, SEEDS
from trimtab.evaluation.statistics import Interval, perplexity
from trimtab.fitting.odds import DecayCurve

QUESTION = (
    "What else does steering change? On prompts and texts that have nothing to do with the concept: how far do the "
    "next-token distributions move from the plain model's, and do the answers get longer, stuck or strange? How does "
    "that grow with the multiplier, against what steering is for, and against random edits of the same size?"
)
APART = (KL,)
"""Measures that have a curve for each direction, besides the one with both."""
PARAMETERS: Mapping[str, str] = {
    "slope": "a", "offset": "c", "centre": "m0", "width": "L", "power": "p", "r2": "R²",
}  # fmt: skip
"""Of a fitted curve, and how the table calls them."""
FITTED = 48
"""Intervals between the points at which a fitted curve is drawn."""


def summarise(run: Run) -> dict[str, Any]:
    """The summary of a faithfulness run, from its records alone."""
    results = Results(run)
    decays = _decays(results)
    shown = [name for name in MEASURES if any(spot.way is not None for spot in results.values[name])]
    ways = [way for way in results.settings["ways"] if any(of == way for _, of in results.own)]
    chosen: dict[tuple[str, str, str | None], float | None] = {
        (label, concept, way): multiplier
        for (label, way), own in results.own.items()
        for concept, multiplier in own.items()
    }
    return blocks.summary(
        "faithfulness",
        f"Faithfulness: {run.identity['model']['id']}",
        QUESTION,
        tables=[_headline(results, shown), *_decay_table(results, decays), *_stability_table(results)],
        curves=[
            *(_signed_curve(results, name) for name in shown),
            *(_curve(results, way, name) for way in ways for name in APART),
            *(curve for way in ways for curve in _odds_curves(results, decays, way)),
        ],
        scatters=_scatter(results),
        samples=sample_blocks(_beside_plain(results), chosen),
        notes=_notes(results),
        counts={
            "generations": len(results.texts),
            "readings": sum("metrics" in row for row in run.log("items").rows),
            "concepts": len({concept for own in results.own.values() for concept in own}),
            "fits again": sum(each["other"] is None for row in results.items(STABILITY) for each in row["cosines"]),
        },
    )


def _shown(results: Results, name: str, mean: Interval | None) -> Interval | None:
    """A mean as it is shown: of nats a token the perplexity."""
    if name != PERPLEXITY or mean is None:
        return mean
    low, high = (None if end is None else perplexity(end) for end in (mean.low, mean.high))
    return Interval(perplexity(mean.value), low, high, mean.n)


def _plain(results: Results, name: str, concepts: Iterable[str]) -> Interval | None:
    """What the plain model has, on the prompts of these concepts."""
    known = MEASURES[name].plain
    if known is not None:
        return Interval(known, known, known, len(list(concepts)))
    values = results.values[name].get(Spot(PLAIN, None, None), {})
    # concepts of a kind share its texts, which would count once for each
    kinds = {kind: values.get(kind, []) for kind in dict.fromkeys(results.kinds[concept] for concept in concepts)}
    return _shown(results, name, results.mean({concept: group for concept, group in kinds.items() if group}))


def _headline(results: Results, shown: Sequence[str]) -> blocks.Block:
    named = [blocks.column(name, MEASURES[name].title, MEASURES[name].better, MEASURES[name].digits) for name in shown]
    columns = [
        *named,
        *([blocks.column(GAIN, "preference odds gain", "higher")] if results.odds[GAIN] else []),
        *([blocks.column(STABILITY, "stability", "higher")] if results.has_stability else []),
        blocks.column("multiplier", "median multiplier"),
        blocks.column("size", "size of the edit", None, 1),
    ]
    plain = {name: _plain(results, name, results.kinds) for name in shown}
    rows: dict[str, dict[str, Any]] = {PLAIN: {name: blocks.cell(value) for name, value in plain.items()}}
    for label, way in results.rows:
        multipliers = sorted(results.own[label, way].values())
        found = {name: _shown(results, name, results.at_own(results.values[name], label, way)) for name in shown} | {
            **({GAIN: results.at_own(results.odds[GAIN], label, way)} if results.odds[GAIN] else {}),
            **({STABILITY: results.mean(results.cosines(label))} if results.has_stability else {}),
            "size": results.at_own(results.sizes, label, way),
        }
        rows[f"{label} {way}"] = {
            **{name: blocks.cell(value) for name, value in found.items()},
            "multiplier": blocks.cell(multipliers[(len(multipliers) - 1) // 2], len(multipliers)),
        }
    note = (
        "Each at its own multiplier, on material that has nothing to do with the concept. Intervals: 95 %, over "
        "concepts, or texts where there is one concept. KL, JS and cross-entropy are along the plain model's own "
        "answers; the other changes are of what is written. The gain is that of the log-odds of the wanted answer of "
        "held-out contrast pairs, nats a token. Stability is the mean cosine with fits on other draws of the pairs and "
        "with other seeds. A random row moves the states as far (size: the mean norm) in directions drawn by chance."
    )
    return blocks.table("faithfulness", "Side effects, each at its own multiplier", note, columns, rows)


def _signed_curve(results: Results, name: str) -> blocks.Block:
    """A measure over multipliers of both directions."""
    lines = []
    for label in dict.fromkeys(label for label, _ in results.rows):
        sides = {way: results.line(results.values[name], label, way) for way in BEHIND if (label, way) in results.own}
        concepts = {concept for way in sides for concept in results.own[label, way]}
        middle, points = _plain(results, name, concepts), []
        for way, points_of in sides.items():
            sign = 1 if way == "elicit" else -1
            points += [(sign * m, value) for m, mean in points_of if m and (value := _shown(results, name, mean))]
        points += [] if middle is None else [(0.0, middle)]
        lines.append(blocks.series(label, sorted(points, key=lambda point: point[0])))
    note = (
        "To the left of 0 suppressing, to the right eliciting, at 0 the plain model (a clamp at its own multiplier 0 "
        "is not plain, so its line may jump there). Bands are 95 %."
    )
    about = MEASURES[name]
    return blocks.curve(
        f"dose-{name.replace(' ', '-')}",
        f"{about.title} by multiplier, both directions",
        note,
        "multiplier (negative: suppress)",
        about.unit,
        lines,
    )


def _curve(results: Results, way: str, name: str) -> blocks.Block:
    """A measure over the multipliers of one direction."""
    lines = []
    for label, _ in (row for row in results.rows if row[1] == way):
        means = results.line(results.values[name], label, way)
        shown = [(m, value) for m, mean in means if (value := _shown(results, name, mean)) is not None]
        lines.append(blocks.series(label, shown))
    about = MEASURES[name]
    title = f"{way}: {about.title} by multiplier"
    return blocks.curve(f"{way}-{name}", title, "Bands are 95 %.", "multiplier", about.unit, lines)


def _odds_points(results: Results, label: str, way: str, name: str) -> dict[float, Interval]:
    """Odds at every multiplier that all concepts have, and of the plain model at 0."""
    concepts = results.own[label, way].keys()
    plain = results.odds[name].get(Spot(PLAIN, way, None), {})
    middle = results.mean({concept: plain[concept] for concept in concepts if concept in plain})
    measured = dict(results.line(results.odds[name], label, way))
    return measured if middle is None else {0.0: middle, **measured}


def _decays(results: Results) -> dict[tuple[str, str], Decay]:
    """The curves fitted to the odds of each contender that has a factor."""
    found = {}
    for label, way in results.rows:
        points = {name: _odds_points(results, label, way, name) for name in (PREFERENCE, UTILITY)}
        multipliers = sorted(points[PREFERENCE])
        if len(multipliers) >= LEAST:
            values = [[points[name][m].value if m in points[name] else None for m in multipliers] for name in points]
            found[label, way] = fit_decay(multipliers, *values)
    return found


def _is_finite(curve: DecayCurve) -> bool:
    return all(map(math.isfinite, dataclasses.astuple(curve)))


def _decay_table(results: Results, decays: Mapping[tuple[str, str], Decay]) -> list[blocks.Block]:
    rows: dict[str, dict[str, Any]] = {}
    for (label, way), decay in decays.items():
        row: dict[str, Any] = {}
        for name, curve in ((PREFERENCE, decay.preference), (UTILITY, decay.utility)):
            if curve is not None and _is_finite(curve):
                row |= {f"{name} {key}": blocks.cell(getattr(curve, key)) for key in PARAMETERS}
        rows[f"{label} {way}"] = row
    if not rows:
        return []
    columns = [
        blocks.column(f"{name} {key}", f"{name} {symbol}", "higher" if key == "r2" else None, 3)
        for name in (PREFERENCE, UTILITY)
        for key, symbol in PARAMETERS.items()
    ]
    note = (
        "Preference odds follow a m D(m) + c and utility odds a D(m) + c, with D(m) = (1 + (m - m0)^2 / L)^-p, fitted "
        "to the means by least squares, the plain model at m = 0. L and p are known apart only where the multipliers "
        "reach far beyond m0. Losses are a token, so the utility odds are no probability's."
    )
    return [blocks.table("decay", "How odds decay with the multiplier", note, columns, rows)]


def _odds_curves(results: Results, decays: Mapping[tuple[str, str], Decay], way: str) -> list[blocks.Block]:
    """What was measured and what was fitted."""
    found = []
    for name in (PREFERENCE, UTILITY):
        lines = []
        for label, _ in (row for row in results.rows if row[1] == way):
            points = sorted(_odds_points(results, label, way, name).items())
            if len(points) > 1:
                lines.append(blocks.series(label, points))
            decay = decays.get((label, way))
            curve = None if decay is None else decay.preference if name == PREFERENCE else decay.utility
            if curve is not None and _is_finite(curve):
                lines.append(blocks.series(f"{label}, fitted", _fitted(curve, name, points[-1][0])))
        if lines:
            side = BEHIND[way]
            note = f"Of both answers of held-out contrast pairs behind the {side} input; bands are 95 %."
            note += " At each multiplier of those pairs alone that have utility odds there." if name == UTILITY else ""
            title = f"{way}: {name} odds by multiplier"
            found.append(blocks.curve(f"{way}-{name}", title, note, "multiplier", f"{name} odds, nats", lines))
    return found


def _fitted(curve: DecayCurve, name: str, most: float) -> list[tuple[float, Interval]]:
    """Points of a fitted curve from 0 to a multiplier."""
    multipliers = torch.linspace(0, most, FITTED + 1, dtype=torch.float64)
    decayed = curve.decay(multipliers) * (multipliers if name == PREFERENCE else 1)
    values = curve.slope * decayed + curve.offset
    return [(float(m), Interval(float(value), None, None, 1)) for m, value in zip(multipliers, values, strict=True)]


def _stability_table(results: Results) -> list[blocks.Block]:
    if not results.has_stability:
        return []
    kinds = {SEEDS: "other seeds", RESAMPLES: "other draws"}
    columns = [
        column
        for how, words in kinds.items()
        for column in (
            blocks.column(how, f"{words}, with its own", "higher", 3),
            blocks.column(f"{how} pairs", f"{words}, with each other", "higher", 3),
        )
    ]
    rows: dict[str, dict[str, Any]] = {}
    for label in dict.fromkeys(row["label"] for row in results.items(STABILITY) if row["cosines"]):
        rows[label] = {
            key: blocks.cell(results.mean(results.cosines(label, how, of_pairs=of_pairs)))
            for how in kinds
            for key, of_pairs in ((how, False), (f"{how} pairs", True))
        }
    note = (
        "Cosines of directions (of several dimensions: of the largest angle between the spaces) of fits with the "
        "vector's own settings, at its own layer: with other seeds, and on as many pairs drawn with replacement. They "
        "learn from all pairs that are given here, the vector itself perhaps from fewer: then they agree with each "
        "other better than with it."
    )
    return [blocks.table("stability", "Does a fit find the same direction again?", note, columns, rows)]


def _scatter(results: Results) -> list[blocks.Block]:
    points = []
    for label, way in results.rows:
        cost = results.at_own(results.values[KL], label, way)
        gain = results.at_own(results.odds[GAIN], label, way)
        if cost is not None and gain is not None:
            points.append(blocks.point(f"{label} {way}", cost, gain))
    if not points:
        return []
    title = "What steering is for against what it does besides"
    note = "Each at its own multiplier. Crosses are 95 %."
    return [blocks.scatter("gain", title, note, MEASURES[KL].unit, "preference odds gain, nats a token", points)]


def _beside_plain(results: Results) -> list[Rated]:
    """The texts, with the plain model's once for each concept that it is shown beside."""
    found = []
    for text in results.texts:
        if text["way"] is not None:
            found.append(text)
            continue
        for concept in (concept for concept, kind in results.kinds.items() if kind == text["condition"]):
            found.append(dataclasses.replace(text, row={**text.row, "concept": concept}))
    return found


def _notes(results: Results) -> list[str]:
    found, rows = [], results.run.log("items").rows
    if lost := sum(None in row["metrics"].values() for row in rows if "metrics" in row):
        found.append(f"{lost} readings have a number that is not finite; it is left out.")
    if missing := [concept for concept in results.kinds if concept not in results.run.identity["data"]["pairs"]]:
        found.append(f"There are no contrast pairs of {', '.join(missing)}, so no odds.")
    undefined = [value for groups in results.odds[UNDEFINED].values() for group in groups.values() for value in group]
    if any(undefined):
        found.append(
            f"{sum(undefined) / len(undefined):.0%} of pairs have no utility odds: their answers are so likely, a "
            "token, that the two probabilities sum to 1 or more."
        )
    found += [
        f"{row['label']} ({row['concept']}) was not fitted again: {row['reason']}."
        for row in results.items(STABILITY)
        if row["reason"] is not None
    ]
    if lost := sum(each["cosine"] is None for row in results.items(STABILITY) for each in row["cosines"]):
        found.append(f"{lost} comparisons of fits have no cosine: a fit diverged, or chose another site.")
    if results.settings["controls"]:
        bare = dict.fromkeys(row["label"] for row in results.items(DOSE) if row["size"] is None)
        found += [f"{label} edits no hidden state, so it has no random control." for label in bare]
    return found
