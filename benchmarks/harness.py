"""What every benchmark here needs: quiet-machine checks, memory and CPU readings, the facts of a run, result files.

Nothing here imports torch, so that the process that starts the measured ones stays small and idle.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("trimtab", "torch", "transformers", "tokenizers", "pyvene", "numpy")
TICKS = os.sysconf("SC_CLK_TCK")


def thread_environment(threads: int) -> dict[str, str]:
    """This process's environment with the thread settings that both sides of a comparison get.

    Waiting threads spin or sleep as the caller's OMP_WAIT_POLICY says, by default as users have it (they spin): runs
    take turns on a quiet machine. Set PASSIVE where the machine is shared.
    """
    settings = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    settings |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return os.environ | settings | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def machine_busy_seconds() -> float:
    """CPU seconds that all processes of the machine together have used since boot; NaN where /proc is missing."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]]
    except OSError:
        return float("nan")
    idle_and_iowait = fields[3] + fields[4]
    return (sum(fields[:8]) - idle_and_iowait) / TICKS


def others_cores(seconds: float = 2.0) -> float:
    """How many cores other processes keep busy while this one sleeps."""
    before = machine_busy_seconds()
    time.sleep(seconds)
    return (machine_busy_seconds() - before) / seconds


def require_quiet(max_others: float, *, force: bool, seconds: float = 3.0) -> None:
    """Refuse to measure on a machine that others keep busy; with `force`, only say so on stderr."""
    busy = others_cores(seconds)
    if not busy > max_others:
        return
    told = f"others keep {busy:.2f} cores busy (load average {os.getloadavg()[0]:.2f}; allowed {max_others:g} cores)"
    if not force:
        raise SystemExit(f"{told}: wait, raise --max-others, or use --force for figures that count for nothing")
    sys.stderr.write(f"WARNING: {told}; the figures are not to be quoted\n")


def rss_mb() -> float:
    """Resident memory of this process now."""
    return _status_mb("VmRSS")


def peak_rss_mb() -> float:
    """Highest resident memory since the last `reset_peak` (on Linux; else since the process began).

    getrusage's figure is only the fallback: on Linux it survives exec, so a child never reports less than its parent.
    """
    try:
        return _status_mb("VmHWM")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def reset_peak() -> bool:
    """Start `peak_rss_mb` again from the present size; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def facts() -> dict[str, Any]:
    """Versions, commit, machine and load at this moment."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "load_average": list(os.getloadavg()),
    }


def commit() -> str:
    """The checked-out commit, with `+changes` where tracked or new files of the package differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", "src", "benchmarks/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record as a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; floats with three significant digits."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
