"""What clamping costs in generation: `hf.generate` inside `tt.steer` against the same call without it.

    python -m benchmarks.generate_speed --repeats 15

One process, one model; each round times plain, steered and plain again (the order of the first two alternates). The
answer is the median over rounds of steered / plain; plain again / plain shows what the clock itself makes of no change.
Entering and leaving the context manager is timed. Greedy, dynamic cache, exactly `--new-tokens` tokens a row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import harness, synthetic

TARGET = 0.05
"""Overhead aimed at."""


@dataclass(frozen=True)
class Shape:
    """The model and the batch."""

    hidden: int = 512
    blocks: int = 10
    vocab: int = 8192
    layer: int = 5
    batch: int = 8
    new_tokens: int = 64


def build(shape: Shape) -> tuple[Any, Any, Any]:
    """A trimtab model on a random Llama, a CDAS vector of one short epoch, and left-padded inputs."""
    import trimtab as tt

    tokenizer = synthetic.build_tokenizer(shape.vocab)
    hf = synthetic.build_model(shape.hidden, shape.blocks, shape.vocab)
    model = tt.Model(hf, tokenizer, name="generate-speed", source_tokens=synthetic.SOURCE_TOKENS)
    case = synthetic.Case(
        "generate", shape.hidden, shape.blocks, shape.vocab, shape.layer, batch_size=8, epochs=1, answers="long"
    )
    rows = synthetic.build_pairs(case)[:8]
    vector = tt.fit(
        "cdas", model, tt.load_pairs(rows), layer=shape.layer, epochs=1, batch_size=8, lr=case.lr, calibrate=False
    )
    texts = [_templated(tokenizer, row["negative_input"]) for row in rows[: shape.batch]]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    return hf, vector, inputs


def rounds(plain: Callable[[], Any], steered: Callable[[], Any], repeats: int) -> list[dict[str, float]]:
    """Time plain, steered and plain again in each round, the first two in alternating order."""
    times = []
    for repeat in range(repeats):
        if repeat % 2:
            b, a = _timed(steered), _timed(plain)
        else:
            a, b = _timed(plain), _timed(steered)
        times.append({"plain_s": a, "steered_s": b, "plain_again_s": _timed(plain)})
    return times


def summarise(times: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians of the pairwise ratios, and their quartiles."""
    ratios = [t["steered_s"] / t["plain_s"] for t in times]
    nulls = [t["plain_again_s"] / t["plain_s"] for t in times]
    return {
        "plain_s": median(t["plain_s"] for t in times),
        "steered_s": median(t["steered_s"] for t in times),
        "ratio": median(ratios),
        "ratio_quartiles": quantiles(ratios, n=4)[::2],
        "null_ratio": median(nulls),
        "null_ratio_quartiles": quantiles(nulls, n=4)[::2],
    }


def measure(shape: Shape, repeats: int) -> dict[str, Any]:
    """Warm up, check that steering changes the text, and time the rounds."""
    import torch

    import trimtab as tt

    hf, vector, inputs = build(shape)

    def plain() -> Any:
        with torch.no_grad():
            return hf.generate(
                **inputs, max_new_tokens=shape.new_tokens, min_new_tokens=shape.new_tokens, do_sample=False
            )

    def steered() -> Any:
        with tt.steer(hf, vector, direction="elicit"):
            return plain()

    length = inputs["input_ids"].shape[1]
    changed = (plain()[:, length:] != steered()[:, length:]).float().mean()
    if not changed:
        raise SystemExit("steered and plain texts are equal: the clamp did nothing, so there is nothing to time")
    times = rounds(plain, steered, repeats + 1)[1:]  # the first round still warms up
    return {"tokens_changed": float(changed), "rounds": times, **summarise(times), "threads": torch.get_num_threads()}


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _templated(tokenizer: Any, text: str) -> str:
    """One user turn without BOS, which the tokenizer adds."""
    turn = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return rendered.removeprefix(tokenizer.bos_token)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Generation with and without a clamp.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 12])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-others", type=float, default=0.2, help="cores others may keep busy (default 0.2)")
    parser.add_argument("--force", action="store_true", help="run although the machine is busy")
    parser.add_argument("--out", type=Path, help="result file (default benchmarks/results/generate-TIME.jsonl)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, write results/generate-*.jsonl, print a markdown table."""
    options = _options(argv)
    harness.require_quiet(options.max_others, force=options.force)
    results = options.out or harness.RESULTS / time.strftime("generate-%Y%m%d-%H%M%S.jsonl")
    import torch

    torch.set_num_threads(options.threads)
    rows = []
    for blocks in options.blocks:
        shape = Shape(blocks=blocks, layer=blocks // 2, new_tokens=options.new_tokens)
        run = measure(shape, options.repeats)
        harness.append_jsonl(results, {"benchmark": "generate", "shape": asdict(shape), **run, **harness.facts()})
        low, high = run["ratio_quartiles"]
        rows.append([f"{shape.hidden} x {blocks}", run["plain_s"], run["steered_s"], f"{run['ratio'] - 1:+.1%}",
                     f"{low - 1:+.1%} .. {high - 1:+.1%}", f"{run['null_ratio'] - 1:+.1%}"])  # fmt: skip
    header = ["model", "plain s", "clamped s", "overhead (median)", "quartiles", "plain again"]
    print(harness.markdown_table(header, rows), "", f"target {TARGET:.0%}; written: {results}", sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
