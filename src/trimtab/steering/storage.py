"""The file format: a directory of `steering_config.json`, `steering.safetensors` and a model card. Never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.card import model_card_text
from trimtab.steering.content import CLASSES, JSON, PREFIX_TENSOR, SCHEMA_VERSION, config_of, tensors_of
from trimtab.steering.factors import Factors, FactorStats
from trimtab.steering.folders import BASELINE_NAME, CARD_NAME, CONFIG_NAME, TENSORS_NAME, text_bytes, write_folder
from trimtab.steering.gates import build_gate
from trimtab.steering.intervention import Intervention
from trimtab.steering.positions import Positions
from trimtab.steering.site import Site
from trimtab.steering.transforms import build_transform
from trimtab.steering.vector import Edit, ModelCard, SteeringVector

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


def save_vector(vector: SteeringVector, path: Path, *, overwrite: bool = False) -> Path:
    """Write the vector as a directory: first under a temporary name beside it, then renamed.

    A link is followed: what it points to is written. Saves by several processes to one path leave one vector, whole.

    Raises:
        InputError: `check_free` refuses the path, it cannot be written, or a setting or the provenance is not JSON.
    """
    path = Path(path)
    try:
        config = json.dumps(config_of(vector), indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the vector's settings or provenance cannot be written as JSON: {error}") from error
    files = {CONFIG_NAME: text_bytes(config + "\n"), CARD_NAME: text_bytes(model_card_text(vector))}
    # Not save_file, which lets nobody but the owner read the file, whatever the umask says.
    files[TENSORS_NAME] = safetensors.torch.save(tensors_of(vector))
    return write_folder(path, files, overwrite=overwrite)


def load_vector(path: Path) -> SteeringVector:
    """Read a vector's directory and check every part of it.

    Raises:
        InputError: Not a vector, a pickle, an unknown schema, a missing, unknown, mis-shaped or altered part.
    """
    path = Path(path)
    try:
        config = _read_config(path)
        tensors = _read_tensors(path / TENSORS_NAME)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error}); give the directory that `fit --out` wrote") from error
    try:
        vector = _build(config, tensors)
        _check_complete(vector, config, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reasons = {InputError: str(error), KeyError: f"{error} is missing"}
        reason = reasons.get(type(error), f"{type(error).__name__} {error}")
        raise InputError(f"{path}: not a valid vector: {reason}; fetch or fit it again") from error
    if vector.content_hash != config.get("content_hash"):
        raise InputError(
            f"{path}: the content hash does not match, so the files were altered or damaged; fetch or fit it again"
        )
    return vector


def _read_config(path: Path) -> dict[str, JSON]:
    if not (path / CONFIG_NAME).exists() and _is_or_holds_pickle(path):
        raise InputError(
            f"{path} is or holds a pickle, which trimtab never reads; a vector is a directory with {CONFIG_NAME}"
        )
    if (path / BASELINE_NAME).is_file():
        raise InputError(
            f"{path} holds a baseline, which is no vector; tt.load_steerable and `trimtab generate --vector` take it"
        )
    if not path.is_dir() or not (path / CONFIG_NAME).is_file():
        raise InputError(
            f"{path} is not a saved vector: no {CONFIG_NAME} there; give the directory that `fit --out` wrote"
        )
    try:
        config = json.loads((path / CONFIG_NAME).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path / CONFIG_NAME} is not readable JSON ({error}); fetch or fit the vector again"
        ) from error
    version = config.get("schema_version") if isinstance(config, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version!r}; this trimtab reads {SCHEMA_VERSION}: use a matching version"
        )
    return config


def _is_or_holds_pickle(path: Path) -> bool:
    files = list(path.iterdir()) if path.is_dir() else [path] * path.is_file()
    return any(file.suffix.lower() in _PICKLES for file in files)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is missing; fetch or fit the vector again")
    try:
        return safetensors.torch.load(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"{path} is truncated or no safetensors file ({error}); fetch or fit the vector again"
        ) from error


def _build(config: Mapping[str, JSON], tensors: Mapping[str, Tensor]) -> SteeringVector:
    model = cast("dict[str, JSON]", config["model"])
    card = ModelCard(**{**model, "prefix_ids": tuple(tensors[PREFIX_TENSOR].tolist())})
    edits = []
    for index, entry in enumerate(cast("list[dict[str, JSON]]", config["interventions"])):
        start = f"interventions.{index}."
        mine = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        edits.append(_build_edit(entry, mine))
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


def _check_complete(vector: SteeringVector, config: Mapping[str, JSON], tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError unless the vector, written again, gives the files it was read from: nothing bent or unknown."""
    written = tensors_of(vector)
    if written.keys() != tensors.keys():
        raise InputError(f"missing or unknown tensors {sorted(written.keys() ^ tensors.keys())}")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (written[name].shape, written[name].dtype):
            raise InputError(f"tensor {name} is {tuple(tensor.shape)} of {tensor.dtype}, which does not fit its place")
    own = {key: config.get(key) for key in ("trimtab_version", "content_hash")}
    difference = _difference(dict(config), json.loads(json.dumps({**config_of(vector), **own})), "")
    if difference:
        raise InputError(difference)


def _difference(read: JSON, written: JSON, at: str) -> str | None:
    """The first place where two JSON values differ, in words; None if they are equal."""
    if isinstance(read, dict) and isinstance(written, dict):
        if read.keys() != written.keys():
            return f"missing or unknown key {at}{min(read.keys() ^ written.keys())}"
        found = (_difference(read[key], written[key], f"{at}{key}.") for key in read)
    elif isinstance(read, list) and isinstance(written, list) and len(read) == len(written):
        found = (_difference(a, b, f"{at}{k}.") for k, (a, b) in enumerate(zip(read, written, strict=True)))
    else:
        return None if read == written else f"{at.rstrip('.')} cannot be {read!r}"
    return next((difference for difference in found if difference), None)


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
