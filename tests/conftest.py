"""What every test may ask for, and the order in which they run."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports transformers: no test reaches out to a hub, wherever it runs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# First calls build tables, and machines differ: how long one example takes says nothing.
settings.register_profile("trimtab", deadline=None)
settings.load_profile("trimtab")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_configure() -> None:
    """Refuses to run with another transformers than was asked for; `make test-oldest` asks."""
    wanted, found = os.environ.get("TRIMTAB_TRANSFORMERS"), version("transformers")
    if wanted not in (None, found):
        raise pytest.UsageError(f"transformers {wanted} was asked for (TRIMTAB_TRANSFORMERS), {found} is here")


def pytest_report_header() -> str:
    """Says which transformers is tested."""
    return f"transformers: {version('transformers')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the fast tests first, so that a plain mistake shows early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, checkpoints and oracles that lies beside the repository on the maintainers' machines."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data here: {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with its tokenizer, saved once for all tests of a worker; copy it before changing it."""
    from trimtab.models.tiny import make_tiny_model

    path = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny_model(path, family="llama", seed=0)
    return path
