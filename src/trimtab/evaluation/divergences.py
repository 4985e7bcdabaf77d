"""How far a contender moves the model's next-token distributions on given prompts and answers.

Letters: n tokens of an answer, d hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from trimtab.errors import InputError
from trimtab.evaluation.contenders import Contender
from trimtab.fitting.likelihood import final_states, js_divergences, kl_divergences, likelihoods_at
from trimtab.methods.steerable import Applied, applied
from trimtab.models import Model
from trimtab.models.chat import RenderedPrompt
from trimtab.models.messages import Prompt
from trimtab.steering import SteeringVector

NEXT = (0,)
"""An answer of one token, whichever, behind which nothing is looked at: what is compared is the prompt's end."""


@dataclass(frozen=True)
class Behind:
    """Prompts and what stands behind each.

    Attributes:
        prompts: The prompts; a rendered one is taken as it is, whatever a contender would put in front.
        answers: Token ids behind each, at least one.
    """

    prompts: Sequence[Prompt | RenderedPrompt]
    answers: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Moved:
    """What a contender does to one prompt and answer.

    Attributes:
        kl: KL(plain || steered) in nats, the mean over the answer's tokens.
        js: Jensen-Shannon divergence in nats, likewise.
        nll: Minus the mean log-probability of the answer's tokens, steered.
        n: Tokens of the answer.
    """

    kl: float
    js: float
    nll: float
    n: int


def plain_states(model: Model, behind: Behind) -> list[Tensor]:
    """What the plain model's head reads at every token of the answers: (n, d) each."""
    return final_states(model, _rendered(model, behind, Applied()), behind.answers)


def steered_states(
    model: Model, contender: Contender, way: str | None, multiplier: float | None, behind: Behind
) -> list[Tensor]:
    """The same while a contender is at work.

    Raises:
        InputError: It does not fit the model, or lacks the direction.
    """
    if contender.steerable is None:
        return plain_states(model, behind)
    contender.require_fit(model)
    if isinstance(contender.steerable, SteeringVector):
        row = contender.steerable.steering(str(way), multiplier, contender.scale)
        rows = [row] * len(behind.answers)
        return final_states(model, _rendered(model, behind, Applied()), behind.answers, rows)
    with applied(model, contender.steerable, str(way), multiplier) as at_work:
        rows = [] if at_work.steering is None else [at_work.steering] * len(behind.answers)
        return final_states(model, _rendered(model, behind, at_work), behind.answers, rows)


def moved(
    model: Model,
    contender: Contender,
    way: str | None,
    multiplier: float | None,
    behind: Behind,
    plain: Sequence[Tensor],
) -> list[Moved]:
    """Divergences from the plain model on each prompt and answer.

    Args:
        model: The model, plain.
        contender: Who is at work.
        way: In which direction.
        multiplier: At which multiplier; None = its own.
        behind: Prompts and answers.
        plain: From `plain_states` of the same.
    """
    steered = steered_states(model, contender, way, multiplier, behind)
    kls, jss = kl_divergences(model, plain, steered), js_divergences(model, plain, steered)
    likely = likelihoods_at(model, steered, behind.answers)
    return [
        Moved(float(kl.mean()), float(js.mean()), -float(part.mean()), len(part))
        for kl, js, part in zip(kls, jss, likely, strict=True)
    ]


def _rendered(model: Model, behind: Behind, at_work: Applied) -> list[RenderedPrompt]:
    return [
        prompt if isinstance(prompt, RenderedPrompt) else model.chat.render(at_work.prompt(prompt))
        for prompt in behind.prompts
    ]


def running_text(model: Model, texts: Sequence[str], most: int) -> Behind:
    """Texts as they stand, cut to so many tokens: the first token as the prompt, the others behind it.

    Raises:
        InputError: A text of fewer than two tokens.
    """
    prompts, answers = [], []
    for number, text in enumerate(texts, 1):
        whole = model.chat.render_raw(text)
        first = max(1, whole.prefix_length)  # BOS is nothing that a model predicts
        ids = whole.ids[: first + most]
        if len(ids) <= first:
            raise InputError(f"text {number} has no token to be predicted; leave it out")
        prompts.append(replace(whole, ids=ids[:first], source_position=first - 1, prefix_length=whole.prefix_length))
        answers.append(ids[first:])
    return Behind(prompts, answers)
