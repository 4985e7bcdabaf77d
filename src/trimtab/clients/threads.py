"""Work in threads that nobody has to wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_POLL = 0.5
"""Seconds between looks for Ctrl-C, which on Windows does not end a wait."""


def in_threads(
    task: Callable[[Item], Outcome], items: Sequence[Item], threads: int, stop: threading.Event
) -> Iterator[tuple[int, Outcome | Exception]]:
    """Does a task for each item, several at a time, until one of them fails.

    The threads are daemons, unlike those of `ThreadPoolExecutor`, for which Python waits at its end: after Ctrl-C that
    would be until the last reply or time-out.

    Args:
        task: What is done; called from several threads.
        items: What for.
        threads: Most at a time.
        stop: Once set, nothing new is begun; what is under way is waited for. An exception sets it, and so does the end
            of the iteration.

    Yields:
        The number of an item and what came of it, an exception if it raised one, in the order in which they end.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Outcome | Exception] | None] = queue.SimpleQueue()
    for number in range(len(items)):
        todo.put(number)

    def run() -> None:
        try:
            while not stop.is_set():
                try:
                    number = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((number, task(items[number])))
                except Exception as error:  # handed to the thread that asked
                    done.put((number, error))
                    stop.set()  # here, for that thread would be too late to keep this one from its next item
        finally:
            done.put(None)

    left = min(threads, len(items))
    for _ in range(left):
        threading.Thread(target=run, daemon=True, name="trimtab-endpoint").start()
    try:
        while left:
            try:
                found = done.get(timeout=_POLL)
            except queue.Empty:
                continue
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        stop.set()
