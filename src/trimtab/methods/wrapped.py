"""Methods that others wrap, and how one is fitted inside another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.norm_sites import CommonSettings, check_choice
from trimtab.fitting.settings import build_settings
from trimtab.methods.diffmean import DIFFMEAN
from trimtab.methods.linear_act import LINEAR_ACT
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Always, Edit, Gate

CHILDREN: Mapping[str, Method] = MappingProxyType({method.name: method for method in (DIFFMEAN, LINEAR_ACT)})
"""By name. Closed forms that are told a layer, and whose edits a strength scales."""
TOGETHER = frozenset({LINEAR_ACT.name})
"""Those that fit several layers at once, each behind those before; others are fitted at each by itself."""


def check_child(name: object) -> None:
    """Raise InputError unless a method of that name can be wrapped."""
    check_choice("child", name, tuple(CHILDREN))


def child_edits(
    name: str, model: Model, pairs: PairSet, layers: Sequence[int], settings: CommonSettings, options: FitOptions
) -> dict[str, list[Edit]]:
    """For each direction the edits of a child at the given layers, in order of execution.

    It is told positions, truncation and seed of the settings; everything else is its own default.

    Raises:
        InputError: As the child's; or it has a gate of its own.
    """
    child = CHILDREN[name]
    names = ("positions", "max_response_tokens", "truncate", "seed")
    common = {name: getattr(settings, name) for name in names}
    groups: Sequence[object] = [tuple(layers)] if name in TOGETHER else list(layers)
    found: dict[str, list[Edit]] = {}
    for layer in groups:
        vector = child.vector(model, pairs, build_settings(child.settings, {**common, "layer": layer}), options)
        for way, indices in vector.directions.items():
            found.setdefault(way, []).extend(vector.edits[index] for index in indices)
    return found


def gated(edit: Edit, gate: Gate) -> Edit:
    """The edit behind a gate.

    Raises:
        InputError: It has one already.
    """
    intervention = edit.intervention
    if not isinstance(intervention.gate, Always):
        raise InputError(f"an edit at {intervention.site} has a {intervention.gate.kind!r} gate already; wrap another")
    return dataclasses.replace(edit, intervention=dataclasses.replace(intervention, gate=gate))
