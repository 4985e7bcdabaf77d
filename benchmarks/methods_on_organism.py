"""Every method on the same concepts, data, layers and judge: which is best?

    python -m benchmarks.methods_on_organism                # all of them, an hour on two cores; again from cache
    python -m benchmarks.methods_on_organism --methods cdas diffmean --concepts sea vela
    python -m benchmarks.methods_on_organism --tables       # tables and figure again, of the results that are there

For each concept 48 pairs to learn from and 24 others to choose on. Every method is fitted with its default settings at
the same layers (`LAYERS`), or once where it finds its places itself, and methods that read states of the two classes
with each reading that `reading="auto"` tries. Layer, reading and multipliers are then chosen as `trimtab.fit` does,
without a judge: from what the steered model writes by itself on the 24 pairs' prompts. Baselines (a
prompt, an adapter, fine-tuning, nothing) are fitted once and work at multiplier 1. What was chosen is judged by the
organism's exact judge on 40 prompts never seen, and its side effects are measured on prompts of another kind.

A result is one file a concept and method under `results/methods/`, kept with a fingerprint of the method's settings and
of all library code; it is made again when either changes. Vectors are kept in `build/methods`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from functools import cache
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import harness

if TYPE_CHECKING:
    import trimtab as tt
    from trimtab.data import PairSet
    from trimtab.methods import Steerable
    from trimtab.steering import SteeringVector

CONCEPTS = ("refusal", "sea", "music", "weather", "past-tense", "first-person", "plural", "hearsay", "upper-case")
"""The refusal; three concepts that insert sentences; five that rewrite every sentence."""
LAYERS = (1, 4)
"""Blocks at which methods compete, of the organism's eight."""
ONE_READING = frozenset({"lineas"})
"""Methods that read states and are trained on them, for too long to be tried with every reading."""
TRAIN, CHOOSE, JUDGED, UNRELATED = 48, 24, 40, 24
BUILD = harness.ROOT / "build" / "methods"
RESULTS = harness.RESULTS / "methods"
PARTS = ("concept", "instruction", "fluency", "score")

VARIANTS: Mapping[str, str] = {"cdas-tangent": "cdas"}
"""Rows that are a method with other settings: by their name, which."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "sft": {"epochs": 24, "lr": 1e-4, "batch_size": 8},
    "cdas-tangent": {"tangent": True},
}
"""Settings other than the defaults, by method; what is here is printed with the table.

