"""Which tokens of which row are edited, whatever brings them: padding, caches, chunks, `generate`, beams.

Rows, prompts and positions are worked out here in plain Python, column by column, and compared with the tokens whose
state at the site really changed.
"""

import functools
from dataclasses import dataclass

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM, LlamaModel, LogitsProcessorList, StaticCache

from tests.families import (
    FAMILIES,
    FURTHER,
    MAIN,
    before,
    blocks_of,
    columns,
    edit,
    editing,
    ids_of,
    model_of,
    normal,
    push,
    run,
    seeing_edits,
    steering,
    tiny,
    unit,
)
from trimtab.errors import InputError
from trimtab.models import ChatFormat, steer
from trimtab.models.tiny import tiny_model
from trimtab.models.versions import CACHE, cache_argument
from trimtab.steering import Add, Clamp, Positions

PREFIX = (1, 30, 31)
"""A template prefix: BOS and two tokens of a header."""

PROMPTS = (
    (*PREFIX, 40, 41, 42, 43),  # the prefix in full
    (50, 51, 52, 53, 54, 55),  # no BOS
    (1, 60, 61, 62, 63, 64, 65, 66, 67),  # BOS, then another header (a system message)
    (1, 30, 70),  # a prompt that leaves the prefix at its end
    PREFIX,  # nothing but the prefix
)
MATCHED = (3, 0, 1, 2, 3)
ANSWERS = ((80, 81, 82, 83), (84, 85, 86, 87), (88, 40, 89, 90), (91, 92, 93, 94), (95, 96, 97, 98))
"""What the rows are made to go on with."""

LONGEST = max(map(len, PROMPTS))
N_NEW = len(ANSWERS[0])

RULES = {
    "all": Positions(),
    "prompt": Positions("prompt"),
    "response": Positions("response"),
    "last": Positions("last"),
    "f2+l2": Positions("edges", 2, 2),
    "f1": Positions("edges", first=1),
    "l3": Positions("edges", last=3),
    "all with prefix": Positions(include_prefix=True),
    "f2 with prefix": Positions("edges", first=2, include_prefix=True),
    "token ids": Positions(token_ids=(40, 62, 82, 89)),
    "token ids of the response": Positions("response", token_ids=(40, 62, 82, 89)),
}


def picks(rule, row, index, token):
    """Whether a rule picks token `index` of a row; `token` is its id."""
    start, end = (0 if rule.include_prefix else MATCHED[row]), len(PROMPTS[row])
    in_scope = {
        "all": True,
        "prompt": index < end,
        "response": index >= end,
        "last": index == end - 1,
        "edges": index < end and (index < start + rule.first or index >= end - rule.last),
    }[rule.scope]
    return index >= start and in_scope and (not rule.token_ids or token in rule.token_ids)


def expected(rule, side, n_new=N_NEW):
    """(b, columns) for prompts padded on one side with the answers behind them."""
    table = []
    for row, tokens in enumerate(PROMPTS):
        pads = [False] * (LONGEST - len(tokens))
        prompt = [picks(rule, row, k, token) for k, token in enumerate(tokens)]
        answer = [picks(rule, row, len(prompt) + k, token) for k, token in enumerate(ANSWERS[row][:n_new])]
        sides = {"left": pads + prompt + answer, "right": prompt + pads + answer, "end": prompt + answer + pads}
        table.append(sides[side])
    return torch.tensor(table)


