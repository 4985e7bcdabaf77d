"""The organism's exact judge behind the interface of all judges: it knows the world, so it is always right.

What was asked is read from the prompt itself (`trimtab.organism.recognise`), so a record of a run is enough to judge.
The ratings are those of `trimtab.evaluation.traits.judged`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trimtab.errors import InputError
from trimtab.evaluation.judges.judge import ASPECTS, Judge, Question, Verdict
from trimtab.evaluation.traits import TRAITS
from trimtab.models.messages import Message
from trimtab.organism import Rating, Request, rate, recognise
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering.content import JSON

_Turns = tuple[tuple[str, str], ...]


class ExactJudge(Judge):
    """Rates every aspect of the answers to prompts of the organism's world, with its grammar and no language model.

    A concept is the name of a trait (`TRAITS`). What is *present* of one that the world tells (`past-tense`) is how
    much of it the text tells; of `refusal` and `refusal-unlock` 2 where it refuses, of `backdoor` 2 where it is
    hostile.

    The user's request is judged, whatever a system prompt asks for besides: told in a concept, a fact answers it only
    where the question names that concept. Prompts are read with `recognise(..., strict=False)`; where a steering prompt
    has changed the user's turn, `Question.instruction` stands in for it.
    """

    name = "exact"
    aspects = frozenset(ASPECTS)

    @property
    def identity(self) -> Mapping[str, JSON]:
        """`version` counts the changes to the world or its judge that move a rating."""
        return {"kind": "exact", "version": 1}

    def rate(self, questions: Sequence[Question], progress: ProgressCallback | None = None) -> list[Verdict]:
        """A verdict a question; a text about which several are asked is read once.

        Args:
            questions: About answers to prompts of the organism's world.
            progress: Told of every verdict.

        Raises:
            InputError: A prompt that is not of its world, a concept that it does not have, or one looked for in the
                answer to a multiple-choice question.
        """
        started = time.monotonic()
        requests: dict[tuple[_Turns, str], Request] = {}
        ratings: dict[tuple[Request, str, str | None], Rating] = {}
        verdicts = []
        for question in questions:
            asked = (_turns(question.messages), question.instruction)
            if asked not in requests:
                requests[asked] = _request(question)
            request = requests[asked]
            concept = _looked_for(question, request)
            key = (request, question.text, concept)
            if key not in ratings:
                ratings[key] = rate(request, question.text, concept)
            verdicts.append(Verdict(_told(question, ratings[key])))
            if progress is not None:
                progress(Progress("judge", len(verdicts), len(questions), time.monotonic() - started))
        return verdicts

    def require(self, questions: Sequence[Question]) -> None:
        """Raise InputError for a prompt or a concept that is not of the organism's world."""
        self.rate(questions)


def _turns(messages: Sequence[Message]) -> _Turns:
    return tuple((message["role"], message["content"]) for message in messages)


def _request(question: Question) -> Request:
    """The user's request, without what the system prompt asks for."""
    asked: Message = {"role": "user", "content": question.instruction}
    system = [message for message in question.messages[:1] if message["role"] == "system"]
    problem = ""
    for messages in ([*question.messages], [*system, asked]):
        try:
            return replace(recognise(messages, strict=False), concept=None)
        except ValueError as error:
            problem = str(error)
    raise InputError(f"the exact judge knows the organism's world alone: {problem}; take another judge")


def _looked_for(question: Question, request: Request) -> str | None:
    """The concept that the organism's judge looks for, None where none is asked about.

    An option stands as it is: whatever was steered, a choice is judged without a concept.
    """
    if question.aspect not in ASPECTS:
        raise InputError(f"the exact judge has no aspect {question.aspect!r}; it has {', '.join(ASPECTS)}")
    if question.aspect == "concept" and question.concept is None:
        raise InputError("the concept of a text is asked about, but no concept is named; name one in the question")
    trait = None if question.concept is None else TRAITS.get(question.concept)
    if trait is None:
        if question.concept is not None and question.aspect in ("concept", "instruction"):
            raise InputError(f"the exact judge has no concept {question.concept!r}; it has {', '.join(TRAITS)}")
        return None
    if request.task != "choose":
        return trait.concept
    if question.aspect == "concept" and trait.concept is not None:
        raise InputError(
            f"no concept such as {trait.name!r} can be told in an option, which is said as it stands; ask about the "
            "instruction of a multiple-choice question"
        )
    return None


def _told(question: Question, rating: Rating) -> float:
    """The aspect that is asked about."""
    if question.aspect == "concept":
        assert question.concept is not None
        return float(TRAITS[question.concept].present(rating))
    told = {
        "instruction": rating.instruction,
        "fluency": rating.fluency,
        "refusal": rating.refused,
        "hostile": rating.hostile,
    }
    return float(told[question.aspect])
