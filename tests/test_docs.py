"""The documentation is run as it is printed.

In README.md and in every page of docs/, a ```bash block is run by bash and a ```python block by this interpreter, in
the order of the page, in a folder that holds nothing but `model`, the tiny random model of
`python -m trimtab.cli.tiny model` (a page that makes it itself starts with nothing). The python blocks of a page
share one namespace. Blocks of any other kind (```console, ```text, ```json) are only shown, as are the design notes'.
"""

import ast
import inspect
import json
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

import trimtab
from tests.families import FAMILIES
from trimtab import data, methods, models, steering
from trimtab.cli.main import app
from trimtab.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("bash", "python")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>bash|python) *\n(?P<code>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL
)
MAKES_MODEL = "trimtab.cli.tiny"


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


def walked(command, path=""):
    """Every command beneath one, by what is typed: `fit`, `eval axbench`."""
    for name, one in getattr(command, "commands", {}).items():
        yield f"{path}{name}", one
        yield from walked(one, f"{path}{name} ")


COMMANDS = dict(walked(get_command(app)))


def test_the_page_of_the_command_line_knows_every_command_and_flag():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    flags = {flag for command in COMMANDS.values() for option in command.params for flag in option.opts}
    wanted = {*COMMANDS, *(flag for flag in flags if flag.startswith("--"))}
    assert {"eval axbench", "pairs build", "--judge-set", "--from-axbench"} <= wanted
    assert sorted(name for name in wanted if name not in page) == []


