"""`trimtab detect`: the vector read as a probe, token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trimtab.cli.options import Device, Dtype, Force, Json, ModelName, SourceTokens, VectorPath
from trimtab.cli.output import emit_json, number, say, stdout
from trimtab.cli.quiet import at_work

if TYPE_CHECKING:
    from torch import Tensor


def detect(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts to read.")],
    model: ModelName,
    vector: VectorPath,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    force: Force = False,
    json_output: Json = False,
) -> None:
    """Show the vector's coordinate at every token of a text."""
    with at_work():
        from trimtab.models import coordinates, load_model
        from trimtab.models.compat import require_fit
        from trimtab.steering import SteeringVector

        saved = SteeringVector.load(vector)
        loaded = load_model(model, device=device, dtype=dtype, source_tokens=source_tokens)
        require_fit(loaded, saved, force=force)
        read = coordinates(loaded, saved, texts)
    if json_output:
        emit_json({"texts": [{"tokens": list(row.tokens), "values": plain(row.values)} for row in read]})
        return
    factors = saved.edits[0].factors
    low, high = (0.0, 0.0) if factors is None else (factors.negative.mean[0], factors.positive.mean[0])
    if factors is not None:
        say(f"negative {number(low)}, positive {number(high)}")
    for row in read:
        if stdout().is_terminal:
            say(coloured(row.tokens, row.values[:, 0].tolist(), low, high))
        else:
            lines = zip(row.tokens, row.values.tolist(), strict=True)
            say(*(f"{' '.join(f'{number(value):>10}' for value in values)}  {token!r}" for token, values in lines), "")


def plain(values: "Tensor") -> list[Any]:
    """The coordinates (s, r) of a text: one number a token at rank 1, a list of them above."""
    return (values[:, 0] if values.shape[1] == 1 else values).tolist()


def coloured(tokens: Sequence[str], values: Sequence[float], negative: float, positive: float) -> Text:
    """The text with every token on a ground from blue (as the negative class) over none to red (as the positive).

    Without factors (both 0) the scale spans the text's own largest coordinate.
    """
    middle, half = (negative + positive) / 2, (positive - negative) / 2
    half = half or max((abs(value - middle) for value in values), default=0.0) or 1.0
    text = Text()
    for token, value in zip(tokens, values, strict=True):
        share = max(-1.0, min(1.0, (value - middle) / half))
        strong, weak = 70 + round(150 * abs(share)), 50
        ground = f"rgb({strong},{weak},{weak})" if share > 0 else f"rgb({weak},{weak},{strong})"
        text.append(token, style=f"white on {ground}" if abs(share) > 0.15 else "")
    return text
