"""Objectives, the frozen cache, the trainer and the engine that ties them together."""

from trimtab.fitting.engine import FitOptions, InterchangeFit, fit_interchange
from trimtab.fitting.settings import TrainSettings, trial_settings
from trimtab.fitting.vectors import clamp_vector

__all__ = ["FitOptions", "InterchangeFit", "TrainSettings", "clamp_vector", "fit_interchange", "trial_settings"]
