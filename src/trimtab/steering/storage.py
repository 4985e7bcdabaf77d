"""The file format: a directory of `steering_config.json`, `steering.safetensors` and a model card. Never a pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.card import model_card_text
from trimtab.steering.content import CLASSES, JSON, PREFIX_TENSOR, SCHEMA_VERSION, config_of, tensors_of
from trimtab.steering.factors import Factors, FactorStats
from trimtab.steering.gates import build_gate
from trimtab.steering.intervention import Intervention
from trimtab.steering.positions import Positions
from trimtab.steering.site import Site
from trimtab.steering.transforms import build_transform
from trimtab.steering.vector import Edit, ModelCard, SteeringVector

CONFIG_NAME = "steering_config.json"
TENSORS_NAME = "steering.safetensors"
CARD_NAME = "README.md"
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


def save_vector(vector: SteeringVector, path: Path, *, overwrite: bool = False) -> Path:
    """Write the vector as a directory: first under a temporary name beside it, then renamed.

    Raises:
        InputError: Something is there already and `overwrite` is off, or it is no vector and would be lost.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        config = json.dumps(config_of(vector), indent=2, allow_nan=False, ensure_ascii=False)
        (staging / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
        safetensors.torch.save_file(tensors_of(vector), staging / TENSORS_NAME)
        (staging / CARD_NAME).write_text(model_card_text(vector), encoding="utf-8")
        staging.chmod(0o777 & ~_umask())
        if path.exists():
            old = staging / "replaced"
            os.rename(path, old)
            try:
                os.rename(_move_inside(staging), path)
            except OSError:
                os.rename(old, path)
                raise
        else:
            os.rename(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return path


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if a vector may not be written at `path`; called before long work too."""
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"{path} exists already; choose another --out or pass --overwrite (overwrite=True)")
    if path.is_file() or (any(path.iterdir()) and not (path / CONFIG_NAME).is_file()):
        raise InputError(f"{path} is not a saved vector and will not be overwritten; choose another --out")


def load_vector(path: Path) -> SteeringVector:
    """Read a vector's directory and check every part of it.

    Raises:
        InputError: Not a vector, a pickle, an unknown schema, a missing, mis-shaped or altered part.
    """
    config = _read_config(Path(path))
    tensors = _read_tensors(Path(path) / TENSORS_NAME)
    try:
        vector = _build(config, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__} {error}"
        raise InputError(f"{path}: not a valid vector: {reason}") from error
    if vector.content_hash != config.get("content_hash"):
        raise InputError(f"{path}: the content hash does not match, so the files were altered or damaged; fetch or fit it again")
    return vector


def _read_config(path: Path) -> dict[str, JSON]:
    if path.suffix in _PICKLES or (path.is_dir() and not (path / CONFIG_NAME).exists() and _holds_pickle(path)):
        raise InputError(f"{path} is or holds a pickle, which trimtab never reads; a vector is a directory with {CONFIG_NAME}")
    if not path.is_dir() or not (path / CONFIG_NAME).is_file():
        raise InputError(f"{path} is not a saved vector: no {CONFIG_NAME} there; give the directory that `fit --out` wrote")
    try:
        config = json.loads((path / CONFIG_NAME).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path / CONFIG_NAME} is not readable JSON ({error}); fetch or fit the vector again") from error
    version = config.get("schema_version") if isinstance(config, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {version!r}; this trimtab reads {SCHEMA_VERSION}: use a matching version")
    return config


def _holds_pickle(path: Path) -> bool:
    return any(child.suffix in _PICKLES for child in path.iterdir())


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is missing; fetch or fit the vector again")
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error}); fetch or fit the vector again") from error


def _build(config: Mapping[str, JSON], tensors: Mapping[str, Tensor]) -> SteeringVector:
    model = cast("dict[str, JSON]", config["model"])
    card = ModelCard(**{**model, "prefix_ids": tuple(tensors[PREFIX_TENSOR].tolist())})  # pyright: ignore[reportArgumentType]
    used = {PREFIX_TENSOR}
    edits = []
    for index, entry in enumerate(cast("list[dict[str, JSON]]", config["interventions"])):
        start = f"interventions.{index}."
        mine = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        used |= {start + name for name in mine}
        edits.append(_build_edit(entry, mine))
    if set(tensors) - used:
        raise InputError(f"unexpected tensors {sorted(set(tensors) - used)}")
    directions = cast("dict[str, list[int]]", config["directions"])
    return SteeringVector(
        method=str(config["method"]),
        model=card,
        edits=tuple(edits),
        directions={name: tuple(indices) for name, indices in directions.items()},
        multipliers=cast("dict[str, float]", config["multipliers"]),
        settings=cast("dict[str, JSON]", config["settings"]),
        provenance=cast("dict[str, JSON]", config["provenance"]),
    )


def _build_edit(entry: Mapping[str, JSON], tensors: Mapping[str, Tensor]) -> Edit:
    gate_config = dict(cast("dict[str, JSON]", entry["gate"]))
    gate_tensors = {name.removeprefix("gate."): t for name, t in tensors.items() if name.startswith("gate.")}
    own = {name: t for name, t in tensors.items() if not name.startswith(("gate.", "factors."))}
    transform = build_transform(str(entry["transform"]), own)
    if (transform.rank, transform.width) != (entry["rank"], entry["width"]):
        raise InputError(
            f"tensors of rank {transform.rank} and width {transform.width} where the configuration says "
            f"{entry['rank']} and {entry['width']}"
        )
    positions = Positions.parse(str(entry["positions"]), include_prefix=bool(entry["include_prefix"]))
    token_ids = tuple(cast("list[int]", entry["token_ids"]))
    intervention = Intervention(
        site=Site.parse(str(entry["site"])),
        transform=transform,
        positions=Positions(positions.scope, positions.first, positions.last, positions.include_prefix, token_ids),
        gate=build_gate(str(gate_config.pop("kind")), gate_tensors, cast("dict[str, float]", gate_config)),
        strength=float(cast("float", entry["strength"])),
    )
    return Edit(intervention, _build_factors(entry["factors"], tensors), str(entry["scales"]))


def _build_factors(entry: JSON, tensors: Mapping[str, Tensor]) -> Factors | None:
    if entry is None:
        return None
    sides = cast("dict[str, dict[str, JSON]]", entry)
    stats = {}
    for name in CLASSES:
        side = sides[name]
        mean, std = cast("list[float]", side["mean"]), cast("list[float]", side["std"])
        stats[name] = FactorStats(tuple(mean), tuple(std), int(cast("int", side["n"])), tensors.get(f"factors.{name}"))
    return Factors(stats["positive"], stats["negative"])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move_inside(staging: Path) -> Path:
    """Put the finished files into their own folder inside the staging one, so that the old vector can wait beside it."""
    finished = staging / "finished"
    finished.mkdir()
    finished.chmod(staging.stat().st_mode)
    for name in (CONFIG_NAME, TENSORS_NAME, CARD_NAME):
        os.rename(staging / name, finished / name)
    return finished
