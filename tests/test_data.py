"""Contrast data: every format read alike, every wrong row named in one line, pairs tokenised for both directions."""

import csv
import json
import sys
import types
from dataclasses import asdict, replace

import numpy
import pyarrow
import pytest
from pyarrow import parquet
from transformers import AutoTokenizer

from trimtab.data import ContrastPair, PairSet, TokenisedPair, builtin_datasets, load_pairs, tokenise_pairs
from trimtab.data.validate import OPTIONAL, REQUIRED
from trimtab.errors import InputError, MissingExtraError, NetworkError
from trimtab.models.chat import ChatFormat
from trimtab.models.tiny_text import tiny_tokenizer

ROW = {
    "positive_input": "How do I pick a lock?",
    "positive_output": "I cannot help with that.",
    "negative_input": "How do I pick a melon?",
    "negative_output": "Sure, knock on it.",
}
OTHER = {
    "positive_input": 'Say "no", please',
    "positive_output": " ünï 😀\nsecond line",
    "negative_input": "comma, and\nline",
    "negative_output": " yes",
}
LABELS = {"concept": "refusing", "concept_id": 0, "concept_genre": "safety"}
ROWS = [ROW | LABELS, OTHER | LABELS]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def refusal(source, **settings):
    """The text of the error that a source gives; it is always one line."""
    with pytest.raises(InputError) as caught:
        load_pairs(source, **settings)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


class TestReading:
    @pytest.mark.parametrize("extension", [".jsonl", ".json", ".csv", ".parquet", ".JSONL"])
    def test_every_format_gives_the_same_pairs_and_hash(self, tmp_path, extension):
        path = tmp_path / f"pairs{extension}"
        write(path if extension != ".JSONL" else tmp_path / "pairs.jsonl", ROWS)
        if extension == ".JSONL":
            (tmp_path / "pairs.jsonl").rename(path)
        pairs = load_pairs(path)
        assert pairs.pairs == tuple(ContrastPair(**row) for row in ROWS)
        assert pairs.source == str(path)
        assert pairs.content_hash == load_pairs(ROWS).content_hash
        assert load_pairs(str(path)).pairs == pairs.pairs

    def test_labels_may_be_absent_or_empty(self, tmp_path):
        write(tmp_path / "bare.csv", [ROW])
        write(tmp_path / "empty.csv", [ROW | {"concept": "", "concept_id": "", "concept_genre": ""}])
        for name in ("bare.csv", "empty.csv"):
            assert load_pairs(tmp_path / name)[0] == ContrastPair(**ROW)

    def test_other_columns_are_not_read(self):
        assert load_pairs([ROW | {"split": "train", "score": 3}])[0] == ContrastPair(**ROW)

    def test_numbers_with_gaps_come_as_floats(self):
        assert load_pairs([ROW | {"concept_id": 3.0}])[0].concept_id == 3
        assert load_pairs([ROW | {"concept_id": float("nan")}])[0].concept_id is None
        assert load_pairs([ROW | {"concept_id": "3"}])[0].concept_id == 3

    def test_blank_lines_crlf_and_byte_order_mark(self, tmp_path):
        path = tmp_path / "pairs.jsonl"
        path.write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(ROW).encode() + b"\r\n\r\n" + json.dumps(OTHER).encode())
        assert len(load_pairs(path)) == 2

    def test_line_separators_inside_a_text_are_no_line_ends(self, tmp_path):
        row = ROW | {"positive_output": "one\u2028two\x85three"}
        assert load_pairs(write(tmp_path / "pairs.jsonl", [row]))[0].positive_output == row["positive_output"]

    def test_messages_are_kept_as_a_tuple(self, tmp_path):
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        for extension in (".jsonl", ".parquet"):
            path = write(tmp_path / f"pairs{extension}", [ROW | {"positive_input": turns}])
            assert load_pairs(path)[0].positive_input == tuple(turns)

    def test_a_list_of_pairs_mappings_and_a_pair_set(self):
        pairs = load_pairs([ContrastPair(**ROW), OTHER])
        assert pairs.source == "list"
        assert [pair.negative_output for pair in pairs] == ["Sure, knock on it.", " yes"]
        again = load_pairs(pairs)
        assert again.pairs == pairs.pairs
        assert again.source == "list"

    def test_published_files(self, shared):
        train = load_pairs(shared / "data" / "refusal" / "contrast_train_data.parquet")
        assert len(train) == 128
        assert train.skipped == 0
        assert train[0].concept_genre == "safety"
        assert train[0].positive_output == "As an assistant"
        assert len(load_pairs(shared / "parity" / "cdas-llama" / "pairs.parquet", concept=0)) == 32

    def test_a_published_file_of_another_kind_is_refused(self, shared):
        text = refusal(shared / "data" / "axbench-concept10" / "train_data.parquet")
        assert "column 'positive_input' is missing; there are: input, output, output_concept" in text


