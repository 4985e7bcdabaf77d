"""States at chosen tokens of chosen rows, for methods that read neither whole rows nor the same place in each.

Letters: n chosen tokens of all rows, s tokens of a row, d width at a site, k trailing tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.states import SharedStates
from trimtab.models.apply import is_steered
from trimtab.models.capture import capture
from trimtab.models.chat import RenderedPrompt
from trimtab.models.model import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Site

BATCH = 16
"""Rows whose states are held at a time."""


def states_at(
    model: Model,
    rows: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    sites: Sequence[Site],
    progress: ProgressCallback | None = None,
) -> Mapping[Site, Tensor]:
    """The states of some tokens of each row.

    Args:
        model: The model, not steered.
        rows: Token ids.
        places: For each row which of its tokens, counted from 0 or, from its end, from -1.
        sites: Where to read; one forward a row serves all.
        progress: Told of every batch.

    Returns:
        By site (n, d) float32 on the CPU, in the order of the rows and of their places.

    Raises:
        InputError: A steered model, a site that it does not have, or states that are not finite.
    """
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for (_, states), wanted in zip(captured(model, rows, sites, progress), places, strict=True):
        for site, of_site in states.items():
            found[site].append(of_site[list(wanted)].float().cpu())
    return {site: _finite(model, site, torch.cat(parts)) for site, parts in found.items()}


def ending_means(
    model: Model,
    rows: Sequence[Sequence[int]],
    k: int,
    sites: Sequence[Site],
    progress: ProgressCallback | None = None,
) -> Mapping[Site, Tensor]:
    """The mean states (k, d) float64 of the k last tokens, each by itself, over rows that have at least so many.

    Arguments and errors as in `states_at`.
    """
    totals = {site: torch.zeros((), dtype=torch.float64) for site in sites}
    for _, states in captured(model, rows, sites, progress):
        totals = {site: totals[site] + states[site][-k:].double().cpu() for site in sites}
    return {site: _finite(model, site, total / len(rows)) for site, total in totals.items()}


def captured(
    model: Model, rows: Sequence[Sequence[int]], sites: Sequence[Site], progress: ProgressCallback | None = None
) -> Iterator[tuple[int, Mapping[Site, Tensor]]]:
    """The number of each row and its states (s, d), in the model's dtype; a batch is held at a time.

    Raises:
        InputError: A steered model, or a site that it does not have.
    """
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before fitting, or the vector learns from that")
    for site in sites:
        model.check_layer(site.layer)
    began = time.monotonic()
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        yield from enumerate(capture(model.hf, batch, sites, batch_size=BATCH), start)
        if progress is not None:
            progress(Progress("states", start + len(batch), len(rows), time.monotonic() - began))


def at_layers(
    shared: SharedStates | None,
    layer: int,
    key: object,
    made: Callable[[Sequence[Site]], Mapping[Site, Tensor]],
) -> Tensor:
    """What `made` gives for the output of block `layer`; with `shared`, for all its layers at the first call.

    Args:
        shared: What fits at other layers share with this one.
        layer: Whose output.
        key: All that it depends on but the layer.
        made: (sites) -> states at each of them.
    """
    site = Site(layer)
    if shared is None or site not in shared.sites:
        return made([site])[site]
    return shared.of(key, lambda: made(shared.sites))[site]


def shared_ending(model: Model, prompts: Sequence[RenderedPrompt]) -> int:
    """How many trailing tokens all prompts share, k: the template's, behind the instruction; at least 1."""
    rows = [prompt.ids for prompt in prompts] + [model.chat.render(text).ids for text in "ab"]
    k, shortest = 0, min(map(len, rows))
    while k < shortest - 1 and len({row[-1 - k] for row in rows}) == 1:
        k += 1
    return max(k, 1)


def _finite(model: Model, site: Site, states: Tensor) -> Tensor:
    if bool(torch.isfinite(states).all()):
        return states
    raise InputError(
        f"the states at {site} are not finite; look for NaN in the weights of {model.name}, or load it in another dtype"
    )
