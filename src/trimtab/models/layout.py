"""Find a causal language model's blocks, final norm and head by structure, and prove it with one small forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.errors import InputError


@dataclass(frozen=True, eq=False)
class Layout:
    """The parts of a model that trimtab works with.

    Attributes:
        model: The Hugging Face model, without what is wrapped around it.
        stack: The module that owns the blocks; its forward embeds, runs the blocks and the final norm.
        blocks: The blocks, in order of execution.
        path: Dotted path of `blocks` in `model`.
        hidden_size: Width of the residual stream.
        model_type: transformers' `config.model_type`.
        head_size: Width of one query head, if the configuration tells.
    """

    model: PreTrainedModel
    stack: nn.Module
    blocks: nn.ModuleList
    path: str
    hidden_size: int
    model_type: str
    head_size: int | None

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.blocks)


@dataclass(frozen=True, eq=False)
class CheckedLayout(Layout):
    """A layout whose behaviour was seen in a forward pass.

    Attributes:
        norm: The final norm, from the last block's output to the head's input; None if the family has none.
        head: The module whose input is the stack's output and which makes the logits.
        tuple_output: Whether a block returns a tuple whose first entry is the state.
        head_is_whole: Whether the head alone gives the logits; else the family changes them afterwards.
    """

    norm: nn.Module | None = field(default=None)
    head: nn.Module = field(default_factory=nn.Identity)
    tuple_output: bool = False
    head_is_whole: bool = True


def find_layout(hf: nn.Module) -> Layout:
    """The blocks of a decoder-only Hugging Face model: the outermost module list of the configured depth.

    Args:
        hf: The model, or a module around it (PEFT, data-parallel, one's own): the outermost Hugging Face model counts.

    Raises:
        InputError: Not a decoder-only Hugging Face model, or no such list.
    """
    if not isinstance(hf, nn.Module):
        kind = type(hf).__name__
        raise InputError(f"{kind} is no torch module; give the Hugging Face model (model.hf of a trimtab Model)")
    model = next((module for module in hf.modules() if isinstance(module, PreTrainedModel)), None)
    if model is None:
        raise InputError(f"{type(hf).__name__} is no Hugging Face model and holds none; give a causal language model")
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(f"{name} is an encoder-decoder; trimtab steers decoder-only language models")
    text = model.config.get_text_config()
    depth, width = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not found or not isinstance(width, int):
        raise InputError(
            f"cannot find the blocks of {name}: no module list of {depth} blocks (config.num_hidden_layers); "
            "trimtab needs a decoder-only model with one list of blocks"
        )
    language = [item for item in found if "vision" not in item[0] and "audio" not in item[0]] or found
    path, blocks = min(language, key=lambda item: item[0].count("."))
    heads = getattr(text, "num_attention_heads", None)
    head_size = getattr(text, "head_dim", None) or (width // heads if heads else None)
    stack = model.get_submodule(path.rpartition(".")[0])
    if "input_ids" not in inspect.signature(type(stack).forward).parameters:
        raise InputError(f"{name}: the module around {path} reads no token ids; give a decoder-only language model")
    return Layout(model, stack, blocks, path, width, text.model_type, head_size)


def state_of(output: Any) -> Tensor:
    """The hidden state in what a block returned: the tensor itself, or the first entry of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_state(output: Any, state: Tensor) -> Any:
    """What a block returned, with another hidden state in it."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def check_layout(hf: PreTrainedModel, layout: Layout) -> CheckedLayout:
    """Run eight tokens and prove that the blocks run once each in order, causally, and lead to the head.

    Raises:
        InputError: The model does not behave as a stack of decoder blocks.
    """
    head = layout.model.get_output_embeddings()
    name = type(layout.model).__name__
    if head is None:
        raise InputError(f"{name} has no language-model head; load it with AutoModelForCausalLM")
    device = layout.model.get_input_embeddings().get_parameter("weight").device
    ids = torch.arange(8, device=device)[None] % head.get_parameter("weight").shape[0]
    with torch.no_grad(), evaluating(hf):
        seen = _probe(hf, layout, head, ids)
        other = _probe(hf, layout, head, torch.cat([ids[:, :-1], ids[:, :1]], dim=1))
    inputs, outputs = seen.block_inputs, [state_of(output) for output in seen.block_outputs]
    if seen.order != list(range(layout.n_blocks)):
        raise InputError(
            f"{name}: the modules in {layout.path} do not run once each in order; this layout is not supported"
        )
    if outputs[0].shape != (*ids.shape, layout.hidden_size):
        shape = tuple(outputs[0].shape)
        raise InputError(f"{name}: a block's state is {shape}, not (rows, tokens, width); this layout is not supported")
    if any(not _same(a, b) for a, b in zip(outputs[:-1], inputs[1:], strict=True)):
        raise InputError(f"{name}: a block's input is not the block before's output; this layout is not supported")
    if not _same(outputs[-1][:, :-1], state_of(other.block_outputs[-1])[:, :-1]):
        raise InputError(f"{name} is not causal: a later token changes earlier states; trimtab needs a causal decoder")
    if len(seen.head_inputs) != 1 or not _same(seen.head_inputs[0], seen.stack_output):
        raise InputError(f"{name}: the head does not read the output of {layout.path}; this layout is not supported")
    return CheckedLayout(
        **vars(layout),
        norm=_final_norm(layout, seen, outputs[-1]),
        head=head,
        tuple_output=isinstance(seen.block_outputs[0], tuple),
        head_is_whole=_equal(seen.head_outputs[0], seen.logits),
    )


@dataclass
class _Seen:
    order: list[int] = field(default_factory=list)
    block_inputs: list[Tensor] = field(default_factory=list)
    block_outputs: list[Any] = field(default_factory=list)
    head_inputs: list[Tensor] = field(default_factory=list)
    head_outputs: list[Tensor] = field(default_factory=list)
    children: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    stack_output: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def _probe(hf: PreTrainedModel, layout: Layout, head: nn.Module, ids: Tensor) -> _Seen:
    seen = _Seen()

    def on_block(index: int, args: Any, kwargs: Any, output: Any) -> None:
        seen.order.append(index)
        seen.block_inputs.append(args[0] if args else kwargs["hidden_states"])
        seen.block_outputs.append(output)

    def on_child(child: str, args: Any, output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            seen.children[child] = (args[0], output)

    def on_stack(output: Any) -> None:
        seen.stack_output = output[0]

    def on_head(args: Any, output: Any) -> None:
        seen.head_inputs.append(args[0])
        seen.head_outputs.append(output)

    with ExitStack() as hooks:
        for i, block in enumerate(layout.blocks):
            handle = block.register_forward_hook(
                lambda _, args, kwargs, output, i=i: on_block(i, args, kwargs, output), with_kwargs=True
            )
            hooks.callback(handle.remove)
        for child, module in layout.stack.named_children():
            handle = module.register_forward_hook(lambda _, args, output, child=child: on_child(child, args, output))
            hooks.callback(handle.remove)
        hooks.callback(layout.stack.register_forward_hook(lambda _, __, output: on_stack(output)).remove)
        hooks.callback(head.register_forward_hook(lambda _, args, output: on_head(args, output)).remove)
        try:
            seen.logits = hf(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
            name, reason = type(hf).__name__, " ".join(str(error).split())
            raise InputError(f"{name} failed on eight plain tokens ({reason}); check the model's files") from error
    return seen


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4, equal_nan=True)


def _equal(a: Tensor, b: Tensor) -> bool:
    """To the last bit: a soft-cap moves small logits by rounding alone, and head and model come from one forward."""
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=0, atol=0, equal_nan=True)


def _final_norm(layout: Layout, seen: _Seen, last: Tensor) -> nn.Module | None:
    for child, (before, after) in seen.children.items():
        if _same(before, last) and _same(after, seen.stack_output):
            return layout.stack.get_submodule(child)
    return None


@contextmanager
def evaluating(hf: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode for a while, then each back into the mode it had."""
    training = [module for module in hf.modules() if module.training]
    hf.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
