"""Tasks of lm-evaluation-harness on a steered model: its own runner, its own Hugging Face model, our edits.

Nothing of the harness is written again. Requests, batches, stop sequences, filters and metrics are its own; what comes
back is a record an item, so that two models can be compared on the same items.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.errors import InputError, MissingExtraError
from trimtab.evaluation.harness_tasks import HarnessTask, load_tasks
from trimtab.evaluation.undisturbed import undisturbed
from trimtab.methods.steerable import Applied, Steerable, applied
from trimtab.models import Model
from trimtab.models.compat import require_fit
from trimtab.models.layout import evaluating
from trimtab.steering import SteeringVector

if TYPE_CHECKING:
    from trimtab.evaluation.harness_model import SteeredLM

logger = logging.getLogger(__name__)

SEED = 1234
"""The harness's own, which decides the examples that are shown before a question."""

Item = dict[str, Any]
"""One item's record; see `TaskResult`."""


@dataclass(frozen=True)
class HarnessSettings:
    """How tasks are run.

    Args:
        num_fewshot: Examples before each question; None = as the task says. A task that says 0 keeps 0, as in the
            harness.
        limit: Only the first so many items of each task (of each subtask of a group); None = all.
        chat_template: Whether questions are asked through the model's chat template. Off, as in the harness, so that
            numbers compare with published ones.
        seed: Of the examples, and of samples where a task draws any.

    Raises:
        InputError: A number that cannot be.
    """

    num_fewshot: int | None = None
    limit: int | None = None
    chat_template: bool = False
    seed: int = SEED

    def __post_init__(self) -> None:
        for name, value, least in (("num_fewshot", self.num_fewshot, 0), ("limit", self.limit, 1)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InputError(f"{name} is {value!r}; give a whole number of at least {least}, or leave it out")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; it must be a whole number from 0 to 2**32 - 1")


@dataclass(frozen=True)
class TaskResult:
    """What one task found, or one part of a group.

    Attributes:
        items: A record an item and filter: `task` as it was asked for, `subtask`, `item` (its number), `filter`,
            `metrics` by name (None = not a finite number), `target`, `response` (the text; the number of the likeliest
            choice; whether the continuation is the likeliest), `scores` (the log-likelihood of each choice in nats,
            None for texts), `doc` (a hash of the item).
        figures: By subtask and by `metric,filter`, what the harness makes of all items: mostly the mean.
        truncated: Requests that did not fit the context and lost their beginning.
    """

    items: list[Item]
    figures: Mapping[str, Mapping[str, float]]
    truncated: int


def harness_model(model: Model, work: Applied | None = None, *, batch_size: int = 8) -> SteeredLM:
    """lm-evaluation-harness's Hugging Face model over a model that is loaded, to be handed to its own functions.

    Args:
        model: The model.
        work: What is at work on it, from `trimtab.methods.steerable.applied`, as long as its context lasts; None = the
            plain model.
        batch_size: Rows a forward.

    Raises:
        MissingExtraError: lm_eval is not installed.
        InputError: The batch size is none, or the steering was made for another model.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1")
    try:
        from trimtab.evaluation.harness_model import SteeredLM
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] == "lm_eval":
            raise MissingExtraError("a task of lm-evaluation-harness", "lm_eval", "harness") from error
        raise
    return SteeredLM(model, Applied() if work is None else work, batch_size=batch_size)


def run_tasks(
    model: Model,
    tasks: Sequence[str],
    steerable: Steerable | None = None,
    way: str = "elicit",
    multiplier: float | None = None,
    *,
    settings: HarnessSettings = HarnessSettings(),
    batch_size: int = 8,
    include_path: str | Path | None = None,
) -> list[Item]:
    """Run tasks on a model, steered or not.

    Args:
        model: The model.
        tasks: As of `load_tasks`.
        steerable: A vector or a baseline; None = the plain model.
        way: `elicit` or `suppress`.
        multiplier: As of `applied`.
        settings: How they are run.
        batch_size: Rows a forward.
        include_path: A folder with tasks of your own.

    Returns:
        A record an item and filter, see `TaskResult`.

    Raises:
        MissingExtraError: lm_eval is not installed.
        NetworkError: A task's data are not here and cannot be fetched.
        InputError: As of `load_tasks`, `run_task` and `applied`.
    """
    if isinstance(steerable, SteeringVector):
        require_fit(model, steerable)
    loaded = load_tasks(tasks, include_path)
    with nullcontext(Applied()) if steerable is None else applied(model, steerable, way, multiplier) as work:
        return [item for task in loaded for item in run_task(model, task, work, settings, batch_size).items]


def check_work(model: Model, work: Applied, settings: HarnessSettings) -> None:
    """Raise InputError if tasks cannot be run with these settings on this model, or on what is at work on it."""
    if settings.chat_template and model.chat.kind != "template":
        raise InputError(f"{model.name} has no chat template; leave out chat_template (--chat)")
    if not work.keeps_prompts and not settings.chat_template:
        raise InputError(
            "a prompt baseline is a system message, which the harness's plain texts have no place for; set "
            "chat_template (--chat), or leave the baseline out"
        )


def run_task(
    model: Model, task: HarnessTask, work: Applied, settings: HarnessSettings, batch_size: int = 8
) -> TaskResult:
    """Run one task, a group part by part.

    Args:
        model: The model.
        task: From `load_tasks`.
        work: What is at work on the model.
        settings: How it is run.
        batch_size: As of `run_part`.

    Raises:
        MissingExtraError: lm_eval is not installed.
        InputError: As of `run_part`.
    """
    found = [run_part(model, task, part, work, settings, batch_size) for part in task.parts]
    figures = {part: each for one in found for part, each in one.figures.items()}
    return TaskResult([item for one in found for item in one.items], figures, sum(one.truncated for one in found))


def run_part(
    model: Model, task: HarnessTask, part: str, work: Applied, settings: HarnessSettings, batch_size: int = 8
) -> TaskResult:
    """Run one part of a task with the harness's own `evaluate`; the model, its modes and generators stay as they are.

    It is called as `simple_evaluate` calls it, without what that looks up of the machine (git, drivers) in each call.
    No batch holds items of two parts, and random generators begin anew in each: what else is run, plays no part.

    Args:
        model: The model.
        task: From `load_tasks`.
        part: One of its parts.
        work: What is at work on the model.
        settings: How it is run.
        batch_size: Rows a forward; the harness draws examples before any batch, so it changes nothing but the time and
            the last digits.

    Raises:
        MissingExtraError: lm_eval is not installed.
        InputError: As of `check_work`; an item whose metrics are no numbers; a prompt that begins with BOS twice.
    """
    check_work(model, work, settings)
    with evaluating(model.hf), undisturbed(settings.seed):
        lm = harness_model(model, work, batch_size=batch_size)
        from lm_eval.evaluator import evaluate

        _show_examples(task, part, settings)
        found = evaluate(
            lm,
            {"tasks": {part: task.parts[part]}, "groups": {}, "group_map": {}},
            limit=settings.limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=settings.chat_template,
            fewshot_as_multiturn=True,
        )
    assert found is not None  # it is, on the first of several processes and where there is one
    if lm.truncated:
        logger.warning("%s: %d requests are longer than the context and lost their beginning", part, lm.truncated)
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = found["samples"]  # pyright: ignore
    items = [_item(task, part, sample) for sample in samples[part]]
    _check_numbers(part, items)
    results: Mapping[str, Mapping[str, Any]] = found["results"]  # pyright: ignore
    return TaskResult(items, {part: _figures(results[part])}, lm.truncated)


def _show_examples(task: HarnessTask, part: str, settings: HarnessSettings) -> None:
    """Say how many examples stand before a question, and from which seed they are drawn, as `simple_evaluate` does."""
    own = task.examples[part]
    wanted = own if own == 0 or settings.num_fewshot is None else settings.num_fewshot
    task.parts[part].set_config(key="num_fewshot", value=wanted or 0)
    task.parts[part].set_fewshot_seed(seed=settings.seed)


def _item(task: HarnessTask, part: str, sample: Mapping[str, Any]) -> Item:
    replies, kind = sample["filtered_resps"], task.kind(part)
    metrics = {name: _number(sample[name]) for name in sample["metrics"] if _is_number(sample[name])}
    scores: list[float | None] | None = None
    if kind == "generate_until":
        response: Any = _plain(replies[0])
    else:
        scores = [_number(reply[0]) for reply in replies]
        if kind == "multiple_choice":
            response = max(range(len(replies)), key=lambda k: replies[k][0])
        else:
            response = bool(replies[0][1])
    return {
        "task": task.name,
        "subtask": part,
        "item": sample["doc_id"],
        "filter": sample["filter"],
        "metrics": metrics,
        "target": _plain(sample["target"]),
        "response": response,
        "scores": scores,
        "doc": sample["doc_hash"],
    }


def _check_numbers(part: str, items: Sequence[Item]) -> None:
    for item in items:
        if not item["metrics"]:
            raise InputError(
                f"task {item['subtask']!r} gives no number an item (its metrics are of all items together), so nothing "
                "can be compared item by item; choose another task, such as one with acc or exact_match"
            )
    if not items:
        raise InputError(f"task {part!r} has no items; look at its data")


def _figures(results: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own numbers, as `metric,filter`, without its errors (which it was told not to estimate)."""
    named = {key: value for key, value in results.items() if "," in key and "_stderr," not in key}
    return {key: float(value) for key, value in named.items() if _is_number(value) and math.isfinite(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating)


def _number(value: Any) -> float | None:
    """A number as JSON has it."""
    return float(value) if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """A text, number or list of such, as JSON has them; of anything else its text."""
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    return _number(value) if _is_number(value) else str(value)
