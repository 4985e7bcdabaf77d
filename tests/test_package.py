"""The installed package: its version, its marks, its entry points, and how lightly it is imported."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, metadata, version
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

import trimtab
from trimtab._version import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_what_is_tested_as_the_oldest_is_the_oldest_that_is_allowed():
    """A bound may only be lowered to what the tests were run with, and the tests go up with it."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    allowed = {one.name: one.specifier for one in map(Requirement, asked)}
    lines = (ROOT / "requirements-oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split()[0].split("==") for line in lines if line[:1] not in ("", "#"))
    lowest = {name: next(iter(allowed[name])).version for name in ("transformers", "huggingface_hub", "tokenizers")}
    assert {name: Version(pinned[name]).release[:2] for name in lowest} == {
        name: (*Version(low).release, 0)[:2] for name, low in lowest.items()
    }


def test_the_version_is_the_same_everywhere():
    assert trimtab.__version__ == __version__ == version("trimtab")


def test_the_package_says_that_it_is_typed():
    assert files("trimtab").joinpath("py.typed").is_file()


def test_the_licence_is_declared():
    assert metadata("trimtab")["License-Expression"] == "Apache-2.0"


def test_the_command_is_installed():
    (script,) = entry_points(group="console_scripts", name="trimtab")
    assert script.value == "trimtab.cli.main:main"


def test_every_public_name_is_there():
    assert trimtab.__all__
    for name in trimtab.__all__:
        assert getattr(trimtab, name) is not None, name


def test_nothing_but_the_command_line_writes_to_the_terminal():
    """ruff's T20 sees `print`; this sees the streams."""
    root = Path(trimtab.__file__).parent
    rooms = [path for path in root.rglob("*.py") if path.parent.name != "cli" and path.name != "__main__.py"]
    assert [str(path) for path in rooms if re.search(r"\bsys\.std(out|err)\b", path.read_text(encoding="utf-8"))] == []


def test_importing_the_package_or_asking_for_help_loads_no_heavy_library():
    code = (
        "import sys, trimtab, trimtab.cli.main; "
        "print(sorted({'torch', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_stands_for_the_command():
    done = subprocess.run([sys.executable, "-m", "trimtab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"trimtab {__version__}"
