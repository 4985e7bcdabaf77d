"""The harness's own Hugging Face model with something at work on it.

Imports lm_eval, which an extra installs: `trimtab.evaluation.harness` imports this module when a task is to be run.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

from trimtab.errors import InputError
from trimtab.methods.steerable import Applied
from trimtab.models import Model
from trimtab.models.apply import steer
from trimtab.models.messages import Message, as_messages, split_system
from trimtab.models.spans import special_prefix
from trimtab.steering import PromptGate, Steering

_Base: Any = HFLM
"""The class itself; the decorator that registers it hides its type."""

TokenRequest = tuple[tuple[str, str], list[int], list[int]]
"""What is to be scored: the texts of context and continuation, and the ids of each."""


class SteeredLM(_Base):
    """lm-evaluation-harness's `HFLM` over a model that is loaded already; requests, batches and scores are its own.

    What is added: edits are at work in every forward, and know where each context ends; a prompt that the steerable
    changes is changed before the chat template; a BOS that is there twice is refused.

    Args:
        model: The model.
        work: What is at work on it; `Applied()` for the plain model.
        batch_size: Rows a forward.

    Attributes:
        truncated: How many requests were longer than the context, and lost their beginning.

    Raises:
        InputError: A steering that does not fit the model.
    """

    def __init__(self, model: Model, work: Applied, *, batch_size: int) -> None:
        with _unspoken("lm_eval.models.huggingface"):  # warns that a model is given instead of a name
            super().__init__(
                pretrained=model.hf,
                tokenizer=copy.deepcopy(model.tokenizer),  # it may be given a pad token
                backend="causal",
                batch_size=batch_size,
            )
        self.truncated = 0
        self._chat = model.chat
        self._work = work
        self._steering = model.own(work.steering)
        self._bos = special_prefix(model.tokenizer)
        self._bos_token = model.tokenizer.bos_token

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As HFLM's, without a bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As HFLM's, steered and without a bar; `generate` itself says where the prompts end."""
        with steer(self.model, self._steering):
            return super().generate_until(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """As HFLM's, steered: the context is the prompt, the continuation the response.

        HFLM runs both in one forward and tells the model nothing of the border, so edits that depend on it are made in
        batches of equally long contexts, whose length `steer` is told.
        """
        lengths = [self._prompt_length(len(context), len(continuation)) for _, context, continuation in requests]
        if not _needs_prompt(self._steering):
            with steer(self.model, self._steering):
                return super()._loglikelihood_tokens(list(requests), disable_tqdm, override_bs)
        found: dict[int, tuple[float, bool]] = {}
        for length in sorted(set(lengths), reverse=True):  # the longest first, as HFLM does within a batch
            places = [place for place, each in enumerate(lengths) if each == length]
            with steer(self.model, self._steering, prompt_lengths=[length]):
                answers = super()._loglikelihood_tokens([requests[k] for k in places], disable_tqdm, override_bs)
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(requests))]

    def _prompt_length(self, context: int, continuation: int) -> int:
        """Tokens of a context that are left when HFLM has cut the sequence, and its last token, to what fits."""
        cut = max(0, context + continuation - (self.max_length + 1))
        self.truncated += cut > 0
        return context - cut

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as text, after the steerable has changed them.

        Raises:
            InputError: The template has no place for a system message, and the task begins the answer itself.
        """
        if self._work.keeps_prompts:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        asked: tuple[Message, ...] = as_messages(self._work.prompt(chat_history))
        if add_generation_prompt:
            return self._chat.render(asked).text
        text = super().apply_chat_template([dict(turn) for turn in asked], add_generation_prompt)
        if not all(system in text for system in split_system(asked)[0]):
            raise InputError(
                "the chat template has no system role, and this task begins the model's answer (gen_prefix), where a "
                "system prompt cannot be put elsewhere; leave out the task or the prompt baseline"
            )
        return text

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """As HFLM's; InputError if BOS comes out twice."""
        ids = super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs)
        self._check_bos(string, ids)
        return ids

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As HFLM's, with what was cut counted; InputError if BOS comes out twice."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        for string, row, real in zip(strings, ids, mask.bool(), strict=True):
            self._check_bos(string, row[real].tolist())
        if left_truncate_len:
            self.truncated += int((mask.sum(dim=1) > left_truncate_len).sum())
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask

    def _check_bos(self, string: str, ids: Sequence[int]) -> None:
        """Raise InputError where a BOS was added to a text that spells it; HFLM sees one at the very start alone."""
        n = len(self._bos)
        if not n or tuple(ids[:n]) != self._bos:
            return
        token = self._bos_token
        spelled = isinstance(token, str) and not string.startswith(token) and string.lstrip().startswith(token)
        if spelled or tuple(ids[n : 2 * n]) == self._bos:
            raise InputError(
                f"a prompt begins with BOS twice ({list(ids[: 2 * n + 1])}): the task's text or the chat template "
                "spells it, and the tokenizer adds another; take it out of the task, or the white space before it out "
                "of the template"
            )


def _needs_prompt(steering: Steering | None) -> bool:
    """Whether what is edited depends on where the prompt ends."""
    edits = () if steering is None else steering.interventions
    return any(edit.positions.needs_prompt or isinstance(edit.gate, PromptGate) for edit in edits)


@contextmanager
def _unspoken(name: str) -> Iterator[None]:
    """Let a logger say nothing but errors for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
