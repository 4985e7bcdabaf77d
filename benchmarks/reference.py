"""A plain CDAS fit that does the work the published code does: the yardstick for parity and for speed.

The method is that of Bao et al., "Faithful Bi-Directional Model Steering via Distribution Matching and Distributed
Interchange Interventions" (arXiv 2602.05234). This file is written from a description of the published procedure and
keeps its costs, no more and no less, so that a comparison with it is honest:

- each minibatch runs three full forwards through `pyvene.IntervenableModel`: the source (only to read one state), the
  base with the interchange, and the source once more as the teacher;
- nothing is cached: every epoch computes everything again;
- logits cover the whole vocabulary at every position, and the scored positions are picked afterwards;
- all base and source sequences of a batch, of both directions, are right-padded to (longest + 1).

pyvene 0.1.8 works with transformers 5.23 as it is, without an adapter: its hooks take the plain tensor that a Llama
block returns there. Two habits of pyvene matter to a caller: every call strips ALL forward hooks from the model, and
building an `IntervenableModel` freezes the parameters and puts the model in eval mode.

Letters in shapes: b items of a minibatch, s padded length, n intervened positions, d hidden size, v vocabulary,
t scored tokens.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

with contextlib.redirect_stdout(io.StringIO()):  # pyvene prints an advertisement for nnsight when imported
    import pyvene

Pair = Mapping[str, str]
"""One contrast quadruple: negative_input, negative_output, positive_input, positive_output (raw, no template)."""

FACTOR_BATCH = 32
"""Prompts per forward when the factors are read, as in the published code."""


@dataclass(frozen=True)
class ReferenceRun:
    """What a reference fit computed, and how long it took.

    `seconds` covers tokenisation and training; reading the factors is `factor_seconds`, a separate stage there too.
    """

    vecs: np.ndarray
    """(steps + 1, d): the direction before the first and after each step."""
    jsd: np.ndarray
    """(minibatches,): the raw token-mean JSD of each, before any division."""
    n_tok: np.ndarray
    """(minibatches,): scored tokens of each."""
    factor_pos: float
    factor_neg: float
    seconds: float
    factor_seconds: float
    step_seconds: np.ndarray
    """(steps,): wall time of each optimiser step."""


@dataclass(frozen=True)
class Item:
    """One direction of one pair: the base that is intervened on and the source that teaches it."""

    base: Tensor
    source: Tensor
    base_prompt: int
    source_prompt: int
    source_position: int


@dataclass(frozen=True)
class Batch:
    """Padded tensors of one batch, both directions of each example in turn."""

    base: Tensor
    source: Tensor
    base_mask: Tensor
    source_mask: Tensor
    base_scored: Tensor
    source_scored: Tensor
    base_locations: Tensor
    source_locations: Tensor


class Interchange(pyvene.TrainableIntervention, pyvene.DistributedRepresentationIntervention):
    """h + (<w, h_src> - <w, h>) w, with one trainable direction w."""

    def __init__(self, init: Tensor) -> None:
        super().__init__(embed_dim=init.numel(), keep_last_dim=True)
        self.direction = nn.Parameter(init.detach().clone().float())

    def forward(self, base: Tensor, source: Tensor, subspaces: object = None) -> Tensor:
        """Base and source (b, n, d) -> (b, n, d); projections in float32, as w is kept."""
        w = self.direction
        gap = source.to(w.dtype) @ w - base.to(w.dtype) @ w  # (b, n)
        return (base + gap.unsqueeze(-1) * w).to(base.dtype)


class Clamp(pyvene.SourcelessIntervention, pyvene.TrainableIntervention, pyvene.DistributedRepresentationIntervention):
    """h + (a - <w, h>) w with a fixed value a: the published inference."""

    def __init__(self, direction: Tensor, value: float) -> None:
        super().__init__(embed_dim=direction.numel(), keep_last_dim=True)
        self.is_source_constant = True
        self.register_buffer("direction", direction.detach().clone().float())
        self.value = value

    def forward(self, base: Tensor, source: Tensor | None = None, subspaces: object = None) -> Tensor:
        """Base (b, n, d) -> (b, n, d)."""
        gap = self.value - base.to(self.direction.dtype) @ self.direction
        return (base + gap.unsqueeze(-1) * self.direction).to(base.dtype)


def fit_reference(
    hf: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    layer: int,
    epochs: int,
    batch_size: int,
    lr: float,
    init: np.ndarray,
    order: np.ndarray,
    source_tokens: str,
) -> ReferenceRun:
    """Fit one CDAS direction the published way.

    Args:
        hf: a causal language model whose blocks are `model.layers` (pyvene freezes it and strips its hooks).
        tokenizer: its tokenizer, with a chat template and a pad token.
        pairs: contrast pairs, raw texts.
        layer: 0-based block whose output is intervened on.
        epochs: passes over the pairs.
        batch_size: pairs per optimiser step; each gives two minibatches of as many items.
        lr: learning rate of the first step, falling linearly to 0.
        init: (d,) start vector of unit norm.
        order: (epochs, n) example indices.
        source_tokens: the assistant header; the source state is read at its last token.
    """
    started = time.perf_counter()
    items = prepare(tokenizer, pairs, source_tokens)
    prefix = prefix_length(tokenizer)
    interchange = Interchange(torch.as_tensor(init).to(hf.device))
    model = intervenable(hf, layer, interchange)
    batches = -(-len(pairs) // batch_size)
    optimizer = torch.optim.AdamW([interchange.direction], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0 - i / (epochs * batches))
    vecs, jsd, n_tok, step_seconds = [_numpy(interchange.direction)], [], [], []
    with _without_cache(hf):
        for epoch_order in np.asarray(order).reshape(epochs, len(pairs)):
            for chosen in _chunks(epoch_order, batch_size):
                step_started = time.perf_counter()
                batch = collate([item for i in chosen for item in items[int(i)]], tokenizer.pad_token_id, prefix)
                for rows in _minibatches(len(chosen)):
                    loss, scored = _minibatch_loss(model, batch, rows)
                    (loss / 2).backward()
                    jsd.append(float(loss.detach()))
                    n_tok.append(scored)
                _update(interchange, optimizer, schedule)
                vecs.append(_numpy(interchange.direction))
                step_seconds.append(time.perf_counter() - step_started)
        seconds = time.perf_counter() - started
        factors = read_factors(hf, tokenizer, pairs, layer, interchange.direction.detach(), source_tokens)
    return ReferenceRun(
        vecs=np.stack(vecs),
        jsd=np.asarray(jsd),
        n_tok=np.asarray(n_tok),
        factor_pos=factors[0],
        factor_neg=factors[1],
        seconds=seconds,
        factor_seconds=time.perf_counter() - started - seconds,
        step_seconds=np.asarray(step_seconds),
    )


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Token-mean JSD of logits (t, v), from softmaxes and the plain log of their mean, as published."""
    log_p, log_q = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    log_m = (0.5 * (student_logits.softmax(-1) + teacher_logits.softmax(-1))).log()
    to_p = nn.functional.kl_div(log_m, log_p, log_target=True, reduction="none")
    to_q = nn.functional.kl_div(log_m, log_q, log_target=True, reduction="none")
    return (0.5 * (to_p + to_q)).sum(-1).mean()


