"""What the records of a utility run say: accuracy before and after, and the difference on the same items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from trimtab.evaluation import blocks
from trimtab.evaluation.contenders import PLAIN
from trimtab.evaluation.records import Run
from trimtab.evaluation.statistics import Interval, clustered, counted, mean, paired_difference

QUESTION = (
    "Does the steered model still answer what the plain one answers? Every question is put to both; the difference is "
    "after minus before on the same questions."
)
SAME = 1e-9
"""Figures that differ by less are one: means of the same values, added up in another order."""


class Score(NamedTuple):
    """One number that an item gets."""

    task: str
    filter: str
    metric: str

    def __str__(self) -> str:
        return f"{self.task} {self.metric}" + ("" if self.filter == "none" else f" ({self.filter})")


class Side(NamedTuple):
    """What was at work, for all its concepts."""

    label: str
    way: str | None
    multiplier: float | None

    def __str__(self) -> str:
        return self.label if self.way is None else f"{self.label} {self.way} x{self.multiplier:g}"


Values = Mapping[tuple[str, int], float | None]
"""By subtask and item; None where it was no number."""


@dataclass(frozen=True)
class Change:
    """A score before and after.

    Attributes:
        before: Of the plain model.
        after: Under what was at work.
        difference: After minus before.
        gained: Items that went from wrong to right; None where answers are not right or wrong.
        lost: Items that went from right to wrong, likewise.
        p: Of McNemar's test; None also where there are several concepts, which answer the same items.
    """

    before: Interval | None
    after: Interval | None
    difference: Interval | None
    gained: int | None
    lost: int | None
    p: float | None


@dataclass(frozen=True)
class Results:
    """The records of a run, put in order."""

    run: Run

    @cached_property
    def values(self) -> dict[Score, dict[Side, dict[str | None, dict[tuple[str, int], float | None]]]]:
        """By score, by what was at work, by concept: the values of the items."""
        found: dict[Score, dict[Side, dict[str | None, dict[tuple[str, int], float | None]]]] = {}
        for row in self.run.log("items").rows:
            side = Side(row["label"], row["way"], row["multiplier"])
            for metric, value in row["metrics"].items():
                score = Score(row["task"], row["filter"], metric)
                items = found.setdefault(score, {}).setdefault(side, {}).setdefault(row["concept"], {})
                items[row["subtask"], row["item"]] = value
        return found

    @property
    def settings(self) -> Mapping[str, Any]:
        """The protocol's."""
        return self.run.identity["settings"]

    def interval(self, groups: Mapping[Any, Sequence[float]]) -> Interval | None:
        """A mean, with an interval over concepts, or over items where there is one concept."""
        return clustered(groups, seed=self.settings["seed"], resamples=self.settings["resamples"])

    def change(self, score: Score, side: Side) -> Change:
        """A score under what was at work, against the plain model's."""
        plain: Values = self.values[score].get(Side(PLAIN, None, None), {}).get(None, {})
        after = self.values[score][side]
        pairs = {concept: [key for key in plain if key in values] for concept, values in after.items()}
        parts = [
            paired_difference(
                [plain[key] for key in keys],
                [after[concept][key] for key in keys],
                seed=self.settings["seed"],
                resamples=self.settings["resamples"],
            )
            for concept, keys in pairs.items()
        ]
        moved = {
            concept: [now - then for then, now in _both(plain, after[concept], keys)] for concept, keys in pairs.items()
        }
        gained, lost = ([part.gained for part in parts], [part.lost for part in parts])
        return Change(
            self.interval({None: counted(plain.values())}),
            self.interval({concept: counted(values.values()) for concept, values in after.items()}),
            parts[0].interval if len(parts) == 1 else self.interval(moved),
            None if None in gained else sum(n for n in gained if n is not None),
            None if None in lost else sum(n for n in lost if n is not None),
            parts[0].p if len(parts) == 1 else None,
        )

    @cached_property
    def changes(self) -> dict[Score, dict[Side, Change]]:
        """Every score's change under everything that was at work."""
        return {
            score: {side: self.change(score, side) for side in sides if side.way is not None}
            for score, sides in self.values.items()
        }


def summarise(run: Run) -> dict[str, Any]:
    """The summary of a run's records; touches no model.

    Args:
        run: With `items`, and with `measures` where tasks of the harness were run.
    """
    results = Results(run)
    scores = list(results.changes)
    tables = [_table(score, results.changes[score], _plain(results, score)) for score in scores]
    if len(scores) > 1:
        tables.insert(0, _overview(results.changes))
    own = _own_figures(results)
    return blocks.summary(
        "utility",
        "Utility",
        QUESTION,
        tables=[*tables, *([own] if own else [])],
        curves=[curve for score in scores for curve in _curves(score, results.changes[score])],
        notes=_notes(results),
        counts={
            "answers": len(run.log("items").rows),
            "tasks": len({score.task for score in scores}),
            "contenders": len({side.label for sides in results.changes.values() for side in sides}),
        },
    )


