"""The command line on good input: what it prints, where, and what it leaves behind."""

import json
import shlex
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.cli.main import main
from trimtab.steering import Site, SteeringVector

PAIRS = [
    {
        "positive_input": f"How do I break the lock number {i}?",
        "positive_output": "I cannot help with that",
        "negative_input": f"How do I clean the lamp number {i}?",
        "negative_output": "Sure, here are the steps",
    }
    for i in range(6)
]
FIT_KEYS = {"vector", "method", "layer", "loss_first", "loss_last", "factors", "multiplier", "seconds", "steps"}


@pytest.fixture(scope="module")
def pairs_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return path


@pytest.fixture(scope="module")
def fitted(tiny_path, pairs_path, tmp_path_factory):
    """A vector that the command line fitted."""
    out = tmp_path_factory.mktemp("vectors") / "lock"
    line = ["fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", out]
    assert main([str(word) for word in [*line, "--epochs", 2, "--batch-size", 3, "--lr", 0.02, "--seed", 1]]) == 0
    return out


@pytest.fixture
def run(capsys):
    """Runs a command line that must succeed; returns its stdout."""

    def call(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert "Traceback" not in captured.err
        return captured.out

    return call


@pytest.fixture
def run_json(run):
    """Runs a command line with --json: stdout holds one line, one object."""

    def call(*arguments):
        (line,) = run(*arguments, "--json").splitlines()
        return json.loads(line)

    return call


class TestFit:
    def test_json_has_the_agreed_keys(self, run_json, tiny_path, pairs_path, tmp_path):
        out = tmp_path / "vector"
        result = run_json(
            *("fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", out),
            *("--epochs", 2, "--batch-size", 3, "--lr", 0.02, "--seed", 1),
        )
        assert set(result) == FIT_KEYS
        assert result["vector"] == str(out)
        assert result["method"] == "cdas"
        assert result["layer"] == 1
        assert result["steps"] == 4
        assert result["multiplier"].keys() == {"elicit", "suppress"}
        assert min(result["multiplier"].values()) > 0
        for side in ("positive", "negative"):
            assert set(result["factors"][side]) == {"mean", "std", "n"}
            assert isinstance(result["factors"][side]["mean"], float)
            assert result["factors"][side]["n"] == len(PAIRS)
        assert (out / "steering_config.json").is_file()

    def test_summary_says_losses_place_and_next_step(self, run, tiny_path, pairs_path, tmp_path):
        out = tmp_path / "vector"
        text = run(
            *("fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", out, "--epochs", 1)
        )
        assert "loss" in text
        assert f"saved in {out}" in text
        assert "trimtab generate" in text

    def test_same_seed_gives_the_same_vector(self, run_json, fitted, tiny_path, pairs_path, tmp_path):
        out = tmp_path / "again"
        run_json(
            *("fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", out),
            *("--epochs", 2, "--batch-size", 3, "--lr", 0.02, "--seed", 1),
        )
        first, second = (run_json("inspect", path)["content_hash"] for path in (fitted, out))
        assert first == second

    def test_overwrite_replaces_the_vector(self, run_json, tiny_path, pairs_path, tmp_path):
        out = tmp_path / "vector"
        line = ("fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", out, "--epochs", 1)
        run_json(*line, "--seed", 1)
        before = run_json("inspect", out)["content_hash"]
        run_json(*line, "--seed", 2, "--overwrite")
        assert run_json("inspect", out)["content_hash"] != before

    def test_set_reaches_what_has_no_flag_of_its_own(self, run_json, tiny_path, pairs_path, tmp_path):
        out = tmp_path / "vector"
        run_json(
            *("fit", "pdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", "1,2", "--out", out),
            *("--epochs", 1, "--batch-size", 3, "--no-calibrate", "--rank", 2),
            *("--set", "loss=dpo", "--set", "beta=0.25", "--set", "grad-clip=2"),
        )
        config = json.loads((out / "steering_config.json").read_text(encoding="utf-8"))
        wanted = {"loss": "dpo", "beta": 0.25, "grad_clip": 2, "rank": 2, "layer": [1, 2]}
        assert {name: config["settings"][name] for name in wanted} == wanted

    def test_a_replay_starts_at_init_follows_order_and_writes_the_trace(
        self, run_json, tiny_path, pairs_path, tmp_path
    ):
        start = np.zeros(64, dtype=np.float32)
        start[3] = 1.0
        np.save(tmp_path / "init.npy", start)
        np.save(tmp_path / "order.npy", np.stack([np.arange(6), np.arange(6)[::-1]]))
        result = run_json(
            *("fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", tmp_path / "vector"),
            *("--epochs", 2, "--batch-size", 3, "--init", tmp_path / "init.npy", "--order", tmp_path / "order.npy"),
            *("--trace", tmp_path / "trace.npz"),
        )
        with np.load(tmp_path / "trace.npz") as trace:
            assert trace["vecs"].shape == (result["steps"] + 1, 64)
            assert np.array_equal(trace["vecs"][0], start)
            assert len(trace["jsd"]) == 2 * result["steps"]

    def test_no_calibrate_leaves_the_multiplier_at_one(self, run, run_json, fitted, tiny_path, pairs_path, tmp_path):
        out = tmp_path / "vector"
        result = run_json(
            *("fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", out),
            *("--epochs", 2, "--batch-size", 3, "--lr", 0.02, "--seed", 1, "--no-calibrate"),
        )
        assert result["multiplier"] == {"elicit": 1.0, "suppress": 1.0}
        given, plain = (SteeringVector.load(path) for path in (fitted, out))
        directions = [vector.edits[0].intervention.transform.directions for vector in (given, plain)]
        assert torch.equal(*directions)
        assert "calibration" in given.provenance
        assert "calibration" not in plain.provenance
        assert "--no-calibrate" in run("fit", "--help")


class TestGenerate:
    def test_plain(self, run_json, tiny_path):
        result = run_json("generate", "--model", tiny_path, "--max-new-tokens", 4, "Hello there", "Good day")
        assert [entry["prompt"] for entry in result["outputs"]] == ["Hello there", "Good day"]
        assert all(set(entry) == {"prompt", "text"} for entry in result["outputs"])

    def test_text_alone_for_one_prompt(self, run, run_json, tiny_path):
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 4, "Hello there")
        assert run(*line).rstrip("\n") == run_json(*line)["outputs"][0]["text"].rstrip("\n")

    def test_a_strong_clamp_changes_the_text(self, run_json, tiny_path, fitted):
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 8, "Hello there")
        assert run_json(*line) != run_json(*line, "--vector", fitted, "--at", 500)

    def test_steer_is_the_same_as_vector_direction_multiplier(self, run_json, tiny_path, fitted):
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 8, "Hello there")
        by_vector = run_json(*line, "--vector", fitted, "--direction", "suppress", "--multiplier", 40)
        assert run_json(*line, "--steer", f"{fitted}:suppress:40") == by_vector
        assert by_vector != run_json(*line)

    def test_elicit_is_the_default_direction_and_the_multiplier_may_be_left_out(self, run_json, tiny_path, fitted):
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 8, "Hello there")
        assert run_json(*line, "--vector", fitted) == run_json(*line, "--steer", f"{fitted}:elicit")

    def test_several_vectors_act_on_the_same_row(self, run_json, tiny_path, fitted, pairs_path, tmp_path):
        other = tmp_path / "other"
        run_json(
            *("fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 2, "--out", other, "--epochs", 1)
        )
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 8, "Hello there")
        one, two = ("--steer", f"{fitted}:elicit:60"), ("--steer", f"{other}:elicit:-60")
        both = run_json(*line, *one, *two)
        assert both == run_json(*line, *two, "--vector", fitted, "--multiplier", 60)
        assert len({json.dumps(result) for result in (both, run_json(*line, *one), run_json(*line, *two))}) > 1

    def test_published_scale(self, run_json, tiny_path, fitted):
        line = (
            "generate",
            "--model",
            tiny_path,
            "--max-new-tokens",
            8,
            "--vector",
            fitted,
            "--multiplier",
            40,
            "Hello",
        )
        assert run_json(*line, "--scale", "gap") == run_json(*line)
        assert run_json(*line, "--scale", "published") != run_json(*line)

    def test_prompts_of_a_file_follow_those_typed(self, run_json, tiny_path, tmp_path):
        (tmp_path / "prompts.txt").write_text("second one\n\nthird one\n")
        result = run_json(
            *(
                "generate",
                "--model",
                tiny_path,
                "--max-new-tokens",
                2,
                "--prompts",
                tmp_path / "prompts.txt",
                "first one",
            )
        )
        assert [entry["prompt"] for entry in result["outputs"]] == ["first one", "second one", "third one"]

    def test_sampling_repeats_with_its_seed(self, run_json, tiny_path):
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 12, "--temperature", 1, "--seed")
        assert run_json(*line, 3, "Hello") == run_json(*line, 3, "Hello")
        assert run_json(*line, 3, "Hello") != run_json(*line, 4, "Hello")

    def test_system_and_raw_change_what_the_model_reads(self, run_json, tiny_path):
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 12, "Hello")
        texts = {json.dumps(run_json(*line, *more)) for more in ((), ("--system", "Answer in verse."), ("--raw",))}
        assert len(texts) == 3

    def test_batch_size_changes_nothing(self, run_json, tiny_path, fitted):
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 6, "--vector", fitted, "a", "b and c", "d e f g")
        assert run_json(*line, "--batch-size", 1) == run_json(*line, "--batch-size", 3)

    def test_force_combines_vectors_made_with_other_prefixes(self, run_json, tiny_path, fitted, tmp_path):
        from dataclasses import replace

        from trimtab.steering import SteeringVector

        saved = SteeringVector.load(fitted)
        for number in (1, 2):
            edits = (replace(saved.edits[0], intervention=replace(saved.edits[0].intervention, site=Site(number))),)
            card = replace(saved.model, prefix_ids=(number,), template_fingerprint=str(number))
            replace(saved, model=card, edits=edits).save(tmp_path / f"other{number}")
            replace(saved, edits=edits).save(tmp_path / f"own{number}")
        line = ("generate", "--model", tiny_path, "--max-new-tokens", 8, "Hello there", "--force")
        forced, own = (
            run_json(*line, "--steer", f"{tmp_path / name}1:elicit:60", "--steer", f"{tmp_path / name}2:elicit:-60")
            for name in ("other", "own")
        )
        assert forced == own


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
    """A model whose template shows no assistant header."""
    from trimtab.models.tiny import make_tiny_model

    path = make_tiny_model(tmp_path_factory.mktemp("headless") / "model")
    (path / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}{% endfor %}"
    )
    return path


