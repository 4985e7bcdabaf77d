"""The blocks above a site with less work give what they give with all of it."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from tests.families import FAMILIES, model_of
from trimtab.errors import InputError
from trimtab.fitting.items import Item
from trimtab.fitting.trainer import scored_chunks, shared_prefix
from trimtab.models.layout import check_layout, find_layout
from trimtab.models.split import SplitModel, frozen
from trimtab.models.upper import Shortcuts, UpperBlocks

PREFIX = (1, 3, 5)
ROWS = torch.tensor([0, 0, 1, 2, 2, 2])
COLUMNS = torch.tensor([4, 5, 2, 0, 1, 6])
LENGTHS = torch.tensor([6, 4, 7])


@pytest.fixture
def upper_of():
    def build(name, prefix=PREFIX, layer=1):
        hf = model_of(name)
        split = SplitModel(hf, check_layout(hf, find_layout(hf)))
        return hf, split, UpperBlocks(split, layer, prefix, torch.device("cpu"))

    return build


def states_for(hf, columns=7):
    width = hf.config.get_text_config().hidden_size
    return torch.randn(3, columns, width, generator=torch.Generator().manual_seed(0))


def plain(split, upper, states, layer=1):
    prefix = split.trunk(torch.tensor([PREFIX]), layer).expand(3, -1, -1)
    return split.upper(torch.cat([prefix, states], dim=1), layer)[ROWS, COLUMNS + len(PREFIX)]


@pytest.mark.parametrize("name", FAMILIES)
def test_values_and_gradients_are_those_of_the_plain_way(upper_of, name):
    hf, split, upper = upper_of(name)
    states = states_for(hf)
    with frozen(hf):
        short, long = states.clone().requires_grad_(), states.clone().requires_grad_()
        upper.prove(states, ROWS, COLUMNS, LENGTHS)
        got = upper(short, ROWS, COLUMNS, LENGTHS)
        wanted = plain(split, upper, long)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
        (got * weights).sum().backward()
        (wanted * weights).sum().backward()
    torch.testing.assert_close(short.grad, long.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_blocks_of_llama_s_kind_run_the_lean_way(upper_of, name):
    hf, split, upper = upper_of(name)
    with frozen(hf):
        upper.prove(states_for(hf), ROWS, COLUMNS, LENGTHS)
        seen = []
        handle = split.layout.blocks[-1].register_forward_hook(lambda *_: seen.append(1))
        upper(states_for(hf), ROWS, COLUMNS, LENGTHS)
        handle.remove()
    assert upper._shortcuts == Shortcuts(lean=True)
    assert upper.is_flat
    assert not seen


IDS = [[*PREFIX, *range(20 + 10 * row, 20 + 10 * row + length)] for row, length in enumerate(LENGTHS.tolist())]


def trunk_of(split, layer=1):
    """The states of `IDS` behind the prefix."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in IDS], batch_first=True)
    return split.trunk(ids, layer)[:, len(PREFIX) :]


@pytest.mark.parametrize("name", FAMILIES)
def test_upper_blocks_alone_are_those_of_the_whole_model(upper_of, name):
    hf, split, upper = upper_of(name)
    with frozen(hf):
        upper.check_alone(trunk_of(split), ROWS, COLUMNS, LENGTHS, IDS)


def test_blocks_that_read_token_ids_are_refused(upper_of):
    """Gemma 4 adds embeddings of the tokens inside its blocks; blocks that run alone do not know the tokens."""
    hf, split, upper = upper_of("llama")
    stack, block, seen = split.layout.stack, split.layout.blocks[-1], {}

    def look(_, __, kwargs):
        seen["ids"] = kwargs["input_ids"]

    handles = [
        stack.register_forward_pre_hook(look, with_kwargs=True),
        block.register_forward_hook(lambda _, __, states: states + 3 * stack.embed_tokens(seen["ids"])),
    ]
    try:
        with frozen(hf), pytest.raises(InputError, match="read more than the hidden state"):
            upper.check_alone(trunk_of(split), ROWS, COLUMNS, LENGTHS, IDS)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.skipif("gemma4_text" not in CONFIG_MAPPING, reason="this transformers has no Gemma 4")
def test_gemma4_is_refused():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma4_text",
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=4,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        global_head_dim=16,
        vocab_size_per_layer_input=512,
        hidden_size_per_layer_input=16,
        num_kv_shared_layers=0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    hf = AutoModelForCausalLM.from_config(config).eval()
    split = SplitModel(hf, check_layout(hf, find_layout(hf)))
    upper = UpperBlocks(split, 1, PREFIX, torch.device("cpu"))
    with frozen(hf), pytest.raises(InputError, match="read more than the hidden state"):
        upper.check_alone(trunk_of(split), ROWS, COLUMNS, LENGTHS, IDS)


