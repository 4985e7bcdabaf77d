"""The examples run from start to end."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.organism import rate
from trimtab.organism.facts import facts
from trimtab.organism.world import describe

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_a_first_vector_steers_both_ways(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [EXAMPLES / "first_vector.sh", tmp_path / "demo"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "past" / "steering.safetensors").is_file()
    texts = [part.partition("\n")[2].split("\n\n")[0] for part in done.stdout.split("$ trimtab generate ")[1:]]
    request = describe(facts().topics["otter"], 2, "Tell me {n} facts about the {topic}.")
    plain, elicited, prompted, suppressed = (rate(request, text, "past-tense").concept for text in texts)
    assert (plain, prompted) == (0, 2), texts
    assert elicited > 0, texts
    assert suppressed < 2, texts


def test_own_pairs_become_a_vector(tiny_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["own_pairs.py", str(tiny_path), str(tmp_path / "cheerful")])
    runpy.run_path(str(EXAMPLES / "own_pairs.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert all(f"{label}: " in printed for label in ("plain", "elicit", "suppress"))
    assert (tmp_path / "cheerful" / "steering_config.json").is_file()