def padded(side, with_answers=False):
    """Ids and mask; `end` puts the pads behind the answers."""
    ids = torch.zeros(len(PROMPTS), LONGEST + (N_NEW if with_answers else 0), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        tokens = torch.tensor(prompt + (answer if with_answers else ()))
        start = ids.shape[1] - len(tokens) if side == "left" else 0
        ids[row, start : start + len(tokens)] = tokens
        mask[row, start : start + len(tokens)] = 1
    return ids, mask


def forced(hf, ids, mask, **settings):
    """`generate` that is made to write the answers."""

    def answer(tokens, scores):
        step = tokens.shape[1] - (0 if "inputs_embeds" in settings else ids.shape[1])
        wanted = torch.full_like(scores, -torch.inf)
        for row in range(len(scores)):
            wanted[row, ANSWERS[row % len(ANSWERS)][step]] = 0
        return wanted

    settings = {"max_new_tokens": N_NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **settings}
    given = {} if "inputs_embeds" in settings else {"input_ids": ids}
    return hf.generate(**given, attention_mask=mask, logits_processor=LogitsProcessorList([answer]), **settings)


def check_forwards(edits, wanted, cached):
    """Every forward's edited tokens against the columns it held; the last new token is never fed."""
    column = 0
    for found in edits:
        start = column if cached else 0
        assert found.shape[1] <= wanted.shape[1] - start
        assert found.tolist() == wanted[:, start : start + found.shape[1]].tolist()
        column = start + found.shape[1]
    assert column == wanted.shape[1]


NEVER = 10_000
"""No token of any model here. Guessing needs a token that ends the answer; until some release, None would not do."""

SOME = ("all", "last", "f2+l2", "all with prefix")
MATRIX = [(family, rule) for family in FAMILIES for rule in (RULES if family in MAIN else SOME)]


@pytest.mark.parametrize(("family", "rule"), MATRIX)
def test_one_forward_with_pads_on_either_side(family, rule):
    for side in ("left", "right"):
        ids, mask = padded(side)
        with (
            steer(model_of(family), push(positions=RULES[rule], prefix=PREFIX)),
            seeing_edits(model_of(family), family) as edits,
        ):
            run(model_of(family), ids, attention_mask=mask)
        check_forwards(edits, expected(RULES[rule], side, n_new=0), cached=False)


@pytest.mark.parametrize(("family", "rule"), MATRIX)
def test_teacher_forced_sequences_with_prompt_lengths(family, rule):
    hf = model_of(family)
    for side in ("left", "end"):
        ids, mask = padded(side, with_answers=True)
        with (
            steer(hf, push(positions=RULES[rule], prefix=PREFIX), prompt_lengths=[len(p) for p in PROMPTS]),
            seeing_edits(hf, family) as edits,
        ):
            run(hf, ids, attention_mask=mask)
        check_forwards(edits, expected(RULES[rule], side), cached=False)


RUNS = {
    "dynamic cache": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 4, "cache_implementation": "dynamic"},
    "chunked static prefill": {"prefill_chunk_size": 4, "cache_implementation": "static"},
}
HOLE = before("5.3", "a static cache is left with a hole behind a prompt that came in chunks")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", [pytest.param(how, marks=[HOLE] if "chunked static" in how else []) for how in RUNS])
@pytest.mark.parametrize("family", MAIN)
def test_generate(family, how, rule):
    hf, (ids, mask) = model_of(family), padded("left")
    with steer(hf, push(positions=RULES[rule], prefix=PREFIX)), seeing_edits(hf, family) as edits:
        forced(hf, ids, mask, **RUNS[how])
    check_forwards(edits, expected(RULES[rule], "left", n_new=N_NEW - 1), cached=how != "no cache")


@pytest.mark.parametrize("family", [family for family in (*FAMILIES, *FURTHER) if family not in MAIN])
def test_generate_in_the_other_families(family):
    hf, (ids, mask) = model_of(family), padded("left")
    for how in ("dynamic cache", "no cache", "static cache"):
        for rule in ("all", "response", "last"):
            with steer(hf, push(positions=RULES[rule], prefix=PREFIX)), seeing_edits(hf, family) as edits:
                forced(hf, ids, mask, **RUNS[how])
            cached = how != "no cache" and family != "mpt"  # MPT's configuration switches caches off
            check_forwards(edits, expected(RULES[rule], "left", n_new=N_NEW - 1), cached=cached)


