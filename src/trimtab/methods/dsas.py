"""DSAS: any fixed edit, scaled for each token by how much it looks like the class that is to be changed.

Source: "Dynamically Scaled Activation Steering", arXiv 2512.03661. No code is known; constants and the form of the
gate are from its reviews and summaries.

    h' = h + m sigmoid(<w, h> + b) (T(h) - h)
    w, b: logistic regression on 5 principal components of the rows' mean states, folded into one affine score

T is the edit of a child method (`diffmean`, `linear-act`). Suppress opens where a state looks positive, elicit, with
-w and -b, where it looks negative; states that are there already are left alone. A layer whose probe is right less
often than 0.75 on rows that it was not fitted to (balanced accuracy, over `folds` parts) is left unsteered.

Shapes: d hidden, n rows of a class.

Deviations: accuracy is measured on rows held out, not on those fitted to, where five components of noise look better
than they are; the components are scaled to the same deviation before the regression. As published, the gate is learnt
from means over tokens and applied to single tokens, which are noisier. The end-to-end variant is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.fitting.gating import component_probe, held_out_accuracy
from trimtab.fitting.logistic import Probe
from trimtab.fitting.norm_sites import ReadSettings
from trimtab.fitting.settings import check_number, checked_layers
from trimtab.fitting.states import ClassStates
from trimtab.methods.method import Method
from trimtab.methods.wrapped import check_child, child_edits, gated
from trimtab.models import Model
from trimtab.steering import Edit, ProjectionGate, Site, SteeringVector
from trimtab.steering.content import JSON


@dataclass(frozen=True)
class DsasSettings(ReadSettings):
    """Settings of DSAS.

    Args:
        layer: 0-based block whose output is edited, or several.
        child: Whose edit is scaled: `diffmean` or `linear-act`.
        components: Principal components that the probe sees.
        accuracy: Least held-out accuracy of a layer that is steered.
        folds: Parts that take turns to be held out.

    Raises:
        InputError: A setting outside its range, or a reading of single tokens.
    """

    layer: int | tuple[int, ...] = field(kw_only=True)
    child: str = "diffmean"
    components: int = 5
    accuracy: float = 0.75
    folds: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", checked_layers(self.layer))
        check_child(self.child)
        check_number("components", self.components, least=1, whole=True)
        check_number("accuracy", self.accuracy, least=0, most=1)
        check_number("folds", self.folds, least=2, whole=True)
        if self.reading == "tokens":
            raise InputError("reading is 'tokens'; the probe learns one state a row: take mean, prompt or response")

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks in ascending order."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer


def fit_dsas(model: Model, pairs: PairSet, settings: DsasSettings, options: FitOptions) -> SteeringVector:
    """The child's edits behind gates, at the layers where the classes can be told apart.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, too few rows to hold
            some out, no layer at which the classes can be told apart, or whatever the child refuses.
    """
    began = time.monotonic()
    sites = [Site(layer) for layer in settings.layers]
    read = closed_states("dsas", model, pairs, settings.closed(settings.reading), options, sites)
    probes, accuracies = layer_probes([read[site] for site in sites], settings)
    edits: list[Edit] = []
    directions: dict[str, tuple[int, ...]] = {}
    found = child_edits(settings.child, model, pairs, [site.layer for site in probes], settings, options)
    for way, of_way in found.items():
        directions[way] = tuple(range(len(edits), len(edits) + len(of_way)))
        sign = 1.0 if way == "suppress" else -1.0
        edits += [gated(edit, probe_gate(probes[edit.intervention.site], sign)) for edit in of_way]
    figures: dict[str, JSON] = {"accuracy": {str(site): round(value, 4) for site, value in accuracies.items()}}
    return closed_vector("dsas", model, pairs, settings, tuple(edits), directions, began, figures)


def layer_probes(
    states: Sequence[ClassStates], settings: DsasSettings
) -> tuple[Mapping[Site, Probe], Mapping[Site, float]]:
    """The probes of the layers at which the classes can be told apart, and every layer's held-out accuracy.

    Raises:
        InputError: There is no such layer.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    accuracies: dict[Site, float] = {}
    for here in states:
        rows = here.positive, here.negative
        accuracies[here.site] = held_out_accuracy(*rows, settings.components, settings.folds, generator)
    probes = {
        here.site: component_probe(here.positive, here.negative, settings.components)
        for here in states
        if accuracies[here.site] >= settings.accuracy
    }
    if not probes:
        seen = ", ".join(f"{value:.2f} at {site}" for site, value in accuracies.items())
        raise InputError(
            f"the classes cannot be told apart where they are to be steered: a probe is right on {seen} of the rows "
            f"held out, and at least {settings.accuracy:g} is wanted; give other layers, more pairs, or lower accuracy"
        )
    return probes, accuracies


def probe_gate(probe: Probe, sign: float) -> ProjectionGate:
    """sigmoid(sign (<w, h> + b)) as a gate."""
    return ProjectionGate(probe.weight, -probe.bias, sign)


DSAS = Method(
    name="dsas",
    family="gated",
    paper="arXiv 2512.03661",
    summary="another method's edit, scaled a token by how much it looks like the class that is to change",
    settings=DsasSettings,
    fit=fit_dsas,
)
