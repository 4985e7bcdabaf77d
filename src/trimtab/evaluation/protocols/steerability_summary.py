"""What the records of a steerability run say: error, miscalibration and side effect, and which goals hang together.

Everything is a mean over sources of a source's mean over its probes, and an interval over sources.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trimtab.evaluation import blocks
from trimtab.evaluation.contenders import PLAIN
from trimtab.evaluation.goal_space import steerability
from trimtab.evaluation.protocols.steerability import PROMPTED, REACH, UNTOUCHED
from trimtab.evaluation.rated import SHOWN
from trimtab.evaluation.records import Run
from trimtab.evaluation.statistics import Interval, clustered

QUESTION = (
    "Asked to bring a text to a point in a space of goals, does the model get there, and does anything else move? "
    "Miscalibration is the shortfall or excess along the way asked for, side effect the share of all movement that is "
    "across it."
)
CUTS = (-1.0, -0.5, -0.2, -0.1, 0.1, 0.2, 0.5, 1.0)
"""Where moves are cut into groups for the curves; published."""
AS_ASKED = "as asked"
"""Line of a curve that reaches what it is asked for."""

Values = Callable[["Moved"], float]


@dataclass(frozen=True)
class Moved:
    """What became of a probe.

    Attributes:
        probe: Its number.
        prompt: Number of the source.
        source: z0.
        target: z*.
        reached: Where the text stands.
        id: Of the text; None for a source text.
    """

    probe: int
    prompt: int
    source: tuple[float, ...]
    target: tuple[float, ...]
    reached: tuple[float, ...]
    id: str | None

    @cached_property
    def figures(self) -> Mapping[str, float]:
        """Error, miscalibration, side effect, and how far it went along the way asked for, as a share of that way."""
        found = steerability(self.source, self.target, self.reached)
        asked = np.subtract(self.target, self.source)
        along = float(np.subtract(self.reached, self.source) @ asked / (asked @ asked))
        return {
            "error": found.error,
            "miscalibration": found.miscalibration,
            "side effect": found.side_effect,
            "along": along,
        }

    def asked(self, goal: int) -> float:
        """The move that a goal is asked for; 0 if none."""
        return self.target[goal] - self.source[goal]

    def moved(self, goal: int) -> float:
        """The move that it made."""
        return self.reached[goal] - self.source[goal]


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

    @property
    def data(self) -> Mapping[str, Any]:
        """What identifies the sources."""
        return self.run.identity["data"]

    @cached_property
    def goals(self) -> list[str]:
        """All goals, in the order of the coordinates."""
        return list(self.data["goals"])

    @property
    def asked(self) -> list[str]:
        """Goals that probes may ask for."""
        return list(self.data["asked"])

    @cached_property
    def rows(self) -> dict[str, list[Moved]]:
        """What became of the probes, by row of the table: floors, what is asked in words, contenders."""
        found: dict[tuple[str, float | None], list[Moved]] = {}
        for row in self.run.log("items").rows:
            source, target, reached = (tuple(row[name]) for name in ("source", "target", "reached"))
            moved = Moved(row["probe"], row["prompt"], source, target, reached, row["id"])
            found.setdefault((row["label"], row["multiplier"]), []).append(moved)
        plain = found.get((PLAIN, None), [])
        if self.data["rewrites"]:
            still = [Moved(one.probe, one.prompt, one.source, one.target, one.source, None) for one in plain]
            found = {(UNTOUCHED, None): still, **found}
        several = len(self.settings["gains"]) > 1
        named = {label if m is None or not several else f"{label} x {m:g}": rows for (label, m), rows in found.items()}
        return {label: rows for label, rows in named.items() if rows}

    @property
    def moving(self) -> dict[str, list[Moved]]:
        """The rows in which a text may have moved at all."""
        still = UNTOUCHED if self.data["rewrites"] else PLAIN
        return {label: moves for label, moves in self.rows.items() if label != still}

    def mean(self, moves: Iterable[Moved], value: Values) -> Interval | None:
        """The mean over sources of a value's mean over its probes, with its interval over sources."""
        groups: dict[Hashable, list[float]] = {}
        for one in moves:
            groups.setdefault(one.prompt, []).append(value(one))
        return clustered(groups, seed=self.settings["seed"], resamples=self.settings["resamples"])


