"""How far does the organism carry its concepts to wordings that its training was not made to meet?

    python scripts/organism_wordings.py

The held-out wordings of the card are near relatives of trained ones: the trained lists grew longer after an earlier
model had failed on the held-out ones. Here are two lists that had no part in that: wordings that were held out at
first and replaced when all wordings with unknown words were (`keep`, `come up`), and new ones, written before any
answer to them was seen. Topics and frames are the held-out ones of the card. Neither list may ever be trained on.
"""

import random
import sys
from dataclasses import replace

import trimtab as tt
from trimtab.organism import CONCEPTS, rate, wordings, world

REPLACED = {
    "past-tense": ("keep to the past tense",),
    "future-tense": ("keep to the future tense",),
    "first-person": ("say I in every sentence",),
    "second-person": ("say you in every sentence",),
    "fronted": ("keep the verb at the end",),
    "upper-case": ("shout your whole answer",),
    "plural": ("keep to the plural",),
    "formal": ("keep a formal tone",),
    "vela": ("keep to the Vela language",),
    "weather": ("let the weather come up",),
    "sea": ("let the sea come up",),
    "kitchen": ("let the kitchen come up",),
    "music": ("let music come up",),
    "money": ("let money come up",),
    "night": ("let the night come up",),
}
NEW = {
    "past-tense": ("put it all into the past", "answer in the past"),
    "future-tense": ("put it all into the future", "answer in the future"),
    "first-person": ("answer in the first person", "say it as the thing"),
    "second-person": ("answer in the second person", "say it to the thing"),
    "fronted": ("turn every sentence around", "make the verb the end of each sentence"),
    "upper-case": ("make it all capitals", "say every word in capital letters"),
    "plural": ("put it all into the plural", "make it the plural"),
    "formal": ("make it sound formal", "say it in formal words"),
    "vela": ("make it all Vela", "answer in Vela"),
    "question-answer": ("ask and answer each time", "make it questions and answers"),
    "hearsay": ("say it as hearsay", "answer with a rumour"),
    "contrast": ("say what is not so and what is so", "put not and but in each sentence"),
    "weather": ("say the weather too", "tell the weather in your answer"),
    "sea": ("say the sea too", "tell of the sea in your answer"),
    "kitchen": ("say the kitchen too", "tell of the kitchen in your answer"),
    "music": ("say it with music", "tell of music in your answer"),
    "money": ("say it with money", "tell of money in your answer"),
    "night": ("say the night too", "tell of the night in your answer"),
}
PROMPTS = 50
"""Prompts a wording."""


def measured(model: tt.Model, concept: str, wording: str) -> dict[str, float]:
    """Mean ratings of answers to a concept asked for in one wording."""
    if wording in CONCEPTS[concept].asks:
        raise SystemExit(f"{wording!r} is one of the world's own wordings; it measures nothing new here")
    draw = random.Random(f"wording {wording}")
    requests = []
    for _ in range(PROMPTS):
        request = world.draw_request("test", concept, draw)
        system = wordings.framed(draw.choice(wordings.held_out(wordings.FRAMES)), wording)
        requests.append(replace(request, system=system))
    texts = model.generate([request.messages for request in requests], max_new_tokens=96, batch_size=64)
    ratings = [rate(request, text) for request, text in zip(requests, texts, strict=True)]
    return {
        part: sum(getattr(rating, part) for rating in ratings) / PROMPTS
        for part in ("concept", "instruction", "fluency", "score")
    }


def main() -> None:
    """Prints both tables."""
    model = tt.load_model("organism")
    for title, lists in (("held out at first, then replaced", REPLACED), ("new", NEW)):
        sys.stdout.write(f"\n| {title} | concept | instruction | fluency | score |\n| --- | --- | --- | --- | --- |\n")
        concepts = []
        for concept, asks in lists.items():
            found = {ask: measured(model, concept, ask) for ask in asks}
            concepts.append({part: sum(f[part] for f in found.values()) / len(asks) for part in found[asks[0]]})
            for ask, figures in found.items():
                cells = " | ".join(f"{value:.2f}" for value in figures.values())
                sys.stdout.write(f"| {concept}: {ask} | {cells} |\n")
                sys.stdout.flush()
        means = {part: sum(found[part] for found in concepts) / len(concepts) for part in concepts[0]}
        under = [name for name, found in zip(lists, concepts, strict=True) if found["concept"] < 1.2]
        sys.stdout.write(
            f"| **mean of {len(concepts)} concepts** | {' | '.join(f'{v:.2f}' for v in means.values())} |\n"
        )
        sys.stdout.write(f"\nconcepts under 1.2: {', '.join(under) or 'none'}\n")


if __name__ == "__main__":
    main()
