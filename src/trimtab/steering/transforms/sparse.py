"""Edits of one feature of a sparse autoencoder. Shapes: d hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_shape, own_float32
from trimtab.steering.transforms.protocol import Scalable


@dataclass(frozen=True, eq=False)
class FeatureClamp(Scalable):
    """T(h) = h + (c - f(h)) d, f(h) = z [z > t] with z = <e, h> + b: one feature of an autoencoder is set to c.

    What the autoencoder does not explain of the state (its error term) is kept, so all other features' parts of the
    reconstruction stay as they are: dec(f with f_j = c) + (h - dec(f)) = h + (c - f_j) d. With t = 0 the feature is
    that of a ReLU encoder, with t > 0 that of a JumpReLU one (arXiv 2407.14435).

    Args:
        encoder: e, (d,), the feature's column of the encoder.
        bias: b, (), of the encoder, with whatever is taken off the state before it folded in.
        threshold: t, ().
        decoder: d, (d,), the feature's row of the decoder.
        value: c, (), in the feature's units; the multiplier scales it.

    Raises:
        InputError: Mis-shaped or non-finite tensors, encoder and decoder of different widths, or a negative threshold.
    """

    kind: ClassVar[str] = "feature_clamp"
    encoder: Tensor
    bias: Tensor
    threshold: Tensor
    decoder: Tensor
    value: Tensor

    def __post_init__(self) -> None:
        for name, dims in (("encoder", 1), ("bias", 0), ("threshold", 0), ("decoder", 1), ("value", 0)):
            check_shape(f"feature {name}", getattr(self, name), dims)
            object.__setattr__(self, name, own_float32(f"feature {name}", getattr(self, name)))
        if self.encoder.shape != self.decoder.shape:
            raise InputError(
                f"a feature's encoder has width {self.encoder.shape[0]} and its decoder {self.decoder.shape[0]}; "
                "both are as wide as the state"
            )
        if float(self.threshold) < 0:
            raise InputError(f"the threshold of a feature is {float(self.threshold):g}; it must be at least 0")

    @property
    def width(self) -> int:
        """Width d of the states it edits."""
        return self.decoder.shape[0]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return 1

    def activation(self, h: Tensor) -> Tensor:
        """f(h): (..., d) -> (...)."""
        z = h @ self.encoder.to(h.dtype) + self.bias.to(h.dtype)
        return torch.where(z > self.threshold.to(h.dtype), z, torch.zeros_like(z))

    def __call__(self, h: Tensor) -> Tensor:
        """T(h): (..., d) -> (..., d)."""
        missing = self.value.to(h.dtype) - self.activation(h)
        return h + missing[..., None] * self.decoder.to(h.dtype)

    def scaled(self, multiplier: float) -> Self:
        """The same with `multiplier` times the value."""
        return type(self)(self.encoder, self.bias, self.threshold, self.decoder, self.value * multiplier)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """What the file format stores, by name."""
        names = ("encoder", "bias", "threshold", "decoder", "value")
        return {name: getattr(self, name) for name in names}
