"""Who writes the answers: the model itself, or a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from trimtab.clients.cost import Estimate
from trimtab.clients.endpoint import ChatRequest, Endpoint
from trimtab.data.building.answers import Answer
from trimtab.data.building.plan import Ask, BuildSettings
from trimtab.errors import InputError
from trimtab.models import Model
from trimtab.models.text_side import TextSide


class AnswerWriter(Protocol):
    """Writes answers, each from what is asked and its own seed.

    Attributes:
        batch_size: Asks at a time; after each batch the answers are on disk.
        whole_batches: Whether a batch of which some answers are there already is written whole again, because the
            company in a batch may decide the last bits of a row's numbers.
    """

    batch_size: int
    whole_batches: bool

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its answers, as JSON."""
        ...

    def write(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers the asks of one batch."""
        ...


class ModelWriter:
    """The model itself.

    Args:
        model: Writes.
        settings: Temperature and length.
        batch_size: Rows a forward.

    Raises:
        InputError: No temperature, or no batch size.
    """

    whole_batches = True

    def __init__(self, model: Model, settings: BuildSettings, batch_size: int = 8) -> None:
        if settings.temperature is None:
            raise InputError("--temperature own: is for endpoints; the model itself takes 0 (greedy) or a number")
        self._model, self._settings, self.batch_size = model, settings, _checked_size(batch_size)
        self._temperature = settings.temperature

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model, as far as its card and dtype tell, and how it writes."""
        card = self._model.card()
        return {
            "writer": "model",
            "model": card.id,
            "revision": card.revision,
            "hidden_size": card.hidden_size,
            "n_blocks": card.n_blocks,
            "template": card.template_fingerprint,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "changed_by": self._model.changed_by,
            **generation_identity(self._settings),
        }

    def write(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers the asks of one batch; a chat model's answer begins and ends with no blank."""
        model, settings = self._model, self._settings
        ids = model.respond(
            [model.chat.render(ask.messages) for ask in asks],
            max_new_tokens=settings.max_response_tokens,
            temperature=self._temperature,
            seed=[ask.seed for ask in asks],
            batch_size=len(asks),
        )
        texts = [model.chat.decode(row) for row in ids]
        if model.chat.kind == "template":
            texts = [text.strip() for text in texts]
        return [Answer(text, model.is_ended(row)) for text, row in zip(texts, ids, strict=True)]


class EndpointWriter:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        endpoint: Is asked.
        settings: Temperature and length.
        batch_size: Requests handed to it at a time.

    Raises:
        InputError: No batch size.
    """

    whole_batches = False

    def __init__(self, endpoint: Endpoint, settings: BuildSettings, batch_size: int = 64) -> None:
        self._endpoint, self._settings, self.batch_size = endpoint, settings, _checked_size(batch_size)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The endpoint's address and model, and how it is asked."""
        return {
            "writer": "openai",
            "model": self._endpoint.model,
            "base_url": self._endpoint.base_url,
            "reply_tokens": self._settings.reply_tokens,
            **generation_identity(self._settings),
        }

    def write(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers the asks of one batch, without blanks around them."""
        return [Answer(text.strip()) for text in self._endpoint.complete(self._requests(asks))]

    def estimate(self, asks: Sequence[Ask]) -> Estimate:
        """What these asks would cost; nothing is sent."""
        return self._endpoint.estimate(self._requests(asks))

    def _requests(self, asks: Sequence[Ask]) -> list[ChatRequest]:
        settings = self._settings
        most = settings.reply_tokens or settings.max_response_tokens
        return [ChatRequest(ask.messages, settings.temperature, most, ask.seed) for ask in asks]


def generation_identity(settings: BuildSettings) -> Mapping[str, Any]:
    """What of the settings decides an answer, apart from what is asked."""
    return {
        "temperature": settings.temperature,
        "max_response_tokens": settings.max_response_tokens,
        "seed": settings.seed,
    }


def estimate_tokens(side: TextSide, asks: Sequence[Ask], settings: BuildSettings) -> Estimate:
    """What the model itself would read and at most write: nothing that anybody is paid for."""
    read = sum(len(side.chat.render(ask.messages).ids) for ask in asks)
    return Estimate(len(asks), 0, read, len(asks) * settings.max_response_tokens)


def _checked_size(batch_size: int) -> int:
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: give at least 1")
    return batch_size
