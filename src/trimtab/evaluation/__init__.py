"""What a model says, asked and judged: protocols that end in records."""

from trimtab.evaluation.interchange import InterchangeAccuracy, interchange_accuracy
from trimtab.evaluation.organism import SECTIONS, Figure, Sample, figures, look

__all__ = ["SECTIONS", "Figure", "InterchangeAccuracy", "Sample", "figures", "interchange_accuracy", "look"]
