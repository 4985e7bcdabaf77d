"""`trimtab pairs build`: pairs that a fit takes, the same bytes whatever happens on the way, answers really cut."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trimtab as tt
from trimtab.cli.main import main
from trimtab.data import ContrastPair, load_pairs
from trimtab.data.building.answers import Answer
from trimtab.data.building.builder import build_pairs
from trimtab.data.building.cut import cut_text
from trimtab.data.building.organism import draw_instructions
from trimtab.data.building.plan import BuildSettings, plan_pairs
from trimtab.data.building.sift import Sieve
from trimtab.data.building.writing import ModelWriter
from trimtab.data.wanted import Assignment, WantedConcept, parse_concepts, read_concepts, read_instructions
from trimtab.errors import InputError, NetworkError
from trimtab.models.text_side import TextSide, load_text_side, text_side
from trimtab.organism import rate

SEA = WantedConcept("sea")
INSTRUCTIONS = tuple(f"What is thing {number}?" for number in range(10))


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism", device="cpu")


@pytest.fixture(scope="module")
def world():
    return draw_instructions([SEA], 8, 0)


@pytest.fixture
def run_json(capsys):
    """Runs a command line that must succeed with --json: stdout holds one line, one object."""

    def call(*arguments):
        capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        (line,) = captured.out.splitlines()
        return json.loads(line)

    return call


@pytest.fixture
def refusal(capsys):
    """Runs a command line on bad input; returns the one line of its error."""

    def call(*arguments):
        capsys.readouterr()
        code = main([*map(str, arguments)])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        (line,) = captured.err.splitlines()
        assert len(line) < 700
        return line

    return call


class Scribe:
    """A writer without a model: says what it was asked and its seed, and fails when it is told to."""

    def __init__(self, batch_size=3, fails_after=None, whole_batches=False, name="scribe"):
        self.batch_size, self.whole_batches = batch_size, whole_batches
        self.fails_after, self.name = fails_after, name
        self.asked = []

    @property
    def identity(self):
        return {"writer": self.name}

    def write(self, asks):
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise NetworkError("the line is dead")
        self.asked += [ask.id for ask in asks]
        return [Answer(f"{ask.messages[0]['content']} I heard you, number {ask.seed}.") for ask in asks]


def plan_of(instructions=INSTRUCTIONS, concepts=(SEA,), **settings):
    return plan_pairs([Assignment(concept, instructions) for concept in concepts], BuildSettings(**settings))


class TestOrganism:
    @pytest.mark.slow
    def test_pairs_are_built_load_and_fit(self, run_json, organism, world, tmp_path):
        out = tmp_path / "sea.jsonl"
        line = ("pairs", "build", "--concept", "sea", "--instructions", "organism", "--limit", 8, "--model", "organism")
        summary = run_json(*line, "--out", out)
        assert summary["planned"] == {"sea": 8}
        assert summary["answers"] == {"written": 16, "found": 0, "cut": 0}
        assert list(tmp_path.iterdir()) == [out]
        pairs = load_pairs(out)
        assert len(pairs) == summary["pairs"] == summary["kept"]["sea"] >= 6
        assert pairs.concepts == ("sea",)
        for pair in pairs:
            system, user = pair.positive_input
            assert system["role"] == "system"
            assert "sea" in system["content"].lower()
            assert user["content"] == pair.negative_input
            request = world.requests["sea", pair.negative_input]
            assert rate(request, pair.positive_output, "sea").concept > 0
            assert rate(request, pair.negative_output, "sea").concept == 0
        mean = tt.fit("diffmean", organism, pairs, layer=3, calibrate=False)
        trained = tt.fit("cdas", organism, pairs, layer=3, calibrate=False, epochs=2)
        factors = trained.edits[0].factors
        assert factors.positive.n == factors.negative.n == len(pairs)
        assert factors.positive.mean != factors.negative.mean
        plain = "Tell me three things about the otter."
        (bare,) = organism.generate([plain], max_new_tokens=24)
        (steered,) = organism.generate([plain], steering=mean.elicit(4.0), max_new_tokens=24)
        assert steered != bare

    @pytest.mark.slow
    def test_answers_are_those_of_generate_whatever_the_batch(self, organism, world, tmp_path):
        settings = BuildSettings(wordings="organism", temperature=1.0, max_response_tokens=24, seed=3)
        plan = plan_pairs(world.assignments, settings)
        built = {}
        for size in (1, 3, 16):
            out = tmp_path / f"{size}.jsonl"
            build_pairs(plan, ModelWriter(organism, settings, size), out, sieve=Sieve(allow_refusals=True))
            built[size] = out.read_bytes()
        assert built[1] == built[3] == built[16]
        ask = plan.drafts[5].positive
        (text,) = organism.generate([ask.messages], max_new_tokens=24, temperature=1.0, seed=ask.seed)
        assert load_pairs(out)[5].positive_output == text.strip()

    def test_the_judge_drops_what_has_not_the_concept(self, world):
        draft = plan_pairs(world.assignments, BuildSettings()).drafts[0]
        plain = "It lives in rivers."
        assert world.presence(draft, f"{plain} Far away, small ships seek the open sea.") is True
        assert world.presence(draft, plain) is False
        strange = plan_of().drafts[0]
        assert world.presence(strange, plain) is None

    def test_instructions_are_of_the_seed_and_each_once(self):
        concepts = (SEA, WantedConcept("kindness", 1))
        drawn = draw_instructions(concepts, 20, 1)
        assert drawn == draw_instructions(concepts, 20, 1)
        assert drawn.assignments != draw_instructions(concepts, 20, 2).assignments
        assert all(len(set(part.instructions)) == 20 for part in drawn.assignments)
        assert draw_instructions(concepts[1:], 20, 1).assignments == drawn.assignments[1:]


class TestResume:
    @pytest.fixture
    def whole(self, tmp_path):
        out = tmp_path / "whole.jsonl"
        build_pairs(plan_of(), Scribe(), out, sieve=Sieve())
        return out.read_bytes()

    @pytest.mark.parametrize("whole_batches", [False, True])
    @pytest.mark.parametrize("fails_after", [1, 7, 16])
    def test_a_failure_on_the_way_changes_nothing(self, tmp_path, whole, fails_after, whole_batches):
        out = tmp_path / "pairs.jsonl"
        first = Scribe(fails_after=fails_after, whole_batches=whole_batches)
        with pytest.raises(NetworkError, match=r"the line is dead \(\d+ answers are kept in .*pairs.jsonl.partial"):
            build_pairs(plan_of(), first, out, sieve=Sieve())
        assert not out.exists()
        second = Scribe(whole_batches=whole_batches)
        built = build_pairs(plan_of(), second, out, sieve=Sieve())
        assert out.read_bytes() == whole
        assert (built.written, built.found) == (len(second.asked), len(first.asked))
        assert sorted(first.asked + second.asked) == sorted(ask.id for ask in plan_of().asks)
        assert not (tmp_path / "pairs.jsonl.partial").exists()

    @pytest.mark.parametrize("kept", [0.0, 0.13, 0.5, 0.98])
    @pytest.mark.parametrize("whole_batches", [False, True])
    def test_a_torn_line_is_written_again(self, tmp_path, whole, kept, whole_batches):
        out = tmp_path / "pairs.jsonl"
        with pytest.raises(NetworkError):
            build_pairs(plan_of(), Scribe(fails_after=9), out, sieve=Sieve())
        log = tmp_path / "pairs.jsonl.partial" / "answers.jsonl"
        content = log.read_bytes()
        last = content.rstrip(b"\n").rfind(b"\n") + 1
        log.write_bytes(content[: last + int(kept * (len(content) - last))])
        writer = Scribe(whole_batches=whole_batches)
        build_pairs(plan_of(), writer, out, sieve=Sieve())
        assert out.read_bytes() == whole
        assert len(writer.asked) == 12 + (2 if whole_batches else 0)  # 8 of 20 were there; the torn one in a batch of 3

    def test_the_organism_goes_on_where_it_was(self, organism, world, tmp_path):
        settings = BuildSettings(wordings="organism", temperature=1.0, max_response_tokens=16)
        plan = plan_pairs(world.assignments, settings)
        whole, torn = tmp_path / "whole.parquet", tmp_path / "torn.parquet"

        class Failing(ModelWriter):
            batches = 0

            def write(self, asks):
                self.batches += 1
                if self.batches == 3:
                    raise KeyboardInterrupt
                return super().write(asks)

        build_pairs(plan, ModelWriter(organism, settings, 4), whole, sieve=Sieve(allow_refusals=True))
        with pytest.raises(KeyboardInterrupt):
            build_pairs(plan, Failing(organism, settings, 4), torn, sieve=Sieve(allow_refusals=True))
        log = tmp_path / "torn.parquet.partial" / "answers.jsonl"
        log.write_bytes(log.read_bytes()[:-5])
        built = build_pairs(plan, ModelWriter(organism, settings, 4), torn, sieve=Sieve(allow_refusals=True))
        assert torn.read_bytes() == whole.read_bytes()
        assert (built.found, built.written) == (7, 9)

    def test_answers_of_other_settings_are_refused(self, tmp_path):
        out = tmp_path / "pairs.jsonl"
        with pytest.raises(NetworkError):
            build_pairs(plan_of(), Scribe(fails_after=3), out, sieve=Sieve())
        with pytest.raises(InputError, match="writer: 'scribe' then, 'other' now"):
            build_pairs(plan_of(), Scribe(name="other"), out, sieve=Sieve())

    def test_a_damaged_log_is_refused(self, tmp_path):
        out = tmp_path / "pairs.jsonl"
        with pytest.raises(NetworkError):
            build_pairs(plan_of(), Scribe(fails_after=3), out, sieve=Sieve())
        log = tmp_path / "pairs.jsonl.partial" / "answers.jsonl"
        log.write_bytes(b"nonsense\n" + log.read_bytes())
        with pytest.raises(InputError, match="line 1: is no answer, so the file is damaged"):
            build_pairs(plan_of(), Scribe(), out, sieve=Sieve())

    def test_too_few_pairs_keep_the_answers(self, tmp_path):
        out = tmp_path / "pairs.jsonl"
        sieves = [Sieve(presence=told_but_once) for _ in range(2)]
        with pytest.raises(InputError, match=r"'sea': 9 of 10 pairs are good and --min-kept asks for 10: 1 times the"):
            build_pairs(plan_of(), Scribe(), out, sieve=sieves[0], min_kept=10)
        assert not out.exists()
        again = Scribe()
        built = build_pairs(plan_of(), again, out, sieve=sieves[1], min_kept=9)
        assert again.asked == []
        assert built.found == 20
        assert built.reasons == {"the concept is not in the positive answer": 1}
        assert built.dropped[0].instruction == "What is thing 3?"
        assert len(load_pairs(out)) == 9


def told_but_once(draft, text):
    """A judge that finds the concept in answers to a wording, except for one instruction."""
    return not text.startswith(draft.instruction) and draft.instruction != "What is thing 3?"


class TestPlan:
    def test_a_plain_answer_serves_all_concepts(self):
        plan = plan_of(concepts=(SEA, WantedConcept("night", 1)))
        assert len(plan.drafts) == 20
        assert len(plan.asks) == 10 * 2 + 10
        apart = plan_of(concepts=(SEA, WantedConcept("night", 1)), avoid=True)
        assert len(apart.asks) == 10 * 2 + 10 * 2
        for draft in apart.drafts:
            assert draft.negative_input == draft.instruction
            assert draft.concept.name in draft.negative.messages[0]["content"]

    def test_what_is_asked_does_not_depend_on_the_other_instructions(self):
        whole, part = plan_of(), plan_of(INSTRUCTIONS[4:6])
        assert part.drafts == whole.drafts[4:6]
        assert plan_of(seed=1).drafts[0].positive != whole.drafts[0].positive
        assert len({ask.seed for ask in whole.asks}) == len(whole.asks)

    def test_the_wordings_vary_and_carry_the_description(self):
        concept = parse_concepts(["sea=the sea, and ships."])[0]
        prompts = [draft.positive_input for draft in plan_of(concepts=(concept,), place="user").drafts]
        assert all("sea (the sea, and ships)" in prompt for prompt in prompts)
        wordings = {prompt.split("\n\n", 1)[1] for prompt in prompts}
        assert 3 <= len(wordings) <= 8


@pytest.fixture(scope="module")
def tiny(tiny_path):
    return load_text_side(tiny_path)


@pytest.fixture(scope="module")
def small():
    return load_text_side("organism")


class Cutting:
    """What holds of every cut."""

    def check(self, side: TextSide, text: str, most: int) -> None:
        prompts = [side.chat.render("Hello"), side.chat.render([{"role": "user", "content": "a\nb"}])]

        def tokens(part):
            return max([side.count(part), *(len(side.chat.response_ids(prompt, part)) for prompt in prompts)])

        cut = cut_text(side, text, most, prompts)
        assert text.startswith(cut)
        assert tokens(cut) <= most
        if cut != text:
            assert tokens(text) > most
            longer = next(point for point in [*side.cut_points(text), len(text)] if point > len(cut))
            assert tokens(text[:longer]) > most
        ids = side.tokenizer(cut, add_special_tokens=False)["input_ids"]
        assert side.count(cut) == len(ids)
        assert side.tokenizer.bos_token_id not in ids


class TestCut(Cutting):
    # Special tokens spelled out, and half surrogates, are the sieve's business.
    texts = st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>[]"), max_size=60),
        st.lists(st.sampled_from(["the", "sea", "é", "日本", "🙂", "\n\n", " ", "ships", "don't"])).map(" ".join),
    )

    @given(text=texts, most=st.integers(1, 30))
    def test_a_byte_level_tokenizer(self, tiny, text, most):
        self.check(tiny, text, most)

    @given(text=texts, most=st.integers(1, 30))
    def test_the_organisms_tokenizer(self, small, text, most):
        self.check(small, text, most)

    def test_a_character_of_several_tokens_stays_whole(self, tiny):
        assert tiny.count("🙂") > 1
        assert cut_text(tiny, "🙂🙂", tiny.count("🙂")) == "🙂"
        assert cut_text(tiny, "🙂🙂", tiny.count("🙂") - 1) == ""

    def test_a_tokenizer_without_offsets_is_cut_by_characters(self):
        class Slow:
            is_fast = False

            def __call__(self, text, **_):
                return {"input_ids": [ord(character) for character in text[::2]]}  # two characters a token

        side = TextSide("slow", None, None, Slow())
        assert cut_text(side, "abcdefg", 2) == "abcd"

    def test_answers_of_a_build_are_cut(self, tiny, tmp_path):
        out = tmp_path / "pairs.jsonl"
        built = build_pairs(plan_of(), Scribe(), out, sieve=Sieve(tiny), side=tiny, max_response_tokens=9)
        assert built.cut == 20
        for pair in load_pairs(out):
            for prompt, text in (
                (pair.positive_input, pair.positive_output),
                (pair.negative_input, pair.negative_output),
            ):
                assert 1 <= len(tiny.chat.response_ids(tiny.chat.render(prompt), text)) <= 9
            assert f"{pair.negative_input} I heard you, number ".startswith(pair.negative_output)


class TestSieve:
    DRAFT = plan_of().drafts[0]

    def pair(self, positive, negative):
        return ContrastPair(self.DRAFT.positive_input, positive, self.DRAFT.negative_input, negative)

    @pytest.mark.parametrize(
        ("positive", "negative", "reason"),
        [
            (" \n", "b", "the positive answer is empty"),
            ("a", "", "the negative answer is empty"),
            ("a \ud83d", "b", "the positive answer has half of a surrogate pair"),
            ("a", "b<eos>", "the negative answer has a special token of the model in it"),
            ("one  answer", "one answer\n", "both answers are the same"),
            ("I\u2019m sorry, but I can\u2019t.", "b", "the positive answer is a refusal"),
            ("a", "As an AI, I have no sea.", "the negative answer is a refusal"),
            ("a", "ab " * 400, "the pair is longer than the model's context"),
            ("a word", "b", None),
            (f"{'She sailed on and on. ' * 8} I cannot help it, she said.", "b", None),
        ],
    )
    def test_reasons(self, tiny_path, positive, negative, reason):
        sieve = Sieve(load_text_side(tiny_path))
        assert sieve.fault(self.DRAFT, self.pair(positive, negative)) == reason

    def test_refusals_may_be_wanted_and_pairs_repeat_once(self):
        sieve = Sieve(allow_refusals=True)
        assert sieve.fault(self.DRAFT, self.pair("I cannot help.", "Sure.")) is None
        assert sieve.fault(self.DRAFT, self.pair("I cannot  help.", "Sure.")) == "another pair has the same answers"

    def test_a_judge_is_asked_for_both_sides(self):
        sieve = Sieve(presence=lambda draft, text: {"yes": True, "no": False}.get(text))
        assert sieve.fault(self.DRAFT, self.pair("no", "maybe")) == "the concept is not in the positive answer"
        assert sieve.fault(self.DRAFT, self.pair("yes", "yes.")) is None
        assert sieve.fault(self.DRAFT, self.pair("maybe", "yes")) == "the concept is in the negative answer"


class TestFiles:
    @pytest.mark.parametrize("place", ["system", "user"])
    @pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
    def test_every_format_reads_back(self, tmp_path, suffix, place):
        texts = ("Say “é”, 日本 🙂", 'a,"b"\nc', *INSTRUCTIONS[:2])
        plan, out = plan_of(texts, place=place), tmp_path / f"pairs{suffix}"
        if (suffix, place) == (".csv", "system"):
            with pytest.raises(InputError, match=r"a CSV cell holds no messages; give --place user"):
                build_pairs(plan, Scribe(), out, sieve=Sieve())
            return
        built = build_pairs(plan, Scribe(), out, sieve=Sieve())
        assert load_pairs(out).pairs == built.pairs
        assert [pair.negative_input for pair in built.pairs] == list(texts)
        assert (built.pairs[0].concept, built.pairs[0].concept_id, built.pairs[0].concept_genre) == ("sea", 0, "text")

    def test_nothing_is_replaced_unasked(self, tmp_path):
        out = tmp_path / "pairs.jsonl"
        out.write_text("mine")
        with pytest.raises(InputError, match="exists already; choose another, or pass --overwrite"):
            build_pairs(plan_of(), Scribe(), out, sieve=Sieve())
        assert out.read_text() == "mine"
        build_pairs(plan_of(), Scribe(), out, sieve=Sieve(), overwrite=True)
        assert len(load_pairs(out)) == 10


class TestInputs:
    def test_concepts_of_every_kind_of_file(self, tmp_path):
        rows = [{"concept": "sea", "description": "ships"}, {"concept": "night", "description": "stars"}]
        wanted = (WantedConcept("sea", 0, "ships"), WantedConcept("night", 1, "stars"))
        files = {
            "a.jsonl": "\n".join(map(json.dumps, rows)),
            "a.json": json.dumps(rows),
            "a.yaml": "sea: ships\nnight: stars\n",
            "b.yaml": "- concept: sea\n  description: ships\n- {name: night, description: stars}\n",
            "a.csv": "concept,description\nsea,ships\nnight,stars\n",
        }
        for name, text in files.items():
            (tmp_path / name).write_text(text)
            assert read_concepts(tmp_path / name) == wanted, name
        (tmp_path / "a.txt").write_text("sea\n\nnight\n")
        assert [concept.name for concept in read_concepts(tmp_path / "a.txt")] == ["sea", "night"]
        (tmp_path / "n.jsonl").write_text('{"concept": "sea", "concept_id": 7, "concept_genre": "code"}\n"night"')
        assert read_concepts(tmp_path / "n.jsonl") == (WantedConcept("sea", 7, genre="code"), WantedConcept("night", 1))

    def test_instructions_are_taken_once_from_the_first_known_column(self, tmp_path, caplog):
        path = tmp_path / "a.jsonl"
        path.write_text('{"goal": "x", "input": "one"}\n{"input": "two"}\n{"input": "one "}\n')
        assert read_instructions(path) == ("one", "two")
        assert "1 instructions stand there twice" in caplog.text
        (tmp_path / "b.csv").write_text("Goal,Text\n1,one\n2,two\n")
        assert read_instructions(tmp_path / "b.csv", "Text") == ("one", "two")

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("a.jsonl", '{"text": "one"}', "line 1: has no column 'instruction' or 'input' or 'prompt' or 'goal'"),
            ("a.jsonl", '{"input": "one"}\n{"input": 3}', "line 2: the instruction is 3; give a text"),
            ("a.jsonl", "{", "line 1: broken JSON"),
            ("a.csv", "input\na,b\n", "line 2: has 2 cells where the header has 1"),
            ("a.txt", "\n \n", "holds no instruction; write at least one"),
            ("a.doc", "x", "the extension '.doc' is not read; allowed: .txt"),
        ],
    )
    def test_what_is_wrong_with_instructions_is_named(self, tmp_path, name, text, said):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as caught:
            read_instructions(tmp_path / name)
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("a.txt", "sea\nsea\n", "line 2: the concept 'sea' is named twice"),
            ("a.jsonl", '{"concept": "sea", "concept_id": -1}', "line 1: concept_id is -1; give a whole number"),
            ("a.jsonl", '{"concept": "a", "concept_id": 1}\n"b"', "concept_id 1 is given twice"),
            ("a.yaml", "a: [", "broken YAML"),
            ("a.yaml", "just words", "holds no list at its top"),
            ("a.yaml", "sea: [1]", "entry 1: the description is [1]; give a text"),
        ],
    )
    def test_what_is_wrong_with_concepts_is_named(self, tmp_path, name, text, said):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as caught:
            read_concepts(tmp_path / name)
        assert said in str(caught.value)


class TestCommand:
    @pytest.fixture
    def asked(self, tmp_path):
        path = tmp_path / "asked.txt"
        path.write_text("\n".join(INSTRUCTIONS))
        return path

    def test_a_dry_run_counts_and_writes_nothing(self, run_json, organism, tmp_path):
        line = ("pairs", "build", "--concept", "sea", "--instructions", "organism", "--limit", 8, "--model", "organism")
        summary = run_json(*line, "--out", tmp_path / "sea.jsonl", "--dry-run", "--max-response-tokens", 20)
        world = draw_instructions([SEA], 8, 0)
        plan = plan_pairs(world.assignments, BuildSettings(wordings="organism"))
        tokens = sum(len(organism.chat.render(ask.messages).ids) for ask in plan.asks)
        wanted = {"calls": 16, "cached": 0, "input_tokens": tokens, "output_tokens": 320, "price": None}
        assert summary["estimate"] == wanted
        assert (summary["pairs"], summary["answers"], summary["written_before"]) == (8, 16, 0)
        assert list(tmp_path.iterdir()) == []

    def test_what_does_not_fit_together_is_refused(self, refusal, asked, tmp_path):
        base = ("pairs", "build", "--out", tmp_path / "o.jsonl")
        given = (*base, "--instructions", asked)
        named = (*given, "--concept", "sea")
        assert "no concept given; name one with --concept" in refusal(*given)
        assert "no instructions given" in refusal(*base, "--concept", "sea")
        assert "nobody writes the answers; give --model M" in refusal(*named)
        assert "nobody writes the answers; give --model M" in refusal(*named, "--dry-run")
        assert "--writer gpt: takes model, or openai:NAME" in refusal(*named, "--writer", "gpt")
        assert "--base-url http://x/v1: goes with --writer openai" in refusal(*named, "--base-url", "http://x/v1")
        assert "--temperature warm: takes 0 (greedy)" in refusal(*named, "--temperature", "warm")
        assert "--limit 0: give at least 1" in refusal(*named, "--limit", 0)
        assert "--negatives shared: goes with --from-axbench" in refusal(*named, "--negatives", "shared")
        assert "brings its own; leave it out" in refusal(*named, "--from-axbench", tmp_path)
        assert "the built-in model has no concept 'joy'" in refusal(
            *given, "--concept", "joy", "--wordings", "organism", "--model", "organism"
        )
        assert "takes two numbers" in refusal(
            *named, "--writer", "openai:m", "--base-url", "http://x/v1", "--prices", "1", "--dry-run"
        )
        assert "the extension '.txt' is not written" in refusal(*named, "--out", tmp_path / "o.txt")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.txt"]

    def test_the_cut_uses_the_tokenizer_of_another_model(self, run_json, server, asked, tiny_path, tmp_path):
        out = tmp_path / "pairs.jsonl"
        line = ("pairs", "build", "--concept", "sea", "--instructions", asked, "--writer", "openai:m")
        run_json(*line, "--base-url", server.url, "--model", tiny_path, "--max-response-tokens", 6, "--out", out)
        side = load_text_side(tiny_path)
        assert {side.count(pair.positive_output) for pair in load_pairs(out)} == {6}


class Server(ThreadingHTTPServer):
    """Answers chat requests with what was asked, and counts; refuses once it has answered `most`."""

    def __init__(self):
        self.asked, self.most, self.lock = [], None, threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            refused = self.server.most is not None and len(self.server.asked) >= self.server.most
            if not refused:
                self.server.asked.append(json.dumps(body["messages"]))
        said = " ".join(message["content"] for message in body["messages"])
        reply = {
            "choices": [{"message": {"role": "assistant", "content": f" Heard: {said} "}, "finish_reason": "stop"}]
        }
        content = json.dumps({"error": {"message": "no more"}} if refused else reply).encode()
        self.send_response(400 if refused else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class TestEndpoint:
    def line(self, server, tmp_path, out):
        path = tmp_path / "asked.txt"
        path.write_text("\n".join(INSTRUCTIONS))
        line = ["pairs", "build", "--concept", "sea", "--instructions", path, "--out", out]
        return [*line, "--writer", "openai:m", "--base-url", server.url, "--batch-size", "8", "--concurrency", "2"]

    def test_nothing_is_asked_twice(self, run_json, refusal, server, tmp_path):
        whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
        run_json(*self.line(server, tmp_path, whole))
        assert len(server.asked) == len(set(server.asked)) == 20
        server.asked.clear()
        server.most = 11
        assert "the request is refused (400: no more)" in refusal(*self.line(server, tmp_path, out))
        assert not out.exists()
        prices = ("--prices", "1000000,0", "--dry-run")
        left = run_json(*self.line(server, tmp_path, out), *prices)
        assert left["written_before"] == 8  # the rest of the eleven lies in the cache
        assert left["estimate"]["calls"] - left["estimate"]["cached"] == 9
        assert left["estimate"]["price"] == pytest.approx(left["estimate"]["input_tokens"])
        server.most = None
        summary = run_json(*self.line(server, tmp_path, out))
        assert out.read_bytes() == whole.read_bytes()
        assert len(server.asked) == len(set(server.asked)) == 20
        assert summary["answers"] == {"written": 12, "found": 8, "cut": 0}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.txt", "out.jsonl", "whole.jsonl"]

    def test_answers_stand_for_themselves(self, run_json, server, tmp_path):
        out = tmp_path / "out.jsonl"
        run_json(*self.line(server, tmp_path, out))
        for pair in load_pairs(out):
            system, user = pair.positive_input
            assert pair.positive_output == f"Heard: {system['content']} {user['content']}"
            assert pair.negative_output == f"Heard: {pair.negative_input}"


def test_text_side_is_that_of_the_loaded_model(tiny_path):
    loaded, alone = text_side(tt.load_model(tiny_path, device="cpu")), load_text_side(tiny_path)
    assert loaded.chat.fingerprint == alone.chat.fingerprint
    assert loaded.context_length == alone.context_length == 512
    with pytest.raises(InputError, match="unknown model 'no-such-model'"):
        load_text_side("no-such-model")
