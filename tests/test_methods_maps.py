"""Maps, rotations and gates: closed forms against their definitions, training against closed forms, planted toys."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab as tt
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting.gating import (
    best_threshold,
    component_probe,
    components,
    condition_direction,
    held_out_accuracy,
)
from trimtab.fitting.lineas import Schedule, TrainedMaps, group_shrink, soft_threshold, train_maps, wasserstein
from trimtab.fitting.logistic import fit_probe
from trimtab.fitting.norm_sites import places
from trimtab.fitting.planes import agreed_plane, agreeing, angles, candidates, mean_angle
from trimtab.fitting.states import ClassStates
from trimtab.fitting.transport import gaussian_map, linear_map, mean_map, quantiles
from trimtab.methods.cast import fit_condition
from trimtab.methods.dsas import DsasSettings, layer_probes, probe_gate
from trimtab.methods.selective import SelectiveSettings, kept_sites
from trimtab.models import Model, capture, steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import Add, Affine, Intervention, Site, SiteEdit, Steering

PAIRS = PairSet([ContrastPair(f"Shout {k}!", f"YES {k}", f"Say {k}.", f"no {k}") for k in range(8)])
MAPS = ("linear-act", "lineas", "angular", "selective", "dsas", "cast")
SMALL = {
    "linear-act": {"layer": 1},
    "lineas": {"layers": (1, 2), "steps": 3},
    "angular": {},
    "selective": {"centre": "midpoint"},
    "dsas": {"layer": 1, "accuracy": 0.5},
    "cast": {"layer": 2},
}

many = settings(max_examples=40)
seeds = st.integers(0, 2**31 - 1)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(seed, d):
    return torch.nn.functional.normalize(random(seed, d), dim=0)


def states(positive, negative, site=0):
    where = site if isinstance(site, Site) else Site(site)
    return ClassStates(
        where,
        positive.float(),
        negative.float(),
        positive.double().mean(dim=0).float(),
        negative.double().mean(dim=0).float(),
    )


@pytest.fixture(scope="module")
def model():
    hf, tokenizer = tiny_model("llama", hidden_size=16, n_blocks=4, seed=0)
    return Model(hf, tokenizer, name="tiny")


def fit(name, model, pairs=PAIRS, **given):
    return tt.fit(name, model, pairs, calibrate=False, **SMALL[name] | given)


class TestClosedFormMaps:
    @many
    @given(seeds, st.integers(2, 30), st.integers(1, 6))
    def test_linear_is_least_squares_on_the_sorted_pairs(self, seed, n, d):
        u, w = random(seed, n, d) * 3 + 1, random(seed + 1, n, d) - 2
        found = linear_map(u, w)
        for j in range(d):
            a = torch.stack([u[:, j].sort().values, torch.ones(n).double()], dim=1)
            wanted = torch.linalg.lstsq(a, w[:, j].sort().values[:, None]).solution[:, 0]
            assert found.weight[j] == pytest.approx(float(wanted[0]), rel=1e-6, abs=1e-8)
            assert found.bias[j] == pytest.approx(float(wanted[1]), rel=1e-6, abs=1e-8)
        assert (found.weight >= 0).all()

    @many
    @given(seeds, st.integers(2, 30), st.integers(2, 30))
    def test_gaussian_brings_means_and_deviations_over_and_mean_the_means(self, seed, n, m):
        u, w = random(seed, n, 4) * 3 + 1, random(seed + 1, m, 4) - 2
        moved = gaussian_map(u, w)(u)
        assert torch.allclose(moved.mean(dim=0), w.mean(dim=0))
        assert torch.allclose(moved.std(dim=0), w.std(dim=0) * math.sqrt((m - 1) / m * n / (n - 1)))
        assert torch.allclose(mean_map(u, w)(u) - u, (w.mean(dim=0) - u.mean(dim=0)).expand_as(u))

    def test_an_exact_map_is_found_whatever_the_order(self):
        u, slope, shift = random(0, 40, 5), random(1, 5).abs() + 0.1, random(2, 5)
        w = (u * slope + shift)[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
        for fitted in (linear_map, gaussian_map):
            found = fitted(u, w)
            assert torch.allclose(found.weight, slope)
            assert torch.allclose(found.bias, shift)

    def test_a_constant_feature_is_moved_and_not_scaled(self):
        u, w = random(0, 10, 2), random(1, 10, 2)
        u[:, 1] = 7.0
        for fitted in (linear_map, gaussian_map):
            found = fitted(u, w)
            assert found.weight[1] == 1.0
            assert found.bias[1] == pytest.approx(float(w[:, 1].mean()) - 7.0)

    @many
    @given(seeds, st.integers(1, 12), st.integers(1, 12))
    def test_quantiles(self, seed, n, k):
        x = random(seed, n, 3)
        found = quantiles(x, k)
        assert found.shape == (k, 3)
        assert (found.diff(dim=0) >= 0).all()
        assert torch.equal(quantiles(x, n), x.sort(dim=0).values)
        assert (found >= x.amin(dim=0)).all()
        assert (found <= x.amax(dim=0)).all()
        assert torch.allclose(found + found.flip(0), 2 * found.mean(dim=0), atol=10)  # finite


class TestLinearAct:
    def test_one_layer_is_the_closed_form_in_both_directions(self, model):
        vector = fit("linear-act", model)
        rows = {}
        for side in ("positive", "negative"):
            found = []
            for pair in PAIRS:
                prompt = model.chat.render(getattr(pair, f"{side}_input"))
                ids = prompt.ids + model.chat.response_ids(prompt, getattr(pair, f"{side}_output"))
                found.append(capture(model.hf, [ids], [Site(1)])[0][Site(1)][prompt.prefix_length :].mean(dim=0))
            rows[side] = torch.stack(found)
        for edit, source, target in zip(vector.edits, ("negative", "positive"), ("positive", "negative"), strict=True):
            wanted = linear_map(rows[source], rows[target])
            torch.testing.assert_close(edit.intervention.transform.weight, wanted.weight.float(), rtol=1e-2, atol=1e-3)
            torch.testing.assert_close(edit.intervention.transform.bias, wanted.bias.float(), rtol=1e-2, atol=1e-3)
        assert dict(vector.directions) == {"elicit": (0,), "suppress": (1,)}

    def test_the_multiplier_interpolates(self, model):
        vector = fit("linear-act", model)
        assert vector.elicit(0.25).interventions[0].strength == 0.25
        h = random(0, 1, 3, 16).float()
        t = vector.edits[0].intervention.transform
        edit = SiteEdit.build(vector.elicit(0.25).interventions, h.device)
        torch.testing.assert_close(edit(h, [None]), 0.25 * t(h) + 0.75 * h)

    def test_a_later_layer_is_learnt_behind_those_before_it(self, model):
        """With the first map at work, mean-AcT's second one brings the means that are left over together."""
        vector = fit("linear-act", model, layer=(1, 3), map="mean")
        first, second = (vector.edits[k].intervention for k in (0, 1))
        assert [first.site, second.site] == [Site(1), Site(3)]
        got = {"negative": [], "positive": []}
        for pair in PAIRS:
            for side, found in got.items():
                prompt = model.chat.render(getattr(pair, f"{side}_input"))
                ids = prompt.ids + model.chat.response_ids(prompt, getattr(pair, f"{side}_output"))
                what = Steering((first,), model.card().prefix_ids) if side == "negative" else None
                with steer(model.hf, what):
                    seen = capture(model.hf, [ids], [Site(3)])[0][Site(3)]
                found.append(seen[prompt.prefix_length :].mean(dim=0))
        gap = torch.stack(got["positive"]).mean(dim=0) - torch.stack(got["negative"]).mean(dim=0)
        torch.testing.assert_close(second.transform.bias, gap, rtol=1e-3, atol=1e-4)
        alone = fit("linear-act", model, layer=3, map="mean").edits[0].intervention.transform.bias
        assert (alone - second.transform.bias).norm() > 0.1 * alone.norm()

    def test_norms_of_all_named_blocks(self, model):
        vector = fit("linear-act", model, layer=(0, 1), sites="norm_out", map="mean")
        sites = [Site(layer, "norm_out", part=part) for layer in (0, 1) for part in (0, 1)]
        assert [edit.intervention.site for edit in vector.edits] == sites * 2

    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet(list(PAIRS)[:1]), {}, "1 row of negative states at resid_post@1 has no spread"),
            (PairSet([PAIRS[0]] * 3), {}, "all 3 rows of negative states at resid_post@1 are the same"),
            (PAIRS, {"map": "cubic"}, "map is 'cubic'; allowed: linear, gaussian, mean"),
            (PAIRS, {"sites": "attn"}, "sites is 'attn'"),
            (PAIRS, {"layer": (1, 1)}, "each once"),
            (PAIRS, {"layer": (1, 9)}, "layer 9"),
        ],
    )
    def test_refusals(self, model, pairs, given, said):
        with pytest.raises(InputError, match=said):
            fit("linear-act", model, pairs, **given)

    def test_one_pair_can_still_be_moved(self, model):
        assert fit("linear-act", model, PairSet(list(PAIRS)[:1]), map="mean").edits


