"""Methods that look into heads, features, dimensions or tokens of a model."""

from trimtab.methods.method import Method

COMPONENTS: tuple[Method, ...] = ()
"""In the order in which they are listed."""
