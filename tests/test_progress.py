"""Progress: the rate, and what is left."""

import dataclasses

import pytest

from trimtab.progress import Progress, renamed


def test_rate_and_remaining_follow_from_the_counts():
    progress = Progress("fit", done=20, total=50, seconds=4.0, loss=0.5)
    assert progress.rate == 5.0
    assert progress.remaining == 6.0


@pytest.mark.parametrize("progress", [Progress("fit", 0, 50, 4.0), Progress("fit", 3, 50, 0.0)])
def test_nothing_is_promised_before_there_is_a_rate(progress):
    assert progress.rate == 0.0
    assert progress.remaining is None


@pytest.mark.parametrize("done", [50, 51])
def test_nothing_is_left_at_the_end(done):
    assert Progress("fit", done, 50, 0.0).remaining == 0.0


def test_a_report_cannot_be_changed_by_a_listener():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Progress("fit", 1, 2, 3.0).done = 2


def test_a_renamed_report_is_otherwise_the_same():
    told = []
    passed = renamed(told.append, lambda stage: f"sea: {stage}")
    assert passed is not None
    passed(Progress("fit", 1, 2, 3.0, 0.5))
    assert told == [Progress("sea: fit", 1, 2, 3.0, 0.5)]
    assert renamed(None, str) is None
