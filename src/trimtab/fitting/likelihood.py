"""What a model thinks of given responses, token by token, plain or steered: log-probabilities, divergences, its choice.

Letters: b rows, s tokens of a sequence, n tokens of a response, d hidden, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.buckets import buckets
from trimtab.models.apply import Row, is_steered, steer
from trimtab.models.capture import pad_right
from trimtab.models.chat import RenderedPrompt
from trimtab.models.layout import evaluating
from trimtab.models.model import Model
from trimtab.models.runs import PROOF_SEQUENCES, PlainRuns
from trimtab.models.split import SplitModel

RUN_TOKENS = 8192
"""Most padded tokens in one forward, unless one sequence is longer."""

LN2 = math.log(2)
LEAST_LOG = -1e4

CHUNK_BYTES = 32 * 1024**2
"""Size of one float32 logits chunk."""


@torch.no_grad()
def final_states(
    model: Model, prompts: Sequence[RenderedPrompt], responses: Sequence[Sequence[int]], steering: Sequence[Row] = ()
) -> list[Tensor]:
    """What the head reads where each token of each response is predicted.

    Args:
        model: The model.
        prompts: One a response.
        responses: Token ids, at least one each.
        steering: One entry a response, or none for the plain model.

    Returns:
        For each response (n, d), in the model's dtype.
    """
    sequences = [(*prompt.ids, *response[:-1]) for prompt, response in zip(prompts, responses, strict=True)]
    exact = model.dtype in (torch.float32, torch.float64)  # in others the two ways would differ in a divergence
    if not steering and exact and len(sequences) > PROOF_SEQUENCES and not is_steered(model.layout):  # refused below
        return _plain_states(model, sequences, [len(prompt.ids) for prompt in prompts])
    own = {id(row): model.own(row) for row in steering}
    rows: Sequence[Row] = [own[id(row)] for row in steering] or [None] * len(sequences)
    found: dict[int, Tensor] = {}
    for group in buckets([len(sequence) for sequence in sequences], RUN_TOKENS):
        ids, mask = pad_right([sequences[k] for k in group], model.device)
        lengths = [len(prompts[k].ids) for k in group]
        with evaluating(model.hf), steer(model.hf, [rows[k] for k in group], prompt_lengths=lengths):
            states = model.layout.stack(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        for row, (k, start) in enumerate(zip(group, lengths, strict=True)):
            found[k] = states[row, start - 1 : len(sequences[k])].clone()  # a view would keep the whole group
    return [found[k] for k in range(len(sequences))]


def _plain_states(model: Model, sequences: Sequence[Sequence[int]], prompts: Sequence[int]) -> list[Tensor]:
    """The same of the plain model for sequences and the lengths of their prompts, in the fastest way it has."""
    found: dict[int, Tensor] = {}
    with evaluating(model.hf):
        longest = sorted(sequences, key=len)[-PROOF_SEQUENCES:]
        runs = PlainRuns(SplitModel(model.hf, model.layout), model.device, longest)
        for group in buckets([len(sequence) for sequence in sequences], RUN_TOKENS):
            wanted = [slice(prompts[k] - 1, len(sequences[k])) for k in group]
            finals = runs.finals([sequences[k] for k in group], wanted)
            found |= {k: states for k, (_, states) in zip(group, finals, strict=True)}
    return [found[k] for k in range(len(sequences))]


@torch.no_grad()
def log_likelihoods(
    model: Model, prompts: Sequence[RenderedPrompt], responses: Sequence[Sequence[int]], steering: Sequence[Row] = ()
) -> list[Tensor]:
    """Log-probability of every token of each response behind its prompt: (n,) float32 on the CPU.

    Arguments as in `final_states`.
    """
    if not responses:
        return []
    return likelihoods_at(model, final_states(model, prompts, responses, steering), responses)


@torch.no_grad()
def likelihoods_at(model: Model, finals: Sequence[Tensor], responses: Sequence[Sequence[int]]) -> list[Tensor]:
    """Log-probability of every token of each response, from what `final_states` gave: (n,) float32 on the CPU."""
    tokens = torch.tensor([token for response in responses for token in response], device=model.device)
    found = [
        (logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=1)).cpu()
        for chosen, logits in zip(tokens.split(_chunk(model)), _logits(model, torch.cat(list(finals))), strict=True)
    ]
    return list(torch.cat(found).split([len(response) for response in responses]))


@torch.no_grad()
def kl_divergences(model: Model, finals: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """KL(p || q) in nats at every token, p from `finals` and q from `others` of the same shapes: (n,) float32 each."""
    found = []
    for p, q in zip(_logits(model, torch.cat(list(finals))), _logits(model, torch.cat(list(others))), strict=True):
        p, q = p.log_softmax(dim=1), q.log_softmax(dim=1)
        found.append((p.exp() * (p - q)).sum(dim=1).clamp_min(0).cpu())  # rounding may leave -1e-8
    return list(torch.cat(found).split([len(part) for part in finals]))


@torch.no_grad()
def js_divergences(model: Model, finals: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Jensen-Shannon divergence in nats (0 to ln 2) at every token, as `kl_divergences`: (n,) float32 each."""
    found = []
    for p, q in zip(_logits(model, torch.cat(list(finals))), _logits(model, torch.cat(list(others))), strict=True):
        # a token that is ruled out has log 0, which counts as a number: 0 * -inf is none
        p, q = p.log_softmax(dim=1).clamp_min(LEAST_LOG), q.log_softmax(dim=1).clamp_min(LEAST_LOG)
        middle = torch.logaddexp(p, q) - LN2
        both = p.exp() * (p - middle) + q.exp() * (q - middle)
        found.append((both.sum(dim=1) / 2).clamp(0, LN2).cpu())  # rounding may leave -1e-8
    return list(torch.cat(found).split([len(part) for part in finals]))


@torch.no_grad()
def most_likely(model: Model, finals: Sequence[Tensor]) -> list[Tensor]:
    """The most likely next token behind every token: (n,) int64 on the CPU for each of `finals` (n, d).

    Raises:
        InputError: Logits that are not finite, of which none is the largest.
    """
    found = []
    for logits in _logits(model, torch.cat(list(finals))):
        largest, tokens = logits.max(dim=1)
        if not torch.isfinite(largest).all():
            raise InputError(
                f"the logits are not finite; look for NaN in the weights of {model.name}, or load it in another dtype"
            )
        found.append(tokens.cpu())
    return list(torch.cat(found).split([len(part) for part in finals]))


def _logits(model: Model, finals: Tensor) -> Iterator[Tensor]:
    """Float32 logits (.., v) of head inputs (n, d), in chunks."""
    split = SplitModel(model.hf, model.layout)
    for part in finals.split(_chunk(model)):
        yield split.logits(part).float()


def _chunk(model: Model) -> int:
    return max(1, CHUNK_BYTES // (4 * SplitModel(model.hf, model.layout).vocabulary))
