"""Operations of lean blocks (`trimtab.models.lean`), each with a gradient of its own that knows what is frozen.

Letters: t, n and m tokens or rows, p rows of the prefix, d hidden, a any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Norm(Function):
    """x / rms(x) * weight over the last dimension; x (t, d), statistics in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, scale)
        ctx.weight = weight
        return (x.float() * scale).to(x.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale = ctx.saved_tensors
        return _norm_backward(gradient * ctx.weight, x, scale), None, None


def _scale(x: Tensor, eps: float) -> Tensor:
    """1 / rms(x) of each row (t, 1), float32."""
    return torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _norm_backward(inner: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """The gradient of x from that of x * scale, which is overwritten."""
    inner, wide = inner.float(), x.float()
    along = torch.linalg.vecdot(inner, wide)[:, None].mul_(scale.pow(3)).div_(-x.shape[-1])
    return inner.mul_(scale).addcmul_(wide, along).to(x.dtype)


class Linears(Function):
    """Several linear maps of one input (t, d); in the backward their gradients are added up as they are made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        ctx.weights = weights
        return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradients[0] @ ctx.weights[0]
        for gradient, weight in zip(gradients[1:], ctx.weights[1:], strict=True):
            total.addmm_(gradient, weight)
        return total, None, None


class Onto(Function):
    """residual + x W^T; x (t, a), residual (t, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        ctx.weight = weight
        return torch.addmm(residual, x, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient @ ctx.weight, None, gradient


class SiluGate(Function):
    """silu(g) * u."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(g, u)
        return F.silu(g).mul_(u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        g, u = ctx.saved_tensors
        of_u = F.silu(g).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * u, g), of_u


class GatedMlp(Function):
    """x + (silu(n Wg^T) * (n Wu^T)) Wd^T with n = `Norm` of x: what `Norm`, `Linears`, `SiluGate` and `Onto` make.

    As one operation it writes over what it no longer needs, and so touches less memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: tuple[Tensor, float], gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        weight, eps = norm
        scale = _scale(x, eps)
        normed = (x.float() * scale).to(x.dtype).mul_(weight)
        g, u = normed @ gate.T, normed @ up.T
        ctx.save_for_backward(x, scale, g, u)
        ctx.weights = weight, gate, up, down
        return torch.addmm(x, F.silu(g).mul_(u), down.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, g, u = ctx.saved_tensors
        weight, gate, up, down = ctx.weights
        gated = gradient @ down
        of_up = F.silu(g).mul_(gated)
        of_gate = torch.ops.aten.silu_backward.grad_input(gated.mul_(u), g, grad_input=gated)
        normed = (of_gate @ gate).addmm_(of_up, up)
        return _norm_backward(normed.mul_(weight), x, scale).add_(gradient), None, None, None, None


class Lay(Function):
    """Rows `index` of x (n, a), `past` (p, a) standing in front of them; `back` (n,) says where each row of x is read.

    A row's gradient is that of the one place in `back`; all other places hold pads, whose gradient is nothing.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, past: Tensor | None, index: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return (x if past is None else torch.cat([past, x])).index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None, None


class Pick(Function):
    """Rows `index` of x (t, d). Rows may be named twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.t = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.t, gradient.shape[1]).index_add_(0, index, gradient), None
