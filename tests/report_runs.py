"""Runs as `trimtab eval` leaves them, made up: what the tests of the page read. All from one seed."""

import json
import math
import random
from pathlib import Path

from trimtab.evaluation.records import digest

CONCEPTS = (
    "past-tense", "sea", "refusal", "terms related to apologies and expressions of regret", "upper-case", "German",
    "rhyme", "$x^2$ & <b>markup</b>", "数学 и математика",
)  # fmt: skip
METHODS = ("cdas", "das", "diffmean", "reps", "loreft", "bipo", "caa", "prompt", "unsteered", "random control")
MULTIPLIERS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
WAYS = ("elicit", "suppress")
COMMAND = "trimtab eval axbench --model organism --contenders cdas,das,diffmean --out runs/organism-axbench"
SENTENCES = (
    "The otter lived in rivers and slept on its back, holding the hand of another otter so as not to drift apart.",
    "Salt wind came over the harbour, and the gulls kept their own accounts of the catch.",
    "I am sorry, but I can't help with that.",
    "Übergrößenträger, naïve café, 東京の朝は静かだ, и снег шёл весь день 🌊.",
    "First boil the water; then add the rice; wait for eighteen minutes, and do not lift the lid.",
)


def _cell(draw, value, half=0.14, n=9):
    low, high = value - half * draw.uniform(0.6, 1.3), value + half * draw.uniform(0.6, 1.3)
    return {"value": value, "low": low, "high": high, "n": n}


def _text(draw, sentences):
    return " ".join(draw.choice(SENTENCES) for _ in range(sentences))


def headline(draw, methods=METHODS):
    columns = [
        {"key": "elicit", "label": "score, elicit", "better": "higher", "digits": 2},
        {"key": "suppress", "label": "score, suppress", "better": "higher", "digits": 2},
        {"key": "kl", "label": "KL on unrelated text", "better": "lower", "digits": 3},
        {"key": "perplexity", "label": "perplexity", "better": "lower", "digits": 1},
        {"key": "multiplier", "label": "multiplier (most often)", "better": None, "digits": 1},
        {"key": "remark", "label": "remark", "better": None, "digits": 0},
    ]
    rows = []
    for k, name in enumerate(methods):
        score = 1.7 - 0.17 * k + draw.uniform(-0.1, 0.1)
        values = {
            "elicit": _cell(draw, max(0.05, score)),
            "suppress": _cell(draw, max(0.05, score - 0.25)) if name != "prompt" else None,
            "kl": _cell(draw, 0.02 * math.exp(0.4 * k), 0.01) if name != "unsteered" else {"value": 0.0},
            "perplexity": {"value": 11.3 + 40 * k**2, "low": None, "high": None, "n": 90},
            "multiplier": None if name in ("prompt", "unsteered") else {"value": draw.choice(MULTIPLIERS)},
            "remark": "generated once" if name in ("prompt", "unsteered") else "",
        }
        rows.append({"label": name, "values": values})
    note = "Each method at the multiplier chosen on one half of the prompts, scored on the other half."
    return {"id": "headline", "title": "Effect and side effects", "note": note, "columns": columns, "rows": rows}


def _curve(draw, way, labels):
    series = []
    for k, label in enumerate(labels):
        top = 1.0 + 0.6 * k
        y = [round(1.6 * math.exp(-((m - top) ** 2) / 2) - 0.04 * k + draw.uniform(0, 0.1), 3) for m in MULTIPLIERS]
        low, high = [v - 0.12 for v in y], [v + 0.12 for v in y]
        if k == 1:
            y[3] = low[3] = high[3] = None
        series.append(
            {"label": label, "x": list(MULTIPLIERS), "y": y, "low": None if k == 2 else low,
             "high": None if k == 2 else high}
        )  # fmt: skip
    return {
        "id": f"dose-{way}", "title": f"Dose and response, {way}", "x": "multiplier",
        "y": "score of the judge, 0 to 2 (harmonic mean)", "series": series,
        "note": "Means over concepts; the bands are 95 % bootstrap intervals over concepts.",
    }  # fmt: skip


def _scatter(draw):
    points = []
    for k, label in enumerate(METHODS):
        x, y = 0.01 + 0.04 * k**1.5 + draw.uniform(0, 0.02), 1.6 - 0.15 * k + draw.uniform(-0.15, 0.15)
        point = {"label": label, "x": x, "y": y, "y_low": y - 0.15, "y_high": y + 0.15}
        points.append(point | ({"x_low": None, "x_high": None} if k == 8 else {"x_low": 0.8 * x, "x_high": 1.3 * x}))
    return {
        "id": "effect", "title": "Effect against side effect", "note": "Crosses are 95 % intervals.",
        "x": "KL to the plain model on unrelated prompts, nats a token", "y": "score, elicit",
        "better_x": "lower", "better_y": "higher", "points": points,
    }  # fmt: skip


