"""`trimtab distill`: a system prompt becomes a vector."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.describe import layer_words, multipliers
from trimtab.cli.fit import diverged
from trimtab.cli.generate import prompt_lines
from trimtab.cli.options import LAYER, Device, Dtype, Json, ModelName, NoCalibrate, SourceTokens, given, parse_layer
from trimtab.cli.output import emit_json, number, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import FitDivergedError, InputError

if TYPE_CHECKING:
    from trimtab.models import Prompt


def distill(
    system: Annotated[str, typer.Argument(metavar="SYSTEM_PROMPT", help="What the vector shall do in its place.")],
    model: ModelName,
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            metavar="FILE|NAME",
            help="Instructions, one a line; or a name of `datasets`: its plain prompts.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to save the vector in.")],
    method: Annotated[str, typer.Option("--method", metavar="METHOD", help="A method of `trimtab methods`.")] = "cdas",
    layer: Annotated[
        str,
        typer.Option(
            "--layer", metavar=LAYER, help="0-based block whose output is edited; auto finds it, for both directions."
        ),
    ] = "auto",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Longest answer to learn from.")] = 128,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the pairs.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate of the first step.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Pairs a step of the fit.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Start vector and order of the pairs.")] = None,
    no_calibrate: NoCalibrate = False,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the vector that --out holds.")] = False,
    json_output: Json = False,
) -> None:
    """Turn a system prompt into a vector: the model answers with and without it, and the answers become the pairs."""
    block = parse_layer(layer)
    from trimtab.steering.folders import check_free

    check_free(out, overwrite=overwrite)
    settings = given(epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    with at_work():
        from trimtab.evaluation.distilled import distill as distilled
        from trimtab.methods import check_fit
        from trimtab.models import load_model

        check_fit(method, block, settings)
        asked = _asked(prompts)
        loaded = load_model(model, device=device, dtype=dtype, source_tokens=source_tokens)
    try:
        with at_work(), show_progress() as progress:
            result = distilled(
                loaded,
                system,
                asked,
                method=method,
                layer=block,
                calibrate=not no_calibrate,
                max_new_tokens=max_new_tokens,
                settings=settings,
                progress=progress,
            )
    except FitDivergedError as error:
        raise InputError(diverged(error, out, overwrite=overwrite)) from error
    vector, pairs = result.vector, result.pairs
    vector.save(out, overwrite=overwrite)
    summary: dict[str, Any] = {
        "vector": str(out),
        "method": method,
        "layer": vector.edits[0].intervention.site.layer,
        "pairs": len(pairs),
        "skipped": pairs.skipped,
        "multiplier": multipliers(vector),
        "comparison": dataclasses.asdict(result.comparison),
    }
    if json_output:
        emit_json(summary)
    else:
        _print(summary, layer_words(vector), model)


def _asked(name: str) -> "list[Prompt]":
    """The prompts of a file, or the negative inputs of a built-in set, each once."""
    from trimtab.data import load_pairs
    from trimtab.data.builtin import is_builtin

    if not is_builtin(name):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"--prompts {name}: neither a file nor a name of `trimtab datasets`")
        return list(dict.fromkeys(prompt_lines(path)))
    found = {}
    for pair in load_pairs(name):
        found.setdefault(repr(pair.negative_input), pair.negative_input)
    return list(found.values())


def _print(summary: dict[str, Any], where: str, model: str) -> None:
    found, out = summary["comparison"], summary["vector"]
    say(
        f"{summary['method']} at {where} from {summary['pairs']} pairs"
        + (f" ({summary['skipped']} prompts were answered alike and left out)" if summary["skipped"] else ""),
        f"on {found['n']} prompts it has not seen:",
        f"  answers that read as prompted   plain {found['effect_plain']:.0%}, prompt {found['effect_prompt']:.0%}, "
        f"vector {found['effect_vector']:.0%}",
        f"  KL to the prompted model        plain {number(found['kl_plain'])}, vector {number(found['kl_vector'])} "
        "nats a token",
        f"  prompt tokens saved a request   {found['tokens_saved']:.1f}",
        f"saved in {out}",
        f"next: trimtab generate --model {shlex.quote(model)} --vector {shlex.quote(out)} 'Your prompt'",
    )
