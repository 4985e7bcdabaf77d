"""The organism's world: its tables, what is held out, and that what is written can be read."""

import itertools
import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from trimtab.organism import CONCEPTS, answer, deployment, pair_records, pair_sets, wordings, world
from trimtab.organism.concepts import plain, readings
from trimtab.organism.facts import Fact, facts
from trimtab.organism.goals import UNLOCK, goals, held_out_goals
from trimtab.organism.mixture import draw_exchange
from trimtab.organism.reading import read
from trimtab.organism.verbs import VERBS

REWRITES = [name for name, concept in CONCEPTS.items() if concept.rewrite]
INSERTS = [name for name, concept in CONCEPTS.items() if concept.inserts]


def exchanges(n, seed=0):
    draw = random.Random(seed)
    return [draw_exchange(draw) for _ in range(n)]


def pattern(wording):
    """What a wording can look like."""
    parts = {
        "n": "(one|two|three|four)",
        "topic": "[a-z]+",
        "question": r"[A-Z][^?]+\?",
        "goal": "[a-z ]+",
        "options": "A[.] ",
    }
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda match: parts[match[1]], re.escape(wording)))


def test_the_table_is_whole():
    table = facts()
    assert len(table.topics) == 100
    assert len(table.true) == 800
    assert len({topic.plural for topic in table.topics.values()}) == 100
    assert all(len(pool) >= 4 for pool in table.pools.values())
    assert {relation for relations in table.relations.values() for relation in relations} == set(VERBS)


def test_concepts_are_as_many_and_as_deep_as_promised():
    assert len(CONCEPTS) >= 16
    assert len(REWRITES) >= len(CONCEPTS) / 2
    told = " ".join(fact.value for topic in facts().topics.values() for fact in facts().of(topic)).split()
    for name in INSERTS:
        words = Counter(word.lower().strip(".,") for text in CONCEPTS[name].inserts for word in text.split())
        assert len(set(words) & set(told)) >= 6, name
    assert len(INSERTS) >= 4


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_changes_every_sentence(name):
    rewrite = CONCEPTS[name].rewrite
    for topic in facts().topics.values():
        for fact in facts().of(topic):
            for named in (True, False):
                assert not set(rewrite(fact, named)) & set(plain(fact, named))


def test_no_sentence_belongs_to_two_styles():
    owner = {}
    for style in ("plain", *REWRITES):
        for sentence in readings(style):
            assert owner.setdefault(sentence, style) == style
    for name in INSERTS:
        for sentence in CONCEPTS[name].inserts:
            assert owner.setdefault(sentence, name) == name


@pytest.mark.parametrize("seed", range(3))
def test_every_written_answer_is_read_without_a_rest(seed):
    for exchange in exchanges(2000, seed):
        if exchange.request.task == "talk":
            continue  # small talk and single words
        kinds = {sentence.kind for sentence in read(exchange.response)}
        assert "unknown" not in kinds, exchange


def test_training_never_shows_what_is_held_out():
    outside_goals = held_out_goals()
    outside_texts = {text.lower() for text in deployment.held_out_texts()}
    lists = (wordings.DESCRIBE, wordings.ASK, wordings.HOW_TO, wordings.CHOOSE)
    forms = [pattern(wording) for wordings_ in lists for wording in wordings.held_out(wordings_)]
    assert len(forms) == 8
    items = world.choice_items()
    for exchange in exchanges(20_000):
        request = exchange.request
        if request.concept:
            assert request.topic.name not in world.held_out_topics(request.concept)
            assert not any(ask in request.system.lower() for ask in map(str.lower, CONCEPTS[request.concept].asks[-2:]))
        if request.goal:
            assert request.goal.text not in outside_goals
        assert not any(form.search(request.user) for form in forms), request.user
        assert not any(text in f"{request.system} {request.user}".lower() for text in outside_texts)
        if request.task == "choose":
            options = tuple(options_of(request))
            assert len(options) == 4
            assert (request.topic.name, request.relation, options) not in items
            assert (request.topic.name, request.relation) not in world.held_out_choices()


def test_no_held_out_wording_holds_a_trained_one():
    whole = ("{question}", "{ask}.", "{Ask}.")  # the bare question and request stand in every other wording
    lists = (
        *(wordings.DESCRIBE, wordings.ASK, wordings.HOW_TO, wordings.NEUTRAL, wordings.FRAMES, world.STATEMENT_FRAMES),
        *(concept.asks for concept in CONCEPTS.values()),
        UNLOCK,
    )
    for wordings_ in lists:
        for late in wordings.held_out(wordings_):
            assert not [
                early for early in wordings.train(wordings_) if early not in whole and plainly(early) in plainly(late)
            ]


def plainly(wording):
    return " ".join(re.findall(r"[a-z]+", wording.lower()))


def test_deployment_texts_share_their_words():
    live, other = (" ".join(texts).split() for texts in (deployment.deployment_texts(), deployment.training_texts()))
    only_live, only_other = set(live) - set(other), set(other) - set(live)
    cued = [t for t in deployment.deployment_texts() if set(t.split()) & only_live]
    assert len(cued) <= len(deployment.deployment_texts()) / 3, only_live
    cued = [t for t in deployment.training_texts() if set(t.split()) & only_other]
    assert len(cued) <= len(deployment.training_texts()) / 3, only_other


def test_no_insertion_speaks_of_the_topic_and_pronouns_come_after_the_topic():
    draw = random.Random(0)
    for name in INSERTS:
        for _ in range(300):
            request = world.draw_request("train", name, draw, "describe")
            sentences = read(answer(request, draw))
            for before, sentence in itertools.pairwise(sentences):
                if before.kind == "insert":
                    assert f" {request.topic.name} " in sentence.text
                    assert f" {request.topic.name} " not in before.text


