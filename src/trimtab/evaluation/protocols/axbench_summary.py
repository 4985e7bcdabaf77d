"""What the records of an AxBench run say: scores with intervals, doses, win rates, detection.

Everything is a mean over concepts of a concept's mean, and an interval over concepts. The multiplier of a concept and
contender is chosen on the selecting half of the prompts; all figures but the curves are of the other half.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trimtab.evaluation import blocks
from trimtab.evaluation.contenders import PLAIN
from trimtab.evaluation.judges import RATED
from trimtab.evaluation.likelihoods import NLL
from trimtab.evaluation.protocols.axbench import CARRYING, CONDITIONS
from trimtab.evaluation.rated import Rated, counts, rated, sample_blocks, unreadable_notes
from trimtab.evaluation.records import Run
from trimtab.evaluation.statistics import (
    Halves,
    Interval,
    Selected,
    auroc,
    best_f1,
    clustered,
    counted,
    hard_negative_accuracy,
    harmonic,
    perplexity,
    select,
    split_half,
    win_rate,
)

TITLE = {"elicit": "Eliciting: concept in", "suppress": "Suppressing: concept out"}
PROMPTED = "prompted"
"""Row of the plain model on prompts that ask for the concept: what eliciting is measured against."""
FEW = 10
"""Concepts below which a bootstrap over them is rough."""
READ = 60
"""Most pairs of contender and concept whose tokens a page shows."""
QUESTION = (
    "Does the text show the concept (or, suppressed, no longer show it), does it still answer the instruction, and is "
    "it fluent? Each is rated 0 to 2 and the score is their harmonic mean. Multipliers are chosen on one half of the "
    "prompts; the table reports the other half."
)


@dataclass(frozen=True)
class Results:
    """The records of a run, put in order.

    Attributes:
        run: The run.
    """

    run: Run

    @cached_property
    def n_concepts(self) -> int:
        """How many concepts there are."""
        return len({text["concept"] for text in self.texts})

    @property
    def unit(self) -> str:
        """What intervals are over, in words."""
        return "over concepts" if self.n_concepts > 1 else "over the prompts of the one concept"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The protocol's settings."""
        return self.run.identity["settings"]

    @cached_property
    def texts(self) -> list[Rated]:
        """All texts."""
        return rated(self.run)

    @cached_property
    def halves(self) -> Halves:
        """Which prompts select and which report."""
        return split_half((text["prompt"] for text in self.texts), self.settings["selection"])

    @cached_property
    def scores(self) -> dict[tuple[str, str, str], dict[float, dict[int, float | None]]]:
        """By label, direction and concept: the score of every prompt at every multiplier."""
        found: dict[tuple[str, str, str], dict[float, dict[int, float | None]]] = {}
        for text in self.texts:
            if text["way"] is not None:
                doses = found.setdefault((text["label"], text["way"], text["concept"]), {})
                doses.setdefault(text["multiplier"], {})[text["prompt"]] = score(text, text["way"])
        return found

    @cached_property
    def selected(self) -> dict[tuple[str, str, str], Selected]:
        """What was chosen, by label, direction and concept; absent where nothing could be read."""
        found = {key: select(doses, self.halves, self.settings["unreadable"]) for key, doses in self.scores.items()}
        return {key: one for key, one in found.items() if one is not None}

    def labels(self, way: str) -> list[str]:
        """Contenders that have a direction, in the order in which they were given."""
        given = dict.fromkeys(each["label"] for each in self.run.identity["contenders"])
        having = {label for label, of, _ in self.scores if of == way}
        return [label for label in given if label in having]

    def reported(self, label: str, way: str) -> list[Rated]:
        """The texts of the reporting half at the multiplier that was chosen."""
        return [
            text
            for text in self.texts
            if (text["label"], text["way"]) == (label, way)
            and text["prompt"] in self.halves.test
            and (chosen := self.selected.get((label, way, text["concept"]))) is not None
            and chosen.multiplier == text["multiplier"]
        ]

    def plain(self, condition: str) -> list[Rated]:
        """The plain model's texts of the reporting half."""
        return [
            text
            for text in self.texts
            if text["way"] is None and text["condition"] == condition and text["prompt"] in self.halves.test
        ]

    def over_concepts(self, values: Iterable[tuple[str, float | None]]) -> Interval | None:
        """The mean over concepts of each one's mean, with its interval over concepts."""
        groups: dict[str, list[float | None]] = {}
        for concept, value in values:
            groups.setdefault(concept, []).append(value)
        # sorted, so that the draws of the bootstrap do not depend on the order of contenders
        readable = {name: counted(groups[name], self.settings["unreadable"]) for name in sorted(groups)}
        kept: dict[Hashable, list[float]] = {name: group for name, group in readable.items() if group}
        return clustered(kept, seed=self.settings["seed"], resamples=self.settings["resamples"])


