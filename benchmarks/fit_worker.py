"""One measured fit in a process of its own; `fit_speed.py` starts it, see there for what is and is not timed.

python -m benchmarks.fit_worker SIDE CASE_FOLDER OUT_FOLDER --epochs N --threads N
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import peak_rss_mb, reset_peak, rss_mb
from benchmarks.synthetic import SOURCE_TOKENS

SIDES = ("reference", "trimtab")
Fit = Callable[[], Mapping[str, Any]]


def prepare_reference(folder: Path, case: Mapping[str, Any], epochs: int, out: Path) -> Fit:
    """Load model and pairs; return the reference fit, which writes its trace to `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.reference import fit_reference

    hf = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]

    def fit() -> Mapping[str, Any]:
        run = fit_reference(
            hf,
            tokenizer,
            pairs,
            layer=case["layer"],
            epochs=epochs,
            batch_size=case["batch_size"],
            lr=case["lr"],
            init=np.load(folder / "init.npy"),
            order=np.load(folder / "order.npy")[:epochs],
            source_tokens=SOURCE_TOKENS,
        )
        np.savez(out / "trace.npz", vecs=run.vecs, jsd=run.jsd, n_tok=run.n_tok)
        step = float(np.median(run.step_seconds))
        return {"train_seconds": run.seconds, "factor_seconds": run.factor_seconds, "step_seconds": step}

    return fit


def prepare_trimtab(folder: Path, case: Mapping[str, Any], epochs: int, out: Path) -> Fit:
    """Load model and pairs through trimtab's public face; return its fit, which writes its trace to `out`."""
    import torch

    import trimtab as tt

    model = tt.load_model(str(folder / "model"), dtype=torch.float32, source_tokens=SOURCE_TOKENS)
    pairs = tt.load_pairs(str(folder / "pairs.jsonl"))
    fit_method = tt.fit  # names load on first use: an import is not part of the fit
    np.save(out / "order.npy", np.load(folder / "order.npy")[:epochs])

    def fit() -> Mapping[str, Any]:
        vector = fit_method(
            "cdas",
            model,
            pairs,
            layer=case["layer"],
            epochs=epochs,
            lr=case["lr"],
            batch_size=case["batch_size"],
            init=str(folder / "init.npy"),
            order=str(out / "order.npy"),
            trace=str(out / "trace.npz"),
            calibrate=False,  # the reference does not either
        )
        return {"training": vector.provenance["training"]}

    return fit


def measure(fit: Fit) -> dict[str, Any]:
    """Run the fit once: wall and CPU seconds, resident memory before, at the peak, and of the whole process."""
    loading_peak, before = peak_rss_mb(), rss_mb()
    peak_is_of_fit = reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    extra = fit()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_rss_mb()
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "rss_before_mb": before,
        "rss_peak_mb": peak,
        "rss_above_mb": peak - before if peak_is_of_fit else max(0.0, peak - max(loading_peak, before)),
        "rss_process_peak_mb": max(peak, loading_peak),
        **extra,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Fit once and write `run.json` and `trace.npz` into the output folder."""
    parser = argparse.ArgumentParser(description="One measured fit (started by benchmarks.fit_speed).")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    case = json.loads((args.case / "case.json").read_text(encoding="utf-8"))
    prepare = prepare_reference if args.side == "reference" else prepare_trimtab
    run = measure(prepare(args.case, case, args.epochs, args.out))
    run |= {"torch_threads": torch.get_num_threads()}
    (args.out / "run.json").write_text(json.dumps(run), encoding="utf-8")


if __name__ == "__main__":
    main()
