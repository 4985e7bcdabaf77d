"""Whole CDAS fits: trimtab against a reference that works as the published code does.

    python -m benchmarks.fit_speed --cases A B C --repeats 3

Runs alternate (reference, trimtab, reference, trimtab ...), each in a process of its own, with the same checkpoint,
pairs, start vector, example order, and thread count.

Timed on both sides: rendering and tokenising the pairs, everything trimtab caches, training, reading the factors, and
writing the trace. Not timed on either side: imports, loading the model, reading the pairs file. `train` in the table is
the reference without its factor stage, for a reader who wants the stricter comparison.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.fit_worker import SIDES
from benchmarks.synthetic import CASES, Case, case_named


def run_once(side: str, folder: Path, epochs: int, threads: int, out: Path) -> dict[str, Any]:
    """One fit of the case in a folder, in a fresh process, and how busy others kept the machine meanwhile."""
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.fit_worker", side, str(folder), str(out)]
    command += ["--epochs", str(epochs), "--threads", str(threads)]
    before, started, load = harness.others_cores(1.0), time.perf_counter(), harness.facts()["load_average"]
    busy = harness.machine_busy_seconds()
    used = _children_cpu()
    done = subprocess.run(
        command, cwd=harness.ROOT, env=harness.thread_environment(threads), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the {side} fit of case {folder.name} failed:\n{done.stderr[-4000:]}")
    took = time.perf_counter() - started
    others = (harness.machine_busy_seconds() - busy - (_children_cpu() - used)) / took
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return run | {
        "process_seconds": took,
        "others_cores_before": before,
        "others_cores_during": others,
        "load_average_before": load,
    }


def run_case(case: Case, options: argparse.Namespace, folder: Path, results: Path) -> list[dict[str, Any]]:
    """All runs of a case, alternating; every run is written down as soon as it is done."""
    epochs = min(options.epochs or case.epochs, case.epochs)
    records = []
    for repeat in range(options.repeats):
        for side in options.sides:
            out = folder / f"{case.name}-{repeat}-{side}"
            run = run_once(side, case.folder, epochs, options.threads, out)
            record = {"benchmark": "fit", "case": case.name, "side": side, "repeat": repeat, "epochs": epochs, **run}
            record |= {"threads": options.threads, **harness.facts()}
            harness.append_jsonl(results, record)
            records.append(record)
            _say(f"{case.name} {side} {repeat}: {run['wall_s']:.2f} s wall, {run['cpu_s']:.2f} s CPU", run)
    return records


def compare_traces(first: Path, second: Path) -> dict[str, float]:
    """How far two fits lie apart: cosine of the final directions, the worst step, the worst minibatch."""
    with np.load(first / "trace.npz") as one, np.load(second / "trace.npz") as other:
        a, b = np.asarray(one["vecs"], float), np.asarray(other["vecs"], float)
        cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        jsd = np.abs(np.asarray(one["jsd"], float).ravel() - np.asarray(other["jsd"], float).ravel()).max()
    return {"cosine_final": float(cosines[-1]), "cosine_worst_step": float(cosines.min()), "jsd_max_diff": float(jsd)}


def summarise(case: str, records: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Medians, ratios and agreement of one case."""
    by_side = {side: [r for r in records if r["side"] == side] for side in SIDES}
    summary: dict[str, Any] = {"benchmark": "fit-summary", "case": case, "runs": len(by_side["reference"])}
    for side, runs in by_side.items():
        for key in ("wall_s", "cpu_s", "rss_process_peak_mb", "rss_above_mb"):
            summary[f"{side}_{key}"] = median(r[key] for r in runs) if runs else math.nan
    if not all(by_side.values()):
        return summary
    pairs = list(zip(by_side["reference"], by_side["trimtab"], strict=True))
    for key in ("wall_s", "cpu_s"):
        summary[f"{key}_ratio"] = median(a[key] / b[key] for a, b in pairs)
        summary[f"{key}_ratio_range"] = [f(a[key] / b[key] for a, b in pairs) for f in (min, max)]
    summary["train_wall_ratio"] = median(a["train_seconds"] / b["wall_s"] for a, b in pairs)
    summary["others_cores_during_max"] = max(r["others_cores_during"] for r in records)
    return summary | compare_traces(folder / f"{case}-0-reference", folder / f"{case}-0-trimtab")


def speed_table(summaries: Sequence[dict[str, Any]]) -> str:
    """Time and memory."""
    header = ["case", "runs", "wall s: reference", "trimtab", "ratio", "train only", "CPU s: reference", "trimtab",
              "ratio", "peak RSS MB: reference", "trimtab", "above start: reference", "trimtab"]  # fmt: skip
    keys = ["case", "runs", "reference_wall_s", "trimtab_wall_s", "wall_s_ratio", "train_wall_ratio",
            "reference_cpu_s", "trimtab_cpu_s", "cpu_s_ratio", "reference_rss_process_peak_mb",
            "trimtab_rss_process_peak_mb", "reference_rss_above_mb", "trimtab_rss_above_mb"]  # fmt: skip
    return harness.markdown_table(header, [[s.get(key, math.nan) for key in keys] for s in summaries])


def agreement_table(summaries: Sequence[dict[str, Any]]) -> str:
    """Equality of what was computed."""
    header = ["case", "1 - cosine, final", "1 - cosine, worst step", "max JSD difference", "others' cores, worst run"]
    rows = [
        [
            s["case"],
            f"{1 - s['cosine_final']:.1e}",
            f"{1 - s['cosine_worst_step']:.1e}",
            f"{s['jsd_max_diff']:.1e}",
            s["others_cores_during_max"],
        ]
        for s in summaries
        if "cosine_final" in s
    ]
    return harness.markdown_table(header, rows)


def build_cases(cases: Sequence[Case]) -> None:
    """Build them in another process: this one must stay small."""
    command = [sys.executable, "-m", "benchmarks.synthetic", *(case.name for case in cases)]
    subprocess.run(command, cwd=harness.ROOT, env=harness.thread_environment(1), check=True, capture_output=True)


def _children_cpu() -> float:
    """CPU seconds of the finished child processes."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _say(line: str, run: dict[str, Any]) -> None:
    busy = run["others_cores_during"]
    warning = f"  WARNING: others kept {busy:.2f} cores busy" if busy > 0.2 else ""
    sys.stderr.write(f"{line}, {run['rss_above_mb']:.0f} MB above the start{warning}\n")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Whole CDAS fits, trimtab against the reference.")
    parser.add_argument("--cases", nargs="+", type=case_named, default=list(CASES.values()))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="fewer epochs than the case has, for a trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--max-others", type=float, default=0.2, help="cores others may keep busy (default 0.2)")
    parser.add_argument("--force", action="store_true", help="run although the machine is busy")
    parser.add_argument("--out", type=Path, help="result file (default benchmarks/results/fit-TIME.jsonl)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, write results/fit-*.jsonl, print two markdown tables."""
    options = _options(argv)
    harness.require_quiet(options.max_others, force=options.force)
    results = options.out or harness.RESULTS / time.strftime("fit-%Y%m%d-%H%M%S.jsonl")
    build_cases(options.cases)
    with tempfile.TemporaryDirectory(prefix="trimtab-fit-speed-") as name:
        summaries = []
        for case in options.cases:
            records = run_case(case, options, Path(name), results)
            summaries.append(summarise(case.name, records, Path(name)))
            harness.append_jsonl(results, summaries[-1] | harness.facts())
    print(speed_table(summaries), "", agreement_table(summaries), "", f"written: {results}", sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
