"""How long the answers are, whether length alone tells the classes apart, and whether pairs fit the model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.data.check.findings import FEW, Finding, Placed, found, named
from trimtab.data.tokenise import TokenisedPair, tokenise_pairs
from trimtab.errors import InputError
from trimtab.models.text_side import TextSide

LARGE = 0.8
"""Cohen's d that is called large by convention."""

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Lengths:
    """How long the answers of one concept are.

    Attributes:
        unit: `tokens` of the model, or `words`, which are counted with punctuation marks.
        positive: Mean of the answers with the concept.
        negative: Mean of those without.
        effect: Cohen's d, positive - negative over the pooled standard deviation; None with fewer than two pairs, or
            where all lengths of both sides are one.
        auroc: Chance that a positive answer is longer than a negative one, ties counted half.
        longest: The longest sequence that a pair makes, in tokens; None without a model.
    """

    unit: str
    positive: float
    negative: float
    effect: float | None
    auroc: float
    longest: int | None = None


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a value of the first is above one of the second, ties counted half; both hold at least one."""
    below = np.sort(np.asarray(negative, dtype=float))
    high = np.asarray(positive, dtype=float)
    wins = np.searchsorted(below, high, side="left") + np.searchsorted(below, high, side="right")
    return float(wins.sum()) / (2 * len(high) * len(below))


def effect_size(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Cohen's d with the pooled standard deviation; None where it cannot be told."""
    one, other = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    if min(len(one), len(other)) < 2:
        return None
    freedom = len(one) + len(other) - 2
    pooled = math.sqrt(((len(one) - 1) * one.var(ddof=1) + (len(other) - 1) * other.var(ddof=1)) / freedom)
    return float(one.mean() - other.mean()) / pooled if pooled > 0 else None


def measure_lengths(pairs: Sequence[Placed], tokenised: Sequence[TokenisedPair | None] | None) -> Lengths:
    """The lengths of the answers of one concept.

    Args:
        pairs: The pairs, at least one.
        tokenised: The pairs in tokens, None for one that cannot be; None = words are counted.
    """
    whole = [] if tokenised is None else [pair for pair in tokenised if pair is not None]
    if whole:
        positive = [float(len(pair.positive_response)) for pair in whole]
        negative = [float(len(pair.negative_response)) for pair in whole]
    else:
        positive = [float(len(_WORD.findall(pair.positive_output))) for _, pair in pairs]
        negative = [float(len(_WORD.findall(pair.negative_output))) for _, pair in pairs]
    return Lengths(
        unit="tokens" if whole else "words",
        positive=float(np.mean(positive)),
        negative=float(np.mean(negative)),
        effect=effect_size(positive, negative),
        auroc=auroc(positive, negative),
        longest=max(pair.longest for pair in whole) if whole else None,
    )


def tokenised_or_none(pairs: Sequence[Placed], side: TextSide) -> tuple[list[TokenisedPair | None], list[Finding]]:
    """Every pair in a model's tokens, with what is wrong: a template that refuses it, or a context too short."""
    made: list[TokenisedPair | None] = []
    refused, reason = [], ""
    for where, pair in pairs:
        try:
            made += tokenise_pairs(side.chat, [pair], context_length=2**62)
        except InputError as error:
            made.append(None)
            refused.append(where)
            reason = reason or str(error).removeprefix("pair 1: ")
    findings = found("warning", "template", f"pairs that {side.name} cannot read: {reason}", refused)
    limit = side.context_length
    if limit is not None:
        long = [
            f"{where} ({ids.longest})"
            for (where, _), ids in zip(pairs, made, strict=True)
            if ids is not None and ids.longest > limit
        ]
        text = f"pairs longer than the context of {side.name}, {limit} tokens; fit them with --truncate"
        findings += found("warning", "too long", text, long)
    return made, findings


def check_lengths(measured: dict[str, tuple[int, Lengths]]) -> Iterator[Finding]:
    """Whether one side is so much longer that a vector may learn length.

    Args:
        measured: Concept -> number of its pairs, and their lengths.
    """
    odd = []
    for concept, (pairs, found_lengths) in measured.items():
        effect = found_lengths.effect
        separates = abs(found_lengths.auroc - 0.5) > 0.45  # equal lengths on each side have no d, and may separate
        if pairs >= FEW and (separates or (effect is not None and abs(effect) >= LARGE)):
            shown = "no spread" if effect is None else f"d {effect:+.2f}"
            odd.append(
                f"{named(concept)}{found_lengths.positive:.0f} against {found_lengths.negative:.0f} "
                f"{found_lengths.unit} ({shown}, AUROC {found_lengths.auroc:.2f})"
            )
    text = "one side is much longer, so a vector may learn length: cut both with --max-response-tokens or balance them"
    yield from found("warning", "length", text, odd)
