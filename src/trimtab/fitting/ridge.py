"""A logistic probe whose regularisation is chosen on rows of its own.

Letters: n pairs, d width, r rank of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.logistic import Probe, fit_probe

HELD_OUT = 0.2
"""Part of the pairs that is for the test, and of the rest that is for validation."""
LEAST = 5
"""Pairs that can be split."""
FLAT = 1e-12
"""Directions in which rows spread less than so many of the widest's are left out."""


class Parts(NamedTuple):
    """Indices of pairs, each in one part."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True, eq=False)
class TunedProbe:
    """A probe and how it was found.

    Attributes:
        probe: Reads states as they are; fitted to training and validation rows.
        c: The inverse strength that was chosen.
        validation: Accuracy on the validation rows before they were learnt from.
        test: Accuracy on the test rows.
        standard: The probe of the standardised rows, of which `probe` is the folded-back form.
        mean: (d,) float64, what standardisation takes off.
        scale: (d,) float64, what it divides by.
    """

    probe: Probe
    c: float
    validation: float
    test: float
    standard: Probe
    mean: Tensor
    scale: Tensor


def split_pairs(n: int, seed: int) -> Parts:
    """Shuffled indices of n pairs: a fifth for the test, a fifth of the rest for validation, at least one each.

    Raises:
        InputError: Fewer than five pairs.
    """
    if n < LEAST:
        raise InputError(f"{n} pairs cannot be split into training, validation and test; give at least {LEAST}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    test = max(1, round(HELD_OUT * n))
    validation = max(1, round(HELD_OUT * (n - test)))
    return Parts(order[test + validation :], order[test : test + validation], order[:test])


def tune_probe(positive: Tensor, negative: Tensor, strengths: Sequence[float], *, seed: int) -> TunedProbe:
    """The logistic probe with the strength that does best on the validation pairs, the smallest of those that tie.

    Columns are standardised by the training rows. The chosen strength is fitted again to training and validation rows,
    with the same standardisation.

    Args:
        positive: (n, d), a row a pair.
        negative: (n, d), of the same pairs.
        strengths: Values of c, the inverse strength of the regularisation, in ascending order.
        seed: Of the split.

    Raises:
        InputError: Too few pairs, or states that a probe cannot be fitted to.
    """
    parts = split_pairs(len(positive), seed)
    known = torch.cat([parts.train, parts.validation])
    train = torch.cat([positive[parts.train], negative[parts.train]]).double()
    mean, spread = train.mean(dim=0), train.std(dim=0, correction=0)
    moves = train.amax(dim=0) > train.amin(dim=0)
    if not bool(moves.any()):
        raise InputError(f"all {len(train)} training states of the probe are the same; give pairs that differ")
    scale = torch.where(moves, spread, torch.ones_like(spread))
    sides = [torch.where(moves, (rows.double() - mean) / scale, 0.0) for rows in (positive, negative)]
    basis = _basis(torch.cat([side[known] for side in sides]))
    reduced = sides if basis is None else [side @ basis.T for side in sides]

    def fitted(rows: Tensor, c: float) -> Probe:
        return fit_probe(reduced[0][rows], reduced[1][rows], c=c, standardise=False)

    best, chosen = -1.0, strengths[0]
    for c in strengths:
        accuracy = fitted(parts.train, c).balanced_accuracy(*(side[parts.validation] for side in reduced))
        if accuracy > best:
            best, chosen = accuracy, c
    probe = fitted(known, chosen)
    weight = probe.weight.double() if basis is None else probe.weight.double() @ basis
    standard = Probe(weight.float(), probe.bias, probe.accuracy)
    folded = weight / scale
    final = Probe(folded.float(), float(probe.bias - folded @ mean), probe.accuracy)
    test = final.balanced_accuracy(positive[parts.test], negative[parts.test])
    return TunedProbe(final, chosen, best, test, standard, mean, scale)


def _basis(rows: Tensor) -> Tensor | None:
    """Orthonormal rows (r, d) that span those of (n, d), found once for all strengths; None where there is no gain."""
    if rows.shape[0] >= rows.shape[1]:
        return None
    _, s, vh = torch.linalg.svd(rows, full_matrices=False)
    return vh[s > FLAT * s[0]]
