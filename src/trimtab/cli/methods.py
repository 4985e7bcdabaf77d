"""`trimtab methods`: what `fit` can do."""

from trimtab.cli.options import Json
from trimtab.cli.output import emit_json, print_table


def methods(json_output: Json = False) -> None:
    """List the methods that can be fitted, with their papers."""
    from trimtab.methods import METHODS

    listed = list(METHODS.values())
    if json_output:
        emit_json({"methods": [{"name": m.name, "family": m.family, "paper": m.paper} for m in listed]})
    else:
        print_table(
            ("method", "family", "paper", "what it does"), [(m.name, m.family, m.paper, m.summary) for m in listed]
        )
