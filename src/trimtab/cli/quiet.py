"""Keeps other libraries' chatter off stdout and off the one line that stderr may hold."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def at_work() -> Iterator[None]:
    """Runs library code that touches models: its prints go to stderr; transformers and Python's warnings are silent."""
    _silence()
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _silence() -> None:
    """Errors only (the Hub warns of every retry) and no bar while weights load; download bars stay on a terminal.

    transformers looks at the variable and at the Hub's bars once, while it is imported: hence the order, and hence the
    two lines for a process that had imported it before. An explicit TRANSFORMERS_VERBOSITY of the user's is respected.
    """
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()
    level = os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    disable_progress_bars()
    import trimtab.models  # noqa: F401  (brings transformers in)

    if level == "error":
        logging.getLogger("transformers").setLevel(logging.ERROR)
    if (loaded := sys.modules.get("transformers.utils.logging")) is not None:
        loaded.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()
