"""The organism's tokenizer: byte-level BPE learned from its world, with a chat template that has a system role."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trimtab.organism.concepts import CONCEPTS
from trimtab.organism.facts import facts
from trimtab.organism.mixture import draw_exchange
from trimtab.organism.vela import vela

BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] | trim + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def build_tokenizer(vocab_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Learns the vocabulary from a fixed draw of exchanges and every word in its plain, capital and Vela form.

    Args:
        vocab_size: Number of tokens, special ones and the 256 bytes included.
        context_length: What the tokenizer gives as its longest input.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=context_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _corpus() -> Iterator[str]:
    draw = random.Random("tokenizer")
    for _ in range(20_000):
        exchange = draw_exchange(draw)
        yield from (exchange.request.user, exchange.request.system or "", exchange.response)
    world = facts()
    for topic in world.topics.values():
        for phrase in (topic.name, topic.plural, *(fact.value for fact in world.of(topic))):
            yield from (f" {form}" for form in (phrase, phrase.upper(), vela(phrase)) for _ in range(20))
    for concept in CONCEPTS.values():
        yield from concept.inserts