def affine_run(x):
    """One site: rows of x as the map changes them."""
    return lambda rows, delta, bias: [x[rows] * (1 + delta[0]) + bias[0]]


def learned(run, x, targets, seed=0, **given):
    plan = {"steps": 600, "lr": 0.05, "batch": 10_000} | given
    return train_maps(run, len(x), targets, Schedule(**plan), torch.Generator().manual_seed(seed))


class TestLineas:
    @many
    @given(seeds, st.integers(1, 20), st.integers(1, 20))
    def test_the_loss_does_not_know_the_order_of_samples(self, seed, n, m):
        u, w = random(seed, n, 3), random(seed + 1, m, 3)
        shuffled = [x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))] for x in (u, w)]
        assert torch.allclose(wasserstein(u, w), wasserstein(*shuffled))
        assert float(wasserstein(u, u)) == 0
        if n == m == 5:  # the best of all pairings
            best = sum(
                min(float(((u[list(p), j] - w[:, j]) ** 2).mean()) for p in itertools.permutations(range(5)))
                for j in range(3)
            )
            assert float(wasserstein(u, w)) == pytest.approx(best)

    def test_the_loss_is_that_of_the_best_pairing(self):
        u, w = random(1, 5, 1), random(2, 5, 1)
        best = min(float(((u[list(p)] - w) ** 2).mean()) for p in itertools.permutations(range(5)))
        assert float(wasserstein(u, w)) == pytest.approx(best)

    @many
    @given(st.floats(-3, 3), st.floats(0, 2))
    def test_the_soft_threshold_minimises(self, x, by):
        grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
        brute = grid[(0.5 * (grid - x) ** 2 + by * grid.abs()).argmin()]
        assert float(soft_threshold(torch.tensor(x, dtype=torch.float64), by)) == pytest.approx(float(brute), abs=2e-4)

    @many
    @given(seeds, st.floats(0, 3))
    def test_the_group_shrink_minimises(self, seed, by):
        x = random(seed, 1, 2)
        found = group_shrink(x, by)

        def cost(y):
            return 0.5 * ((y - x) ** 2).sum(dim=-1) + by * y.norm(dim=-1)

        around = found + 0.05 * random(seed + 1, 2000, 2)
        assert (cost(around) >= cost(found) - 1e-9).all()
        lengths = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
        assert float(cost(found)) <= float(cost(lengths * x).min()) + 1e-9

    def test_one_gaussian_site_is_the_closed_form(self):
        x, target = (random(0, 400, 3) * 2 + 0.2).float(), (random(1, 400, 3) * 0.7 - 0.5).float()
        found = learned(affine_run(x), x, [target], steps=400)
        for closed in (linear_map(x, target), gaussian_map(x, target)):
            torch.testing.assert_close(1 + found.delta[0], closed.weight.float(), rtol=0, atol=0.02)
            torch.testing.assert_close(found.bias[0], closed.bias.float(), rtol=0, atol=0.05)
        expected = target.mean(dim=0) - (1 + found.delta[0]) * x.mean(dim=0)
        torch.testing.assert_close(found.bias[0], expected, rtol=0, atol=0.02)

    def test_means_far_apart_may_lead_to_the_mirrored_map(self):
        """The loss sorts what comes out, so that of symmetric features -s2 / s1 is as good as s2 / s1."""
        x, target = (random(0, 400, 1) * 2 + 1).float(), (random(1, 400, 1) * 0.7 - 3).float()
        found = learned(affine_run(x), x, [target], steps=400)
        assert 1 + float(found.delta[0]) == pytest.approx(-0.35, abs=0.03)
        assert found.losses[-1] < 0.02

    def test_a_large_penalty_leaves_the_identity_exactly(self):
        x, target = random(0, 50, 4).float(), (random(1, 50, 4) + 5).float()
        for plan in ({"l1": 1e4}, {"group": 1e4}, {"l1": 1e4, "optimiser": "sgd", "lr": 0.01}):
            found = learned(affine_run(x), x, [target], steps=30, **plan)
            assert not found.delta.any()
            assert not found.bias.any()
            assert not found.support.any()

    def test_a_penalty_keeps_the_features_that_need_it_and_refitting_undoes_the_rest(self):
        x = random(0, 200, 4).float()
        x = x - x.mean(dim=0)
        target = x.clone()
        target[:, 2] += 4
        schedule = {"steps": 200, "lr": 0.1, "optimiser": "sgd"}
        found = learned(affine_run(x), x, [target], l1=0.5, **schedule)
        assert found.support[0].tolist() == [False, False, True, False]
        assert found.bias[0, 2] == pytest.approx(4 - 0.25, abs=1e-3)  # 2 (b - 4) + l1 = 0
        plan, generator = Schedule(batch=200, **schedule), torch.Generator()
        again = train_maps(affine_run(x), 200, [target], plan, generator, support=found.support, start=found)
        assert again.bias[0, 2] == pytest.approx(4, abs=1e-3)
        assert again.support[0].tolist() == [False, False, True, False]

    def test_together_beats_one_after_the_other_on_the_whole(self):
        """A chain whose first site is easy to match alone, which spoils the second: a map on site 1 reaches site 2."""
        x = random(0, 256, 2).float()

        def between(h):
            return 4 * torch.stack([h[:, 0] * h[:, 1], h[:, 1] + 0.5 * h[:, 0] ** 2], dim=1)

        def run(rows, delta, bias):
            first = x[rows] * (1 + delta[0]) + bias[0]
            return [first, between(first) * (1 + delta[1]) + bias[1]]

        y = (random(1, 256, 2) @ torch.tensor([[1.5, 0.9], [0.0, 0.6]]).double() + 1).float()
        targets = [y, between(y)]
        first = linear_map(x, targets[0])
        second = linear_map(between(first(x)), targets[1])
        delta = torch.stack([first.weight - 1, second.weight - 1]).float()
        bias = torch.stack([first.bias, second.bias]).float()

        def loss(delta, bias):
            read = run(torch.arange(256), delta, bias)
            return float(sum(wasserstein(u, w) for u, w in zip(read, targets, strict=True))) / 2

        joint = learned(run, x, targets, steps=300)
        assert loss(joint.delta, joint.bias) < 0.95 * loss(delta, bias)

    def test_batches_come_from_the_generator(self):
        x, target = random(0, 40, 3).float(), (random(1, 30, 3) + 1).float()
        runs = [learned(affine_run(x), x, [target], seed, steps=20, batch=8) for seed in (1, 1, 2)]
        assert torch.equal(runs[0].bias, runs[1].bias)
        assert not torch.equal(runs[0].bias, runs[2].bias)

    def test_the_models_own_forward_is_what_the_edits_do(self, model):
        """The loss that training saw last is that of the vector at work in `steer`."""
        vector = fit("lineas", model, steps=1, batch_size=8, lr=1e-9)
        read = []
        for pair in PAIRS:
            prompt = model.chat.render(pair.negative_input)
            ids = prompt.ids + model.chat.response_ids(prompt, pair.negative_output)
            edits = Steering(vector.elicit().interventions, model.card().prefix_ids)
            sites = [i.site for i in edits.interventions]
            with steer(model.hf, edits):
                seen = capture(model.hf, [ids], sites)[0]
            read.append([seen[site][prompt.prefix_length :].mean(dim=0) for site in sites])
        targets = []
        for pair in PAIRS:
            prompt = model.chat.render(pair.positive_input)
            ids = prompt.ids + model.chat.response_ids(prompt, pair.positive_output)
            seen = capture(model.hf, [ids], sites)[0]
            targets.append([seen[site][prompt.prefix_length :].mean(dim=0) for site in sites])
        losses = [
            float(wasserstein(torch.stack([r[k] for r in read]), torch.stack([t[k] for t in targets])))
            for k in range(len(sites))
        ]
        found = vector.provenance["training"]["loss_last"]["elicit"]
        assert found == pytest.approx(sum(losses) / len(losses), rel=1e-3)

    def test_it_lowers_the_loss_and_s_0_is_the_identity(self, model):
        vector = fit("lineas", model, steps=40, lr=0.05)
        told = vector.provenance["training"]
        for way in ("elicit", "suppress"):
            assert told["loss_last"][way] < 0.5 * told["loss_first"][way]
        assert [str(e.intervention.site) for e in vector.edits[:4]] == [
            "norm_out@1",
            "norm_out.1@1",
            "norm_out@2",
            "norm_out.1@2",
        ]
        ids = torch.tensor([model.chat.render("Say 3.").ids])
        plain = model.hf(ids).logits
        with steer(model.hf, vector.elicit(0.0)):
            assert torch.equal(model.hf(ids).logits, plain)
        assert all(parameter.requires_grad for parameter in model.hf.parameters())

    def test_a_fit_that_diverges_says_so(self, model):
        with pytest.raises(FitDivergedError, match="lower lr"):
            fit("lineas", model, steps=30, lr=1e6, optimiser="sgd", sites="resid_post")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"reading": "tokens"}, "one state a row"),
            ({"optimiser": "lion"}, "optimiser is 'lion'"),
            ({"layers": "1;2"}, "name block numbers"),
            ({"l1": -1}, "l1"),
            ({"layers": 9}, "layer 9"),
        ],
    )
    def test_refusals(self, model, given, said):
        with pytest.raises(InputError, match=said):
            fit("lineas", model, **given)

    def test_layers_as_the_command_line_gives_them(self, model):
        vector = fit("lineas", model, layers="2,1", steps=1, sites="resid_post")
        assert [e.intervention.site for e in vector.edits] == [Site(1), Site(2)] * 2

    def test_refitting_keeps_the_support(self, model):
        vector = fit("lineas", model, steps=10, l1=0.8, refit=True, lr=0.05)
        share = vector.provenance["training"]["support"]["elicit"]
        assert 0 < share < 1


