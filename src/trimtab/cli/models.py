"""`trimtab models`: the built-in model, the families whose parts are known, and how any other is found."""

from dataclasses import asdict

from trimtab.cli.options import Json
from trimtab.cli.output import emit_json, print_table, say

_OTHERS = (
    "Any other decoder-only Hugging Face model is found by its structure: one list of config.num_hidden_layers blocks,",
    "and a forward of eight tokens that shows them to run in order, causally, up to the head; else it is refused.",
    "Such a model is steered between its blocks; sites inside a block are tried under Llama's names.",
)


def models(json_output: Json = False) -> None:
    """List the built-in model and the families whose parts are known, and say how any other is found."""
    from trimtab.models.families import FAMILIES
    from trimtab.organism.model import DESCRIPTION, NAME, is_there

    builtin = [{"name": NAME, "description": DESCRIPTION}] if is_there() else []

    if json_output:
        emit_json(
            {
                "builtin": builtin,
                "models": [{"name": name, **asdict(parts)} for name, parts in FAMILIES.items()],
            }
        )
        return
    for model in builtin:
        say(f"built in: {model['name']}, a {model['description']}", "")
    rows = [(name, parts.attention, parts.mlp, ", ".join(parts.norms)) for name, parts in FAMILIES.items()]
    print_table(("family", "attention", "mlp", "norms"), rows)
    say("", *_OTHERS)
