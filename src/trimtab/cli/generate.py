"""`trimtab generate`: text from a model, plain or steered."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from trimtab.cli.options import Device, Dtype, Force, Json, ModelName, SourceTokens, given
from trimtab.cli.output import emit_json, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import InputError


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to answer.")] = None,
    *,
    model: ModelName,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", exists=True, dir_okay=False, readable=True, help="Prompts, one a line."
        ),
    ] = None,
    vector: Annotated[
        Path | None, typer.Option("--vector", metavar="DIR", help="Steer with this saved vector.")
    ] = None,
    direction: Annotated[
        Literal["elicit", "suppress"] | None,
        typer.Option("--direction", help="Bring the concept out (the default), or take it away."),
    ] = None,
    multiplier: Annotated[
        float | None,
        typer.Option("--multiplier", metavar="X", help="1 = as learned; omitted = calibrated if stored, else 1."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="VALUE", help="Clamp the coordinate to this value (A,B at rank 2).")
    ] = None,
    scale: Annotated[
        Literal["gap", "published"] | None,
        typer.Option("--scale", help="What the multiplier moves along: the classes' gap (default), or the factor."),
    ] = None,
    steer: Annotated[
        list[str] | None,
        typer.Option(
            "--steer", metavar="DIR:elicit:1.5", help="Repeatable; several act together. Multiplier optional."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system prompt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Prompts as they are, without the chat template.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Longest answer; 128 if not given.")
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 = greedy, the default.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the sampling.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Prompts answered at a time; 8 if not given.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Generate from a model, plain or steered by saved vectors, or with a saved baseline at work."""
    wanted = [*(prompts or []), *(prompt_lines(prompts_file) if prompts_file else [])]
    if not wanted:
        raise InputError("no prompt given; type one as an argument, or --prompts FILE with one a line")
    if vector is None and (direction, multiplier, at, scale) != (None,) * 4:
        raise InputError("--direction, --multiplier, --at and --scale need --vector DIR, which they apply to")
    if at is not None and (direction, multiplier, scale) != (None,) * 3:
        raise InputError(f"--at {at}: sets the value itself; leave out --direction, --multiplier and --scale")
    typed: list[tuple[Path, dict[str, Any]]] = [
        (path, {"direction": way, "multiplier": m}) for path, way, m in map(parse_steer, steer or [])
    ]
    if vector is not None:
        chosen = given(direction=direction or "elicit", multiplier=multiplier, scale=scale)
        typed.insert(0, (vector, {"values": tuple(parse_values(at))} if at is not None else chosen))
    settings = given(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size)
    with at_work():
        from trimtab.methods import load_steerable
        from trimtab.methods.steerable import Use, applied_together, check_together
        from trimtab.models import load_model

        uses = [Use(load_steerable(path), **choice) for path, choice in typed]
        check_together(uses)
        loaded = load_model(model, device=device, dtype=dtype, source_tokens=source_tokens)
    with at_work(), show_progress() as progress, applied_together(loaded, uses, force=force) as working:
        texts = loaded.generate(
            working.prompts(wanted, system, raw=raw),
            steering=working.steering,
            raw=raw,
            force=force,
            progress=progress,
            **settings,
        )
    if json_output:
        emit_json({"outputs": [{"prompt": p, "text": text} for p, text in zip(wanted, texts, strict=True)]})
        return
    for number, (prompt, text) in enumerate(zip(wanted, texts, strict=True)):
        if len(wanted) > 1:
            say(*([""] if number else []), Text(f"> {prompt}", style="bold"))
        say(text)


def parse_steer(text: str) -> tuple[Path, str, float | None]:
    """The parts of `--steer DIR:DIRECTION[:MULTIPLIER]`; the directory may hold colons.

    Raises:
        InputError: no direction in it, or a multiplier that is no number.
    """
    path, _, last = text.rpartition(":")
    if path and last in ("elicit", "suppress"):
        return Path(path), last, None
    path, _, direction = path.rpartition(":")
    if path and direction in ("elicit", "suppress"):
        try:
            return Path(path), direction, float(last)
        except ValueError:
            raise InputError(f"--steer {text}: {last!r} is no number; write DIR:{direction}:1.5") from None
    raise InputError(f"--steer {text}: write DIR:elicit, DIR:suppress, or DIR:elicit:1.5 with a multiplier")


def parse_values(text: str) -> list[float]:
    """The numbers of `--at`: one, or one a rank with commas between.

    Raises:
        InputError: a part is no number.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--at {text}: takes numbers, one a rank with commas between, such as 3.5 or 3.5,-1") from None


def prompt_lines(path: Path) -> list[str]:
    """The prompts of a file, one a line; empty lines are left out."""
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"--prompts {path}: not a UTF-8 text file (byte {error.start}); save it as UTF-8") from None
