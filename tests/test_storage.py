"""The file format: exact round trips, writes that happen whole or not at all, and refusals of everything else."""

import ast
import errno
import json
import math
import multiprocessing
import os
import pickle
import shutil
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab
from trimtab.errors import InputError
from trimtab.steering import (
    Ablate,
    Add,
    Affine,
    Always,
    Clamp,
    Edit,
    Factors,
    FactorStats,
    Intervention,
    LowRank,
    ModelCard,
    NullOut,
    Positions,
    ProjectionGate,
    Site,
    SteeringVector,
    storage,
)
from trimtab.steering.content import behaviour, config_of, content_hash, tensors_of
from trimtab.steering.folders import check_free

WIDTH = 6
CONFIG, TENSORS = storage.CONFIG_NAME, storage.TENSORS_NAME


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factors(rank, rows=5, seed=0):
    return Factors(*(FactorStats.of(random(seed + k, rows, rank)) for k in range(2)))


TRANSFORMS = {
    "add": Add(random(1, WIDTH)),
    "clamp": Clamp(random(2, WIDTH), random(3, 1)),
    "clamp of rank 3": Clamp(random(4, 3, WIDTH), random(5, 3)),
    "ablate": Ablate(random(6, 2, WIDTH)),
    "null_out": NullOut(random(7, WIDTH), random(8, 1)[0]),
    "affine": Affine(random(9, WIDTH, WIDTH), random(10, WIDTH)),
    "low rank": LowRank(torch.linalg.qr(random(20, WIDTH, 3)).Q.T, random(21, 3, WIDTH), random(22, 3)),
    "diagonal affine": Affine(random(11, WIDTH), random(12, WIDTH)),
}
GATES = {
    "always": Always(),
    "hard": ProjectionGate(random(13, WIDTH), 1 / 3),
    "soft": ProjectionGate(random(14, WIDTH), -0.1, 2.7),
    "whole numbers": ProjectionGate(random(15, WIDTH), 1, 2),
}


def vector(transform="clamp", gate="always", *, seed=0, **rest):
    made = TRANSFORMS[transform]
    clamps = isinstance(made, Clamp)
    intervention = Intervention(Site(2), made, Positions.parse("f2+l1", include_prefix=True), GATES[gate], 1 / 3)
    edit = Edit(intervention, factors(made.rank, seed=seed) if clamps else None, "factor" if clamps else "strength")
    given = {
        "multipliers": {"elicit": 1 / 3},
        "settings": {"lr": 0.1, "rank": 1, "positions": "all", "none": None},
        "provenance": {
            "concept": "c\u0153ur \u5b89\u5168",
            "data": {"hash": "abc", "pairs": 3},
            "list": [1, 2.5, True],
        },
    }
    card = ModelCard("tiny/mod\u00e8le", WIDTH, 4, "main", "llama", (1, 3, 205), "finger", "<|assistant|>\n")
    return SteeringVector("cdas", card, (edit,), **{**given, **rest})


def assert_same(a, b):
    """Equal in every tensor, bit for bit, and in every number and text."""
    first, second = tensors_of(a), tensors_of(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name])
    assert config_of(a) == config_of(b)
    assert a.content_hash == b.content_hash
    assert a.model == b.model
    assert [e.intervention.positions for e in a.edits] == [e.intervention.positions for e in b.edits]
    assert [e.intervention.site for e in a.edits] == [e.intervention.site for e in b.edits]


def refuse(path, *, match=None):
    with pytest.raises(InputError, match=match) as error:
        SteeringVector.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewrite(path, change=None, tensors=None, *, sign=True):
    """Alter a saved vector; `sign` makes the content hash right again, as a careful forger would."""
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    held = safetensors.torch.load_file(path / TENSORS)
    held = {name: tensor.clone() for name, tensor in held.items()}
    if change is not None:
        change(config)
    if tensors is not None:
        tensors(held)
    (path / TENSORS).unlink()
    safetensors.torch.save_file(held, path / TENSORS)
    if sign:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(storage, "_check_complete", lambda *_: None)
                config["content_hash"] = storage._build(config, held).content_hash
        except Exception:  # what cannot even be built keeps its hash
            pass
    (path / CONFIG).write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def saved(tmp_path):
    return vector("clamp of rank 3", "soft").save(tmp_path / "saved")


def leftovers(folder, *known):
    return sorted({str(path.relative_to(folder)) for path in folder.rglob("*")} - set(known))


