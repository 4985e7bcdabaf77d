"""Which tokens of a row an intervention edits."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_ids

_SCOPES = ("all", "prompt", "response", "last", "edges")
_EDGES = re.compile(r"(?:f(?P<first>[0-9]+))?(?:(?(first)\+)l(?P<last>[0-9]+))?")


@dataclass(frozen=True)
class Geometry:
    """Where each token of one forward pass stands in its row (b rows, s columns).

    Attributes:
        index: (b, s) int64, 0-based place of the token in its row with pads not counted; -1 marks a pad.
        prefix: (b,) int64, number of leading tokens that are the template prefix.
        prompt: (b,) int64, number of prompt tokens, prefix included.
        ids: (b, s) int64 token ids, or None when the forward was given embeddings.
    """

    index: Tensor
    prefix: Tensor
    prompt: Tensor
    ids: Tensor | None = None


@dataclass(frozen=True)
class Positions:
    """A rule that picks tokens by their place in the row, never by their column.

    Args:
        scope: `all` (prompt and response), `prompt`, `response` (tokens after the prompt), `last` (the last prompt
            token) or `edges` (the `first` and `last` prompt tokens after the prefix).
        first: Number of leading prompt tokens for `edges`.
        last: Number of trailing prompt tokens for `edges`.
        include_prefix: Edit the template prefix (BOS and turn header) too. Off unless asked for.
        token_ids: If not empty, only tokens with one of these ids are edited.

    Raises:
        InputError: Unknown scope, counts that do not fit it, or token ids that are no whole numbers.
    """

    scope: str = "all"
    first: int = 0
    last: int = 0
    include_prefix: bool = False
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", check_ids("token_ids", self.token_ids))
        if self.scope not in _SCOPES:
            raise InputError(f"unknown positions {self.scope!r}; allowed: all, prompt, response, last, f<N>+l<M>")
        counted = self.first > 0 or self.last > 0
        if self.first < 0 or self.last < 0 or counted != (self.scope == "edges"):
            raise InputError(
                f"positions {self.scope!r} with first={self.first}, last={self.last}; write f2+l2, f1 or l3"
            )

    @classmethod
    def parse(cls, text: str, *, include_prefix: bool = False) -> Positions:
        """Read the text form, as `str(positions)` writes it.

        Args:
            text: `all`, `prompt`, `response` or `last`, or the first and last few tokens of the prompt behind the
                template prefix: `f2+l2`, `f1` or `l3`.
            include_prefix: Edit the template prefix too; the first tokens are then counted from its beginning.

        Raises:
            InputError: A text of another form.
        """
        if text in _SCOPES and text != "edges":
            return cls(text, include_prefix=include_prefix)
        match = _EDGES.fullmatch(text) if text else None
        if match is None:
            raise InputError(
                f"unknown positions {text!r}; allowed: all, prompt, response, last, f<N>+l<M> such as f2+l2"
            )
        first, last = int(match["first"] or 0), int(match["last"] or 0)
        return cls("edges", first, last, include_prefix=include_prefix)

    def __str__(self) -> str:
        if self.scope != "edges":
            return self.scope
        return "+".join(
            part for part in (f"f{self.first}" * (self.first > 0), f"l{self.last}" * (self.last > 0)) if part
        )

    @property
    def needs_prompt(self) -> bool:
        """Whether the rule depends on where the prompt ends."""
        return self.scope != "all"

    @property
    def on_prompt(self) -> bool:
        """Whether the rule can pick tokens of the prompt."""
        return self.scope != "response"

    @property
    def on_response(self) -> bool:
        """Whether the rule can pick tokens after the prompt."""
        return self.scope in ("all", "response")

    def mask(self, rows: Geometry) -> Tensor:
        """The tokens to edit: (b, s) bool, never true on a pad."""
        index = rows.index
        start = torch.zeros_like(rows.prefix) if self.include_prefix else rows.prefix
        start, prompt = start[:, None], rows.prompt[:, None]
        mask = (index >= 0) & (index >= start)
        if self.scope == "prompt":
            mask &= index < prompt
        elif self.scope == "response":
            mask &= index >= prompt
        elif self.scope == "last":
            mask &= index == prompt - 1
        elif self.scope == "edges":
            mask &= (index < start + self.first) | ((index >= prompt - self.last) & (index < prompt))
            mask &= index < prompt
        if self.token_ids:
            if rows.ids is None:
                raise InputError(
                    "positions picked by token id need input_ids, but the model was called with inputs_embeds"
                )
            wanted = torch.tensor(self.token_ids, device=rows.ids.device)
            mask &= torch.isin(rows.ids, wanted)
        return mask
