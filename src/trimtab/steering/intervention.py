"""The one rule: h' = h + s * g(h) * (T(h) - h), at a site, on some positions.

Shapes: b batch, s sequence, d hidden, r rank (summed over the clamps of a site).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_gram
from trimtab.steering.gates import Always, Gate, PromptGate
from trimtab.steering.positions import Positions
from trimtab.steering.site import Site
from trimtab.steering.transforms import Clamp, Transform


@dataclass(frozen=True)
class Intervention:
    """One edit: what (`transform`), where (`site`, `positions`), when (`gate`) and how much (`strength`).

    Args:
        site: Where the state is read and written.
        transform: T.
        positions: Which tokens of the row are edited.
        gate: g, read from the state before the first edit at the site, or from the prompt at an earlier one.
        strength: s; 1 applies T as it is, 0 is the identity.

    Raises:
        InputError: A strength that is not finite, a gate of another width than the transform, or one that reads the
            prompt where the edit has been made already.
    """

    site: Site
    transform: Transform
    positions: Positions = Positions()
    gate: Gate = Always()
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", float(self.strength))
        if not torch.isfinite(torch.tensor(self.strength)):
            raise InputError(f"strength {self.strength} is not a finite number")
        if self.gate.width not in (None, self.transform.width):
            raise InputError(
                f"a gate of width {self.gate.width} cannot read states of width {self.transform.width} at {self.site}"
            )
        if isinstance(self.gate, PromptGate) and not _is_before(self.gate.site, self.site):
            raise InputError(
                f"a condition read at {self.gate.site} is not known yet at {self.site}; read it at the output of an "
                "earlier block, or where the edit is made"
            )

    def to(self, device: torch.device) -> Intervention:
        """The same intervention with its tensors on another device."""
        return replace(self, transform=self.transform.to(device), gate=self.gate.to(device))


@dataclass(frozen=True)
class Steering:
    """What one row of a batch gets: a resolved list of interventions. `a + b` composes two on the same row.

    Args:
        interventions: In the order in which they apply at a site. Clamps at one site are solved together.
        prefix_ids: The template prefix; leading tokens of a row that match it are not edited.
        hidden_size: Width of the model the tensors were made for.
        n_blocks: Depth of that model.
        label: For messages, e.g. `cdas:elicit:1.5`.
        template_fingerprint: Hash of the chat template of that model; None for a steering that knows of none.

    Raises:
        InputError: Edits of different widths at one site, clamps that contradict each other there, or (for a + b) two
            steerings made for different models or chat templates.
    """

    interventions: tuple[Intervention, ...]
    prefix_ids: tuple[int, ...] = ()
    hidden_size: int | None = None
    n_blocks: int | None = None
    label: str = "steering"
    template_fingerprint: str | None = None

    def __post_init__(self) -> None:
        for site in {intervention.site for intervention in self.interventions}:
            here = [i for i in self.interventions if i.site == site]
            widths = sorted({i.transform.width for i in here})
            if len(widths) > 1:
                raise InputError(f"{self.label} at {site}: edits of widths {widths} cannot meet at one site")
            for phase in ([i for i in here if i.positions.on_prompt], [i for i in here if i.positions.on_response]):
                _joint_inverse(phase, f"{self.label} at {site}")

    def __add__(self, other: Steering) -> Steering:
        for name in ("prefix_ids", "hidden_size", "n_blocks"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise InputError(
                    f"cannot combine {self.label} and {other.label}: they were made for different models "
                    f"({name} {mine} and {theirs})"
                )
        fingerprints = {self.template_fingerprint, other.template_fingerprint} - {None}
        if len(fingerprints) > 1:
            raise InputError(
                f"cannot combine {self.label} and {other.label}: they were made with different chat templates; "
                "take vectors of one model"
            )
        return replace(
            self,
            interventions=self.interventions + other.interventions,
            label=f"{self.label} + {other.label}",
            template_fingerprint=next(iter(fingerprints), None),
        )


def _is_before(read: Site, edited: Site) -> bool:
    """Whether a block's output is there when a site is edited; at one and the same site it is read first."""
    return read == edited or read.layer < edited.layer


def _joint_inverse(interventions: Sequence[Intervention], name: str) -> Tensor | None:
    """(W W^T)^-1 (r, r) over all clamps, float64; None without clamps; InputError when ill-conditioned."""
    rows = [i.transform.directions.cpu() for i in interventions if isinstance(i.transform, Clamp)]
    return check_gram(name, torch.cat(rows)) if rows else None


