"""`generate` on a steered model: the same tokens with any cache, any attention kernel, alone and in any batch."""

import pytest
import torch
from transformers import GenerationConfig

from tests.families import FAMILIES, MAIN, edit, model_of, normal, push, run, seeing_edits, steering, unit
from trimtab.models import steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import Ablate, Add, Clamp, Site

PREFIX = (1, 30, 31)
N_NEW = 8

ROWS = [(*PREFIX, 40, 41, 42), (50, 51, 52, 53, 54, 55, 56, 57), (1, 60, 61, 62), (70, 71, 72, 73, 74)]

STEERINGS = {
    "clamp": steering(Clamp(unit(seed=1), torch.tensor(5.0)), prefix=PREFIX),
    "two sites": steering(
        edit(Add(2 * normal(64, seed=2)), 0, "response"),
        edit(Ablate(normal(2, 64, seed=3)), Site(2, "resid_pre")),
        prefix=PREFIX,
    ),
    "prompt": steering(
        edit(Add(4 * normal(64, seed=4)), 1, "prompt"),
        edit(Clamp(unit(seed=8), torch.tensor(4.0)), 1, "response"),
        edit(Add(normal(64, seed=5)), 2, "last"),
    ),
    "response": steering(edit(Clamp(normal(2, 64, seed=6), torch.tensor([40.0, -40.0])), 1, "response")),
}
PER_ROW = [STEERINGS["clamp"], None, STEERINGS["two sites"], STEERINGS["response"]]


def left_padded(rows=ROWS):
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.int64), torch.zeros(len(rows), longest, dtype=torch.int64)
    for k, row in enumerate(rows):
        ids[k, longest - len(row) :], mask[k, longest - len(row) :] = torch.tensor(row), 1
    return ids, mask


def new_tokens(hf, rows=ROWS, **settings):
    ids, mask = left_padded(rows)
    settings = {"max_new_tokens": N_NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **settings}
    return hf.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :]


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in FAMILIES for name in (STEERINGS if family in MAIN else ("two sites",))],
)
def test_no_cache_dynamic_cache_static_cache(family, name):
    hf = model_of(family)
    plain = new_tokens(hf)
    with steer(hf, STEERINGS[name]):
        dynamic = new_tokens(hf)
        assert torch.equal(new_tokens(hf, use_cache=False), dynamic)
        assert torch.equal(new_tokens(hf, cache_implementation="static"), dynamic)
    assert not torch.equal(dynamic, plain)
    assert torch.equal(new_tokens(hf), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_steps_of_a_cache_are_the_forward_over_the_whole(family):
    """Scores with a cache against one forward over prompt and answer, up to float32 rounding of sums."""
    hf = model_of(family)
    ids, mask = left_padded()
    for what in (STEERINGS["two sites"], PER_ROW):
        with steer(hf, what):
            out = hf.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=N_NEW,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                return_dict_in_generate=True,
                output_logits=True,
            )
        whole = torch.cat([mask, torch.ones(len(ROWS), N_NEW, dtype=torch.int64)], dim=1)
        positions = {} if family == "opt" else {"position_ids": (whole.cumsum(1) - 1).clamp(min=0)}
        with steer(hf, what, prompt_lengths=[len(row) for row in ROWS]):
            logits = run(hf, out.sequences, attention_mask=whole, **positions)
        stepwise = torch.stack(out.logits, dim=1)
        atol = 1e-5 * logits.abs().max().item()
        torch.testing.assert_close(stepwise, logits[:, ids.shape[1] - 1 : -1], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "mistral"])
