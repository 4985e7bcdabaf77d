"""Methods that train an edit on likelihoods or preferences of answers."""

from trimtab.methods.bipo import BIPO
from trimtab.methods.dpo import DPO
from trimtab.methods.ipo import IPO
from trimtab.methods.lang import LANG
from trimtab.methods.loreft import LOREFT
from trimtab.methods.prosv import PROSV
from trimtab.methods.reft_r1 import REFT_R1
from trimtab.methods.reps import REPS
from trimtab.methods.simpo import SIMPO
from trimtab.methods.split import SPLIT
from trimtab.methods.ssv import SSV

TRAINED = (SSV, LANG, REFT_R1, LOREFT, BIPO, DPO, IPO, SIMPO, REPS, PROSV, SPLIT)
"""In the order in which they are listed."""
