"""Task files for lm-evaluation-harness over data that lie beside them, for the tests of what runs them."""

import json
from pathlib import Path

import yaml

DOCS = [
    {
        "question": f"What comes after the number {k}? Think of the {k % 3} boys.",
        "choices": [f"the {k + 1}", "nothing", f"a small number such as {k}", "yes"],
        "gold": (3 * k) % 4,
        "topic": k % 2,
    }
    for k in range(12)
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
TEXT = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 10},
    "metric_list": [{"metric": "exact_match"}],
    "filter_list": [
        {"name": "whole", "filter": [{"function": "take_first"}]},
        {"name": "number", "filter": [{"function": "regex", "regex_pattern": "(e)"}, {"function": "take_first"}]},
    ],
}
NEXT = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": " {{choices[gold]}}",
    "metric_list": [{"metric": "acc"}],
}


def write_task(folder: Path, name: str, body: dict, docs=DOCS, **more) -> str:
    """Writes `NAME.yaml` and its data; the path of the file."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "fewshot_split": "test",
        **body,
        **more,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    return str(path)
