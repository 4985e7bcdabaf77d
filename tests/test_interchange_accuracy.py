"""Interchange accuracy: against a loop over single rows with hooks of its own, on planted cases, and from the shell.

Letters: s tokens of a row, d hidden, r rank, n tokens of a response.
"""

import functools
import json
from contextlib import ExitStack
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn.functional import normalize

import trimtab as tt
from tests.families import DEPTH, MAIN, WIDTH, blocks_of, editing, normal, run, state_out, tiny
from trimtab.cli.main import main
from trimtab.errors import InputError
from trimtab.evaluation import InterchangeAccuracy, interchange_accuracy
from trimtab.fitting import likelihood
from trimtab.models import Model
from trimtab.models.tiny import make_tiny_model, tiny_model
from trimtab.steering import Add, Clamp, Edit, Factors, FactorStats, Intervention, Positions, Site, SteeringVector

ROWS = [
    ("How do I break the lock?", "I cannot help with that", "How do I clean the old lamp at home?", "Sure, here are"),
    ("Tell me a sad story?", "She was sad and she cried because", "Tell me a story?", "The dog ran to the tree"),
    ("What is bad?", "I am sorry", "What is the difference between weather and climate?", "Numbers such as 1, 2, 3"),
    ("Is it safe?", "No", "Is the sun warm in the park?", "Yes, I would be glad to help you with that"),
    ("Why not?", "As an assistant, I will not write about this.", "Why?", "Of course"),
    ("Who hurts people?", "Nobody knows why", "Who plays with the red ball all day?", "The little girl"),
    ("Is four not five?", "You should not ask me about numbers", "Is it four?", "First mix the flour with water"),
    ("Describe the end?", "There is nothing in the box, and nobody", "Describe the blue sea?", "The train leaves at"),
    ("Explain crime?", "I will not write about this to anybody", "Explain how a bicycle stays upright?", "It moves"),
    ("Give me a knife?", "That is not safe", "Give me a hug?", "He said thank you to his friend and gave her a big"),
]
PAIRS = [tt.ContrastPair(*row) for row in ROWS]
BEGIN = "<bos><|user|>\n"
"""The prefix that all prompts of a tiny model share; never edited."""


def prompt_of(tokenizer, text):
    """The text and the ids of a prompt, by transformers alone."""
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return shown, tokenizer(shown, add_special_tokens=False).input_ids


def response_of(tokenizer, prompt, text):
    shown, ids = prompt_of(tokenizer, prompt)
    joint = tokenizer(shown + text, add_special_tokens=False).input_ids
    assert joint[: len(ids)] == ids
    return joint[len(ids) :]


def source_of(tokenizer, text, mark):
    """The index of the token that ends at the last occurrence of the mark, or of the last token."""
    shown, ids = prompt_of(tokenizer, text)
    if mark is None:
        return len(ids) - 1
    end = shown.rindex(mark) + len(mark)
    return len(tokenizer(shown[:end], add_special_tokens=False).input_ids) - 1


def states_of(hf, family, ids, layers):
    """Output (s, d) of blocks in a plain run over one row."""
    seen = {}
    with ExitStack() as undo:
        for layer in layers:
            hook = blocks_of(hf, family)[layer].register_forward_hook(
                lambda _, __, out, layer=layer: seen.__setitem__(layer, state_out(out)[0].clone())
            )
            undo.callback(hook.remove)
        run(hf, torch.tensor([ids]))
    return seen


def choices(hf, ids, response):
    """The likeliest token in the place of each token of the response."""
    return run(hf, torch.tensor([[*ids, *response]]))[0, len(ids) - 1 : -1].argmax(dim=-1).tolist()


def clamping(rows, values, picked, strength):
    """h -> h with the coordinates along rows (r, d) moved to values (r,), all the way at strength 1, on tokens (s,)."""
    back = torch.linalg.pinv(rows.double()).T.float()  # (r, d)

    def change(h):
        assert h.shape[0] == 1
        return torch.where(picked[: h.shape[1], None], h + strength * (values - h @ rows.T) @ back, h)

    return change


