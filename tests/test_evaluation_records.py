"""A run on disk: whole lines, one identity, one writer, and nothing lost or repeated."""

import json
import multiprocessing

import pytest

from trimtab.errors import InputError
from trimtab.evaluation.records import Log, Run, canonical, digest, open_run

IDENTITY = {"settings": {"multipliers": [1.0, 2.0], "name": "ä"}, "contenders": [{"label": "cdas"}]}


def opened(path, identity=IDENTITY, protocol="axbench", **more):
    return open_run(path, protocol, identity, {"device": "cpu"}, **more)


class TestLog:
    def test_rows_come_back_in_order(self, tmp_path):
        log = Log(tmp_path / "a.jsonl", writable=True)
        log.append([{"id": "1", "text": "two\nlines \u2028 \x85 and \U0001f600"}, {"id": "2", "text": ""}])
        log.append([])
        log.append([{"id": "3", "text": None}])
        assert Log(tmp_path / "a.jsonl", writable=False).rows == log.rows
        assert [row["id"] for row in log.rows] == ["1", "2", "3"]
        assert log.keys("id", "text") >= {("2", ""), ("3", None)}

    @pytest.mark.parametrize("torn", ['{"id": "3", "te', '{"id": "3"}', "\u00e4".encode()[:1].decode("latin1")])
    def test_a_torn_last_line_is_cut_off_and_written_anew(self, tmp_path, torn):
        path = tmp_path / "a.jsonl"
        whole = '{"id": "1"}\n{"id": "2"}\n'
        path.write_text(whole + torn)
        assert [row["id"] for row in Log(path, writable=False).rows] == ["1", "2"]
        assert path.read_text() == whole + torn  # who only reads changes nothing
        log = Log(path, writable=True)
        log.append([{"id": "3"}])
        assert path.read_text() == whole + '{"id": "3"}\n'

    @pytest.mark.parametrize("line", ["nonsense", "[1]", "3"])
    def test_a_damaged_line_is_refused_with_its_number(self, tmp_path, line):
        (tmp_path / "a.jsonl").write_text(f'{{"id": "1"}}\n{line}\n{{"id": "2"}}\n')
        with pytest.raises(InputError, match=r"a\.jsonl line 2 is no JSON object"):
            Log(tmp_path / "a.jsonl", writable=False)

    def test_half_a_surrogate_pair_and_nan(self, tmp_path):
        log = Log(tmp_path / "a.jsonl", writable=True)
        log.append([{"text": "\ud800"}])
        assert len(Log(tmp_path / "a.jsonl", writable=False).rows) == 1
        with pytest.raises(ValueError, match="not JSON compliant"):
            log.append([{"value": float("nan")}])
        assert len(Log(tmp_path / "a.jsonl", writable=False).rows) == 1

    def test_only_readers_cannot_write(self, tmp_path):
        with pytest.raises(ValueError, match="only read"):
            Log(tmp_path / "a.jsonl", writable=False).append([{"id": "1"}])


class TestRun:
    def test_a_run_is_gone_on_with_under_the_same_identity(self, tmp_path):
        with opened(tmp_path / "run") as run:
            run.log("generations").append([{"id": "1"}])
        with opened(tmp_path / "run", json.loads(canonical(IDENTITY))) as run:
            assert [row["id"] for row in run.log("generations").rows] == ["1"]
            run.finish({"tables": []})
        again = Run.read(tmp_path / "run")
        assert again.summary == {"tables": []}
        assert again.config["hash"] == digest(IDENTITY)
        assert again.protocol == "axbench"

    @pytest.mark.parametrize(
        ("identity", "said"),
        [
            (
                {**IDENTITY, "settings": {"multipliers": [1.0, 3.0], "name": "ä"}},
                r"settings\.multipliers\[1\]: 2.0 there, 3.0 here",
            ),
            ({**IDENTITY, "contenders": []}, "contenders: 1 entries there, 0 here"),
            ({**IDENTITY, "judge": "exact"}, 'judge: null there, "exact" here'),
        ],
    )
    def test_another_identity_is_refused_with_what_differs(self, tmp_path, identity, said):
        with opened(tmp_path / "run"):
            pass
        with pytest.raises(InputError, match=said), opened(tmp_path / "run", identity):
            pass
        with opened(tmp_path / "run", identity, overwrite=True) as run:
            assert run.identity == identity

    def test_another_protocol_is_refused(self, tmp_path):
        with opened(tmp_path / "run"):
            pass
        with (
            pytest.raises(InputError, match="protocol axbench, not refusal"),
            opened(tmp_path / "run", protocol="refusal"),
        ):
            pass

    def test_overwriting_removes_a_runs_own_files_alone(self, tmp_path):
        with opened(tmp_path / "run") as run:
            run.log("generations").append([{"id": "1"}])
            run.finish({})
        (tmp_path / "run" / "notes.txt").write_text("mine")
        with opened(tmp_path / "run", overwrite=True) as run:
            assert run.log("generations").rows == []
        assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
        assert not (tmp_path / "run" / "summary.json").exists()

    def test_foreign_directories_and_files_are_left_alone(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").write_text("dear")
        (tmp_path / "file").write_text("x")
        for name, said in (("mine", "other files"), ("file", "no directory")):
            with pytest.raises(InputError, match=said), opened(tmp_path / name, overwrite=True):
                pass
        assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"

    def test_one_writer_at_a_time(self, tmp_path):
        with opened(tmp_path / "run"):
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                assert "another process" in pool.apply(_try, (str(tmp_path / "run"),))

    def test_reading_what_is_no_run_or_not_finished(self, tmp_path):
        with pytest.raises(InputError, match="is no run"):
            Run.read(tmp_path)
        with opened(tmp_path / "run"):
            pass
        with pytest.raises(InputError, match="not finished"):
            _ = Run.read(tmp_path / "run").summary
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        for spoiled, said in (({**config, "schema": 9}, "schema 9"), ({"schema": 1}, "has no 'hash'")):
            (tmp_path / "run" / "config.json").write_text(json.dumps(spoiled))
            with pytest.raises(InputError, match=said):
                Run.read(tmp_path / "run")
        (tmp_path / "run" / "config.json").write_text("{")
        with pytest.raises(InputError, match="cannot be read"):
            Run.read(tmp_path / "run")

    def test_what_is_no_json_cannot_decide_a_run(self, tmp_path):
        with (
            pytest.raises(InputError, match="cannot be written as JSON"),
            opened(tmp_path / "run", {"m": float("inf")}),
        ):
            pass
        assert not (tmp_path / "run").exists()


def _try(path):
    try:
        with opened(path):
            return "opened"
    except InputError as error:
        return str(error)