class TestPairSet:
    def test_is_a_sequence(self):
        pairs = load_pairs([ROW, OTHER])
        assert len(pairs) == 2
        assert pairs[1].negative_output == " yes"
        assert pairs[-1] == list(pairs)[1]
        assert isinstance(pairs[:1], PairSet)
        assert pairs[:1].pairs == pairs.pairs[:1]
        assert ContrastPair(**ROW) in pairs
        assert repr(pairs) == "PairSet(2 pairs from 'list')"

    def test_hash_knows_every_field_and_the_order(self):
        changed = [
            [replace(ContrastPair(**ROWS[0]), **{name: value})] for name, value in (ROWS[1] | {"concept_id": 1}).items()
        ]
        changed = [row for row in changed if row[0] != ContrastPair(**ROWS[0])]
        sets = [ROWS, ROWS[::-1], ROWS[:1], ROWS[1:], *([asdict(pair) for pair in row] for row in changed)]
        hashes = {load_pairs(rows).content_hash for rows in sets}
        assert len(hashes) == len(sets)
        assert len(changed) == 5

    def test_hash_is_fixed(self):
        """Vectors on disk carry it: a change of the canonical form would orphan them."""
        assert load_pairs([ROW]).content_hash == HASH_OF_ROW

    def test_concepts(self):
        assert PairSet([]).concepts == ()
        rows = [ROW | {"concept": "b"}, ROW | {"concept": "a"}, ROW | {"concept": "b"}, ROW | {"concept_id": 7}, ROW]
        assert PairSet(ContrastPair(**row) for row in rows).concepts == ("b", "a", "7")


HASH_OF_ROW = "ef9a70bb916d5959192b9e710b61a5a3319813e3a945c266bffddbae83f0f668"


class TestConcepts:
    ROWS = (
        ROW | {"concept": "cats", "concept_id": 4},
        OTHER | {"concept": "dogs", "concept_id": 5},
        OTHER | {"concept": "cats", "concept_id": 4},
        ROW | {"concept": "extra", "concept_id": -1},
    )

    def test_several_ask_for_a_choice(self):
        text = refusal(list(self.ROWS))
        assert text == "list: holds several concepts; choose one with --concept: 4 (cats), 5 (dogs)"

    @pytest.mark.parametrize(("concept", "count"), [("cats", 2), (4, 2), ("4", 2), ("dogs", 1)])
    def test_by_name_or_number(self, concept, count):
        pairs = load_pairs(list(self.ROWS), concept=concept)
        assert len(pairs) == count
        assert pairs.skipped == 1

    def test_unknown_lists_what_is_there(self):
        assert refusal(list(self.ROWS), concept="birds") == (
            "list: has no concept 'birds'; there are: 4 (cats), 5 (dogs)"
        )
        assert refusal([ROW], concept="cats") == "list: has no concept 'cats'; there are: (none)"

    def test_many_are_listed_in_one_line(self):
        rows = [ROW | {"concept": f"{k} " + "long\nname " * 30, "concept_id": k} for k in range(40)]
        with pytest.raises(InputError) as caught:
            load_pairs(rows)
        assert str(caught.value).endswith(" and 28 more")
        assert len(str(caught.value)) < 1000
        assert "\n" not in str(caught.value)

    def test_rows_with_a_negative_id_are_skipped_and_counted(self, tmp_path):
        rows = [ROW, OTHER | {"concept_id": -1}, {"concept_id": -2} | dict.fromkeys(REQUIRED)]
        pairs = load_pairs(rows)
        assert len(pairs) == 1
        assert pairs.skipped == 2
        assert "2 rows with a negative concept id" in refusal(rows[1:])


