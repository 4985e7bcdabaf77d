"""The flags that several commands share, spelled once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
ModelName = Annotated[str, typer.Option("--model", metavar="M", help="A Hugging Face model id, or a directory.")]
Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="DTYPE", help="float32, bfloat16, float16.")]
SourceTokens = Annotated[
    str | None,
    typer.Option(
        "--source-tokens",
        metavar="TEXT",
        help="Assistant header of the chat template; its last token is the source position.",
    ),
]
VectorPath = Annotated[Path, typer.Option("--vector", metavar="DIR", help="A saved vector's directory.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Apply it although family, template, prefix or an adapter's weights are not those it knows.",
    ),
]
NoCalibrate = Annotated[
    bool,
    typer.Option("--no-calibrate", help="Learn from all pairs, and do not look for the best multiplier: it is 1."),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting of the method, such as divergence=reverse; may be repeated.",
    ),
]

AUTO = ("auto", "auto:elicit", "auto:suppress")
"""What `--layer` takes besides numbers."""
LAYER = "N|N,M|auto|auto:elicit|auto:suppress"


def parse_layer(text: str) -> int | list[int] | str:
    """The block number of `--layer`, several of them, or one of `AUTO`.

    Raises:
        InputError: it is neither.
    """
    if text in AUTO:
        return text
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--layer {text}: takes a 0-based block number (--layer 12), several (--layer 8,12), {', '.join(AUTO)}"
        ) from None
    return numbers if len(numbers) > 1 else numbers[0]


def named_settings(
    words: Sequence[str], flags: Mapping[str, Any], option: str = "--set", example: str = "divergence=reverse"
) -> dict[str, Any]:
    """The settings of `--set NAME=VALUE`: numbers, true, false and null as in JSON, anything else as text.

    Args:
        words: As they were typed.
        flags: What flags of their own say, which must not be said twice.
        option: The option that they were typed behind.
        example: What it takes, for errors.

    Raises:
        InputError: A word without `=`, or a setting that is given twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise InputError(f"{option} {word}: takes NAME=VALUE, such as {option} {example}")
        if name in found or name in flags:
            raise InputError(f"{option} {word}: {name} is given twice; say it once")
        if name == "layer":
            raise InputError(f"{option} {word}: use --layer")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[name] = text if isinstance(value, dict | list) else value
    return found


def given(**settings: Any) -> dict[str, Any]:
    """The settings that were typed, without those left to the method's own defaults (None)."""
    return {name: value for name, value in settings.items() if value is not None}
