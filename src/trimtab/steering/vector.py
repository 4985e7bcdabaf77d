"""SteeringVector: the saved thing a user trains, loads, shares and applies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_ids
from trimtab.steering.content import JSON, content_hash
from trimtab.steering.factors import DIRECTIONS, Factors, check_direction, check_multiplier
from trimtab.steering.gates import PromptGate
from trimtab.steering.intervention import Intervention, Steering
from trimtab.steering.transforms import Clamp, Scalable

SCALED = ("factor", "strength", "transform", "nothing")
RESIDUAL_WIDTH = ("resid_pre", "resid_post", "attn_out", "mlp_out", "norm_out")
"""Kinds of site whose states are as wide as the residual stream in every family."""


@dataclass(frozen=True)
class ModelCard:
    """The model a vector was made for; what is checked before the vector is applied.

    Args:
        id: Hub id or path the model was loaded from.
        hidden_size: Width d of the residual stream.
        n_blocks: Number of blocks.
        revision: Commit it was loaded from, else the branch that was asked for, if any.
        model_type: transformers' `config.model_type`.
        prefix_ids: Token ids of the template prefix, as far as no date is in it.
        template_fingerprint: Hash of the chat template.
        source_tokens: The `--source-tokens` given, or None for the assistant header of the template.

    Raises:
        InputError: A width or depth that no model has, or prefix ids that are no whole numbers.
    """

    id: str
    hidden_size: int
    n_blocks: int
    revision: str | None = None
    model_type: str | None = None
    prefix_ids: tuple[int, ...] = ()
    template_fingerprint: str | None = None
    source_tokens: str | None = None

    def __post_init__(self) -> None:
        for name in ("hidden_size", "n_blocks"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise InputError(f"{name} of the model is {size!r}; it must be a whole number of at least 1")
        object.__setattr__(self, "prefix_ids", check_ids("prefix_ids", self.prefix_ids))


@dataclass(frozen=True)
class Edit:
    """One learned intervention and what a multiplier does to it.

    Args:
        intervention: As learned. A clamp whose values come from factors holds the positive class's value.
        factors: Values read from data, for clamps.
        scales: `factor` (the multiplier moves the clamped value), `strength` (it multiplies s), `transform` (it changes
            the transform from within, such as a rotation's angle) or `nothing`.

    Raises:
        InputError: An unknown quantity to scale, a factor to scale without a clamp and factors, factors of another
            rank than the clamp, or a transform that cannot be scaled from within.
    """

    intervention: Intervention
    factors: Factors | None = None
    scales: str = "factor"

    def __post_init__(self) -> None:
        if self.scales not in SCALED:
            raise InputError(f"unknown quantity to scale {self.scales!r}; allowed: {', '.join(SCALED)}")
        transform = self.intervention.transform
        if self.scales == "transform" and not isinstance(transform, Scalable):
            raise InputError(f"a {transform.kind!r} transform cannot be scaled from within; scale its strength")
        if self.scales == "factor":
            if not isinstance(transform, Clamp) or self.factors is None:
                raise InputError("only a clamp with factors can have its factor scaled")
            if transform.rank != len(self.factors.positive.mean):
                raise InputError(f"a clamp of rank {transform.rank} needs factors of that rank")

    def resolve(self, direction: str, multiplier: float, scale: str) -> Intervention:
        """The intervention that `direction` at `multiplier` means."""
        if self.scales == "factor":
            assert self.factors is not None
            return self.clamped(self.factors.value(direction, multiplier, scale))
        if self.scales == "strength":
            return replace(self.intervention, strength=self.intervention.strength * multiplier)
        transform = self.intervention.transform
        if self.scales == "transform" and isinstance(transform, Scalable):
            return replace(self.intervention, transform=transform.scaled(multiplier))
        return self.intervention

    def clamped(self, values: Tensor) -> Intervention:
        """The clamp set to `values` (r,); InputError for other transforms."""
        transform = self.intervention.transform
        if not isinstance(transform, Clamp):
            raise InputError(f"at() sets a clamped coordinate, but this vector holds a {transform.kind!r} transform")
        if values.numel() != transform.rank:
            raise InputError(f"at() got {values.numel()} values for a clamp of rank {transform.rank}; give one each")
        return replace(self.intervention, transform=transform.with_values(values))


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A concept as something that can be brought out (`elicit`) and taken away (`suppress`).

    The multiplier m is absolute: 1 = as learned from data, omitted = the calibrated one if stored, else 1. For clamps
    it moves the clamped value along the gap between the two classes (see `Factors.value`), for other transforms it
    multiplies their strength. m = 0 is the other class's own value, not "off": off is no steering at all.

    Args:
        method: Name of the method that made it.
        model: The model it was made for.
        edits: The learned interventions.
        directions: For each direction that exists, indices into `edits` in the order of application.
        multipliers: Calibrated multiplier a direction, where one was found.
        settings: The method's settings, as JSON values.
        provenance: Data hash, seed, training figures, library versions; whatever makes the vector checkable.

    Raises:
        InputError: No edit or no direction, a direction or multiplier that cannot be, a block that the model does not
            have, or a tensor of another width than its residual stream.
    """

    method: str
    model: ModelCard
    edits: tuple[Edit, ...]
    directions: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: dict.fromkeys(DIRECTIONS, (0,)))
    multipliers: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, JSON] = field(default_factory=dict)
    provenance: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.edits or not self.directions:
            raise InputError("a vector needs at least one edit and one direction")
        for name, indices in self.directions.items():
            check_direction(name)
            if not indices or not all(isinstance(index, int) and 0 <= index < len(self.edits) for index in indices):
                raise InputError(
                    f"direction {name!r} names edits {list(indices)} but the vector holds {len(self.edits)}"
                )
        for name, multiplier in self.multipliers.items():
            check_direction(name, tuple(self.directions))
            check_multiplier(multiplier)
        object.__setattr__(self, "multipliers", {name: float(m) for name, m in self.multipliers.items()})
        for edit in self.edits:
            site, width = edit.intervention.site, edit.intervention.transform.width
            if site.layer >= self.model.n_blocks:
                raise InputError(f"site {site} does not exist in a model of {self.model.n_blocks} blocks")
            if site.kind in RESIDUAL_WIDTH and width != self.model.hidden_size:
                raise InputError(
                    f"a tensor of width {width} at {site} does not fit hidden size {self.model.hidden_size}"
                )
            gate = edit.intervention.gate
            if isinstance(gate, PromptGate) and len(gate.direction) != self.model.hidden_size:
                raise InputError(
                    f"a condition of width {len(gate.direction)} does not fit hidden size {self.model.hidden_size}"
                )

    def elicit(self, multiplier: float | None = None, scale: str = "gap") -> Steering:
        """Bring the concept out.

        A clamp sets the coordinate to f_neg + m (f_pos - f_neg), with f the classes' factors: the mean of the
        coordinate in the data with and without the concept.

        Args:
            multiplier: m, in units of the gap f_pos - f_neg: 1 = the positive class's own value, as learned; 0 = the
                negative class's value (not "off": off is no steering); 2 goes as far again. For transforms other than
                a clamp it multiplies their strength. None = the calibrated one if stored, else 1.
            scale: What m moves a clamp along: `gap`, as above, or `published`, m * f_pos, as in the published code of
                CDAS. The two agree at m = 1.

        Raises:
            InputError: The vector cannot elicit, an unknown scale, or a multiplier that is not finite or far too large.
        """
        return self.steering("elicit", multiplier, scale)

    def suppress(self, multiplier: float | None = None, scale: str = "gap") -> Steering:
        """Take the concept away.

        A clamp sets the coordinate to f_pos + m (f_neg - f_pos), with the classes' factors f as in `elicit`.

        Args:
            multiplier: m, in units of the gap f_neg - f_pos: 1 = the negative class's own value, as learned; 0 = the
                positive class's value; otherwise as in `elicit`.
            scale: `gap`, as above, or `published`, m * f_neg.

        Raises:
            InputError: The vector cannot suppress; otherwise as in `elicit`.
        """
        return self.steering("suppress", multiplier, scale)

    def steering(self, direction: str, multiplier: float | None = None, scale: str = "gap") -> Steering:
        """The interventions of one direction at one multiplier.

        Args:
            direction: `elicit` or `suppress`.
            multiplier: As in the method of that name.
            scale: As there.

        Raises:
            InputError: A direction the vector does not have, an unknown scale, a multiplier that is not finite.
        """
        check_direction(direction, tuple(self.directions))
        m = self.multipliers.get(direction, 1.0) if multiplier is None else multiplier
        check_multiplier(m)
        interventions = [self.edits[index].resolve(direction, m, scale) for index in self.directions[direction]]
        return self._resolved(interventions, f"{self.method}:{direction}:{m:g}")

    def at(self, *values: float) -> Steering:
        """Clamp the coordinates of every edit to the given values, whatever the factors say.

        Args:
            values: One a rank, in the units of the coordinates <w, h>; every edit gets the same.

        Raises:
            InputError: An edit that is no clamp, another number of values than its rank, or a value that is not finite.
        """
        wanted = torch.tensor(values, dtype=torch.float32)
        return self._resolved([edit.clamped(wanted) for edit in self.edits], f"{self.method}:at:{values}")

    def _resolved(self, interventions: list[Intervention], label: str) -> Steering:
        return Steering(
            tuple(interventions),
            self.model.prefix_ids,
            self.model.hidden_size,
            self.model.n_blocks,
            label=label,
            template_fingerprint=self.model.template_fingerprint,
        )

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) over all that decides what the vector does; see `trimtab.steering.content.content_hash`."""
        return content_hash(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the vector's directory atomically; see `trimtab.steering.storage.save_vector`."""
        from trimtab.steering.storage import save_vector  # storage builds vectors, so it stands above this module

        return save_vector(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read a vector's directory; see `trimtab.steering.storage.load_vector`."""
        from trimtab.steering.storage import load_vector  # as in save

        return load_vector(Path(path))
