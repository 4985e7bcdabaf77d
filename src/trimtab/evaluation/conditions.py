"""Contenders on prompts of several conditions: what the safety protocols share.

Every contender answers the prompts of the conditions that a direction is about, greedily, at its own multiplier or at
several, and is compared with the plain model's answers to the same prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import InputError
from trimtab.evaluation.contenders import PLAIN, Contender, with_plain
from trimtab.evaluation.divergences import Behind, moved, plain_states
from trimtab.evaluation.jobs import Job, seed_of
from trimtab.evaluation.prompt_sets import PromptSet
from trimtab.evaluation.rated import Rated
from trimtab.evaluation.records import Log, finite
from trimtab.evaluation.statistics import Interval, bootstrap, wilson
from trimtab.models import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering.factors import check_multiplier

KL = "kl"
"""Name of the measure: KL(plain || steered), nats a token, on the plain model's answer to the same prompt."""


@dataclass(frozen=True)
class Dose:
    """A contender in one direction at one multiplier."""

    contender: Contender
    way: str
    multiplier: float

    @property
    def columns(self) -> dict[str, Any]:
        """As records name it."""
        return {"label": self.contender.label, "way": self.way, "multiplier": self.multiplier}


def checked_multipliers(multipliers: Iterable[float]) -> tuple[float, ...]:
    """The same as floats, so that 1 and 1.0 are one setting.

    Raises:
        InputError: One that is not a finite number, or stands there twice.
    """
    found = tuple(multipliers)
    for multiplier in found:
        check_multiplier(multiplier)
    if len(set(found)) < len(found):
        raise InputError(f"multipliers {list(found)} hold one twice; give each once")
    return tuple(float(multiplier) for multiplier in found)


def doses(contenders: Sequence[Contender], ways: Iterable[str], multipliers: Sequence[float]) -> list[Dose]:
    """Every contender in every direction that it has, at each multiplier at which it is tried (`Contender.tried`).

    Raises:
        InputError: Two contenders with one label: whatever they were made for, here they are one row each.
    """
    labels = [each.label for each in contenders]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        concepts = ", ".join(str(each.concept) for each in contenders if each.label == twice)
        raise InputError(f"contenders for {concepts} are all called {twice!r}; tell them apart: LABEL=DIR")
    found = []
    for contender in contenders:
        for way in ways:
            if way in contender.ways:
                found += [Dose(contender, way, multiplier) for multiplier in contender.tried(way, multipliers)]
    return found


def plan(
    prompts: PromptSet, given: Sequence[Dose], where: Mapping[str, Sequence[str]], concept: str, seed: int
) -> list[Job]:
    """The plain model on all prompts, and every dose on those of its direction's conditions.

    Args:
        prompts: By condition.
        given: What answers.
        where: Conditions by direction; one that has no prompts is passed over.
        concept: What judges are told to look for.
        seed: Of the sampling, where there is any.
    """
    (plain,) = with_plain(())
    wanted: list[tuple[Contender, str | None, float | None, str]] = [
        (plain, None, None, condition) for condition in prompts.prompts
    ]
    for dose in given:
        wanted += [(dose.contender, dose.way, dose.multiplier, condition) for condition in where[dose.way]]
    return [
        Job(
            contender,
            prompt,
            number,
            condition,
            way,
            multiplier,
            concept,
            seed_of(seed, concept, condition, number, multiplier),
        )
        for contender, way, multiplier, condition in wanted
        for number, prompt in enumerate(prompts.prompts.get(condition, ()))
    ]


def measure_kl(
    model: Model,
    given: Sequence[Dose],
    conditions: Callable[[Dose], Sequence[str]],
    generations: Log,
    log: Log,
    progress: ProgressCallback | None = None,
) -> None:
    """Put on record how far each dose moves the plain model on prompts that it should leave alone.

    Args:
        model: The model, plain.
        given: What is measured.
        conditions: On which prompts.
        generations: Where the plain model's answers are.
        log: Where it goes: label, direction, multiplier, condition, prompt, `name` (`KL`), `value`.
        progress: Told of every dose.
    """
    done, began = log.keys("label", "way", "multiplier", "condition", "prompt", "name"), time.monotonic()
    answers: dict[str, list[Mapping[str, Any]]] = {}
    for row in generations.rows:
        if row["way"] is None:
            answers.setdefault(row["condition"], []).append(row)
    states: dict[str, Any] = {}
    for number, dose in enumerate(given, 1):
        for condition in conditions(dose):
            rows = answers.get(condition, [])
            keys = [(*dose.columns.values(), condition, row["prompt"], KL) for row in rows]
            if set(keys) <= done:
                continue
            behind = Behind([row["messages"] for row in rows], [row["ids"] for row in rows])
            if condition not in states:
                states[condition] = plain_states(model, behind)
            found = moved(model, dose.contender, dose.way, dose.multiplier, behind, states[condition])
            log.append(
                {**dose.columns, "condition": condition, "prompt": row["prompt"], "name": KL, "value": finite(one.kl)}
                for row, one, key in zip(rows, found, keys, strict=True)
                if key not in done
            )
        if progress is not None:
            progress(Progress("side effects", number, len(given), time.monotonic() - began))


@dataclass(frozen=True)
class Answered:
    """The texts of a run, by who wrote them and on which prompts.

    Attributes:
        texts: All of them.
        seed: Of bootstraps.
    """

    texts: Sequence[Rated]
    seed: int

    def of(self, label: str, way: str | None, multiplier: float | None, condition: str) -> list[Rated]:
        """In the order of the prompts."""
        found = [
            text
            for text in self.texts
            if (text["label"], text["way"], text["multiplier"], text["condition"])
            == (label, way, multiplier, condition)
        ]
        return sorted(found, key=lambda text: text["prompt"])

    def rate(self, texts: Sequence[Rated], holds: Callable[[Rated], bool | None]) -> Interval | None:
        """The share of texts of which something holds, with Wilson's interval; what is unknown is left out."""
        known = [found for found in map(holds, texts) if found is not None]
        return wilson(sum(known), len(known)) if known else None

    def mean(self, values: Iterable[float]) -> Interval | None:
        """A mean with its bootstrap interval over prompts."""
        return bootstrap(list(values), seed=self.seed)

    @property
    def doses(self) -> list[tuple[str, str, float]]:
        """Label, direction and multiplier of everything but the plain model, sorted by direction, then label."""
        found = {
            (text["label"], text["way"], text["multiplier"]): None for text in self.texts if text["label"] != PLAIN
        }
        return sorted(found, key=lambda dose: (dose[1], dose[0], dose[2]))

    def name(self, dose: tuple[str, str | None, float | None], *, told: bool = False) -> str:
        """What a dose is called in tables: its label, with the multiplier where there are several, or if `told`."""
        several = sum(each[:2] == dose[:2] for each in self.doses) > 1
        return f"{dose[0]} x {dose[2]:g}" if told or several else dose[0]