FILES = {"v", f"v/{CONFIG}", f"v/{TENSORS}", "v/README.md"}


class TestRoundTrip:
    @pytest.mark.parametrize("gate", GATES)
    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_every_transform_and_gate_exactly(self, tmp_path, transform, gate):
        made = vector(transform, gate)
        assert_same(made, SteeringVector.load(made.save(tmp_path / "v")))

    def test_several_edits_two_directions_and_no_prefix(self, tmp_path):
        edits = (vector("clamp").edits[0], vector("add", "hard").edits[0], vector("ablate").edits[0])
        two_ways = {"elicit": (2, 0), "suppress": (1,)}
        made = SteeringVector("mixed", ModelCard("m", WIDTH, 3), edits, two_ways)
        assert_same(made, SteeringVector.load(made.save(tmp_path / "v")))

    def test_whole_numbers_where_floats_are_meant(self, tmp_path):
        """A strength of 2 must not read back as an altered 2.0."""
        made = replace(vector("add"), multipliers={"elicit": 2})
        made = replace(
            made, edits=(replace(made.edits[0], intervention=replace(made.edits[0].intervention, strength=2)),)
        )
        assert_same(made, SteeringVector.load(made.save(tmp_path / "v")))

    def test_factors_without_their_rows(self, tmp_path):
        bare = Factors(*(FactorStats((0.1,), (0.2,), 7) for _ in range(2)))
        made = replace(vector(), edits=(replace(vector().edits[0], factors=bare),))
        again = SteeringVector.load(made.save(tmp_path / "v"))
        assert_same(made, again)
        assert again.edits[0].factors.positive.values is None

    def test_token_ids_and_head_and_part(self, tmp_path):
        edits = [
            Edit(
                Intervention(Site(1, "attn_in", head=3), Add(random(0, 4)), Positions(token_ids=(7, 2))),
                scales="strength",
            ),
            Edit(Intervention(Site(1, "norm_out", part=1), Add(random(0, WIDTH))), scales="nothing"),
        ]
        made = replace(vector(), edits=tuple(edits), directions={"elicit": (0, 1)})
        assert_same(made, SteeringVector.load(made.save(tmp_path / "v")))

    @settings(max_examples=25)
    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=4))
    def test_every_float_comes_back_with_all_its_bits(self, tmp_path_factory, numbers):
        rows = FactorStats((math.pi, *numbers), (0.0,) * (len(numbers) + 1), 2)
        w = torch.linalg.qr(random(1, WIDTH, WIDTH))[0][: len(numbers) + 1]
        clamp = Clamp(w, torch.tensor([math.pi, *numbers]))
        made = replace(vector(), edits=(Edit(Intervention(Site(0), clamp), Factors(rows, rows)),))
        again = SteeringVector.load(made.save(tmp_path_factory.mktemp("v") / "v"))
        bits = [tensors_of(x)["interventions.0.values"].view(torch.int32).tolist() for x in (made, again)]
        assert bits[0] == bits[1]
        assert again.edits[0].factors == Factors(rows, rows)

    def test_saving_what_was_loaded_gives_the_same_files(self, saved, tmp_path):
        again = SteeringVector.load(saved).save(tmp_path / "again")
        for name in (CONFIG, TENSORS, "README.md"):
            assert (saved / name).read_bytes() == (again / name).read_bytes()

    def test_a_large_vector_and_the_size_of_the_files(self, tmp_path):
        wide = 4096
        clamp = Clamp(random(0, wide), torch.ones(1))
        made = SteeringVector("cdas", ModelCard("m", wide, 32), (Edit(Intervention(Site(12), clamp), factors(1, 128)),))
        path = made.save(tmp_path / "v")
        numbers = 4 * (wide + 1 + 2 * 128)
        assert numbers < (path / TENSORS).stat().st_size < numbers + 1000
        assert (path / CONFIG).stat().st_size < 2500
        assert_same(made, SteeringVector.load(path))

    def test_names_in_the_file_are_as_documented(self, saved):
        tensors = safetensors.torch.load_file(saved / TENSORS)
        start = "interventions.0."
        assert set(tensors) == {
            "prefix_ids",
            f"{start}directions",
            f"{start}values",
            f"{start}gate.direction",
            f"{start}factors.positive",
            f"{start}factors.negative",
        }
        assert {str(t.dtype) for n, t in tensors.items() if n != "prefix_ids"} == {"torch.float32"}
        assert tensors["prefix_ids"].dtype == torch.int64
        config = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
        assert "\u5b89\u5168" in (saved / CONFIG).read_text(encoding="utf-8")
        assert config["schema_version"] == 1
        assert config["model"]["id"] == "tiny/mod\u00e8le"

    def test_permissions_are_those_of_any_other_new_file(self, tmp_path):
        path = vector().save(tmp_path / "v")
        plain, folder = tmp_path / "plain", tmp_path / "folder"
        plain.touch(), folder.mkdir()
        assert path.stat().st_mode == folder.stat().st_mode
        for name in (CONFIG, "README.md", TENSORS):
            assert (path / name).stat().st_mode == plain.stat().st_mode, name


