"""An OpenAI-compatible server in a thread of this process, with faults on order.

It answers `POST /v1/chat/completions` over a real socket. Which fault a request meets depends on the request and on how
often it has come, by a hash; so threads and their order change nothing, and a second run meets the same.
"""

import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NONSENSE_BODIES = (
    (b"<html><body>502 Bad Gateway</body></html>", "text/html"),
    (b'{"choices": [{"message": {"content": "Rat', "application/json"),
    (b'{"choices": []}', "application/json"),
    (b'["Rating: [[0]]"]', "application/json"),
    (b"null", "application/json"),
    (b'{"error": {"message": "upstream is down"}}', "application/json"),
    (b'{"choices": [{"message": {"content": 7}}]}', "application/json"),
    (b"\xff\xfe\x00", "application/json"),
)
"""What comes with status 200 and is no completion."""
NONSENSE_REPLIES = ("I had rather not say.", "Rating: [[s]]", "Rating: 7", "Rating: 0 or 1", "", "Rating: [[0]]/10")
"""What comes as a completion and is no rating."""


@dataclass(frozen=True)
class Faults:
    """Shares of requests, 0 to 1, that meet each fault; they add up to 1 at most.

    `replies` is another draw: the share of attempts at a prompt whose completion is nonsense, at most `unreadable` of
    them a prompt.
    """

    status_500: float = 0.0
    status_429: float = 0.0
    timeout: float = 0.0
    drop: float = 0.0
    body: float = 0.0
    replies: float = 0.0
    unreadable: int = 2
    retry_after: str | None = "0.05"


@dataclass
class FakeEndpoint:
    """The server.

    Attributes:
        answer: (messages) -> the text of the completion.
        faults: What goes wrong.
        hang: Seconds for which a request that times out is held.
        delay: Seconds before any answer.
        status: A status, body and headers that every request meets, if one is set.
        on_hit: Called for every request, before it is answered.
        hits: The body of every request, in the order in which they came.
        times: When they came, monotonic seconds.
        keys: The Authorization header of each.
        completed: How many were answered with a completion.
        most_at_once: How many were under way together.
    """

    answer: Callable[[list[dict[str, str]]], str]
    faults: Faults = field(default_factory=Faults)
    hang: float = 1.0
    delay: float = 0.0
    status: tuple[int, dict[str, Any], dict[str, str]] | None = None
    on_hit: Callable[[], object] = lambda: None
    hits: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    completed: int = 0
    most_at_once: int = 0
    port: int = 0
    _under_way: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _garbled: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def running(self) -> Iterator["FakeEndpoint"]:
        """Serves until the block ends."""
        server = _Server(("127.0.0.1", 0), _handler(self))
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def met(self, body: dict[str, Any]) -> tuple[str, str]:
        """The fault of a request that has come ("" for none), and the text it is answered with."""
        name = json.dumps(body, sort_keys=True)
        with self._lock:
            times = self._seen[name]
            self._seen[name] += 1
        draw, faults = _share(f"{name} {times}"), self.faults
        for fault in ("status_500", "status_429", "timeout", "drop", "body"):
            draw -= getattr(faults, fault)
            if draw < 0:
                return fault, ""
        prompt = json.dumps(body["messages"])
        if _share(f"reply {name}") < faults.replies:
            with self._lock:
                if self._garbled[prompt] < faults.unreadable:
                    self._garbled[prompt] += 1
                    return "", NONSENSE_REPLIES[int(_share(f"which {name}") * len(NONSENSE_REPLIES))]
        return "", self.answer(body["messages"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


def _share(text: str) -> float:
    """A number from 0 to 1 that a text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _handler(fake: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Says nothing."""

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake._lock:
                fake.hits.append(body)
                fake.times.append(time.monotonic())
                fake.keys.append(self.headers.get("Authorization"))
                fake._under_way += 1
                fake.most_at_once = max(fake.most_at_once, fake._under_way)
            try:
                fake.on_hit()
                time.sleep(fake.delay)
                self.answer(body)
            finally:
                with fake._lock:
                    fake._under_way -= 1

        def answer(self, body):
            if self.path != "/v1/chat/completions":
                return self.send(404, {"error": {"message": f"no such path {self.path}"}})
            if fake.status is not None:
                return self.send(*fake.status)
            fault, text = fake.met(body)
            if fault == "status_500":
                return self.send(500, {"error": {"message": f"broken; you sent {self.headers['Authorization']}"}})
            if fault == "status_429":
                wait = fake.faults.retry_after
                return self.send(
                    429, {"error": {"message": "slow down"}}, {} if wait is None else {"Retry-After": wait}
                )
            if fault == "timeout":
                time.sleep(fake.hang)
                self.close_connection = True
                return None
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return None
            if fault == "body":
                content, kind = NONSENSE_BODIES[int(_share(json.dumps(body)) * len(NONSENSE_BODIES))]
                return self.raw(200, content, kind, {})
            with fake._lock:
                fake.completed += 1
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
            return self.send(200, {"object": "chat.completion", "model": "fake-1", "choices": [choice], "usage": usage})

        def send(self, status, value, headers=None):
            self.raw(status, json.dumps(value).encode(), "application/json", headers or {})

        def raw(self, status, content, kind, headers):
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    return Handler


def rating_of(messages: list[dict[str, str]]) -> str:
    """A judge's reply that the prompt decides: 0, 1 or 2, or 0 or 1 where yes and no are asked for, in many forms."""
    prompt = messages[-1]["content"]
    told = re.search(r"1 for yes", prompt) is not None
    number = int(_share(prompt) * (2 if told else 3))
    forms = ("Rating: [[{}]]", "**Rating:** {}", "Rating: {}", "It is fine.\n\n**{}**", "Rating: **[[{}]]**.")
    return f"It reads as it reads.\n{forms[int(_share(f'form {prompt}') * len(forms))].format(number)}"
