"""Where the time of a training step goes, and which share of the machine's matrix-product peak it reaches.

    python -m benchmarks.step_profile --cases A B C

Two fits in one process: one is timed, of the other torch's profiler records the steps. Operations it lists are put into
groups; the peak is the best of repeated float32 products of 2048 x 2048 on the same threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import harness
from benchmarks.fit_speed import build_cases
from benchmarks.synthetic import CASES, SOURCE_TOKENS, Case, case_named

GROUPS = {
    "matrix products": ("mm", "addmm", "addmm_", "bmm", "baddbmm", "dot", "mv"),
    "exponentials, logarithms": ("exp", "exp_", "log", "log_", "_softmax", "_softmax_backward_data", "silu", "silu_",
                                 "silu_backward", "_log_softmax"),
    "copies and gathers": ("cat", "copy_", "index_select", "index", "fill_", "zero_", "gather", "index_add_", "roll",
                           "clone", "contiguous"),
}  # fmt: skip


def peak_gflops(threads: int) -> float:
    """Best rate of a large float32 product, in 1e9 operations a second."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times) / 1e9


def product_flops(name: str, shapes: Sequence[Sequence[int]]) -> int:
    """Operations of one matrix product; 0 of anything else. torch's own count leaves out what is done in place."""
    first = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}.get(name)
    if first is None:
        return 0
    *rows, n_inner = shapes[first]
    return 2 * math.prod(rows) * n_inner * shapes[first + 1][-1]


def step_times(case: Case, epochs: int, threads: int, profile: Any = None) -> list[float]:
    """Seconds of each step of a fit, the first two left out; with `profile` that many steps are recorded."""
    import torch

    import trimtab as tt
    from trimtab.progress import Progress

    torch.set_num_threads(threads)
    model = tt.load_model(str(case.folder / "model"), dtype=torch.float32, source_tokens=SOURCE_TOKENS)
    pairs, seen = tt.load_pairs(str(case.folder / "pairs.jsonl")), []

    def tell(progress: Progress) -> None:
        if progress.stage == "fit":
            seen.append(time.perf_counter())
            if profile is not None and len(seen) == 2:
                profile.start()
            if profile is not None and progress.done == progress.total:
                profile.stop()

    facts = json.loads((case.folder / "case.json").read_text(encoding="utf-8"))
    tt.fit("cdas", model, pairs, layer=case.layer, epochs=epochs, lr=facts["lr"], batch_size=case.batch_size,
           calibrate=False, progress=tell)  # fmt: skip
    return [after - before for before, after in itertools.pairwise(seen[1:])]


def measure(case: Case, epochs: int, threads: int, peak: float) -> dict[str, Any]:
    """One row of the table."""
    from torch.profiler import ProfilerActivity, profile

    times = step_times(case, epochs, threads)
    recorder = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
    steps = len(step_times(case, epochs, threads, recorder))
    by_group = dict.fromkeys([*GROUPS, "other operations"], 0.0)
    flops = 0.0
    for event in recorder.key_averages(group_by_input_shape=True):
        name = event.key.removeprefix("aten::")
        group = next((group for group, names in GROUPS.items() if name in names), "other operations")
        by_group[group] += event.self_cpu_time_total
        flops += event.count * product_flops(name, event.input_shapes)
    total, step = sum(by_group.values()), statistics.median(times)
    rate = flops / steps / step / 1e9
    shares = {group: f"{value / total:.0%}" for group, value in by_group.items()}
    return {"case": case.name, "step ms": step * 1e3, "products a step, GF": flops / steps / 1e9, "GF/s": rate,
            "share of peak": f"{rate / peak:.0%}", **shares}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description="Where the time of a training step goes.")
    parser.add_argument("--cases", nargs="+", type=case_named, default=list(CASES.values()))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    peak = peak_gflops(options.threads)
    build_cases(options.cases)
    rows = [measure(case, options.epochs, options.threads, peak) for case in options.cases]
    print(f"peak: {peak:.0f} GF/s", "", sep="\n")  # noqa: T201
    print(harness.markdown_table(list(rows[0]), [list(row.values()) for row in rows]))  # noqa: T201


if __name__ == "__main__":
    main()
