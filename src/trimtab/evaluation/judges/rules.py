"""A judge of form: the concept's rating by a rule (`trimtab.evaluation.rules`), without a language model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from trimtab.errors import InputError
from trimtab.evaluation.judges.judge import Judge, Question, Verdict
from trimtab.evaluation.rules import Check, check_for, check_of
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering.content import JSON

LIBRARIES = ("emoji", "phonenumbers", "py3langid", "textblob")
"""Packages of the extra `rules`, whose data decide ratings."""


class RuleJudge(Judge):
    """Rates the concept of a text by the rule that checks it, 0, 1 or 2; another judge has the other aspects.

    Args:
        rules: Specs of rules (`max-words:50`) by concept. What is not named here is a spec itself, or a description
            in words from which one rule comes out.

    Raises:
        InputError: A spec that names no rule.
    """

    name = "rules"
    aspects = frozenset({"concept"})

    def __init__(self, rules: Mapping[str, str] | None = None) -> None:
        self._checks = {concept: check_of(spec) for concept, spec in (rules or {}).items()}

    @property
    def identity(self) -> Mapping[str, JSON]:
        """`version` counts the changes to a rule that move a rating; a library is null where it is not installed."""
        return {
            "kind": "rules",
            "version": 1,
            "rules": {concept: check.spec for concept, check in sorted(self._checks.items())},
            "libraries": {name: _version(name) for name in LIBRARIES},
        }

    def check(self, concept: str) -> Check:
        """The rule that a concept is rated by.

        Raises:
            InputError: There is none, or there are several.
        """
        return self._checks.get(concept) or check_for(concept)

    def rate(self, questions: Sequence[Question], progress: ProgressCallback | None = None) -> list[Verdict]:
        """A verdict a question.

        Args:
            questions: About concepts.
            progress: Told of every verdict.

        Raises:
            InputError: Another aspect, no concept, or one that no rule checks.
            MissingExtraError: A rule needs a package that is not installed.
        """
        started = time.monotonic()
        checks: dict[str, Check] = {}
        verdicts = []
        for question in questions:
            concept = _concept(question)
            if concept not in checks:
                checks[concept] = self.check(concept)
            verdicts.append(Verdict(float(checks[concept].rating(question.text, question.instruction))))
            if progress is not None:
                progress(Progress("judge", len(verdicts), len(questions), time.monotonic() - started))
        return verdicts

    def require(self, questions: Sequence[Question]) -> None:
        """Raise InputError for a concept that no rule checks, MissingExtraError for a package that a rule needs."""
        super().require(questions)
        for concept in dict.fromkeys(map(_concept, questions)):
            self.check(concept).share("a word")


def _concept(question: Question) -> str:
    if question.aspect != "concept":
        raise InputError(f"rules rate the concept alone, not {question.aspect!r}; name another judge for it")
    if question.concept is None:
        raise InputError("the concept of a text is asked about, but no concept is named; name one in the question")
    return question.concept


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
