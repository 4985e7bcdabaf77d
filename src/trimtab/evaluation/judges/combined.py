"""One judge an aspect, behind the interface of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

from trimtab.clients.cost import Estimate
from trimtab.errors import InputError
from trimtab.evaluation.judges.judge import ASPECTS, Judge, Question, Verdict
from trimtab.progress import ProgressCallback
from trimtab.steering.content import JSON


class CombinedJudge(Judge):
    """Hands each question to the judge of its aspect.

    Args:
        judges: By aspect; one judge may stand at several.

    Raises:
        InputError: No judge, an unknown aspect, or one that its judge does not have.
    """

    def __init__(self, judges: Mapping[str, Judge]) -> None:
        if not judges:
            raise InputError(f"a combined judge has no judges; give one for at least one of {', '.join(ASPECTS)}")
        for aspect, judge in judges.items():
            if aspect not in ASPECTS:
                raise InputError(f"there is no aspect {aspect!r}; allowed: {', '.join(ASPECTS)}")
            if aspect not in judge.aspects:
                has = ", ".join(sorted(judge.aspects))
                raise InputError(f"the judge {judge.name} does not rate {aspect!r}; it rates {has}")
        self._judges = dict(judges)
        self.name = ",".join(f"{aspect}={judges[aspect].name}" for aspect in ASPECTS if aspect in judges)
        self.aspects = frozenset(judges)

    @property
    def identity(self) -> Mapping[str, JSON]:
        """The identity of each judge, by aspect."""
        return {
            "kind": "combined",
            "judges": {aspect: dict(judge.identity) for aspect, judge in sorted(self._judges.items())},
        }

    def rate(self, questions: Sequence[Question], progress: ProgressCallback | None = None) -> list[Verdict]:
        """A verdict a question, in their order; each judge is asked once, for all that is its own.

        Args:
            questions: Each of an aspect that has a judge.
            progress: Told by each judge of its own questions.

        Raises:
            InputError: An aspect without a judge, or what a judge refuses.
            NetworkError: An endpoint that still fails after all retries.
        """
        verdicts: dict[int, Verdict] = {}
        for judge, places in self._shares(questions):
            rated = judge.rate([questions[place] for place in places], progress)
            verdicts.update(zip(places, rated, strict=True))
        return [verdicts[place] for place in range(len(questions))]

    def require(self, questions: Sequence[Question]) -> None:
        """What each judge asks of its own questions."""
        for judge, places in self._shares(questions):
            judge.require([questions[place] for place in places])

    def estimate(self, questions: Sequence[Question]) -> Estimate | None:
        """The sum of what the judges estimate; None where none of them costs anything."""
        parts = [judge.estimate([questions[i] for i in places]) for judge, places in self._shares(questions)]
        costly = [part for part in parts if part is not None]
        return reduce(add, costly) if costly else None

    def _shares(self, questions: Sequence[Question]) -> list[tuple[Judge, list[int]]]:
        """Each judge that is asked, and the places of its questions."""
        shares: dict[int, tuple[Judge, list[int]]] = {}
        for place, question in enumerate(questions):
            judge = self._judges.get(question.aspect)
            if judge is None:
                has = ", ".join(sorted(self.aspects))
                raise InputError(f"no judge was given for {question.aspect!r}, only for {has}; add one, or one for all")
            shares.setdefault(id(judge), (judge, []))[1].append(place)
        return list(shares.values())
