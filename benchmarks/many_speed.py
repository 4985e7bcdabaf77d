"""Fits in lockstep: `fit_many` on K concepts against K single fits of the same.

    python -m benchmarks.many_speed --concepts 8 --batch-sizes 1 2 8 --repeats 3
    python -m benchmarks.many_speed --methods bipo reps ssv --batch-sizes 8

Both ways run in one process, in turns (single, many, single, many ...), on the built-in model or on a benchmark case,
with the same pairs, settings and threads. A *row* is a sequence of a step; the gain is time a row, single over many.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks import harness

CONCEPTS = ("past-tense", "sea", "refusal", "upper-case", "weather", "plural", "formal", "kitchen", "music", "money",
            "hearsay", "contrast", "night", "fronted", "first-person", "second-person")  # fmt: skip


def timed(run: Callable[[], Mapping[str, Any]]) -> tuple[float, float, Mapping[str, Any]]:
    """Wall and CPU seconds of a call, and what it gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def measure(
    model: Any, method: str, concepts: Mapping[str, Any], batch: int, layer: int, repeats: int, epochs: int
) -> dict[str, Any]:
    """Both ways in turns; medians, and how far the vectors lie apart."""
    import torch

    import trimtab as tt

    settings = {"layer": layer, "epochs": epochs, "batch_size": batch, "calibrate": False}
    ways = {
        "single": lambda: {name: tt.fit(method, model, pairs, **settings) for name, pairs in concepts.items()},
        "many": lambda: tt.fit_many(method, model, concepts, **settings),
    }
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    last: dict[str, Mapping[str, Any]] = {}
    for way in [*ways] + [*ways] * repeats:
        wall, cpu, last[way] = timed(ways[way])
        runs[way].append((wall, cpu))
    pairs = list(zip(runs["single"][1:], runs["many"][1:], strict=True))  # the first of each warms up
    rows = [[next(iter(vectors[name].edits[0].intervention.transform.tensors().values())).reshape(-1)
             for name in concepts] for vectors in (last["single"], last["many"])]  # fmt: skip
    cosines = [
        float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0)) for a, b in zip(*rows, strict=True)
    ]
    return {
        "benchmark": "many",
        "method": method,
        "concepts": len(concepts),
        "pairs": len(next(iter(concepts.values()))),
        "epochs": epochs,
        "rows_a_step": 2 * batch,
        "single_wall_s": median(a[0] for a, _ in pairs),
        "many_wall_s": median(b[0] for _, b in pairs),
        "wall_gain": median(a[0] / b[0] for a, b in pairs),
        "wall_gain_range": [f(a[0] / b[0] for a, b in pairs) for f in (min, max)],
        "cpu_gain": median(a[1] / b[1] for a, b in pairs),
        "cosine_least": min(cosines),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run, write results/many-*.jsonl, print a table."""
    parser = argparse.ArgumentParser(description="fit_many against single fits.")
    parser.add_argument("--methods", nargs="+", default=["cdas"])
    parser.add_argument("--model", default="organism")
    parser.add_argument("--concepts", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    import torch

    import trimtab as tt

    torch.set_num_threads(options.threads)
    model = tt.load_model(options.model)
    concepts = {name: tt.load_pairs(name)[: options.pairs] for name in CONCEPTS[: options.concepts]}
    results = harness.RESULTS / time.strftime("many-%Y%m%d-%H%M%S.jsonl")
    found = []
    for method, batch in itertools.product(options.methods, options.batch_sizes):
        found.append(measure(model, method, concepts, batch, options.layer, options.repeats, options.epochs))
        harness.append_jsonl(results, found[-1] | {"threads": options.threads, **harness.facts()})
        sys.stderr.write(f"{found[-1]}\n")
    header = [
        "method",
        "rows a step",
        "concepts",
        "single s",
        "many s",
        "gain (wall)",
        "range",
        "gain (CPU)",
        "least cosine",
    ]
    table = [
        [one["method"], one["rows_a_step"], one["concepts"], one["single_wall_s"], one["many_wall_s"], one["wall_gain"],
         " .. ".join(f"{x:.2f}" for x in one["wall_gain_range"]), one["cpu_gain"], f"{one['cosine_least']:.8f}"]
        for one in found
    ]  # fmt: skip
    print(harness.markdown_table(header, table), "", f"written: {results}", sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