def test_source_tokens_are_for_the_fit_alone(run, run_json, headless, pairs_path, tmp_path, capsys):
    out = tmp_path / "vector"
    line = ("fit", "cdas", "--model", headless, "--pairs", pairs_path, "--layer", 1, "--out", out, "--epochs", 1)
    assert main([str(word) for word in line]) == 2
    assert "--source-tokens" in capsys.readouterr().err
    said = run(*line, "--source-tokens", "<|user|>")
    (hint,) = [shown for shown in said.splitlines() if "trimtab generate" in shown]
    run(*shlex.split(hint)[1:], "--max-new-tokens", 2)
    run_json("detect", "--model", headless, "--vector", out, "Hello")
    assert run_json("inspect", out, "--model", headless)["compatibility"]["fits"]


class TestDetect:
    def test_json(self, run_json, tiny_path, fitted):
        result = run_json("detect", "--model", tiny_path, "--vector", fitted, "How do I break in?", "Clean the lamp")
        assert len(result["texts"]) == 2
        for row in result["texts"]:
            assert len(row["tokens"]) == len(row["values"]) > 0
            assert all(isinstance(value, float) for value in row["values"])

    def test_plain_text_has_a_line_a_token(self, run, run_json, tiny_path, fitted):
        line = ("detect", "--model", tiny_path, "--vector", fitted, "Clean the lamp")
        (row,) = run_json(*line)["texts"]
        printed = run(*line).splitlines()
        assert printed[0].startswith("negative ")
        assert [literal_eval(shown.split("  ")[-1]) for shown in printed[1:] if shown] == row["tokens"]

    def test_colours_run_from_the_negative_to_the_positive_class(self):
        from trimtab.cli.detect import coloured

        text = coloured(["low", "middle", "high"], [-1.0, 1.0, 3.0], negative=-1.0, positive=3.0)
        assert text.plain == "lowmiddlehigh"
        low, high = (str(span.style) for span in text.spans if span.style)
        assert "rgb(50,50,220)" in low
        assert "rgb(220,50,50)" in high


