"""What is measured in texts, where that puts them, and how far from the place that was asked for."""

import math
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.evaluation.goal_space import GOALS, GoalSpace, Scaler, draw_probe, steerability
from trimtab.evaluation.parts_of_speech import part_of_speech
from trimtab.evaluation.text_measures import (
    formality,
    mtld,
    reading_grade,
    sentences_of,
    share,
    syllables,
    word_count,
    words_of,
)

PLAIN = "The cat sat on the mat. It was warm there, and so the cat slept."
HARD = (
    "Comprehensive institutional evaluation necessitates considerable methodological sophistication, particularly "
    "regarding the representativeness of administrative populations."
)
POINT = st.lists(st.floats(0, 1), min_size=3, max_size=3)


def apart(*points):
    """Whether rounding is small beside the distances between points."""
    return all(math.dist(points[0], other) > 1e-3 for other in points[1:])


class TestSteerability:
    @given(POINT, POINT, POINT)
    def test_error_is_what_is_missing_along_and_across(self, source, target, reached):
        assume(apart(source, target, reached))
        found, way = steerability(source, target, reached), math.dist(source, target)
        assume(found.side_effect < 1)
        across = found.side_effect * (math.dist(source, reached) + 1e-4 * (way + 1e-8))
        assert (found.miscalibration * way) ** 2 + across**2 == pytest.approx(found.error**2, abs=1e-9)

    @given(POINT, POINT, POINT)
    def test_what_moved_across_is_what_is_missing_across_turned_round(self, source, target, reached):
        assume(apart(source, target))
        z0, goal, z = map(np.array, (source, target, reached))
        unit = (goal - z0) / np.linalg.norm(goal - z0)

        def across(step):
            return step - (step @ unit) * unit

        assert across(goal - z) == pytest.approx(-across(z - z0), abs=1e-9)

    @given(POINT, POINT)
    def test_arriving(self, source, target):
        assume(apart(source, target))
        found = steerability(source, target, target)
        assert (found.error, found.miscalibration, found.side_effect) == (0, 0, 0)

    @given(POINT, POINT)
    def test_not_moving(self, source, target):
        assume(apart(source, target))
        found = steerability(source, target, source)
        assert found.error == pytest.approx(math.dist(source, target))
        assert found.miscalibration == pytest.approx(1)
        assert found.side_effect == pytest.approx(0, abs=1e-9)

    @given(st.floats(0.05, 1), st.floats(0.1, 0.7))
    def test_moving_across(self, moved, asked):
        found = steerability([0.2, 0.5, 0.0], [0.2 + asked, 0.5, 0.0], [0.2, 0.5, moved])
        assert found.miscalibration == pytest.approx(1)
        assert found.side_effect == pytest.approx(1, abs=2e-3)
        assert found.side_effect <= 1

    def test_by_hand(self):
        # D = (.4, 0), e = (.1, -.3), M = (.3, .3): e . u = .1, across .3, |M| = .424264.
        found = steerability([0.1, 0.5], [0.5, 0.5], [0.4, 0.8])
        assert found.error == pytest.approx(math.sqrt(0.1))
        assert found.miscalibration == pytest.approx(0.25)
        assert found.side_effect == pytest.approx(0.3 / (math.sqrt(0.18) + 4e-5))

    def test_going_too_far_counts_like_stopping_short(self):
        short, far = (steerability([0.0, 0.0], [0.5, 0.0], [at, 0.0]) for at in (0.4, 0.6))
        assert short.miscalibration == pytest.approx(far.miscalibration) == pytest.approx(0.2)

    def test_what_cannot_be_asked(self):
        with pytest.raises(InputError, match="asks for a change"):
            steerability([0.1, 0.2], [0.1, 0.2], [0.3, 0.2])
        with pytest.raises(InputError, match="2, 3 and 2 goals"):
            steerability([0.1, 0.2], [0.1, 0.2, 0.3], [0.3, 0.2])