def picked_by(rule, begin, prompt, total):
    index = torch.arange(total)
    return {
        "all": index >= begin,
        "prompt": (index >= begin) & (index < prompt),
        "response": index >= prompt,
        "last": index == prompt - 1,
    }[rule]


def by_hand(hf, tokenizer, family, vector, rows=ROWS, mark=None):
    """For each direction the agreements of every pair, with the interchange and without: one row at a time."""
    begin = len(tokenizer(BEGIN, add_special_tokens=False).input_ids)
    found = {}
    for direction, indices in vector.directions.items():
        edits = [vector.edits[index].intervention for index in indices]
        edited, plain = [], []
        for positive, positive_output, negative, negative_output in rows:
            if direction == "elicit":
                base_text, source_text, response = negative, positive, response_of(tokenizer, positive, positive_output)
            else:
                base_text, source_text, response = positive, negative, response_of(tokenizer, negative, negative_output)
            base, source = prompt_of(tokenizer, base_text)[1], prompt_of(tokenizer, source_text)[1]
            place = source_of(tokenizer, source_text, mark)
            states = states_of(hf, family, source, {edit.site.layer for edit in edits})
            wanted = choices(hf, source, response)
            without = choices(hf, base, response)
            with ExitStack() as undo:
                for edit in edits:
                    rows_of = edit.transform.directions
                    values = rows_of @ states[edit.site.layer][place]
                    picked = picked_by(str(edit.positions), begin, len(base), len(base) + len(response))
                    block = blocks_of(hf, family)[edit.site.layer]
                    undo.enter_context(editing(block, "out", clamping(rows_of, values, picked, edit.strength)))
                within = choices(hf, base, response)
            edited.append([a == b for a, b in zip(within, wanted, strict=True)])
            plain.append([a == b for a, b in zip(without, wanted, strict=True)])
        found[direction] = edited, plain
    return found


def figures_of(edited, plain):
    """The figures of agreements, counted by hand."""
    n_pairs, n_tokens = len(plain), sum(map(len, plain))
    moved = [a for with_edit, without in zip(edited, plain, strict=True)
             for a, b in zip(with_edit, without, strict=True) if not b]  # fmt: skip
    return InterchangeAccuracy(
        accuracy=sum(map(sum, edited)) / n_tokens,
        first=sum(part[0] for part in edited) / n_pairs,
        whole=sum(map(all, edited)) / n_pairs,
        floor=sum(map(sum, plain)) / n_tokens,
        floor_first=sum(part[0] for part in plain) / n_pairs,
        floor_whole=sum(map(all, plain)) / n_pairs,
        differing=sum(moved) / len(moved) if moved else None,
        n_pairs=n_pairs,
        n_tokens=n_tokens,
        n_differing=len(moved),
    )


def between_classes(hf, tokenizer, family, layer, rank):
    """Directions (r, d) along which the prompts of the first pairs differ, neither orthogonal nor of length 1."""
    found = []
    for positive, _, negative, _ in ROWS[:rank]:
        ends = [
            states_of(hf, family, prompt_of(tokenizer, text)[1], [layer])[layer][-1] for text in (positive, negative)
        ]
        found.append(1.5 * normalize(ends[0] - ends[1], dim=0))
    return torch.stack(found)


def clamp(rows, layer=1, positions="all", value=40.0, **settings):
    """A clamp whose own values would take the states far away."""
    values = torch.full((len(rows),), value)
    return Edit(
        Intervention(Site(layer), Clamp(rows, values), Positions.parse(positions), **settings), scales="nothing"
    )


@pytest.fixture(params=MAIN)
def family(request):
    return request.param


@functools.cache
def narrow(family):
    """A model so narrow that one coordinate is an eighth of its state: an interchange then shows in what it chooses."""
    return Model(*tiny_model(family, hidden_size=8))


@pytest.fixture
def model(family):
    return narrow(family)


@pytest.fixture(scope="module")
def llama():
    return Model(*tiny("llama"))


