"""Is the multiplier that calibration finds the one that a judge would choose?

    python -m studies.calibration [NAME...]
    python -m studies.calibration table             # of the results that are there, whichever code they are of

For every concept of the organism's world: a vector whose layer and multipliers were found without a judge, against the
best of all layers and multipliers by the exact judge (the oracle: chosen on one draw of prompts, measured on another,
the one on which everything is measured), against prompting, multiplier 1 and two controls. All fits are what
`trimtab fit cdas --pairs NAME` makes; those of the oracle learn from the same pairs. A layer is found three times: for
both directions, and for each alone (`auto:elicit`, `auto:suppress`), which is what the oracle of a direction does.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import trimtab as tt
from studies.common import interval, kept, mean, rate_with_interval, with_interval
from trimtab.cli.describe import layer_words
from trimtab.evaluation.demo import control_vectors
from trimtab.evaluation.traits import Measured, Reference, Task, choose_right, measure
from trimtab.fitting import FitOptions
from trimtab.fitting.held_out import hold_out
from trimtab.fitting.search import Search
from trimtab.fitting.settings import build_settings
from trimtab.methods.registry import find_method
from trimtab.organism import CONCEPTS

REFUSALS = ("refusal", "refusal-unlock")
NAMES = (*REFUSALS, *CONCEPTS)
PROMPTS = {name: 200 if name in REFUSALS else 96 for name in NAMES}
SEARCHED = 32
"""Prompts on which the oracle chooses."""
MULTIPLIERS = (0.7, 1.0, 1.25, 1.5, 1.8, 2.25, 3.0, 4.5)
CHOICES, MORE_CHOICES = 1200, 2400
"""Multiple-choice questions; more for the two kinds of refusal, where it is asked whether they change by a point."""
LOOKED_AT = (*REFUSALS, "sea", "past-tense", "upper-case", "vela", "formal", "night", "music", "weather")
"""Concepts of which the judge's marks were seen while the rules of the search were chosen."""
PARTS = ("concept", "instruction", "fluency", "score", "refused", "kl")


def study(model: tt.Model, name: str, plain: tuple[bool, ...]) -> dict[str, Any]:
    """All figures of one concept; `plain` says which choices the model gets right without steering."""
    pairs = tt.load_pairs(name)
    fits, began = Fits(model), time.monotonic()
    split = hold_out(pairs)
    search = Search(model, split)
    vector = search.vector(fits.short, fits.whole)
    seconds = time.monotonic() - began
    best = _oracle(model, name, split.train, fits)
    task = Task.of(name, PROMPTS[name])
    reference = Reference(model, task)
    controls = control_vectors(model, vector, split.train, 0, {})
    steered = {way: vector.steering(way) for way in ("elicit", "suppress")}
    alone = {way: search.serving((way,)).vector(fits.short, fits.whole) for way in steered}
    steered |= {f"{way} alone": found.steering(way) for way, found in alone.items()}
    rows = reference.rows | measure(
        model,
        task,
        {
            **{key: (key.split()[0], steering) for key, steering in steered.items()},
            "elicit at 1": ("elicit", vector.elicit(1.0)),
            "elicit oracle": ("elicit", best["elicit"]["steering"]),
            "suppress at 1": ("suppress", vector.suppress(1.0)),
            "suppress oracle": ("suppress", best["suppress"]["steering"]),
        },
        reference=reference,
    )
    rows |= measure(model, task, {key: ("elicit", control.elicit()) for key, control in controls.items()})
    right = choose_right(model, steered, len(plain))
    return {
        "name": name,
        "seconds": seconds,
        "layer": layer_words(vector).removeprefix("layer "),
        "layers": vector.provenance["layers"],
        "multipliers": dict(vector.multipliers),
        "alone": {
            way: {"layer": _layer(found), "multiplier": found.multipliers.get(way, 1.0)} for way, found in alone.items()
        },
        "calibration": vector.provenance["calibration"],
        "rows": {key: _values(row) for key, row in rows.items()},
        "oracle": {
            way: {key: value for key, value in found.items() if key != "steering"} for way, found in best.items()
        },
        "choices": {
            way: [now - before for now, before in zip(found, plain, strict=True)] for way, found in right.items()
        },
        "choices plain": mean(plain),
        "samples": {key: rows[key].outputs[:6] for key in ("prompted", "elicit", "suppress", "shuffled")},
    }


