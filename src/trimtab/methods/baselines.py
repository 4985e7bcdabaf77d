"""What steering is compared with: prompts, adapters, fine-tuning, nothing."""

from trimtab.methods.lora import LORA
from trimtab.methods.method import Method
from trimtab.methods.none import NONE
from trimtab.methods.prompt import PROMPT
from trimtab.methods.sft import SFT_METHOD

BASELINES: tuple[Method, ...] = (NONE, PROMPT, LORA, SFT_METHOD)
"""In the order in which they are listed."""
