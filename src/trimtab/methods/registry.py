"""The one place that knows every method by name, and the functions that run them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trimtab.data import ContrastPair, PairSet, load_pairs, tokenise_pairs
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting import FitOptions, FrozenRuns
from trimtab.fitting.held_out import Split, hold_out
from trimtab.fitting.order import Array
from trimtab.fitting.search import Search, calibration_inputs
from trimtab.fitting.states import SharedStates
from trimtab.methods.baselines import BASELINES
from trimtab.methods.closed_forms import CLOSED_FORMS
from trimtab.methods.components import COMPONENTS
from trimtab.methods.interchanges import INTERCHANGES
from trimtab.methods.maps import MAPS
from trimtab.methods.method import Method
from trimtab.methods.running import AUTO, SHARED_BYTES, Fit, check_settings, settings_at
from trimtab.methods.saved import read_saved
from trimtab.methods.steerable import Steerable
from trimtab.methods.trained import TRAINED
from trimtab.models import Model
from trimtab.progress import ProgressCallback
from trimtab.steering import SteeringVector
from trimtab.steering.folders import BASELINE_NAME


def _by_name(methods: Sequence[Method]) -> Mapping[str, Method]:
    names = [method.name for method in methods]
    if len(set(names)) != len(names):
        raise ValueError(f"two methods share a name: {names}")
    return MappingProxyType({method.name: method for method in methods})


METHODS: Mapping[str, Method] = _by_name([*INTERCHANGES, *CLOSED_FORMS, *COMPONENTS, *TRAINED, *MAPS, *BASELINES])
"""Every method by name."""


def find_method(name: str) -> Method:
    """The method of that name; InputError with the nearest names otherwise."""
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown method {name!r}{hint} (known: {', '.join(METHODS)})")


def check_fit(method: str, layer: int | Sequence[int] | str, settings: Mapping[str, object]) -> Method:
    """The method of a fit, before anything costly begins.

    Raises:
        InputError: An unknown method, layer word or setting, or a bad value.
    """
    chosen = find_method(method)
    if isinstance(layer, str) and layer not in AUTO:
        raise InputError(f"layer {layer!r}: give a 0-based block number, or one of {', '.join(AUTO)}")
    if chosen.places == "model" and not isinstance(layer, str):
        why = "edits no hidden state" if chosen.is_baseline else "finds the places it edits by itself"
        raise InputError(f"{method} {why}; leave out the layer (it is {layer!r})")
    check_settings(chosen, layer, settings)
    return chosen


def _require_plain(model: Model) -> None:
    """Raise InputError if a baseline is at work on the model, so that a fit would learn the changed one."""
    if model.changed_by is not None:
        raise InputError(
            f"{model.changed_by} is at work on this model; leave `applied` before fitting, or what is learnt is of the "
            "changed model"
        )


def _require_named_reading(settings: Mapping[str, object]) -> None:
    """Raise InputError if a reading is to be looked for where nothing is compared."""
    if settings.get("reading") == "auto":
        raise InputError("reading 'auto' is looked for by fit, for one concept; name a reading here")


def _vector_method(method: Method) -> Method:
    """The method; InputError if it makes no vector."""
    if method.is_baseline:
        raise InputError(
            f"{method.name} is a baseline and makes no steering vector; use fit_steerable, which makes either"
        )
    return method


def fit(
    method: str,
    model: Model,
    pairs: PairSet | Sequence[ContrastPair] | str | Path,
    *,
    layer: int | Sequence[int] | str = "auto",
    calibrate: bool = True,
    calibration_pairs: PairSet | Sequence[ContrastPair] | str | Path | None = None,
    init: Array | None = None,
    order: Array | None = None,
    trace: str | Path | None = None,
    progress: ProgressCallback | None = None,
    **settings: object,
) -> SteeringVector:
    """Learn a steering vector.

    Unless told otherwise a third of the pairs, at most 64, are held out (none of fewer than 48) to find the best
    multiplier of each direction (and the layer) by what the steered model writes; see `trimtab.fitting.calibration`. A
    fit with a given `order` learns from all pairs, as the order names them, and is calibrated on the same ones.

    Args:
        method: Name of a method, see `METHODS`.
        model: From `load_model`.
        pairs: From `load_pairs`, or whatever that takes.
        layer: 0-based block whose output is edited, several of them (one edit each, trained together), or `auto`: the
            one where a fit turns most answers both ways. `auto:elicit` and `auto:suppress` look at one direction alone.
        calibrate: Whether to look for the best multiplier; otherwise it is 1, and all pairs are learnt from.
        calibration_pairs: Pairs to calibrate on; then none is held out.
        init: Start vector (hidden,) or (rank, hidden), or the path of a `.npy`.
        order: Example indices (epochs, pairs), or the path of a `.npy`.
        trace: Where to write the run as `.npz`, so that it can be compared with another implementation's.
        progress: Called with a `Progress` for every unit of work.
        settings: Fields of the method's settings dataclass; an unknown one is an error with the nearest name.
            `reading`, which methods without training have, may be `auto`: of a few the one is taken that turns most
            answers.

    Raises:
        InputError: Unknown method or setting, a bad value, pairs that cannot be used.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    chosen = _vector_method(check_fit(method, layer, settings))
    _require_plain(model)
    if calibration_pairs is not None and not calibrate:
        raise InputError("pairs to calibrate on were given, but calibration is switched off; leave out one of the two")
    data = pairs if isinstance(pairs, PairSet) else load_pairs(pairs)
    split = Split(data, data)
    if calibration_pairs is not None:
        given = calibration_pairs if isinstance(calibration_pairs, PairSet) else load_pairs(calibration_pairs)
        split = Split(data, given)
    elif (calibrate or isinstance(layer, str)) and order is None:
        split = hold_out(data)

    options = FitOptions(init, order, trace, progress)
    return Fit(chosen, model, data, split, layer, settings, options).vector(calibrate=calibrate)