class TestModelCard:
    def test_names_with_line_breaks_and_quotes_stay_one_line(self, tmp_path):
        made = vector(provenance={"concept": "two\nlines # of it"})
        made = replace(made, model=replace(made.model, id='odd": [name]'))
        card = (made.save(tmp_path / "v") / "README.md").read_text(encoding="utf-8")
        assert '\nbase_model: "odd\\": [name]"\n' in card
        assert "\n# Steering vector: two lines # of it\n" in card
        assert ast.parse(card.split("```python\n")[1].split("```")[0])

    def test_a_file_name_that_is_no_utf8(self, tmp_path):
        made = vector(provenance={"data": {"source": os.fsdecode(b"pairs\xff.jsonl")}})
        made = replace(made, model=replace(made.model, id=os.fsdecode(b"model\xff")))
        assert_same(made, SteeringVector.load(made.save(tmp_path / "v")))


class TestPaths:
    def test_trailing_slash_nested_new_folders_unicode_and_text(self, tmp_path):
        path = f"{tmp_path}/new/\u6df1\u3044/c\u0153ur \U0001f600/v/"
        assert vector().save(path) == Path(path)
        assert_same(vector(), SteeringVector.load(path))
        assert leftovers(Path(path).parent, *FILES) == []

    def test_relative_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        vector().save("v")
        vector().save("./deep/../v2")
        vector().save("../" + tmp_path.name + "/v3")
        assert {child.name for child in tmp_path.iterdir()} >= {"v", "v2", "v3"}
        assert_same(vector(), SteeringVector.load("v"))

    def test_a_suffix_says_nothing_about_a_folder(self, tmp_path):
        for name in ("v.bin", "v.pt", "llama-3.1", ".hidden"):
            assert_same(vector(), SteeringVector.load(vector().save(tmp_path / name)))

    def test_the_folder_one_is_in(self, tmp_path, monkeypatch):
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.chdir(home)
        for overwrite in (False, True):
            with pytest.raises(InputError) as error:
                vector().save(".", overwrite=overwrite)
            assert "\n" not in str(error.value)
        vector().save(home / "v")
        monkeypatch.chdir(home / "v")
        assert_same(vector(), SteeringVector.load("."))
        for path in (".", "", "../v"):
            with pytest.raises(InputError, match="the folder you are in"):
                vector(seed=9).save(path, overwrite=True)
        assert_same(vector(), SteeringVector.load("."))

    def test_a_long_name(self, tmp_path):
        assert_same(vector(), SteeringVector.load(vector().save(tmp_path / ("v" * 250))))

    @pytest.mark.parametrize("name", ["v" * 300, "a\0b", "file/v", "file/new/v", "loop", "loop/v"])
    def test_where_nothing_can_be(self, tmp_path, name):
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        for overwrite in (False, True):
            with pytest.raises(InputError) as error:
                vector().save(tmp_path / name, overwrite=overwrite)
            assert "\n" not in str(error.value)
            with pytest.raises(InputError):
                check_free(tmp_path / name, overwrite=overwrite)
        refuse(tmp_path / name)
        assert leftovers(tmp_path) == ["file", "loop"]

    def test_an_unwritable_folder_is_an_input_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(InputError, match="no folder that may be written"):
            check_free(tmp_path / "v", overwrite=False)


