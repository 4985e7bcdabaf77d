"""What `eval` and `recipe` print: the tables of a summary, and what a run would cost."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.output import emit_json, number, print_table, say

if TYPE_CHECKING:
    from trimtab.clients.cost import Estimate
    from trimtab.evaluation.evaluate import Cost


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Every table of a summary, its notes, and what to do next."""
    for table in summary["tables"]:
        say(table["title"])
        columns = table["columns"]
        print_table(
            ("", *(column["label"] for column in columns)),
            [
                [row["label"], *(_cell(row["values"].get(column["key"]), column) for column in columns)]
                for row in table["rows"]
            ],
        )
        say("")
    for note in summary["notes"]:
        say(f"note: {note}")
    counts = ", ".join(f"{n} {what}" for what, n in summary["counts"].items())
    say(f"{out}: {counts}", "next:", f"  trimtab report {shlex.quote(str(out))}")


def _cell(value: Any, column: Mapping[str, Any]) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    digits = column["digits"]
    text = f"{value['value']:.{digits}f}"
    if value["low"] is None or value["high"] is None:
        return text
    return f"{text} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def print_cost(found: "Cost", json_output: bool) -> None:
    """What a run would write and ask, in words or as one JSON object."""
    judge = found.judge
    if json_output:
        emit_json(
            {
                "generations": found.generations,
                "new_tokens": found.new_tokens,
                "ratings": found.ratings,
                "judge": None if judge is None else _estimate(judge),
            }
        )
        return
    say(f"{found.generations} texts, at most {found.new_tokens} new tokens; {found.ratings} questions to the judge")
    if judge is not None:
        price = "" if judge.price is None else f", {number(judge.price)} in the currency of the prices"
        say(
            f"{judge.calls} calls to the endpoint ({judge.cached} of them in the cache), about {judge.input_tokens} "
            f"tokens in and at most {judge.output_tokens} out{price}"
        )
    say("nothing was written and nobody asked")


def _estimate(found: "Estimate") -> dict[str, Any]:
    return {
        "calls": found.calls,
        "cached": found.cached,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
        "price": found.price,
    }
