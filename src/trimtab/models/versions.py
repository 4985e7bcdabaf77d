"""Versions of what this room stands on, and names that changed between them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import transformers
from transformers.generation import GenerateDecoderOnlyOutput

CACHE = "cache" if "cache" in {f.name for f in dataclasses.fields(GenerateDecoderOnlyOutput)} else "past_key_values"
"""What `generate` and its output call the key-value cache: `cache` since transformers 5.24."""

CACHE_NAMES = ("cache", "past_key_values", "cache_params", "state")
"""What a forward may call its cache: the first since 5.24, before that and in models' own code the second, Mamba's kind
the third, RWKV (which keeps a plain list) the last."""


def transformers_version() -> str:
    """The version of transformers that runs here."""
    return transformers.__version__


def cache_argument(forward: Callable[..., Any]) -> str:
    """The name under which a forward takes its key-value cache."""
    names = inspect.signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in names), CACHE)
