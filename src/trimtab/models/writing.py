"""Write answers to one batch of prompts. Rows that have ended leave it, so that the others need not wait for them.

`generate` computes every row until the last has ended. Here it is stopped when a quarter of the rows have, and goes on
with the others from the same key-value cache; what is written stays the same. A batch is left alone where that cannot
be relied on: caches that rows cannot be taken from (recurrent models', static and quantised ones), models that have
more than a language model inside and may keep rows elsewhere, and Apple's GPUs, where `generate` looks a token late at
what stops it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from trimtab.models.apply import steer
from trimtab.models.kvcache import RoomyLayer, roomy_cache
from trimtab.models.layout import evaluating
from trimtab.models.sampling import GenerationProgress, RowSampling
from trimtab.models.versions import CACHE
from trimtab.steering import PromptGate, Steering

_UNSET = (
    *("temperature", "top_k", "top_p", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "guidance_scale", "sequence_bias", "bad_words_ids", "suppress_tokens"),
    *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "min_length", "min_new_tokens"),
    *("exponential_decay_length_penalty", "max_time", "stop_strings", "remove_invalid_values", "renormalize_logits"),
    *("watermarking_config", "token_healing", "dola_layers", "prompt_lookup_num_tokens"),
)
_ONE_EACH = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": True}
_KEPT = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
GREEDY: dict[str, object] = {**_ONE_EACH, **dict.fromkeys(_KEPT, False), **dict.fromkeys(_UNSET)}
"""Nothing that a model's own generation settings hold comes between its logits and the choice of a token.

Some of it would make a row's text depend on its pads or the clock, or be refused in a batch. Where a text ends
(`eos_token_id`) stays the model's business.
"""
SELECTABLE = (RoomyLayer, DynamicLayer, DynamicSlidingWindowLayer)
FEWEST = 8
"""A batch of fewer rows costs about as much as one row."""

Ids = tuple[int, ...]


class Writer:
    """Writes answers with one model.

    Args:
        hf: The model.
        pad: The id that fills rows on the left.
    """

    def __init__(self, hf: PreTrainedModel, pad: int) -> None:
        self._hf, self._pad = hf, pad
        self._can_thin = hf.config.get_text_config() is hf.config  # until its cache shows otherwise

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        config = self._hf.generation_config
        found = None if config is None else config.eos_token_id
        return frozenset() if found is None else frozenset([found] if isinstance(found, int) else found)

    @torch.no_grad()
    def write(
        self,
        prompts: Sequence[Ids],
        rows: Sequence[Steering | None],
        most: int,
        columns: GenerationProgress,
        *,
        temperature: float = 0.0,
        seeds: Sequence[int] = (),
    ) -> list[Ids]:
        """Answer the prompts of one batch.

        Args:
            prompts: Token ids.
            rows: What steers each.
            most: New tokens a row, at most.
            columns: Told of every column.
            temperature: 0 = greedy.
            seeds: One a row, for sampling.

        Returns:
            For each prompt the ids it was answered with, the token that ended the answer included.
        """
        longest = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._hf.get_input_embeddings().weight.device
        ids, mask = ids.to(device), mask.to(device)  # pyright: ignore[reportArgumentType,reportCallIssue]
        noise = RowSampling(temperature, seeds) if temperature > 0 else None
        may_thin = self._may_thin(prompts, rows)
        left, cache = list(range(len(prompts))), roomy_cache(self._hf, longest + most) if self._can_thin else None
        answers: list[Ids] = [()] * len(prompts)
        while True:
            thinning = Thinning(self.ends) if may_thin and len(left) > FEWEST else None
            found = self._generate(
                ids,
                mask,
                cache,
                steering=[rows[k] for k in left],
                lengths=[len(prompts[k]) for k in left],
                most=longest + most - ids.shape[1],
                processors=[*([] if noise is None else [noise.of(left)]), columns],
                thinning=thinning,
                goes_on=len(left) < len(prompts),
            )
            ids = found.sequences
            for k, row in zip(left, ids[:, longest:].tolist(), strict=True):
                answers[k] = _up_to_end(row, self.ends)
            if thinning is None or not thinning.has_stopped or ids.shape[1] == longest + most:
                return answers
            cache = getattr(found, CACHE)
            if not _is_selectable(cache):
                self._can_thin = False
                columns.restart_batch()
                del found, cache  # or there are two of them
                return self.write(prompts, rows, most, columns, temperature=temperature, seeds=seeds)
            going = (~thinning.ended).nonzero()[:, 0].cpu()  # layers may lie on several devices
            cache.batch_select_indices(going)
            ids, left = ids[going], [left[place] for place in going.tolist()]
            mask = torch.cat([mask[going, :longest], torch.ones_like(ids[:, longest:])], dim=1)

    def _may_thin(self, prompts: Sequence[Ids], rows: Sequence[Steering | None]) -> bool:
        """Whether rows may leave this batch.

        Steering that is entered with a filled cache takes it that every row's prefix is on it, and no longer knows
        what the prompts were like.
        """
        config = self._hf.generation_config
        asked_for = None if config is None else config.cache_implementation
        prefix = max((len(row.prefix_ids) for row in rows if row is not None), default=0)
        return (
            self._can_thin
            and bool(self.ends)
            and asked_for is None
            and self._hf.device.type != "mps"
            and min(map(len, prompts)) >= prefix
            and not any(isinstance(i.gate, PromptGate) for row in rows if row is not None for i in row.interventions)
        )

    def _generate(
        self,
        ids: Tensor,
        mask: Tensor,
        cache: DynamicCache | None,
        *,
        steering: Sequence[Steering | None],
        lengths: Sequence[int],
        most: int,
        processors: list[Any],
        thinning: Thinning | None,
        goes_on: bool,
    ) -> Any:
        given: dict[str, Any] = {} if cache is None else {CACHE: cache}
        needs_prompt = any(i.positions.needs_prompt for row in steering if row is not None for i in row.interventions)
        known = lengths if goes_on and needs_prompt else None
        with steer(self._hf, steering, prompt_lengths=known), evaluating(self._hf):
            return self._hf.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=most,
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList([] if thinning is None else [thinning]),
                pad_token_id=self._pad,
                **given,
                **GREEDY,
            )


class Thinning(StoppingCriteria):
    """Stops a batch when a quarter of its rows have ended, unless all have.

    Going on costs a copy of the cache: at a half more is wasted on ended rows, at an eighth more on copies (measured on
    batches of 256).

    Attributes:
        ended: (b,) bool, the rows that have.
        has_stopped: Whether it was this that stopped the batch.
    """

    def __init__(self, ends: frozenset[int]) -> None:
        self._ends = torch.tensor(sorted(ends))
        self.ended = torch.zeros(0, dtype=torch.bool)
        self.has_stopped = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Whether each row (b,) is to stop: all or none."""
        last = torch.isin(input_ids[:, -1], self._ends.to(input_ids.device))
        self.ended = self.ended.to(last.device) | last if len(self.ended) else last
        n = int(self.ended.sum())
        self.has_stopped = len(last) <= 4 * n < 4 * len(last)
        return torch.full_like(last, self.has_stopped)


def _is_selectable(cache: Any) -> bool:
    """Whether rows can be taken from a cache: all of its layers keep keys and values as they come."""
    return type(cache) is DynamicCache and all(type(layer) in SELECTABLE for layer in cache.layers)


def _up_to_end(ids: Sequence[int], ends: frozenset[int]) -> Ids:
    """The ids without the pads that follow an ended answer."""
    return tuple(ids[: next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))])
