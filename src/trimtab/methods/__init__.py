"""Published methods by name."""

from trimtab.methods.method import Method
from trimtab.methods.registry import METHODS, find_method, fit

__all__ = ["METHODS", "Method", "find_method", "fit"]
