"""Utility: does the steered model still know and reason? The same questions before and after, compared item by item.

Questions come from lm-evaluation-harness (MMLU, TruthfulQA, GSM8K, tiny variants, any task of its own or yours), run by
its own runner on the steered model, and from the organism's multiple-choice set, which needs no download. Every answer
is on record; what is reported is the difference to the plain model on the same items, with an interval over items (over
concepts, where a label has several).
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trimtab.errors import InputError
from trimtab.evaluation.choices import TASK, Questions, run_choices
from trimtab.evaluation.contenders import Contender, with_plain
from trimtab.evaluation.harness import SEED, HarnessSettings, Item, check_work, run_part
from trimtab.evaluation.harness_tasks import HarnessTask, load_tasks, task_names
from trimtab.evaluation.jobs import IDENTITY
from trimtab.evaluation.records import Log, Run, digest
from trimtab.evaluation.traits import drawn_choices
from trimtab.methods.steerable import Applied, applied
from trimtab.models import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Steering
from trimtab.steering.factors import DIRECTIONS, check_direction, check_multiplier

USE = ("label", "concept", "way", "multiplier")
"""Columns that say what was at work."""
KEY = (*USE, "task", "subtask", "item", "filter")
"""Columns of which no two records are alike."""


@dataclass(frozen=True)
class UtilitySettings:
    """Settings of the protocol.

    Args:
        tasks: Names that lm-evaluation-harness knows, YAML files, or presets (`standard`, `tiny`).
        choices: How many of the organism's multiple-choice questions are asked besides; 0 = none.
        ways: Directions that are measured.
        multipliers: Of what has a factor; none = each at its own, calibrated or 1.
        num_fewshot: Examples before each question; None = as the task says.
        limit: Only the first so many items of each task; None = all.
        chat_template: Whether the harness asks through the model's chat template. The organism's questions always are.
        include_path: A folder with tasks of your own.
        resamples: Of the bootstrap.
        seed: Of examples, drawn questions and bootstrap.

    Raises:
        InputError: A value that cannot be, or nothing to ask.
    """

    tasks: tuple[str, ...] = ()
    choices: int = 0
    ways: tuple[str, ...] = DIRECTIONS
    multipliers: tuple[float, ...] = ()
    num_fewshot: int | None = None
    limit: int | None = None
    chat_template: bool = False
    include_path: str | None = None
    resamples: int = 2000
    seed: int = SEED

    def __post_init__(self) -> None:
        if isinstance(self.tasks, str):
            raise InputError(f"tasks is the text {self.tasks!r}; give a list of names, [{self.tasks!r}] for one")
        if not isinstance(self.choices, int) or self.choices < 0:
            raise InputError(f"choices is {self.choices!r}; give a number of questions, 0 for none")
        if self.tasks:
            task_names(self.tasks)
        elif not self.choices:
            raise InputError(
                "there is nothing to ask; give tasks of the harness (--task), or choices of the organism (--choices)"
            )
        for way in self.ways:
            check_direction(way)
        if not self.ways:
            raise InputError(f"ways is empty; give {' or '.join(DIRECTIONS)}, or both")
        for multiplier in self.multipliers:
            check_multiplier(multiplier)
        if len(set(self.multipliers)) < len(self.multipliers):
            raise InputError(f"multipliers {list(self.multipliers)} hold one twice; give each once")
        if self.resamples < 1:
            raise InputError(f"resamples is {self.resamples}; it must be at least 1")
        _ = self.harness

    @property
    def harness(self) -> HarnessSettings:
        """How the harness's tasks are run."""
        return HarnessSettings(self.num_fewshot, self.limit, self.chat_template, self.seed)


@dataclass(frozen=True, eq=False)
class UtilityData:
    """What is asked.

    Attributes:
        tasks: The harness's, loaded with their data.
        questions: The organism's.
    """

    tasks: tuple[HarnessTask, ...]
    questions: Questions

    @property
    def source(self) -> str:
        """Where they are from, for people."""
        return ", ".join([*(task.name for task in self.tasks), *(["organism"] if self.questions else [])])

    @property
    def identity(self) -> dict[str, Any]:
        """What decides it, for a run's configuration."""
        choices = [[number, request.user] for number, request in self.questions]
        return {"tasks": [task.identity for task in self.tasks], "choices": digest(choices) if choices else None}


def load_utility(settings: UtilitySettings) -> UtilityData:
    """What is asked, loaded once for all contenders.

    Raises:
        MissingExtraError: Tasks of the harness, and lm_eval is not installed.
        NetworkError: A task's data are not here and cannot be fetched.
        InputError: As of `load_tasks`.
    """
    tasks = load_tasks(settings.tasks, settings.include_path) if settings.tasks else ()
    return UtilityData(tasks, drawn_choices(settings.choices, settings.seed) if settings.choices else ())


