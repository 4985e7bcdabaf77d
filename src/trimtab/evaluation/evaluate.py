"""Runs a protocol over contenders: the one way from a claim to records and a summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.clients.cost import Estimate
from trimtab.errors import InputError
from trimtab.evaluation.contenders import with_plain
from trimtab.evaluation.identity import identity_of, info_of
from trimtab.evaluation.protocols.protocol import Asked, Protocol
from trimtab.evaluation.protocols.registry import PROTOCOLS
from trimtab.evaluation.rating import estimate, question_about
from trimtab.evaluation.records import SUMMARY, Run, open_run
from trimtab.evaluation.setting_kinds import typed
from trimtab.fitting.settings import MAX_SEED, build_settings, check_number
from trimtab.models.apply import is_steered


@dataclass(frozen=True)
class Cost:
    """What a run would do, before it does it.

    Attributes:
        generations: Texts to be written.
        new_tokens: Their tokens, at most.
        ratings: Questions to a judge.
        judge: What the judge would cost; None where it costs nothing.
    """

    generations: int
    new_tokens: int
    ratings: int
    judge: Estimate | None


def find_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        InputError: There is none.
    """
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def protocol_settings(name: str, values: Mapping[str, Any]) -> Any:
    """Settings of a protocol from named values, as they are typed or stand in YAML (see `typed`).

    Raises:
        InputError: An unknown protocol or setting, or a value that cannot be.
    """
    settings = find_protocol(name).settings
    return build_settings(settings, typed(settings, values))


def evaluate(
    name: str,
    asked: Asked,
    out: str | Path,
    *,
    overwrite: bool = False,
    info: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Runs a protocol, or goes on with a run that was interrupted.

    Args:
        name: Of the protocol.
        asked: What it is run on.
        out: The run's directory.
        overwrite: Begin anew where there is a run already.
        info: What else the run should say of itself, such as the command.

    Returns:
        The summary, which the directory holds as `summary.json`.

    Raises:
        InputError: The model is being steered or a contender is for another one, no judge where one is needed, or one
            where none plays a part; a directory that holds something else; and what the protocol refuses.
        NetworkError: A judge's endpoint fails; started again, the run goes on where it was.
    """
    protocol = find_protocol(name)
    _check(protocol, asked)
    is_finished = (Path(out) / SUMMARY).exists() and not overwrite
    _require(protocol, asked, rated=is_finished)  # what a plan refuses is refused before an older run is overwritten
    identity = identity_of(asked.model, asked.contenders, asked.judge, asked.settings, dict(asked.data.identity))
    about = info_of(asked.model, data=asked.data.source, batch_size=asked.batch_size, **dict(info or {}))
    with open_run(out, name, identity, about, overwrite=overwrite) as run:
        protocol.run(asked, run)
        summary = protocol.summarise(run)
        run.finish(summary)
    return summary


def cost(name: str, asked: Asked) -> Cost:
    """What a run would do: texts, tokens, and questions to the judge, none of which is done."""
    protocol = find_protocol(name)
    _check(protocol, asked)
    jobs = [] if protocol.jobs is None else protocol.jobs(asked)
    longest = int(dataclasses.asdict(asked.settings).get("max_new_tokens", 0))
    aspects = () if asked.judge is None else tuple(each for each in protocol.aspects if each in asked.judge.aspects)
    questions = [(job, aspect) for job in jobs for aspect in aspects]
    price = None if asked.judge is None else estimate(asked.judge, questions, longest)
    return Cost(len(jobs), len(jobs) * longest, len(questions), price)


def summarise_again(path: str | Path) -> Mapping[str, Any]:
    """The summary of a run's records as they are, written anew; after an interruption, or with a newer trimtab.

    Raises:
        InputError: No run, or one whose records are not enough.
    """
    seen = Run.read(path)
    with open_run(path, seen.protocol, seen.identity, seen.config["info"]) as run:
        summary = find_protocol(seen.protocol).summarise(run)
        run.finish(summary)
    return summary


def _check(protocol: Protocol, asked: Asked) -> None:
    if is_steered(asked.model.layout) or asked.model.changed_by is not None:
        raise InputError("this model is being steered; leave the context before it is evaluated")
    check_number("batch_size", asked.batch_size, least=1, whole=True)
    _check_settings(dataclasses.asdict(asked.settings))
    for contender in with_plain(asked.contenders):
        contender.require_fit(asked.model)
    _check_judge(protocol, asked)


def _require(protocol: Protocol, asked: Asked, *, rated: bool) -> None:
    """Raise InputError for what the plan refuses, or would keep the judge from rating, before any text is written."""
    jobs = [] if protocol.jobs is None else protocol.jobs(asked)
    if asked.judge is None or rated:
        return
    aspects = [each for each in protocol.aspects if each in asked.judge.aspects]
    prompts = {(job.concept, job.condition, job.number): job for job in jobs}
    asked.judge.require([question_about(job, aspect, "") for job in prompts.values() for aspect in aspects])


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise InputError for what all protocols that have such a setting ask of it, before any work is done."""
    if "seed" in settings:
        check_number("seed", settings["seed"], least=0, most=MAX_SEED, whole=True)
    if "max_new_tokens" in settings:
        check_number("max_new_tokens", settings["max_new_tokens"], least=1, whole=True)
    if "temperature" in settings:
        check_number("temperature", settings["temperature"], least=0)


def _check_judge(protocol: Protocol, asked: Asked) -> None:
    if protocol.judging == "needed" and asked.judge is None:
        raise InputError(f"{protocol.name} needs a judge: exact (for the organism), rules, openai:MODEL or local:MODEL")
    if protocol.judging == "none" and asked.judge is not None:
        raise InputError(f"{protocol.name} asks no judge; leave it out")
    if asked.judge is not None and not asked.judge.aspects.intersection(protocol.aspects):
        rates = ", ".join(sorted(asked.judge.aspects))
        raise InputError(
            f"{asked.judge.name} rates {rates}, and {protocol.name} asks for {', '.join(protocol.aspects)}"
        )
    if asked.judge is not None and protocol.judging == "needed":
        missing = [aspect for aspect in protocol.aspects if aspect not in asked.judge.aspects]
        if missing:
            raise InputError(
                f"{asked.judge.name} does not rate {', '.join(missing)}; add another judge for it, as in "
                "concept=rules,openai:MODEL"
            )
