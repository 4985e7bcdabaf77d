"""An estimate of an English word's part of speech: closed classes by list, the others by ending and the word before.

The lists hold the words of each closed class that make up nearly all of its occurrences, put where they stand most
often ("that" is a conjunction here, "like" a preposition). An open-class word is a verb after a pronoun in the
nominative, a modal verb, "do" or "to" unless its ending says otherwise, and a noun where nothing says what it is. Good
enough to compare texts with each other; no tagger.
"""

from __future__ import annotations


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _listed("a an the")
PRONOUNS = _listed(
    """
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself we
    us our ours ourselves they them their theirs themselves this these those who whom whose what which someone
    somebody something anyone anybody anything everyone everybody everything nobody nothing none one oneself each
    other another i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll we're
    we've we'll we'd they're they've they'll they'd that's there's what's who's
    """
)
PREPOSITIONS = _listed(
    """
    of in to for with on at from by about as into like through after over between out against during without before
    under around among toward towards upon within along across behind beyond near above below per despite except
    beneath beside besides inside outside onto throughout via off past amid concerning regarding
    """
)
AUXILIARIES = _listed(
    """
    be am is are was were been being have has had having do does did doing done will would shall should can could
    may might must ought isn't aren't wasn't weren't haven't hasn't hadn't don't doesn't didn't won't wouldn't
    shouldn't can't cannot couldn't mustn't let's
    """
)
VERBS = _listed(
    """
    say says said get gets got make makes made go goes went gone know knows knew known think thinks thought take
    takes took taken see sees saw seen come comes came want wants give gives gave given find finds found tell tells
    told ask asks feel feels felt become becomes became leave leaves left put puts mean means meant keep keeps kept
    let lets begin begins began begun seem seems show shows hear hears heard run runs ran bring brings brought write
    writes wrote written sit sits sat stand stands stood lose loses lost pay pays paid meet meets met include
    includes learn learns grow grows grew grown send sends sent build builds built stay stays fall falls fell buy
    buys bought speak speaks spoke spoken eat eats ate eaten sing sings sang sung read reads love loves need needs
    help helps try tries use uses live lives believe believes happen happens provide provides remain remains require
    requires sleep sleeps slept look looks
    """
)
ADVERBS = _listed(
    """
    not n't very too also just only now then here there when where why how so still already always never often
    sometimes again ever even quite rather almost perhaps maybe soon later well away back together yet once twice
    however therefore thus instead indeed please today tomorrow yesterday tonight up down really more most less
    least
    """
)
INTERJECTIONS = _listed("oh ah wow hey hi hello yes yeah yep nope ok okay ouch oops hmm huh ugh alas hooray bye thanks")
CONJUNCTIONS = _listed("and or but nor if because although though while whereas unless until since than whether that")
ADJECTIVES = _listed(
    """
    good new first last long great little own old right big high different small large next early young important
    few bad same able all some any many much several such every no both other low short hard strong free true
    full clear sure whole poor happy nice fine white black red green blue
    """
)
NOUNS = _listed(
    """
    family reply supply assembly july italy morning evening building meeting spring string hundred music topic fabric
    traffic magic public library
    """
)
"""Nouns whose endings would say otherwise."""

_LISTS = (
    ("article", ARTICLES),
    ("pronoun", PRONOUNS),
    ("conjunction", CONJUNCTIONS),
    ("interjection", INTERJECTIONS),
    ("preposition", PREPOSITIONS),
    ("verb", AUXILIARIES),
    ("verb", VERBS),
    ("adverb", ADVERBS),
    ("adjective", ADJECTIVES),
    ("noun", NOUNS),
)
CLOSED = {word: name for name, members in reversed(_LISTS) for word in members}
"""The part of every listed word; the first list that has it decides."""

NOUN_ENDINGS = ("tion", "sion", "ment", "ness", "ity", "ance", "ence", "ship", "hood", "ism", "ist", "ology")
ADJECTIVE_ENDINGS = ("ous", "ful", "able", "ible", "ive", "ical", "ish", "less", "ial", "ic", "ary", "ual")
VERB_ENDINGS = ("ing", "ed", "ize", "ise", "ify")
LEADING = _listed(
    """
    i you he she it we they who to do does did don't doesn't didn't will would shall should can could may might must
    won't wouldn't shouldn't can't cannot couldn't mustn't let's
    """
)
"""Words that a verb follows."""
SHORT = 3
"""Letters that must come before an ending: "bed" and "thing" end in none."""


def part_of_speech(word: str, before: str | None) -> str:
    """The part of speech that a word most likely is.

    Args:
        word: In lower case.
        before: The word before it in the text, or None.

    Returns:
        `article`, `pronoun`, `conjunction`, `interjection`, `preposition`, `verb`, `adverb`, `adjective` or `noun`.
    """
    known = CLOSED.get(word)
    if known is not None:
        return known
    if _ends(word, ("ly",)):
        return "adverb"
    if _ends(word, NOUN_ENDINGS):
        return "noun"
    if _ends(word, ADJECTIVE_ENDINGS):
        return "adjective"
    return "verb" if before in LEADING or _ends(word, VERB_ENDINGS) else "noun"


def _ends(word: str, endings: tuple[str, ...]) -> bool:
    return any(word.endswith(ending) and len(word) >= len(ending) + SHORT for ending in endings)
