"""`trimtab eval`, `report` and `compare` as a user types them: what they print, leave and refuse."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import trimtab as tt
from trimtab.cli.evaluate import app
from trimtab.cli.main import main
from trimtab.errors import InputError
from trimtab.evaluation.identity import identity_of
from trimtab.evaluation.protocols.refusal import RefusalSettings
from trimtab.evaluation.records import CONFIG, SUMMARY, Run, open_run
from trimtab.models.tiny import make_tiny_model

SMALL = {
    "axbench": ("--prompts", 2, "--multipliers", "1,2", "--max-new-tokens", 6),
    "refusal": ("--prompts", 2, "--max-new-tokens", 6),
    "backdoor": ("--prompts", 2, "--max-new-tokens", 6),
    "utility": ("--choices", 6),
    "steerability": ("--n", 3, "--max-new-tokens", 6),
    "faithfulness": ("--n", 3, "--multipliers", "1", "--max-new-tokens", 6),
}
"""Options with which each protocol takes a moment."""
COMMANDS = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
DRY = [name for name in ("axbench", "refusal", "backdoor") if name in COMMANDS]


@pytest.fixture(scope="module")
def vector(tmp_path_factory):
    """A saved vector of the organism's, for a concept."""
    model = tt.load_model("organism", device="cpu")
    found = tt.fit("diffmean", model, tt.load_pairs("sea")[:16], layer=3, calibrate=False)
    return found.save(tmp_path_factory.mktemp("vectors") / "sea")


@pytest.fixture(scope="module")
def foreign(tiny_path, tmp_path_factory):
    """A vector for another model."""
    found = tt.fit("diffmean", tt.load_model(tiny_path), tt.load_pairs("sea")[:4], layer=1, calibrate=False)
    return found.save(tmp_path_factory.mktemp("vectors") / "foreign")


def words_of(name, vector, out, *more):
    line = ["eval", name, vector, "--model", "organism", "--out", out, *SMALL[name], *more]
    return [str(word) for word in line]


@pytest.fixture(scope="module")
def runs(vector, tmp_path_factory):
    """Finished runs by protocol."""
    folder = tmp_path_factory.mktemp("runs")
    for name in COMMANDS:
        assert main(words_of(name, vector, folder / name)) == 0, name
    return {name: folder / name for name in COMMANDS}


