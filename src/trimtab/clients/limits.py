"""How fast an endpoint is asked, and how long is waited after a failure."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from trimtab.errors import InputError


@dataclass(frozen=True)
class Backoff:
    """How long is waited before a request is sent again.

    Args:
        first: Seconds after the first failure; each further one doubles them. A random part of up to a half is taken
            off, so that requests which failed together do not come back together.
        longest: Seconds that are never exceeded by doubling.
        patience: Seconds that an endpoint may ask for (Retry-After); one that asks for more has failed.

    Raises:
        InputError: A number is negative or not finite.
    """

    first: float = 0.5
    longest: float = 30.0
    patience: float = 120.0

    def __post_init__(self) -> None:
        for name in ("first", "longest", "patience"):
            seconds = getattr(self, name)
            if not math.isfinite(seconds) or seconds < 0:
                raise InputError(f"{name} is {seconds} seconds; give 0 or more")

    def seconds(self, failures: int, draw: random.Random) -> float:
        """Seconds to wait after so many failures in a row, 1 or more."""
        doubled = math.ldexp(self.first, min(failures - 1, 60))
        return min(doubled, self.longest) * (1 - draw.random() / 2)


class RateLimiter:
    """A token bucket that holds one token: requests leave at even distances, whatever the number of threads.

    Args:
        per_minute: Most requests a minute; None = no limit. In any t seconds at most 1 + t * per_minute / 60 leave.
        clock: Seconds that never go back.

    Raises:
        InputError: The rate is not a positive number.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        if per_minute is not None and not (math.isfinite(per_minute) and per_minute > 0):
            raise InputError(f"requests_per_minute is {per_minute}; give a positive number, or None for no limit")
        self._interval = 0.0 if per_minute is None else 60 / per_minute
        self._clock, self._lock = clock, threading.Lock()
        self._next = self._paused = -math.inf

    def pause(self, seconds: float) -> None:
        """Let nothing leave for so long: the endpoint asked for it."""
        with self._lock:
            self._paused = max(self._paused, self._clock() + seconds)

    def reserve(self) -> float:
        """Take the next free moment, on the clock; the caller waits for it."""
        with self._lock:
            moment = max(self._clock(), self._next, self._paused)
            self._next = moment + self._interval
            return moment

    def wait(self, stop: threading.Event) -> bool:
        """Wait for one's turn.

        Args:
            stop: Ends the waiting when it is set.

        Returns:
            Whether the turn came; False if it was stopped.
        """
        while True:
            moment = self.reserve()
            if stop.wait(max(0.0, moment - self._clock())):
                return False
            if self._paused <= moment:  # else the pause began while this one slept: take a moment behind it
                return True