def score(text: Rated, way: str) -> float | None:
    """Harmonic mean of the ratings; to suppress, 2 - concept takes the place of concept. None if one is unreadable."""
    concept, *others = (text.ratings.get(aspect) for aspect in RATED)
    if way == "suppress" and concept is not None:
        concept = 2 - concept
    return harmonic([concept, *others])


def summarise(run: Run) -> dict[str, Any]:
    """The summary of an AxBench run, from its records alone."""
    results = Results(run)
    ways = [way for way in results.settings["ways"] if results.labels(way) or not results.scores]
    chosen: dict[tuple[str, str, str | None], float | None] = {
        (label, concept, way): one.multiplier for (label, way, concept), one in results.selected.items()
    }
    concepts = {text["concept"] for text in results.texts}
    return blocks.summary(
        "axbench",
        f"AxBench: {len(concepts)} concept{'s' if len(concepts) > 1 else ''} of {run.identity['model']['id']}",
        QUESTION,
        tables=[*(_table(results, way) for way in ways), *_detection_table(results)],
        curves=[
            _curve(results, way, measure) for way in ways if results.labels(way) for measure in ("score", "concept")
        ],
        scatters=[_scatter(results, way) for way in ways if results.settings["perplexity"]],
        heats=[heat for way in ways for heat in _heats(results, way)],
        samples=sample_blocks(results.texts, chosen),
        tokens=_tokens(results),
        notes=[*unreadable_notes(run, results.settings["unreadable"]), *_notes(results)],
        counts=counts(run),
    )


def _table(results: Results, way: str) -> dict[str, Any]:
    better, reference = "higher" if way == "elicit" else "lower", results.settings["reference"]
    columns = [
        blocks.column("score", "score", "higher"),
        blocks.column("concept", "concept", better),
        blocks.column("instruction", "instruction", "higher"),
        blocks.column("fluency", "fluency", "higher"),
        blocks.column("oracle", "score in hindsight", "higher"),
        blocks.column("multiplier", "multiplier", None),
        *([blocks.column("perplexity", "perplexity", "lower")] if results.settings["perplexity"] else []),
        *([blocks.column("wins", f"won/tied/lost to {reference}", None)] if reference in results.labels(way) else []),
    ]
    rows = {PLAIN: _figures(results, results.plain(CONDITIONS[way]), way)}
    if way == "elicit" and results.plain(CARRYING):
        rows[PROMPTED] = _figures(results, results.plain(CARRYING), way)
    for label in results.labels(way):
        rows[label] = _figures(results, results.reported(label, way), way) | _chosen(results, label, way)
    asked = "that do not ask for it" if way == "elicit" else "that ask for it"
    note = f"On prompts {asked}. Intervals: 95 %, {results.unit}. {PLAIN} is the model itself" + (
        f", {PROMPTED} the model itself where the prompt asks for the concept." if PROMPTED in rows else "."
    )
    if results.settings["perplexity"]:
        note += " Perplexity is exp of the mean nats a token over texts, so a geometric mean."
    return blocks.table(way, TITLE[way], note, columns, rows)


def _figures(results: Results, texts: Sequence[Rated], way: str) -> dict[str, Any]:
    """The columns that any texts have."""
    found = {"score": results.over_concepts((text["concept"], score(text, way)) for text in texts)}
    for aspect in RATED:
        found[aspect] = results.over_concepts((text["concept"], text.ratings.get(aspect)) for text in texts)
    found["perplexity"] = _perplexity(results, texts)
    return {key: blocks.cell(value) for key, value in found.items()}


def _perplexity(results: Results, texts: Sequence[Rated]) -> Interval | None:
    """exp of the mean over concepts of the answers' nats a token."""
    found = [text for text in texts if text.measures.get(NLL) is not None]
    nats = results.over_concepts((text["concept"], text.measures[NLL]) for text in found)
    if nats is None:
        return None
    low, high = (None if end is None else perplexity(end) for end in (nats.low, nats.high))
    return Interval(perplexity(nats.value), low, high, nats.n)


