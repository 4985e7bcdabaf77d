"""Numbers that claims rest on: worked out by hand, compared with scikit-learn, and by their properties."""

import json
import math
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.evaluation import repetition
from trimtab.evaluation.statistics import (
    Interval,
    auroc,
    best_f1,
    best_multiplier,
    bootstrap,
    clustered,
    counted,
    hard_negative_accuracy,
    harmonic,
    mean,
    min_max,
    paired_difference,
    perplexity,
    select,
    split_half,
    wilson,
    win_rate,
    youden,
)

BY_HAND = json.loads((Path(__file__).parent / "fixtures" / "ratings_by_hand.json").read_text(encoding="utf-8"))
WAYS = ("exclude", "zero")


def scored(concept):
    """Our scores of a concept of the fixture, by multiplier and prompt."""
    ratings = BY_HAND["ratings"][concept]
    return {float(m): {k: harmonic(text) for k, text in enumerate(texts)} for m, texts in ratings.items()}


class TestByHand:
    @pytest.mark.parametrize("concept", BY_HAND["ratings"])
    def test_scores(self, concept):
        for multiplier, expected in BY_HAND["scores"][concept].items():
            found = list(scored(concept)[float(multiplier)].values())
            assert [None if s is None else pytest.approx(s, abs=1e-12) for s in found] == expected

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("concept", BY_HAND["ratings"])
    def test_selection(self, concept, way):
        found = select(scored(concept), split_half(range(4)), way)
        expected = BY_HAND["selected"][way][concept]
        assert (None if found is None else asdict(found)) == (expected and pytest.approx(expected))

    @pytest.mark.parametrize("way", WAYS)
    def test_report(self, way):
        found = [select(scored(concept), split_half(range(4)), way) for concept in BY_HAND["ratings"]]
        report = mean([selected.test_score for selected in found if selected is not None])
        assert report == pytest.approx(BY_HAND["mean_test_score"][way])

    @pytest.mark.parametrize("way", WAYS)
    def test_win_rate(self, way):
        ours = [text for concept in BY_HAND["ratings"] for text in BY_HAND["ratings"][concept]["1"][2:]]
        theirs = [text for texts in BY_HAND["baseline"]["ratings"].values() for text in texts]
        found = win_rate(ours, theirs, way)
        assert asdict(found) == BY_HAND["baseline"]["win_rate"][way]
        assert found.share == pytest.approx(1 / 3 if way == "exclude" else 1 / 6)


class TestMeans:
    @given(st.lists(st.floats(0.01, 2), min_size=1, max_size=6))
    def test_harmonic_lies_between_the_parts_and_below_their_mean(self, parts):
        found = harmonic(parts)
        assert min(parts) - 1e-9 <= found <= mean(parts) + 1e-9
        assert found == pytest.approx(harmonic(parts[::-1]))

    def test_a_zero_is_final_and_an_unreadable_part_more_so(self):
        assert harmonic([2, 0, 2]) == 0
        assert harmonic([2, None, 2]) is None
        assert harmonic([0, None, 2]) is None

    @pytest.mark.parametrize("parts", [[], [1, -1], [math.nan]])
    def test_what_is_no_rating_is_refused(self, parts):
        with pytest.raises(InputError):
            harmonic(parts)

    def test_what_counts(self):
        assert counted([1, None, 2]) == [1, 2]
        assert counted([1, None, 2], "zero") == [1, 0, 2]
        assert mean([1, None, 2]) == 1.5
        assert mean([1, None, 2], "zero") == 1
        assert mean([None]) is None
        with pytest.raises(InputError, match="'exclude' or 'zero'"):
            mean([1], "skip")

    def test_perplexity_of_an_even_choice_is_its_size(self):
        assert perplexity(math.log(7)) == pytest.approx(7)
        assert perplexity(1e6) == math.inf


