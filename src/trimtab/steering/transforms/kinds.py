"""Every transform by the name that the file format has for it, and what each is read by as a probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.transforms.additive import Add, AddKeepNorm
from trimtab.steering.transforms.coordinates import Ablate, Clamp, NullOut
from trimtab.steering.transforms.maps import Affine, LowRank
from trimtab.steering.transforms.protocol import Transform
from trimtab.steering.transforms.rotation import RotateBy, RotateTo
from trimtab.steering.transforms.sparse import FeatureClamp


def probe_directions(transform: Transform) -> Tensor:
    """The directions (r, d) along which a transform is read as a probe: W as learned, or the unit vector that is added.

    Raises:
        InputError: The transform has no direction (an affine map).
    """
    if isinstance(transform, (Clamp, Ablate)):
        return transform.directions
    if isinstance(transform, LowRank):
        return transform.rotation
    if isinstance(transform, (RotateTo, RotateBy)):
        return transform.plane
    if isinstance(transform, FeatureClamp):
        return transform.encoder[None]
    if isinstance(transform, (Add, AddKeepNorm, NullOut)):
        return torch.nn.functional.normalize(transform.vector[None], dim=-1)
    raise InputError(
        f"a {transform.kind!r} transform has no direction to read; use a clamp, ablation, addition or null-out"
    )


TRANSFORMS: Mapping[str, type[Transform]] = {
    transform.kind: transform
    for transform in (Add, AddKeepNorm, Clamp, Ablate, NullOut, Affine, LowRank, RotateTo, RotateBy, FeatureClamp)
}


def build_transform(kind: str, tensors: Mapping[str, Tensor]) -> Transform:
    """The transform of the given kind from its stored tensors.

    Raises:
        InputError: Unknown kind, or tensors that are missing, superfluous or mis-shaped.
    """
    if kind not in TRANSFORMS:
        raise InputError(f"unknown transform {kind!r}; this version knows {', '.join(TRANSFORMS)}")
    cls = TRANSFORMS[kind]
    wanted = {spec.name for spec in fields(cls) if spec.init}  # pyright: ignore[reportArgumentType] all are dataclasses
    if set(tensors) != wanted:
        raise InputError(f"transform {kind!r} needs tensors {sorted(wanted)} but the file holds {sorted(tensors)}")
    return cls(**tensors)
