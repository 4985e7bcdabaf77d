"""What a rule is: a checker that finds which share of a text keeps to it, and cut-offs that make 0, 1 or 2 of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.errors import InputError
from trimtab.evaluation.rules.said import Said

Share = Callable[[Said], float]
"""A checker: a text -> the share of it, 0 to 1, that keeps to the rule. Nothing said keeps to none: 0."""


@dataclass(frozen=True)
class Cuts:
    """From which share on a text is rated.

    Attributes:
        partly: Least share that is rated 1.
        wholly: Least share that is rated 2.
    """

    partly: float
    wholly: float

    def rating(self, share: float) -> int:
        """0, 1 or 2."""
        return int(share >= self.partly) + int(share >= self.wholly)


THROUGHOUT = Cuts(0.5, 0.95)
"""For what should hold everywhere: 2 with a slip in twenty, 1 for half."""
SENTENCES = Cuts(0.5, 0.9)
"""For what every sentence should do: 2 with one in ten that does not, 1 for half."""
COUNTED = Cuts(0.5, 1.0)
"""For what is counted or is there: 2 for all that is asked, 1 for half of it."""
LENGTH = Cuts(0.8, 1.0)
"""For lengths: 2 within the limit, 1 where it is missed by a fifth."""


@dataclass(frozen=True)
class Rule:
    """A kind of rule.

    Attributes:
        name: What a spec begins with, such as `max-words`.
        summary: What a text must be to be rated 2.
        make: (argument, None where there is none) -> the checker.
        cuts: From which share on a text is rated 1 and 2.
        argument: What stands behind the colon; None where nothing may.
        default: The argument that is meant where a spec has none; None where one is needed (or none may be).
    """

    name: str
    summary: str
    make: Callable[[str], Share]
    cuts: Cuts
    argument: str | None = None
    default: str | None = None

    @property
    def usage(self) -> str:
        """How it is named: `max-words:N`, `emoji[:N]`, `json`."""
        if self.argument is None:
            return self.name
        return f"{self.name}:{self.argument}" if self.default is None else f"{self.name}[:{self.argument}]"


@dataclass(frozen=True)
class Check:
    """A rule with its argument.

    Attributes:
        rule: Which rule.
        spec: How it is named, such as `max-words:50`.
        checker: Its checker.
    """

    rule: Rule
    spec: str
    checker: Share

    def share(self, text: str, instruction: str = "") -> float:
        """The share of a text, 0 to 1, that keeps to the rule; 0 of an empty one.

        Args:
            text: What the model wrote.
            instruction: What the user asked; `repeats-request` alone looks at it.

        Raises:
            MissingExtraError: The rule needs a package that is not installed.
        """
        return self.checker(Said(text, instruction)) if text.strip() else 0.0

    def rating(self, text: str, instruction: str = "") -> int:
        """0, 1 or 2, by the rule's cut-offs; see `share`."""
        return self.rule.cuts.rating(self.share(text, instruction))


def fixed(share: Share) -> Callable[[str], Share]:
    """For a rule without an argument: always the same checker."""
    return lambda _: share


def at_least(count: Callable[[Said], int]) -> Callable[[str], Share]:
    """For `name:N`: how much of N there is."""

    def make(argument: str) -> Share:
        wanted = number(argument)
        return lambda said: min(1.0, count(said) / wanted)

    return make


def number(argument: str) -> int:
    """A number of one or more.

    Raises:
        InputError: It is none.
    """
    if not argument.isascii() or not argument.isdigit() or int(argument) < 1 or len(argument) > 9:
        raise InputError(f"{argument!r} is no number; write a whole number from 1 on, such as 50")
    return int(argument)


def part(some: int, all_of: int) -> float:
    """A share; 0 of nothing."""
    return some / all_of if all_of else 0.0