def tree(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


class TestRuns:
    def test_every_command_of_the_protocols_is_here(self):
        assert {"axbench", "refusal", "backdoor", "utility"} <= set(COMMANDS)
        assert set(COMMANDS) <= SMALL.keys(), "a protocol came that this file does not call"

    @pytest.mark.parametrize("name", SMALL)
    def test_started_again_it_prints_the_same_and_writes_nothing(self, capsys, vector, runs, name):
        if name not in runs:
            pytest.skip(f"`trimtab eval` has no {name} yet")
        before = tree(runs[name])
        printed = []
        for _ in range(2):
            capsys.readouterr()
            assert main(words_of(name, vector, runs[name])) == 0
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]
        assert f"trimtab report {runs[name]}" in printed[0]
        assert tree(runs[name]) == before
        assert {CONFIG, SUMMARY} <= before.keys()

    @pytest.mark.parametrize("name", SMALL)
    def test_json_is_one_object_with_the_tables(self, capsys, vector, runs, name):
        if name not in runs:
            pytest.skip(f"`trimtab eval` has no {name} yet")
        capsys.readouterr()
        assert main(words_of(name, vector, runs[name], "--json")) == 0
        (line,) = capsys.readouterr().out.splitlines()
        found = json.loads(line)
        summary = json.loads((runs[name] / SUMMARY).read_text())
        assert found["protocol"] == name
        assert found["run"] == str(runs[name])
        assert found["tables"] == summary["tables"] != []
        assert found["counts"] == summary["counts"]
        assert any("diffmean" in row["label"] for table in found["tables"] for row in table["rows"])

    @pytest.mark.parametrize("name", DRY)
    def test_a_dry_run_tells_the_texts_that_are_written_and_writes_none(self, capsys, vector, runs, tmp_path, name):
        capsys.readouterr()
        assert main(words_of(name, vector, tmp_path / "run", "--dry-run", "--json")) == 0
        (line,) = capsys.readouterr().out.splitlines()
        found = json.loads(line)
        assert main(words_of(name, vector, tmp_path / "run", "--dry-run")) == 0
        assert "nothing was written and nobody asked" in capsys.readouterr().out
        assert list(tmp_path.iterdir()) == []
        counts = json.loads((runs[name] / SUMMARY).read_text())["counts"]
        assert (found["generations"], found["ratings"]) == (counts["generations"], counts["ratings"])
        assert found["new_tokens"] == 6 * found["generations"]
        assert found["judge"] is None  # the exact judge costs nothing

    def test_the_command_is_on_record_and_its_numbers_do_not_depend_on_the_batch(self, vector, runs, tmp_path):
        config = json.loads((runs["axbench"] / CONFIG).read_text())
        assert config["info"]["command"].startswith("trimtab ")
        assert config["info"]["batch_size"] == 32
        assert main(words_of("axbench", vector, tmp_path / "run", "--batch-size", 3)) == 0
        assert (tmp_path / "run" / SUMMARY).read_bytes() == (runs["axbench"] / SUMMARY).read_bytes()
        assert json.loads((tmp_path / "run" / CONFIG).read_text())["hash"] == config["hash"]

    def test_a_finished_run_is_overwritten_only_when_asked(self, capsys, vector, runs, tmp_path):
        out = tmp_path / "run"
        assert main(words_of("refusal", vector, out)) == 0
        line = words_of("refusal", vector, out, "--seed", 7)
        assert main(line) == 2
        assert "settings.seed: 42 there, 7 here" in capsys.readouterr().err
        assert main([*line, "--overwrite"]) == 0
        assert json.loads((out / CONFIG).read_text())["identity"]["settings"]["seed"] == 7

    def test_only_some_concepts_and_the_vectors_for_them(self, capsys, vector, tmp_path):
        model = tt.load_model("organism", device="cpu")
        other = tt.fit("diffmean", model, tt.load_pairs("night")[:16], layer=3, calibrate=False)
        other.save(tmp_path / "vectors" / "night")
        line = words_of("axbench", vector, tmp_path / "run", tmp_path / "vectors", "--only", "night", "--json")
        assert main(line) == 0
        identity = json.loads((tmp_path / "run" / CONFIG).read_text())["identity"]
        assert [each["concept"] for each in identity["contenders"]] == ["night"]
        assert [each["name"] for each in identity["data"]["concepts"]] == ["night"]

    def test_a_number_names_a_concept_of_a_file(self, capsys, vector, tmp_path):
        concepts, asked = tmp_path / "concepts.jsonl", tmp_path / "asked.txt"
        concepts.write_text('{"concept": "night", "concept_id": 4}\n{"concept": "sea", "concept_id": 9}\n')
        asked.write_text("Tell me about the otter.\nTell me about the moon.\n")
        line = words_of("axbench", vector, tmp_path / "run", "--concepts", concepts, "--instructions", asked)
        line += ["--judge", "openai:m", "--judge-url", "http://localhost/v1", "--dry-run", "--json"]
        for named, texts in (("9", 2 * 2 + 2 * 2 * 2), ("sea", 2 * 2 + 2 * 2 * 2), ("4", 2 * 2)):
            capsys.readouterr()
            assert main([*line, "--only", named]) == 0  # the plain model, and the vector if it is for that concept
            assert json.loads(capsys.readouterr().out)["generations"] == texts

    def test_settings_as_they_are_typed(self, vector, tmp_path):
        line = words_of("axbench", vector, tmp_path / "run", "--set", "ways=suppress", "--set", "resamples=50")
        line += ["--set", "detection=false", "--set", "temperature=1", "--set", "reference=nobody"]
        assert main(line) == 0
        settings = json.loads((tmp_path / "run" / CONFIG).read_text())["identity"]["settings"]
        assert (settings["ways"], settings["resamples"], settings["detection"]) == (["suppress"], 50, False)
        assert (settings["temperature"], settings["reference"]) == (1.0, "nobody")
        assert [one["id"] for one in json.loads((tmp_path / "run" / SUMMARY).read_text())["tables"]] == ["suppress"]


def check_refusal(code, said):
    assert code == 2, said.err
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.strip()]
    assert line.startswith("trimtab: ")
    assert len(line) < 700
    return line


