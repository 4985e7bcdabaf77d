"""`Model.generate`: a row's text is its own, in any batch and order; sampling draws from the softmax."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.families import MAIN, edit, normal, on_day, steering, tiny, unit
from trimtab.errors import InputError
from trimtab.models import Model, steer
from trimtab.models.sampling import RowSampling
from trimtab.models.tiny import tiny_model
from trimtab.steering import Add, Clamp, Edit, Factors, FactorStats, ModelCard, SteeringVector

PROMPTS = ["Hi", "Tell me a story about a dog", "The little girl played in the park all day", "Bye", "What is a tree?"]

MEDDLING = {
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 2,
    "guidance_scale": 2.0,
    "sequence_bias": [[[9], 50.0]],
    "bad_words_ids": [[7]],
    "suppress_tokens": [8],
    "begin_suppress_tokens": [9],
    "forced_eos_token_id": 5,
    "forced_bos_token_id": 6,
    "min_length": 600,
    "min_new_tokens": 500,
    "max_time": 1e-9,
    "exponential_decay_length_penalty": [1, 9.0],
    "stop_strings": ["a"],
    "renormalize_logits": True,
    "min_p": 0.9,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "penalty_alpha": 0.6,
    "remove_invalid_values": True,
    "token_healing": True,
    "dola_layers": "low",
    "do_sample": True,
    "prompt_lookup_num_tokens": 3,
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
}
"""Settings of generation that a model may bring: they look at pads, move logits, end a text or change its shape."""


@pytest.fixture(scope="module", params=MAIN)
def model(request):
    return Model(*tiny(request.param))


@pytest.fixture(scope="module")
def llama():
    return Model(*tiny("llama"))


def learned(model, positive=6.0, negative=-6.0, **settings):
    factors = Factors(FactorStats((positive,), (0.0,), 2), FactorStats((negative,), (0.0,), 2))
    card = settings.pop("card", None) or model.card()
    return SteeringVector("test", card, (Edit(edit(Clamp(unit(), torch.tensor(positive))), factors),), **settings)


def answers(model, prompts=PROMPTS, **settings):
    return model.generate(prompts, **{"max_new_tokens": 8, **settings})


class TestGreedy:
    def test_temperature_zero_is_transformers_greedy(self, model):
        for prompt, text in zip(PROMPTS, answers(model), strict=True):
            ids = torch.tensor([model.chat.render(prompt).ids])
            mask, settings = torch.ones_like(ids), {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
            out = model.hf.generate(ids, attention_mask=mask, **settings)
            assert text == model.chat.decode(out[0, ids.shape[1] :].tolist())

    @pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
    def test_the_same_in_any_batch_with_steerings_of_their_own(self, model, batch_size):
        vector = learned(model)
        rows = [vector.elicit(), None, vector.suppress(), vector, steering(Add(3 * normal(64)))]
        expected = [answers(model, [prompt], steering=row)[0] for prompt, row in zip(PROMPTS, rows, strict=True)]
        assert answers(model, steering=rows, batch_size=batch_size) == expected
        assert expected[1] == answers(model)[1]
        assert answers(model, PROMPTS[::-1], steering=rows[::-1], batch_size=batch_size) == expected[::-1]

    def test_one_entry_for_all(self, llama):
        vector = learned(llama)
        expected = answers(llama, steering=vector.elicit())
        assert answers(llama, steering=[vector.elicit()]) == expected
        assert answers(llama, steering=vector) == expected
        assert answers(llama, steering=[vector] * len(PROMPTS)) == expected
        assert expected != answers(llama)

    def test_system_and_raw(self, llama):
        (told,) = answers(llama, ["Hi"], system="Be brief.")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        assert answers(llama, [messages]) == [told]
        assert answers(llama, [llama.chat.render("Hi", system="Be brief.").text], raw=True) == [told]
        assert answers(llama, ["Hi"]) != [told]

    def test_a_template_prefix_is_left_alone(self, llama):
        """Steering that would edit only the prefix changes nothing."""
        prefix = llama.chat.prefix_ids
        only = steering(edit(Add(9 * normal(64)), 1, f"f{len(prefix)}"), prefix=prefix)
        (plain,) = answers(llama, [llama.tokenizer.decode(list(prefix))], raw=True)
        assert answers(llama, [llama.tokenizer.decode(list(prefix))], raw=True, steering=only) == [plain]

    def test_a_model_left_in_training_mode_answers_without_dropout_and_stays_there(self):
        hf, tokenizer = tiny_model("gpt2")
        model = Model(hf, tokenizer)
        expected = answers(model)
        hf.train()
        assert answers(model) == expected
        assert all(module.training for module in hf.modules())

    def test_settings_that_the_model_brings_for_sampling_do_not_count(self):
        hf, tokenizer = tiny_model("llama")
        model = Model(hf, tokenizer)
        expected = answers(model)
        hf.generation_config.update(do_sample=True, temperature=5.0, top_k=3, top_p=0.5, num_beams=1)
        before = copy.deepcopy(hf.generation_config.to_dict())
        assert answers(model) == expected
        assert hf.generation_config.to_dict() == before

    def test_nor_do_those_that_change_logits_or_the_shape_of_the_output(self):
        """Some look at pads, so a row would depend on its neighbours; all move sampling away from the softmax."""
        hf, tokenizer = tiny_model("llama")
        model = Model(hf, tokenizer)
        expected = [answers(model, temperature=temperature) for temperature in (0.0, 1.0)]
        hf.generation_config.update(**MEDDLING)
        assert [answers(model, temperature=temperature) for temperature in (0.0, 1.0)] == expected

    def test_progress_and_no_prompts(self, llama):
        seen = []
        texts = answers(llama, batch_size=2, progress=seen.append)
        columns = seen[-1].total // 3
        assert [step.done for step in seen] == sorted({step.done for step in seen})
        assert seen[-1].done == seen[-1].total == 3 * columns
        assert len(seen) > 3
        assert texts == answers(llama)
        assert answers(llama, []) == []


class TestSampling:
    def test_a_row_s_text_depends_on_its_seed_alone(self, model):
        vector = learned(model)
        rows = [None, vector.elicit(), None, vector.suppress(), None]
        together = answers(model, steering=rows, temperature=1.0, seed=7)
        assert together == answers(model, steering=rows, temperature=1.0, seed=7, batch_size=2)
        for k, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
            assert answers(model, [prompt], steering=row, temperature=1.0, seed=7 + k) == [together[k]]

    def test_other_seeds_give_other_texts(self, llama):
        texts = {answers(llama, ["Hi"], temperature=1.0, seed=seed)[0] for seed in range(6)}
        assert len(texts) == 6

    def test_the_global_generator_is_left_alone(self, llama):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        answers(llama, temperature=1.0)
        assert torch.equal(torch.rand(1), expected)

    def test_a_low_temperature_comes_to_greedy(self, llama):
        assert answers(llama, temperature=1e-4) == answers(llama)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_frequencies_match_the_softmax(self, temperature):
        """Chi-square of 20000 draws over 6 outcomes: 5 degrees of freedom, 99.99 % below 25.7; the seed is fixed."""
        logits, n = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf]), 20_000
        drawing = RowSampling(temperature, [5])
        counts = torch.zeros(6)
        for _ in range(n):
            counts[drawing(torch.zeros(1, 1), logits[None]).argmax()] += 1
        expected = n * torch.softmax(logits / temperature, dim=0)
        assert counts[5] == 0
        assert (counts - expected)[:5].pow(2).div(expected[:5]).sum() < 25.7

    def test_rows_draw_apart_and_steps_anew(self):
        scores = torch.zeros(2, 400)
        drawing, again = RowSampling(1.0, [1, 2]), RowSampling(1.0, [2])
        first, second = drawing(torch.zeros(2, 1), scores), drawing(torch.zeros(2, 1), scores)
        assert not torch.equal(first[0], first[1])
        assert not torch.equal(first, second)
        assert torch.equal(again(torch.zeros(1, 1), scores[:1])[0], first[1])
        assert first.dtype == torch.float32
        assert torch.isfinite(first).sum(dim=1).tolist() == [1, 1]

    def test_what_has_no_probability_is_never_drawn(self):
        """Not at the ends of the vocabulary either, where a uniform number of almost 0 or 1 would fall."""
        logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [-torch.inf, 3e38, -3e38]])
        for seed in range(200):
            for temperature in (1e-30, 1.0, 1e30):
                chosen = RowSampling(temperature, [seed, seed])(torch.zeros(2, 1), logits).argmax(dim=1)
                assert chosen.tolist()[0] == 1
                assert chosen.tolist()[1] in (1, 2)


class TestTemplatePrefix:
    DATED = (
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ '<|user|>' + m.content }}{% endfor %}"
    )

    def on(self, monkeypatch, day):
        on_day(monkeypatch, day)
        hf, tokenizer = tiny_model("llama")
        tokenizer.chat_template = self.DATED
        return Model(hf, tokenizer)

    def pushes(self, card):
        return SteeringVector("test", card, (Edit(edit(Add(9 * normal(64)), 1, "prompt"), None, "strength"),))

    @pytest.mark.parametrize("stored", ["undated_prefix_ids", "prefix_ids"])
    def test_a_vector_of_yesterday_spares_the_prefix_of_today(self, monkeypatch, stored):
        yesterday = self.on(monkeypatch, 21)
        vector = self.pushes(replace(yesterday.card(), prefix_ids=getattr(yesterday.chat, stored)))
        today = self.on(monkeypatch, 22)
        assert yesterday.chat.prefix_ids != today.chat.prefix_ids
        prefix = today.tokenizer.decode(list(today.chat.prefix_ids))
        (plain,) = answers(today, [prefix], raw=True)
        for row in (vector, vector.elicit(), vector.elicit() + vector.suppress()):
            assert answers(today, [prefix], raw=True, steering=row) == [plain]
            assert answers(today, [prefix + "x"], raw=True, steering=row) != answers(today, [prefix + "x"], raw=True)

    def test_a_card_has_no_date_in_it(self, monkeypatch):
        assert self.on(monkeypatch, 21).card() == self.on(monkeypatch, 22).card()


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"max_new_tokens": 0}, "max_new_tokens is 0"),
            ({"batch_size": 0}, "batch_size is 0"),
            ({"temperature": -1.0}, "temperature is -1.0"),
            ({"temperature": float("nan")}, "temperature is nan"),
            ({"steering": [None, None]}, "2 steerings for 5 prompts; give one entry a prompt, or one for all"),
            ({"steering": []}, "0 steerings for 5 prompts"),
            ({"steering": ["mood"] * 5}, "cannot steer with a str"),
            ({"max_new_tokens": 510}, "exceed the context of 512"),
            ({"raw": True, "system": "Be brief."}, "raw prompts are texts and take no system message"),
            ({"seed": 10**20, "temperature": 1.0}, r"seed is 10+; it must be a whole number from -2\*\*63 to"),
            ({"seed": -(10**20)}, "seed is -10+; it must be"),
            ({"system": "caf\udce9"}, "half of a surrogate pair"),
        ],
    )
    def test_in_one_line(self, llama, settings, message):
        with pytest.raises(InputError, match=message) as error:
            answers(llama, **settings)
        assert "\n" not in str(error.value)

    def test_one_text_is_no_list_of_prompts(self, llama):
        with pytest.raises(InputError, match=r"give a list of prompts, \[text\] for one"):
            answers(llama, "Hi")

    def test_a_vector_for_another_size_even_by_force(self, llama):
        card = ModelCard("other", 64, 6, prefix_ids=llama.chat.prefix_ids)
        for force in (False, True):
            with pytest.raises(InputError, match="made for 6 blocks, the model has 4"):
                answers(llama, steering=learned(llama, card=card), force=force)

    def test_another_prefix_only_by_force(self, llama):
        card = ModelCard("other", 64, 4, prefix_ids=(1, 2, 3))
        vector = learned(llama, card=card)
        for row in (vector, vector.elicit()):
            with pytest.raises(InputError, match=r"template prefix .*--force"):
                answers(llama, steering=row)
            assert len(answers(llama, steering=row, force=True)) == 5

    def test_another_template_only_by_force(self, llama):
        """Also where the prefix is the same, or was empty: what a vector knows goes with its steering."""
        for prefix in (llama.chat.prefix_ids, ()):
            vector = learned(llama, card=replace(llama.card(), prefix_ids=prefix, template_fingerprint="other"))
            for row in (vector, vector.elicit(), vector.at(6.0)):
                with pytest.raises(InputError, match=r"(template prefix|another chat template).*--force"):
                    answers(llama, steering=row)
                assert answers(llama, steering=row, force=True) == answers(llama, steering=learned(llama))

    def test_another_family_only_by_force(self, llama):
        vector = learned(llama, card=replace(llama.card(), model_type="mistral"))
        with pytest.raises(InputError, match=r"made for a mistral model, this one is llama; --force"):
            answers(llama, steering=vector)
        assert answers(llama, steering=vector, force=True) == answers(llama, steering=learned(llama))

    def test_inside_steer(self, llama):
        """Its own steering would not add up with the one around it, and None says plain, which it would not be."""
        vector = learned(llama)
        for row in (vector, None):
            with steer(llama.hf, vector), pytest.raises(InputError, match="steered already"):
                answers(llama, steering=row)
