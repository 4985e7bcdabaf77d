"""Chat completions of an OpenAI-compatible endpoint: many at once, each paid for once, whatever fails in between."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_when_event_set
from tenacity.nap import sleep_using_event

from trimtab.clients.cache import Reply, ReplyCache, key_of
from trimtab.clients.cost import Estimate, Prices, tokens_of
from trimtab.clients.failures import Asked, PassingError, of_status, read_reply
from trimtab.clients.limits import Backoff, RateLimiter
from trimtab.clients.threads import in_threads
from trimtab.errors import InputError, NetworkError, check_characters
from trimtab.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from openai import OpenAI

OFFICIAL = "https://api.openai.com/v1"
"""Where requests go unless a base URL is given, or is in `OPENAI_BASE_URL`."""
_NO_KEY = "none"
"""What a server that asks for no key is sent; the client cannot send nothing."""


@dataclass(frozen=True)
class ChatRequest:
    """One chat completion.

    Args:
        messages: Turns: `{"role": "system" | "user" | "assistant", "content": text}`.
        temperature: Of the sampling; None = not sent, for models that allow only their own.
        max_tokens: Most tokens of the reply, thoughts included.
        seed: Sent where one is given; not every endpoint heeds it.
        attempt: 1, or a higher number to ask the same again and not be given the reply on disk.

    Raises:
        InputError: No message, a message without role or content, or a number out of range.
    """

    messages: tuple[Mapping[str, str], ...]
    temperature: float | None = 0.0
    max_tokens: int = 512
    seed: int | None = None
    attempt: int = 1

    def __post_init__(self) -> None:
        if not self.messages:
            raise InputError("a chat request has no message; give at least one of the role 'user'")
        for message in self.messages:
            if {*message} != {"role", "content"}:
                raise InputError(f"a message has {', '.join(sorted(message)) or 'nothing'}; give role and content")
            check_characters("a message", message["content"])
        for name in ("max_tokens", "attempt"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InputError(f"temperature is {self.temperature}; give 0 to 2, or None to leave it to the endpoint")


class Endpoint:
    """A model behind an OpenAI-compatible address.

    The key is read from the environment when the first request leaves, sent to `base_url` and put nowhere else.

    Args:
        model: The model's name there.
        base_url: Address up to `/v1`; by default `OPENAI_BASE_URL`, else OpenAI's own.
        key_env: Environment variable that holds the key. It may be empty where the address is not OpenAI's.
        timeout: Seconds without a byte after which a request has failed.
        concurrency: Requests under way at a time.
        requests_per_minute: Most requests that leave a minute, repeated ones included; None = no limit.
        max_attempts: How often a request is sent before the work ends with a `NetworkError`.
        backoff: Waits between them.
        cache_dir: Folder of replies, see `ReplyCache`; None = nothing is kept.
        prices: For `estimate`.
        limit_name: What the endpoint calls the limit on tokens: `max_tokens` or `max_completion_tokens`. By default the
            latter at OpenAI, whose newer models refuse the former, and the former elsewhere.

    Attributes:
        model: The model's name.
        base_url: The address.

    Raises:
        InputError: A setting out of range, or an address that is none or has a password in it.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        *,
        timeout: float = 60.0,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        max_attempts: int = 10,
        backoff: Backoff | None = None,
        cache_dir: str | Path | None = None,
        prices: Prices | None = None,
        limit_name: str | None = None,
    ) -> None:
        if not model:
            raise InputError("the endpoint's model has no name; give one, such as gpt-4o-mini")
        for name, value in (("timeout", timeout), ("concurrency", concurrency), ("max_attempts", max_attempts)):
            if not value > 0:
                raise InputError(f"{name} is {value}; it must be positive")
        self.model = model
        self.base_url = _checked(base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL)
        self._limit_name = limit_name or ("max_completion_tokens" if self.base_url == OFFICIAL else "max_tokens")
        if self._limit_name not in ("max_tokens", "max_completion_tokens"):
            raise InputError(f"limit_name is {limit_name!r}; give max_tokens or max_completion_tokens")
        self._key_env, self._timeout, self._concurrency = key_env, timeout, concurrency
        self._max_attempts, self._backoff = max_attempts, backoff or Backoff()
        self._limiter = RateLimiter(requests_per_minute)
        self._cache = None if cache_dir is None else ReplyCache(cache_dir)
        self._prices = prices
        self._jitter = random.Random()

    def complete(self, requests: Sequence[ChatRequest], progress: ProgressCallback | None = None) -> list[str]:
        """The replies to requests, in their order; requests that are equal are sent once.

        Every reply is in the cache before the next request takes its place, so after an error, Ctrl-C or a kill the
        same call goes on where it stood.

        Args:
            requests: What is asked.
            progress: Told of every reply, as the stage `ask`.

        Raises:
            InputError: The endpoint refuses the key, the model or a request, or there is no key.
            NetworkError: A request still failed after all attempts, or the endpoint asked to come back much later.
        """
        keys = [key_of(self._content(request)) for request in requests]
        asked = dict(zip(keys, requests, strict=True))
        found = {key: reply.text for key, request in asked.items() if (reply := self.cached(request)) is not None}
        times, began = Counter(keys), time.monotonic()
        done = sum(times[key] for key in found)

        def report(key: str | None = None) -> None:
            nonlocal done
            done += times[key] if key is not None else 0
            if progress is not None:
                progress(Progress("ask", done, len(keys), time.monotonic() - began))

        report()
        if todo := {key: request for key, request in asked.items() if key not in found}:
            self._ask_all(todo, found, report)
        return [found[key] for key in keys]

    def cached(self, request: ChatRequest) -> Reply | None:
        """The reply on disk, or None."""
        return None if self._cache is None else self._cache.get(self._content(request))

    def estimate(self, requests: Sequence[ChatRequest]) -> Estimate:
        """What `complete` would ask for: calls without retries, tokens by the rule of `tokens_of`, at most.

        Nothing is sent, and no key is needed.
        """
        asked = {key_of(self._content(request)): request for request in requests}
        missing = [request for request in asked.values() if self.cached(request) is None]
        sent = sum(tokens_of(request.messages) for request in missing)
        received = sum(request.max_tokens for request in missing)
        return Estimate(
            calls=len(asked),
            cached=len(asked) - len(missing),
            input_tokens=sent,
            output_tokens=received,
            price=None if self._prices is None else self._prices.of(sent, received),
        )

    def _content(self, request: ChatRequest) -> dict[str, Any]:
        """All that decides a reply. The address is part of it: two servers may give one name to two models."""
        return {
            "base_url": self.base_url,
            "model": self.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": None if request.temperature is None else float(request.temperature),
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "attempt": request.attempt,
        }

    def _ask_all(self, todo: Mapping[str, ChatRequest], found: dict[str, str], report: Callable[[str], None]) -> None:
        """Fills in `found`; after a failure nothing new is begun, but what is under way is waited for and kept."""
        asked, client = self._asked, self._client
        keys, stop, failure = list(todo), threading.Event(), None
        for number, outcome in in_threads(
            lambda key: self._ask(client, asked, todo[key], stop), keys, self._concurrency, stop
        ):
            if isinstance(outcome, Reply):
                found[keys[number]] = outcome.text
                report(keys[number])
            else:
                failure = failure or outcome  # the first; others may have failed for being stopped
        if isinstance(failure, PassingError):
            kept = "nothing is kept without a cache folder" if self._cache is None else f"kept in {self._cache.folder}"
            raise NetworkError(
                f"{asked.address} ({asked.model}): a request failed {self._max_attempts} times, last with: "
                f"{failure.reason}; of {len(todo)} replies {sum(key in found for key in todo)} came ({kept}); "
                "start again to ask for the rest"
            )
        if failure is not None:
            raise failure

    def _ask(self, client: OpenAI, asked: Asked, request: ChatRequest, stop: threading.Event) -> Reply:
        """One reply, asked for until it comes, and put on disk."""
        retrying = Retrying(
            retry=retry_if_exception_type(PassingError),
            stop=stop_after_attempt(self._max_attempts) | stop_when_event_set(stop),
            wait=self._seconds,
            sleep=sleep_using_event(stop),
            reraise=True,
        )
        reply = retrying(self._send, client, asked, request, stop)
        if self._cache is not None:
            self._cache.put(self._content(request), reply)
        return reply

    def _seconds(self, state: RetryCallState) -> float:
        """How long this request waits before its next attempt; what the endpoint asks for, the limiter waits."""
        return self._backoff.seconds(state.attempt_number, self._jitter)

    def _send(self, client: OpenAI, asked: Asked, request: ChatRequest, stop: threading.Event) -> Reply:
        """One attempt.

        Raises:
            PassingError: It may go better the next time.
        """
        from openai import APIConnectionError, APIStatusError

        if not self._limiter.wait(stop):
            raise PassingError("stopped")
        failure: Exception
        try:
            # The body is asked for as it is, for the client's own type takes anything for a completion.
            data = client.post("/chat/completions", cast_to=object, body=self._body(request))
            return _without_key(read_reply(data), asked)
        except APIStatusError as error:
            meaning = of_status(asked, error.status_code, error.body, error.response.headers)
            if isinstance(meaning, Reply):
                return meaning
            failure = meaning
        except APIConnectionError as error:
            failure = PassingError(asked.words(f"{error.message} {error.__cause__ or ''}"))
        except ValueError as error:  # a body that is no JSON, or no text
            failure = PassingError(asked.words(f"200, but a body that is no JSON: {error}"))
        except PassingError as error:
            failure = PassingError(asked.words(error.reason))
        if isinstance(failure, PassingError) and failure.wait is not None:
            self._limiter.pause(failure.wait)
        # Outside the handlers: a traceback with the client's own errors would show what they hold.
        raise failure

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        """The request as it is sent."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in request.messages],
            self._limit_name: request.max_tokens,
        }
        for name in ("temperature", "seed"):
            if (value := getattr(request, name)) is not None:
                body[name] = value
        return body

    def require_key(self) -> None:
        """Raise InputError unless the key that the address needs is in the environment."""
        _ = self._asked

    @property
    def _asked(self) -> Asked:
        key = os.environ.get(self._key_env, "").strip()
        if not key and self.base_url == OFFICIAL:
            raise InputError(
                f"no key for {self.base_url}: {self._key_env} is empty; put the key in it, or give the base URL of a "
                "server that needs none"
            )
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"the key in {self._key_env} has characters that no key has; copy it anew")
        return Asked(self.base_url, self.model, self._key_env, key or _NO_KEY, self._backoff.patience)

    @cached_property
    def _client(self) -> OpenAI:
        # Imported here: it takes a second, and an estimate does without.
        from openai import OpenAI

        return OpenAI(api_key=self._asked.key, base_url=self.base_url, timeout=self._timeout, max_retries=0)


def _without_key(reply: Reply, asked: Asked) -> Reply:
    return replace(reply, text=asked.without_key(reply.text))


def _checked(address: str) -> str:
    """A base URL without the slash at its end."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{address!r} is no base URL; give one like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise InputError(
            f"the base URL of {parts.hostname} has a password or a query in it, which caches and records would show; "
            "put the key in an environment variable and give the address alone"
        )
    return address.rstrip("/")
