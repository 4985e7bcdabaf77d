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

    def __init__(self, most: int) -> None:
        """An empty layer; `most` is how many columns are ever needed."""
        super().__init__()
        self._most = most
        self._storage: tuple[Tensor, Tensor] | None = None
        self._views: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (b, heads, n, e) each; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        n = self.get_seq_length()
        end = n + key_states.shape[-2]
        if not self._has_room(end):
            room = max(end, min(self._most, end + max(SPARE, end // 4)))
            self._storage = self._moved(self.keys, key_states, n, room), self._moved(self.values, value_states, n, room)
        assert self._storage is not None
        for storage, fresh in zip(self._storage, (key_states, value_states), strict=True):
            storage[:, :, n:end] = fresh
        self._views = self.keys, self.values = self._storage[0][:, :, :end], self._storage[1][:, :, :end]
        return self._views

    def _has_room(self, end: int) -> bool:
        """Whether what is there lies in the storage, and so much fits into it."""
        if self._storage is None or self._views is None or end > self._storage[0].shape[2]:
            return False
        return self.keys is self._views[0] and self.values is self._views[1]

    @staticmethod
    def _moved(old: Tensor | None, fresh: Tensor, n: int, room: int) -> Tensor:
        """Storage for `room` columns, with the n old ones in front."""
        b, heads, _, e = fresh.shape
        storage = fresh.new_empty((b, heads, room, e))
        if n:
            storage[:, :, :n] = old  # pyright: ignore[reportArgumentType]
        return storage

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        super().batch_select_indices(indices)
        self._storage = self._views = None  # or those of all rows stay until the next token


def roomy_cache(hf: PreTrainedModel, most: int) -> DynamicCache | None:
    """An empty cache for `hf.generate`; None where a dynamic one is not what the model takes, or nothing would be won.

    Layers of other kinds, such as those that keep a window only, stay transformers' own. On Apple's GPUs attention goes
    wrong on keys that lie as these do (torch before 2.12, pytorch/pytorch#181133).

    Args:
        hf: The model.
        most: Columns of prompt and answer together.
    """
    config = hf.generation_config
    if (
        config is None
        or hf.device.type == "mps"
        or config.cache_implementation is not None
        or config.use_cache is False
    ):
        return None
    if not hf._supports_default_dynamic_cache():  # pyright: ignore[reportCallIssue]
        return None
    cache = DynamicCache(config=hf.config.get_text_config(decoder=True))
    if not any(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [RoomyLayer(most) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
