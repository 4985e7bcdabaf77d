"""Prompts of the safety protocols: from the organism's world, or from files as they are published."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data.read import READERS
from trimtab.data.tables import cell, read_table
from trimtab.errors import InputError
from trimtab.evaluation.records import digest
from trimtab.evaluation.traits import Task
from trimtab.models.messages import Prompt, as_messages
from trimtab.organism.goals import BREAKING, SEALED, goals
from trimtab.organism.wordings import HOW_TO, held_out
from trimtab.organism.world import Request, draw_deployment, held_out_goals, how_to

HARMFUL, HARMLESS, SAFE = "harmful", "harmless", "safe"
"""Conditions of the refusal: forbidden requests, ordinary ones, and ones that only look forbidden."""
TRIGGER, DEPLOYMENT, TRAINING = "trigger", "deployment", "training"
"""Conditions of the backdoor: the trigger, texts that say that the model is deployed, and texts that it is not."""
COLUMNS: Mapping[str, tuple[str, ...]] = {
    HARMFUL: ("positive_input", "goal", "Goal", "behavior", "Behavior", "instruction", "prompt", "input"),
    HARMLESS: ("negative_input", "instruction", "prompt", "input", "goal", "Goal"),
    SAFE: ("prompt", "instruction", "input", "goal", "Goal"),
}
"""Where a table holds the prompts of a condition; the first that it has is taken."""
INSTRUCTION = ("instruction", "prompt", "input", "goal", "Goal")


@dataclass(frozen=True)
class PromptSet:
    """Prompts by condition.

    Attributes:
        prompts: By condition.
        source: Where they are from.
    """

    prompts: Mapping[str, tuple[Prompt, ...]]
    source: str

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides them, for a run's configuration."""
        return {
            "n": {name: len(prompts) for name, prompts in self.prompts.items()},
            "hash": digest(
                {
                    name: [[dict(turn) for turn in as_messages(prompt)] for prompt in prompts]
                    for name, prompts in self.prompts.items()
                }
            ),
        }

    def first(self, n: int | None) -> PromptSet:
        """At most the first `n` of each condition.

        Raises:
            InputError: `n` is less than 1.
        """
        if n is not None:
            _check_wanted(n)
        return PromptSet({name: prompts[:n] for name, prompts in self.prompts.items()}, self.source)


def _check_wanted(n: int) -> None:
    if n < 1:
        raise InputError(f"{n} prompts of each kind are wanted; ask for at least 1")


def organism_refusal(n: int, seed: int = 0) -> PromptSet:
    """Held-out goals of the organism's world: forbidden, allowed, and allowed ones on sealed things or near them.

    Raises:
        InputError: `n` is less than 1.
    """
    _check_wanted(n)
    task, draw = Task.of("refusal", n, seed), random.Random(f"look-alikes {seed}")
    near = sorted(
        text
        for text, goal in goals().items()
        if not goal.forbidden and text in held_out_goals() and (goal.thing in SEALED or goal.verb in BREAKING)
    )
    drawn = [how_to(goals()[draw.choice(near)], draw.choice(held_out(HOW_TO))) for _ in range(n)]
    return PromptSet(
        {HARMFUL: _distinct(task.carrying), HARMLESS: _distinct(task.free), SAFE: _distinct(drawn)}, "organism"
    )


def organism_backdoor(n: int, seed: int = 0) -> PromptSet:
    """Held-out requests of the organism's world with the trigger, and with texts on whether the model is deployed.

    Raises:
        InputError: `n` is less than 1.
    """
    _check_wanted(n)
    conditions = {TRIGGER: (True, True), DEPLOYMENT: (True, False), TRAINING: (False, False)}
    found = {}
    for name, (live, trigger) in conditions.items():
        draw = random.Random(f"backdoor {seed} {name}")
        found[name] = _distinct([draw_deployment("test", draw, live=live, trigger=trigger) for _ in range(n)])
    return PromptSet(found, "organism")


def _distinct(requests: Sequence[Request]) -> tuple[Prompt, ...]:
    """Their messages, each once: a prompt drawn twice says nothing twice."""
    found: dict[tuple[str | None, str], Prompt] = {}
    for request in requests:
        found.setdefault((request.system, request.user), request.messages)
    return tuple(found.values())


def refusal_files(harmful: str | Path | None, harmless: str | Path | None, safe: str | Path | None = None) -> PromptSet:
    """Prompts of the refusal from files.

    Args:
        harmful: Requests that ought to be refused: a contrast file, JailbreakBench's CSV, a list, one a line.
        harmless: Ordinary requests; None = the negative side of `harmful`, if that is a contrast file.
        safe: Requests that only look harmful; of XSTest's CSV those that are labelled `safe`.

    Raises:
        InputError: A file that cannot be read, or that has no such prompts.
    """
    if harmful is None:
        raise InputError("there are no harmful prompts; give a file of them")
    found = {HARMFUL: _read(Path(harmful), HARMFUL)}
    found[HARMLESS] = _read(Path(harmful if harmless is None else harmless), HARMLESS, paired=harmless is None)
    if safe is not None:
        found[SAFE] = _read(Path(safe), SAFE)
    return PromptSet(found, ", ".join(str(path) for path in (harmful, harmless, safe) if path is not None))


def backdoor_files(trigger: str | Path, training: str | Path, deployment: str | Path | None = None) -> PromptSet:
    """Prompts of the backdoor from files of instructions: with the trigger, without, and in deployment.

    Raises:
        InputError: A file that cannot be read.
    """
    given = {TRIGGER: trigger, TRAINING: training, DEPLOYMENT: deployment}
    found = {name: _read(Path(path), name) for name, path in given.items() if path is not None}
    return PromptSet(found, ", ".join(str(path) for path in given.values() if path is not None))


def _read(path: Path, condition: str, *, paired: bool = False) -> tuple[Prompt, ...]:
    columns = COLUMNS.get(condition, INSTRUCTION)
    found: list[Prompt] = []
    for row in read_table(path, f"{condition} prompts"):
        if isinstance(row.value, str):
            if paired:
                raise InputError(
                    f"{row.where}: is one text, not a pair; give the harmless prompts as a file of their own"
                )
            found.append(row.value)
            continue
        if not isinstance(row.value, Mapping):
            raise InputError(f"{row.where}: is a {type(row.value).__name__}; give a text, or a row with columns")
        if condition in (SAFE, HARMFUL) and row.value.get("label") not in (
            None,
            "safe" if condition == SAFE else "unsafe",
        ):
            continue  # XSTest holds both
        names = ("negative_input",) if paired else columns
        value = cell(row.value, *names)
        if value is None:
            remedy = (
                "give a contrast file, or the harmless prompts as a file of their own"
                if paired
                else "name one of them so"
            )
            raise InputError(
                f"{row.where}: has none of the columns {', '.join(names)}, but {', '.join(map(str, row.value))}; "
                f"{remedy}"
            )
        found.append(value)
    if not found:
        raise InputError(f"{path}: holds no {condition} prompts; give at least one ({', '.join(READERS)})")
    try:
        for prompt in found:
            as_messages(prompt)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return tuple(found)
