"""LoRA: low-rank updates of some weights, trained to make the positive answers likely.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; as a baseline of steering
Wu et al., "AxBench", arXiv 2501.17148; code stanfordnlp/axbench. The adapter is PEFT's, in PEFT's files.

    W' = W + m (alpha / sqrt(r)) B A        A (r, d_in) drawn, B (d_out, r) from 0
    loss = mean over the answer tokens of a step of -log p(y+ | x-)

Shapes: d_in, d_out of the adapted map, r rank. Deviations from AxBench: a step takes a batch at once instead of two
halves with the mean of their means; the model is in evaluation mode; the adapter is float32 whatever the model is; the
multiplier m. Without `layers` it adapts four blocks, spread as AxBench's are in a model of 26.
"""

from __future__ import annotations

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
from trimtab.fitting.finetune import TuneSettings, elicit_items, finetune, refuse_diverged, seeded
from trimtab.fitting.settings import check_number
from trimtab.fitting.vectors import json_settings, origin
from trimtab.methods.method import Method
from trimtab.methods.saved import Saved
from trimtab.methods.steerable import SAMPLE, Applied, Baseline
from trimtab.models import Model
from trimtab.models.adapters import (
    AdapterShape,
    adapted_modules,
    adapted_sample,
    adapter,
    adapter_problems,
    spread_layers,
)
from trimtab.models.layout import evaluating
from trimtab.steering import ModelCard
from trimtab.steering.content import JSON
from trimtab.steering.folders import ADAPTER_CONFIG_NAME, ADAPTER_NAME, text_bytes


@dataclass(frozen=True)
class LoRASettings(TuneSettings):
    """Settings of LoRA; those of AxBench.

    Args:
        rank: Of each update.
        alpha: An update is multiplied by alpha / sqrt(rank).
        dropout: Share of an adapter's inputs that are 0 in training.
        rank_stabilised: Whether it is the square root; else alpha / rank.
        layers: Blocks that are adapted; none = four, spread over the depth.
        targets: Names of linear maps in a block, such as q_proj; none = the attention's last, whatever it is called.

    Raises:
        InputError: A setting outside its range.
    """

    epochs: int = 24
    lr: float = 9e-4
    batch_size: int = 36
    grad_clip: float | None = None
    rank: int = 4
    alpha: float = 32.0
    dropout: float = 0.05
    rank_stabilised: bool = True
    layers: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", _blocks(self.layers))
        object.__setattr__(self, "targets", _names(self.targets))
        check_number("rank", self.rank, least=1, whole=True)
        check_number("alpha", self.alpha, above=0)
        check_number("dropout", self.dropout, least=0)
        if self.dropout >= 1:
            raise InputError(f"dropout is {self.dropout}; it must be below 1")


def _blocks(layers: object) -> tuple[int, ...]:
    """Block numbers, ascending; also from one number, or a text with commas, which is what the command line has."""
    if not isinstance(layers, (str, list, tuple)):
        layers = [layers]
    found: list[int] = []
    for part in layers.split(",") if isinstance(layers, str) else layers:
        number = int(part) if isinstance(part, str) and part.strip().isdecimal() else part
        check_number("layers", number, least=0, whole=True)
        assert isinstance(number, int)
        found.append(number)
    if len({*found}) != len(found):
        raise InputError(f"layers is {layers!r}; name each block once")
    return tuple(sorted(found))


def _names(targets: object) -> tuple[str, ...]:
    parts = targets.split(",") if isinstance(targets, str) else targets
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) and part.strip() for part in parts):
        raise InputError(f"targets is {targets!r}; give names of linear maps in a block, such as q_proj,v_proj")
    return tuple(part.strip() for part in parts)


