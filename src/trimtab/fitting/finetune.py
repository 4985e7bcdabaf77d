"""Fine-tuning: one loop for whatever weights of a model, or put on it, are to learn the answers with the concept.

    loss = mean over the answer tokens of a step of -log p(token | the prompt without the concept, the tokens before)

The model stays in evaluation mode, so nothing but what is trained says what is drawn. Weights in half precision are
trained in float32 and rounded after every step: at 4e-5 most steps are too small for bfloat16 to notice.

Letters: b sequences of a group, s tokens, d hidden, n scored tokens of a group, v vocabulary.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab.data import PairSet, tokenise_pairs
from trimtab.errors import FitDivergedError, InputError, Saveable
from trimtab.fitting.buckets import buckets
from trimtab.fitting.items import ELICIT, Item, interchange_items
from trimtab.fitting.order import example_order
from trimtab.fitting.settings import MAX_SEED, MAX_STEP, SCHEDULES, check_number, falling_rate
from trimtab.fitting.trainer import HALF_SCALE
from trimtab.models.apply import is_steered
from trimtab.models.capture import pad_right
from trimtab.models.model import Model
from trimtab.models.split import SplitModel
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering.content import JSON

CHUNK_BYTES = 32 * 1024**2
"""Size of one float32 logits chunk."""


@dataclass(frozen=True)
class TuneSettings:
    """How weights are trained.

    Args:
        epochs: Passes over the pairs.
        lr: First learning rate of AdamW; it falls to 0.
        batch_size: Pairs a step.
        seed: Seeds the order of the pairs and whatever is drawn.
        grad_clip: Largest norm of the gradient; None = any.
        weight_decay: Of AdamW.
        schedule: How the learning rate falls: `linear` or `cosine`.
        warmup_steps: Steps over which it rises before.
        max_response_tokens: Cut responses to this many tokens; None = whole.
        truncate: Cut responses that do not fit the context instead of refusing them.
        max_tokens: Most tokens in one forward.

    Raises:
        InputError: A setting that is no finite number or outside its range.
    """

    epochs: int = 8
    lr: float = 4e-5
    batch_size: int = 72
    seed: int = 42
    grad_clip: float | None = 1.0
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup_steps: int = 0
    max_response_tokens: int | None = None
    truncate: bool = False
    max_tokens: int = 8192

    def __post_init__(self) -> None:
        check_number("seed", self.seed, least=0, most=MAX_SEED, whole=True)
        check_number("weight_decay", self.weight_decay, least=0, most=MAX_STEP)
        check_number("lr", self.lr, above=0, most=MAX_STEP)
        check_number("warmup_steps", self.warmup_steps, least=0, whole=True)
        for name in ("epochs", "batch_size", "max_tokens"):
            check_number(name, getattr(self, name), least=1, whole=True)
        if self.grad_clip is not None:
            check_number("grad_clip", self.grad_clip, above=0)
        if self.max_response_tokens is not None:
            check_number("max_response_tokens", self.max_response_tokens, least=1, whole=True)
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")


@dataclass(frozen=True)
class Tuned:
    """What a training run left behind besides the weights themselves.

    Attributes:
        losses: (steps,) float32, mean loss over the answer tokens of each step, up to the last that was finite.
        epochs: Passes that were asked for.
        seconds: Wall clock.
        diverged_at: 0-based step at which loss or gradient left the finite numbers; the weights are those before it.
    """

    losses: Tensor
    epochs: int
    seconds: float
    diverged_at: int | None = None

    def training(self) -> dict[str, JSON]:
        """What a provenance keeps of it."""
        found: dict[str, JSON] = {"epochs": self.epochs, "steps": len(self.losses), "seconds": round(self.seconds, 3)}
        if self.diverged_at is None:
            last = self.losses[-(len(self.losses) // self.epochs) :]
            found |= {
                "loss_first": float(self.losses[0]),
                "loss_last": float(self.losses[-1]),
                "loss_last_epoch": float(last.mean()),
            }
        return found


def elicit_items(model: Model, pairs: PairSet, settings: TuneSettings) -> list[Item]:
    """The answer with the concept behind the prompt without it, for every pair.

    Raises:
        InputError: No pairs or such that do not fit the context, or a model that is being steered.
    """
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before fitting, or the steering is learnt around")
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    tokenised = tokenise_pairs(
        model.chat,
        pairs,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
    )
    return interchange_items(tokenised, [ELICIT])


@contextmanager
def seeded(model: Model, seed: int) -> Iterator[None]:
    """What is drawn inside comes from a seed, and what is drawn outside does not notice.

    An adapter's start and its dropout are drawn by modules that take no generator, only torch's own.
    """
    devices = {weight.device for weight in model.hf.parameters() if weight.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        torch.manual_seed(seed)
        yield


def finetune(
    model: Model,
    items: Sequence[Item],
    weights: Mapping[str, nn.Parameter],
    settings: TuneSettings,
    progress: ProgressCallback | None = None,
) -> Tuned:
    """Train weights in place; all others stay as they are.

    Args:
        model: The model in evaluation mode (see `evaluating`), with whatever is put on it.
        items: What is to be learnt, one a pair.
        weights: What is trained, by name.
        settings: How.
        progress: Told of every step.
    """
    began = time.monotonic()
    order = example_order(None, settings.epochs, len(items), settings.seed)
    batches = [batch.tolist() for epoch in order for batch in epoch.split(settings.batch_size)]
    losses: list[float] = []
    with _learning(model.hf, weights.values()), torch.inference_mode(False), torch.enable_grad():
        trained = _Trained(list(weights.values()), settings, HALF_SCALE if model.dtype == torch.float16 else 1.0)
        for step, batch in enumerate(batches):
            loss = _backward(model, [items[k] for k in batch], settings.max_tokens, trained)
            if not (math.isfinite(loss) and trained.is_finite()):
                return Tuned(torch.tensor(losses), settings.epochs, time.monotonic() - began, step)
            trained.step(falling_rate(settings.schedule, settings.warmup_steps, step, len(batches)))
            losses.append(loss)
            if progress is not None:
                progress(Progress("fit", step + 1, len(batches), time.monotonic() - began, loss))
    return Tuned(torch.tensor(losses), settings.epochs, time.monotonic() - began)


def refuse_diverged(tuned: Tuned, settings: TuneSettings, last_good: Saveable) -> None:
    """Raise FitDivergedError, which carries what was made of the last good weights, if a run diverged."""
    if tuned.diverged_at is not None:
        raise FitDivergedError(
            f"the loss of step {tuned.diverged_at} is not finite; lower lr (now {settings.lr:g}), load the model in "
            "float32, or look for NaN in its weights",
            tuned.diverged_at,
            last_good,
        )


class _Trained:
    """The trained weights, in float32 at least, and their optimiser.

    Args:
        weights: As the model holds them.
        settings: How they are trained.
        scale: What gradients are multiplied by on their way through the model.
    """

    def __init__(self, weights: Sequence[nn.Parameter], settings: TuneSettings, scale: float) -> None:
        self._weights, self._settings, self.scale = weights, settings, scale
        self._wide = [weight.detach().to(torch.promote_types(weight.dtype, torch.float32)) for weight in weights]
        self._optimiser = torch.optim.AdamW(self._wide, lr=settings.lr, weight_decay=settings.weight_decay)

    def collect(self) -> None:
        """Add the gradients of the weights to those of this step."""
        for weight, wide in zip(self._weights, self._wide, strict=True):
            if weight.grad is not None:
                gradient = weight.grad.to(wide.dtype) / self.scale
                wide.grad = gradient if wide.grad is None else wide.grad + gradient
                weight.grad = None

    def is_finite(self) -> bool:
        """Whether all gradients of this step are."""
        return all(bool(torch.isfinite(wide.grad).all()) for wide in self._wide if wide.grad is not None)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """The optimiser's step, at a part of the first learning rate; then the gradients are gone."""
        if self._settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._wide, self._settings.grad_clip)
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.lr * rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        for weight, wide in zip(self._weights, self._wide, strict=True):
            weight.copy_(wide)


