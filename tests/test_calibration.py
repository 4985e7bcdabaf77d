"""Layer and multiplier without a judge: what counts as turned, how the best is found, what a vector keeps of it."""

import logging
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import trimtab as tt
from trimtab.cli import options
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting import search
from trimtab.fitting.calibration import CLIP, START, Curve, Effect, Reader, _likeliness, curve_search
from trimtab.fitting.held_out import MOST_INPUTS, Split, hold_out, with_room
from trimtab.fitting.likelihood import final_states, kl_divergences, log_likelihoods
from trimtab.fitting.search import CONTRAST, FINALISTS, ROUNDS, Search
from trimtab.methods import METHODS, registry
from trimtab.methods.registry import AUTO
from trimtab.models import Model
from trimtab.models.tiny import tiny_model
from trimtab.steering import Clamp, Edit, Factors, FactorStats, Intervention, Site, SteeringVector


def effect(share, turned=None, likely=None, degree=None):
    turned, likely = share if turned is None else turned, share if likely is None else likely
    return Effect(share, turned, likely, 64, share if degree is None else degree)


def curve_of(effects, side_effect=lambda m: m):
    search = curve_search(side_effect)
    wanted = next(search)
    while True:
        try:
            wanted = search.send(effects(wanted))
        except StopIteration as stop:
            return stop.value


def effects_of(reader, direction, steerings, n=None):
    return reader.effects([(direction, steering) for steering in steerings], n)


def numbered(n):
    return PairSet([ContrastPair(f"yes {k}", "good", f"no {k}", "bad") for k in range(n)], source="numbered")


class TestHoldOut:
    @pytest.mark.parametrize(("n", "held"), [(48, 16), (72, 24), (192, 64), (1000, MOST_INPUTS)])
    def test_a_third_is_held_out_and_nothing_is_in_both(self, n, held):
        split = hold_out(numbered(n))
        assert split.is_held_out
        assert len(split.calibration) == held
        assert {*split.train} & {*split.calibration} == set()
        assert {*split.train} | {*split.calibration} == {*numbered(n)}

    def test_few_pairs_are_not_divided(self):
        split = hold_out(numbered(47))
        assert not split.is_held_out
        assert len(split.train) == len(split.calibration) == 47

    def test_the_draw_is_the_seeds(self):
        first, again, other = hold_out(numbered(50), 1), hold_out(numbered(50), 1), hold_out(numbered(50), 2)
        assert first.calibration.pairs == again.calibration.pairs != other.calibration.pairs

    def test_equal_pairs_read_twice_are_not_held_out(self):
        assert not Split(numbered(5), numbered(3)).is_held_out


def peaked(best, width=1.0):
    """Effects along the multiplier with their peak at `best`: below it few answers are turned, above it few likely."""

    def one(m):
        share = max(0.0, 1 - abs(math.log(m / best)) / width)
        return effect(share, share, 1.0) if m < best else effect(share, 1.0, share)

    def effects(multipliers):
        return {m: one(m) for m in multipliers}

    return effects


