"""Train affine maps at several sites together, so that all of them at work bring one class's states to the other's.

Source: LinEAS, arXiv 2503.10679 (apple/ml-lineas, read in a fork).

    h' = h + mask (weight * h + bias - h)          at every site, weight = 1 + delta
    loss = mean over sites of sum over features of W2^2(source, target), W2^2 = mean over (sorted u - sorted w)^2
    after each step of size t: x <- sign(x) max(|x| - t l1, 0), then x <- x max(0, 1 - t lg sqrt(d) / |x|)

for x each site's delta and bias. Letters: m sites, d width, n source rows, b rows of a batch, s columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.fitting.norm_sites import ReadSettings
from trimtab.fitting.states import READINGS, Row
from trimtab.fitting.transport import sorted_pairs
from trimtab.models.capture import pad_right
from trimtab.models.families import hook_point
from trimtab.models.layout import state_of, with_state
from trimtab.models.model import Model
from trimtab.models.split import SplitModel, frozen
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Geometry, Positions, Site

TINY = 1e-5
"""What an entry must exceed to be in the support."""
FLOOR = 1e-3
"""The last learning rate, as a part of the first."""

Run = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
"""(rows (b,), delta (m, d), bias (m, d)) -> what is read of these rows at each site (b, d), maps at work."""


@dataclass(frozen=True)
class Schedule:
    """How maps are trained.

    Attributes:
        steps: Steps of the optimiser.
        lr: First learning rate; it falls to a thousandth along a cosine.
        batch: Rows a step, of either class, at most.
        optimiser: `adam` or `sgd`.
        l1: Weight of the absolute values.
        group: Weight of each site's norms.
    """

    steps: int
    lr: float
    batch: int
    optimiser: str = "adam"
    l1: float = 0.0
    group: float = 0.0

    def rate(self, step: int) -> float:
        """The learning rate of a 0-based step."""
        return self.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


@dataclass(frozen=True, eq=False)
class TrainedMaps:
    """What was found.

    Attributes:
        delta: weight - 1, (m, d).
        bias: (m, d).
        losses: One a step.
        diverged_at: The step whose loss was not finite, or None; delta and bias are those before it.
    """

    delta: Tensor
    bias: Tensor
    losses: Sequence[float]
    diverged_at: int | None = None

    @property
    def support(self) -> Tensor:
        """(m, d) bool: the features that are mapped at all."""
        return (self.delta.abs() > TINY) | (self.bias.abs() > TINY)


def wasserstein(source: Tensor, target: Tensor) -> Tensor:
    """Sum over features of the squared W2 distance of the rows (n, d) and (m, d); differentiable, ()."""
    u, w = sorted_pairs(source, target)
    return ((u - w) ** 2).mean(dim=0).sum()


def soft_threshold(x: Tensor, by: float) -> Tensor:
    """The proximal map of by |x|_1."""
    return x.sign() * (x.abs() - by).clamp_min(0)


def group_shrink(x: Tensor, by: float) -> Tensor:
    """The proximal map of by |x|_2, a row (m, d)."""
    norm = x.norm(dim=-1, keepdim=True)
    return x * (1 - by / norm.clamp_min(torch.finfo(x.dtype).tiny)).clamp_min(0)


def train_maps(
    run: Run,
    n: int,
    targets: Sequence[Tensor],
    schedule: Schedule,
    generator: torch.Generator,
    *,
    support: Tensor | None = None,
    start: TrainedMaps | None = None,
    progress: ProgressCallback | None = None,
    stage: str = "fit",
) -> TrainedMaps:
    """Train the maps of all sites, from the identity.

    Args:
        run: Reads source rows with the maps at work.
        n: Source rows there are.
        targets: For each site what the plain model gives for the other class, (rows, d).
        schedule: How.
        generator: Draws the batches.
        support: (m, d) bool, the features that may be mapped; None = all.
        start: Maps to begin from instead of the identity.
        progress: Told of every step.
        stage: What this is called there.
    """
    shape, device = (len(targets), targets[0].shape[1]), targets[0].device
    parameters = [torch.zeros(shape, device=device) for _ in range(2)]
    if start is not None:
        parameters = [start.delta.to(device, copy=True), start.bias.to(device, copy=True)]
    for parameter in parameters:
        parameter.requires_grad_()
    delta, bias = parameters
    adam = schedule.optimiser == "adam"
    optimiser = torch.optim.Adam(parameters, betas=(0.9, 0.9)) if adam else torch.optim.SGD(parameters, lr=1.0)
    losses: list[float] = []
    began, counts = time.monotonic(), min(schedule.batch, n)
    for step in range(schedule.steps):
        rate = schedule.rate(step)
        optimiser.param_groups[0]["lr"] = rate
        rows = _draw(n, counts, generator)
        chosen = _draw(len(targets[0]), min(schedule.batch, len(targets[0])), generator).to(device)
        pooled = run(rows, delta, bias)
        loss = torch.stack([wasserstein(u, w[chosen]) for u, w in zip(pooled, targets, strict=True)]).mean()
        if not bool(torch.isfinite(loss)):
            return TrainedMaps(delta.detach().cpu(), bias.detach().cpu(), losses, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        _shrink(parameters, rate, schedule, support)
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(Progress(stage, step + 1, schedule.steps, time.monotonic() - began, losses[-1]))
    return TrainedMaps(delta.detach().cpu(), bias.detach().cpu(), losses)


def _draw(n: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` of n rows, drawn anew; all of them in their order where so many are wanted."""
    return torch.arange(n) if count == n else torch.randperm(n, generator=generator)[:count]


