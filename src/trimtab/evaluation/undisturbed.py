"""Keep what foreign code does to the process from lasting: what it prints, and what it seeds."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import torch

logger = logging.getLogger(__name__)


class _Sink(io.TextIOBase):
    """Whatever is printed to it becomes a line of the log."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.debug("%s", text.strip())
        return len(text)


@contextmanager
def undisturbed(seed: int | None = None) -> Iterator[None]:
    """What is printed meanwhile, bars included, goes to the log; global generators get their states back afterwards.

    For libraries that can be told neither to print nothing nor to draw from a generator of ours.

    Args:
        seed: What the generators of Python, numpy and torch begin from meanwhile; None = from where they are.
    """
    states, sink = (random.getstate(), np.random.get_state()), _Sink()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))), redirect_stdout(sink), redirect_stderr(sink):
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
