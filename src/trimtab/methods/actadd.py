"""ActAdd, activation addition: the difference of two prompts, added token by token from the front.

Source: Turner et al., arXiv 2308.10248.

    both texts behind the template prefix, the shorter padded with spaces on the right
    v_t = h+_t - h-_t, t the place behind the prefix
    elicit: h'_t = h_t + m v_t        suppress: h'_t = h_t - m v_t        for the t that both texts reach

Shapes: t tokens, d hidden.

Two texts are all it learns from; unless they are given they are the prompts of the first pair (a prompt of several
turns counts as one text, its contents line by line). A prompt that is shorter than the texts is edited as far as it
goes, and nothing behind the prompt is.

A rule for positions picks the first so many tokens and not one of them, so the vector holds nested edits: the one of
the first k tokens adds v_k - v_{k+1}, and what meets at a token adds up to its own v.

Deviations from the published code: it adds to what enters a block, here it is what leaves it: the published layer l is
l - 1. BOS takes part there, but has the same state in both prompts, so its difference is zero. In a chat model the
texts are users' turns; the tokens that end the turn take no part. Where a tokenizer has no token for a space, its pad
token fills up. The published coefficient, some 1 to 15 by task, is the multiplier.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import ClosedSettings, closed_vector, refuse_training_options
from trimtab.fitting.front import front_differences, front_edits, one_text
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector
from trimtab.steering.content import JSON


@dataclass(frozen=True)
class ActAddSettings(ClosedSettings):
    """Settings of activation addition.

    Args:
        positions: Only `prompt`: which of its tokens are edited, the texts decide.
        reading: Only `tokens`: every token of the texts is read.
        positive: The text with the concept; None = the first pair's positive prompt.
        negative: The text without it; None = the first pair's negative prompt. Give both or none.

    Raises:
        InputError: A setting outside its range, or one text without the other.
    """

    positions: str = "prompt"
    positive: str | None = None
    negative: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, only in (("positions", "prompt"), ("reading", "tokens")):
            if getattr(self, name) != only:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; actadd reads and edits the first tokens of prompts, as many "
                    f"as its two texts have; leave {name} out"
                )
        texts = (self.positive, self.negative)
        if not (texts == (None, None) or all(isinstance(text, str) for text in texts)):
            raise InputError(
                f"positive is {self.positive!r} and negative is {self.negative!r}; give two texts, or neither to take "
                "those of the first pair"
            )


def fit_actadd(model: Model, pairs: PairSet, settings: ActAddSettings, options: FitOptions) -> SteeringVector:
    """The difference of two prompts, token by token.

    Raises:
        InputError: A layer the model does not have, neither texts nor pairs, texts that are the same or do not fit the
            context, a steered model, or a start vector, order or trace, which a closed form has no use for.
    """
    began = time.monotonic()
    refuse_training_options("actadd", options)
    positive, negative = settings.positive, settings.negative
    if positive is None or negative is None:
        if not pairs:
            raise InputError(f"no pairs in {pairs.source!r} to take the texts from; give one, or positive and negative")
        positive, negative = one_text(pairs[0].positive_input), one_text(pairs[0].negative_input)
    site = Site(settings.layer)
    front = front_differences(model, site, positive, negative)
    up = front_edits(site, front.differences)
    down = front_edits(site, -front.differences)
    if not up:
        raise InputError(f"the texts {positive!r} and {negative!r} have the same states at {site}; give others")
    figures: dict[str, JSON] = {
        "positive_tokens": front.positive_tokens,
        "negative_tokens": front.negative_tokens,
        "padded_with": front.pad,
    }
    directions = {"elicit": tuple(range(len(up))), "suppress": tuple(range(len(up), 2 * len(up)))}
    used = replace(settings, positive=positive, negative=negative)
    return closed_vector("actadd", model, pairs, used, (*up, *down), directions, began, figures)


ACTADD = Method(
    name="actadd",
    family="closed-form",
    paper="arXiv 2308.10248",
    summary="the difference of two prompts, added token by token from the front",
    settings=ActAddSettings,
    fit=fit_actadd,
)