class TestLinks:
    def test_a_link_to_a_vector_is_followed_and_stays(self, tmp_path):
        vector().save(tmp_path / "v")
        (tmp_path / "latest").symlink_to("v")
        assert_same(vector(), SteeringVector.load(tmp_path / "latest"))
        with pytest.raises(InputError, match="exists already"):
            vector(seed=5).save(tmp_path / "latest")
        assert vector(seed=5).save(tmp_path / "latest", overwrite=True) == tmp_path / "latest"
        assert (tmp_path / "latest").is_symlink()
        assert_same(vector(seed=5), SteeringVector.load(tmp_path / "v"))
        assert leftovers(tmp_path, *FILES) == ["latest"]

    def test_a_link_to_nothing_is_followed(self, tmp_path):
        (tmp_path / "latest").symlink_to("v")
        vector().save(tmp_path / "latest")
        assert (tmp_path / "latest").is_symlink()
        assert_same(vector(), SteeringVector.load(tmp_path / "v"))

    def test_files_may_be_links_as_in_the_hubs_cache(self, saved, tmp_path):
        linked = tmp_path / "snapshot"
        linked.mkdir()
        for name in (CONFIG, TENSORS):
            (linked / name).symlink_to(saved / name)
        assert_same(SteeringVector.load(saved), SteeringVector.load(linked))


class TestOverwrite:
    def test_is_off_by_default(self, tmp_path):
        path = vector().save(tmp_path / "v")
        with pytest.raises(InputError, match="exists already") as error:
            vector(seed=5).save(path)
        assert "--overwrite" in str(error.value)
        assert_same(vector(), SteeringVector.load(path))

    def test_replaces_the_whole_vector(self, tmp_path):
        path = vector("clamp of rank 3").save(tmp_path / "v")
        vector("add").save(path, overwrite=True)
        assert_same(vector("add"), SteeringVector.load(path))
        assert leftovers(tmp_path, *FILES) == []

    def test_an_empty_folder_may_be_filled_and_a_new_path_too(self, tmp_path):
        (tmp_path / "v").mkdir()
        vector().save(tmp_path / "v", overwrite=True)
        vector().save(tmp_path / "w", overwrite=True)
        assert_same(SteeringVector.load(tmp_path / "v"), SteeringVector.load(tmp_path / "w"))

    def test_never_deletes_what_is_no_vector(self, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
        (tmp_path / "file").write_text("years of work")
        for name in ("thesis", "file"):
            with pytest.raises(InputError, match="not a saved vector"):
                vector().save(tmp_path / name, overwrite=True)
        assert leftovers(tmp_path) == ["file", "thesis", "thesis/chapter.txt"]

    def test_never_deletes_what_lies_beside_a_vector(self, tmp_path):
        path = vector().save(tmp_path / "v")
        (path / "notes.txt").write_text("years of work")
        with pytest.raises(InputError, match=r"also holds notes\.txt"):
            vector(seed=5).save(path, overwrite=True)
        assert (path / "notes.txt").read_text() == "years of work"
        assert_same(vector(), SteeringVector.load(path))


class CrashError(Exception):
    pass


def failing(real, when, error):
    calls = Counter()

    def call(*args, **kwargs):
        calls["n"] += 1
        if calls["n"] == when:
            raise error
        return real(*args, **kwargs)

    return call


STAGES = {
    "config": (storage, "config_of", 1),
    "tensors": (storage, "tensors_of", 1),
    "model card": (storage, "model_card_text", 1),
    "first file": (Path, "write_bytes", 1),
    "second file": (Path, "write_bytes", 2),
    "safetensors": (safetensors.torch, "save", 1),
    "folder": (Path, "mkdir", 2),
    "first rename": (os, "rename", 1),
    "second rename": (os, "rename", 2),
}


class TestCrash:
    @pytest.mark.parametrize(
        "error", [CrashError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")], ids=repr
    )
    @pytest.mark.parametrize("stage", STAGES)
    def test_leaves_the_old_vector_and_nothing_else(self, tmp_path, monkeypatch, stage, error):
        path = vector().save(tmp_path / "v")
        module, name, when = STAGES[stage]
        monkeypatch.setattr(module, name, failing(getattr(module, name), when, error))
        with pytest.raises((CrashError, KeyboardInterrupt, InputError, OSError)):
            vector("affine").save(path, overwrite=True)
        monkeypatch.undo()
        assert_same(vector(), SteeringVector.load(path))
        assert leftovers(tmp_path, *FILES) == []

    @pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "second rename"])
    def test_of_a_first_save_leaves_nothing(self, tmp_path, monkeypatch, stage):
        module, name, when = STAGES[stage]
        monkeypatch.setattr(module, name, failing(getattr(module, name), when, CrashError()))
        with pytest.raises(CrashError):
            vector().save(tmp_path / "v")
        monkeypatch.undo()
        assert leftovers(tmp_path) == []

    def test_a_full_disk_is_said_in_one_line(self, tmp_path, monkeypatch):
        error = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes, 1, error))
        with pytest.raises(InputError, match="No space left on device") as found:
            vector().save(tmp_path / "v")
        assert "\n" not in str(found.value)

    @pytest.mark.parametrize("odd", [{"x": math.nan}, {"x": math.inf}, {"x": object()}, {"x": torch.ones(1)}])
    def test_what_json_cannot_hold_is_said_before_anything_is_written(self, tmp_path, odd):
        path = vector().save(tmp_path / "v")
        for made in (vector(provenance=odd), vector(settings=odd)):
            with pytest.raises(InputError, match="JSON"):
                made.save(path, overwrite=True)
        assert_same(vector(), SteeringVector.load(path))


