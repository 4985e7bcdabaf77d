"""SteeringVector: directions, multipliers, what the content hash covers, and how vectors compose."""

import math
from dataclasses import replace

import pytest
import torch

from trimtab.errors import InputError
from trimtab.steering import (
    Ablate,
    Add,
    Clamp,
    Edit,
    Factors,
    FactorStats,
    Intervention,
    ModelCard,
    NullOut,
    Positions,
    ProjectionGate,
    Site,
    SteeringVector,
)

WIDTH = 6
CARD = ModelCard("tiny", WIDTH, 4, prefix_ids=(1, 3))


def stats(*mean, rows=True):
    values = torch.tensor([[m - 0.5 for m in mean], [m + 0.5 for m in mean]])
    return FactorStats.of(values) if rows else FactorStats(mean, (0.5,) * len(mean), 2)


def clamp_edit(positive=(3.0,), negative=(-1.0,), *, layer=2, first=0, **rest):
    factors = Factors(stats(*positive), stats(*negative))
    clamp = Clamp(torch.eye(WIDTH)[first : first + len(positive)], torch.tensor(positive))
    return Edit(Intervention(Site(layer), clamp, **rest), factors)


def vector(*edits, **rest):
    return SteeringVector("cdas", CARD, edits or (clamp_edit(),), **rest)


def values(steering, index=0):
    return steering.interventions[index].transform.values.tolist()


class TestMultiplier:
    def test_omitted_it_is_the_calibrated_one_and_else_one(self):
        plain, calibrated = vector(), vector(multipliers={"elicit": 2.0})
        assert values(plain.elicit()) == values(plain.elicit(1.0)) == [3.0]
        assert values(plain.suppress()) == values(plain.suppress(1.0)) == [-1.0]
        assert values(calibrated.elicit()) == [7.0]
        assert values(calibrated.elicit(1.0)) == [3.0]
        assert values(calibrated.suppress()) == [-1.0]
        assert values(calibrated.steering("elicit")) == [7.0]

    def test_zero_is_absolute_and_not_off(self):
        calibrated = vector(multipliers={"elicit": 2.0})
        assert values(calibrated.elicit(0)) == [-1.0]
        assert values(calibrated.suppress(0)) == [3.0]
        assert values(calibrated.elicit(-1)) == [-5.0]

    def test_published_scale(self):
        assert values(vector().elicit(2, scale="published")) == [6.0]
        assert values(vector().steering("suppress", 2, "published")) == [-2.0]

    def test_a_stored_zero_multiplier_is_not_taken_for_none(self):
        assert values(vector(multipliers={"elicit": 0.0}).elicit()) == [-1.0]

    def test_it_scales_the_strength_of_other_transforms_and_leaves_fixed_ones(self):
        add = Edit(Intervention(Site(1), Add(torch.ones(WIDTH)), strength=0.5), scales="strength")
        fixed = Edit(Intervention(Site(1), Ablate(torch.ones(WIDTH)), strength=0.5), scales="nothing")
        made = vector(add, fixed, clamp_edit(), directions={"elicit": (2, 0, 1)}).elicit(3.0)
        assert [i.strength for i in made.interventions] == [1.0, 1.5, 0.5]
        assert [i.transform.kind for i in made.interventions] == ["clamp", "add", "ablate"]
        assert values(made) == [11.0]

    def test_each_coordinate_of_a_rank_moves(self):
        made = vector(clamp_edit((3.0, 10.0), (-1.0, 20.0)))
        assert values(made.elicit(2.0)) == [7.0, 0.0]
        assert values(made.suppress(2.0)) == [-5.0, 30.0]

    @pytest.mark.parametrize("m", [math.nan, math.inf, -math.inf, 1e39])
    def test_what_is_no_number(self, m):
        for make in (lambda: vector().elicit(m), lambda: vector().suppress(m, "published")):
            with pytest.raises(InputError) as error:
                make()
            assert "\n" not in str(error.value)
        if not math.isfinite(m):
            with pytest.raises(InputError, match="not a finite number"):
                vector(multipliers={"elicit": m})

    def test_unknown_scale_and_direction(self):
        with pytest.raises(InputError, match="unknown scale 'linear'; allowed: gap, published"):
            vector().elicit(1.0, "linear")
        with pytest.raises(InputError, match="unknown direction 'sideways'; allowed: elicit, suppress"):
            vector().steering("sideways")


