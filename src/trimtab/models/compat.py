"""Does a vector fit a model?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.errors import InputError
from trimtab.models.families import hook_point
from trimtab.steering import Edit, SteeringVector

if TYPE_CHECKING:
    from trimtab.models.model import Model


def check_fits(model: Model, vector: SteeringVector) -> list[str]:
    """Everything about the vector that does not fit the model, one sentence each; empty when it fits."""
    card, problems = vector.model, []
    if card.hidden_size != model.hidden_size:
        problems.append(f"the vector was made for hidden size {card.hidden_size}, the model has {model.hidden_size}")
    if card.n_blocks != model.n_blocks:
        problems.append(f"the vector was made for {card.n_blocks} blocks, the model has {model.n_blocks}")
    if problems:
        return problems
    if card.prefix_ids != model.chat.prefix_ids:
        problems.append(
            f"the vector was made with the template prefix {list(card.prefix_ids)}, "
            f"the model's is {list(model.chat.prefix_ids)}"
        )
    elif card.template_fingerprint not in (None, model.chat.fingerprint):
        problems.append("the vector was made with another chat template")
    for edit in vector.edits:
        site = edit.intervention.site
        try:
            hook_point(model.layout.blocks[site.layer], site, model.layout.model_type)
        except InputError as error:
            problems.append(str(error))
    return problems


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
        force: Let another prefix or template pass; another width or depth never does.
    """
    problems = check_fits(model, vector)
    card = vector.model
    same_size = (card.hidden_size, card.n_blocks) == (model.hidden_size, model.n_blocks)
    if problems and not (force and same_size):
        remedy = "--force applies it all the same" if same_size else "fit a vector for this model"
        raise InputError(f"vector for {card.id!r} does not fit {model.name!r}: {'; '.join(problems)}; {remedy}")