def summarise(run: Run) -> dict[str, Any]:
    """The summary of a steerability run, from its records alone."""
    results = Results(run)
    return blocks.summary(
        "steerability",
        f"Steerability: {len(results.goals)} goals of {run.identity['model']['id']}",
        QUESTION,
        tables=[_table(results)],
        curves=[_curve(results, goal) for goal in results.asked],
        scatters=[_scatter(results)],
        heats=[_heat(results, label, moves) for label, moves in results.moving.items()],
        samples=_samples(results),
        notes=_notes(results),
        counts={
            "generations": len(run.log("generations").rows),
            "sources": results.data["n"],
            "probes": len({row["probe"] for row in run.log("items").rows}),
        },
    )


def figure(name: str) -> Values:
    """One of the figures of what became of a probe."""
    return lambda one: one.figures[name]


def _table(results: Results) -> blocks.Block:
    columns = [
        blocks.column("error", "distance from the target", "lower"),
        blocks.column("miscalibration", "miscalibration", "lower"),
        blocks.column("side effect", "side effect", "lower"),
        blocks.column("along", "share of the way", None),
        blocks.column("probes", "probes", None, 0),
    ]
    rows: dict[str, dict[str, Any]] = {}
    for label, moves in results.rows.items():
        names = ("error", "miscalibration", "side effect", "along")
        rows[label] = {name: blocks.cell(results.mean(moves, figure(name))) for name in names}
        rows[label]["probes"] = blocks.cell(len(moves))
    note = (
        "Goals are scaled to 0 to 1. Share of the way: 1 is as far as asked, 0 not at all. Side effect: 0 is all "
        f"movement along the way asked for, 1 all across it. Intervals: 95 %, over sources. {_floors(results)}"
    )
    return blocks.table("steerability", "Where texts were asked to go, and where they went", note, columns, rows)


def _floors(results: Results) -> str:
    prompted = (
        f" {PROMPTED} is the plain model that is asked for the moves in words." if PROMPTED in results.rows else ""
    )
    if results.data["rewrites"]:
        return (
            f"{UNTOUCHED} is the source text as it stands, {PLAIN} the plain model that rewrites it and is asked for "
            f"nothing else.{prompted}"
        )
    return f"{PLAIN} is the plain model, whose answers are the sources.{prompted}"


def _scatter(results: Results) -> blocks.Block:
    points = []
    for label, moves in results.rows.items():
        x, y = (results.mean(moves, figure(name)) for name in ("miscalibration", "side effect"))
        if x is not None and y is not None:
            points.append(blocks.point(label, x, y))
    return blocks.scatter(
        "steerability",
        "Miscalibration against side effect",
        "Doing nothing has miscalibration 1 and side effect 0; what is wanted has 0 of both.",
        "miscalibration",
        "side effect",
        points,
        better_y="lower",
    )


def _heat(results: Results, label: str, moves: Sequence[Moved]) -> blocks.Block:
    """How far every goal moves for each unit that a goal is asked to."""
    values = [
        [_pull(moves, results.goals.index(asked), other) for other in range(len(results.goals))]
        for asked in results.asked
    ]
    note = (
        "Movement of the column's goal, in the direction asked of the row's goal, as a share of what that was asked; "
        "over probes that ask nothing of the column's goal. As asked: 1 where both are one goal, 0 elsewhere."
    )
    names = ("asked for", "moved")
    return blocks.heat(f"pull-{label}", f"Entanglement: {label}", note, names, results.asked, results.goals, values)


