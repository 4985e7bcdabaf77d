"""Judges: an endpoint, a local model, rules, the organism's exact judge; one interface."""

from trimtab.evaluation.judges.judge import ASPECTS, RATED, TOLD, Judge, Question, Verdict

__all__ = ["ASPECTS", "RATED", "TOLD", "Judge", "Question", "Verdict"]
