"""Buckets: every sequence once, no group too large, at the least cost, and quickly."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.fitting.buckets import OVERHEAD_TOKENS, buckets

many = settings(max_examples=150)
lengths = st.lists(st.integers(1, 60), min_size=0, max_size=40)
limits = st.sampled_from([1, 10, 60, 200, 10**9])
overheads = st.sampled_from([0, 1, 16, OVERHEAD_TOKENS, 1000])


def padded(group, sizes):
    return max(sizes[k] for k in group) * len(group)


def cost(groups, sizes, overhead):
    return sum(padded(group, sizes) + overhead for group in groups)


def partitions(items):
    """Every way to split a list into groups."""
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for k, group in enumerate(rest):
            yield [*rest[:k], [items[0], *group], *rest[k + 1 :]]


@many
@given(lengths, limits, overheads)
def test_every_sequence_once_and_no_group_too_large(sizes, limit, overhead):
    groups = buckets(sizes, limit, overhead)
    assert Counter(k for group in groups for k in group) == Counter(range(len(sizes)))
    assert all(padded(group, sizes) <= limit or len(group) == 1 for group in groups)
    assert all(type(k) is int for group in groups for k in group)


@many
@given(lengths.filter(bool), limits, overheads)
def test_never_dearer_than_the_simple_ways(sizes, limit, overhead):
    chosen = cost(buckets(sizes, limit, overhead), sizes, overhead)
    assert chosen <= cost([[k] for k in range(len(sizes))], sizes, overhead)
    if padded(range(len(sizes)), sizes) <= limit:
        assert chosen <= cost([range(len(sizes))], sizes, overhead)


@settings(max_examples=80)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.sampled_from([20, 60, 10**9]), overheads)
def test_no_partition_at_all_is_cheaper(sizes, limit, overhead):
    allowed = (
        groups
        for groups in partitions(list(range(len(sizes))))
        if all(len(group) == 1 or padded(group, sizes) <= limit for group in groups)
    )
    best = min(cost(groups, sizes, overhead) for groups in allowed)
    assert cost(buckets(sizes, limit, overhead), sizes, overhead) == best


@many
@given(lengths, limits)
def test_repeats(sizes, limit):
    assert buckets(sizes, limit) == buckets(tuple(sizes), limit)


def test_ends_of_the_scale():
    assert buckets([], 100) == []
    assert buckets([7], 1) == [[0]]
    assert buckets([5, 5, 5], 10**9) == [[0, 1, 2]]
    assert sorted(map(len, buckets([5] * 10, 15))) == [1, 3, 3, 3]
    assert buckets([1000, 10, 10], 10**9) == [[1, 2], [0]]


@pytest.mark.parametrize("limit", [4096, 8192, 10**9])
@pytest.mark.parametrize("kind", ["equal", "mixed"])
def test_a_thousand_sequences_take_no_time(kind, limit):
    sizes = [30] * 1000 if kind == "equal" else [5 + 7 * k % 200 for k in range(1000)]
    seconds = []
    for _ in range(5):
        started = time.thread_time()
        buckets(sizes, limit)
        seconds.append(time.thread_time() - started)
    assert min(seconds) < 0.05
