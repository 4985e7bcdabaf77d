"""Group sequences of unequal length into forwards that waste little padding."""

from __future__ import annotations

from collections.abc import Sequence

OVERHEAD_TOKENS = 48
"""What one more forward costs, in tokens of work; measured on a CPU with blocks 256 wide (benchmarks/RESULTS.md)."""


def buckets(lengths: Sequence[int], max_tokens: int, overhead: int = OVERHEAD_TOKENS) -> list[list[int]]:
    """Split indices of sequences into groups, each run as one padded forward, at the least total cost.

    The cost of a group is (its longest length) x (its size) + `overhead`; exact by dynamic programming over the sorted
    lengths. Every index occurs once. A group holds at most `max_tokens` padded tokens unless a single sequence is longer.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    best = [0.0] + [float("inf")] * len(order)
    cut = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        for start in range(end - 1, -1, -1):
            padded = longest * (end - start)
            if padded > max_tokens and end - start > 1:
                break
            if best[start] + padded + overhead < best[end]:
                best[end], cut[end] = best[start] + padded + overhead, start
    groups, end = [], len(order)
    while end > 0:
        groups.append(order[cut[end] : end])
        end = cut[end]
    return groups[::-1]