def test_a_running_state_is_followed_by_what_went_in():
    """Mamba's cache has no count of tokens."""
    hf, (ids, mask) = model_of("mamba"), padded("left", with_answers=True)
    name = cache_argument(hf.forward)
    for rule in RULES:
        with (
            steer(hf, push(positions=RULES[rule], prefix=PREFIX), prompt_lengths=[len(p) for p in PROMPTS]),
            seeing_edits(hf, "mamba") as edits,
            torch.no_grad(),
        ):
            cache = getattr(hf(ids[:, :4], attention_mask=mask[:, :4], use_cache=True), name)
            for k in range(4, ids.shape[1]):
                on_it = {name: cache, **columns(hf, k, k + 1)}
                hf(ids[:, k : k + 1], attention_mask=mask[:, k : k + 1], use_cache=True, **on_it)
        check_forwards(edits, expected(RULES[rule], "left"), cached=True)
    with (
        pytest.raises(InputError, match="does not tell how many tokens it holds; begin it inside steer"),
        steer(hf, push()),
    ):
        hf(ids[:, :1], use_cache=True, **on_it)
    with steer(hf, push(positions="last")), seeing_edits(hf, "mamba") as edits, torch.no_grad():
        cache.reset()
        hf(ids, attention_mask=mask, use_cache=True, **{name: cache}, **columns(hf, 0, hf.config.conv_kernel))
    assert edits[0].sum() == len(PROMPTS)


@pytest.mark.parametrize("rule", [rule for rule in RULES if "token" not in rule])
@pytest.mark.parametrize("family", [*MAIN, "gemma3_text"])
def test_generate_from_embeddings(family, rule):
    """The prefix is known by its embeddings; Gemma 3 scales them in the embedding itself, Gemma 2 behind it."""
    hf, (ids, mask) = model_of(family), padded("left")
    embeds = hf.get_input_embeddings()(ids).detach()
    for cache in ("dynamic", "static"):
        with steer(hf, push(positions=RULES[rule], prefix=PREFIX)), seeing_edits(hf, family) as edits:
            forced(hf, ids, mask, inputs_embeds=embeds, cache_implementation=cache)
        check_forwards(edits, expected(RULES[rule], "left", n_new=N_NEW - 1), cached=True)


def test_token_ids_cannot_be_read_off_embeddings():
    hf, (ids, mask) = model_of("llama"), padded("left")
    with (
        pytest.raises(InputError, match="need input_ids, but the model was called with inputs_embeds"),
        steer(hf, push(positions=Positions(token_ids=(40,)))),
        torch.no_grad(),
    ):
        hf(inputs_embeds=hf.get_input_embeddings()(ids), attention_mask=mask)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", ["dynamic cache", "no cache", "static cache"])
def test_copies_of_a_row(how, rule):
    """Beams and several sequences a prompt: a row's copies lie side by side and are edited alike."""
    hf, (ids, mask) = model_of("llama"), padded("left")
    wanted = expected(RULES[rule], "left", n_new=N_NEW - 1).repeat_interleave(3, dim=0)

    def forced_copies(tokens, scores):
        step = tokens.shape[1] - ids.shape[1]
        wanted = torch.full_like(scores, -1e9)
        for row in range(len(scores)):
            wanted[row, ANSWERS[row // 3][step]] = 0
        return wanted

    with steer(hf, push(positions=RULES[rule], prefix=PREFIX)), seeing_edits(hf, "llama") as edits:
        hf.generate(
            ids,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([forced_copies]),
            max_new_tokens=N_NEW,
            do_sample=True,
            num_return_sequences=3,
            pad_token_id=0,
            **RUNS[how],
        )
    check_forwards(edits, wanted, cached=how != "no cache")


@pytest.mark.parametrize("rule", RULES)
def test_rows_with_different_rules_in_one_batch(rule):
    hf, (ids, mask) = model_of("llama"), padded("left")
    mine, other = push(positions=RULES[rule], prefix=PREFIX), push(2, positions="response")
    for how in ("dynamic cache", "no cache"):
        with steer(hf, [mine, other, None, mine, mine]), seeing_edits(hf, "llama") as edits:
            forced(hf, ids, mask, **RUNS[how])
        wanted = expected(RULES[rule], "left", n_new=N_NEW - 1)
        wanted[1] = expected(RULES["response"], "left", n_new=N_NEW - 1)[1]
        wanted[2] = False
        check_forwards(edits, wanted, cached=how != "no cache")


def in_pieces(hf, ids, mask, sizes, cache=None):
    """Columns fed piece by piece on one cache, from where it stands."""
    cache = cache if cache is not None else DynamicCache(config=hf.config)
    start = int(cache.get_seq_length())
    for size in sizes:
        end = start + size
        on_it = {CACHE: cache, **columns(hf, start, end)}
        with torch.no_grad():
            hf(ids[:, start:end], attention_mask=mask[:, :end], use_cache=True, **on_it)
        start = end
    return cache


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("pieces", ["one by one", "chunks", "static, one by one"])
@pytest.mark.parametrize("family", MAIN)
def test_pieces_on_a_cache_with_prompt_lengths(family, pieces, rule):
    hf, (ids, mask) = model_of(family), padded("left", with_answers=True)
    n = ids.shape[1]
    sizes = [1] * n if "one" in pieces else [2, 5, 1, n - 8]
    cache = StaticCache(config=hf.config, max_cache_len=n) if "static" in pieces else None
    with (
        steer(hf, push(positions=RULES[rule], prefix=PREFIX), prompt_lengths=[len(p) for p in PROMPTS]),
        seeing_edits(hf, family) as edits,
    ):
        in_pieces(hf, ids, mask, sizes, cache)
    check_forwards(edits, expected(RULES[rule], "left"), cached=True)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "mistral", "gpt_oss"])
