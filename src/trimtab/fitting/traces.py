"""The trace of a run as a file, so that it can be compared with another implementation's."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from uuid import uuid4

import numpy as np

from trimtab.errors import InputError
from trimtab.fitting.jobs import Trace

logger = logging.getLogger(__name__)


def check_trace(path: Path, *, overwrite: bool = True, out: Path | None = None) -> None:
    """Raise InputError if no trace can be written at `path`; called before long work.

    Args:
        path: Where the trace is to be.
        overwrite: Whether a file that is there may be replaced.
        out: The folder that the vector will be saved in; it may hold nothing else.
    """
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        inside = out is not None and path.resolve().is_relative_to(out.resolve())
        taken = path.is_file() and not overwrite
        bad = path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK | os.X_OK)
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a null character
        raise InputError(f"cannot write the trace {str(path)!r} ({error}); choose another --trace") from error
    if inside:
        raise InputError(f"the trace {path} lies in {out}, which is for the vector alone; choose another --trace")
    if taken:
        raise InputError(f"the trace {path} exists already; choose another --trace or pass --overwrite")
    if bad:
        raise InputError(f"cannot write the trace {path}: a folder, or no folder to write in; choose another --trace")


def write_trace(path: Path, trace: Trace) -> None:
    """Write a run as `.npz` under a temporary name, then rename.

    A failure is a warning: the fit is done by now, and worth more than its trace.
    """
    vectors = trace.vectors.squeeze((1, 2))  # (steps + 1, m, r, d), without m or r where it is 1
    staging = path.with_name(f".trimtab-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with staging.open("wb") as file:
                np.savez(file, vecs=vectors.numpy(), jsd=trace.losses.numpy(), n_tok=trace.n_tokens.numpy())
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("cannot write the trace %s (%s); the fit goes on without it", path, error)
