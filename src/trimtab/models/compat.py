"""Does a vector fit a model?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trimtab.errors import InputError
from trimtab.models.families import hook_point
from trimtab.steering import Edit, ModelCard, Steering, SteeringVector

if TYPE_CHECKING:
    from trimtab.models.chat import ChatFormat
    from trimtab.models.model import Model


def check_fits(model: Model, vector: SteeringVector) -> list[str]:
    """Everything about the vector that does not fit the model, one sentence each; empty when it fits."""
    problems = card_problems(model, vector.model, "vector")
    if not same_size(model, vector):
        return problems
    for edit in vector.edits:
        site = edit.intervention.site
        try:
            hook_point(model.layout.blocks[site.layer], site, model.layout.model_type)
        except InputError as error:
            problems.append(str(error))
    return problems


def card_problems(model: Model, card: ModelCard, what: str) -> list[str]:
    """Where a model is not the one on a card, one sentence each; only the first if width or depth differ.

    Args:
        model: The model.
        card: What something was made for.
        what: What to call that thing.
    """
    return size_problems(model, card, what) or kind_problems(model, card, what)


def size_problems(model: Model, card: ModelCard, what: str) -> list[str]:
    """Where a model has another width or depth than the one on a card; arguments as above."""
    problems = []
    if card.hidden_size != model.hidden_size:
        problems.append(f"the {what} was made for hidden size {card.hidden_size}, the model has {model.hidden_size}")
    if card.n_blocks != model.n_blocks:
        problems.append(f"the {what} was made for {card.n_blocks} blocks, the model has {model.n_blocks}")
    return problems


def kind_problems(model: Model, card: ModelCard, what: str) -> list[str]:
    """Where a model is of another family, or has another template or prefix; arguments as above."""
    problems = []
    if card.model_type not in (None, model.layout.model_type):
        problems.append(f"the {what} was made for a {card.model_type} model, this one is {model.layout.model_type}")
    template = _other_template(model.chat, card.prefix_ids, card.template_fingerprint)
    if template is not None:
        problems.append(f"the {what} was made with {template}")
    return problems


def _other_template(chat: ChatFormat, prefix_ids: tuple[int, ...], fingerprint: str | None) -> str | None:
    """The other template or prefix that something was made with; None if it was made with the model's own.

    Under one template prefixes may differ: by the date that it prints, by ids of a larger vocabulary.
    """
    if fingerprint == chat.fingerprint:
        return None
    if prefix_ids not in (chat.prefix_ids, chat.undated_prefix_ids):
        return f"the template prefix {list(prefix_ids)}, the model's is {list(chat.prefix_ids)}"
    return None if fingerprint is None else "another chat template"


def adopted(model: Model, steering: Steering, *, force: bool = False) -> Steering:
    """A steering as the model applies it: its prefix is the model's own, as the template writes it today.

    One that names neither prefix nor template stays as it is, and edits the prefix too.

    Args:
        model: The model to be steered.
        steering: Of a vector, or made by hand.
        force: Let another prefix or template pass.

    Raises:
        InputError: It was made with another prefix or template.
    """
    if not steering.prefix_ids and steering.template_fingerprint is None:
        return steering
    other = _other_template(model.chat, steering.prefix_ids, steering.template_fingerprint)
    if other is not None and not force:
        raise InputError(f"{steering.label} was made with {other}; use the vector's own model, or --force (force=True)")
    return replace(steering, prefix_ids=model.chat.prefix_ids, template_fingerprint=model.chat.fingerprint)


def edit_to_read(model: Model, vector: SteeringVector, index: int) -> Edit:
    """One of the vector's edits, to be read rather than applied.

    Raises:
        InputError: The vector was made for another width or depth, or has no such edit.
    """
    require_fit(model, vector, force=True)
    if not 0 <= index < len(vector.edits):
        raise InputError(f"edit {index} does not exist; the vector holds edits 0 to {len(vector.edits) - 1}")
    return vector.edits[index]


def require_fit(model: Model, vector: SteeringVector, *, force: bool = False) -> None:
    """Raise InputError if the vector does not fit.

    Args:
        model: The model to be steered.
        vector: The vector.
        force: Let another family, prefix or template pass; another width or depth never does.
    """
    problems, same = check_fits(model, vector), same_size(model, vector)
    if problems and not (force and same):
        remedy = "--force applies it all the same" if same else "fit a vector for this model"
        raise InputError(f"vector for {vector.model.id!r} does not fit {model.name!r}: {'; '.join(problems)}; {remedy}")


def same_size(model: Model, vector: SteeringVector) -> bool:
    """Whether the vector was made for this width and depth: without that nothing of it can be read or applied."""
    return (vector.model.hidden_size, vector.model.n_blocks) == (model.hidden_size, model.n_blocks)
