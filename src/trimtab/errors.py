"""The errors that a user of the library may meet.

The command line turns them into exit codes: `InputError` is 2, `NetworkError` is 3, everything else is 1. The one check
that rooms without a common floor share, `check_characters`, stands here too.

All of them survive pickling, so an error raised in a worker process arrives whole: that is why each constructor hands
its arguments to `Exception` as they are, and the text is built in `__str__`.
"""

from pathlib import Path
from typing import Protocol


class TrimtabError(Exception):
    """The root: every error that trimtab raises on purpose is one of these."""


class InputError(TrimtabError, ValueError):
    """The user's input is wrong, and the text says how to mend it.

    The text is one line: what was given, what is allowed, what to do. A `ValueError` too, so that code which knows
    nothing of trimtab can catch it.
    """


def check_characters(what: str, text: str) -> None:
    """Raises an `InputError` unless a text can be written as UTF-8, which every tokenizer and file asks of it.

    Half of a surrogate pair cannot; Python puts one in the place of each byte of a command line that is no UTF-8.

    Args:
        what: The beginning of the error's sentence.
        text: The text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} has half of a surrogate pair; write whole characters, in UTF-8") from None


class MissingExtraError(InputError):
    """A feature needs a package that only an optional extra installs.

    Attributes:
        feature: What the user asked for, as the beginning of a sentence ("Reading from the Hub").
        package: The package that could not be imported.
        extra: The extra of trimtab that installs it.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        """Names the feature, the missing package and the extra that brings it.

        Args:
            feature: What the user asked for, as the beginning of a sentence.
            package: The package that could not be imported.
            extra: The extra of trimtab that installs it.
        """
        super().__init__(feature, package, extra)
        self.feature = feature
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        """One line with the command that mends it."""
        return (
            f"{self.feature} needs the package {self.package!r}: run pip install {self.package} "
            f"(trimtab's extra {self.extra!r} brings it)"
        )


class NetworkError(TrimtabError):
    """A network or an endpoint failed; nothing that the user typed is wrong."""


class Saveable(Protocol):
    """The part of a `SteeringVector` that the one who rescues it needs; this module may not import the class."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> object:
        """Writes it to a directory."""
        ...


class FitDivergedError(InputError):
    """A fit left the finite numbers; the last good state comes with the error.

    Attributes:
        message: One line: what happened, at which settings, what to change.
        step: The 0-based optimiser step at which the loss or the gradient was no longer finite.
        last_good: The `SteeringVector` as it stood before that step (the start vector if that was the first), or None
            when not even the states it would be read from are finite.
    """

    def __init__(self, message: str, step: int, last_good: Saveable | None = None) -> None:
        """Keeps the step and the last good vector beside the text.

        Args:
            message: One line: what happened, at which settings, what to change.
            step: The 0-based optimiser step at which the fit diverged.
            last_good: The `SteeringVector` as it stood before that step, if there is one.
        """
        super().__init__(message, step, last_good)
        self.message = message
        self.step = step
        self.last_good = last_good

    def __str__(self) -> str:
        """The message alone."""
        return self.message
