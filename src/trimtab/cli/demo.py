"""`trimtab demo`: the main job on the built-in model, in one command."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trimtab.cli.describe import layer_words, multipliers
from trimtab.cli.options import Json
from trimtab.cli.output import emit_json, number, print_table, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.evaluation.demo import ConceptResult

COLUMNS = ("concept", "instruction", "fluency", "score", "refusal_rate", "kl", "choice_accuracy")
SAMPLES = 3
FIGURE = "dose-response.png"


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for vectors and figure.")] = Path(
        "trimtab-demo"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier demo left in --out.")] = False,
    json_output: Json = False,
) -> None:
    """Fit, steer both ways and judge three concepts on the built-in model; layer and multiplier are found."""
    began = time.monotonic()
    with at_work():
        from trimtab.evaluation.demo import CONCEPTS, DemoSettings, study
        from trimtab.steering.folders import check_free

        for name in CONCEPTS:
            check_free(out / name, overwrite=overwrite)
        if (out / FIGURE).exists() and not overwrite:
            raise InputError(f"{out / FIGURE} exists; choose another --out, or replace it with --overwrite")
        from trimtab.models import load_model
        from trimtab.report.dose import draw_doses

        model = load_model("organism")
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in CONCEPTS:
        with at_work(), show_progress() as progress:
            result = study(model, name, DemoSettings(), progress)
        result.vector.save(out / name, overwrite=overwrite)
        results.append(result)
        if not json_output:
            _print_result(result, out / name)
    with at_work():
        draw_doses([_dose(result) for result in results], out / FIGURE)
    seconds = time.monotonic() - began
    if json_output:
        emit_json({"seconds": seconds, "concepts": [_json(result, out / result.name) for result in results]})
        return
    _print_next(results, out, seconds)


def _json(result: "ConceptResult", path: Path) -> dict[str, Any]:
    return {
        "name": result.name,
        "rows": {row: measured.record(result.choice_accuracy.get(row)) for row, measured in result.rows.items()},
        "controls": {row: measured.record() for row, measured in result.controls.items()},
        "vector": str(path),
        "layer": result.vector.edits[0].intervention.site.layer,
        "multiplier": multipliers(result.vector),
        "seconds": result.seconds,
    }


def _dose(result: "ConceptResult") -> Any:
    from trimtab.report.dose import Dose

    prompted = result.rows["prompted"].record()["score"]
    return Dose(result.name, result.doses, multipliers(result.vector), float(prompted or 0.0))


def _print_result(result: "ConceptResult", path: Path) -> None:
    found = _json(result, path)
    chosen = ", ".join(f"{direction} x {number(m)}" for direction, m in found["multiplier"].items())
    say(
        Text(f"{result.name}", style="bold"),
        f"{layer_words(result.vector)}, {chosen}; {result.seconds:.0f} s; {path}",
        "",
    )
    table = {**found["rows"], **{f"elicit, {name}": row for name, row in found["controls"].items()}}
    print_table(
        ("", *(name.replace("_", " ") for name in COLUMNS)),
        [[row, *(number(values[name]) for name in COLUMNS)] for row, values in table.items()],
    )
    say("")
    rows = [("elicit", result.task.free, "unsteered"), ("suppress", result.task.carrying, "prompted")]
    for direction, requests, before in rows:
        for k in range(SAMPLES if direction == "elicit" else 1):
            say(
                Text(f"{direction}: {requests[k].user}", style="dim"),
                f"  before  {result.rows[before].outputs[k]}",
                f"  after   {result.rows[direction].outputs[k]}",
            )
    say("")


def _print_next(results: "list[ConceptResult]", out: Path, seconds: float) -> None:
    first = results[-1]
    vector, prompt = shlex.quote(str(out / first.name)), shlex.quote(first.task.free[0].user)
    say(
        f"{len(results)} vectors and {FIGURE} in {out}, {seconds:.0f} s",
        "next:",
        f"  trimtab generate --model organism --vector {vector} {prompt}",
        f"  trimtab inspect {vector} --model organism",
        "  trimtab fit cdas --model YOUR_MODEL --pairs YOUR_PAIRS.jsonl --out vectors/mine",
    )
