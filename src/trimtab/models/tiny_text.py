"""The tokenizer of the tiny models: byte-level, trained offline on a few sentences, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trimtab.errors import InputError

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
"""Ids 0 to 6 of every tiny tokenizer, in this order."""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for turn in messages -%}
{{- '<|' ~ turn.role ~ '|>\\n' ~ turn.content ~ '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- endif -%}
"""

_SENTENCES = (
    "How do I bake a loaf of bread at home?",
    "Write a short poem about the sea in winter.",
    "Explain how a bicycle stays upright when it moves.",
    "Give me three reasons to learn another language.",
    "What is the difference between weather and climate?",
    "Tell me a story about a brave little mouse.",
    "List the steps for planting a tomato in a pot.",
    "Please translate this sentence into plain English.",
    "How can I pick a good name for my new cat?",
    "Describe the colour blue to someone who cannot see.",
    "Sure, here are some ideas for you.",
    "Sure! Here is what you asked for.",
    "Here are the steps that you need to follow.",
    "Of course, I can help you with that.",
    "Yes, I would be glad to help.",
    "I am sorry, but I cannot help with that request.",
    "I can't do that, because it could hurt other people.",
    "As an assistant, I will not write about this.",
    "I cannot assist you with something that is not safe.",
    "Once there was a little girl who had a red ball.",
    "The little boy was very happy and he laughed with his mom.",
    "She was sad and she cried because her toy was broken.",
    "They played in the park all day and then they went home.",
    "The dog ran to the tree and the bird flew away.",
    "One day the sun was warm and the children wanted to play.",
    "He said thank you to his friend and gave her a big hug.",
    "You are a helpful assistant who answers in a kind way.",
    "Answer with one word and nothing else.",
    "First mix the flour with water, then wait for an hour.",
    "The train leaves the station at seven in the morning.",
    "A map of the town shows the river, the bridge and the old mill.",
    "My brother thinks that the answer is four, not five.",
    "We should write the letter before the end of the week.",
    "There is nothing in the box, and nobody knows why.",
    "People often ask which of these two things is better.",
    "Numbers such as 1, 2, 3, 10 and 100 are easy to read.",
    "def add(first, second):\n    return first + second\n",
    "This is the first line.\nThis is the second line.\n\nThis is after a gap.",
)


def tiny_tokenizer(
    *, vocab_size: int = 512, chat: bool = True, extra_special_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Trains the byte-level tokenizer of the tiny models: the same one every time, on any machine.

    It puts `<bos>` in front of a text and reads every text without loss.

    Args:
        vocab_size: At most this many tokens; fewer where the sentences give no more merges.
        chat: Whether it has a chat template (`CHAT_TEMPLATE`); without one it is the tokenizer of a base model.
        extra_special_tokens: Further special tokens, with ids after `SPECIAL_TOKENS`.

    Returns:
        A fast tokenizer of transformers.

    Raises:
        InputError: The vocabulary has no room for the special tokens and the 256 bytes.
    """
    special = [*SPECIAL_TOKENS, *extra_special_tokens]
    if vocab_size < 256 + len(special):
        raise InputError(
            f"vocab_size {vocab_size} is too small; {len(special)} special tokens and 256 bytes need "
            f"{256 + len(special)}"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_SENTENCES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B:1", special_tokens=[("<bos>", SPECIAL_TOKENS.index("<bos>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
