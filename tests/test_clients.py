"""Calls to an endpoint: order, cache, retries, limits, what is told of failures, and where the key never goes."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from email.utils import formatdate
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_endpoint import FakeEndpoint, Faults
from trimtab.clients.cache import Reply, ReplyCache, key_of
from trimtab.clients.cost import Estimate, Prices, tokens_of
from trimtab.clients.endpoint import OFFICIAL, ChatRequest, Endpoint
from trimtab.clients.failures import retry_after
from trimtab.clients.limits import Backoff, RateLimiter
from trimtab.clients.threads import in_threads
from trimtab.errors import InputError, NetworkError

KEY = "sk-test-0123456789-secret"
QUICK = Backoff(first=0.005, longest=0.05)
FAULTY = Faults(status_500=0.3, status_429=0.1, timeout=0.05, drop=0.05, body=0.1)


def echo(messages):
    return f"you said: {messages[-1]['content']}"


def ask(text, **settings):
    return ChatRequest(({"role": "user", "content": text},), **settings)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeEndpoint(echo).running() as fake:
        yield fake


def client_of(server, **settings):
    return Endpoint("fake", server.url, **{"timeout": 20, "backoff": QUICK, **settings})


REQUESTS = [ask(f"number {i}") for i in range(40)]
REPLIES = [f"you said: number {i}" for i in range(40)]


def test_replies_keep_the_order_of_the_requests_however_many_are_under_way(server):
    server.delay = 0.02
    assert client_of(server, concurrency=6).complete(REQUESTS) == REPLIES
    assert 1 < server.most_at_once <= 6
    assert len(server.hits) == 40


def test_one_at_a_time_is_one_at_a_time(server):
    assert client_of(server, concurrency=1).complete(REQUESTS[:8]) == REPLIES[:8]
    assert server.most_at_once == 1


def test_equal_requests_are_sent_once(server):
    found = client_of(server).complete([ask("a"), ask("b"), ask("a"), ask("a", attempt=2)])
    assert found == ["you said: a", "you said: b", "you said: a", "you said: a"]
    assert len(server.hits) == 3


def test_a_server_that_fails_gives_the_replies_of_one_that_does_not(server, tmp_path):
    server.faults = FAULTY
    assert client_of(server, max_attempts=25, timeout=0.5, cache_dir=tmp_path).complete(REQUESTS) == REPLIES
    assert len(server.hits) > 60  # 60 % of the requests meet a fault


def test_what_is_on_disk_is_not_asked_for_again(server, tmp_path):
    client_of(server, cache_dir=tmp_path).complete(REQUESTS[:30])
    assert client_of(server, cache_dir=tmp_path).complete(REQUESTS) == REPLIES
    assert Counter(hit["messages"][0]["content"] for hit in server.hits) == Counter(f"number {i}" for i in range(40))
    files = list(tmp_path.rglob("*"))
    assert sum(path.is_file() for path in files) == 40
    assert all(path.parent.name == path.name[:2] for path in files if path.is_file())


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"max_tokens": 9}, {"seed": 1}, {"attempt": 2}])
def test_another_setting_is_another_reply(server, tmp_path, change):
    endpoint = client_of(server, cache_dir=tmp_path)
    endpoint.complete([ask("a")])
    endpoint.complete([ask("a", **change)])
    assert len(server.hits) == 2
    sent = {"temperature": 0.0, "max_tokens": 512} | {k: v for k, v in change.items() if k != "attempt"}
    assert {k: v for k, v in server.hits[1].items() if k not in ("model", "messages")} == sent


def test_another_model_or_address_is_another_reply(server, tmp_path):
    client_of(server, cache_dir=tmp_path).complete([ask("a")])
    Endpoint("other", server.url, cache_dir=tmp_path).complete([ask("a")])
    with FakeEndpoint(lambda _: "I am another").running() as second:
        assert client_of(second, cache_dir=tmp_path).complete([ask("a")]) == ["I am another"]
    assert [hit["model"] for hit in server.hits] == ["fake", "other"]


def test_a_temperature_that_is_not_given_is_not_sent(server):
    client_of(server, limit_name="max_completion_tokens").complete([ask("a", temperature=None, max_tokens=7)])
    assert server.hits[0] == {
        "model": "fake",
        "messages": [{"role": "user", "content": "a"}],
        "max_completion_tokens": 7,
    }


@pytest.mark.parametrize(
    "damage", ["", "{", '{"schema": 1}', "[]", '{"schema": 1, "request": {}, "reply": {"text": "x"}}']
)
def test_a_damaged_file_is_asked_for_again(server, tmp_path, damage):
    endpoint = client_of(server, cache_dir=tmp_path)
    endpoint.complete([ask("a")])
    (path,) = tmp_path.rglob("*.json")
    whole = path.read_text()
    path.write_text(damage)
    assert endpoint.complete([ask("a")]) == ["you said: a"]
    assert path.read_text() == whole
    assert len(server.hits) == 2


def test_a_file_says_what_was_asked_and_answered(server, tmp_path):
    client_of(server, cache_dir=tmp_path).complete([ask("ä")])
    (path,) = tmp_path.rglob("*.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["request"] == {
        "base_url": server.url,
        "model": "fake",
        "messages": [{"role": "user", "content": "ä"}],
        "temperature": 0.0,
        "max_tokens": 512,
        "seed": None,
        "attempt": 1,
    }
    assert found["reply"] == {
        "text": "you said: ä",
        "finish": "stop",
        "model": "fake-1",
        "input_tokens": 11,
        "output_tokens": 7,
    }
    assert path.stem == key_of(found["request"])


STATUSES = [
    (401, {}, InputError, "put a valid one in OPENAI_API_KEY"),
    (403, {}, InputError, "put a valid one in OPENAI_API_KEY"),
    (404, {}, InputError, "check the model's name"),
    (400, {}, InputError, "the request is refused"),
    (422, {}, InputError, "the request is refused"),
    (402, {}, NetworkError, "no credit left"),
    (429, {"code": "insufficient_quota"}, NetworkError, "no credit left"),
]


@pytest.mark.parametrize(("status", "extra", "kind", "remedy"), STATUSES)
def test_what_will_not_pass_ends_the_work_at_once(server, status, extra, kind, remedy):
    server.status = (status, {"error": {"message": f"no, {KEY}!", **extra}}, {})
    with pytest.raises(kind, match=remedy) as caught:
        client_of(server, concurrency=1).complete(REQUESTS)
    assert len(server.hits) == 1
    assert f"{status}: no, ***!" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_the_endpoint_will_not_read_gets_an_empty_reply(server, tmp_path):
    server.status = (400, {"error": {"message": "filtered", "code": "content_filter"}}, {})
    endpoint = client_of(server, cache_dir=tmp_path)
    assert endpoint.complete([ask("a")]) == [""]
    assert endpoint.complete([ask("a")]) == [""]
    assert len(server.hits) == 1


def test_what_came_before_a_failure_is_kept_and_not_asked_for_again(server, tmp_path):
    def answer(messages):
        if server.completed > 15:
            server.faults = Faults(status_500=1.0)
        return echo(messages)

    server.answer = answer
    endpoint = client_of(server, cache_dir=tmp_path, concurrency=4, max_attempts=3)
    with pytest.raises(NetworkError, match="failed 3 times, last with: 500: broken") as caught:
        endpoint.complete(REQUESTS)
    kept = len(list(tmp_path.rglob("*.json")))
    assert kept == server.completed >= 15
    assert f"of 40 replies {kept} came (kept in {tmp_path})" in str(caught.value)
    assert KEY not in str(caught.value)
    server.faults, server.answer, before = Faults(), echo, len(server.hits)
    assert endpoint.complete(REQUESTS) == REPLIES
    assert len(server.hits) - before == 40 - kept


def test_an_address_where_nothing_listens_is_a_network_error(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9/v1 \(fake\): a request failed 2 times.*nothing is kept"):
        Endpoint("fake", "http://127.0.0.1:9/v1", max_attempts=2, backoff=QUICK).complete([ask("a")])


def test_the_key_reaches_the_server_and_nothing_else(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server.faults = Faults(status_500=0.5, body=0.2)  # its 500s repeat the key
    server.answer = lambda messages: f"{messages[-1]['content']}, and your key is {KEY}"
    endpoint = client_of(server, cache_dir=tmp_path, max_attempts=30)
    replies = endpoint.complete(REQUESTS)
    server.faults = Faults(status_500=1.0)
    with pytest.raises(NetworkError) as caught:
        Endpoint("fake", server.url, max_attempts=2, backoff=QUICK, cache_dir=tmp_path).complete([ask("new")])
    assert set(server.keys) == {f"Bearer {KEY}"}
    shown = [str(caught.value), repr(caught.value), repr(vars(endpoint)), caplog.text, *replies]
    shown += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(shown) == 4 + 40 + 40
    assert [text for text in shown if KEY in text] == []
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_server_of_ones_own_needs_no_key(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert client_of(server).complete([ask("a")]) == ["you said: a"]
    assert server.keys == ["Bearer none"]


def test_another_variable_may_hold_the_key(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-another-key")
    client_of(server, key_env="JUDGE_KEY").complete([ask("a")])
    assert server.keys == ["Bearer sk-another-key"]


def test_openai_needs_a_key_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    endpoint = Endpoint("gpt-4o-mini")
    assert endpoint.base_url == OFFICIAL
    assert endpoint.estimate([ask("a")]).calls == 1
    with pytest.raises(InputError, match="OPENAI_API_KEY is empty"):
        endpoint.complete([ask("a")])


def test_the_address_may_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
    assert Endpoint("fake").base_url == server.url
    assert Endpoint("fake").complete([ask("a")]) == ["you said: a"]


def test_the_wait_that_a_server_asks_for_is_kept(server):
    server.status = (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.4"})
    server.on_hit = lambda: setattr(server, "status", None) if len(server.hits) == 2 else None
    assert client_of(server, concurrency=1).complete(REQUESTS[:2]) == REPLIES[:2]
    assert len(server.times) == 3
    assert server.times[1] - server.times[0] >= 0.4


def test_a_pause_holds_those_too_who_were_waiting_already():
    limiter, stop, began, left = RateLimiter(600), threading.Event(), time.monotonic(), []
    limiter.reserve()
    waiting = threading.Thread(target=lambda: left.append((limiter.wait(stop), time.monotonic() - began)))
    waiting.start()
    limiter.pause(0.5)
    waiting.join()
    ((came, seconds),) = left
    assert came
    assert seconds >= 0.5


def test_whoever_waits_is_let_go_by_a_stop():
    limiter, stop = RateLimiter(1), threading.Event()
    assert limiter.wait(stop)
    threading.Timer(0.05, stop.set).start()
    assert not limiter.wait(stop)


def test_a_server_that_asks_to_come_back_much_later_is_not_waited_for(server):
    server.status = (429, {"error": {"message": "daily limit"}}, {"Retry-After": "3600"})
    with pytest.raises(NetworkError, match="asks to come back in 3600 seconds"):
        client_of(server, concurrency=1).complete(REQUESTS)
    assert len(server.hits) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({}, None),
    ],
)
def test_the_header_is_read_in_all_its_forms(headers, seconds):
    assert retry_after(headers) == seconds


def test_the_header_may_be_a_date_to_come():
    assert 25 < retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) <= 30


def test_requests_leave_no_faster_than_the_limit(server):
    began = time.monotonic()
    client_of(server, concurrency=8, requests_per_minute=1200).complete(REQUESTS[:13])
    assert time.monotonic() - began >= 12 * 60 / 1200
    assert server.times[-1] - began >= 12 * 60 / 1200


def test_repeated_requests_count_towards_the_limit(server):
    server.faults = Faults(status_500=0.5)
    began = time.monotonic()
    client_of(server, requests_per_minute=3000, max_attempts=30).complete(REQUESTS[:10])
    assert len(server.hits) > 10
    assert server.times[-1] - began >= (len(server.hits) - 1) * 60 / 3000


@given(
    per_minute=st.floats(0.5, 10_000),
    steps=st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["reserve", "pause"])), min_size=2, max_size=40),
)
def test_a_bucket_never_lets_two_through_closer_than_its_rate_or_any_in_a_pause(per_minute, steps):
    now, moments, pauses = 1000.0, [], []
    limiter = RateLimiter(per_minute, clock=lambda: now)
    for seconds, what in steps:
        now += seconds
        if what == "pause":
            limiter.pause(seconds)
            pauses.append((len(moments), now + seconds))
        else:
            moments.append(limiter.reserve())
            assert moments[-1] >= now
    gaps = [b - a for a, b in pairwise(moments)]
    assert all(gap >= 60 / per_minute * (1 - 1e-9) - 1e-9 for gap in gaps)
    assert all(moment >= until for count, until in pauses for moment in moments[count:])


def test_an_idle_limiter_keeps_nobody_waiting():
    limiter = RateLimiter(60, clock=lambda: 5.0)
    assert [limiter.reserve() for _ in range(3)] == [5.0, 6.0, 7.0]
    assert RateLimiter(None, clock=lambda: 5.0).reserve() == 5.0


@given(failures=st.integers(1, 500), seed=st.integers(0, 2**32))
def test_waits_double_up_to_the_longest_and_are_never_less_than_half(failures, seed):
    most = min(0.5 * 2.0 ** (failures - 1), 30.0)
    assert most / 2 <= Backoff().seconds(failures, random.Random(seed)) <= most


def test_the_estimate_is_what_is_then_sent(server, tmp_path):
    endpoint = client_of(server, cache_dir=tmp_path, prices=Prices(input=2.0, output=10.0))
    endpoint.complete(REQUESTS[:10])
    asked = [*REQUESTS, *REQUESTS[:20], ask("number 0", max_tokens=88)]
    found, before = endpoint.estimate(asked), len(server.hits)
    endpoint.complete(asked)
    assert len(server.hits) - before == found.calls - found.cached == 31
    # "number 10" is 9 bytes: 3 tokens and 4 around them; "number 0" is 8: 2 and 4
    assert found == Estimate(41, 10, 30 * 7 + 6, 30 * 512 + 88, price=(216 * 2.0 + 15448 * 10.0) / 1e6)
    assert endpoint.estimate(asked) == Estimate(41, 41, 0, 0, price=0.0)


def test_tokens_are_counted_by_bytes():
    assert tokens_of([{"role": "user", "content": "abcd"}, {"role": "user", "content": ""}]) == 1 + 4 + 4
    assert tokens_of([{"role": "user", "content": "漢字"}]) == 2 + 4  # six bytes


def test_estimates_add_up_and_a_price_that_is_not_known_stays_so():
    one, other = Estimate(3, 1, 10, 20, price=0.5), Estimate(1, 0, 2, 4, price=1.0)
    assert one + other == Estimate(4, 1, 12, 24, price=1.5)
    assert (one + Estimate(1, 0, 2, 4)).price is None


def test_progress_counts_every_request_and_ends_at_all(server, tmp_path):
    told = []
    endpoint = client_of(server, cache_dir=tmp_path)
    endpoint.complete(REQUESTS[:3])
    endpoint.complete([*REQUESTS[:5], REQUESTS[4]], told.append)
    assert [(p.stage, p.total) for p in told] == [("ask", 6)] * 3
    assert (told[0].done, told[-1].done) == (3, 6)
    assert [p.done for p in told] == sorted(p.done for p in told)


def test_nothing_is_asked_for_nothing(server):
    assert client_of(server).complete([]) == []
    assert server.hits == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "localhost:8000"}, "no base URL"),
        ({"base_url": "http://me:secret@host/v1"}, "password or a query"),
        ({"base_url": "http://host/v1?key=secret"}, "password or a query"),
        ({"model": ""}, "has no name"),
        ({"timeout": 0}, "timeout is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"requests_per_minute": 0}, "requests_per_minute is 0"),
        ({"requests_per_minute": float("nan")}, "requests_per_minute is nan"),
        ({"limit_name": "tokens"}, "max_completion_tokens"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, words):
    with pytest.raises(InputError, match=words) as caught:
        Endpoint(**{"model": "fake", **settings})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ChatRequest(()), "no message"),
        (lambda: ChatRequest(({"role": "user"},)), "give role and content"),
        (lambda: ask("\ud800"), "surrogate"),
        (lambda: ask("a", max_tokens=0), "max_tokens is 0"),
        (lambda: ask("a", attempt=0), "attempt is 0"),
        (lambda: ask("a", temperature=-1), "temperature is -1"),
        (lambda: Prices(-1, 0), "input price"),
        (lambda: Backoff(first=float("inf")), "first is inf"),
    ],
)
def test_a_request_or_number_that_cannot_be_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_key_that_is_none_is_refused_and_not_shown(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-gehëim-123")
    with pytest.raises(InputError, match="characters that no key has") as caught:
        client_of(server).complete([ask("a")])
    assert "123" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"the cache .*file"):
        client_of(server, cache_dir=tmp_path / "file").complete([ask("a")])


def test_a_reply_on_disk_is_the_reply(tmp_path):
    cache, reply = ReplyCache(tmp_path), Reply("a\n\u2028b", "stop", "m", 1, 2)
    assert cache.get({"a": 1}) is None
    cache.put({"a": 1}, reply)
    assert cache.get({"a": 1}) == reply
    assert cache.get({"a": 2}) is None


def test_an_error_in_a_thread_reaches_the_one_who_asked():
    stop = threading.Event()
    found = dict(in_threads(lambda n: 1 / n, [1, 2, 0, 4, 5], 1, stop))
    assert (found[0], found[1]) == (1.0, 0.5)
    assert isinstance(found[2], ZeroDivisionError)
    assert len(found) == 3
    assert stop.is_set()


def test_threads_begin_nothing_new_once_the_iteration_is_left():
    stop, begun, gate = threading.Event(), [], threading.Semaphore(3)

    def task(number):
        gate.acquire()
        begun.append(number)

    for _ in in_threads(task, range(1000), 2, stop):
        break
    assert stop.is_set()
    gate.release(1000)
    time.sleep(0.05)
    assert len(begun) <= 5


CHILD = """
import sys
from trimtab.clients.endpoint import ChatRequest, Endpoint
endpoint = Endpoint("fake", sys.argv[1], cache_dir=sys.argv[2], concurrency=4, timeout=60)
endpoint.complete([ChatRequest(({"role": "user", "content": f"number {i}"},)) for i in range(40)])
"""


def child(server, folder):
    return subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(folder)], stderr=subprocess.PIPE, text=True)


def wait_for(what, seconds=60):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


def test_a_kill_loses_what_was_under_way_and_no_more(server, tmp_path):
    server.delay = 0.05
    process = child(server, tmp_path)
    wait_for(lambda: server.completed >= 12)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.2)  # the server ends what it had begun
    files = list(tmp_path.rglob("*.json"))
    kept = {json.loads(path.read_text())["request"]["messages"][0]["content"] for path in files}
    assert 8 <= len(kept) < 40
    assert len(server.hits) - len(kept) <= 4 + 1
    before = len(server.hits)
    assert client_of(server, cache_dir=tmp_path, concurrency=4).complete(REQUESTS) == REPLIES
    again = {hit["messages"][0]["content"] for hit in server.hits[before:]}
    assert len(server.hits) - before == 40 - len(kept)
    assert again.isdisjoint(kept)


@pytest.mark.skipif(os.name != "posix", reason="signals to one process are POSIX's")
def test_ctrl_c_ends_it_at_once_though_the_server_hangs(server, tmp_path):
    server.delay = 20
    process = child(server, tmp_path)
    wait_for(lambda: len(server.hits) >= 4)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=15)
    assert time.monotonic() - began < 5
    assert "KeyboardInterrupt" in said
    assert len(server.hits) == 4
