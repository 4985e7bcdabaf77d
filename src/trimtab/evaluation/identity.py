"""What decides the numbers of a run, and what else should be known of it."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trimtab._version import __version__
from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.judges import Judge
from trimtab.models import Model
from trimtab.models.weights import weights_sample


def identity_of(
    model: Model, contenders: Sequence[Contender], judge: Judge | None, settings: Any, data: Any
) -> dict[str, Any]:
    """All that decides the numbers of a run, as JSON.

    Args:
        model: The model.
        contenders: What is compared.
        judge: Who rates, if anybody does.
        settings: The protocol's, a dataclass.
        data: What identifies the prompts and texts.
    """
    card = dataclasses.asdict(model.card())
    here = {name: weight for name, weight in model.hf.named_parameters() if not weight.is_meta}
    return {
        "settings": listed(dataclasses.asdict(settings)),
        "model": listed(
            # a model that was trained on is another one, under whatever name
            {**card, "dtype": str(model.dtype).removeprefix("torch."), "weights": weights_sample(here)}
        ),
        "contenders": [dict(each.identity) for each in contenders],
        "judge": None if judge is None else dict(judge.identity),
        "data": data,
    }


def info_of(model: Model, **more: Any) -> dict[str, Any]:
    """What does not decide them: versions, device, and what is given."""
    return {
        "trimtab": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(model.device),
        **more,
    }


def listed(value: Any) -> Any:
    """A value with lists for tuples, as JSON gives it back."""
    if isinstance(value, Mapping):
        return {key: listed(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [listed(entry) for entry in value]
    return value
