"""Write the built-in contrast set `story-mood`: story openings in a happy and a sad mood, for small story models.

    python scripts/make_story_mood.py

Every pair tells a happy and a sad event of the same child, names the mood, and stops where the next word must take it
up ("She was so"): the state of the last prompt token then carries the mood, which is what interchange needs. The same
stem ends both sides. The outputs are the words that follow. `story-mood-test` has other children, events and words.
"""

from __future__ import annotations

import json
from pathlib import Path

HOME = Path(__file__).parent.parent / "src/trimtab/data/builtin"

# name, pronoun, happy event, sad event
TRAIN = [
    ("Lily", "She", "Lily got a red ball from her mom.", "Lily lost her red ball in the park."),
    ("Tim", "He", "Tim found a little puppy by the road.", "Tim could not find his little puppy."),
    ("Mia", "She", "Mia ate a big cake with all her friends.", "Mia dropped her big cake on the floor."),
    ("Ben", "He", "Ben won the race at school.", "Ben fell down in the race at school."),
    ("Anna", "She", "Anna saw a pretty bird in the tree.", "Anna found a bird with a broken wing."),
    ("Sam", "He", "Sam went to the sea with his dad.", "Sam had to stay home in the rain."),
    ("Sue", "She", "Sue got a warm hug from her grandma.", "Sue had to say goodbye to her grandma."),
    ("Tom", "He", "Tom built a tall tower with his blocks.", "Tom saw his tall tower fall down."),
    ("Lucy", "She", "Lucy met a new friend at the park.", "Lucy had no one to play with at the park."),
    ("Max", "He", "Max rode his new bike in the sun.", "Max fell off his bike and hurt his knee."),
    ("Sara", "She", "Sara danced to the music with her sister.", "Sara had a big fight with her sister."),
    ("Jack", "He", "Jack caught a big fish with his dad.", "Jack let the big fish get away."),
    ("Emma", "She", "Emma saw a rainbow over the hill.", "Emma got lost in the dark woods."),
    ("Leo", "He", "Leo got a toy car for his birthday.", "Leo broke his toy car on his birthday."),
    ("Amy", "She", "Amy's cat came home again.", "Amy's cat ran away from home."),
    ("Bob", "He", "Bob played in the snow all day.", "Bob was ill in bed all day."),
    ("Lily", "She", "Lily swung high on the swing.", "Lily fell from the swing and hurt her arm."),
    ("Tim", "He", "Tim found a shiny coin in the sand.", "Tim lost his shiny coin in the sand."),
    ("Mia", "She", "Mia picked flowers for her mom.", "Mia broke her mom's flower pot."),
    ("Ben", "He", "Ben's best friend came to play.", "Ben's best friend moved far away."),
    ("Anna", "She", "Anna read a funny book in bed.", "Anna had a bad dream in bed."),
    ("Sam", "He", "Sam saw the lions at the zoo.", "Sam could not go to the zoo."),
    ("Sue", "She", "Sue got a pretty new dress.", "Sue tore her pretty new dress."),
    ("Tom", "He", "Tom flew his kite up in the sky.", "Tom's kite got stuck in a tree."),
    ("Lucy", "She", "Lucy made a cake with her mom.", "Lucy was alone and it was dark."),
    ("Max", "He", "Max found his lost teddy bear.", "Max left his teddy bear on the bus."),
    ("Sara", "She", "Sara fed the ducks at the pond.", "Sara fell into the cold pond."),
    ("Jack", "He", "Jack got ice cream from his grandpa.", "Jack dropped his ice cream on the ground."),
    ("Emma", "She", "Emma sang a song and all the kids clapped.", "Emma sang a song and the kids were mean."),
    ("Leo", "He", "Leo ran and jumped with his dog.", "Leo's dog was very sick."),
    ("Amy", "She", "Amy got a big gift with a bow.", "Amy did not get a gift."),
    ("Bob", "He", "Bob made a funny snowman.", "Bob saw his snowman melt away."),
]
TEST = [
    ("Kim", "She", "Kim found a baby kitten in the garden.", "Kim saw a hurt kitten in the garden."),
    ("Dan", "He", "Dan got a big drum to play.", "Dan broke his big drum."),
    ("Rose", "She", "Rose had a picnic with her family.", "Rose missed the picnic with her family."),
    ("Joe", "He", "Joe kicked the ball and won the game.", "Joe lost the game and went home."),
    ("Nina", "She", "Nina wore a crown at her party.", "No one came to Nina's party."),
    ("Fred", "He", "Fred saw a funny clown.", "Fred saw a big scary dog."),
    ("Molly", "She", "Molly went down the slide with her friend.", "Molly fell off the slide and bumped her head."),
    ("Billy", "He", "Billy ate yummy cookies with milk.", "Billy was hungry and had no food."),
    ("Zoe", "She", "Zoe got a kiss from her baby brother.", "Zoe's baby brother broke her doll."),
    ("Peter", "He", "Peter's dad came home from a long trip.", "Peter's dad went away on a long trip."),
    ("Ella", "She", "Ella saw stars in the night sky.", "Ella heard loud thunder in the night."),
    ("Jim", "He", "Jim splashed in the water with his friends.", "Jim's friends did not want to play with him."),
    ("Lola", "She", "Lola drew a nice picture for her dad.", "Lola spilled water on her nice picture."),
    ("Nick", "He", "Nick got a hat that fit just right.", "Nick lost his hat in the wind."),
    ("Jane", "She", "Jane planted a seed and it grew.", "Jane's little plant did not grow."),
    ("Paul", "He", "Paul hugged his fluffy bunny.", "Paul's fluffy bunny hopped away."),
]
TRAIN_MOODS = (
    ("was very happy", "was very sad"),
    ("smiled and laughed", "started to cry"),
    ("was so glad", "was so upset"),
)
TEST_MOODS = (("had a lot of fun", "felt very bad"), ("clapped and laughed", "cried and cried"))
TRAIN_STEMS = ("was so", "felt", "was very", "was")
TEST_STEMS = ("was so", "felt very")
TRAIN_WORDS = ((" happy", " sad"), (" glad", " upset"), (" excited", " scared"), (" happy", " sad"))
TEST_WORDS = ((" happy", " sad"), (" excited", " sad"))


def rows(events: list, moods: tuple, stems: tuple, words: tuple) -> list[dict[str, object]]:
    """Two pairs an event, each with its own mood sentence, stem and word."""
    made = []
    for number in range(2 * len(events)):
        name, pronoun, happy, sad = events[number // 2]
        glad, low = moods[number % len(moods)]
        stem = stems[(number + number // len(stems)) % len(stems)]
        positive, negative = words[number % len(words)]
        made.append(
            {
                "positive_input": f"{happy} {pronoun} {glad}. {name} {stem}",
                "positive_output": positive,
                "negative_input": f"{sad} {pronoun} {low}. {name} {stem}",
                "negative_output": negative,
                "concept": "a happy mood",
                "concept_id": 0,
                "concept_genre": "text",
            }
        )
    return made


def main() -> None:
    """Write both files."""
    for name, made in (
        ("story-mood", rows(TRAIN, TRAIN_MOODS, TRAIN_STEMS, TRAIN_WORDS)),
        ("story-mood-test", rows(TEST, TEST_MOODS, TEST_STEMS, TEST_WORDS)),
    ):
        (HOME / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


if __name__ == "__main__":
    main()