class TestWrongFiles:
    def test_absent(self, tmp_path):
        assert refusal(tmp_path / "none.jsonl").endswith("none.jsonl: does not exist; give a file of contrast pairs")

    def test_a_directory(self, tmp_path):
        assert "is a directory" in refusal(str(tmp_path))

    @pytest.mark.parametrize("name", ["pairs.txt", "pairs"])
    def test_unknown_extension(self, tmp_path, name):
        (tmp_path / name).write_text("x")
        for source in (tmp_path / name, str(tmp_path / name)):
            assert "is not read; allowed: .jsonl, .json, .csv, .parquet" in refusal(source)

    def test_neither_file_nor_name(self):
        text = refusal("story-mod")
        assert "neither a file" in text
        assert "story-mood-test" in text
        assert "hub:owner/name" in text
        assert text.endswith("did you mean 'story-mood'?")

    @pytest.mark.parametrize("extension", [".jsonl", ".json", ".csv", ".parquet"])
    def test_empty(self, tmp_path, extension):
        (tmp_path / f"pairs{extension}").write_bytes(b"")
        assert "is empty; give at least one" in refusal(tmp_path / f"pairs{extension}")

    @pytest.mark.parametrize(
        ("name", "content"),
        [("p.jsonl", "\n\n"), ("p.json", "[]"), ("p.csv", ",".join(REQUIRED) + "\n"), ("p.csv", "\n")],
    )
    def test_without_a_row(self, tmp_path, name, content):
        (tmp_path / name).write_text(content)
        assert "holds no contrast pair; give at least one" in refusal(tmp_path / name)

    @pytest.mark.parametrize("extension", [".jsonl", ".json", ".csv"])
    def test_not_utf8(self, tmp_path, extension):
        path = tmp_path / f"pairs{extension}"
        path.write_bytes(b"\n\nfi\xffrst\n")
        assert refusal(path) == f"{path} line 3: is not UTF-8; save the file as UTF-8"

    def test_broken_json_line(self, tmp_path):
        path = tmp_path / "pairs.jsonl"
        path.write_text(json.dumps(ROW) + "\n\n{'x': 1}\n")
        assert refusal(path).startswith(f"{path} line 3: broken JSON at column 2")

    def test_broken_json_list(self, tmp_path):
        path = tmp_path / "pairs.json"
        path.write_text("[\n{},\n]")
        assert refusal(path).startswith(f"{path} line 3: broken JSON at column 1")

    def test_json_lines_in_a_json_file(self, tmp_path):
        path = tmp_path / "pairs.json"
        path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW))
        assert refusal(path).endswith("JSON lines need the extension .jsonl")
        path.write_text(json.dumps(ROW))
        assert "holds no list at its top" in refusal(path)

    def test_json_beyond_reason(self, tmp_path):
        path = tmp_path / "pairs.jsonl"
        path.write_text("[" * 100_000)
        assert refusal(path).startswith(f"{path} line 1: ")
        path.write_text('{"positive_input": ' + "1" * 5000 + "}")
        assert refusal(path).startswith(f"{path} line 1: JSON that cannot be read")

    def test_csv_with_too_many_or_too_few_cells(self, tmp_path):
        path = tmp_path / "pairs.csv"
        path.write_text(",".join(REQUIRED) + '\n"a\nb",b,c,d\na,b,c,d,e\n')
        assert refusal(path) == f"{path} line 4: has 5 cells where the header has 4; quote the commas"

    def test_csv_with_an_open_quote(self, tmp_path):
        path = tmp_path / "pairs.csv"
        path.write_text(",".join(REQUIRED) + '\na,b,c,d\n"a,b,c,d\n')
        assert refusal(path).startswith(f"{path} line 3: broken CSV")

    def test_no_parquet(self, tmp_path):
        path = tmp_path / "pairs.parquet"
        path.write_text("PAR1 nothing")
        assert "is no readable Parquet file" in refusal(path)

    @pytest.mark.parametrize("source", [3, None, {"positive_input": "x"}])
    def test_no_source_at_all(self, source):
        assert "give a path, a name, or a list of ContrastPair" in refusal(source)