def intervenable(hf: Any, layer: int, intervention: nn.Module) -> pyvene.IntervenableModel:
    """The model with one intervention on the output of one block."""
    representation = {"layer": layer, "component": f"model.layers[{layer}].output", "intervention": intervention}
    model = pyvene.IntervenableModel(pyvene.IntervenableConfig(representations=[representation]), hf)
    model.set_device(hf.device)
    return model


def templated(tokenizer: Any, text: str) -> str:
    """One user turn with the generation prompt, without BOS: the tokenizer adds it again."""
    turn = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return rendered.removeprefix(tokenizer.bos_token or "")


def prefix_length(tokenizer: Any) -> int:
    """How many leading tokens two different user turns share."""
    first, second = (tokenizer(templated(tokenizer, text))["input_ids"] for text in ("a", "b"))
    return next(i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)


def last_index(ids: Sequence[int], wanted: Sequence[int]) -> int:
    """Index of the last token of the last occurrence of `wanted` in `ids`."""
    for start in range(len(ids) - len(wanted), -1, -1):
        if list(ids[start : start + len(wanted)]) == list(wanted):
            return start + len(wanted) - 1
    raise ValueError(f"the source tokens {list(wanted)} do not occur in the prompt {list(ids)}")


def prepare(tokenizer: Any, pairs: Sequence[Pair], source_tokens: str) -> list[tuple[Item, Item]]:
    """Tokenise each pair for both directions: (neg base <- pos source, pos base <- neg source)."""
    header = tokenizer.encode(source_tokens, add_special_tokens=False)
    items = []
    for pair in pairs:
        negative, positive = (templated(tokenizer, pair[key]) for key in ("negative_input", "positive_input"))
        elicit = _item(tokenizer, negative, positive, pair["positive_output"], header)
        suppress = _item(tokenizer, positive, negative, pair["negative_output"], header)
        items.append((elicit, suppress))
    return items


