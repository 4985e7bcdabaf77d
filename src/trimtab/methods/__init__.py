"""Published methods by name."""

from trimtab.methods.method import Method
from trimtab.methods.registry import (
    METHODS,
    check_fit,
    find_method,
    fit,
    fit_layers,
    fit_many,
    fit_steerable,
    load_steerable,
)
from trimtab.methods.steerable import Applied, Baseline, Steerable, applied

__all__ = [
    "METHODS",
    "Applied",
    "Baseline",
    "Method",
    "Steerable",
    "applied",
    "check_fit",
    "find_method",
    "fit",
    "fit_layers",
    "fit_many",
    "fit_steerable",
    "load_steerable",
]