class TestPlanes:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_outlier_is_never_the_one_that_agrees(self, seed):
        base, outlier = unit(seed, 32), unit(seed + 100, 32)
        rows = torch.nn.functional.normalize(base + 0.1 * random(seed + 1, 6, 32), dim=1)
        rows = torch.cat([rows[:3], outlier[None], rows[3:]])
        assert agreeing(rows) != 3
        plane = agreed_plane(rows)
        assert torch.allclose(plane @ plane.T, torch.eye(2).double(), atol=1e-12)
        assert abs(float(plane[0] @ base)) > 0.8
        assert float(rows.mean(dim=0) @ plane[1]) >= 0

    def test_the_second_axis_is_the_first_principal_component(self):
        rows = torch.tensor([[1.0, 0, 0], [1.0, 0.5, 0.01], [1.0, -0.4, 0]]).double()
        rows = torch.nn.functional.normalize(rows, dim=1)
        plane = agreed_plane(rows)
        assert plane[0].tolist() == rows[0].tolist()
        assert abs(float(plane[1, 1])) > 0.999

    @pytest.mark.parametrize("rows", [torch.eye(4)[:1], torch.eye(4)[:1].expand(3, 4)])
    def test_directions_that_span_no_plane(self, rows):
        with pytest.raises(InputError, match=f"directions of {len(rows)} sites are all alike"):
            agreed_plane(rows.double())

    def test_sites_without_a_difference_have_no_candidate(self):
        x = random(0, 5, 8)
        here = [states(x, x), states(x + 1, x), states(x - 2, x)]
        units, where = candidates(here)
        assert where == [1, 2]
        assert torch.allclose(units[0], -units[1], atol=1e-6)
        with pytest.raises(InputError, match="same mean state at all 1 sites"):
            candidates(here[:1])

    def test_angles_and_their_mean(self):
        plane = torch.eye(3)[:2]
        found = angles(torch.tensor([[0.0, 2.0, 5.0], [-1.0, 0.0, 1.0]]), plane)
        assert torch.allclose(found, torch.tensor([math.pi / 2, math.pi]).double())
        assert mean_angle(torch.tensor([math.pi - 0.1, -math.pi + 0.1])) == pytest.approx(math.pi, abs=1e-6)