def collate(items: Sequence[Item], pad_id: int, prefix: int) -> Batch:
    """Right-pad base and source sequences of all items to one length, longest + 1."""
    length = 1 + max(max(len(item.base), len(item.source)) for item in items)
    widest = max(len(item.base) for item in items) - prefix
    base = torch.stack([_padded(item.base, length, pad_id) for item in items])
    source = torch.stack([_padded(item.source, length, pad_id) for item in items])
    return Batch(
        base=base,
        source=source,
        base_mask=(base != pad_id).long(),
        source_mask=(source != pad_id).long(),
        base_scored=torch.stack([_scored(item.base_prompt, len(item.base), length) for item in items]),
        source_scored=torch.stack([_scored(item.source_prompt, len(item.source), length) for item in items]),
        base_locations=torch.stack([_padded(torch.arange(prefix, len(i.base)), widest, len(i.base)) for i in items]),
        source_locations=torch.stack([_source_locations(item, widest, prefix) for item in items]),
    )


@torch.no_grad()
def read_factors(
    hf: Any, tokenizer: Any, pairs: Sequence[Pair], layer: int, direction: Tensor, source_tokens: str
) -> tuple[float, float]:
    """Mean coordinate of positive and negative prompts at the source position, each value rounded to 3 decimals."""
    means = []
    for key in ("positive_input", "negative_input"):
        texts = [_cut(templated(tokenizer, pair[key]), source_tokens) for pair in pairs]
        values = [
            v for chunk in _chunks(texts, FACTOR_BATCH) for v in _last_values(hf, tokenizer, chunk, layer, direction)
        ]
        means.append(float(np.mean(values)))
    return means[0], means[1]


@torch.no_grad()
def generate_clamped(
    hf: Any, tokenizer: Any, text: str, *, layer: int, direction: np.ndarray, value: float, max_new_tokens: int
) -> str:
    """Greedy continuation of an already templated text, clamped after the prefix; no cache, one text at a time."""
    model = intervenable(hf, layer, Clamp(torch.as_tensor(direction).to(hf.device), value))
    ids = tokenizer(text, return_tensors="pt")["input_ids"].to(hf.device)
    prompt, prefix = ids.shape[1], prefix_length(tokenizer)
    for _ in range(max_new_tokens):
        locations = [[list(range(prefix, ids.shape[1]))]]
        outputs = model({"input_ids": ids}, unit_locations={"sources->base": (None, locations)}, use_cache=False)
        chosen = outputs[1].logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, chosen], dim=1)
        if int(chosen) == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[0, prompt:], skip_special_tokens=True)


