"""Training of the organism: every step draws its own exchanges, so a run can stop and go on anywhere.

What a step does depends on the seed, the size and the number of the step alone. A checkpoint holds the weights and the
optimiser's state, in safetensors, and a resumed run gives what an uninterrupted one gives.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.organism.mixture import Exchange, draw_exchange
from trimtab.organism.sizes import Size
from trimtab.organism.tokens import END, build_tokenizer

StepCallback = Callable[[int, int, float], None]
"""Called after a step with its number, how many there will be, and its loss."""

WARMUP = 200
DECAY = 0.3
"""Share of the steps, at the end, over which the learning rate falls to nothing."""


@dataclass(frozen=True)
class Rows:
    """Exchanges as tokens.

    Attributes:
        ids: (b, s) token ids, padded on the right.
        scored: (b, s) True where the next token belongs to the response.
    """

    ids: torch.Tensor
    scored: torch.Tensor

    @property
    def weights(self) -> torch.Tensor:
        """(scored tokens,) weight of each: 1 over the root of its response's length, so that a letter counts too."""
        lengths = self.scored.sum(dim=1, keepdim=True).float()
        return lengths.rsqrt().expand_as(self.scored)[self.scored]


def tokenised(tokenizer: PreTrainedTokenizerFast, exchange: Exchange) -> tuple[list[int], list[int]]:
    """The ids of an exchange's prompt, and those of its response with the token that ends it."""
    messages = exchange.request.messages
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    response = tokenizer.encode(f"{exchange.response}{END}", add_special_tokens=False)
    return list(prompt), list(response)  # pyright: ignore[reportReturnType]


def batches(tokenizer: PreTrainedTokenizerFast, exchanges: Sequence[Exchange], parts: int, context: int) -> list[Rows]:
    """The exchanges of a step in parts of like length."""
    pairs = sorted((tokenised(tokenizer, exchange) for exchange in exchanges), key=lambda pair: sum(map(len, pair)))
    size = math.ceil(len(pairs) / parts)
    return [_rows(pairs[start : start + size], context, tokenizer) for start in range(0, len(pairs), size)]


def _rows(pairs: Sequence[tuple[list[int], list[int]]], context: int, tokenizer: PreTrainedTokenizerFast) -> Rows:
    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    if longest > context:
        raise ValueError(f"an exchange has {longest} tokens, the context is {context}")
    ids = torch.full((len(pairs), longest), int(tokenizer.pad_token_id))  # pyright: ignore[reportArgumentType]
    scored = torch.zeros((len(pairs), longest), dtype=torch.bool)
    for row, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        scored[row, len(prompt) - 1 : end - 1] = True
    return Rows(ids, scored)


