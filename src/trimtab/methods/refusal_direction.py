"""Refusal direction: one direction, of all layers and template tokens, without which a model does not begin so.

Source: Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction", arXiv 2406.11717, code
andyrdt/refusal_direction.

    score(x) = log P(R | x) - log(1 - P(R | x)), R the first tokens of positive responses that begin no negative one
    r[l, t]  = mean of h over positive prompts less that over negative ones: output of block l, template token t behind
               the instruction, l below 80 % of the depth
    chosen   = lowest mean score of held-out positive prompts with r ablated everywhere, of those candidates with
               KL(plain || ablated) < 0.1 on held-out negative prompts and a mean score of these > 0 with r added at l
    elicit:   h' = h + m r at the output of block l
    suppress: h' = h - m <r/|r|, h> r/|r| at the input of every block and the outputs of attention and MLP

Shapes: d hidden. r keeps its length. The published case is refusal: positive prompts are harmful, R begins a refusal.

Deviations from the published code:
- R is found in the responses, instead of being listed for each model ("I", "As"); `openings` lists it.
- Candidates are outputs of blocks, where published code reads the inputs: its layer l + 1 is l here.
- The template's prefix (BOS, first header) is not edited unless `include_prefix` says so; published code edits it.
- Both sides come from the same pairs; a fifth of them, at most `validation`, are held out for the choice.
- A family whose attention and MLP outputs cannot be edited is ablated at inputs and outputs of blocks, logged.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from trimtab.data import PairSet, TokenisedPair, tokenise_pairs
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_vector, refuse_training_options
from trimtab.fitting.places import ending_means, shared_ending
from trimtab.fitting.refusal import Place, ablation, best_candidate, first_finals, log_odds, tried_candidates
from trimtab.fitting.settings import check_number
from trimtab.fitting.whole_model import WholeModelSettings
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.models.apply import is_steered
from trimtab.models.chat import RenderedPrompt
from trimtab.progress import ProgressCallback
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector

HELD_OUT = 5
"""One pair of so many is held out for the choice."""


@dataclass(frozen=True)
class RefusalDirectionSettings(WholeModelSettings):
    """Settings of the refusal direction.

    Args:
        train: Pairs that candidates are made of, at most.
        validation: Pairs that the choice is made on, at most; a fifth of all.
        depth: Only blocks below this part of the depth are candidates.
        max_kl: Greatest divergence, in nats, on negative prompts with the candidate ablated.
        min_induced: What the mean score of negative prompts with the candidate added must exceed.
        filtered: Leave out positive prompts whose score is not above 0 and negative ones whose score is not below.
        openings: Texts whose first tokens are R; empty = as the responses begin.

    Raises:
        InputError: A setting outside its range.
    """

    train: int = 128
    validation: int = 32
    depth: float = 0.8
    max_kl: float = 0.1
    min_induced: float = 0.0
    filtered: bool = True
    openings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "validation"):
            check_number(name, getattr(self, name), least=1, whole=True)
        check_number("depth", self.depth, above=0, most=1)
        check_number("max_kl", self.max_kl, above=0)
        check_number("min_induced", self.min_induced, least=-sys.float_info.max)
        if not isinstance(self.filtered, bool):
            raise InputError(f"filtered is {self.filtered!r}; allowed: True, False")
        given = self.openings
        if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) and text for text in given):
            raise InputError(f"openings is {given!r}; give a list of texts")
        object.__setattr__(self, "openings", tuple(given))


class Sides(NamedTuple):
    """Prompts of both classes."""

    positive: list[RenderedPrompt]
    negative: list[RenderedPrompt]


def opening_tokens(model: Model, pairs: Sequence[TokenisedPair], openings: Sequence[str]) -> tuple[int, ...]:
    """R: the first tokens of the given texts, or of positive responses that never begin a negative one.

    Raises:
        InputError: There is none.
    """
    if openings:
        prompt = pairs[0].positive
        ids = {text: model.chat.response_ids(prompt, text) for text in openings}
        empty = [text for text, of_text in ids.items() if not of_text]
        if empty:
            raise InputError(f"the opening {empty[0]!r} has no token of its own; give another one")
        return tuple(sorted({of_text[0] for of_text in ids.values()}))
    positive = {pair.positive_response[0] for pair in pairs}
    negative = {pair.negative_response[0] for pair in pairs}
    if positive - negative:
        return tuple(sorted(positive - negative))
    raise InputError(
        f"the positive responses of {len(pairs)} pairs begin with {len(positive)} different tokens, each of which "
        "begins a negative one too; give pairs whose responses begin differently, or openings: texts that positive "
        "ones alone begin with"
    )


def parted(pairs: Sequence[TokenisedPair], settings: RefusalDirectionSettings) -> tuple[Sides, Sides]:
    """Prompts to make candidates of, and prompts to choose on, drawn by the seed.

    Raises:
        InputError: Too few pairs to hold any out.
    """
    if len(pairs) < HELD_OUT:
        raise InputError(
            f"{len(pairs)} pairs are too few: one of {HELD_OUT} is held out to choose a direction on; give at least "
            f"{HELD_OUT}"
        )
    order = random.Random(f"refusal direction {settings.seed}").sample(list(pairs), len(pairs))
    held = min(settings.validation, len(pairs) // HELD_OUT)
    groups = order[held : held + settings.train], order[:held]
    train, validation = (Sides([p.positive for p in group], [p.negative for p in group]) for group in groups)
    return train, validation


def kept(model: Model, sides: Sides, tokens: Sequence[int], name: str) -> Sides:
    """The prompts at which the model behaves as the pairs say.

    Raises:
        InputError: None is left of a side.
    """
    found = []
    for sign, prompts in zip((1, -1), sides, strict=True):
        scores = log_odds(model, first_finals(model, prompts), tokens)
        found.append([prompt for prompt, score in zip(prompts, scores, strict=True) if sign * float(score) > 0])
    if not all(found):
        raise InputError(
            f"of the {len(sides.positive)} pairs {name}, {len(found[0])} positive prompts are answered with one of the "
            f"{len(tokens)} opening tokens more often than not, and {len(found[1])} negative ones are not; give pairs "
            "that the model answers so by itself, or filtered=False"
        )
    return Sides(*found)


def candidate_directions(
    model: Model, sides: Sides, settings: RefusalDirectionSettings, progress: ProgressCallback | None
) -> dict[Place, Tensor]:
    """By block and template token the difference of the classes' means (d,)."""
    layers = [layer for layer in range(model.n_blocks) if layer < settings.depth * model.n_blocks]
    sites = [Site(layer) for layer in layers]
    k = shared_ending(model, [*sides.positive, *sides.negative])
    positive, negative = (ending_means(model, [p.ids for p in prompts], k, sites, progress) for prompts in sides)
    found = {}
    for site in sites:
        for token, row in enumerate((positive[site] - negative[site]).float(), -k):
            if float(row.norm()) > 0:
                found[site.layer, token] = row
    if not found:
        raise InputError(f"both classes have the same mean states at the {k} last tokens; give pairs that differ")
    return found


