"""Several groups of a step at a time on a CPU: two threads with a group each get more done than both on one group.

An operation on a few hundred tokens is too small to be divided well: products run 1.7 times as fast on two cores, and
everything around them less. Groups of a step are independent until their gradients are added, which is done in their
order, so that threads change no number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MOST = 4
"""Threads at most: Python's own share of the work is not divided."""


class Workers:
    """Threads that share what torch was given; a context.

    torch keeps the number of its threads a thread, and one for threads to come; the latter is put back at the end.

    Args:
        n: Threads; 1 works in the caller's own.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._before = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    @staticmethod
    def for_device(device: torch.device, *, is_reentrant: bool) -> Workers:
        """As many as are of use there, one if the work cannot be done by several."""
        several = is_reentrant and device.type == "cpu"
        return Workers(min(torch.get_num_threads(), MOST) if several else 1)

    def __enter__(self) -> Workers:
        if self.n > 1:
            share = max(1, self._before // self.n)
            self._pool = ThreadPoolExecutor(self.n, "trimtab-fit", torch.set_num_threads, (share,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._before)
            self._pool = None

    def map(self, function: Callable[[T], R], work: Sequence[T]) -> list[R]:
        """The function's results, in order; the first error is raised."""
        if self._pool is None or len(work) < 2:
            return [function(one) for one in work]
        return list(self._pool.map(function, work))
