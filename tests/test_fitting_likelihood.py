"""Log-probabilities and divergences of given responses: the model's own, in any batch, plain or steered."""

import pytest
import torch

from tests.families import MAIN, edit, steering, tiny, unit
from trimtab.errors import InputError
from trimtab.fitting import likelihood
from trimtab.fitting.likelihood import final_states, kl_divergences, log_likelihoods
from trimtab.models import Model, steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import Clamp

PROMPTS = ["Hi", "Tell me a story about a dog and a cat", "Bye"]
RESPONSES = [(40, 41, 42, 7), (50,), (60, 61, 62, 63, 64, 65)]


@pytest.fixture(scope="module", params=MAIN)
def model(request):
    return Model(*tiny(request.param))


@pytest.fixture(scope="module")
def prompts(model):
    return [model.chat.render(prompt) for prompt in PROMPTS]


def by_hand(model, prompt, response, what=None):
    """Log-softmax (n, v) of the model's own logits, one row, no pads."""
    ids = torch.tensor([[*prompt.ids, *response]])
    with torch.no_grad(), steer(model.hf, what, prompt_lengths=[len(prompt.ids)]):
        logits = model.hf(input_ids=ids).logits[0, len(prompt.ids) - 1 : -1]
    return logits.float().log_softmax(dim=-1)


def test_log_likelihoods_are_the_models_own(model, prompts):
    for prompt, response, found in zip(prompts, RESPONSES, log_likelihoods(model, prompts, RESPONSES), strict=True):
        expected = by_hand(model, prompt, response).gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_are_steered_each_in_its_own_way(model, prompts):
    push = steering(edit(Clamp(unit(), torch.tensor(4.0))))
    found = log_likelihoods(model, prompts, RESPONSES, [None, push, push])
    for prompt, response, row, values in zip(prompts, RESPONSES, [None, push, push], found, strict=True):
        expected = by_hand(model, prompt, response, row).gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    plain = log_likelihoods(model, prompts, RESPONSES)
    assert not torch.allclose(found[1], plain[1], atol=1e-3)


def test_chunks_and_groups_change_nothing(model, prompts, monkeypatch):
    whole = log_likelihoods(model, prompts, RESPONSES)
    monkeypatch.setattr(likelihood, "RUN_TOKENS", 1)
    monkeypatch.setattr(likelihood, "CHUNK_BYTES", 1)
    for one, other in zip(whole, log_likelihoods(model, prompts, RESPONSES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_kl_is_that_of_the_definition_and_zero_against_itself(model, prompts):
    push = steering(edit(Clamp(unit(), torch.tensor(4.0))))
    plain = final_states(model, prompts, RESPONSES)
    steered = final_states(model, prompts, RESPONSES, [push] * 3)
    assert max(float(part.max()) for part in kl_divergences(model, plain, plain)) < 1e-6
    for prompt, response, found in zip(prompts, RESPONSES, kl_divergences(model, plain, steered), strict=True):
        p, q = by_hand(model, prompt, response), by_hand(model, prompt, response, push)
        torch.testing.assert_close(found, (p.exp() * (p - q)).sum(dim=1), rtol=1e-3, atol=1e-5)
        assert found.shape == (len(response),)


def test_a_model_that_is_being_steered_is_not_taken_for_the_plain_one(model, prompts):
    """Three responses are enough for the way that the plain model has for many."""
    with (
        steer(model.hf, steering(edit(Clamp(unit(), torch.tensor(4.0))))),
        pytest.raises(InputError, match="steered already"),
    ):
        log_likelihoods(model, prompts, RESPONSES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_nothing_diverges_from_itself(dtype):
    """Plain states of many responses might be computed another way than steered ones; here they must not."""
    model = Model(*tiny_model("llama", dtype=dtype))
    prompts = [model.chat.render(prompt) for prompt in PROMPTS]
    plain = final_states(model, prompts, RESPONSES)
    untouched = final_states(model, prompts, RESPONSES, [None] * 3)
    assert all(torch.equal(one, other) for one, other in zip(plain, untouched, strict=True))
    assert all(float(kl.max()) < 1e-6 for kl in kl_divergences(model, plain, untouched))
