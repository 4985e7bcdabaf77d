"""What can be counted in English text without a model: length, reading grade, variety of words, formality.

Sources: Kincaid et al. 1975 (reading grade), McCarthy & Jarvis 2010 (MTLD), Heylighen & Dewaele 2002 (formality).
Syllables and parts of speech are estimated by rules that are written down here, so that a figure needs no dictionary
and no tagger and is the same everywhere; compare these figures with each other, not with those of other tools.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from trimtab.evaluation.parts_of_speech import part_of_speech

FACTOR = 0.72
"""Type-token ratio below which a stretch of text is used up; published."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s|$)|\n\s*\n")
_VOWELS = re.compile(r"[aeiouy]+")


def words_of(text: str) -> list[str]:
    """Words in lower case, with their inner apostrophes and hyphens; numbers are words."""
    return [found.group().lower().replace("\u2019", "'") for found in _WORD.finditer(text)]


def sentences_of(text: str) -> list[str]:
    """What `.`, `!`, `?`, an ellipsis or an empty line ends, without parts that have no word."""
    return [part.strip() for part in _SENTENCE_END.split(text) if _WORD.search(part)]


def word_count(text: str) -> float:
    """How many words."""
    return float(len(words_of(text)))


def syllables(word: str) -> int:
    """Groups of vowels, less a silent last e (not in -le after a consonant) and a silent -ed or -es; at least 1."""
    word = word.lower()
    count = len(_VOWELS.findall(word))
    silent = re.search(r"[^aeiouy]e$", word) and not re.search(r"[^aeiouyl]le$", word)
    mute = re.search(r"[^aeiouytd]ed$", word) or re.search(r"[^aeiouysxzcgh]es$", word)
    return max(1, count - bool(silent or mute))


def reading_grade(text: str) -> float:
    """Flesch-Kincaid grade: 0.39 words a sentence + 11.8 syllables a word - 15.59; 0 without words."""
    words = words_of(text)
    if not words:
        return 0.0
    sentences = max(1, len(sentences_of(text)))
    spoken = sum(syllables(part) for word in words for part in word.split("-"))
    return 0.39 * len(words) / sentences + 11.8 * spoken / len(words) - 15.59


def mtld(text: str) -> float:
    """Mean length of stretches of text over which the share of different words stays at 0.72 or above.

    Read forwards and backwards, and the two averaged; what is left at the end counts in part. A text without a repeated
    word has no such stretch: its length is returned. 0 without words.
    """
    words = [word for word in words_of(text) if any(letter.isalpha() for letter in word)]
    if not words:
        return 0.0
    return (_stretch(words) + _stretch(words[::-1])) / 2


def formality(text: str) -> float:
    """Formality, 0 to 100: 50 and half of the percentage of noun-like words above that of verb-like ones.

    F = (nouns + adjectives + prepositions + articles - pronouns - verbs - adverbs - interjections + 100) / 2, each in
    percent of the words. Parts of speech are estimated (`parts_of_speech.py`); 50 without words.
    """
    words = words_of(text)
    if not words:
        return 50.0
    weights = {"noun": 1, "adjective": 1, "preposition": 1, "article": 1,
               "pronoun": -1, "verb": -1, "adverb": -1, "interjection": -1}  # fmt: skip
    parts = [part_of_speech(word, before) for before, word in zip([None, *words], words, strict=False)]
    return 50 + 50 * sum(weights.get(part, 0) for part in parts) / len(words)


def share(holds: Callable[[str], bool]) -> Callable[[str], float]:
    """A measure: the share of a text's sentences for which something holds, 0 without sentences.

    Args:
        holds: Asked about each sentence.
    """

    def measure(text: str) -> float:
        sentences = sentences_of(text)
        return sum(bool(holds(sentence)) for sentence in sentences) / len(sentences) if sentences else 0.0

    return measure


def _stretch(words: Sequence[str]) -> float:
    """Words a factor in one direction."""
    factors, seen, length = 0.0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) / length < FACTOR:
            factors, seen, length = factors + 1, set[str](), 0
    if length:
        factors += (1 - len(seen) / length) / (1 - FACTOR)
    return len(words) / factors if factors else float(len(words))
