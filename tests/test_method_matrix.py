"""What every method owes its users, whatever it is: the same checks for all, on several architectures.

A method gets them by being registered. One that needs more than pairs has an entry in `tests/method_inputs.py`.
"""

import dataclasses
import functools

import pytest
import torch

import trimtab as tt
from tests.families import MAIN
from tests.method_inputs import INPUTS, PAIRS, SMALL
from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.methods import METHODS
from trimtab.models import Model, steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import AddKeepNorm, RotateBy, Steering, SteeringVector

VECTORS = [name for name, method in METHODS.items() if method.family != "baseline"]
"""Methods that make vectors; baselines have checks of their own (tests/test_methods_baselines.py)."""
TEXTS = ["How do I open a door?", "A map", "Tell me why the sea is salt, and why rivers are not."]
LAYER = 1
both = pytest.mark.parametrize("family", MAIN)
every = pytest.mark.parametrize("method", VECTORS)


@functools.cache
def model_of(family, dtype=torch.float32):
    hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=4, seed=0, dtype=dtype)
    return Model(hf, tokenizer, name=f"tiny-{family}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs")


def inputs(method, model, folder):
    """Pairs, and all arguments of a small fit."""
    spec = METHODS[method]
    fields = {field.name for field in dataclasses.fields(spec.settings)}
    if spec.needs and method not in INPUTS:
        pytest.fail(f"{method} needs {spec.needs!r}, and tests/method_inputs.py has nothing for it")
    pairs, given = INPUTS[method](model, folder) if method in INPUTS else (PAIRS, {})
    place = {} if spec.places == "model" else {"layer": LAYER}
    small = {name: value for name, value in SMALL.items() if name in fields}
    return pairs, {**place, "calibrate": False, **small, **given}


_MADE: dict = {}


def made(family, method, folder, dtype=torch.float32):
    """The vector of a small fit, made once, and what was reported meanwhile."""
    key = (family, method, dtype)
    if key not in _MADE:
        model, told = model_of(family, dtype), []
        pairs, settings = inputs(method, model, folder)
        _MADE[key] = tt.fit(method, model, pairs, progress=told.append, **settings), told
    return _MADE[key]


def check_finite(vector):
    """No number that an edit holds is infinite or none."""
    for edit in vector.edits:
        for part in (edit.intervention.transform, edit.intervention.gate):
            assert all(bool(torch.isfinite(tensor).all()) for tensor in part.tensors().values())


