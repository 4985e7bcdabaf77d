"""KL-DAS: the interchange of CDAS, trained with a Kullback-Leibler divergence in place of the Jensen-Shannon one.

Source: a variant of arXiv 2602.05234 (Bao et al., ICLR 2026).

    forward:  KL(q || p)      reverse:  KL(p || q)      p the intervened base, q the teacher, mean over scored tokens

q is the model's own distribution behind the source prompt. Forward, the student must cover all that the teacher may
say; reverse, it must say nothing that the teacher would not. These are the usual names: the published code has them the
other way round, which `names="published"` follows, for its recipes only. Factors, multiplier and deviations are those
of CDAS (`trimtab.methods.cdas`).

Shapes: d hidden, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data import PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting import (
    FitOptions,
    InterchangeSettings,
    clamp_vector,
    clamp_vectors,
    fit_interchange,
    trial_settings,
)
from trimtab.fitting.divergence import Objective, forward_kl, reverse_kl
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import SteeringVector

DIVERGENCES = ("forward", "reverse")
NAMES = ("usual", "published")


@dataclass(frozen=True)
class KLDASSettings(InterchangeSettings):
    """Settings of KL-DAS; those that it shares with CDAS have the same defaults.

    Args:
        divergence: `forward`, KL(teacher || student), or `reverse`, KL(student || teacher).
        names: `usual`, or `published`: the two exchanged, as in the published code.

    Raises:
        InputError: Another divergence or other names, or a bad value of a shared setting.
    """

    divergence: str = "forward"
    names: str = "usual"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("divergence", DIVERGENCES), ("names", NAMES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    @property
    def objective(self) -> Objective:
        """What the settings ask for."""
        is_forward = (self.divergence == "forward") == (self.names == "usual")
        return Objective(forward_kl if is_forward else reverse_kl, "teacher")


def fit_kldas(model: Model, pairs: PairSet, settings: KLDASSettings, options: FitOptions) -> SteeringVector:
    """Learn one concept direction (or r of them) by KL-DAS.

    Raises:
        InputError: See `trimtab.fitting.fit_interchange`.
        FitDivergedError: The loss left the finite numbers; carries the last good vector.
    """
    fit = fit_interchange(model, pairs, settings, settings.objective, options)
    return clamp_vector("kldas", model, pairs, settings, fit)


def fit_many_kldas(
    model: Model, concepts: Sequence[PairSet], settings: KLDASSettings, options: FitOptions
) -> list[SteeringVector | FitDivergedError]:
    """As `fit_kldas`, several concepts in lockstep."""
    return clamp_vectors("kldas", model, concepts, settings, settings.objective, options)


KLDAS = Method(
    name="kldas",
    family="interchange",
    paper="arXiv 2602.05234",
    summary="the interchange of CDAS, trained with a forward or reverse KL divergence",
    settings=KLDASSettings,
    fit=fit_kldas,
    trial=trial_settings,
    many=fit_many_kldas,
)
