"""What steering is compared with: prompts, adapters, fine-tuning, nothing."""

from trimtab.methods.method import Method

BASELINES: tuple[Method, ...] = ()
"""In the order in which they are listed."""