@pytest.fixture
def refuse(capsys, tmp_path):
    """A command line that must be refused, and leave everything as it was; returns the line that says why."""

    def call(*words):
        before = {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
        capsys.readouterr()
        code = main([str(word) for word in words])
        line = check_refusal(code, capsys.readouterr())
        after = {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
        assert after == before
        return line

    return call


class TestRefused:
    @pytest.mark.parametrize("name", [name for name in SMALL if name in COMMANDS])
    def test_for_every_protocol(self, refuse, vector, foreign, tmp_path, name):
        out = tmp_path / "run"
        (tmp_path / "file").write_text("mine")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").write_text("dear")
        empty = tmp_path / "empty"
        empty.mkdir()
        assert "nowhere" in refuse(*words_of(name, tmp_path / "nowhere", out))
        assert "no saved vector" in refuse(*words_of(name, empty, out))
        assert "does not fit" in refuse(*words_of(name, foreign, out, "--concept", "sea"))
        assert "tell them apart" in refuse(*words_of(name, vector, out, vector))
        assert "LABEL=DIR" in refuse(*words_of(name, f"={vector}", out))
        assert "choose another label" in refuse(*words_of(name, f"unsteered={vector}", out))
        assert "no directory" in refuse(*words_of(name, vector, tmp_path / "file"))
        assert "other files" in refuse(*words_of(name, vector, tmp_path / "mine"))
        assert "other files" in refuse(*words_of(name, vector, tmp_path / "mine", "--overwrite"))
        assert "Not a directory" in refuse(*words_of(name, vector, tmp_path / "file" / "run"))
        assert "batch_size" in refuse(*words_of(name, vector, out, "--batch-size", 0))
        assert "batch_size" in refuse(*words_of(name, vector, out, "--batch-size", -1))
        assert "seed" in refuse(*words_of(name, vector, out, "--seed", -1))
        assert "nonsense" in refuse(*words_of(name, vector, out, "--set", "nonsense=1"))
        assert "NAME=VALUE" in refuse(*words_of(name, vector, out, "--set", "nonsense"))
        assert "abacus" in refuse(*words_of(name, vector, out, "--device", "abacus"))
        assert "float3" in refuse(*words_of(name, vector, out, "--dtype", "float3"))
        line = words_of(name, vector, out)
        line[line.index("organism")] = str(tmp_path / "no model")
        assert "no model" in refuse(*line)

    @pytest.mark.parametrize("name", DRY)
    def test_amounts(self, refuse, vector, tmp_path, name):
        for flag, value, said in (
            ("--max-new-tokens", 0, "max_new_tokens"),
            ("--max-new-tokens", -2, "max_new_tokens"),
            ("--prompts", 0, "prompts"),
            ("--prompts", -1, "prompts"),
            ("--prompts", "many", "--prompts"),
            ("--multipliers", "a,b", "--multipliers"),
            ("--multipliers", "", "--multipliers"),
            ("--multipliers", "1,,2", "--multipliers"),
            ("--multipliers", "1,1", "twice"),
            ("--multipliers", "nan", "nan"),
            ("--multipliers", "1e400", "inf"),
        ):
            line = words_of(name, vector, tmp_path / "run")
            if flag in line:
                line[line.index(flag) + 1] = str(value)
            else:
                line += [flag, str(value)]
            assert said in refuse(*line)

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (("--judge", "nobody"), "no judge 'nobody'"),
            (("--judge", "exact,rules"), "both for all aspects"),
            (("--judge", "concept=exact,concept=rules,exact"), "two judges"),
            (("--judge", "colour=exact"), "no aspect 'colour'"),
            (("--judge", ""), "no judge ''"),
            (("--judge", "openai:"), "no judge 'openai:'"),
            (("--judge", "rules"), "does not rate"),
            (("--judge", "concept=exact"), "does not rate"),
            (("--judge", "openai:m", "--judge-url", "nonsense"), "no base URL"),
            (("--judge", "openai:m", "--judge-url", "http://me:secret@host/v1"), "password"),
            (("--judge-url", "http://localhost/v1"), "--judge"),
            (("--judge", "exact", "--judge-set", "temperature=1"), "--judge"),
            (("--judge", "local:organism", "--judge-url", "http://localhost/v1"), "--judge-url"),
            (("--judge", "openai:m", "--judge-set", "nonsense"), "--judge-set nonsense: takes NAME=VALUE"),
            (("--judge", "openai:m", "--judge-set", "nonsense=1"), "no such setting"),
            (("--judge", "openai:m", "--judge-set", "temperature=hot"), "temperature"),
            (("--judge", "openai:m", "--judge-set", "temperature=-1"), "temperature"),
            (("--judge", "openai:m", "--judge-set", "concurrency=many"), "concurrency"),
            (("--judge", "openai:m", "--judge-set", "concurrency=1.5"), "concurrency"),
            (("--judge", "openai:m", "--judge-set", "concurrency=0"), "concurrency"),
            (("--judge", "openai:m", "--judge-set", "requests_per_minute=0"), "requests_per_minute"),
            (("--judge", "openai:m", "--judge-set", "cache=7"), "cache"),
            (("--judge", "openai:m", "--judge-set", "input_price=1"), "both or none"),
            (
                ("--judge", "openai:m", "--judge-set", "input_price=-1", "--judge-set", "output_price=1"),
                "input price",
            ),
            (("--judge", "openai:m", "--judge-set", "cache=a", "--judge-set", "cache=b"), "twice"),
        ],
    )
    def test_judges(self, refuse, vector, tmp_path, more, said):
        assert said in refuse(*words_of("axbench", vector, tmp_path / "run", *more))

    def test_judges_of_other_protocols(self, refuse, vector, tmp_path):
        out = tmp_path / "run"
        assert "rates concept" in refuse(*words_of("refusal", vector, out, "--judge", "rules"))
        assert "rates concept" in refuse(*words_of("backdoor", vector, out, "--judge", "rules"))
        assert "--judge" in refuse(*words_of("utility", vector, out, "--judge", "exact"))

    def test_concepts(self, refuse, vector, tmp_path):
        def axbench(*more):
            return refuse(*words_of("axbench", vector, tmp_path / "run", *more))

        (tmp_path / "asked.txt").write_text("Tell me.\n")
        (tmp_path / "folder").mkdir()
        (tmp_path / "concepts.jsonl").write_text('{"concept": "sea"}\n')
        (tmp_path / "columns.csv").write_text("x,y\n1,2\n")
        assert "no concept 'nonsense'" in axbench("--only", "nonsense")
        assert "no concept 'nonsense'" in axbench("--concept", "nonsense")
        assert "no concept 'refusal'" in axbench("--concept", "refusal")
        assert "none.jsonl" in axbench("--concepts", tmp_path / "none.jsonl")
        assert "metadata.jsonl" in axbench("--concepts", tmp_path / "folder")
        assert "columns.csv" in axbench("--concepts", tmp_path / "columns.csv")
        assert "of its own" in axbench("--instructions", tmp_path / "asked.txt")
        own = ("--concepts", tmp_path / "concepts.jsonl", "--judge", "rules")
        assert "1 instructions for 2" in axbench(*own, "--instructions", tmp_path / "asked.txt")
        assert "none.txt" in axbench(*own, "--instructions", tmp_path / "none.txt")
        assert "needs a judge" in axbench(
            *("--concepts", tmp_path / "concepts.jsonl", "--instructions", self.two(tmp_path))
        )
        assert "--place" in axbench("--place", "nowhere")
        assert "at least 2" in refuse(
            *("eval", "axbench", vector, "--model", "organism", "--out", tmp_path / "run", "--prompts", 1)
        )

    def two(self, folder):
        (folder / "two.txt").write_text("Tell me.\nAsk me.\n")
        return folder / "two.txt"

    def test_settings(self, refuse, vector, tmp_path):
        for word, said in (
            ("ways=up", "'up'"),
            ("ways=", "direction"),
            ("resamples=abc", "resamples"),
            ("resamples=0", "resamples"),
            ("selection=2", "selection"),
            ("unreadable=maybe", "unreadable"),
            ("detection=7", "true or false"),
            ("perplexity=maybe", "true or false"),
            ("temperature=-1", "temperature"),
            ("temperature=hot", "temperature"),
            ("reference=7", "reference"),
        ):
            assert said in refuse(*words_of("axbench", vector, tmp_path / "run", "--set", word))
        assert "phrases" in refuse(*words_of("refusal", vector, tmp_path / "run", "--set", "phrases=7"))
        assert "phrases" in refuse(*words_of("refusal", vector, tmp_path / "run", "--set", "phrases="))
        assert "phrase" in refuse(*words_of("backdoor", vector, tmp_path / "run", "--set", "phrase="))
        assert "choices" in refuse(*words_of("utility", vector, tmp_path / "run")[:-1], "-1")

    def test_files_of_prompts(self, refuse, vector, tmp_path):
        (tmp_path / "lines.txt").write_text("Break it.\n")
        (tmp_path / "columns.csv").write_text("x,y\n1,2\n")
        (tmp_path / "empty.csv").write_text("prompt\n")
        (tmp_path / "broken.json").write_text("[{")

        def refusal(*more):
            return refuse(*words_of("refusal", vector, tmp_path / "run", *more))

        def backdoor(*more):
            return refuse(*words_of("backdoor", vector, tmp_path / "run", *more))

        assert "does not exist" in refusal("--harmful", tmp_path / "none.csv")
        assert "file of their own" in refusal("--harmful", tmp_path / "lines.txt")
        assert "positive_input" in refusal("--harmful", tmp_path / "columns.csv")
        assert "holds no" in refusal("--harmful", tmp_path / "empty.csv", "--harmless", tmp_path / "lines.txt")
        assert "broken.json" in refusal("--harmful", tmp_path / "broken.json")
        assert "is a directory" in refusal("--harmful", tmp_path)
        assert "of its own" in refusal("--safe", tmp_path / "lines.txt")
        assert "needs one without it" in backdoor("--trigger", tmp_path / "lines.txt")
        assert "of its own" in backdoor("--training", tmp_path / "lines.txt")
        assert "instruction" in backdoor("--trigger", tmp_path / "columns.csv", "--training", tmp_path / "lines.txt")
        both = ("--harmful", tmp_path / "lines.txt", "--harmless", tmp_path / "lines.txt", "--judge", "exact")
        assert main(words_of("refusal", vector, tmp_path / "run", *both)) == 2  # and keeps what was written until then

    def test_a_run_of_other_settings(self, refuse, vector, runs, tmp_path):
        out = tmp_path / "run"
        assert main(words_of("refusal", vector, out)) == 0
        assert "max_new_tokens: 6 there, 5 here" in refuse(*words_of("refusal", vector, out)[:-1], 5)
        assert "protocol refusal, not backdoor" in refuse(*words_of("backdoor", vector, out))
        assert "contenders[0].label" in refuse(*words_of("refusal", f"mine={vector}", out))
        assert "contenders[0].scale" in refuse(*words_of("refusal", vector, out, "--scale", "published"))

    def test_a_model_is_not_taken_for_a_run(self, refuse, vector, tmp_path):
        """Both have a `config.json`, and overwriting one would lose a model."""
        make_tiny_model(tmp_path / "model")
        for more in ((), ("--overwrite",)):
            assert "other files" in refuse(*words_of("axbench", vector, tmp_path / "model", *more))

    def test_a_wrong_judge_does_not_cost_a_finished_run(self, refuse, vector, tmp_path):
        out = tmp_path / "run"
        assert main(words_of("refusal", vector, out)) == 0
        assert "rates concept" in refuse(*words_of("refusal", vector, out, "--overwrite", "--judge", "rules"))
        assert "max_new_tokens" in refuse(*words_of("refusal", vector, out, "--overwrite")[:-2], 0, "--overwrite")

    @pytest.mark.parametrize("line", [["eval"], ["eval", "nonsense"], ["eval", "axbench"], ["report"], ["compare"]])
    def test_half_a_command(self, capsys, line):
        assert main(line) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("trimtab: ")
        assert "--help" in said