class TestSelector:
    def planted(self, shift=0.0):
        """Four sites: the classes on opposite sides of an axis at 1 and 3, both on one side at 0 and 2."""
        axis, found = unit(0, 16), []
        for site, (p, n) in enumerate([(3.0, 1.0), (2.0, -2.0), (-1.0, -3.0), (0.5, -4.0)]):
            rows = 0.05 * random(site, 40, 16) + shift * axis
            found.append(states(rows[:20] + p * axis, rows[20:] + n * axis, site))
        return axis, found

    def chosen(self, axis, found, **given):
        return [site.layer for site in kept_sites(found, axis, SelectiveSettings(**given))]

    def test_planted_layers_are_chosen_and_others_are_not(self):
        assert self.chosen(*self.planted()) == [1, 3]
        assert self.chosen(*self.planted(), projections="normalised") == [1, 3]

    def test_a_shared_offset_leaves_none_and_centring_brings_them_back(self):
        with pytest.raises(InputError, match=r"same side .* at all 4 sites.*centre='midpoint'"):
            self.chosen(*self.planted(10.0))
        assert self.chosen(*self.planted(10.0), centre="midpoint") == [0, 1, 2, 3]

    def test_neutral_means_are_taken_off(self):
        axis, found = self.planted(10.0)
        centres = {here.site: (10 * axis).float() for here in found}
        kept = kept_sites(found, axis, SelectiveSettings(centre="neutral", neutral="x"), centres)
        assert [site.layer for site in kept] == [1, 3]

    def test_whole_blocks(self):
        axis, found = self.planted()
        sites = [Site(0, "norm_out"), Site(1, "norm_out"), Site(0, "norm_out", part=1), Site(1, "norm_out", part=1)]
        moved = [states(here.positive, here.negative, site) for here, site in zip(found, sites, strict=True)]
        assert kept_sites(moved, axis, SelectiveSettings()) == [sites[1], sites[3]]
        assert kept_sites(moved, axis, SelectiveSettings(whole_blocks=True)) == [sites[1], sites[3]]
        moved[3] = states(moved[3].positive + 10 * axis, moved[3].negative + 10 * axis, sites[3])
        assert kept_sites(moved, axis, SelectiveSettings()) == [sites[1]]
        with pytest.raises(InputError, match="same side"):
            kept_sites(moved, axis, SelectiveSettings(whole_blocks=True))

    def test_neutral_needs_prompts(self):
        for wrong in ({"centre": "neutral"}, {"neutral": "sea"}, {"centre": "middle"}):
            with pytest.raises(InputError, match="centre is"):
                SelectiveSettings(**wrong)


