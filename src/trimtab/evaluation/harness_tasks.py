"""Tasks of lm-evaluation-harness, by name or from files of your own, loaded once for all that is run on them."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trimtab.errors import InputError, MissingExtraError, NetworkError
from trimtab.evaluation.undisturbed import undisturbed

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

PRESETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "standard": ("mmlu", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k"),
        "tiny": ("tinyMMLU", "tinyTruthfulQA", "tinyArc", "tinyGSM8k"),
    }
)
"""Names that stand for several of the harness's tasks."""

_ABSENT = ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError", "DataFilesNotFoundError")
_UNREACHED = (
    "HfHubHTTPError",
    "HTTPError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "RequestException",
    "TransportError",
)
"""Names, because the classes have moved between releases of datasets and of the Hub's client."""
_FILES = (".yaml", ".yml")
_KINDS = ("multiple_choice", "generate_until", "loglikelihood")


@dataclass(frozen=True, eq=False)
class HarnessTask:
    """A task that is loaded, or a group of them.

    Attributes:
        name: As it was asked for; of a file, the name of the task in it.
        parts: The harness's tasks by name; one unless it is a group.
        hashes: By part, a hash over what it says and its items.
        examples: By part, how many examples it wants to be shown before each question.
    """

    name: str
    parts: Mapping[str, Task]
    hashes: Mapping[str, str]
    examples: Mapping[str, int | None]

    def kind(self, part: str) -> str:
        """`multiple_choice`, `generate_until` or `loglikelihood`."""
        return str(self.parts[part].OUTPUT_TYPE)

    def size(self, part: str, limit: int | None) -> int:
        """How many items are run."""
        n = len(self.parts[part].eval_docs)
        return n if limit is None else min(n, limit)

    def filters(self, part: str) -> tuple[str, ...]:
        """What is made of each response before it is scored; an item has a record for each."""
        return tuple(each.name for each in self.parts[part]._filters)

    def keys(self, limit: int | None) -> list[tuple[str, int, str]]:
        """Part, item and filter of every record that running it gives."""
        return [key for part in self.parts for key in self.keys_of(part, limit)]

    def keys_of(self, part: str, limit: int | None) -> list[tuple[str, int, str]]:
        """Those of one part."""
        return [(part, item, name) for name in self.filters(part) for item in range(self.size(part, limit))]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its numbers, for a run's configuration; where its data lie is no part of it."""
        return {"name": self.name, "lm_eval": version("lm_eval"), "parts": dict(self.hashes)}


def task_names(tasks: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks, with presets spelled out.

    Raises:
        InputError: None, or one that comes twice.
    """
    names = [name for task in tasks for name in PRESETS.get(task, (task,))]
    if not names:
        raise InputError(f"no tasks; give names of the harness, YAML files, or {' or '.join(PRESETS)}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"task {twice!r} is named twice; name each once")
    return tuple(names)


def load_tasks(tasks: Sequence[str], include_path: str | Path | None = None) -> tuple[HarnessTask, ...]:
    """Load tasks with their data.

    Args:
        tasks: Names as the harness knows them (groups and tags too), YAML files, or names of `PRESETS`.
        include_path: A folder with tasks of your own, whose names can be used.

    Raises:
        MissingExtraError: lm_eval is not installed.
        NetworkError: Data that are not here cannot be fetched.
        InputError: An unknown name, a file that is no task, data that are not there, or a task that cannot be compared
            item by item.
    """
    names = task_names(tasks)
    for name in names:
        if name.endswith(_FILES) and not Path(name).is_file():
            raise InputError(f"there is no file {name}; give a task's YAML file or a name that the harness knows")
    if include_path is not None and not Path(include_path).is_dir():
        raise InputError(f"there is no folder {include_path} to look for tasks in")
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise MissingExtraError("a task of lm-evaluation-harness", "lm_eval", "harness") from error
    is_named = any(not name.endswith(_FILES) for name in names)
    with undisturbed():
        manager = TaskManager(
            include_path=None if include_path is None else str(include_path),
            include_defaults=is_named,  # reading the harness's 14 000 files takes ten seconds
        )
    known: list[str] = manager.all_tasks
    for name in names:
        if not name.endswith(_FILES) and name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; near are {', '.join(near)}" if near else ""
            raise InputError(f"lm-evaluation-harness has no task {name!r}{hint}; a file of your own ends in .yaml")
    return tuple(_load(manager, name) for name in names)


def _load(manager: TaskManager, name: str) -> HarnessTask:
    try:
        with undisturbed():
            found = manager.load([name])
    except MemoryError:
        raise
    except Exception as error:  # a task is code and data of its author's: anything can come
        raise _explained(name, error) from error
    parts = found["tasks"]
    for part, task in parts.items():
        _check_kind(part, task)
    is_file = name.endswith(_FILES)
    called = next(iter(found.get("groups") or parts), name) if is_file else name
    return HarnessTask(
        called,
        parts,
        {part: _fingerprint(task) for part, task in parts.items()},
        {part: task.get_config("num_fewshot") for part, task in parts.items()},
    )


def _check_kind(part: str, task: Task) -> None:
    """Raise InputError for a task that cannot be compared item by item, or not be run."""
    if task.OUTPUT_TYPE not in _KINDS:
        raise InputError(
            f"task {part!r} is of kind {task.OUTPUT_TYPE}, whose numbers are not an item's own; allowed are "
            f"{', '.join(_KINDS)} (the likelihood of texts is measured by the protocol faithfulness)"
        )
    if task.get_config("unsafe_code"):
        raise InputError(f"task {part!r} runs code that the model writes, which trimtab does not; leave it out")
    if task.get_config("doc_to_image") is not None or task.get_config("doc_to_audio") is not None:
        raise InputError(f"task {part!r} shows images or sounds, and trimtab steers models of text; leave it out")


def _explained(name: str, error: Exception) -> InputError | NetworkError:
    """The error to show for one that loading a task raised, judged also by what it came from."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if any(isinstance(each, ModuleNotFoundError) for each in chain):
        return InputError(f"task {name!r} needs a package that is not installed: {reason}")
    if kinds.intersection(_ABSENT):
        return InputError(f"task {name!r}: its data are not there, or not open to you ({reason})")
    if kinds.intersection(_UNREACHED) or any(isinstance(each, ConnectionError | TimeoutError) for each in chain):
        return NetworkError(f"task {name!r}: its data are not here and the Hub cannot be reached ({reason})")
    return InputError(f"task {name!r} cannot be loaded ({type(error).__name__}: {reason}); mend its file or its data")


def _fingerprint(task: Task) -> str:
    """sha256 over the task's configuration and its items."""
    hashed = hashlib.sha256(json.dumps(_stable(task.dump_config()), sort_keys=True, default=str).encode())
    for doc in task.eval_docs:
        hashed.update(json.dumps(doc, sort_keys=True, default=str).encode())
    return hashed.hexdigest()


def _stable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without places on this machine: where data lie does not decide what they are."""
    return {key: value for key, value in config.items() if key not in ("dataset_kwargs", "metadata")}
