"""CDAS and its family: interchanges that are trained on counterfactuals."""

from trimtab.methods.cdas import CDAS
from trimtab.methods.cdas_loreft import CDAS_LOREFT
from trimtab.methods.das import DAS
from trimtab.methods.kldas import KLDAS
from trimtab.methods.pdas import PDAS

INTERCHANGES = (CDAS, DAS, KLDAS, PDAS, CDAS_LOREFT)
"""In the order in which they are listed."""
