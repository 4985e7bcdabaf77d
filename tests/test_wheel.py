"""The wheel, as a stranger meets it: built, opened, installed in an empty environment and used far from the source."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command outside the source tree and returns its stdout; its stderr shows when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from this tree."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("trimtab-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of an empty environment into which the wheel alone was installed."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=True)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=home)
    yield home / "bin"
    shutil.rmtree(home)


def test_the_wheel_holds_the_package_its_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "trimtab/py.typed" in names
    assert "trimtab/data/builtin/story-mood.jsonl" in names
    assert [name for name in names if not name.startswith(("trimtab/", "trimtab-"))] == []
    assert [name for name in names if Path(name).name.startswith(("test_", "conftest"))] == []
    assert [name for name in names if name.endswith((".pyc", ".pkl", ".pt"))] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_command_fits_and_steers_far_from_the_source(installed, tmp_path):
    trimtab = installed / "trimtab"
    listed = json.loads(run(trimtab, "methods", "--json", cwd=tmp_path))
    assert "cdas" in [method["name"] for method in listed["methods"]]

    run(installed / "python", "-m", "trimtab.cli.tiny", "model", cwd=tmp_path)
    common = ["--model", "model", "--json"]
    fit = ["fit", "cdas", "--pairs", "story-mood", "--layer", "1", "--epochs", "1", "--out", "vector"]
    fitted = json.loads(run(trimtab, *fit, *common, cwd=tmp_path))
    assert fitted["steps"] > 0
    assert (tmp_path / "vector" / "steering.safetensors").is_file()

    steer = ["generate", "--vector", "vector", "--direction", "elicit", "--max-new-tokens", "4"]
    (output,) = json.loads(run(trimtab, *steer, *common, "Mia went to the park. She was so", cwd=tmp_path))["outputs"]
    assert output["prompt"] == "Mia went to the park. She was so"