class TestRotations:
    def test_angular_turns_every_norm_to_the_wanted_class(self, model):
        vector = fit("angular", model)
        assert len(vector.directions["elicit"]) == len(vector.directions["suppress"]) == 8
        elicit, suppress = (vector.steering(way, 1.0).interventions[0].transform for way in ("elicit", "suppress"))
        assert torch.equal(elicit.plane[0], -suppress.plane[0])
        assert torch.equal(elicit.plane[1], suppress.plane[1])
        assert vector.steering("elicit", 2.0).interventions[0].transform.angle == pytest.approx(2 * elicit.angle)
        assert vector.edits[0].scales == "transform"

    def test_more_brings_the_concept_nearer(self, model):
        """180 degrees are straight towards the concept's direction to elicit, and straight away to suppress."""
        vector = fit("angular", model, angle=180.0)
        h = random(3, 5, 16).float()
        b1 = vector.edits[-1].intervention.transform.plane[0]
        for way, sign in (("elicit", 1), ("suppress", -1)):
            along = [
                vector.steering(way, m).interventions[0].transform(h) @ b1 * sign for m in (0.0, 0.25, 0.5, 0.75, 1.0)
            ]
            assert (torch.stack(along).diff(dim=0) > 0).all()

    def test_the_gate_is_open_where_the_direction_leads_away_from(self, model):
        vector = fit("angular", model, adaptive=True)
        plain = fit("angular", model)
        assert torch.equal(vector.edits[0].intervention.transform.plane, plain.edits[0].intervention.transform.plane)
        b1 = vector.edits[-1].intervention.transform.plane[0]
        h = random(0, 1, 30, 16).float()
        for way, sign in (("elicit", -1), ("suppress", 1)):
            intervention = vector.steering(way, 1.0).interventions[0]
            out = SiteEdit.build([intervention], h.device)(h, [None])
            assert ((out != h).any(dim=-1) == (sign * (h @ b1) > 0)).all()

    def test_selective_turns_by_the_angle_between_the_classes(self, model):
        vector = fit("selective", model)
        elicit, suppress = (vector.steering(way, 1.0).interventions[0].transform for way in ("elicit", "suppress"))
        assert elicit.angle == -suppress.angle
        assert elicit.kind == "rotate_by"
        h = random(3, 5, 16).float()
        torch.testing.assert_close(suppress(elicit(h)), h)
        assert vector.provenance["training"]["of"] == 8
        assert fit("selective", model, angle=90.0).edits[0].intervention.transform.angle == pytest.approx(math.pi / 2)

    def test_a_family_without_norms_at_the_entrance(self):
        hf, tokenizer = tiny_model("olmo2", hidden_size=16, n_blocks=3, seed=0)
        other = Model(hf, tokenizer, name="tiny")
        vector = fit("angular", other)
        assert [edit.intervention.site for edit in vector.edits] == [Site(0), Site(1), Site(2)] * 2
        assert "block outputs instead of norms" in vector.provenance["training"]["sites"]
        sites, reason = places(other, "resid_post", [1])
        assert (sites, reason) == ((Site(1),), "")

    @pytest.mark.parametrize("family", ["gpt2", "falcon", "opt"])
    def test_sites_are_the_norms_that_a_family_has(self, family):
        hf, tokenizer = tiny_model(family, seed=0)
        found = places(Model(hf, tokenizer, name="tiny"), "norm_out", [0, 2])
        parts = {"gpt2": 2}.get(family, 1)
        assert found.sites == tuple(Site(layer, "norm_out", part=k) for layer in (0, 2) for k in range(parts))

    @pytest.mark.parametrize("name", ["angular", "selective"])
    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet([ContrastPair("a", "b", "a", "c")]), {}, "same mean state at all"),
            (PAIRS, {"angle": 400.0}, "angle"),
            (PAIRS, {"sites": "attn_in"}, "sites is"),
            (PAIRS, {"layer": 2}, "leave out the layer"),
            (PAIRS, {"init": [1.0]}, "not trained step by step"),
        ],
    )
    def test_refusals(self, model, name, pairs, given, said):
        with pytest.raises(InputError, match=said):
            fit(name, model, pairs, **given)


