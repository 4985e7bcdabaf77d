"""Numbers in, numbers out: means of ratings, chosen multipliers, intervals, separation of scores.

Nothing here knows a model, a judge or a file. A rating that could not be read is None throughout; what becomes of it is
said by `unreadable`: `exclude` leaves it out of means (and whoever asks counts it), `zero` takes it as 0, which is the
published behaviour.
"""

from trimtab.evaluation.statistics.intervals import (
    Difference,
    Interval,
    bootstrap,
    clustered,
    paired_difference,
    wilson,
)
from trimtab.evaluation.statistics.means import Unreadable, counted, harmonic, mean, perplexity
from trimtab.evaluation.statistics.roc import (
    Operating,
    auroc,
    best_f1,
    hard_negative_accuracy,
    min_max,
    youden,
)
from trimtab.evaluation.statistics.selection import (
    Halves,
    Selected,
    WinRate,
    best_multiplier,
    select,
    split_half,
    win_rate,
)

__all__ = [
    "Difference",
    "Halves",
    "Interval",
    "Operating",
    "Selected",
    "Unreadable",
    "WinRate",
    "auroc",
    "best_f1",
    "best_multiplier",
    "bootstrap",
    "clustered",
    "counted",
    "hard_negative_accuracy",
    "harmonic",
    "mean",
    "min_max",
    "paired_difference",
    "perplexity",
    "select",
    "split_half",
    "wilson",
    "win_rate",
    "youden",
]