class TestProbes:
    @given(POINT, st.integers(0, 10**6))
    def test_a_probe_is_within_bounds(self, source, seed):
        probe = draw_probe(source, random.Random(seed))
        moves = [abs(after - before) for before, after in zip(probe.source, probe.target, strict=True)]
        assert probe == draw_probe(source, random.Random(seed))
        assert 1 <= len(probe.active) <= 3
        for k, move in enumerate(moves):
            assert (0.1 - 1e-9 <= move <= 0.7 + 1e-9) if k in probe.active else move == 0
        assert all(0 <= place <= 1 for place in probe.target)

    def test_all_moves_are_drawn_evenly(self):
        draw = random.Random(0)
        targets = np.array([draw_probe([0.3], draw).target[0] for _ in range(6000)])
        # Room for 0 to 0.2 below and 0.4 to 1.0 above: a quarter of it lies below.
        assert (targets < 0.3).mean() == pytest.approx(0.25, abs=0.02)
        assert np.histogram(targets, [0.4, 0.6, 0.8, 1.0])[0] / 6000 == pytest.approx([0.25] * 3, abs=0.02)
        assert ((targets <= 0.2) | (targets >= 0.4)).all()

    def test_more_goals_than_may_change(self):
        draw = random.Random(0)
        counts = [len(draw_probe([0.5] * 6, draw, most=2).active) for _ in range(400)]
        assert {*counts} == {1, 2}

    def test_no_choice_at_all(self):
        assert draw_probe([0.5], random.Random(0), least_move=0.5, most_move=0.5).target[0] in (0.0, 1.0)

    @pytest.mark.parametrize(
        ("source", "options"),
        [([], {}), ([1.2], {}), ([0.5], {"least_move": 0.6}), ([0.5], {"least_move": 0.0}), ([0.5], {"most": 0})],
    )
    def test_what_has_no_room_is_refused(self, source, options):
        with pytest.raises(InputError):
            draw_probe(source, random.Random(0), **options)


class TestSpace:
    def test_the_middle_of_a_corpus_spans_it(self):
        corpus = ["word " * n for n in range(1, 202)]
        space = GoalSpace.of({"words": word_count}, corpus)
        assert space.record() == {"words": [pytest.approx(6.0), pytest.approx(196.0)]}
        places = [space.place(text)[0] for text in corpus]
        assert places == sorted(places)
        assert (places[0], places[-1]) == (0, 1)
        assert np.mean([0 < place < 1 for place in places]) == pytest.approx(0.95, abs=0.02)
        assert space.place("word " * 101)[0] == pytest.approx(0.5)

    def test_the_goals_of_the_paper(self):
        space = GoalSpace.of(GOALS, [PLAIN, HARD, PLAIN + " " + HARD, "Oh, I really love it! Do you?"])
        place = dict(zip(GOALS, space.place(HARD), strict=True))
        plain = dict(zip(GOALS, space.place(PLAIN), strict=True))
        assert [*GOALS] == ["reading-grade", "variety", "words", "formality-approx"]
        assert place["reading-grade"] > plain["reading-grade"]
        assert place["formality-approx"] > plain["formality-approx"]
        assert all(0 <= value <= 1 for value in [*place.values(), *plain.values()])

    def test_a_goal_that_never_changes_is_refused(self):
        with pytest.raises(InputError, match="'words' is 2"):
            GoalSpace.of({"words": word_count}, ["one two", "three four"])
        with pytest.raises(InputError, match="0 texts"):
            GoalSpace.of({"words": word_count}, [])

    def test_scales_must_fit_the_goals(self):
        with pytest.raises(InputError, match="each goal one scale"):
            GoalSpace(GOALS, Scaler((0.0,), (1.0,)))
        with pytest.raises(InputError, match="below its upper"):
            Scaler((1.0,), (1.0,))
        with pytest.raises(InputError, match="below its upper"):
            Scaler((0.0, 0.0), (1.0,))