@dataclass(frozen=True, eq=False)
class LoRA(Baseline):
    """A trained adapter; other attributes as of every `Baseline`.

    Attributes:
        config: Text of PEFT's `adapter_config.json`.
        weights: By PEFT's names, float32 on the CPU.
    """

    config: str
    weights: Mapping[str, Tensor]
    model: ModelCard
    settings: Mapping[str, JSON]
    provenance: Mapping[str, JSON]
    method: str = "lora"
    directions: Sequence[str] = ("elicit",)
    changes_weights: ClassVar[bool] = True

    def check_shapes(self, model: Model) -> list[str]:
        """As of every baseline; and a module that the model does not have, or has in another shape."""
        return super().check_shapes(model) or adapter_problems(model.hf, AdapterShape.read(self.config), self.weights)

    def _sample(self, model: Model) -> str:
        return adapted_sample(model.hf, AdapterShape.read(self.config))

    @contextmanager
    def applied(self, model: Model, direction: str, multiplier: float, *, force: bool = False) -> Iterator[Applied]:
        """The adapter on the model, its update times the multiplier; at 0 there is none.

        Raises:
            InputError: The model is another one, has an adapter already, or PEFT is not installed.
        """
        self.require_fit(model, force=force)
        if multiplier == 0:
            yield Applied()
            return
        with adapter(model.hf, AdapterShape.read(self.config), self.weights, scale=multiplier):
            yield Applied()

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The weights that were trained."""
        return self.weights

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write its directory, which PEFT reads too, atomically; InputError as `Saved.write`."""
        files = {
            ADAPTER_CONFIG_NAME: text_bytes(self.config),
            ADAPTER_NAME: safetensors.torch.save(dict(self.weights), metadata={"format": "pt"}),
        }
        return Saved.of(self, files).write(path, overwrite=overwrite)


def fit_lora(model: Model, pairs: PairSet, settings: LoRASettings, options: FitOptions) -> LoRA:
    """Train an adapter on all pairs.

    Raises:
        InputError: A layer or target the model does not have, no pairs or such that do not fit the context, or PEFT is
            not installed.
        FitDivergedError: The loss left the finite numbers; carries the last good adapter.
    """
    layers = settings.layers or spread_layers(model.n_blocks)
    for layer in layers:
        model.check_layer(layer)
    items = elicit_items(model, pairs, settings)
    modules, is_transposed = adapted_modules(model.layout, layers, settings.targets)
    shape = AdapterShape(
        tuple(modules), settings.rank, settings.alpha, settings.dropout, settings.rank_stabilised, is_transposed
    )
    # What is made in inference mode can never be trained.
    with (
        torch.inference_mode(False),
        seeded(model, settings.seed),
        evaluating(model.hf),
        adapter(model.hf, shape, training=True) as weights,
    ):
        tuned = finetune(model, items, weights, settings, options.progress)
        found = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
    notes: dict[str, JSON] = {
        "training": tuned.training(),
        "modules": list(modules),
        SAMPLE: adapted_sample(model.hf, shape),
    }
    made = LoRA(
        shape.text(model.name),
        found,
        model.card(),
        json_settings(settings),
        origin(model, pairs, settings.seed) | notes,
    )
    refuse_diverged(tuned, settings, made)
    return made


def restore_lora(saved: Saved) -> LoRA:
    """From its folder."""
    saved.check_directions(LoRA.directions)
    config = saved.file(ADAPTER_CONFIG_NAME).decode("utf-8", errors="replace")
    AdapterShape.read(config)
    try:
        weights = safetensors.torch.load(saved.file(ADAPTER_NAME))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{ADAPTER_NAME} cannot be read ({error}); fetch or fit the adapter again") from error
    return LoRA(config, weights, saved.model, saved.settings, saved.provenance)


LORA = Method(
    name="lora",
    family="baseline",
    paper="arXiv 2106.09685",
    summary="low-rank updates of some weights, trained to make the positive answers likely",
    settings=LoRASettings,
    fit=fit_lora,
    places="model",
    restore=restore_lora,
)