def fit_steerable(
    method: str,
    model: Model,
    pairs: PairSet | Sequence[ContrastPair] | str | Path,
    *,
    layer: int | Sequence[int] | str = "auto",
    calibrate: bool = True,
    calibration_pairs: PairSet | Sequence[ContrastPair] | str | Path | None = None,
    init: Array | None = None,
    order: Array | None = None,
    trace: str | Path | None = None,
    progress: ProgressCallback | None = None,
    **settings: object,
) -> Steerable:
    """Learn a steering vector, as `fit` does, or a baseline: a prompt, an adapter, fine-tuned weights, nothing.

    A baseline learns from all pairs: it has no layer to be looked for and no multiplier to be calibrated. It takes
    neither a layer, nor pairs to calibrate on, nor what replays a run.

    Args:
        method: Name of a method, see `METHODS`.
        model: From `load_model`.
        pairs: From `load_pairs`, or whatever that takes.
        layer: As in `fit`.
        calibrate: As in `fit`; for a baseline without effect.
        calibration_pairs: As in `fit`.
        init: As in `fit`.
        order: As in `fit`.
        trace: As in `fit`.
        progress: Called with a `Progress` for every unit of work.
        settings: Fields of the method's settings dataclass; an unknown one is an error with the nearest name.

    Raises:
        InputError: Unknown method or setting, a bad value, pairs that cannot be used, or what a baseline does not take.
        FitDivergedError: The loss left the finite numbers; carries the last good vector or baseline.
    """
    chosen = check_fit(method, layer, settings)
    _require_plain(model)
    if not chosen.is_baseline:
        return fit(
            method,
            model,
            pairs,
            layer=layer,
            calibrate=calibrate,
            calibration_pairs=calibration_pairs,
            init=init,
            order=order,
            trace=trace,
            progress=progress,
            **settings,
        )
    given = {"init": init, "order": order, "trace": trace, "calibration_pairs": calibration_pairs}
    if unused := [name for name, value in given.items() if value is not None]:
        raise InputError(f"{method} is a baseline, which has no use for {', '.join(unused)}; leave it out")
    if layer != "auto":
        raise InputError(f"{method} is a baseline and looks for no layer; leave out the layer (it is {layer!r})")
    data = pairs if isinstance(pairs, PairSet) else load_pairs(pairs)
    if not data:
        raise InputError(f"no pairs to learn from in {data.source!r}; give at least one")
    return chosen.fit(model, data, settings_at(chosen, 0, settings), FitOptions(progress=progress))


