"""Lin-AcT and its relatives: an affine map a feature that carries one class's states onto the other's.

Source: "Controlling Language and Diffusion Models by Transporting Activations", arXiv 2410.23054 (apple/ml-act).

    linear:    slope = cov(u, w) / var(u) over the sorted pairs, shift = mean w - slope mean u
    gaussian:  slope = s_w / s_u, the same shift             mean: slope 1
    h' = h + m (slope * h + shift - h)        m in [0, 1] interpolates, beyond 1 it extrapolates

u are states of the class that is carried, w of the other, a row the mean over a prompt with its response. `elicit`
carries negative states onto positive ones; `suppress` has maps of its own, the other way round. Of several sites each
sees its u as the maps before it have changed them.

Shapes: d hidden, n rows of a class.

Deviations from ml-act: u and w may have different numbers of rows (quantiles are then interpolated); a feature that is
constant in u is moved and not scaled; tokens of the template prefix take no part. Block outputs at `layer` are the
default, as for every other method here; the paper's sites are `sites="norm_out"` with all blocks named in `layer`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from trimtab.data import PairSet
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.fitting.norm_sites import SITES, ReadSettings, check_choice, places
from trimtab.fitting.settings import checked_layers
from trimtab.fitting.transport import MAP_KINDS, DiagonalMap, sequential_maps
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Edit, Intervention, Positions, Site, SteeringVector


@dataclass(frozen=True)
class LinearActSettings(ReadSettings):
    """Settings of Lin-AcT.

    Args:
        layer: 0-based block that is read and edited, or several, each learnt behind those before it.
        map: `linear`, `gaussian` or `mean`.
        sites: `resid_post` (block outputs) or `norm_out` (the norms at the entrance of the blocks' branches).

    Raises:
        InputError: A setting outside its range.
    """

    layer: int | tuple[int, ...] = field(kw_only=True)
    map: str = "linear"
    sites: str = "resid_post"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", checked_layers(self.layer))
        check_choice("map", self.map, tuple(MAP_KINDS))
        check_choice("sites", self.sites, SITES)

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks in ascending order."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer


def fit_linear_act(model: Model, pairs: PairSet, settings: LinearActSettings, options: FitOptions) -> SteeringVector:
    """Maps in both directions at every site.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, too few rows for a
            slope, or states that do not vary.
    """
    began = time.monotonic()
    sites, reason = places(model, settings.sites, settings.layers)
    read = closed_states("linear-act", model, pairs, settings.closed(settings.reading), options, sites)
    states = {site: read[site] for site in sites}
    elicit = sequential_maps(model, pairs, states, "negative", settings.map, settings, options.progress)
    suppress = sequential_maps(model, pairs, states, "positive", settings.map, settings, options.progress)
    edits = (*map_edits(elicit, settings.positions), *map_edits(suppress, settings.positions))
    m = len(sites)
    directions = {"elicit": tuple(range(m)), "suppress": tuple(range(m, 2 * m))}
    figures = {"sites": reason} if reason else {}
    return closed_vector("linear-act", model, pairs, settings, edits, directions, began, figures)


def map_edits(maps: Mapping[Site, DiagonalMap], positions: str) -> list[Edit]:
    """The maps as edits whose strength a multiplier scales."""
    where = Positions.parse(positions)
    return [Edit(Intervention(site, found.affine, where), scales="strength") for site, found in maps.items()]


LINEAR_ACT = Method(
    name="linear-act",
    family="map",
    paper="arXiv 2410.23054",
    summary="an affine map a feature that carries one class's states onto the other's",
    settings=LinearActSettings,
    fit=fit_linear_act,
)