SHARED = {
    *("--model", "--device", "--dtype", "--source-tokens", "--json", "--help", "--out", "--overwrite", "--dry-run"),
    *("--concept", "--multipliers", "--scale", "--max-new-tokens", "--seed", "--batch-size", "--set"),
    *("--judge", "--judge-url", "--judge-set"),
}
"""Flags that the page explains once for several commands."""


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith(("eval ", "pairs ", "recipe"))])
def test_a_command_has_a_section_with_its_own_flags(name):
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.search(rf"^##+ {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/cli.md has no section {name}"
    own = {flag for option in COMMANDS[name].params for flag in option.opts if flag.startswith("--")} - SHARED
    assert sorted(flag for flag in own if f"`{flag}" not in section[1]) == []


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_page_of_the_methods_knows_every_setting_and_its_default(method):
    page = (ROOT / "docs" / "methods" / f"{method.name}.md").read_text(encoding="utf-8")
    rows = [
        f"| `{field.name}` | {'' if field.default is MISSING else f'{field.default} '}|"
        for field in fields(method.settings)
    ]
    assert [row for row in rows if row not in page] == []


def test_the_overview_of_the_methods_lists_all_of_them():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    wanted = [f"| [`{method.name}`](methods/{method.name}.md) | {method.summary} |" for method in METHODS.values()]
    assert [line for line in wanted if line not in page] == []


def test_the_page_of_the_models_lists_the_families_that_are_tested():
    section = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").partition("### Tested families\n")[2]
    (listed,) = [part for part in section.split("\n\n") if part.startswith("`llama`")]
    assert re.findall(r"`(\w+)`", listed) == list(FAMILIES)
    assert len(FAMILIES) == 16  # README.md says so in words


def test_the_page_of_python_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = {line.removeprefix("::: ") for line in page.splitlines() if line.startswith("::: ")}
    missing = [
        name
        for name in trimtab.__all__
        if name != "__version__" and not {f"{trimtab._HOME_OF[name]}.{name}", trimtab._HOME_OF[name]} & shown
    ]
    assert missing == []


def test_the_figures_of_parity_are_those_of_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").partition("## Does trimtab agree")[2]
    claim = (ROOT / "README.md").read_text(encoding="utf-8").partition("**Parity.**")[2].partition("- **")[0]
    figures = re.findall(r"\d\.\de-\d+", claim)
    assert len(figures) == 2
    assert [figure for figure in figures if f"| {figure} |" not in results] == []


def test_the_table_of_generation_is_that_of_the_last_record():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    record = max((ROOT / "benchmarks" / "results").glob("generate-*.jsonl"))
    for run in map(json.loads, record.read_text(encoding="utf-8").splitlines()):
        (low, high), shape = (100 * (x - 1) for x in run["ratio_quartiles"]), run["shape"]
        over, again = (100 * (run[name] - 1) for name in ("ratio", "null_ratio"))
        times = f"| {shape['hidden']} x {shape['blocks']} | {run['plain_s']:.2f} | {run['steered_s']:.2f} |"
        assert f"{times} {over:+.1f} % | {low:+.1f} .. {high:+.1f} % | {again:+.1f} % |" in results
    assert record.name in results


CONTRACTS = {
    name: getattr(home, name)
    for home, names in (
        (trimtab, ("Progress", "load_model", "Model", "steer", "capture", "coordinates", "ContrastPair", "PairSet")),
        (trimtab, ("load_pairs", "fit")),
        (steering, ("Site", "Positions", "Intervention", "Steering", "FactorStats", "Factors")),
        (models, ("TokenCoordinates", "ChatFormat")),
        (data, ("TokenisedPair", "tokenise_pairs")),
        (methods, ("Method",)),
    )
    for name in names
} | {
    "Site.parse": trimtab.Site.parse,
    "Positions.parse": trimtab.Positions.parse,
    ".elicit": trimtab.SteeringVector.elicit,
    ".suppress": trimtab.SteeringVector.suppress,
    ".steering": trimtab.SteeringVector.steering,
    ".at": trimtab.SteeringVector.at,
    ".save": trimtab.SteeringVector.save,
    ".load": trimtab.SteeringVector.load,
    ".generate": trimtab.Model.generate,
    "render": models.ChatFormat.render,
    "render_raw": models.ChatFormat.render_raw,
    "response_ids": models.ChatFormat.response_ids,
    "decode": models.ChatFormat.decode,
}


def parameters_on(page: str, name: str) -> dict[str, object]:
    """Name -> default (`inspect.Parameter.empty` without one) as a page writes a call or a def."""
    named = "__init__" if f"class {name}:" in page else name
    start = re.search(rf"(?<!\w){re.escape(named)}\(", page).end()
    depth, end = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(page[end], 0)
        end += 1
    call = ast.parse(f"def f({page[start : end - 1]}): ...").body[0].args
    plain = [*call.args, *filter(None, [call.vararg]), *call.kwonlyargs, *filter(None, [call.kwarg])]
    found: dict[str, object] = dict.fromkeys((arg.arg for arg in plain), inspect.Parameter.empty)
    defaults = [*zip(call.args[::-1], call.defaults[::-1], strict=False)]
    defaults += zip(call.kwonlyargs, call.kw_defaults, strict=True)
    for arg, default in defaults:
        if default is not None:
            found[arg.arg] = eval(ast.unparse(default), vars(steering))
    found.pop("self", None)
    return found


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_note_of_the_contracts_has_the_signatures_of_the_code(name):
    page = (ROOT / "docs" / "design" / "ground.md").read_text(encoding="utf-8")
    code = inspect.signature(CONTRACTS[name]).parameters
    wanted = {key: p.default for key, p in code.items() if key != "self"}
    assert list(parameters_on(page, name).items()) == list(wanted.items())


def refusing() -> list[object]:
    """The public parts of `trimtab.steering` that check what they are given."""
    offered = [getattr(steering, name) for name in steering.__all__]
    vector = steering.SteeringVector
    return [
        *(entry for entry in offered if "__post_init__" in vars(entry)),
        *(vector.elicit, vector.suppress, vector.steering, vector.at),
        *(steering.Site.parse, steering.Positions.parse, steering.FactorStats.of, steering.separation),
    ]


@pytest.mark.parametrize("entry", refusing(), ids=lambda entry: entry.__qualname__)
def test_what_can_refuse_says_what_it_takes_and_when_it_refuses(entry):
    text = inspect.getdoc(entry)
    assert "Args:" in text
    assert "Raises:" in text


@pytest.mark.parametrize("method", [steering.SteeringVector.elicit, steering.SteeringVector.suppress])
def test_the_directions_explain_multiplier_and_scale(method):
    text = inspect.getdoc(method)
    assert all(word in text for word in ("f_neg", "f_pos", "multiplier: m, in units of the gap", "`published`"))


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page for page in PAGES[1:] if page.relative_to(ROOT / "docs").as_posix() not in navigation]
    assert missing == []


def test_no_published_page_names_a_place_of_the_maintainers_machines():
    published = [*PAGES, *(ROOT / name for name in ("constraints.txt", "pyproject.toml", "Makefile", "CHANGELOG.md"))]
    assert [page for page in published if re.search(r"file://|/(root|work|opt|home)/", page.read_text("utf-8"))] == []
