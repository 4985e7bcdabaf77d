"""Every method on the same data, judged alike: which is best for a concept of the organism's world?

A vector is judged on held-out prompts by the exact judge, eliciting on those without the concept and suppressing on
those that carry it, and by what it moves where it has no business: KL(plain || steered) on prompts of another kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trimtab.evaluation.traits import BATCH, LONGEST, Measured, Reference, Requests, Task, judged, measure
from trimtab.fitting.likelihood import final_states, kl_divergences
from trimtab.methods.steerable import Applied, Baseline, Steerable, applied
from trimtab.steering import SteeringVector

if TYPE_CHECKING:
    from trimtab.models import Model
    from trimtab.progress import ProgressCallback


@dataclass(frozen=True)
class MethodResult:
    """What one method reached for one concept.

    Attributes:
        rows: Judged answers of each direction that the method has.
        unrelated: Side effect of each direction: KL(plain || steered), nats a token, on the plain model's answers to
            prompts of another kind, a value a prompt.
    """

    rows: Mapping[str, Measured]
    unrelated: Mapping[str, tuple[float, ...]]


class Unrelated:
    """What the plain model answers to prompts that have nothing to do with a concept.

    Args:
        model: The organism.
        requests: The prompts.
    """

    def __init__(self, model: Model, requests: Requests) -> None:
        self._model, self._requests = model, requests
        self._prompts = [model.chat.render(request.messages) for request in requests]
        self._answers = model.respond(self._prompts, max_new_tokens=LONGEST, batch_size=BATCH)
        self._states = final_states(model, self._prompts, self._answers)

    @classmethod
    def of(cls, model: Model, name: str, n: int, seed: int = 0) -> Unrelated:
        """For a style concept allowed requests for instructions, for a kind of refusal plain questions."""
        other = "sea" if name.startswith("refusal") else "refusal"
        return cls(model, Task.of(other, n, seed + 1).free)

    def divergence(self, at_work: Applied) -> tuple[float, ...]:
        """KL(plain || steered) in nats, the mean over the tokens of each answer; inside the steerable's context."""
        prompts = [self._model.chat.render(at_work.prompt(list(request.messages))) for request in self._requests]
        rows = [] if at_work.steering is None else [at_work.steering] * len(prompts)
        steered = final_states(self._model, prompts, self._answers, rows)
        return tuple(float(part.mean()) for part in kl_divergences(self._model, self._states, steered))


def judge_methods(
    model: Model,
    task: Task,
    steerables: Mapping[str, Steerable],
    unrelated: Unrelated,
    progress: ProgressCallback | None = None,
) -> dict[str, MethodResult]:
    """Judges steerables on the same prompts, each at its own multipliers.

    Args:
        model: The organism.
        task: Held-out prompts of a trait.
        steerables: By name of the method.
        unrelated: Prompts of another kind.
        progress: Told while answers are written.
    """
    vectors = {name: one for name, one in steerables.items() if isinstance(one, SteeringVector)}
    ways = [(name, way) for name, vector in vectors.items() for way in vector.directions]
    plans = {f"{name} {way}": (way, vectors[name].steering(way)) for name, way in ways}
    found = measure(model, task, plans, progress=progress) if plans else {}
    results: dict[str, MethodResult] = {}
    for name, vector in vectors.items():
        rows = {way: found[f"{name} {way}"] for way in vector.directions}
        others = {way: unrelated.divergence(Applied(vector.steering(way))) for way in vector.directions}
        results[name] = MethodResult(rows, others)
    for name, one in steerables.items():
        if isinstance(one, Baseline):
            results[name] = _baseline(model, task, one, unrelated)
    return {name: results[name] for name in steerables}


def _baseline(model: Model, task: Task, baseline: Baseline, unrelated: Unrelated) -> MethodResult:
    rows: dict[str, Measured] = {}
    others: dict[str, tuple[float, ...]] = {}
    for way in baseline.directions:
        with applied(model, baseline, way) as at_work:
            rows[way] = judged(task, way, _texts(model, task.requests(way), at_work))
            others[way] = unrelated.divergence(at_work)
    return MethodResult(rows, others)


def _texts(model: Model, requests: Requests, at_work: Applied) -> tuple[str, ...]:
    prompts = [model.chat.render(at_work.prompt(list(request.messages))) for request in requests]
    answers = model.respond(prompts, steering=at_work.steering, max_new_tokens=LONGEST, batch_size=BATCH)
    return tuple(model.chat.decode(ids) for ids in answers)


def plain_rows(model: Model, task: Task) -> dict[str, Measured]:
    """`unsteered` and `prompted`: what is there without steering."""
    return {name: replace(row, kl=None) for name, row in Reference(model, task).rows.items()}


def means(values: Iterable[Sequence[float]]) -> list[float]:
    """The mean of each."""
    return [sum(each) / len(each) for each in values]
