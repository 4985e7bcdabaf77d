"""Faithfulness: what does steering do besides, at every dose, in both directions, and is the direction a stable one?

Sources: KL to the unsteered model as in Bao et al., arXiv 2602.05234; preference and utility odds and their decay with
the multiplier of "Why Steering Works", arXiv 2602.02343.

Every contender, at every multiplier of a grid and at its own, answers prompts that have nothing to do with its concept,
and reads given texts: the plain model's own answers to those prompts, running texts, and held-out contrast pairs. The
plain model's next-token distributions on them are compared with the steered ones. A random control moves the states as
far as each dose does (see `trimtab.evaluation.controls.norm_matched`): it reads at all multipliers, and answers and
reads pairs at 1 and at the contender's own.

Preference odds are Ln - Lp with L nats a token, behind the input without the concept (elicit) or with it (suppress).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab.data import tokenise_pairs
from trimtab.errors import InputError
from trimtab.evaluation.conditions import Dose
from trimtab.evaluation.contenders import Contender, concepts_of, with_plain
from trimtab.evaluation.controls import Tokens, edit_size, norm_matched
from trimtab.evaluation.divergences import running_text
from trimtab.evaluation.generating import GREEDY, Writing, generate
from trimtab.evaluation.jobs import IDENTITY, Job, seed_of
from trimtab.evaluation.likelihoods import measure_nll
from trimtab.evaluation.passages import Passage, Reading, read
from trimtab.evaluation.protocols.faithfulness_data import FaithfulnessData
from trimtab.evaluation.records import Log, Run, digest
from trimtab.evaluation.stability import compared, refits, why_not
from trimtab.fitting.settings import check_number
from trimtab.models import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering.factors import DIRECTIONS, check_direction

GRID = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Multipliers that are tried."""
ANSWERS, RUNNING = "answers", "running text"
"""Kinds of passages that are compared: the plain model's answers to unrelated prompts, texts as they stand."""
BEHIND: Mapping[str, str] = {"elicit": "negative", "suppress": "positive"}
"""Behind which input of a contrast pair a direction reads both answers."""
SIDES = ("positive", "negative")
"""Answers of a pair."""
DOSE, STABILITY = "dose", "stability"
"""Other kinds of rows among the items: what was tried, and how fits agree."""


@dataclass(frozen=True)
class FaithfulnessSettings:
    """Settings of the protocol.

    Args:
        ways: Directions that are measured.
        multipliers: Tried by every contender that has a factor, besides its own.
        max_new_tokens: Of an answer.
        temperature: 0 = greedy.
        running_tokens: Most tokens of a running text.
        controls: Whether every vector is accompanied by a random one that moves the states as far.
        stability: Fits more of each vector with other seeds, and as many on other draws of its pairs; 0 = none.
        resamples: Of the bootstrap of intervals.
        seed: Of samples, controls, draws of pairs and bootstrap.

    Raises:
        InputError: A value that cannot be.
    """

    ways: tuple[str, ...] = DIRECTIONS
    multipliers: tuple[float, ...] = GRID
    max_new_tokens: int = 128
    temperature: float = GREEDY
    running_tokens: int = 256
    controls: bool = True
    stability: int = 0
    resamples: int = 2000
    seed: int = 42

    def __post_init__(self) -> None:
        for way in self.ways:
            check_direction(way)
        if not self.ways:
            raise InputError(f"ways is empty; give {' or '.join(DIRECTIONS)}, or both")
        for multiplier in self.multipliers:
            check_number("each of multipliers", multiplier, least=0)
        if len(set(self.multipliers)) < len(self.multipliers):
            raise InputError(f"multipliers {list(self.multipliers)} hold one twice; give each once")
        for name in ("max_new_tokens", "running_tokens", "resamples"):
            check_number(name, getattr(self, name), least=1, whole=True)
        check_number("stability", self.stability, least=0, whole=True)
        check_number("temperature", self.temperature, least=0)


