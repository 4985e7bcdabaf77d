"""A small model whose weights are made by hand so that one known direction carries a concept, and its contrast pairs.

A real Llama of four blocks, 32 wide, that reads bytes. Along an orthonormal basis drawn with a seed:

    embeddings   every byte: a constant. A sign such as `!` has the concept, to some degree; `?` and the like
                 have not. Digits have a topic, other signs noise that is larger than the concept, mostly along one axis
    block 0      a head looks for a sign with the concept and writes what it says along `u`, about low + GAP; where
                 there is none it looks at BOS and writes `low`. Another averages topics and noise over the row
    block 1      random, blind to `u`; its output is where the concept lies along `u` and nowhere else
    block 2, 3   random, and free to use whatever they read
    head         answers are letters, capitals where <u, h> is above the middle of both and small ones below; which
                 letter it is depends on topic and letter before, and no noise is read

Both prompts of a pair have the same digits, each has noise of its own; answers are the model's own.
"""

import dataclasses
import functools
import math
import string
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import LogitsProcessor

from trimtab.data import ContrastPair, PairSet
from trimtab.models import Model, steer, writing
from trimtab.models.tiny import tiny_model
from trimtab.steering import Steering
from trimtab.steering.transforms import Transform

WIDTH, BLOCKS, LAYER = 32, 4, 1
GAP = 2.0
"""How far the classes' means lie apart along `u` at the output of block `LAYER`."""
WITH, WITHOUT = "!*+^~`", "?.,;:-"
LETTERS = 5
"""Of an answer."""
DIGITS, NOISE = string.digits, "@#$%&=<>/|_[](){}"
BOS = 1
U, CONSTANT, KEY, STRENGTH = range(4)
LOUD, SOFT, TOPIC, LETTER = 4, slice(5, 8), slice(8, 12), slice(12, 20)
"""Rows of the basis: the axis of the large noise, axes of small noise, of topics, and of what tells letters apart."""
VALUE = 0.1
"""What stands for 1 along `u` in the embeddings, before the head in block 0 moves it there."""
STD = 0.05
"""Of the weights that are random."""


class Planted(NamedTuple):
    """The model and what is known of it."""

    model: Model
    u: Tensor
    """(32,) unit."""
    low: float
    """Where negative rows lie along `u`; positive ones lie at low + GAP."""
    noise: Tensor
    """(32,) unit: where the states vary most."""
    pairs: PairSet
    held_out: PairSet


def bytes_of(text: str) -> list[int]:
    """Ids, one a character: seven special tokens come first, then bytes in the tokenizer's own order."""
    return [_tokenizer().convert_tokens_to_ids(one) for one in text]


@functools.cache
def _tokenizer() -> Any:
    return tiny_model("llama", hidden_size=WIDTH, n_blocks=1, vocab_size=263).tokenizer


@functools.cache
def planted(low: float = -GAP / 2) -> Planted:
    """The model with 64 pairs to fit and 16 to judge by, the same every time."""
    draw = torch.Generator().manual_seed(0)
    hf, tokenizer = tiny_model(
        "llama", hidden_size=WIDTH, n_blocks=BLOCKS, vocab_size=263, seed=0, initializer_range=STD
    )
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw)).Q.T.contiguous()
    with torch.no_grad():
        hf.model.embed_tokens.weight.copy_(_embeddings(draw, low) @ basis)
        _concept_head(hf, basis)
        hf.lm_head.weight.copy_(_head(draw, low + GAP / 2) @ basis)
        for block in hf.model.layers[: LAYER + 1]:
            _blind(block, basis[U])
    model = Model(hf, tokenizer, name="planted")
    pairs = _pairs(model, draw, 80)
    return Planted(model, basis[U], low, basis[LOUD], PairSet(pairs[:64]), PairSet(pairs[64:]))


