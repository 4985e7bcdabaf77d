"""What a protocol is, whichever it is: settings, records, a summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from typing import Protocol as Interface

from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.jobs import Job
from trimtab.evaluation.judges import Judge
from trimtab.evaluation.records import Run
from trimtab.models import Model
from trimtab.progress import ProgressCallback


class Data(Interface):
    """Prompts and texts of a protocol."""

    @property
    def source(self) -> str:
        """Where they are from, for people."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides them, for a run's configuration."""
        ...


@dataclass(frozen=True)
class Asked:
    """All that a protocol is run on.

    Attributes:
        model: The model, plain.
        data: Prompts and texts, of the kind that the protocol takes.
        contenders: What is compared.
        judge: Who rates; None where nobody does.
        settings: The protocol's own.
        batch_size: Rows a forward.
        progress: Told of every stage.
    """

    model: Model
    data: Any
    contenders: Sequence[Contender]
    judge: Judge | None
    settings: Any
    batch_size: int = 32
    progress: ProgressCallback | None = None


@dataclass(frozen=True)
class Protocol:
    """One way to check a claim.

    Attributes:
        name: As `trimtab eval` knows it.
        about: What it asks, in a sentence.
        settings: Its settings' class.
        source: The class of options that say what it is run on (`trimtab.evaluation.sources`).
        judging: Whether a judge is `needed`, `optional` or plays no part (`none`).
        run: Puts on record what is not there yet.
        summarise: From a run's records to its summary.
        aspects: What a judge is asked about each text.
        jobs: The texts that would be written, for an estimate; None where no text is.
        smoke: Settings of a run that only shows that everything works.
    """

    name: str
    about: str
    settings: type[Any]
    source: type[Any]
    judging: Literal["needed", "optional", "none"]
    run: Callable[[Asked, Run], None]
    summarise: Callable[[Run], Mapping[str, Any]]
    aspects: tuple[str, ...] = ()
    jobs: Callable[[Asked], Sequence[Job]] | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)
