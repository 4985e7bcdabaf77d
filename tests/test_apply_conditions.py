"""Edits behind a condition on the prompt: which rows are edited, whatever brings their tokens.

What a row's prompt is like is worked out here by hand, from states of the plain model a row at a time.
"""

import pytest
import torch
from transformers import DynamicCache

from tests.families import FAMILIES, MAIN, before, columns, model_of, normal, run, seeing_edits, unit
from tests.test_apply_rows import ANSWERS, LONGEST, MATCHED, N_NEW, PREFIX, PROMPTS, expected, forced, padded
from trimtab.errors import InputError
from trimtab.models import capture, steer
from trimtab.models.tiny import tiny_model
from trimtab.models.versions import cache_argument
from trimtab.steering import (
    Add,
    Clamp,
    Edit,
    Intervention,
    ModelCard,
    Positions,
    PromptGate,
    Site,
    Steering,
    SteeringVector,
)
from trimtab.steering.gates import SIMILARITIES, similarity

READ = 1
"""The block whose output the conditions read."""


def means(family, rows=PROMPTS):
    """For each prompt the mean of the plain model's states behind the prefix; None without any."""
    found = []
    for tokens, matched in zip(rows, MATCHED, strict=True):
        state = capture(model_of(family), [tokens], [Site(READ)])[0][Site(READ)][matched:]
        found.append(state.mean(dim=0) if len(state) else None)
    return found


def gate_between(family, direction, number=0, side=1):
    """A gate that about half of the prompts open, and which of them do."""
    values = [None if m is None else float(similarity(m, direction, number)) for m in means(family)]
    ordered = sorted(value for value in values if value is not None)
    middle = len(ordered) // 2
    threshold = (ordered[middle - 1] + ordered[middle]) / 2
    assert ordered[middle] - ordered[middle - 1] > 1e-4
    gate = PromptGate(direction, READ, threshold, side, number)
    return gate, [v is not None and (v > threshold) == (side > 0) for v in values]


def gated(gate, site=2, positions="all", seed=1, prefix=PREFIX):
    """Adds a long vector behind a gate; a number is the layer of a `resid_post` site."""
    where = Site(site) if isinstance(site, int) else site
    return Steering((Intervention(where, Add(4 * normal(64, seed=seed)), Positions.parse(positions), gate),), prefix)


def wanted(rule, met, side="left", n_new=N_NEW):
    """(b, columns) of tokens that are edited."""
    return expected(Positions.parse(rule), side, n_new) & torch.tensor(met)[:, None]


def check(edits, table, cached):
    column = 0
    for found in edits:
        start = column if cached else 0
        assert found.tolist() == table[:, start : start + found.shape[1]].tolist()
        column = start + found.shape[1]
    assert column == table.shape[1]


def placed(family, mask):
    """What a caller has to say of left pads by itself: transformers 5.0's GPT-2 counts them as tokens."""
    return {"position_ids": (mask.cumsum(-1) - 1).clamp_min(0)} if family == "gpt2" else {}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_edited_whose_prompt_meets_it(family):
    gate, met = gate_between(family, unit(seed=7))
    assert 0 < sum(met) < 4
    for side in ("left", "right"):
        ids, mask = padded(side)
        with steer(model_of(family), gated(gate)), seeing_edits(model_of(family), family, site=2) as edits:
            run(model_of(family), ids, attention_mask=mask, **placed(family, mask))
        check(edits, wanted("all", met, side, 0), cached=False)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("number", range(len(SIMILARITIES)))
def test_each_similarity_on_each_side(number, side):
    gate, met = gate_between("llama", unit(seed=9), number, side)
    ids, mask = padded("left")
    with steer(model_of("llama"), gated(gate)), seeing_edits(model_of("llama"), "llama", site=2) as edits:
        run(model_of("llama"), ids, attention_mask=mask)
    check(edits, wanted("all", met, n_new=0), cached=False)