def save_often(path, seeds, overwrite, results):
    refused = 0
    for seed in seeds:
        try:
            vector(seed=seed).save(path, overwrite=overwrite)
        except InputError:
            refused += 1
    results.put(refused)


class TestSeveralProcesses:
    @pytest.mark.parametrize("overwrite", [True, False])
    def test_saving_to_one_path_leaves_one_of_their_vectors(self, tmp_path, overwrite):
        context = multiprocessing.get_context("fork")
        path, results = tmp_path / "v", context.Queue()
        workers = [
            context.Process(target=save_often, args=(path, range(40 * k, 40 * k + 40), overwrite, results))
            for k in range(3)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        refused = sum(results.get(timeout=5) for _ in workers)
        assert refused == (0 if overwrite else 119)
        wanted = {vector(seed=seed).content_hash for seed in range(120)}
        assert SteeringVector.load(path).content_hash in wanted
        assert leftovers(tmp_path, *FILES) == []


class TestNotAVector:
    def test_nothing_a_file_an_empty_folder_another_folder(self, tmp_path):
        (tmp_path / "file.json").touch()
        (tmp_path / "empty").mkdir()
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
        for name in ("absent", "absent.pt", "file.json", "empty", "model"):
            assert CONFIG in refuse(tmp_path / name, match="not a saved vector")

    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".bin", ".ckpt", ".PT"])
    def test_a_pickle_is_refused_unread(self, tmp_path, suffix):
        file = tmp_path / f"vector{suffix}"
        file.write_bytes(pickle.dumps({"vector": [1.0]}))
        refuse(file, match="pickle, which trimtab never reads")
        refuse(tmp_path, match="pickle, which trimtab never reads")

    def test_a_pickle_under_the_name_of_the_tensors(self, saved):
        (saved / TENSORS).write_bytes(pickle.dumps({"vector": [1.0]}))
        refuse(saved, match="no safetensors file")

    def test_a_vector_with_a_pickle_beside_it_is_read_without_it(self, saved):
        (saved / "weights.pt").write_bytes(b"\x80\x04.")
        SteeringVector.load(saved)

    def test_missing_files(self, saved):
        (saved / TENSORS).unlink()
        refuse(saved, match=r"steering\.safetensors is missing")
        (saved / TENSORS).mkdir()
        refuse(saved, match="is missing")
        (saved / CONFIG).unlink()
        refuse(saved, match="not a saved vector")
        (saved / CONFIG).mkdir()
        refuse(saved, match="not a saved vector")