class TestSelection:
    def test_the_published_halves(self):
        halves = split_half(range(10))
        assert (halves.select, halves.test) == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))

    @given(st.sets(st.integers(0, 99), min_size=2), st.floats(0.01, 0.99))
    def test_halves_are_a_partition_in_order(self, prompts, ratio):
        try:
            halves = split_half(prompts, ratio)
        except InputError:
            assert math.ceil(len(prompts) * ratio) == len(prompts)
            return
        assert [*halves.select, *halves.test] == sorted(prompts)
        assert len(halves.select) == math.ceil(len(prompts) * ratio)

    @pytest.mark.parametrize("prompts", [[], [3], [3, 3]])
    def test_a_half_without_prompts_is_refused(self, prompts):
        with pytest.raises(InputError, match="2 prompts or more"):
            split_half(prompts)

    def test_ties_go_to_the_smallest_multiplier_whatever_the_order_of_the_sums(self):
        parts = [0.1, 0.2, 0.3]
        assert sum(parts) != sum(parts[::-1])
        assert best_multiplier({2.0: parts, 1.0: parts[::-1], 0.5: [0.1, 0.1, 0.1]}) == 1.0
        assert best_multiplier({-2.0: [1.0], -1.0: [1.0], 1.0: [1.0]}) == -1.0
        assert best_multiplier({1.0: [1.0], 2.0: [1.001]}) == 2.0

    def test_of_nothing_readable_nothing_is_chosen(self):
        assert best_multiplier({1.0: [None], 2.0: []}) is None
        assert best_multiplier({1.0: [None], 2.0: []}, "zero") == 1.0
        assert best_multiplier({}) is None

    def test_a_concept_may_be_readable_on_one_half_only(self):
        found = select({1.0: {0: 1.0, 1: None}, 2.0: {0: 0.5, 1: None}}, split_half(range(2)))
        assert (found.multiplier, found.test_score, found.oracle_multiplier) == (1.0, None, None)
        assert select({1.0: {0: None, 1: 2.0}}, split_half(range(2))) is None

    def test_the_oracle_is_never_below_the_choice(self):
        draw = np.random.default_rng(0)
        for _ in range(50):
            scores = {float(m): dict(enumerate(draw.choice([0, 1, 1.2, 1.5, 2], 10).tolist())) for m in range(1, 6)}
            found = select(scores, split_half(range(10)))
            assert found.oracle_score >= found.test_score
            assert found.selection_score == max(mean([by[k] for k in range(5)]) for by in scores.values())

    def test_a_win_rate_turned_round(self):
        ours, theirs = [[2, 1, 1], [2, 2, 2], [None, 1, 1]], [[1, 2, 1], [1, 1, 1], [1, 1, 1]]
        one, other = win_rate(ours, theirs), win_rate(theirs, ours)
        assert (one.wins, one.ties, one.losses, one.left_out) == (other.losses, other.ties, other.wins, other.left_out)
        assert (one.wins, one.ties, one.left_out) == (1, 1, 1)
        assert win_rate([], []).share is None
        with pytest.raises(InputError, match="pairs"):
            win_rate(ours, theirs[:2])