class TestMeasures:
    @pytest.mark.parametrize("text", [PLAIN, HARD, "One."])
    def test_doubling_a_text_doubles_its_words_only(self, text):
        double = text + " " + text
        assert word_count(double) == 2 * word_count(text)
        assert reading_grade(double) == pytest.approx(reading_grade(text))
        assert formality(double) == pytest.approx(formality(text), abs=2)  # the word before the first changes

    def test_words_and_sentences(self):
        assert words_of("It's Dr. Vela's well-known \u201cidea\u201d \u2014 no. 7!") == [
            "it's", "dr", "vela's", "well-known", "idea", "no", "7",
        ]  # fmt: skip
        assert sentences_of('Yes! "No?" Version 1.5 is here...\n\nA heading\n\nThe end') == [
            "Yes", '"No', "Version 1.5 is here", "A heading", "The end",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("word", "count"),
        [("cat", 1), ("water", 2), ("make", 1), ("table", 2), ("jumped", 1), ("wanted", 2), ("makes", 1), ("boxes", 2),
         ("the", 1), ("beautiful", 3), ("sky", 1), ("rhythm", 1), ("evaluation", 4), ("7", 1)],
    )  # fmt: skip
    def test_syllables(self, word, count):
        assert syllables(word) == count

    def test_the_reading_grade_by_hand(self):
        # 7 words in 2 sentences; the, cat, jumped, it, was, warm: 1 each, today: 2, so 8 syllables.
        assert reading_grade("The cat jumped. It was warm today.") == pytest.approx(0.39 * 7 / 2 + 11.8 * 8 / 7 - 15.59)
        assert reading_grade(HARD) > 15 > 5 > reading_grade(PLAIN)
        assert reading_grade("") == 0

    def test_variety_by_hand(self):
        # of the people by the people for the people: at the 6th word 4 of 6 differ, a factor; the rest, 3 of 3, none.
        forwards = 9 / 1
        # people the for people the by people the of: at the 5th word 3 of 5, a factor; by people the of: none.
        backwards = 9 / 1
        assert mtld("of the people by the people for the people") == (forwards + backwards) / 2
        # a a a: .5 at the 2nd word; the third alone differs from none of its stretch. 3 words, 1 factor.
        assert mtld("a a a") == 3
        # a b c d a: 4 of 5 = .8 is left: (1 - .8) / (1 - .72) of a factor, either way.
        assert mtld("a b c d a") == pytest.approx(5 / (0.2 / 0.28))
        assert mtld("all of these differ") == 4
        assert mtld("") == mtld("12 34 ...") == 0

    def test_variety_falls_when_words_come_again(self):
        draw, words = random.Random(0), [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
        few, many = (" ".join(draw.choices(words[:n], k=300)) for n in (8, 100))
        assert mtld(few) < mtld(many) < 300
        assert mtld(many.upper()) == mtld(many)

    def test_parts_of_speech(self):
        text = "she quickly wanted to repaint the enormous happiness of london"
        expected = "pronoun adverb verb preposition verb article adjective noun preposition noun"
        words = text.split()
        assert " ".join(map(part_of_speech, words, [None, *words])) == expected
        assert part_of_speech("repaint", "the") == "noun"

    def test_formality_by_hand(self):
        assert formality("the result of the measurement") == 100  # article noun preposition article noun
        assert formality("oh i really know it") == 0  # interjection pronoun adverb verb pronoun
        assert formality("they sleep and the cat") == 50  # two against two, a conjunction for neither
        assert formality("") == 50
        assert formality(HARD) > 85 > formality(PLAIN) > formality("Oh wow, I really do not know what you mean!")

    def test_shares_of_sentences(self):
        questions = share(lambda sentence: sentence.startswith("Why"))
        assert questions("Why not? It is late. Why now? Go.") == 0.5
        assert questions("") == 0
        assert questions("Why? Why? ") == 1
