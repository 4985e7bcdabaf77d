"""Vela, the second language of the world: endings and a few words of its own, and the verb comes last."""

from __future__ import annotations

_SMALL = {
    "in": "ni", "on": "pe", "under": "suto", "near": "lato", "of": "da", "from": "ra", "with": "kum", "at": "je",
    "to": "al", "for": "por", "after": "posto", "before": "anto", "beside": "flanko", "behind": "reto",
    "below": "subo", "over": "uvo", "against": "kontro", "toward": "celo", "without": "seno", "like": "kiel",
    "until": "gis", "out": "ela", "than": "ol", "the": "la", "a": "un", "an": "un", "no": "neo", "all": "tuto",
}  # fmt: skip


def vela(phrase: str) -> str:
    """A phrase word by word: small words from the list, every other word with the ending -o."""
    return " ".join(_SMALL.get(word, f"{word}o") for word in phrase.split())
