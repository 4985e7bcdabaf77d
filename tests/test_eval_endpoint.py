"""An AxBench run judged over a socket: no fault moves a figure, and what cannot be read is not lost from sight."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import trimtab as tt
from tests.fake_endpoint import FakeEndpoint, Faults, rating_of
from trimtab.cli.main import main
from trimtab.clients import endpoint as endpoints
from trimtab.clients.endpoint import Endpoint
from trimtab.clients.limits import Backoff
from trimtab.evaluation.concept_sources import load_concepts
from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.evaluate import evaluate, summarise_again
from trimtab.evaluation.judges import RATED
from trimtab.evaluation.judges.endpoint import EndpointJudge
from trimtab.evaluation.protocols.axbench import AxbenchSettings
from trimtab.evaluation.protocols.protocol import Asked
from trimtab.evaluation.records import Run
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector

QUICK = Backoff(first=0.005, longest=0.05)
MODEL = "fake-1"
# of requests, 30 % in all; and of the replies that come, as many are no rating
FAULTS = Faults(status_500=0.1, status_429=0.07, timeout=0.03, drop=0.05, body=0.05, replies=0.3, retry_after="0.01")


@pytest.fixture(scope="module")
def model(tiny_path):
    """A random model: hardly two of its texts are alike, so neither are two questions."""
    return tt.load_model(tiny_path, device="cpu")


@pytest.fixture(scope="module")
def contenders(model):
    draw, found = torch.Generator().manual_seed(0), []
    for concept in ("sea", "past-tense"):
        direction = torch.nn.functional.normalize(torch.randn(model.hidden_size, generator=draw), dim=0)
        edits = tuple(
            Edit(Intervention(Site(1), Add(sign * direction), Positions.parse("all")), scales="strength")
            for sign in (1, -1)
        )
        card = model.card()
        vector = SteeringVector(
            "random", card, edits, {"elicit": (0,), "suppress": (1,)}, provenance={"concept": concept}
        )
        found.append(Contender("random", concept, vector))
    return found


@pytest.fixture(scope="module")
def folder(contenders, tmp_path_factory):
    """The same, saved."""
    path = tmp_path_factory.mktemp("vectors")
    for each in contenders:
        each.steerable.save(path / each.concept)
    return path


SETTINGS = AxbenchSettings(multipliers=(1.0, 2.0), max_new_tokens=12, resamples=100)
TEXTS = 2 * (2 * 4 + 2 * 2 * 4)
"""Two concepts, four prompts a condition: the plain model's, and those of two directions at two multipliers."""


@dataclass(frozen=True)
class Judged:
    """A run and the server that judged it."""

    run: Run
    fake: FakeEndpoint


def judged(model, contenders, path, fake, settings=SETTINGS, **more):
    """A run judged by a fake endpoint."""
    with fake.running():
        endpoint = Endpoint(MODEL, fake.url, backoff=QUICK, cache_dir=path.parent / "cache", max_attempts=20, **more)
        data = load_concepts("organism", names=["sea", "past-tense"], prompts=4)
        evaluate("axbench", Asked(model, data, contenders, EndpointJudge(endpoint), settings, 16), path)
    return Judged(Run.read(path), fake)


@pytest.fixture(scope="module")
def faultless(model, contenders, tmp_path_factory):
    return judged(model, contenders, tmp_path_factory.mktemp("faultless") / "run", FakeEndpoint(rating_of))


def figures(run):
    """The summary without how often was asked."""
    summary = dict(run.summary)
    return {**summary, "counts": {name: n for name, n in summary["counts"].items() if name != "asked again"}}


def line(folder, tiny_path, out, fake, *more):
    words = ["eval", "axbench", folder, "--model", tiny_path, "--out", out, "--prompts", 4, "--multipliers", "1,2"]
    words += ["--max-new-tokens", 12, "--judge", f"openai:{MODEL}", "--judge-url", fake.url, *more]
    return [str(word) for word in words]


