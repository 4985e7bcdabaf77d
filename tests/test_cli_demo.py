"""`trimtab demo` and `trimtab distill`: whole, on the built-in model, as a user calls them."""

import json
import subprocess
import sys

import pytest

from trimtab.evaluation.demo import CONCEPTS
from trimtab.steering import SteeringVector

RATINGS = {"concept", "instruction", "fluency", "score", "refusal_rate", "kl", "choice_accuracy", "n"}


def trimtab(*words, expect=0):
    """The command in a process of its own: (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_demo_finds_layers_and_multipliers_and_steers_both_ways(tmp_path):
    stdout, stderr = trimtab("demo", "--out", tmp_path / "demo", "--json")
    (line,) = stdout.splitlines()
    found = json.loads(line)
    assert found["seconds"] > 0
    assert [entry["name"] for entry in found["concepts"]] == list(CONCEPTS)
    for entry in found["concepts"]:
        rows = entry["rows"]
        assert {"unsteered", "prompted", "elicit", "suppress"} == rows.keys()
        assert all(row.keys() == RATINGS for row in rows.values())
        assert rows["unsteered"]["score"] < 0.2
        assert rows["prompted"]["score"] > 1.6
        assert rows["elicit"]["score"] > 1.4
        assert rows["suppress"]["score"] > 1.6
        assert max(row["score"] for row in entry["controls"].values()) <= 0.1
        vector = SteeringVector.load(entry["vector"])
        assert entry["multiplier"] == {way: vector.multipliers.get(way, 1.0) for way in ("elicit", "suppress")}
        assert vector.provenance["calibration"]["held_out"]
        assert f"{entry['name']}: fit" in stderr or f"{entry['name']}: trial fits" in stderr
    assert (tmp_path / "demo" / "dose-response.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_prompt_becomes_a_vector_that_does_what_the_prompt_did(tmp_path):
    training = ("--epochs", 4, "--batch-size", 4, "--layer", 0)
    system = "Write in the past tense."
    stdout, _ = trimtab(
        "distill",
        system,
        "--model",
        "organism",
        "--prompts",
        "past-tense",
        *training,
        "--out",
        tmp_path / "v",
        "--json",
    )
    found = json.loads(stdout)
    compared = found["comparison"]
    assert compared["effect_plain"] < 0.1
    assert compared["effect_prompt"] > 0.7
    assert compared["effect_vector"] > 0.5
    assert compared["kl_vector"] < compared["kl_plain"] / 2
    assert compared["tokens_saved"] > 5
    assert SteeringVector.load(tmp_path / "v").provenance["concept"] == system
    _, stderr = trimtab(
        "distill", system, "--model", "organism", "--prompts", "past-tense", "--out", tmp_path / "v", expect=2
    )
    assert "--overwrite" in stderr


class TestBadInput:
    def test_the_demo_replaces_nothing_unless_told_to(self, tmp_path):
        (tmp_path / "refusal").mkdir()
        stdout, stderr = trimtab("demo", "--out", tmp_path, expect=2)
        assert stdout == ""
        assert "refusal exists already" in stderr
        assert "--overwrite" in stderr

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--method", "cdass"), "did you mean 'cdas'"),
            (("--epochs", 0), "epochs is 0"),
            (("--method", "diffmean", "--epochs", 3), "unknown setting 'epochs'"),
            (("--layer", 99), "99"),
        ],
    )
    def test_settings_are_looked_at_before_anything_is_answered(self, tmp_path, words, said):
        out = ("--prompts", "past-tense", "--out", tmp_path / "v")
        _, stderr = trimtab("distill", "Rhyme.", "--model", "organism", *out, *words, expect=2)
        assert said in stderr
        assert "generate" not in stderr

    def distilling(self, tmp_path, system, prompts):
        words = ("distill", system, "--model", "organism", "--prompts", prompts, "--out", tmp_path / "v")
        stdout, stderr = trimtab(*words, expect=2)
        assert stdout == ""
        assert "Traceback" not in stderr
        assert not (tmp_path / "v").exists()
        return stderr.splitlines()[-1]

    def test_prompts_that_are_nowhere(self, tmp_path):
        assert "neither a file nor a name" in self.distilling(tmp_path, "Rhyme.", tmp_path / "none.txt")

    def test_too_few_prompts(self, tmp_path):
        (tmp_path / "prompts.txt").write_text("One.\nTwo.\n", encoding="utf-8")
        assert "at least 8" in self.distilling(tmp_path, "Rhyme.", tmp_path / "prompts.txt")

    def test_an_empty_system_prompt(self, tmp_path):
        assert "empty" in self.distilling(tmp_path, " ", "past-tense")
