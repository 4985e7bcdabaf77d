"""The closed forms: what each finds in planted Gaussians, its algebra, and what it does to a tiny model."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trimtab as tt
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.fitting.boundary import Boundary, above, below, find_boundary
from trimtab.fitting.closed import auroc, check_differ
from trimtab.fitting.logistic import Probe
from trimtab.fitting.principal import first_component
from trimtab.fitting.ridge import tune_probe
from trimtab.fitting.states import ClassStates, read_states
from trimtab.methods.lat import LATSettings, tomographic_direction
from trimtab.methods.lda import LDASettings, discriminant
from trimtab.methods.mean_control import mean_direction
from trimtab.methods.pca import PCASettings, principal_direction
from trimtab.methods.probe import ProbeSettings, probe_direction
from trimtab.methods.random_control import random_direction
from trimtab.methods.raptor import RaptorSettings, find_probe, probability_edits
from trimtab.methods.stmp import StMPSettings, mirror_edits
from trimtab.methods.sttp import StTPSettings, target_edits
from trimtab.methods.swfc import SwFCSettings, fixed_edits
from trimtab.models import Model, capture, steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import Clamp, Site, SiteEdit

PAIRS = PairSet([ContrastPair(f"Shout {k}!", f"YES {k}", f"Say {k}.", f"no {k}") for k in range(10)])
D, N, GAP = 32, 200, 4.0
AXIS = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(7)), dim=0)
"""Where the concept is planted."""


@pytest.fixture(scope="module")
def model():
    hf, tokenizer = tiny_model("llama", hidden_size=16, n_blocks=4, seed=0)
    return Model(hf, tokenizer, name="tiny")


def states_of(positive, negative):
    return ClassStates(Site(1), positive, negative, positive.mean(dim=0), negative.mean(dim=0))


def planted(*, gap=GAP, seed=0, shuffled=False, pairs=N):
    """Both classes are unit Gaussians about a common mean, `gap` apart along the axis; every pair shares a part."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, pairs, D, generator=generator)
    common = torch.randn(pairs, D, generator=generator) + torch.randn(D, generator=generator)
    sides = noise + common + gap / 2 * torch.stack([AXIS, -AXIS])[:, None]
    if shuffled:
        swap = torch.rand(pairs, generator=generator) < 0.5
        sides = torch.where(swap[None, :, None], sides.flip(0), sides)
    return states_of(*sides)


def cosine(v, w=AXIS):
    return float(torch.nn.functional.cosine_similarity(v.double(), w.double(), dim=0))


DIRECTIONS = {
    "diffmean": check_differ,
    "pca": lambda s: principal_direction(s, PCASettings(1))[0],
    "pca of states": lambda s: principal_direction(s, PCASettings(1, of="states"))[0],
    "lat": lambda s: tomographic_direction(s, LATSettings(1))[0],
    "lat pooled": lambda s: tomographic_direction(s, LATSettings(1, pairing="pooled"))[0],
    "lda": lambda s: discriminant(s, LDASettings(1)),
    "probe": lambda s: probe_direction(s, ProbeSettings(1))[0],
    "boundary": lambda s: find_boundary(s, c=1.0)[0].direction,
    "raptor": lambda s: find_probe(s, RaptorSettings(1, path=13))[0].direction,
}
LEAST = {"lat pooled": 0.85, "probe": 0.9, "boundary": 0.9, "raptor": 0.9}
"""Smallest cosine with the axis; 0.95 elsewhere."""
UNSUPERVISED = ("pca", "pca of states", "lat", "lat pooled")
"""Of these only sign and length come from the labels, if the classes lie apart as far as here."""


