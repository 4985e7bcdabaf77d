"""The topics of the organism's world and what is true of them, read from `facts.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType


@dataclass(frozen=True)
class Topic:
    """Something one can ask about.

    Attributes:
        name: The noun, such as `otter`.
        plural: Its plural.
        kind: The table it stands in, such as `animal`; topics of a kind have the same relations.
    """

    name: str
    plural: str
    kind: str


@dataclass(frozen=True)
class Fact:
    """One statement: that `value` stands in `relation` to `topic`, whether true or not.

    Attributes:
        topic: Whom it is about.
        relation: Base form of its verb, such as `live`.
        value: What follows the verb, such as `in rivers`.
    """

    topic: Topic
    relation: str
    value: str


@dataclass(frozen=True)
class Facts:
    """All that is true.

    Attributes:
        topics: By name, in the order of the file.
        true: The value of every (topic name, relation).
        relations: The relations of every kind.
        pools: All values that a (kind, relation) takes, sorted.
    """

    topics: Mapping[str, Topic]
    true: Mapping[tuple[str, str], str]
    relations: Mapping[str, tuple[str, ...]]
    pools: Mapping[tuple[str, str], tuple[str, ...]]

    def of(self, topic: Topic) -> tuple[Fact, ...]:
        """The true facts about a topic, one for each of its relations."""
        return tuple(Fact(topic, relation, self.true[topic.name, relation]) for relation in self.relations[topic.kind])

    def holds(self, fact: Fact) -> bool:
        """Whether a statement is true."""
        return self.true.get((fact.topic.name, fact.relation)) == fact.value

    def others(self, fact: Fact) -> tuple[str, ...]:
        """Values of the same kind and relation that are not the true one, sorted."""
        truth = self.true[fact.topic.name, fact.relation]
        return tuple(value for value in self.pools[fact.topic.kind, fact.relation] if value != truth)


@cache
def facts() -> Facts:
    """The world's table, read once."""
    text = resources.files("trimtab.organism").joinpath("facts.txt").read_text(encoding="utf-8")
    topics: dict[str, Topic] = {}
    true: dict[tuple[str, str], str] = {}
    relations: dict[str, tuple[str, ...]] = {}
    pools: dict[tuple[str, str], set[str]] = {}
    for section in text.split("[")[1:]:
        kind, _, table = section.partition("]\n")
        header, *rows = (line.split(" | ") for line in table.strip().splitlines())
        relations[kind] = tuple(header[2:])
        for name, plural, *values in rows:
            topics[name] = Topic(name, plural, kind)
            for relation, value in zip(relations[kind], values, strict=True):
                true[name, relation] = value
                pools.setdefault((kind, relation), set()).add(value)
    return Facts(
        MappingProxyType(topics),
        MappingProxyType(true),
        MappingProxyType(relations),
        MappingProxyType({key: tuple(sorted(values)) for key, values in pools.items()}),
    )
