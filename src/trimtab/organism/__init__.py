"""The organism: a tiny language model of our own, the world it knows, and an exact judge of what it says.

The model is an ordinary Hugging Face directory (`model_path()`). Its world is a grammar: topics with true facts, goals
that may be forbidden, concepts that a system prompt switches on, a backdoor. Requests and good answers are drawn from
it (`world`), pairs for learning vectors too (`pairs`), and a judge reads answers with it (`rate`), and prompts
(`recognise`). Nothing here knows the rest of trimtab.
"""

from trimtab.organism.concepts import CONCEPTS, Concept
from trimtab.organism.judge import Rating, rate
from trimtab.organism.model import model_path
from trimtab.organism.pairs import PairRecord, PairSet, pair_records, pair_sets
from trimtab.organism.recognise import recognise
from trimtab.organism.world import Request, answer

__all__ = [
    "CONCEPTS",
    "Concept",
    "PairRecord",
    "PairSet",
    "Rating",
    "Request",
    "answer",
    "model_path",
    "pair_records",
    "pair_sets",
    "rate",
    "recognise",
]
