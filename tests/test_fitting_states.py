"""States of the classes: every reading against a plain capture, one pass for all layers, and the cap on tokens."""

import pytest
import torch

from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.fitting import states as room
from trimtab.fitting.states import READINGS, SharedStates, read_states
from trimtab.models import Model, capture
from trimtab.models.tiny import tiny_model
from trimtab.steering import Site

PAIRS = PairSet(
    [ContrastPair(f"Shout {'very ' * k}loud!", f"YES {k}", f"Say {k}.", "no, " * (k + 1)) for k in range(18)]
)
"""More than a batch, and no two of one length."""


@pytest.fixture(scope="module", params=["llama", "gpt2", "falcon"])
def model(request):
    hf, tokenizer = tiny_model(request.param, hidden_size=16, n_blocks=4, seed=0)
    return Model(hf, tokenizer, name="tiny")


def plain(model, side, site):
    """For each pair (states of the row, prefix, prompt), one row at a time."""
    for pair in PAIRS:
        prompt = model.chat.render(getattr(pair, f"{side}_input"))
        ids = prompt.ids + model.chat.response_ids(prompt, getattr(pair, f"{side}_output"))
        yield capture(model.hf, [ids], [site])[0][site].float(), prompt.prefix_length, len(prompt.ids)


OF_ROW = {
    "tokens": lambda h, prefix, prompt: h[prefix:],
    "mean": lambda h, prefix, prompt: h[prefix:].mean(dim=0, keepdim=True),
    "prompt": lambda h, prefix, prompt: h[prefix:prompt].mean(dim=0, keepdim=True),
    "response": lambda h, prefix, prompt: h[prompt:].mean(dim=0, keepdim=True),
    "last": lambda h, prefix, prompt: h[prompt - 1 : prompt],
    "answer": lambda h, prefix, prompt: h[-1:],
}


def test_every_reading_is_tested():
    assert {*OF_ROW} == {*READINGS}


@pytest.mark.parametrize("reading", OF_ROW)
@pytest.mark.parametrize("site", [Site(2), Site(1, "mlp_out")])
def test_a_reading_is_what_a_plain_capture_shows(model, reading, site):
    (found,) = read_states(model, PAIRS, [site], reading).values()
    assert found.site == site
    for side in ("positive", "negative"):
        wanted = torch.cat([OF_ROW[reading](*row) for row in plain(model, side, site)])
        torch.testing.assert_close(getattr(found, side), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(getattr(found, f"{side}_mean"), wanted.mean(dim=0), rtol=1e-4, atol=1e-5)


def embedded(model, run):
    """How many forwards a function takes, by the calls of the embedding."""
    calls = []
    hook = model.hf.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    try:
        run()
    finally:
        hook.remove()
    return len(calls)


def test_one_pass_serves_all_layers(model):
    alone = embedded(model, lambda: read_states(model, PAIRS, [Site(3)], "mean"))
    shared = SharedStates(range(4))
    together = embedded(model, lambda: read_states(model, PAIRS, [Site(0)], "mean", shared=shared))
    assert together == alone
    assert embedded(model, lambda: read_states(model, PAIRS, [Site(3)], "mean", shared=shared)) == 0
    assert embedded(model, lambda: read_states(model, PAIRS, [Site(3)], "last", shared=shared)) > 0
    assert embedded(model, lambda: read_states(model, PAIRS[:3], [Site(3)], "mean", shared=shared)) > 0


@pytest.mark.parametrize("reading", ["tokens", "mean", "answer"])
def test_shared_states_are_those_read_alone(model, reading):
    shared = SharedStates(range(4))
    for layer in (2, 0, 3):
        site = Site(layer)
        together = read_states(model, PAIRS, [site], reading, shared=shared)[site]
        alone = read_states(model, PAIRS, [site], reading)[site]
        for name in ("positive", "negative", "positive_mean", "negative_mean"):
            torch.testing.assert_close(getattr(together, name), getattr(alone, name), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_not_shared_is_read_by_itself(model):
    shared = SharedStates([0, 1])
    assert [*read_states(model, PAIRS, [Site(3)], "mean", shared=shared)] == [Site(3)]


def test_of_too_many_tokens_some_are_kept_and_all_are_averaged(model, monkeypatch):
    whole = read_states(model, PAIRS, [Site(1)], "tokens")[Site(1)]
    monkeypatch.setattr(room, "TOKEN_BYTES", 50 * 16 * 4 * 2)
    some = read_states(model, PAIRS, [Site(1)], "tokens")[Site(1)]
    assert len(some.positive) == len(some.negative) == 50 < min(len(whole.positive), len(whole.negative))
    assert torch.equal(some.positive_mean, whole.positive_mean)
    assert torch.equal(some.negative_mean, whole.negative_mean)
    for kept, all_of_them in ((some.positive, whole.positive), (some.negative, whole.negative)):
        left = iter(all_of_them)  # rows that begin alike have the same states, so a row is looked for behind the last
        assert all(any(torch.equal(row, other) for other in left) for row in kept)


def test_what_cannot_be_read_is_refused(model):
    with pytest.raises(InputError, match="allowed: tokens"):
        read_states(model, PAIRS, [Site(1)], "words")
    with pytest.raises(InputError, match="no pairs"):
        read_states(model, PairSet([]), [Site(1)], "mean")
    with pytest.raises(InputError, match="layer 4"):
        read_states(model, PAIRS, [Site(4)], "mean")