def _pull(moves: Sequence[Moved], asked: int, other: int) -> float | None:
    counted = [one for one in moves if one.asked(asked) and (other == asked or not one.asked(other))]
    if not counted:
        return None
    moved = sum(one.moved(other) * np.sign(one.asked(asked)) for one in counted)
    return float(moved / sum(abs(one.asked(asked)) for one in counted))


def _curve(results: Results, goal: str) -> blocks.Block:
    place, lines, furthest = results.goals.index(goal), [], results.settings["most_move"]
    ends = [(end, Interval(end, None, None, 1)) for end in (-furthest, furthest)]
    lines.append(blocks.series(AS_ASKED, ends))

    def asked_of(one: Moved) -> float:
        return one.asked(place)

    def moved(one: Moved) -> float:
        return one.moved(place)

    for label, moves in results.moving.items():
        groups: dict[int, list[Moved]] = {}
        for one in moves:
            if one.asked(place):
                groups.setdefault(bisect(CUTS[1:-1], one.asked(place)), []).append(one)
        points = []
        for _, group in sorted(groups.items()):
            asked, made = (results.mean(group, value) for value in (asked_of, moved))
            if asked is not None and made is not None:
                points.append((asked.value, made))
        if points:
            lines.append(blocks.series(label, points))
    note = "Probes in groups by the move asked for, each at its mean; bands are 95 % over sources."
    return blocks.curve(f"calibration-{goal}", f"{goal}: moved as asked?", note, "move asked for", "move made", lines)


def _samples(results: Results) -> list[blocks.Block]:
    """Probe by probe the texts of all rows, with their places."""
    rows = {row["id"]: row for row in results.run.log("generations").rows}
    probes: dict[int, dict[str, Moved]] = {}
    for label, moves in results.rows.items():
        for one in moves:
            if one.id is not None:
                probes.setdefault(one.probe, {})[label] = one
    found = []
    for number in sorted(probes)[:SHOWN]:
        by_label = probes[number]
        first = next(iter(by_label.values()))
        moves = {goal: first.asked(k) for k, goal in enumerate(results.goals) if first.asked(k)}
        wanted = ", ".join(f"{goal} {move:+.2f}" for goal, move in moves.items())
        found.append(
            {
                "concept": ", ".join(moves),
                "way": REACH,
                "instruction": f"[{wanted}] {rows[by_label[PLAIN].id]['instruction']}",
                "entries": [_entry(results, label, one, rows) for label, one in by_label.items()],
            }
        )
    return found


def _entry(results: Results, label: str, one: Moved, rows: Mapping[str | None, Mapping[str, Any]]) -> blocks.Block:
    places = {goal: round(place, 3) for goal, place in zip(results.goals, one.reached, strict=True)}
    row = rows[one.id]
    return {"label": label, "multiplier": row["multiplier"], "text": row["text"], "ratings": places}


def _notes(results: Results) -> list[str]:
    notes, probes = [], max(map(len, results.rows.values()))
    watched = [goal for goal in results.goals if goal not in results.asked]
    if watched:
        notes.append(f"Only watched, never asked for: {', '.join(watched)}; its movement counts as a side effect.")
    for label, moves in results.rows.items():
        if len(moves) < probes:
            notes.append(
                f"{label} could be asked in {len(moves)} of {probes} probes: the others need a goal, a direction or a "
                "second baseline that it lacks. Its figures are of those alone."
            )
    given = {each["label"] for each in results.run.identity["contenders"] if each["label"] != PLAIN}
    having = {row["label"] for row in results.run.log("items").rows}
    notes += [f"{label} could be asked in none of the probes." for label in sorted(given - having)]
    cut = sum(not row["ended"] for row in results.run.log("generations").rows)
    if cut:
        total = len(results.run.log("generations").rows)
        notes.append(f"{cut} of {total} texts were cut off at {results.settings['max_new_tokens']} tokens.")
    return notes