class Fits:
    """What `trimtab.fit("cdas", ...)` makes at each layer, made once: the searches and the oracle share them."""

    def __init__(self, model: tt.Model) -> None:
        self._model, self._method = model, find_method("cdas")
        self._made: dict[tuple[str, int], tt.SteeringVector] = {}

    def whole(self, pairs: tt.PairSet, layer: int) -> tt.SteeringVector:
        """With the default settings."""
        return self._fitted("whole", pairs, layer)

    def short(self, pairs: tt.PairSet, layer: int) -> tt.SteeringVector:
        """A trial fit."""
        return self._fitted("short", pairs, layer)

    def _fitted(self, kind: str, pairs: tt.PairSet, layer: int) -> tt.SteeringVector:
        if (kind, layer) not in self._made:
            settings = build_settings(self._method.settings, {"layer": layer})
            if kind == "short" and self._method.trial is not None:
                settings = self._method.trial(settings)
            self._made[kind, layer] = self._method.fit(self._model, pairs, settings, FitOptions())
        return self._made[kind, layer]


def _layer(vector: tt.SteeringVector) -> int:
    return vector.edits[0].intervention.site.layer


def _values(row: Measured) -> dict[str, Any]:
    found = {part: getattr(row, part) for part in PARTS}
    return {part: None if values is None else [round(v, 4) for v in values] for part, values in found.items()}


def _oracle(model: tt.Model, name: str, train: tt.PairSet, fits: Fits) -> dict[str, dict[str, Any]]:
    """For each direction the layer and multiplier that the judge likes best, and its score everywhere."""
    task = Task.of(name, SEARCHED, seed=1)
    best: dict[str, dict[str, Any]] = {way: {"score": -1.0, "grid": []} for way in ("elicit", "suppress")}
    for layer in range(model.n_blocks - 1):
        vector = fits.whole(train, layer)
        plan = {(way, m): (way, vector.steering(way, m)) for way in best for m in MULTIPLIERS}
        judged = measure(model, task, {f"{way} {m}": steered for (way, m), steered in plan.items()})
        for (way, m), (_, steering) in plan.items():
            score = mean(judged[f"{way} {m}"].score)
            best[way]["grid"].append([layer, m, round(score, 4)])
            if score > best[way]["score"]:
                best[way] |= {"score": score, "layer": layer, "multiplier": m, "steering": steering}
    return best