@pytest.mark.parametrize("name", ["phi3", "gemma2", "gpt2"])
def test_both_shortcuts_are_taken(upper_of, name):
    hf, split, upper = upper_of(name)
    with frozen(hf):
        upper.prove(states_for(hf), ROWS, COLUMNS, LENGTHS)
        seen = []
        mlp = split.layout.blocks[-1].get_submodule("mlp")
        handle = mlp.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape[:2])))
        upper(states_for(hf), ROWS, COLUMNS, LENGTHS)
        handle.remove()
    assert upper._shortcuts == Shortcuts(past=True, thin=True)
    assert not upper.is_flat
    assert seen == [(1, len(ROWS))]


def test_a_shortcut_that_gives_something_else_is_not_taken(upper_of, monkeypatch):
    hf, split, upper = upper_of("llama")
    known = split.keys_and_values

    def wrong(ids):
        cache = known(ids)
        for layer in cache.layers:
            layer.keys = layer.keys + 1.0
        return cache

    monkeypatch.setattr(split, "keys_and_values", wrong)
    with frozen(hf):
        upper.prove(states_for(hf), ROWS, COLUMNS, LENGTHS)
        got = upper(states_for(hf), ROWS, COLUMNS, LENGTHS)
        wanted = plain(split, upper, states_for(hf))
    assert upper._shortcuts == Shortcuts(past=False, thin=True)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_shortcut_that_fails_is_not_taken(upper_of, monkeypatch):
    hf, split, upper = upper_of("llama")

    def refuse(ids):
        raise ValueError("no cache in this family")

    monkeypatch.setattr(split, "keys_and_values", refuse)
    with frozen(hf):
        upper.prove(states_for(hf), ROWS, COLUMNS, LENGTHS)
        upper(states_for(hf), ROWS, COLUMNS, LENGTHS)
    assert upper._shortcuts == Shortcuts(past=False, thin=True)


@pytest.mark.parametrize("layer", [0, 3])
def test_no_prefix_and_the_outermost_layers(upper_of, layer):
    hf, split, upper = upper_of("llama", prefix=(), layer=layer)
    with frozen(hf):
        upper.prove(states_for(hf), ROWS, COLUMNS, LENGTHS)
        got = upper(states_for(hf), ROWS, COLUMNS, LENGTHS)
        wanted = split.upper(states_for(hf), layer)[ROWS, COLUMNS]
    assert upper.prefix_length == 0
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_nothing_stays_on_the_model(upper_of):
    hf, split, upper = upper_of("llama")
    blocks, hooks = list(split.layout.blocks), hooks_of(hf)
    with frozen(hf):
        upper.prove(states_for(hf), ROWS, COLUMNS, LENGTHS)
        upper(states_for(hf), ROWS, COLUMNS, LENGTHS)
    assert list(split.layout.blocks) == blocks
    assert hooks_of(hf) == hooks


def hooks_of(hf):
    """Every hook of every module; transformers leaves its own there after the first recorded forward."""
    return [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in hf.modules()]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(-1, 32))
def test_chunks_tile_the_tokens_and_long_runs_stay_apart(sizes, most):
    chunks = scored_chunks(sizes, most)
    assert [start for start, _ in chunks[:1]] == [0] * bool(sizes)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(chunks))
    assert (chunks[-1][1] if chunks else 0) == sum(sizes)
    assert all(0 < end - start <= max(1, most) for start, end in chunks)
    offsets = list(itertools.accumulate(sizes, initial=0))
    for size, offset in zip(sizes, offsets, strict=False):
        if 2 * size > max(1, most):
            assert not any(start < offset < end or start < offset + size < end for start, end in chunks)


@pytest.mark.parametrize(
    ("prefixes", "prompts", "shared"),
    [((3, 3), (9, 9), 3), ((3, 1), (9, 9), 1), ((3, 3), (9, 3), 2), ((1, 1), (1, 5), 0), ((0, 3), (9, 9), 0)],
)
def test_the_shared_prefix_stops_where_a_row_differs_or_is_scored(prefixes, prompts, shared):
    items = [
        Item(tuple(range(prompt)), tuple(range(prompt)), prompt, prompt, prompt - 1, prefix, (7,))
        for prefix, prompt in zip(prefixes, prompts, strict=True)
    ]
    assert shared_prefix(items) == shared
