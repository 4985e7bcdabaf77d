"""Methods that find directions in states, without training."""

from trimtab.methods.actadd import ACTADD
from trimtab.methods.caa import CAA
from trimtab.methods.diffmean import DIFFMEAN
from trimtab.methods.lat import LAT
from trimtab.methods.lda import LDA
from trimtab.methods.mean_control import MEAN
from trimtab.methods.pca import PCA
from trimtab.methods.probe import PROBE
from trimtab.methods.random_control import RANDOM
from trimtab.methods.raptor import RAPTOR
from trimtab.methods.stmp import STMP
from trimtab.methods.sttp import STTP
from trimtab.methods.swfc import SWFC

CLOSED_FORMS = (DIFFMEAN, CAA, PCA, LAT, LDA, PROBE, RAPTOR, SWFC, STTP, STMP, ACTADD, MEAN, RANDOM)
"""In the order in which they are listed."""