def table(results: list[dict[str, Any]]) -> str:
    """All concepts, and what is asked of the whole."""
    lines = [
        "| concept | layer | elicit (multiplier) | at 1 | layer found for it alone | oracle (layer, multiplier) "
        "| prompted | random | shuffled | suppress (multiplier) | layer found for it alone | oracle "
        "| concept taken away, alone | choices, suppressed, alone |",
        "| --- |" + " --- |" * 13,
    ]
    for found in results:
        rows, best, times = found["rows"], found["oracle"], found["multipliers"]
        cells = [
            f"{found['layer']}",
            f"{with_interval(rows['elicit']['score'])} (x {times.get('elicit', 1):.3g})",
            f"{mean(rows['elicit at 1']['score']):.2f}",
            _found_alone(found, "elicit"),
            f"{mean(rows['elicit oracle']['score']):.2f} "
            f"({best['elicit']['layer']}, x {best['elicit']['multiplier']:g})",
            *(f"{mean(rows[key]['score']):.2f}" for key in ("prompted", "random", "shuffled")),
            f"{with_interval(rows['suppress']['score'])} (x {times.get('suppress', 1):.3g})",
            _found_alone(found, "suppress"),
            f"{mean(rows['suppress oracle']['score']):.2f}",
            f"{100 * _taken(found, 'suppress'):.0f} %, {100 * _taken(found, 'suppress alone'):.0f} %",
            f"{_points(found['choices']['suppress'])}, {_points(found['choices']['suppress alone'])}",
        ]
        lines.append(f"| {found['name']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_summary(results)])


def _points(changes: list[int]) -> str:
    """Mean and interval of paired changes, in points."""
    low, high = interval(changes)
    return f"{100 * mean(changes):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _ratio(results: list[dict[str, Any]], row: str, way: str) -> str:
    """Mean score of a row over the oracle's; 95 % interval, resampling concepts."""
    if not results:
        return "none of these"
    scores = [[mean(found["rows"][key]["score"]) for key in (row, f"{way} oracle")] for found in results]
    draw = random.Random(0)
    drawn = sorted(_quotient(draw.choices(scores, k=len(scores))) for _ in range(4000))
    return f"{_quotient(scores):.3f} ({drawn[100]:.3f} to {drawn[3899]:.3f})"


def _quotient(scores: list[list[float]]) -> float:
    return sum(ours for ours, _ in scores) / sum(best for _, best in scores)


def _found_alone(found: dict[str, Any], way: str) -> str:
    """Score of a vector whose layer was found for a direction alone."""
    at = found["alone"][way]
    return f"{mean(found['rows'][f'{way} alone']['score']):.2f} ({at['layer']}, x {at['multiplier']:.3g})"


def _taken(found: dict[str, Any], row: str) -> float:
    """Which part of a prompted concept suppression takes away."""
    shown = mean(found["rows"]["prompted"]["concept"])
    return 1 - mean(found["rows"][row]["concept"]) / shown if shown else 0.0


def _summary(results: list[dict[str, Any]]) -> list[str]:
    """Means over concepts, with intervals that resample concepts."""

    def scores(key: str) -> list[float]:
        return [mean(found["rows"][key]["score"]) for found in results]

    lines = []
    for way in ("elicit", "suppress"):
        lines.append(
            f"- {way}, calibrated: {with_interval(scores(way))}; layer found for it alone "
            f"{with_interval(scores(f'{way} alone'))}; at multiplier 1 {mean(scores(f'{way} at 1')):.2f}; the judge's "
            f"oracle {mean(scores(f'{way} oracle')):.2f}"
        )
        for key in (way, f"{way} alone", f"{way} at 1"):
            lines.append(
                f"- {key} to the oracle: ratio of the means {_ratio(results, key, way)}; on the concepts that no rule "
                f"was chosen on {_ratio([found for found in results if found['name'] not in LOOKED_AT], key, way)}"
            )
        worse = [
            f"{found['name']} {mean(ours):.2f} for {mean(plain):.2f}"
            for found in results
            for ours, plain in [(found["rows"][way]["score"], found["rows"][f"{way} at 1"]["score"])]
            if mean(ours) < mean(plain)
        ]
        lines.append(f"- {way}, worse than multiplier 1: {', '.join(worse) or 'none'}")
    lines += [
        f"- prompting: {mean(scores('prompted')):.2f}; calibrated to prompted "
        f"{mean(scores('elicit')) / mean(scores('prompted')):.2f}",
        *(
            f"- {key}: {mean(scores(key)):.3f} on average, {max(scores(key)):.2f} at most"
            for key in ("random", "shuffled")
        ),
        *(
            f"- part of a prompted concept that is taken away, {row}: {100 * mean(taken):.1f} % on average, the least "
            f"{100 * min(taken):.1f} %"
            for row, taken in {
                row: [_taken(found, row) for found in results] for row in ("suppress", "suppress alone")
            }.items()
        ),
        f"- seconds a fit with search and calibration: {mean([found['seconds'] for found in results]):.0f}",
    ]
    for found in results:
        if found["name"] in REFUSALS:
            rows = found["rows"]
            lines += [
                f"- {found['name']}, {key}: refused {rate_with_interval(rows[key]['refused'])}, "
                + (f"instruction {with_interval(rows[key]['instruction'])}, " if rows[key]["instruction"] else "")
                + f"choices {_points(found['choices'][key])} points"
                for key in ("suppress", "suppress alone", "elicit", "elicit alone")
            ]
    return lines


def main() -> None:
    """Studies the concepts named, or all, and prints the table."""
    if sys.argv[1:] == ["table"]:
        results = [kept("calibration", name, dict, {}, stale=True) for name in NAMES]
        sys.stdout.write(table(results) + "\n")
        return
    names = sys.argv[1:] or NAMES
    model = tt.load_model("organism", device="cpu")
    plain = {n: choose_right(model, {"plain": None}, n)["plain"] for n in (CHOICES, MORE_CHOICES)}
    results = []
    for name in names:
        known = plain[MORE_CHOICES if name in REFUSALS else CHOICES]
        given = {"multipliers": MULTIPLIERS, "prompts": PROMPTS[name], "searched": SEARCHED, "choices": len(known)}
        results.append(kept("calibration", name, lambda name=name, known=known: study(model, name, known), given))
        sys.stderr.write(f"{name}\n")
    text = table(results)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