class TestDsas:
    def toy(self, gap, seed=0, n=60, d=24):
        axis = unit(9, d)
        return random(seed, n, d) + gap * axis, random(seed + 1, n, d)

    @many
    @given(seeds, st.integers(1, 6))
    def test_the_folded_score_is_the_two_step_pipeline(self, seed, count):
        positive, negative = self.toy(2.0, seed, n=15, d=10)
        found = components(torch.cat([positive, negative]), count)
        inner = fit_probe(found(positive), found(negative))
        folded = component_probe(positive, negative, count)
        x = random(seed + 2, 30, 10)
        assert torch.allclose(folded.logits(x), inner.logits(found(x)), atol=1e-4)
        axes = found.axes @ found.axes.T
        assert torch.allclose(axes, torch.eye(count).double(), atol=1e-9)

    def gate_states(self):
        return random(1, 1, 50, 8).float(), Add(torch.ones(8))

    @pytest.mark.parametrize(("bias", "share"), [(-1e4, 0.0), (1e4, 1.0)])
    def test_shut_is_the_identity_and_open_is_the_child(self, bias, share):
        h, child = self.gate_states()
        probe = fit_probe(*self.toy(2.0, d=8))
        gate = probe_gate(type(probe)(probe.weight, bias, 1.0), 1.0)
        out = SiteEdit.build([Intervention(Site(0), child, gate=gate)], h.device)(h, [None])
        torch.testing.assert_close(out, h + share * torch.ones(8), rtol=0, atol=1e-6)

    def test_states_stay_on_the_segment_to_the_childs(self):
        h, child = self.gate_states()
        gate = probe_gate(fit_probe(*self.toy(2.0, d=8)), 1.0)
        out = SiteEdit.build([Intervention(Site(0), child, gate=gate)], h.device)(h, [None])
        parts = (out - h) / (child(h) - h)
        assert (parts >= 0).all()
        assert (parts <= 1).all()
        assert parts.std(dim=-1).max() < 1e-5
        torch.testing.assert_close(parts[..., 0], gate(h))

    def test_a_separable_layer_is_kept_and_noise_is_not(self):
        good, noise = states(*self.toy(6.0), 0), states(*self.toy(0.0, seed=5), 1)
        probes, accuracies = layer_probes([good, noise], DsasSettings(layer=(0, 1)))
        assert [*probes] == [Site(0)]
        assert accuracies[Site(0)] > 0.95
        assert accuracies[Site(1)] < 0.75
        with pytest.raises(InputError, match=r"right on 0\.\d+ at resid_post@1 of the rows"):
            layer_probes([noise], DsasSettings(layer=1))

    def test_control_states_move_much_less_than_source_states(self):
        positive, negative = self.toy(8.0)
        gate = probe_gate(component_probe(positive, negative, 5), 1.0)  # suppress: the source is positive
        fresh_positive, fresh_negative = self.toy(8.0, seed=77)
        source, control = gate(fresh_positive.float()), gate(fresh_negative.float())
        assert control.mean() < 0.1 * source.mean()
        opposite = probe_gate(component_probe(positive, negative, 5), -1.0)
        assert torch.allclose(opposite(fresh_positive.float()), 1 - source, atol=1e-5)

    def test_held_out_accuracy_does_not_believe_noise(self):
        accuracy = held_out_accuracy(random(0, 16, 200), random(1, 16, 200), 5, 4, torch.Generator().manual_seed(0))
        assert accuracy < 0.75
        fitted = component_probe(random(0, 16, 200), random(1, 16, 200), 5).accuracy
        assert fitted > accuracy

    @pytest.mark.parametrize("child", ["diffmean", "linear-act"])
    def test_the_edits_are_the_childs_behind_gates(self, model, child):
        vector = fit("dsas", model, child=child, layer=(1, 2))
        alone = {"diffmean": [{"layer": 1}, {"layer": 2}], "linear-act": [{"layer": (1, 2)}]}[child]
        wanted = []
        for places_ in alone:
            found = tt.fit(child, model, PAIRS, calibrate=False, **places_)
            wanted += [found.edits[k].intervention for k in found.directions["elicit"]]
        edits = vector.elicit(1.0).interventions
        assert [i.site for i in edits] == [Site(1), Site(2)]
        for mine, theirs in zip(edits, wanted, strict=True):
            for name, tensor in theirs.transform.tensors().items():
                torch.testing.assert_close(mine.transform.tensors()[name], tensor)
        first, second = (vector.steering(way, 1.0).interventions[0].gate for way in ("elicit", "suppress"))
        assert (first.sharpness, second.sharpness) == (-1.0, 1.0)

    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet(list(PAIRS)[:3]), {}, "3 rows a class cannot be split into 4 parts"),
            (PAIRS, {"child": "cdas"}, "child is 'cdas'; allowed: diffmean, linear-act"),
            (PAIRS, {"folds": 1}, "folds"),
            (PAIRS, {"components": 0}, "components"),
            (PAIRS, {"reading": "tokens"}, "one state a row"),
            (PairSet([ContrastPair("a", "b", "a", "b")] * 4), {}, "the same"),
        ],
    )
    def test_refusals(self, model, pairs, given, said):
        with pytest.raises(InputError, match=said):
            fit("dsas", model, pairs, **given)