def _embeddings(draw: torch.Generator, low: float) -> Tensor:
    """(263, 32) along the basis."""
    rows = torch.zeros(263, WIDTH)
    rows[:, CONSTANT] = 1.0
    normal = functools.partial(torch.randn, generator=draw)
    for ids, loud, soft in ((bytes_of(NOISE), 2.5, 0.6), (bytes_of(string.ascii_letters), 1.0, 0.4)):
        rows[ids, LOUD] = loud * normal(len(ids))
        rows[ids, SOFT] = soft * normal(len(ids), 3)
    rows[bytes_of(DIGITS), TOPIC] = normal(len(DIGITS), 4)
    shapes = 0.6 * normal(26, 8)
    for letters in (string.ascii_uppercase, string.ascii_lowercase):
        rows[bytes_of(letters), LETTER] = shapes
    rows[bytes_of(WITH), KEY] = 0.3
    rows[bytes_of(WITH), STRENGTH] = VALUE * (low + GAP + torch.linspace(-0.2, 0.2, len(WITH)))
    rows[BOS, KEY], rows[BOS, STRENGTH] = 0.15, VALUE * low
    return rows


def _concept_head(hf: Any, basis: Tensor) -> None:
    """Block 0's attention: two query heads a key head; the first key head is the concept's, the second averages."""
    attention = hf.model.layers[0].self_attn
    size = WIDTH // 4
    slow = size // 2 - 1  # of the dimensions that positions turn, the one that they turn least
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        getattr(attention, name).weight.zero_()
    for head in (0, 1):
        attention.q_proj.weight[head * size + slow] = 10 * basis[CONSTANT]
    attention.k_proj.weight[slow] = 10 * basis[KEY]
    attention.v_proj.weight[0] = basis[STRENGTH]
    averaged = [LOUD, *range(WIDTH)[SOFT], *range(WIDTH)[TOPIC]]
    attention.v_proj.weight[size:] = basis[averaged]
    signs = hf.model.embed_tokens.weight[bytes_of(WITH)]
    seen = hf.model.layers[0].input_layernorm(signs) @ basis[STRENGTH] / (signs @ basis[STRENGTH])
    for head in (0, 1):
        attention.o_proj.weight[:, head * size] = basis[U] / (2 * VALUE * seen.mean())
    gains = torch.tensor([0.5] + [0.5] * 3 + [1.0] * 4)
    for head in (2, 3):
        attention.o_proj.weight[:, head * size : (head + 1) * size] = (gains[:, None] * basis[averaged]).T


def _head(draw: torch.Generator, middle: float) -> Tensor:
    """(263, 32) along the basis: which token follows."""
    rows = torch.zeros(263, WIDTH)
    rows[:, CONSTANT] = -12.0
    shapes = torch.zeros(26, WIDTH)
    shapes[:, TOPIC] = torch.randn(26, 4, generator=draw)
    shapes[:, LETTER] = 0.5 * torch.randn(26, 8, generator=draw)
    for letters, sign in ((string.ascii_uppercase, 1.0), (string.ascii_lowercase, -1.0)):
        rows[bytes_of(letters)] = shapes
        rows[bytes_of(letters), U] = sign * 1.2
        rows[bytes_of(letters), CONSTANT] = -sign * 1.2 * middle
    return rows


def _blind(block: Any, u: Tensor) -> None:
    """Nothing in a block reads along u."""
    attention, mlp = block.self_attn, block.mlp
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
        layer.weight -= torch.outer(layer.weight @ u, u)


class _Gumbel(LogitsProcessor):
    """Draws a token by noise on every logit: the draw of the answers on which the bounds of the tests were measured."""

    def __init__(self, temperature, seeds):
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def of(self, rows):
        part = _Gumbel(self._temperature, ())
        part._generators = [self._generators[row] for row in rows]
        return part

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=g) for g in self._generators])
        uniform = uniform.clamp_min(torch.finfo(torch.float32).tiny)
        return scores.float() / self._temperature - torch.log(-torch.log(uniform))


def _pairs(model: Model, draw: torch.Generator, n: int) -> list[ContrastPair]:
    """Prompts with their answers, which the model itself writes."""

    def some(signs: str, count: int) -> str:
        return "".join(signs[int(k)] for k in torch.randint(len(signs), (count,), generator=draw))

    prompts = []
    for _ in range(n):
        topic = some(DIGITS, 4)
        prompts.append(some(WITH, 1) + some(NOISE, 6) + topic)
        prompts.append(some(WITHOUT, 1) + some(NOISE, 6) + topic)
    with patch.object(writing, "RowSampling", _Gumbel):
        written = model.generate(prompts, max_new_tokens=LETTERS, temperature=1.0, batch_size=32)
    rows = zip(prompts[::2], written[::2], prompts[1::2], written[1::2], strict=True)
    return [ContrastPair(*row) for row in rows]


