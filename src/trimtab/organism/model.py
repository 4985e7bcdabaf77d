"""Where the trained model lies."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def model_path() -> Path:
    """The directory of the built-in model, as transformers reads it."""
    with resources.as_file(resources.files("trimtab.organism").joinpath("weights")) as path:
        return path