class TestIntervals:
    def test_a_bootstrap_is_that_of_a_plain_loop(self):
        values, draws = [0.0, 1.0, 1.5, 2.0, 0.5], np.random.default_rng(3)
        plain = [np.mean([values[i] for i in draws.integers(5, size=5)]) for _ in range(400)]
        found = bootstrap(values, seed=3, resamples=400, level=0.9)
        assert found.value == pytest.approx(1.0)
        assert (found.low, found.high) == pytest.approx(np.quantile(plain, [0.05, 0.95]))

    def test_a_seed_decides(self):
        values = np.random.default_rng(0).random(40).tolist()
        assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)

    def test_it_covers_what_it_should(self):
        draw = np.random.default_rng(0)
        found = [bootstrap(draw.normal(1.0, 2.0, 40).tolist(), seed=k, resamples=400) for k in range(300)]
        assert 0.9 <= np.mean([interval.low <= 1.0 <= interval.high for interval in found]) <= 0.98

    def test_another_statistic(self):
        found = bootstrap([1.0, 2.0, 100.0], seed=0, statistic=partial(np.median, axis=-1))
        assert found.value == 2.0
        assert {found.low, found.high} <= {1.0, 2.0, 100.0}

    def test_little_or_nothing(self):
        assert bootstrap([], seed=0) is None
        assert bootstrap([1.5], seed=0) == Interval(1.5, None, None, 1)
        assert bootstrap([1.5], seed=0).cell() == {"value": 1.5, "low": None, "high": None, "n": 1}
        assert bootstrap([1.5, 1.5], seed=0) == Interval(1.5, 1.5, 1.5, 2)
        assert clustered({}, seed=0) is clustered({"a": []}, seed=0) is None

    @pytest.mark.parametrize("bad", [{"resamples": 0}, {"level": 1.0}, {"level": 0.0}])
    def test_settings_that_mean_nothing(self, bad):
        with pytest.raises(InputError):
            bootstrap([1.0, 2.0], seed=0, **bad)
        with pytest.raises(InputError, match="finite"):
            bootstrap([1.0, math.nan], seed=0)

    def test_many_values_are_drawn_in_blocks(self, monkeypatch):
        values = np.random.default_rng(0).random(50).tolist()
        whole = bootstrap(values, seed=0, resamples=101)
        monkeypatch.setattr("trimtab.evaluation.statistics.intervals.BLOCK", 170)
        parts = bootstrap(values, seed=0, resamples=101)
        assert parts.value == whole.value
        assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.05)

    def test_concepts_are_what_is_drawn(self):
        groups = {"a": [0.0] * 50, "b": [1.0] * 50, "c": [2.0], "none": []}
        found = clustered(groups, seed=0)
        assert (found.value, found.n) == (1.0, 3)
        assert (found.low, found.high) == (0.0, 2.0)
        pooled = bootstrap([value for values in groups.values() for value in values], seed=0)
        assert pooled.high - pooled.low < 0.3 < found.high - found.low
        assert clustered(groups, seed=0, within=True) == found  # nothing varies within

    def test_prompts_within_concepts_add_their_part(self):
        draw = np.random.default_rng(0)
        groups = {k: draw.normal(0, 1, 4).tolist() for k in range(30)}
        width = {way: (found := clustered(groups, seed=0, within=way)).high - found.low for way in (False, True)}
        # Means of 4 with variance 1/4; drawn again within, the variance of the draw adds 3/4 of that.
        assert width[True] / width[False] == pytest.approx(math.sqrt(1.75), rel=0.15)

    def test_one_concept_is_judged_over_its_prompts(self):
        assert clustered({"a": [0.0, 1.0, 2.0]}, seed=4) == bootstrap([0.0, 1.0, 2.0], seed=4)

    def test_pairs_are_kept_together(self):
        before = np.random.default_rng(0).normal(0, 10, 50)
        found = paired_difference(before.tolist(), (before + 1).tolist(), seed=0)
        assert (found.interval.low, found.interval.high) == pytest.approx((1.0, 1.0))
        assert found.p is found.gained is found.lost is None
        with pytest.raises(InputError, match="same items"):
            paired_difference([1.0], [], seed=0)

    def test_right_and_wrong_before_and_after(self):
        before = [0] * 5 + [1] * 1 + [1] * 10 + [0] * 3 + [None, 1]
        after = [1] * 5 + [0] * 1 + [1] * 10 + [0] * 3 + [1, None]
        found = paired_difference(before, after, seed=0)
        assert (found.gained, found.lost, found.left_out) == (5, 1, 2)
        assert found.interval.value == pytest.approx(4 / 19)
        assert found.p == pytest.approx(2 * (1 + 6) / 2**6)  # one or none of six throws
        zero = paired_difference(before, after, seed=0, unreadable="zero")
        assert (zero.gained, zero.lost, zero.left_out) == (6, 2, 0)
        assert paired_difference([1, 0], [1, 0], seed=0).p == 1
        assert paired_difference([None], [1.0], seed=0).interval is None

    def test_rates(self):
        # scipy.stats.binomtest(k, n).proportion_ci(method="wilson"), scipy 1.17
        assert asdict(wilson(0, 10)) == pytest.approx({"value": 0.0, "low": 0.0, "high": 0.27753279, "n": 10})
        assert asdict(wilson(5, 10)) == pytest.approx({"value": 0.5, "low": 0.23659309, "high": 0.76340691, "n": 10})
        assert asdict(wilson(3, 7, level=0.9)) == pytest.approx(
            {"value": 3 / 7, "low": 0.18644319, "high": 0.71052291, "n": 7}
        )
        assert wilson(0, 0) is None
        with pytest.raises(InputError, match="between 0 and all"):
            wilson(3, 2)

    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_a_rate_lies_in_its_interval(self, trials):
        hits, n = trials
        found = wilson(hits, n)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high > found.low


TIED = st.lists(st.integers(0, 6).map(lambda k: k / 4), min_size=1, max_size=30)


