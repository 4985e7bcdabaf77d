"""`trimtab report`: runs become one page to read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import Json
from trimtab.cli.output import emit_json, say
from trimtab.cli.quiet import at_work

if TYPE_CHECKING:
    from trimtab.report.page.blocks import RunReport

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories that `trimtab eval --out` wrote.")]


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page to write.")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --out names.")] = False,
    json_output: Json = False,
) -> None:
    """Make one HTML page of finished runs: tables, figures, texts side by side, and how to reproduce them."""
    with at_work():
        from trimtab.report.page.page import make_page
        from trimtab.report.page.saving import check_page, save_page

        check_page(out, overwrite=overwrite)
        reports = read_reports(runs)
        page = make_page(reports)
        size = save_page(page.html, out, overwrite=overwrite)
    if json_output:
        names = [found.name for found in reports]
        emit_json({"report": str(out), "runs": names, "bytes": size, "left_out": page.left_out})
        return
    left_out = f"; {page.left_out} samples had no room and stay in the records" if page.left_out else ""
    say(f"{out}: {len(reports)} run{'s' if len(reports) > 1 else ''}, {size / 1e6:.1f} MB{left_out}")


def read_reports(paths: "list[Path]") -> "list[RunReport]":
    """The runs in these directories, each under a name that no other has."""
    from trimtab.report.page.reading import names_of, read_report

    return [read_report(path, name) for path, name in zip(paths, names_of(paths), strict=True)]
