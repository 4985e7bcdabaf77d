"""Methods that fit maps, rotations and gates."""

from trimtab.methods.angular import ANGULAR
from trimtab.methods.cast import CAST
from trimtab.methods.dsas import DSAS
from trimtab.methods.linear_act import LINEAR_ACT
from trimtab.methods.lineas import LINEAS
from trimtab.methods.selective import SELECTIVE

MAPS = (LINEAR_ACT, LINEAS, ANGULAR, SELECTIVE, DSAS, CAST)
"""In the order in which they are listed."""
