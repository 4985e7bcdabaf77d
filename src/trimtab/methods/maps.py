"""Methods that fit maps, rotations and gates."""

from trimtab.methods.method import Method

MAPS: tuple[Method, ...] = ()
"""In the order in which they are listed."""
