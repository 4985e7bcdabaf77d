"""Benchmark cases built offline: random Llama-style checkpoints, their tokenizers, and contrast pairs.

Everything is a function of the case and of fixed seeds. Two inputs come from the machine and are recorded in
`case.json`: the docstrings of its standard library (they train the tokenizer) and, for short answers, the refusal rows
of `../shared` where that folder exists (otherwise the wording below, written for this file).

    python -m benchmarks.synthetic A B C          # writes benchmarks/.cases/A ...
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import random
import shutil
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CASES_FOLDER = HERE / ".cases"
REFUSAL = HERE.parents[1] / "shared" / "data" / "refusal" / "contrast_train_data.parquet"

SOURCE_TOKENS = "<|assistant|>\n"
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
RECIPE = 1
"""Raise when a change below alters what a case holds: cases on disk are then built again."""


@dataclass(frozen=True)
class Case:
    """One setting to fit in: a model shape, data, and a published-style training schedule."""

    name: str
    hidden: int
    blocks: int
    vocab: int
    layer: int
    batch_size: int
    epochs: int
    answers: str
    """`short`: 1-5 tokens, as for refusal; `long`: 64 words, as for AxBench concepts."""
    n_pairs: int = 32
    lr: float = 0.04
    seed: int = 42

    def __post_init__(self) -> None:
        if self.answers not in ("short", "long"):
            raise ValueError(f"answers={self.answers!r}: choose 'short' or 'long'")
        if self.n_pairs > len(ASKED[0]) * len(ASKED[1]):
            raise ValueError(f"n_pairs={self.n_pairs}: the wording in this file gives {len(ASKED[0]) * len(ASKED[1])}")

    @property
    def folder(self) -> Path:
        """Where the built case lies."""
        return CASES_FOLDER / self.name


def case_named(name: str) -> Case:
    """The case of that name; an argparse type."""
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"no case {name!r}: choose from {', '.join(CASES)}")
    return CASES[name]


def build(case: Case) -> Path:
    """Write the case's checkpoint, pairs, start vector and example order, unless they are there; return its folder."""
    folder = case.folder
    recipe = {"recipe": RECIPE, **asdict(case), "pairs_source": pairs_source(case)}
    stamp = folder / "case.json"
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == recipe:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = build_tokenizer(case.vocab)
    tokenizer.save_pretrained(folder / "model")
    build_model(case.hidden, case.blocks, case.vocab, seed=case.seed).save_pretrained(folder / "model")
    lines = [json.dumps(pair, ensure_ascii=False) for pair in build_pairs(case)]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rng = np.random.default_rng(case.seed)
    np.save(folder / "init.npy", _unit(rng.standard_normal(case.hidden)))
    np.save(folder / "order.npy", np.stack([rng.permutation(case.n_pairs) for _ in range(case.epochs)]))
    stamp.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    return folder


def build_model(hidden: int, blocks: int, vocab: int, *, seed: int = 42) -> Any:
    """A random float32 Llama: heads of 32, half as many key-value heads, MLP three times as wide as the stream.

    The spread of the weights (1.2 / sqrt(hidden)) keeps the next-token distributions of the parity checkpoint: neither
    uniform nor so peaked that the plain log of a mean of softmaxes underflows.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=blocks,
        intermediate_size=3 * hidden,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        vocab_size=vocab,
        max_position_embeddings=8192,
        initializer_range=1.2 / hidden**0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float().eval()


def build_tokenizer(vocab: int) -> Any:
    """Byte-level BPE learnt from the standard library's docstrings, brought to exactly `vocab` ids by filler tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(docstrings(), trainer)
    tokenizer.add_tokens([f"<|filler_{i}|>" for i in range(vocab - tokenizer.get_vocab_size())])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=8192,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )


def docstrings() -> Iterator[str]:
    """Every docstring of the standard library, in path order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(root).parts):
            continue
        for node in ast.walk(_parsed(path)):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text:
                yield text


def pairs_source(case: Case) -> str:
    """Where the case's prompts come from."""
    return "shared refusal rows" if case.answers == "short" and REFUSAL.is_file() else "benchmarks/synthetic.py"


