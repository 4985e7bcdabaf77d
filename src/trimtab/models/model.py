"""A language model as trimtab sees it: the Hugging Face model, untouched, with tokenizer, layout and chat format."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.errors import InputError
from trimtab.models.apply import Row, resolve
from trimtab.models.chat import ChatFormat, Prompt, RenderedPrompt
from trimtab.models.compat import adopted, require_fit
from trimtab.models.layout import CheckedLayout, check_layout, find_layout
from trimtab.models.sampling import GenerationProgress
from trimtab.models.writing import Writer
from trimtab.progress import ProgressCallback
from trimtab.steering import ModelCard, Steering, SteeringVector


class Model:
    """Wraps, never forks, a Hugging Face causal language model.

    Args:
        hf: The model. Its weights, modes and hooks are left as they are.
        tokenizer: Its tokenizer.
        name: What to call it in vectors and messages; the model's own `name_or_path` by default.
        revision: Commit or branch it was loaded from; `load_model` gives the commit.
        source_tokens: Text whose last token in a rendered prompt is the source position, instead of the last token of
            the assistant header.

    Attributes:
        changed_by: The method of the baseline that is at work on the model (`trimtab.applied`), if one is.

    Raises:
        InputError: The model is not a causal stack of decoder blocks, or its template cannot render a user turn.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        revision: str | None = None,
        source_tokens: str | None = None,
    ) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.name = name or hf.name_or_path or type(hf).__name__
        self.revision = revision
        self.changed_by: str | None = None
        self.layout: CheckedLayout = check_layout(hf, find_layout(hf))
        self.chat = ChatFormat(tokenizer, source_tokens=source_tokens)
        self._writer = Writer(hf, self._pad_id())

    @property
    def hidden_size(self) -> int:
        """Width d of the residual stream."""
        return self.layout.hidden_size

    @property
    def n_blocks(self) -> int:
        """Number of blocks; layers are 0 to n_blocks - 1."""
        return self.layout.n_blocks

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return self.hf.get_input_embeddings().weight.device  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.hf.dtype

    @property
    def attention(self) -> str | None:
        """Name of the attention kernel, as transformers knows it."""
        return self.hf.config.get_text_config()._attn_implementation

    @property
    def context_length(self) -> int | None:
        """Most tokens a sequence may have, or None if the configuration names no limit."""
        config = self.hf.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    def card(self) -> ModelCard:
        """What a vector made for this model keeps of it."""
        return ModelCard(
            id=self.name,
            hidden_size=self.hidden_size,
            n_blocks=self.n_blocks,
            revision=self.revision,
            model_type=self.layout.model_type,
            prefix_ids=self.chat.undated_prefix_ids,
            template_fingerprint=self.chat.fingerprint,
            source_tokens=self.chat.source_tokens,
        )

    def check_layer(self, layer: int) -> None:
        """Raise InputError unless the model has a block `layer`."""
        if not 0 <= layer < self.n_blocks:
            raise InputError(f"layer {layer} does not exist; {self.name} has layers 0 to {self.n_blocks - 1}")

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        steering: Row | Sequence[Row] = None,
        system: str | None = None,
        raw: bool = False,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        batch_size: int = 8,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> list[str]:
        """Answer prompts, each row steered in its own way; the same row gives the same text in any batch.

        Args:
            prompts: Texts or message lists, rendered with the model's chat template.
            steering: One entry for all rows, or a sequence with one entry a prompt (or a single entry for all);
                None = plain.
            system: A system message for every prompt.
            raw: Take prompts as already rendered texts.
            max_new_tokens: Most tokens to generate a prompt.
            temperature: 0 = greedy; otherwise sampling, seeded a row.
            seed: Row k draws from a generator seeded with seed + k, or with its own entry of a sequence; -2**63 to
                2**63 - 1.
            batch_size: Rows a forward.
            force: Let a vector made for another family, or with another prefix or template, pass.
            progress: Told of every token column; a batch that stops early counts as if it had run to `max_new_tokens`.

        Returns:
            The generated texts, without prompt and special tokens.

        Raises:
            InputError: Bad settings, an empty prompt, a prompt longer than the context, or a vector that does not fit.
        """
        if isinstance(prompts, str):
            raise InputError("the prompts are one text; give a list of prompts, [text] for one")
        rendered = [self._render(prompt, system, raw=raw) for prompt in prompts]
        responses = self.respond(
            rendered,
            steering=steering,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            force=force,
            progress=progress,
        )
        return [self.chat.decode(ids) for ids in responses]

    def respond(
        self,
        prompts: Sequence[RenderedPrompt],
        *,
        steering: Row | Sequence[Row] = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        batch_size: int = 8,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> list[tuple[int, ...]]:
        """Answer rendered prompts with token ids: what `generate` does between text and text.

        Args:
            prompts: From `chat.render`.
            steering: As in `generate`, and so are the other arguments.
            max_new_tokens: See there.
            temperature: See there.
            seed: See there.
            batch_size: See there.
            force: See there.
            progress: See there.

        Returns:
            For each prompt the ids it was answered with, the token that ended the answer included.

        Raises:
            InputError: As in `generate`.
        """
        seeds = range(seed, seed + len(prompts)) if isinstance(seed, int) else seed
        _check_settings(max_new_tokens, temperature, batch_size, [seed] if isinstance(seed, int) else seeds)
        if len(seeds) != len(prompts):
            raise InputError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one a prompt, or one number for all")
        given = _as_rows(steering, len(prompts))
        own = {id(row): self.own(row, force=force) for row in given}
        rows = [own[id(row)] for row in given]
        starts = range(0, len(prompts), batch_size)
        columns = GenerationProgress(progress, len(starts), max_new_tokens)
        responses: list[tuple[int, ...]] = []
        for start in starts:
            batch = prompts[start : start + batch_size]
            self._check_length(batch, max_new_tokens)
            responses += self._writer.write(
                [prompt.ids for prompt in batch],
                rows[start : start + batch_size],
                max_new_tokens,
                columns,
                temperature=temperature,
                seeds=seeds[start : start + batch_size],
            )
            columns.end_batch()
        return responses

    def own(self, row: Row, *, force: bool = False) -> Steering | None:
        """A row's steering, checked, with the prefix that this model's prompts have today.

        Raises:
            InputError: It was made for another model, and `force` does not let it pass.
        """
        if isinstance(row, SteeringVector):
            require_fit(self, row, force=force)
        steering = resolve(row)
        return None if steering is None else adopted(self, steering, force=force)

    def _render(self, prompt: Prompt, system: str | None, *, raw: bool) -> RenderedPrompt:
        if not raw:
            return self.chat.render(prompt, system=system)
        if not isinstance(prompt, str) or system is not None:
            raise InputError("raw prompts are texts and take no system message; render them yourself or leave raw out")
        return self.chat.render_raw(prompt)

    def _check_length(self, batch: Sequence[RenderedPrompt], max_new: int) -> None:
        longest, limit = max(len(prompt.ids) for prompt in batch), self.context_length
        if limit is not None and longest + max_new > limit:
            raise InputError(
                f"a prompt of {longest} tokens and {max_new} new ones exceed the context of {limit}; "
                "shorten the prompt or ask for fewer new tokens"
            )

    def is_ended(self, response: Sequence[int]) -> bool:
        """Whether a response ended by itself, with one of the tokens that end an answer."""
        return bool(response) and response[-1] in self._writer.ends

    def _pad_id(self) -> int:
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(candidate, int):
                return candidate
        return 0


def _as_rows(steering: Row | Sequence[Row], n: int) -> list[Row]:
    entries: list[Row] = (
        [steering] if steering is None or isinstance(steering, (Steering, SteeringVector)) else list(steering)
    )
    if len(entries) == 1:
        return entries * n
    if len(entries) != n:
        raise InputError(f"{len(entries)} steerings for {n} prompts; give one entry a prompt, or one for all")
    return entries


def _check_settings(max_new_tokens: int, temperature: float, batch_size: int, seeds: Sequence[int]) -> None:
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    if not math.isfinite(temperature) or temperature < 0:
        raise InputError(f"temperature is {temperature}; it must be 0 (greedy) or a positive number")
    for seed in seeds:
        if not -(2**63) <= seed < 2**63:
            raise InputError(f"seed is {seed}; it must be a whole number from -2**63 to 2**63 - 1")
