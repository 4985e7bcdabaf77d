"""Preference and utility of an edit as odds, and the curve along which they fall with its strength.

Source: arXiv 2602.02343 ("Why Steering Works"). Of a positive answer with probability p and a negative one with n,
under an edit of strength m:

    PrefOdds = log p - log n        UtilOdds = log (p + n) / (1 - p - n)        D(m) = (1 + (m - m0)^2 / L)^-power

With losses a token instead of log-probabilities of whole answers these are figures without a probability behind them;
UtilOdds exists only while p + n is below 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError

STEPS = 100
MIN_POINTS = 4


def pref_odds(positive: Tensor, negative: Tensor) -> Tensor:
    """How much likelier the positive answer is, nats: Ln - Lp.

    Args:
        positive: Lp, -log p of the positive answers, any shape.
        negative: Ln, the same of the negative ones.
    """
    return negative - positive


def util_odds(positive: Tensor, negative: Tensor) -> Tensor:
    """Log-odds that the answer is one of the two: logit(p + n). Arguments as in `pref_odds`.

    Raises:
        InputError: Probabilities that sum to 1 or more.
    """
    log_sum = torch.logaddexp(-positive.double(), -negative.double())
    if not bool((log_sum < 0).all()):
        raise InputError(
            f"the two answers' probabilities sum to {float(log_sum.exp().max()):.4g}; utility odds need "
            "sums below 1, so give log-probabilities of whole answers, or longer ones"
        )
    return log_sum - torch.log(-torch.expm1(log_sum))


@dataclass(frozen=True)
class DecayCurve:
    """D(m) = (1 + (m - m0)^2 / L)^-p, and how well it fits.

    Attributes:
        centre: m0.
        width: L, above 0.
        power: p, above 0.
        slope: a of a m D(m) + c, or of a D(m) + c.
        offset: c.
        r2: Share of the values' variance that the curve explains.
    """

    centre: float
    width: float
    power: float
    slope: float
    offset: float
    r2: float

    def decay(self, multipliers: Tensor) -> Tensor:
        """D at each multiplier."""
        return (1 + (multipliers.double() - self.centre).square() / self.width) ** -self.power


def fit_decay_curve(multipliers: Sequence[float], values: Sequence[float], *, times_multiplier: bool) -> DecayCurve:
    """The curve through values at some multipliers, by least squares.

    a and c are solved exactly for each (m0, L, p), which are found by L-BFGS from several starts, the best taken.
    L and p pull in one direction where the multipliers reach not far beyond m0 +- sqrt(L).

    Args:
        multipliers: m.
        values: What was measured at each: preference odds or utility odds.
        times_multiplier: a m D(m) + c, the form for preference odds; else a D(m) + c, that for utility odds.

    Raises:
        InputError: Fewer than six points, other numbers of the two, values that are not finite or all the same.
    """
    m, y = torch.tensor(multipliers, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    if m.shape != y.shape or len(m.unique()) < MIN_POINTS + 2:
        raise InputError(
            f"{len(m)} multipliers ({len(m.unique())} different) and {len(y)} values; a curve of five numbers needs a "
            f"value each and {MIN_POINTS + 2} different multipliers or more"
        )
    if not bool(torch.isfinite(m).all() and torch.isfinite(y).all()) or float(y.std()) == 0:
        raise InputError("the values are all the same or not finite; there is no curve to fit")
    span = float(m.max() - m.min())
    starts = [(c, w, p) for c in (0.0, float(m.mean())) for w in (0.02, 0.3) for p in (0.5, 1.5)]
    found = [_descended(m, y, (c, (w * span**2), p), times_multiplier) for c, w, p in starts]
    loss, centre, width, power, slope, offset = min(found)
    return DecayCurve(centre, width, power, slope, offset, 1 - loss / float((y - y.mean()).square().sum()))


def _descended(
    m: Tensor, y: Tensor, start: tuple[float, float, float], times_multiplier: bool
) -> tuple[float, float, float, float, float, float]:
    """Squared error, m0, L, p, a and c that one start leads to."""
    centre, width, power = start
    raw = torch.tensor([centre, width, power], dtype=torch.float64)
    raw[1:] = raw[1:].log()
    raw.requires_grad_()
    optimiser = torch.optim.LBFGS([raw], max_iter=STEPS, tolerance_grad=1e-12, tolerance_change=1e-15,
                                  history_size=20, line_search_fn="strong_wolfe")  # fmt: skip

    def solved() -> tuple[Tensor, Tensor]:
        decay = (1 + (m - raw[0]).square() / raw[1].exp()) ** -raw[2].exp()
        column = m * decay if times_multiplier else decay
        design = torch.stack([column, torch.ones_like(m)], dim=1)
        gram = design.T @ design + 1e-12 * torch.eye(2, dtype=torch.float64)
        both = torch.linalg.solve(gram, design.T @ y)
        return (design @ both - y).square().sum(), both

    def closure() -> float:
        optimiser.zero_grad()
        loss, _ = solved()
        loss.backward()
        return float(loss.detach())

    optimiser.step(closure)
    with torch.no_grad():
        loss, both = solved()
    value = float(loss) if bool(torch.isfinite(loss)) else float("inf")
    centre, width, power = float(raw.detach()[0]), *raw.detach()[1:].exp().tolist()
    return value, centre, width, power, float(both[0]), float(both[1])
