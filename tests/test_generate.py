"""`Model.generate`: a row's text is its own, in any batch and order; sampling draws from the softmax."""

import copy

import pytest
import torch

from tests.families import MAIN, edit, normal, steering, tiny, unit
from trimtab.errors import InputError
from trimtab.models import Model, steer
from trimtab.models.sampling import GumbelSampling
from trimtab.models.tiny import tiny_model
from trimtab.steering import Add, Clamp, Edit, Factors, FactorStats, ModelCard, SteeringVector

PROMPTS = ["Hi", "Tell me a story about a dog", "The little girl played in the park all day", "Bye", "What is a tree?"]


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
        noise = GumbelSampling(temperature, [5])
        counts = torch.zeros(6)
        for _ in range(n):
            counts[noise(torch.zeros(1, 1), logits[None]).argmax()] += 1
        expected = n * torch.softmax(logits / temperature, dim=0)
        assert counts[5] == 0
        assert (counts - expected)[:5].pow(2).div(expected[:5]).sum() < 25.7

    def test_rows_draw_apart_and_steps_anew(self):
        scores = torch.zeros(2, 400)
        noise, again = GumbelSampling(1.0, [1, 2]), GumbelSampling(1.0, [2])
        first, second = noise(torch.zeros(2, 1), scores), noise(torch.zeros(2, 1), scores)
        assert not torch.equal(first[0], first[1])
        assert not torch.equal(first, second)
        assert torch.equal(again(torch.zeros(1, 1), scores[:1])[0], first[1])
        assert first.dtype == torch.float32
        assert torch.isfinite(first).all()


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

    def test_inside_steer(self, llama):
        """Its own steering would not add up with the one around it, and None says plain, which it would not be."""
        vector = learned(llama)
        for row in (vector, None):
            with steer(llama.hf, vector), pytest.raises(InputError, match="steered already"):
                answers(llama, steering=row)