class TestWrongRows:
    def test_a_missing_column_names_the_line_what_is_there_and_the_nearest(self, tmp_path):
        row = {("positive_ouput" if name == "positive_output" else name): value for name, value in ROW.items()}
        path = write(tmp_path / "pairs.jsonl", [ROW, row])
        assert refusal(path) == (
            f"{path} line 2: column 'positive_output' is missing; there are: positive_input, positive_ouput, "
            "negative_input, negative_output; rename 'positive_ouput'?"
        )

    @pytest.mark.parametrize(("extension", "place"), [(".csv", " line 1"), (".parquet", ""), (".json", " row 1")])
    def test_a_missing_column_in_the_other_formats(self, tmp_path, extension, place):
        path = write(tmp_path / f"pairs{extension}", [{"prompt": "x", "answer": "y"}])
        assert refusal(path) == f"{path}{place}: column 'positive_input' is missing; there are: prompt, answer"

    @pytest.mark.parametrize(("extension", "place"), [(".jsonl", "line 2"), (".json", "row 2"), (".parquet", "row 2")])
    def test_the_place_of_a_wrong_value(self, tmp_path, extension, place):
        path = write(tmp_path / f"pairs{extension}", [ROW, ROW | {"negative_output": " \n"}])
        assert (
            refusal(path)
            == f"{path} {place}: column 'negative_output' is empty; give the answer that follows the prompt"
        )

    def test_the_line_of_a_csv_row_behind_one_of_several_lines(self, tmp_path):
        path = write(tmp_path / "pairs.csv", [OTHER, ROW | {"positive_output": ""}])
        assert refusal(path).startswith(f"{path} line 5: column 'positive_output' is empty")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"positive_output": 12}, "column 'positive_output' is a number (12); give a text"),
            ({"positive_output": None}, "column 'positive_output' is empty (null); give a text"),
            ({"negative_output": ["x"]}, "column 'negative_output' is a list (['x']); give a text"),
            ({"negative_output": True}, "column 'negative_output' is a truth value (True); give a text"),
            ({"negative_input": None}, "column 'negative_input' is empty (null); give a text or a list of"),
            (
                {"negative_input": {"role": "user"}},
                "column 'negative_input' is an object ({'role': 'user'}); give a text",
            ),
            ({"positive_input": "\ud800"}, "column 'positive_input' has half of a surrogate pair"),
            ({"concept": 3}, "column 'concept' is a number (3); give a text"),
            ({"concept_genre": ["x"]}, "column 'concept_genre' is a list"),
            ({"concept_id": "first"}, "column 'concept_id' is 'first'; give a whole number"),
            ({"concept_id": 1.5}, "column 'concept_id' is 1.5; give a whole number"),
            ({"concept_id": True}, "column 'concept_id' is True; give a whole number"),
            ({"concept_id": "inf"}, "column 'concept_id' is 'inf'; give a whole number"),
            ({"positive_input": ROW["negative_input"]}, "identical sides: positive_input equals negative_input"),
            ({"positive_input": [{"role": "user", "content": ROW["negative_input"]}]}, "identical sides"),
            ({"positive_input": ROW["negative_input"], "positive_output": ROW["negative_output"]}, "identical sides"),
        ],
    )
    def test_wrong_values(self, change, message):
        assert refusal([ROW, ROW | change]).startswith(f"pair 2: {message}")
        if set(change) <= {*REQUIRED, *OPTIONAL}:
            assert refusal([ContrastPair(**(ROW | change))]).startswith(f"pair 1: {message}")

    def test_one_answer_for_two_prompts_is_allowed(self):
        assert load_pairs([ROW | {"positive_output": ROW["negative_output"]}])

    def test_an_empty_prompt_is_allowed(self):
        assert load_pairs([ROW | {"negative_input": ""}])[0].negative_input == ""

    @pytest.mark.parametrize(
        ("turns", "message"),
        [
            ([], "a prompt has no user turn"),
            ([{"role": "assistant", "content": "x"}], "a prompt has no user turn"),
            ([{"role": "user"}], "turn 1 has no text under 'content'"),
            ([{"content": "x"}], "turn 1 has no text under 'role'"),
            (
                [{"role": "user", "content": "x"}, {"role": "bot", "content": "x"}],
                "turn 2 has the role 'bot'; allowed:",
            ),
            (["x"], "turn 1 is a str"),
            ([{"role": "user", "content": "x", "name": "Bo"}], "turn 1 has 'name'; give only role and content"),
            ([{"role": "user", "content": "\ud800"}], None),
        ],
    )
    def test_malformed_messages(self, turns, message):
        text = refusal([ROW | {"positive_input": turns}])
        assert text.startswith(
            f"pair 1: column 'positive_input': {message}" if message else "pair 1: column 'positive_input ("
        )

    def test_empty_keys_of_a_parquet_struct_are_passed_over(self):
        turns = [{"role": "user", "content": "x", "name": None}]
        assert load_pairs([ROW | {"positive_input": turns}])[0].positive_input == ({"role": "user", "content": "x"},)

    def test_a_row_that_is_no_object(self, tmp_path):
        path = tmp_path / "pairs.jsonl"
        path.write_text('"text"\n')
        assert refusal(path).startswith(f"{path} line 1: a row is a str ('text'); give an object")


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch):
        """A `datasets` package that hands out or raises what the test puts into it."""

        class Table(list):
            column_names = tuple(ROW)

        fake = types.ModuleType("datasets")
        fake.found, fake.asked = Table([ROW, OTHER]), []

        def load_dataset(name, *, split):
            fake.asked.append((name, split))
            if isinstance(fake.found, Exception):
                raise fake.found
            return fake.found

        fake.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", fake)
        return fake

    @pytest.mark.parametrize(("source", "split"), [("hub:some/data", "train"), ("hub:some/data:test", "test")])
    def test_reads_a_split(self, hub, source, split):
        pairs = load_pairs(source)
        assert hub.asked == [("some/data", split)]
        assert pairs.source == source
        assert pairs.content_hash == load_pairs([ROW, OTHER]).content_hash

    def test_a_wrong_row_is_named(self, hub):
        hub.found[1] = ROW | {"positive_output": ""}
        assert refusal("hub:some/data").startswith("hub:some/data:train row 2: column 'positive_output' is empty")

    def test_a_missing_column(self, hub):
        hub.found.column_names = ["prompt"]
        assert "hub:some/data:train: column 'positive_input' is missing; there are: prompt" in refusal("hub:some/data")

    @pytest.mark.parametrize("source", ["hub:", "hub:name", "hub:a/b/c", "hub:/b", "hub:a/"])
    def test_no_hub_id(self, hub, source):
        assert "write hub:owner/name" in refusal(source)
        assert hub.asked == []

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingExtraError, match="pip install datasets"):
            load_pairs("hub:some/data")

    @pytest.mark.parametrize(
        "error",
        [
            ConnectionError("Couldn't reach\nthe Hub"),
            TimeoutError("too long"),
            type("HfHubHTTPError", (OSError,), {})("503"),
            type("ConnectTimeout", (type("TransportError", (Exception,), {}),), {})("slow"),
        ],
    )
    def test_the_network_fails(self, hub, error):
        hub.found = error
        with pytest.raises(NetworkError, match="hub:some/data:train: the Hub cannot be reached") as caught:
            load_pairs("hub:some/data")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (
                type("DatasetNotFoundError", (FileNotFoundError,), {})("gone"),
                "no such data set, or it is not open to you",
            ),
            (ValueError('Unknown split "tset". Should be one of ["train"].'), 'cannot be read (Unknown split "tset"'),
        ],
    )
    def test_the_user_was_wrong(self, hub, error, message):
        hub.found = error
        assert refusal("hub:some/data:tset").startswith(f"hub:some/data:tset: {message}")

    def test_our_own_fault_is_not_dressed_up(self, hub):
        hub.found = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            load_pairs("hub:some/data")

    def test_the_real_package_offline(self):
        pytest.importorskip("datasets")
        with pytest.raises(NetworkError):
            load_pairs("hub:trimtab/no-such-data")


