"""Rows a second of evaluation: concepts and multipliers mixed in one batch, against one of each at a time.

The same jobs are written twice: as `trimtab eval` does, and group by group as a loop over concepts and multipliers does
(ten prompts a batch, as published). The texts must be the same. Alternating, medians.

    python -m benchmarks.eval_throughput [--model organism] [--concepts 6] [--repeats 3] [--batch-size 256]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trimtab as tt
from trimtab.evaluation.concepts import organism_concepts
from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.generating import Writing, generate
from trimtab.evaluation.jobs import Job
from trimtab.evaluation.protocols.axbench import AxbenchSettings, plan
from trimtab.evaluation.records import Log

LAYER = 4
PAIRS = 32


def main() -> None:
    """Measure and print one JSON object."""
    options = _options()
    model = tt.load_model(options.model)
    concepts = organism_concepts(prompts=10)[: options.concepts]
    contenders = [
        Contender(
            "diffmean",
            each.name,
            tt.fit("diffmean", model, tt.load_pairs(each.name)[:PAIRS], layer=LAYER % model.n_blocks, calibrate=False),
        )
        for each in concepts
    ]
    settings = AxbenchSettings(max_new_tokens=options.max_new_tokens, ways=("elicit",))
    jobs = [job for job in plan(concepts, contenders, settings) if job.way is not None]
    together = Writing(options.max_new_tokens, 1.0, options.batch_size)
    apart = Writing(options.max_new_tokens, 1.0, 10)

    def mixed(log: Log) -> None:
        generate(model, jobs, log, together)

    def one_at_a_time(log: Log) -> None:
        for group in _groups(jobs):
            generate(model, group, log, apart)

    rates: dict[str, list[float]] = {"mixed": [], "one at a time": []}
    texts: dict[str, dict[str, str]] = {}
    for _ in range(options.repeats):
        for name, write in (("mixed", mixed), ("one at a time", one_at_a_time)):
            seconds, texts[name] = _timed(write)
            rates[name].append(len(jobs) / seconds)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    same = sum(texts["mixed"][name] == text for name, text in texts["one at a time"].items())
    sys.stdout.write(
        json.dumps(
            {
                "rows": len(jobs),
                "rows_per_second": medians,
                "ratio": medians["mixed"] / medians["one at a time"],
                "ratios": [a / b for a, b in zip(*rates.values(), strict=True)],
                "same_texts": same,
                "batch_size": options.batch_size,
            }
        )
        + "\n"
    )


def _vector(model: tt.Model, concept: str) -> tt.SteeringVector:
    pairs = tt.load_pairs(concept)[:PAIRS]
    return tt.fit("diffmean", model, pairs, layer=LAYER % model.n_blocks, calibrate=False)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs of one concept and multiplier each."""
    found: dict[tuple[str | None, float | None], list[Job]] = {}
    for job in jobs:
        found.setdefault((job.concept, job.multiplier), []).append(job)
    return list(found.values())


def _timed(write: Callable[[Log], None]) -> tuple[float, dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "generations.jsonl", writable=True)
        began = time.perf_counter()
        write(log)
        return time.perf_counter() - began, {row["id"]: row["text"] for row in log.rows}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="organism")
    parser.add_argument("--concepts", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    main()
