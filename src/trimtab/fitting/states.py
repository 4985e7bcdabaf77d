"""Hidden states of the two classes of contrast pairs: what closed forms are made of, at all layers from one pass.

Letters: n rows or tokens of a class, d width at a site, s tokens of a row.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from trimtab.data import PairSet, TokenisedPair, tokenise_pairs
from trimtab.errors import InputError
from trimtab.models.apply import is_steered
from trimtab.models.capture import capture
from trimtab.models.chat import RenderedPrompt
from trimtab.models.model import Model
from trimtab.models.runs import PROOF_SEQUENCES, PlainRuns
from trimtab.models.split import SplitModel, frozen
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Site

BATCH = 16
"""Rows whose states are held at a time."""
TOKEN_BYTES = 2**30
"""Most that single tokens' states may take, of all sites together; of more tokens so many are kept, drawn at random."""
TOKEN_SEED = 0
"""Decides which."""

Kept = TypeVar("Kept")

Row = tuple[RenderedPrompt, tuple[int, ...]]
"""A prompt and the response behind it."""


class Span(NamedTuple):
    """Tokens of a row, and whether their states are averaged."""

    start: int
    stop: int
    is_mean: bool


READINGS: Mapping[str, Callable[[int, int, int], Span]] = MappingProxyType(
    {
        "tokens": lambda prefix, prompt, end: Span(prefix, end, is_mean=False),
        "mean": lambda prefix, prompt, end: Span(prefix, end, is_mean=True),
        "prompt": lambda prefix, prompt, end: Span(prefix, prompt, is_mean=True),
        "response": lambda prefix, prompt, end: Span(prompt, end, is_mean=True),
        "last": lambda prefix, prompt, end: Span(prompt - 1, prompt, is_mean=False),
        "answer": lambda prefix, prompt, end: Span(end - 1, end, is_mean=False),
    }
)
"""What is read of a row, by name: every token behind the template prefix; their mean; that of the prompt's or of the
response's; the last token of the prompt, or of the response. (tokens of the prefix, of prefix and prompt, of all)."""


@dataclass(frozen=True, eq=False)
class ClassStates:
    """States of both classes at one site.

    Attributes:
        site: Where.
        positive: (n, d) float32, in the order of the pairs.
        negative: (n, d) float32, of the negative side; with `tokens` the numbers need not be equal.
        positive_mean: (d,) float32, of all that was read, also where only some tokens are kept.
        negative_mean: (d,) float32.
    """

    site: Site
    positive: Tensor
    negative: Tensor
    positive_mean: Tensor
    negative_mean: Tensor

    @property
    def difference(self) -> Tensor:
        """The difference of the means (d,)."""
        return self.positive_mean - self.negative_mean


