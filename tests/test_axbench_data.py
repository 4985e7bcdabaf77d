"""AxBench's layout: the published piece of it, made-up pieces of it, and contrast pairs from its positives."""

import json
from collections import Counter

import pyarrow
import pytest
from pyarrow import parquet

from trimtab.cli.main import main
from trimtab.data import load_pairs
from trimtab.data.axbench import (
    SHARED_ID,
    SHARED_NAME,
    axbench_concepts,
    choose_concepts,
    read_detection,
    read_training,
)
from trimtab.data.building.from_axbench import plan_axbench
from trimtab.data.building.plan import Ask, BuildSettings
from trimtab.errors import InputError

CONCEPT = "references to the sea"
ROWS = [
    *(
        {
            "input": f"What is thing {number}?",
            "output": f"It is {number}, far out at sea.",
            "output_concept": CONCEPT,
            "concept_genre": "text",
            "category": "positive",
            "dataset_category": "instruction",
            "concept_id": 0,
        }
        for number in range(6)
    ),
    *(
        {
            "input": f"What is thing {number}?",
            "output": f"A thing on land, number {number}.",
            "output_concept": SHARED_NAME,
            "concept_genre": "text",
            "category": "negative",
            "dataset_category": "instruction",
            "concept_id": SHARED_ID,
        }
        for number in (4, 5, 6, 7, 8, 9)
    ),
]


