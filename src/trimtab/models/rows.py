"""Follow a model's forward passes and know, for each, where every token stands in its row.

Works under left and right padding, with and without a KV cache (dynamic or static), for beams and several sequences a
prompt: places are counted over a row's own tokens, never over columns. Letters: b batch, s columns of this forward.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache

from trimtab.errors import InputError
from trimtab.models.conditions import Condition, Reading
from trimtab.models.versions import CACHE_NAMES
from trimtab.steering import Geometry, Positions

Prefix = tuple[int, ...]


@dataclass(eq=False)
class Chain:
    """What is known of one batch of growing sequences between its forwards.

    Attributes:
        columns: Columns so far.
        pads: (b,) pad columns so far.
        prompt: (b,) prompt lengths, or None when the sequence began outside the context and nobody said.
        matched: For each prefix, (b,) leading tokens that matched it so far.
        open: Prefixes that a later forward may still extend.
        readings: What was read of the prompts for conditions on them.
    """

    columns: int
    pads: Tensor
    prompt: Tensor | None
    matched: dict[Prefix, Tensor] = field(default_factory=dict)
    open: set[Prefix] = field(default_factory=set)
    readings: dict[Condition, Reading] = field(default_factory=dict)


@dataclass(eq=False)
class Generation:
    """A running `generate()`: its prompt is what it was given, in however many forwards that is read.

    Attributes:
        columns: Columns of the prompt, pads and tokens on a given cache included; None until the first forward if the
            arguments of `generate` do not tell.
        begun: Whether a forward was seen.
    """

    columns: int | None
    begun: bool = False

    def is_continued_by(self, s: int) -> bool:
        """Whether a forward of s columns cannot be one over the whole sequence."""
        return s < (self.columns or 0) or (self.begun and s == 1)


class Forward:
    """One forward pass: answers which of its tokens a `Positions` rule picks.

    Args:
        chain: The sequences it belongs to.
        past: Columns before it, on the cache.
        ids: Its (b, s) token ids, or None when it was given embeddings.
        shape: (b, s).
        index: (b, s) places of its tokens, see `Geometry`. None when one new token a row is known to come after prefix
            and prompt.
        is_certain: Whether the prompt lengths are right for a forward that continues a cache with several tokens.

    Attributes:
        read: The conditions that were read in it.
    """

    def __init__(
        self,
        chain: Chain,
        past: int,
        shape: tuple[int, int],
        ids: Tensor | None,
        index: Tensor | None,
        *,
        is_certain: bool = True,
    ) -> None:
        self.chain, self.past, self.shape, self.ids = chain, past, shape, ids
        self._index, self._is_certain = index, is_certain
        self._masks: dict[tuple[Positions, Prefix], Tensor | None] = {}
        self.read: set[Condition] = set()

    def picks_none(self, positions: Positions) -> bool:
        """Whether the rule certainly picks no token of this forward (decided without looking at tensors)."""
        self._check_prompt(positions)
        return self._index is None and not positions.on_response

    def mask(self, positions: Positions, prefix_ids: Prefix) -> Tensor | None:
        """(b, s) bool, or None for every token."""
        self._check_prompt(positions)
        if self._index is None and not positions.token_ids:
            return None
        key = (positions, prefix_ids)
        if key not in self._masks:
            self._masks[key] = positions.mask(self._geometry(positions, prefix_ids))
        return self._masks[key]

    def _geometry(self, positions: Positions, prefix_ids: Prefix) -> Geometry:
        chain = self.chain
        index = self._index
        if index is None:
            index = (self.past - chain.pads)[:, None]
        prompt = chain.prompt if chain.prompt is not None else torch.zeros_like(chain.pads)
        return Geometry(index, chain.matched[prefix_ids], prompt, self.ids)

    def _check_prompt(self, positions: Positions) -> None:
        if positions.needs_prompt:
            self.check_prompt(f"positions {str(positions)!r} need")

    def check_prompt(self, what: str) -> None:
        """Raise InputError, which begins with what needs it, unless it is known where the prompts end."""
        if self.chain.prompt is None or not self._is_certain:
            began = "that was begun outside steer()" if self.chain.prompt is None else "with several tokens"
            raise InputError(
                f"{what} to know where the prompt ends, but a forward continues a cache "
                f"{began}; use generate(), pass prompt_lengths to steer(), or run the whole prompt in one forward"
            )


class RowTracker:
    """Hooks the stack of blocks: `current` is the forward under way, None between forwards.

    Args:
        stack: The module that owns the blocks.
        embeddings: The input embeddings, to recognise the prefix when a caller passes `inputs_embeds`.
        prefixes: The template prefixes that the steering of this context names.
        prompt_lengths: Prompt tokens a row (prefix included), for forwards that hold prompt and response at once.
    """

    def __init__(
        self,
        stack: nn.Module,
        embeddings: nn.Module,
        prefixes: Sequence[Prefix],
        prompt_lengths: Sequence[int] | Tensor | None = None,
    ) -> None:
        self.current: Forward | None = None
        self._embeddings, self._prefixes = embeddings, tuple(dict.fromkeys(prefixes))
        given = None if prompt_lengths is None else torch.as_tensor(prompt_lengths, dtype=torch.int64).reshape(-1)
        self._prompt_lengths = given
        self._names = list(inspect.signature(type(stack).forward).parameters)[1:]
        self._chains: WeakKeyDictionary[Any, Chain] = WeakKeyDictionary()
        self._generation: Generation | None = None

    @contextmanager
    def generation(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
        """While a `generate(*args, **kwargs)` runs: its prompt is the one that counts."""
        before, self._generation = self._generation, Generation(_prompt_columns(args, kwargs))
        try:
            yield
        finally:
            self._generation = before

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook of the stack (with kwargs)."""
        if torch.compiler.is_compiling():
            raise InputError("a compiled model cannot be steered, its hooks are skipped; use it before torch.compile")
        given = dict(zip(self._names, args, strict=False)) | dict(kwargs)
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        tokens = ids if ids is not None else embeds
        if tokens is None:
            return
        b, s = tokens.shape[:2]
        cache = next((given[name] for name in CACHE_NAMES if given.get(name) is not None), None)
        chain = None if cache is None or isinstance(cache, (list, tuple)) else self._chains.get(cache)
        past = _columns_on(cache, chain, given.get("cache_position"))
        chain = chain if past else None
        if chain is not None and chain.pads.shape[0] != b:
            n = chain.pads.shape[0]
            raise InputError(f"the batch changed from {n} to {b} rows on one cache; enter steer() anew")
        running = self._generation
        if running is not None and cache is None and running.is_continued_by(s):
            raise InputError(
                f"{type(module).__name__} goes on with a cache that trimtab cannot find among its arguments "
                f"({', '.join(sorted(given))}): generate with use_cache=False, and report the model's family; or "
                "generate() has it read a text of its own: leave out guidance_scale"
            )
        if running is not None:
            running.begun = True
            running.columns = past + s if running.columns is None else running.columns
        left = running.columns - past if running is not None and running.columns is not None else 0  # of the prompt
        if chain is not None and s == 1 and left <= 0 and not chain.open and self._prompt_lengths is None:
            chain.columns = past + s
            self.current = Forward(chain, past, (b, s), ids, None)
            return
        real = real_tokens(given.get("attention_mask"), b, s, past, tokens.device)
        if chain is None:
            chain = self._begin(given.get("attention_mask"), b, past, real)
            if cache is not None:
                self._chains[cache] = chain
        if left > 0 and self._prompt_lengths is None:
            chain.prompt = past + left - chain.pads - (~real[:, :left]).sum(dim=1)
        index = torch.where(real, (past - chain.pads)[:, None] + real.cumsum(dim=1) - 1, -1)
        self._match(chain, index, past, ids, embeds)
        chain.columns, chain.pads = past + s, chain.pads + (~real).sum(dim=1)
        certain = running is not None or self._prompt_lengths is not None or past == 0 or s == 1
        self.current = Forward(chain, past, (b, s), ids, index, is_certain=certain)

    def leave(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the stack (always called): remember the cache that the model made itself."""
        forward, self.current = self.current, None
        if isinstance(output, Mapping):
            made = next((part for name, part in output.items() if _is_cache(part, name)), None)
        else:
            made = next((part for part in output if _is_cache(part)), None) if isinstance(output, tuple) else None
        if forward is not None and made is not None and made not in self._chains:
            self._chains[made] = forward.chain

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a part of the forward under way, whenever it runs: gradient checkpointing runs it again."""
        forward = self.current

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            before, self.current = self.current, forward
            try:
                return function(*args, **kwargs)
            finally:
                self.current = before

        return run

    def _begin(self, mask: Any, b: int, past: int, real: Tensor) -> Chain:
        pads = torch.zeros(b, dtype=torch.int64, device=real.device)
        if past and _is_flat(mask):
            pads = (~real_tokens(mask, b, past, 0, real.device)).sum(dim=1)
        prompt = None if past else real.sum(dim=1)
        if self._prompt_lengths is not None:
            prompt = repeat_rows(self._prompt_lengths, b, "prompt_lengths").to(real.device)
        chain = Chain(past, pads, prompt)
        for prefix in self._prefixes:
            seen = past - pads
            if past and int(seen.min()) < len(prefix):
                raise InputError(
                    f"this cache holds fewer tokens than the template prefix ({len(prefix)}) and was begun outside "
                    "steer(); run the whole prompt inside the context"
                )
            chain.matched[prefix] = torch.full_like(pads, len(prefix) if past else 0)
            if not past and prefix:
                chain.open.add(prefix)
        return chain

    def _match(self, chain: Chain, index: Tensor, past: int, ids: Tensor | None, embeds: Tensor | None) -> None:
        """Extend the matched prefix of every row by the tokens of this forward."""
        seen = torch.maximum(index.amax(dim=1) + 1, past - chain.pads)
        for prefix in list(chain.open):
            wanted = torch.tensor(prefix, device=index.device)
            place = index.clamp(0, len(prefix) - 1)
            if ids is not None:
                equal = ids == wanted[place]
            else:
                assert embeds is not None
                equal = (embeds == self._embeddings(wanted)[place].to(embeds.dtype)).all(dim=-1)
            ended = chain.matched[prefix] < torch.where(index >= 0, index, len(prefix)).amin(dim=1)
            wrong = (index >= 0) & (index < len(prefix)) & ~equal
            stop = torch.where(wrong, index, len(prefix)).amin(dim=1)
            reached = torch.minimum(stop, seen.clamp(max=len(prefix)))
            chain.matched[prefix] = torch.where(ended, chain.matched[prefix], reached)
            still = (chain.matched[prefix] == seen) & (seen < len(prefix))
            if not bool(still.any()):
                chain.open.discard(prefix)


def _is_cache(part: Any, name: str = "") -> bool:
    """Whether a part of an output is a cache that can be known again; Mamba's was of no common kind in 5.0."""
    return isinstance(part, Cache) or (name in CACHE_NAMES and not isinstance(part, (list, tuple)))


def _columns_on(cache: Any, chain: Chain | None, positions: Any) -> int:
    """Columns that a cache holds before a forward.

    In transformers 5.0 a static cache counts by looking (its count is then a tensor), and misses pads whose keys are
    zero; but there `generate` gives the columns of the forward's tokens (`positions`). A cache that keeps nothing but a
    running state (Mamba's) has no count; then it is what was seen to go in.
    """
    if cache is None:
        return 0
    first = int(positions[0]) if isinstance(positions, Tensor) else None
    try:
        count = cache.get_seq_length()
        return int(count) if first is None or not isinstance(count, Tensor) else first
    except (AttributeError, ValueError):
        state = getattr(cache, "has_previous_state", None)
        began = bool(state()) if callable(state) else None if first is None else first > 0
    if began is None or (began and chain is None):
        raise InputError(
            f"a {type(cache).__name__} does not tell how many tokens it holds; begin it inside steer(), "
            "or call the model with use_cache=False"
        )
    return chain.columns if began and chain is not None else 0


def real_tokens(mask: Any, b: int, s: int, past: int, device: torch.device) -> Tensor:
    """(b, s) bool, the columns of this forward that are no pads, from whatever mask the model was given.

    A 2-D mask is 1 on real columns; a 4-D one (which `generate` prepares for static caches; a dict of them in families
    with sliding windows) lets a real token see itself. The keys of a 4-D mask begin at the first column, or at a later
    one when a sliding window has left the first behind; then the newest come last.
    """
    if isinstance(mask, Mapping):
        mask = next((m for m in mask.values() if m is not None), None)
    if mask is None:
        return torch.ones(b, s, dtype=torch.bool, device=device)
    if _is_flat(mask):
        if mask.shape[1] < s:
            raise InputError(f"the attention mask has {mask.shape[1]} columns for {s} tokens; give one column a token")
        end = past + s if mask.shape[1] >= past + s else mask.shape[1]
        return mask[:, end - s : end].to(device).bool().expand(b, s)
    if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[-1] >= s:
        start = min(past, mask.shape[-1] - s)
        itself = mask[:, 0, :, start : start + s].diagonal(dim1=-2, dim2=-1)
        seen = itself if itself.dtype == torch.bool else itself >= 0
        return seen.to(device).expand(b, s)
    kind = type(mask).__name__
    raise InputError(f"cannot read pads from an attention mask of type {kind}; use sdpa or eager attention")


def _prompt_columns(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Columns of the prompt that `generate(*args, **kwargs)` was given.

    The mask counts the tokens on a given cache also where the ids are the new ones only.
    """
    ids = args[0] if args else kwargs.get("inputs")
    for given in (kwargs.get("attention_mask"), kwargs.get("inputs_embeds"), ids, kwargs.get("input_ids")):
        if isinstance(given, Tensor) and given.dim() in (2, 3):
            return given.shape[1]
    return None


def _is_flat(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.dim() == 2


def repeat_rows(values: Tensor, b: int, name: str) -> Tensor:
    """Values of n rows (n,) for a batch of b = n x beams or sequences a prompt: (b,)."""
    n = values.shape[0]
    if n == 0 or b % n:
        raise InputError(f"{name} has {n} entries but the batch has {b} rows; give one entry a row (or one for all)")
    return values.repeat_interleave(b // n)
