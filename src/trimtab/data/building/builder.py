"""`build_pairs`: answers are written and kept, pairs made of them and sifted, and the file written whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data.building.answers import Answer, AnswerLog, open_answers, partial_folder, remove_answers
from trimtab.data.building.cut import cut_text
from trimtab.data.building.plan import Ask, Draft, Plan
from trimtab.data.building.save import check_out, pair_bytes, write_whole
from trimtab.data.building.sift import Sieve
from trimtab.data.building.writing import AnswerWriter
from trimtab.data.pairs import ContrastPair
from trimtab.errors import InputError, NetworkError
from trimtab.models.text_side import TextSide
from trimtab.progress import Progress, ProgressCallback

SHOWN = 20
"""How many dropped pairs a result keeps to be looked at."""


@dataclass(frozen=True)
class Dropped:
    """A pair that was written and not kept.

    Attributes:
        concept: Its concept.
        instruction: What was asked.
        reason: Why.
        positive: The answer with the concept.
        negative: The answer without it.
    """

    concept: str
    instruction: str
    reason: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Built:
    """What a build came to.

    Attributes:
        pairs: The pairs of the file.
        kept: Concept -> how many of them are its own.
        planned: Concept -> how many there were to be.
        reasons: Why pairs were dropped -> how many.
        dropped: The first pairs that were.
        written: Answers that were written now.
        found: Answers that an earlier run had written.
        cut: Answers that were cut because they were too long.
    """

    pairs: tuple[ContrastPair, ...]
    kept: Mapping[str, int]
    planned: Mapping[str, int]
    reasons: Mapping[str, int]
    dropped: tuple[Dropped, ...]
    written: int
    found: int
    cut: int


def build_pairs(
    plan: Plan,
    writer: AnswerWriter | None,
    out: Path,
    *,
    sieve: Sieve,
    side: TextSide | None = None,
    max_response_tokens: int | None = None,
    min_kept: int = 1,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Built:
    """Has the answers of a plan written, and saves the pairs that are good.

    Answers are kept in `OUT.partial` until the file is written, so that a build which was ended by anything goes on
    where it was and gives the same bytes.

    Args:
        plan: What is to be written.
        writer: Who writes; None for a plan without an ask.
        out: The file; its extension says in which format.
        sieve: Decides which pairs are kept; used once.
        side: How the model reads, for cutting.
        max_response_tokens: Cut answers to so many of its tokens; needs `side`.
        min_kept: Fewest pairs that a concept must keep.
        overwrite: Whether the file may be there already.
        progress: Told of every batch of answers.

    Raises:
        InputError: The file cannot be written, the answers there are of other settings, or a concept keeps too few.
        NetworkError: The endpoint failed; what it answered is kept.
    """
    check_plan(plan, out, overwrite=overwrite)
    if plan.asks and writer is None:
        raise InputError(f"{len(plan.asks)} answers are to be written and nobody writes; give --model or --writer")
    folder = partial_folder(out)
    with open_answers(folder, {"writer": None} if writer is None else writer.identity) as log:
        found = sum(ask.id in log for ask in plan.asks)
        if writer is not None:
            _write_answers(plan.asks, writer, log, folder, progress)
        rows = [_answered(draft, log) for draft in plan.drafts]
    pairs, cut = _pairs(rows, side, max_response_tokens)
    faults = [sieve.fault(draft, pair) for draft, pair in zip(plan.drafts, pairs, strict=True)]
    built = _sum_up(plan, pairs, faults, written=len(plan.asks) - found, found=found, cut=cut)
    _check_kept(built, min_kept, folder)
    write_whole(out, pair_bytes(built.pairs, out))
    remove_answers(folder)
    return built


def check_plan(plan: Plan, out: Path, *, overwrite: bool) -> None:
    """Raises an InputError if the pairs of a plan cannot be saved under a path; called before long work too."""
    if not plan.drafts:
        raise InputError("no pair is to be built; give at least one concept and one instruction")
    messages = any(
        not isinstance(prompt, str) for draft in plan.drafts for prompt in (draft.positive_input, draft.negative_input)
    )
    check_out(out, overwrite=overwrite, messages=messages)


def to_write(plan: Plan, out: Path) -> tuple[Ask, ...]:
    """The asks without an answer in what an interrupted build left; nothing is changed there."""
    folder = partial_folder(out)
    if not folder.is_dir():
        return plan.asks
    log = AnswerLog(folder, readonly=True)
    return tuple(ask for ask in plan.asks if ask.id not in log)


def _write_answers(
    asks: Sequence[Ask], writer: AnswerWriter, log: AnswerLog, folder: Path, progress: ProgressCallback | None
) -> None:
    """Fills the log, in batches that the whole plan decides."""
    began, size = time.monotonic(), writer.batch_size
    total = sum(ask.id not in log for ask in asks)
    done = 0
    for start in range(0, len(asks), size):
        batch = asks[start : start + size]
        lacking = [ask for ask in batch if ask.id not in log]
        if not lacking:
            continue
        wanted = batch if writer.whole_batches else lacking
        try:
            answers = writer.write(wanted)
        except NetworkError as error:
            raise NetworkError(
                f"{error} ({len(log)} answers are kept in {folder}; the same command goes on)"
            ) from error
        log.append({ask.id: answer for ask, answer in zip(wanted, answers, strict=True)})
        done += len(lacking)
        if progress is not None:
            progress(Progress("answers", done, total, time.monotonic() - began))


def _answered(draft: Draft, log: AnswerLog) -> tuple[Draft, Answer, Answer]:
    def of(side: Ask | str) -> Answer:
        return Answer(side) if isinstance(side, str) else log[side.id]

    return draft, of(draft.positive), of(draft.negative)


def _pairs(
    rows: Sequence[tuple[Draft, Answer, Answer]], side: TextSide | None, most: int | None
) -> tuple[list[ContrastPair], int]:
    """The pairs, cut, and how many answers were."""
    pairs, cut = [], 0
    for draft, *answers in rows:
        texts = [answer.text for answer in answers]
        if side is not None and most is not None:
            prompts = [side.chat.render(prompt) for prompt in (draft.positive_input, draft.negative_input)]
            # A half surrogate cannot be tokenised; the sieve will drop it.
            texts = [cut_text(side, text, most, prompts) if _is_whole(text) else text for text in texts]
            cut += sum(text != answer.text for text, answer in zip(texts, answers, strict=True))
        concept = draft.concept
        pairs.append(
            ContrastPair(
                *(draft.positive_input, texts[0], draft.negative_input, texts[1]),
                concept=concept.name,
                concept_id=concept.number,
                concept_genre=concept.genre,
            )
        )
    return pairs, cut


def _is_whole(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _sum_up(plan: Plan, pairs: Sequence[ContrastPair], faults: Sequence[str | None], **counts: Any) -> Built:
    rows = list(zip(plan.drafts, pairs, faults, strict=True))
    kept = Counter(draft.concept.name for draft, _, fault in rows if fault is None)
    planned = Counter(draft.concept.name for draft in plan.drafts)
    dropped = [
        Dropped(draft.concept.name, draft.instruction, fault, pair.positive_output, pair.negative_output)
        for draft, pair, fault in rows
        if fault is not None
    ]
    return Built(
        pairs=tuple(pair for _, pair, fault in rows if fault is None),
        kept={name: kept[name] for name in planned},
        planned=dict(planned),
        reasons=dict(Counter(row.reason for row in dropped).most_common()),
        dropped=tuple(dropped[:SHOWN]),
        **counts,
    )


def _check_kept(built: Built, min_kept: int, folder: Path) -> None:
    poor = [(name, number) for name, number in built.kept.items() if number < min_kept]
    if not poor:
        return
    name, number = poor[0]
    more = f" (and {len(poor) - 1} other concepts too few)" if len(poor) > 1 else ""
    why = "; ".join(f"{times} times {reason}" for reason, times in built.reasons.items()) or "none was dropped"
    raise InputError(
        f"concept {name!r}: {number} of {built.planned[name]} pairs are good and --min-kept asks for {min_kept}{more}: "
        f"{why}; the answers are kept in {folder}: lower --min-kept, or give more instructions or another writer"
    )
