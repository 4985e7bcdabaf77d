"""SEAL: towards thoughts that get on, away from those that look back or start again.

Source: "SEAL: Steerable Reasoning Calibration", arXiv 2504.07986; no official code was found, two third-party ports
agree.

    boundary = a token of the response whose text holds a blank line; tagged by the thought that FOLLOWS it:
               reflection (tried first), transition, else execution
    S = mean(h | execution) - mean(h | reflection or transition)        at boundaries, one block's output
    elicit: h' = h + m S        suppress: h' = h - m S        at boundary tokens of the response

Shapes: d hidden. The mean of the second group is that of all its boundaries together, not of its two classes' means.

Both responses of a pair are taken as reasoning traces, each behind its own prompt; which side they are on makes no
difference. Eliciting is what is published: execution is what is asked for. Only tokens of the response are edited.

Deviations from the ports: they store the negative of S and add it with factor -1. They count layers as Hugging Face
counts hidden states (the embedding is 0), which is one more than the block whose output it is; here `layer` is that
block both where states are read and where they are edited. They read greedy traces of 500 correct and 500 wrong
answers, which is up to whoever makes the pairs. Case makes no difference to the phrases. The misspelt phrase
("think differenly") is kept beside the right one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from trimtab.data import PairSet, tokenise_pairs
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import ClosedSettings, closed_vector, refuse_training_options
from trimtab.fitting.places import at_layers, states_at
from trimtab.fitting.thoughts import (
    BLANK_LINE,
    EXECUTION,
    KINDS,
    REFLECTIONS,
    TRANSITIONS,
    Phrases,
    boundaries,
    boundary_tokens,
    kind_of,
)
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector


@dataclass(frozen=True)
class SEALSettings(ClosedSettings):
    """Settings of SEAL.

    Args:
        positions: Only boundary tokens of these are edited.
        boundary: A token that holds this text ends a thought; None = a blank line.
        end: What ends the reasoning; boundaries behind it say nothing. Empty = nothing does.
        reflection_openings: Thoughts that begin so look back; empty = as published, as for the three that follow.
        reflection_phrases: And those that hold one of these.
        transition_openings: Thoughts that begin so start again.
        transition_phrases: And those that hold one of these.

    Raises:
        InputError: A setting outside its range.
    """

    positions: str = "response"
    boundary: str | None = None
    end: str = "</think>"
    reflection_openings: tuple[str, ...] = ()
    reflection_phrases: tuple[str, ...] = ()
    transition_openings: tuple[str, ...] = ()
    transition_phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boundary is not None and (not isinstance(self.boundary, str) or not self.boundary):
            raise InputError(f"boundary is {self.boundary!r}; give a text that a token can hold")
        if not isinstance(self.end, str):
            raise InputError(f"end is {self.end!r}; give a text, or an empty one")
        for name in ("reflection_openings", "reflection_phrases", "transition_openings", "transition_phrases"):
            given = getattr(self, name)
            if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) and text for text in given):
                raise InputError(f"{name} is {given!r}; give a list of texts")
            object.__setattr__(self, name, tuple(given))

    def kind_of(self, thought: str) -> str:
        """The kind of a thought by these phrases."""
        looks_back = Phrases(
            self.reflection_openings or REFLECTIONS.openings, self.reflection_phrases or REFLECTIONS.inside
        )
        starts_again = Phrases(
            self.transition_openings or TRANSITIONS.openings, self.transition_phrases or TRANSITIONS.inside
        )
        return kind_of(thought, looks_back, starts_again)


class Traces(NamedTuple):
    """Rows of ids, and of each the places of its boundary tokens and the kinds of the thoughts behind them."""

    rows: list[tuple[int, ...]]
    places: list[list[int]]
    kinds: list[str]


def tagged_traces(model: Model, pairs: PairSet, settings: SEALSettings, marks: Sequence[int]) -> Traces:
    """Both responses of every pair behind their prompts."""
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    tokenised = tokenise_pairs(
        model.chat,
        pairs,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
    )
    found = Traces([], [], [])
    for pair in tokenised:
        for prompt, ids in ((pair.positive, pair.positive_response), (pair.negative, pair.negative_response)):
            tagged = boundaries(ids, frozenset(marks), model.chat.decode, settings.end, settings.kind_of)
            found.rows.append(prompt.ids + ids)
            found.places.append([len(prompt.ids) + place for place, _ in tagged])
            found.kinds.extend(kind for _, kind in tagged)
    return found


def gap_of_kinds(states: Tensor, kinds: Sequence[str]) -> Tensor:
    """Mean state (d,) of execution boundaries less that of all others, from states (n, d)."""
    mine = [kind == EXECUTION for kind in kinds]
    rows = states.double()
    return (rows[mine].mean(dim=0) - rows[[not own for own in mine]].mean(dim=0)).float()


def fit_seal(model: Model, pairs: PairSet, settings: SEALSettings, options: FitOptions) -> SteeringVector:
    """The gap between boundaries before execution and others.

    Raises:
        InputError: A layer the model does not have, no token that holds a boundary, traces without boundaries of both
            sorts, pairs that do not fit the context, or a start vector, order or trace.
    """
    began = time.monotonic()
    refuse_training_options("seal", options)
    model.check_layer(settings.layer)
    boundary = BLANK_LINE if settings.boundary is None else settings.boundary
    marks = boundary_tokens(model, boundary)
    traces = tagged_traces(model, pairs, settings, marks)
    counts = {kind: traces.kinds.count(kind) for kind in KINDS}
    if not counts[EXECUTION] or counts[EXECUTION] == len(traces.kinds):
        said = ", ".join(f"{n} before {kind}" for kind, n in counts.items())
        raise InputError(
            f"the {len(traces.rows)} responses have these boundaries ({boundary!r}): {said}; SEAL needs some "
            "before execution and some before reflection or transition. Give reasoning traces as responses"
        )
    key = ("seal", pairs.content_hash, settings.max_response_tokens, settings.truncate, str(traces.places))
    states = at_layers(
        options.states,
        settings.layer,
        key,
        lambda sites: states_at(model, traces.rows, traces.places, sites, options.progress),
    )
    vector = gap_of_kinds(states, traces.kinds)
    if not float(vector.norm()) > 0:
        raise InputError(f"the boundaries of both sorts have the same mean state at layer {settings.layer}; {counts}")
    chosen = Positions.parse(settings.positions)
    positions = Positions(chosen.scope, chosen.first, chosen.last, token_ids=marks)
    edits = tuple(
        Edit(Intervention(Site(settings.layer), Add(sign * vector), positions), scales="strength")
        for sign in (1.0, -1.0)
    )
    directions = {"elicit": (0,), "suppress": (1,)}
    return closed_vector("seal", model, pairs, settings, edits, directions, began, {"boundaries": dict(counts)})


SEAL = Method(
    name="seal",
    family="component",
    paper="arXiv 2504.07986",
    summary="from boundaries before reflections to those before execution, added at boundaries of reasoning",
    settings=SEALSettings,
    fit=fit_seal,
    needs="responses that are reasoning traces, their thoughts parted by blank lines",
)
