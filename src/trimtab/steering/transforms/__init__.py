"""Transforms T(h): pure functions of the hidden state, (..., d) -> (..., d), computed in at least float32."""

from trimtab.steering.transforms.additive import Add, AddKeepNorm
from trimtab.steering.transforms.coordinates import Ablate, Clamp, NullOut
from trimtab.steering.transforms.kinds import TRANSFORMS, build_transform, probe_directions
from trimtab.steering.transforms.maps import Affine, LowRank
from trimtab.steering.transforms.protocol import Scalable, Transform
from trimtab.steering.transforms.rotation import RotateBy, RotateTo
from trimtab.steering.transforms.sparse import FeatureClamp

__all__ = [
    "TRANSFORMS",
    "Ablate",
    "Add",
    "AddKeepNorm",
    "Affine",
    "Clamp",
    "FeatureClamp",
    "LowRank",
    "NullOut",
    "RotateBy",
    "RotateTo",
    "Scalable",
    "Transform",
    "build_transform",
    "probe_directions",
]
