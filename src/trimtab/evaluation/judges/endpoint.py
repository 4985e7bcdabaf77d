"""A judge behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

from trimtab.clients.cost import Estimate
from trimtab.clients.endpoint import ChatRequest, Endpoint
from trimtab.evaluation.judges.asking import AskingJudge
from trimtab.evaluation.judges.judge import Question
from trimtab.evaluation.judges.parsing import parse_rating
from trimtab.evaluation.judges.wording import words
from trimtab.progress import ProgressCallback
from trimtab.steering.content import JSON


class EndpointJudge(AskingJudge):
    """Asks a model behind an address, many questions at a time.

    Args:
        endpoint: Who is asked; its cache, limits and retries are at work.
        temperature: Of the first attempt; further ones are asked at 0.7 at least. None = never sent, for models that
            allow only their own.
        max_tokens: Most tokens of a reply. Models that think before they answer need thousands.
        attempts: How often a question is asked before its rating is None. The number is part of what the cache knows a
            reply by, so another attempt is another reply.
        seed: Sent with the first attempt, and raised by one for each further one; None = not sent.

    Raises:
        InputError: A setting out of range.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        temperature: float | None = 0.0,
        max_tokens: int = 512,
        attempts: int = 3,
        seed: int | None = None,
    ) -> None:
        super().__init__(f"openai:{endpoint.model}", attempts=attempts, temperature=temperature, max_tokens=max_tokens)
        self._endpoint, self._seed = endpoint, seed

    def require(self, questions: Sequence[Question]) -> None:
        """Raise InputError without a key where the address needs one."""
        super().require(questions)
        self._endpoint.require_key()

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """Calls, tokens and price of rating these, if every new reply can be read.

        Where the cache holds a reply that cannot, the attempt after it is counted too.
        """
        parts: list[Estimate] = []
        pending = list(questions)
        for attempt in range(1, self._attempts + 1):
            requests = [self._request(words(question), attempt) for question in pending]
            parts.append(self._endpoint.estimate(requests))
            replies = [self._endpoint.cached(request) for request in requests]
            pending = [
                question
                for question, reply in zip(pending, replies, strict=True)
                if reply is not None and parse_rating(reply.text, question.aspect) is None
            ]
        return reduce(add, parts)

    @property
    def _who(self) -> Mapping[str, JSON]:
        return {
            "kind": "openai",
            "model": self._endpoint.model,
            "base_url": self._endpoint.base_url,
            "seed": self._seed,
        }

    def _ask(self, asked: Sequence[str], attempt: int, progress: ProgressCallback | None) -> list[str]:
        return self._endpoint.complete([self._request(text, attempt) for text in asked], progress)

    def _request(self, text: str, attempt: int) -> ChatRequest:
        return ChatRequest(
            messages=({"role": "user", "content": text},),
            temperature=self._temperature_of(attempt),
            max_tokens=self._max_tokens,
            seed=None if self._seed is None else self._seed + attempt - 1,
            attempt=attempt,
        )
