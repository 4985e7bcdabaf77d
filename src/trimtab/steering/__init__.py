"""Pure tensors: transforms, gates, positions, interventions, steering vectors and their file format."""

from trimtab.steering.factors import Factors, FactorStats
from trimtab.steering.gates import Always, Gate, ProjectionGate, PromptGate
from trimtab.steering.intervention import Intervention, SiteEdit, Steering
from trimtab.steering.positions import Geometry, Positions
from trimtab.steering.site import Site
from trimtab.steering.statistics import Separation, histogram, separation
from trimtab.steering.transforms import (
    Ablate,
    Add,
    AddKeepNorm,
    Affine,
    Clamp,
    FeatureClamp,
    LowRank,
    NullOut,
    RotateBy,
    RotateTo,
    Transform,
    probe_directions,
)
from trimtab.steering.vector import Edit, ModelCard, SteeringVector

__all__ = [
    "Ablate",
    "Add",
    "AddKeepNorm",
    "Affine",
    "Always",
    "Clamp",
    "Edit",
    "FactorStats",
    "Factors",
    "FeatureClamp",
    "Gate",
    "Geometry",
    "Intervention",
    "LowRank",
    "ModelCard",
    "NullOut",
    "Positions",
    "ProjectionGate",
    "PromptGate",
    "RotateBy",
    "RotateTo",
    "Separation",
    "Site",
    "SiteEdit",
    "Steering",
    "SteeringVector",
    "Transform",
    "histogram",
    "probe_directions",
    "separation",
]
