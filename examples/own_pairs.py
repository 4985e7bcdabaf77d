"""Your own pairs, in Python: fit a vector, steer one batch three ways, save it.

    python examples/own_pairs.py MODEL OUT

MODEL is a Hugging Face id or a folder (`python -m trimtab.cli.tiny ./model` makes a tiny random one), OUT the folder
to save the vector in.
"""

import sys

import trimtab as tt

TOPICS = ("the sea", "a train", "bread", "winter", "a garden", "the moon", "a bicycle", "an old house")

PAIRS = [
    tt.ContrastPair(
        positive_input=f"Write one cheerful sentence about {topic}.",
        positive_output=f"What a joy {topic} is, bright and full of laughter!",
        negative_input=f"Write one sentence about {topic}.",
        negative_output=f"There are several things to say about {topic}.",
    )
    for topic in TOPICS
]


def main(name: str, out: str) -> None:
    """Fits on the middle block, saves the vector, and answers one prompt plainly and steered both ways."""
    model = tt.load_model(name)
    vector = tt.fit("cdas", model, tt.load_pairs(PAIRS), layer=model.n_blocks // 2, epochs=4)
    print(f"saved in {vector.save(out)}")

    steering = {"plain": None, "elicit": vector.elicit(), "suppress": vector.suppress()}
    prompts = ["Write one sentence about a river."] * len(steering)
    texts = model.generate(prompts, steering=list(steering.values()), max_new_tokens=24)
    for label, text in zip(steering, texts, strict=True):
        print(f"{label:>8}: {text}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