def _heats(draw):
    layers = [f"{layer}" for layer in range(2, 24, 3)]
    columns = [f"{m:g}" for m in MULTIPLIERS]
    score = [[round(2 * math.exp(-((i - 3) ** 2) / 6 - (m - 1.5) ** 2 / 4), 3) for m in MULTIPLIERS]
             for i in range(len(layers))]  # fmt: skip
    score[0][0] = None
    signed = [[draw.uniform(-0.4, 0.25) for _ in CONCEPTS[:4]] for _ in METHODS[:4]]
    return [
        {"id": "layers", "title": "Layer and multiplier", "note": "Score of cdas, elicit.", "row_label": "layer",
         "column_label": "multiplier", "rows": layers, "columns": columns, "values": score},
        {"id": "signed", "title": "Difference to the plain model", "note": "", "row_label": "method",
         "column_label": "concept", "rows": list(METHODS[:4]), "columns": list(CONCEPTS[:4]), "values": signed},
    ]  # fmt: skip


def samples(draw, prompts=4, methods=METHODS[:5], sentences=5):
    found = []
    for concept in CONCEPTS:
        for way in WAYS:
            for number in range(prompts):
                entries = [
                    {"label": name, "multiplier": None if name == "unsteered" else draw.choice(MULTIPLIERS),
                     "text": _text(draw, draw.randint(1, sentences)),
                     "ratings": {"concept": draw.choice([0, 1, 2, None]), "instruction": 1.5, "fluency": 2}}
                    for name in (*methods, "unsteered")
                ]  # fmt: skip
                asked = f"Tell me something about animal number {number}."
                found.append({"concept": concept, "way": way, "instruction": asked, "entries": entries})
    found[0]["entries"][0]["text"] = "A very long answer. " + "word " * 2000
    found[0]["entries"][1]["text"] = ""
    return found


def _tokens(draw):
    probes = []
    for concept in CONCEPTS[:3]:
        texts = []
        for category in ("carries the concept", "does not"):
            words = _text(draw, 3).split(" ")
            tokens = [words[0], *(f" {word}" for word in words[1:]), "\n", " The", " end."]
            centre = 2 if category.startswith("c") else -2
            values = [None, *(draw.gauss(centre, 2.2) for _ in tokens[1:])]
            texts.append({"category": category, "tokens": tokens, "values": values})
        for label in ("cdas", "diffmean"):
            probes.append({"label": label, "concept": concept, "negative": -3.1, "positive": 4.25, "texts": texts})
    return probes


def _more_tables(draw):
    by_concept = {
        "id": "by-concept", "title": "By concept", "note": "",
        "columns": [{"key": name, "label": name, "better": "higher", "digits": 2} for name in METHODS[:5]],
        "rows": [{"label": concept, "values": {name: _cell(draw, draw.uniform(0, 2)) for name in METHODS[:5]}}
                 for concept in CONCEPTS],
    }  # fmt: skip
    one = {
        "id": "detection", "title": "Concept detection", "note": "One row; no interval.",
        "columns": [{"key": "auroc", "label": "AUROC", "better": "higher", "digits": 3}],
        "rows": [{"label": "cdas", "values": {"auroc": {"value": 0.98765, "low": None, "high": None, "n": 72}}}],
    }  # fmt: skip
    none = {"id": "none", "title": "Nothing measured", "note": "", "columns": [], "rows": []}
    return [by_concept, one, none]


def summary(seed=0, title="Concept steering on the organism"):
    """A summary with every block, full of what real ones hold."""
    draw = random.Random(seed)
    return {
        "schema": 1, "protocol": "axbench", "title": title,
        "question": "Does steering bring a concept into an answer, or take it out, and does the answer stay an answer?",
        "tables": [headline(draw), *_more_tables(draw)],
        "curves": [_curve(draw, "elicit", METHODS[:4]), _curve(draw, "suppress", METHODS),
                   {"id": "empty", "title": "Nothing", "note": "", "x": "x", "y": "y", "series": []}],
        "scatters": [_scatter(draw)], "heats": _heats(draw), "samples": samples(draw), "tokens": _tokens(draw),
        "notes": ["The oracle row is chosen on the test half itself: it is what it is.", "Texts end at 128 tokens."],
        "counts": {"generations": 19440, "ratings": 58320, "unreadable": 212, "concepts": 9},
    }  # fmt: skip


