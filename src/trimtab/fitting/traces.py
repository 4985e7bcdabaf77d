"""The trace of a run as a file, so that it can be compared with another implementation's."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import numpy as np

from trimtab.errors import InputError
from trimtab.fitting.trainer import Trace


def check_trace(path: Path) -> None:
    """Raise InputError if no trace can be written at `path`; called before long work."""
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        bad = path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:  # a name too long, a null character
        raise InputError(f"cannot write the trace {str(path)!r} ({error}); choose another --trace") from error
    if bad:
        raise InputError(f"cannot write the trace {path}: a folder, or no folder to write in; choose another --trace")


def write_trace(path: Path, trace: Trace) -> None:
    """Write a run as `.npz` under a temporary name, then rename."""
    vectors = trace.vectors[:, 0] if trace.vectors.shape[1] == 1 else trace.vectors
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".trimtab-{uuid4().hex}")
    try:
        with staging.open("wb") as file:
            np.savez(file, vecs=vectors.numpy(), jsd=trace.losses.numpy(), n_tok=trace.n_tokens.numpy())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
