"""Prompts as a model reads them: rendered with its own chat template, tokenised once, positions marked.

A `ChatFormat` belongs to one tokenizer. With a chat template it is of kind `template`; without one (a base model) it is
`plain`, and a prompt is the text itself. Either way a prompt has the ids that transformers gives, with BOS exactly once
if the model has one, and no closing EOS.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trimtab.errors import InputError, check_characters
from trimtab.models.messages import Message, Prompt, as_messages, split_system, with_system
from trimtab.models.spans import Tokens, shared_prefix, special_prefix, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_PROBE = "trimtab-probe"
_NO_DATE = "{%- macro strftime_now(format) -%}{{ format }}{%- endmacro -%}"
"""In front of a template it makes the clock that transformers gives templates print `%d %b %Y` in place of the day."""

_UNREADABLE = (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


@dataclass(frozen=True)
class RenderedPrompt:
    """One prompt, ready for the model.

    Attributes:
        text: What was tokenised: with the template and its special tokens spelled out; for a plain prompt the text
            itself. A BOS that the tokenizer adds by itself is in `ids` only.
        ids: Token ids, BOS exactly once if the model has one.
        source_position: Index into `ids` of the token whose state stands for the prompt: the last token of the
            assistant header, of the chosen source tokens, or of a plain prompt.
        prefix_length: How many leading ids the prompt shares with the format's `prefix_ids`.
    """

    text: str
    ids: tuple[int, ...]
    source_position: int
    prefix_length: int


class ChatFormat:
    """How one tokenizer's model wants its prompts.

    Attributes:
        kind: `template` or `plain`.
        prefix_ids: Leading ids that do not depend on the prompt: BOS and the header of the first turn, found as what
            the rendered messages "a" and "b" share; BOS or nothing for a plain format. A template that prints the date
            has today's in it.
        undated_prefix_ids: As many of them as depend on no date either: what a vector can keep.
        fingerprint: SHA-256 over the template's text and the special tokens; two formats with one fingerprint render
            alike.
        source_tokens: The text whose last occurrence marks the source position, or None for the assistant header.

    Args:
        tokenizer: Any tokenizer of transformers. It is only read.
        source_tokens: Overrides the assistant header as the place of the source position.

    Raises:
        InputError: The template cannot render one user turn, or `source_tokens` is empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, source_tokens: str | None = None) -> None:
        if source_tokens == "":
            raise InputError("--source-tokens is empty; give a text that every rendered prompt holds, or leave it out")
        self._tokenizer = tokenizer
        self._bos = special_prefix(tokenizer)
        self._folds_system: bool | None = None
        self.kind = "template" if tokenizer.chat_template else "plain"
        self.source_tokens = source_tokens
        self.fingerprint = _fingerprint(tokenizer)
        self.prefix_ids: tuple[int, ...] = self._bos
        if self.kind == "template":
            first, second = (self._apply([{"role": "user", "content": content}]) for content in "ab")
            self.prefix_ids = shared_prefix(self._tokens(first).ids, self._tokens(second).ids)
        self.undated_prefix_ids: tuple[int, ...] = self._undated_prefix()

    def check_source(self) -> None:
        """Makes sure that rendered prompts have a source position, which only a fit reads.

        Without source tokens it is a prompt's last token, which must end what stands before an answer. Either asking
        for the header appends it, or (Mistral writes no header of its own) the answer of a rendered assistant turn
        follows the prompt directly.

        Raises:
            InputError: The template has no assistant header, and no source tokens were given.
        """
        if self.kind == "plain" or self.source_tokens is not None:
            return
        user: Message = {"role": "user", "content": "a"}
        prompt = self._apply([user])
        try:
            bare = self._apply([user], header=False)
            if prompt != bare and prompt.startswith(bare):
                return
            answered = self._apply([user, {"role": "assistant", "content": _PROBE}], header=False)
        except InputError:
            answered = ""
        if answered.startswith(prompt) and answered[len(prompt) :].lstrip().startswith(_PROBE):
            return
        raise InputError(
            "the chat template shows no assistant header: name the text that ends a prompt with --source-tokens "
            "(source_tokens in Python)"
        )

    def render(self, prompt: Prompt, *, system: str | None = None) -> RenderedPrompt:
        """Renders a prompt up to where the model's answer begins.

        Args:
            prompt: A text, taken as one user turn, or a list of messages.
            system: Text of a system turn, put in front of what the prompt has of its own.

        Returns:
            The prompt with its ids and positions.

        Raises:
            InputError: The messages are malformed, the template refuses them, the source tokens do not occur, the
                prompt has not a single token, or a character that no tokenizer can read.
        """
        messages = as_messages(prompt)
        if system is not None:
            messages = with_system(messages, system)
        text = self._plain(messages) if self.kind == "plain" else self._apply(self._fold(messages))
        if self.source_tokens is not None and self.source_tokens not in text:
            raise InputError(
                f"the source tokens {self.source_tokens!r} do not occur in the prompt that begins {_begin(text)!r}; "
                "give --source-tokens a text that every rendered prompt holds"
            )
        return self.render_raw(text)

    def render_raw(self, text: str) -> RenderedPrompt:
        """Takes a text as it stands: rendered already, or in need of no template.

        Args:
            text: All that the model shall read; BOS is added if the model has one and the text does not begin with it.

        Returns:
            The text with its ids and positions. Where the source tokens do not occur in it, its last token is the
            source position.

        Raises:
            InputError: The text has not a single token, or a character that no tokenizer can read.
        """
        tokens = self._tokens(text)
        if not tokens.ids:
            raise InputError("a prompt is empty and the model has no BOS token to stand for it; give it some text")
        found = -1 if self.source_tokens is None else text.rfind(self.source_tokens)
        end = found + len(self.source_tokens or "") - 1
        position = len(tokens.ids) - 1 if found < 0 else self._token_at(text, tokens, end)
        return RenderedPrompt(text, tokens.ids, position, len(shared_prefix(tokens.ids, self.prefix_ids)))

    def response_ids(self, prompt: RenderedPrompt, response: str) -> tuple[int, ...]:
        """Tokenises a response as it reads behind its prompt; no BOS and no EOS is added.

        Prompt and response are tokenised together and cut where the response begins, so a word has the ids that it has
        in running text. Where a token lies across that border, or the tokenizer has no offsets, the ids are what the
        joint ids have beyond the prompt's own ids; and where those do not begin the joint ids, the response is
        tokenised alone.

        Args:
            prompt: A prompt that this format rendered.
            response: The text of the answer.

        Returns:
            The ids to append to the prompt's ids; empty if nothing is left of the response.
        """
        if not response:
            return ()
        joint = self._tokens(prompt.text + response)
        cut = joint.cut(len(prompt.text))
        if cut is None and joint.ids[: len(prompt.ids)] == prompt.ids:
            cut = len(prompt.ids)
        return tokenise(self._tokenizer, response).ids if cut is None else joint.ids[cut:]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids without special tokens.

        For a plain format the text continues the prompt: the space in front of its first word is kept, also by
        tokenizers that drop it at the beginning of a text.
        """
        if self.kind == "template":
            return self._decode(ids)
        anchor = tokenise(self._tokenizer, "a").ids
        before, text = self._decode(anchor), self._decode([*anchor, *ids])
        return text.removeprefix(before) if text.startswith(before) else self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)

    def _tokens(self, text: str) -> Tokens:
        """Tokenises a whole sequence; adds the tokenizer's BOS unless the text begins with it."""
        check_characters(f"the text that begins {_begin(text)!r}", text)
        tokens = tokenise(self._tokenizer, text)
        bos = self._tokenizer.bos_token
        spelled = isinstance(bos, str) and text.lstrip().startswith(bos)
        return tokens if spelled or tokens.ids[: len(self._bos)] == self._bos else tokens.after(self._bos)

    def _token_at(self, text: str, tokens: Tokens, character: int) -> int:
        """Index of the token that holds a character of the text."""
        found = tokens.at(character)
        if found is not None:
            return found
        head = self._tokens(text[: character + 1]).ids
        shared = len(shared_prefix(head, tokens.ids))
        return min(shared, len(head) - 1, len(tokens.ids) - 1)

    def _apply(self, messages: Sequence[Message], *, header: bool = True, template: str | None = None) -> str:
        """Renders with the model's template, or another; a refusal of the template becomes an `InputError`."""
        try:
            text: Any = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=header,
            )
        except _UNREADABLE as error:
            roles = ", ".join(message["role"] for message in messages)
            reason = " ".join(str(error).split())
            raise InputError(f"the chat template refuses the turns ({roles}): {reason}") from error
        return text

    def _plain(self, messages: Sequence[Message]) -> str:
        """System texts in front, a blank line, then the contents line by line."""
        system, others = split_system(messages)
        return "\n\n".join([*system, "\n".join(message["content"] for message in others)])

    def _fold(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Puts system texts before the first user turn where the template has no place for them."""
        system, others = split_system(messages)
        if len(others) == len(messages):
            return messages
        if self._folds_system is None:
            self._folds_system = not self._takes_system()
            if self._folds_system:
                logger.warning("the chat template has no system role: system text is put before the first user turn")
        if not self._folds_system:
            return messages
        first = next(index for index, message in enumerate(others) if message["role"] == "user")
        content = "\n\n".join([*system, others[first]["content"]])
        return [*others[:first], {"role": "user", "content": content}, *others[first + 1 :]]

    def _takes_system(self) -> bool:
        try:
            probe = self._apply([{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}])
        except InputError:
            return False
        return _PROBE in probe

    def _undated_prefix(self) -> tuple[int, ...]:
        """The prefix up to where a date begins; BOS where the template cannot do without a real one."""
        template = self._tokenizer.get_chat_template() if self.kind == "template" else ""
        if "strftime_now" not in template:
            return self.prefix_ids
        try:
            undated = self._apply([{"role": "user", "content": "a"}], template=_NO_DATE + template)
        except InputError:
            return self._bos
        return shared_prefix(self.prefix_ids, self._tokens(undated).ids)


def _begin(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[:width] + "..."


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Pad is left out: it changes nothing that is rendered, and many models load with EOS in its place."""
    named = [str(getattr(tokenizer, name)) for name in ("bos_token", "eos_token", "unk_token")]
    others = {str(token) for token in tokenizer.all_special_tokens} - {str(tokenizer.pad_token), *named}
    content = {"template": tokenizer.chat_template, "named": named, "others": sorted(others)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
