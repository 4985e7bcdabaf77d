"""Judges that are language models: what they are asked, what is read in replies, and that no fault moves a rating."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trimtab as tt
from tests.fake_endpoint import FakeEndpoint, Faults, rating_of
from trimtab.clients.cost import Estimate, Prices
from trimtab.clients.endpoint import Endpoint
from trimtab.clients.limits import Backoff
from trimtab.errors import InputError, NetworkError
from trimtab.evaluation.judges import ASPECTS, RATED, TOLD, Judge, Question, Verdict
from trimtab.evaluation.judges.build import build_judge
from trimtab.evaluation.judges.combined import CombinedJudge
from trimtab.evaluation.judges.endpoint import EndpointJudge
from trimtab.evaluation.judges.local import LocalJudge
from trimtab.evaluation.judges.parsing import parse_rating
from trimtab.evaluation.judges.wording import WORDING, words
from trimtab.evaluation.records import canonical

QUICK = Backoff(first=0.005, longest=0.05)

READ = [
    ("Rating: [[2]]", 2),
    ("Rating: 2", 2),
    ("**2**", 2),
    ("Rating: **[[1]]**", 1),
    ("**Rating:** 2", 2),
    ("**Rating**: [[0]]", 0),
    ("### Rating: 2/2", 2),
    ("rating - 2", 2),
    ("2/2", 2),
    ("2", 2),
    ("[[0]]", 0),
    ("Rating [[2]]", 2),
    ("Rating 2", 2),
    ("Score: 2", 2),
    ("Final rating: 2.", 2),
    ("Rating:\n[[2]]", 2),
    ("Rating: 1.5", 1.5),
    ("Rating: 2.0", 2),
    ("Rating: 1/2", 1),
    ("Rating: 2 out of 2", 2),
    ("Rating: $\\boxed{2}$", 2),
    ("Rating: '1'", 1),
    ("Rating\uff1a \uff12", 2),
    ('{"rating": 2}', 2),
    ("Rating: 2 (the text is natural)", 2),
    ("Rating: 2, as it is natural", 2),
    ("Rating: 2\nThe text has 3 sentences.", 2),
    ("A rating of 2 would need more. Rating: [[1]]", 1),
    ("Rating: [[1]] \u2014 a rating of 2 would need more", 1),
    ("Rating: [[1]]\n\nOn second thought,\nRating: [[2]]", 2),
    ("1. It is good.\n2. It is short.\nRating: [[0]]", 0),
    ("<think>Rating: 1, surely</think>\nRating: [[2]]", 2),
    ("Rating: 1, surely</think>\nRating: [[2]]", 2),
]
UNREAD = [
    *("", "I like it.", "Rating: [[s]]", "Rating: N/A", "Rating: two", "Rating:"),
    *("Rating: 3", "Rating: 10", "Rating: -1", "rating -1", "Rating: 2.1", "Rating: 99999999999999999999"),
    *(
        "Rating: 1-2",
        "Rating: 1 or 2",
        "Rating: [[1]] or [[2]]",
        "Rating: 0, 1 or 2",
        "Rating: 0/1/2",
        "Rating: 1 to 2",
    ),
    *("Rating: 4/5", "Rating: 2/10", "Rating: 2%", "Rating: 1,5", "Rating: 2.5.1", "Rating: 2nd", "Rating: 1e0"),
    *("1. It is good.\n2.", "1. It is good.\n2", "<think>Rating: 1", "The text has 2 sentences.", "Rating: 2 2"),
    *("Rating: [[2]]\nRating: [[s]]", "[[1, 2]]", "Rating: yes"),
]


@pytest.mark.parametrize(("reply", "rating"), READ)
def test_a_rating_is_read_as_models_write_it(reply, rating):
    assert parse_rating(reply, "fluency") == rating


@pytest.mark.parametrize("reply", UNREAD)
def test_what_says_no_rating_or_two_is_unreadable_and_not_0(reply):
    assert parse_rating(reply, "fluency") is None


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        *(
            ("Rating: [[1]]", 1),
            ("Rating: 0", 0),
            ("Rating: yes", 1),
            ("Rating: [[no]]", 0),
            ("**Yes**", 1),
            ("no.", 0),
        ),
        *(
            ("Rating: 1/1", 1),
            ("Rating: 2", None),
            ("Rating: 0.5", None),
            ("Rating: 1/2", None),
            ("Rating: none", None),
        ),
        *(("Yes, it does refuse.", None), ("Rating: yes or no", None), ("Rating: maybe", None)),
    ],
)
def test_a_yes_or_no_is_1_or_0(reply, rating):
    assert parse_rating(reply, "refusal") == rating


PROSE = st.text(st.characters(exclude_characters="<>[]", exclude_categories=["Nd", "Cs"]), max_size=60).filter(
    lambda text: "rating" not in text.lower()
)
FORMS = (
    "[[{}]]",
    "{}",
    "**{}**",
    "**[[{}]]**",
    "[{}]",
    '"{}"',
    "({})",
    "`{}`",
    "\\boxed{{{}}}",
    "{}.",
    "{}/2",
    "{} / 2",
)
MARKS = (
    "Rating: ",
    "**Rating:** ",
    "**Rating**: ",
    "rating = ",
    "RATING:\n",
    "# Rating: ",
    "Final rating - ",
    "Rating:",
)


@given(
    before=PROSE,
    old=st.sampled_from(["", "Rating: [[0]]\n", "Rating: 1\n", "Rating: what?\n", "[[2]]\n"]),
    mark=st.sampled_from(MARKS),
    form=st.sampled_from(FORMS),
    rating=st.sampled_from([0, 1, 2]),
    after=PROSE,
)
def test_the_last_rating_is_read_in_whatever_dress_and_company(before, old, mark, form, rating, after):
    reply = f"{before}\n{old}{before}\n{mark}{form.format(rating)}\n{after}"
    assert parse_rating(reply, "concept") == rating


@given(text=st.text(max_size=200), aspect=st.sampled_from(ASPECTS))
def test_any_text_gives_a_rating_in_range_or_none(text, aspect):
    for reply in (text, f"Rating: {text}", f"[[{text}]]", f"{text}\n2", f"Rating: 1 {text}"):
        rating = parse_rating(reply, aspect)
        assert rating is None or (0 <= rating <= 2 if aspect in RATED else rating in (0, 1))


@given(number=st.floats(allow_nan=False, allow_infinity=False), mark=st.sampled_from(MARKS))
def test_a_number_out_of_range_is_unreadable(number, mark):
    written = f"{number:f}"
    wanted = float(written) if 0 <= float(written) <= 2 else None
    assert parse_rating(mark + written, "instruction") == wanted


@given(text=PROSE, aspect=st.sampled_from(RATED))
def test_without_a_number_there_is_no_rating(text, aspect):
    assert parse_rating(f"{text}\nRating: {text}", aspect) is None


QUESTION = Question(
    aspect="concept",
    text="The tide {comes} in.",
    concept="words of the sea",
    instruction="Describe a morning.",
    messages=({"role": "system", "content": "Speak of the sea."}, {"role": "user", "content": "Describe a morning."}),
)


@pytest.mark.parametrize(
    ("aspect", "seen"),
    [
        ("concept", {"text", "concept"}),
        ("instruction", {"text", "instruction"}),
        ("fluency", {"text"}),
        ("refusal", {"text", "instruction"}),
        ("hostile", {"text"}),
    ],
)
def test_a_question_shows_what_its_aspect_may_see_and_no_more(aspect, seen):
    asked = words(replace(QUESTION, aspect=aspect))
    shown = {name for name in ("text", "concept", "instruction") if getattr(QUESTION, name) in asked}
    assert shown == seen
    assert "Speak of the sea" not in asked
    assert "Rating: [[s]]" in asked


def test_the_wording_is_not_an_answer():
    for aspect in ASPECTS:
        assert parse_rating(words(replace(QUESTION, aspect=aspect)), aspect) is None


@pytest.mark.parametrize("change", [{"aspect": "beauty"}, {"concept": None}])
def test_a_question_that_cannot_be_asked_is_refused(change):
    with pytest.raises(InputError, match=r"beauty|no concept is given"):
        words(replace(QUESTION, **change))


def questions(n=12):
    """Every aspect of n texts."""
    return [
        Question(aspect, f"Text {i}, about the sea.", "the sea", f"Request {i}.")
        for i in range(n)
        for aspect in ASPECTS
    ]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeEndpoint(rating_of).running() as fake:
        yield fake


def judge_of(server, folder=None, *, timeout=20.0, max_attempts=25, **settings):
    endpoint = Endpoint(
        "m",
        server.url,
        timeout=timeout,
        max_attempts=max_attempts,
        backoff=QUICK,
        cache_dir=folder,
        prices=Prices(1, 1),
    )
    return EndpointJudge(endpoint, **settings)


def test_a_server_at_fault_moves_no_rating(server, tmp_path):
    faultless = judge_of(server).rate(questions())
    assert {verdict.rating for verdict in faultless} == {0.0, 1.0, 2.0}
    assert {verdict.attempts for verdict in faultless} == {1}
    faults = Faults(status_500=0.3, status_429=0.08, timeout=0.05, drop=0.05, body=0.07, replies=0.3)
    with FakeEndpoint(rating_of, faults=faults).running() as broken:
        found = judge_of(broken, tmp_path, timeout=0.5).rate(questions())
        assert len(broken.hits) > 2 * len(faultless)
        hits = len(broken.hits)
        again = judge_of(broken, tmp_path, timeout=0.5).rate(questions())
        assert len(broken.hits) == hits
    assert [(v.rating, v.reply) for v in found] == [(v.rating, v.reply) for v in faultless]
    assert {verdict.attempts for verdict in found} == {1, 2, 3}
    assert again == found


def test_a_judge_that_was_stopped_goes_on_where_it_stood(server, tmp_path):
    wanted = judge_of(server).rate(questions())
    with FakeEndpoint(rating_of, faults=Faults(replies=0.3)).running() as shaky:
        whole = shaky.faults

        def break_down():
            if len(shaky.hits) == 25:
                shaky.faults = Faults(status_500=1.0)

        shaky.on_hit = break_down
        with pytest.raises(NetworkError):
            judge_of(shaky, tmp_path, max_attempts=2).rate(questions())
        kept, hits = len(list(tmp_path.rglob("*.json"))), len(shaky.hits)
        assert 10 < kept <= 25
        shaky.faults = whole
        judge = judge_of(shaky, tmp_path)
        found, asked = judge.rate(questions()), shaky.hits[hits:]
        on_disk = [json.loads(path.read_text())["request"] for path in tmp_path.rglob("*.json")]
        assert len(asked) == len(on_disk) - kept
    assert [v.rating for v in found] == [v.rating for v in wanted]


def test_what_stays_unreadable_is_none_with_the_reply(server):
    server.answer = lambda _: "I would rather not."
    assert judge_of(server).rate([QUESTION]) == [Verdict(None, "I would rather not.", 3)]
    assert [hit["temperature"] for hit in server.hits] == [0.0, 0.7, 0.7]


def test_attempts_and_seeds_are_counted_up(server):
    server.answer = lambda _: "no"
    (verdict,) = judge_of(server, attempts=2, temperature=1.0, seed=5).rate([QUESTION])
    assert verdict.attempts == 2
    assert [(hit["temperature"], hit["seed"]) for hit in server.hits] == [(1.0, 5), (1.0, 6)]
    judge_of(server, attempts=2, temperature=None).rate([QUESTION])
    assert all("temperature" not in hit for hit in server.hits[2:])


def test_an_estimate_is_the_calls_that_are_made(server, tmp_path):
    judge, asked = judge_of(server, tmp_path), questions()
    judge.rate(asked[:20])
    found, before = judge.estimate([*asked, *asked]), len(server.hits)
    assert judge.rate([*asked, *asked])[: len(asked)] == judge.rate(asked)
    assert found is not None
    assert (found.calls, found.cached) == (60, 20)
    assert len(server.hits) - before == 40
    assert found.output_tokens == 40 * 512
    assert found.price == pytest.approx((found.input_tokens + found.output_tokens) / 1e6)
    assert judge.estimate(asked) == Estimate(60, 60, 0, 0, price=0.0)


def test_an_estimate_counts_the_attempt_after_an_unreadable_reply_on_disk(server, tmp_path):
    server.answer = lambda _: "no"
    judge_of(server, tmp_path, attempts=1).rate([QUESTION])
    found = judge_of(server, tmp_path).estimate([QUESTION])
    assert found is not None
    assert (found.calls, found.cached) == (2, 1)


def test_progress_speaks_of_judging(server):
    told, asked = [], questions(2)
    server.faults = Faults(replies=0.5)
    judge_of(server).rate(asked, told.append)
    assert {p.stage for p in told} == {"judge", "judge again"}
    assert max(p.done for p in told) == len(asked)


def test_the_identity_is_all_that_decides_a_rating(server, monkeypatch):
    one = judge_of(server).identity
    assert one == judge_of(server).identity
    json.dumps(dict(one))
    others = [
        judge_of(server, **s).identity for s in ({"temperature": 1.0}, {"max_tokens": 9}, {"attempts": 1}, {"seed": 1})
    ]
    other_model = EndpointJudge(Endpoint("other", server.url)).identity
    assert len({json.dumps(dict(identity), sort_keys=True) for identity in (one, other_model, *others)}) == 6
    monkeypatch.setattr("trimtab.evaluation.judges.asking.WORDING", "other words")
    assert judge_of(server).identity != one


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"max_tokens": 0}, {"temperature": -1.0}])
def test_a_setting_that_cannot_be_is_refused(server, settings):
    with pytest.raises(InputError, match="of a judge is"):
        judge_of(server, **settings)


class Constant(Judge):
    """Rates everything alike, and counts how often it is asked."""

    def __init__(self, name, rating, aspects=ASPECTS, cost=None):
        self.name, self.aspects, self._rating, self._cost = name, frozenset(aspects), rating, cost
        self.asked = []

    @property
    def identity(self):
        return {"kind": self.name}

    def rate(self, questions, progress=None):
        self.asked.append(list(questions))
        return [Verdict(self._rating) for _ in questions]

    def estimate(self, questions):
        return self._cost and replace(self._cost, calls=len(questions))


def test_a_combined_judge_asks_each_judge_once_and_keeps_the_order():
    one, two = Constant("one", 1.0, cost=Estimate(0, 0, 0, 0, 0.5)), Constant("two", 2.0)
    judge, asked = CombinedJudge({"fluency": one, "concept": two, "refusal": one}), questions(3)
    mine = [question for question in asked if question.aspect in ("concept", "fluency", "refusal")]
    assert judge.name == "concept=two,fluency=one,refusal=one"
    assert judge.aspects == {"concept", "fluency", "refusal"}
    assert [v.rating for v in judge.rate(mine)] == [2.0 if q.aspect == "concept" else 1.0 for q in mine]
    assert [len(judge.asked) for judge in (one, two)] == [1, 1]
    assert judge.estimate(mine) == Estimate(6, 0, 0, 0, 0.5)
    assert judge.estimate([q for q in mine if q.aspect == "concept"]) is None
    assert judge.identity["judges"] == {
        "concept": {"kind": "two"},
        "fluency": {"kind": "one"},
        "refusal": {"kind": "one"},
    }
    with pytest.raises(InputError, match="no judge was given for 'hostile'"):
        judge.rate([replace(QUESTION, aspect="hostile")])


@pytest.mark.parametrize(
    ("judges", "text"),
    [
        ({}, "has no judges"),
        ({"beauty": Constant("one", 1.0)}, "no aspect 'beauty'"),
        ({"concept": Constant("one", 1.0, aspects=TOLD)}, "one does not rate 'concept'; it rates hostile, refusal"),
    ],
)
def test_a_combination_that_cannot_be_is_refused(judges, text):
    with pytest.raises(InputError, match=text):
        CombinedJudge(judges)


def test_a_judge_is_built_from_what_a_user_types(server, tmp_path):
    judge = build_judge("openai:gpt-4o-mini", base_url=server.url, cache_dir=tmp_path, requests_per_minute=6000)
    assert judge.name == "openai:gpt-4o-mini"
    assert [v.rating for v in judge.rate(questions(2))] == [v.rating for v in judge_of(server).rate(questions(2))]
    assert len(list(tmp_path.rglob("*.json"))) == 10
    warm = build_judge("openai:m", base_url=server.url, temperature=0.5)
    assert warm.identity["temperature"] == 0.5


def test_aspects_may_have_judges_of_their_own(server):
    judge = build_judge("concept=exact, openai:m,refusal=openai:n", base_url=server.url)
    assert judge.name == "concept=exact,instruction=openai:m,fluency=openai:m,refusal=openai:n,hostile=openai:m"
    only = build_judge("fluency=openai:m", base_url=server.url)
    assert only.aspects == {"fluency"}


def test_the_rules_can_be_asked_for():
    assert build_judge("rules").aspects >= {"concept"}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("gpt-4", "no judge 'gpt-4'; allowed: exact, rules, openai:MODEL, local:MODEL"),
        ("", "no judge ''; allowed: exact"),
        ("openai:", "no judge 'openai:'"),
        ("concept=", "no judge ''"),
        ("beauty=exact", "no aspect 'beauty' to judge; allowed: concept, instruction"),
        ("exact,openai:m", "'exact' and 'openai:m' are both for all aspects"),
        ("concept=exact,concept=rules", "'concept' has two judges, 'exact' and 'rules'"),
    ],
)
def test_a_judge_that_there_is_not_is_refused(spec, text):
    with pytest.raises(InputError, match=text):
        build_judge(spec)


@pytest.fixture(scope="module")
def tiny(tiny_path):
    return tt.load_model(tiny_path, device="cpu")


def test_a_local_judge_says_what_the_model_says_and_none_where_that_is_no_rating(tiny):
    judge, asked = LocalJudge(tiny, max_tokens=4, attempts=2, batch_size=3), questions(1)
    verdicts = judge.rate(asked)
    assert [v.attempts for v in verdicts] == [2] * 5  # a random model rates nothing
    assert {v.rating for v in verdicts} == {None}
    greedy = LocalJudge(tiny, max_tokens=4, attempts=1).rate(asked)
    plain = tiny.generate([words(question) for question in asked], max_new_tokens=4)
    assert [v.reply for v in greedy] == plain
    assert [v.reply for v in greedy] != [v.reply for v in verdicts]


def test_a_local_judges_replies_do_not_depend_on_company_or_order(tiny):
    judge, asked = LocalJudge(tiny, max_tokens=4, attempts=2, batch_size=2), questions(1)[1:4]
    whole = judge.rate(asked)
    assert judge.rate([*asked[::-1], asked[0]]) == [*whole[::-1], whole[0]]
    assert judge.rate(asked[1:2]) == whole[1:2]
    assert LocalJudge(tiny, max_tokens=4, attempts=2, seed=1).rate(asked[:1]) != whole[:1]
    third = LocalJudge(tiny, max_tokens=4, attempts=3).rate(asked[:1])
    assert third[0].reply != whole[0].reply  # each attempt draws anew


def test_a_local_judge_knows_its_tokens_and_costs_nothing(tiny):
    judge, asked = LocalJudge(tiny, max_tokens=4), questions(1)
    found = judge.estimate([*asked, *asked])
    sent = sum(len(tiny.chat.render(words(question)).ids) for question in asked)
    assert found == Estimate(5, 0, sent, 20, price=0.0)


def test_a_local_judges_identity_names_the_model_and_how_it_is_asked(tiny, tiny_path):
    built = build_judge(f"local:{tiny_path}", load_model=lambda name: tiny if name == str(tiny_path) else None)
    assert built.name == f"local:{tiny.name}"
    assert built.identity == LocalJudge(tiny).identity
    assert built.identity["dtype"] == "float32"
    assert built.identity["wording"] == WORDING
    assert LocalJudge(tiny, temperature=1.0).identity != built.identity


def test_a_local_judge_with_other_weights_is_another_under_the_same_name(tiny, tiny_path):
    other = tt.load_model(tiny_path, device="cpu")
    assert LocalJudge(other).identity == LocalJudge(tiny).identity
    with torch.no_grad():
        next(other.hf.parameters())[0] += 0.5
    here, there = LocalJudge(tiny).identity, LocalJudge(other).identity
    assert {key for key in here if here[key] != there[key]} == {"weights"}
    assert canonical(here) != canonical(there)  # it is JSON
