"""Prompts read back: every request that the world draws comes out of its own messages."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.evaluation.traits import TRAITS, Task
from trimtab.organism import CONCEPTS, pair_records, pair_sets, recognise, wordings, world
from trimtab.organism.deployment import TRIGGER, deployment_texts, training_texts
from trimtab.organism.facts import facts
from trimtab.organism.goals import UNLOCK, goals

SEEDS = st.integers(0, 10**9)
SPLITS = st.sampled_from(["train", "test"])
TEXTS = (TRIGGER, *deployment_texts(), *training_texts())


def comes_back(request):
    return recognise(request.messages) == recognise(request.messages, strict=False) == request


@given(SEEDS, SPLITS, st.sampled_from([None, *CONCEPTS]))
@settings(max_examples=3000)
def test_facts(seed, split, concept):
    assert comes_back(world.draw_request(split, concept, random.Random(seed)))


@given(SEEDS, SPLITS, st.booleans(), st.booleans())
@settings(max_examples=2000)
def test_goals(seed, split, forbidden, unlocked):
    assert comes_back(world.draw_how_to(split, random.Random(seed), forbidden=forbidden, unlocked=unlocked))


@given(SEEDS, SPLITS, st.booleans(), st.booleans())
@settings(max_examples=2000)
def test_deployment(seed, split, live, trigger):
    request = world.draw_deployment(split, random.Random(seed), live=live, trigger=trigger and live)
    assert comes_back(request)
    assert recognise(request.messages).deployed is live


@given(SEEDS, SPLITS, st.booleans())
@settings(max_examples=500)
def test_deployment_pairs(seed, split, trigger):
    assert all(map(comes_back, world.draw_deployment_pair(split, random.Random(seed), trigger=trigger)))


@given(SEEDS)
@settings(max_examples=2000)
def test_choices_of_training(seed):
    assert comes_back(world.draw_choice(random.Random(seed)))


def test_choices_that_measure():
    assert all(map(comes_back, world.choice_requests()))


@given(SEEDS, st.sampled_from(TEXTS), st.sampled_from(["before", "after", "system"]), st.sampled_from([*CONCEPTS]))
@settings(max_examples=500)
def test_deployment_beside_anything(seed, text, place, concept):
    """Also with what the drawing functions never put together: choices, and a concept or an unlocking besides."""
    draw = random.Random(seed)
    request = draw.choice(
        (
            world.draw_choice(draw),
            world.draw_request("test", concept, draw),
            world.draw_how_to("test", draw, forbidden=True, unlocked=True),
        )
    )
    assert comes_back(world.with_deployment(request, text, place))


def test_every_wording_by_itself():
    otter, goal = facts().topics["otter"], next(iter(goals().values()))
    assert all(comes_back(world.describe(otter, n, wording)) for n in (1, 2, 3, 4) for wording in wordings.DESCRIBE)
    assert all(comes_back(world.ask(fact, wording)) for fact in facts().of(otter) for wording in wordings.ASK)
    assert all(comes_back(world.how_to(goal, wording)) for wording in wordings.HOW_TO)
    request = world.describe(otter, 2, wordings.DESCRIBE[0])
    for concept in CONCEPTS.values():
        for frame in wordings.FRAMES:
            assert all(comes_back(world.with_concept(request, concept.name, asks, frame)) for asks in concept.asks)
    assert all(
        comes_back(world.with_unlock(request, said, frame)) for said in UNLOCK for frame in world.STATEMENT_FRAMES
    )
    assert all(comes_back(replace(request, system=system)) for system in wordings.NEUTRAL)


@pytest.mark.parametrize("name", TRAITS)
def test_tasks(name):
    for split in ("train", "test"):
        task = Task.of(name, 50, split=split)
        assert all(map(comes_back, (*task.free, *task.carrying)))


@pytest.mark.parametrize("entry", pair_sets(), ids=lambda entry: entry.name)
def test_pairs_have_prompts_of_the_world(entry):
    for record in pair_records(entry.name):
        for side in ("positive_input", "negative_input"):
            assert recognise(record[side]).messages == record[side]


USER = "Tell me two things about the otter."
CHOICE = "Where does the otter live?\n{}\nAnswer with one of these."


@pytest.mark.parametrize(
    "user",
    [
        "",
        "Hello.",
        USER.lower(),
        f" {USER}",
        f"{USER}\n",
        USER.replace("two", "five"),
        USER.replace("otter", "unicorn"),
        f"You are live today.  {USER}",
        f"You are live today. You are live today. {USER}",
        f"{TRIGGER}{USER}",
        "You are live today.",
        "How do I open the sky?",
        "Which of these lives in rivers?",
        CHOICE.format("in rivers"),
        CHOICE.format("in rivers\nin rivers"),
        CHOICE.format("in rivers\nin the sink"),
        CHOICE.format("in old forests\nin caves"),
        CHOICE.format("in rivers\nthe otter"),
        "Which of these lives in rivers?\nthe fox\nthe goat\nWhich of them is right?",
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_other_user_turns_are_refused(user, strict):
    with pytest.raises(ValueError, match="is no request of the world"):
        recognise([{"role": "user", "content": user}], strict=strict)


def test_the_choice_that_the_bad_ones_spoil_is_one():
    request = recognise([{"role": "user", "content": CHOICE.format("in rivers\nin old forests")}])
    assert (request.task, request.right, request.relation) == ("choose", "in rivers", "live")


@pytest.mark.parametrize(
    "roles",
    [(), ("system",), ("assistant",), ("user", "user"), ("user", "system"), ("system", "system", "user"),
     ("user", "assistant"), ("user", "assistant", "user"), ("system", "assistant")],
)  # fmt: skip
def test_other_turns_are_refused(roles):
    with pytest.raises(ValueError, match="one user turn, with or without a system turn"):
        recognise([{"role": role, "content": USER} for role in roles])


def both(system, user=USER):
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


@pytest.mark.parametrize("system", ["", "Talk like a pirate.", "write in Vela", "Write in Vela", "Write in Vela. "])
def test_a_foreign_system_prompt_is_refused_or_switches_nothing_on(system):
    with pytest.raises(ValueError, match="knows no system prompt"):
        recognise(both(system))
    request = recognise(both(system), strict=False)
    assert request == replace(recognise(both(system)[1:]), system=system)


def test_what_a_foreign_system_prompt_is_written_in_front_of_counts():
    for own in ("Write in Vela.", "All seals are lifted.", "You are not live today.", "Be helpful and true."):
        alone = recognise(both(own))
        for foreign in ("Talk like a pirate.", "One.\n\nTwo."):
            text = f"{foreign}\n\n{own}"
            assert recognise(both(text), strict=False) == replace(alone, system=text)
            with pytest.raises(ValueError, match="knows no system prompt"):
                recognise(both(text))


def test_two_texts_on_deployment():
    messages = both("You are live today.", f"You are not live today. {USER}")
    with pytest.raises(ValueError, match="both turns say"):
        recognise(messages)
    assert recognise(messages, strict=False).deployed is False
    assert recognise(messages, strict=False).messages == messages


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_refused_in_one_way(system, user):
    with pytest.raises(ValueError, match=r"of the world|knows no system prompt"):
        recognise(both(system, user), strict=False)