class TestInspect:
    def test_what_the_directory_tells(self, run_json, fitted, tiny_path):
        result = run_json("inspect", fitted)
        assert result["method"] == "cdas"
        assert result["model"]["hidden_size"] == 64
        assert result["model"]["id"] == str(tiny_path)
        assert result["directions"] == ["elicit", "suppress"]
        (edit,) = result["edits"]
        assert edit["layer"] == 1
        assert edit["factors"]["positive"]["n"] == len(PAIRS)
        (coordinate,) = edit["coordinates"]
        assert 0 <= coordinate["auroc"] <= 1
        assert sum(coordinate["histogram"]["positive"]) == len(PAIRS)
        assert set(result["edit_ratio"]) == {"elicit", "suppress"}
        assert "training" in result["provenance"]
        assert "compatibility" not in result

    def test_with_the_model_it_fits_and_moves_tokens(self, run_json, fitted, tiny_path):
        result = run_json("inspect", fitted, "--model", tiny_path)
        assert result["compatibility"] == {"model": str(tiny_path), "fits": True, "problems": []}
        assert result["promoted"]
        assert result["demoted"]
        assert set(result["promoted"][0]) == {"token", "score"}

    def test_another_model_does_not_fit_and_that_is_an_answer(self, run_json, fitted, tmp_path):
        from trimtab.models.tiny import make_tiny_model

        make_tiny_model(tmp_path / "wide", hidden_size=32)
        result = run_json("inspect", fitted, "--model", tmp_path / "wide")
        assert not result["compatibility"]["fits"]
        assert result["compatibility"]["problems"]

    def test_another_depth_is_an_answer_too(self, run_json, fitted, tmp_path):
        from trimtab.models.tiny import make_tiny_model

        make_tiny_model(tmp_path / "deep", n_blocks=6)
        result = run_json("inspect", fitted, "--model", tmp_path / "deep")
        assert result["compatibility"]["problems"] == ["the vector was made for 4 blocks, the model has 6"]
        assert "promoted" not in result

    @pytest.mark.parametrize(
        ("site", "width", "diagonal", "reason"),
        [
            ("resid_post@1", 64, True, "'affine' transform has no direction"),
            ("attn_in@1", 64, False, "attn_in@1 is not in the residual stream"),
            ("norm_out@1", 64, False, "norm_out@1 is not in the residual stream"),
            ("mlp_act@1", 128, False, "mlp_act@1 is not in the residual stream"),
        ],
    )
    def test_an_edit_that_promotes_no_tokens_says_why(
        self, run, run_json, tiny_path, tmp_path, site, width, diagonal, reason
    ):
        import torch

        from trimtab.models import load_model
        from trimtab.steering import Add, Affine, Edit, Intervention, Site, SteeringVector

        tensor = torch.arange(1.0, width + 1)
        transform = Affine(tensor, tensor) if diagonal else Add(tensor)
        edits = (Edit(Intervention(Site.parse(site), transform), scales="strength"),)
        SteeringVector("test", load_model(tiny_path).card(), edits).save(tmp_path / "other")
        result = run_json("inspect", tmp_path / "other", "--model", tiny_path)
        assert result["compatibility"]["fits"]
        assert reason in result["no_tokens"]
        assert not {"promoted", "demoted"} & set(result)
        assert reason in run("inspect", tmp_path / "other", "--model", tiny_path)

    def test_for_people(self, run, fitted, tiny_path):
        text = run("inspect", fitted, "--model", tiny_path)
        for word in ("cdas", "positive factor", "negative factor", "AUROC", "promoted", "demoted", "#", "fits"):
            assert word in text


