"""A system prompt becomes a vector (context distillation), and the vector is compared with the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.data import PairSet
from trimtab.data.distilled import distilled_pairs
from trimtab.errors import InputError
from trimtab.fitting.calibration import Reader
from trimtab.fitting.likelihood import final_states, kl_divergences
from trimtab.methods import check_fit, fit
from trimtab.models import Model, Prompt
from trimtab.models.messages import as_messages
from trimtab.progress import ProgressCallback
from trimtab.steering import SteeringVector

FEWEST = 8
"""Prompts below which there is nothing to hold out for the comparison."""
HELD = 4
"""One prompt of so many is held out."""


@dataclass(frozen=True)
class Comparison:
    """What a vector does where the prompt did it before, on prompts that the fit has not seen.

    Attributes:
        n: Prompts.
        effect_plain: Share of the plain model's answers that read as if the prompt had been given.
        effect_prompt: The same of the prompted model's answers.
        effect_vector: The same of the steered model's answers.
        kl_plain: KL(prompted || plain), nats a token, on the prompted model's answers: how much the prompt does.
        kl_vector: KL(prompted || steered) there: how much of that the vector leaves undone.
        tokens_saved: Prompt tokens that a request is shorter without the prompt, on average.
    """

    n: int
    effect_plain: float
    effect_prompt: float
    effect_vector: float
    kl_plain: float
    kl_vector: float
    tokens_saved: float


@dataclass(frozen=True)
class Distilled:
    """What a system prompt became.

    Attributes:
        vector: The vector.
        pairs: What it was fitted to, calibration included.
        comparison: What it does where the prompt did it before.
    """

    vector: SteeringVector
    pairs: PairSet
    comparison: Comparison


def distill(
    model: Model,
    system: str,
    prompts: Sequence[Prompt],
    *,
    method: str = "cdas",
    layer: int | Sequence[int] | str = "auto",
    calibrate: bool = True,
    max_new_tokens: int = 128,
    settings: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
) -> Distilled:
    """Answers prompts with and without a system prompt, fits a vector to the two answers, and compares it.

    Args:
        model: The model.
        system: The system prompt.
        prompts: At least `FEWEST` prompts without a system message; a quarter is held out for the comparison.
        method: Name of a method.
        layer: As for `trimtab.fit`.
        calibrate: Whether to look for the best multiplier.
        max_new_tokens: Longest answer to learn from.
        settings: Of the method; its defaults otherwise.
        progress: Told of every stage.

    Raises:
        InputError: Too few prompts, an unknown method or setting, a layer the model does not have, or what
            `distilled_pairs` refuses.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    settings = dict(settings or {})
    check_fit(method, layer, settings)
    if isinstance(layer, int):
        model.check_layer(layer)
    if len(prompts) < FEWEST:
        raise InputError(
            f"{len(prompts)} prompts to distil on; give at least {FEWEST}, a quarter is held out for the comparison"
        )
    learnt = [prompt for place, prompt in enumerate(prompts) if place % HELD]
    pairs = distilled_pairs(model, system, learnt, max_new_tokens=max_new_tokens, progress=progress)
    vector = fit(method, model, pairs, layer=layer, calibrate=calibrate, progress=progress, **settings)
    found = compare(model, vector, system, prompts[::HELD], max_new_tokens=max_new_tokens, progress=progress)
    return Distilled(vector, pairs, found)


def compare(
    model: Model,
    vector: SteeringVector,
    system: str,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Compares eliciting with a vector and giving the system prompt.

    Args:
        model: The model.
        vector: The vector, at its calibrated multiplier.
        system: The system prompt it was distilled from.
        prompts: At least two prompts without a system message.
        max_new_tokens: Longest answer.
        progress: Told while answers are written.

    Raises:
        InputError: Fewer than two prompts, or such that do not fit the context.
    """
    messages = [list(as_messages(prompt)) for prompt in prompts]
    plain = [model.chat.render(turns) for turns in messages]
    prompted = [model.chat.render([{"role": "system", "content": system}, *turns]) for turns in messages]
    reader = Reader(model, prompted, plain, max_new_tokens=max_new_tokens, progress=progress)
    answers = reader.natural[: len(prompts)]
    steering = vector.elicit()
    wanted = final_states(model, prompted, answers)
    found = {
        name: kl_divergences(model, wanted, final_states(model, plain, answers, rows))
        for name, rows in {"plain": [], "vector": [steering] * len(answers)}.items()
    }
    means = {name: sum(float(part.mean()) for part in parts) / len(parts) for name, parts in found.items()}
    prompt_effect, plain_effect = reader.natural_effects["elicit"]
    (steered,) = reader.effects([("elicit", steering)])
    return Comparison(
        n=len(prompts),
        effect_plain=plain_effect.share,
        effect_prompt=prompt_effect.share,
        effect_vector=steered.share,
        kl_plain=means["plain"],
        kl_vector=means["vector"],
        tokens_saved=sum(len(a.ids) - len(b.ids) for a, b in zip(prompted, plain, strict=True)) / len(plain),
    )