@dataclass(frozen=True, eq=False)
class Tried(Dose):
    """A dose, and why it is tried.

    Attributes:
        is_own: Whether it is the contender's own multiplier.
        control_of: Label of the contender that it accompanies, if it is a control.
        size: How far it moves the plain model's states, summed over its edits; None where none is edited.
    """

    is_own: bool = False
    control_of: str | None = None
    size: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it answers prompts and reads pairs; controls do at two multipliers."""
        return self.control_of is None or self.is_own or self.multiplier == 1

    @property
    def record(self) -> dict[str, Any]:
        """Its row among the items."""
        columns = {**self.columns, "concept": self.contender.concept, "kind": DOSE}
        found = {"own": self.is_own, "control_of": self.control_of, "size": self.size}
        return {"id": digest(columns)[:IDENTITY], **columns, **found}


def pair_kind(side: str, way: str) -> str:
    """The kind of passage that one answer of a pair is, as a direction reads it."""
    return f"{side} output, {BEHIND[way]} input"


def control_label(label: str) -> str:
    """What the random control of a contender is called."""
    return f"random ({label})"


def doses(contenders: Iterable[Contender], settings: FaithfulnessSettings) -> list[Tried]:
    """Every contender in every direction that it has: at its own multiplier and, if it has a factor, at all others."""
    found = []
    for contender in contenders:
        for way in (way for way in settings.ways if way in contender.ways):
            own = contender.calibrated(way)
            others = settings.multipliers if contender.has_factor(way) else ()
            found += [Tried(contender, way, m, m == own) for m in sorted({own, *others})]
    return found


def plan(data: FaithfulnessData, tried: Sequence[Tried], settings: FaithfulnessSettings) -> list[Job]:
    """Every text to be written: the plain model's to all kinds of prompts, and those of every dose."""
    (plain,) = with_plain(())
    wanted: list[tuple[Contender, str, str | None, float | None]] = [(plain, kind, None, None) for kind in data.prompts]
    wanted += [
        (dose.contender, data.kind(dose.contender.concept), dose.way, dose.multiplier)
        for dose in tried
        if dose.is_whole
    ]
    return [
        Job(
            contender,
            prompt,
            number,
            kind,
            way,
            multiplier,
            contender.concept,
            seed_of(settings.seed, kind, number),
        )
        for contender, kind, way, multiplier in wanted
        for number, prompt in enumerate(data.prompts[kind])
    ]


def run_faithfulness(
    model: Model,
    data: FaithfulnessData,
    contenders: Sequence[Contender],
    settings: FaithfulnessSettings,
    run: Run,
    *,
    batch_size: int = 32,
    progress: ProgressCallback | None = None,
) -> None:
    """Put everything on record that is not there yet.

    Args:
        model: The model, plain.
        data: What is answered and read.
        contenders: Who is measured; the plain model is what all are compared with.
        settings: See there.
        run: Where it goes.
        batch_size: Rows a forward while texts are written.
        progress: Told of every stage.

    Raises:
        InputError: A contender for another model, or pairs or texts that do not fit the context.
    """
    pairs = _pair_passages(model, data, contenders, settings)
    running = _running_passages(model, data, settings)
    tried, generations, items = doses(contenders, settings), run.log("generations"), run.log("items")
    for contender in contenders:
        contender.require_fit(model)
    writing = Writing(settings.max_new_tokens, settings.temperature, batch_size)
    generate(model, plan(data, (), settings), generations, writing, progress)
    answers = _answer_passages(generations)
    tried = _with_sizes(model, data, tried, answers, settings, progress)
    known = items.keys("id")
    items.append(dose.record for dose in tried if (dose.record["id"],) not in known)
    steered = [job for job in plan(data, tried, settings) if job.way is not None]
    generate(model, steered, generations, writing, progress)
    measure_nll(model, generations.rows, run.log("measures"), progress)
    read(model, _readings(data, tried, answers, running, pairs), items, progress)
    if settings.stability:
        _measure_stability(model, data, contenders, settings, items, progress)


def _pair_passages(
    model: Model, data: FaithfulnessData, contenders: Sequence[Contender], settings: FaithfulnessSettings
) -> dict[tuple[str, str], list[Passage]]:
    """Both answers of every pair, by concept and direction; none for a concept without pairs."""
    found: dict[tuple[str, str], list[Passage]] = {}
    for concept in concepts_of(contenders):
        pairs = data.pairs.get(concept, ())
        try:
            tokenised = tokenise_pairs(model.chat, pairs, context_length=model.context_length or sys.maxsize)
        except InputError as error:
            raise InputError(f"{concept}: {error}") from error
        for way in settings.ways:
            found[concept, way] = [
                Passage(
                    pair_kind(side, way),
                    concept,
                    number,
                    getattr(pair, f"{BEHIND[way]}_input"),
                    getattr(ids, f"{side}_response"),
                    is_compared=False,
                )
                for number, (pair, ids) in enumerate(zip(pairs, tokenised, strict=True))
                for side in SIDES
            ]
    return found


