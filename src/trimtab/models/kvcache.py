"""A key-value cache that grows in place.

transformers' own appends by concatenation: each new token copies all keys and values of all rows, which takes more of
a decoding step than the step itself once batches are large. Here there is spare room behind them, and a token is
written into it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

SPARE = 64
"""Columns of spare room, at least; a quarter of what is there if that is more."""


class RoomyLayer(DynamicLayer):
    """One block's keys and values (b, heads, s, e each), views of storage with room behind them.

    What else is done to a cache (rows taken out of it, columns cut off) puts other tensors in their place; the next
    token then gets new storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storage: tuple[Tensor, Tensor] | None = None
        self._views: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (b, heads, n, e) each; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        n = self.get_seq_length()
        end = n + key_states.shape[-2]
        if not self._has_room(end):
            self._storage = self._moved(self.keys, key_states, n, end), self._moved(self.values, value_states, n, end)
        assert self._storage is not None
        for storage, fresh in zip(self._storage, (key_states, value_states), strict=True):
            storage[:, n:end] = fresh.transpose(1, 2)
        self._views = self.keys, self.values = (
            self._storage[0][:, :end].transpose(1, 2),
            self._storage[1][:, :end].transpose(1, 2),
        )
        return self._views

    def _has_room(self, end: int) -> bool:
        """Whether what is there lies in the storage, and so much fits into it."""
        if self._storage is None or self._views is None or end > self._storage[0].shape[1]:
            return False
        return self.keys is self._views[0] and self.values is self._views[1]

    @staticmethod
    def _moved(old: Tensor | None, fresh: Tensor, n: int, end: int) -> Tensor:
        """Storage for `end` columns and more, with the n old ones in front."""
        b, heads, _, e = fresh.shape
        room = fresh.new_empty((b, end + max(SPARE, end // 4), heads, e))
        if n:
            room[:, :n] = old.transpose(1, 2)  # pyright: ignore[reportOptionalMemberAccess]
        return room


def roomy_cache(hf: PreTrainedModel) -> DynamicCache | None:
    """An empty cache for `hf.generate`; None where a dynamic one is not what the model takes, or nothing would be won.

    Layers of other kinds, such as those that keep a window only, stay transformers' own.
    """
    config = hf.generation_config
    if config is None or config.cache_implementation is not None or config.use_cache is False:
        return None
    if not hf._supports_default_dynamic_cache():  # pyright: ignore[reportCallIssue]
        return None
    cache = DynamicCache(config=hf.config.get_text_config(decoder=True))
    if not any(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
