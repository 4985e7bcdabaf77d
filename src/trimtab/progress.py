"""How long work tells where it stands.

The library never prints. A function that takes long accepts a `progress` callback and calls it with a `Progress`; who
listens decides what becomes of it: a bar on a terminal, plain lines in a log, or nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """Where one stage of a piece of work stands.

    Attributes:
        stage: What is being done, as a short noun ("cache", "fit").
        done: Units finished so far.
        total: Units in all.
        seconds: Wall-clock seconds since the stage began.
        loss: The latest training loss, or None where the stage has none.
    """

    stage: str
    done: int
    total: int
    seconds: float
    loss: float | None = None

    @property
    def rate(self) -> float:
        """Units finished per second; 0.0 as long as nothing can be said."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds left at the rate so far, or None as long as that is unknown."""
        left = max(self.total - self.done, 0)
        if left == 0:
            return 0.0
        return left / self.rate if self.rate > 0 else None


ProgressCallback = Callable[[Progress], None]
"""What a caller passes as `progress`: called from the thread that does the work, so it should return at once."""


def renamed(progress: ProgressCallback | None, name: Callable[[str], str]) -> ProgressCallback | None:
    """A callback that passes everything on under other stage names; None stays None.

    Args:
        progress: Who is told.
        name: (stage) -> what to call it.
    """
    if progress is None:
        return None
    told = progress
    return lambda found: told(replace(found, stage=name(found.stage)))
