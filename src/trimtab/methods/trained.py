"""Methods that train an edit on likelihoods or preferences of answers."""

from trimtab.methods.method import Method

TRAINED: tuple[Method, ...] = ()
"""In the order in which they are listed."""
