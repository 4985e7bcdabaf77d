"""What an endpoint's failures mean: whether to ask again, and what to tell the user."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from trimtab.clients.cache import Reply
from trimtab.errors import InputError, NetworkError, TrimtabError

LONGEST_REASON = 300
"""Characters of an endpoint's own words that an error repeats."""
_SHORTEST_SECRET = 8
"""Characters below which a key is no secret (`none`, `x`), and would be found in innocent words."""
_AGAIN = frozenset({408, 409, 425, 429})
"""Status codes below 500 that pass."""
_FILTERED = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
"""What endpoints call a refusal to read the prompt."""


class PassingError(Exception):
    """A failure that may pass: the same request is worth sending again.

    Attributes:
        reason: What happened, in one line.
        wait: Seconds that the endpoint asked to wait, if it did.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason, wait)
        self.reason = reason
        self.wait = wait

    def __str__(self) -> str:
        """The reason alone."""
        return self.reason


@dataclass(frozen=True)
class Asked:
    """Who was asked; what errors name.

    Attributes:
        address: The base URL.
        model: The model.
        key_env: The environment variable that the key is in.
        key: The key, to be kept out of every text; never shown.
        patience: Seconds that the endpoint may ask to wait.
    """

    address: str
    model: str
    key_env: str
    key: str
    patience: float

    def __repr__(self) -> str:
        return f"Asked({self.model} at {self.address})"

    def without_key(self, text: str) -> str:
        """A text with the key blotted out, should an endpoint have repeated it."""
        return text.replace(self.key, "***") if len(self.key) >= _SHORTEST_SECRET else text

    def words(self, text: object) -> str:
        """What an endpoint said, for an error's one line."""
        line = " ".join(self.without_key(str(text)).split())
        return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


def of_status(asked: Asked, code: int, body: object, headers: Mapping[str, str]) -> TrimtabError | PassingError | Reply:
    """What a status code of 400 and above means.

    Args:
        asked: Who was asked.
        code: The status code.
        body: The body, as JSON if it is; only its words are used.
        headers: By lower-case name.

    Returns:
        A `PassingError` to ask again, an error to raise at once, or an empty reply where the endpoint refuses to read
        this one prompt, which is no reason to end the whole work.
    """
    details = _error_of(body)
    said = asked.words(details.get("message") or body or "no reason given")
    what, where = f"{code}: {said}", f"{asked.address} ({asked.model})"
    if details.get("code") in _FILTERED or details.get("type") in _FILTERED:
        return Reply("", finish="content_filter")
    if code == 402 or details.get("code") == "insufficient_quota":
        return NetworkError(f"{where}: the account has no credit left ({what}); top it up and start again")
    if code in _AGAIN or code >= 500:
        wait = retry_after(headers)
        if wait is not None and wait > asked.patience:
            return NetworkError(f"{where}: asks to come back in {wait:.0f} seconds ({what}); start again then")
        return PassingError(what, wait)
    if code in (401, 403):
        return InputError(f"{where}: the key is refused ({what}); put a valid one in {asked.key_env}")
    if code == 404:
        return InputError(f"{where}: no such model or address ({what}); check the model's name and the base URL")
    return InputError(f"{where}: the request is refused ({what}); change what it names, or choose another model")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            seconds = _until(value) if name == "retry-after" else math.nan
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def read_reply(data: object) -> Reply:
    """The reply in the body of a chat completion.

    Args:
        data: The body, as JSON.

    Raises:
        PassingError: It is no chat completion; proxies answer so while the server behind them is down.
    """
    choice = _first(_get(data, "choices"))
    message = _get(choice, "message")
    content = _get(message, "content")
    if not isinstance(message, Mapping) or not (content is None or isinstance(content, str)):
        said = _error_of(data).get("message") or data
        raise PassingError(f"200, but no chat completion: {said!s:.{LONGEST_REASON}}")
    text = content if content is not None else _get(message, "refusal")
    usage, finish, model = _get(data, "usage"), _get(choice, "finish_reason"), _get(data, "model")
    return Reply(
        text=text if isinstance(text, str) else "",
        finish=finish if isinstance(finish, str) else None,
        model=model if isinstance(model, str) else None,
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
    )


def _error_of(body: object) -> Mapping[str, Any]:
    """The object that describes an error: the body's `error`, or the body itself."""
    inner = _get(body, "error")
    if isinstance(inner, str):
        return {"message": inner}
    found = inner if isinstance(inner, Mapping) else body
    return found if isinstance(found, Mapping) else {}


def _get(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _count(usage: object, key: str) -> int | None:
    found = _get(usage, key)
    return found if isinstance(found, int) else None


def _until(date: str) -> float:
    """Seconds until a date of HTTP; NaN if it is none."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return math.nan
