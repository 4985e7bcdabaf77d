"""Faithful, bi-directional steering vectors for language models.

    import trimtab as tt

    model = tt.load_model("path/or/hub-id")
    vector = tt.fit("cdas", model, tt.load_pairs("pairs.jsonl"), layer=12)
    print(model.generate(["Hello"], steering=[vector.elicit()]))

Names are loaded when they are first used, so `import trimtab` alone is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab._version import __version__

if TYPE_CHECKING:
    from trimtab.data import ContrastPair, PairSet, load_pairs
    from trimtab.errors import FitDivergedError, InputError, MissingExtraError, NetworkError, TrimtabError
    from trimtab.evaluation import InterchangeAccuracy, interchange_accuracy
    from trimtab.methods import METHODS, Baseline, applied, fit, fit_layers, fit_many, fit_steerable, load_steerable
    from trimtab.models import Model, capture, coordinates, load_model, steer
    from trimtab.progress import Progress, ProgressCallback
    from trimtab.steering import (
        Ablate,
        Add,
        AddKeepNorm,
        Affine,
        Always,
        Clamp,
        FeatureClamp,
        Intervention,
        LowRank,
        NullOut,
        Positions,
        ProjectionGate,
        PromptGate,
        RotateBy,
        RotateTo,
        Site,
        Steering,
        SteeringVector,
    )

_HOMES = {
    "trimtab.data": ("ContrastPair", "PairSet", "load_pairs"),
    "trimtab.errors": ("FitDivergedError", "InputError", "MissingExtraError", "NetworkError", "TrimtabError"),
    "trimtab.evaluation": ("InterchangeAccuracy", "interchange_accuracy"),
    "trimtab.methods": (
        "METHODS",
        "Baseline",
        "applied",
        "fit",
        "fit_layers",
        "fit_many",
        "fit_steerable",
        "load_steerable",
    ),
    "trimtab.models": ("Model", "capture", "coordinates", "load_model", "steer"),
    "trimtab.progress": ("Progress", "ProgressCallback"),
    "trimtab.steering": (
        "Ablate",
        "Add",
        "AddKeepNorm",
        "Affine",
        "Always",
        "Clamp",
        "FeatureClamp",
        "Intervention",
        "LowRank",
        "NullOut",
        "Positions",
        "ProjectionGate",
        "PromptGate",
        "RotateBy",
        "RotateTo",
        "Site",
        "Steering",
        "SteeringVector",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "METHODS",
    "Ablate",
    "Add",
    "AddKeepNorm",
    "Affine",
    "Always",
    "Baseline",
    "Clamp",
    "ContrastPair",
    "FeatureClamp",
    "FitDivergedError",
    "InputError",
    "InterchangeAccuracy",
    "Intervention",
    "LowRank",
    "MissingExtraError",
    "Model",
    "NetworkError",
    "NullOut",
    "PairSet",
    "Positions",
    "Progress",
    "ProgressCallback",
    "ProjectionGate",
    "PromptGate",
    "RotateBy",
    "RotateTo",
    "Site",
    "Steering",
    "SteeringVector",
    "TrimtabError",
    "__version__",
    "applied",
    "capture",
    "coordinates",
    "fit",
    "fit_layers",
    "fit_many",
    "fit_steerable",
    "interchange_accuracy",
    "load_model",
    "load_pairs",
    "load_steerable",
    "steer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
