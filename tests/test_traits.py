"""What the studies measure: judged answers, side effects, controls, on the organism itself."""

import pytest
import torch

import trimtab as tt
from trimtab.data import PairSet
from trimtab.evaluation.controls import matched, random_directions, without_labels
from trimtab.evaluation.traits import LONGEST, TRAITS, Reference, Task, choose_right, measure
from trimtab.organism import CONCEPTS, rate
from trimtab.organism.world import choice_requests


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism", device="cpu")


@pytest.fixture(scope="module")
def vector(organism):
    return tt.fit("cdas", organism, tt.load_pairs("past-tense")[:24], layer=3, epochs=4, calibrate=False)


@pytest.mark.parametrize("name", TRAITS)
def test_a_task_is_repeatable_and_its_sides_differ(name):
    task = Task.of(name, 12)
    assert task == Task.of(name, 12)
    assert task != Task.of(name, 12, seed=1)
    assert task != Task.of(name, 12, split="train")
    for free, carrying in zip(task.free, task.carrying, strict=True):
        assert free.messages != carrying.messages


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_concepts_prompts_ask_the_same_with_and_without_it(name):
    task = Task.of(name, 12)
    for free, carrying in zip(task.free, task.carrying, strict=True):
        assert free.user == carrying.user
        assert free.system is None
        assert carrying.concept == name


def test_every_concept_has_pairs_of_its_name():
    assert {*TRAITS} <= {entry.name for entry in tt.data.builtin_datasets()}


def test_the_plain_and_the_prompted_model_are_on_both_ends(organism):
    for name in ("past-tense", "refusal", "backdoor"):
        rows = {key: row.record() for key, row in Reference(organism, Task.of(name, 12)).rows.items()}
        assert rows["unsteered"]["concept"] < 0.5
        assert rows["prompted"]["concept"] > 1.5
        assert rows["prompted"]["n"] == 12


def test_rows_are_judged_as_one_by_one(organism, vector):
    task = Task.of("past-tense", 6)
    plan = {"a": ("elicit", vector.elicit()), "b": ("suppress", vector.suppress()), "c": ("elicit", None)}
    reference = Reference(organism, task)
    found = measure(organism, task, plan, reference=reference)
    assert measure(organism, task, plan)["a"].kl is None
    for name, (way, steering) in plan.items():
        requests = task.free if way == "elicit" else task.carrying
        for k, request in enumerate(requests):
            (text,) = organism.generate([request.messages], steering=steering, max_new_tokens=LONGEST)
            assert found[name].outputs[k] == text
            rating = rate(request, text, "past-tense")
            parts = [rating.concept if way == "elicit" else 2 - rating.concept, rating.instruction, rating.fluency]
            wanted = 3 / sum(1 / part for part in parts) if all(parts) else 0.0
            assert found[name].score[k] == pytest.approx(wanted)
    assert found["c"].kl is None
    assert min(found["a"].kl) >= 0
    assert found["a"].record(0.5)["choice_accuracy"] == 0.5


def test_rows_may_be_judged_on_fewer_prompts_in_the_same_batches(organism, vector):
    task = Task.of("past-tense", 6)
    plan = {way: (way, vector.steering(way)) for way in ("elicit", "suppress")}
    reference = Reference(organism, task)
    whole = measure(organism, task, plan, reference=reference)
    part = measure(organism, task, plan, reference=reference, fewer={"suppress": 2})
    assert part["elicit"] == whole["elicit"]
    assert part["suppress"].score == whole["suppress"].score[:2]
    assert part["suppress"].outputs == whole["suppress"].outputs[:2]
    assert part["suppress"].kl is None


def test_choices_are_counted_question_by_question(organism, vector):
    strong = vector.elicit(4.0)
    right = choose_right(organism, {"plain": None}, n=40)["plain"]
    assert right == choose_right(organism, {"again": None}, n=40)["again"]
    both = choose_right(organism, {"steered": strong, "plain": None}, n=40)
    assert both["plain"] == right
    assert both["steered"] == choose_right(organism, {"alone": strong}, n=40)["alone"] != right
    assert len(right) == 40
    assert 0.5 <= sum(right) / 40 <= 1
    assert len(choice_requests()) > 1000


class TestControls:
    def test_pairs_without_labels_have_one_class_each(self):
        pairs = tt.load_pairs("past-tense")[:20]
        positive = {repr(pair.positive_input) for pair in pairs}
        made = without_labels(pairs, 0)
        assert len(made) == 20
        kinds = [(repr(p.positive_input) in positive, repr(p.negative_input) in positive) for p in made]
        assert all(one == other for one, other in kinds)
        assert {one for one, _ in kinds} == {True, False}
        assert made.pairs == without_labels(pairs, 0).pairs != without_labels(pairs, 1).pairs

    def test_a_direction_without_labels_is_another(self, organism, vector):
        pairs = tt.load_pairs("past-tense")[:24]
        other = tt.fit("cdas", organism, without_labels(pairs, 0), layer=3, epochs=4, calibrate=False)
        ours, theirs = (v.edits[0].intervention.transform.directions[0] for v in (vector, other))
        assert abs(float(ours @ theirs)) < 0.6

    def test_a_control_moves_as_far_as_its_vector(self, organism, vector):
        pairs = tt.load_pairs("past-tense")[:16]
        directions = random_directions(vector, 0)
        torch.testing.assert_close(directions @ directions.T, torch.eye(1))
        control = matched(organism, vector, directions, pairs, "random")
        sizes = [self.size(organism, v, pairs) for v in (vector, control)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
        assert control.method == "random"

    def size(self, organism, vector, pairs: PairSet) -> float:
        (edit,) = vector.elicit().interventions
        prompts = [organism.chat.render(pair.negative_input) for pair in pairs]
        states = tt.models.capture(organism.hf, [prompt.ids for prompt in prompts], [edit.site])
        tokens = torch.cat([s[edit.site][p.prefix_length :] for s, p in zip(states, prompts, strict=True)]).float()
        return float((edit.transform(tokens) - tokens).norm(dim=1).mean())
