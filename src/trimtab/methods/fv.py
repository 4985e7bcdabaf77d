"""Function vectors: what the heads that cause an answer write at the end of the prompt.

Source: Todd et al., "Function Vectors in Large Language Models", arXiv 2310.15213, code ericwtodd/function_vectors;
restated and extended in arXiv 2604.02608.

    a_h    = mean over positive prompts of head h's part of attn_in at the last prompt token           (k,)
    IE_h   = mean over negative prompts of log p(y+ | x-, part of h := a_h) - log p(y+ | x-)
    v      = sum over the heads of the greatest IE of W_O[h] a_h                                       (d,)
    elicit: h' = h + m v        suppress: h' = h - m v        at the last prompt token, at one block's output

Shapes: k width of a head, d hidden; W_O[h] the head's columns of the attention's output projection (d, k).

Deviations from the published code:
- It sends each head's part through the whole output projection, so that a bias of that is counted once a head. Here
  the weight alone is used; the bias belongs to no head.
- A prompt with the concept stands for a prompt of ten examples, one without it for one with shuffled labels. All pairs
  give means, and `trials` of them effects, as many as published.
- The effect is measured on the log-probability of the whole response, a token's mean: contrast pairs often begin their
  answers alike, where the first token says nothing. `scored="first"` and `measure="probability"` are as published.
- In families that normalise the attention's output before it is added (Gemma 2 and 3, OLMo 2) the published sum is not
  what arrives in the residual stream; it is used all the same, and the multiplier finds its size.

What is published for the layer is about a third of the depth.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet, tokenise_pairs
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import ClosedSettings, closed_vector, refuse_training_options
from trimtab.fitting.heads import Head, indirect_effects, strongest
from trimtab.fitting.held_out import drawn
from trimtab.fitting.settings import check_number
from trimtab.fitting.states import read_states
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.models.projections import head_weights
from trimtab.progress import ProgressCallback
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector
from trimtab.steering.content import JSON

logger = logging.getLogger(__name__)

SCORED = ("response", "first")
MEASURES = ("log", "probability")


@dataclass(frozen=True)
class FunctionVectorSettings(ClosedSettings):
    """Settings of function vectors.

    Args:
        positions: Which tokens the sum is added at.
        reading: Where the heads are read; they are set at the prompt's last token whatever is read.
        heads: How many heads are summed; all where the model has fewer.
        trials: Negative prompts on which effects are measured, at most.
        scored: What becomes likelier: the whole `response`, or its `first` token (published).
        measure: Mean `log` probability of a token, or the `probability` of what is scored (published).

    Raises:
        InputError: A setting outside its range.
    """

    positions: str = "last"
    reading: str = "last"
    heads: int = 10
    trials: int = 25
    scored: str = "response"
    measure: str = "log"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heads", "trials"):
            check_number(name, getattr(self, name), least=1, whole=True)
        for name, allowed in (("scored", SCORED), ("measure", MEASURES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")


def mean_parts(
    model: Model, pairs: PairSet, settings: FunctionVectorSettings, progress: ProgressCallback | None
) -> dict[Head, Tensor]:
    """By head its mean part (k,) of positive rows."""
    size = model.layout.head_size
    if not size:
        raise InputError(f"the configuration of {model.name} tells no width of a head; its heads cannot be told apart")
    states = read_states(
        model,
        pairs,
        [Site(layer, "attn_in") for layer in range(model.n_blocks)],
        settings.reading,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
        progress=progress,
    )
    return {
        (site.layer, head): part
        for site, of_site in states.items()
        for head, part in enumerate(of_site.positive_mean.split(size))
    }


def head_effects(
    model: Model,
    pairs: PairSet,
    settings: FunctionVectorSettings,
    parts: Mapping[Head, Tensor],
    progress: ProgressCallback | None,
) -> dict[Head, float]:
    """By head what its mean part does behind negative prompts."""
    some = tokenise_pairs(
        model.chat,
        drawn(pairs, settings.trials, f"function vector {settings.seed}"),
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=1 if settings.scored == "first" else settings.max_response_tokens,
        truncate=settings.truncate,
    )
    return indirect_effects(
        model,
        [pair.negative for pair in some],
        [pair.positive_response for pair in some],
        parts,
        in_probability=settings.measure == "probability",
        progress=progress,
    )


def written_by(model: Model, parts: Mapping[Head, Tensor], heads: Sequence[Head]) -> Tensor:
    """The sum (d,) of what some heads write into the residual stream, without the projection's bias."""
    total = torch.zeros(model.hidden_size, dtype=torch.float64)
    for layer in {layer for layer, _ in heads}:
        weights = head_weights(model.layout, layer).double()
        for head in [head for at, head in heads if at == layer]:
            total += weights[head] @ parts[layer, head].double()
    return total.float()


def fit_fv(model: Model, pairs: PairSet, settings: FunctionVectorSettings, options: FitOptions) -> SteeringVector:
    """The sum of what the most causal heads write at the end of positive prompts.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, an attention whose
            heads or output weights cannot be read, or a start vector, order or trace.
    """
    began = time.monotonic()
    refuse_training_options("fv", options)
    model.check_layer(settings.layer)
    head_weights(model.layout, 0)  # refused before the work, if at all

    def ranked() -> tuple[dict[Head, Tensor], dict[Head, float]]:
        parts = mean_parts(model, pairs, settings, options.progress)
        return parts, head_effects(model, pairs, settings, parts, options.progress)

    asked = (settings.reading, settings.trials, settings.scored, settings.measure, settings.seed)
    key = ("fv", pairs.content_hash, settings.max_response_tokens, settings.truncate, asked)
    parts, effects = ranked() if options.states is None else options.states.of(key, ranked)
    heads = strongest(effects, settings.heads)
    if effects[heads[0]] <= 0:
        logger.warning("no head makes the positive responses likelier (the best effect is %.3g)", effects[heads[0]])
    vector = written_by(model, parts, heads)
    if not float(vector.norm()) > 0:
        raise InputError(f"the {len(heads)} most causal heads write nothing; give other pairs")
    site, positions = Site(settings.layer), Positions.parse(settings.positions)
    edits = tuple(Edit(Intervention(site, Add(sign * vector), positions), scales="strength") for sign in (1.0, -1.0))
    chosen: list[JSON] = [{"layer": at, "head": head, "effect": effects[at, head]} for at, head in heads]
    directions = {"elicit": (0,), "suppress": (1,)}
    return closed_vector("fv", model, pairs, settings, edits, directions, began, {"heads": chosen})


FV = Method(
    name="fv",
    family="component",
    paper="arXiv 2310.15213",
    summary="what the most causal attention heads write at the end of the prompt, added there",
    settings=FunctionVectorSettings,
    fit=fit_fv,
)
