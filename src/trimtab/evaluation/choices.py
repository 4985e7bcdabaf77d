"""The organism's multiple-choice questions, on record: utility without a download, judged exactly.

Every question is answered in writing and read by the organism's judge, so a model that no longer answers at all has
answered wrongly. Any model can be asked, but only the organism knows the world that they are about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from trimtab.evaluation.harness import Item
from trimtab.evaluation.traits import answer_choices, is_right
from trimtab.methods.steerable import Applied
from trimtab.models import Model
from trimtab.organism import Request
from trimtab.steering import Steering

TASK = "choices"
"""What these questions are called among tasks."""

Questions = Sequence[tuple[int, Request]]
"""Questions with their numbers among all, from `trimtab.evaluation.traits.drawn_choices`."""


def run_choices(
    model: Model, questions: Questions, rows: Mapping[str, Steering | None], work: Applied | None = None
) -> dict[str, list[Item]]:
    """Ask the questions under each steering, all of them in the same batches.

    Args:
        model: The model.
        questions: See there.
        rows: Steerings by name, None for none.
        work: A baseline that is at work on the model meanwhile, for every row.

    Returns:
        By name a record a question, as of a task of the harness (see `trimtab.evaluation.harness.TaskResult`); its
        metric is `acc`.

    Raises:
        InputError: As of `Model.respond`.
    """
    prompt = None if work is None or work.keeps_prompts else work.prompt
    answered = answer_choices(model, [request for _, request in questions], rows, prompt)
    return {
        name: [_item(number, request, text) for (number, request), text in zip(questions, texts, strict=True)]
        for name, texts in answered.items()
    }


def _item(number: int, request: Request, text: str) -> Item:
    return {
        "task": TASK,
        "subtask": TASK,
        "item": number,
        "filter": "none",
        "metrics": {"acc": float(is_right(request, text))},
        "target": request.right,
        "response": text,
        "scores": None,
        "doc": hashlib.sha256(request.user.encode()).hexdigest(),
    }
