"""Methods judged side by side: vectors and baselines alike, and the figure of them."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest

import trimtab as tt
from trimtab.evaluation.methods import Unrelated, judge_methods, plain_rows
from trimtab.evaluation.traits import Reference, Task, measure
from trimtab.methods.steerable import Applied, Baseline, applied
from trimtab.report.methods import Point, draw_methods


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism", device="cpu")


@pytest.fixture(scope="module")
def vector(organism):
    return tt.fit("diffmean", organism, tt.load_pairs("past-tense")[:24], layer=1, calibrate=False)


@dataclass
class Asked(Baseline):
    """A baseline that asks for the concept in a system message."""

    text: str
    method: str = "asked"
    directions: tuple[str, ...] = ("elicit",)

    @contextmanager
    def applied(self, model, direction, multiplier, *, force=False):
        yield Applied(prompt=lambda messages: [{"role": "system", "content": self.text}, *messages])

    def save(self, path, *, overwrite=False):
        raise NotImplementedError


def test_vectors_and_baselines_are_judged_on_the_same_prompts(organism, vector):
    task, unrelated = Task.of("past-tense", 4), Unrelated.of(organism, "past-tense", 3)
    found = judge_methods(organism, task, {"diffmean": vector, "asked": Asked("Use the past tense.")}, unrelated)
    assert list(found) == ["diffmean", "asked"]
    assert set(found["diffmean"].rows) == {"elicit", "suppress"}
    alone = measure(organism, task, {"x": ("elicit", vector.elicit())})["x"]
    assert found["diffmean"].rows["elicit"] == alone
    assert min(found["asked"].rows["elicit"].concept) == 2  # the organism does what it is asked
    for result in found.values():
        assert all(len(values) == 3 and min(values) > 0 for values in result.unrelated.values())


def test_nothing_has_no_side_effect(organism):
    assert max(Unrelated.of(organism, "sea", 3).divergence(Applied())) < 1e-5


def test_the_plain_rows_are_those_of_the_reference(organism):
    task = Task.of("past-tense", 3)
    assert plain_rows(organism, task)["prompted"].score == Reference(organism, task).rows["prompted"].score


def test_a_vector_is_applied_as_its_own_steering(organism, vector):
    with applied(organism, vector, "suppress", 2.0) as at_work:
        assert at_work.steering.label == vector.suppress(2.0).label
        assert at_work.prompt("as it is") == "as it is"


def test_the_figure_is_drawn_with_every_label(tmp_path):
    points = [Point(f"m{k}", "even" if k % 2 else "odd", (1.0, 0.9, 1.1), (0.0 if k == 3 else 0.1, 0.0, 0.2))
              for k in range(12)]  # fmt: skip
    path = tmp_path / "methods.svg"
    draw_methods({"eliciting": points, "suppressing": points[:2]}, path)
    assert path.stat().st_size > 10_000