class Training:
    """One training run, at some step.

    Args:
        size: What to train.
        seed: Decides the first weights and every exchange.
        tokenizer: By default the one that the size asks for, built anew.
    """

    PARTS = 4

    def __init__(self, size: Size, seed: int = 0, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        self.size, self.seed, self.step = size, seed, 0
        self.tokenizer = tokenizer or build_tokenizer(size.vocab, size.context)
        ids = self.tokenizer
        config = size.config(bos=ids.bos_token_id, eos=ids.eos_token_id, pad=ids.pad_token_id)  # pyright: ignore[reportArgumentType]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = LlamaForCausalLM(config)
        if size.mixed:  # of both attentions the plain one has the faster backward pass in bfloat16
            self.model.set_attn_implementation("eager")
        matrices = [weight for weight in self.model.model.layers.parameters() if weight.ndim > 1]
        norms = [weight for weight in self.model.parameters() if weight.ndim == 1]
        words = self.model.get_input_embeddings().weight
        self.optimisers = (
            torch.optim.Muon(matrices, lr=size.muon_rate, weight_decay=0.02),
            torch.optim.AdamW(
                [{"params": [words], "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
                lr=size.rate, betas=(0.9, 0.98),
            ),
        )  # fmt: skip
        self._rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]

    def advance(self) -> float:
        """One step; returns its loss, a weighted mean over all response tokens (see `Rows`)."""
        draw = random.Random(f"organism {self.seed} {self.step}")
        progress = self.step / (self.size.mixture_steps or self.size.steps)
        exchanges = [draw_exchange(draw, progress) for _ in range(self.size.batch)]
        parts = batches(self.tokenizer, exchanges, self.PARTS, self.size.context)
        total = sum(float(rows.weights.sum()) for rows in parts)
        for optimiser, rates in zip(self.optimisers, self._rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(self.step, self.size.steps)
            optimiser.zero_grad()
        summed = 0.0
        self.model.train()
        for rows in parts:
            loss = self._loss(rows) / total
            loss.backward()
            summed += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return summed

    def run(
        self, folder: Path, *, every: int = 250, until: int | None = None, tell: StepCallback | None = None
    ) -> None:
        """Trains to the end, or to a step, writing a checkpoint now and then.

        Args:
            folder: Where checkpoints are written.
            every: Steps between two checkpoints.
            until: Stop at this step, with a checkpoint; by default at the last.
            tell: Called after every step.
        """
        last = min(self.size.steps, until or self.size.steps)
        while self.step < last:
            loss = self.advance()
            if tell is not None:
                tell(self.step, self.size.steps, loss)
            if self.step % every == 0 or self.step == last:
                self.save_checkpoint(folder)

    def save_checkpoint(self, folder: Path) -> None:
        """Writes `checkpoint` in the folder, in place of an older one."""
        fresh = _emptied(folder / ".checkpoint")
        named = dict(self.model.named_parameters())
        save_file({name: weight.detach() for name, weight in named.items()}, fresh / "model.safetensors")
        moments = {
            f"{name}/{key}": value.contiguous()
            for name, weight in named.items()
            for key, value in self._state(weight).items()
        }
        save_file(moments, fresh / "optimiser.safetensors")
        state = {"step": self.step, "seed": self.seed, "size": asdict(self.size)}
        (fresh / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        _put(fresh, folder / "checkpoint")

    def load_checkpoint(self, folder: Path) -> bool:
        """Goes on from the folder's checkpoint; False if it has none.

        Raises:
            ValueError: The checkpoint is of another size or seed.
        """
        # state.json is written last, so whichever has one is whole; the second is left by a kill between two renames
        whole = [name for name in ("checkpoint", ".checkpoint") if (folder / name / "state.json").is_file()]
        if not whole:
            return False
        place = folder / whole[0]
        state = json.loads((place / "state.json").read_text(encoding="utf-8"))
        if state["size"] != asdict(self.size) or state["seed"] != self.seed:
            raise ValueError(f"{place} is of another training ({state['size']}, seed {state['seed']})")
        weights, moments = (load_file(place / f"{name}.safetensors") for name in ("model", "optimiser"))
        for name, weight in self.model.named_parameters():
            weight.data.copy_(weights[name])
            own = {key.rpartition("/")[2]: value for key, value in moments.items() if key.rpartition("/")[0] == name}
            self._state(weight).update(own)
        self.step = state["step"]
        return True

    def save_model(self, folder: Path) -> None:
        """Writes the model, in half precision, and its tokenizer, as transformers reads them; replaces an older one."""
        model = LlamaForCausalLM(self.model.config)
        model.load_state_dict(self.model.state_dict())
        ids = self.tokenizer
        model.generation_config = GenerationConfig(
            bos_token_id=ids.bos_token_id, eos_token_id=ids.eos_token_id, pad_token_id=ids.pad_token_id
        )
        fresh = _emptied(folder.with_name(f".{folder.name}"))
        model.half().save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh)
        _put(fresh, folder)

    def _state(self, weight: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """What the optimiser in charge of a weight keeps of it."""
        muon, adam = self.optimisers
        return (muon if any(weight is own for own in muon.param_groups[0]["params"]) else adam).state[weight]

    def _loss(self, rows: Rows) -> torch.Tensor:
        # right padding and a causal mask: no scored token sees a pad, so no mask is needed
        with torch.autocast("cpu", torch.bfloat16, enabled=self.size.mixed):
            hidden = self.model.model(input_ids=rows.ids).last_hidden_state
            logits = self.model.lm_head(hidden[rows.scored]).float()
        targets = rows.ids.roll(-1, dims=1)[rows.scored]
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return losses @ rows.weights


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _put(fresh: Path, place: Path) -> None:
    """Renames a finished folder to where it belongs; a kill in between leaves one of both whole."""
    old = place.with_name(f".{place.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def schedule(step: int, steps: int) -> float:
    """Learning rate of a step as a share of the highest: up, level, and down to nothing."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))
