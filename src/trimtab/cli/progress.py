"""Progress of long work: a bar on a terminal, now and then a line elsewhere; nothing for work of a moment."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from trimtab.cli.output import stderr
from trimtab.progress import Progress, ProgressCallback

PATIENCE = 2.0
"""Seconds of work after which progress is worth a word."""

LINE_EVERY = 5.0
"""Seconds between two lines where no terminal can hold a bar."""


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """Yields the callback to hand to the library; shows what it reports until the block ends."""
    console = stderr()
    if not console.is_terminal:
        yield _Lines()
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    try:
        yield _Bars(bars)
    finally:
        bars.stop()


def _is_long(progress: Progress) -> bool:
    """Whether a stage takes, or will by its rate take, long enough to be shown."""
    if progress.seconds >= PATIENCE:
        return True
    left = progress.remaining
    return left is not None and progress.seconds + left >= PATIENCE


def _detail(progress: Progress) -> str:
    loss = "" if progress.loss is None else f"loss {progress.loss:.4g}  "
    return f"{loss}{progress.rate:.3g}/s"


class _Bars:
    """One bar a stage."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self._tasks:
            if not _is_long(progress):
                return
            self._bars.start()
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total, detail="")
        # a stage may come again, with another total
        self._bars.update(
            self._tasks[progress.stage], total=progress.total, completed=progress.done, detail=_detail(progress)
        )


class _Lines:
    """One line a stage every few seconds, and a last one for a stage that had any."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        last = self._last.get(progress.stage)
        if last is not None and progress.seconds < last:  # the stage has come again
            last = None
        finished = progress.done >= progress.total
        due = progress.seconds >= PATIENCE if last is None else finished or progress.seconds - last >= LINE_EVERY
        if not due:
            return
        self._last[progress.stage] = progress.seconds
        left = progress.remaining
        when = f"{progress.seconds:.0f} s" if finished else "" if left is None else f"{left:.0f} s left"
        line = f"{progress.stage}: {progress.done}/{progress.total}  {_detail(progress)}  {when}"
        print(line, file=sys.stderr, flush=True)