class TestPlanted:
    @pytest.mark.parametrize("name", DIRECTIONS)
    def test_the_planted_direction_is_found(self, name):
        states = planted()
        direction = DIRECTIONS[name](states)
        assert cosine(direction) > LEAST.get(name, 0.95)
        assert auroc(direction, states) > 0.9

    @pytest.mark.parametrize("name", DIRECTIONS)
    def test_labels_at_random_do_not_find_it(self, name):
        """A component looks at no label and finds the axis all the same, but labels give its sign and its length."""
        for seed in range(3):
            states = planted(shuffled=True, seed=seed)
            direction = DIRECTIONS[name](states)
            if name in UNSUPERVISED:
                assert abs(float(direction @ AXIS)) < 0.15 * GAP
                assert 0.4 < auroc(direction, states) < 0.6
            else:
                assert abs(cosine(direction)) < 0.6

    def test_where_nothing_is_planted_nothing_is_found(self):
        for find in DIRECTIONS.values():
            try:
                assert abs(cosine(find(planted(gap=0.0, seed=3)))) < 0.6
            except InputError:  # classes that a probe cannot tell apart
                continue

    def test_controls_do_not_find_it_and_are_as_long_as_the_difference(self):
        states = planted()
        for control in (mean_direction(states), random_direction(states, 42)):
            assert abs(cosine(control)) < 0.5
            assert float(control.norm()) == pytest.approx(float(states.difference.norm()), rel=1e-5)
        assert not torch.equal(random_direction(states, 42), random_direction(states, 43))
        torch.testing.assert_close(
            mean_direction(states), (states.positive_mean + states.negative_mean) * (mean_direction(states).norm() /
            (states.positive_mean + states.negative_mean).norm()), rtol=1e-5, atol=1e-6
        )  # fmt: skip

    @pytest.mark.parametrize("name", ["pca", "pca of states", "lat", "lda", "probe"])
    def test_added_it_moves_the_mean_as_far_as_the_data_do(self, name):
        states = planted()
        direction = DIRECTIONS[name](states).double()
        assert float(direction.norm()) == pytest.approx(
            float(states.difference.double() @ direction / direction.norm())
        )

    @pytest.mark.parametrize("name", DIRECTIONS)
    def test_swapped_classes_swap_its_sign(self, name):
        states = planted(gap=6.0)
        swapped = states_of(states.negative, states.positive)
        assert cosine(DIRECTIONS[name](states), DIRECTIONS[name](swapped)) < -0.9


class TestPCA:
    def test_the_component_is_that_of_the_covariance(self):
        for shape in ((50, 8), (5, 8)):
            rows = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double() + 3
            for centre in (True, False):
                about = rows - rows.mean(dim=0) if centre else rows
                _, s, vh = torch.linalg.svd(about)
                found = first_component(rows, centre=centre)
                assert abs(cosine(found.direction, vh[0])) == pytest.approx(1)
                assert found.share == pytest.approx(float(s[0] ** 2 / (s**2).sum()))

    def test_centred_differences_lose_the_concept(self):
        """What published code does that centres them; pairs that vary along another axis give that one."""
        states = planted()
        other = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(1)), dim=0)
        other = torch.nn.functional.normalize(other - (other @ AXIS) * AXIS, dim=0)
        wobble = 3 * torch.randn(N, 1, generator=torch.Generator().manual_seed(2)) * other
        states = states_of(states.positive + wobble, states.negative - wobble + 0.5 * other)
        centred, plain = (principal_direction(states, PCASettings(1, centre=centre))[0] for centre in (True, False))
        assert abs(cosine(centred)) < 0.2
        assert abs(cosine(centred, other)) > 0.95
        assert abs(cosine(centred)) < abs(cosine(plain))

    @pytest.mark.parametrize(
        ("rows", "centre", "said"),
        [(torch.ones(4, 3), True, "4 rows that are all the same"), (torch.zeros(4, 3), False, "all zero"),
         (torch.full((2, 3), torch.inf), False, "finite"), (torch.zeros(0, 3), True, "0 rows")],
    )  # fmt: skip
    def test_rows_without_a_component_are_refused(self, rows, centre, said):
        with pytest.raises(InputError, match=said):
            first_component(rows, centre=centre)


