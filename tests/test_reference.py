"""The benchmark reference against the recorded published run: a yardstick must itself be true."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pyvene", reason="the benchmark reference needs pyvene (pip install pyvene)")
pytest.importorskip("pyarrow", reason="the recorded pairs are a parquet file")

ROOT = Path(__file__).resolve().parents[1]
PARITY = ROOT.parent / "shared" / "parity" / "cdas-llama"

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no recorded run at {PARITY}")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """`benchmarks.reference`, which lies beside the tests and is not installed."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module("benchmarks.reference")


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((PARITY / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(PARITY / "trajectory.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def checkpoint() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf = AutoModelForCausalLM.from_pretrained(PARITY / "model", dtype=torch.float32)
    return hf.eval(), AutoTokenizer.from_pretrained(PARITY / "model")


@pytest.fixture(scope="module")
def run(reference: ModuleType, checkpoint: Any, expected: dict[str, Any], recorded: dict[str, np.ndarray]) -> Any:
    import pyarrow.parquet

    hf, tokenizer = checkpoint
    return reference.fit_reference(
        hf,
        tokenizer,
        pyarrow.parquet.read_table(PARITY / "pairs.parquet").to_pylist(),
        layer=expected["layer"],
        epochs=expected["epochs"],
        batch_size=expected["batch_size"],
        lr=expected["lr"],
        init=recorded["init"],
        order=recorded["order"].reshape(expected["epochs"], expected["n_pairs"]),
        source_tokens=expected["source_tokens"],
    )


def test_divergence_of_each_minibatch(run: Any, recorded: dict[str, np.ndarray]) -> None:
    assert run.n_tok.tolist() == recorded["n_tok"].tolist()
    assert np.abs(run.jsd - recorded["jsd"]).max() <= 1e-4


def test_direction_after_each_step(run: Any, recorded: dict[str, np.ndarray]) -> None:
    assert run.vecs.shape == recorded["vecs"].shape
    norms = np.linalg.norm(run.vecs, axis=1) * np.linalg.norm(recorded["vecs"], axis=1)
    assert ((run.vecs * recorded["vecs"]).sum(1) / norms).min() >= 0.9999


def test_factors(run: Any, expected: dict[str, Any]) -> None:
    assert run.factor_pos == pytest.approx(expected["factor_pos"], abs=2e-3)
    assert run.factor_neg == pytest.approx(expected["factor_neg"], abs=2e-3)


def test_prefix(reference: ModuleType, checkpoint: Any, expected: dict[str, Any]) -> None:
    assert reference.prefix_length(checkpoint[1]) == expected["prefix_length"]


def test_clamped_generations(
    reference: ModuleType, checkpoint: Any, expected: dict[str, Any], recorded: dict[str, np.ndarray]
) -> None:
    hf, tokenizer = checkpoint
    rows = [json.loads(line) for line in (PARITY / "generations.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [
        reference.generate_clamped(
            hf,
            tokenizer,
            row["input"],
            layer=expected["layer"],
            direction=recorded["learned"],
            value=row["factor"],
            max_new_tokens=16,
        )
        for row in rows
    ]
    assert texts == [row["greedy_16_tokens"] for row in rows]
