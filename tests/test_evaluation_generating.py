"""Texts on record: the same whatever the batch, the order, and what was there before."""

import pytest

import trimtab as tt
from trimtab.errors import InputError
from trimtab.evaluation.contenders import Contender, distinct, load_contenders, with_plain
from trimtab.evaluation.generating import Writing, generate
from trimtab.evaluation.jobs import Job, seed_of
from trimtab.evaluation.records import Log
from trimtab.evaluation.traits import Task
from trimtab.progress import Progress

SAMPLED = Writing(max_new_tokens=24, temperature=1.0, batch_size=8)


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism", device="cpu")


@pytest.fixture(scope="module")
def contenders(organism):
    pairs = tt.load_pairs("past-tense")[:24]
    vector = tt.fit("diffmean", organism, pairs, layer=3, calibrate=False)
    lora = tt.fit_steerable("lora", organism, pairs[:8], epochs=1)
    prompt = tt.fit_steerable("prompt", organism, pairs)
    return [Contender(each.method, "past-tense", each) for each in (vector, lora, prompt)]


def planned(contenders, prompts=5, multipliers=(1.0, 2.0)):
    task = Task.of("past-tense", prompts)
    jobs = []
    for contender in with_plain(contenders):
        doses = [None] if contender.steerable is None else multipliers if contender.has_factor("elicit") else [1.0]
        for multiplier in doses:
            jobs += [
                Job(
                    contender,
                    request.messages,
                    number,
                    "free",
                    None if multiplier is None else "elicit",
                    multiplier,
                    "past-tense",
                    seed_of(7, "past-tense", number, multiplier),
                )
                for number, request in enumerate(task.free)
            ]
    return jobs


def by_id(log):
    return {row["id"]: row for row in log.rows}


def written(organism, jobs, path, writing=SAMPLED, progress=None):
    log = Log(path, writable=True)
    generate(organism, jobs, log, writing, progress)
    return log


class TestGenerate:
    def test_rows_have_what_was_asked_and_said(self, organism, contenders, tmp_path):
        jobs = planned(contenders)
        rows = by_id(written(organism, jobs, tmp_path / "a.jsonl"))
        assert len(rows) == len(jobs) == 5 * (1 + 2 + 1 + 1)
        for job in jobs:
            row = rows[job.id]
            assert row["messages"] == job.prompt
            assert organism.chat.decode(row["ids"]) == row["text"]
            assert row["ended"] is organism.is_ended(row["ids"])
            assert row["instruction"] == job.prompt[-1]["content"]
            assert (row["asked"] is not None) is (job.contender.label == "prompt")
            if row["asked"] is not None:
                assert row["asked"][0]["role"] == "system"
                assert row["asked"][-1] == job.prompt[-1]

    def test_neither_batch_nor_order_nor_company_changes_a_text(self, organism, contenders, tmp_path):
        jobs = planned(contenders)
        whole = by_id(written(organism, jobs, tmp_path / "a.jsonl"))
        small = by_id(written(organism, jobs[::-1], tmp_path / "b.jsonl", Writing(24, 1.0, 3)))
        alone = by_id(written(organism, jobs[7:8], tmp_path / "c.jsonl", Writing(24, 1.0, 1)))
        assert whole == small
        assert alone[jobs[7].id] == whole[jobs[7].id]

    def test_texts_are_those_of_generate(self, organism, contenders, tmp_path):
        jobs = planned(contenders)
        rows = by_id(written(organism, jobs, tmp_path / "a.jsonl"))
        vector = contenders[0].vector
        job = next(job for job in jobs if job.contender.label == "diffmean" and job.multiplier == 2.0)
        said = organism.generate(
            [job.prompt], steering=vector.elicit(2.0), max_new_tokens=24, temperature=1.0, seed=job.seed
        )
        assert said == [rows[job.id]["text"]]

    @pytest.mark.parametrize("stop", [1, 2, 3, 4])
    def test_an_interrupted_run_writes_the_same_bytes(self, organism, contenders, tmp_path, stop):
        jobs = planned(contenders)
        written(organism, jobs, tmp_path / "whole.jsonl")
        path, told = tmp_path / "part.jsonl", []

        def interrupt(progress: Progress) -> None:
            told.append(progress)
            if len(told) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            written(organism, jobs, path, progress=interrupt)
        content = path.read_bytes()
        path.write_bytes(content[: -3 * stop])  # and a batch of which not all lines reached the disk
        written(organism, jobs, path)
        assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    def test_what_is_on_record_is_not_written_again(self, organism, contenders, tmp_path):
        jobs = planned(contenders)
        log = written(organism, jobs, tmp_path / "a.jsonl")
        before = list(log.rows)
        generate(_Silent(), jobs, log, SAMPLED)  # a model that cannot answer
        assert log.rows == before

    def test_progress_counts_texts(self, organism, contenders, tmp_path):
        told = []
        jobs = planned(contenders)
        written(organism, jobs, tmp_path / "a.jsonl", progress=told.append)
        assert [each.done for each in told] == sorted(each.done for each in told)
        assert told[-1].done == told[-1].total == len(jobs)

    def test_weights_are_what_they_were_afterwards(self, organism, contenders, tmp_path):
        before = {name: weight.clone() for name, weight in organism.hf.state_dict().items()}
        written(organism, planned(contenders), tmp_path / "a.jsonl")
        after = organism.hf.state_dict()
        assert before.keys() == after.keys()
        assert all((after[name] == weight).all() for name, weight in before.items())

    def test_a_job_given_twice_is_refused(self, organism, contenders, tmp_path):
        jobs = planned(contenders)
        with pytest.raises(InputError, match="stands twice"):
            written(organism, [*jobs, jobs[0]], tmp_path / "a.jsonl")