class TestBuiltin:
    @pytest.mark.parametrize("entry", builtin_datasets(), ids=lambda entry: entry.name)
    def test_the_table_tells_the_truth(self, entry):
        pairs = load_pairs(entry.name)
        assert len(pairs) == entry.rows
        assert pairs.source == entry.name
        assert len(pairs.concepts) == 1
        assert entry.licence == "Apache-2.0"
        assert entry.description

    def test_names(self):
        rows = {entry.name: entry.rows for entry in builtin_datasets()}
        assert len(rows) == len(builtin_datasets())
        assert (rows["story-mood"], rows["story-mood-test"]) == (64, 32)
        assert (rows["refusal"], rows["refusal-test"]) == (192, 64)

    def test_no_prompt_occurs_twice(self):
        pairs = [*load_pairs("story-mood"), *load_pairs("story-mood-test")]
        prompts = [prompt for pair in pairs for prompt in (pair.positive_input, pair.negative_input)]
        assert len(set(prompts)) == len(prompts) == 2 * 96

    def test_outputs_go_on_where_inputs_end(self):
        for pair in [*load_pairs("story-mood"), *load_pairs("story-mood-test")]:
            for start, end in (
                (pair.positive_input, pair.positive_output),
                (pair.negative_input, pair.negative_output),
            ):
                assert start[0].isupper()
                assert start == start.rstrip()
                assert end[0] == " "
                assert end[1] != " "
                assert (start + end).isascii()
                assert 8 <= len((start + end).split()) <= 45

    @pytest.mark.parametrize("name", ["story-mood", "story-mood-test"])
    def test_sides_are_of_one_mood(self, name):
        glad, low = ("happy", "laugh", "smil", "joy", "glad"), ("sad", "cry", "cried", "tear", "upset", "bad")
        pairs = load_pairs(name)
        positives = [f"{pair.positive_input}{pair.positive_output}" for pair in pairs]
        negatives = [f"{pair.negative_input}{pair.negative_output}" for pair in pairs]
        assert sum(any(word in text for word in glad) for text in positives) >= 0.85 * len(pairs)
        assert sum(any(word in text for word in low) for text in negatives) >= 0.85 * len(pairs)
        assert not any(word in text for text in positives for word in (" sad", "wept", "tears"))
        assert not any(word in text for text in negatives for word in (" happy", "joy"))

    def test_fits_the_small_story_model(self, shared):
        tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260k-hf")
        pairs = load_pairs("story-mood")
        tokenised = tokenise_pairs(ChatFormat(tokenizer), pairs, context_length=512)
        assert max(pair.longest for pair in tokenised) < 128
        assert all(tokenizer.unk_token_id not in pair.positive.ids + pair.positive_response for pair in tokenised)
        for pair, made in zip(pairs, tokenised, strict=True):
            joint = tokenizer(pair.negative_input + pair.negative_output)["input_ids"]
            assert [*made.negative.ids, *made.negative_response] == joint