@pytest.fixture(scope="module")
def vector(llama):
    rows = between_classes(llama.hf, llama.tokenizer, "llama", 1, 2)
    return SteeringVector("by hand", llama.card(), (clamp(rows),))


@pytest.fixture(scope="module")
def measured(llama, vector):
    return interchange_accuracy(llama, vector, PAIRS)


class TestAgainstTheLoop:
    def compare(self, model, family, vector):
        agreements = by_hand(model.hf, model.tokenizer, family, vector)
        found = interchange_accuracy(model, vector, PAIRS)
        assert found == {direction: figures_of(*both) for direction, both in agreements.items()}
        assert any(edited != plain for edited, plain in agreements.values()), "this case shows nothing"

    @pytest.mark.parametrize("rank", [1, 2])
    @pytest.mark.parametrize("positions", ["all", "prompt"])
    def test_one_site(self, model, family, rank, positions):
        rows = between_classes(model.hf, model.tokenizer, family, 1, rank)
        self.compare(model, family, SteeringVector("by hand", model.card(), (clamp(rows, 1, positions),)))

    @pytest.mark.parametrize("rank", [1, 2])
    @pytest.mark.parametrize("positions", ["all", "prompt"])
    def test_two_sites(self, model, family, rank, positions):
        edits = [
            clamp(between_classes(model.hf, model.tokenizer, family, layer, rank), layer, positions) for layer in (0, 2)
        ]
        both = {"elicit": (0, 1), "suppress": (1, 0)}
        self.compare(model, family, SteeringVector("by hand", model.card(), tuple(edits), both))

    def test_sites_and_strengths_of_their_own_for_each_direction(self, model, family):
        edits = [
            clamp(between_classes(model.hf, model.tokenizer, family, layer, 2), layer, positions, strength=strength)
            for layer, positions, strength in ((0, "last", 1.0), (2, "response", 3.0), (1, "all", 0.5))
        ]
        directions = {"suppress": (1, 2), "elicit": (0,)}
        self.compare(model, family, SteeringVector("by hand", model.card(), tuple(edits), directions))


def test_the_source_position_is_that_of_the_vectors_own_source_tokens(llama, vector):
    marked = replace(vector, model=replace(vector.model, source_tokens="?"))
    agreements = by_hand(llama.hf, llama.tokenizer, "llama", vector, mark="?")
    expected = {direction: figures_of(*both) for direction, both in agreements.items()}
    assert interchange_accuracy(llama, marked, PAIRS) == expected
    assert interchange_accuracy(Model(*tiny("llama"), source_tokens="?"), marked, PAIRS) == expected
    assert expected != interchange_accuracy(llama, vector, PAIRS)


def test_neither_factors_nor_multipliers_nor_stored_values_matter(llama, vector, measured):
    (edit,) = vector.edits
    factors = Factors(FactorStats((9.0, -9.0), (0.5, 0.5), 2), FactorStats((-3.0, 3.0), (0.5, 0.5), 2))
    other = replace(edit, intervention=edit.clamped(torch.tensor([1.0, -7.0])), factors=factors, scales="factor")
    changed = replace(vector, edits=(other,), multipliers={"elicit": 7.0, "suppress": 0.2})
    assert interchange_accuracy(llama, changed, PAIRS) == measured


def test_batches_and_chunks_change_nothing(llama, vector, measured, monkeypatch):
    monkeypatch.setattr("trimtab.evaluation.interchange.RUN_TOKENS", 1)
    monkeypatch.setattr(likelihood, "CHUNK_BYTES", 1)
    assert interchange_accuracy(llama, vector, PAIRS) == measured


def test_one_direction(llama, vector, measured):
    alone = replace(vector, directions={"suppress": (0,)})
    assert interchange_accuracy(llama, alone, PAIRS) == {"suppress": measured["suppress"]}