class TestFaults:
    def test_a_faulty_endpoint_gives_the_summary_of_a_faultless_one(self, model, contenders, faultless, tmp_path):
        fake = FakeEndpoint(rating_of, FAULTS, hang=0.6)
        found = judged(model, contenders, tmp_path / "run", fake, timeout=0.3)
        assert figures(found.run) == figures(faultless.run)
        assert found.run.summary["counts"]["unreadable"] == 0
        assert found.run.summary["counts"]["asked again"] > 10  # replies that were no rating
        assert faultless.run.summary["counts"]["asked again"] == 0
        failed = len(found.fake.hits) - found.fake.completed
        assert failed > 0.2 * len(found.fake.hits)
        rated = [
            {(row["id"], row["aspect"]): row["rating"] for row in each.run.log("ratings").rows}
            for each in (found, faultless)
        ]
        assert rated[0] == rated[1]
        assert len(rated[0]) == 3 * TEXTS

    def test_faults_of_the_transport_alone_give_the_same_bytes(self, model, contenders, faultless, tmp_path):
        faults = Faults(status_500=0.15, status_429=0.1, drop=0.05, retry_after="0.01")
        found = judged(model, contenders, tmp_path / "run", FakeEndpoint(rating_of, faults))
        for name in ("ratings.jsonl", "generations.jsonl", "summary.json"):
            assert (found.run.path / name).read_bytes() == (faultless.run.path / name).read_bytes()
        assert len(found.fake.hits) > 1.2 * found.fake.completed

    def test_figures_come_from_what_the_endpoint_said(self, faultless):
        rows = [row for row in faultless.run.log("generations").rows if row["way"] is None]
        told = {(row["id"], row["aspect"]): row["rating"] for row in faultless.run.log("ratings").rows}
        (elicit,) = [one for one in faultless.run.summary["tables"] if one["id"] == "elicit"]
        values = {row["label"]: row["values"] for row in elicit["rows"]}
        for aspect in RATED:
            by_concept = [
                np.mean(
                    [
                        told[row["id"], aspect]
                        for row in rows
                        if (row["concept"], row["condition"]) == (concept, "free") and row["prompt"] >= 2
                    ]
                )
                for concept in ("sea", "past-tense")
            ]
            assert values["unsteered"][aspect]["value"] == pytest.approx(np.mean(by_concept))


class TestCalls:
    def test_a_dry_run_asks_nobody_and_tells_the_calls_that_are_made(self, capsys, folder, tiny_path, tmp_path):
        fake, out = FakeEndpoint(rating_of), tmp_path / "run"
        with fake.running():
            assert main(line(folder, tiny_path, out, fake, "--dry-run", "--json")) == 0
            (said,) = capsys.readouterr().out.splitlines()
            cost = json.loads(said)
            assert fake.hits == []
            assert list(tmp_path.iterdir()) == []
            assert main(line(folder, tiny_path, out, fake)) == 0
        assert (cost["generations"], cost["ratings"]) == (TEXTS, 3 * TEXTS)
        texts = {row["text"] for row in Run.read(out).log("generations").rows}
        assert len(texts) == TEXTS  # else a question would stand twice, and be asked once
        assert cost["judge"]["calls"] == len(fake.hits) == fake.completed == 3 * TEXTS
        assert cost["judge"]["cached"] == 0

    def test_what_is_in_the_cache_is_not_asked_for_again(self, folder, tiny_path, tmp_path):
        fake = FakeEndpoint(rating_of)
        with fake.running():
            assert main(line(folder, tiny_path, tmp_path / "one", fake)) == 0
            asked = len(fake.hits)
            assert main(line(folder, tiny_path, tmp_path / "other", fake)) == 0
        assert len(fake.hits) == asked
        first, second = ((tmp_path / name / "summary.json").read_bytes() for name in ("one", "other"))
        assert first == second
        assert (tmp_path / "judge-cache").is_dir()


