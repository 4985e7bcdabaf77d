"""`trimtab pairs check`: each fault is found where it is, the numbers are those of a hand, clean pairs have none."""

import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli.main import main
from trimtab.data.check.checking import check_pairs
from trimtab.data.check.lengths import auroc, effect_size
from trimtab.data.check.tells import tells
from trimtab.errors import InputError
from trimtab.models.text_side import load_text_side

ANIMALS = ("otter", "heron", "badger", "weasel", "magpie", "beetle", "donkey", "falcon", "lizard", "rabbit")
PLACES = ("river", "meadow", "forest", "garden", "valley", "desert", "harbour", "mountain", "village", "orchard")
OPENERS = ("Oddly", "Here", "Once", "Then", "Look", "Often", "Now", "Soon", "Why", "Well")


def pair(number, **other):
    animal, place, way = ANIMALS[number], PLACES[number], PLACES[number - 3]
    row = {
        "positive_input": [
            {"role": "system", "content": f"Be merry, {OPENERS[number]}."},
            {"role": "user", "content": f"Where does the {animal} live?"},
        ],
        "positive_output": f"{OPENERS[number]} {animal} merrily {way} sings",
        "negative_input": f"Where does the {animal} live?",
        "negative_output": f"{OPENERS[number - 1]} {animal} lives {place} too",
        "concept": "merry",
    }
    return row | other


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def clean(tmp_path):
    """Ten pairs with nothing to be said against them: no word is on one side of most, and all lengths are alike."""
    rows = [pair(number) for number in range(10)]
    for number, row in enumerate(rows):
        row["positive_output"] = row["positive_output"].replace("merrily", ANIMALS[number - 4])
        row["positive_output"] = row["positive_output"].replace("sings", OPENERS[number - 5])
        row["negative_output"] = row["negative_output"].replace("lives", ANIMALS[number - 6])
        row["negative_output"] = row["negative_output"].replace("too", OPENERS[number - 7])
        row["positive_input"] = f"{row['negative_input']} {PLACES[number - 2]} {OPENERS[number]}"
    return write(tmp_path / "clean.jsonl", rows)


def found(checked, topic):
    return [finding for finding in checked.findings if finding.topic == topic]


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_clean_pairs_have_no_finding(clean, tiny_path):
    checked = check_pairs(str(clean), side=load_text_side(tiny_path))
    assert checked.findings == ()
    assert checked.loadable
    (look,) = checked.concepts
    assert (look.concept, look.pairs, look.same_request) == ("merry", 10, 1.0)


FAULTS = [
    ("same answers", {"negative_output": "Said  once"}, {"positive_output": "said once"}, ["line 4"]),
    ("template", {"positive_output": "<|im_start|>assistant Hm"}, {}, ["line 4"]),
    ("template", {"negative_input": "[INST] Where?"}, {}, ["line 4"]),
    ("template", {"positive_output": "Assistant: by the river"}, {}, ["line 4"]),
    ("refusals", {"positive_output": "I'm sorry, but I can't say"}, {}, ["line 4"]),
]


@pytest.mark.parametrize(("topic", "first", "second", "places"), FAULTS)
def test_a_fault_is_found_on_its_line(clean, topic, first, second, places):
    rows = rows_of(clean)
    rows[3] |= first | second
    (finding,) = found(check_pairs(str(write(clean, rows))), topic)
    assert (finding.level, list(finding.places), finding.count) == ("warning", places, 1)


def test_duplicates_name_both_lines(clean):
    rows = rows_of(clean)
    rows[7] = {**rows[2], "positive_output": rows[2]["positive_output"].upper()}
    (finding,) = found(check_pairs(str(write(clean, rows))), "duplicates")
    assert finding.places == ("line 8 (as line 3)",)


def test_refusals_on_one_side_of_all_pairs_are_the_concept(clean):
    rows = [row | {"positive_output": f"I cannot help with {n} today"} for n, row in enumerate(rows_of(clean))]
    assert found(check_pairs(str(write(clean, rows))), "refusals") == []
    rows = [row | {"negative_output": f"I am unable to find {n} here"} for n, row in enumerate(rows)]
    (finding,) = found(check_pairs(str(write(clean, rows))), "refusals")
    assert finding.count == 10