class TestSeparation:
    @given(TIED, TIED)
    def test_the_area_counts_pairs(self, positive, negative):
        pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
        assert auroc(positive, negative) == pytest.approx(mean(pairs))
        assert auroc(negative, positive) == pytest.approx(1 - mean(pairs))

    def test_against_scikit_learn(self):
        metrics = pytest.importorskip("sklearn.metrics")
        draw = np.random.default_rng(0)
        for _ in range(30):
            positive, negative = draw.normal(0.8, 1, 36).round(1), draw.normal(0, 1, 36).round(1)
            truth, scores = [1] * 36 + [0] * 36, np.concatenate([positive, negative])
            assert auroc(positive, negative) == pytest.approx(metrics.roc_auc_score(truth, scores))
            alarms, hits, thresholds = metrics.roc_curve(truth, scores)
            gain = (hits - alarms).round(9)  # in floats, equal gains differ
            assert youden(positive, negative) == thresholds[np.argmax(gain)]
            found = best_f1(positive, negative)
            called = scores >= found.threshold
            assert found.f1 == pytest.approx(max(metrics.f1_score(truth, scores >= t) for t in np.unique(scores)))
            assert found.f1 == pytest.approx(metrics.f1_score(truth, called))
            assert found.precision == pytest.approx(metrics.precision_score(truth, called))
            assert found.recall == pytest.approx(metrics.recall_score(truth, called))
            assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, called))

    def test_a_threshold_by_hand(self):
        # From 3 on: 2 of 3 positive, 0 of 4 negative; from 2 on: 3 of 3 and 1 of 4, which is more.
        positive, negative = [2, 3, 4], [0, 1, 1, 2]
        assert youden(positive, negative) == 2
        assert hard_negative_accuracy(positive, negative, [1, 2, 3, 0]) == pytest.approx((1 + 0.5) / 2)
        assert best_f1(positive, negative).f1 == pytest.approx(2 * 3 / (3 + 1 + 3))
        assert best_f1(positive, negative).accuracy == pytest.approx(6 / 7)

    def test_of_equal_thresholds_the_highest(self):
        assert youden([1, 3], [0, 2]) == 3
        assert youden([1, 1], [1, 1]) == 1

    @given(TIED, TIED, TIED)
    def test_scaling_changes_nothing(self, positive, negative, hard):
        scaled = min_max([*positive, *negative, *hard])
        sides = scaled[: len(positive)], scaled[len(positive) : -len(hard)], scaled[-len(hard) :]
        assert auroc(*sides[:2]) == auroc(positive, negative)
        assert hard_negative_accuracy(*sides) == hard_negative_accuracy(positive, negative, hard)
        assert all(0 <= value <= 1 for value in scaled)

    def test_scales(self):
        assert min_max([2, 4, 3]) == [0, 1, 0.5]
        assert min_max([2, 2]) == [0, 0]
        assert min_max([]) == []

    @pytest.mark.parametrize("function", [auroc, youden, best_f1])
    def test_a_side_without_scores_is_refused(self, function):
        with pytest.raises(InputError, match="0 negative"):
            function([1.0], [])
        with pytest.raises(InputError, match="not finite"):
            function([1.0], [math.inf])


class TestRepetition:
    def test_by_hand(self):
        words = repetition.words("The sea, the sea,  the sea!")
        assert words == ["the", "sea,", "the", "sea,", "the", "sea!"]
        assert repetition.distinct(words, 1) == 3 / 6
        assert repetition.distinct(words, 2) == 3 / 5  # the sea, | sea, the | the sea!
        assert repetition.repetition(words, 2) == pytest.approx(2 / 5)
        assert repetition.longest_repeat(words) == 3 / 6  # the sea, the
        assert repetition.longest_repeat([7, 7, 7, 7]) == 3 / 4
        assert repetition.longest_repeat([1, 2, 3]) == 0

    def test_too_short(self):
        assert repetition.distinct([1, 2], 3) is None
        assert repetition.repetition([], 1) is None
        assert repetition.longest_repeat([]) is None

    @given(st.lists(st.integers(0, 2), min_size=1, max_size=25))
    def test_the_longest_repeat_is_that_of_a_plain_search(self, ids):
        def repeated(n):
            grams = Counter(tuple(ids[k : k + n]) for k in range(len(ids) - n + 1))
            return max(grams.values()) > 1

        longest = max((n for n in range(1, len(ids)) if repeated(n)), default=0)
        assert repetition.longest_repeat(ids) == longest / len(ids)

    @given(st.lists(st.integers(0, 3), min_size=2, max_size=30))
    def test_saying_it_twice_repeats_more(self, ids):
        assert repetition.repetition(ids * 2, 2) >= repetition.repetition(ids, 2)
        assert repetition.longest_repeat(ids * 2) >= 0.5