def test_attention_kernels_agree(family):
    eager, _ = tiny_model(family)
    assert model_of(family).config._attn_implementation == "sdpa"
    eager.set_attn_implementation("eager")
    for what in (STEERINGS["prompt"], PER_ROW):
        for settings in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
            with steer(model_of(family), what), steer(eager, what):
                assert torch.equal(new_tokens(eager, **settings), new_tokens(model_of(family), **settings))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_alone_and_among_others(family):
    hf = model_of(family)
    plain = new_tokens(hf)
    for settings in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        with steer(hf, PER_ROW):
            together = new_tokens(hf, **settings)
        for k, (row, what) in enumerate(zip(ROWS, PER_ROW, strict=True)):
            with steer(hf, what):
                assert torch.equal(new_tokens(hf, [row], **settings)[0], together[k])
        assert torch.equal(together[1], plain[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_rows_keep_every_bit(family):
    """A row's sums are its own, except where experts gather the tokens of all rows."""
    hf = model_of(family)
    ids, mask = left_padded()
    plain = run(hf, ids, attention_mask=mask)
    with steer(hf, PER_ROW):
        steered = run(hf, ids, attention_mask=mask)
    if FAMILIES[family].apart:
        assert torch.equal(steered[1], plain[1])
    torch.testing.assert_close(steered[1], plain[1], rtol=1e-5, atol=1e-5)
    assert [torch.equal(steered[k], plain[k]) for k in (0, 2)] == [False, False]


@pytest.mark.parametrize("family", [*MAIN, "mistral", "falcon"])
def test_beams(family):
    hf = model_of(family)
    for settings in ({"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}):
        n = settings.get("num_return_sequences", 1)
        with steer(hf, PER_ROW):
            together = new_tokens(hf, **settings)
            for cache in ({"use_cache": False}, {"cache_implementation": "static"}):
                assert torch.equal(new_tokens(hf, **settings, **cache), together)
        for k, (row, what) in enumerate(zip(ROWS, PER_ROW, strict=True)):
            with steer(hf, what):
                assert torch.equal(new_tokens(hf, [row], **settings), together[k * n : (k + 1) * n])
        assert not torch.equal(together, new_tokens(hf, **settings))


@pytest.mark.parametrize("family", MAIN)
def test_beams_of_all_steerings_alike(family):
    """One steering for all, and the same one named once a row."""
    hf = model_of(family)
    for what in STEERINGS.values():
        with steer(hf, what):
            for_all = new_tokens(hf, num_beams=3)
        with steer(hf, [what] * len(ROWS)):
            assert torch.equal(new_tokens(hf, num_beams=3), for_all)


@pytest.mark.parametrize("family", MAIN)
def test_several_sampled_sequences_a_prompt(family):
    """A seed gives the same draws whether a row's copies are steered by one steering for all or by their own entry."""
    hf = model_of(family)

    def draw(seed, what, **settings):
        torch.manual_seed(seed)
        with steer(hf, what):
            return new_tokens(hf, do_sample=True, num_return_sequences=3, temperature=1.0, top_k=0, **settings)

    what = STEERINGS["clamp"]
    assert torch.equal(draw(1, what), draw(1, [what] * len(ROWS)))
    assert torch.equal(draw(1, what), draw(1, what, use_cache=False))
    assert not torch.equal(draw(1, what), draw(2, what))
    mixed, plain, clamped = draw(1, [None, what, None, None]), draw(1, None), draw(1, what)
    assert torch.equal(mixed[3:6], clamped[3:6])
    assert torch.equal(torch.cat([mixed[:3], mixed[6:]]), torch.cat([plain[:3], plain[6:]]))


@pytest.mark.parametrize("family", MAIN)
def test_rows_that_end_early_go_on_being_rows(family):
    """Finished rows are fed pads; their neighbours must not notice."""
    hf = model_of(family)
    with steer(hf, PER_ROW):
        free = new_tokens(hf)
        ends = free[0, 2].item()
        ended = new_tokens(hf, eos_token_id=ends)
    for k, row in enumerate(free.tolist()):
        stop = row.index(ends) + 1 if ends in row else N_NEW
        assert ended[k, :stop].tolist() == row[:stop]
        assert not ended[k, stop:].any()


def test_a_generation_config_that_is_handed_over():
    hf = model_of("llama")
    config = GenerationConfig(max_new_tokens=N_NEW, do_sample=False, pad_token_id=0)
    before = config.to_dict()
    ids, mask = left_padded()
    with steer(hf, PER_ROW):
        expected = new_tokens(hf)
        found = hf.generate(ids, generation_config=config, attention_mask=mask, eos_token_id=None)[:, ids.shape[1] :]
    assert torch.equal(found, expected)
    assert config.to_dict() == before


def test_a_mask_that_generate_infers_from_the_pads():
    hf = model_of("llama")
    ids, mask = left_padded()
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for rule in ("last", "response", "f1"):
        for cached in (True, False):
            with steer(hf, push(positions=rule)), seeing_edits(hf, "llama") as edits:
                told = hf.generate(ids, attention_mask=mask, use_cache=cached, **settings)
                n = len(edits)
                assert torch.equal(hf.generate(ids, use_cache=cached, **settings), told)
            assert all(torch.equal(a, b) for a, b in zip(edits[:n], edits[n:], strict=True))


def test_a_prompt_that_generate_makes_itself():
    """Without any input it begins with BOS alone."""
    hf = model_of("llama")
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for cached in (True, False):
        with steer(hf, push(positions="response")), seeing_edits(hf, "llama") as edits:
            out = hf.generate(use_cache=cached, **settings)
            assert torch.equal(hf.generate(torch.tensor([[1]]), use_cache=cached, **settings), out)
        assert edits[0].tolist() == [[False]]
        assert edits[1].tolist() == [[True] if cached else [False, True]]