def _minibatch_loss(model: pyvene.IntervenableModel, batch: Batch, rows: slice) -> tuple[Tensor, int]:
    """JSD of one minibatch and the number of its scored tokens; source, base and teacher forwards."""
    base = {"input_ids": batch.base[rows], "attention_mask": batch.base_mask[rows]}
    source = {"input_ids": batch.source[rows], "attention_mask": batch.source_mask[rows]}
    locations = ([batch.source_locations[rows].tolist()], [batch.base_locations[rows].tolist()])
    _, student = model(base, sources=[source], unit_locations={"sources->base": locations}, use_cache=False)
    with torch.no_grad():
        teacher = model.model(**source)
    picked = _pick(student.logits, batch.base_scored[rows])
    return jensen_shannon(picked, _pick(teacher.logits, batch.source_scored[rows])), len(picked)


def _update(
    interchange: Interchange, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> None:
    """Clip, step, decay, and bring the direction back to unit norm."""
    torch.nn.utils.clip_grad_norm_([interchange.direction], 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    with torch.no_grad():
        w = interchange.direction
        w /= w.norm() + torch.finfo(w.dtype).eps


def _pick(logits: Tensor, scored: Tensor) -> Tensor:
    """Logits (b, s, v) at the scored positions (b, s - 1) -> (t, v), by way of a contiguous copy as published."""
    shifted = logits[:, :-1].contiguous()
    return shifted.view(-1, shifted.shape[-1])[scored.reshape(-1)]


def _item(tokenizer: Any, base: str, source: str, response: str, header: Sequence[int]) -> Item:
    """Tokenise prompt and prompt + response of both sides."""
    base_prompt, source_prompt = tokenizer(base)["input_ids"], tokenizer(source)["input_ids"]
    return Item(
        base=torch.tensor(tokenizer(base + response)["input_ids"]),
        source=torch.tensor(tokenizer(source + response)["input_ids"]),
        base_prompt=len(base_prompt),
        source_prompt=len(source_prompt),
        source_position=last_index(source_prompt, header),
    )


def _padded(ids: Tensor, length: int, fill: int) -> Tensor:
    return nn.functional.pad(ids, (0, length - len(ids)), value=fill)


def _scored(prompt: int, end: int, length: int) -> Tensor:
    """(length - 1,) mask of the positions whose next token is a response token."""
    mask = torch.zeros(length - 1, dtype=torch.bool)
    mask[prompt - 1 : end - 1] = True
    return mask


def _source_locations(item: Item, widest: int, prefix: int) -> Tensor:
    """The source position once for each intervened base position, then the first pad position."""
    return _padded(torch.full((len(item.base) - prefix,), item.source_position), widest, len(item.source))


def _cut(text: str, source_tokens: str) -> str:
    """The text up to the end of the last occurrence of the source tokens."""
    return text[: text.rindex(source_tokens) + len(source_tokens)]


def _last_values(hf: Any, tokenizer: Any, texts: Sequence[str], layer: int, direction: Tensor) -> list[float]:
    """<w, h> at the last token of each text, from one plain full forward."""
    inputs = tokenizer(list(texts), return_tensors="pt", padding=True, padding_side="right").to(hf.device)
    states: list[Tensor] = []
    hook = hf.model.layers[layer].register_forward_hook(lambda *call: states.append(_tensor(call[-1])))
    try:
        hf(**inputs)
    finally:
        hook.remove()
    coordinates = states[0].to(direction.dtype) @ direction  # (b, s)
    last = inputs["attention_mask"].sum(-1) - 1
    return [round(float(row[i]), 3) for row, i in zip(coordinates, last, strict=True)]


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _numpy(direction: Tensor) -> np.ndarray:
    return direction.detach().cpu().numpy().copy()


def _chunks(sequence: Any, size: int) -> Iterator[Any]:
    return (sequence[start : start + size] for start in range(0, len(sequence), size))


def _minibatches(pairs: int) -> tuple[slice, slice]:
    """The 2 * pairs items of a batch, cut in two consecutive minibatches."""
    return slice(0, pairs), slice(pairs, 2 * pairs)


@contextlib.contextmanager
def _without_cache(hf: Any) -> Iterator[None]:
    """No key-value cache in any forward: the published code loads its models with `use_cache=False`."""
    before = hf.config.use_cache
    hf.config.use_cache = False
    try:
        yield
    finally:
        hf.config.use_cache = before
