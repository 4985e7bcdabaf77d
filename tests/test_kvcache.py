"""The cache that grows in place gives what transformers' own gives, and does not copy what is there."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tests.families import model_of
from trimtab.models.kvcache import SPARE, RoomyLayer, roomy_cache

B, HEADS, E = 3, 2, 4


def columns(n, seed, rows=B):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, HEADS, n, E, generator=draw) for _ in range(2)]


def same(roomy, plain):
    return torch.equal(roomy.keys, plain.keys) and torch.equal(roomy.values, plain.values)


def filled(*parts):
    roomy, plain = RoomyLayer(1000), DynamicLayer()
    for part in parts:
        found, expected = roomy.update(*part), plain.update(*part)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    return roomy, plain


def test_what_comes_in_is_what_transformers_would_have():
    roomy, plain = filled(*(columns(n, n) for n in (5, 1, 1, 7, SPARE, 1)))
    assert same(roomy, plain)
    assert roomy.get_seq_length() == plain.get_seq_length() == 15 + SPARE


def test_a_token_is_written_where_there_is_room():
    roomy, _ = filled(columns(5, 0))
    place = roomy.keys.data_ptr()
    for k in range(SPARE):
        roomy.update(*columns(1, k))
        assert roomy.keys.data_ptr() == place
    roomy.update(*columns(1, 99))
    assert roomy.keys.data_ptr() != place  # full


def test_no_more_room_is_made_than_will_be_needed():
    roomy = RoomyLayer(9)
    roomy.update(*columns(5, 0))
    assert roomy._storage[0].shape[2] == 9
    roomy.update(*columns(7, 1))  # told wrong
    assert roomy.keys.shape[2] == 12


def test_rows_that_leave_take_their_storage_with_them():
    roomy, _ = filled(columns(5, 0))
    roomy.batch_select_indices(torch.tensor([1]))
    assert roomy._storage is None
    assert roomy._views is None
    assert roomy.keys.shape[0] == 1


def test_earlier_views_stay_as_they_were():
    roomy = RoomyLayer(1000)
    keys, values = roomy.update(*columns(5, 0))
    before = keys.clone(), values.clone()
    for k in range(SPARE + 2):
        roomy.update(*columns(1, k))
    assert torch.equal(keys, before[0])
    assert torch.equal(values, before[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.batch_select_indices(torch.tensor([2, 0])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.reorder_cache(torch.tensor([1, 1, 0])),
        lambda layer: layer.crop(-2),
    ],
    ids=["select", "repeat", "reorder", "crop"],
)
def test_it_goes_on_after_a_change(change):
    roomy, plain = filled(columns(5, 0), columns(1, 1))
    kept = roomy.keys.clone()
    view = roomy.keys
    for layer in (roomy, plain):
        change(layer)
    rows = plain.keys.shape[0]
    for part in (columns(1, 2, rows), columns(3, 3, rows)):
        for layer in (roomy, plain):
            layer.update(*part)
    assert same(roomy, plain)
    assert torch.equal(view, kept)  # what was handed out before is not written over


def test_a_cache_is_made_of_the_layers_the_model_asks_for():
    assert {type(layer) for layer in roomy_cache(model_of("llama"), 40).layers} == {RoomyLayer}
    own = DynamicCache(config=model_of("gemma2").config)
    mixed = roomy_cache(model_of("gemma2"), 40)
    assert [type(layer) for layer in mixed.layers] == [
        RoomyLayer if type(layer) is DynamicLayer else type(layer) for layer in own.layers
    ]
    assert len({type(layer) for layer in mixed.layers}) == 2


@pytest.mark.parametrize(("name", "value"), [("cache_implementation", "static"), ("use_cache", False)])
def test_none_where_the_model_is_told_to_take_another(name, value, monkeypatch):
    hf = model_of("llama")
    monkeypatch.setattr(hf.generation_config, name, value)
    assert roomy_cache(hf, 40) is None


def test_none_for_a_model_without_keys_and_values():
    assert roomy_cache(model_of("mamba"), 40) is None
