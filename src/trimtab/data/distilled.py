"""Pairs from a prompt: what a model answers under a system prompt, and what it answers without it.

Context distillation as contrast data: the model itself writes both sides, so nothing is taught that it would not say.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.data.pairs import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.models.messages import Prompt, as_messages, split_system
from trimtab.models.model import Model
from trimtab.progress import ProgressCallback


def distilled_pairs(
    model: Model,
    system: str,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    progress: ProgressCallback | None = None,
) -> PairSet:
    """Answers every prompt twice, greedily: under the system prompt (positive) and without it (negative).

    Args:
        model: Writes the answers.
        system: The system prompt to distil.
        prompts: Texts or message lists without a system message of their own.
        max_new_tokens: Longest answer.
        batch_size: Prompts answered at a time.
        progress: Told while answers are written.

    Returns:
        The pairs. Prompts that are answered alike, or with nothing, are left out and counted as `skipped`.

    Raises:
        InputError: No prompts, an empty system prompt, a prompt with a system message, or a system prompt that changes
            no answer.
    """
    if not system.strip():
        raise InputError("the system prompt to distil is empty; give the text that the vector shall replace")
    if isinstance(prompts, str):
        raise InputError("the prompts are one text; give a list of prompts, [text] for one")
    if not prompts:
        raise InputError("no prompts to answer; give instructions of the kind that the vector will meet")
    plain = [list(as_messages(prompt)) for prompt in prompts]
    for number, messages in enumerate(plain, 1):
        if split_system(messages)[0]:
            raise InputError(
                f"prompt {number} has a system message of its own; leave it out, {system!r} takes its place"
            )
    prompted = [[{"role": "system", "content": system}, *messages] for messages in plain]
    answers = model.generate(
        [*prompted, *plain], max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    rows = zip(prompted, answers[: len(prompts)], plain, answers[len(prompts) :], strict=True)
    pairs = [
        ContrastPair(*row, concept=system) for row in rows if row[1] != row[3] and row[1].strip() and row[3].strip()
    ]
    if not pairs:
        raise InputError(
            f"the system prompt changes none of {len(prompts)} answers of {model.name}, so there is nothing to learn; "
            "give another system prompt, or other prompts"
        )
    return PairSet(pairs, source=f"distilled from {system!r}", skipped=len(prompts) - len(pairs))