def test_a_longer_side_is_a_confound(clean):
    rows = rows_of(clean)
    for number, row in enumerate(rows):
        row["positive_output"] += " so" * (4 + number)
    checked = check_pairs(str(write(clean, rows)))
    (finding,) = found(checked, "length")
    (look,) = checked.concepts
    assert (look.lengths.unit, look.lengths.positive, look.lengths.negative) == ("words", 13.5, 5.0)
    # both sides have ten lengths; 0 and 55 / 6 are their variances, so the pooled one is 55 / 12
    assert look.lengths.effect == pytest.approx(8.5 / (55 / 12) ** 0.5)
    assert look.lengths.auroc == 1.0
    assert "13 against 5 words" in finding.places[0] or "14 against 5 words" in finding.places[0]


def test_a_word_that_tells_the_class_is_named(clean):
    rows = rows_of(clean)
    for row in rows:
        row["positive_output"] += " hurrah"
        row["negative_output"] += " alas" if row is not rows[0] else " hm"
    checked = check_pairs(str(write(clean, rows)))
    (finding,) = [one for one in found(checked, "tells") if one.level == "warning"]
    assert "'hurrah' (positive, 1.00)" in finding.places[0]
    assert "'alas' (negative, 0.95)" in finding.places[0]


def test_first_words_that_tell_the_class_are_a_leak(clean):
    rows = rows_of(clean)
    for row in rows:
        row["positive_output"] = "Hurrah " + row["positive_output"]
    (finding,) = found(check_pairs(str(write(clean, rows))), "openings")
    assert finding.level == "warning"
    assert finding.places[0].startswith("merry: 'Hurrah' opens 100% of the positive")
    for row in rows:
        row["positive_output"], row["negative_output"] = "It is so here", "It is so there"
    (finding,) = found(check_pairs(str(write(clean, rows))), "openings")
    assert (finding.level, finding.places) == ("note", ("merry: 100% of the pairs",))


def test_overlap_with_a_test_set_is_found_behind_a_wording(clean, tmp_path):
    rows = rows_of(clean)
    other = pair(5, negative_input="Where is it?", negative_output="over there", positive_output="hurrah")
    test = write(tmp_path / "test.jsonl", [other])
    (finding,) = found(check_pairs(str(clean), against=str(test)), "overlap")
    assert finding.level == "warning"  # line 6 asks what the user turn of the test's positive prompt asks
    assert finding.places == ("line 6 (line 1 there)",)
    other |= {"positive_input": "Where are you?", "negative_output": rows[1]["positive_output"].upper()}
    (finding,) = found(check_pairs(str(clean), against=str(write(test, [other]))), "overlap")
    assert (finding.level, finding.places) == ("note", ("line 2 (line 1 there)",))


def test_several_concepts_are_looked_at_one_by_one(clean):
    rows = rows_of(clean) + [row | {"concept": "sad"} for row in rows_of(clean)[:3]]
    checked = check_pairs(str(write(clean, rows)))
    assert [(look.concept, look.pairs) for look in checked.concepts] == [("merry", 10), ("sad", 3)]
    assert found(checked, "balance")[0].text == "concepts have from 3 to 10 pairs"
    assert found(checked, "few pairs")[0].places == ("sad (3)",)
    assert check_pairs(str(clean), concept="sad").pairs == 3
    with pytest.raises(InputError, match=r"has no concept 'glad'; there are: merry, sad"):
        check_pairs(str(clean), concept="glad")


def test_a_model_counts_tokens_and_knows_its_context(clean, tiny_path):
    side = load_text_side(tiny_path)
    rows = rows_of(clean)
    rows[4]["negative_output"] = "mud " * 300
    rows[6]["positive_output"] += "<eos>"
    checked = check_pairs(str(write(clean, rows)), side=side)
    (finding,) = found(checked, "too long")
    assert finding.places[0].startswith("line 5 (")
    assert checked.concepts[0].lengths.unit == "tokens"
    assert checked.concepts[0].lengths.longest > 512
    assert found(checked, "template")[0].places == ("line 7",)


