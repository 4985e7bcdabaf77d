"""Published methods by name."""

from trimtab.methods.method import Method
from trimtab.methods.registry import METHODS, check_fit, find_method, fit, fit_layers, fit_many

__all__ = ["METHODS", "Method", "check_fit", "find_method", "fit", "fit_layers", "fit_many"]
