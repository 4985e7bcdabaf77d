"""The growing key-value cache: the same states as the default one, in every family, also after rows were chosen."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tests.families import FAMILIES, tiny
from trimtab.models import Model
from trimtab.models.growing import GrowingLayer, growing_cache


def states(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fed(layer, chunks, between=lambda layer: None):
    for number, tokens in enumerate(chunks):
        keys, values = layer.update(states(3, 2, tokens, 4, seed=number), states(3, 2, tokens, 4, seed=100 + number))
        between(layer)
    return keys.clone(), values.clone()


@pytest.mark.parametrize("room", [1, 5, 64])
def test_states_are_those_of_the_default_layer(room):
    chunks = (5, 1, 1, 3, 1, 1, 7, 1)
    ours, theirs = fed(GrowingLayer(room), chunks), fed(DynamicLayer(), chunks)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_room_that_suffices_is_made_once():
    layer = GrowingLayer(16)
    fed(layer, [4])
    first = layer.keys.data_ptr()
    fed(layer, [1] * 12)
    assert layer.get_seq_length() == 16
    assert layer.keys.data_ptr() == first


class TestChangedBetweenUpdates:
    """What generate may do to a cache: crop it, choose rows, reorder or repeat them, start over."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda layer: layer.crop(-1),
            lambda layer: layer.reorder_cache(torch.tensor([2, 0, 0])),
            lambda layer: layer.batch_select_indices(torch.tensor([1, 2, 2])),
        ],
        ids=["crop", "reorder", "select"],
    )
    def test_appended_states_follow_the_change(self, change):
        ours, theirs = (fed(layer, (5, 2, 2, 3), change) for layer in (GrowingLayer(32), DynamicLayer()))
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))

    def test_reset_forgets(self):
        layer = GrowingLayer(32)
        fed(layer, [5, 1])
        layer.reset()
        again = fed(layer, [3])
        assert all(torch.equal(one, other) for one, other in zip(again, fed(DynamicLayer(), [3]), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_with_its_own_cache(family):
    model = Model(*tiny(family))
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(0))
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        cache = growing_cache(model.hf, 19)
        ours = model.hf.generate(input_ids=ids, past_key_values=cache, **settings)
        theirs = model.hf.generate(input_ids=ids, **settings)
    assert torch.equal(ours, theirs)
    if cache is not None:
        plain = DynamicCache(config=model.hf.config.get_text_config(decoder=True))
        for grown, default in zip(cache.layers, plain.layers, strict=True):
            assert type(grown) is (GrowingLayer if type(default) is DynamicLayer else type(default))


def test_a_cache_that_was_asked_for_is_left_to_generate():
    model = Model(*tiny("llama"))
    model.hf.generation_config.use_cache = False
    assert growing_cache(model.hf, 19) is None
    model.hf.generation_config.use_cache = True
    model.hf.generation_config.cache_implementation = "static"
    assert growing_cache(model.hf, 19) is None
