"""The same run as somebody else's: the official CDAS code (recorded), and a naive loop (a small fixture of our own)."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from trimtab.data import ContrastPair, PairSet, load_pairs
from trimtab.fitting.order import example_order
from trimtab.methods import fit
from trimtab.models import Model, load_model
from trimtab.steering import SteeringVector

SMALL = Path(__file__).parent / "fixtures" / "parity_small"


def cosines(a, b):
    """Between matching vectors along the last axis, in float64."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


class Official:
    """The recorded run of the official code and trimtab's repetition of it."""

    def __init__(self, folder, out):
        self.expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        self.recorded = dict(np.load(folder / "trajectory.npz"))
        lines = (folder / "generations.jsonl").read_text(encoding="utf-8").splitlines()
        self.generations = [json.loads(line) for line in lines]
        self.model = load_model(folder / "model", dtype="float32")
        self.pairs = load_pairs(folder / "pairs.parquet")
        asked = {name: self.expected[name] for name in ("layer", "epochs", "batch_size", "lr", "positions", "seed")}
        self.vector = fit(
            "cdas",
            self.model,
            self.pairs,
            init=self.recorded["init"],
            order=self.recorded["order"],
            trace=out / "trace.npz",
            calibrate=False,
            grad_clip=self.expected["grad_clip"],
            weight_decay=self.expected["weight_decay"],
            **asked,
        )
        self.trace = dict(np.load(out / "trace.npz"))


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
    folder = shared / "parity" / "cdas-llama"
    if not folder.is_dir():
        pytest.skip(f"no recorded run of the official code here: {folder} is absent")
    return Official(folder, tmp_path_factory.mktemp("parity"))


class TestOfficialRun:
    def test_the_recording_is_what_its_description_says(self, official):
        assert official.recorded["vecs"].shape == (official.expected["steps"] + 1, 64)
        assert official.recorded["jsd"].shape == (2 * official.expected["steps"],)
        assert len(official.pairs) == official.expected["n_pairs"]
        assert official.model.chat.render("a").prefix_length == official.expected["prefix_length"]

    def test_divergence_of_every_minibatch(self, official):
        gaps = np.abs(official.trace["jsd"] - official.recorded["jsd"])
        assert gaps.shape == (32,)
        assert gaps.max() < 1e-4  # what is promised
        assert gaps.max() < 1e-6  # what is measured: 1e-7
        assert official.trace["n_tok"].tolist() == official.recorded["n_tok"].tolist()

    def test_vector_after_every_step(self, official):
        assert official.trace["vecs"].shape == official.recorded["vecs"].shape == (17, 64)
        assert cosines(official.trace["vecs"], official.recorded["vecs"]).min() >= 0.9999
        assert cosines(official.trace["vecs"], official.recorded["vecs"]).min() >= 1 - 1e-7
        assert np.abs(official.trace["vecs"] - official.recorded["vecs"]).max() < 1e-4
        start, end = official.trace["vecs"][[0, -1]]
        assert cosines(start, end) == pytest.approx(official.expected["cos_init_final"], abs=1e-4)

    def test_factors(self, official):
        factors = official.vector.edits[0].factors
        assert factors.positive.mean[0] == pytest.approx(official.expected["factor_pos"], abs=2e-3)
        assert factors.negative.mean[0] == pytest.approx(official.expected["factor_neg"], abs=2e-3)

    def test_clamped_generations_one_prompt_at_a_time(self, official):
        assert len(official.generations) > 0
        for recorded in official.generations:
            text = official.model.generate(
                [recorded["input"]],
                raw=True,
                steering=[official.vector.at(recorded["factor"])],
                max_new_tokens=16,
                batch_size=1,
            )
            assert text == [recorded["greedy_16_tokens"]]

    def test_the_clamp_matters(self, official):
        inputs = [recorded["input"] for recorded in official.generations]
        plain = official.model.generate(inputs, raw=True, max_new_tokens=16)
        steered = [recorded["greedy_16_tokens"] for recorded in official.generations]
        assert sum(a != b for a, b in zip(plain, steered, strict=True)) > len(inputs) // 2

    def test_the_default_order_is_that_of_the_official_loader(self, official):
        order = example_order(
            None, official.expected["epochs"], official.expected["n_pairs"], official.expected["seed"]
        )
        assert order.flatten().tolist() == official.recorded["order"].tolist()

    def test_the_vector_survives_its_file(self, official, tmp_path):
        again = SteeringVector.load(official.vector.save(tmp_path / "v"))
        assert again.content_hash == official.vector.content_hash
        assert np.array_equal(again.edits[0].intervention.transform.directions[0].numpy(), official.trace["vecs"][-1])


@pytest.fixture(scope="module")
def kept():
    return json.loads((SMALL / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script():
    path = SMALL.parent / "make_parity_fixture.py"
    spec = importlib.util.spec_from_file_location("make_parity_fixture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(script):
    hf, tokenizer = script.make_model()
    return Model(hf, tokenizer, name="tiny")


class TestSmallRun:
    """Needs nothing but the repository; see tests/fixtures/make_parity_fixture.py for how the numbers were made."""

    @pytest.mark.parametrize("rank", [1, 2])
    def test_divergences_vectors_and_factors(self, kept, model, tmp_path, rank):
        arrays = {
            name.removeprefix(f"rank{rank}_"): array
            for name, array in np.load(SMALL / "run.npz").items()
            if name.startswith(f"rank{rank}_")
        }
        pairs = PairSet(ContrastPair(*texts) for texts in kept["pairs"])
        rest = {"init": arrays["vecs"][0], "order": arrays["order"], "trace": tmp_path / "t.npz", "rank": rank}
        vector = fit("cdas", model, pairs, calibrate=False, **kept["run"], **rest)
        trace = np.load(tmp_path / "t.npz")
        vecs = trace["vecs"].reshape(arrays["vecs"].shape)
        assert trace["n_tok"].tolist() == arrays["n_tok"].tolist()
        assert np.abs(trace["jsd"] - arrays["jsd"]).max() < 1e-6
        assert cosines(vecs, arrays["vecs"]).min() > 1 - 1e-6
        assert cosines(vecs[0], vecs[-1]).max() < 0.98
        for side in ("positive", "negative"):
            found = getattr(vector.edits[0].factors, side).mean
            assert found == pytest.approx(kept["factors"][f"rank{rank}"][side], abs=1e-4)

    def test_the_fixture_can_be_made_again(self, kept, script, monkeypatch, tmp_path):
        """The script still gives the stored numbers, so nobody has to take them on trust."""
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(script, "OUT", tmp_path)
        script.main()
        made, stored = np.load(tmp_path / "run.npz"), np.load(SMALL / "run.npz")
        assert set(made) == set(stored)
        for name in stored:
            assert np.abs(made[name] - stored[name]).max() < 1e-5, name
        again = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
        assert {name: again[name] for name in ("model", "run", "pairs")} == {
            name: kept[name] for name in ("model", "run", "pairs")
        }

    def test_it_is_small(self):
        assert sum(file.stat().st_size for file in SMALL.iterdir()) < 20_000