class TestDamage:
    def test_every_truncation_of_the_tensors(self, saved):
        whole = (saved / TENSORS).read_bytes()
        for length in {0, 1, 7, 8, 9, 50, *range(100, len(whole), 37), len(whole) - 1}:
            (saved / TENSORS).write_bytes(whole[:length])
            refuse(saved)
        (saved / TENSORS).write_bytes(whole + b"\0")
        refuse(saved)

    @pytest.mark.parametrize("size", [0, 2**31, 2**62, 2**64 - 1])
    def test_a_header_that_lies_about_its_length(self, saved, size):
        whole = (saved / TENSORS).read_bytes()
        (saved / TENSORS).write_bytes(struct.pack("<Q", size) + whole[8:])
        refuse(saved)

    def test_every_flipped_bit_of_the_tensors_numbers(self, saved):
        whole = bytearray((saved / TENSORS).read_bytes())
        start = 8 + struct.unpack("<Q", whole[:8])[0]
        for place in range(start, len(whole)):
            whole[place] ^= 1 << place % 8
            (saved / TENSORS).write_bytes(whole)
            refuse(saved)
            whole[place] ^= 1 << place % 8

    @pytest.mark.parametrize("name", [TENSORS, CONFIG])
    def test_a_flipped_byte_anywhere_is_refused_or_changes_nothing_that_steers(self, saved, name):
        wanted = SteeringVector.load(saved)
        whole = bytearray((saved / name).read_bytes())
        accepted, messages = 0, []
        for place in range(0, len(whole), 3):
            for flip in (1, 0x20):
                whole[place] ^= flip
                (saved / name).write_bytes(whole)
                whole[place] ^= flip
                try:
                    found = SteeringVector.load(saved)
                except InputError as error:
                    messages.append(str(error))
                    continue
                accepted += 1
                assert found.content_hash == wanted.content_hash
                assert behaviour(found) == behaviour(wanted)
        assert messages
        assert not any("\n" in message for message in messages)
        assert accepted == 0 or name == CONFIG  # names and origins are not covered by the hash

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "3", '"text"', "\ufeff{}", "[" * 100_000, '{"a": NaN}', '{"a": Infinity}']
    )
    def test_a_config_that_is_no_json_object(self, saved, text):
        (saved / CONFIG).write_text(text, encoding="utf-8")
        refuse(saved)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_a_number_that_json_does_not_have(self, saved, number):
        text = (saved / CONFIG).read_text(encoding="utf-8")
        (saved / CONFIG).write_text(text.replace('"pairs": 3', f'"pairs": {number}'), encoding="utf-8")
        refuse(saved, match="no JSON number")

    def test_a_config_that_is_no_text(self, saved):
        (saved / CONFIG).write_bytes(b"\xff\xfe\x00{")
        refuse(saved, match="not readable JSON")

    def test_a_config_with_deep_provenance(self, saved):
        deep = "[" * 700 + "]" * 700
        text = (saved / CONFIG).read_text(encoding="utf-8").replace('"list": [', f'"list": [{deep},')
        (saved / CONFIG).write_text(text, encoding="utf-8")
        refuse(saved)

    @pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, [1]])
    def test_unknown_schema_version(self, saved, version):
        rewrite(saved, lambda config: config.update(schema_version=version))
        refuse(saved, match="schema version")
        rewrite(saved, lambda config: config.pop("schema_version"))
        refuse(saved, match="schema version None")


def entry(key, value):
    return lambda config: config["interventions"][0].update({key: value})


