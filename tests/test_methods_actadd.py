"""ActAdd on a tiny model: each token gets the difference of its own place, and no other."""

import pytest
import torch

import trimtab as tt
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.models import Model, capture, steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import Site

PAIRS = PairSet([ContrastPair(f"Shout {k}!", f"YES {k}", f"Say {k}.", f"no {k}") for k in range(10)])


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    hf, tokenizer = tiny_model(request.param, hidden_size=16, n_blocks=4, seed=0)
    return Model(hf, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def base_model():
    """One without a chat template: a prompt is its text, behind BOS."""
    hf, tokenizer = tiny_model("llama", hidden_size=16, n_blocks=4, seed=0)
    tokenizer.chat_template = None
    return Model(hf, tokenizer, name="tiny")


class TestActAdd:
    def shown(self, model, prompt, steering, answer=(40, 41)):
        """States (s, d) at block 1, plain and steered."""
        ids = [*prompt.ids, *answer]
        plain = capture(model.hf, [ids], [Site(1)])[0][Site(1)]
        with steer(model.hf, steering, prompt_lengths=[len(prompt.ids)]):
            return plain, capture(model.hf, [ids], [Site(1)])[0][Site(1)]

    @pytest.mark.parametrize(("positive", "negative"), [("Love", "Hate you all"), ("I go there now", "No")])
    @pytest.mark.parametrize(("direction", "multiplier"), [("elicit", 1.0), ("elicit", 3.0), ("suppress", 2.0)])
    def test_each_token_gets_its_own_difference(self, model, positive, negative, direction, multiplier):
        vector = tt.fit(
            "actadd", model, PAIRS, layer=1, positive=positive, negative=negative, calibrate=False
        )  # fmt: skip
        prefix = model.chat.prefix_ids
        space = model.tokenizer(" ", add_special_tokens=False)["input_ids"]
        sides = [tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (positive, negative)]
        t = max(map(len, sides))
        rows = [[*prefix, *side, *(space * (t - len(side)))] for side in sides]
        up, down = (seen[Site(1)].float()[len(prefix) :] for seen in capture(model.hf, rows, [Site(1)]))
        prompt = model.chat.render("Please tell me a long story about a brave little mouse.")
        plain, steered = self.shown(model, prompt, vector.steering(direction, multiplier))
        wanted = plain.clone()
        sign = 1 if direction == "elicit" else -1
        wanted[len(prefix) : len(prefix) + t] += sign * multiplier * (up - down)
        torch.testing.assert_close(steered, wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(steered[len(prefix) + t :], plain[len(prefix) + t :])
        assert torch.equal(steered[: len(prefix)], plain[: len(prefix)])

    def test_a_prompt_that_is_shorter_is_edited_as_far_as_it_goes(self, model):
        vector = tt.fit(
            "actadd", model, PAIRS, layer=1, positive="good " * 30, negative="bad " * 30, calibrate=False
        )  # fmt: skip
        prompt = model.chat.render("Hi")
        plain, steered = self.shown(model, prompt, vector.elicit())
        assert not torch.equal(steered[len(prompt.ids) - 1], plain[len(prompt.ids) - 1])
        assert torch.equal(steered[len(prompt.ids) :], plain[len(prompt.ids) :])

    def test_its_texts_are_the_first_pairs_unless_they_are_given(self, model):
        vector = tt.fit("actadd", model, PAIRS, layer=1, calibrate=False)
        assert (vector.settings["positive"], vector.settings["negative"]) == ("Shout 0!", "Say 0.")
        turns = [{"role": "system", "content": "Be loud."}, {"role": "user", "content": "Hi"}]
        several = PairSet([ContrastPair(turns, "YES", turns[1:], "no")])
        assert tt.fit("actadd", model, several, layer=1, calibrate=False).settings["positive"] == "Be loud.\nHi"

    @pytest.mark.parametrize(
        ("pairs", "settings", "said"),
        [
            (PAIRS, {"positive": "a"}, "give two texts"),
            (PAIRS, {"positive": "a", "negative": "a"}, "same tokens"),
            (PAIRS, {"positions": "last"}, "leave positions out"),
            (PAIRS, {"reading": "last"}, "leave reading out"),
            (PAIRS, {"positive": "a", "negative": "long " * 5000}, "tokens and the model takes"),
            (PairSet([]), {}, "no pairs"),
            (PAIRS, {"layer": 9}, "layer 9"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, model, pairs, settings, said):
        with pytest.raises(InputError, match=said):
            tt.fit("actadd", model, pairs, **{"layer": 1, "calibrate": False} | settings)

    def test_a_steered_model_is_refused(self, model):
        vector = tt.fit("caa", model, PAIRS, layer=1, calibrate=False)
        with steer(model.hf, vector), pytest.raises(InputError, match="being steered"):
            tt.fit("actadd", model, PAIRS, layer=1, calibrate=False)

    def test_a_base_models_texts_are_all_of_its_prompt_behind_bos(self, base_model):
        text = "The sea is wide."
        vector = tt.fit("actadd", base_model, PAIRS, layer=1, positive=text, negative="", calibrate=False)
        ids = base_model.chat.render(text).ids
        assert vector.provenance["training"]["positive_tokens"] == len(ids) - len(base_model.chat.prefix_ids)
        space = base_model.tokenizer(" ", add_special_tokens=False)["input_ids"][0]
        padded = [*base_model.chat.prefix_ids, *[space] * (len(ids) - len(base_model.chat.prefix_ids))]
        up, down = (seen[Site(1)].float() for seen in capture(base_model.hf, [[*ids], padded], [Site(1)]))
        prompt = base_model.chat.render(text)
        plain, steered = self.shown(base_model, prompt, vector.suppress())
        torch.testing.assert_close(steered[: len(ids)], plain[: len(ids)] - (up - down), rtol=1e-5, atol=1e-5)

    def test_it_survives_saving(self, model, tmp_path):
        vector = tt.fit("actadd", model, PAIRS, layer=1, calibrate=False)
        vector.save(tmp_path / "v")
        assert tt.SteeringVector.load(tmp_path / "v").content_hash == vector.content_hash