class _Silent:
    """Stands for a model in a run in which nothing is left to be written."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked for")


class TestJobs:
    def test_an_id_depends_on_all_that_a_job_is(self, contenders):
        base = planned(contenders)[5]
        changes = {
            "number": 9,
            "condition": "carrying",
            "way": "suppress",
            "multiplier": 1.5,
            "seed": 1,
            "prompt": "Other?",
        }
        ids = {base.id}
        for name, value in changes.items():
            fields = {key: getattr(base, key) for key in Job.__dataclass_fields__} | {name: value}
            ids.add(Job(**fields).id)
        assert len(ids) == len(changes) + 1
        assert Job(**{key: getattr(base, key) for key in Job.__dataclass_fields__}).id == base.id

    def test_seeds_are_decided_by_their_parts(self):
        assert seed_of(1, "a", 2.0, None) == seed_of(1, "a", 2.0, None)
        assert len({seed_of(1, "a", k, None) for k in range(1000)}) == 1000
        assert all(0 <= seed_of(1, "a", k) < 2**63 for k in range(1000))


class TestContenders:
    def test_folders_are_searched_and_know_their_concepts(self, contenders, tmp_path):
        for each in contenders:
            each.steerable.save(tmp_path / "all" / each.label / "x")
        found = load_contenders([str(tmp_path / "all")])
        assert sorted(each.label for each in found) == ["diffmean", "lora", "prompt"]
        assert {each.concept for each in found} == {"past-tense"}
        named = load_contenders([f"mine={tmp_path / 'all' / 'diffmean'}"], concept="other")
        assert [(each.label, each.concept) for each in named] == [("mine", "other")]
        assert named[0].identity["hash"] == contenders[0].vector.content_hash

    def test_what_has_a_factor(self, contenders):
        assert [each.has_factor("elicit") for each in contenders] == [True, False, False]

    def test_two_layers_of_a_method_are_told_apart(self, organism):
        pairs = tt.load_pairs("sea")[:8]
        vectors = [tt.fit("diffmean", organism, pairs, layer=layer, calibrate=False) for layer in (2, 5)]
        found = distinct([Contender("diffmean", "sea", vector) for vector in vectors])
        assert [each.label for each in found] == ["diffmean@2", "diffmean@5"]
        with pytest.raises(InputError, match="two contenders"):
            distinct([Contender("diffmean", "sea", vectors[0])] * 2)

    def test_bad_folders(self, tmp_path):
        for word in (str(tmp_path), str(tmp_path / "none"), f"a={tmp_path}"):
            with pytest.raises(InputError, match="holds no saved vector"):
                load_contenders([word])
        with pytest.raises(InputError, match="LABEL=DIR"):
            load_contenders(["=x"])

    def test_the_plain_models_label_is_taken(self, contenders):
        with pytest.raises(InputError, match="choose another label"):
            with_plain([Contender("unsteered", "sea", contenders[0].steerable)])