class TestCondition:
    @pytest.mark.parametrize("how", ["pca", "mean"])
    def test_a_planted_direction_is_found(self, how):
        axis, common = unit(0, 20), random(1, 30, 20)
        positive, negative = common + 2 * axis, common + 0.1 * random(2, 30, 20)
        found = condition_direction(positive, negative, how).double()
        assert float(torch.nn.functional.cosine_similarity(found, axis, dim=0)) > 0.95

    def test_the_threshold_is_the_best_of_all(self):
        p, n = random(0, 25) + 0.7, random(1, 31)
        found = best_threshold(p, n)
        grid = torch.linspace(-4, 5, 5001).double()
        scores = ((p[:, None] > grid).double().mean(dim=0) + (n[:, None] <= grid).double().mean(dim=0)) / 2
        assert found.accuracy == pytest.approx(float(scores.max()))
        mine = ((p > found.value).double().mean() + (n <= found.value).double().mean()) / 2
        assert float(mine) == pytest.approx(found.accuracy)
        below = best_threshold(n, p, both_sides=True)
        assert (below.side, below.accuracy) == (-1, pytest.approx(found.accuracy, abs=1e-9))

    def test_it_lies_in_the_widest_gap(self):
        found = best_threshold(torch.tensor([5.0, 6.0]), torch.tensor([1.0, 2.0]))
        assert found == (3.5, 1, 1.0)
        with pytest.raises(InputError, match="all 4 prompts are equally similar"):
            best_threshold(torch.ones(2), torch.ones(2))

    def test_the_best_layer_is_taken(self):
        axis, noise = unit(0, 20), random(1, 40, 20)
        apart = states(random(2, 40, 20) * 0.1 + axis, random(3, 40, 20) * 0.1 - axis, 1)
        mixed = states(noise, noise + 0.5 * random(4, 40, 20), 0)
        for kind in ("cosine", "absolute", "tanh"):
            found = fit_condition([mixed, apart], "mean", kind)
            if kind == "cosine":
                assert (found.gate.layer, found.accuracy) == (1, 1.0)
            meets = found.gate.meets(apart.positive), found.gate_of("elicit").meets(apart.negative)
            assert torch.equal(found.gate_of("suppress").meets(apart.positive), meets[0])
            assert torch.equal(found.gate_of("elicit").meets(apart.positive), ~meets[0])


