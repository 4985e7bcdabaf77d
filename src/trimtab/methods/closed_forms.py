"""Methods that find directions in states, without training."""

from trimtab.methods.diffmean import DIFFMEAN

CLOSED_FORMS = (DIFFMEAN,)
"""In the order in which they are listed."""
