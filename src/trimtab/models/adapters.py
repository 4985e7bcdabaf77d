"""Low-rank adapters: PEFT's layers, put on a model for a while and taken off without a trace.

PEFT replaces modules, freezes weights and leaves notes on the model. All of that is undone from a copy that was made
before, whatever version of PEFT it was.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.errors import InputError, MissingExtraError
from trimtab.models.families import hook_point
from trimtab.models.layout import Layout
from trimtab.models.weights import refuse_adapter, weights_sample
from trimtab.steering import Site

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"
"""What PEFT calls an adapter that has no name."""
PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules in its files."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _are_paths(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(path, str) and path for path in value)


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "target_modules": (lambda value: _are_paths(value) and len({*value}) == len(value), "a list of paths, each once"),
    "r": (lambda value: type(value) is int and value >= 1, "a whole number of at least 1"),
    "lora_alpha": (_is_number, "a finite number"),
    "lora_dropout": (lambda value: _is_number(value) and 0 <= value < 1, "at least 0 and below 1"),
    "use_rslora": (lambda value: isinstance(value, bool), "true or false"),
    "fan_in_fan_out": (lambda value: isinstance(value, bool), "true or false"),
}
"""What `adapter_config.json` says of an `AdapterShape`, in its order, and what it may say."""


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter consists of, without its weights.

    Attributes:
        modules: Paths of the adapted modules in the model.
        rank: Of each update.
        alpha: The update is multiplied by alpha / sqrt(rank), or by alpha / rank.
        dropout: Share of the adapter's inputs that are 0 in training.
        is_rank_stabilised: Whether it is the square root.
        is_transposed: Whether the modules hold their weights as (in, out), as GPT-2's do.
    """

    modules: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float
    is_rank_stabilised: bool
    is_transposed: bool

    def config(self, base: str | None = None) -> LoraConfig:
        """The same in PEFT's words.

        Raises:
            MissingExtraError: PEFT is not installed.
        """
        return _peft_config()(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType]  # PEFT says int and computes with any number
            lora_dropout=self.dropout,
            use_rslora=self.is_rank_stabilised,
            fan_in_fan_out=self.is_transposed,
            target_modules=list(self.modules),
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )

    def text(self, base: str) -> str:
        """What PEFT keeps of it as `adapter_config.json`, for inference on a model of that name.

        Raises:
            MissingExtraError: PEFT is not installed.
        """
        plain = {**self.config(base).to_dict(), "inference_mode": True, "target_modules": sorted(self.modules)}
        return json.dumps(plain, indent=2, sort_keys=True, default=sorted) + "\n"  # sets of names become lists

    @classmethod
    def read(cls, text: str) -> AdapterShape:
        """From the text of an `adapter_config.json` that `text` made.

        Raises:
            InputError: It is none, or an adapter of another kind.
        """
        try:
            config: dict[str, Any] = json.loads(text)
            kind = (config["peft_type"], config["bias"])
            parts = {key: config[key] for key in KINDS}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"the adapter's configuration cannot be read ({error}); fit it again") from error
        if kind != ("LORA", "none"):
            raise InputError(f"the adapter is {kind[0]} with bias {kind[1]!r}; trimtab reads LORA without biases")
        for key, value in parts.items():
            is_good, allowed = KINDS[key]
            if not is_good(value):
                raise InputError(
                    f"{key} of the adapter's configuration is {value!r}; it must be {allowed}: fit it again"
                )
        modules, *rest = parts.values()
        return cls(tuple(modules), *rest)