class TestCast:
    def test_rows_whose_prompts_do_not_meet_it_stay(self, model):
        vector = fit("cast", model)
        texts = [pair.negative_input for pair in PAIRS] + [pair.positive_input for pair in PAIRS]
        accuracy = vector.provenance["training"]["condition"]["accuracy"]
        assert accuracy == 1.0
        plain = model.generate(texts, max_new_tokens=6)
        for way, others in (("elicit", slice(8, 16)), ("suppress", slice(0, 8))):
            what = vector.steering(way, 40.0)
            together = model.generate(texts, steering=what, max_new_tokens=6)
            assert together[others] == plain[others]
            assert together != plain
            assert together == [model.generate([text], steering=what, max_new_tokens=6)[0] for text in texts]

    def test_the_gate_is_read_before_the_edit(self, model):
        vector = fit("cast", model, layer=(2, 3), child="linear-act", condition_layer=1)
        assert {edit.intervention.gate.layer for edit in vector.edits} == {1}
        assert [e.intervention.site.layer for e in vector.edits] == [2, 3, 2, 3]
        assert fit("cast", model, layer=0).edits[0].intervention.gate.layer == 0

    @pytest.mark.parametrize("given", [{"similarity": "absolute"}, {"similarity": "tanh"}, {"condition": "mean"}])
    def test_other_conditions(self, model, given):
        assert fit("cast", model, **given).provenance["training"]["condition"]["accuracy"] > 0.5

    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet([ContrastPair("a", "b", "a", "c")] * 2), {}, "prompts of both classes have the same states"),
            (PAIRS, {"condition_layer": 3}, "condition_layer is 3"),
            (PAIRS, {"condition": "lda"}, "condition is 'lda'"),
            (PAIRS, {"similarity": "dot"}, "similarity is 'dot'"),
            (PAIRS, {"child": "lineas"}, "child is 'lineas'"),
        ],
    )
    def test_refusals(self, model, pairs, given, said):
        with pytest.raises(InputError, match=said):
            fit("cast", model, pairs, **given)


@pytest.mark.parametrize("name", MAPS)
def test_it_survives_saving_and_is_the_same_again(name, model, tmp_path):
    vector, again = fit(name, model), fit(name, model)
    assert vector.content_hash == again.content_hash
    vector.save(tmp_path / "v")
    read = tt.SteeringVector.load(tmp_path / "v")
    assert read.content_hash == vector.content_hash
    assert {*vector.directions} == {"elicit", "suppress"}
    for way in vector.directions:
        texts = [steered.generate(["Say 1."], steering=v.steering(way, 1.5), max_new_tokens=4) for steered, v in
                 ((model, vector), (model, read))]  # fmt: skip
        assert texts[0] == texts[1]


@pytest.mark.parametrize("name", MAPS)
def test_a_steered_model_is_refused(name, model):
    what = Steering((Intervention(Site(1), Affine(torch.ones(16), torch.ones(16))),))
    with steer(model.hf, what), pytest.raises(InputError, match="being steered"):
        fit(name, model)


def test_trained_maps_know_their_support():
    assert TrainedMaps(torch.tensor([[0.0, 1e-6]]), torch.tensor([[1e-4, 0.0]]), []).support.tolist() == [[True, False]]