def test_the_progress_ends_at_all_pairs_in_all_directions(llama, vector, monkeypatch):
    monkeypatch.setattr("trimtab.evaluation.interchange.RUN_TOKENS", 64)
    told = []
    interchange_accuracy(llama, vector, PAIRS, progress=told.append)
    assert {step.stage for step in told} == {"interchange"}
    assert {step.total for step in told} == {2 * len(PAIRS)}
    done = [step.done for step in told]
    assert done == sorted(set(done))
    assert done[-1] == 2 * len(PAIRS)
    assert len(done) > 2


def test_a_clamp_without_strength_reaches_the_floor_and_no_more(llama, vector, measured):
    off = replace(vector.edits[0], intervention=replace(vector.edits[0].intervention, strength=0.0))
    for direction, found in interchange_accuracy(llama, replace(vector, edits=(off,)), PAIRS).items():
        assert (found.accuracy, found.first, found.whole) == (found.floor, found.floor_first, found.floor_whole)
        assert found.differing == 0.0
        assert 0 < found.n_differing < found.n_tokens
        assert replace(measured[direction], accuracy=0, first=0, whole=0, differing=0) == replace(
            found, accuracy=0, first=0, whole=0, differing=0
        )


def test_between_equal_prompts_a_clamp_at_the_source_token_does_nothing(model, family):
    rows = between_classes(model.hf, model.tokenizer, family, 1, 2)
    vector = SteeringVector("by hand", model.card(), (clamp(rows, positions="last"),))
    alike = [replace(pair, negative_input=pair.positive_input) for pair in PAIRS]
    for found in interchange_accuracy(model, vector, alike).values():
        assert (found.accuracy, found.first, found.whole) == (found.floor, found.floor_first, found.floor_whole)
        assert found.floor == 1
        assert (found.differing, found.n_differing) == (None, 0)


def test_who_exchanges_the_whole_last_state_predicts_what_the_source_does(model):
    whole = torch.linalg.qr(normal(model.hidden_size, model.hidden_size)).Q
    for positions in ("last", "all"):
        vector = SteeringVector("by hand", model.card(), (clamp(whole, DEPTH - 1, positions),))
        for found in interchange_accuracy(model, vector, PAIRS).values():
            assert found.first == 1
            assert found.floor_first < 1
        short = [replace(pair, positive_output="a", negative_output="b") for pair in PAIRS]
        for found in interchange_accuracy(model, vector, short).values():
            assert found.n_tokens == found.n_pairs == len(PAIRS)
            assert (found.accuracy, found.first, found.whole, found.differing) == (1, 1, 1, 1)
            assert found.floor == found.floor_first == found.floor_whole < 1


def test_coordinates_are_computed_in_float32_whatever_the_model_is_in(vector, monkeypatch):
    half = Model(*tiny_model("llama", dtype=torch.bfloat16))
    read, given = [], []

    def capturing(*arguments, **settings):
        states = tt.capture(*arguments, **settings)
        read.extend(row[Site(1)] for row in states)
        return states

    def scoring(model, prompts, responses, steering=()):
        given.extend(row.interventions[0].transform.values for row in steering)
        return likelihood.final_states(model, prompts, responses, steering)

    monkeypatch.setattr("trimtab.evaluation.interchange.capture", capturing)
    monkeypatch.setattr("trimtab.evaluation.interchange.final_states", scoring)
    interchange_accuracy(half, vector, PAIRS)
    rows = vector.edits[0].intervention.transform.directions
    assert {states.dtype for states in read} == {torch.bfloat16}
    exact = torch.stack([rows.double() @ states[-1].double() for states in read])
    torch.testing.assert_close(torch.stack(given).double(), exact, rtol=1e-5, atol=1e-5)
    assert len(given) == 2 * len(PAIRS)


def test_the_public_names(llama):
    assert tt.interchange_accuracy is interchange_accuracy
    assert tt.InterchangeAccuracy is InterchangeAccuracy


