"""When CDAS fails: data size, seeds, layer, source tokens, size of the model, and what it costs.

    python -m studies.limits [CURVE...]         data source sizes
    python -m studies.limits table              # of the results that are there, whichever code they are of

`data`: 4 to 128 pairs, three seeds each, at one layer a concept; and the judge's best score at every layer, from the
oracle of the calibration study. `source`: which token of the header the value is read from. `sizes`:
prompts like the pairs that were learnt from against held-out ones; sizes M and L need trained models
(`python -m trimtab.cli.organism train --size M --out build/M`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import trimtab as tt
from studies.calibration import NAMES as CALIBRATED
from studies.common import DOCS, QUICK, RESULTS, kept, mean, there, with_interval
from trimtab.cli.describe import layer_words
from trimtab.evaluation.traits import Task, measure

LAYERS = {"refusal": 0, "sea": 1, "past-tense": 0, "upper-case": 0}
"""Where these short fits work; layers that are found with other settings may be others."""
NAMES = tuple(LAYERS)
PAIRS = (4, 8, 16, 32, 64, 128)
SEEDS = (42, 1, 2)
SOURCES = ("<|end|>", "<|assistant|>", "<|assistant|>\n")
PROMPTS, HELD = 32, 32
STEPS = 64
"""Steps of every fit, whatever the number of pairs, so that size is not confounded with training time."""
COLOURS = {"refusal": "#b5542b", "sea": "#1f4e79", "past-tense": "#5a7d3c", "upper-case": "#7a5195"}
BUILT = Path(__file__).resolve().parents[1] / "build"


def point(model: tt.Model, name: str, layer: int, *, n: int = 64, seed: int = 42) -> dict[str, Any]:
    """One calibrated fit and what the judge says of it."""
    pairs = tt.load_pairs(name)
    train, held = pairs[:n], pairs[128 : 128 + HELD]
    batch = min(QUICK["batch_size"], n)
    training = QUICK | {"epochs": max(1, round(STEPS * batch / n)), "batch_size": batch}
    vector = tt.fit("cdas", model, train, layer=layer, seed=seed, calibration_pairs=held, **training)
    ways = {"elicit": ("elicit", vector.elicit()), "suppress": ("suppress", vector.suppress())}
    rows = measure(model, Task.of(name, PROMPTS), ways)
    trained = vector.provenance["training"]
    return {
        "name": name,
        "n": n,
        "seed": seed,
        "layer": layer,
        "multipliers": dict(vector.multipliers),
        "seconds": trained["seconds"],
        "loss": trained["loss_last_epoch"],
        **{way: list(row.score) for way, row in rows.items()},
    }


def _calibrated(name: str) -> dict[str, Any]:
    """What the calibration study found for a concept."""
    path = RESULTS / "calibration" / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing; run python -m studies.calibration {name} first")
    return json.loads(path.read_text(encoding="utf-8"))


def data(model: tt.Model, *, stale: bool) -> list[dict[str, Any]]:
    """Pairs and seeds."""
    found = []
    for name, layer in LAYERS.items():
        for n in PAIRS:
            for seed in SEEDS:
                make = lambda name=name, n=n, seed=seed, layer=layer: point(  # noqa: E731
                    model, name, layer, n=n, seed=seed
                )
                found.append(kept("limits", f"data-{name}-{n}-{seed}", make, _given(layer), stale=stale))
                sys.stderr.write(f"{name} {n} {seed}\n")
    return found


def source(*, stale: bool) -> list[dict[str, Any]]:
    """Source tokens."""
    found = []
    for place, tokens in enumerate(SOURCES):
        model = tt.load_model("organism", device="cpu", source_tokens=tokens)
        for name, layer in LAYERS.items():
            make = lambda name=name, layer=layer, model=model: point(model, name, layer)  # noqa: E731
            one = kept("limits", f"source-{place}-{name}", make, _given(layer), stale=stale)
            found.append({"source": tokens, **one})
            sys.stderr.write(f"{name} {tokens!r}\n")
    return found


def sizes(*, stale: bool) -> list[dict[str, Any]]:
    """Score on prompts of the pairs that were learnt from, and on held-out ones, by size of the model."""
    found = []
    for size in ("S", "M", "L"):
        path = BUILT / size / "model"
        known = there("limits", f"size-{size}-{NAMES[0]}") if stale else path / "config.json"
        if size != "S" and not known.is_file():
            sys.stderr.write(f"size {size}: {known} is not there; left out\n")
            continue
        model = tt.load_model("organism" if size == "S" or stale else path, device="cpu")
        for name in NAMES:
            make = lambda name=name, model=model: _gap(model, name)  # noqa: E731
            found.append({"size": size, **kept("limits", f"size-{size}-{name}", make, _given(None), stale=stale)})
            sys.stderr.write(f"{name} {size}\n")
    return found


def _given(layer: int | None) -> dict[str, Any]:
    return {"training": QUICK, "steps": STEPS, "prompts": PROMPTS, "held": HELD, "layer": layer}


def _gap(model: tt.Model, name: str) -> dict[str, Any]:
    pairs = tt.load_pairs(name)
    vector = tt.fit("cdas", model, pairs[:64], calibration_pairs=pairs[128:], **QUICK)
    found: dict[str, Any] = {"name": name, "layer": layer_words(vector).removeprefix("layer ")}
    for split in ("train", "test"):
        task = Task.of(name, PROMPTS, split=split)
        ways = {"elicit": ("elicit", vector.elicit()), "suppress": ("suppress", vector.suppress())}
        found |= {f"{split} {way}": list(row.score) for way, row in measure(model, task, ways).items()}
    return found


def print_data(results: list[dict[str, Any]]) -> None:
    """The table of pairs: mean of the seeds, the least and the greatest."""
    for way in ("elicit", "suppress"):
        lines = [f"| {way} | " + " | ".join(f"{n} pairs" for n in PAIRS) + " |", "| --- |" + " --- |" * len(PAIRS)]
        for name in NAMES:
            cells = []
            for n in PAIRS:
                means = [mean(r[way]) for r in results if r["name"] == name and r["n"] == n]
                cells.append(f"{mean(means):.2f} ({min(means):.2f} to {max(means):.2f})")
            lines.append(f"| {name} | {' | '.join(cells)} |")
        sys.stdout.write("\n".join(lines) + "\n\n")


def print_layers() -> None:
    """The best score of any multiplier at each layer, by the judge, for every concept of the calibration study."""
    grids = {name: _calibrated(name)["oracle"] for name in CALIBRATED}
    n_layers = 1 + max(layer for layer, *_ in grids[CALIBRATED[0]]["elicit"]["grid"])
    columns = " | ".join(map(str, range(n_layers)))
    lines = [f"| elicit, best at layer | {columns} |", "| --- |" + " --- |" * n_layers]
    for name, oracle in grids.items():
        best = [max(score for at, _, score in oracle["elicit"]["grid"] if at == layer) for layer in range(n_layers)]
        lines.append(f"| {name} | {' | '.join(f'{score:.2f}' for score in best)} |")
    sys.stdout.write("\n".join(lines) + "\n\n")


def print_rows(results: list[dict[str, Any]], key: str, columns: tuple[str, ...]) -> None:
    """A table with one row a result."""
    lines = [f"| {key} | concept | layer | " + " | ".join(columns) + " |", "| --- |" * 3 + " --- |" * len(columns)]
    lines += [
        f"| {_code(r[key])} | {r['name']} | {r['layer']} | {' | '.join(with_interval(r[c]) for c in columns)} |"
        for r in results
    ]
    sys.stdout.write("\n".join(lines).replace("| --- || --- || --- |", "| --- | --- | --- |") + "\n\n")


def _code(value: str) -> str:
    """Code in a table cell, where a bar must be escaped."""
    return f"`{value!r}`".replace("|", r"\|") if not value.isalnum() else value


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Scores by pairs and by layer; a band spans the seeds."""
    canvas = Figure(figsize=(10, 5.6), layout="constrained")
    panels = canvas.subplots(2, 2, sharey=True)
    for row, way in zip(panels, ("elicit", "suppress"), strict=True):
        for name in NAMES:
            grid = _calibrated(name)["oracle"][way]["grid"]
            means = [[mean(r[way]) for r in results if r["name"] == name and r["n"] == n] for n in PAIRS]
            style = {"color": COLOURS[name], "marker": "o"}
            row[0].plot(PAIRS, [mean(part) for part in means], label=name, **style)
            row[0].fill_between(
                PAIRS, *zip(*[(min(p), max(p)) for p in means], strict=True), color=COLOURS[name], alpha=0.15
            )
            layers = sorted({layer for layer, *_ in grid})
            row[1].plot(layers, [max(s for at, _, s in grid if at == layer) for layer in layers], **style)
        _dress(row[0], f"{way}: score, 0 to 2", "pairs learnt from (band: 3 seeds)")
        _dress(row[1], "", "layer (best multiplier, by the judge)")
        row[0].set_xscale("log", base=2)
        row[0].set_xticks(PAIRS, [str(n) for n in PAIRS])
    panels[0][0].legend(frameon=True)
    canvas.savefig(path, dpi=150)


def _dress(axes: Axes, y: str, x: str) -> None:
    axes.set_ylabel(y)
    axes.set_xlabel(x)
    axes.set_ylim(-0.05, 2.05)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Makes the curves that are named, or all, and prints their tables."""
    stale = sys.argv[1:] == ["table"]
    curves = ("data", "source", "sizes")
    wanted = curves if stale else sys.argv[1:] or curves
    if "data" in wanted:
        results = data(tt.load_model("organism", device="cpu"), stale=stale)
        print_data(results)
        print_layers()
        draw(results, DOCS / "limits.png")
    if "source" in wanted:
        print_rows(source(stale=stale), "source", ("elicit", "suppress"))
    if "sizes" in wanted:
        print_rows(sizes(stale=stale), "size", ("train elicit", "test elicit", "train suppress", "test suppress"))


if __name__ == "__main__":
    main()
