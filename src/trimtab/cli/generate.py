"""`trimtab generate`: text from a model, plain or steered."""

from contextlib import nullcontext
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from trimtab.cli.options import Device, Dtype, Force, Json, ModelName, SourceTokens, given
from trimtab.cli.output import emit_json, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.methods import Applied, Baseline
    from trimtab.models import Prompt
    from trimtab.steering import Steering, SteeringVector


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
    typed = [(path, {"direction": way, "multiplier": m}) for path, way, m in map(parse_steer, steer or [])]
    if vector is not None:
        chosen = given(direction=direction or "elicit", multiplier=multiplier, scale=scale)
        typed.insert(0, (vector, {"values": parse_values(at)} if at is not None else chosen))
    settings = given(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size)
    with at_work():
        from trimtab.methods import Applied, Baseline, applied, load_steerable
        from trimtab.models import load_model
        from trimtab.models.compat import adopted, require_fit

        saved = [(load_steerable(path), choice) for path, choice in typed]
        vectors = [(one, choice) for one, choice in saved if not isinstance(one, Baseline)]
        baseline = _one_baseline([(one, choice) for one, choice in saved if isinstance(one, Baseline)])
        steerings = [_resolve(one, choice) for one, choice in vectors]
        loaded = load_model(model, device=device, dtype=dtype, source_tokens=source_tokens)
        for one, _ in vectors:
            require_fit(loaded, one, force=force)
        own = [adopted(loaded, steering, force=force) for steering in steerings]
        steering = reduce(add, own) if own else None
    work = nullcontext(Applied()) if baseline is None else applied(loaded, *baseline, force=force)
    with at_work(), show_progress() as progress, work as working:
        asked = wanted if working.keeps_prompts else _changed(wanted, working, system, raw=raw)
        texts = loaded.generate(
            asked,
            steering=steering,
            system=system if working.keeps_prompts else None,
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


def _one_baseline(found: "list[tuple[Baseline, dict[str, Any]]]") -> "tuple[Baseline, str, float | None] | None":
    """The one baseline that was typed, with direction and multiplier; it may stand beside vectors."""
    if not found:
        return None
    if len(found) > 1:
        raise InputError(
            f"{' and '.join(one.method for one, _ in found)} are baselines, of which one at a time can be at work"
        )
    baseline, choice = found[0]
    if {"values", "scale"} & choice.keys():
        raise InputError(f"--at and --scale are about a vector's coordinate, and {baseline.method} is a baseline")
    return baseline, choice["direction"], choice.get("multiplier")


def _changed(prompts: "list[str]", working: "Applied", system: str | None, *, raw: bool) -> "list[Prompt]":
    """Prompts as a baseline changes them: its system prompt in front of the one that was typed."""
    if raw:
        raise InputError("--raw takes prompts as they are, and a prompt in front of them needs the chat template")
    from trimtab.models.messages import as_messages, with_system

    turns = [as_messages(text) for text in prompts]
    return [working.prompt(each if system is None else with_system(each, system)) for each in turns]


def _resolve(vector: "SteeringVector", choice: dict[str, Any]) -> "Steering":
    """What one vector does to a row: clamp to typed values, or turn in a direction."""
    return vector.at(*choice["values"]) if "values" in choice else vector.steering(**choice)


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
