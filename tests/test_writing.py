"""Rows that have ended leave a batch; what is written does not change by it."""

import pytest
import torch

from tests.families import FAMILIES, FURTHER, WIDTH, edit, model_of, normal, steering, tiny
from trimtab.models import Model
from trimtab.models.sampling import GenerationProgress
from trimtab.models.tiny import tiny_model
from trimtab.models.writing import FEWEST, Thinning, Writer
from trimtab.steering import Add

UNSELECTABLE = ("jamba", "llava", "mamba", "mpt")
"""Models whose cache keeps a running state, that have none, or more inside than a language model."""
NEW = 24
DRAWN = {"temperature": 3.0, "seeds": range(24)}
"""Greedy random models repeat themselves, and end at once or never."""


def prompts(n, prefix=()):
    """Prompts of unequal lengths; some hold the id that also pads."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (n,), generator=draw).tolist()
    made = [torch.randint(0, 500, (length,), generator=draw).tolist() for length in lengths]
    made[0][0] = made[5][-1] = 0
    return [(*prefix, *ids) for ids in made]


@pytest.fixture
def ending(monkeypatch):
    """Makes a random model end its answers, at odd places: one token in twelve does."""

    def prepare(hf):
        monkeypatch.setattr(hf.generation_config, "eos_token_id", list(range(5, 500, 12)))
        return hf

    return prepare


def batches(hf):
    """Rows of every forward of the stack of blocks, as they come."""
    seen = []

    def look(module, args, kwargs):
        seen.append((kwargs.get("input_ids") if kwargs.get("input_ids") is not None else args[0]).shape[0])

    hf.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    return seen


def written(hf, rows=None, n=24, *, thinned=True, prefix=(), pad=0, **settings):
    writer = Writer(hf, pad)
    writer._can_thin &= thinned
    columns = GenerationProgress(None, 1, NEW)
    return writer.write(prompts(n, prefix), rows or [None] * n, NEW, columns, **settings), writer


@pytest.mark.parametrize("name", [*FAMILIES, *FURTHER])
def test_every_family_writes_the_same_with_and_without_rows_that_have_ended(name, ending):
    hf = ending(model_of(name))
    thin, writer = written(hf, **DRAWN)
    whole, _ = written(hf, thinned=False, **DRAWN)
    assert thin == whole
    ended = [answer for answer in whole if len(answer) < NEW]
    assert len(ended) > 12  # or nothing would have left
    assert len({len(answer) for answer in whole}) > 3
    assert writer._can_thin is (name not in UNSELECTABLE)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_steering_that_depends_on_the_prompt_goes_on_as_it_was(name, ending):
    hf = ending(model_of(name))
    ways = [None, steering(Add(3 * normal(WIDTH)))]
    ways += [steering(edit(Add(9 * normal(WIDTH, seed=k)), 1, rule)) for k, rule in enumerate(("f2+l1", "response"))]
    rows = [ways[k % len(ways)] for k in range(24)]
    thin, _ = written(hf, rows, **DRAWN)
    whole, _ = written(hf, rows, thinned=False, **DRAWN)
    assert thin == whole
    assert thin != written(hf, **DRAWN)[0]


def test_fewer_rows_are_computed(ending):
    hf, _ = tiny_model("llama")
    seen = batches(ending(hf))
    whole, _ = written(hf, thinned=False, **DRAWN)
    needed, once = sum(map(len, whole)), sum(seen)
    seen.clear()
    written(hf, **DRAWN)
    assert needed <= sum(seen) < 0.7 * once
    assert min(seen) < 24
    assert all(rows > FEWEST / 2 for rows in seen)


def test_a_cache_that_rows_cannot_leave_is_tried_once(ending):
    hf = ending(model_of("mamba"))
    progress = []
    writer, columns = Writer(hf, 0), GenerationProgress(lambda p: progress.append((p.done, p.total)), 2, NEW)
    for _ in range(2):
        writer.write(prompts(24), [None] * 24, NEW, columns, **DRAWN)
        columns.end_batch()
    assert not writer._can_thin
    assert progress[-1] == (2 * NEW, 2 * NEW)


def test_what_ends_a_batch():
    thinning = Thinning(frozenset([3, 4]))
    ids = torch.tensor([[9, 9], [9, 3], *[[9, 9]] * 6])
    assert thinning(ids, None).tolist() == [False] * 8
    assert thinning(torch.tensor([[9], [0], [4], *[[9]] * 5]), None).tolist() == [True] * 8  # a quarter has
    assert thinning.ended.tolist() == [False, True, True, *[False] * 5]
    assert thinning(torch.tensor([[3], [0], [0], *[[3]] * 5]), None).tolist() == [False] * 8  # all: it ends by itself


def test_a_model_without_an_end_writes_all_it_may():
    model = Model(*tiny("llama"))
    ends, model.hf.generation_config.eos_token_id = model.hf.generation_config.eos_token_id, None
    try:
        found = model.respond([model.chat.render(f"Hi {k}") for k in range(10)], max_new_tokens=5, batch_size=10)
    finally:
        model.hf.generation_config.eos_token_id = ends
    assert {len(answer) for answer in found} == {5}


def test_an_end_may_also_be_what_pads(ending):
    hf = ending(model_of("llama"))
    assert written(hf, pad=5, **DRAWN)[0] == written(hf, pad=5, thinned=False, **DRAWN)[0]


def test_a_batch_is_left_whole_where_rows_are_shorter_than_the_prefix_of_their_steering(ending):
    hf, _ = tiny_model("llama")
    seen, long = batches(ending(hf)), tuple(range(7, 37))
    rows = [steering(Add(3 * normal(WIDTH)), prefix=long)] * 24
    assert written(hf, rows, **DRAWN)[0] == written(hf, rows, thinned=False, **DRAWN)[0]
    assert {*seen} == {24}
    seen.clear()
    assert written(hf, rows, prefix=long, **DRAWN)[0] == written(hf, rows, prefix=long, thinned=False, **DRAWN)[0]
    assert min(seen) < 24


@pytest.mark.parametrize("asked_for", ["dynamic", "static"])
def test_a_cache_that_was_asked_for_is_left_to_generate(asked_for, ending, monkeypatch):
    hf = ending(tiny_model("llama")[0])
    expected, _ = written(hf, **DRAWN)
    monkeypatch.setattr(hf.generation_config, "cache_implementation", asked_for)
    assert written(hf, **DRAWN)[0] == expected


def test_what_a_model_wants_kept_of_its_generation_is_not(ending, monkeypatch):
    hf = ending(tiny_model("llama")[0])
    monkeypatch.setattr(hf.generation_config, "output_hidden_states", True)
    monkeypatch.setattr(hf.generation_config, "output_scores", True)
    found = []
    generate = hf.generate
    monkeypatch.setattr(hf, "generate", lambda **given: found.append(generate(**given)) or found[-1])
    written(hf, **DRAWN)
    assert len(found) > 1
    assert all(output.scores is None and output.hidden_states is None for output in found)
