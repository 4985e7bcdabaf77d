"""Baselines as folders: `baseline.json`, and what else a baseline needs. Never a pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trimtab._version import __version__
from trimtab.errors import InputError
from trimtab.methods.steerable import Baseline
from trimtab.steering import ModelCard
from trimtab.steering.content import JSON
from trimtab.steering.folders import BASELINE_NAME, SAVED, text_bytes, write_folder

VERSION = 1
"""Of the format."""
KEYS = frozenset(
    {"format_version", "trimtab_version", "method", "directions", "settings", "model", "provenance", "files"}
)


@dataclass(frozen=True)
class Saved:
    """What a folder holds.

    Attributes:
        method: Name of the method.
        directions: Which directions it has.
        settings: How it was made.
        model: The model it was made for.
        provenance: Where it comes from.
        files: Contents of its other files, by name.
    """

    method: str
    directions: tuple[str, ...]
    settings: Mapping[str, JSON]
    model: ModelCard
    provenance: Mapping[str, JSON]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, baseline: Baseline, files: Mapping[str, bytes] = MappingProxyType({})) -> Saved:
        """What the folder of a baseline is to hold."""
        return cls(
            baseline.method,
            tuple(baseline.directions),
            baseline.settings,
            baseline.model,
            baseline.provenance,
            files,
        )

    def file(self, name: str) -> bytes:
        """The content of a file; InputError if the folder has none of that name."""
        if name not in self.files:
            raise InputError(f"{name} is missing; fetch or fit the {self.method} again")
        return self.files[name]

    def check_directions(self, directions: Sequence[str]) -> None:
        """Raise InputError unless these are its directions."""
        if self.directions != tuple(directions):
            has = ", ".join(map(str, self.directions)) or "none"
            raise InputError(
                f"its directions are {has}, those of {self.method} are {', '.join(directions)}; fit it again"
            )

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder, whole or not at all.

        Raises:
            InputError: The path is taken or cannot be written, or settings or provenance are not JSON.
        """
        config = {
            "format_version": VERSION,
            "trimtab_version": __version__,
            "method": self.method,
            "directions": list(self.directions),
            "settings": dict(self.settings),
            "model": dataclasses.asdict(self.model),
            "provenance": dict(self.provenance),
            "files": {name: sha256(content).hexdigest() for name, content in self.files.items()},
        }
        try:
            text = json.dumps(config, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        except (TypeError, ValueError) as error:
            raise InputError(f"settings or provenance cannot be written as JSON: {error}") from error
        return write_folder(Path(path), {BASELINE_NAME: text_bytes(text), **self.files}, overwrite=overwrite)


def read_saved(path: Path) -> Saved:
    """Read a baseline's folder; what its method makes of it is for the registry to say.

    Raises:
        InputError: No baseline, an unknown version, a missing, unknown or altered part.
    """
    try:
        config: dict[str, Any] = json.loads((path / BASELINE_NAME).read_text(encoding="utf-8"))
        present = [name for name in sorted(SAVED[BASELINE_NAME] - {BASELINE_NAME}) if (path / name).is_file()]
        files = {name: (path / name).read_bytes() for name in present}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a baseline ({error}); fetch or fit it again") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != VERSION:
        raise InputError(f"{path} has format version {version!r}; this trimtab reads {VERSION}: use a matching version")
    if config.keys() != KEYS:
        raise InputError(f"{path}: missing or unknown key {min(config.keys() ^ KEYS)!r}; fetch or fit it again")
    if {name: sha256(content).hexdigest() for name, content in files.items()} != config["files"]:
        raise InputError(f"{path}: files are missing, altered or damaged; fetch or fit it again")
    try:
        card = ModelCard(**{**config["model"], "prefix_ids": tuple(config["model"]["prefix_ids"])})
        directions, settings, provenance = tuple(config["directions"]), dict(config["settings"]), config["provenance"]
        return Saved(str(config["method"]), directions, settings, card, dict(provenance), files)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a valid baseline ({error}); fetch or fit it again") from error