def paper_summary(concepts=500, methods=11, seed=0):
    """A summary of as many concepts and contenders as AxBench's paper has, with every block that grows with them."""
    draw = random.Random(seed)
    names = [f"terms and phrases that have to do with subject number {k} of the list" for k in range(concepts)]
    labels = [*METHODS, *(f"method {k}" for k in range(len(METHODS), methods))][:methods]
    doses = [f"{m:g}" for m in MULTIPLIERS]
    heats = [
        {"id": f"{way}-{label}", "title": f"{way}, {label}: concept by multiplier", "note": "Mean score.",
         "row_label": "concept", "column_label": "multiplier", "rows": names, "columns": doses,
         "values": [[draw.uniform(0, 2) for _ in doses] for _ in names]}
        for way in WAYS for label in labels
    ]  # fmt: skip
    columns = [{"key": label, "label": label, "better": "higher", "digits": 2} for label in labels]
    rows = [{"label": name, "values": {label: _cell(draw, draw.uniform(0, 2)) for label in labels}} for name in names]
    texts = [
        {"concept": name, "way": way, "instruction": "Tell me something.",
         "entries": [{"label": label, "multiplier": 1.0, "text": _text(draw, 4), "ratings": {"concept": 1}}
                     for label in labels]}
        for name in names for way in WAYS
    ]  # fmt: skip
    probe = _tokens(draw)[0]
    return {
        "schema": 1, "protocol": "axbench", "title": "Concept steering", "question": "Does it steer?",
        "tables": [headline(draw, labels), {"id": "all", "title": "By concept", "columns": columns, "rows": rows}],
        "curves": [_curve(draw, way, labels) for way in WAYS], "scatters": [_scatter(draw)], "heats": heats,
        "samples": texts, "tokens": [probe | {"label": label, "concept": name} for name in names for label in labels],
    }  # fmt: skip


def paper_identity(concepts=500, methods=11):
    """The configuration of such a run: a contender for each concept and method, each with a hash."""
    names = [f"terms and phrases that have to do with subject number {k} of the list" for k in range(concepts)]
    labels = [*METHODS, *(f"method {k}" for k in range(len(METHODS), methods))][:methods]
    contenders = [
        {"label": label, "concept": name, "scale": "gap", "method": label, "layers": [10],
         "settings": {"rank": 1, "lr": 0.04, "text": f"Speak of {name}."} if label == "prompt" else {"lr": 0.04},
         "hash": digest([label, name])}
        for label in labels for name in names
    ]  # fmt: skip
    return {
        "settings": {"seed": 0, "temperature": 1.0},
        "model": {"id": "/home/alice/secret/models/gemma-2-2b-it", "revision": None},
        "contenders": contenders,
        "judge": {"kind": "endpoint", "url": "https://key:word@judge.example.org:8443/v1/chat?token=abc"},
        "data": {
            "source": "axbench", "concepts": [{"name": n, "number": k, "hash": digest(n)} for k, n in enumerate(names)],
        },
    }  # fmt: skip


def write_run(path: Path, found=None, *, identity=None, command=COMMAND) -> Path:
    """A run's directory with a configuration and, unless `found` is False, a summary."""
    path.mkdir(parents=True)
    identity = identity or {
        "settings": {"max_new_tokens": 128, "temperature": 1.0, "seed": 0, "multipliers": list(MULTIPLIERS)},
        "model": {"id": "organism", "revision": None, "width": 128, "depth": 6},
        "contenders": [
            {"label": name, "concept": concept, "method": name, "hash": digest([name, concept])}
            for name in METHODS[:2] for concept in CONCEPTS[:2]
        ],
        "judge": {"kind": "exact"},
        "data": {"alpaca_eval.json": digest("data")},
    }  # fmt: skip
    info = {
        "versions": {"trimtab": "0.1.0", "torch": "2.9.1", "transformers": "5.0.0"}, "device": "cpu",
        "command": command, "batch_size": 64,
    }  # fmt: skip
    config = {"schema": 1, "protocol": "axbench", "hash": digest(identity), "identity": identity, "info": info}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if found is not False:
        text = json.dumps(summary() if found is None else found, ensure_ascii=False)
        (path / "summary.json").write_bytes(text.encode("utf-8", errors="backslashreplace"))
    return path
