"""A judge that is a model on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trimtab.clients.cost import Estimate
from trimtab.evaluation.judges.asking import AskingJudge
from trimtab.evaluation.judges.judge import Question
from trimtab.evaluation.judges.wording import words
from trimtab.models.weights import weights_sample
from trimtab.progress import ProgressCallback
from trimtab.steering.content import JSON

if TYPE_CHECKING:
    from trimtab.models import Model


class LocalJudge(AskingJudge):
    """Asks a model of ours, in batches of prompts of like length.

    A reply depends on the question, the attempt and the seed alone: what else is asked, and in which order, plays no
    part.

    Args:
        model: Who is asked.
        temperature: Of the first attempt, 0 = greedy; further ones are asked at 0.7 at least, each with another seed.
        max_tokens: Most tokens of a reply.
        attempts: How often a question is asked before its rating is None.
        seed: What the draws begin with.
        batch_size: Questions a forward.

    Raises:
        InputError: A setting out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        temperature: float = 0.0,
        max_tokens: int = 192,
        attempts: int = 3,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        super().__init__(f"local:{model.name}", attempts=attempts, temperature=temperature, max_tokens=max_tokens)
        self._model, self._seed, self._batch_size = model, seed, batch_size

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """Questions, and tokens by the model's own count, if every reply can be read; the price is 0."""
        asked = dict.fromkeys(words(question) for question in questions)
        sent = sum(len(self._model.chat.render(text).ids) for text in asked)
        return Estimate(len(asked), 0, sent, len(asked) * self._max_tokens, price=0.0)

    @property
    def _who(self) -> Mapping[str, JSON]:
        card = self._model.card()
        here = {name: weight for name, weight in self._model.hf.named_parameters() if not weight.is_meta}
        return {
            "kind": "local",
            "model": card.id,
            "revision": card.revision,
            "template": card.template_fingerprint,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            # a model that was trained on is another judge, under whatever name
            "weights": weights_sample(here),
            "seed": self._seed,
        }

    def _ask(self, asked: Sequence[str], attempt: int, progress: ProgressCallback | None) -> list[str]:
        chat = self._model.chat
        # texts repeat where a model is steered into a loop; the same question gets the same reply
        prompts = {text: chat.render(text) for text in asked}
        order = sorted(prompts, key=lambda text: len(prompts[text].ids))
        answers = self._model.respond(
            [prompts[text] for text in order],
            max_new_tokens=self._max_tokens,
            temperature=self._temperature_of(attempt) or 0.0,
            seed=[_seed(self._seed, attempt, text) for text in order],
            batch_size=self._batch_size,
            progress=progress,
        )
        replies = {text: chat.decode(ids) for text, ids in zip(order, answers, strict=True)}
        return [replies[text] for text in asked]


def _seed(seed: int, attempt: int, text: str) -> int:
    """A seed of the question's own, below 2**63."""
    digest = hashlib.sha256(f"{seed} {attempt} {text}".encode("utf-8", errors="backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