Of `sft` the published ones, for a model of two billion weights, are eight steps here, and teach the organism nothing.
"""
INPUTS: Mapping[str, str] = {
    "sae": "needs a sparse autoencoder of the model, and the organism has none",
    "seal": "needs reasoning traces, and the organism does not reason",
}
"""Methods that have nothing to work on here, and why."""


BASELINE_FILES = frozenset({"lora.py", "sft.py", "none.py", "prompt.py", "saved.py", "steerable.py", "adapters.py",
                            "weights.py", "finetune.py", "folders.py", "compat.py"})  # fmt: skip
"""Files of the library on which no vector depends."""


@cache
def code(*, baselines: bool) -> str:
    """Fingerprint of the library, with the files that only baselines need or without."""
    root, digest = harness.ROOT / "src" / "trimtab", sha256()
    for path in sorted(root.rglob("*")):
        if not baselines and path.name in BASELINE_FILES:
            continue
        if path.suffix in (".py", ".safetensors") and not {"cli", "report"} & {*path.parts}:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def method_of(name: str) -> Any:
    """The method of a row."""
    from trimtab.methods.registry import find_method

    return find_method(VARIANTS.get(name, name))


def key_of(method: str) -> dict[str, Any]:
    """What a result depends on."""
    return {
        "code": code(baselines=method_of(method).is_baseline),
        "settings": dict(SETTINGS.get(method, {})),
        "given": [list(LAYERS), TRAIN, CHOOSE, JUDGED, UNRELATED],
    }


@cache
def organism() -> tt.Model:
    """The built-in model, once a process."""
    import trimtab

    return trimtab.load_model("organism")


@cache
def pairs_of(concept: str) -> tuple[PairSet, PairSet]:
    """Pairs to learn from and to choose on."""
    import trimtab

    pairs = trimtab.load_pairs(concept)
    return pairs[:TRAIN], pairs[TRAIN : TRAIN + CHOOSE]


def _begin() -> None:
    import torch

    torch.set_num_threads(1)


# ---- fits


def folder(method: str, concept: str, place: str) -> Path:
    """Where a fit is kept."""
    return BUILD / method / concept / place


def places_of(name: str) -> dict[str, dict[str, Any]]:
    """Every fit of a method that is made, by the name of its folder, with its settings."""
    from trimtab.methods.running import readings_of

    method, settings = method_of(name), SETTINGS.get(name, {})
    layers = [{}] if method.places == "model" else [{"layer": layer} for layer in LAYERS]
    tried = () if name in ONE_READING else readings_of(method, settings)
    readings = [{"reading": reading} for reading in tried] or [{}]
    every = [{**layer, **reading, **settings} for layer in layers for reading in readings]
    return {"-".join(str(each[key]) for key in ("layer", "reading") if key in each) or "once": each for each in every}


def fit_method(name: str, concepts: Sequence[str]) -> dict[str, Any]:
    """Fits a method to concepts at all places, those together that it can train in lockstep; keeps what it makes."""
    from trimtab.errors import FitDivergedError, InputError
    from trimtab.fitting import FitOptions, FrozenRuns
    from trimtab.fitting.settings import build_settings
    from trimtab.fitting.states import SharedStates

    model, method, places = organism(), method_of(name), places_of(name)
    errors: dict[str, str] = {}
    for concept in concepts:
        shutil.rmtree(BUILD / name / concept, ignore_errors=True)
    seconds = dict.fromkeys(concepts, 0.0)
    data = {concept: pairs_of(concept)[0] for concept in concepts}
    shared = {concept: SharedStates(LAYERS) for concept in concepts}
    runs = FrozenRuns(LAYERS, 2**31)
    for place, given in places.items():
        settings = build_settings(method.settings, given)
        found: dict[str, Any] = {}
        began = time.perf_counter()
        if method.many is not None:
            with suppress(InputError):  # of one concept; which, and for the others a vector, is seen one by one
                made = method.many(model, list(data.values()), settings, FitOptions(runs=runs))
                found = dict(zip(data, made, strict=True))
            each = (time.perf_counter() - began) / len(concepts)
            seconds = {concept: seconds[concept] + each for concept in concepts}
        if not found:
            for concept, pairs in data.items():
                began = time.perf_counter()
                try:
                    found[concept] = method.fit(model, pairs, settings, FitOptions(states=shared[concept]))
                except (InputError, FitDivergedError) as error:
                    found[concept] = error
                seconds[concept] += time.perf_counter() - began
        for concept, one in found.items():
            if isinstance(one, Exception):
                errors[f"{concept} {place}"] = str(one)
            else:
                one.save(folder(name, concept, place), overwrite=True)
    for concept in concepts:
        record = {"key": key_of(name), "seconds": seconds[concept] / len(places),
                  "errors": {k: v for k, v in errors.items() if k.split()[0] == concept}}  # fmt: skip
        _write(BUILD / name / concept / "fit.json", record)
    return errors


def is_fitted(name: str, concept: str) -> bool:
    """Whether a fit with the same settings and code is there."""
    path = BUILD / name / concept / "fit.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key_of(name)


# ---- choosing and judging


def judge_concept(concept: str, methods: Sequence[str]) -> dict[str, float]:
    """Chooses layers and multipliers of the methods and judges them, all in the same batches; writes results."""
    from trimtab.evaluation.methods import Unrelated, judge_methods, plain_rows
    from trimtab.evaluation.traits import Task
    from trimtab.fitting.held_out import Split
    from trimtab.fitting.search import Search
    from trimtab.methods import Baseline

    model, (train, held) = organism(), pairs_of(concept)
    began = time.perf_counter()
    vectors: dict[str, dict[str, SteeringVector]] = {}
    chosen: dict[str, Steerable] = {}
    for name in methods:
        loaded = _loaded(name, concept)
        baselines = [one for one in loaded.values() if isinstance(one, Baseline)]
        found = {place: one for place, one in loaded.items() if not isinstance(one, Baseline)}
        if baselines:
            chosen[name] = baselines[0]
        elif found:
            vectors[name] = found
    if vectors:
        chosen |= Search(model, Split(train, held)).best_of(vectors)
    searched = time.perf_counter() - began
    task = Task.of(concept, JUDGED)
    unrelated = Unrelated.of(model, concept, UNRELATED)
    results = judge_methods(model, task, {name: chosen[name] for name in methods if name in chosen}, unrelated)
    for name in methods:
        fit = json.loads((BUILD / name / concept / "fit.json").read_text(encoding="utf-8"))
        record: dict[str, Any] = {"key": key_of(name), "method": name, "concept": concept, **_without(fit, "key")}
        if name in results:
            record |= _record(chosen[name], results[name])
        _write(RESULTS / f"{concept}-{name}.json", record)
    rows = {name: _measured(row) for name, row in plain_rows(model, task).items()}
    _write(RESULTS / f"{concept}.json", {"rows": rows})
    return {"search": searched, "all": time.perf_counter() - began}


def _loaded(name: str, concept: str) -> dict[str, Steerable]:
    from trimtab.methods import load_steerable

    kept = {place: folder(name, concept, place) for place in places_of(name)}
    return {place: load_steerable(path) for place, path in kept.items() if path.is_dir()}


def _record(steerable: Steerable, result: Any) -> dict[str, Any]:
    from trimtab.methods import Baseline

    record: dict[str, Any] = {"rows": {way: _measured(row) for way, row in result.rows.items()}}
    for way, values in result.unrelated.items():
        record["rows"][way]["unrelated_kl"] = list(values)
    is_baseline = isinstance(steerable, Baseline)
    edits = () if is_baseline else steerable.edits
    record["reading"] = steerable.settings.get("reading")
    record["layers"] = sorted({edit.intervention.site.layer for edit in edits})
    record["multipliers"] = dict.fromkeys(steerable.directions, 1.0) if is_baseline else dict(steerable.multipliers)
    return record


def _measured(row: Any) -> dict[str, Any]:
    parts = {part: getattr(row, part) for part in PARTS}
    return {part: None if values is None else list(values) for part, values in parts.items()} | {
        "kl": None if row.kl is None else list(row.kl),
        "examples": list(row.outputs[:3]),
    }


def _without(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
    partial.replace(path)


def is_judged(name: str, concept: str) -> bool:
    """Whether a result of the same settings and code is there."""
    path = RESULTS / f"{concept}-{name}.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key_of(name)


# ---- the run


def run_all(
    jobs: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]], pool: ProcessPoolExecutor, stage: str
) -> dict[str, Any]:
    """All jobs on the pool; progress with the time that is left."""
    began, waiting, found = time.monotonic(), {}, {}
    for name, (function, arguments) in jobs.items():
        waiting[pool.submit(function, *arguments)] = name
    while waiting:
        done: set[Future[Any]]
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            name = waiting.pop(future)
            found[name] = future.result()
            spent = time.monotonic() - began
            left = spent / len(found) * len(waiting)
            sys.stderr.write(f"{stage} {len(found)}/{len(jobs)}: {name}; {spent:.0f} s, about {left:.0f} s left\n")
    return found


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    from trimtab.methods.registry import METHODS

    known = [name for name in METHODS if name not in INPUTS]
    for name, of in VARIANTS.items():
        known.insert(known.index(of) + 1, name)
    parser = argparse.ArgumentParser(description="Every method on the organism's concepts.")
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--concepts", nargs="+", choices=CONCEPTS, default=list(CONCEPTS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="print what is there, make nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, choose, judge, and write what the docs show of it."""
    from benchmarks.methods_tables import write_tables

    options = _options(argv)
    if not options.tables:
        os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        began = time.monotonic()
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"), initializer=_begin) as pool:
            fits = {
                name: (fit_method, (name, missing))
                for name in sorted(options.methods, key=_slowest_first)
                if (missing := [c for c in options.concepts if not (is_judged(name, c) or is_fitted(name, c))])
            }
            run_all(fits, pool, "fitted")
            concepts = {
                concept: (judge_concept, (concept, missing))
                for concept in options.concepts
                if (missing := [m for m in options.methods if not is_judged(m, concept)])
            }
            spent = run_all(concepts, pool, "judged")
        for concept, seconds in spent.items():
            sys.stderr.write(f"{concept}: search {seconds['search']:.0f} s, in all {seconds['all']:.0f} s\n")
        sys.stderr.write(f"in all {time.monotonic() - began:.0f} s\n")
    print(write_tables(options.methods, options.concepts))  # noqa: T201


def _slowest_first(name: str) -> tuple[bool, str]:
    """Trained methods before others, so that no worker ends with the longest."""
    fields = {field.name for field in dataclasses.fields(method_of(name).settings)}
    return "epochs" not in fields, name


if __name__ == "__main__":
    main()