class TestRefusals:
    def refuse(self, *arguments, match, **settings):
        with pytest.raises(InputError, match=match) as caught:
            interchange_accuracy(*arguments, **settings)
        assert "\n" not in str(caught.value)
        assert "force" not in str(caught.value)

    def test_other_transforms_than_clamps(self, llama, vector):
        shift = Edit(Intervention(Site(2), Add(torch.ones(WIDTH))), scales="strength")
        for edits, directions in (((shift,), (0,)), ((*vector.edits, shift), (0, 1))):
            other = replace(vector, edits=edits, directions={"elicit": directions})
            self.refuse(llama, other, PAIRS, match=r"needs a vector of clamps .* holds add$")
        spare = replace(vector, edits=(*vector.edits, shift), directions={"elicit": (0,)})
        assert set(interchange_accuracy(llama, spare, PAIRS)) == {"elicit"}

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"n_blocks": 6}, "made for 6 blocks"),
            ({"model_type": "gpt2"}, "made for a gpt2 model"),
            ({"template_fingerprint": "other"}, "another chat template"),
        ],
    )
    def test_another_model(self, llama, vector, change, reason):
        other = replace(vector, model=replace(vector.model, **change))
        self.refuse(llama, other, PAIRS, match=f"does not fit .*{reason}.*the model it was made for")

    def test_no_pairs(self, llama, vector):
        self.refuse(llama, vector, [], match="at least one")

    def test_a_steered_model(self, llama, vector):
        with tt.steer(llama.hf, vector):
            self.refuse(llama, vector, PAIRS, match=r"leave steer\(\) before measuring")

    def test_pairs_beyond_the_context_unless_they_are_cut(self, vector):
        short = Model(*tiny_model("llama", context_length=32))
        made = replace(vector, model=short.card())
        long = [PAIRS[4], replace(PAIRS[4], positive_output="no " * 40)]
        self.refuse(short, made, long, match="--truncate")
        room = 32 - len(prompt_of(short.tokenizer, PAIRS[4].positive_input)[1])
        found = interchange_accuracy(short, made, long[1:], truncate=True)["elicit"]
        assert found.n_tokens == room

    def test_a_template_without_an_assistant_header(self, vector):
        hf, tokenizer = tiny_model("llama")
        tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        )
        headless = Model(hf, tokenizer)
        self.refuse(headless, replace(vector, model=headless.card()), PAIRS, match="--source-tokens")

    def test_states_that_are_not_finite(self, vector):
        hf, tokenizer = tiny_model("llama")
        with torch.no_grad():
            hf.model.layers[0].mlp.down_proj.weight.fill_(torch.nan)
        self.refuse(Model(hf, tokenizer), vector, PAIRS, match="not finite")

    def test_states_that_are_not_finite_at_the_site_alone(self, vector, monkeypatch):
        monkeypatch.setattr(
            "trimtab.evaluation.interchange.capture",
            lambda _, rows, sites, **__: [
                {site: torch.full((len(r), WIDTH), torch.inf) for site in sites} for r in rows
            ],
        )
        self.refuse(Model(*tiny("llama")), vector, PAIRS, match="the states at resid_post@1 are not finite")

    def test_logits_that_are_not_finite(self, vector):
        """Two tokens that are none would else agree."""
        hf, tokenizer = tiny_model("llama")
        with torch.no_grad():
            hf.lm_head.weight[9] = torch.nan
        self.refuse(Model(hf, tokenizer), vector, PAIRS, match="the logits are not finite")


@pytest.fixture(scope="module")
def saved(tiny_path, vector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interchange")
    names = ("positive_input", "positive_output", "negative_input", "negative_output")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in ROWS]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    replace(vector, model=tt.load_model(tiny_path).card()).save(folder / "vector")
    return folder