@dataclass(frozen=True, eq=False)
class Use:
    """A contender at work in one way.

    Attributes:
        contender: Who.
        way: The direction; None for the plain model.
        multiplier: Its strength; None for the plain model.
    """

    contender: Contender
    way: str | None = None
    multiplier: float | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """What its records say of it."""
        return dict(zip(USE, (self.contender.label, self.contender.concept, self.way, self.multiplier), strict=True))

    def steering(self) -> Steering | None:
        """What a vector does; None for the plain model and for baselines."""
        vector = self.contender.vector
        return None if vector is None else vector.steering(str(self.way), self.multiplier, self.contender.scale)

    @property
    def is_baseline(self) -> bool:
        """Whether it is one."""
        return self.contender.steerable is not None and self.contender.vector is None

    @contextmanager
    def applied(self, model: Model) -> Iterator[Applied]:
        """It at work on the model."""
        if self.contender.steerable is None or not self.is_baseline:
            yield Applied(self.steering())
            return
        with applied(model, self.contender.steerable, str(self.way), self.multiplier) as work:
            yield work


def uses(contenders: Sequence[Contender], settings: UtilitySettings) -> list[Use]:
    """The plain model, and every contender in every direction at every multiplier."""
    found: list[Use] = []
    for contender in with_plain(contenders):
        if contender.steerable is None:
            found.append(Use(contender))
        for way in (way for way in settings.ways if way in contender.ways):
            found += [Use(contender, way, multiplier) for multiplier in contender.tried(way, settings.multipliers)]
    return found


def run_utility(
    model: Model,
    data: UtilityData,
    contenders: Sequence[Contender],
    settings: UtilitySettings,
    run: Run,
    *,
    batch_size: int = 8,
    progress: ProgressCallback | None = None,
) -> None:
    """Put every answer on record that is not there yet: in `items`, and what the harness makes of them in `measures`.

    Args:
        model: The model, plain.
        data: From `load_utility`.
        contenders: What is compared with the plain model.
        settings: See there.
        run: Where it goes.
        batch_size: Rows a forward of the harness.
        progress: Told of every task that a contender has done, of a group of every part.

    Raises:
        InputError: A contender for another model, or one that these settings cannot ask; it comes before any answer.
    """
    plan, log = uses(contenders, settings), run.log("items")
    for use in plan:
        use.contender.require_fit(model)
        if data.tasks:
            with use.applied(model) as work:
                check_work(model, work, settings.harness)
    parts = sum(len(task.parts) for task in data.tasks)
    done, began, total = 0, time.monotonic(), len(plan) * (parts + bool(data.questions))

    def told(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(Progress("utility", done, total, time.monotonic() - began))

    if data.questions:
        _ask_choices(model, data.questions, plan, log)
        told(len(plan))
    if data.tasks:
        for use in plan:
            with use.applied(model) as work:
                for task in data.tasks:
                    for _ in _run_one(model, task, use, work, settings, run, batch_size):
                        told(1)


def _ask_choices(model: Model, questions: Questions, plan: Sequence[Use], log: Log) -> None:
    """All that edit hidden states in the same batches; baselines, which may change the model, one by one."""
    groups = [[use for use in plan if not use.is_baseline], *([use] for use in plan if use.is_baseline)]
    for group in groups:
        wanted = {(*use.columns.values(), TASK, TASK, number, "none") for use in group for number, _ in questions}
        if wanted <= log.keys(*KEY):
            continue
        rows = {str(place): use.steering() for place, use in enumerate(group)}
        with group[0].applied(model) as work:
            found = run_choices(model, questions, rows, work if group[0].is_baseline else None)
        for place, use in enumerate(group):
            _append(log, use, found[str(place)], log.keys(*KEY))


def _run_one(
    model: Model, task: HarnessTask, use: Use, work: Applied, settings: UtilitySettings, run: Run, batch_size: int
) -> Iterator[str]:
    """One task under one use, part by part, without those that are on record; yields each part that is there now."""
    log, columns = run.log("items"), tuple(use.columns.values())
    there = log.keys(*KEY)
    for part in task.parts:
        if not {(*columns, task.name, *key) for key in task.keys_of(part, settings.limit)} <= there:
            result = run_part(model, task, part, work, settings.harness, batch_size)
            figures = [*result.figures[part].items(), ("truncated", float(result.truncated))]
            _note(run.log("measures"), use, task, part, figures)
            _append(log, use, result.items, there)
        yield part


def _append(log: Log, use: Use, items: Iterable[Item], there: Container[tuple[Any, ...]]) -> None:
    """Put items on record that are not there."""
    rows = [{**use.columns, **item} for item in items]
    log.append(row for row in rows if tuple(row[column] for column in KEY) not in there)


def _note(log: Log, use: Use, task: HarnessTask, part: str, figures: Iterable[tuple[str, float]]) -> None:
    """Put numbers about all items of a part on record, once."""
    there = log.keys("id")
    rows: list[Mapping[str, Any]] = []
    about = {**use.columns, "task": task.name, "subtask": part}
    for name, value in figures:
        rows.append({"id": digest({**about, "name": name})[:IDENTITY], "name": name, "value": value, **about})
    log.append(row for row in rows if (row["id"],) not in there)