class TestDirections:
    def test_one_that_is_missing_is_refused_by_name(self):
        only = vector(directions={"elicit": (0,)})
        assert values(only.elicit()) == [3.0]
        for make in (only.suppress, lambda: only.steering("suppress")):
            with pytest.raises(InputError, match=r"unknown direction 'suppress'; allowed: elicit$"):
                make()
        with pytest.raises(InputError, match="suppress"):
            vector(directions={"elicit": (0,)}, multipliers={"suppress": 1.0})

    def test_each_has_its_own_edits(self):
        add = Edit(Intervention(Site(1), Add(torch.ones(WIDTH))), scales="strength")
        null = Edit(Intervention(Site(1), NullOut(torch.ones(WIDTH))), scales="nothing")
        both = vector(add, null, directions={"elicit": (0,), "suppress": (1,)})
        assert both.elicit(2.0).interventions[0].strength == 2.0
        assert both.suppress(2.0).interventions == (null.intervention,)

    @pytest.mark.parametrize("directions", [{}, {"elicit": ()}, {"elicit": (1,)}, {"elicit": (-1,)}, {"up": (0,)}])
    def test_impossible_ones(self, directions):
        with pytest.raises(InputError):
            vector(directions=directions)

    def test_the_steering_knows_its_model(self):
        made = vector().elicit(1.5)
        assert (made.prefix_ids, made.hidden_size, made.n_blocks) == ((1, 3), WIDTH, 4)
        assert made.label == "cdas:elicit:1.5"
        there = vector()
        named = replace(there, model=replace(there.model, template_fingerprint="abc"))
        assert named.elicit().template_fingerprint == named.at(1.0).template_fingerprint == "abc"


class TestAt:
    def test_sets_the_coordinates_whatever_the_factors_say(self):
        assert values(vector(multipliers={"elicit": 9.0}).at(-2.5)) == [-2.5]
        two = vector(clamp_edit((1.0, 2.0), (0.0, 0.0)))
        assert values(two.at(5.0, 6.0)) == [5.0, 6.0]
        both = vector(clamp_edit(layer=1), clamp_edit(layer=2), directions={"elicit": (0, 1)})
        assert [values(both.at(5.0), k) for k in range(2)] == [[5.0], [5.0]]

    @pytest.mark.parametrize("given", [(), (1.0, 2.0), (math.nan,), (math.inf,)])
    def test_refusals(self, given):
        with pytest.raises(InputError) as error:
            vector().at(*given)
        assert "\n" not in str(error.value)

    def test_only_clamps_have_a_coordinate_to_set(self):
        add = Edit(Intervention(Site(1), Add(torch.ones(WIDTH))), scales="strength")
        with pytest.raises(InputError, match="holds a 'add' transform"):
            vector(add).at(1.0)

    def test_a_clamp_without_factors_can_be_set(self):
        clamp = Edit(Intervention(Site(1), Clamp(torch.ones(WIDTH), torch.ones(1))), scales="nothing")
        assert values(vector(clamp).at(4.0)) == [4.0]
        assert values(vector(clamp).elicit(3.0)) == [1.0]


