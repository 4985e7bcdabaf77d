"""How readily a model begins its answer in one way, and which direction is behind that.

Letters: n prompts, d hidden, v vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.likelihood import final_states, kl_divergences
from trimtab.models.apply import Row
from trimtab.models.chat import RenderedPrompt
from trimtab.models.families import hook_point
from trimtab.models.model import Model
from trimtab.models.split import SplitModel
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Ablate, Add, Intervention, Positions, Site, Steering

logger = logging.getLogger(__name__)

INSIDE = ("attn_out", "mlp_out")

Place = tuple[int, int]
"""Block, and prompt token counted from the end: -1 is the last."""


@dataclass(frozen=True)
class Candidate:
    """A direction and what it does on held-out prompts.

    Attributes:
        layer: Block whose output it was found in.
        token: Prompt token, from the end.
        ablated: Mean score of positive prompts with the direction taken out everywhere.
        induced: Mean score of negative prompts with it added at its layer.
        kl: Mean divergence of the next token of negative prompts, in nats, that taking it out makes.
    """

    layer: int
    token: int
    ablated: float
    induced: float
    kl: float


def first_finals(model: Model, prompts: Sequence[RenderedPrompt], steering: Row = None) -> list[Tensor]:
    """What the head reads (1, d) where each prompt's answer begins."""
    rows = [] if steering is None else [steering] * len(prompts)
    return final_states(model, prompts, [(0,)] * len(prompts), rows)


@torch.no_grad()
def log_odds(model: Model, finals: Sequence[Tensor], tokens: Sequence[int]) -> Tensor:
    """log P(R) - log(1 - P(R)), (n,) float32, R any of the tokens; P from head inputs (1, d)."""
    split, found = SplitModel(model.hf, model.layout), []
    for state in finals:
        logits = split.logits(state)[0].float()
        mine = torch.zeros_like(logits, dtype=torch.bool)
        mine[list(tokens)] = True
        found.append(logits[mine].logsumexp(dim=0) - logits[~mine].logsumexp(dim=0))
    return torch.stack(found).cpu()


def ablation(model: Model, direction: Tensor, positions: Positions) -> tuple[Intervention, ...]:
    """Takes a direction (d,) out of the input of every block and of the outputs of its attention and MLP.

    Where the family does not tell these apart, it is taken out of inputs and outputs of blocks, and the log says so.
    """
    kinds: tuple[str, ...] = ("resid_pre", *INSIDE)
    try:
        for layer, block in enumerate(model.layout.blocks):
            for kind in INSIDE:
                hook_point(block, Site(layer, kind), model.layout.model_type)
    except InputError as error:
        logger.warning("the direction is ablated at inputs and outputs of blocks only: %s", error)
        kinds = ("resid_pre", "resid_post")
    unit = direction / direction.norm()
    return tuple(
        Intervention(Site(layer, kind), Ablate(unit), positions) for layer in range(model.n_blocks) for kind in kinds
    )


def tried_candidates(
    model: Model,
    directions: Mapping[Place, Tensor],
    positive: Sequence[RenderedPrompt],
    negative: Sequence[RenderedPrompt],
    tokens: Sequence[int],
    positions: Positions,
    progress: ProgressCallback | None = None,
) -> list[Candidate]:
    """What each direction (d,) does on prompts that it was not made of.

    Args:
        model: The model, not steered.
        directions: By place.
        positive: Prompts whose answers begin with one of the tokens.
        negative: Prompts whose answers do not.
        tokens: R.
        positions: Which tokens are edited.
        progress: Told of every candidate.
    """
    plain, began, found = first_finals(model, negative), time.monotonic(), []
    prefix = model.chat.prefix_ids
    for number, ((layer, token), direction) in enumerate(directions.items(), 1):
        without = Steering(ablation(model, direction, positions), prefix, label="ablation")
        added = Steering((Intervention(Site(layer), Add(direction), positions),), prefix, label="addition")
        quiet = first_finals(model, negative, without)
        found.append(
            Candidate(
                layer,
                token,
                ablated=float(log_odds(model, first_finals(model, positive, without), tokens).mean()),
                induced=float(log_odds(model, first_finals(model, negative, added), tokens).mean()),
                kl=float(torch.cat(kl_divergences(model, plain, quiet)).mean()),
            )
        )
        if progress is not None:
            progress(Progress("candidates", number, len(directions), time.monotonic() - began))
    return found


def best_candidate(candidates: Sequence[Candidate], max_kl: float, min_induced: float) -> Candidate:
    """The candidate with the lowest score after ablation, of those with a divergence below and an induced score above.

    Raises:
        InputError: There is none; with the best numbers that were reached.
    """
    passed = [found for found in candidates if found.kl < max_kl and found.induced > min_induced]
    if passed:
        return min(passed, key=lambda found: (found.ablated, found.layer, found.token))
    raise InputError(
        f"none of {len(candidates)} candidates has a divergence below {max_kl:g} and an induced score above "
        f"{min_induced:g}: the smallest divergence is {min(found.kl for found in candidates):.3g}, the greatest "
        f"induced score {max(found.induced for found in candidates):.3g}; allow more with max_kl and min_induced, or "
        "give pairs whose responses begin more distinctly"
    )
