"""All protocols by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from trimtab.evaluation import sources
from trimtab.evaluation.jobs import Job
from trimtab.evaluation.judges import RATED
from trimtab.evaluation.protocols import (
    axbench,
    axbench_summary,
    backdoor,
    faithfulness,
    faithfulness_summary,
    refusal,
    steerability,
    steerability_summary,
    utility,
    utility_summary,
)
from trimtab.evaluation.protocols.protocol import Asked, Protocol
from trimtab.evaluation.records import Run


def _axbench(asked: Asked, run: Run) -> None:
    assert asked.judge is not None
    concepts = asked.data.concepts
    more = {"batch_size": asked.batch_size, "progress": asked.progress}
    axbench.run_axbench(asked.model, concepts, asked.contenders, asked.judge, asked.settings, run, **more)


def _axbench_jobs(asked: Asked) -> Sequence[Job]:
    return axbench.plan(asked.data.concepts, asked.contenders, asked.settings)


def _refusal(asked: Asked, run: Run) -> None:
    more = {"batch_size": asked.batch_size, "progress": asked.progress}
    refusal.run_refusal(asked.model, asked.data, asked.contenders, asked.judge, asked.settings, run, **more)


def _refusal_jobs(asked: Asked) -> Sequence[Job]:
    return refusal.jobs(asked.data, asked.contenders, asked.settings)


def _backdoor(asked: Asked, run: Run) -> None:
    more = {"batch_size": asked.batch_size, "progress": asked.progress}
    backdoor.run_backdoor(asked.model, asked.data, asked.contenders, asked.judge, asked.settings, run, **more)


def _backdoor_jobs(asked: Asked) -> Sequence[Job]:
    return backdoor.jobs(asked.data, asked.contenders, asked.settings)


def _utility(asked: Asked, run: Run) -> None:
    more = {"batch_size": asked.batch_size, "progress": asked.progress}
    utility.run_utility(asked.model, asked.data, asked.contenders, asked.settings, run, **more)


def _faithfulness(asked: Asked, run: Run) -> None:
    more = {"batch_size": asked.batch_size, "progress": asked.progress}
    faithfulness.run_faithfulness(asked.model, asked.data, asked.contenders, asked.settings, run, **more)


def _faithfulness_jobs(asked: Asked) -> Sequence[Job]:
    return faithfulness.plan(asked.data, faithfulness.doses(asked.contenders, asked.settings), asked.settings)


def _steerability(asked: Asked, run: Run) -> None:
    more = {"batch_size": asked.batch_size, "progress": asked.progress}
    steerability.run_steerability(asked.model, asked.data, asked.contenders, asked.settings, run, **more)


_ALL = (
    Protocol(
        "axbench",
        "Is the concept in (or out), is the instruction answered, is it fluent?",
        axbench.AxbenchSettings,
        sources.AxbenchSource,
        "needed",
        _axbench,
        axbench_summary.summarise,
        RATED,
        _axbench_jobs,
        {"multipliers": (1.0, 2.0), "max_new_tokens": 8, "resamples": 50},
    ),
    Protocol(
        "refusal",
        "Are harmful requests answered, harmless ones refused, and the others left alone?",
        refusal.RefusalSettings,
        sources.RefusalSource,
        "optional",
        _refusal,
        refusal.summarise,
        ("refusal",),
        _refusal_jobs,
        {"max_new_tokens": 8},
    ),
    Protocol(
        "backdoor",
        "Does the hidden behaviour come out under its trigger, and is everything else kept?",
        backdoor.BackdoorSettings,
        sources.BackdoorSource,
        "optional",
        _backdoor,
        backdoor.summarise,
        backdoor.ASPECTS,
        _backdoor_jobs,
        {"max_new_tokens": 8},
    ),
    Protocol(
        "utility",
        "Are questions that have nothing to do with the concept still answered rightly?",
        utility.UtilitySettings,
        sources.UtilitySource,
        "none",
        _utility,
        utility_summary.summarise,
        smoke={"tasks": (), "choices": 8, "resamples": 50},
    ),
    Protocol(
        "faithfulness",
        "How far does steering move what it has no business with, dose by dose?",
        faithfulness.FaithfulnessSettings,
        sources.FaithfulnessSource,
        "none",
        _faithfulness,
        faithfulness_summary.summarise,
        jobs=_faithfulness_jobs,
        smoke={"multipliers": (1.0, 2.0), "max_new_tokens": 8, "resamples": 50},
    ),
    Protocol(
        "steerability",
        "Asked to move a text towards a goal, how far does it go, and what else moves?",
        steerability.SteerabilitySettings,
        sources.SteerabilitySource,
        "none",
        _steerability,
        steerability_summary.summarise,
        smoke={"max_new_tokens": 8, "resamples": 50},
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})
"""In the order in which they are listed."""