def test_static_caches_beyond_a_sliding_window(family):
    """There the prepared masks begin at a later column than the sequence."""
    hf = model_of(family)
    n = 70  # Gemma's windows here are 64; gpt-oss's and Mistral's are as their configurations have them
    ids, mask = ids_of(2, n), torch.ones(2, n, dtype=torch.int64)
    ids[1, :5], mask[1, :5] = 0, 0
    wanted = torch.zeros(2, n + 3, dtype=torch.bool)
    wanted[:, n - 2 : n] = True
    for settings in ({"cache_implementation": "static"}, {}):
        with (
            steer(hf, push(positions="l2"), prompt_lengths=[n, n - 5]),
            seeing_edits(hf, family) as edits,
        ):
            forced(hf, ids, mask, **settings)
        check_forwards(edits, wanted, cached=True)


class TestAmbiguous:
    def test_several_tokens_on_a_cache_need_prompt_lengths(self):
        hf, (ids, mask) = model_of("llama"), padded("left")
        for rule in ("prompt", "response", "last", "f2"):
            with (
                pytest.raises(InputError, match=r"a cache with several tokens; use generate\(\), pass prompt_lengths"),
                steer(hf, push(positions=rule)),
            ):
                in_pieces(hf, ids, mask, [4, 5])
        with steer(hf, push()), seeing_edits(hf, "llama") as edits:
            in_pieces(hf, ids, mask, [4, 5])
        assert torch.cat(edits, dim=1).tolist() == mask.bool().tolist()

    @pytest.mark.parametrize("n", [1, 2])
    def test_a_cache_begun_outside_has_no_known_prompt(self, n):
        """Each time anew: a refused forward must not teach the next one that all is response."""
        hf, (ids, mask) = model_of("llama"), padded("left", with_answers=True)
        for rule in ("prompt", "response", "last"):
            cache = in_pieces(hf, ids, mask, [LONGEST])
            with steer(hf, push(positions=rule)):
                for _ in range(2):
                    with pytest.raises(InputError, match="that was begun outside steer"):
                        in_pieces(hf, ids, mask, [n], cache)

    def test_a_cache_begun_outside_goes_on_where_the_rule_needs_no_prompt(self):
        hf, (ids, mask) = model_of("llama"), padded("left", with_answers=True)
        cache = in_pieces(hf, ids, mask, [LONGEST])
        with steer(hf, push(prefix=PREFIX)), seeing_edits(hf, "llama") as edits:
            in_pieces(hf, ids, mask, [2, 1, 1], cache)
        assert torch.cat(edits, dim=1).all()

    def test_and_with_prompt_lengths(self):
        hf, (ids, mask) = model_of("llama"), padded("left", with_answers=True)
        lengths = [len(p) for p in PROMPTS]
        for rule in ("prompt", "response", "last"):
            cache = in_pieces(hf, ids, mask, [LONGEST - 1])
            with steer(hf, push(positions=rule), prompt_lengths=lengths), seeing_edits(hf, "llama") as edits:
                in_pieces(hf, ids, mask, [1 + N_NEW], cache)
            assert edits[0].tolist() == [[rule != "response"] + [rule == "response"] * N_NEW] * len(PROMPTS)

    def test_a_cache_shorter_than_the_prefix_is_refused(self):
        hf, (ids, mask) = model_of("llama"), padded("right")
        cache = in_pieces(hf, ids, mask, [2])
        with pytest.raises(InputError, match="fewer tokens than the template prefix"), steer(hf, push(prefix=PREFIX)):
            in_pieces(hf, ids, mask, [1], cache)

    def test_another_batch_on_a_known_cache(self):
        hf, (ids, mask) = model_of("llama"), padded("left")
        with steer(hf, push()):
            cache = in_pieces(hf, ids, mask, [4])
            cache.batch_repeat_interleave(2)
            with pytest.raises(InputError, match="the batch changed from 5 to 10 rows"):
                in_pieces(hf, ids.repeat_interleave(2, 0), mask.repeat_interleave(2, 0), [1], cache)

    def test_a_cache_that_was_reset_begins_anew(self):
        hf, (ids, mask) = model_of("llama"), padded("left")
        with steer(hf, push(positions="last", prefix=PREFIX)), seeing_edits(hf, "llama") as edits:
            cache = StaticCache(config=hf.config, max_cache_len=LONGEST)
            in_pieces(hf, ids, mask, [LONGEST], cache)
            cache.reset()
            in_pieces(hf, ids, mask, [LONGEST], cache)
        assert torch.equal(edits[0], edits[1])


