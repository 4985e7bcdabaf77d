"""What becomes of a pair once it is written: kept, or dropped for a reason that has a name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from trimtab.data.building.plan import Draft
from trimtab.data.pairs import ContrastPair
from trimtab.data.refusals import is_refusal
from trimtab.errors import InputError
from trimtab.models.text_side import TextSide

Presence = Callable[[Draft, str], bool | None]
"""(draft, answer) -> whether the draft's concept is in the answer; None where that cannot be told."""

_BLANKS = re.compile(r"\s+")


@dataclass(eq=False)
class Sieve:
    """Looks at pairs one by one, in the order of the file to be.

    Args:
        side: How the model reads; None = lengths and special tokens are not looked at.
        presence: Tells whether a concept is in an answer; None = nobody can tell.
        allow_refusals: Whether refusals are what is wanted.
    """

    side: TextSide | None = None
    presence: Presence | None = None
    allow_refusals: bool = False
    _seen: set[tuple[str, str, str]] = field(default_factory=set, init=False)

    def fault(self, draft: Draft, pair: ContrastPair) -> str | None:
        """Why a pair is dropped, in a few words; None if it is kept."""
        return (
            self._unreadable(pair)
            or self._refused(pair)
            or self._concept(draft, pair)
            or self._length(pair)
            or self._repeated(draft, pair)
        )

    def _unreadable(self, pair: ContrastPair) -> str | None:
        special = () if self.side is None else self.side.special_texts
        for name, text in (("positive", pair.positive_output), ("negative", pair.negative_output)):
            if not text.strip():
                return f"the {name} answer is empty"
            if any("\ud800" <= character <= "\udfff" for character in text):
                return f"the {name} answer has half of a surrogate pair"
            if any(token and token in text for token in special):
                return f"the {name} answer has a special token of the model in it"
        if _folded(pair.positive_output) == _folded(pair.negative_output):
            return "both answers are the same"
        return None

    def _refused(self, pair: ContrastPair) -> str | None:
        if self.allow_refusals:
            return None
        for name, text in (("positive", pair.positive_output), ("negative", pair.negative_output)):
            if is_refusal(text):
                return f"the {name} answer is a refusal"
        return None

    def _concept(self, draft: Draft, pair: ContrastPair) -> str | None:
        if self.presence is None:
            return None
        if self.presence(draft, pair.positive_output) is False:
            return "the concept is not in the positive answer"
        if self.presence(draft, pair.negative_output) is True:
            return "the concept is in the negative answer"
        return None

    def _length(self, pair: ContrastPair) -> str | None:
        if self.side is None:
            return None
        chat, limit = self.side.chat, self.side.context_length
        try:
            prompts = chat.render(pair.positive_input), chat.render(pair.negative_input)
        except InputError:
            return "the chat template refuses a prompt"
        responses = [
            len(chat.response_ids(prompt, text))
            for prompt, text in zip(prompts, (pair.positive_output, pair.negative_output), strict=True)
        ]
        if min(responses) == 0:
            return "an answer has no token of its own"
        # A fit reads each answer behind both prompts.
        if limit is not None and max(len(prompt.ids) for prompt in prompts) + max(responses) > limit:
            return "the pair is longer than the model's context"
        return None

    def _repeated(self, draft: Draft, pair: ContrastPair) -> str | None:
        key = draft.concept.name, _folded(pair.positive_output), _folded(pair.negative_output)
        if key in self._seen:
            return "another pair has the same answers"
        self._seen.add(key)
        return None


def _folded(text: str) -> str:
    return _BLANKS.sub(" ", text).strip()
