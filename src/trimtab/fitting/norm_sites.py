"""Methods that choose their places by themselves, or take several: what they are told, and the norms of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trimtab.errors import InputError
from trimtab.fitting.closed import ClosedSettings
from trimtab.models.families import hook_point
from trimtab.models.model import Model
from trimtab.steering import Site

SITES = ("resid_post", "norm_out")
"""Where such a method edits: block outputs, or the outputs of the norms at the entrance of the branches."""


@dataclass(frozen=True)
class CommonSettings:
    """What every method has to be told that takes several layers, or finds its places by itself.

    Args:
        positions: Which tokens are edited: all, prompt, response, last, f<N>+l<M>.
        max_response_tokens: Cut responses to this many tokens; None = whole.
        truncate: Cut responses that do not fit the context instead of refusing them.
        seed: Seeds whatever is drawn.

    Raises:
        InputError: A setting outside its range.
    """

    positions: str = "all"
    max_response_tokens: int | None = None
    truncate: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        _ = self.closed("tokens")

    def closed(self, reading: str) -> ClosedSettings:
        """The same as settings of a closed form that reads in one way, whose layer means nothing."""
        return ClosedSettings(0, self.positions, reading, self.max_response_tokens, self.truncate, self.seed)


@dataclass(frozen=True)
class ReadSettings(CommonSettings):
    """The same of a method that reads both classes in one way.

    Args:
        reading: What of a row is learnt from, see `ClosedSettings`.

    Raises:
        InputError: A setting outside its range.
    """

    reading: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.closed(self.reading)


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise InputError unless the value of a setting is one of those allowed."""
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; allowed: {', '.join(map(str, allowed))}")


class Places(NamedTuple):
    """Sites in order of execution, and why they are not those asked for ("" if they are)."""

    sites: tuple[Site, ...]
    reason: str


def places(model: Model, kind: str, layers: Sequence[int]) -> Places:
    """The sites of one of `SITES` in the given blocks.

    In families whose blocks have no norms at the entrance of their branches (OLMo 2) block outputs take their place.

    Raises:
        InputError: A block the model does not have.
    """
    for layer in layers:
        model.check_layer(layer)
    outputs = tuple(Site(layer) for layer in layers)
    if kind == "resid_post":
        return Places(outputs, "")
    found: list[Site] = []
    for layer in layers:
        norms, reason = _norms(model, layer)
        if not norms:
            return Places(outputs, f"block outputs instead of norms: {reason}")
        found += norms
    return Places(tuple(found), "")


def _norms(model: Model, layer: int) -> tuple[list[Site], str]:
    """The norms of a block, and what was said where they end."""
    found: list[Site] = []
    while True:
        site = Site(layer, "norm_out", part=len(found))
        try:
            hook_point(model.layout.blocks[layer], site, model.layout.model_type)
        except InputError as error:
            return found, str(error)
        found.append(site)