class TestRefusals:
    def test_factor_scaling_needs_a_clamp_with_factors_of_its_rank(self):
        factors = Factors(stats(1.0, 2.0), stats(0.0, 0.0))
        for transform, given in (
            (Add(torch.ones(WIDTH)), factors),
            (Clamp(torch.ones(WIDTH), torch.ones(1)), None),
            (Clamp(torch.ones(WIDTH), torch.ones(1)), factors),
        ):
            with pytest.raises(InputError):
                Edit(Intervention(Site(1), transform), given)
        with pytest.raises(InputError, match="unknown quantity to scale 'speed'"):
            Edit(Intervention(Site(1), Add(torch.ones(WIDTH))), scales="speed")

    @pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "attn_out", "mlp_out", "norm_out"])
    def test_a_width_that_is_not_the_models(self, kind):
        wide = Edit(Intervention(Site(1, kind), Add(torch.ones(WIDTH + 1))), scales="strength")
        with pytest.raises(InputError, match=f"width 7 at {kind}@1 does not fit hidden size 6"):
            vector(wide)

    @pytest.mark.parametrize("kind", ["attn_in", "mlp_act"])
    def test_sites_inside_a_branch_have_widths_of_their_own(self, kind):
        vector(Edit(Intervention(Site(1, kind), Add(torch.ones(WIDTH + 1))), scales="strength"))

    def test_a_block_that_is_not_there(self):
        with pytest.raises(InputError, match="resid_post@4 does not exist in a model of 4 blocks"):
            vector(clamp_edit(layer=4))

    def test_nothing_at_all(self):
        with pytest.raises(InputError, match="at least one edit"):
            SteeringVector("cdas", CARD, ())

    @pytest.mark.parametrize("sizes", [(0, 4), (6, 0), (-1, 4), (6.0, 4), ("6", 4)])
    def test_a_model_of_no_size(self, sizes):
        with pytest.raises(InputError, match="must be a whole number"):
            ModelCard("tiny", *sizes)

    @pytest.mark.parametrize("ids", [(1.5,), ((1, 2),), ("1",), (-1,)])
    def test_a_prefix_of_no_ids(self, ids):
        with pytest.raises(InputError, match="prefix_ids are"):
            ModelCard("tiny", 6, 4, prefix_ids=ids)

    def test_clamps_of_one_direction_that_contradict_each_other(self):
        twice = vector(clamp_edit(), clamp_edit(), directions={"elicit": (0, 1), "suppress": (0,)})
        twice.suppress()
        with pytest.raises(InputError, match="cdas:elicit:1 at resid_post@2"):
            twice.elicit()


BASE = vector(
    replace(
        clamp_edit(),
        intervention=Intervention(
            Site(2),
            Clamp(torch.eye(WIDTH)[:1], torch.tensor([3.0])),
            Positions("all"),
            ProjectionGate(torch.eye(WIDTH)[1], 0.5, 2.0),
        ),
    ),
    Edit(Intervention(Site(1), Add(torch.ones(WIDTH))), scales="strength"),
    directions={"elicit": (0, 1), "suppress": (0,)},
    multipliers={"elicit": 2.0},
    settings={"lr": 0.04},
    provenance={"seed": 42},
)


def changed(**intervention):
    first = BASE.edits[0]
    return replace(
        BASE, edits=(replace(first, intervention=replace(first.intervention, **intervention)), *BASE.edits[1:])
    )


def with_factors(**sides):
    first = BASE.edits[0]
    return replace(BASE, edits=(replace(first, factors=replace(first.factors, **sides)), *BASE.edits[1:]))


def nudged(tensor, index=0):
    moved = tensor.clone()
    flat = moved.view(-1)
    flat[index] = torch.nextafter(flat[index], torch.tensor(math.inf))
    return moved