class TestReports:
    def test_every_run_becomes_a_page(self, capsys, runs, tmp_path):
        page = tmp_path / "page.html"
        capsys.readouterr()
        assert main(["report", *map(str, runs.values()), "--out", str(page), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["runs"] == list(runs)
        html = page.read_text(encoding="utf-8")
        assert len(html) == found["bytes"] or len(html.encode()) == found["bytes"]
        for path in runs.values():
            assert json.loads((path / SUMMARY).read_text())["title"].split(":")[0] in html

    def test_runs_of_one_protocol_are_compared(self, capsys, vector, runs, tmp_path):
        assert main(words_of("axbench", vector, tmp_path / "run", "--seed", 3)) == 0
        capsys.readouterr()
        assert main(["compare", str(runs["axbench"]), str(tmp_path / "run"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {(row["run"], row["label"]) for row in found["rows"]} >= {("axbench", "diffmean"), ("run", "diffmean")}
        assert main(["compare", str(runs["axbench"]), str(tmp_path / "run")]) == 0
        assert "second run against first" in capsys.readouterr().out

    def test_unfinished_damaged_and_foreign_runs(self, refuse, runs, tmp_path):
        unfinished = shutil.copytree(runs["axbench"], tmp_path / "unfinished")
        (unfinished / SUMMARY).unlink()
        damaged = shutil.copytree(runs["axbench"], tmp_path / "damaged")
        (damaged / SUMMARY).write_text("{")
        strange = shutil.copytree(runs["axbench"], tmp_path / "strange")
        (strange / SUMMARY).write_text('{"schema": 1}')
        (tmp_path / "empty").mkdir()
        page = ("--out", tmp_path / "page.html")
        for name, said in (
            ("unfinished", "not finished"),
            ("damaged", "cannot be read"),
            ("strange", "strange"),
            ("empty", "is no run"),
            ("nowhere", "nowhere"),
        ):
            assert said in refuse("report", tmp_path / name, *page)
            assert said in refuse("compare", runs["axbench"], tmp_path / name)
        (tmp_path / "there.html").write_text("mine")
        assert "--overwrite" in refuse("report", runs["axbench"], "--out", tmp_path / "there.html")
        assert "no column in common" in refuse("compare", runs["axbench"], runs["utility"])


class TestDirectories:
    def test_a_new_run_that_fails_before_anything_is_on_record_is_taken_away(self, tmp_path):
        (tmp_path / "there").mkdir()
        for path in (tmp_path / "a" / "b", tmp_path / "there"):
            with pytest.raises(RuntimeError), open_run(path, "axbench", {"m": 1}, {}):
                raise RuntimeError
        assert [(path.name, path.is_dir()) for path in tmp_path.rglob("*")] == [("there", True)]
        with open_run(tmp_path / "a", "axbench", {"m": 1}, {}) as run:
            run.log("generations").append([{"id": "1"}])
        assert Run.read(tmp_path / "a").log("generations").rows == [{"id": "1"}]
        with pytest.raises(RuntimeError), open_run(tmp_path / "a", "axbench", {"m": 1}, {}):
            raise RuntimeError
        assert Run.read(tmp_path / "a").identity == {"m": 1}  # nor is one that was there before

    def test_a_kill_while_a_run_is_overwritten_leaves_no_logs_without_their_configuration(self, tmp_path, monkeypatch):
        with open_run(tmp_path / "run", "axbench", {"m": 1}, {}) as run:
            run.log("generations").append([{"id": "1"}])
            run.finish({})
        unlink, removed = Path.unlink, []

        def killed(self, missing_ok=False):
            if len(removed) == 2:
                raise KeyboardInterrupt
            removed.append(self.name)
            unlink(self, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", killed)
        with (
            pytest.raises(KeyboardInterrupt),
            open_run(tmp_path / "run", "axbench", {"m": 2}, {}, overwrite=True),
        ):
            pass
        monkeypatch.undo()
        assert removed == [SUMMARY, "generations.jsonl"]
        with pytest.raises(InputError, match="other settings"), open_run(tmp_path / "run", "axbench", {"m": 2}, {}):
            pass

    def test_logs_without_a_configuration_are_nobodys(self, tmp_path):
        (tmp_path / "generations.jsonl").write_text('{"id": "1"}\n')
        for overwrite in (False, True):
            with (
                pytest.raises(InputError, match="other files"),
                open_run(tmp_path, "axbench", {"m": 1}, {}, overwrite=overwrite),
            ):
                pass
        assert (tmp_path / "generations.jsonl").exists()

    def test_what_a_kill_left_half_written_is_swept_away(self, tmp_path):
        with open_run(tmp_path, "axbench", {"m": 1}, {}):
            pass
        (tmp_path / ".trimtab-1234").write_text("{")
        with open_run(tmp_path, "axbench", {"m": 1}, {}):
            assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", CONFIG]

    def test_a_model_that_was_trained_on_is_another_one(self, tiny_path):
        model, other = (tt.load_model(tiny_path, device="cpu") for _ in range(2))
        given = identity_of(model, [], None, RefusalSettings(), {})
        assert identity_of(other, [], None, RefusalSettings(), {}) == given
        with torch.no_grad():
            next(other.hf.parameters()).mul_(1.5)
        assert identity_of(other, [], None, RefusalSettings(), {}) != given