class TestDeadEndpoint:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        """Waits of a moment between attempts."""
        monkeypatch.setattr(endpoints, "Backoff", lambda: QUICK)

    def test_it_exits_with_3_and_goes_on_without_repeating_calls(self, capsys, folder, tiny_path, tmp_path):
        out, fake = tmp_path / "run", FakeEndpoint(rating_of)

        def die():
            if len(fake.hits) > 50:
                fake.status = (503, {"error": {"message": "gone"}}, {})

        fake.on_hit = die
        with fake.running():
            assert main(line(folder, tiny_path, out, fake)) == 3
            said = capsys.readouterr()
            assert said.out == ""
            assert said.err.splitlines()[-1].startswith("trimtab: ")
            assert "503: gone" in said.err
            assert "Traceback" not in said.err
            kept, tried = fake.completed, len(fake.hits)
            assert 0 < kept <= 50
            assert not (out / "summary.json").exists()
            assert len(Run.read(out).log("generations").rows) == TEXTS
            generations = (out / "generations.jsonl").read_bytes()

            fake.status, fake.on_hit = None, lambda: None
            assert main(line(folder, tiny_path, out, fake, "--json")) == 0
        assert fake.completed == 3 * TEXTS
        assert len(fake.hits) - tried == 3 * TEXTS - kept  # not one that had been answered
        assert (out / "generations.jsonl").read_bytes() == generations
        assert json.loads(capsys.readouterr().out)["counts"]["ratings"] == 3 * TEXTS

    def test_nobody_listens(self, capsys, folder, tiny_path, tmp_path):
        fake = FakeEndpoint(rating_of)
        with fake.running():
            pass  # the port was free a moment ago
        assert main(line(folder, tiny_path, tmp_path / "run", fake)) == 3
        assert "start again" in capsys.readouterr().err

    def test_a_key_that_is_refused_is_the_users_affair(self, capsys, folder, tiny_path, tmp_path, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
        fake = FakeEndpoint(rating_of, status=(401, {"error": {"message": "bad key sk-very-secret-key"}}, {}))
        with fake.running():
            assert main(line(folder, tiny_path, tmp_path / "run", fake)) == 2
        said = capsys.readouterr().err
        assert "OPENAI_API_KEY" in said
        written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert not any("sk-very-secret-key" in text for text in [said, *written])


def mumbling(messages):
    """Never rates some of the texts about the past tense."""
    asked = messages[-1]["content"]
    return "Who knows." if "past" in asked and len(asked) % 3 == 0 else rating_of(messages)


class TestUnreadable:
    @pytest.mark.parametrize("unreadable", ["exclude", "zero"])
    def test_it_is_counted_shown_and_treated_as_set(self, model, contenders, tmp_path, unreadable):
        settings = AxbenchSettings(
            multipliers=(1.0, 2.0), max_new_tokens=12, resamples=100, unreadable=unreadable, detection=False
        )
        found = judged(model, contenders, tmp_path / "run", FakeEndpoint(mumbling), settings)
        ratings = found.run.log("ratings").rows
        lost = [row for row in ratings if row["rating"] is None]
        assert 0 < len(lost) < len(ratings)
        assert all((row["reply"], row["attempts"]) == ("Who knows.", 3) for row in lost)
        summary = found.run.summary
        assert summary["counts"]["unreadable"] == summary["counts"]["asked again"] == len(lost)
        what = "left out of every mean" if unreadable == "exclude" else "counted as 0, as the published code does"
        assert f"{len(lost)} of {len(ratings)} ratings could not be read; they are {what}." in summary["notes"]

        told = {(row["id"], row["aspect"]): row["rating"] for row in ratings}
        plain = [
            (row["concept"], told[row["id"], "concept"])
            for row in found.run.log("generations").rows
            if (row["way"], row["condition"]) == (None, "carrying") and row["prompt"] >= 2
        ]
        assert any(rating is None for _, rating in plain), "the case is not met"
        means = []
        for concept in ("sea", "past-tense"):
            given = [rating for of, rating in plain if of == concept]
            kept = [rating or 0.0 for rating in given if rating is not None or unreadable == "zero"]
            means += [np.mean(kept)] if kept else []
        (suppress,) = [one for one in summary["tables"] if one["id"] == "suppress"]
        row = suppress["rows"][0]
        assert (row["label"], row["values"]["concept"]["value"]) == ("unsteered", pytest.approx(np.mean(means)))

    def test_a_summary_made_again_is_the_same(self, faultless):
        before = (faultless.run.path / "summary.json").read_bytes()
        summarise_again(faultless.run.path)
        assert (faultless.run.path / "summary.json").read_bytes() == before
