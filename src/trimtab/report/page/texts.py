"""Which texts a page has room for, and how they are put in order for a reader."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from markupsafe import Markup, escape

from trimtab.report.page.blocks import Entry, Sample, Tokens, TokenText
from trimtab.report.page.numbers import short
from trimtab.report.page.room import cut, sized
from trimtab.report.page.tables import step

LONGEST = 4_000
"""Characters of a text that are shown; the rest is counted."""
_AROUND_ENTRY, _AROUND_TOKEN = 420, 42
"""Bytes of HTML around a text's and around a token's characters, about."""
_NO_CONCEPT = "no concept"

T = TypeVar("T")


@dataclass(frozen=True)
class SamplesView:
    """Samples by concept, what can be chosen, and how many samples were left out for want of room."""

    groups: tuple[tuple[str, tuple[Sample, ...]], ...]
    ways: tuple[str, ...]
    labels: tuple[str, ...]
    left_out: int


def view_samples(samples: Sequence[Sample], budget: int) -> SamplesView | None:
    """The samples that fit into so many bytes, as many of each concept and way as of every other; None without any.

    Args:
        samples: In the order of the summary.
        budget: Bytes of HTML.
    """
    if not samples:
        return None
    shortened = [replace(sample, entries=tuple(map(_shortened, sample.entries))) for sample in samples]
    kept = _fair(shortened, lambda sample: (sample.concept, sample.way), _size, budget)
    groups: dict[str, list[Sample]] = {}
    for sample in kept:
        groups.setdefault(_NO_CONCEPT if sample.concept is None else sample.concept, []).append(sample)
    return SamplesView(
        tuple((concept, tuple(found)) for concept, found in groups.items()),
        tuple(dict.fromkeys(sample.way for sample in kept if sample.way is not None)),
        tuple(dict.fromkeys(entry.label for sample in kept for entry in sample.entries)),
        len(samples) - len(kept),
    )


def _shortened(entry: Entry) -> Entry:
    return replace(entry, text=cut(entry.text, LONGEST)) if len(entry.text) > LONGEST else entry


def _size(sample: Sample) -> int:
    return sized(sample.instruction) + sum(
        _AROUND_ENTRY + sized(entry.label) + sized(entry.text) for entry in sample.entries
    )


def _fair(items: Sequence[T], key: Callable[[T], Hashable], size: Callable[[T], int], budget: int) -> list[T]:
    """As many as fit, the first of every group before the second of any, in their own order."""
    places: dict[Hashable, int] = {}
    ranked = []
    for number, item in enumerate(items):
        place = places[key(item)] = places.get(key(item), -1) + 1
        ranked.append((place, number))
    kept = []
    for _, number in sorted(ranked):
        budget -= size(items[number])
        if budget < 0:
            break
        kept.append(number)
    return [items[number] for number in sorted(kept)]


@dataclass(frozen=True)
class ProbeText:
    """A text as coloured tokens."""

    category: str
    tokens: Markup


@dataclass(frozen=True)
class ProbeView:
    """A vector read as a probe: its texts, and the three numbers of its scale."""

    label: str
    concept: str
    ends: tuple[str, str, str]
    texts: tuple[ProbeText, ...]


@dataclass(frozen=True)
class ProbesView:
    """Probes, what can be chosen, and how many texts were left out for want of room."""

    probes: tuple[ProbeView, ...]
    concepts: tuple[str, ...]
    labels: tuple[str, ...]
    left_out: int


def view_probes(tokens: Sequence[Tokens], budget: int) -> ProbesView | None:
    """The texts that fit into so many bytes, as many of each probe as of every other; None without any."""
    pairs = [(k, text) for k, probe in enumerate(tokens) for text in probe.texts]
    if not pairs:
        return None
    kept = _fair(pairs, lambda pair: pair[0], lambda pair: _token_bytes(pair[1]), budget)
    probes = []
    for k, probe in enumerate(tokens):
        texts = tuple(
            ProbeText(text.category, _coloured(text, probe.negative, probe.positive)) for of, text in kept if of == k
        )
        if texts:
            middle = (probe.negative + probe.positive) / 2
            ends = short(probe.negative), short(middle), short(probe.positive)
            concept = _NO_CONCEPT if probe.concept is None else probe.concept
            probes.append(ProbeView(probe.label, concept, ends, texts))
    concepts = tuple(dict.fromkeys(probe.concept for probe in probes))
    labels = tuple(dict.fromkeys(probe.label for probe in probes))
    return ProbesView(tuple(probes), concepts, labels, len(pairs) - len(kept))


def _token_bytes(text: TokenText) -> int:
    return sum(_AROUND_TOKEN + sized(token) for token in text.tokens)


def _coloured(text: TokenText, negative: float, positive: float) -> Markup:
    """A text, each token on a ground from the negative factor's colour to the positive one's."""
    parts = []
    for token, value in zip(text.tokens, text.values, strict=True):
        shown = escape(token.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n"))
        if value is None:
            parts.append(f'<i title="no value">{shown}</i>')
        else:
            at = step(value, negative, positive)
            parts.append(f'<i class="turn-{at}" title="{short(value)}">{shown}</i>')
    return Markup("".join(parts))  # every token was escaped