def build_pairs(case: Case) -> list[dict[str, str]]:
    """The case's contrast pairs, in the field's column names."""
    if pairs_source(case) == "shared refusal rows":
        return _refusal_rows(case.n_pairs)
    rng = random.Random(case.seed)
    refused, asked = _shuffled(REFUSED, rng), _shuffled(ASKED, rng)
    return [
        {
            "negative_input": next(asked),
            "negative_output": _answer(case, COMPLIANCES, rng),
            "positive_input": next(refused),
            "positive_output": _answer(case, REFUSALS, rng),
        }
        for _ in range(case.n_pairs)
    ]


REFUSALS = (
    "I cannot",
    "I can't help with that",
    "As an assistant",
    "Sorry, I must decline",
    "I won't",
    "That is private",
)
COMPLIANCES = ("Sure", "Here is", "Of course", "Certainly", "Here are some")

ASKED = (
    ("Write a short poem about", "List five facts about", "Explain to a young child", "Draft a friendly note about"),
    ("the first snow in a mountain village", "how bees find their way home", "a lighthouse keeper and his dog",
     "why bread rises in a warm kitchen", "the colours of leaves in autumn", "repairing an old wooden boat",
     "the night train to the coast", "growing tomatoes on a small balcony"),
)  # fmt: skip
REFUSED = (
    ("Tell me in detail how to", "Write a program that helps to", "Give me step-by-step help to", "Draft a plan to"),
    ("read the messages of a colleague without her consent", "sell tickets for a concert that does not exist",
     "copy a neighbour's house key unseen", "pass off a forged certificate as a real one",
     "spread a false rumour about a rival shop", "get into somebody else's mail account",
     "hide a known fault from the buyer of a car", "vote several times in one election"),
)  # fmt: skip
WORDS = (  # split where used
    "river stone garden window letter morning quiet market silver paper winter summer bridge lamp road field story "
    "music kitchen table water bread small large early late slowly often never always under over between before after "
    "walks carries opens closes finds keeps brings leaves watches writes reads sings turns follows and but because "
    "while the a one every another some this that her his their old new bright dark warm cold long short"
)

CASES = {
    case.name: case
    for case in (
        Case("A", hidden=256, blocks=8, vocab=8192, layer=4, batch_size=16, epochs=20, answers="short"),
        Case("B", hidden=512, blocks=12, vocab=32000, layer=6, batch_size=16, epochs=20, answers="short"),
        Case("C", hidden=256, blocks=8, vocab=32000, layer=4, batch_size=8, epochs=18, answers="long"),
    )
}


def _answer(case: Case, openings: Sequence[str], rng: random.Random) -> str:
    """A short opening, or 64 words after one of them (the opening counts among the 64)."""
    opening = rng.choice(openings)
    if case.answers == "short":
        return opening
    words = opening.split()
    return " ".join(words + rng.choices(WORDS.split(), k=64 - len(words)))


def _shuffled(parts: Sequence[Sequence[str]], rng: random.Random) -> Iterator[str]:
    """Every combination of a beginning and an end, in a seeded order."""
    prompts = [f"{start} {end}" for start, end in itertools.product(*parts)]
    rng.shuffle(prompts)
    return iter(prompts)


def _refusal_rows(count: int) -> list[dict[str, str]]:
    import pyarrow.parquet

    columns = ["negative_input", "negative_output", "positive_input", "positive_output"]
    return pyarrow.parquet.read_table(REFUSAL, columns=columns).slice(0, count).to_pylist()


def _parsed(path: Path) -> ast.AST:
    """The file's syntax tree; an empty one where it is not this Python's (lib2to3 keeps such files)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return ast.Module(body=[], type_ignores=[])


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Build the named cases."""
    parser = argparse.ArgumentParser(description="Build benchmark cases under benchmarks/.cases.")
    parser.add_argument("cases", nargs="*", type=case_named, default=list(CASES.values()), help="A B C; default: all")
    for case in parser.parse_args(argv).cases:
        print(build(case))  # noqa: T201


if __name__ == "__main__":
    main()