class TestCurve:
    def test_the_best_is_the_greatest_and_of_equals_the_one_nearest_to_one(self):
        assert Curve({1.0: effect(0.2), 2.0: effect(0.9), 3.0: effect(0.5)}).best == 2
        assert Curve({0.7: effect(1.0), 1.0: effect(1.0), 2.0: effect(1.0)}).best == 1
        assert Curve({1.0: effect(0.0), 2.0: effect(0.5), 3.0: effect(0.5)}).best == 2

    def test_one_answer_is_not_worth_more_strength(self):
        assert Curve({1.0: effect(61 / 64), 2.0: effect(62 / 64), 9.0: effect(60 / 64)}).best == 1
        assert Curve({1.0: effect(60 / 64), 2.0: effect(62 / 64)}).best == 2
        assert Curve({1.0: effect(30 / 64), 2.0: effect(31 / 64)}).best == 2

    @pytest.mark.parametrize("n", [16, 33, 34, 64])
    def test_nor_with_few_inputs(self, n):
        some, all_ = (Effect(k / n, 1.0, 1.0, n, k / n) for k in (n - 1, n))
        assert Curve({1.0: some, 2.0: all_}).best == 1

    def test_nor_is_one_answer_given_away_for_less_strength_than_the_data_have(self):
        """0.8 lies on the slope to the plateau, whatever its side effects."""
        curve = Curve({0.7: effect(26 / 64), 0.8: effect(63 / 64), 1.0: effect(1.0), 1.5: effect(1.0)})
        assert curve.equals == [1.0, 1.5]

    def test_of_equal_shares_the_one_that_comes_nearer_counts(self):
        assert Curve({1.0: effect(0.5, 0.5, 0.9), 2.0: effect(0.5, 0.8, 0.9)}).best == 2

    def test_below_a_plateau_too_a_half_turned_answer_is_no_equal(self):
        assert Curve({0.5: effect(0.5, degree=0.26), 1.0: effect(0.5, degree=0.5)}).equals == [1.0]

    def test_of_equals_the_one_with_the_least_side_effect_counts(self):
        effects = {0.7: effect(1.0), 1.0: effect(1.0), 2.0: effect(1.0), 3.0: effect(0.9)}
        weighed = Curve(effects).weighed(lambda m: {0.7: 0.3, 1.0: 0.2, 2.0: 0.1}[m])  # none is asked for 3
        assert weighed.best == 2
        assert weighed.side_effects == {0.7: 0.3, 1.0: 0.2, 2.0: 0.1}
        assert Curve({1.0: effect(0.3), 2.0: effect(0.9)}).weighed(lambda m: 1 / 0).side_effects == {}

    def test_a_half_turned_answer_is_no_equal(self):
        effects = {0.5: effect(1.0, degree=0.9), 0.7: effect(1.0, degree=0.98), 1.0: effect(1.0, degree=0.99)}
        assert Curve(effects).equals == [0.7, 1.0]

    @pytest.mark.parametrize("best", [0.4, 0.9, 1.3, 2.3, 3.4, 6.0])
    def test_a_peak_is_found_wherever_it_is(self, best):
        curve = curve_of(peaked(best))
        assert abs(math.log(curve.best / best)) < 0.2

    def test_a_narrow_peak_far_up_is_found_by_what_is_turned(self):
        """Weak steering turns nothing, so the search goes up although no share tells it to."""

        def effects(multipliers):
            return {m: effect(max(0.0, 1 - 4 * abs(math.log(m / 5))), float(m > 4), 1.0) for m in multipliers}

        assert abs(math.log(curve_of(effects).best / 5)) < 0.2

    def test_no_more_strength_is_tried_where_nothing_can_be_better(self):
        tried = []

        def effects(multipliers):
            tried.extend(multipliers)
            return {m: effect(1.0) for m in multipliers}

        assert max(curve_of(effects).effects) == max(START) == max(tried)
        assert len(tried) == len({*tried})

    def test_less_strength_is_tried_where_it_may_do_as_well(self):
        """All from 0.5 up is equal; what spills least wins, whichever it is."""
        equal = {m: float(m > 0.5) for m in (1.0, 1.5)}
        assert {*equal} == {*START}
        for side_effect, expected in ((lambda m: m, 0.544), (lambda m: abs(m - 1), 1.0), (lambda m: -m, 1.5)):
            curve = curve_of(lambda ms: {m: effect(float(m > 0.5)) for m in ms}, side_effect)
            assert curve.best == pytest.approx(expected, rel=0.01)

    def test_the_least_strength_that_does_it_is_found(self):
        curve = curve_of(lambda multipliers: {m: effect(float(m > 1.2)) for m in multipliers})
        assert curve.best == 1.22

    def test_the_search_stops_where_answers_stay_broken(self):
        curve = curve_of(lambda multipliers: {m: effect(0.0, 1.0, 0.0 if m > 2 else 0.5) for m in multipliers})
        assert max(curve.effects) == pytest.approx(3.38)

    def test_a_valley_before_the_peak_is_crossed(self):
        """Between half-turned and turned answers lie unlikely ones; the shares are those of `weather` at layer 1."""
        shares = {1.0: (0.02, 1.0), 1.5: (0.25, 0.88), 2.25: (0.13, 0.2), 3.38: (1.0, 1.0), 5.07: (0.56, 0.56)}

        def effects(multipliers):
            near = {m: min(shares, key=lambda known: abs(known - m)) for m in multipliers}
            return {m: effect(shares[k][0], 1.0, shares[k][1]) for m, k in near.items()}

        assert curve_of(effects).best == pytest.approx(3.38, rel=0.15)

    def test_the_search_ends_where_nothing_helps(self):
        curve = curve_of(lambda multipliers: {m: effect(0.0, 0.0, 1.0) for m in multipliers})
        assert curve.greatest.share == 0
        assert len(curve.effects) < 20


