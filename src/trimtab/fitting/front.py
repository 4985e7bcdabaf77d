"""Differences of two prompts, token by token from the front, and edits that add each to its own token.

Letters: t tokens, d hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.models.apply import is_steered
from trimtab.models.capture import capture
from trimtab.models.chat import ChatFormat
from trimtab.models.messages import Prompt, as_messages
from trimtab.models.model import Model
from trimtab.models.spans import shared_prefix, tokenise
from trimtab.steering import Add, Edit, Intervention, Positions, Site


@dataclass(frozen=True, eq=False)
class Front:
    """What two prompts differ by.

    Attributes:
        differences: (t, d) float32, positive less negative, of the t tokens behind the template prefix.
        positive_tokens: Tokens of the positive text before it was padded.
        negative_tokens: Of the negative one.
        pad: Id of the token that the shorter one was padded with; None where nothing was padded.
    """

    differences: Tensor
    positive_tokens: int
    negative_tokens: int
    pad: int | None


def one_text(prompt: Prompt) -> str:
    """A prompt as one text: its turns' contents, line by line."""
    return "\n".join(message["content"] for message in as_messages(prompt))


def own_ids(chat: ChatFormat, text: str) -> tuple[int, ...]:
    """The ids that a text has as a user's turn, without what the template puts in front of and behind it."""
    if not text:
        return ()
    first, second = (chat.render(letter).ids[len(chat.prefix_ids) :] for letter in "ab")
    behind = len(shared_prefix(first[::-1], second[::-1]))
    prompt = chat.render(text)
    return prompt.ids[prompt.prefix_length : len(prompt.ids) - behind]


def front_differences(model: Model, site: Site, positive: str, negative: str) -> Front:
    """States of two texts behind the template prefix, the shorter padded with spaces on the right, subtracted.

    Raises:
        InputError: A site the model does not have, a steered model, texts that are the same to the model or do not fit
            its context, or a tokenizer that has no token to pad with.
    """
    model.check_layer(site.layer)
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before fitting, or the vector learns from that")
    sides = [own_ids(model.chat, text) for text in (positive, negative)]
    longest, prefix = max(map(len, sides)), model.chat.prefix_ids
    if sides[0] == sides[1]:
        raise InputError(
            f"the positive and the negative text have the same tokens ({positive!r}); give two that differ"
        )
    limit = model.context_length
    if limit is not None and len(prefix) + longest > limit:
        raise InputError(
            f"the longer text needs {len(prefix) + longest} tokens and the model takes {limit}; give shorter texts"
        )
    short = len(sides[0]) != len(sides[1])
    pad = _space(model) if short else None
    rows = [(*prefix, *side, *([pad] * (longest - len(side)) if pad is not None else [])) for side in sides]
    seen = capture(model.hf, rows, [site])
    states = [of_row[site][len(prefix) :].float().cpu() for of_row in seen]
    differences = states[0] - states[1]
    if not bool(torch.isfinite(differences).all()):
        raise InputError(
            f"the states at {site} are not finite; look for NaN in the weights of {model.name}, or load it in "
            "another dtype"
        )
    return Front(differences, len(sides[0]), len(sides[1]), pad)


def front_edits(site: Site, differences: Tensor) -> list[Edit]:
    """Edits that together add row k of (t, d) to the k-th token behind the prefix, and nothing to later ones.

    A rule picks the first so many tokens, not one of them, so they are nested: the one of k tokens adds row k - 1 less
    row k. A row that equals its successor needs none.
    """
    rows = differences.double()
    steps = (rows - torch.cat([rows[1:], torch.zeros_like(rows[:1])])).float()
    return [
        Edit(Intervention(site, Add(step), Positions("edges", first=count)), scales="strength")
        for count, step in enumerate(steps, 1)
        if bool(step.any())
    ]


def _space(model: Model) -> int:
    """The token to pad with: a space, or the tokenizer's own pad where a space is no single token."""
    ids = tokenise(model.tokenizer, " ").ids
    if len(ids) == 1:
        return ids[0]
    pad = model.tokenizer.pad_token_id
    if not isinstance(pad, int):
        raise InputError(
            "the tokenizer has neither a token for a space nor a pad token; give texts of equally many tokens"
        )
    return pad
