"""A feature of a sparse autoencoder, added or clamped.

Source: AxBench, arXiv 2501.17148 (SAE and SAE-A, whose feature the data choose); clamping as in Templeton et al.,
"Scaling Monosemanticity" (2024); TopK autoencoders as in Qwen-Scope, arXiv 2605.11887. GemmaScope's are JumpReLU ones
(arXiv 2408.05147).

    f_j(h) = z [z > t_j], z = <e_j, h> + b_j        a_j = max (or mean) of f_j over tokens of positive rows

    add:    elicit h' = h + m a_j d_j                   suppress h' = h - m a_j d_j
    clamp:  elicit h' = h + (m a_j - f_j(h)) d_j        suppress h' = h - m f_j(h) d_j

Shapes: d hidden, m features; e_j, d_j (d,) the feature's encoder column and decoder row.

With no `feature` given it is the one with the greatest AUROC between the classes, each row's tokens pooled; of equal
ones the smallest index. A clamp keeps what the autoencoder does not explain of a state (its error term), so that
nothing else of the reconstruction changes. In a TopK autoencoder every feature depends on all others: it is added only.

Deviations from AxBench: the largest activation is that on the positive rows at hand, not one looked up at Neuronpedia.
The file is one on this machine; nothing is downloaded, and no pickle is read.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.autoencoder import Autoencoder, read_autoencoder
from trimtab.fitting.closed import ClosedSettings, closed_vector, refuse_training_options
from trimtab.fitting.features import POOLS, feature_stats
from trimtab.fitting.settings import check_number
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector

logger = logging.getLogger(__name__)

MODES = ("add", "clamp")


@dataclass(frozen=True)
class SAESettings(ClosedSettings):
    """Settings of a feature of a sparse autoencoder.

    Args:
        path: The autoencoder: a `.safetensors` or `.npz` file, or a folder that holds one.
        feature: Index of the feature; None = the one that tells the classes apart best.
        mode: `add` the decoder row, or `clamp` the feature.
        activation: What of the feature on positive rows is its natural size: the `max`, or the `mean` over tokens at
            which it is on.
        pool: How the tokens of a row are put together to choose a feature: `max` or `mean`.
        top_k: Only so many features of a state are on; None = as the file says.
        subtract_bias: Whether the decoder's bias is taken off before encoding; None = as the file says.

    Raises:
        InputError: A setting outside its range.
    """

    path: str = field(kw_only=True)
    feature: int | None = None
    mode: str = "add"
    activation: str = "max"
    pool: str = "max"
    top_k: int | None = None
    subtract_bias: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.path, (str, Path)) or not str(self.path):
            raise InputError(f"path is {self.path!r}; give that of a .safetensors or .npz file on this machine")
        object.__setattr__(self, "path", str(self.path))
        if self.feature is not None:
            check_number("feature", self.feature, least=0, whole=True)
        if self.top_k is not None:
            check_number("top_k", self.top_k, least=1, whole=True)
        if self.subtract_bias not in (None, True, False):
            raise InputError(f"subtract_bias is {self.subtract_bias!r}; allowed: True, False, None")
        for name, allowed in (("mode", MODES), ("activation", POOLS), ("pool", POOLS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")


def fit_sae(model: Model, pairs: PairSet, settings: SAESettings, options: FitOptions) -> SteeringVector:
    """The feature, sized by its activations on positive rows.

    Raises:
        InputError: A file that cannot be read or does not fit the model, a feature that it does not have or that is
            never on, a clamp of a TopK autoencoder, a layer the model does not have, pairs that cannot be used, or a
            start vector, order or trace.
    """
    began = time.monotonic()
    refuse_training_options("sae", options)
    model.check_layer(settings.layer)
    autoencoder = read_autoencoder(
        settings.path,
        model.hidden_size,
        layer=settings.layer,
        top_k=settings.top_k,
        subtract_bias=settings.subtract_bias,
    )
    if settings.feature is not None and settings.feature >= autoencoder.n_features:
        raise InputError(
            f"feature {settings.feature} does not exist; {autoencoder.source} has features 0 to "
            f"{autoencoder.n_features - 1}"
        )
    if settings.mode == "clamp":
        autoencoder.clamp(0, 0.0)  # refused before the work, if at all
    stats = feature_stats(
        model,
        pairs,
        Site(settings.layer),
        autoencoder.encode,
        pool=settings.pool,
        reading=settings.reading,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
        progress=options.progress,
    )
    areas = stats.auroc()
    feature = _best(areas, autoencoder) if settings.feature is None else settings.feature
    size = float((stats.largest if settings.activation == "max" else stats.mean)[feature])
    if not size > 0:
        raise InputError(
            f"feature {feature} of {autoencoder.source} is not on at any token of the {len(pairs)} positive rows, so "
            "that it has no size; give another feature, or none"
        )
    if float(areas[feature]) < 0.5:
        logger.warning("feature %d is on more where the concept is absent (AUROC %.2f)", feature, areas[feature])
    figures = {
        "feature": feature,
        "auroc": float(areas[feature]),
        "largest": float(stats.largest[feature]),
        "mean": float(stats.mean[feature]),
        "features": autoencoder.n_features,
    }
    edits = _edits(autoencoder, feature, size, settings)
    return closed_vector("sae", model, pairs, settings, edits, {"elicit": (0,), "suppress": (1,)}, began, figures)


def _best(areas: Tensor, autoencoder: Autoencoder) -> int:
    most = float(areas.max())
    if most <= 0.5:
        raise InputError(
            f"none of the {autoencoder.n_features} features of {autoencoder.source} is on more where the concept is "
            f"present (best AUROC {most:.2f}); give a feature, another layer's autoencoder, or pairs that differ more"
        )
    return int((areas == most).nonzero()[0, 0])


def _edits(autoencoder: Autoencoder, feature: int, size: float, settings: SAESettings) -> tuple[Edit, Edit]:
    site, positions = Site(settings.layer), Positions.parse(settings.positions)
    if settings.mode == "clamp":
        return (
            Edit(Intervention(site, autoencoder.clamp(feature, size), positions), scales="transform"),
            Edit(Intervention(site, autoencoder.clamp(feature, 0.0), positions), scales="strength"),
        )
    row = size * autoencoder.decoder[feature]
    return (
        Edit(Intervention(site, Add(row), positions), scales="strength"),
        Edit(Intervention(site, Add(-row), positions), scales="strength"),
    )


SAE = Method(
    name="sae",
    family="component",
    paper="arXiv 2501.17148",
    summary="a feature of a sparse autoencoder from a local file, given or chosen by the data; added or clamped",
    settings=SAESettings,
    fit=fit_sae,
    needs="path: a sparse autoencoder of this model's block outputs, in a file on this machine",
)
