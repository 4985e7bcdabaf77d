"""Methods that look into heads, features, dimensions or tokens of a model."""

from trimtab.methods.austeer import AUSTEER
from trimtab.methods.fv import FV
from trimtab.methods.grains import GRAINS
from trimtab.methods.method import Method
from trimtab.methods.refusal_direction import REFUSAL_DIRECTION
from trimtab.methods.sae import SAE
from trimtab.methods.seal import SEAL

COMPONENTS: tuple[Method, ...] = (SAE, FV, REFUSAL_DIRECTION, GRAINS, AUSTEER, SEAL)
"""In the order in which they are listed."""