def test_the_similarities_are_the_formulas():
    h, c = normal(5, 8, seed=1), 3 * normal(8, seed=2)
    along = torch.outer(h @ c, c) / (c @ c)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(similarity(h, c, 0), cosine(h, c[None], dim=1))
    torch.testing.assert_close(similarity(h, c, 1), cosine(h, along, dim=1))
    torch.testing.assert_close(similarity(h, c, 2), cosine(h, along.tanh(), dim=1))
    assert similarity(torch.zeros(1, 8), c, 0).item() == 0.0


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("rule", ["all", "response", "prompt", "last", "f1"])
@pytest.mark.parametrize("family", MAIN)
def test_it_holds_while_the_row_is_written(family, rule, cached):
    gate, met = gate_between(family, unit(seed=7))
    ids, mask = padded("left")
    hf = model_of(family)
    with steer(hf, gated(gate, positions=rule)), seeing_edits(hf, family, site=2) as edits:
        forced(hf, ids, mask, use_cache=cached)
    check(edits, wanted(rule, met, n_new=N_NEW - 1), cached=cached)


@pytest.mark.parametrize("family", MAIN)
def test_a_row_alone_is_a_row_of_a_batch(family):
    gate = gate_between(family, unit(seed=7))[0]
    hf, (ids, mask) = model_of(family), padded("left")
    with steer(hf, gated(gate)):
        together = forced(hf, ids, mask, output_logits=True, return_dict_in_generate=True).logits
        for row, tokens in enumerate(PROMPTS):
            alone = torch.tensor([tokens])

            def answer(found, scores, row=row):
                forcing = torch.full_like(scores, -torch.inf)
                forcing[0, ANSWERS[row][found.shape[1] - len(PROMPTS[row])]] = 0
                return forcing

            out = hf.generate(
                input_ids=alone,
                attention_mask=torch.ones_like(alone),
                max_new_tokens=N_NEW,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                logits_processor=[answer],
                output_logits=True,
                return_dict_in_generate=True,
            )
            for mine, batch in zip(out.logits, together, strict=True):
                torch.testing.assert_close(mine[0], batch[row], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", MAIN)
def test_rows_that_do_not_meet_it_are_the_plain_models(family):
    gate, met = gate_between(family, unit(seed=7))
    hf, (ids, mask) = model_of(family), padded("left")
    plain = run(hf, ids, attention_mask=mask, **placed(family, mask))
    with steer(hf, gated(gate)):
        steered = run(hf, ids, attention_mask=mask, **placed(family, mask))
    same = [bool(torch.equal(a, b)) for a, b in zip(plain, steered, strict=True)]
    assert same == [not open_ for open_ in met]


@pytest.mark.parametrize("copies", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_beams_and_sequences_take_it_from_their_prompt(copies):
    hf, (ids, mask) = model_of("llama"), padded("left")
    gate, met = gate_between("llama", unit(seed=7))
    with steer(hf, gated(gate)), seeing_edits(hf, "llama", site=2) as edits:
        hf.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, pad_token_id=0, eos_token_id=None, **copies)
    assert edits[-1].shape[0] == 2 * len(PROMPTS)
    for found in edits[1:]:
        assert found.any(dim=1).tolist() == [open_ for open_ in met for _ in range(2)]


@before("4.56", "has no chunks")
def test_a_prompt_that_is_read_in_parts():
    hf, (ids, mask) = model_of("llama"), padded("left")
    gate, met = gate_between("llama", unit(seed=7))
    with steer(hf, gated(gate, positions="response")), seeing_edits(hf, "llama", site=2) as edits:
        forced(hf, ids, mask, prefill_chunk_size=4, cache_implementation="dynamic")
    table = torch.cat(list(edits), dim=1)
    assert table.tolist() == wanted("response", met, n_new=N_NEW - 1).tolist()
    for rule in ("all", "prompt", "f1"):
        with steer(hf, gated(gate, positions=rule)), pytest.raises(InputError, match="read in several forwards"):
            forced(hf, ids, mask, prefill_chunk_size=4, cache_implementation="dynamic")


def test_the_last_token_may_be_edited_of_a_prompt_in_parts():
    """It comes when all is known."""
    hf, (ids, mask) = model_of("llama"), padded("left")
    gate, met = gate_between("llama", unit(seed=7))
    with steer(hf, gated(gate, positions="last")), seeing_edits(hf, "llama", site=2) as edits:
        forced(hf, ids, mask, prefill_chunk_size=4, cache_implementation="dynamic")
    assert torch.cat(list(edits), dim=1).tolist() == wanted("last", met, n_new=N_NEW - 1).tolist()


def test_prompt_and_response_in_one_forward():
    hf, (ids, mask) = model_of("llama"), padded("right", with_answers=True)
    gate, met = gate_between("llama", unit(seed=7))
    with steer(hf, gated(gate), prompt_lengths=list(map(len, PROMPTS))), seeing_edits(hf, "llama", site=2) as edits:
        run(hf, ids, attention_mask=mask)
    check(edits, wanted("all", met, "end"), cached=False)


def test_a_cache_that_was_begun_outside_has_no_condition():
    hf, gate = model_of("llama"), gate_between("llama", unit(seed=7))[0]
    name = cache_argument(type(hf.model).forward)
    ids = torch.tensor([PROMPTS[2]])
    for given, said in (({}, "a condition on the prompt needs to know"), ({"prompt_lengths": [9]}, "not known yet")):
        cache = DynamicCache(config=hf.config)
        run(hf, ids[:, :6], use_cache=True, **{name: cache}, **columns(hf, 0, 6))
        with steer(hf, gated(gate), **given), pytest.raises(InputError, match=said):
            run(
                hf,
                ids[:, 6:],
                attention_mask=torch.ones_like(ids),
                use_cache=True,
                **{name: cache},
                **columns(hf, 6, 9),
            )


def test_forwards_on_a_filled_cache_by_hand():
    hf, (ids, mask) = model_of("llama"), padded("left")
    gate, met = gate_between("llama", unit(seed=7))
    name = cache_argument(type(hf.model).forward)
    cache = DynamicCache(config=hf.config)
    with steer(hf, gated(gate)), seeing_edits(hf, "llama", site=2) as edits:
        run(hf, ids, attention_mask=mask, use_cache=True, **{name: cache}, **columns(hf, 0, LONGEST))
        for step in range(2):
            mask = torch.cat([mask, torch.ones(len(PROMPTS), 1, dtype=torch.int64)], dim=1)
            new = torch.tensor([[answer[step]] for answer in ANSWERS])
            place = columns(hf, LONGEST + step, LONGEST + step + 1)
            run(hf, new, attention_mask=mask, use_cache=True, **{name: cache}, **place)
    check(edits, wanted("all", met, n_new=2), cached=True)


class TestTogether:
    def test_rows_with_conditions_of_their_own(self):
        hf, (ids, mask) = model_of("llama"), padded("left")
        gate, met = gate_between("llama", unit(seed=7))
        other = PromptGate(gate.direction, READ, gate.threshold, -1)
        rows = [gated(gate), gated(other), None, gated(other), gated(gate)]
        with steer(hf, rows), seeing_edits(hf, "llama", site=2) as edits:
            run(hf, ids, attention_mask=mask)
        open_ = [met[0], not met[1], False, not met[3], met[4]]
        check(edits, wanted("all", open_, n_new=0), cached=False)

    def test_it_reads_what_earlier_edits_have_made_of_the_prompt_and_not_the_one_at_its_place(self):
        hf, direction = model_of("llama"), unit(seed=7)
        ids = torch.tensor([PROMPTS[1]])
        push = Steering((Intervention(Site(READ), Add(100 * direction)),))
        early = Steering((Intervention(Site(0), Add(100 * direction)),))
        gate = PromptGate(direction, READ, 0.9)
        for first, is_open in ((push, False), (early, True)):
            with steer(hf, first + gated(gate, site=READ, prefix=())):
                steered = run(hf, ids)
            with steer(hf, first):
                alone = run(hf, ids)
            assert torch.equal(steered, alone) != is_open

    def test_clamps_at_one_site_with_and_without(self):
        hf, (ids, mask) = model_of("llama"), padded("left")
        gate, met = gate_between("llama", unit(seed=7))
        a, b = unit(seed=1), unit(seed=1) + unit(seed=2)
        steering = Steering(
            (
                Intervention(Site(2), Clamp(a, torch.tensor(9.0))),
                Intervention(Site(2), Clamp(b, torch.tensor(-5.0)), gate=gate),
            ),
            PREFIX,
        )
        seen = {}
        layer = hf.model.layers[2]
        with steer(hf, steering):
            handle = layer.register_forward_hook(
                lambda _, __, out: seen.update(h=out[0] if isinstance(out, tuple) else out)
            )
            run(hf, ids, attention_mask=mask)
            handle.remove()
        for row, tokens in enumerate(PROMPTS[:4]):
            states = seen["h"][row, LONGEST - len(tokens) + MATCHED[row] :]
            torch.testing.assert_close(states @ a, torch.full((len(states),), 9.0), rtol=0, atol=1e-3)
            is_set = (states @ b + 5).abs() < 1e-3
            assert bool(is_set.all()) == met[row]

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
    def test_gradients_reach_the_model_and_a_block_run_twice_is_read_once(self):
        hf, _ = tiny_model("llama", seed=0)
        gate = gate_between("llama", unit(seed=7))[0]
        ids, mask = padded("left")
        found = []
        for checkpointing in (False, True):
            hf.train()
            if checkpointing:
                hf.gradient_checkpointing_enable()
            with steer(hf, gated(gate)):
                hf(input_ids=ids, attention_mask=mask, use_cache=False).logits.square().mean().backward()
            found.append(hf.get_input_embeddings().weight.grad.clone())
            hf.zero_grad()
        torch.testing.assert_close(*found)
        assert found[0].abs().sum() > 0


class TestRefusals:
    @pytest.mark.parametrize(
        "site", [Site(READ - 1), Site(READ, "mlp_out"), Site(READ, "resid_pre"), Site(READ, "norm_out")]
    )
    def test_an_edit_before_the_reading(self, site):
        with pytest.raises(InputError, match=f"not known yet at {site}"):
            gated(PromptGate(unit(), READ, 0.0), site=site)

    @pytest.mark.parametrize("site", [Site(READ), Site(READ + 1, "resid_pre"), Site(READ + 1, "norm_out")])
    def test_an_edit_at_it_or_after_it_is_fine(self, site):
        gated(PromptGate(unit(), READ, 0.0), site=site)

    def test_a_condition_of_another_width(self):
        gate = PromptGate(torch.ones(32), READ, 0.0)
        with (
            pytest.raises(InputError, match="condition of width 32, the model's hidden size is 64"),
            steer(model_of("llama"), gated(gate)),
        ):
            pass
        edit = Edit(gated(gate).interventions[0], scales="strength")
        with pytest.raises(InputError, match="condition of width 32 does not fit hidden size 64"):
            SteeringVector("made", ModelCard("m", 64, 4), (edit,))


def test_a_saved_vector_does_the_same(tmp_path):
    hf, (ids, mask) = model_of("llama"), padded("left")
    gate = gate_between("llama", unit(seed=7))[0]
    edit = Edit(gated(gate).interventions[0], scales="strength")
    vector = SteeringVector("made", ModelCard("m", 64, 4, prefix_ids=PREFIX), (edit,))
    vector.save(tmp_path / "v")
    again = SteeringVector.load(tmp_path / "v")
    logits = []
    for found in (vector, again):
        with steer(hf, found):
            logits.append(run(hf, ids, attention_mask=mask))
    assert torch.equal(*logits)
    assert again.edits[0].intervention.gate.layer == READ
