"""SFT: all weights fine-tuned to make the positive answers likely.

Source: supervised fine-tuning as the baseline of Wu et al., "AxBench", arXiv 2501.17148; code stanfordnlp/axbench.

    loss = mean over the answer tokens of a step of -log p(y+ | x-)
    theta(m) = theta_0 + m (theta_1 - theta_0)

theta_0 are the plain model's weights, theta_1 the trained ones. Deviations from AxBench: a step takes a batch at once
instead of four quarters with the mean of their means; the model is in evaluation mode; weights in half precision are
trained in float32; the multiplier m.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.finetune import TuneSettings, elicit_items, finetune, refuse_diverged
from trimtab.fitting.vectors import json_settings, origin
from trimtab.methods.method import Method
from trimtab.methods.saved import Saved
from trimtab.methods.steerable import SAMPLE, Applied, Baseline
from trimtab.models import Model
from trimtab.models.layout import evaluating
from trimtab.models.weights import between, exchanged, floating_weights, weight_problems, weights_sample
from trimtab.steering import ModelCard
from trimtab.steering.content import JSON
from trimtab.steering.folders import WEIGHTS_NAME

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SFTSettings(TuneSettings):
    """Settings of full fine-tuning; those of AxBench."""


@dataclass(frozen=True, eq=False)
class SFT(Baseline):
    """Trained weights; other attributes as of every `Baseline`.

    Attributes:
        weights: Those that training changed, by the model's names, on the CPU.
    """

    weights: Mapping[str, Tensor]
    model: ModelCard
    settings: Mapping[str, JSON]
    provenance: Mapping[str, JSON]
    method: str = "sft"
    directions: Sequence[str] = ("elicit",)
    changes_weights: ClassVar[bool] = True

    def check_shapes(self, model: Model) -> list[str]:
        """As of every baseline; and weights that the model does not have, or has in another shape."""
        return super().check_shapes(model) or weight_problems(model.hf, self.weights)

    def _sample(self, model: Model) -> str:
        return weights_sample(floating_weights(model.hf))

    @contextmanager
    def applied(self, model: Model, direction: str, multiplier: float, *, force: bool = False) -> Iterator[Applied]:
        """The model with these weights, or with its own moved by the multiplier's share of the way to them.

        Raises:
            InputError: The model is another one.
        """
        self.require_fit(model, force=force)
        if multiplier == 0:
            yield Applied()
            return
        with exchanged(model.hf, between(model.hf, self.weights, multiplier)):
            yield Applied()

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The weights that were trained."""
        return self.weights

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write its directory, atomically; InputError as `Saved.write`."""
        content = safetensors.torch.save(dict(self.weights))
        return Saved.of(self, {WEIGHTS_NAME: content}).write(path, overwrite=overwrite)


def fit_sft(model: Model, pairs: PairSet, settings: SFTSettings, options: FitOptions) -> SFT:
    """Train all weights on all pairs; the model itself is left as it was.

    Raises:
        InputError: No pairs or such that do not fit the context, or weights that cannot be trained.
        FitDivergedError: The loss left the finite numbers; carries the last good weights.
    """
    items = elicit_items(model, pairs, settings)
    plain = {name: weight.data for name, weight in floating_weights(model.hf).items()}
    # What is made in inference mode can never be trained.
    with torch.inference_mode(False), evaluating(model.hf), exchanged(model.hf, plain):
        weights = floating_weights(model.hf)
        tuned = finetune(model, items, weights, settings, options.progress)
        found = {
            name: weight.detach().cpu().contiguous().clone()
            for name, weight in weights.items()
            if not torch.equal(weight.data, plain[name])
        }
    if not found and tuned.diverged_at is None:
        logger.warning(
            "training changed no weight: all steps together are too small for %s; raise lr (now %g) or epochs, or load "
            "the model in float32",
            str(model.dtype).removeprefix("torch."),
            settings.lr,
        )
    notes: dict[str, JSON] = {"training": tuned.training(), SAMPLE: weights_sample(plain)}
    made = SFT(found, model.card(), json_settings(settings), origin(model, pairs, settings.seed) | notes)
    refuse_diverged(tuned, settings, made)
    return made


def restore_sft(saved: Saved) -> SFT:
    """From its folder."""
    saved.check_directions(SFT.directions)
    try:
        weights = safetensors.torch.load(saved.file(WEIGHTS_NAME))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{WEIGHTS_NAME} cannot be read ({error}); fetch or fit the weights again") from error
    return SFT(weights, saved.model, saved.settings, saved.provenance)


SFT_METHOD = Method(
    name="sft",
    family="baseline",
    paper="arXiv 2501.17148",
    summary="all weights fine-tuned to make the positive answers likely",
    settings=SFTSettings,
    fit=fit_sft,
    places="model",
    restore=restore_sft,
)