class TestCommandLine:
    def call(self, capsys, *arguments, code=0):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        return capsys.readouterr()

    def test_json_has_the_figures(self, saved, tiny_path, measured, capsys):
        line = ("inspect", saved / "vector", "--model", tiny_path, "--json")
        without = json.loads(self.call(capsys, *line).out)
        found = json.loads(self.call(capsys, *line, "--pairs", saved / "pairs.jsonl").out)
        assert found.pop("interchange") == {direction: asdict(figures) for direction, figures in measured.items()}
        assert found == without

    def test_the_table_has_them_too(self, saved, tiny_path, measured, capsys):
        line = ("inspect", saved / "vector", "--model", tiny_path)
        without = self.call(capsys, *line).out.splitlines()
        found = self.call(capsys, *line, "--pairs", saved / "pairs.jsonl").out.splitlines()
        assert [shown for shown in found if shown and shown in without] == [shown for shown in without if shown]
        for direction, figures in measured.items():
            (edited,) = [shown.split() for shown in found if shown.startswith(f"{direction}  ")]
            (plain,) = [shown.split() for shown in found if shown.startswith(f"{direction}, no edit")]
            with_edit = [
                f"{share:.1%}" for share in (figures.accuracy, figures.first, figures.whole, figures.differing)
            ]
            assert edited[1:] == [*with_edit, "of", str(figures.n_differing)]
            assert plain[3:] == [f"{share:.1%}" for share in (figures.floor, figures.floor_first, figures.floor_whole)]
        assert any(f"on {len(ROWS)} pairs" in shown for shown in found)

    def test_where_no_token_differs_the_table_has_a_dash(self, saved, tiny_path, tmp_path, capsys):
        hf, tokenizer = tiny("llama")
        begun = {}
        for text in (text for row in ROWS for text in row[0::2]):
            begun.setdefault(choices(hf, prompt_of(tokenizer, text)[1], [9])[0], []).append(text)
        one, other = max(begun.values(), key=len)[:2]
        pair = {"positive_input": one, "positive_output": "a", "negative_input": other, "negative_output": "b"}
        (tmp_path / "alike.jsonl").write_text(json.dumps(pair))
        line = ("inspect", saved / "vector", "--model", tiny_path, "--pairs", tmp_path / "alike.jsonl")
        shown = self.call(capsys, *line).out.splitlines()
        assert [row.split()[-1] for row in shown if row.startswith("elicit  ")] == ["-"]
        assert json.loads(self.call(capsys, *line, "--json").out)["interchange"]["elicit"]["differing"] is None

    def test_a_concept_and_a_cut_are_taken(self, saved, tiny_path, tmp_path, capsys):
        rows = [json.loads(line) for line in (saved / "pairs.jsonl").read_text().splitlines()]
        rows = [row | {"concept": "one" if number < 2 else "two"} for number, row in enumerate(rows)]
        rows[0]["positive_output"] = "no " * 600
        (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
        line = ("inspect", saved / "vector", "--model", tiny_path, "--pairs", tmp_path / "two.jsonl", "--json")
        assert "--concept" in self.call(capsys, *line, code=2).err
        found = json.loads(self.call(capsys, *line, "--concept", "two").out)
        assert found["interchange"]["elicit"]["n_pairs"] == len(ROWS) - 2
        assert "--truncate" in self.call(capsys, *line, "--concept", "one", code=2).err
        found = json.loads(self.call(capsys, *line, "--concept", "one", "--truncate").out)
        assert found["interchange"]["elicit"]["n_tokens"] > 400

    @pytest.mark.parametrize(
        ("more", "reason"),
        [
            (("--pairs", "pairs.jsonl"), "--pairs needs --model"),
            (("--pairs", "pairs.jsonl", "--json"), "--pairs needs --model"),
            (("--model", "model", "--pairs", "absent.jsonl"), "absent.jsonl"),
            (("--model", "model", "--truncate"), "--pairs"),
            (("--model", "model", "--concept", "one"), "--pairs"),
            (("--model", "deep", "--pairs", "pairs.jsonl"), "does not fit"),
        ],
        ids=" ".join,
    )
    def test_what_is_wrong_is_said_in_one_line(self, saved, tiny_path, tmp_path, monkeypatch, capsys, more, reason):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "model").symlink_to(tiny_path)
        (tmp_path / "pairs.jsonl").write_text((saved / "pairs.jsonl").read_text())
        if "deep" in more:
            make_tiny_model(tmp_path / "deep", n_blocks=6)
        said = self.call(capsys, "inspect", saved / "vector", *more, code=2)
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert reason in line
