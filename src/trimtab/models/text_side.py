"""What of a model can be had without its weights: chat format and context length, for counting and cutting texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from trimtab.errors import InputError
from trimtab.models.chat import ChatFormat
from trimtab.models.load import _explained as explained
from trimtab.models.model import Model
from trimtab.models.spans import tokenise
from trimtab.organism import model as organism


@dataclass(frozen=True, eq=False)
class TextSide:
    """How a model reads texts.

    Attributes:
        name: Of the model.
        chat: Its chat format.
        context_length: Most tokens that a sequence may have, or None if the configuration names no limit.
        tokenizer: Its tokenizer.
    """

    name: str
    chat: ChatFormat
    context_length: int | None
    tokenizer: PreTrainedTokenizerBase

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The special tokens, as they are spelled."""
        return tuple(str(token) for token in self.tokenizer.all_special_tokens)

    def count(self, text: str) -> int:
        """Tokens of a text that stands alone; no BOS is counted."""
        return len(tokenise(self.tokenizer, text).ids)

    def cut_points(self, text: str) -> tuple[int, ...]:
        """Where a text can be cut without cutting a token or a character: numbers of characters, rising.

        A character of several tokens is cut only behind the last of them. Where the tokenizer cannot say which
        characters a token stands for, every character is one.
        """
        tokens = tokenise(self.tokenizer, text)
        if tokens.spans is None:
            return tuple(range(1, len(text) + 1))
        ends = [end for _, end in tokens.spans]
        following = [start for start, _ in tokens.spans[1:]] + [len(text)]
        points = {end for end, start in zip(ends, following, strict=True) if end <= start}
        return tuple(sorted(point for point in points if 0 < point <= len(text)))


def text_side(model: Model) -> TextSide:
    """That of a model that is loaded."""
    return TextSide(model.name, model.chat, model.context_length, model.tokenizer)


def load_text_side(name_or_path: str | Path, *, source_tokens: str | None = None) -> TextSide:
    """Loads tokenizer and configuration of a model, and no weights.

    Args:
        name_or_path: As in `load_model`.
        source_tokens: See `Model`.

    Raises:
        InputError: No such model, or files that cannot be read.
        NetworkError: The Hub could not be reached, or failed.
    """
    name = str(name_or_path)
    if name == organism.NAME and not organism.is_there():
        raise InputError(
            "the built-in model is not part of this installation; train it with "
            "`python -m trimtab.cli.organism train --out DIR` and give DIR/model"
        )
    path = str(organism.model_path()) if name == organism.NAME else name
    if name != organism.NAME and Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise InputError(f"{name} is no model: no config.json there; give a Hugging Face model directory or a Hub id")
    try:
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except MemoryError:
        raise
    except Exception as error:  # as in `load_model`: the libraries beneath have bare Exceptions of their own
        raise explained(name, error) from error
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    length = limit if isinstance(limit, int) and limit > 0 else None
    return TextSide(name, ChatFormat(tokenizer, source_tokens=source_tokens), length, tokenizer)