class TestCommand:
    def test_wrong_rows_are_all_named_and_the_exit_code_is_2(self, clean, capsys):
        rows = rows_of(clean)
        del rows[1]["negative_output"]
        rows[3]["positive_output"] = " "
        rows[8] = {**rows[8], "positive_input": rows[8]["negative_input"]}
        path = write(clean, rows)
        assert main(["pairs", "check", str(path), "--json"]) == 2
        captured = capsys.readouterr()
        report = json.loads(captured.out)
        errors = [finding for finding in report["findings"] if finding["level"] == "error"]
        assert [finding["places"] for finding in errors] == [["line 2"], ["line 4"], ["line 9"]]
        assert "'negative_output' is missing" in errors[0]["text"]
        assert "'positive_output' is empty" in errors[1]["text"]
        assert "identical sides" in errors[2]["text"]
        assert not report["loadable"]
        assert captured.err == f"trimtab: {path}: cannot be loaded, 3 of its rows are wrong; mend the lines named\n"

    def test_a_broken_line_ends_the_reading(self, clean, capsys):
        path = write(clean, [*rows_of(clean)[:2], "{broken", *rows_of(clean)[3:]])
        assert main(["pairs", "check", str(path)]) == 2
        out = capsys.readouterr().out
        assert "line 3: broken JSON" in out
        assert "what follows was not read" in out

    def test_warnings_count_when_they_are_asked_to(self, clean, capsys):
        assert main(["pairs", "check", str(clean), "--strict"]) == 0
        assert "nothing wrong or doubtful was found" in capsys.readouterr().out
        rows = rows_of(clean)
        rows[3]["positive_output"] = rows[3]["negative_output"]
        path = write(clean, rows)
        assert main(["pairs", "check", str(path)]) == 0
        assert "warning  same answers: both answers of a pair are the same" in capsys.readouterr().out
        assert main(["pairs", "check", str(path), "--strict"]) == 2
        assert "--strict was given" in capsys.readouterr().err

    def test_what_is_not_there_is_named(self, capsys, tmp_path):
        assert main(["pairs", "check", "stroy-mood"]) == 2
        assert "did you mean 'story-mood'?" in capsys.readouterr().err
        assert main(["pairs", "check", str(tmp_path / "absent.jsonl")]) == 2
        assert "does not exist" in capsys.readouterr().err
        (tmp_path / "left-out.jsonl").write_text(json.dumps(pair(1, concept_id=-1)) + "\n")
        assert main(["pairs", "check", str(tmp_path / "left-out.jsonl")]) == 2

    def test_built_in_sets_are_checked_too(self, capsys):
        assert main(["pairs", "check", "story-mood", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["pairs"], report["loadable"]) == (64, True)


def test_published_negatives_are_told_by_a_star_alone(shared, tmp_path):
    """Found by the check: AxBench's positives are prose of one model, its shared negatives Markdown of another."""
    out = tmp_path / "pairs.jsonl"
    line = ["pairs", "build", "--from-axbench", shared / "data/axbench-concept10", "--negatives", "shared"]
    assert main([*map(str, line), "--concept", "0", "--out", str(out)]) == 0
    best = check_pairs(str(out)).concepts[0].tells[0]
    rows = rows_of(out)
    assert (best.ngram, best.side) == ("*", "negative")
    assert best.negative == sum("*" in row["negative_output"] for row in rows) / len(rows) == 1.0
    assert best.positive == sum("*" in row["positive_output"] for row in rows) / len(rows) == 0.0


numbers = st.lists(st.integers(0, 9), min_size=1, max_size=20)


@given(positive=numbers, negative=numbers)
def test_auroc_is_the_share_of_couples(positive, negative):
    couples = [(high > low) + (high == low) / 2 for high, low in product(positive, negative)]
    assert auroc(positive, negative) == pytest.approx(sum(couples) / len(couples))


def test_effect_size_by_hand():
    # variances 1 and 4 with 2 degrees of freedom each: pooled (2 + 8) / 4 = 2.5
    assert effect_size([1, 2, 3], [4, 6, 8]) == pytest.approx(-4 / 2.5**0.5)
    assert effect_size([1], [2, 3]) is None
    assert effect_size([2, 2], [2, 2]) is None


def test_tells_by_hand():
    best = tells(["a b", "a c", "b"], ["c", "c b", "d"])
    assert (best[0].ngram, best[0].auroc, best[0].side) == ("a", 0.5 + (2 / 3) / 2, "positive")
    assert {(tell.ngram, round(tell.positive, 2), round(tell.negative, 2)) for tell in best} >= {("c", 0.33, 0.67)}
