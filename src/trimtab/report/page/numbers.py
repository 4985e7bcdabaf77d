"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
GROUP = "\N{THIN SPACE}"
_NOISE = 1e-9
"""What is nearer to zero is a rounding error of sums, and shown as zero."""


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point: fewer for large ones, a bound for one that would read as zero."""
    if value is None:
        return DASH
    size = 0.0 if abs(value) < _NOISE else abs(value)
    if size >= 1e12:
        return f"{value:.{digits}e}".replace("-", MINUS)
    digits = 0 if size >= 10_000 else min(digits, 1) if size >= 1_000 else digits
    sign = MINUS if value < 0 else ""
    if 0 < size < 0.5 * 10**-digits:
        return f"{'> ' if value < 0 else '< '}{sign}{10.0**-digits:.{digits}f}"
    text = f"{size:,.{digits}f}".replace(",", GROUP)
    return text if float(f"{size:.{digits}f}") == 0 else f"{sign}{text}"


def exact(value: float) -> str:
    """A number with six significant digits, and no more than it has."""
    return f"{value:.6g}".replace("-", MINUS)


def short(value: float) -> str:
    """A number with three significant digits: a multiplier, a value of a probe."""
    return f"{value:.3g}".replace("-", MINUS)


def whole(value: float) -> str:
    """A count, in groups of three."""
    return f"{value:,.0f}".replace(",", GROUP) if float(value).is_integer() else exact(value)


def digits_for(values: Sequence[float]) -> int:
    """Digits behind the point that tell numbers apart: the more, the nearer together they are; 0 to 4."""
    present = sorted({*values})
    if not present or all(float(value).is_integer() for value in present):
        return 0
    spread = (present[-1] - present[0]) or abs(present[0])
    return next((digits for digits in range(1, 4) if spread >= 2 * 10.0 ** (1 - digits)), 4)


def counted(n: int, one: str, many: str | None = None) -> str:
    """`1 run`, `2 runs`."""
    return f"{whole(n)} {one if n == 1 else many or f'{one}s'}"
