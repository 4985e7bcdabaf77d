"""What judges that are language models have in common: the wording, the reading, and asking again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from trimtab.errors import InputError
from trimtab.evaluation.judges.judge import ASPECTS, Judge, Question, Verdict
from trimtab.evaluation.judges.parsing import parse_rating
from trimtab.evaluation.judges.wording import WORDING, words
from trimtab.progress import ProgressCallback, renamed
from trimtab.steering.content import JSON

AGAIN_TEMPERATURE = 0.7
"""Temperature at which an unreadable reply is asked for again, at least: greedily the same would come."""


class AskingJudge(Judge):
    """A language model that is asked one question an aspect.

    A reply that cannot be read is asked for again. After the last attempt the rating is None, beside the last reply.

    Args:
        name: What tables call it.
        attempts: How often a question is asked before its rating is None.
        temperature: Of the first attempt.
        max_tokens: Most tokens of a reply.

    Raises:
        InputError: `attempts` or `max_tokens` is less than 1, or the temperature is negative.
    """

    aspects = frozenset(ASPECTS)

    def __init__(self, name: str, *, attempts: int, temperature: float | None, max_tokens: int) -> None:
        for what, value in (("attempts", attempts), ("max_tokens", max_tokens)):
            if value < 1:
                raise InputError(f"{what} of a judge is {value}; it must be at least 1")
        if temperature is not None and not temperature >= 0:
            raise InputError(f"temperature of a judge is {temperature}; give 0 (greedy) or more")
        self.name = name
        self._attempts, self._temperature, self._max_tokens = attempts, temperature, max_tokens

    @property
    def identity(self) -> Mapping[str, JSON]:
        """All that decides its ratings: who is asked, how, and the hash of the wording."""
        return {
            **self._who,
            "wording": WORDING,
            "attempts": self._attempts,
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
        }

    def rate(self, questions: Sequence[Question], progress: ProgressCallback | None = None) -> list[Verdict]:
        """A verdict a question, in their order.

        Args:
            questions: Of any aspect.
            progress: Told of every reply, as the stage `judge`, and `judge again` for what could not be read.

        Raises:
            InputError: An unknown aspect, a missing concept, or what the model refuses.
            NetworkError: An endpoint that still fails after all retries.
        """
        asked = [words(question) for question in questions]
        verdicts = [Verdict(None)] * len(asked)
        pending = list(range(len(asked)))
        for attempt in range(1, self._attempts + 1):
            stage = "judge" if attempt == 1 else "judge again"
            told = renamed(progress, lambda _, stage=stage: stage)
            replies = self._ask([asked[i] for i in pending], attempt, told)
            for i, reply in zip(pending, replies, strict=True):
                verdicts[i] = Verdict(parse_rating(reply, questions[i].aspect), reply, attempt)
            pending = [i for i in pending if verdicts[i].rating is None]
            if not pending:
                break
        return verdicts

    def _temperature_of(self, attempt: int) -> float | None:
        """The temperature of an attempt; None is left to the model."""
        if self._temperature is None or attempt == 1:
            return self._temperature
        return max(self._temperature, AGAIN_TEMPERATURE)

    @property
    @abstractmethod
    def _who(self) -> Mapping[str, JSON]:
        """Who is asked: the part of the identity that only the kind of judge knows."""

    @abstractmethod
    def _ask(self, asked: Sequence[str], attempt: int, progress: ProgressCallback | None) -> list[str]:
        """Replies to user turns, in their order."""