CLAMP, GATE = BASE.edits[0].intervention.transform, BASE.edits[0].intervention.gate
POSITIVE = BASE.edits[0].factors.positive
OTHERS = {
    "a direction": changed(transform=Clamp(nudged(CLAMP.directions, -1), CLAMP.values)),
    "a value": changed(transform=Clamp(CLAMP.directions, nudged(CLAMP.values))),
    "a gate's direction": changed(gate=ProjectionGate(nudged(GATE.direction), 0.5, 2.0)),
    "a gate's threshold": changed(gate=ProjectionGate(GATE.direction, 0.25, 2.0)),
    "a gate's sharpness": changed(gate=ProjectionGate(GATE.direction, 0.5, 1.0)),
    "layer": changed(site=Site(1)),
    "kind of site": changed(site=Site(2, "resid_pre")),
    "positions": changed(positions=Positions("prompt")),
    "include_prefix": changed(positions=Positions(include_prefix=True)),
    "token ids": changed(positions=Positions(token_ids=(5,))),
    "strength": changed(strength=0.5),
    "factor mean": with_factors(positive=replace(POSITIVE, mean=(math.nextafter(3.0, 4.0),))),
    "factor deviation": with_factors(negative=replace(BASE.edits[0].factors.negative, std=(0.1,))),
    "factor rows": with_factors(positive=replace(POSITIVE, values=nudged(POSITIVE.values))),
    "factor rows left out": with_factors(positive=replace(POSITIVE, values=None)),
    "another transform": replace(
        BASE, edits=(BASE.edits[0], Edit(Intervention(Site(1), NullOut(torch.ones(WIDTH))), scales="strength"))
    ),
    "what is scaled": replace(BASE, edits=(BASE.edits[0], replace(BASE.edits[1], scales="nothing"))),
    "order of edits": replace(BASE, edits=BASE.edits[::-1]),
    "directions": replace(BASE, directions={"elicit": (0,), "suppress": (0,)}),
    "order in a direction": replace(BASE, directions={"elicit": (1, 0), "suppress": (0,)}),
    "a direction less": replace(BASE, directions={"elicit": (0, 1)}),
    "multiplier": replace(BASE, multipliers={"elicit": 2.5}),
    "a multiplier more": replace(BASE, multipliers={"elicit": 2.0, "suppress": 1.0}),
    "prefix ids": replace(BASE, model=replace(CARD, prefix_ids=(1, 4))),
    "depth": replace(BASE, model=replace(CARD, n_blocks=5)),
}
SAME = {
    "method": replace(BASE, method="other"),
    "settings": replace(BASE, settings={"lr": 1.0}),
    "provenance": replace(BASE, provenance={"seed": 1, "concept": "calm"}),
    "model id": replace(BASE, model=replace(CARD, id="renamed")),
    "revision": replace(BASE, model=replace(CARD, revision="abc")),
    "model type": replace(BASE, model=replace(CARD, model_type="llama")),
    "template fingerprint": replace(BASE, model=replace(CARD, template_fingerprint="abc")),
    "source tokens": replace(BASE, model=replace(CARD, source_tokens="x")),
    "whole numbers": replace(changed(strength=1), multipliers={"elicit": 2}),
    "order of the directions": replace(BASE, directions={"suppress": (0,), "elicit": (0, 1)}),
}


class TestContentHash:
    @pytest.mark.parametrize("name", OTHERS)
    def test_changes_with_all_that_decides_what_the_vector_does(self, name):
        assert OTHERS[name].content_hash != BASE.content_hash

    def test_no_two_of_these_share_one(self):
        assert len({other.content_hash for other in OTHERS.values()}) == len(OTHERS)

    @pytest.mark.parametrize("name", SAME)
    def test_does_not_change_with_names_and_origins(self, name):
        assert SAME[name].content_hash == BASE.content_hash

    def test_is_a_sha256_and_repeats(self):
        assert len(bytes.fromhex(BASE.content_hash)) == 32
        assert replace(BASE).content_hash == BASE.content_hash


def test_vectors_compose_on_one_row():
    here, there = vector(clamp_edit(first=0)), vector(clamp_edit((8.0,), (0.0,), first=1))
    both = here.elicit() + there.suppress(2.0)
    assert [values(both, k) for k in range(2)] == [[3.0], [-8.0]]
    assert both.label == "cdas:elicit:1 + cdas:suppress:2"
    with pytest.raises(InputError, match="contradict"):
        here.elicit() + here.suppress()
    elsewhere = replace(there, model=replace(CARD, prefix_ids=()))
    with pytest.raises(InputError, match="different models"):
        here.elicit() + elsewhere.elicit()
