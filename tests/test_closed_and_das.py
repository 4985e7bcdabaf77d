"""The methods beside CDAS: DAS's loss against autograd, DiffMean's vector against the definition."""

import math
from dataclasses import replace

import pytest
import torch

import trimtab as tt
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.fitting.divergence import cross_entropy
from trimtab.models import Model, capture, steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import Site

PAIRS = PairSet([ContrastPair(f"Shout {k}!", f"YES {k}", f"Say {k}.", f"no {k}") for k in range(6)])


@pytest.fixture(scope="module")
def model():
    hf, tokenizer = tiny_model("llama", hidden_size=16, n_blocks=4, seed=0)
    return Model(hf, tokenizer, name="tiny")


class TestCrossEntropy:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_value_and_gradient_are_autograds(self, dtype):
        logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
        labels = torch.tensor([0, 10, 3, 3, 5, 1, 2])
        found = cross_entropy(logits, labels)
        free = logits.float().requires_grad_()
        wanted = torch.nn.functional.cross_entropy(free, labels, reduction="none")
        (gradient,) = torch.autograd.grad(wanted.sum(), free)
        torch.testing.assert_close(found.value, wanted.detach())
        torch.testing.assert_close(found.gradient, gradient)
        assert found.value.dtype == torch.float32

    def test_tokens_ruled_out_do_no_harm(self):
        found = cross_entropy(torch.tensor([[0.0, -math.inf, 1.0]]), torch.tensor([2]))
        assert torch.isfinite(found.value).all()
        assert torch.isfinite(found.gradient).all()


class TestDAS:
    def test_its_loss_is_that_of_the_response_under_the_interchange(self, model, tmp_path):
        """First step, by hand: likelihood of each answer with the clamp at the source's own coordinate."""
        start = torch.randn(16, generator=torch.Generator().manual_seed(3)).numpy()
        order = torch.arange(6)[None].numpy()
        settings = {"layer": 1, "epochs": 1, "batch_size": 6, "init": start, "order": order, "calibrate": False}
        vector = tt.fit("das", model, PAIRS, trace=tmp_path / "t.npz", **settings)
        w = torch.tensor(start) / torch.tensor(start).norm()
        losses, counts = [], []
        for pair in PAIRS:
            sides = [(pair.negative_input, pair.positive_input, pair.positive_output),
                     (pair.positive_input, pair.negative_input, pair.negative_output)]  # fmt: skip
            for base, source, response in sides:
                base, source = model.chat.render(base), model.chat.render(source)
                ids = model.chat.response_ids(source, response)
                (seen,) = capture(model.hf, [source.ids], [Site(1)])
                value = seen[Site(1)][source.source_position].float() @ w
                clamp = replace(vector.edits[0].intervention.transform, directions=w[None], values=value[None])
                edit = replace(vector.edits[0].intervention, transform=clamp)
                steering = replace(vector.elicit(), interventions=(edit,))
                row = torch.tensor([[*base.ids, *ids]])
                with torch.no_grad(), steer(model.hf, steering, prompt_lengths=[len(base.ids)]):
                    logits = model.hf(input_ids=row).logits[0, len(base.ids) - 1 : -1].float()
                losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="sum")))
                counts.append(len(ids))
        first, second = (sum(losses[:6]) / sum(counts[:6]), sum(losses[6:]) / sum(counts[6:]))
        assert vector.provenance["training"]["loss_first"] == pytest.approx((first + second) / 2, rel=1e-4)

    def test_it_keeps_no_teacher(self, model):
        vector = tt.fit("das", model, PAIRS, layer=1, epochs=1, calibrate=False)
        assert vector.provenance["training"]["cache"]["teacher"] == "none"
        assert vector.method == "das"

    def test_every_cache_plan_gives_the_same(self, model):
        kept, fresh = (
            tt.fit("das", model, PAIRS, layer=1, epochs=2, cache_bytes=size, calibrate=False) for size in (2**30, 0)
        )
        ours, theirs = (vector.edits[0].intervention.transform.directions for vector in (kept, fresh))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


class TestDiffMean:
    def test_it_is_the_difference_of_the_means_behind_the_prefix(self, model):
        vector = tt.fit("diffmean", model, PAIRS, layer=2, calibrate=False)
        means = []
        for side in ("positive", "negative"):
            rows = []
            for pair in PAIRS:
                prompt = model.chat.render(getattr(pair, f"{side}_input"))
                ids = prompt.ids + model.chat.response_ids(prompt, getattr(pair, f"{side}_output"))
                rows.append(capture(model.hf, [ids], [Site(2)])[0][Site(2)][prompt.prefix_length :].double())
            means.append(torch.cat(rows).mean(dim=0))
        wanted = (means[0] - means[1]).float()
        torch.testing.assert_close(vector.edits[0].intervention.transform.vector, wanted)
        torch.testing.assert_close(vector.edits[1].intervention.transform.vector, -wanted)
        assert dict(vector.directions) == {"elicit": (0,), "suppress": (1,)}
        assert vector.elicit(2.0).interventions[0].strength == 2.0

    def test_it_survives_saving(self, model, tmp_path):
        vector = tt.fit("diffmean", model, PAIRS, layer=2, calibrate=False)
        vector.save(tmp_path / "v")
        assert tt.SteeringVector.load(tmp_path / "v").content_hash == vector.content_hash

    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet([]), {}, "no pairs"),
            (PAIRS, {"layer": 9}, "layer 9"),
            (PAIRS, {"trace": "t.npz"}, "not trained step by step"),
            (PairSet([ContrastPair("a", "b", "a", "b")]), {}, "same mean state"),
            (PAIRS, {"epochs": 3}, "epochs"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, model, pairs, given, said):
        with pytest.raises(InputError, match=said):
            tt.fit("diffmean", model, pairs, **{"layer": 1, "calibrate": False} | given)

    def test_a_steered_model_is_refused(self, model):
        vector = tt.fit("diffmean", model, PAIRS, layer=1, calibrate=False)
        with steer(model.hf, vector), pytest.raises(InputError, match="being steered"):
            tt.fit("diffmean", model, PAIRS, layer=1, calibrate=False)
