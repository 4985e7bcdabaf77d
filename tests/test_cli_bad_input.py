"""The command line on bad input: exit code 2, one line on stderr that says how to mend it, and nothing left behind."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from trimtab.cli.main import main
from trimtab.models.tiny import make_tiny_model, tiny_tokenizer


def pair(number, **other):
    row = {
        "positive_input": f"How do I break lock {number}?",
        "positive_output": "I cannot help with that",
        "negative_input": f"How do I clean lamp {number}?",
        "negative_output": "Sure, here are the steps",
    }
    return row | other


def write_jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def pairs_path(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [pair(number) for number in range(4)])


@pytest.fixture(scope="module")
def good_vector(tiny_path, pairs_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("good") / "vector"
    line = ["fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", out, "--epochs", 1]
    assert main([str(word) for word in line]) == 0
    return out


@pytest.fixture
def vector(good_vector, tmp_path):
    """A good vector that a test may spoil."""
    return shutil.copytree(good_vector, tmp_path / "vector")


def check_refusal(code, stdout, stderr):
    """The one line of a refusal."""
    assert code == 2, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.strip()]
    assert line.startswith("trimtab: ")
    assert len(line) < 600
    return line


@pytest.fixture
def refuse(capsys, tmp_path):
    """Runs a command line that must be refused; returns the line that says why. Nothing may be left behind."""

    def call(*arguments):
        before = sorted(path for path in tmp_path.rglob("*"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert sorted(path for path in tmp_path.rglob("*")) == before, "something was left behind"
        return check_refusal(code, captured.out, captured.err)

    return call


@pytest.fixture
def refuse_fit(refuse, tiny_path, pairs_path, tmp_path):
    """Runs `fit` with some of its arguments replaced; it must be refused."""

    def call(*more, method="cdas", model=tiny_path, pairs=pairs_path, layer=1, out=tmp_path / "out"):
        line = ("fit", method, "--model", model, "--pairs", pairs, "--layer", layer, "--out", out)
        return refuse(*line, *more, "--json")

    return call


@pytest.fixture
def refuse_vector(refuse, tiny_path):
    """Offers a spoiled vector to `inspect` and to `generate`; both must refuse it alike. Returns their line."""

    def call(path):
        said = refuse("inspect", path)
        assert refuse("generate", "--model", tiny_path, "--vector", path, "Hello") == said
        return said

    return call


class TestNames:
    def test_unknown_model(self, refuse_fit, tmp_path):
        assert "nowhere" in refuse_fit(model=tmp_path / "nowhere")

    def test_unknown_model_when_generating(self, refuse, tmp_path):
        assert "nowhere" in refuse("generate", "--model", tmp_path / "nowhere", "Hello")

    def test_directory_without_a_model(self, refuse_fit, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "empty" in refuse_fit(model=tmp_path / "empty")

    def test_unknown_method_names_the_nearest(self, refuse_fit):
        said = refuse_fit(method="cdsa")
        assert "cdsa" in said
        assert "cdas" in said

    def test_unknown_method_is_refused_before_the_model_is_looked_at(self, refuse_fit, tmp_path):
        assert "cdsa" in refuse_fit(method="cdsa", model=tmp_path / "nowhere")

    def test_unknown_concept(self, refuse_fit):
        assert "poetry" in refuse_fit("--concept", "poetry")

    def test_unknown_pairs(self, refuse_fit):
        assert "no_such_pairs" in refuse_fit(pairs="no_such_pairs")


class TestLayer:
    @pytest.mark.parametrize("layer", [4, 99, -1])
    def test_out_of_range(self, refuse_fit, layer):
        said = refuse_fit(layer=layer)
        assert f"layer {layer}" in said or f"layer is {layer}" in said
        assert layer < 0 or "0 to 3" in said

    @pytest.mark.parametrize("layer", ["1,one", "1,", "one", "1.5", ""])
    def test_not_one_block_number(self, refuse_fit, layer):
        assert "--layer" in refuse_fit(layer=layer)

    def test_blocks_not_found(self, refuse_fit, tmp_path):
        from transformers import T5Config, T5ForConditionalGeneration

        path = tmp_path / "t5"
        config = T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        T5ForConditionalGeneration(config).save_pretrained(path)
        tiny_tokenizer(vocab_size=300).save_pretrained(path)
        refuse_fit(model=path)


class TestSet:
    @pytest.mark.parametrize(
        ("word", "said"),
        [("divergence", "NAME=VALUE"), ("=reverse", "NAME=VALUE"), ("layer=2", "--layer"), ("lr=0.1", "twice"),
         ("rnak=2", "rank"), ("rank=two", "rank"), ("divergence=sideways", "sideways")],
    )  # fmt: skip
    def test_what_is_no_setting(self, refuse_fit, word, said):
        assert said in refuse_fit("--lr", 0.02, "--set", word, method="kldas")

    def test_twice(self, refuse_fit):
        assert "twice" in refuse_fit("--set", "rank=2", "--set", "rank=3")

    def test_a_start_that_the_method_does_not_have(self, refuse_fit):
        assert "random" in refuse_fit("--start", "means", method="cdas-loreft")


class TestPairs:
    @pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "pairs.parquet", "pairs.txt"])
    def test_empty_file(self, refuse_fit, tmp_path, name):
        (tmp_path / name).touch()
        assert name in refuse_fit(pairs=tmp_path / name)

    def test_missing_file(self, refuse_fit, tmp_path):
        assert "absent.jsonl" in refuse_fit(pairs=tmp_path / "absent.jsonl")

    def test_missing_column(self, refuse_fit, tmp_path):
        rows = [{key: text for key, text in pair(number).items() if key != "negative_output"} for number in range(3)]
        assert "negative_output" in refuse_fit(pairs=write_jsonl(tmp_path / "pairs.jsonl", rows))

    def test_missing_column_of_a_csv(self, refuse_fit, tmp_path):
        (tmp_path / "pairs.csv").write_text("positive_input,positive_output,negative_input\na,b,c\n")
        assert "negative_output" in refuse_fit(pairs=tmp_path / "pairs.csv")

    @pytest.mark.parametrize("wrong", [7, None, {"text": "x"}, ["x"], [{"role": "user"}]])
    def test_wrong_type(self, refuse_fit, tmp_path, wrong):
        rows = [pair(1), pair(2, positive_input=wrong)]
        said = refuse_fit(pairs=write_jsonl(tmp_path / "pairs.jsonl", rows))
        assert "positive_input" in said
        assert "2" in said

    @pytest.mark.parametrize("broken", ["{not json", '{"positive_input": "a"', "7", '"text"'])
    def test_broken_line_is_named_by_its_number(self, refuse_fit, tmp_path, broken):
        rows = [pair(1), pair(2), broken, pair(4)]
        said = refuse_fit(pairs=write_jsonl(tmp_path / "pairs.jsonl", rows))
        assert "line 3" in said

    def test_not_utf8(self, refuse_fit, tmp_path):
        (tmp_path / "pairs.jsonl").write_bytes(b'{"positive_input": "\xff\xfe"}\n')
        refuse_fit(pairs=tmp_path / "pairs.jsonl")

    def test_no_parquet_inside(self, refuse_fit, tmp_path):
        (tmp_path / "pairs.parquet").write_text("this is no parquet file")
        assert "pairs.parquet" in refuse_fit(pairs=tmp_path / "pairs.parquet")

    def test_longer_than_the_context_are_counted_and_truncate_mends_it(self, refuse_fit, tiny_path, tmp_path):
        rows = [
            pair(1),
            pair(2, positive_output="too long " * 600),
            pair(3),
            pair(4, negative_output="and this " * 600),
        ]
        pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
        said = refuse_fit("--epochs", 1, pairs=pairs)
        assert "2" in said
        assert "--truncate" in said
        line = ["fit", "cdas", "--model", tiny_path, "--pairs", pairs, "--layer", 1, "--out", tmp_path / "out"]
        assert main([str(word) for word in [*line, "--epochs", 1, "--truncate"]]) == 0

    def test_identical_sides(self, refuse_fit, tmp_path):
        same = dict.fromkeys(pair(0), "the very same")
        refuse_fit(pairs=write_jsonl(tmp_path / "pairs.jsonl", [same, same]))


class TestVectors:
    def test_no_vector_there(self, refuse_vector, tmp_path):
        assert "nowhere" in refuse_vector(tmp_path / "nowhere")

    def test_made_for_another_width(self, refuse, good_vector, tmp_path):
        other = make_tiny_model(tmp_path / "other", hidden_size=32)
        said = refuse("generate", "--model", other, "--vector", good_vector, "Hello")
        assert "64" in said
        assert "32" in said

    def test_made_for_another_depth(self, refuse, good_vector, tmp_path):
        other = make_tiny_model(tmp_path / "other", n_blocks=3)
        for command in (("generate", "--model", other, "--vector"), ("detect", "--model", other, "--vector")):
            assert "block" in refuse(*command, good_vector, "Hello")

    @pytest.mark.parametrize("settings", [{"hidden_size": 32}, {"n_blocks": 3}])
    def test_force_does_not_make_another_shape_fit(self, refuse, good_vector, tmp_path, settings):
        other = make_tiny_model(tmp_path / "other", **settings)
        refuse("generate", "--model", other, "--vector", good_vector, "--force", "Hello")

    def test_made_for_another_prefix_and_force_applies_it(self, refuse, good_vector, tmp_path):
        other = make_tiny_model(tmp_path / "other", chat=False)
        line = ["generate", "--model", other, "--vector", good_vector, "--max-new-tokens", 2, "Hello"]
        assert "--force" in refuse(*line)
        assert main([str(word) for word in [*line, "--force"]]) == 0

    def test_wrong_vector_among_several(self, refuse, tiny_path, good_vector, tmp_path):
        line = ("generate", "--model", tiny_path, "--steer", f"{good_vector}:elicit")
        assert "nowhere" in refuse(*line, "--steer", f"{tmp_path / 'nowhere'}:elicit", "Hello")

    def test_the_same_vector_twice(self, refuse, tiny_path, good_vector):
        refuse("generate", "--model", tiny_path, *(["--steer", f"{good_vector}:elicit"] * 2), "Hello")

    def test_corrupted_tensors(self, refuse_vector, vector):
        path = vector / "steering.safetensors"
        tensors = {
            name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
        }
        save_file(tensors, path)
        refuse_vector(vector)

    @pytest.mark.parametrize("spoil", ["nan", "shape", "missing", "superfluous"])
    def test_spoiled_tensors(self, refuse_vector, vector, spoil):
        path = vector / "steering.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("directions"))
        if spoil == "nan":
            tensors[name] = tensors[name] * math.nan
        elif spoil == "shape":
            tensors[name] = tensors[name][:, :-1].contiguous()
        elif spoil == "missing":
            del tensors[name]
        else:
            tensors["surprise"] = tensors[name].clone()
        save_file(tensors, path)
        refuse_vector(vector)

    @pytest.mark.parametrize("kept", [0, 4, 100, -1])
    def test_truncated_safetensors(self, refuse_vector, vector, kept):
        path = vector / "steering.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        assert "steering.safetensors" in refuse_vector(vector)

    @pytest.mark.parametrize("name", ["vector.pt", "vector.pkl"])
    def test_pickle_file(self, refuse_vector, tmp_path, name):
        (tmp_path / name).write_bytes(b"\x80\x04N.")
        assert "pickle" in refuse_vector(tmp_path / name)

    def test_directory_with_a_pickle(self, refuse_vector, tmp_path):
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "vector.pt").write_bytes(b"\x80\x04N.")
        assert "pickle" in refuse_vector(tmp_path / "old")

    def test_pickle_in_the_place_of_the_tensors(self, refuse_vector, vector):
        (vector / "steering.safetensors").write_bytes(b"\x80\x04N.")
        refuse_vector(vector)

    @pytest.mark.parametrize("version", [0, 99, "1", None])
    def test_unknown_schema_version(self, refuse_vector, vector, version):
        path = vector / "steering_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
        assert "schema" in refuse_vector(vector)

    @pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"schema_version": 1}'])
    def test_broken_configuration(self, refuse_vector, vector, text):
        (vector / "steering_config.json").write_text(text)
        refuse_vector(vector)

    def test_altered_configuration(self, refuse_vector, vector):
        path = vector / "steering_config.json"
        config = json.loads(path.read_text())
        config["interventions"][0]["factors"]["positive"]["mean"] = [1234.5]
        path.write_text(json.dumps(config))
        refuse_vector(vector)

    def test_unknown_transform(self, refuse_vector, vector):
        path = vector / "steering_config.json"
        config = json.loads(path.read_text())
        config["interventions"][0]["transform"] = "teleport"
        path.write_text(json.dumps(config))
        assert "teleport" in refuse_vector(vector)


class TestSettings:
    @pytest.mark.parametrize("value", ["nan", "inf", "0", "-0.1"])
    def test_learning_rate(self, refuse_fit, value):
        assert "lr" in refuse_fit("--lr", value)

    @pytest.mark.parametrize("value", ["0", "-3", "nan", "1.5"])
    def test_epochs(self, refuse_fit, value):
        assert "epochs" in refuse_fit("--epochs", value)

    @pytest.mark.parametrize("value", ["0", "-3", "nan", "1.5"])
    def test_batch_size(self, refuse_fit, value):
        assert "batch" in refuse_fit("--batch-size", value)

    @pytest.mark.parametrize("value", ["0", "-1", "65"])
    def test_rank(self, refuse_fit, value):
        assert "rank" in refuse_fit("--rank", value)

    @pytest.mark.parametrize("flag", ["--max-response-tokens", "--cache-bytes"])
    def test_negative_amounts(self, refuse_fit, flag):
        refuse_fit(flag, "-1")

    @pytest.mark.parametrize("value", ["middle", "", "f+l", "f0+l0"])
    def test_positions(self, refuse_fit, value):
        assert "positions" in refuse_fit("--positions", value)

    def test_weighting(self, refuse_fit):
        assert "--weighting" in refuse_fit("--weighting", "token")

    def test_device_and_dtype(self, refuse_fit):
        assert "abacus" in refuse_fit("--device", "abacus")
        assert "float3" in refuse_fit("--dtype", "float3")

    @pytest.mark.parametrize("flag", ["--init", "--order"])
    def test_replay_file_that_is_absent_or_no_npy(self, refuse_fit, tmp_path, flag):
        assert "absent.npy" in refuse_fit(flag, tmp_path / "absent.npy")
        (tmp_path / "no.npy").write_text("this is no npy file")
        assert "no.npy" in refuse_fit(flag, tmp_path / "no.npy")

    def test_start_vector_of_another_width(self, refuse_fit, tmp_path):
        import numpy as np

        np.save(tmp_path / "init.npy", np.ones(63, dtype=np.float32))
        assert "64" in refuse_fit("--init", tmp_path / "init.npy")

    def test_order_of_other_pairs(self, refuse_fit, tmp_path):
        import numpy as np

        np.save(tmp_path / "order.npy", np.array([[0, 1, 2, 9]]))
        refuse_fit("--epochs", "1", "--order", tmp_path / "order.npy")

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("--max-new-tokens", "0"),
            ("--temperature", "nan"),
            ("--temperature", "-1"),
            ("--batch-size", "0"),
            ("--seed", "99999999999999999999"),
            ("--system", "caf\udce9"),
        ],
    )
    def test_generation(self, refuse, tiny_path, flag, value):
        refuse("generate", "--model", tiny_path, "--temperature", 1, flag, value, "Hello")

    def test_bytes_that_are_no_utf8(self, refuse, tiny_path, good_vector):
        """Python hands them over as halves of surrogate pairs."""
        for more in ((), ("--raw",)):
            assert "surrogate" in refuse("generate", "--model", tiny_path, *more, "caf\udce9")
        assert "surrogate" in refuse("detect", "--model", tiny_path, "--vector", good_vector, "caf\udce9")

    def test_a_text_longer_than_the_context(self, refuse, tiny_path, good_vector):
        line = ("detect", "--model", tiny_path, "--vector", good_vector)
        assert "context of 512" in refuse(*line, "Hello", "a " * 600)

    def test_multiplier(self, refuse, tiny_path, good_vector):
        line = ("generate", "--model", tiny_path, "Hello")
        assert "nan" in refuse(*line, "--vector", good_vector, "--multiplier", "nan")
        assert "inf" in refuse(*line, "--steer", f"{good_vector}:elicit:inf")

    def test_value(self, refuse, tiny_path, good_vector):
        line = ("generate", "--model", tiny_path, "--vector", good_vector, "Hello", "--at")
        for value in ("nan", "much", "1,2", ""):
            refuse(*line, value)


class TestOutput:
    def test_existing_output_is_refused_before_any_work(self, refuse_fit, vector, tmp_path):
        assert "--overwrite" in refuse_fit(out=vector, model=tmp_path / "nowhere")

    def test_overwrite_never_replaces_what_is_no_vector(self, refuse_fit, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
        refuse_fit("--overwrite", out=tmp_path / "thesis")
        (tmp_path / "file").write_text("years of work")
        refuse_fit("--overwrite", out=tmp_path / "file")

    def test_output_below_a_file(self, refuse_fit, tmp_path):
        (tmp_path / "file").touch()
        refuse_fit("--epochs", "1", out=tmp_path / "file" / "vector")


@pytest.mark.parametrize("block", [0, 3])
def test_a_model_with_a_broken_weight(capsys, tiny_path, pairs_path, tmp_path, block):
    """Below the edited layer the source states are broken, above it the loss."""
    broken = shutil.copytree(tiny_path, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    next(weight for name, weight in sorted(weights.items()) if f"layers.{block}.mlp" in name).view(-1)[0] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    line = ["fit", "cdas", "--model", broken, "--pairs", pairs_path, "--layer", 1, "--out", tmp_path / "out"]
    code = main([str(word) for word in [*line, "--trace", tmp_path / "trace.npz"]])
    said = check_refusal(code, *capsys.readouterr())
    assert "finite" in said or "NaN" in said
    left = {path.name for path in tmp_path.iterdir()} - {"broken"}
    assert left <= {"out.last-good"}
    assert all(str(tmp_path / name) in said for name in left)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_model_that_was_cut_off(capsys, tiny_path, tmp_path, file):
    cut = shutil.copytree(tiny_path, tmp_path / "cut")
    whole = (cut / file).read_bytes()
    (cut / file).write_bytes(whole[: len(whole) // 2])
    assert "cut" in check_refusal(main(["generate", "--model", str(cut), "Hello"]), *capsys.readouterr())


def test_a_trace_that_is_there_already(refuse_fit, tmp_path):
    (tmp_path / "trace.npz").write_bytes(b"another run")
    assert "--overwrite" in refuse_fit("--trace", tmp_path / "trace.npz", model=tmp_path / "never looked at")
    assert (tmp_path / "trace.npz").read_bytes() == b"another run"


def test_a_trace_within_the_vector(refuse_fit, tmp_path):
    """It would be in the way of the vector when all work is done."""
    said = refuse_fit("--trace", tmp_path / "out" / "trace.npz", model=tmp_path / "never looked at")
    assert "choose another --trace" in said


def test_a_fit_that_diverges_keeps_its_last_good_vector(
    capsys, monkeypatch, tiny_path, pairs_path, good_vector, tmp_path
):
    import trimtab.methods
    from trimtab.errors import FitDivergedError
    from trimtab.steering import SteeringVector

    def diverge(*_, trace=None, **__):
        if trace is not None:
            trace.touch()
        raise FitDivergedError("the loss is not finite at step 7; lower --lr", 7, SteeringVector.load(good_vector))

    monkeypatch.setattr(trimtab.methods, "fit_steerable", diverge)
    line = ["fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--out", tmp_path / "out"]
    code = main([str(word) for word in line])
    said = check_refusal(code, *capsys.readouterr())
    assert "step 7" in said
    assert str(tmp_path / "out.last-good") in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.last-good"]
    assert SteeringVector.load(tmp_path / "out.last-good").content_hash == SteeringVector.load(good_vector).content_hash
    first = {path.name: path.stat().st_ino for path in (tmp_path / "out.last-good").iterdir()}
    said = check_refusal(main([str(word) for word in line]), *capsys.readouterr())
    assert str(tmp_path / "out.last-good-2") in said
    said = check_refusal(main([str(word) for word in [*line, "--trace", tmp_path / "t.npz"]]), *capsys.readouterr())
    assert f"out.last-good-3, the trace up to there in {tmp_path / 't.npz'}" in said
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out.last-good").iterdir()} == first
    check_refusal(main([str(word) for word in [*line, "--overwrite"]]), *capsys.readouterr())
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out.last-good").iterdir()} != first
    assert {path.name for path in tmp_path.iterdir()} == {f"out.last-good{end}" for end in ("", "-2", "-3")} | {"t.npz"}


class TestUsage:
    @pytest.mark.parametrize(
        "line",
        [
            ["fti"],
            ["fit"],
            ["fit", "cdas"],
            ["fit", "cdas", "--model"],
            ["fit", "--learning-rate", "1"],
            ["fit", "cdas", "--epochs", "many"],
            ["generate", "--model", "m"],
            ["generate", "--model", "m", "--direction", "elicit", "Hello"],
            ["generate", "--model", "m", "--vector", "v", "--direction", "sideways", "Hello"],
            ["generate", "--model", "m", "--vector", "v", "--at", "1", "--multiplier", "2", "Hello"],
            ["generate", "--model", "m", "--steer", "v", "Hello"],
            ["generate", "--model", "m", "--steer", "v:sideways", "Hello"],
            ["generate", "--model", "m", "--steer", "v:elicit:much", "Hello"],
            ["generate", "--model", "m", "--steer", ":elicit", "Hello"],
            ["generate", "--model", "m", "--prompts", "absent.txt"],
            ["detect", "--model", "m", "--vector", "v"],
            ["inspect"],
            ["methods", "cdas"],
        ],
        ids=" ".join,
    )
    def test_wrong_command_line(self, refuse, line):
        refuse(*line)

    def test_prompts_that_are_no_text(self, refuse, tmp_path):
        (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe\x00")
        assert "prompts.txt" in refuse("generate", "--model", "m", "--prompts", tmp_path / "prompts.txt")

    def test_prompts_file_without_a_prompt(self, refuse, tmp_path):
        (tmp_path / "prompts.txt").write_text("\n\n")
        assert "prompt" in refuse("generate", "--model", "m", "--prompts", tmp_path / "prompts.txt")


class TestFromTheShell:
    """The same through a process of its own, where other libraries print what they like."""

    @pytest.mark.slow
    def test_refusals(self, tiny_path, pairs_path, vector, tmp_path):
        (vector / "steering.safetensors").write_bytes(b"no tensors")
        fit = ["fit", "cdas", "--pairs", pairs_path, "--out", tmp_path / "out"]
        for line in (
            ["fit", "--bogus"],
            [*fit, "--model", tmp_path / "nowhere", "--layer", "1"],
            [*fit, "--model", tiny_path, "--layer", "44"],
            ["generate", "--model", tiny_path, "--vector", vector, "Hello"],
        ):
            done = subprocess.run([sys.executable, "-m", "trimtab", *line], capture_output=True, text=True)
            check_refusal(done.returncode, done.stdout, done.stderr)
        assert not (tmp_path / "out").exists()


class TestOtherExits:
    """What is not the user's input."""

    @pytest.fixture
    def failing(self, monkeypatch, capsys):
        def call(error):
            import trimtab.steering

            def fail(*_):
                raise error

            monkeypatch.setattr(trimtab.steering.SteeringVector, "load", fail)
            code = main(["inspect", "anything"])
            return code, *capsys.readouterr()

        return call

    @pytest.mark.parametrize(("switched_off", "code"), [(False, 3), (True, 2)])
    def test_a_hub_out_of_reach(self, capsys, monkeypatch, switched_off, code):
        monkeypatch.setattr("trimtab.models.load.is_offline_mode", lambda: switched_off)
        assert main(["generate", "--model", "no-such/model", "Hello"]) == code
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert stderr.count("\n") == 1

    def test_network(self, failing):
        from trimtab.errors import NetworkError

        assert failing(NetworkError("the hub\ndoes not answer")) == (3, "", "trimtab: the hub does not answer\n")

    def test_interrupt(self, failing):
        assert failing(KeyboardInterrupt()) == (130, "", "trimtab: interrupted\n")

    def test_a_fault_of_ours_has_a_traceback_and_asks_for_a_report(self, failing):
        code, stdout, stderr = failing(RuntimeError("boom"))
        assert (code, stdout) == (1, "")
        assert "Traceback" in stderr
        assert "report" in stderr.splitlines()[-1]

    def test_a_path_that_may_not_be_read(self, failing):
        assert failing(PermissionError(13, "Permission denied", "vault"))[0::2] == (
            2,
            "trimtab: vault: Permission denied; give a path that can be read and written\n",
        )

    def test_out_of_memory(self, failing):
        code, _, stderr = failing(MemoryError())
        assert code == 2
        assert "--batch-size" in stderr


def test_a_path_object_is_not_needed(refuse):
    assert "nowhere" in refuse("inspect", Path("nowhere"))