def fit_refusal_direction(
    model: Model, pairs: PairSet, settings: RefusalDirectionSettings, options: FitOptions
) -> SteeringVector:
    """The direction that the openings of positive responses hang on.

    Raises:
        InputError: Too few pairs or such that do not fit the context, responses that begin alike, prompts that the
            model does not answer as the pairs say, no candidate that passes, a steered model, or a start vector, order
            or trace.
    """
    began = time.monotonic()
    refuse_training_options("refusal-direction", options)
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before fitting, or the vector learns from that")
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    tokenised = tokenise_pairs(
        model.chat,
        pairs,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
    )
    tokens = opening_tokens(model, tokenised, settings.openings)
    train, validation = parted(tokenised, settings)
    if settings.filtered:
        train = kept(model, train, tokens, "to learn from")
        validation = kept(model, validation, tokens, "held out")
    positions = Positions.parse(settings.positions, include_prefix=settings.include_prefix)
    directions = candidate_directions(model, train, settings, options.progress)
    candidates = tried_candidates(model, directions, *validation, tokens, positions, options.progress)
    best = best_candidate(candidates, settings.max_kl, settings.min_induced)
    direction = directions[best.layer, best.token]
    edits = (
        Edit(Intervention(Site(best.layer), Add(direction), positions), scales="strength"),
        *(Edit(made, scales="strength") for made in ablation(model, direction, positions)),
    )
    plain = log_odds(model, first_finals(model, validation.positive), tokens)
    figures = {
        "layer": best.layer,
        "token": best.token,
        "score": float(plain.mean()),
        "ablated": best.ablated,
        "induced": best.induced,
        "kl": best.kl,
        "candidates": len(candidates),
        "openings": list(tokens),
    }
    ways = {"elicit": (0,), "suppress": tuple(range(1, len(edits)))}
    return closed_vector("refusal-direction", model, pairs, settings, edits, ways, began, figures)


REFUSAL_DIRECTION = Method(
    name="refusal-direction",
    family="component",
    paper="arXiv 2406.11717",
    summary="the direction, of all layers, that an opening hangs on: added, or ablated everywhere",
    settings=RefusalDirectionSettings,
    fit=fit_refusal_direction,
    places="model",
    needs="positive prompts that the model itself answers with an opening that negative ones do not get",
)
