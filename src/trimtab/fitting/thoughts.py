"""The thoughts of a reasoning trace: where each begins, and of which kind it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.errors import InputError
from trimtab.models.model import Model

EXECUTION, REFLECTION, TRANSITION = KINDS = ("execution", "reflection", "transition")

BLANK_LINE = "\n\n"
"""What parts thoughts, as published."""


@dataclass(frozen=True)
class Phrases:
    """What tells a kind of thought; upper and lower case are alike.

    Args:
        openings: It begins with one of these, or
        inside: holds one of these.
    """

    openings: tuple[str, ...]
    inside: tuple[str, ...]

    def match(self, thought: str) -> bool:
        """Whether the text of a thought is of this kind."""
        text = thought.strip().lower()
        return text.startswith(tuple(opening.lower() for opening in self.openings)) or any(
            phrase.lower() in text for phrase in self.inside
        )


REFLECTIONS = Phrases(
    ("Wait",),
    ("verify", "make sure", "hold on", "think again", "'s correct", "'s incorrect", "let me check", "seems right"),
)
TRANSITIONS = Phrases(
    ("Alternatively",),
    (
        *(f"another {noun}" for noun in ("way", "approach", "method", "solution", "strategy", "technique")),
        "think differently",
        "think differenly",  # so published; kept, as it harms nothing
    ),
)


def kind_of(thought: str, reflections: Phrases = REFLECTIONS, transitions: Phrases = TRANSITIONS) -> str:
    """`reflection`, else `transition`, else `execution`: tried in this order."""
    if reflections.match(thought):
        return REFLECTION
    return TRANSITION if transitions.match(thought) else EXECUTION


def boundary_tokens(model: Model, text: str) -> tuple[int, ...]:
    """The ids of all tokens that hold a text, such as a blank line.

    Raises:
        InputError: No token does.
    """

    def decoded(token: int) -> str:
        return str(model.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    found = tuple(token for token in range(len(model.tokenizer)) if text in decoded(token))
    if not found:
        raise InputError(
            f"no token of {model.name} holds {text!r}, so that thoughts cannot be told apart by tokens; give another "
            "boundary"
        )
    return found


def boundaries(
    ids: Sequence[int],
    marks: frozenset[int],
    decode: Callable[[Sequence[int]], str],
    end: str,
    tag: Callable[[str], str],
) -> list[tuple[int, str]]:
    """Where thoughts begin in a trace: the place of each boundary token, and the kind of the thought that follows.

    A boundary that nothing follows is none, and nor is one behind the text `end`.

    Args:
        ids: The trace.
        marks: Ids of boundary tokens.
        decode: Ids -> text.
        end: Text that ends the reasoning.
        tag: The text of a thought -> its kind.
    """
    starts = [-1, *(place for place, token in enumerate(ids) if token in marks)]
    stops = [*starts[1:], len(ids) - 1]
    found = []
    for start, stop in zip(starts, stops, strict=True):
        whole = decode(ids[start + 1 : stop + 1])
        thought = whole.partition(end)[0] if end else whole
        if start >= 0 and thought.strip():
            found.append((start, tag(thought)))
        if thought != whole:
            break
    return found
