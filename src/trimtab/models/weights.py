"""Other weights in a model for a while."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256

import torch
from torch import Tensor, nn

from trimtab.errors import InputError

ENDS = 64
"""Numbers of either end of a weight that are looked at to tell it from another."""


def refuse_adapter(hf: nn.Module) -> None:
    """Raise InputError if an adapter of PEFT is on the model."""
    peft = sys.modules.get("peft.tuners.tuners_utils")  # where nobody has imported it there is none
    if peft is not None and any(isinstance(module, peft.BaseTunerLayer) for module in hf.modules()):
        raise InputError("an adapter is on this model already; take it off (PEFT: unload()), or merge it")


def floating_weights(hf: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that can be trained, by name; one that is used in two places (tied embeddings) occurs once.

    Raises:
        InputError: Some of them are not here (on the meta device), there are none (all are quantised), or an adapter is
            on the model.
    """
    refuse_adapter(hf)
    found = {name: weight for name, weight in hf.named_parameters() if weight.is_floating_point()}
    if not found:
        raise InputError(f"{type(hf).__name__} has no floating-point weights; load it without quantisation")
    if any(weight.is_meta for weight in found.values()):
        raise InputError(f"some weights of {type(hf).__name__} are offloaded; load the model on one device")
    return found


@contextmanager
def exchanged(hf: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values in place of some weights, for a while.

    The parameters stay the same objects and only what they hold is exchanged, so ties stay ties; afterwards they hold
    the very memory that they held before.

    Args:
        hf: The model.
        weights: By name, of the shapes that the model has; copies of them are brought to its devices and dtypes.

    Raises:
        InputError: A name or a shape that the model does not have.
    """
    own = floating_weights(hf)
    check_weights(hf, weights)
    held = {name: own[name].data for name in weights}
    try:
        for name, value in weights.items():
            # A copy always: whoever trains what the model holds must not train what was given.
            own[name].data = _copied(value, held[name])
        yield
    finally:
        for name, value in held.items():
            own[name].data = value


@torch.inference_mode(False)  # parameters that hold what was made in inference mode can never be trained again
def _copied(value: Tensor, like: Tensor) -> Tensor:
    return value.detach().to(device=like.device, dtype=like.dtype, copy=True)


def check_weights(hf: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise InputError unless the model has weights of these names and shapes."""
    if problems := weight_problems(hf, weights):
        raise InputError(f"{problems[0]}; use the model that was fine-tuned")


def weight_problems(hf: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Why the model cannot hold weights of these names and shapes: one sentence, of the first; empty if it can."""
    try:
        own = floating_weights(hf)
    except InputError as error:
        return [str(error)]
    for name, value in weights.items():
        shape = None if name not in own else tuple(own[name].shape)
        if shape != tuple(value.shape):
            has = "has no such weight" if shape is None else f"has {shape} there"
            return [f"the weights hold {name} of shape {tuple(value.shape)}, and {type(hf).__name__} {has}"]
    return []


def weights_sample(weights: Mapping[str, Tensor]) -> str:
    """What tells weights from others at a glance: SHA-256 of the names, the shapes and both ends of each.

    The numbers are rounded to bfloat16, so that a checkpoint loaded in bfloat16 is the one loaded in float32.

    Raises:
        InputError: Some of them are not here (on the meta device).
    """
    if away := [name for name, weight in weights.items() if weight.is_meta]:
        raise InputError(f"{away[0]} is offloaded; load the model on one device")
    digest = sha256()
    for name, weight in sorted(weights.items()):
        flat = weight.detach().flatten()
        ends = torch.cat([flat[:ENDS], flat[-ENDS:]]).to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(weight.shape)}\n".encode())
        digest.update(ends.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def between(hf: nn.Module, weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The model's own weights moved by a share of the way to others; 1 is the others themselves, to the last bit.

    Raises:
        InputError: As `exchanged`, or a share so large that a weight is beyond its dtype.
    """
    check_weights(hf, weights)
    if share == 1:
        return dict(weights)
    own, found = floating_weights(hf), {}
    for name, value in weights.items():
        start = own[name].data
        wide = torch.promote_types(start.dtype, torch.float32)
        first = start.to(wide)
        moved = (first + share * (value.to(start.device, wide) - first)).to(start.dtype)
        if not bool(torch.isfinite(moved).all()) and bool(torch.isfinite(first).all()):
            raise InputError(f"multiplier {share:g} puts {name} beyond {start.dtype}; 1 is as trained")
        found[name] = moved
    return found