CONFIGS = {
    "altered strength": entry("strength", math.inf),
    "strength as text": entry("strength", "0.5"),
    "strength as a list": entry("strength", [1]),
    "unknown transform": entry("transform", "rotate"),
    "other transform": entry("transform", "ablate"),
    "unknown gate": lambda c: c["interventions"][0]["gate"].update(kind="lunar"),
    "other gate": entry("gate", {"kind": "always"}),
    "gate without a threshold": lambda c: c["interventions"][0]["gate"].pop("threshold"),
    "gate with more": lambda c: c["interventions"][0]["gate"].update(softness=1.0),
    "gate threshold as text": lambda c: c["interventions"][0]["gate"].update(threshold="1"),
    "gate is no object": entry("gate", "always"),
    "unknown site": entry("site", "resid@1"),
    "site beyond the model": entry("site", "resid_post@4"),
    "site is a number": entry("site", 2),
    "unknown positions": entry("positions", "everywhere"),
    "positions written otherwise": entry("positions", "f02+l1"),
    "positions is null": entry("positions", None),
    "include_prefix as text": entry("include_prefix", "no"),
    "token ids as text": entry("token_ids", "12"),
    "token ids with a fraction": entry("token_ids", [1.5]),
    "token ids missing": lambda c: c["interventions"][0].pop("token_ids"),
    "rank": entry("rank", 2),
    "width": entry("width", 7),
    "unknown scaled": entry("scales", "speed"),
    "factors missing": entry("factors", None),
    "factors of one class": lambda c: c["interventions"][0]["factors"].pop("negative"),
    "factor of another rank": lambda c: c["interventions"][0]["factors"]["positive"].update(mean=[1.0], std=[1.0]),
    "factor mean as text": lambda c: c["interventions"][0]["factors"]["positive"].update(mean="123"),
    "factor mean of text": lambda c: c["interventions"][0]["factors"]["positive"].update(mean=["1", "2", "3"]),
    "factor n with a fraction": lambda c: c["interventions"][0]["factors"]["positive"].update(n=5.5),
    "factor n as text": lambda c: c["interventions"][0]["factors"]["positive"].update(n="5"),
    "factor n of other rows": lambda c: c["interventions"][0]["factors"]["positive"].update(n=6),
    "factor with a negative deviation": lambda c: c["interventions"][0]["factors"]["positive"].update(std=[-1.0, 1, 1]),
    "factor with an unknown key": lambda c: c["interventions"][0]["factors"]["positive"].update(median=[1.0]),
    "a third class": lambda c: c["interventions"][0]["factors"].update(neutral=None),
    "unknown key of an intervention": entry("strenght", 5.0),
    "unknown key": lambda c: c.update(extra=1),
    "unknown key of the model": lambda c: c["model"].update(extra=1),
    "missing key of the model": lambda c: c["model"].pop("revision"),
    "prefix ids in the config": lambda c: c["model"].update(prefix_ids=[1, 2]),
    "width of the model": lambda c: c["model"].update(hidden_size=7),
    "width of the model as text": lambda c: c["model"].update(hidden_size="6"),
    "two widths": lambda c: c.update(hidden_size=7),
    "two depths": lambda c: c.update(n_blocks=9),
    "depth of the model": lambda c: c["model"].update(n_blocks=-1),
    "depth that is true": lambda c: c["model"].update(n_blocks=None),
    "no model": lambda c: c.pop("model"),
    "model is a list": lambda c: c.update(model=[]),
    "no interventions": lambda c: c.update(interventions=[]),
    "interventions is an object": lambda c: c.update(interventions={}),
    "interventions is null": lambda c: c.update(interventions=None),
    "one intervention too many": lambda c: c["interventions"].append(c["interventions"][0]),
    "unknown direction": lambda c: c["directions"].update(sideways=[0]),
    "direction without edits": lambda c: c["directions"].update(elicit=[]),
    "direction of an edit that is not there": lambda c: c["directions"].update(elicit=[1]),
    "direction as text": lambda c: c["directions"].update(elicit="0"),
    "direction with a fraction": lambda c: c["directions"].update(elicit=[0.5]),
    "no directions": lambda c: c.update(directions={}),
    "multiplier of an unknown direction": lambda c: c["multipliers"].update(sideways=1.0),
    "multiplier as text": lambda c: c["multipliers"].update(elicit="2"),
    "multipliers is null": lambda c: c.update(multipliers=None),
    "settings is a list": lambda c: c.update(settings=[]),
    "provenance is text": lambda c: c.update(provenance="mine"),
    "method is a number": lambda c: c.update(method=3),
}
HELD = {
    "missing directions": lambda t: t.pop("interventions.0.directions"),
    "missing values": lambda t: t.pop("interventions.0.values"),
    "missing gate": lambda t: t.pop("interventions.0.gate.direction"),
    "missing prefix": lambda t: t.pop("prefix_ids"),
    "an extra tensor": lambda t: t.update(extra=torch.ones(1)),
    "an extra tensor of the transform": lambda t: t.update({"interventions.0.bias": torch.ones(1)}),
    "an extra tensor of the gate": lambda t: t.update({"interventions.0.gate.extra": torch.ones(1)}),
    "an extra tensor of the factors": lambda t: t.update({"interventions.0.factors.neutral": torch.ones(5, 3)}),
    "a tensor of an edit that is not there": lambda t: t.update({"interventions.1.values": torch.ones(1)}),
    "another width": lambda t: t.update({"interventions.0.directions": random(1, 3, WIDTH + 1)}),
    "another rank": lambda t: t.update({"interventions.0.directions": random(1, 2, WIDTH)}),
    "one dimension too many": lambda t: t.update({"interventions.0.directions": random(1, 1, 3, WIDTH)}),
    "values of another shape": lambda t: t.update({"interventions.0.values": torch.ones(3, 1)}),
    "a gate of another width": lambda t: t.update({"interventions.0.gate.direction": torch.ones(WIDTH + 1)}),
    "rows of another number": lambda t: t.update({"interventions.0.factors.positive": torch.ones(4, 3)}),
    "prefix of two dimensions": lambda t: t.update(prefix_ids=torch.tensor([[1, 2]])),
    "prefix of floats": lambda t: t.update(prefix_ids=torch.tensor([1.0, 2.0])),
    "double precision": lambda t: t.update({"interventions.0.values": t["interventions.0.values"].double()}),
    "half precision": lambda t: t.update({"interventions.0.directions": t["interventions.0.directions"].half()}),
    "NaN": lambda t: t["interventions.0.directions"].view(-1)[0].fill_(math.nan),
    "infinite": lambda t: t["interventions.0.values"][0].fill_(math.inf),
    "NaN in the gate": lambda t: t["interventions.0.gate.direction"][0].fill_(math.nan),
    "NaN in the rows": lambda t: t["interventions.0.factors.negative"].view(-1)[0].fill_(math.nan),
    "zero directions": lambda t: t["interventions.0.directions"].zero_(),
    "parallel directions": lambda t: t["interventions.0.directions"][1].copy_(t["interventions.0.directions"][0]),
}


