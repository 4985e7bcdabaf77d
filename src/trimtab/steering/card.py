"""The README.md written beside a vector: a model card for people and for the Hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.steering.vector import SteeringVector


def model_card_text(vector: SteeringVector) -> str:
    """Markdown with front matter that the Hub understands."""
    concept = " ".join(str(vector.provenance.get("concept") or "unnamed concept").split())
    model = json.dumps(str(vector.model.id), ensure_ascii=False)  # a quoted string in YAML and in Python alike
    sites = ", ".join(sorted({str(edit.intervention.site) for edit in vector.edits}))
    lines = [
        "---",
        "library_name: trimtab",
        f"base_model: {model}",
        "tags: [steering-vector]",
        "---",
        "",
        f"# Steering vector: {concept}",
        "",
        f"Made with `{vector.method}` for `{vector.model.id}` (hidden size {vector.model.hidden_size}, "
        f"{vector.model.n_blocks} blocks). Edits {sites}; directions: {', '.join(vector.directions)}.",
        "",
        *_factor_table(vector),
        "```python",
        "import trimtab as tt",
        "",
        f"model = tt.load_model({model})",
        'vector = tt.SteeringVector.load("PATH/OF/THIS/FOLDER")',
        f'print(model.generate(["Hello"], steering=[vector.{next(iter(vector.directions))}()]))',
        "```",
        "",
        f"Content hash: `{vector.content_hash}`",
    ]
    return "\n".join(lines) + "\n"


def _factor_table(vector: SteeringVector) -> list[str]:
    rows = [
        f"| {edit.intervention.site} | {name} | {_numbers(side.mean)} | {_numbers(side.std)} | {side.n} |"
        for edit in vector.edits
        if edit.factors is not None
        for name, side in (("positive", edit.factors.positive), ("negative", edit.factors.negative))
    ]
    if not rows:
        return []
    return ["| site | class | mean of the coordinate | std | n |", "| --- | --- | --- | --- | --- |", *rows, ""]


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
