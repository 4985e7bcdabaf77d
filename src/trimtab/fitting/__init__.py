"""Objectives, the frozen cache, the trainer and the engine that ties them together."""

from trimtab.fitting.cache import FrozenRuns
from trimtab.fitting.engine import FitOptions, TrainedFit, fit_interchange, fit_interchanges
from trimtab.fitting.settings import InterchangeSettings, TrainSettings, trial_settings
from trimtab.fitting.vectors import clamp_vector, clamp_vectors, fitted_vector

__all__ = [
    "FitOptions",
    "FrozenRuns",
    "InterchangeSettings",
    "TrainSettings",
    "TrainedFit",
    "clamp_vector",
    "clamp_vectors",
    "fit_interchange",
    "fit_interchanges",
    "fitted_vector",
    "trial_settings",
]