def make(folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    metadata = {
        "concept_id": 0,
        "concept": CONCEPT,
        "ref": "https://example.org/1",
        "concept_genres_map": {CONCEPT: ["text"]},
    }
    (folder / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train_data.parquet")
    return folder


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "axbench")


@pytest.fixture
def published(shared):
    return shared / "data/axbench-concept10"


class TestPublished:
    def test_training_holds_72_positives_a_concept_and_72_negatives_a_genre(self, published):
        concepts = axbench_concepts(published)
        assert [concept.number for concept in concepts] == list(range(10))
        assert Counter(concept.genre for concept in concepts) == {"text": 5, "code": 4, "math": 1}
        training = read_training(published)
        assert len(training.rows) == 72 * 10 + 72 * 3
        for concept in concepts:
            rows = training.positives(concept.number)
            assert len(rows) == 72
            assert {(row.concept, row.genre) for row in rows} == {(concept.name, concept.genre)}
        for genre in ("text", "code", "math"):
            assert len(training.negatives(genre)) == 72
            assert {row.concept for row in training.negatives(genre)} == {SHARED_NAME}

    def test_detection_holds_36_rows_a_class_and_hard_negatives_with_another_meaning(self, published):
        rows = read_detection(published)
        counts = Counter((row.concept_id, row.category) for row in rows)
        for number in range(10):
            assert counts[number, "positive"] == counts[number, "negative"] == 36
            assert 1 <= counts[number, "hard negative"] <= 8
        assert all(("//" in row.concept) == (row.category == "hard negative") for row in rows)

    def test_shared_negatives_are_used_once_and_where_it_can_be_on_the_same_instruction(self, published, tmp_path):
        out = tmp_path / "pairs.parquet"
        line = ["pairs", "build", "--from-axbench", published, "--negatives", "shared", "--out", out]
        assert main([*map(str, line)]) == 0
        training = read_training(published)
        for concept in axbench_concepts(published):
            pairs = load_pairs(out, concept=concept.number)
            positives = training.positives(concept.number)
            assert len(pairs) == 72
            assert [pair.positive_output for pair in pairs] == [row.output for row in positives]
            assert [pair.positive_input[1]["content"] for pair in pairs] == [row.instruction for row in positives]
            assert all(concept.name.rstrip(" .") in pair.positive_input[0]["content"] for pair in pairs)
            shared_rows = {(row.instruction, row.output) for row in training.negatives(concept.genre)}
            taken = [(pair.negative_input, pair.negative_output) for pair in pairs]
            assert set(taken) == shared_rows  # all 72, each once
            both = {row.instruction for row in positives} & {text for text, _ in shared_rows}
            assert both  # or the next line says nothing
            for pair in pairs:
                instruction = pair.positive_input[1]["content"]
                assert (pair.negative_input == instruction) == (instruction in both)
        assert not (tmp_path / "pairs.parquet.partial").exists()


class TestPlan:
    def test_negatives_are_written_for_the_same_instruction(self, folder):
        plan = plan_axbench(read_training(folder), axbench_concepts(folder), BuildSettings(), limit=4)
        assert len(plan.drafts) == len(plan.asks) == 4
        for number, draft in enumerate(plan.drafts):
            assert draft.positive == f"It is {number}, far out at sea."
            assert draft.negative_input == draft.instruction == f"What is thing {number}?"
            assert isinstance(draft.negative, Ask)
            assert draft.negative.messages == ({"role": "user", "content": draft.instruction},)

    def test_shared_negatives_depend_on_the_seed_alone(self, folder):
        def taken(seed):
            plan = plan_axbench(
                read_training(folder), axbench_concepts(folder), BuildSettings(seed=seed), negatives="shared"
            )
            return [draft.negative_input for draft in plan.drafts]

        assert taken(0) == taken(0)
        assert len({tuple(taken(seed)) for seed in range(5)}) > 1
        assert taken(0)[4:] == ["What is thing 4?", "What is thing 5?"]
        assert sorted(taken(0)[:4]) == [f"What is thing {number}?" for number in (6, 7, 8, 9)]

    def test_shared_negatives_repeat_only_after_all_were_taken(self, folder):
        rows = [row for row in ROWS if row["concept_id"] == 0 or row["input"][-2] in "67"]
        plan = plan_axbench(
            read_training(make(folder, rows)), axbench_concepts(folder), BuildSettings(), negatives="shared"
        )
        assert set(Counter(draft.negative_input for draft in plan.drafts).values()) == {3}

    def test_the_model_answers_the_plain_instruction(self, folder, tiny_path, tmp_path, capsys):
        out = tmp_path / "pairs.jsonl"
        line = ["pairs", "build", "--from-axbench", folder, "--model", tiny_path, "--out", out, "--place", "user"]
        assert main([*map(str, line), "--max-response-tokens", "8", "--allow-refusals", "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["planned"] == {CONCEPT: 6}
        assert summary["answers"]["written"] == 6
        pairs = load_pairs(out)
        assert len(pairs) == summary["pairs"] >= 1
        assert all(pair.positive_input.startswith(f"{pair.negative_input}\n\n") for pair in pairs)


def test_concepts_are_chosen_by_name_or_number(folder):
    concepts = axbench_concepts(folder)
    assert choose_concepts(concepts, ["0"]) == choose_concepts(concepts, [CONCEPT]) == choose_concepts(concepts, [])
    with pytest.raises(InputError, match=r"'7'.*0 \(references to the sea\)"):
        choose_concepts(concepts, ["7"])


def row(**changes):
    return {**ROWS[0], **changes}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{key: value for key, value in ROWS[0].items() if key != "output"}], "row 1: column 'output' is missing"),
        ([ROWS[0], row(category="pos")], "row 2: column 'category' is 'pos'; allowed: positive"),
        ([row(concept_id=-1)], "row 1: concept_id -1 marks shared negatives, and this row is positive"),
        ([row(concept_id=-2)], "row 1: column 'concept_id' is -2"),
        ([row(output=None), ROWS[0]], "row 1: column 'output' is None; give a text"),
    ],
)
def test_a_wrong_row_is_named(folder, rows, said):
    with pytest.raises(InputError) as caught:
        read_training(make(folder, rows))
    assert said in str(caught.value)


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        read_training(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no latent_eval_data\.parquet"):
        read_detection(folder)
    training, concepts = read_training(folder), axbench_concepts(folder)
    with pytest.raises(InputError, match=r"no positive row of concept 3 .*it has rows of 0"):
        plan_axbench(training, [type(concepts[0])("another", 3)], BuildSettings())
    only_code = [row(concept_genre="code"), *ROWS[6:]]
    with pytest.raises(InputError, match="no shared negative of the genre 'code'"):
        plan_axbench(read_training(make(folder, only_code)), concepts, BuildSettings(), negatives="shared")
