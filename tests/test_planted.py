"""Every method finds a direction that was planted, and controls do not.

`CASES` has a row a method, so that a new one must say what it finds. Figures are what was measured, less a margin; one
below .9, or a setting that is not the method's own, has its reason in words.
"""

import dataclasses
import functools
import string

import pytest
import torch
from safetensors.torch import save_file

import trimtab as tt
from tests.planted import GAP, LAYER, LETTERS, WIDTH, answers, bytes_of, closed, elsewhere, planted, swapped
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.fitting.states import read_states
from trimtab.methods import METHODS
from trimtab.steering import (
    Add,
    AddKeepNorm,
    Clamp,
    Edit,
    Factors,
    FactorStats,
    Intervention,
    Positions,
    Site,
    SteeringVector,
    probe_directions,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked of a method.

    Args:
        cosine: Least |cosine| to u of what it found; of several rows, the length of u in their span.
        closes: Least part of the way to the counterfactual's answers, by direction; none where no answer can change.
        shuffled: What shuffled labels leave of it, see `TestShuffledLabels`.
        settings: Other than its own.
        why: The reason for whatever is not plain.
        low: Where the negative class lies along u; the positive one lies 2 higher.
        letters: Which letters of an answer the edit can change.
        by: `rows`: the rows of the first edit are what it found; `move`: where its edits move negative rows is.
        here: Only the edit at the planted layer's output is put to work.
    """

    cosine: float
    closes: dict
    shuffled: str
    settings: dict = dataclasses.field(default_factory=dict)
    why: str = ""
    low: float = -1.0
    letters: tuple = (0, LETTERS)
    by: str = "rows"
    here: bool = False


def both(elicit, suppress=None):
    return {"elicit": elicit, "suppress": elicit if suppress is None else suppress}


DRIFT = "the gradient along w is not taken out before Adam's step, which draws w towards sign(w); u has .78 to sign(u)"
FLAT = "Adam moves all entries by about as much, which draws a vector towards sign(u), at .78 to u"
SCALED = "standardised columns are divided by a variance that holds the concept, so u's largest entries count least"

CASES = {
    "cdas": Case(0.84, both(0.9), "short", why=DRIFT),
    "das": Case(0.91, both(0.9), "short"),
    "kldas": Case(0.84, both(0.9), "short", why=DRIFT),
    "pdas": Case(0.82, both(0.8), "short", why=DRIFT),
    "cdas-loreft": Case(0.9, {"elicit": 0.95}, "mirror"),
    "diffmean": Case(0.98, both(0.95), "elsewhere"),
    "caa": Case(
        0.87, both(0.9), "elsewhere", letters=(1, LETTERS),
        why="the answers' last letters have noise of their own; it edits behind the prompt, so not the first letter",
    ),
    "pca": Case(0.96, both(0.95), "short"),
    "lat": Case(0.98, both(0.95), "short"),
    "lda": Case(0.98, both(0.95), "elsewhere"),
    "probe": Case(0.73, both(0.72), "elsewhere", why=SCALED),
    "raptor": Case(
        0.72, both(0.72), "nothing", {"p_target": 0.6},
        f"{SCALED}; the path's smallest c separates these classes, whose own means it calls .6, and .9999 lies 13 gaps "
        "away, where no answer is like the model's; shuffled labels are uneven in the part that it is fitted to",
    ),
    "swfc": Case(0.79, both(0.84), "elsewhere", why=SCALED),
    "sttp": Case(0.79, both(0.84), "elsewhere", why=SCALED),
    "stmp": Case(0.79, both(0.8), "elsewhere", why=SCALED),
    "actadd": Case(
        0.98, {}, "no labels", {"positive": "!@7#3[&", "negative": "?@7#3[&"}, by="move",
        why="two texts that differ in the concept alone; its edits end before the prompt does, and answers begin there",
    ),
    "mean": Case(0, {}, "elsewhere", why="a control"),
    "random": Case(0, {}, "elsewhere", why="a control"),
    "sae": Case(0.99, both(0.85), "elsewhere", why="it adds the feature's activation and not the classes' gap"),
    "fv": Case(
        0.98, both(0.6), "short", {"heads": 2}, letters=(0, 1),
        why="two heads write the concept; their output is added at the prompt's end, the value 1 of a gap of 2",
    ),
    "refusal-direction": Case(
        0.98, both(0.95), "refused", low=0.0, why="what is ablated becomes 0, which here is the absence of the concept"
    ),
    "grains": Case(
        0.93, both(0.8), "half", why="it keeps norms; it reads positive prompts alone, of which shuffling leaves half"
    ),
    "austeer": Case(
        0.98, both(0.85), "elsewhere", {"top": 2, "strength": 2.0}, low=1.0, by="move",
        why="it multiplies: 0 stays 0, and values of two signs go the same way, so both classes must have one sign",
    ),
    "seal": Case(0.96, {}, "elsewhere", why="it edits where thoughts end, and these answers have none"),
    "ssv": Case(0.84, both(0.9), "elsewhere", {"epochs": 24}, f"{FLAT}; three epochs are 33 steps, too short a way"),
    "lang": Case(0.83, both(0.9), "elsewhere", why=FLAT),
    "reft-r1": Case(
        0.9, both(0.5, 0.75), "nothing", {"epochs": 24}, low=0.5,
        why="it writes as much as it finds in a prompt without the concept, so there must be something above 0, here a "
        "quarter of the gap; three epochs are too short a way",
    ),
    "loreft": Case(
        0.85, {"elicit": 0.9}, "mirror", {"positions": "all"},
        "its own positions reach one letter in five, and what it learns elsewhere is noise",
    ),
    "bipo": Case(0.85, both(0.8), "elsewhere", why=FLAT),
    "dpo": Case(0.82, both(0.8), "elsewhere", why=FLAT),
    "ipo": Case(0.82, both(0.6), "elsewhere", why=f"{FLAT}; it stops at a margin"),
    "simpo": Case(0.82, both(0.75), "elsewhere", why=FLAT),
    "reps": Case(0.88, both(0.9, 0.4), "elsewhere", why="nulling out ends at 0, half of the way from 1 to -1"),
    "prosv": Case(
        0.84, {"elicit": 0.9}, "elsewhere", {"positions": "all", "epochs": 40},
        "its own positions reach one letter in five; its start is a random vector that goes slowly",
    ),
    "split": Case(
        0.42, both(0.8), "elsewhere",
        why="it keeps both answers likely at every factor: what is orthogonal to u makes the state longer where the "
        "factor is large, and so the head less sure",
    ),
    "linear-act": Case(0.96, both(0.95), "elsewhere", by="move"),
    "lineas": Case(
        0.95, both(0.88), "nothing", {"sites": "resid_post"}, by="move",
        why="nothing in this model carries a concept from a norm's output to the head",
    ),
    "angular": Case(0.97, both(0.95), "elsewhere", {"sites": "resid_post"}, "norms: as for lineas"),
    "selective": Case(
        0.97, both(0.9), "nothing", {"sites": "resid_post"}, here=True,
        why="norms: as for lineas; four half turns, one a block, end where they began",
    ),
    "dsas": Case(0.98, both(0.95), "refused"),
    "cast": Case(0.98, both(0.95), "elsewhere"),
}  # fmt: skip
SHUFFLED = [
    pytest.param(name, seed, marks=() if quick else pytest.mark.slow)
    for name, case in CASES.items()
    for quick in [METHODS[name].family in ("closed-form", "control", "gated", "rotation")]
    for seed in (range(3) if quick else range(1))
    if case.shuffled != "no labels"
]
"""Methods and seeds of the shuffled labels: several where a fit takes a moment."""


def test_every_method_has_a_case_and_a_reason_where_it_needs_one():
    assert set(CASES) == {name for name, method in METHODS.items() if method.family != "baseline"}
    for case in CASES.values():
        plain = case == Case(case.cosine, case.closes, case.shuffled, by=case.by)
        low = [value for value in (case.cosine, *case.closes.values()) if value < 0.85]
        assert case.why or (plain and case.closes and not low)


@functools.cache
def chance(rank):
    """What the length of a unit vector (32,) in the span of `rank` random rows exceeds once in 500 times."""
    draws = torch.randn(50_000, WIDTH, generator=torch.Generator().manual_seed(0))
    return float((draws[:, :rank].norm(dim=1) / draws.norm(dim=1)).quantile(0.998))


def thoughts(pairs):
    """Traces of two thoughts behind each prompt, those of negative ones such as look back."""
    return PairSet(
        ContrastPair(
            pair.positive_input,
            f"{pair.positive_output}\n\n{pair.positive_output}",
            pair.negative_input,
            f"{pair.negative_output}\n\nwait",
        )
        for pair in pairs
    )


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """One feature of 24 is u, the others are random."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(24, WIDTH, generator=draw), dim=1)
    rows[7] = planted().u
    path = tmp_path_factory.mktemp("sae") / "sae.safetensors"
    save_file(
        {"W_enc": rows.T.contiguous(), "b_enc": torch.zeros(24), "W_dec": rows, "b_dec": torch.zeros(WIDTH)}, path
    )
    return str(path)


def fitted(method, pairs, autoencoder):
    """A vector at the planted layer."""
    case = CASES[method]
    settings = {"calibrate": False, **case.settings}
    if METHODS[method].places == "layer":
        settings["layer"] = LAYER
    if method == "sae":
        settings["path"] = autoencoder
    if method == "seal":
        pairs, settings["boundary"] = thoughts(pairs), "\n"
    return tt.fit(method, planted(case.low).model, pairs, **settings)


def steering_of(method, vector, direction):
    steering = vector.steering(direction)
    if not CASES[method].here:
        return steering
    kept = tuple(one for one in steering.interventions if one.site == Site(LAYER))
    return dataclasses.replace(steering, interventions=kept)


def mean_move(of, steering):
    """(32,): where edits move the tokens of negative rows at the planted layer's output, all tokens together."""
    seen = []

    def look(_, __, output):
        seen.append((output if torch.is_tensor(output) else output[0])[0])

    total = torch.zeros(WIDTH)
    for pair in of.held_out:
        prompt = of.model.chat.render(pair.negative_input)
        ids = prompt.ids + of.model.chat.response_ids(prompt, pair.negative_output)
        for with_it in (steering, None):
            with torch.no_grad(), tt.steer(of.model.hf, with_it, prompt_lengths=[len(prompt.ids)]):
                handle = of.model.layout.blocks[LAYER].register_forward_hook(look)
                of.model.hf(input_ids=torch.tensor([ids]))
                handle.remove()
        after, before = seen[-2:]
        total += (after - before).sum(dim=0)
    return total


def found(method, vector):
    """Rows (r, 32): what a method found."""
    if CASES[method].by == "move":
        return mean_move(planted(CASES[method].low), vector.elicit())[None]
    return probe_directions(first_edit(vector).intervention.transform)


def first_edit(vector):
    return vector.edits[vector.directions["elicit"][0]]


def in_span(rows, u):
    """|cosine| of u to a row, or its length in the span of several."""
    return float((torch.linalg.qr(rows.T).Q.T @ u).norm())


def size(vector, u):
    """How far apart two classes lie by a vector's first edit: the gap of its factors, or what it adds along u."""
    edit = first_edit(vector)
    if edit.factors is not None:
        return abs(edit.factors.positive.mean[0] - edit.factors.negative.mean[0])
    return abs(float(edit.intervention.transform.vector @ u))


def effect(method, vector, direction):
    """What a method's edits close, and what as long edits along a random direction do."""
    of, case = planted(CASES[method].low), CASES[method]
    steering = steering_of(method, vector, direction)
    return tuple(closed(of, direction, one, *case.letters) for one in (steering, elsewhere(of, steering)))


_TRUE: dict = {}


def true(method, autoencoder):
    """The vector of the pairs as they are, made once."""
    if method not in _TRUE:
        _TRUE[method] = fitted(method, planted(CASES[method].low).pairs, autoencoder)
    return _TRUE[method]


@pytest.mark.parametrize("low", [-1.0, 0.0, 0.5, 1.0])
class TestConstruction:
    def test_the_classes_differ_along_u_and_noise_is_larger(self, low):
        of = planted(low)
        states = read_states(of.model, of.pairs, [Site(LAYER)], "tokens")[Site(LAYER)]
        assert float(states.negative_mean @ of.u) == pytest.approx(low, abs=0.1 * GAP)
        assert float(states.difference @ of.u) == pytest.approx(GAP, abs=0.1)
        assert in_span(states.difference[None], of.u) > 0.98
        pooled = torch.cat([states.positive, states.negative])
        assert float((pooled @ of.noise).std()) > 1.5 * float((pooled @ of.u).std())
        top = torch.linalg.svd(pooled - pooled.mean(dim=0), full_matrices=False).Vh[:1]
        assert in_span(top, of.noise) > 0.9
        assert in_span(top, of.u) < 0.1

    def test_answers_are_capitals_with_the_concept_and_small_letters_without(self, low):
        of = planted(low)
        for side, letters in (("positive", string.ascii_uppercase), ("negative", string.ascii_lowercase)):
            rows = [(getattr(pair, f"{side}_input"), getattr(pair, f"{side}_output")) for pair in of.held_out]
            shares = answers(of.model, rows).exp()[..., bytes_of(letters)].sum(dim=-1)
            assert float(shares.mean()) > 0.93

    def test_setting_the_coordinate_makes_the_counterfactual_and_as_long_a_move_elsewhere_does_not(self, low):
        of = planted(low)
        stats = [FactorStats((value,), (0.0,), 1) for value in (low + GAP, low)]
        factors = Factors(*stats)
        clamp = Intervention(Site(LAYER), Clamp(of.u, factors.value("elicit", 1.0)), Positions("all"))
        vector = SteeringVector("cdas", of.model.card(), (Edit(clamp, factors),))
        for direction in ("elicit", "suppress"):
            assert closed(of, direction, vector.steering(direction)) > 0.95
            controls = [closed(of, direction, elsewhere(of, vector.steering(direction), seed)) for seed in range(5)]
            assert max(controls) < 0.4
            assert sum(controls) / 5 < 0.12


@pytest.mark.parametrize("method", CASES)
class TestEveryMethod:
    def test_it_finds_the_direction(self, method, autoencoder):
        vector, case = true(method, autoencoder), CASES[method]
        rows, u = found(method, vector), planted(case.low).u
        assert in_span(rows, u) >= case.cosine
        added = isinstance(first_edit(vector).intervention.transform, (Add, AddKeepNorm))
        if case.cosine and (added or case.by == "move"):
            assert float(rows[0] @ u) > 0  # towards the concept

    def test_it_makes_the_counterfactual_and_as_long_a_move_elsewhere_does_not(self, method, autoencoder):
        vector, case = true(method, autoencoder), CASES[method]
        for direction, least in case.closes.items():
            does, control = effect(method, vector, direction)
            assert does >= least
            assert control <= does / 2


@pytest.mark.parametrize(("method", "seed"), [("mean", 0), *(("random", seed) for seed in range(5))])
def test_controls_as_long_as_the_difference_of_the_means_find_nothing(method, seed):
    of = planted()
    settings = {"layer": LAYER, "calibrate": False}
    vector = tt.fit(method, of.model, of.pairs, seed=seed, **settings)
    long = tt.fit("diffmean", of.model, of.pairs, **settings)
    lengths = [float(first_edit(one).intervention.transform.vector.norm()) for one in (vector, long)]
    assert lengths[0] == pytest.approx(lengths[1])
    assert in_span(found(method, vector), of.u) < chance(1)
    for direction in vector.directions:
        assert closed(of, direction, vector.steering(direction)) < 0.3


REFUSALS = ("cannot be told apart", "that the model answers so by itself", "lie on the same side")
"""What is said of classes that do not differ."""


def fitted_or_refused(method, pairs, autoencoder):
    """The vector, or None where the method says that the classes do not differ."""
    try:
        return fitted(method, pairs, autoencoder)
    except InputError as error:
        if any(said in str(error) for said in REFUSALS):
            return None
        raise


@pytest.mark.parametrize(("method", "seed"), SHUFFLED)
class TestShuffledLabels:
    """Half of the pairs, drawn at random, have their sides changed over.

    elsewhere   what is found is no nearer to u than a random direction is
    short       the axis needs no labels, but its length does: next to nothing is left of it
    half        of its length at most .6 is left
    nothing     whatever is found, the answers stay as they are, or it is refused
    mirror      a map of the state needs no labels, as it can send each class to the other: and so it does
    refused     there is nothing to learn
    """

    def test_what_is_left(self, method, seed, autoencoder):
        case = CASES[method]
        of = planted(case.low)
        pairs = swapped(of.pairs, seed)
        vector = fitted_or_refused(method, pairs, autoencoder)
        if vector is None:
            assert case.shuffled in ("refused", "nothing")
        else:
            getattr(self, f"_{case.shuffled}")(method, vector, of, autoencoder)

    def _refused(self, method, vector, of, autoencoder):
        pytest.fail(f"{method} learnt something from shuffled labels")

    def _elsewhere(self, method, vector, of, autoencoder):
        rows = found(method, vector)
        assert in_span(rows, of.u) < chance(len(rows))

    def _short(self, method, vector, of, autoencoder):
        assert size(vector, of.u) < 0.1 * size(true(method, autoencoder), of.u)

    def _half(self, method, vector, of, autoencoder):
        assert size(vector, of.u) < 0.6 * size(true(method, autoencoder), of.u)

    def _nothing(self, method, vector, of, autoencoder):
        for direction in vector.directions:
            assert effect(method, vector, direction)[0] < 0.2

    def _mirror(self, method, vector, of, autoencoder):
        assert in_span(found(method, vector), of.u) > 0.9
        for direction in ("elicit", "suppress"):  # where the concept is, eliciting it takes it away
            assert closed(of, direction, vector.elicit()) > 0.85
        assert closed(of, "suppress", true(method, autoencoder).elicit()) < 0.2


@pytest.mark.parametrize("method", [name for name, case in CASES.items() if case.why.startswith((DRIFT, FLAT))])
def test_what_draws_them_off_is_the_vector_of_signs(method, autoencoder):
    u = planted().u
    rows = found(method, true(method, autoencoder))
    assert float(rows.abs().sum()) / WIDTH**0.5 > float(u.abs().sum()) / WIDTH**0.5 + 0.1
    assert in_span(torch.stack([u, u.sign()]), rows[0]) > 0.91


OTHERWISE = {
    "cdas from the means": ("cdas", {"start": "means"}, -1.0, 0.95, both(0.95)),
    "das from the means": ("das", {"start": "means"}, -1.0, 0.95, both(0.95)),
    "kldas from the means": ("kldas", {"start": "means"}, -1.0, 0.94, both(0.95)),
    "cdas along the sphere": ("cdas", {"tangent": True}, -1.0, 0.97, both(0.95)),
    "das along the sphere": ("das", {"tangent": True}, -1.0, 0.97, both(0.95)),
    "kldas along the sphere": ("kldas", {"tangent": True}, -1.0, 0.97, both(0.95)),
    "pdas along the sphere": ("pdas", {"tangent": True}, -1.0, 0.98, both(0.95)),
    "probe of columns as they are": ("probe", {"standardise": False}, -1.0, 0.98, both(0.95)),
    "split that keeps no answer likely": ("split", {"utility": 0.0}, -1.0, 0.9, both(0.9)),
    "reps where the absence is 0": ("reps", {}, 0.0, 0.86, both(0.9)),
}
"""Name -> method, settings, low, least |cosine|, least effects: that the reasons given above are the reasons."""


@pytest.mark.parametrize("name", OTHERWISE)
def test_without_what_stood_in_its_way_a_method_finds_more(name):
    method, settings, low, least, closes = OTHERWISE[name]
    of = planted(low)
    vector = tt.fit(method, of.model, of.pairs, layer=LAYER, calibrate=False, **settings)
    assert in_span(probe_directions(first_edit(vector).intervention.transform), of.u) >= least
    for direction, part in closes.items():
        assert closed(of, direction, vector.steering(direction)) >= part


def test_a_standardised_probe_is_the_difference_of_the_means_over_the_columns_variances():
    """Which is why it is not u: the more of the concept is in a column, the larger its variance."""
    of = planted()
    states = read_states(of.model, of.pairs, [Site(LAYER)], "last")[Site(LAYER)]
    formula = states.difference / torch.cat([states.positive, states.negative]).var(dim=0)
    probe = tt.fit("probe", of.model, of.pairs, layer=LAYER, calibrate=False, reading="last", c=1e-3)
    direction = torch.nn.functional.normalize(first_edit(probe).intervention.transform.vector, dim=0)
    assert in_span(formula[None], direction) > 0.99
    assert in_span(formula[None], of.u) < 0.8


def test_austeer_finds_the_two_dimensions_that_hold_the_concept():
    """Both query heads of block 0 that look for it hand on the one value of their key head."""
    of = planted(1.0)
    vector = tt.fit("austeer", of.model, of.pairs, calibrate=False, top=2)
    (edit,) = (vector.edits[index].intervention for index in vector.directions["elicit"])
    assert edit.site == Site(0, "attn_in")
    assert edit.transform.weight.sub(1).nonzero().flatten().tolist() == [0, WIDTH // 4]


def test_texts_changed_over_turn_actadd_round():
    of = planted()
    texts = CASES["actadd"].settings
    there, back = (
        mean_move(of, tt.fit("actadd", of.model, of.pairs, layer=LAYER, calibrate=False, **one).elicit()) @ of.u
        for one in (texts, {"positive": texts["negative"], "negative": texts["positive"]})
    )
    assert float(there) > 0
    assert float(back) == pytest.approx(-float(there), rel=1e-3)
