"""The one place that knows every method by name, and the one function that runs them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from trimtab.data import ContrastPair, PairSet, load_pairs
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.order import Array
from trimtab.fitting.settings import build_settings
from trimtab.methods.cdas import CDAS
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.progress import ProgressCallback
from trimtab.steering import SteeringVector


def _by_name(methods: Sequence[Method]) -> Mapping[str, Method]:
    names = [method.name for method in methods]
    if len(set(names)) != len(names):
        raise ValueError(f"two methods share a name: {names}")
    return MappingProxyType({method.name: method for method in methods})


METHODS: Mapping[str, Method] = _by_name([CDAS])
"""Every method by name."""


def find_method(name: str) -> Method:
    """The method of that name; InputError with the nearest names otherwise."""
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown method {name!r}{hint} (known: {', '.join(METHODS)})")


def fit(
    method: str,
    model: Model,
    pairs: PairSet | Sequence[ContrastPair] | str | Path,
    *,
    layer: int,
    init: Array | None = None,
    order: Array | None = None,
    trace: str | Path | None = None,
    progress: ProgressCallback | None = None,
    **settings: object,
) -> SteeringVector:
    """Learn a steering vector.

    Args:
        method: Name of a method, see `METHODS`.
        model: From `load_model`.
        pairs: From `load_pairs`, or whatever that takes.
        layer: 0-based block whose output is edited.
        init: Start vector (hidden,) or (rank, hidden), or the path of a `.npy`.
        order: Example indices (epochs, pairs), or the path of a `.npy`.
        trace: Where to write the run as `.npz`, so that it can be compared with another implementation's.
        progress: Called with a `Progress` for every unit of work.
        settings: Fields of the method's settings dataclass; an unknown one is an error with the nearest name.

    Raises:
        InputError: Unknown method or setting, a bad value, pairs that cannot be used.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    chosen = find_method(method)
    built = build_settings(chosen.settings, {"layer": layer, **settings})
    data = pairs if isinstance(pairs, PairSet) else load_pairs(pairs)
    return chosen.fit(model, data, built, FitOptions(init, order, trace, progress))
