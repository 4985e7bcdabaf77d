"""Texts on record with their ratings and measures, as what summaries are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.evaluation.records import Run

SHOWN = 60
"""Most prompts of a run whose texts a page shows side by side."""


@dataclass(frozen=True)
class Rated:
    """A text on record.

    Attributes:
        row: Its row of `generations.jsonl`.
        ratings: By aspect; None for what could not be read.
        measures: By name; None for what is not finite.
    """

    row: Mapping[str, Any]
    ratings: Mapping[str, float | None]
    measures: Mapping[str, float | None]

    def __getitem__(self, column: str) -> Any:
        return self.row[column]


def rated(run: Run) -> list[Rated]:
    """The texts of a run, in the order of its log."""
    ratings: dict[str, dict[str, float | None]] = {}
    for row in run.log("ratings").rows:
        ratings.setdefault(row["id"], {})[row["aspect"]] = row["rating"]
    measures: dict[str, dict[str, float | None]] = {}
    for row in run.log("measures").rows:
        if "id" in row:
            measures.setdefault(row["id"], {})[row["name"]] = row["value"]
    return [Rated(row, ratings.get(row["id"], {}), measures.get(row["id"], {})) for row in run.log("generations").rows]


def counts(run: Run) -> dict[str, int]:
    """How much is on record, and how many replies could not be read."""
    ratings = run.log("ratings").rows
    return {
        "generations": len(run.log("generations").rows),
        "ratings": len(ratings),
        "unreadable": sum(row["rating"] is None for row in ratings),
        "asked again": sum(row["attempts"] > 1 for row in ratings),
    }


def unreadable_notes(run: Run, treated: str = "exclude") -> list[str]:
    """What a reader has to know of replies that could not be read and measures that are no numbers."""
    found, notes = counts(run), []
    if found["unreadable"]:
        what = "left out of every mean" if treated == "exclude" else "counted as 0, as the published code does"
        notes.append(f"{found['unreadable']} of {found['ratings']} ratings could not be read; they are {what}.")
    measures = run.log("measures").rows
    if broken := sum(row["value"] is None for row in measures):
        notes.append(f"{broken} of {len(measures)} measures are not finite, and left out: the model broke there.")
    return notes


def sample_blocks(texts: Iterable[Rated], chosen: Mapping[tuple[str, str, str | None], float | None]) -> list[Any]:
    """Side-by-side samples: prompt by prompt, the plain model's text and each contender's at the multiplier chosen.

    Args:
        texts: Texts of a run.
        chosen: By label, concept and direction, the multiplier whose texts are shown; what is absent is not shown.
    """
    groups: dict[tuple[Any, ...], list[Rated]] = {}
    plain: dict[tuple[Any, ...], Rated] = {}
    for text in texts:
        if text["way"] is None:
            plain[text["concept"], text["condition"], text["prompt"]] = text
        elif chosen.get((text["label"], text["concept"], text["way"]), "no") == text["multiplier"]:
            key = (text["concept"], text["way"], text["condition"], text["prompt"])
            groups.setdefault(key, []).append(text)
    spread = _spread(sorted(groups, key=lambda key: (str(key[0]), str(key[1]), str(key[2]), key[3])))
    blocks = []
    for concept, way, condition, prompt in spread:
        before = plain.get((concept, condition, prompt))
        entries = [*([] if before is None else [before]), *groups[concept, way, condition, prompt]]
        blocks.append(
            {
                "concept": concept,
                "way": way,
                "instruction": entries[0]["instruction"],
                "entries": [
                    {
                        "label": text["label"],
                        "multiplier": text["multiplier"],
                        "text": text["text"],
                        "ratings": dict(text.ratings),
                    }
                    for text in entries
                ],
            }
        )
    return blocks


def _spread(keys: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """At most `SHOWN` keys, as many of each concept, direction and condition as of the others."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for key in keys:
        groups.setdefault(key[:3], []).append(key)
    each = max(1, SHOWN // max(1, len(groups)))
    chosen = [key for group in groups.values() for key in group[:each]]
    step = max(1, -(-len(chosen) // SHOWN))  # more groups than places: every so many
    return chosen[::step]
