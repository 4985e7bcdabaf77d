"""A key-value cache that writes new tokens into room made beforehand, instead of copying itself for every token.

The default cache of transformers joins old and new states at each token: bytes in proportion to the square of the
length, each time in fresh memory, which on a CPU costs most of a small model's time.

Letters: b rows, a heads, s tokens, e size of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GrowingLayer(DynamicLayer):
    """The plain layer of a dynamic cache, with room for `room` tokens; beyond that it grows by half."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._stores: list[Tensor | None] = [None, None]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append states (b, a, s, e); returns all of them, as views that hold until the next update."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended(0, self.keys, key_states)
        self.values = self._appended(1, self.values, value_states)
        return self.keys, self.values

    def _appended(self, which: int, old: Tensor | None, new: Tensor) -> Tensor:
        known = 0 if old is None or old.numel() == 0 else old.shape[-2]
        total = known + new.shape[-2]
        store = self._stores[which]
        if store is None or store.shape[-2] < total or (old is not None and known and not _begins(store, old)):
            self._room = max(self._room, total + total // 2 if store is not None else total)
            store = new.new_empty((*new.shape[:-2], self._room, new.shape[-1]))
            if old is not None and known:
                store[..., :known, :] = old
            self._stores[which] = store
        store[..., known:total, :] = new
        return store[..., :total, :]


def growing_cache(model: PreTrainedModel, room: int) -> DynamicCache | None:
    """An empty cache for one batch of `room` tokens a row; None if `generate` must make one of the model's own kind.

    Layers that are not plain ones (sliding windows, linear attention) stay as transformers makes them.
    """
    settings = model.generation_config
    if settings is not None and (settings.cache_implementation is not None or settings.use_cache is False):
        return None
    # what `generate` itself asks; there is no public way
    if not model._supports_default_dynamic_cache():  # pyright: ignore[reportCallIssue]
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _begins(store: Tensor, old: Tensor) -> bool:
    """Whether `old` is still the beginning of the store: rows may have been chosen or reordered since."""
    return (
        store.data_ptr() == old.data_ptr()
        and store.shape[:-2] == old.shape[:-2]
        and store.shape[-1] == old.shape[-1]
        and store.stride() == old.stride()
    )
