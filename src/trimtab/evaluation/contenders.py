"""What is compared: the plain model, and vectors and baselines each with a label and the concept it was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.evaluation.records import digest
from trimtab.methods import load_steerable
from trimtab.methods.steerable import Baseline, Steerable
from trimtab.models import Model
from trimtab.models.compat import require_fit
from trimtab.steering import SteeringVector
from trimtab.steering.content import JSON
from trimtab.steering.factors import DIRECTIONS
from trimtab.steering.folders import BASELINE_NAME, CONFIG_NAME

PLAIN = "unsteered"
"""Label of the plain model."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One row of a comparison, for one concept.

    Attributes:
        label: What tables call it; contenders of one label and several concepts make one row.
        concept: What it was made for; None for the plain model.
        steerable: What is applied; None for the plain model.
        scale: What the multiplier of a clamp moves along: `gap`, or `published` (m times the factor).
        multipliers: Tried with it, whatever a protocol tries with others; none = what that tries.
    """

    label: str
    concept: str | None
    steerable: Steerable | None
    scale: str = "gap"
    multipliers: tuple[float, ...] = ()

    @property
    def ways(self) -> tuple[str, ...]:
        """The directions that it has; none for the plain model."""
        return () if self.steerable is None else tuple(way for way in DIRECTIONS if way in self.steerable.directions)

    @property
    def vector(self) -> SteeringVector | None:
        """The vector, if it is one."""
        return self.steerable if isinstance(self.steerable, SteeringVector) else None

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that it edits, lowest first; none where it edits no hidden state."""
        edits = () if self.vector is None else self.vector.edits
        return tuple(sorted({edit.intervention.site.layer for edit in edits}))

    def has_factor(self, way: str) -> bool:
        """Whether a multiplier changes what it does; what has none is generated once."""
        if self.vector is None:
            return False
        return any(self.vector.edits[index].scales != "nothing" for index in self.vector.directions[way])

    def calibrated(self, way: str) -> float:
        """The multiplier that it has by itself: what was found along the gap says nothing of the published scale."""
        return 1.0 if self.vector is None or self.scale != "gap" else self.vector.multipliers.get(way, 1.0)

    def tried(self, way: str, multipliers: Sequence[float] = ()) -> tuple[float, ...]:
        """The multipliers at which it is tried: its list, else those given, else its own one; 1 where it has no factor.

        Args:
            way: The direction.
            multipliers: What a protocol tries.
        """
        if not self.has_factor(way):
            return (1.0,)
        return self.multipliers or tuple(multipliers) or (self.calibrated(way),)

    @property
    def identity(self) -> Mapping[str, JSON]:
        """What decides what it does, for a run's configuration."""
        found: dict[str, JSON] = {"label": self.label, "concept": self.concept, "scale": self.scale}
        if self.multipliers:
            found["multipliers"] = [*self.multipliers]
        if self.steerable is None:
            return found
        found |= {"method": self.steerable.method, "settings": dict(self.steerable.settings), "layers": [*self.layers]}
        if self.vector is not None:
            return {**found, "hash": self.vector.content_hash}
        provenance = {key: value for key, value in self.steerable.provenance.items() if key != "training"}
        trained = self.steerable.trained if isinstance(self.steerable, Baseline) else {}
        made = {"provenance": provenance, "weights": _weights_hash(trained)}
        return {**found, "hash": digest({"settings": dict(self.steerable.settings), **made})}

    def require_fit(self, model: Model) -> None:
        """Raise InputError unless it was made for this model."""
        if self.vector is not None:
            require_fit(model, self.vector)
        elif isinstance(self.steerable, Baseline):
            self.steerable.require_fit(model)


def load_contenders(words: Sequence[str], *, concept: str | None = None, scale: str = "gap") -> list[Contender]:
    """Contenders from saved vectors and baselines.

    Args:
        words: `DIR` or `LABEL=DIR`. A directory is one that was saved, or one that holds such, at any depth. The label
            is by default the method's name; where one label would stand for two contenders of a concept, their layers
            are added to it.
        concept: What they were made for, if they do not know it themselves.
        scale: As of `Contender`.

    Raises:
        InputError: A directory that holds none, one that cannot be read, or two with one label and concept.
    """
    found: list[Contender] = []
    for word in words:
        label, sign, path = word.partition("=")
        folder = Path(path if sign else word)
        if sign and not label:
            raise InputError(f"{word!r}: takes DIR or LABEL=DIR")
        saved = sorted(_saved(folder))
        if not saved:
            raise InputError(f"{folder}: holds no saved vector and no baseline; give what `trimtab fit --out` wrote")
        for each in saved:
            steerable = load_steerable(each)
            known = steerable.provenance.get("concept")
            name = concept or (known if isinstance(known, str) and known else each.name)
            found.append(Contender(label if sign else steerable.method, name, steerable, scale))
    return distinct(found)


def distinct(contenders: Sequence[Contender]) -> list[Contender]:
    """The same with their layers in the label where two would have the same label and concept.

    Raises:
        InputError: Two that even so cannot be told apart.
    """
    doubled = {key[0] for key in _repeated((each.label, each.concept) for each in contenders)}
    named = [
        replace(each, label=f"{each.label}@{_layers(each)}") if each.label in doubled and each.layers else each
        for each in contenders
    ]
    for label, concept in _repeated((each.label, each.concept) for each in named):
        raise InputError(f"two contenders are {label!r} for {concept!r}; tell them apart: LABEL=DIR")
    return named


def with_plain(contenders: Sequence[Contender]) -> list[Contender]:
    """The plain model first, then the others."""
    if any(each.label == PLAIN and each.steerable is not None for each in contenders):
        raise InputError(f"{PLAIN!r} is what the plain model is called; choose another label")
    return [Contender(PLAIN, None, None), *(each for each in contenders if each.label != PLAIN)]


def concepts_of(contenders: Sequence[Contender]) -> tuple[str, ...]:
    """Their concepts, in the order of the first contender of each."""
    return tuple(dict.fromkeys(each.concept for each in contenders if each.concept is not None))


def labels_of(contenders: Sequence[Contender]) -> tuple[str, ...]:
    """Their labels, in the order of the first contender of each."""
    return tuple(dict.fromkeys(each.label for each in contenders))


def _weights_hash(weights: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over tensors and their names, one at a time."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _saved(folder: Path) -> Iterable[Path]:
    """The folder itself if it was saved by trimtab, or else all such folders within."""
    names = (CONFIG_NAME, BASELINE_NAME)
    if any((folder / name).is_file() for name in names):
        return [folder]
    return {path.parent for name in names for path in folder.rglob(name)} if folder.is_dir() else []


def _repeated(keys: Iterable[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    seen: set[tuple[str, str | None]] = set()
    return list(dict.fromkeys(key for key in keys if key in seen or seen.add(key)))


def _layers(contender: Contender) -> str:
    return ",".join(map(str, contender.layers))
