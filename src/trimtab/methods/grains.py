"""GrAInS: what the tokens that speak for or against an answer contribute to the end of the prompt.

Source: "GrAInS: Gradient-based Attribution for Inference-Time Steering", arXiv 2507.18043, code
duykhuongnguyen/GrAInS.

    F(x)     = log p(y+ | x) - log p(y- | x), x the embeddings of a positive prompt's own tokens
    score_t  = sum over dimensions of x_t * (mean of dF/dx_t on the way from 0 to x), 20 steps    (integrated gradients)
    D+, D-   = h(x) - h(x with the `top` tokens of the greatest positive / negative score replaced), last prompt token
    v        = PC1(D+) - PC1(D-), or of one group, or means
    elicit: h' = (h + m v) |h| / |h + m v|        suppress: the same with -v

Shapes: d hidden. PC1 is the first principal component of the uncentred rows, turned to their mean and as long as their
mean projection on it; published, its sign is left as it comes out and its length is 1.

Deviations from the published code:
- It takes the norm of the state over the wrong axis (that of the tokens). Here each token keeps the norm of its own
  state, as the paper has it.
- F is of whole responses, the mean of their tokens; published is the last token alone (`scored="last"`), which of a
  written answer is often a full stop.
- Prompt and response differ in a contrast pair; x is the positive prompt, for both responses. Tokens of the template
  are neither attributed to nor replaced, and are not set to zero.
- It multiplies v by 10 alpha (alpha 4 for text); here 1 is the natural size and the multiplier is calibrated.
- The way from 0 to x is cut at midpoints, at which the scores sum to F(x) - F(0) more exactly.
- Only tokens whose score has the sign of their group are replaced.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet, TokenisedPair, tokenise_pairs
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.attribution import token_scores
from trimtab.fitting.closed import ClosedSettings, closed_vector, refuse_training_options
from trimtab.fitting.held_out import drawn
from trimtab.fitting.places import at_layers, shared_ending, states_at
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.models.apply import is_steered
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import AddKeepNorm, Edit, Intervention, Positions, Site, SteeringVector

GROUPS = ("both", "positive", "negative")
AVERAGES = ("pca", "mean")
SCORED: Mapping[str, slice] = {"response": slice(None), "last": slice(-1, None), "first": slice(0, 1)}


@dataclass(frozen=True)
class GrAInSSettings(ClosedSettings):
    """Settings of GrAInS.

    Args:
        top: Tokens of each group that are replaced in a prompt, at most.
        steps: Points of the integrated gradients.
        samples: Pairs that are attributed, at most.
        group: Which tokens the vector is made of: `both`, those for the `positive` response or for the `negative` one.
        average: `pca` or `mean` of the differences.
        scored: What of a response is made likelier: the whole `response`, its `last` token (published) or its `first`.
        replacement: Id of the token that others are replaced by; None = the unknown token, or the pad token.

    Raises:
        InputError: A setting outside its range.
    """

    reading: str = "last"
    top: int = 5
    steps: int = 20
    samples: int = 50
    group: str = "both"
    average: str = "pca"
    scored: str = "response"
    replacement: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top", "steps", "samples"):
            check_number(name, getattr(self, name), least=1, whole=True)
        if self.reading != "last":
            raise InputError(f"reading is {self.reading!r}; GrAInS compares prompts at their last token: 'last'")
        if self.replacement is not None:
            check_number("replacement", self.replacement, least=0, whole=True)
        for name, allowed in (("group", GROUPS), ("average", AVERAGES), ("scored", tuple(SCORED))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")


def replaced(ids: Sequence[int], places: Sequence[int], by: int) -> tuple[int, ...]:
    """The ids with those at some places replaced."""
    return tuple(by if place in places else token for place, token in enumerate(ids))


def extremes(scores: Tensor, top: int) -> tuple[list[int], list[int]]:
    """Indices of the greatest positive and of the greatest negative scores (s,), at most `top` each."""
    found = []
    for signed in (scores, -scores):
        order = torch.argsort(signed, descending=True, stable=True)[:top]
        found.append([int(k) for k in order if signed[k] > 0])
    return found[0], found[1]


def average_of(differences: Tensor, average: str) -> Tensor:
    """The mean (d,) of rows (n, d), or their first uncentred principal component, sized and turned by their mean."""
    rows = differences.double()
    mean = rows.mean(dim=0)
    if average == "mean" or not bool(rows.any()):
        return mean.float()
    unit = torch.linalg.svd(rows, full_matrices=False).Vh[0]
    return (unit * (unit @ mean)).float()


def replacement_of(model: Model, settings: GrAInSSettings) -> int:
    """The id of the token that stands for nothing."""
    size = model.hf.get_input_embeddings().get_parameter("weight").shape[0]
    tokenizer = model.tokenizer
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id != tokenizer.eos_token_id else None
    for token in (settings.replacement, unknown, tokenizer.pad_token_id):
        if isinstance(token, int) and token < size:
            return token
        if token is settings.replacement and token is not None:
            raise InputError(f"replacement is {token}, but {model.name} has tokens 0 to {size - 1}")
    raise InputError(f"{model.name} has neither an unknown nor a pad token; give a replacement, the id of a token")


def ablated_prompts(
    model: Model, pairs: Sequence[TokenisedPair], settings: GrAInSSettings, progress: ProgressCallback | None
) -> list[tuple[int, ...]]:
    """Of every pair three rows: its positive prompt, and this without the tokens for the one and the other answer."""
    by, ending = replacement_of(model, settings), shared_ending(model, [pair.positive for pair in pairs])
    rows, began = [], time.monotonic()
    for number, pair in enumerate(pairs, 1):
        ids = pair.positive.ids
        free = list(range(pair.positive.prefix_length, len(ids) - ending))
        liked: list[int] = []
        disliked: list[int] = []
        if free:
            scores = token_scores(
                model,
                ids,
                free,
                pair.positive_response,
                pair.negative_response,
                scored=SCORED[settings.scored],
                steps=settings.steps,
            )
            liked, disliked = ([free[k] for k in group] for group in extremes(scores, settings.top))
        rows += [ids, replaced(ids, liked, by), replaced(ids, disliked, by)]
        if progress is not None:
            progress(Progress("attributions", number, len(pairs), time.monotonic() - began))
    return rows


def grains_vector(states: Tensor, settings: GrAInSSettings) -> Tensor:
    """v (d,) from the states (3 n, d) of the rows of `ablated_prompts`."""
    whole, without_liked, without_disliked = states.unflatten(0, (-1, 3)).unbind(1)
    liked = average_of(whole - without_liked, settings.average)
    disliked = average_of(whole - without_disliked, settings.average)
    if settings.group == "positive":
        return liked
    return -disliked if settings.group == "negative" else liked - disliked


def fit_grains(model: Model, pairs: PairSet, settings: GrAInSSettings, options: FitOptions) -> SteeringVector:
    """What the most telling tokens of positive prompts contribute to their last state.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, prompts none of whose
            tokens makes a difference, no token to replace others by, a steered model, or a start vector, order or
            trace.
    """
    began = time.monotonic()
    refuse_training_options("grains", options)
    model.check_layer(settings.layer)
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before fitting, or the vector learns from that")
    some = tokenise_pairs(
        model.chat,
        drawn(pairs, settings.samples, f"grains {settings.seed}"),
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
    )

    def read(sites: Sequence[Site]) -> Mapping[Site, Tensor]:
        rows = ablated_prompts(model, some, settings, options.progress)
        return states_at(model, rows, [[-1]] * len(rows), sites, options.progress)

    asked = (settings.top, settings.steps, settings.samples, settings.scored, settings.replacement, settings.seed)
    key = ("grains", pairs.content_hash, settings.max_response_tokens, settings.truncate, asked)
    vector = grains_vector(at_layers(options.states, settings.layer, key, read), settings)
    if not float(vector.norm()) > 0:
        raise InputError(
            f"replacing tokens of {len(some)} positive prompts changes nothing at layer {settings.layer}; give prompts "
            "with words of their own, or another group"
        )
    site, positions = Site(settings.layer), Positions.parse(settings.positions)
    edits = tuple(
        Edit(Intervention(site, AddKeepNorm(sign * vector), positions), scales="transform") for sign in (1.0, -1.0)
    )
    return closed_vector("grains", model, pairs, settings, edits, {"elicit": (0,), "suppress": (1,)}, began)


GRAINS = Method(
    name="grains",
    family="component",
    paper="arXiv 2507.18043",
    summary="what the tokens that speak for an answer add to the prompt's end, by integrated gradients; norms are kept",
    settings=GrAInSSettings,
    fit=fit_grains,
)
