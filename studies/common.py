"""What every study needs: results that survive an interruption, and intervals."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import trimtab

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
QUICK = {"epochs": 4, "batch_size": 4, "lr": 0.02, "start": "means"}
"""Settings that end where the defaults do for most concepts, in a fifth of the time (docs/design/calibration.md)."""
ROOMS = ("steering", "models", "data", "fitting", "methods", "evaluation", "organism")


@cache
def code() -> str:
    """Fingerprint of all library code (and weights) that a result can depend on."""
    root, digest = Path(trimtab.__file__).parent, sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".py", ".txt", ".jsonl", ".safetensors"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def there(study: str, key: str) -> Path:
    """Where a result is kept."""
    return RESULTS / study / f"{key}.json"


def kept(
    study: str, key: str, make: Callable[[], dict[str, Any]], given: Mapping[str, Any], *, stale: bool = False
) -> dict[str, Any]:
    """A result of an earlier run of the same code on the same `given` settings, else made now and written down.

    With `stale` whatever is there is taken, and nothing is made: for printing a table again.
    """
    path, known = there(study, key), {"code": code(), "given": json.loads(json.dumps(given))}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if stale or {name: found.get(name) for name in known} == known:
            return found
    if stale:
        raise SystemExit(f"{path} is not there; run the study first")
    result = {**known, **make()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
    partial.replace(path)
    return result


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def interval(values: Sequence[float], seed: int = 0, rounds: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of a mean, by percentiles."""
    draw = random.Random(seed)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(rounds))
    return means[round(0.025 * rounds)], means[round(0.975 * rounds) - 1]


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95 % interval of a rate; unlike the bootstrap's it is not empty at 0 and 1."""
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def with_interval(values: Sequence[float], digits: int = 2) -> str:
    """A mean and its interval, such as `1.93 (1.90 to 1.96)`."""
    low, high = interval(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rate_with_interval(values: Sequence[float]) -> str:
    """A rate of values 0 and 1 in percent."""
    low, high = wilson(sum(values), len(values))
    return f"{100 * mean(values):.1f} % ({100 * low:.1f} to {100 * high:.1f})"