class TestForgeries:
    """Files whose content hash is right: everything else has to be checked by itself."""

    @pytest.mark.parametrize("name", CONFIGS)
    def test_of_the_configuration(self, saved, name):
        rewrite(saved, CONFIGS[name])
        refuse(saved)

    @pytest.mark.parametrize("name", HELD)
    def test_of_the_tensors(self, saved, name):
        rewrite(saved, tensors=HELD[name])
        refuse(saved)

    def test_the_forger_can_sign(self, saved):
        """Else the tests above would prove nothing but the content hash."""
        rewrite(saved, entry("strength", 0.25), lambda t: t["interventions.0.values"].mul_(2))
        assert SteeringVector.load(saved).edits[0].intervention.strength == 0.25

    def test_an_unsigned_change_is_seen(self, saved):
        whole = shutil.copytree(saved, saved.with_name("whole"))
        for config, tensors in (
            (entry("strength", 0.25), None),
            (lambda c: c["multipliers"].update(elicit=9.0), None),
            (lambda c: c.pop("content_hash"), None),
            (lambda c: c.update(content_hash=None), None),
            (lambda c: c["interventions"][0]["factors"]["positive"]["mean"].reverse(), None),
            (None, lambda t: t["interventions.0.values"].mul_(2)),
            (None, lambda t: t.pop("interventions.0.factors.positive")),
            (None, lambda t: t["prefix_ids"].add_(1)),
        ):
            shutil.rmtree(saved)
            shutil.copytree(whole, saved)
            SteeringVector.load(saved)
            rewrite(saved, config, tensors, sign=False)
            assert "content" in refuse(saved)

    def test_a_diagonal_where_a_vector_belongs(self, tmp_path):
        path = vector("ablate").save(tmp_path / "v")
        rewrite(path, tensors=lambda t: t.update({"interventions.0.directions": random(1, WIDTH)}))
        refuse(path)
        one = replace(
            vector("ablate"), edits=(Edit(Intervention(Site(0), Ablate(random(1, WIDTH))), scales="nothing"),)
        )
        path = one.save(tmp_path / "one")
        rewrite(
            path, tensors=lambda t: t.update({"interventions.0.directions": t["interventions.0.directions"][0].clone()})
        )
        refuse(path, match="does not fit its place")

    def test_rows_for_a_vector_without_factors(self, tmp_path):
        path = vector("add").save(tmp_path / "v")
        rewrite(path, tensors=lambda t: t.update({"interventions.0.factors.positive": torch.ones(2, 1)}))
        refuse(path, match="unknown tensors")

    def test_the_message_names_the_key(self, saved):
        rewrite(saved, entry("strenght", 5.0))
        assert "interventions.0.strenght" in refuse(saved)

    def test_files_of_two_vectors_mixed(self, saved, tmp_path):
        other = vector("clamp of rank 3", "soft", seed=7).save(tmp_path / "other")
        shutil.copy(other / TENSORS, saved / TENSORS)
        refuse(saved)


def test_the_hash_is_over_the_parts_and_not_over_the_file(saved):
    assert json.loads((saved / CONFIG).read_text(encoding="utf-8"))["content_hash"] == content_hash(
        SteeringVector.load(saved)
    )


PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_nothing_in_the_source_pickles():
    source = Path(trimtab.__file__).parent
    found = []
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
                names += [f"torch.{alias.name}" for alias in node.names if node.module == "torch"]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
                bad = not (isinstance(node.value, ast.Constant) and node.value.value is (node.arg == "weights_only"))
                names = ["allow_pickle"] * bad
            banned = PICKLERS | {"torch.load", "torch.save", "torch.package", "allow_pickle"}
            found += [f"{file.relative_to(source)}: {name}" for name in names if name in banned]
    assert found == []
