"""Preference and utility odds over pairs of answers and multipliers, and the curves through them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.evaluation.odds import fit_decay, mean_odds, preference_odds, utility_odds

M = np.linspace(-6, 6, 41)
CENTRE, WIDTH, POWER, SLOPE, OFFSET = 0.4, 3.0, 0.8, 1.7, 0.6


def decay(m):
    """The planted D."""
    return (1 + (m - CENTRE) ** 2 / WIDTH) ** -POWER


@given(st.floats(0.001, 0.997), st.floats(0.01, 0.99))
def test_odds_of_two_answers_among_others(total, share):
    p, n = total * share, total * (1 - share)
    assert preference_odds(-math.log(p), -math.log(n)) == pytest.approx(math.log(p / n), abs=1e-9)
    assert utility_odds(-math.log(p), -math.log(n)) == pytest.approx(math.log(total / (1 - total)), abs=1e-6)


def test_utility_exists_below_one_only():
    assert utility_odds(-math.log(0.7), -math.log(0.4)) is None
    assert utility_odds(math.log(2), math.log(2)) is None
    assert utility_odds(800.0, 900.0) == pytest.approx(-800.0)  # exp(-800) is 0 in floats


def test_means_over_pairs():
    found = mean_odds([1.0, 2.0, 0.1], [2.0, 2.5, 0.1])
    assert found.preference == pytest.approx(0.5)
    assert found.undefined == 1
    assert found.utility == pytest.approx((utility_odds(1.0, 2.0) + utility_odds(2.0, 2.5)) / 2)
    assert mean_odds([0.1], [0.1]).utility is None
    for bad in (([], []), ([1.0], [])):
        with pytest.raises(InputError, match="each a pair"):
            mean_odds(*bad)


def test_planted_curves_are_found():
    found = fit_decay(M.tolist(), (SLOPE * M * decay(M) + OFFSET).tolist(), (2.5 * decay(M) - 4).tolist())
    for curve, slope, offset in ((found.preference, SLOPE, OFFSET), (found.utility, 2.5, -4)):
        numbers = (curve.centre, curve.width, curve.power, curve.slope, curve.offset)
        assert numbers == pytest.approx((CENTRE, WIDTH, POWER, slope, offset), rel=0.02, abs=0.02)
        assert curve.r2 > 0.99999


def test_planted_curves_are_found_in_noise():
    draw, curves = np.random.default_rng(0), []
    for _ in range(8):
        noise = draw.normal(0, 0.05, (2, len(M)))
        preference, utility = SLOPE * M * decay(M) + OFFSET + noise[0], 2.5 * decay(M) + noise[1]
        found = fit_decay(M.tolist(), preference.tolist(), utility.tolist())
        curves.append(found.preference)
        assert found.preference.r2 > 0.98
        assert found.utility.r2 > 0.98
    for name, true in (("centre", CENTRE), ("width", WIDTH), ("power", POWER), ("slope", SLOPE), ("offset", OFFSET)):
        middle = np.median([getattr(curve, name) for curve in curves])
        assert middle == pytest.approx(true, rel=0.2, abs=0.1), name


def test_a_line_that_bends_another_way_fits_worse():
    found = fit_decay(M.tolist(), np.cos(2 * M).tolist(), np.cos(2 * M).tolist())
    assert found.preference.r2 < 0.5
    assert found.utility.r2 < 0.5


def test_where_there_is_no_curve():
    flat = fit_decay(M.tolist(), [0.3] * len(M), [None] * len(M))
    assert flat.preference is flat.utility is None
    few = fit_decay(M.tolist(), [float(m) if k < 5 else None for k, m in enumerate(M)], (2.5 * decay(M)).tolist())
    assert few.preference is None
    assert few.utility.r2 > 0.999
    with pytest.raises(InputError, match="41 multipliers, 40 preference"):
        fit_decay(M.tolist(), [0.0] * 40, [0.0] * 41)
