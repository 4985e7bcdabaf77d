"""`python -m trimtab.cli.organism`: trains in pieces and measures what it trained."""

import json

import pytest

from trimtab.cli import organism as command
from trimtab.organism import CONCEPTS, sizes
from trimtab.organism.sizes import Size


@pytest.fixture
def small(monkeypatch):
    tiny = Size(hidden=32, blocks=2, heads=2, mlp=48, steps=4, rate=3e-3, batch=8)
    monkeypatch.setattr(sizes, "SIZES", {"S": tiny})


def test_it_trains_in_pieces_and_looks_at_what_it_trained(small, tmp_path, capsys, monkeypatch):
    from trimtab.evaluation import organism as evaluation

    monkeypatch.setattr(evaluation, "LONGEST", 4)
    out = tmp_path / "run"
    assert command.main(["train", "--out", str(out), "--until", "2"]) == 0
    assert not (out / "model").exists()
    assert command.main(["train", "--out", str(out)]) == 0
    assert "going on from step 2" in "".join(capsys.readouterr())
    assert (out / "model" / "model.safetensors").is_file()
    assert command.main(["look", "--model", str(out / "model"), "--out", str(tmp_path / "look"), "--samples", "1"]) == 0
    card = (tmp_path / "look" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in card for name in CONCEPTS)
    found = json.loads((tmp_path / "look" / "figures.json").read_text(encoding="utf-8"))
    assert found["choose (train)"]["instruction"]["n"] + found["choose (test)"]["instruction"]["n"] == 2400
    assert (tmp_path / "look" / "concepts.png").stat().st_size > 10_000
    assert "=== vela" in (tmp_path / "look" / "answers.txt").read_text(encoding="utf-8")


def test_a_checkpoint_of_another_seed_is_refused_in_one_line(small, tmp_path, capsys):
    assert command.main(["train", "--out", str(tmp_path), "--until", "1"]) == 0
    assert command.main(["train", "--out", str(tmp_path), "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert "another training" in error
    assert "give another --out" in error
    assert "Traceback" not in error
