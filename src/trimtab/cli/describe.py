"""A saved vector in the words of JSON and of tables; shared by `fit` and `inspect`."""

from typing import TYPE_CHECKING, Any

from trimtab.cli.output import number

if TYPE_CHECKING:
    from trimtab.steering import SteeringVector
    from trimtab.steering.factors import Factors, FactorStats

BINS = 12
"""Bins of a coordinate's histogram."""


def multipliers(vector: "SteeringVector") -> dict[str, float]:
    """The multiplier that each direction applies when none is typed: the calibrated one, else 1."""
    return {direction: vector.multipliers.get(direction, 1.0) for direction in vector.directions}


def layer_words(vector: "SteeringVector") -> str:
    """Where a vector works, such as `layer 3`, or `layer 0 to elicit, layer 6 to suppress`."""
    where = {
        direction: ", ".join(str(vector.edits[index].intervention.site.layer) for index in indices)
        for direction, indices in vector.directions.items()
    }
    if len({*where.values()}) == 1:
        return f"layer {next(iter(where.values()))}"
    return ", ".join(f"layer {layers} to {direction}" for direction, layers in where.items())


def sites(vector: "SteeringVector") -> list[dict[str, Any]]:
    """One object an edit that has factors: its layer and its factors."""
    return [
        {"layer": edit.intervention.site.layer, "factors": factors_json(edit.factors)}
        for edit in vector.edits
        if edit.factors is not None
    ]


def factors_json(factors: "Factors | None") -> dict[str, Any] | None:
    """Both classes as `{"mean", "std", "n"}`; numbers at rank 1, lists of them above."""
    if factors is None:
        return None
    return {"positive": _class_json(factors.positive), "negative": _class_json(factors.negative)}


def _class_json(stats: "FactorStats") -> dict[str, Any]:
    return {"mean": _plain(stats.mean), "std": _plain(stats.std), "n": stats.n}


def _plain(values: tuple[float, ...]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)


def factor_words(stats: dict[str, Any]) -> str:
    """One class's factor for people, such as `3.21 +- 0.4 (n=128)`."""
    means, deviations = (x if isinstance(x, list) else [x] for x in (stats["mean"], stats["std"]))
    pairs = ", ".join(f"{number(mean)} +- {number(std)}" for mean, std in zip(means, deviations, strict=True))
    return f"{pairs} (n={stats['n']})"


def edits_json(vector: "SteeringVector") -> list[dict[str, Any]]:
    """One object an edit: where and what it is, its factors, and how well the classes separate on each coordinate."""
    return [
        {
            "site": str(edit.intervention.site),
            "directions": [way for way, indices in vector.directions.items() if index in indices],
            "layer": edit.intervention.site.layer,
            "positions": str(edit.intervention.positions),
            "transform": edit.intervention.transform.kind,
            "rank": edit.intervention.transform.rank,
            "strength": edit.intervention.strength,
            "factors": factors_json(edit.factors),
            "coordinates": [] if edit.factors is None else _coordinates_json(edit.factors),
        }
        for index, edit in enumerate(vector.edits)
    ]


def _coordinates_json(factors: "Factors") -> list[dict[str, Any]]:
    from trimtab.steering.statistics import histogram, separation

    stored = factors.positive.values is not None and factors.negative.values is not None
    described = []
    for index in range(len(factors.positive.mean)):
        apart = separation(factors, index)
        bins = histogram(factors, bins=BINS, coordinate=index) if stored else None
        described.append(
            {
                "d_prime": apart.d_prime,
                "auroc": apart.auroc,
                "histogram": None if bins is None else dict(zip(("edges", "positive", "negative"), bins, strict=True)),
            }
        )
    return described
