"""Group sequences of unequal length into forwards that waste little padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OVERHEAD_TOKENS = 128
"""What one more forward costs, in tokens of work; measured on a CPU with blocks 256 wide (benchmarks/RESULTS.md)."""


def buckets(lengths: Sequence[int], max_tokens: int, overhead: int = OVERHEAD_TOKENS) -> list[list[int]]:
    """Split indices of sequences into groups, each run as one padded forward, at the least total cost.

    The cost of a group is (its longest length) x (its size) + `overhead`; exact by dynamic programming over the sorted
    lengths. Every index occurs once. A group holds at most `max_tokens` padded tokens unless one sequence is longer.
    """
    n = len(lengths)
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    best, cut = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    for end in range(1, n + 1):
        longest = int(lengths[order[end - 1]])
        start = max(0, end - max(1, max_tokens // max(1, longest)))
        costs = best[start:end] + longest * np.arange(end - start, 0, -1)
        cut[end] = end - 1 - np.argmin(costs[::-1])  # of equally good groups the smallest
        best[end] = costs[cut[end] - start] + overhead
    groups, end = [], n
    while end > 0:
        groups.append(order[cut[end] : end].tolist())
        end = int(cut[end])
    return groups[::-1]
