"""Training of the organism: repeatable, resumable, and the shipped run replayed."""

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trimtab.organism.mixture import draw_exchange
from trimtab.organism.sizes import SIZES, Size
from trimtab.organism.tokens import END, build_tokenizer
from trimtab.organism.training import Training, batches, schedule, tokenised

FIXTURES = Path(__file__).parent / "fixtures"
SMALL = Size(hidden=32, blocks=2, heads=2, mlp=48, steps=12, rate=3e-3, batch=16)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(SMALL.vocab, SMALL.context)


def weights(training):
    return {name: weight.detach().clone() for name, weight in training.model.named_parameters()}


def test_a_resumed_run_is_the_uninterrupted_one(tokenizer, tmp_path):
    whole = Training(SMALL, 3, tokenizer)
    losses = [whole.advance() for _ in range(6)]
    half = Training(SMALL, 3, tokenizer)
    half.run(tmp_path, until=3)
    again = Training(SMALL, 3, tokenizer)
    assert again.load_checkpoint(tmp_path)
    assert again.step == 3
    assert [again.advance() for _ in range(3)] == losses[3:]
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(again)[name], weight, rtol=0, atol=0)


def test_a_checkpoint_of_another_run_is_refused(tokenizer, tmp_path):
    Training(SMALL, 3, tokenizer).save_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="another training"):
        Training(SMALL, 4, tokenizer).load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="another training"):
        Training(replace(SMALL, mlp=64), 3, tokenizer).load_checkpoint(tmp_path)
    assert not Training(SMALL, 3, tokenizer).load_checkpoint(tmp_path / "nothing")


def test_seeds_matter_and_nothing_else_is_seeded(tokenizer):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two, other = (Training(SMALL, seed, tokenizer) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one.advance() == two.advance() != other.advance()


def test_mixed_precision_trains_the_same_weights_nearly(tokenizer):
    plain, mixed = (Training(replace(SMALL, mixed=on), 3, tokenizer) for on in (False, True))
    for _ in range(4):
        assert mixed.advance() == pytest.approx(plain.advance(), rel=0.02)
    assert {weight.dtype for weight in mixed.model.parameters()} == {torch.float32}


def test_only_the_response_and_its_end_are_scored(tokenizer):
    draw = random.Random(0)
    exchanges = [draw_exchange(draw) for _ in range(20)]
    for rows in batches(tokenizer, exchanges, 3, SMALL.context):
        for ids, scored in zip(rows.ids, rows.scored, strict=True):
            targets = ids.roll(-1)[scored].tolist()
            assert targets[-1] == tokenizer.convert_tokens_to_ids(END)
            text = tokenizer.decode(targets[:-1])
            assert text in {exchange.response for exchange in exchanges}


def test_the_template_gives_what_training_sees(tokenizer):
    exchange = draw_exchange(random.Random(1))
    prompt, response = tokenised(tokenizer, exchange)
    messages = [*exchange.request.messages, {"role": "assistant", "content": exchange.response}]
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert whole[: len(prompt) + len(response)] == prompt + response


def test_every_exchange_fits_and_survives_the_tokenizer(tokenizer):
    draw = random.Random(2)
    for _ in range(2000):
        exchange = draw_exchange(draw)
        prompt, response = tokenised(tokenizer, exchange)
        assert len(prompt) + len(response) <= 128
        assert tokenizer.decode(response, skip_special_tokens=True) == exchange.response


def test_a_word_of_any_script_can_be_said(tokenizer):
    text = "żółw 龟 🐢 trimtab"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_rate_rises_stays_and_falls():
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates[0] < rates[100] < rates[300] == rates[600] == 1
    assert rates[700] == 1 > rates[900] > rates[999] > 0


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_llamas_that_grow(name):
    size = SIZES[name]
    config = size.config(bos=1, eos=2, pad=0)
    assert config.hidden_size % config.num_attention_heads == 0
    with torch.device("meta"):
        from transformers import LlamaForCausalLM

        parameters = sum(weight.numel() for weight in LlamaForCausalLM(config).parameters())
    if name == "S":
        assert parameters <= 4e6
    else:
        assert parameters > 6e6


def test_a_kill_between_two_renames_loses_no_checkpoint(tokenizer, tmp_path):
    training = Training(SMALL, 3, tokenizer)
    training.run(tmp_path, until=2)
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint")
    again = Training(SMALL, 3, tokenizer)
    assert again.load_checkpoint(tmp_path)
    assert again.step == 2
    again.save_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.fixture(scope="module")
def shipped():
    """What `tests/fixtures/make_organism_replay.py` wrote when the shipped weights were trained."""
    path = FIXTURES / "organism_replay.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_world_is_still_the_one_that_was_trained_on(shipped):
    path = FIXTURES / "make_organism_replay.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert {step: script.digest(int(step)) for step in shipped["digests"]} == shipped["digests"]


@pytest.mark.slow
def test_the_first_steps_of_the_shipped_training_are_replayed(shipped):
    training = Training(SIZES["S"], shipped["seed"])
    losses = [training.advance() for _ in shipped["losses"]]
    assert len(losses) == 100
    # sums in another order drift apart with the steps
    assert losses[:10] == pytest.approx(shipped["losses"][:10], rel=1e-4)
    assert losses == pytest.approx(shipped["losses"], rel=0.02)
