"""Progress: nothing for work of a moment, now and then a line in a log, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from trimtab.cli import progress as shown
from trimtab.progress import Progress


def steps(total, seconds_each, loss=0.5):
    return [Progress("fit", done, total, done * seconds_each, loss) for done in range(1, total + 1)]


@pytest.fixture
def lines(capsys):
    def call(reports):
        with shown.show_progress() as report:
            for progress in reports:
                report(progress)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    return call


def test_short_work_is_silent(lines):
    assert lines(steps(10, 0.1)) == []


def test_long_work_says_a_line_every_few_seconds_and_at_the_end(lines):
    said = lines(steps(100, 0.2))
    assert 3 <= len(said) <= 6
    assert all(line.startswith("fit: ") and "loss 0.5" in line for line in said)
    assert said[-1].startswith("fit: 100/100")


def test_stages_are_told_apart(lines):
    cache = [Progress("cache", 1, 2, 3.0), Progress("cache", 2, 2, 6.0)]
    assert [line.split(":")[0] for line in lines(cache + steps(4, 2.0))] == ["cache", "cache", "fit", "fit"]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in memory instead of stderr."""
    screen = io.StringIO()
    monkeypatch.setattr(shown, "stderr", lambda: Console(file=screen, force_terminal=True, width=100))
    return screen


def test_a_terminal_shows_a_bar_for_work_that_will_be_long(terminal):
    with shown.show_progress() as report:
        report(Progress("fit", 1, 100, 0.2, 0.5))
    assert "1/100" in terminal.getvalue()


def test_a_terminal_shows_nothing_for_work_of_a_moment(terminal):
    with shown.show_progress() as report:
        for progress in steps(10, 0.01):
            report(progress)
    assert terminal.getvalue() == ""