def logits(model, ids, steering):
    """(s, v) float32 of one row whose first half is the prompt."""
    with torch.no_grad(), steer(model.hf, steering, prompt_lengths=[len(ids) // 2 + 1]):
        return model.hf(input_ids=torch.tensor([ids])).logits[0].float()


def rows(model):
    return [model.chat.render(text).ids + tuple(range(20, 26)) for text in TEXTS]


def hooks(model):
    return [
        (len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for module in model.hf.modules()
    ]


@both
@every
class TestEveryMethod:
    def test_a_fit_tells_its_progress_and_makes_finite_edits(self, family, method, folder):
        vector, told = made(family, method, folder)
        assert isinstance(vector, SteeringVector)
        assert vector.method == method
        assert {*vector.directions} <= {"elicit", "suppress"}
        check_finite(vector)
        reads_pairs = method != "actadd"  # two rows, in one forward
        assert not reads_pairs or told
        assert all(0 < one.done <= one.total for one in told)

    def test_a_saved_vector_does_the_same_bit_for_bit(self, family, method, folder, tmp_path):
        vector, _ = made(family, method, folder)
        model, loaded = model_of(family), SteeringVector.load(vector.save(tmp_path / "v"))
        assert loaded.content_hash == vector.content_hash
        for way in vector.directions:
            for row in rows(model):
                ours, theirs = (logits(model, row, one.steering(way)) for one in (vector, loaded))
                assert torch.equal(ours, theirs)

    def test_it_does_something_and_at_strength_0_nothing(self, family, method, folder):
        vector, _ = made(family, method, folder)
        model = model_of(family)
        plain = [logits(model, row, None) for row in rows(model)]
        for way in vector.directions:
            steering = vector.steering(way)
            still = [dataclasses.replace(one, strength=0.0) for one in steering.interventions]
            nothing = dataclasses.replace(steering, interventions=tuple(still))
            assert all(torch.equal(logits(model, row, nothing), p) for row, p in zip(rows(model), plain, strict=True))
        moved = [
            float((logits(model, row, vector.steering(way)) - p).abs().max())
            for way in vector.directions
            for row, p in zip(rows(model), plain, strict=True)
        ]
        assert max(moved) > 0 or method == "seal"  # no full stop among these tokens

    def test_multiplier_0_is_the_identity_where_it_scales_from_nothing(self, family, method, folder):
        vector, _ = made(family, method, folder)
        model = model_of(family)
        for way, indices in vector.directions.items():
            edits = [vector.edits[index] for index in indices]
            from_nothing = all(
                edit.scales == "strength"
                or (edit.scales == "transform" and isinstance(edit.intervention.transform, (AddKeepNorm, RotateBy)))
                for edit in edits
            )
            if from_nothing:
                for row in rows(model):
                    found = logits(model, row, vector.steering(way, 0.0))
                    torch.testing.assert_close(found, logits(model, row, None), rtol=1e-5, atol=1e-5)

    def test_the_context_leaves_no_trace(self, family, method, folder):
        vector, _ = made(family, method, folder)
        model = model_of(family)
        row = rows(model)[0]
        before, plain = hooks(model), logits(model, row, None)
        with pytest.raises(ZeroDivisionError), steer(model.hf, vector, direction=next(iter(vector.directions))):
            raise ZeroDivisionError
        assert hooks(model) == before
        assert torch.equal(logits(model, row, None), plain)

    def test_a_batch_a_row_alone_and_left_pads_are_the_same(self, family, method, folder):
        vector, _ = made(family, method, folder)
        model = model_of(family)
        ids = rows(model)
        longest = max(map(len, ids))
        for way in vector.directions:
            alone = [logits(model, row, vector.steering(way)) for row in ids]
            padded = torch.tensor([[0] * (longest - len(row)) + list(row) for row in ids])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
            places = (mask.cumsum(dim=1) - 1).clamp_min(0)
            lengths = [len(row) // 2 + 1 for row in ids]
            with torch.no_grad(), steer(model.hf, vector.steering(way), prompt_lengths=lengths):
                found = model.hf(input_ids=padded, attention_mask=mask, position_ids=places).logits.float()
            for row, one, together in zip(ids, alone, found, strict=True):
                torch.testing.assert_close(together[longest - len(row) :], one, rtol=1e-3, atol=1e-3)

    def test_decoding_on_a_cache_writes_what_whole_forwards_say(self, family, method, folder):
        vector, _ = made(family, method, folder)
        model = model_of(family)
        prompts = [model.chat.render(text) for text in TEXTS]
        for way in vector.directions:
            steering = vector.steering(way)
            answers = model.respond(prompts, steering=steering, max_new_tokens=5)
            for prompt, answer in zip(prompts, answers, strict=True):
                row = torch.tensor([prompt.ids + answer])
                with torch.no_grad(), steer(model.hf, steering, prompt_lengths=[len(prompt.ids)]):
                    whole = model.hf(input_ids=row).logits[0, len(prompt.ids) - 1 : -1].float()
                best = whole.max(dim=1).values
                said = whole.gather(1, torch.tensor(answer)[:, None])[:, 0]
                assert float((best - said).max()) < 1e-3  # the best token, or one as good


@every
class TestEveryMethodOnce:
    def test_the_same_seed_gives_the_same_vector(self, method, folder):
        model = model_of("llama")
        pairs, settings = inputs(method, model, folder)
        vector, _ = made("llama", method, folder)
        assert tt.fit(method, model, pairs, **settings).content_hash == vector.content_hash

    def test_half_precision(self, method, folder):
        vector, _ = made("llama", method, folder, torch.bfloat16)
        check_finite(vector)
        model = model_of("llama", torch.bfloat16)
        for way in vector.directions:
            for row in rows(model):
                assert bool(torch.isfinite(logits(model, row, vector.steering(way))).all())

    def test_what_cannot_be_learnt_from_is_refused(self, method, folder):
        model = model_of("llama")
        pairs, settings = inputs(method, model, folder)
        with pytest.raises(InputError, match="no pairs"):
            tt.fit(method, model, PairSet([]), **settings)
        wrong = {**settings, "layer": 9}
        with pytest.raises(InputError, match="layer"):
            tt.fit(method, model, pairs, **wrong)
        with pytest.raises(InputError, match="unknown setting 'epohcs'"):
            tt.fit(method, model, pairs, **settings, epohcs=1)

    def test_a_steered_model_is_refused(self, method, folder):
        model = model_of("llama")
        pairs, settings = inputs(method, model, folder)
        card = model.card()
        with (
            steer(model.hf, Steering((), card.prefix_ids)),
            pytest.raises(InputError, match="steered"),
        ):
            tt.fit(method, model, pairs, **settings)


@pytest.mark.parametrize("method", [name for name in VECTORS if METHODS[name].places == "layer"])
def test_layers_that_share_their_forwards_give_what_each_gives_alone(method, folder):
    model = model_of("llama")
    pairs, settings = inputs(method, model, folder)
    alone = {name: value for name, value in settings.items() if name not in ("layer", "calibrate")}
    together = tt.fit_layers(method, model, pairs, layers=(0, 2), **alone)
    assert list(together) == [0, 2]
    for layer, vector in together.items():
        single = tt.fit(method, model, pairs, **{**settings, "layer": layer})
        assert vector.directions == single.directions
        for ours, theirs in zip(vector.edits, single.edits, strict=True):
            assert ours.intervention.site == theirs.intervention.site
            tensors = theirs.intervention.transform.tensors()
            for name, tensor in ours.intervention.transform.tensors().items():
                torch.testing.assert_close(tensor, tensors[name], rtol=1e-3, atol=1e-4)


def test_a_closed_form_reads_all_layers_in_one_pass(folder):
    model = model_of("llama")
    runs = []
    handle = model.layout.blocks[0].register_forward_hook(lambda *_: runs.append(1))
    counts = []
    for layers in ([1], [0, 1, 2, 3]):
        runs.clear()
        tt.fit_layers("diffmean", model, PAIRS, layers=layers)
        counts.append(len(runs))
    handle.remove()
    assert counts[0] == counts[1]


@pytest.mark.parametrize("layers", [[], [1, 1], [9]])
def test_layers_that_make_no_sense_are_refused(layers):
    with pytest.raises(InputError, match="layer"):
        tt.fit_layers("diffmean", model_of("llama"), PAIRS, layers=layers)
