"""Versions of what this room stands on."""

from __future__ import annotations

import transformers


def transformers_version() -> str:
    """The version of transformers that runs here."""
    return transformers.__version__