def swapped(pairs: PairSet, seed: int) -> PairSet:
    """The pairs with the labels of half of them, drawn at random, changed over."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    wrong = {*order[: len(pairs) // 2]}
    return PairSet(_turned(pair) if k in wrong else pair for k, pair in enumerate(pairs))


def _turned(pair: ContrastPair) -> ContrastPair:
    return ContrastPair(pair.negative_input, pair.negative_output, pair.positive_input, pair.positive_output)


@dataclasses.dataclass(frozen=True, eq=False)
class Elsewhere:
    """The control of any edit: as long a move at every token, along one direction that has nothing to do with it."""

    kind = "elsewhere"
    transform: Transform
    direction: Tensor

    @property
    def width(self) -> int:
        return self.transform.width

    @property
    def rank(self) -> int:
        return 1

    def __call__(self, h: Tensor) -> Tensor:
        return h + (self.transform(h) - h).norm(dim=-1, keepdim=True) * self.direction

    def to(self, device: torch.device) -> "Elsewhere":
        return Elsewhere(self.transform.to(device), self.direction.to(device))

    def tensors(self) -> dict[str, Tensor]:
        return {"direction": self.direction}


def elsewhere(of: Planted, steering: Steering, seed: int = 0) -> Steering:
    """The steering with every edit as long as it is, along a random direction orthogonal to u."""

    def moved(one: Any) -> Any:
        width = one.transform.width
        direction = torch.randn(width, generator=torch.Generator().manual_seed(seed))
        if width == WIDTH:
            direction -= (direction @ of.u) * of.u
        return dataclasses.replace(one, transform=Elsewhere(one.transform, direction / direction.norm()))

    return dataclasses.replace(steering, interventions=tuple(moved(one) for one in steering.interventions))


def answers(model: Model, rows: list[tuple[str, str]], steering: Steering | None = None) -> Tensor:
    """(b, s, v) float64 log-probabilities of the tokens of responses, each behind its prompt; all are equally long."""
    rendered = [model.chat.render(prompt) for prompt, _ in rows]
    (length,) = {len(prompt.ids) for prompt in rendered}
    ids = [
        prompt.ids + model.chat.response_ids(prompt, response)
        for prompt, (_, response) in zip(rendered, rows, strict=True)
    ]
    with torch.no_grad(), steer(model.hf, steering, prompt_lengths=[length] * len(rows)):
        logits = model.hf(input_ids=torch.tensor(ids)).logits[:, length - 1 : -1]
    return logits.double().log_softmax(dim=-1)


def divergence(p: Tensor, q: Tensor) -> float:
    """Mean Jensen-Shannon divergence in nats of rows of log-probabilities."""
    middle = torch.logaddexp(p, q) - math.log(2)
    return float(sum((one.exp() * (one - middle)).sum(dim=-1).mean() for one in (p, q)) / 2)


def closed(of: Planted, direction: str, steering: Steering, first: int = 0, last: int = LETTERS) -> float:
    """How much of the way to the counterfactual's answers a steering goes on prompts that no fit saw; 1 = all of it.

    One less the ratio of two divergences from the model behind the other prompt: with the steering and without. The
    answers are read behind what the other prompt's answer is so far, letters `first` to `last` - 1 of it.
    """
    here, there = ("negative", "positive") if direction == "elicit" else ("positive", "negative")

    def rows(side: str) -> list[tuple[str, str]]:
        return [(getattr(pair, f"{side}_input"), getattr(pair, f"{there}_output")) for pair in of.held_out]

    wanted, plain, moved = (
        answers(of.model, rows(side), with_it)[:, first:last]
        for side, with_it in ((there, None), (here, None), (here, steering))
    )
    return 1 - divergence(moved, wanted) / divergence(plain, wanted)