def load_steerable(path: str | Path) -> Steerable:
    """Read what `save` wrote: a vector or a baseline, whichever is in the folder.

    Raises:
        InputError: Neither is, or it is damaged or of another version.
    """
    folder = Path(path)
    if not (folder / BASELINE_NAME).is_file():
        return SteeringVector.load(folder)
    saved = read_saved(folder)
    method = find_method(saved.method)
    if method.restore is None:
        raise InputError(f"{folder}: {saved.method} is no baseline; fetch or fit it again")
    try:
        return method.restore(saved)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def fit_layers(
    method: str,
    model: Model,
    pairs: PairSet | Sequence[ContrastPair] | str | Path,
    *,
    layers: Sequence[int],
    progress: ProgressCallback | None = None,
    **settings: object,
) -> dict[int, SteeringVector]:
    """Learn a vector at each of several layers, each by itself and from all pairs; none is calibrated.

    What does not depend on the layer is computed once: a closed form reads the states of all layers in one pass over
    the data, and trained methods share the runs of the plain model, as far as `cache_bytes` reaches.

    Args:
        method: Name of a method that edits at the layer it is told, see `METHODS`.
        model: From `load_model`.
        pairs: From `load_pairs`, or whatever that takes.
        layers: Block numbers, each once.
        progress: Called with a `Progress` for every unit of work.
        settings: Fields of the method's settings dataclass, for all layers.

    Raises:
        InputError: Unknown method or setting, a bad value, no layer, pairs that cannot be used.
        FitDivergedError: The loss left the finite numbers at a layer; carries the last good vector there.
    """
    if not layers or len({*layers}) != len(layers):
        raise InputError(f"layers are {list(layers)}; name at least one, each once")
    chosen = _vector_method(find_method(method))
    _require_named_reading(settings)
    for layer in layers:
        check_fit(method, layer, settings)
    _require_plain(model)
    data = pairs if isinstance(pairs, PairSet) else load_pairs(pairs)
    budget = settings.get("cache_bytes", SHARED_BYTES)
    assert isinstance(budget, int)  # checked with the other settings
    shared = FitOptions(progress=progress, runs=FrozenRuns(layers, budget), states=SharedStates(layers))
    return {layer: chosen.vector(model, data, settings_at(chosen, layer, settings), shared) for layer in layers}


def fit_many(
    method: str,
    model: Model,
    concepts: Mapping[str, PairSet | Sequence[ContrastPair] | str | Path],
    *,
    layer: int | Sequence[int],
    calibrate: bool = True,
    progress: ProgressCallback | None = None,
    **settings: object,
) -> dict[str, SteeringVector | FitDivergedError]:
    """Learn a vector for each of several concepts, trained in lockstep where the method can.

    Each comes out as it does alone (up to rounding), for less work: a step's small operations are shared by all.
    Concepts may have any number of pairs. So many are trained together as their frozen parts fit `cache_bytes`.

    Args:
        method: Name of a method, see `METHODS`.
        model: From `load_model`.
        concepts: By name, pairs from `load_pairs` or whatever that takes.
        layer: 0-based block whose output is edited, or several of them.
        calibrate: Whether to look for the best multiplier of each, as `fit` does.
        progress: Called with a `Progress` for every unit of work.
        settings: Fields of the method's settings dataclass, for all concepts.

    Returns:
        By name the vectors; in place of one whose loss left the finite numbers, the error, with its last good vector.

    Raises:
        InputError: Unknown method or setting, a bad value, pairs that cannot be used (which says whose).
    """
    if isinstance(layer, str):
        raise InputError(f"layer {layer!r}: fit_many takes block numbers; fit finds a layer for one concept")
    _vector_method(find_method(method))
    _require_named_reading(settings)
    chosen = check_fit(method, layer, settings)
    _require_plain(model)
    built, options = settings_at(chosen, layer, settings), FitOptions(progress=progress)
    splits: dict[str, Split] = {}
    for name, pairs in concepts.items():
        try:
            splits[name] = _checked_split(model, pairs, built, calibrate=calibrate)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    train = [split.train for split in splits.values()]
    if chosen.many is None:
        found = _one_by_one(chosen, model, train, built, options)
    else:
        found = chosen.many(model, train, built, options)
    vectors = dict(zip(splits, found, strict=True))
    if not calibrate:
        return vectors
    return {
        name: Search(model, splits[name], progress).calibrated(vector) if isinstance(vector, SteeringVector) else vector
        for name, vector in vectors.items()
    }


def _checked_split(
    model: Model, pairs: PairSet | Sequence[ContrastPair] | str | Path, settings: Any, *, calibrate: bool
) -> Split:
    """The pairs of one concept of several, refused before the work for all if they cannot be used."""
    data = pairs if isinstance(pairs, PairSet) else load_pairs(pairs)
    if not data:
        raise InputError("no pairs to learn from; give at least one")
    split = hold_out(data) if calibrate else Split(data, data)
    if calibrate:
        calibration_inputs(model, split)
    tokenise_pairs(
        model.chat,
        split.train,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
    )
    return split


def _one_by_one(
    method: Method, model: Model, concepts: Sequence[PairSet], settings: object, options: FitOptions
) -> list[SteeringVector | FitDivergedError]:
    """The vectors of a method that does not train several together."""
    found: list[SteeringVector | FitDivergedError] = []
    for pairs in concepts:
        try:
            found.append(method.vector(model, pairs, settings, options))
        except FitDivergedError as error:
            found.append(error)
    return found
