"""The trained model that ships: its name and where it lies."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

NAME = "organism"
"""What to give to `load_model` or `--model`."""

DESCRIPTION = "tiny Llama of our own with concepts, refusals and a backdoor in a small world; ships with trimtab"


def is_there() -> bool:
    """Whether the trained model is part of this installation."""
    return (model_path() / "config.json").is_file()


def model_path() -> Path:
    """The directory of the built-in model, as transformers reads it."""
    with resources.as_file(resources.files("trimtab.organism").joinpath("weights")) as path:
        return path