def spread_layers(n_blocks: int) -> tuple[int, ...]:
    """Four blocks, one after every fifth of the depth: of 26 those of AxBench, 5, 10, 15 and 20."""
    return tuple(sorted({n_blocks * part // 5 for part in range(1, 5)}))


def adapted_modules(layout: Layout, layers: Sequence[int], targets: Sequence[str]) -> tuple[list[str], bool]:
    """Paths of the modules to be adapted, and whether they hold their weights as (in, out).

    Args:
        layout: The model.
        layers: Blocks.
        targets: Names of modules within a block, or the ends of such (`q_proj`, `mlp.down_proj`); none = the last
            projection of the attention, whatever the family calls it.

    Raises:
        InputError: A block without such a module, or one that is no plain linear map.
    """
    refuse_adapter(layout.model)
    names = {module: name for name, module in layout.model.named_modules()}
    found: dict[str, nn.Module] = {}
    for layer in layers:
        block = layout.blocks[layer]
        if not targets:
            module = hook_point(block, Site(layer, "attn_in"), layout.model_type).module
            found[names[module]] = module
        for target in targets:
            ends = {
                name: module
                for name, module in block.named_modules()
                if (name == target or name.endswith(f".{target}")) and isinstance(module, (nn.Linear, Conv1D))
            }
            if not ends:
                linear = [name for name, module in block.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
                raise InputError(f"block {layer} has no linear module {target!r}; allowed: {', '.join(linear)}")
            found |= {names[module]: module for module in ends.values()}
    odd = [name for name, module in found.items() if not isinstance(module, (nn.Linear, Conv1D))]
    kinds = {isinstance(module, Conv1D) for module in found.values()}
    if odd or len(kinds) > 1:
        what = f"{odd[0]} is no plain linear map" if odd else "the targets hold their weights in two different ways"
        raise InputError(f"{what}; name other modules with targets, and load the model without quantisation")
    return list(found), kinds == {True}


def adapter_problems(hf: nn.Module, shape: AdapterShape, weights: Mapping[str, Tensor]) -> list[str]:
    """Why an adapter cannot be put on a model: one sentence, of the first reason; empty if it can."""
    try:
        refuse_adapter(hf)
    except InputError as error:
        return [str(error)]
    own, model = dict(hf.named_modules()), type(hf).__name__
    needed: dict[str, tuple[int, int]] = {}
    for path in shape.modules:
        module = own.get(path)
        if not isinstance(module, (nn.Linear, Conv1D)):
            has = "does not have" if module is None else "has, but not as a plain linear map"
            return [f"the adapter is for {path}, which {model} {has}"]
        d_in, d_out = _ends(module)
        needed |= {
            f"{PREFIX}{path}.lora_A.weight": (shape.rank, d_in),
            f"{PREFIX}{path}.lora_B.weight": (d_out, shape.rank),
        }
    if needed.keys() != weights.keys():
        return [f"the adapter's weights are not those of its configuration: {min(needed.keys() ^ weights.keys())}"]
    for name, wanted in needed.items():
        if tuple(weights[name].shape) != wanted:
            return [f"the adapter holds {name} of shape {tuple(weights[name].shape)}, and {model} needs {wanted}"]
    return []


def _ends(module: nn.Linear | Conv1D) -> tuple[int, int]:
    """Width of what goes in and of what comes out."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    d_in, d_out = module.weight.shape
    return d_in, d_out


def adapted_sample(hf: nn.Module, shape: AdapterShape) -> str:
    """What tells the weights under an adapter from others, see `weights_sample`; no adapter is on the model."""
    return weights_sample({path: hf.get_submodule(path).get_parameter("weight") for path in shape.modules})


@contextmanager
def adapter(
    hf: nn.Module,
    shape: AdapterShape,
    weights: Mapping[str, Tensor] | None = None,
    *,
    scale: float = 1.0,
    training: bool = False,
) -> Iterator[dict[str, nn.Parameter]]:
    """An adapter at work, for a while; afterwards the model is what it was.

    Args:
        hf: The model.
        shape: What the adapter consists of.
        weights: Its weights by PEFT's names; None = drawn as PEFT does, from torch's generator.
        scale: What the update is multiplied by.
        training: Whether the adapter drops inputs, by torch's generator. The model itself stays in its mode.

    Yields:
        The weights by PEFT's names, in float32 (or float64) whatever the model's dtype.

    Raises:
        MissingExtraError: PEFT is not installed.
        InputError: PEFT cannot adapt the model, an adapter is on it already, or weights that do not fit.
    """
    config = shape.config()
    refuse_adapter(hf)
    problems = [] if weights is None else adapter_problems(hf, shape, weights)
    if problems:
        raise InputError(f"{problems[0]}; use its own model")
    with _restored(hf):
        layers = _put_on(hf, shape, config)
        found: dict[str, nn.Parameter] = {}
        for path, layer in layers.items():
            for half in ("lora_A", "lora_B"):
                inner = layer.get_submodule(f"{half}.{ADAPTER}")
                weight = inner.get_parameter("weight")
                inner.to(torch.promote_types(weight.dtype, torch.float32))
                found[f"{PREFIX}{path}.{half}.weight"] = inner.get_parameter("weight")
            layer.scaling[ADAPTER] *= scale  # pyright: ignore
            layer.get_submodule("lora_dropout").train(training)
        if weights is not None:
            with torch.no_grad():
                for name, weight in found.items():
                    weight.copy_(weights[name])
        yield found


def _put_on(hf: nn.Module, shape: AdapterShape, config: LoraConfig) -> dict[str, nn.Module]:
    """PEFT's layers by the paths of the modules that they stand in for, in evaluation mode."""
    from peft import inject_adapter_in_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it sets right by itself
            inject_adapter_in_model(config, hf, ADAPTER)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"PEFT cannot adapt {type(hf).__name__} ({reason}); name other modules with targets"
        ) from error
    layers = {path: hf.get_submodule(path) for path in shape.modules}
    for layer in layers.values():
        layer.eval()
    return layers


@contextmanager
def _restored(hf: nn.Module) -> Iterator[None]:
    """Afterwards every module has the modules, notes and mode that it had, and every weight its `requires_grad`."""
    modules = [(module, dict(module._modules), set(vars(module)), module.training) for module in hf.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in hf.parameters()]
    try:
        yield
    finally:
        for module, children, notes, training in modules:
            module._modules.clear()
            module._modules.update(children)
            for note in set(vars(module)) - notes:
                del vars(module)[note]
            module.training = training
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)


def _peft_config() -> type[LoraConfig]:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("a low-rank adapter", "peft", "peft") from error
    return LoraConfig
