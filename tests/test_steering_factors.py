"""Factors: what a multiplier means, and how well two classes separate."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.steering import Factors, FactorStats, histogram, separation

many = settings(max_examples=60)
numbers = st.floats(-50, 50, width=32)
multipliers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 10.0])


def factors(positive, negative):
    """Factors of rank 1 from the rows of both classes."""
    return Factors(*(FactorStats.of(torch.tensor(rows, dtype=torch.float32)[:, None]) for rows in (positive, negative)))


def of_means(positive, negative):
    return Factors(*(FactorStats((value,), (1.0,), 4) for value in (positive, negative)))


class TestValue:
    @many
    @given(numbers, numbers, multipliers)
    def test_gap_and_published(self, positive, negative, m):
        found = of_means(positive, negative)
        for direction, own, other in (("elicit", positive, negative), ("suppress", negative, positive)):
            value = found.value(direction, m)
            assert value.dtype == torch.float32
            assert value.tolist() == pytest.approx([other + m * (own - other)], rel=1e-5, abs=1e-5)
            assert found.value(direction, m, "published").tolist() == pytest.approx([m * own], rel=1e-5, abs=1e-5)

    def test_one_is_the_class_and_zero_the_other_class(self):
        found = of_means(3.0, -1.0)
        assert found.value("elicit", 1.0).item() == 3.0 == found.value("suppress", 0.0).item()
        assert found.value("elicit", 0.0).item() == -1.0 == found.value("suppress", 1.0).item()
        assert found.value("elicit", 2.0).item() == 7.0
        assert found.value("suppress", 2.0).item() == -5.0
        assert found.value("elicit", -1.0).item() == -5.0

    @pytest.mark.parametrize(("positive", "negative"), [(4.2, 2.4), (-4.2, -2.4), (-2.4, -4.2), (2.4, 4.2)])
    def test_the_published_scale_moves_one_direction_the_wrong_way_when_signs_agree(self, positive, negative):
        found = of_means(positive, negative)
        wrong = []
        for direction, own, other in (("elicit", positive, negative), ("suppress", negative, positive)):
            toward = math.copysign(1.0, own - other)
            moved = {
                s: (found.value(direction, 2.0, s) - found.value(direction, 1.0, s)).item()
                for s in ("gap", "published")
            }
            assert moved["gap"] * toward > 0
            wrong.append(moved["published"] * toward < 0)
        assert sorted(wrong) == [False, True]

    def test_each_coordinate_moves_along_its_own_gap(self):
        found = Factors(FactorStats((1.0, 10.0), (0.0, 0.0), 2), FactorStats((0.0, 20.0), (0.0, 0.0), 2))
        assert found.value("elicit", 3.0).tolist() == [3.0, -10.0]
        assert found.value("suppress", 3.0).tolist() == [-2.0, 40.0]

    @pytest.mark.parametrize(
        "given",
        [("up", 1.0), ("elicit", math.nan), ("elicit", math.inf), ("elicit", 1.0, "linear"), ("suppress", -math.inf)],
    )
    def test_refusals(self, given):
        with pytest.raises(InputError) as error:
            of_means(1.0, 0.0).value(*given)
        assert "\n" not in str(error.value)


class TestStats:
    @many
    @given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9))
    def test_mean_deviation_and_rows(self, rows):
        stats = FactorStats.of(torch.tensor(rows, dtype=torch.float32))
        n = len(rows)
        for k in range(2):
            column = [float(torch.tensor(row[k])) for row in rows]
            mean = math.fsum(column) / n
            assert stats.mean[k] == pytest.approx(mean, rel=1e-9, abs=1e-9)
            variance = math.fsum((x - mean) ** 2 for x in column) / (n - 1) if n > 1 else 0.0
            assert stats.std[k] == pytest.approx(math.sqrt(variance), rel=1e-6, abs=1e-6)
        assert stats.n == n
        assert stats.values.tolist() == [list(row) for row in rows]

    @pytest.mark.parametrize(
        "given",
        [
            ((), (), 1),
            ((1.0,), (), 1),
            ((1.0,), (1.0,), 0),
            ((math.nan,), (1.0,), 2),
            ((1.0,), (math.inf,), 2),
            ((1.0,), (-1.0,), 2),
            ((1.0,), (1.0,), 2, torch.ones(3, 1)),
            ((1.0,), (1.0,), 2, torch.ones(2)),
            ((1.0,), (1.0,), 2, torch.tensor([[1.0], [math.nan]])),
        ],
    )
    def test_refusals(self, given):
        with pytest.raises(InputError) as error:
            FactorStats(*given)
        assert "\n" not in str(error.value)

    def test_rows_are_float32_and_numbers_are_floats(self):
        stats = FactorStats((1,), (0,), 2, torch.ones(2, 1, dtype=torch.bfloat16))
        assert stats.values.dtype == torch.float32
        assert [type(x) for x in (*stats.mean, *stats.std)] == [float, float]

    def test_both_classes_have_one_rank(self):
        with pytest.raises(InputError, match="different rank"):
            Factors(FactorStats((1.0,), (1.0,), 2), FactorStats((1.0, 2.0), (1.0, 1.0), 2))


class TestSeparation:
    rows = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=12)

    @many
    @given(rows, rows)
    def test_against_loops_over_rows(self, positive, negative):
        found = separation(factors(positive, negative))
        wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
        assert found.auroc == pytest.approx(wins / (len(positive) * len(negative)))

        def moments(rows):
            mean = sum(rows) / len(rows)
            return mean, sum((x - mean) ** 2 for x in rows) / max(1, len(rows) - 1)

        (mean_p, var_p), (mean_n, var_n) = moments(positive), moments(negative)
        if var_p + var_n > 0:
            assert found.d_prime == pytest.approx((mean_p - mean_n) / math.sqrt((var_p + var_n) / 2), abs=1e-9)
        else:
            assert found.d_prime == (0.0 if mean_p == mean_n else math.copysign(math.inf, mean_p - mean_n))

    def test_ends_of_the_scale(self):
        assert separation(factors([2.0, 3.0], [0.0, 1.0])).auroc == 1.0
        assert separation(factors([0.0, 1.0], [2.0, 3.0])).auroc == 0.0
        assert separation(factors([1.0], [1.0])) == separation(factors([1.0, 1.0], [1.0]))
        assert separation(factors([1.0], [1.0])).auroc == 0.5

    def test_without_rows_and_of_another_coordinate(self):
        assert separation(of_means(3.0, 1.0)).auroc is None
        assert separation(of_means(3.0, 1.0)).d_prime == 2.0
        two = Factors(*(FactorStats.of(torch.tensor([[0.0, k], [0.0, k + 1]])) for k in (5.0, 1.0)))
        assert separation(two, 1).auroc == 1.0
        for bad in (-1, 2):
            with pytest.raises(InputError, match="does not exist"):
                separation(two, bad)
            with pytest.raises(InputError, match="does not exist"):
                histogram(two, coordinate=bad)


class TestHistogram:
    @many
    @given(TestSeparation.rows, TestSeparation.rows, st.integers(1, 9))
    def test_counts_are_those_of_a_loop(self, positive, negative, bins):
        edges, p, n = histogram(factors(positive, negative), bins=bins)
        low, high = min(positive + negative), max(positive + negative)
        high = high if high > low else low + 1
        assert (edges[0], edges[-1], len(edges)) == (pytest.approx(low), pytest.approx(high), bins + 1)
        assert (sum(p), sum(n), len(p), len(n)) == (len(positive), len(negative), bins, bins)
        for rows, counts in ((positive, p), (negative, n)):
            wanted = [0] * bins
            for x in rows:
                wanted[min(bins - 1, int((x - low) * bins / (high - low)))] += 1
            assert counts == wanted

    def test_refusals(self):
        with pytest.raises(InputError, match="only means"):
            histogram(of_means(1.0, 0.0))
        with pytest.raises(InputError, match="0 bins"):
            histogram(factors([1.0], [2.0]), bins=0)
