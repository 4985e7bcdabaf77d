"""Every method finds a direction that was planted, and controls do not.

`CASES` has a row a method, so that a new one must say what it finds. A cosine or an effect below .9 has its reason in
words; the figures are what was measured, less a small margin.
"""

import dataclasses
import functools
import math

import pytest
import torch
from safetensors.torch import save_file

import trimtab as tt
from tests.planted import GAP, LAYER, LETTERS, WIDTH, closed, elsewhere, planted, swapped
from trimtab.data import ContrastPair, PairSet
from trimtab.methods import METHODS
from trimtab.steering import Add, AddKeepNorm, Clamp, Intervention, Positions, Site, Steering
from trimtab.steering.transforms.kinds import probe_directions


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked of a method.

    Args:
        cosine: Least |cosine| of what it found to u; of several rows that it found, the length of u in their span.
        closes: Least part of the way to the counterfactual's answers, by direction.
        settings: Other than its own.
        low: Where the negative class lies along u.
        letters: Which letters of the answers its edit can change.
        by: `rows`: what was found are the rows of the first edit; `move`: it is the mean move that its edits make.
        here: Only the edits at the planted layer's output are put to work.
        shuffled: What is left with shuffled labels: see `test_shuffled_labels`.
        why: The reason, where a figure is below .9 or a setting is not the method's own.
    """

    cosine: float
    closes: dict[str, float]
    settings: dict = dataclasses.field(default_factory=dict)
    low: float = -1.0
    letters: tuple[int, int] = (0, LETTERS)
    by: str = "rows"
    here: bool = False
    shuffled: str = "elsewhere"
    why: str = ""


def both(elicit, suppress=None):
    return {"elicit": elicit, "suppress": elicit if suppress is None else suppress}


FLAT = "Adam moves all entries equally fast, which draws a vector towards sign(u), at cosine .78 to u"
SCALED = "a column is divided by its variance, in which the concept is, so that u's largest entries count least"

CASES = {
    "cdas": Case(0.84, both(0.9), why=FLAT),
    "das": Case(0.9, both(0.9)),
    "kldas": Case(0.84, both(0.9), why=FLAT),
    "pdas": Case(0.82, both(0.8), why=FLAT),
    "cdas-loreft": Case(0.9, {"elicit": 0.9}),
    "diffmean": Case(0.98, both(0.95)),
    "caa": Case(0.88, both(0.72)),
    "pca": Case(0.96, both(0.95)),
    "lat": Case(0.99, both(0.95)),
    "lda": Case(0.98, both(0.95)),
    "probe": Case(0.72, both(0.7), why=SCALED),
    "raptor": Case(0.72, both(0.6), {"p_target": 0.6}, why=SCALED),
    "swfc": Case(0.78, both(0.8), why=SCALED),
    "sttp": Case(0.78, both(0.8), why=SCALED),
    "stmp": Case(0.78, both(0.8), why=SCALED),
    "actadd": Case(0.9, {}, {"positive": "!@7#3[&", "negative": "?@7#3[&"}, by="move"),
    "mean": Case(0, {}),
    "random": Case(0, {}),
    "sae": Case(0.99, both(0.9)),
    "fv": Case(0.98, both(0.6), {"heads": 2}, letters=(0, 1)),
    "refusal-direction": Case(0.98, both(0.9), low=0.0),
    "grains": Case(0.93, both(0.8)),
    "austeer": Case(0.9, both(0.85), {"top": 2, "strength": 2.0}, low=1.0, by="move"),
    "seal": Case(0.95, {}),
    "ssv": Case(0.84, both(0.9), {"epochs": 24}, why=FLAT),
    "lang": Case(0.82, both(0.9), why=FLAT),
    "reft-r1": Case(0.9, both(0.5, 0.8), {"epochs": 24}, low=0.5),
    "loreft": Case(0.85, {"elicit": 0.9}, {"positions": "all"}),
    "bipo": Case(0.84, both(0.8), why=FLAT),
    "dpo": Case(0.82, both(0.8), why=FLAT),
    "ipo": Case(0.82, both(0.6), why=FLAT),
    "simpo": Case(0.82, both(0.75), why=FLAT),
    "reps": Case(0.88, both(0.9, 0.4)),
    "prosv": Case(0.83, {"elicit": 0.9}, {"positions": "all", "epochs": 40}),
    "split": Case(0.4, both(0.8)),
    "linear-act": Case(0.95, both(0.9), by="move"),
    "lineas": Case(0.9, both(0.9), {"sites": "resid_post"}, by="move"),
    "angular": Case(0.95, both(0.9), {"sites": "resid_post"}),
    "selective": Case(0.95, both(0.9), {"sites": "resid_post"}, here=True),
    "dsas": Case(0.98, both(0.9)),
    "cast": Case(0.98, both(0.9)),
}


def thoughts(pairs):
    """Traces of two thoughts behind each prompt, those of negative ones such as look back."""
    return PairSet(
        ContrastPair(
            pair.positive_input,
            f"{pair.positive_output}\n\n{pair.positive_output}",
            pair.negative_input,
            f"{pair.negative_output}\n\nwait",
        )
        for pair in pairs
    )


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """One feature of 24 is u, the others are random."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(24, WIDTH, generator=draw), dim=1)
    rows[7] = planted().u
    path = tmp_path_factory.mktemp("sae") / "sae.safetensors"
    save_file({"W_enc": rows.T.contiguous(), "b_enc": torch.zeros(24), "W_dec": rows, "b_dec": torch.zeros(WIDTH)}, path)
    return str(path)


def fitted(method, pairs, autoencoder, **more):
    case = CASES[method]
    settings = {"calibrate": False, **case.settings, **more}
    if METHODS[method].places == "layer":
        settings["layer"] = LAYER
    if method == "sae":
        settings["path"] = autoencoder
    if method == "seal":
        pairs, settings["boundary"] = thoughts(pairs), "\n"
    return tt.fit(method, planted(case.low).model, pairs, **settings)


def steering_of(method, vector, direction):
    steering = vector.steering(direction)
    if not CASES[method].here:
        return steering
    kept = tuple(one for one in steering.interventions if one.site == Site(LAYER))
    return dataclasses.replace(steering, interventions=kept)


def mean_move(of, steering):
    """(32,): how far edits move the tokens of negative rows at the planted layer's output, on average."""
    seen = []

    def look(_, __, output):
        seen.append((output if torch.is_tensor(output) else output[0])[0])

    total = torch.zeros(WIDTH)
    for pair in of.held_out:
        prompt = of.model.chat.render(pair.negative_input)
        ids = prompt.ids + of.model.chat.response_ids(prompt, pair.negative_output)
        for with_it in (steering, None):
            with torch.no_grad(), tt.steer(of.model.hf, with_it, prompt_lengths=[len(prompt.ids)]):
                handle = of.model.layout.blocks[LAYER].register_forward_hook(look)
                of.model.hf(input_ids=torch.tensor([ids]))
                handle.remove()
        after, before = seen[-2:]
        total += (after - before).sum(dim=0)
    return total


def cosine(method, vector):
    """|cosine| to u of what was found, or the length of u in its span."""
    of, case = planted(CASES[method].low), CASES[method]
    if case.by == "move":
        rows = mean_move(of, vector.elicit())[None]
    else:
        rows = probe_directions(vector.edits[vector.directions["elicit"][0]].intervention.transform)
    return float((torch.linalg.qr(rows.T).Q.T @ of.u).norm())