def _backward(model: Model, items: Sequence[Item], max_tokens: int, trained: _Trained) -> float:
    """The gradients of the mean loss over the answer tokens of items, handed over group by group; the loss."""
    tokens, total = sum(item.n_scored for item in items), 0.0
    for group in buckets([len(item.base) for item in items], max_tokens):
        chosen = [items[k] for k in group]
        ids, mask = pad_right([item.base for item in chosen], model.device)
        states = model.layout.stack(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        scored = torch.cat([states[row, item.scored] for row, item in enumerate(chosen)])
        labels = torch.tensor([token for item in chosen for token in item.response], device=scored.device)
        # The head first, in chunks, so that never all logits are held; what it says of the states then goes on down.
        leaf = scored.detach().requires_grad_()
        total += sum(_head_backward(model, leaf, labels, trained.scale / tokens))
        scored.backward(leaf.grad)
        trained.collect()
    return total / tokens


def _head_backward(model: Model, states: Tensor, labels: Tensor, weight: float) -> Iterator[float]:
    """Summed losses of chunks of head inputs (n, d), after the gradients of them times a weight."""
    split = SplitModel(model.hf, model.layout)
    size = max(1, CHUNK_BYTES // (4 * split.vocabulary))
    for start in range(0, len(states), size):
        logits = split.logits(states[start : start + size])
        wide = torch.promote_types(logits.dtype, torch.float32)
        loss = nn.functional.cross_entropy(logits.to(wide), labels[start : start + size], reduction="sum")
        (loss * weight).backward()
        yield float(loss.detach())


@contextmanager
def _learning(hf: nn.Module, weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients for these weights of a model and for no others, for a while; what anyone else gathered is kept."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in hf.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for parameter, requires_grad, gradient in before:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