class TestLAT:
    def test_the_pairing_is_drawn_by_the_seed(self):
        states = planted()
        first, again, other = (tomographic_direction(states, LATSettings(1, seed=seed))[0] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_every_difference_counts_alike(self):
        """One pair that is a hundred times as far apart does not decide."""
        states = planted()
        far = torch.randn(D, generator=torch.Generator().manual_seed(5)) * 1e4
        outlier = states_of(torch.cat([states.positive, far[None]]), torch.cat([states.negative, -far[None]]))
        unit = tomographic_direction(outlier, LATSettings(1))[0]
        assert abs(cosine(unit)) > 0.9 > abs(cosine(principal_direction(outlier, PCASettings(1))[0]))

    @pytest.mark.parametrize("pairing", ["pooled", "positive", "across"])
    def test_states_that_are_all_the_same_are_refused(self, pairing):
        with pytest.raises(InputError, match="4 positive and 4 negative"):
            tomographic_direction(states_of(torch.ones(4, 3), torch.ones(4, 3)), LATSettings(1, pairing=pairing))


class TestLDA:
    def test_where_classes_spread_alike_everywhere_it_is_the_difference_of_the_means(self):
        cross = torch.cat([torch.eye(D), -torch.eye(D)])  # its covariance is a multiple of the identity
        shift = torch.randn(D, generator=torch.Generator().manual_seed(1))
        states = states_of(cross + shift, cross - shift)
        for shrinkage in (0.0, 0.1, 10.0):
            found = discriminant(states, LDASettings(1, shrinkage=shrinkage))
            torch.testing.assert_close(found, states.difference, rtol=1e-5, atol=1e-6)

    def test_it_is_the_formula(self):
        states = planted()
        pos, neg = states.positive.double(), states.negative.double()
        within = (torch.cov(pos.T) * (N - 1) + torch.cov(neg.T) * (N - 1)) / (2 * N - 2)
        reg = 0.3 * float(within.diagonal().mean())
        wanted = torch.linalg.inv(within + reg * torch.eye(D)) @ (pos.mean(dim=0) - neg.mean(dim=0))
        assert cosine(discriminant(states, LDASettings(1, shrinkage=0.3)), wanted) == pytest.approx(1, abs=1e-9)

    def test_it_turns_away_from_noise_that_the_classes_share(self):
        loud = torch.diag(torch.linspace(1, 10, D))
        states = planted()
        states = states_of(states.positive @ loud, states.negative @ loud)
        assert auroc(discriminant(states, LDASettings(1)), states) > auroc(states.difference, states)

    def test_a_singular_covariance_is_refused_by_its_rank(self):
        states = planted(pairs=5)
        with pytest.raises(InputError, match=f"rank 8 and the states are {D} wide"):
            discriminant(states, LDASettings(1, shrinkage=0.0))
        assert torch.isfinite(discriminant(states, LDASettings(1, shrinkage=1e-3))).all()
        with pytest.raises(InputError, match="neither class varies"):
            discriminant(states_of(torch.ones(3, D), torch.zeros(3, D)), LDASettings(1))


def edited(edit, h, direction="elicit", multiplier=1.0):
    """What an edit of a vector does to states (n, d)."""
    intervention = edit.resolve(direction, multiplier, "gap")
    return SiteEdit.build([intervention], h.device)(h[None], [None])[0]


def boundary_of(threshold=0.7, seed=0):
    probe = Probe(3.0 * AXIS, -3.0 * threshold, 1.0)
    return Boundary.of(probe, planted(seed=seed))


def tokens(seed=1, n=64):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * 3


def off_axis(h):
    return h - (h @ AXIS)[:, None] * AXIS


class TestBoundary:
    """SwFC, StTP and StMP on states, in both directions."""

    @pytest.mark.parametrize("seed", range(3))
    def test_it_lies_near_the_middle_of_balanced_gaussians(self, seed):
        states = planted(seed=seed)
        boundary, figures = find_boundary(states, c=1.0)
        middle = float((states.positive_mean + states.negative_mean) @ boundary.direction) / 2
        assert boundary.threshold == pytest.approx(middle, abs=0.1 * boundary.gap)
        assert figures["accuracy"] > 0.9
        assert figures["auroc"] > 0.95

    def test_coordinates_are_logits(self):
        probe = Probe(3.0 * AXIS, -2.0, 1.0)
        boundary = Boundary.of(probe, planted())
        h = boundary.coordinate(1.5) * AXIS[None]
        assert float(probe.logits(h)) == pytest.approx(1.5, abs=1e-5)

    def test_gates_are_open_on_their_side_only(self):
        h = torch.tensor([0.5, 0.7, 0.9])[:, None] * AXIS
        up, down = above(AXIS, 0.69), below(AXIS, 0.69)
        assert up(h).tolist() == [0, 1, 1]
        assert down(h).tolist() == [1, 0, 0]
        exact = torch.eye(4)[0]
        assert float(above(exact, 0.5)(0.5 * exact)) == float(below(exact, 0.5)(0.5 * exact)) == 0

    def test_classes_that_a_probe_cannot_tell_apart_are_refused(self):
        side = torch.eye(4)
        with pytest.raises(InputError):
            find_boundary(states_of(side, side), c=1.0)

    @given(st.floats(-4, 4), st.floats(0, 3))
    def test_swfc_adds_the_gap_everywhere(self, multiplier, alpha):
        boundary, h = boundary_of(), tokens()
        for edit, sign in zip(fixed_edits(boundary, SwFCSettings(1, alpha=alpha)), (1, -1), strict=True):
            wanted = h + sign * multiplier * alpha * boundary.gap * boundary.direction
            torch.testing.assert_close(edited(edit, h, multiplier=multiplier), wanted, rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("alpha", [0.0, 1.0, 36.0])
    def test_sttp_lands_on_the_target_and_stays_there(self, alpha):
        boundary, h = boundary_of(), tokens()
        up, down = target_edits(boundary, StTPSettings(1, alpha=alpha))
        cases = (
            ("elicit", up, h @ AXIS < boundary.threshold, boundary.positive, alpha),
            ("suppress", down, h @ AXIS > boundary.threshold, boundary.negative, -alpha),
        )
        for direction, edit, wrong, stats, deviations in cases:
            out = edited(edit, h, direction)
            target = stats.mean[0] + deviations * stats.std[0]
            torch.testing.assert_close(
                (out @ AXIS)[wrong], torch.full((int(wrong.sum()),), target), rtol=1e-5, atol=1e-4
            )
            torch.testing.assert_close(off_axis(out), off_axis(h), rtol=0, atol=1e-4)
            assert torch.equal(out[~wrong], h[~wrong])
            torch.testing.assert_close(edited(edit, out, direction), out, rtol=0, atol=1e-5)
            assert 0 < int(wrong.sum()) < len(h)

    def test_sttp_moves_its_target_from_the_other_class(self):
        boundary = boundary_of()
        up, down = target_edits(boundary, StTPSettings(1, alpha=0.0))
        low = (boundary.negative.mean[0] - 5) * AXIS[None]
        coordinates = [float(edited(up, low, "elicit", m) @ AXIS) for m in (0.0, 0.5, 1.0)]
        ends = boundary.negative.mean[0], boundary.positive.mean[0]
        assert coordinates == pytest.approx([ends[0], sum(ends) / 2, ends[1]], abs=1e-4)
        high = (boundary.positive.mean[0] + 5) * AXIS[None]
        assert float(edited(down, high, "suppress", 0.0) @ AXIS) == pytest.approx(ends[1], abs=1e-4)

    def test_stmp_mirrors_at_the_boundary(self):
        boundary, h = boundary_of(), tokens()
        m = boundary.threshold
        up, down = mirror_edits(boundary, StMPSettings(1))
        for edit, wrong in ((up, h @ AXIS < m), (down, h @ AXIS > m)):
            out = edited(edit, h)
            torch.testing.assert_close((out @ AXIS)[wrong], 2 * m - (h @ AXIS)[wrong], rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(off_axis(out), off_axis(h), rtol=0, atol=1e-4)
            assert torch.equal(out[~wrong], h[~wrong])  # to the last bit
            assert torch.equal(edited(edit, out), out)  # gated, it is idempotent
            assert torch.equal(edited(edit, h, multiplier=0.0), h)
            halfway = edited(edit, h, multiplier=0.5) @ AXIS
            torch.testing.assert_close(halfway[wrong], torch.full((int(wrong.sum()),), m), rtol=0, atol=1e-4)
            ungated = replace(edit, intervention=replace(edit.intervention, gate=tt.Always()))
            torch.testing.assert_close(edited(ungated, edited(ungated, h)), h, rtol=1e-5, atol=1e-4)

    @given(st.floats(0, 3), st.floats(0, 3))
    def test_stmp_alpha_is_a_multiplier(self, alpha, multiplier):
        boundary, h = boundary_of(), tokens(n=8)
        one, _ = mirror_edits(boundary, StMPSettings(1, alpha=alpha))
        other, _ = mirror_edits(boundary, StMPSettings(1, alpha=1.0))
        ours, theirs = edited(one, h, multiplier=multiplier), edited(other, h, multiplier=multiplier * alpha)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
        rho, m = h @ AXIS, boundary.threshold
        wanted = torch.where(rho < m, rho + 2 * alpha * multiplier * (m - rho), rho)
        torch.testing.assert_close(ours @ AXIS, wanted, rtol=1e-4, atol=1e-3)


class TestRaptor:
    SETTINGS = RaptorSettings(1, path=13)

    @pytest.mark.parametrize("p", [0.9, 0.9999])
    def test_it_brings_the_probability_to_its_target_by_the_least_edit(self, p):
        settings = replace(self.SETTINGS, p_target=p)
        boundary, tuned = find_probe(planted(), settings)
        up, down = probability_edits(boundary, settings)
        h = tokens()
        for direction, edits, target in (("elicit", up, p), ("suppress", down, 1 - p)):
            logits, wanted = tuned.probe.logits(h), math.log(target / (1 - target))
            wrong = logits < wanted if direction == "elicit" else logits > wanted
            out = edited(edits[0], h, direction)
            after = tuned.probe.logits(out)
            torch.testing.assert_close(after[wrong], torch.full_like(after[wrong], wanted), rtol=0, atol=1e-4)
            assert float(torch.sigmoid(after[wrong][0])) == pytest.approx(target, rel=1e-3)
            assert torch.equal(out[~wrong], h[~wrong])
            moved = (out - h)[wrong].double()
            least = (wanted - logits[wrong]).abs() / tuned.probe.weight.double().norm()
            torch.testing.assert_close(moved.norm(dim=1), least, rtol=1e-3, atol=1e-4)  # no edit is shorter
            assert int(wrong.sum()) > 0

    def test_its_path_ascends_and_of_ties_the_smallest_is_taken(self):
        strengths = RaptorSettings(1, path_rows=None).strengths(7)
        assert strengths == sorted(strengths)
        assert (len(strengths), strengths[0], strengths[-1]) == (100, pytest.approx(1e-4), pytest.approx(1e2))
        states = planted(gap=60.0)
        assert find_probe(states, RaptorSettings(1, path=9, path_rows=None))[1].c == pytest.approx(1e-4)
        assert find_probe(states, RaptorSettings(1, path=9))[1].c == pytest.approx(1e-4 * 1000 / (2 * N))

    def test_the_fewer_rows_are_dropped_the_less_it_turns(self):
        states = planted(gap=8.0)

        def without(k):
            return tune_probe(states.positive[k:], states.negative[k:], [1e-2], seed=0).probe.weight

        turned = [cosine(without(k), without(0)) for k in (150, 40, 1, 0)]
        assert turned == sorted(turned)
        assert turned[1] > 0.95
        assert turned[-1] == pytest.approx(1)

    def test_as_published_its_logit_is_that_of_a_unit_weight(self):
        settings = replace(self.SETTINGS, published_logit=True, p_target=0.99)
        boundary, tuned = find_probe(planted(), settings)
        up, down = probability_edits(boundary, settings)
        logit = math.log(0.99 / 0.01)
        low = -20 * boundary.direction[None]
        assert float(edited(up[0], low) @ boundary.direction) == pytest.approx(logit, rel=1e-5)
        assert float(edited(down[0], -low, "suppress") @ boundary.direction) == pytest.approx(-logit, rel=1e-5)
        assert float(tuned.probe.logits(edited(up[0], low))) != pytest.approx(logit, rel=1e-2)

    def test_on_a_model_it_edits_from_the_last_prompt_token_on(self, model):
        vector = tt.fit("raptor", model, PAIRS, layer=1, path=5, calibrate=False)
        picked = [[str(vector.edits[k].intervention.positions) for k in vector.directions[name]]
                  for name in ("elicit", "suppress")]  # fmt: skip
        assert picked == [["last", "response"]] * 2
        assert len(tt.fit("raptor", model, PAIRS, layer=1, path=5, positions="all", calibrate=False).edits) == 2
        prompt, answer = model.chat.render("Say 3."), (40, 41, 42)
        row = torch.tensor([[*prompt.ids, *answer]])
        plain = capture(model.hf, row.tolist(), [Site(1)])[0][Site(1)]
        with steer(model.hf, vector.elicit(), prompt_lengths=[len(prompt.ids)]):
            steered = capture(model.hf, row.tolist(), [Site(1)])[0][Site(1)]
        place, clamp = len(prompt.ids) - 1, vector.edits[0].intervention.transform
        assert torch.equal(steered[:place], plain[:place])
        coordinates = steered[place:].float() @ clamp.directions[0]
        assert (coordinates >= clamp.values - 1e-4).all()
        assert {"c", "validation_accuracy", "test_accuracy", "auroc"} <= {*vector.provenance["training"]}


READINGS = {
    "caa": "answer", "pca": "mean", "lat": "last", "lda": "tokens", "probe": "mean", "mean": "tokens",
    "random": "tokens", "raptor": "last", "swfc": "response", "sttp": "response", "stmp": "response",
}  # fmt: skip


class TestOnAModel:
    @pytest.mark.parametrize("method", READINGS)
    def test_it_reads_what_its_docs_say_and_survives_saving(self, model, method, tmp_path):
        vector = tt.fit(method, model, PAIRS, layer=2, calibrate=False)
        assert vector.settings["reading"] == READINGS[method]
        assert {*vector.directions} == {"elicit", "suppress"}
        assert 0 <= vector.provenance["training"]["auroc"] <= 1
        vector.save(tmp_path / "v")
        assert tt.SteeringVector.load(tmp_path / "v").content_hash == vector.content_hash

    @pytest.mark.parametrize("method", ["caa", "pca", "lat", "lda", "probe", "mean", "random"])
    def test_it_adds_or_clamps_its_direction(self, model, method):
        added = tt.fit(method, model, PAIRS, layer=2, calibrate=False)
        clamped = tt.fit(method, model, PAIRS, layer=2, rule="clamp", calibrate=False)
        v, w = added.edits[0].intervention.transform.vector, clamped.edits[0].intervention.transform.directions[0]
        assert isinstance(clamped.edits[0].intervention.transform, Clamp)
        torch.testing.assert_close(v / v.norm(), w)
        torch.testing.assert_close(added.edits[1].intervention.transform.vector, -v)

    def test_caa_is_the_difference_at_the_answers_ends_added_behind_the_prompt(self, model):
        vector = tt.fit("caa", model, PAIRS, layer=2, calibrate=False)
        states = read_states(model, PAIRS, [Site(2)], "answer")[Site(2)]
        edit = vector.elicit().interventions[0]
        torch.testing.assert_close(edit.transform.vector, states.positive.mean(dim=0) - states.negative.mean(dim=0))
        assert str(edit.positions) == "response"

    @pytest.mark.parametrize(
        ("method", "settings", "said"),
        [
            ("pca", {"of": "both"}, "allowed: differences, states, positive"),
            ("pca", {"reading": "tokens"}, "one state a prompt"),
            ("pca", {"centre": "yes"}, "true, false or none"),
            ("lat", {"pairing": "all"}, "allowed: across, pooled, positive"),
            ("lda", {"shrinkage": -1}, "shrinkage is -1"),
            ("probe", {"c": 0}, "c is 0"),
            ("probe", {"standardise": 1}, "standardise is 1"),
            ("raptor", {"reading": "tokens"}, "one state a prompt"),
            ("raptor", {"p_target": 0.3}, "p_target is 0.3"),
            ("raptor", {"c_most": 1e-5}, "c_most"),
            ("raptor", {"path": 0}, "path is 0"),
            ("raptor", {"path_rows": 0}, "path_rows is 0"),
            ("raptor", {"published_logit": 1}, "published_logit is 1"),
            ("swfc", {"alpha": -1}, "alpha is -1"),
            ("sttp", {"c": -1}, "c is -1"),
            ("caa", {"rule": "set"}, "rule is 'set'"),
            ("random", {"seed": -1}, "seed is -1"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, model, method, settings, said):
        with pytest.raises(InputError, match=said):
            tt.fit(method, model, PAIRS, **{"layer": 1, "calibrate": False} | settings)

    @pytest.mark.parametrize("method", READINGS)
    def test_pairs_that_do_not_differ_are_refused(self, model, method):
        same = PairSet([ContrastPair("Say a.", "b c d", "Say a.", "b c d")] * 6)
        with pytest.raises(InputError):
            tt.fit(method, model, same, layer=1, calibrate=False)

    def test_too_few_pairs_to_split_are_refused(self, model):
        with pytest.raises(InputError, match="4 pairs cannot be split"):
            tt.fit("raptor", model, PAIRS[:4], layer=1, calibrate=False)


def test_auroc_counts_ties_half():
    one = torch.tensor([1.0, 0.0])
    sides = [torch.tensor([[value, 9.0] for value in values]) for values in ([3.0, 2.0, 1.0], [2.0, 0.0])]
    assert auroc(one, states_of(*sides)) == pytest.approx((2 + 1.5 + 1) / 6)
