"""The trainable edit: interchange of the coordinates along rows W (CDAS, arXiv 2602.05234; DAS, arXiv 2303.02536)."""

from __future__ import annotations

from torch import Tensor


def interchange(states: Tensor, sources: Tensor, directions: Tensor, mask: Tensor) -> Tensor:
    """Give h' = h + W^T (W h_src - W h) on masked tokens, one source state for all tokens of a row; differentiable.

    Args:
        states: h, (b, s, d), any dtype; computed in float32, returned in this dtype.
        sources: h_src, (b, d) float32.
        directions: W, (r, d) float32, orthonormal rows.
        mask: (b, s) bool.
    """
    x = states.float()
    missing = (sources @ directions.T)[:, None] - x @ directions.T  # (b, s, r)
    return (x + (missing * mask[..., None]) @ directions).to(states.dtype)