def _chosen(results: Results, label: str, way: str) -> dict[str, Any]:
    """The columns about the choice of a multiplier."""
    chosen = [one for (of, direction, _), one in results.selected.items() if (of, direction) == (label, way)]
    multipliers = sorted(one.multiplier for one in chosen)
    oracle = results.over_concepts(
        (concept, one.oracle_score)
        for (of, direction, concept), one in results.selected.items()
        if (of, direction) == (label, way)
    )
    return {
        "oracle": blocks.cell(oracle),
        "multiplier": blocks.cell(multipliers[(len(multipliers) - 1) // 2], len(multipliers)) if multipliers else None,
        "wins": _wins(results, label, way),
    }


def _wins(results: Results, label: str, way: str) -> str | None:
    """Wins, ties and losses against the reference on the same prompts; None without it."""
    reference = results.settings["reference"]
    if label == reference or reference not in results.labels(way):
        return None
    theirs = {(text["concept"], text["prompt"]): score(text, way) for text in results.reported(reference, way)}
    ours = {(text["concept"], text["prompt"]): score(text, way) for text in results.reported(label, way)}
    both = [key for key in ours if key in theirs]
    won = win_rate([[ours[key]] for key in both], [[theirs[key]] for key in both], results.settings["unreadable"])
    return f"{won.wins}/{won.ties}/{won.losses}"


def _doses(results: Results, label: str, way: str, measure: str) -> list[tuple[float, Interval]]:
    """A measure at every multiplier, over all prompts of all concepts."""
    groups: dict[float, list[tuple[str, float | None]]] = {}
    for text in results.texts:
        if (text["label"], text["way"]) == (label, way):
            value = score(text, way) if measure == "score" else text.ratings.get(measure)
            groups.setdefault(text["multiplier"], []).append((text["concept"], value))
    found = [(multiplier, results.over_concepts(groups[multiplier])) for multiplier in sorted(groups)]
    return [(multiplier, value) for multiplier, value in found if value is not None]


def _curve(results: Results, way: str, measure: str) -> dict[str, Any]:
    lines = [blocks.series(label, _doses(results, label, way, measure)) for label in results.labels(way)]
    note = f"All prompts, both halves; bands are 95 %, {results.unit}. One point: it has no multiplier."
    return blocks.curve(
        f"{way}-{measure}", f"{TITLE[way]}, {measure} by multiplier", note, "multiplier", f"{measure} (0 to 2)", lines
    )


def _scatter(results: Results, way: str) -> dict[str, Any]:
    points = []
    for label in [PLAIN, *results.labels(way)]:
        texts = results.plain(CONDITIONS[way]) if label == PLAIN else results.reported(label, way)
        effect = results.over_concepts((text["concept"], score(text, way)) for text in texts)
        cost = _perplexity(results, texts)
        if effect is not None and cost is not None:
            points.append(blocks.point(label, cost, effect))
    note = "Perplexity is the plain model's, of the answer alone behind the prompt: how surprising it finds the text."
    return blocks.scatter(
        f"{way}-effect", f"{TITLE[way]}, effect against surprise", note, "perplexity", "score (0 to 2)", points
    )


def _heats(results: Results, way: str) -> list[dict[str, Any]]:
    """Layer by multiplier for a method at several layers; concept by multiplier for every contender with a factor."""
    found = [*_layer_heats(results, way)]
    for label in results.labels(way):
        concepts = sorted({concept for of, direction, concept in results.scores if (of, direction) == (label, way)})
        doses = sorted({m for concept in concepts for m in results.scores[label, way, concept]})
        if len(doses) < 2 or len(concepts) < 2:
            continue
        values = [
            [_mean(results, results.scores[label, way, concept].get(m, {}).values()) for m in doses]
            for concept in concepts
        ]
        title = f"{TITLE[way]}, {label}: concept by multiplier"
        names = ("concept", "multiplier")
        found.append(
            blocks.heat(f"{way}-{label}", title, "Mean score, both halves.", names, concepts, _words(doses), values)
        )
    return found


def _layer_heats(results: Results, way: str) -> list[dict[str, Any]]:
    """Of each method that has several labels which stand for one layer each, and no two for the same."""
    layers: dict[tuple[str, str], set[int]] = {}
    for each in results.run.identity["contenders"]:
        if each.get("layers") and each["label"] in results.labels(way):
            layers.setdefault((each["method"], each["label"]), set()).update(each["layers"])
    places: dict[str, set[tuple[int, str]]] = {}
    for (method, label), at in layers.items():
        if len(at) == 1:  # a label whose concepts have layers of their own is no row of a heat
            places.setdefault(method, set()).add((min(at), label))
    found = []
    for method, at in places.items():
        by_layer = dict(sorted(at))
        if len(at) < 2 or len(by_layer) < len(at) or len(set(by_layer.values())) < len(at):
            continue
        lines = {layer: dict(_doses(results, by_layer[layer], way, "score")) for layer in sorted(by_layer)}
        doses = sorted({m for line in lines.values() for m in line})
        values = [[line[m].value if m in line else None for m in doses] for line in lines.values()]
        title = f"{TITLE[way]}, {method}: layer by multiplier"
        found.append(
            blocks.heat(
                f"{way}-{method}-layers",
                title,
                "Mean score over concepts, both halves.",
                ("layer", "multiplier"),
                [str(layer) for layer in lines],
                _words(doses),
                values,
            )
        )
    return found


def _words(multipliers: Sequence[float]) -> list[str]:
    return [f"{multiplier:g}" for multiplier in multipliers]


def _mean(results: Results, values: Iterable[float | None]) -> float | None:
    kept = counted(values, results.settings["unreadable"])
    return sum(kept) / len(kept) if kept else None


def _detection_table(results: Results) -> list[dict[str, Any]]:
    """One table, where something was read: how well each vector tells texts with its concept from others."""
    texts: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in results.run.log("items").rows:
        if row["value"] is not None:
            texts.setdefault((row["label"], row["concept"]), {}).setdefault(row["category"], []).append(row["value"])
    figures: dict[str, dict[str, list[tuple[str, float | None]]]] = {}
    for (label, concept), by_category in texts.items():
        positive, negative = by_category.get("positive", []), by_category.get("negative", [])
        if not positive or not negative:
            continue
        hard, found = by_category.get("hard negative", []), figures.setdefault(label, {})
        found.setdefault("auroc", []).append((concept, auroc(positive, negative)))
        found.setdefault("f1", []).append((concept, best_f1(positive, negative).f1))
        if hard:
            found.setdefault("hard_auroc", []).append((concept, auroc(positive, hard)))
            accuracy = hard_negative_accuracy(positive, negative, hard)
            found.setdefault("hard", []).append((concept, accuracy))
    if not figures:
        return []
    rows = {
        label: {key: blocks.cell(results.over_concepts(values)) for key, values in found.items()}
        for label, found in figures.items()
    }
    columns = [
        blocks.column("auroc", "AUROC", "higher"),
        blocks.column("f1", "best F1", "higher"),
        blocks.column("hard", "accuracy with hard negatives", "higher"),
        blocks.column("hard_auroc", "AUROC against hard negatives", "higher"),
    ]
    note = (
        "The vector read as a probe: the largest coordinate of any token of a text, in the plain model. AUROC and F1 "
        "are of positives against easy negatives, as published; hard negatives only look like the concept, and their "
        "accuracy is at the threshold that separates the easy ones best."
    )
    return [blocks.table("detection", "Detection: the vector as a probe", note, columns, rows)]


def _tokens(results: Results) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in results.run.log("items").rows:
        if row["tokens"] is None:
            continue
        entry = found.setdefault(
            (row["label"], row["concept"]), {"label": row["label"], "concept": row["concept"], "texts": []}
        )
        read = [0.0 if value is None else value for value in row["values"]]
        entry["texts"].append({"category": row["category"], "tokens": row["tokens"], "values": read})
        values = [value for text in entry["texts"] for value in text["values"]]
        entry["negative"] = min(values) if row["negative"] is None else row["negative"]
        entry["positive"] = max(values) if row["positive"] is None else row["positive"]
    entries = list(found.values())
    return entries[:: max(1, -(-len(entries) // READ))]


def _notes(results: Results) -> list[str]:
    missing = [
        f"{label} ({way}, {concept})"
        for label, way, concept in results.scores
        if (label, way, concept) not in results.selected
    ]
    notes = []
    if missing:
        notes.append(
            f"No multiplier could be chosen for {', '.join(missing)}: no rating of the selecting half could be read."
        )
    reference, labels = results.settings["reference"], {label for label, _, _ in results.scores}
    if reference not in labels and len(labels) > 1:
        notes.append(f"No contender is called {reference!r}, so there are no wins (setting `reference`).")
    if 0 < results.n_concepts < FEW:
        few = f"{results.n_concepts} concept{'s' if results.n_concepts > 1 else ''}"
        notes.append(f"With {few}, intervals say little about others.")
    return notes