class SharedStates:
    """What closed forms at several layers share, such as states: read by the first, for all layers at once.

    Args:
        layers: The blocks of the fits to come.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.sites = tuple(Site(layer) for layer in layers)
        self._kept: dict[object, Any] = {}

    def of(self, key: object, made: Callable[[], Kept]) -> Kept:
        """What is kept under a key, which says all that it depends on; made now if nothing is."""
        if key not in self._kept:
            self._kept[key] = made()
        return self._kept[key]


def read_states(
    model: Model,
    pairs: PairSet,
    sites: Sequence[Site],
    reading: str,
    *,
    max_response_tokens: int | None = None,
    truncate: bool = False,
    progress: ProgressCallback | None = None,
    shared: SharedStates | None = None,
) -> Mapping[Site, ClassStates]:
    """States of the positive prompts with their responses, and of the negative ones.

    Args:
        model: The model, not steered.
        pairs: Contrast pairs.
        sites: Where to read; one forward a row serves all.
        reading: What of a row, see `READINGS`.
        max_response_tokens: Cut responses.
        truncate: Cut responses that do not fit the context instead of refusing them.
        progress: Told of every batch.
        shared: What fits at other layers share with this one.

    Raises:
        InputError: An unknown reading, a site the model does not have, no pairs or such that do not fit the context, a
            steered model, or states that are not finite.
    """
    if reading not in READINGS:
        raise InputError(f"reading is {reading!r}; allowed: {', '.join(READINGS)}")
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    for site in sites:
        model.check_layer(site.layer)
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before fitting, or the vector learns from that")

    def read(wanted: Sequence[Site]) -> Mapping[Site, ClassStates]:
        tokenised = tokenise_pairs(
            model.chat,
            pairs,
            context_length=model.context_length or sys.maxsize,
            max_response_tokens=max_response_tokens,
            truncate=truncate,
        )
        return _read(model, tokenised, wanted, reading, progress)

    if shared is None or not {*sites} <= {*shared.sites}:
        return read(sites)
    key = (pairs.content_hash, reading, max_response_tokens, truncate)
    return shared.of(key, lambda: read(shared.sites))


def _read(
    model: Model,
    pairs: Sequence[TokenisedPair],
    sites: Sequence[Site],
    reading: str,
    progress: ProgressCallback | None,
) -> dict[Site, ClassStates]:
    sides: list[list[Row]] = [
        [(pair.positive, pair.positive_response) for pair in pairs],
        [(pair.negative, pair.negative_response) for pair in pairs],
    ]
    run = _runner(model, [row for rows in sides for row in rows], sites)
    started, done, kept, means = time.monotonic(), 0, [], []
    for rows in sides:
        spans = [READINGS[reading](p.prefix_length, len(p.ids), len(p.ids) + len(response)) for p, response in rows]
        sizes = [1 if span.is_mean else span.stop - span.start for span in spans]
        wanted = _some(sum(sizes), len(sites) * model.hidden_size * 4 * 2)
        chosen: list[list[Tensor]] = [[] for _ in sites]
        totals: list[Tensor | None] = [None] * len(sites)
        first = 0
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for states, span in zip(run(batch), spans[start : start + BATCH], strict=True):
                for k, of_site in enumerate(states):
                    part = of_site[span.start : span.stop].float().cpu()
                    part = part.mean(dim=0, keepdim=True) if span.is_mean else part
                    total = part.double().sum(dim=0)
                    before = totals[k]
                    totals[k] = total if before is None else before + total
                    mine = None if wanted is None else wanted[first : first + len(part)]
                    chosen[k].append(part.clone() if mine is None else part[mine])
                first += 1 if span.is_mean else span.stop - span.start
            done += len(batch)
            if progress is not None:
                progress(Progress("states", done, 2 * len(rows), time.monotonic() - started))
        kept.append([torch.cat(parts) for parts in chosen])
        means.append([(total / first).float() for total in totals if total is not None])
    found = {}
    for k, site in enumerate(sites):
        found[site] = ClassStates(site, kept[0][k], kept[1][k], means[0][k], means[1][k])
        if not all(bool(torch.isfinite(mean).all()) for mean in (means[0][k], means[1][k])):
            raise InputError(
                f"the states at {site} are not finite; look for NaN in the weights of {model.name}, or load it in "
                "another dtype"
            )
    return found


def _runner(model: Model, rows: Sequence[Row], sites: Sequence[Site]) -> Callable[[Sequence[Row]], list[list[Tensor]]]:
    """(rows) -> for each its states (s, d) at each site; block outputs in the fastest way the model has."""
    if any(site != Site(site.layer) for site in sites):

        def captured(batch: Sequence[Row]) -> list[list[Tensor]]:
            seen = capture(model.hf, [prompt.ids + response for prompt, response in batch], sites)
            return [[states[site] for site in sites] for states in seen]

        return captured
    longest = sorted((prompt.ids + response for prompt, response in rows), key=len)[-PROOF_SEQUENCES:]
    runs, layers = PlainRuns(SplitModel(model.hf, model.layout), model.device, longest), [site.layer for site in sites]

    def run(batch: Sequence[Row]) -> list[list[Tensor]]:
        with frozen(model.hf):
            return runs.trunks([prompt.ids + response for prompt, response in batch], layers)

    return run


def _some(n: int, width: int) -> Tensor | None:
    """(n,) bool: which of n tokens, `width` bytes each, are kept; None = all."""
    most = max(1, TOKEN_BYTES // width)
    if n <= most:
        return None
    order = torch.randperm(n, generator=torch.Generator().manual_seed(TOKEN_SEED))
    wanted = torch.zeros(n, dtype=torch.bool)
    wanted[order[:most]] = True
    return wanted
