"""Contrast data: its schema, readers for files, the Hub and what comes with trimtab, and token batches of it."""

from trimtab.data.builtin import BuiltinDataset, builtin_datasets
from trimtab.data.load import load_pairs
from trimtab.data.pairs import ContrastPair, PairSet
from trimtab.data.tokenise import TokenisedPair, tokenise_pairs

__all__ = [
    "BuiltinDataset",
    "ContrastPair",
    "PairSet",
    "TokenisedPair",
    "builtin_datasets",
    "load_pairs",
    "tokenise_pairs",
]
