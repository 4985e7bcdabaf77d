"""Peak memory of a fit against a formula.

    python -m benchmarks.memory --cases A B C --batch-sizes 4 8 16

Every fit is a process of its own (`fit_worker.py`, trimtab's side); memory is the highest resident size during the fit
minus the size right before it. The formula (`predicted`, explained in docs/methods.md) knows the shapes only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.fit_speed import build_cases, run_once
from benchmarks.synthetic import CASES, SOURCE_TOKENS, Case, case_named

MB = 1e6
TORCH = 30 * MB
"""What the first products and backward passes take on a CPU whatever the model: buffers, and code that is read in."""
UNEVEN = 1.3
"""Steps differ in size, and the allocator does not get back all it gave: up to a tenth after two epochs, 0.4 after
twenty."""
CHUNK = 16 * 2**20
"""Most bytes of logits at a time in a step."""
BUILD_CHUNK = 64 * 2**20
"""The same while the cache is built."""
BUILD_TOKENS = 4096
"""Most tokens in a forward while the cache is built."""


@dataclass(frozen=True)
class Shapes:
    """What the formula needs.

    Attributes:
        d: Width of the residual stream.
        f: Width inside the MLP.
        h: Query heads.
        g: Key-value heads.
        e: Head size.
        v: Vocabulary.
        above: Blocks above the edited one.
        itemsize: Bytes of a number of the model.
        tokens: Of each base sequence, the template prefix included.
        scored: Of each response.
        rows: Sequences a step, two a pair.
    """

    d: int
    f: int
    h: int
    g: int
    e: int
    v: int
    above: int
    itemsize: int
    tokens: tuple[int, ...]
    scored: tuple[int, ...]
    rows: int


def shapes_of(folder: Path, layer: int, batch_size: int) -> Shapes:
    """The shapes of a fit of a built case."""
    import trimtab as tt
    from trimtab.data import tokenise_pairs
    from trimtab.fitting.items import INTERCHANGES, interchange_items

    model, pairs = (
        tt.load_model(str(folder / "model"), source_tokens=SOURCE_TOKENS),
        tt.load_pairs(folder / "pairs.jsonl"),
    )
    config = model.hf.config
    tokenised = tokenise_pairs(
        model.chat, pairs, context_length=config.max_position_embeddings, max_response_tokens=512, truncate=False
    )
    items = interchange_items(tokenised, INTERCHANGES)
    return Shapes(
        d=config.hidden_size,
        f=config.intermediate_size,
        h=config.num_attention_heads,
        g=config.num_key_value_heads,
        e=config.head_dim,
        v=config.vocab_size,
        above=config.num_hidden_layers - layer - 1,
        itemsize=4,
        tokens=tuple(len(item.base) for item in items),
        scored=tuple(item.n_scored for item in items),
        rows=min(2 * batch_size, len(items)),
    )


def predicted(shapes: Shapes) -> dict[str, float]:
    """Bytes of each part, and `peak`, that of all."""
    s, size = shapes, shapes.itemsize
    mean, longest = sum(s.tokens) / len(s.tokens), max(s.tokens)
    t, n = s.rows * mean, s.rows * sum(s.scored) / len(s.scored)
    logits = 4 * sum(s.scored) * s.v
    cache = size * sum(s.tokens) * s.d + logits
    build = max(size * min(BUILD_TOKENS, sum(s.tokens)) * 3 * (s.d + s.f), min(logits, BUILD_CHUNK))
    queries = s.d + 2 * s.f + s.h * s.e + s.h * longest  # what a query token leaves for the backward pass, in numbers
    keys = s.d + 2 * s.g * s.e
    kept = size * (t * ((s.above - 1) * (queries + keys) + keys + 3 * s.d) + n * queries)
    step = UNEVEN * (kept + max(3 * min(4 * n * s.v, CHUNK), size * t * 2 * (s.d + s.f)))
    return {"torch": TORCH, "cache": cache, "build": build, "step": step, "peak": TORCH + cache + max(build, step)}


def measure(case: Case, batch_size: int, epochs: int, threads: int, folder: Path) -> dict[str, float | str]:
    """One fit of a case with another batch size: measured and predicted MB."""
    own = folder / f"{case.name}-{batch_size}"
    shutil.copytree(case.folder, own)
    facts = json.loads((own / "case.json").read_text(encoding="utf-8"))
    (own / "case.json").write_text(json.dumps(facts | {"batch_size": batch_size}), encoding="utf-8")
    run = run_once("trimtab", own, epochs, threads, folder / f"out-{case.name}-{batch_size}")
    parts = {name: value / MB for name, value in predicted(shapes_of(own, case.layer, batch_size)).items()}
    seen = run["rss_above_mb"]
    return {"case": case.name, "batch": batch_size, "measured": seen, **parts, "off": seen / parts["peak"] - 1}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the fits, print a table."""
    parser = argparse.ArgumentParser(description="Peak memory of fits against a formula.")
    parser.add_argument("--cases", nargs="+", type=case_named, default=list(CASES.values()))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    build_cases(options.cases)
    with tempfile.TemporaryDirectory(prefix="trimtab-memory-") as name:
        rows = [
            measure(case, size, options.epochs, options.threads, Path(name))
            for case in options.cases
            for size in options.batch_sizes
        ]
    header = [
        "case",
        "batch",
        "measured MB",
        "predicted",
        "of it torch",
        "cache",
        "build",
        "step",
        "measured / predicted - 1",
    ]
    keys = ["case", "batch", "measured", "peak", "torch", "cache", "build", "step", "off"]
    print(harness.markdown_table(header, [[row[key] for key in keys] for row in rows]))  # noqa: T201


if __name__ == "__main__":
    main()