@torch.no_grad()
def _shrink(parameters: Sequence[Tensor], rate: float, schedule: Schedule, support: Tensor | None) -> None:
    """The proximal step, and nothing outside the support."""
    for x in parameters:
        by = rate * schedule.group * math.sqrt(x.shape[1])
        if schedule.l1:
            x.copy_(soft_threshold(x, rate * schedule.l1))
        if schedule.group:
            x.copy_(group_shrink(x, by))
        if support is not None:
            x.mul_(support.to(x))


@contextmanager
def source_run(model: Model, rows: Sequence[Row], sites: Sequence[Site], settings: ReadSettings) -> Iterator[Run]:
    """Reads rows of the model with the maps at work in its own forward; gradients reach the maps alone.

    While it is open, the model is frozen and no block above the last site runs.
    """
    layout = model.layout
    points = [hook_point(layout.blocks[site.layer], site, layout.model_type) for site in sites]
    positions, now = Positions.parse(settings.positions), _Now()

    def hook(number: int) -> Callable[[nn.Module, Any, Any], Any]:
        def mapped(_: nn.Module, __: Any, output: Any) -> Any:
            state = state_of(output)
            h = state.to(torch.promote_types(state.dtype, torch.float32))
            h = h + now.mask[..., None] * (h * now.delta[number] + now.bias[number])
            now.read[number] = torch.einsum("bs,bsd->bd", now.pool, h)
            return with_state(output, h.to(state.dtype))

        return mapped

    def run(chosen: Tensor, delta: Tensor, bias: Tensor) -> list[Tensor]:
        batch = [rows[k] for k in chosen.tolist()]
        ids, mask = pad_right([prompt.ids + response for prompt, response in batch], model.device)
        now.set(batch, ids, mask, positions, settings.reading)
        now.delta, now.bias, now.read = delta, bias, {}
        layout.stack(input_ids=ids, attention_mask=mask, use_cache=False)
        return [now.read[number] for number in range(len(sites))]

    with ExitStack() as opened:
        opened.enter_context(frozen(model.hf))
        split = SplitModel(model.hf, layout)
        opened.enter_context(split.without_above(max(site.layer for site in sites)))
        for number, point in enumerate(points):
            assert point.side == "output"  # block outputs and norms
            opened.callback(point.module.register_forward_hook(hook(number)).remove)
        yield run


class _Now:
    """What the hooks of a forward need: its maps, edited tokens (b, s), and shares of the pooled ones (b, s)."""

    delta: Tensor
    bias: Tensor
    mask: Tensor
    pool: Tensor

    def __init__(self) -> None:
        self.read: dict[int, Tensor] = {}

    def set(self, batch: Sequence[Row], ids: Tensor, mask: Tensor, positions: Positions, reading: str) -> None:
        """Says which tokens of a batch are edited and read."""
        index = torch.where(mask > 0, mask.cumsum(dim=1) - 1, -1)
        prompts = [prompt for prompt, _ in batch]
        prefix, lengths = (
            torch.tensor(values, device=ids.device)
            for values in ([prompt.prefix_length for prompt in prompts], [len(prompt.ids) for prompt in prompts])
        )
        self.mask = positions.mask(Geometry(index, prefix, lengths, ids)).float()
        self.pool = torch.zeros(ids.shape, device=ids.device)
        for row, (prompt, response) in enumerate(batch):
            span = READINGS[reading](prompt.prefix_length, len(prompt.ids), len(prompt.ids) + len(response))
            self.pool[row, span.start : span.stop] = 1 / (span.stop - span.start)