def _plain(results: Results, score: Score) -> Interval | None:
    plain = results.values[score].get(Side(PLAIN, None, None), {}).get(None, {})
    return results.interval({None: counted(plain.values())})


def _both(plain: Values, after: Values, keys: Iterable[tuple[str, int]]) -> list[tuple[float, float]]:
    found = [(plain[key], after[key]) for key in keys]
    return [(then, now) for then, now in found if then is not None and now is not None]


def _overview(changes: Mapping[Score, Mapping[Side, Change]]) -> blocks.Block:
    columns = [blocks.column(str(score), str(score), "higher", 3) for score in changes]
    rows: dict[str, dict[str, Any]] = {}
    for score, sides in changes.items():
        for side, change in sides.items():
            rows.setdefault(str(side), {})[str(score)] = blocks.cell(change.difference)
    note = "After minus before, on the same items; 95 % intervals over items, or over concepts where there are several."
    return blocks.table("differences", "What steering changes", note, columns, rows)


def _table(score: Score, changes: Mapping[Side, Change], plain: Interval | None) -> blocks.Block:
    columns = [
        blocks.column("before", "before", "higher", 3),
        blocks.column("after", "after", "higher", 3),
        blocks.column("difference", "difference", "higher", 3),
        blocks.column("gained", "wrong to right", "higher", 0),
        blocks.column("lost", "right to wrong", "lower", 0),
        blocks.column("p", "p (McNemar)", None, 3),
    ]
    rows: dict[str, dict[str, Any]] = {PLAIN: {column["key"]: None for column in columns}}
    rows[PLAIN]["before"] = blocks.cell(plain)
    for side, change in changes.items():
        rows[str(side)] = {
            "before": blocks.cell(change.before),
            "after": blocks.cell(change.after),
            "difference": blocks.cell(change.difference),
            "gained": blocks.cell(change.gained),
            "lost": blocks.cell(change.lost),
            "p": blocks.cell(change.p),
        }
    note = "Before is the plain model. Intervals are 95 %, of the difference paired by item."
    return blocks.table(f"utility-{'-'.join(score)}", str(score), note, columns, rows)


def _curves(score: Score, changes: Mapping[Side, Change]) -> list[blocks.Block]:
    """The difference over multipliers, of what was tried at several."""
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for side, change in changes.items():
        if side.multiplier is not None and change.difference is not None:
            lines.setdefault(f"{side.label} {side.way}", []).append((side.multiplier, change.difference))
    drawn = [
        blocks.series(name, sorted(points, key=lambda p: p[0])) for name, points in lines.items() if len(points) > 1
    ]
    note = "After minus before, on the same items."
    name = f"utility-{'-'.join(score)}"
    return [blocks.curve(name, str(score), note, "multiplier", "difference", drawn)] if drawn else []


def _own_figures(results: Results) -> blocks.Block | None:
    """What the harness itself makes of all items, where that is not their mean (tinyBenchmarks' estimates, say)."""
    values: dict[tuple[Any, ...], list[float | None]] = {}
    for row in results.run.log("items").rows:
        for metric, value in row["metrics"].items():
            values.setdefault(_place(row, f"{metric},{row['filter']}"), []).append(value)
    rows: dict[str, dict[str, Any]] = {}
    names: dict[str, None] = {}
    for row in results.run.log("measures").rows:
        place = _place(row, row["name"])
        usual = mean(values.get(place, ()))
        if place in values and (usual is None or abs(usual - row["value"]) > SAME):
            name = f"{row['subtask']} {row['name'].removesuffix(',none')}"
            names[name] = None
            side = str(Side(row["label"], row["way"], row["multiplier"]))
            shown = side if row["concept"] is None else f"{side}, {row['concept']}"
            rows.setdefault(shown, {})[name] = blocks.cell(row["value"])
    if not rows:
        return None
    note = "Figures that the harness computes from all items in another way than their mean; they have no interval."
    columns = [blocks.column(name, name, "higher", 3) for name in names]
    return blocks.table("harness", "As lm-evaluation-harness sums it up", note, columns, rows)


def _place(row: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """What a number is about."""
    return (*(row[column] for column in ("label", "concept", "way", "multiplier", "task", "subtask")), name)


def _notes(results: Results) -> list[str]:
    notes = []
    for score, sides in results.values.items():
        lost = sum(
            value is None for concepts in sides.values() for items in concepts.values() for value in items.values()
        )
        if lost:
            notes.append(f"{score}: {lost} answers have no finite score and are left out, with their pairs.")
    truncated: dict[tuple[str, Side, str | None], float] = {}
    for row in results.run.log("measures").rows:
        if row["name"] == "truncated":
            about = row["task"], Side(row["label"], row["way"], row["multiplier"]), row["concept"]
            truncated[about] = truncated.get(about, 0.0) + row["value"]  # of a group, over its parts
    for (task, side, _), n in truncated.items():
        if n:
            notes.append(f"{task}, {side}: {n:g} requests exceed the context and lost their beginning.")
    return notes
