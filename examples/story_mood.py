"""Measure a mood vector on a story model: the words it wants next, and whether its stories stay fluent.

    trimtab fit cdas --model MODEL --pairs story-mood --layer L --out vectors/mood
    python examples/story_mood.py --model MODEL --vector vectors/mood

Held-out openings (`story-mood-test`, and neutral ones written here). For each steering it prints
- lift: mean log p(happy words) - log p(sad words) as the next words, on happy, sad and neutral openings;
- perplexity of 40 new greedy tokens under the UNSTEERED model, beside that of its own greedy and sampled text.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch

import trimtab as tt

HAPPY = (" happy", " glad", " excited")
SAD = (" sad", " upset", " scared")
NEUTRAL = (
    "Kim had a red box. Kim was",
    "Dan and his mom went to the shop. Dan was so",
    "There was a girl with a blue hat. The girl felt",
    "One day, Joe saw a tree. Joe was very",
    "Fred has a small bed. Fred felt",
    "The boy sat on a chair by the door. The boy was",
    "Molly looked at the water. Molly was so",
    "In the morning, Peter got up. Peter was very",
)
STORIES = (
    "Once upon a time, there was a little girl named Kim.",
    "One day, Dan and his mom went to the shop.",
    "There was a boy who had a small box.",
    "Joe and his dog went for a walk.",
    "In the morning, Molly looked out of the window.",
    "Peter sat on a chair in the kitchen.",
    "A little bird lived in a tree.",
    "Nina and Fred were in the garden.",
)


def log_probability(model: tt.Model, ids: Sequence[int], start: int, steering: tt.Steering | None = None) -> float:
    """Sum of log p of ids[start:] given what is before each, under the steered model."""
    row = torch.tensor([list(ids)], device=model.device)
    with torch.no_grad(), tt.steer(model.hf, steering):
        log_p = model.hf(row).logits[0].float().log_softmax(dim=-1)
    return sum(float(log_p[k - 1, ids[k]]) for k in range(start, len(ids)))


def lift(model: tt.Model, prompts: Sequence[str], steering: tt.Steering | None) -> float:
    """Mean of log p(happy words) - log p(sad words) as the next words of prompts."""
    total = 0.0
    for prompt in prompts:
        rendered = model.chat.render(prompt)
        for words, sign in ((HAPPY, 1), (SAD, -1)):
            for word in words:
                ids = rendered.ids + model.chat.response_ids(rendered, word)
                total += sign * log_probability(model, ids, len(rendered.ids), steering) / len(words)
    return total / len(prompts)


def perplexity(model: tt.Model, prompts: Sequence[str], texts: Sequence[str]) -> float:
    """Perplexity of texts behind their prompts under the unsteered model."""
    total, count = 0.0, 0
    for prompt, text in zip(prompts, texts, strict=True):
        rendered = model.chat.render(prompt)
        answer = model.chat.response_ids(rendered, text)
        total += log_probability(model, rendered.ids + answer, len(rendered.ids))
        count += len(answer)
    return math.exp(-total / count)


def main() -> None:
    """Print one row a steering."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--vector", required=True)
    parser.add_argument("--multipliers", type=float, nargs="+", default=[1.0, 2.0])
    options = parser.parse_args()
    model, vector = tt.load_model(options.model), tt.SteeringVector.load(options.vector)
    test = tt.load_pairs("story-mood-test")
    happy, sad = [str(pair.positive_input) for pair in test], [str(pair.negative_input) for pair in test]
    rows: list[tuple[str, tt.Steering | None]] = [("plain", None)]
    for multiplier in options.multipliers:
        rows.append((f"elicit {multiplier:g}", vector.elicit(multiplier)))
        rows.append((f"suppress {multiplier:g}", vector.suppress(multiplier)))
    print(f"{'':12}{'lift happy':>12}{'lift sad':>12}{'lift neutral':>14}{'perplexity':>12}")
    for name, steering in rows:
        lifts = [lift(model, prompts, steering) for prompts in (happy, sad, NEUTRAL)]
        texts = model.generate(STORIES, steering=steering, max_new_tokens=40)
        print(f"{name:12}{lifts[0]:12.2f}{lifts[1]:12.2f}{lifts[2]:14.2f}{perplexity(model, STORIES, texts):12.2f}")
    sampled = model.generate(STORIES, max_new_tokens=40, temperature=1.0)
    own = perplexity(model, STORIES, sampled)
    print(f"perplexity of the plain model's own text sampled at temperature 1: {own:.2f}")
    for name, steering in rows[:3]:
        print(f"\n{name}: {NEUTRAL[0]}{model.generate([NEUTRAL[0]], steering=steering, max_new_tokens=40)[0]}")


if __name__ == "__main__":
    main()
