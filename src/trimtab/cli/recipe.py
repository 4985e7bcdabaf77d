"""`trimtab recipe`: everything that an experiment needs, from one file by one command."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.evaluate import typed
from trimtab.cli.options import Device, Json
from trimtab.cli.output import emit_json, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.cli.summary import print_summary

if TYPE_CHECKING:
    from trimtab.evaluation.recipe import Recipe

PAGE = "report.html"


def recipe(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="A recipe, such as those in recipes/.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for vectors, runs and page.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Where its data files lie; by default beside the recipe."),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same on a tiny random model of the family, in a moment, without files.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it needs and does, and do nothing.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Rows a forward of evaluations.")] = 32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin its checks anew; vectors of contenders that stayed are kept.")
    ] = False,
    device: Device = None,
    json_output: Json = False,
) -> None:
    """Fit what a recipe names, check it, and make the page; started again, it goes on where it was."""
    with at_work():
        from trimtab.evaluation.recipe import Recipe
        from trimtab.evaluation.recipe_run import run_recipe
        from trimtab.evaluation.records import Run

        read = Recipe.read(path)
    if dry_run:
        _tell(read, json_output=json_output)
        return
    if not json_output:
        _open(read, smoke=smoke)
    with at_work(), show_progress() as progress:
        wanted = read.smoked(out / "model") if smoke else read.beside(path.parent if data is None else data)
        command = typed(context)
        runs = run_recipe(
            wanted,
            out,
            smoke=smoke,
            device=device,
            batch_size=batch_size,
            overwrite=overwrite,
            command=command,
            progress=progress,
        )
    with at_work():
        from trimtab.cli.report import read_reports
        from trimtab.report.page.page import make_page
        from trimtab.report.page.saving import save_page

        save_page(make_page(read_reports(runs)).html, out / PAGE, overwrite=True)
        summaries = [Run.read(run).summary for run in runs]
    if json_output:
        emit_json(
            {
                "report": str(out / PAGE),
                "runs": [
                    {"run": str(run), "protocol": summary["protocol"], "tables": summary["tables"]}
                    for run, summary in zip(runs, summaries, strict=True)
                ],
            }
        )
        return
    for run, summary in zip(runs, summaries, strict=True):
        print_summary(summary, run)
    say(f"page: {out / PAGE}")


def _open(read: "Recipe", *, smoke: bool) -> None:
    """What people should know before it begins."""
    for key, value in read.about.items():
        say(f"{key}: {_words(value)}")
    if smoke:
        say("smoke run: a tiny random model, so its numbers mean nothing")
    say("")


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)


def _tell(read: "Recipe", *, json_output: bool) -> None:
    """What a recipe needs and does."""
    if json_output:
        emit_json(
            {
                "about": dict(read.about),
                "model": read.model.name,
                "pairs": read.pairs.source,
                "contenders": {label: one.method for label, one in read.contenders.items()},
                "evaluations": {name: one.protocol for name, one in read.evaluations.items()},
            }
        )
        return
    _open(read, smoke=False)
    say(f"model: {read.model.name}", f"pairs: {read.pairs.source}")
    concepts = f"{len(read.concepts)} concepts" if read.concepts else "every concept of the pairs"
    say(f"fits: {', '.join(f'{label} ({one.method})' for label, one in read.contenders.items())}, for {concepts}")
    for name, one in read.evaluations.items():
        judge = "" if one.judge is None else f", judged by {one.judge.judge}"
        say(f"checks: {name} ({one.protocol}{judge})")
    say("nothing was done")