@pytest.fixture(scope="module")
def model():
    hf, tokenizer = tiny_model("llama", hidden_size=16, n_blocks=4, seed=0)
    return Model(hf, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def prompts(model):
    negative = [model.chat.render(f"Tell me about the number {k}") for k in range(6)]
    positive = [model.chat.render(f"Shout at the dog {k}!") for k in range(6)]
    return positive, negative


@pytest.fixture(scope="module")
def reader(model, prompts):
    return Reader(model, *prompts, max_new_tokens=8)


def clamping(model, value, layer=1):
    """A vector whose factors are -value and value along the first coordinate."""
    w = torch.zeros(model.hidden_size)
    w[0] = 1.0
    factors = Factors(FactorStats((value,), (0.0,), 2), FactorStats((-value,), (0.0,), 2))
    edit = Edit(Intervention(Site(layer), Clamp(w, torch.tensor(value))), factors)
    return SteeringVector("test", model.card(), (edit,))


class TestReader:
    @pytest.mark.parametrize(("direction", "sign", "side"), [("elicit", 1, 0), ("suppress", -1, 1)])
    def test_evidence_and_likeliness_are_those_of_the_formula(self, model, prompts, direction, sign, side):
        windows = [(4, 2)] * 6
        reader = Reader(model, *prompts, windows, max_new_tokens=8)
        answers, places = [(40, 41, 42, 43, 44, 45), (50,)], (0, 5)
        read = reader._read(places, answers)
        evidence, likeliness = reader._evidence(direction, places, read), _likeliness(read)
        for k, place in enumerate(places):
            yes, no = (log_likelihoods(model, [part[place]], [answers[k]])[0].tolist() for part in prompts)
            terms = [max(-CLIP, min(CLIP, sign * (p - n))) for p, n in zip(yes, no, strict=True)]
            assert float(evidence[k]) == pytest.approx(sum(terms[: windows[place][side]]), abs=1e-3)
            assert float(likeliness[k]) == pytest.approx(sum(map(max, yes, no)) / len(yes), abs=1e-3)

    def test_natural_answers_lie_on_their_own_sides(self, model, reader, prompts):
        natural = model.respond([*prompts[0], *prompts[1]], max_new_tokens=8, batch_size=64)
        everyone = [*range(6), *range(6)]
        for direction, sides in (("elicit", (slice(0, 6), slice(6, 12))), ("suppress", (slice(6, 12), slice(0, 6)))):
            evidence = reader._evidence(direction, everyone, reader._read(everyone, natural))
            above = (evidence > reader._midpoint[direction]).float()
            for found, side in zip(reader.natural_effects[direction], sides, strict=True):
                assert found.turned == pytest.approx(float(above[side].mean()))

    def test_prompts_alike_have_no_contrast(self, model, prompts):
        assert abs(Reader(model, prompts[0], prompts[0], max_new_tokens=8).contrast) < CONTRAST

    def test_a_wrecked_model_is_not_likely(self, model, reader):
        (wrecked,) = effects_of(reader, "elicit", [clamping(model, 1e4).elicit(1.0)])
        assert wrecked.likely <= 0.5
        assert wrecked.share <= wrecked.likely
        assert wrecked.n == 6

    def test_an_answer_without_an_end_does_not_count_where_natural_ones_end(self, model, prompts, monkeypatch):
        reader = Reader(model, *prompts, max_new_tokens=8)
        monkeypatch.setattr(reader, "_floor", -math.inf)
        assert effects_of(reader, "elicit", [clamping(model, 0.1).elicit()])[0].likely == 1
        monkeypatch.setattr(reader, "_must_end", True)
        monkeypatch.setattr(reader, "_known", {})
        monkeypatch.setattr(model, "is_ended", lambda answer: False)
        assert effects_of(reader, "elicit", [clamping(model, 0.1).elicit()])[0].likely == 0

    def test_steerings_and_inputs_are_judged_alike_alone_and_together(self, model, reader):
        steerings = [clamping(model, value).elicit(1.0) for value in (0.1, 2.0, 5.0)]
        together = effects_of(reader, "elicit", steerings, n=4)
        assert [effects_of(reader, "elicit", [steering], n=4)[0] for steering in steerings] == together
        assert {found.n for found in together} == {4}
        ways = [(way, steering) for steering in steerings for way in ("suppress", "elicit")]
        assert reader.effects(ways, n=4)[1::2] == together
        assert reader.effects(ways, n=4)[::2] == effects_of(reader, "suppress", steerings, n=4)

    def test_what_was_read_before_counts_as_if_it_were_read_now(self, model, prompts):
        """The same texts answer several inputs, in both directions; verdicts differ by input and by direction."""
        reader, texts = Reader(model, *prompts, max_new_tokens=8), [(40, 41, 42), (50,), (60, 61)]
        asked = [(way, k, text) for way in ("elicit", "suppress") for k in (0, 3, 5) for text in texts]
        fresh = {key: reader._verdicts(key[0], [key[1]], reader._read([key[1]], [key[2]]))[0] for key in asked}
        assert len(set(fresh.values())) > 2
        steering = clamping(model, 0.1).elicit()
        for again in range(2):
            for text in texts:
                reader._answers = lambda prompts, steerings, limit, text=text: [text] * len(prompts)
                for way in ("elicit", "suppress"):
                    (found,) = reader.effects([(way, steering)])
                    wanted = [reader._verdicts(way, [k], reader._read([k], [text]))[0] for k in range(reader.n)]
                    assert found.turned == sum(one.turned for one in wanted) / reader.n, again
                    assert found.likely == sum(one.likely for one in wanted) / reader.n
                    counting = sum(one.degree for one in wanted if one.turned and one.likely)
                    assert found.degree == pytest.approx(counting / reader.n)

    def test_side_effects_are_measured_where_nothing_is_to_be_done(self, model, reader, prompts):
        weak, strong = (clamping(model, value) for value in (0.1, 3.0))
        for direction, side in (("elicit", 0), ("suppress", 1)):
            sizes = [reader.side_effect(direction, v.steering(direction, 1.0), 4) for v in (weak, strong)]
            assert 0 <= sizes[0] < sizes[1]
            steering = strong.steering(direction, 1.0)
            answers = model.respond(prompts[side][:4], max_new_tokens=8)
            found = kl_divergences(
                model,
                final_states(model, prompts[side][:4], answers),
                final_states(model, prompts[side][:4], answers, [steering] * 4),
            )
            assert sizes[1] == pytest.approx(sum(float(part.mean()) for part in found) / 4, rel=1e-3)

    def test_one_pair_is_refused(self, model, prompts):
        with pytest.raises(InputError, match="at least two"):
            Reader(model, prompts[0][:1], prompts[1][:1], max_new_tokens=8)

    def test_answers_stay_within_the_context(self, model, prompts):
        longest = max(len(prompt.ids) for part in prompts for prompt in part)
        assert Reader(model, *prompts, max_new_tokens=100_000)._limit + longest <= model.context_length


@pytest.fixture
def told_apart(monkeypatch):
    """A random model answers all prompts alike; here its readers do not mind."""
    monkeypatch.setattr(search, "CONTRAST", -1.0)


class TestFit:
    def test_a_fit_keeps_its_curves_and_multipliers(self, model, told_apart):
        vector = tt.fit("cdas", model, numbered(48), layer=1, epochs=1, batch_size=8)
        found = vector.provenance["calibration"]
        assert found["held_out"] is True
        assert found["inputs"] == 16
        assert vector.provenance["data"]["pairs"] == 32
        for direction in ("elicit", "suppress"):
            rows = found["directions"][direction]["curve"]
            assert [row[0] for row in rows] == sorted(row[0] for row in rows)
            assert {*START} <= {row[0] for row in rows}
            effect_, best = found["directions"][direction]["effect"], max(row[1] for row in rows)
            assert best - 1.01 / 16 <= effect_ <= best  # one answer less is given away for less strength
            stored = vector.multipliers.get(direction)
            assert (stored is None) == (effect_ <= search.FEW)
            if stored is not None:
                assert [row[1] for row in rows if row[0] == stored] == [effect_]

    def test_it_survives_saving(self, model, tmp_path, told_apart):
        vector = tt.fit("cdas", model, numbered(12), layer="auto", epochs=1, batch_size=4)
        vector.save(tmp_path / "v")
        again = SteeringVector.load(tmp_path / "v")
        assert again.multipliers == vector.multipliers
        assert again.provenance["calibration"] == vector.provenance["calibration"]
        assert again.provenance["layers"] == vector.provenance["layers"]

    def test_the_vector_itself_is_the_uncalibrated_one_on_the_same_pairs(self, model, told_apart):
        settings = {"layer": 1, "epochs": 1, "batch_size": 4}
        given = tt.fit("cdas", model, numbered(12), calibration_pairs=numbered(4), **settings)
        plain = tt.fit("cdas", model, numbered(12), calibrate=False, **settings)
        ours, theirs = (v.edits[0].intervention.transform.directions for v in (given, plain))
        assert torch.equal(ours, theirs)
        assert plain.multipliers == {}
        assert "calibration" not in plain.provenance

    def test_what_cannot_be_calibrated_on_is_refused_before_the_fit(self, model, monkeypatch):
        monkeypatch.setattr("trimtab.methods.cdas.fit_interchange", lambda *_: pytest.fail("fitted"))
        with pytest.raises(InputError, match="too few pairs to calibrate on: 1"):
            tt.fit("cdas", model, numbered(12), layer=1, calibration_pairs=numbered(1))

    def test_many_inputs_are_drawn_and_not_the_first(self, model, monkeypatch):
        taken = []
        monkeypatch.setattr(search, "tokenise_pairs", lambda _, pairs, **__: taken.extend(pairs) or [])
        with pytest.raises(InputError):
            Search(model, Split(numbered(4), numbered(200)))
        places = [list(numbered(200)).index(pair) for pair in taken]
        assert places == sorted({*places})
        assert len(places) == MOST_INPUTS
        assert max(places) > 150

    def test_inputs_without_room_for_an_answer_are_left_out(self, caplog):
        def pair(tokens):
            prompt = SimpleNamespace(ids=(0,) * tokens)
            return SimpleNamespace(positive=prompt, negative=prompt)

        short, long = [pair(20)] * 20, [pair(200)]
        assert with_room([*short, *long], 256) == short
        assert with_room(short, 256) == short
        assert not caplog.records
        assert with_room([*short[:10], *long], 256) == [*short[:10], *long]  # too few without it
        assert "leave 56 of a context of 256" in caplog.text

    def test_a_given_order_learns_from_all_pairs(self, model):
        order = torch.arange(50)[None].numpy()
        vector = tt.fit("cdas", model, numbered(50), layer=1, epochs=1, order=order)
        assert vector.provenance["data"]["pairs"] == 50
        assert vector.provenance["calibration"]["held_out"] is False

    def test_a_chosen_layer_without_calibration_learns_from_all_pairs(self, model, told_apart):
        vector = tt.fit("cdas", model, numbered(48), layer="auto", epochs=1, calibrate=False)
        assert vector.provenance["data"]["pairs"] == 48
        assert vector.provenance["layers"]
        assert vector.multipliers == {}

    def test_classes_that_read_alike_leave_the_multiplier_at_one_and_say_so(self, model, caplog, monkeypatch):
        monkeypatch.setattr(search, "CONTRAST", 1.1)
        with caplog.at_level(logging.WARNING):
            vector = tt.fit("cdas", model, numbered(12), layer="auto", epochs=1)
        assert vector.multipliers == {}
        assert vector.edits[0].intervention.site.layer == 1
        assert "too much alike" in caplog.text

    def test_a_vector_that_does_nothing_stays_at_one_and_says_so(self, model, caplog, monkeypatch, told_apart):
        monkeypatch.setattr(Reader, "effects", lambda self, tries, n=None: [effect(0.0) for _ in tries])
        with caplog.at_level(logging.WARNING):
            vector = tt.fit("cdas", model, numbered(12), layer=1, epochs=1)
        assert vector.multipliers == {}
        assert "no multiplier" in caplog.text

    @pytest.mark.parametrize("method", ["cdas", "das", "kldas", "pdas", "cdas-loreft", "diffmean"])
    def test_auto_picks_a_layer_for_every_kind_of_method(self, model, method, told_apart):
        short = {"epochs": 1} if "epochs" in {field.name for field in fields(METHODS[method].settings)} else {}
        vector = tt.fit(method, model, numbered(12), layer="auto", **short)
        trials = vector.provenance["layers"]
        assert {entry["layer"] for entry in trials} == {0, 1, 2}
        assert vector.edits[0].intervention.site.layer in {entry["layer"] for entry in trials}

    @pytest.mark.parametrize(("layer", "best"), [(1, "response"), ("auto", "tokens")])
    def test_the_reading_that_turns_most_answers_is_taken(self, model, told_apart, monkeypatch, layer, best):
        pairs, tried = numbered(12), []
        alone = {
            reading: tt.fit("diffmean", model, pairs, layer=1, reading=reading, calibrate=False)
            for reading in ("tokens", "last", "response")
        }

        def effects(self, tries, n=None):
            """Only the vector of the one reading at layer 1 does anything."""
            found = []
            for way, steering in tries:
                (one,), wanted = steering.interventions, alone[best].steering(way, 1.0).interventions[0]
                cosine = torch.cosine_similarity(one.transform.vector, wanted.transform.vector, dim=0)
                tried.append((one.site.layer, round(float(cosine), 3)))
                found.append(effect(0.8 if one.site == wanted.site and cosine > 0.9999 else 0.1))
            return found

        monkeypatch.setattr(Reader, "effects", effects)
        vector = tt.fit("diffmean", model, pairs, layer=layer, reading="auto")
        assert torch.equal(
            vector.edits[0].intervention.transform.vector, alone[best].edits[0].intervention.transform.vector
        )
        assert vector.settings["reading"] == best
        found = {row["reading"]: row["effect"] for row in vector.provenance["readings"]}
        assert [*found] == ["tokens", "last", "response"]  # diffmean's own first
        assert max(found, key=found.__getitem__) == best
        assert len({*tried}) >= 3 * (1 if layer == 1 else 3)

    def test_a_reading_that_turns_nearly_all_ends_the_search_and_one_that_is_refused_drops_out(
        self, model, told_apart, monkeypatch
    ):
        monkeypatch.setattr(Reader, "effects", lambda self, tries, n=None: [effect(1.0) for _ in tries])
        alike = PairSet([replace(pair, negative_input=pair.positive_input) for pair in numbered(12)])
        vector = tt.fit("lat", model, alike, layer=1, reading="auto")  # at the prompt's last token all are the same
        assert [row["reading"] for row in vector.provenance["readings"] if "effect" in row] == ["response"]
        assert [row["reading"] for row in vector.provenance["readings"] if "refused" in row] == ["last"]

    def test_only_what_concerns_the_reading_that_is_taken_is_said(self, model, told_apart, monkeypatch, caplog):
        pairs = numbered(12)
        good = tt.fit("diffmean", model, pairs, layer=1, reading="response", calibrate=False).steering("elicit", 1.0)

        def effects(self, tries, n=None):
            way = good.interventions[0].transform.vector
            mine = [steering.interventions[0].transform.vector for _, steering in tries]
            return [effect(0.8 * float(torch.cosine_similarity(one, way, dim=0).abs() > 0.9999)) for one in mine]

        monkeypatch.setattr(Reader, "effects", effects)
        with caplog.at_level(logging.WARNING):
            tt.fit("diffmean", model, pairs, layer=1, reading="auto")
        assert not caplog.records
        with caplog.at_level(logging.WARNING):
            tt.fit("diffmean", model, pairs, layer=1, reading="last")
        assert "no multiplier" in caplog.text

    def test_nothing_is_said_of_readings_where_none_could_help(self, model, told_apart, monkeypatch, caplog):
        monkeypatch.setattr(Reader, "effects", lambda self, tries, n=None: [effect(0.2) for _ in tries])
        with caplog.at_level(logging.WARNING):
            tt.fit("random", model, numbered(12), layer=1)
        assert "reading" not in caplog.text

    def test_a_poor_reading_is_told_of(self, model, told_apart, monkeypatch, caplog):
        monkeypatch.setattr(Reader, "effects", lambda self, tries, n=None: [effect(0.2) for _ in tries])
        with caplog.at_level(logging.WARNING):
            tt.fit("diffmean", model, numbered(12), layer=1)
        assert "--set reading=auto" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            tt.fit("cdas", model, numbered(12), layer=1, epochs=1)
        assert "reading" not in caplog.text

    @pytest.mark.parametrize(
        ("method", "calibrate", "said"),
        [("diffmean", False, "found by calibrating"), ("cdas", True, "leave out the setting 'reading'")],
    )
    def test_a_reading_that_cannot_be_looked_for_is_refused(self, model, method, calibrate, said):
        with pytest.raises(InputError, match=said):
            tt.fit(method, model, numbered(12), layer=1, reading="auto", calibrate=calibrate)

    def test_a_reading_is_looked_for_by_fit_alone(self, model):
        with pytest.raises(InputError, match="name a reading here"):
            tt.fit_layers("diffmean", model, numbered(12), layers=[1], reading="auto")
        with pytest.raises(InputError, match="name a reading here"):
            tt.fit_many("diffmean", model, {"one": numbered(12)}, layer=1, reading="auto")

    def test_a_layer_that_a_method_refuses_drops_out(self, model, told_apart, monkeypatch, caplog):
        plain = METHODS["diffmean"].fit

        def picky(model, pairs, settings, options):
            if settings.layer != 2:
                raise InputError(f"not at layer {settings.layer}")
            return plain(model, pairs, settings, options)

        monkeypatch.setattr(registry, "METHODS", {**METHODS, "diffmean": replace(METHODS["diffmean"], fit=picky)})
        with caplog.at_level(logging.WARNING):
            vector = tt.fit("diffmean", model, numbered(12), layer="auto")
        assert vector.edits[0].intervention.site.layer == 2
        assert "layer 0 drops out of the search: not at layer 0" in caplog.text
        monkeypatch.setattr(
            registry,
            "METHODS",
            {
                **METHODS,
                "diffmean": replace(METHODS["diffmean"], fit=lambda *_: picky(*_[:2], SimpleNamespace(layer=0), None)),
            },
        )
        with pytest.raises(InputError, match="not at layer 0"):
            tt.fit("diffmean", model, numbered(12), layer="auto")

    def test_several_methods_chosen_together_are_what_each_is_alone(self, model, told_apart):
        pairs = numbered(4)
        fits = {
            name: {layer: tt.fit(name, model, pairs, layer=layer, calibrate=False) for layer in layers}
            for name, layers in {"diffmean": (0, 2), "lda": (1,)}.items()
        }
        together = Search(model, Split(pairs, pairs)).best_of(fits)
        for name, by_layer in fits.items():
            (alone,) = Search(model, Split(pairs, pairs)).best_of({name: by_layer}).values()
            assert together[name].multipliers == alone.multipliers
            assert together[name].content_hash == alone.content_hash
        (single,) = fits["lda"].values()
        assert together["lda"].multipliers == Search(model, Split(pairs, pairs)).calibrated(single).multipliers
        assert Search(model, Split(pairs, pairs)).best_of({}) == {}

    def test_the_command_line_takes_the_same_words_for_a_layer(self):
        assert tuple(AUTO) == options.AUTO
        assert [options.parse_layer(word) for word in AUTO] == [*AUTO]
        with pytest.raises(InputError, match="auto:suppress"):
            options.parse_layer("auto:both")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"layer": "middle"}, "auto:elicit"),
            ({"layer": 1, "calibrate": False, "calibration_pairs": numbered(4)}, "off"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, model, given, said):
        with pytest.raises(InputError, match=said):
            tt.fit("cdas", model, numbered(12), **given)

    @pytest.mark.parametrize("best", [0, 1, 2])
    def test_the_trace_is_that_of_the_vector(self, model, told_apart, monkeypatch, tmp_path, best):
        """Several whole fits are made, and each writes a trace; the one that stays is of the layer that was found."""
        at = lambda steering: steering.interventions[0].site.layer  # noqa: E731
        monkeypatch.setattr(
            Reader, "effects", lambda self, tries, n=None: [effect(0.95 if at(s) == best else 0.8) for _, s in tries]
        )
        trace = tmp_path / "trace.npz"
        vector = tt.fit("cdas", model, numbered(24), layer="auto", epochs=2, batch_size=8, trace=trace)
        (edit,) = vector.edits
        assert edit.intervention.site.layer == best
        with np.load(trace) as written:
            assert np.allclose(written["vecs"][-1], edit.intervention.transform.directions[0].numpy(), atol=1e-6)