def _running_passages(model: Model, data: FaithfulnessData, settings: FaithfulnessSettings) -> list[Passage]:
    room = (model.context_length or sys.maxsize) - max(1, len(model.chat.prefix_ids))
    behind = running_text(model, data.texts, min(settings.running_tokens, room))
    return [
        Passage(RUNNING, RUNNING, number, prompt, tuple(ids), is_compared=True)
        for number, (prompt, ids) in enumerate(zip(behind.prompts, behind.answers, strict=True))
    ]


def _answer_passages(generations: Log) -> dict[str, list[Passage]]:
    """What the plain model answers, by kind of prompts."""
    found: dict[str, list[Passage]] = {}
    for row in generations.rows:
        if row["way"] is None:
            passage = Passage(
                ANSWERS, row["condition"], row["prompt"], row["messages"], tuple(row["ids"]), is_compared=True
            )
            found.setdefault(row["condition"], []).append(passage)
    return {kind: sorted(passages, key=lambda passage: passage.number) for kind, passages in found.items()}


def _with_sizes(
    model: Model,
    data: FaithfulnessData,
    tried: Sequence[Tried],
    answers: Mapping[str, Sequence[Passage]],
    settings: FaithfulnessSettings,
    progress: ProgressCallback | None,
) -> list[Tried]:
    """The doses with how far they move states along the plain model's answers, and behind them their controls."""
    began, found, controls = time.monotonic(), [], []
    tokens: dict[tuple[str, int], Tokens] = {}
    for number, dose in enumerate(tried, 1):
        contender, vector, kind = dose.contender, dose.contender.vector, data.kind(dose.contender.concept)
        if vector is None:
            found.append(dose)
            continue
        if (kind, id(vector)) not in tokens:
            prompts = [model.chat.render(prompt) for prompt in data.prompts[kind]]
            sites = list(dict.fromkeys(edit.intervention.site for edit in vector.edits))
            tokens = {(kind, id(vector)): Tokens.of(model, prompts, [each.ids for each in answers[kind]], sites)}
        states, scale = tokens[kind, id(vector)], contender.scale
        size = edit_size(vector, dose.way, dose.multiplier, scale, states)
        found.append(replace(dose, size=size))
        if settings.controls:
            seed = seed_of(settings.seed, "control", contender.label, contender.concept)
            made = norm_matched(vector, dose.way, dose.multiplier, scale, states, seed)
            moves = edit_size(made, dose.way, 1.0, scale, states)
            control = Contender(control_label(contender.label), contender.concept, made)
            controls.append(Tried(control, dose.way, dose.multiplier, dose.is_own, contender.label, moves))
        if progress is not None:
            progress(Progress("controls", number, len(tried), time.monotonic() - began))
    return [*found, *controls]


def _readings(
    data: FaithfulnessData,
    tried: Sequence[Tried],
    answers: Mapping[str, Sequence[Passage]],
    running: Sequence[Passage],
    pairs: Mapping[tuple[str, str], Sequence[Passage]],
) -> list[Reading]:
    """What the plain model reads, and every dose."""
    plain = [*(passage for each in answers.values() for passage in each), *running]
    found = [Reading(None, passage) for passage in (*plain, *(passage for each in pairs.values() for passage in each))]
    for dose in tried:
        concept = str(dose.contender.concept)
        passages = [*answers[data.kind(concept)], *running, *(pairs[concept, dose.way] if dose.is_whole else ())]
        found += [Reading(dose, passage) for passage in passages]
    return found


def _measure_stability(
    model: Model,
    data: FaithfulnessData,
    contenders: Sequence[Contender],
    settings: FaithfulnessSettings,
    log: Log,
    progress: ProgressCallback | None,
) -> None:
    """Put on record how fits of each vector agree, or why there are none: a row a vector."""
    done = log.keys("kind", "label", "concept")
    for contender in contenders:
        about = {"kind": STABILITY, "label": contender.label, "concept": contender.concept}
        if contender.vector is None or tuple(about.values()) in done:
            continue
        pairs = data.training.get(str(contender.concept))
        reason = "there are no pairs to fit it on again" if pairs is None else why_not(contender.vector)
        cosines: list[dict[str, Any]] = []
        if pairs is not None and reason is None:
            seed = seed_of(settings.seed, STABILITY, contender.concept)
            try:
                cosines = compared(
                    contender.vector, refits(model, contender.vector, pairs, settings.stability, seed, progress)
                )
            except InputError as error:  # what is measured so far is worth more than this
                reason = str(error)
        log.append([{"id": digest(about)[:IDENTITY], **about, "reason": reason, "cosines": cosines}])
