"""What a vector consists of: its tensors by name, its configuration as JSON values, and the hash over both."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab._version import __version__
from trimtab.steering.factors import Factors

if TYPE_CHECKING:
    from trimtab.steering.vector import Edit, SteeringVector

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

SCHEMA_VERSION = 1
PREFIX_TENSOR = "prefix_ids"
CLASSES = ("positive", "negative")


def tensors_of(vector: SteeringVector) -> dict[str, Tensor]:
    """Every tensor of the vector under its name in the file: `interventions.<i>.<name>` and the prefix ids."""
    tensors = {PREFIX_TENSOR: torch.tensor(vector.model.prefix_ids, dtype=torch.int64)}
    for index, edit in enumerate(vector.edits):
        start = f"interventions.{index}."
        for name, tensor in edit.intervention.transform.tensors().items():
            tensors[start + name] = tensor
        for name, tensor in edit.intervention.gate.tensors().items():
            tensors[f"{start}gate.{name}"] = tensor
        for name in CLASSES if edit.factors else ():
            values = getattr(edit.factors, name).values
            if values is not None:
                tensors[f"{start}factors.{name}"] = values
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def behaviour(vector: SteeringVector) -> dict[str, JSON]:
    """The part of the configuration that decides what the vector does; what the content hash covers."""
    return {
        "schema_version": SCHEMA_VERSION,
        "hidden_size": vector.model.hidden_size,
        "n_blocks": vector.model.n_blocks,
        "interventions": [_edit_config(edit) for edit in vector.edits],
        "directions": {name: list(indices) for name, indices in vector.directions.items()},
        "multipliers": dict(vector.multipliers),
    }


def config_of(vector: SteeringVector) -> dict[str, JSON]:
    """The whole of `steering_config.json`."""
    model = {name: value for name, value in asdict(vector.model).items() if name != "prefix_ids"}
    return {
        **behaviour(vector),
        "trimtab_version": __version__,
        "method": vector.method,
        "settings": dict(vector.settings),
        "model": model,
        "provenance": dict(vector.provenance),
        "content_hash": vector.content_hash,
    }


def content_hash(vector: SteeringVector) -> str:
    """sha256 (hex) over what the vector does to a state: two vectors with one hash steer alike.

    Covered: every tensor (directions, values, gates, prefix ids, the factors' rows), sites, positions, gates,
    strengths, what is scaled, factors, directions, multipliers, and the width and depth of the model. Not covered, so
    that a copy under another name stays recognisable: the model's id, revision and template fingerprint, the method and
    its settings, the provenance.
    """
    digest = sha256(json.dumps(behaviour(vector), sort_keys=True, allow_nan=False).encode())
    for name, tensor in sorted(tensors_of(vector).items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _edit_config(edit: Edit) -> dict[str, JSON]:
    intervention = edit.intervention
    positions = intervention.positions
    return {
        "site": str(intervention.site),
        "positions": str(positions),
        "include_prefix": positions.include_prefix,
        "token_ids": list(positions.token_ids),
        "transform": intervention.transform.kind,
        "rank": intervention.transform.rank,
        "width": intervention.transform.width,
        "gate": {"kind": intervention.gate.kind, **intervention.gate.settings()},
        "strength": intervention.strength,
        "scales": edit.scales,
        "factors": _factors_config(edit.factors),
    }


def _factors_config(factors: Factors | None) -> JSON:
    if factors is None:
        return None
    sides = {name: getattr(factors, name) for name in CLASSES}
    return {name: {"mean": list(s.mean), "std": list(s.std), "n": s.n} for name, s in sides.items()}