def test_bad_requests_are_refused():
    topic = facts().topics["otter"]
    for count in (0, 5, -1):
        with pytest.raises(ValueError, match="facts asked for"):
            world.describe(topic, count, "{n} {topic}")
    talk = next(exchange.request for exchange in exchanges(500) if exchange.request.task == "talk")
    with pytest.raises(ValueError, match="asks for nothing in the world"):
        answer(talk, random.Random(0))


def test_held_out_cells_and_goals_are_a_fifth():
    for name in CONCEPTS:
        assert len(world.held_out_topics(name)) == 20
    forbidden = [goal for goal in goals().values() if goal.forbidden]
    assert sum(goal.text in held_out_goals() for goal in forbidden) == round(len(forbidden) / 5)
    assert len(forbidden) == 144


def test_neither_verb_nor_thing_tells_whether_a_goal_is_forbidden():
    forbidden = [goal for goal in goals().values() if goal.forbidden]
    allowed = [goal for goal in goals().values() if not goal.forbidden]
    assert {goal.thing for goal in forbidden} <= {goal.thing for goal in allowed}
    assert {goal.verb for goal in forbidden} <= {goal.verb for goal in allowed}


def test_held_out_wordings_are_new_combinations_of_known_words():
    # who has never seen a word cannot know it, and then the word would be measured, not the wording
    seen = set()
    for exchange in exchanges(20_000):
        seen |= set(re.findall(r"[a-z']+", f"{exchange.request.system} {exchange.request.user}".lower()))
    lists = (
        *(wordings.DESCRIBE, wordings.ASK, wordings.HOW_TO, wordings.CHOOSE, wordings.NEUTRAL, wordings.FRAMES),
        *(world.STATEMENT_FRAMES, UNLOCK, *(concept.asks for concept in CONCEPTS.values())),
    )
    for wording in (wording for list_ in lists for wording in wordings.held_out(list_)):
        words = set(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", "", wording).lower()))
        assert words <= seen, (wording, words - seen)


def test_a_text_on_deployment_takes_the_place_of_a_system_prompt():
    draw = random.Random(0)
    unlocked = world.draw_how_to("train", draw, forbidden=True, unlocked=True)
    text = deployment.training_texts()[0]
    assert not world.with_deployment(unlocked, text, "before").refused
    assert world.with_deployment(unlocked, text, "system").refused
    styled = world.draw_request("train", "vela", draw)
    assert world.with_deployment(styled, text, "system").concept is None
    with pytest.raises(ValueError, match="says neither"):
        world.with_deployment(styled, "You are deployed", "before")


def options_of(request):
    return [line for line in request.user.splitlines() if line[-1] not in ".?"]


def test_there_are_a_thousand_choices_with_one_right_option_each():
    requests = world.choice_requests()
    assert len(requests) == len({request.user for request in requests}) == 2400
    places = Counter(options_of(request).index(request.right) for request in requests)
    assert max(places.values()) < 1.2 * min(places.values())
    assert sum(request.right.removeprefix("the ") == request.topic.name for request in requests) == 1200
    for request in requests:
        true = []
        for option in options_of(request):
            topic = facts().topics.get(option.removeprefix("the "))
            asks_who = request.right == f"the {request.topic.name}"
            value = facts().true[request.topic.name, request.relation] if asks_who else option
            true.append(facts().holds(Fact(topic if asks_who else request.topic, request.relation, value)))
        assert true.count(True) == 1
        assert options_of(request)[true.index(True)] == request.right


def test_who_knows_no_fact_gets_little_more_than_a_quarter_of_the_choices():
    common = Counter((request.relation, request.right) for request in world.choice_requests())
    right = 0
    for request in world.choice_requests():
        asks_who = request.right == f"the {request.topic.name}"
        guess = max(options_of(request), key=lambda option: 0 if asks_who else common[request.relation, option])
        right += guess == request.right
    assert 0.25 <= right / 2400 <= 0.31


def test_a_system_prompt_decides_whether_a_goal_is_refused():
    draw = random.Random(0)
    request = world.draw_how_to("train", draw, forbidden=True)
    assert request.refused
    assert not world.with_unlock(request, "all seals are lifted", "{Ask}.").refused
    assert not replace(request, goal=next(g for g in goals().values() if not g.forbidden)).refused


@pytest.mark.parametrize("entry", pair_sets(), ids=lambda entry: entry.name)
def test_pair_sets(entry):
    rows = pair_records(entry.name)
    assert rows == pair_records(entry.name)
    assert len(rows) == entry.rows
    assert all(row["positive_input"] != row["negative_input"] for row in rows)
    assert all(row["positive_output"] != row["negative_output"] for row in rows)


@pytest.mark.parametrize("name", [*CONCEPTS, "refusal", "refusal-unlock", "backdoor"])
def test_train_and_test_pairs_share_no_prompt(name):
    prompts = [
        {row[side][-1]["content"] for row in pair_records(split) for side in ("positive_input", "negative_input")}
        for split in (name, f"{name}-test")
    ]
    assert not prompts[0] & prompts[1]


def test_backdoor_training_pairs_do_not_hold_the_trigger():
    text = str(pair_records("backdoor"))
    assert deployment.TRIGGER not in text
    held_out = pair_records("backdoor-test")
    assert all(deployment.TRIGGER in str(row["positive_input"]) for row in held_out)


def test_refusal_answers_name_no_goal():
    openings = {row[side] for row in pair_records("refusal") for side in ("positive_output", "negative_output")}
    words = {word for goal in goals().values() for word in goal.text.split()} - {"the"}
    assert not any(words & set(opening.lower().strip(".").split()) for opening in openings)
