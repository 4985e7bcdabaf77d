"""`kill -9` in the midst of `trimtab eval`: started again, a run ends with the bytes of one that nobody disturbed."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

import trimtab as tt
from trimtab.cli.main import main
from trimtab.evaluation.records import CONFIG, LOGS, SUMMARY

pytestmark = pytest.mark.slow

KILLS = 10
SEED = 20250
WRITTEN = (SUMMARY, *(f"{name}.jsonl" for name in LOGS))
# two concepts, two contenders, three multipliers, four prompts, 24 tokens
OPTIONS = ("--prompts", "4", "--multipliers", "1,2,3", "--max-new-tokens", "24", "--batch-size", "8")
# imported before processes are forked, so that they are at work at once; starting Python takes longer than the run
PRELOADED = (
    *("trimtab.cli.main", "trimtab.evaluation.evaluate", "trimtab.evaluation.judges.exact", "trimtab.methods"),
    *("trimtab.models.load", "trimtab.organism", "transformers.models.llama.modeling_llama"),
)


def eval_line(vectors, out):
    return ["eval", "axbench", str(vectors), "--model", "organism", "--out", str(out), *OPTIONS]


def at_work(words):
    """What a forked process does: the command, in silence."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        sys.stdout = sys.stderr = nowhere
        code = main(words)
    os._exit(code)


@dataclass(frozen=True)
class Command:
    """`trimtab eval axbench` on these vectors, as processes that can be killed.

    Attributes:
        vectors: Their folder.
        whole: What a run that nobody killed wrote, by name.
        seconds: How long a forked process takes for it.
    """

    vectors: Path
    whole: dict[str, bytes]
    seconds: float

    def finish(self, out):
        """A process that is let to its end."""
        assert forked(self.vectors, out, None) == 0

    def kill(self, out, seconds):
        """A process that is killed so many seconds after its start; returns whether it was still at work."""
        code = forked(self.vectors, out, seconds)
        assert code in (0, -signal.SIGKILL)
        return code != 0


def forked(vectors, out, seconds):
    """The exit code of a forked process that is killed after so many seconds; None = never."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=at_work, args=(eval_line(vectors, out),))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


def started(vectors, out):
    """The command as a user starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    line = [sys.executable, "-m", "trimtab", *eval_line(vectors, out)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def files(out):
    return {name: (out / name).read_bytes() for name in WRITTEN if (out / name).exists()}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("kill"), tt.load_model("organism", device="cpu")
    vectors = folder / "vectors"
    for concept in ("sea", "past-tense"):
        pairs = tt.load_pairs(concept)[:24]
        tt.fit("diffmean", model, pairs, layer=3, calibrate=False).save(vectors / concept / "diffmean")
        tt.fit_steerable("prompt", model, pairs).save(vectors / concept / "prompt")
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    assert forked(vectors, folder / "first", None) == 0  # brings the server up
    began = time.monotonic()
    assert forked(vectors, folder / "whole", None) == 0
    seconds = time.monotonic() - began
    whole = files(folder / "whole")
    assert whole.keys() == set(WRITTEN)
    assert whole == files(folder / "first")
    return Command(vectors, whole, seconds)


def test_a_killed_run_that_is_started_again_is_the_one_that_was_not_killed(command, tmp_path):
    draw = random.Random(SEED)
    moments = [draw.uniform(0, command.seconds) for _ in range(KILLS)]

    def killed(number):
        out = tmp_path / f"run {number}"
        was_at_work = command.kill(out, moments[number])
        at_kill = {name: len(content) for name, content in files(out).items()}
        command.finish(out)
        assert files(out) == command.whole, f"killed after {moments[number]:.2f} s, with {at_kill}"
        assert {path.name for path in out.iterdir()} <= {*WRITTEN, CONFIG, ".lock"}
        return was_at_work, tuple(sorted(at_kill.items()))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(killed, range(KILLS)))
    # the moments have to have been such: at work, and with different amounts on record
    assert sum(was_at_work for was_at_work, _ in found) >= KILLS // 2, found
    assert len({at_kill for _, at_kill in found}) >= 3, found


def test_ten_kills_in_a_row(command, tmp_path):
    draw, out = random.Random(SEED + 1), tmp_path / "run"
    sizes = []
    for _ in range(KILLS):
        command.kill(out, draw.uniform(0, command.seconds))
        sizes.append({name: len(content) for name, content in files(out).items()})
    for before, after in pairwise(sizes):
        for name, size in before.items():  # nothing that was on disk is lost, torn lines apart
            assert after[name] >= command.whole[name][:size].rfind(b"\n") + 1
    command.finish(out)
    assert files(out) == command.whole


def test_as_a_user_starts_it(command, tmp_path):
    """Two kills of a process of its own, the first while it generates, the second when texts are on record."""
    out = tmp_path / "run"
    for awaited in (CONFIG, "generations.jsonl"):
        process = started(command.vectors, out)
        while not (out / awaited).exists():
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (out / SUMMARY).exists()
    process = started(command.vectors, out)
    said, _ = process.communicate()
    assert process.returncode == 0, said.decode()
    assert files(out) == command.whole
