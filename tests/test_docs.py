"""The documentation is run as it is printed.

In README.md and in every page of docs/, a ```bash block is run by bash and a ```python block by this interpreter, in
the order of the page, in a folder that holds nothing but `model`, the tiny random model of
`python -m trimtab.models.tiny model` (a page that makes it itself starts with nothing). The python blocks of a page
share one namespace. Blocks of any other kind (```console, ```text, ```json) are only shown, as are the design notes'.
"""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import pytest
from typer.main import get_command

from trimtab.cli.main import app
from trimtab.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("bash", "python")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>bash|python) *\n(?P<code>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL
)
MAKES_MODEL = "trimtab.models.tiny"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the line its code begins on (1-based), and the code."""

    language: str
    line: int
    code: str


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that are meant to be run, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], text.count("\n", 0, found.start("code")) + 1, textwrap.dedent(found["code"]))
        for found in FENCE.finditer(text)
        if "docs/design" not in page.as_posix()
    ]


def run_python(block: Block, page: Path, namespace: dict[str, object]) -> None:
    """Runs a block so that a traceback names the page and its line."""
    padded = "\n" * (block.line - 1) + block.code
    exec(compile(padded, str(page), "exec"), namespace)  # the documentation is our own


def run_bash(block: Block, page: Path, folder: Path) -> None:
    """Runs a block with the commands of this environment first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{page}:{block.line} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"


def cases() -> list[object]:
    """One case a page that has anything to run; a page that starts processes is slow, for each loads torch anew."""
    marked = []
    for page in PAGES:
        blocks = blocks_of(page)
        slow = [pytest.mark.slow] if any(block.language == "bash" for block in blocks) else []
        if blocks:
            marked.append(pytest.param(page, blocks, marks=slow, id=str(page.relative_to(ROOT))))
    return marked


@pytest.mark.parametrize(("page", "blocks"), cases())
def test_what_a_page_shows_runs(page, blocks, tiny_path, tmp_path, monkeypatch):
    if not any(MAKES_MODEL in block.code for block in blocks):
        shutil.copytree(tiny_path, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        if block.language == "python":
            run_python(block, page, namespace)
        else:
            run_bash(block, page, tmp_path)


def test_every_page_closes_its_fences():
    unclosed = [page.name for page in PAGES if page.read_text(encoding="utf-8").count("```") % 2]
    assert unclosed == []


def test_the_page_of_the_command_line_knows_every_command_and_flag():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = get_command(app).commands
    flags = {flag for command in commands.values() for option in command.params for flag in option.opts}
    wanted = {*commands, *(flag for flag in flags if flag.startswith("--"))}
    assert sorted(name for name in wanted if name not in page) == []


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_page_of_the_methods_knows_every_setting_and_its_default(method):
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition(f"## {method.name}\n")[2]
    rows = [
        f"| `{field.name}` | {'' if field.default is MISSING else f'{field.default} '}|"
        for field in fields(method.settings)
    ]
    assert [row for row in rows if row not in page] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page for page in PAGES[1:] if page.relative_to(ROOT / "docs").as_posix() not in navigation]
    assert missing == []


def test_no_published_page_names_a_place_of_the_maintainers_machines():
    published = [*PAGES, *(ROOT / name for name in ("constraints.txt", "pyproject.toml", "Makefile", "CHANGELOG.md"))]
    assert [page for page in published if re.search(r"file://|/(root|work|opt|home)/", page.read_text("utf-8"))] == []