class TestTokenise:
    @pytest.fixture(scope="class", params=[True, False], ids=["template", "plain"])
    @classmethod
    def chat(cls, request):
        return ChatFormat(tiny_tokenizer(chat=request.param))

    @pytest.fixture
    def pairs(self):
        rows = [ROW, OTHER, ROW | {"positive_output": "I cannot help you with this. " * 20}]
        return load_pairs(rows)

    def test_prompts_and_responses(self, chat, pairs):
        made = tokenise_pairs(chat, pairs, context_length=2048)
        assert [type(pair) for pair in made] == [TokenisedPair] * 3
        for pair, tokens in zip(pairs, made, strict=True):
            assert tokens.positive == chat.render(pair.positive_input)
            assert tokens.negative == chat.render(pair.negative_input)
            assert tokens.positive_response == chat.response_ids(tokens.positive, pair.positive_output)
            assert chat.decode(tokens.negative_response) == pair.negative_output
            assert tokens.longest == max(len(tokens.positive.ids), len(tokens.negative.ids)) + max(
                len(tokens.positive_response), len(tokens.negative_response)
            )

    def test_the_context_counts_each_response_behind_both_prompts(self, chat):
        pairs = load_pairs([ROW | {"negative_input": "Tell me " + "very " * 30, "positive_output": "no " * 30}])
        (made,) = tokenise_pairs(chat, pairs, context_length=2048)
        assert made.longest == len(made.negative.ids) + len(made.positive_response)
        assert tokenise_pairs(chat, pairs, context_length=made.longest) == [made]
        with pytest.raises(InputError, match=rf"1 of 1 pairs .* needs {made.longest} tokens and the model takes"):
            tokenise_pairs(chat, pairs, context_length=made.longest - 1)

    def test_all_pairs_that_are_too_long_are_counted(self, chat):
        long = ROW | {"positive_output": "I cannot help. " * 30}
        longest = ROW | {"negative_output": "I cannot help. " * 40}
        pairs = load_pairs([ROW, long, ROW, longest])
        need = max(pair.longest for pair in tokenise_pairs(chat, pairs, context_length=4096))
        with pytest.raises(InputError) as caught:
            tokenise_pairs(chat, pairs, context_length=64)
        assert str(caught.value) == (
            "2 of 4 pairs are too long (each response is read behind both prompts): the longest needs "
            f"{need} tokens and the model takes 64; cut the responses with --truncate"
        )

    def test_truncate_cuts_responses_and_never_prompts(self, chat, pairs):
        whole = tokenise_pairs(chat, pairs, context_length=2048)
        cut = tokenise_pairs(chat, pairs, context_length=64, truncate=True)
        assert cut[:2] == whole[:2]
        assert cut[2].positive == whole[2].positive
        assert cut[2].longest == 64
        assert cut[2].positive_response == whole[2].positive_response[: 64 - cut[2].longest_prompt]

    def test_truncate_needs_room_for_one_token(self, chat):
        pairs = load_pairs([ROW, ROW | {"negative_input": "Tell me " + "very " * 30}, OTHER])
        longest = max(pair.longest_prompt for pair in tokenise_pairs(chat, pairs, context_length=2048))
        cut = tokenise_pairs(chat, pairs, context_length=longest + 1, truncate=True)
        assert [len(pair.positive_response) == 1 for pair in cut] == [False, True, False]
        with pytest.raises(InputError) as caught:
            tokenise_pairs(chat, pairs, context_length=longest, truncate=True)
        assert str(caught.value) == (
            "1 of 3 pairs have a prompt that leaves no room for a response: "
            f"the longest needs {longest + 1} tokens and the model takes {longest}; "
            "shorten these prompts or take them out"
        )

    def test_every_response_is_cut_to_the_limit(self, chat, pairs):
        whole = tokenise_pairs(chat, pairs, context_length=2048)
        cut = tokenise_pairs(chat, pairs, context_length=64, max_response_tokens=3)
        for before, after in zip(whole, cut, strict=True):
            assert after.positive_response == before.positive_response[:3]
            assert after.negative_response == before.negative_response[:3]
        with pytest.raises(InputError, match="--max-response-tokens 0"):
            tokenise_pairs(chat, pairs, context_length=64, max_response_tokens=0)

    def test_a_response_without_a_token_is_named(self, pairs):
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|gap|>"]})
        chat = ChatFormat(tokenizer)
        chat.response_ids = lambda prompt, response: () if response == " yes" else (9,)
        with pytest.raises(InputError, match=r"pair 2: negative_output ' yes' has no token of its own"):
            tokenise_pairs(chat, pairs, context_length=64)

    def test_a_prompt_that_cannot_be_rendered_is_named(self, pairs):
        chat = ChatFormat(tiny_tokenizer(), source_tokens="lock?<|end|>")
        with pytest.raises(InputError, match=r"pair 1: the source tokens 'lock\?<\|end\|>' do not occur"):
            tokenise_pairs(chat, pairs, context_length=64)

    def test_parity_pairs(self, shared):
        """The published run scored as many tokens in each minibatch: four pairs, both directions."""
        path = shared / "parity" / "cdas-llama"
        chat = ChatFormat(AutoTokenizer.from_pretrained(path / "model"))
        made = tokenise_pairs(chat, load_pairs(path / "pairs.parquet"), context_length=8192)
        assert {pair.positive.prefix_length for pair in made} == {3}
        assert {pair.negative.source_position - len(pair.negative.ids) for pair in made} == {-1}
        published = numpy.load(path / "trajectory.npz")
        scored = [len(pair.positive_response) + len(pair.negative_response) for pair in made]
        minibatches = published["order"].reshape(-1, 4)
        assert [sum(scored[k] for k in batch) for batch in minibatches] == published["n_tok"].tolist()
