"""`trimtab datasets`: the contrast data that can be loaded by name."""

from dataclasses import asdict

from trimtab.cli.options import Json
from trimtab.cli.output import emit_json, print_table


def datasets(json_output: Json = False) -> None:
    """List the contrast data that `fit --pairs` knows by name."""
    from trimtab.data import builtin_datasets

    listed = builtin_datasets()
    if json_output:
        emit_json({"datasets": [asdict(entry) for entry in listed]})
    else:
        rows = [(entry.name, str(entry.rows), entry.licence, entry.description) for entry in listed]
        print_table(("name", "pairs", "licence", "what it is"), rows)
