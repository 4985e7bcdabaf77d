"""Language models: load, find blocks, render chat, capture states, apply steering, run in parts."""

from trimtab.models.apply import steer
from trimtab.models.capture import TokenCoordinates, capture, coordinates
from trimtab.models.chat import ChatFormat, Message, Prompt, RenderedPrompt
from trimtab.models.load import load_model
from trimtab.models.model import Model

__all__ = [
    "ChatFormat",
    "Message",
    "Model",
    "Prompt",
    "RenderedPrompt",
    "TokenCoordinates",
    "capture",
    "coordinates",
    "load_model",
    "steer",
]