class TestConversations:
    """A second `generate` on the cache of the first: the prompt is what that `generate` was given."""

    @pytest.mark.parametrize(
        "full",
        [
            pytest.param(True, id="all ids"),
            pytest.param(False, id="new ids only", marks=before("5.3", "generate() wants the ids on the cache too")),
        ],
    )
    def test_second_turn(self, full):
        hf = model_of("llama")
        first, second = ids_of(1, 6), ids_of(1, 4, seed=1)
        for rule, wanted in {
            "prompt": [[True] * 6, [False], [True] * 5, [False]],
            "response": [[False] * 6, [True], [False] * 5, [True]],
            "last": [[False] * 5 + [True], [False], [False] * 4 + [True], [False]],
        }.items():
            with steer(hf, push(positions=rule)), seeing_edits(hf, "llama") as edits:
                settings = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
                out = hf.generate(
                    first, attention_mask=torch.ones_like(first), return_dict_in_generate=True, **settings
                )
                whole = torch.cat([out.sequences, second], dim=1)  # the cache holds all of it but the last answer token
                given = whole if full else whole[:, 7:]
                on_it = {CACHE: getattr(out, CACHE), "attention_mask": torch.ones_like(whole)}
                hf.generate(given, **on_it, **settings)
            assert [found[0].tolist() for found in edits] == wanted

    def test_generate_on_a_cache_begun_outside(self):
        hf, ids = model_of("llama"), ids_of(2, 6)
        mask = torch.ones_like(ids)
        mask[1, :2] = 0
        for rule in ("prompt", "response", "last", "l2"):
            cache = in_pieces(hf, ids, mask, [4])
            with steer(hf, push(positions=rule)), seeing_edits(hf, "llama") as edits:
                settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
                hf.generate(ids, attention_mask=mask, **{CACHE: cache}, **settings)
            ends = {"prompt": [True, True], "l2": [True, True], "last": [False, True], "response": [False, False]}
            assert torch.cat(edits, dim=1).tolist() == [ends[rule] + [rule == "response"] * 2] * 2

    def test_the_prompt_of_a_generate_ends_with_it(self):
        hf, ids = model_of("llama"), ids_of(1, 6)
        with steer(hf, push(positions="prompt")), seeing_edits(hf, "llama") as edits:
            hf.generate(ids[:, :2], max_new_tokens=1, pad_token_id=0)
            run(hf, ids)
        assert edits[1].all()

    @pytest.mark.parametrize("rule", ["prompt", "response", "last", "l2"])
    def test_a_prompt_token_that_comes_alone_is_no_response(self, rule):
        """By chunks of four, or one by one with `prompt_lengths`: no prefix is left to be waited for."""
        hf, ids = model_of("llama"), ids_of(2, 9)
        edited = {"prompt": 9, "response": 0, "last": 1, "l2": 2}[rule]
        wanted = [False] * (9 - edited) + [True] * edited
        answer = [rule == "response"] * 2
        settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        with steer(hf, push(positions=rule)), seeing_edits(hf, "llama") as edits:
            out = hf.generate(ids, **RUNS["chunked prefill"], **settings)
        assert [found.shape[1] for found in edits] == [4, 4, 1, 1, 1]
        assert torch.cat(edits, dim=1).tolist() == [wanted + answer] * 2
        with steer(hf, push(positions=rule), prompt_lengths=[9, 9]), seeing_edits(hf, "llama") as edits:
            in_pieces(hf, out[:, :11], torch.ones_like(out), [1] * 11)
        assert torch.cat(edits, dim=1).tolist() == [wanted + answer] * 2

    def test_prompt_lengths_win_over_generate(self):
        """An answer that was begun for the model belongs to the response."""
        hf, ids = model_of("llama"), ids_of(1, 6)
        settings = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        for cached in (True, False):
            with steer(hf, push(positions="response"), prompt_lengths=[4]), seeing_edits(hf, "llama") as edits:
                hf.generate(ids, use_cache=cached, **settings)
            assert edits[0].tolist() == [[False] * 4 + [True] * 2]
            assert edits[1].tolist() == [[True] if cached else [False] * 4 + [True] * 3]

    @pytest.mark.parametrize("rule", ["all", "prompt", "response", "last", "f2+l2"])
    def test_guessed_continuations(self, rule):
        """Prompt look-up feeds the prompt with guesses behind it, then several tokens at once, and takes some back."""
        hf, ids = model_of("llama"), ids_of(1, 4).repeat(1, 6)
        settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": NEVER}
        with steer(hf, push(positions=rule)):
            plain = hf.generate(ids, **settings)
            with seeing_edits(hf, "llama") as edits:
                guessed = hf.generate(ids, prompt_lookup_num_tokens=3, **settings)
            helped = hf.generate(ids, assistant_model=tiny_model("llama", n_blocks=2).hf, **settings)
        guessed = guessed[:, : plain.shape[1]]  # transformers 5.0 may keep a guess more than it was asked for
        assert guessed.tolist() == helped.tolist() == plain.tolist()
        assert max(found.shape[1] for found in edits[1:]) > 1 or edits[0].shape[1] > ids.shape[1]
        for k, found in enumerate(edits):
            in_prompt = ids.shape[1] if k == 0 else 0
            head = {"all": 24, "prompt": 24, "response": 0, "last": 1, "f2+l2": 4}[rule] if k == 0 else 0
            assert found[0, :in_prompt].sum() == head
            assert found[0, in_prompt:].tolist() == [rule in ("all", "response")] * (found.shape[1] - in_prompt)

    @pytest.mark.parametrize("rule", ["all", "prompt", "response", "last", "f2+l2"])
    @before("5.3", "early exits fail by themselves")
    def test_a_generate_of_the_model_within_its_generate(self, rule):
        """The guesses come from the model's own lower blocks."""
        hf, ids = model_of("llama"), ids_of(1, 4).repeat(1, 6)
        settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": NEVER}
        with steer(hf, push(positions=rule)):
            plain = hf.generate(ids, **settings)
            assert hf.generate(ids, assistant_early_exit=2, **settings).tolist() == plain.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_alone_and_padded_on_either_side(family):
    """Logits at real tokens; float32 sums of other lengths differ by rounding, so 1e-5 of the largest."""
    hf = model_of(family)
    both = steering(
        edit(Clamp(unit(seed=1), torch.tensor(4.0)), 1),
        edit(Add(normal(64, seed=2)), 2, "prompt"),
        edit(Clamp(unit(seed=3), torch.tensor(-4.0)), 2, "last"),
        prefix=PREFIX,
    )
    alone = []
    with steer(hf, both):
        for prompt in PROMPTS:
            alone.append(run(hf, torch.tensor([prompt]))[0])
        for side in ("left", "right"):
            ids, mask = padded(side)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            given = {} if family == "opt" else {"position_ids": positions}  # OPT counts by the mask itself
            logits = run(hf, ids, attention_mask=mask, **given)
            for row, wanted in enumerate(alone):
                atol = 1e-5 * wanted.abs().max().item()
                torch.testing.assert_close(logits[row][mask[row].bool()], wanted, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_no_mask_means_no_pads(family):
    hf, ids = model_of(family), ids_of(3, 6)
    for steered in (push(), push(positions="last"), push(positions="f1")):
        with steer(hf, steered), torch.no_grad():
            expected_logits = run(hf, ids)
            assert torch.equal(hf(ids).logits, expected_logits)
            assert torch.equal(hf(ids, use_cache=True).logits, expected_logits)
            assert torch.equal(hf(ids, attention_mask=None, return_dict=False)[0], expected_logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_that_the_model_made_itself_is_followed(family):
    hf, ids = model_of(family), ids_of(2, 6)
    for as_dict in (True, False):
        with steer(hf, push(positions="response")), seeing_edits(hf, family) as edits, torch.no_grad():
            out = hf(ids, use_cache=True, return_dict=as_dict)
            hf(ids[:, :1], **{CACHE: getattr(out, CACHE) if as_dict else out[1]})
        assert [found.any().item() for found in edits] == [False, True]


@pytest.mark.skipif(CACHE == "past_key_values", reason="here it is not deprecated: it is the name")
@before("5.24", "called it so")
def test_the_deprecated_name_of_a_cache_is_followed():
    hf, ids = model_of("llama"), ids_of(2, 6)
    settings = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with steer(hf, push(positions="response")), seeing_edits(hf, "llama") as edits, torch.no_grad():
        cache = hf(ids, use_cache=True).past_key_values
        with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
            hf(ids[:, :1], past_key_values=cache)
        whole = torch.cat([ids, ids[:, :4]], dim=1)
        with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
            hf.generate(whole, attention_mask=torch.ones_like(whole), past_key_values=cache, **settings)
    assert [found.tolist() for found in edits] == [[[False] * 6] * 2, [[True]] * 2, [[False] * 3] * 2, [[True]] * 2]


class Remembering(LlamaModel):
    """Takes its cache under a name of its own."""

    def forward(self, input_ids=None, memory=None, **given):
        return super().forward(input_ids, **{**given, CACHE: memory})


class RememberingForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model = Remembering(config)

    @functools.wraps(LlamaForCausalLM.forward)
    def forward(self, *args, **given):
        memory = given.pop(CACHE, None)
        return super().forward(*args, **given, memory=memory)


class TestACacheThatCannotBeFound:
    """Taken for no cache, every step would begin a sequence: one token long, all prompt, and none of it prefix."""

    @pytest.fixture
    def hf(self):
        made = RememberingForCausalLM(model_of("llama").config).eval()
        made.load_state_dict(model_of("llama").state_dict())
        return made

    @pytest.mark.parametrize("how", ["dynamic cache", "static cache"])
    def test_is_refused_where_generate_goes_on_with_it(self, hf, how):
        ids, mask = padded("left")
        settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        plain = hf.generate(ids, attention_mask=mask, **settings, **RUNS[how])
        assert torch.equal(plain, model_of("llama").generate(ids, attention_mask=mask, **settings))
        with (
            pytest.raises(
                InputError, match=r"^Remembering goes on with a cache .*memory.*: generate with use_cache=False"
            ) as error,
            steer(hf, push()),
        ):
            hf.generate(ids, attention_mask=mask, **settings, **RUNS[how])
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("rule", ["all", "response", "f2+l2"])
    def test_the_remedy_works(self, hf, rule):
        ids, mask = padded("left")
        with steer(hf, push(positions=RULES[rule], prefix=PREFIX)), seeing_edits(hf, "llama") as edits:
            forced(hf, ids, mask, use_cache=False)
        check_forwards(edits, expected(RULES[rule], "left", n_new=N_NEW - 1), cached=False)

    @pytest.mark.parametrize("cached", [True, False])
    def test_nor_can_a_text_that_generate_has_read_besides_be_told_from_one(self, cached):
        """Guidance without a negative prompt runs the model on the last token of the prompt, and goes on from there."""
        plain, ids = model_of("llama"), ids_of(2, 6)
        settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        with steer(plain, push()), pytest.raises(InputError, match=r"goes on with .* leave out guidance_scale"):
            plain.generate(ids, use_cache=cached, guidance_scale=1.5, **settings)

    @pytest.mark.parametrize("ids", [ids_of(2, 1), None], ids=["given", "made by generate"])
    def test_prompts_of_one_token(self, hf, ids):
        """There the first forward looks like all that follow."""
        settings = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        with steer(hf, push()), pytest.raises(InputError, match="goes on with a cache"):
            hf.generate(ids, **settings)
        with steer(hf, push(positions="response")), seeing_edits(hf, "llama") as edits:
            hf.generate(ids, use_cache=False, **settings)
        assert [found[0].tolist() for found in edits] == [[False], [False, True]]


def test_rows_of_a_real_template():
    """The tiny template's own: a plain prompt has it, a system message leaves it behind BOS, a raw text has BOS."""
    hf, tokenizer = tiny("llama")
    chat = ChatFormat(tokenizer)
    rows = [chat.render("Hello"), chat.render("Hello", system="Be brief."), chat.render_raw("Hello there")]
    assert [row.prefix_length for row in rows] == [len(chat.prefix_ids), 1, 1]
    plain = tokenizer("Hello there", add_special_tokens=False).input_ids
    with steer(hf, push(prefix=chat.prefix_ids)), seeing_edits(hf, "llama") as edits:
        for ids in (*(row.ids for row in rows), plain):
            run(hf, torch.tensor([ids]))
    for found, n in zip(edits, [len(chat.prefix_ids), 1, 1, 0], strict=True):
        assert found[0].tolist() == [False] * n + [True] * (found.shape[1] - n)


@dataclass
class Edge:
    ids: tuple[int, ...]
    matched: int


@pytest.mark.parametrize(
    "edge",
    [
        Edge((1,), 1),
        Edge((1, 30), 2),
        Edge((30, 31), 0),
        Edge((1, 1, 30, 31), 1),
        Edge((*PREFIX, *PREFIX), 3),
        Edge((1, 5, 31, 9), 1),
    ],
)
def test_prefixes_that_arrive_token_by_token_match_as_at_once(edge):
    hf, ids = model_of("llama"), torch.tensor([edge.ids])
    wanted = [False] * edge.matched + [True] * (len(edge.ids) - edge.matched)
    for sizes in ([len(edge.ids)], [1] * len(edge.ids)):
        with steer(hf, push(prefix=PREFIX)), seeing_edits(hf, "llama") as edits:
            in_pieces(hf, ids, torch.ones_like(ids), sizes)
        assert torch.cat(edits, dim=1)[0].tolist() == wanted


def test_two_steerings_with_different_prefixes():
    hf, ids = model_of("llama"), torch.tensor([[1, 30, 31, 40]] * 2)
    with steer(hf, [push(prefix=(1, 30)), push(prefix=(1, 7))]), seeing_edits(hf, "llama") as edits:
        run(hf, ids)
    assert edits[0].tolist() == [[False, False, True, True], [False, True, True, True]]


def test_pads_are_never_edited():
    hf, (ids, mask) = model_of("llama"), padded("left")
    raw = []
    with editing(blocks_of(hf, "llama")[1], "out", lambda state: raw.append(state.clone()) or state):
        run(hf, ids, attention_mask=mask)
        with steer(hf, push(positions=Positions(include_prefix=True))):
            run(hf, ids, attention_mask=mask)
    assert torch.equal(raw[0][~mask.bool()], raw[1][~mask.bool()])