class TestLayers:
    def search(self, model, effects):
        """A search in which a vector at a layer has the effect that `effects` says."""
        found = Search(model, Split(numbered(4), numbered(4)))
        found._best = lambda vectors, grid, n: [
            {
                "elicit": (effect(effects(v.edits[0].intervention.site.layer)), v.elicit(1.0)),
                "suppress": (effect(0.5), v.suppress(1.0)),
            }
            for v in vectors
        ]
        return found

    def test_of_layers_alike_the_one_with_the_least_side_effect_wins(self, model, told_apart, monkeypatch):
        found = self.search(model, lambda layer: 0.9)
        spilt = {0: 0.3, 1: 0.1, 2: 0.2}
        monkeypatch.setattr(
            found._reader, "side_effect", lambda way, steering, n: spilt[steering.interventions[0].site.layer]
        )
        assert found.layer(*2 * [lambda pairs, layer: clamping(model, 1.0, layer)])[0] == 1

    def test_what_else_a_vector_moves_is_read_from_whole_fits(self, model, told_apart, monkeypatch):
        """Short fits at layer 1 move least, whole ones at layer 2; all turn as many answers."""
        found, spilt = self.search(model, lambda layer: 0.9), {1.0: (0.2, 0.1, 0.3), 2.0: (0.3, 0.2, 0.1)}

        def side_effect(way, steering, n):
            (edit,) = steering.interventions
            return spilt[round(abs(float(edit.transform.values[0])), 3)][edit.site.layer]

        monkeypatch.setattr(found._reader, "side_effect", side_effect)
        made = []
        best, _ = found.layer(
            lambda pairs, layer: clamping(model, 1.0, layer),
            lambda pairs, layer: made.append(layer) or clamping(model, 2.0, layer),
        )
        assert best == 2
        assert sorted(made) == [0, 1, 2]

    def test_neighbours_of_the_best_may_all_diverge(self, model, told_apart):
        assert Search(model, Split(numbered(4), numbered(4)))._tried({}, (1.0,), 2) == {}

    def test_the_best_layer_wins(self, model, told_apart):
        found = self.search(model, lambda layer: [0.1, 0.2, 0.9][layer])
        best, record = found.layer(*2 * [lambda pairs, layer: clamping(model, 1.0, layer)])
        assert best == 2
        assert [entry["layer"] for entry in record if entry["inputs"] == ROUNDS[0][0]] == [0, 1, 2]

    def test_where_no_layer_serves_both_directions_more_strength_is_tried(self, model, told_apart, monkeypatch):
        """Layer 1 elicits at 1 and suppresses at 3 only; the others do neither."""
        found, grids = Search(model, Split(numbered(4), numbered(4))), []

        def best(vectors, grid, n):
            grids.append(grid)
            made = []
            for vector in vectors:
                here = vector.edits[0].intervention.site.layer == 1
                weak, strong = effect(float(here)), effect(float(here and max(grid) > 3))
                made.append({"elicit": (weak, vector.elicit(1.0)), "suppress": (strong, vector.suppress(1.0))})
            return made

        monkeypatch.setattr(found, "_best", best)
        assert found.layer(*2 * [lambda pairs, layer: clamping(model, 1.0, layer)])[0] == 1
        assert grids == [ROUNDS[0][1], search.WIDER]

    def test_in_a_deep_model_neighbours_of_the_best_follow(self, told_apart):
        hf, tokenizer = tiny_model("llama", hidden_size=16, n_blocks=34, seed=0)
        deep, tried, made = Model(hf, tokenizer, name="deep"), [], []

        def fit(layers):
            return lambda pairs, layer: layers.append(layer) or clamping(deep, 1.0, layer)

        found = self.search(deep, lambda layer: max(0.1, 1 - abs(layer - 14) / 8))
        best, _ = found.layer(fit(tried), fit(made))
        assert best == 14  # which is none of the first
        assert 14 not in tried[: search.CANDIDATES]
        assert {10, 14} <= {*tried[-2:]}
        assert len(tried) <= 10
        assert len(made) <= FINALISTS
        assert best in made
        assert max(tried) < 33

    def test_a_layer_that_diverges_drops_out(self, model, told_apart, caplog):
        def trial(pairs, layer):
            if layer == 2:
                raise FitDivergedError("the loss of step 3 is not finite", 3)
            return clamping(model, 1.0, layer)

        with caplog.at_level(logging.WARNING):
            best, _ = self.search(model, lambda layer: [0.1, 0.2, 0.9][layer]).layer(trial, trial)
        assert best == 1
        assert "layer 2 drops out" in caplog.text

    def test_vectors_of_one_direction_compete_in_that(self, model, told_apart):
        one = Search(model, Split(numbered(4), numbered(4)))
        best, record = one.layer(
            *2 * [lambda pairs, layer: replace(clamping(model, 1.0, layer), directions={"elicit": (0,)})]
        )
        assert best in (0, 1, 2)
        assert all("suppress" not in entry for entry in record)

    def test_a_layer_is_found_for_one_direction_alone(self, model, told_apart):
        """Layer 1 elicits well, 2 suppresses well, 0 does some of both."""
        shares = {0: (0.6, 0.6), 1: (1.0, 0.0), 2: (0.0, 1.0)}

        def effects(tries, n=None):
            at = [(way, shares[steering.interventions[0].site.layer]) for way, steering in tries]
            return [effect(pair[0] if way == "elicit" else pair[1]) for way, pair in at]

        chosen = {}
        for directions in (("elicit", "suppress"), ("elicit",), ("suppress",)):
            found = Search(model, Split(numbered(4), numbered(4)), None, directions)
            found._reader.effects = effects
            best, record = found.layer(*2 * [lambda pairs, layer: clamping(model, 1.0, layer)])
            chosen[directions] = best
            assert {*record[0]} == {"layer", "inputs", *directions}
        assert [*chosen.values()] == [0, 1, 2]

    def test_where_short_fits_turn_few_whole_fits_are_made(self, model, told_apart, caplog):
        """Only vectors of whole fits, which clamp to 2, do anything; at layer 2 they suppress but do not elicit."""

        def effects(tries, n=None):
            found = []
            for way, steering in tries:
                (edit,) = steering.interventions
                whole = abs(float(edit.transform.values[0])) > 1.5
                found.append(effect(float(whole and (way, edit.site.layer) in {("elicit", 1), ("suppress", 2)})))
            return found

        found, made = Search(model, Split(numbered(60), numbered(4))), []

        def fit(value):
            def at(pairs, layer):
                made.append((value, len(pairs), layer))
                return clamping(model, value, layer)

            return at

        found._reader.effects = effects
        with caplog.at_level(logging.INFO):
            best, record = found.layer(fit(0.1), fit(2.0))
        assert best == 1  # a vector's main use is to elicit
        assert made == [(0.1, 30, 0), (0.1, 30, 1), (0.1, 30, 2), (2.0, 60, 0), (2.0, 60, 1), (2.0, 60, 2)]
        assert len([row for row in record if row["inputs"] == ROUNDS[0][0]]) == 6
        assert "whole fits are made" in caplog.text
        assert "can suppress at most half" in caplog.text

    def test_where_no_layer_serves_both_the_vector_has_two(self, model, told_apart, monkeypatch, caplog, tmp_path):
        """Whole fits elicit at layer 0 and suppress at layer 2, whatever the multiplier but best at 1."""

        def effects(self, tries, n=None):
            found = []
            for direction, steering in tries:
                layer = steering.interventions[0].site.layer
                found.append(effect(0.95 if (direction, layer) in {("elicit", 0), ("suppress", 2)} else 0.0))
            return found

        monkeypatch.setattr(Reader, "effects", effects)
        split, made = Split(numbered(60), numbered(4)), []

        def fit(pairs, layer):
            made.append(layer)
            return clamping(model, 1.0 + layer, layer)

        with caplog.at_level(logging.WARNING):
            vector = Search(model, split).vector(fit, fit)
        assert len(made) <= 2 * 3  # no layer is fitted a third time for the direction alone
        vector.save(tmp_path / "two")
        for one in (vector, SteeringVector.load(tmp_path / "two")):
            sites = {way: [each.site.layer for each in one.steering(way, 1.0).interventions] for way in one.directions}
            assert sites == {"elicit": [0], "suppress": [2]}
            assert [edit.factors.positive.mean for edit in one.edits] == [(1.0,), (3.0,)]
            curves = one.provenance["calibration"]["directions"]
            assert {way: curve["effect"] for way, curve in curves.items()} == {"elicit": 0.95, "suppress": 0.95}
            assert one.multipliers.keys() == {"elicit", "suppress"}
        assert [record.message for record in caplog.records] == [
            "no layer serves both directions well; the vector has two: layer 0 to elicit, layer 2 to suppress"
        ]
        alone = Search(model, split, directions=("suppress",)).vector(fit, fit)
        assert [edit.intervention.site.layer for edit in alone.edits] == [2]

    def test_where_both_directions_come_from_elsewhere_nothing_is_left_of_the_first_vector(self, model, monkeypatch):
        """Layer 1 serves both by half, layer 0 elicits and layer 2 suppresses throughout."""
        monkeypatch.setattr(search, "CONTRAST", -1.0)
        shares = {("elicit", 0): 0.95, ("suppress", 2): 0.95, ("elicit", 1): 0.45, ("suppress", 1): 0.45}

        def effects(self, tries, n=None):
            return [effect(shares.get((way, one.interventions[0].site.layer), 0.0)) for way, one in tries]

        def fit(pairs, layer):
            return replace(clamping(model, 1.0 + layer, layer), settings={"layer": layer})

        monkeypatch.setattr(Reader, "effects", effects)
        vector = Search(model, Split(numbered(60), numbered(4))).vector(fit, fit)
        sites = {
            way: [each.site.layer for each in vector.steering(way, 1.0).interventions] for way in vector.directions
        }
        assert sites == {"elicit": [0], "suppress": [2]}
        assert vector.settings["layer"] == vector.edits[0].intervention.site.layer == 0
        assert vector.provenance["joined"]["suppress"]["settings"]["layer"] == 2
        assert "elicit" not in vector.provenance["joined"]

    def test_what_is_said_is_of_the_vector_that_is_returned(self, model, told_apart, monkeypatch, caplog):
        """Short fits serve layer 0, where the whole one does nothing; layer 2 is returned, which serves both ways."""

        def effects(self, tries, n=None):
            layers = [
                (steering.interventions[0].site.layer, steering.interventions[0].transform) for _, steering in tries
            ]
            short = [abs(float(transform.values[0])) < 0.01 for _, transform in layers]
            return [
                effect(float(layer == (0 if is_short else 2)))
                for (layer, _), is_short in zip(layers, short, strict=True)
            ]

        monkeypatch.setattr(Reader, "effects", effects)
        found = Search(model, Split(numbered(60), numbered(4)))
        with caplog.at_level(logging.WARNING):
            vector = found.vector(*(lambda _, layer, v=value: clamping(model, v, layer) for value in (1e-4, 2.0)))
        assert vector.edits[0].intervention.site.layer == 2
        assert not caplog.records
        monkeypatch.setattr(Reader, "effects", lambda self, tries, n=None: [effect(0.0) for _ in tries])
        with caplog.at_level(logging.WARNING):
            found.vector(*(lambda _, layer, v=value: clamping(model, v, layer) for value in (1e-4, 2.0)))
        assert caplog.text.count("at most half of the answers") == 1
        assert caplog.text.count("it stays at 1") == 2  # once a direction

    def test_a_whole_fit_that_disappoints_is_compared_with_whole_fits_elsewhere(self, model, told_apart, monkeypatch):
        """The short fit is best at layer 0; of the whole ones, which clamp to 2, that at layer 2 is."""
        whole = {0: 0.6, 1: 0.3, 2: 0.95}

        def effects(self, tries, n=None):
            found = []
            for _, steering in tries:
                (edit,) = steering.interventions
                is_whole = abs(float(edit.transform.values[0])) > 0.01  # short ones clamp to far less
                short = 1.0 if edit.site.layer == 0 else 0.0
                found.append(effect(whole[edit.site.layer] if is_whole else short))
            return found

        monkeypatch.setattr(Reader, "effects", effects)
        search = Search(model, Split(numbered(60), numbered(4)))
        made = []

        def fit(value):
            return lambda pairs, layer: made.append((value, layer)) or clamping(model, value, layer)

        vector = search.vector(fit(1e-4), fit(2.0))
        assert vector.edits[0].intervention.site.layer == 2
        assert vector.provenance["calibration"]["directions"]["elicit"]["effect"] == 0.95
        assert made[:3] == [(1e-4, 0), (1e-4, 1), (1e-4, 2)]
        assert made[3:] == [(2.0, 0), (2.0, 1), (2.0, 2)]  # each is made once
        whole[0] = 0.92  # good enough: nothing else is fitted whole
        made.clear()
        assert search.vector(fit(1e-4), fit(2.0)).edits[0].intervention.site.layer == 0
        assert made[3:] == [(2.0, 0)]

    def test_without_a_short_fit_the_whole_ones_compete_and_are_made_once(self, model, told_apart, monkeypatch):
        monkeypatch.setattr(Reader, "effects", lambda self, tries, n=None: [effect(1.0) for _ in tries])
        search, made = Search(model, Split(numbered(60), numbered(4))), []
        search.vector(None, lambda pairs, layer: made.append((len(pairs), layer)) or clamping(model, 1.0, layer))
        assert made == [(60, 0), (60, 1), (60, 2)]
