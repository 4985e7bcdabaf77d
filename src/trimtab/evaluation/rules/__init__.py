"""Rules: checkers of form, which need no language model. `max-words:50` names one, and so do plain words."""

from trimtab.evaluation.rules.concepts import check_for
from trimtab.evaluation.rules.rule import Check, Cuts, Rule
from trimtab.evaluation.rules.table import check_of, list_rules

__all__ = ["Check", "Cuts", "Rule", "check_for", "check_of", "list_rules"]