@dataclass(frozen=True, eq=False)
class SiteEdit:
    """Interventions that share a site and meet on the same tokens, ready to run: tensors on the state's device.

    Gates read the state before the first edit. Edits apply in the order listed; all clamps act together at the place of
    the first one, so that each coordinate ends at its value although the directions are not orthogonal. A clamp
    with strength s and gate g moves its coordinate the fraction s * g of the way; where that is 0 it takes no part.
    """

    interventions: tuple[Intervention, ...]
    gram_inverse: Tensor | None

    @classmethod
    def build(cls, interventions: Sequence[Intervention], device: torch.device) -> SiteEdit:
        """Prepare interventions that share a site, in the order of application."""
        meet = all(i.positions.on_prompt for i in interventions) or all(i.positions.on_response for i in interventions)
        inverse = _joint_inverse(interventions, "clamps at one site") if meet else None
        if inverse is not None:
            inverse = inverse.to(device=device, dtype=torch.float32)
        return cls(tuple(intervention.to(device) for intervention in interventions), inverse)

    def __call__(self, h: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
        """Edit h (b, s, d) where the masks (b, s) say; a mask of None means every token.

        Tokens outside every mask keep their value bit for bit. Computed in float32 at least, also under autocast, and
        returned in h's dtype.
        """
        with _without_autocast(h.device):
            return self._edit(h, masks)

    def _edit(self, h: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
        x = h.to(torch.promote_types(h.dtype, torch.float32))
        amounts = [_amount(i, x, mask) for i, mask in zip(self.interventions, masks, strict=True)]
        out, clamped = x, False
        for intervention, amount in zip(self.interventions, amounts, strict=True):
            if isinstance(intervention.transform, Clamp):
                out = out if clamped else self._clamp(out, amounts)
                clamped = True
            elif amount is None:
                out = intervention.transform(out)
            else:
                out = out + amount[..., None] * (intervention.transform(out) - out)
        if any(mask is None for mask in masks):
            return out.to(h.dtype)
        touched = torch.stack([mask for mask in masks if mask is not None]).any(dim=0)
        return torch.where(touched[..., None], out.to(h.dtype), h)

    def _clamp(self, x: Tensor, amounts: Sequence[Tensor | None]) -> Tensor:
        pairs = [
            (i.transform, a) for i, a in zip(self.interventions, amounts, strict=True) if isinstance(i.transform, Clamp)
        ]
        w = torch.cat([clamp.directions for clamp, _ in pairs]).to(x.dtype)  # (r, d)
        values = torch.cat([clamp.values for clamp, _ in pairs]).to(x.dtype)  # (r,)
        missing = values - x @ w.T  # (b, s, r)
        if self.gram_inverse is not None and all(amount is None for _, amount in pairs):
            return x + (missing @ self.gram_inverse.to(x.dtype)) @ w
        amount = torch.cat(
            [
                torch.ones_like(missing[..., : clamp.rank]) if a is None else a[..., None].expand(*a.shape, clamp.rank)
                for clamp, a in pairs
            ],
            dim=-1,
        )  # (b, s, r)
        missing = missing * amount
        if len(pairs) == 1:
            return x + (missing @ pairs[0][0].gram_inverse.to(x.dtype)) @ w
        return x + _solve_active(missing, amount != 0, w) @ w


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keeps matrix products in their operands' dtype, whatever the caller runs the model in."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def _amount(intervention: Intervention, x: Tensor, mask: Tensor | None) -> Tensor | None:
    """s * g(h) on the masked tokens, (b, s); None stands for 1 everywhere.

    What a gate read from the prompt is in the mask.
    """
    if isinstance(intervention.gate, (Always, PromptGate)):
        if mask is None:
            return None if intervention.strength == 1.0 else x.new_full(x.shape[:-1], intervention.strength)
        return mask.to(x.dtype) * intervention.strength
    amount = intervention.gate(x) * intervention.strength
    return amount if mask is None else amount * mask.to(x.dtype)


def _solve_active(missing: Tensor, active: Tensor, w: Tensor) -> Tensor:
    """Per token, the weights c (b, s, r) on rows of w with W_active W_active^T c = missing and c = 0 elsewhere."""
    both = active[..., :, None] & active[..., None, :]
    gram = (w @ w.T) * both + torch.diag_embed((~active).to(w.dtype))
    return torch.linalg.solve(gram, missing * active)
