"""Does a direction carry a concept? Interchange accuracy, the measure of DAS (arXiv 2303.02536).

A vector of clamps names coordinates of the hidden state. If they carry the concept, then a run on one prompt whose
coordinates are set to those of the other prompt goes on as the other prompt's run does. The factors, and with them the
multiplier, play no part: every run gets the coordinates of its own counterpart.

Letters: d width at the site, r rank, n scored tokens of a response.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.data import ContrastPair, TokenisedPair, tokenise_pairs
from trimtab.errors import InputError
from trimtab.fitting.buckets import buckets
from trimtab.fitting.likelihood import RUN_TOKENS, final_states, most_likely
from trimtab.models import ChatFormat, Model, RenderedPrompt, capture
from trimtab.models.apply import is_steered
from trimtab.models.compat import check_fits
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Clamp, Intervention, Site, Steering, SteeringVector


@dataclass(frozen=True)
class InterchangeAccuracy:
    """How often the most likely next token is the plain model's behind the source prompt, in one direction.

    Two runs are compared with it: the base prompt's with the interchange, and the base prompt's as it is. The second is
    the floor: what agrees whatever the vector does.

    Attributes:
        accuracy: Share of the response tokens, with the interchange.
        first: The same of the first tokens of the responses.
        whole: Share of the pairs whose tokens all agree, with the interchange.
        floor: As `accuracy`, without an intervention.
        floor_first: As `first`, without one.
        floor_whole: As `whole`, without one.
        differing: As `accuracy`, over those tokens alone that do not agree without an intervention: the share of the
            difference between the prompts that the interchange brings across. None where there are no such tokens.
        n_pairs: Pairs.
        n_tokens: Response tokens.
        n_differing: Response tokens that do not agree without an intervention.
    """

    accuracy: float
    first: float
    whole: float
    floor: float
    floor_first: float
    floor_whole: float
    differing: float | None
    n_pairs: int
    n_tokens: int
    n_differing: int


@dataclass(frozen=True)
class _Case:
    """One direction of one pair."""

    base: RenderedPrompt
    source: RenderedPrompt
    response: tuple[int, ...]


def interchange_accuracy(
    model: Model,
    vector: SteeringVector,
    pairs: Sequence[ContrastPair],
    *,
    truncate: bool = False,
    progress: ProgressCallback | None = None,
) -> Mapping[str, InterchangeAccuracy]:
    """Set a vector's coordinates to those of the other prompt of a pair: does the model go on as behind that prompt?

    To elicit, the base is the negative prompt and the source the positive one, with the positive response behind both;
    to suppress, the other way round with the negative response. The coordinates are read from the plain model at the
    source position (of the vector's own source tokens, if it was made with any), at each site by itself. The base is
    run with every clamp set to them, at the vector's own sites, positions, gates and strengths; multipliers play no
    part. At every token of the response the most likely next token is compared with that of the plain model behind the
    source prompt.

    Args:
        model: The model the vector was made for, not steered.
        vector: Its edits are clamps, at one site or several, of any rank.
        pairs: What to measure on; pairs that the fit has not seen say more.
        truncate: Cut responses that do not fit the context instead of refusing them.
        progress: Told of every batch.

    Returns:
        The figures for each direction that the vector has.

    Raises:
        InputError: A vector for another model or with other transforms than clamps, no pairs or such that do not fit
            the context, a template without an assistant header and no source tokens, a model that is being steered, or
            states that are not finite.
    """
    _check(model, vector, pairs)
    chat, card = model.chat, vector.model
    if chat.source_tokens != card.source_tokens:
        chat = ChatFormat(model.tokenizer, source_tokens=card.source_tokens)
    chat.check_source()
    tokenised = tokenise_pairs(chat, pairs, context_length=model.context_length or sys.maxsize, truncate=truncate)
    cases = {direction: [_case(pair, direction) for pair in tokenised] for direction in vector.directions}
    started, done, total = time.monotonic(), 0, len(cases) * len(tokenised)
    found = {}
    for direction, of_direction in cases.items():
        edited: list[Tensor] = []
        plain: list[Tensor] = []
        for group in buckets([_longest(case) for case in of_direction], RUN_TOKENS):
            # a batch at a time, so that no more states are held than those of one forward a run
            with_edit, without = _agreements(model, vector, direction, [of_direction[k] for k in group])
            edited, plain, done = edited + with_edit, plain + without, done + len(group)
            if progress is not None:
                progress(Progress("interchange", done, total, time.monotonic() - started))
        found[direction] = _figures(edited, plain)
    return found


def _check(model: Model, vector: SteeringVector, pairs: Sequence[ContrastPair]) -> None:
    """Raises InputError unless the vector's interchanges can be run on the model."""
    others = sorted(
        {
            vector.edits[index].intervention.transform.kind
            for indices in vector.directions.values()
            for index in indices
            if not isinstance(vector.edits[index].intervention.transform, Clamp)
        }
    )
    if others:
        raise InputError(
            f"interchange accuracy needs a vector of clamps (cdas, das), whose coordinates can be set; this one of "
            f"{vector.method!r} holds {', '.join(others)}"
        )
    problems = check_fits(model, vector)
    if problems:
        raise InputError(
            f"vector for {vector.model.id!r} does not fit {model.name!r}: {'; '.join(problems)}; measure its "
            "interchange accuracy on the model it was made for"
        )
    if not pairs:
        raise InputError("no pairs to measure interchange accuracy on; give at least one")
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before measuring interchange accuracy")


def _case(pair: TokenisedPair, direction: str) -> _Case:
    if direction == "elicit":
        return _Case(pair.negative, pair.positive, pair.positive_response)
    return _Case(pair.positive, pair.negative, pair.negative_response)


def _longest(case: _Case) -> int:
    """Ids of the longer sequence of a case, whose last token is predicted and not read."""
    return max(len(case.base.ids), len(case.source.ids)) + len(case.response) - 1


def _agreements(
    model: Model, vector: SteeringVector, direction: str, cases: Sequence[_Case]
) -> tuple[list[Tensor], list[Tensor]]:
    """For each case where the base's choices are the source's: (n,) bool, with the interchange and without."""
    bases, sources = [case.base for case in cases], [case.source for case in cases]
    responses = [case.response for case in cases]
    wanted = most_likely(model, final_states(model, sources, responses))
    rows = _interchanges(model, vector, direction, sources)
    chosen = [most_likely(model, final_states(model, bases, responses, steering)) for steering in (rows, ())]
    edited, plain = ([one == other for one, other in zip(tokens, wanted, strict=True)] for tokens in chosen)
    return edited, plain


def _interchanges(
    model: Model, vector: SteeringVector, direction: str, sources: Sequence[RenderedPrompt]
) -> list[Steering]:
    """For each source the vector's interventions of a direction, clamped to the coordinates that the source has."""
    edits = [vector.edits[index] for index in vector.directions[direction]]
    sites = list(dict.fromkeys(edit.intervention.site for edit in edits))
    states = capture(model.hf, [source.ids for source in sources], sites, batch_size=len(sources))
    steering = replace(vector.steering(direction, 1.0), label=f"{vector.method}:{direction}:interchange")
    rows = []
    for source, seen in zip(sources, states, strict=True):
        values = [_coordinates(model, edit.intervention, seen, source.source_position) for edit in edits]
        clamped = tuple(edit.clamped(value) for edit, value in zip(edits, values, strict=True))
        rows.append(replace(steering, interventions=clamped))
    return rows


def _coordinates(model: Model, intervention: Intervention, states: Mapping[Site, Tensor], position: int) -> Tensor:
    """W h (r,) float32 of the state at a clamp's site and one position, from the states of a row at all sites."""
    clamp = intervention.transform
    assert isinstance(clamp, Clamp)
    state = states[intervention.site][position]
    values = clamp.coordinates(state.to(clamp.directions.device, torch.float32))
    if not torch.isfinite(values).all():
        raise InputError(
            f"the states at {intervention.site} are not finite; look for NaN in the weights of {model.name}, or load "
            "it in another dtype"
        )
    return values


def _figures(edited: Sequence[Tensor], plain: Sequence[Tensor]) -> InterchangeAccuracy:
    """The figures of agreements (n,) bool of every case, with the interchange and without."""
    accuracy, first, whole = _shares(edited)
    floor, floor_first, floor_whole = _shares(plain)
    differing = ~torch.cat(list(plain))
    n = int(differing.sum())
    return InterchangeAccuracy(
        accuracy=accuracy,
        first=first,
        whole=whole,
        floor=floor,
        floor_first=floor_first,
        floor_whole=floor_whole,
        differing=_share(torch.cat(list(edited))[differing]) if n else None,
        n_pairs=len(plain),
        n_tokens=len(differing),
        n_differing=n,
    )


def _shares(agreements: Sequence[Tensor]) -> tuple[float, float, float]:
    """Shares of tokens, of first tokens and of whole responses that agree."""
    first = torch.stack([part[0] for part in agreements])
    whole = torch.stack([part.all() for part in agreements])
    return _share(torch.cat(list(agreements))), _share(first), _share(whole)


def _share(true: Tensor) -> float:
    """Share of a bool tensor that is true."""
    return int(true.sum()) / true.numel()
