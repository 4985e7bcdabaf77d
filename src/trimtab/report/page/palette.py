"""The page's colours, for light and for dark grounds, as CSS variables.

A figure is drawn once, in `SENTINELS`, and each of them is then replaced by its variable. Series are told apart by hue
and lightness together, which every common kind of colour blindness leaves apart (after Okabe and Ito).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

STEPS = 21
"""Colours of a scale; of one with a middle, the middle is `STEPS // 2`."""

_LIGHT = {
    "ground": "#fdfdfb",
    "raised": "#f5f6f4",
    "ink": "#1c2128",
    "muted": "#5a6270",
    "line": "#dfe1e4",
    "faint": "#c3c8cf",
    "accent": "#0b5cad",
    "warn-ground": "#fcf1d9",
    "warn-ink": "#6b4300",
    "warn-line": "#d9a036",
    "series-0": "#0069b4",
    "series-1": "#c04f00",
    "series-2": "#007d5a",
    "series-3": "#a2387f",
    "series-4": "#806000",
    "series-5": "#454c57",
}
_DARK = {
    "ground": "#14171b",
    "raised": "#1c2026",
    "ink": "#e3e6ea",
    "muted": "#a1a9b5",
    "line": "#2d333b",
    "faint": "#4a525d",
    "accent": "#74b6f5",
    "warn-ground": "#33270f",
    "warn-ink": "#f6d796",
    "warn-line": "#a87b26",
    "series-0": "#5cb3f0",
    "series-1": "#f58b4a",
    "series-2": "#35c79c",
    "series-3": "#e593c8",
    "series-4": "#dfc13e",
    "series-5": "#c3c9d2",
}
SERIES = tuple(name for name in _LIGHT if name.startswith("series-"))
"""Names of the colours of series, in the order in which they are given out."""

_SCALES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "light": {"heat": ("#f1f5f9", "#7fb2dc", "#0c4a85"), "turn": ("#f3a767", "#f7f6f3", "#86bdec")},
    "dark": {"heat": ("#1d2731", "#2f6ea6", "#9fd0fa"), "turn": ("#914a0c", "#22272e", "#17609c")},
}
"""The corners of the scales: `heat` from little to much, `turn` from negative over nothing to positive."""


def scheme(name: str) -> Mapping[str, str]:
    """The colours of a scheme (`light` or `dark`) by name of variable, scales and the inks on them included."""
    colours = dict(_LIGHT if name == "light" else _DARK)
    for scale, corners in _SCALES[name].items():
        for step in range(STEPS):
            ground = _between(corners, step / (STEPS - 1))
            colours[f"{scale}-{step}"] = ground
            colours[f"{scale}-ink-{step}"] = max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, ground))
    return colours


def variables(name: str) -> str:
    """A scheme as CSS declarations."""
    return "".join(f"--{key}:{value};" for key, value in scheme(name).items())


SENTINELS: Mapping[str, str] = {f"#0102{k:02x}": name for k, name in enumerate(_LIGHT)}
"""What stands in a drawing for a variable."""
_BY_NAME = {name: sentinel for sentinel, name in SENTINELS.items()}


def sentinel(name: str) -> str:
    """The colour that is drawn in the place of a variable."""
    return _BY_NAME[name]


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1 (WCAG 2)."""
    red, green, blue = map(_linear, _channels(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _between(corners: Sequence[str], share: float) -> str:
    """The colour at a share of the way along the corners."""
    at = share * (len(corners) - 1)
    k = min(int(at), len(corners) - 2)
    pairs = zip(_channels(corners[k]), _channels(corners[k + 1]), strict=True)
    return "#" + "".join(f"{round(255 * ((1 - (at - k)) * a + (at - k) * b)):02x}" for a, b in pairs)


def _channels(colour: str) -> list[float]:
    return [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