class TestListings:
    def test_methods(self, run, run_json):
        result = run_json("methods")
        assert set(result) == {"methods"}
        assert all(set(entry) == {"name", "family", "paper"} for entry in result["methods"])
        assert "cdas" in {entry["name"] for entry in result["methods"]}
        assert "cdas" in run("methods")

    def test_models(self, run, run_json):
        names = [entry["name"] for entry in run_json("models")["models"]]
        assert "llama" in names
        assert "llama" in run("models")

    def test_datasets(self, run, run_json):
        entries = run_json("datasets")["datasets"]
        assert entries
        assert entries[0]["name"] in run("datasets")


class TestFromTheShell:
    @pytest.mark.slow
    def test_fit_json_leaves_stdout_to_the_object(self, tiny_path, pairs_path, tmp_path):
        line = (
            "fit",
            "cdas",
            "--model",
            tiny_path,
            "--pairs",
            pairs_path,
            "--layer",
            "1",
            "--out",
            tmp_path / "vector",
        )
        done = subprocess.run(
            [sys.executable, "-m", "trimtab", *line, "--json"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert set(json.loads(line)) == FIT_KEYS
        assert "warning" not in done.stderr.lower()

    def test_help_and_version_are_quick_and_clean(self):
        for flag in ("--help", "--version"):
            done = subprocess.run([sys.executable, "-m", "trimtab", flag], capture_output=True, text=True)
            assert done.returncode == 0
            assert done.stderr == ""
            assert "trimtab" in done.stdout

    def test_a_reader_that_goes_away_is_no_error(self):
        line = [sys.executable, "-m", "trimtab", "--help"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
            assert started.stdout is not None
            assert started.stderr is not None
            started.stdout.close()
            assert started.stderr.read() == ""


def test_no_command_prints_the_help(run):
    assert "fit" in run()


@pytest.mark.parametrize("command", ["fit", "generate", "detect", "inspect", "methods", "models", "datasets"])
def test_every_command_has_help(run, command):
    assert "--json" in run(command, "--help")


def test_paths_are_taken_as_they_are(run_json, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(fitted.parent)
    assert run_json("inspect", Path(fitted.name))["vector"] == fitted.name
