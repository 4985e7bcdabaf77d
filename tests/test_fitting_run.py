"""Whole fits on tiny models: against a naive loop, against themselves, and what they leave behind."""

import copy
import errno
import importlib.util
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from trimtab.data import ContrastPair, PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting.cache import CachePlan, FrozenCache, FrozenRuns
from trimtab.fitting.divergence import Objective, TokenLoss, jensen_shannon
from trimtab.fitting.engine import FitOptions, fit_interchange
from trimtab.methods import METHODS, find_method, fit
from trimtab.methods.cdas import CDASSettings
from trimtab.models import Model, steer
from trimtab.models.runs import PlainRuns
from trimtab.models.split import SplitModel
from trimtab.models.tiny import FAMILIES, tiny_model
from trimtab.progress import Progress
from trimtab.steering import Clamp, Site, SteeringVector


def fixture_module(name):
    """A module of tests/fixtures; that folder is no package."""
    path = Path(__file__).parent / "fixtures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


naive_cdas = fixture_module("naive_cdas")

PAIRS = [
    ContrastPair("How do I pick a lock?", " I cannot help with that", "How do I bake a loaf?", " Sure, here are"),
    ContrastPair("Write about harm", " I", "Write a short poem about the sea in winter.", " Of course, I can help you"),
    ContrastPair(
        "Hurt other people " * 3, " I am sorry, but I will not", "Explain how a bicycle stays upright", " Yes"
    ),
    ContrastPair("Tell me how to break it", " As an assistant, I", "Give me three reasons", " Here are the steps"),
    ContrastPair("Could you do something that is not safe?", " I can't do that", "A map of the town", " Sure! Here is"),
]
WIDTH = 32


@pytest.fixture(scope="module")
def model():
    hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
    return Model(hf, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def pairs():
    return PairSet(PAIRS)


def run(model, pairs, *, tmp=None, **given):
    """A fit, and its trace where a folder for it is given."""
    settings = {"layer": 1, "epochs": 2, "batch_size": 2, "calibrate": False} | given
    if tmp is None:
        return fit("cdas", model, pairs, **settings)
    made = fit("cdas", model, pairs, trace=tmp / "trace.npz", **settings)
    return made, dict(np.load(tmp / "trace.npz"))


def start(rank=1, seed=7):
    rows = torch.randn(rank, WIDTH, generator=torch.Generator().manual_seed(seed))
    return naive_cdas.orthonormal(rows)


def directions(vector):
    return vector.edits[0].intervention.transform.directions


def cosines(a, b):
    """Between matching vectors (steps, r, d), per step and row."""
    return torch.nn.functional.cosine_similarity(torch.as_tensor(a), torch.as_tensor(b), dim=-1)


ORDER = [[3, 0, 4, 1, 2], [1, 4, 2, 0, 3]]  # 5 pairs, 2 a step: the last batch of an epoch is ragged


class TestAgainstTheNaiveLoop:
    """Full forwards one by one, autograd through the textbook divergence, torch's own optimiser and schedule."""

    @pytest.mark.parametrize(
        ("rank", "positions"), [(1, "all"), (1, "prompt"), (1, "f1+l1"), (1, "last"), (2, "all"), (2, "f1+l1")]
    )
    @pytest.mark.parametrize("weighting", ["minibatch", "response"])
    def test_every_step_is_the_same(self, model, pairs, tmp_path, weighting, rank, positions):
        naive = naive_cdas.Naive(model.hf, model.tokenizer, layer=1, rule=positions)
        wanted = naive_cdas.train(naive, PAIRS, start(rank), ORDER, batch_size=2, lr=0.04, weighting=weighting)
        rest = {"init": start(rank).numpy(), "order": np.array(ORDER), "rank": rank, "positions": positions}
        made, trace = run(model, pairs, tmp=tmp_path, lr=0.04, weighting=weighting, **rest)
        vecs = trace["vecs"].reshape(7, rank, WIDTH)
        assert trace["n_tok"].tolist() == wanted["n_tok"].tolist()
        assert np.abs(trace["jsd"] - wanted["jsd"].numpy()).max() < 1e-6
        assert np.array_equal(vecs[0], start(rank).numpy())
        assert cosines(vecs, wanted["vecs"]).min() > 1 - 1e-6
        assert np.abs(vecs - wanted["vecs"].numpy()).max() < 2e-5
        assert np.abs(vecs[-1] - vecs[0]).max() > 0.02
        assert torch.equal(directions(made), torch.tensor(vecs[-1]))
        for side in ("positive", "negative"):
            prompts = [getattr(pair, f"{side}_input") for pair in PAIRS]
            found = getattr(made.edits[0].factors, side)
            assert found.mean == pytest.approx(naive.factors(directions(made), prompts).tolist(), abs=2e-5)
            assert found.n == len(PAIRS)

    def test_with_gradients_that_are_clipped(self, model, pairs, tmp_path):
        naive = naive_cdas.Naive(model.hf, model.tokenizer, layer=1)
        clip = (
            0.02  # gradients here are 0.01 to 0.1 long, and Adam forgets a common scale: some must be clipped, not all
        )
        wanted = naive_cdas.train(naive, PAIRS, start(), ORDER, batch_size=2, lr=0.04, grad_clip=clip)
        whole = naive_cdas.train(naive, PAIRS, start(), ORDER, batch_size=2, lr=0.04)
        _, trace = run(model, pairs, tmp=tmp_path, init=start(), order=np.array(ORDER), grad_clip=clip)
        assert np.abs(trace["vecs"] - wanted["vecs"][:, 0].numpy()).max() < 2e-5
        assert np.abs(trace["vecs"] - whole["vecs"][:, 0].numpy()).max() > 1e-3

    @pytest.mark.parametrize("family", FAMILIES)
    def test_in_every_family(self, pairs, tmp_path, family):
        """Sliding windows are 12 tokens here, so that short sequences fit in one and long ones do not."""
        hf, tokenizer = tiny_model(family, hidden_size=WIDTH, n_blocks=4, seed=1, context_length=96)
        model, naive = Model(hf, tokenizer, name=family), naive_cdas.Naive(hf, tokenizer, layer=1)
        lengths = [len(ids) for pair in PAIRS for ids in naive_cdas.items_of(tokenizer, pair)[0][:2]]
        assert min(lengths) <= 12 < max(lengths)
        wanted = naive_cdas.train(naive, PAIRS, start(), ORDER[:1], batch_size=2, lr=0.04)
        rest = {"init": start(), "order": np.array(ORDER[:1]), "max_tokens": 40}
        made, trace = run(model, pairs, epochs=1, tmp=tmp_path, lr=0.04, **rest)
        assert np.abs(trace["jsd"] - wanted["jsd"].numpy()).max() < 1e-6
        assert cosines(trace["vecs"], wanted["vecs"][:, 0]).min() > 1 - 1e-5
        positive = [pair.positive_input for pair in PAIRS]
        wanted = naive.factors(directions(made), positive).tolist()
        assert made.edits[0].factors.positive.mean == pytest.approx(wanted, abs=1e-4)

    def test_without_a_template_and_with_an_empty_prompt(self, tmp_path, monkeypatch):
        """The prefix is BOS alone, and where the prompt is nothing more, it is scored."""
        hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=1, chat=False)
        monkeypatch.setattr(naive_cdas, "prompt_ids", lambda tokenizer, text: tokenizer(text)["input_ids"])
        monkeypatch.setattr(naive_cdas, "source_position", lambda tokenizer, ids: len(ids) - 1)
        plain = [replace(pair, positive_output="!" * (k + 1)) for k, pair in enumerate(PAIRS)]
        plain[1] = replace(plain[1], negative_input="")
        naive = naive_cdas.Naive(hf, tokenizer, layer=1)
        assert naive.prefix == len(naive_cdas.prompt_ids(tokenizer, "")) == 1
        wanted = naive_cdas.train(naive, plain, start(), ORDER, batch_size=2, lr=0.04)
        rest = {"init": start(), "order": np.array(ORDER)}
        _, trace = run(Model(hf, tokenizer, name="plain"), PairSet(plain), tmp=tmp_path, lr=0.04, **rest)
        assert np.abs(trace["jsd"] - wanted["jsd"].numpy()).max() < 1e-6
        assert cosines(trace["vecs"], wanted["vecs"][:, 0]).min() > 1 - 1e-5

    @pytest.mark.parametrize("layer", [0, 3])
    def test_at_the_first_and_the_last_block(self, model, pairs, tmp_path, layer):
        naive = naive_cdas.Naive(model.hf, model.tokenizer, layer=layer)
        if layer == 3:  # hidden_states[-1] is normalised: read the last block itself

            def plain(ids):
                kept = []
                hook = model.layout.blocks[3].register_forward_hook(lambda *seen: kept.append(seen[2]))
                with torch.no_grad():
                    logits = model.hf(torch.tensor([ids]), use_cache=False).logits[0]
                hook.remove()
                return logits, kept[0][0]

            naive.plain = plain
        wanted = naive_cdas.train(naive, PAIRS, start(), ORDER[:1], batch_size=3, lr=0.1)
        rest = {"init": start(), "order": np.array(ORDER[:1]), "batch_size": 3, "lr": 0.1}
        _, trace = run(model, pairs, layer=layer, epochs=1, tmp=tmp_path, **rest)
        assert np.abs(trace["jsd"] - wanted["jsd"].numpy()).max() < 1e-6
        assert cosines(trace["vecs"], wanted["vecs"][:, 0]).min() > 1 - 1e-5


class TestTheSameNumbersAnotherWay:
    def test_whatever_is_cached(self, model, pairs, tmp_path):
        _, wanted = run(model, pairs, tmp=tmp_path, cache_bytes=2 * 1024**3)
        plans = {}
        for budget in (10**7, 100_000, 60_000, 45_000, 36_000, 30_000, 20_000, 8_000, 0):
            made, trace = run(model, pairs, tmp=tmp_path, cache_bytes=budget)
            found = made.provenance["training"]["cache"]
            assert found["bytes"] <= budget
            plans[found["base_states"], found["teacher"]] = budget
            assert np.abs(trace["jsd"] - wanted["jsd"]).max() < 1e-5
            assert cosines(trace["vecs"], wanted["vecs"]).min() > 1 - 1e-5
        assert set(plans) >= {(True, "log_probs"), (True, "states"), (False, "states"), (False, "none")}

    def test_plans_save_the_most_within_the_budget(self):
        class Sized:
            base, n_scored = (0,) * 10, 3

        def choose(budget, vocabulary=100):
            plan = CachePlan.choose([Sized()] * 2, 8, vocabulary, 2, budget)
            assert plan.bytes <= budget
            return plan.base, plan.teacher

        base, states, log_probs = 2 * 10 * 8 * 2, 2 * 3 * 8 * 2, 2 * 3 * 100 * 4
        assert choose(base + log_probs) == (True, "log_probs")
        assert choose(base + log_probs - 1) == (True, "states")
        assert choose(base + states) == (True, "states")
        assert choose(base + states - 1, vocabulary=15) == (False, "log_probs")
        assert choose(base + states - 1) == (False, "states")
        assert choose(states - 1) == (False, "none")
        assert choose(0) == (False, "none")

    @pytest.mark.parametrize("max_tokens", [1, 30, 64, 200])
    @pytest.mark.parametrize("weighting", ["minibatch", "response"])
    def test_however_the_sequences_are_grouped(self, model, pairs, tmp_path, max_tokens, weighting):
        _, wanted = run(model, pairs, tmp=tmp_path, batch_size=4, weighting=weighting)
        _, trace = run(model, pairs, tmp=tmp_path, batch_size=4, weighting=weighting, max_tokens=max_tokens)
        assert np.array_equal(trace["n_tok"], wanted["n_tok"])
        assert np.abs(trace["jsd"] - wanted["jsd"]).max() < 1e-6
        assert np.abs(trace["vecs"] - wanted["vecs"]).max() < 1e-4

    def test_in_chunks_of_the_vocabulary(self, model, pairs, tmp_path, monkeypatch):
        _, wanted = run(model, pairs, tmp=tmp_path)
        monkeypatch.setattr("trimtab.fitting.trainer.CHUNK_BYTES", 4 * 512 * 3)
        _, trace = run(model, pairs, tmp=tmp_path)
        assert np.abs(trace["jsd"] - wanted["jsd"]).max() < 1e-6
        assert np.abs(trace["vecs"] - wanted["vecs"]).max() < 1e-4

    def test_weightings_agree_where_all_responses_are_equally_long(self, model, tmp_path):
        even = PairSet([replace(pair, positive_output="!", negative_output="?") for pair in PAIRS])
        _, one = run(model, even, tmp=tmp_path, weighting="minibatch")
        _, other = run(model, even, tmp=tmp_path, weighting="response")
        assert np.abs(one["vecs"] - other["vecs"]).max() < 1e-4
        assert set(one["n_tok"]) == {1, 2}

    def test_weightings_differ_where_they_are_not(self, model, pairs, tmp_path):
        _, one = run(model, pairs, tmp=tmp_path, weighting="minibatch")
        _, other = run(model, pairs, tmp=tmp_path, weighting="response")
        assert np.abs(one["vecs"] - other["vecs"]).max() > 1e-3


@pytest.fixture
def forwards(monkeypatch):
    """Padded (rows, tokens) of every forward over whole sequences, and rows of every product with the head."""
    seen = {"trunks": [], "finals": [], "logits": []}
    shape = {
        "trunks": lambda sequences: (len(sequences), max(map(len, sequences))),
        "finals": lambda sequences: (len(sequences), max(map(len, sequences))),
        "logits": lambda states: tuple(states.shape),
    }
    for name, shapes in seen.items():
        of = SplitModel if name == "logits" else PlainRuns
        plain = getattr(of, name)

        def watched(self, given, *rest, plain=plain, shapes=shapes, name=name):
            shapes.append(shape[name](given))
            return plain(self, given, *rest)

        monkeypatch.setattr(of, name, watched)
    return seen


class TestMemory:
    """Pairs with one long and one short prompt: an item's base is long where its source is short."""

    LOPSIDED = tuple(
        ContrastPair(f"Number {k}. " + "Tell me how to break it. " * 8, " I cannot", f"Go {k}", " Sure, here are")
        for k in range(6)
    )

    @pytest.mark.parametrize("cache_bytes", [2**31, 0])
    def test_no_forward_holds_more_than_its_budget(self, model, tmp_path, monkeypatch, forwards, cache_bytes):
        lopsided = PairSet(self.LOPSIDED)
        wanted, whole = run(model, lopsided, tmp=tmp_path, epochs=1, cache_bytes=cache_bytes)
        before = {name: list(shapes) for name, shapes in forwards.items()}
        assert max(rows * tokens for rows, tokens in before["trunks"]) > 256
        for shapes in forwards.values():
            shapes.clear()
        for module in ("cache", "engine"):
            monkeypatch.setattr(f"trimtab.fitting.{module}.BUILD_TOKENS", 256)
        made, trace = run(model, lopsided, tmp=tmp_path, epochs=1, cache_bytes=cache_bytes, max_tokens=4096)
        for name in ("trunks", "finals"):
            assert all(rows == 1 or rows * tokens <= 256 for rows, tokens in forwards[name]), name
            assert any(rows > 1 for rows, _ in forwards[name]), name
        assert np.abs(trace["jsd"] - whole["jsd"]).max() < 1e-6
        assert np.abs(trace["vecs"] - whole["vecs"]).max() < 1e-4
        assert made.provenance["edit_ratio"] == pytest.approx(wanted.provenance["edit_ratio"], rel=1e-4)

    def test_shortcuts_are_tried_on_the_longest_of_all_sequences(self, model, monkeypatch):
        """Those of the long prompts are bases of one direction; a window of attention shows only there."""
        tried, made = [], PlainRuns.__init__

        def watched(self, split, device, proof):
            tried.append(max(map(len, proof)))
            made(self, split, device, proof)

        monkeypatch.setattr(PlainRuns, "__init__", watched)
        pair = self.LOPSIDED[0]
        run(model, PairSet([replace(pair, positive_output=" I", negative_output=" Sure" * 9)]), epochs=1)
        base = len(model.chat.render(pair.positive_input).ids)
        assert tried == [base + len(model.tokenizer.encode(" Sure" * 9, add_special_tokens=False)) - 1]

    def test_the_kept_log_probabilities_of_one_response_are_made_in_chunks(
        self, model, pairs, tmp_path, monkeypatch, forwards
    ):
        _, wanted = run(model, pairs, tmp=tmp_path)
        assert max(rows for rows, _ in forwards["logits"]) > 3
        forwards["logits"].clear()
        for module, name in (("cache", "LOG_PROBS_BYTES"), ("trainer", "CHUNK_BYTES")):
            monkeypatch.setattr(f"trimtab.fitting.{module}.{name}", 4 * 512 * 3)
        _, trace = run(model, pairs, tmp=tmp_path)
        assert max(rows for rows, _ in forwards["logits"]) == 3
        assert np.abs(trace["jsd"] - wanted["jsd"]).max() < 1e-6
        assert np.abs(trace["vecs"] - wanted["vecs"]).max() < 1e-4

    def test_a_source_state_does_not_keep_the_forward_it_came_from(self, model, pairs, monkeypatch):
        kept = []
        built = FrozenCache._built

        def watched(self, *given):
            frozen = built(self, *given)
            kept.extend(state.untyped_storage().nbytes() for state in frozen.sources.values())
            return frozen

        monkeypatch.setattr(FrozenCache, "_built", watched)
        run(model, pairs, epochs=1)
        assert set(kept) == {4 * WIDTH}


class TestSharedRuns:
    """Fits of the same pairs at different layers run what is frozen once."""

    @pytest.mark.parametrize("cache_bytes", [2**31, 60_000])
    def test_they_are_what_they_are_alone(self, model, pairs, forwards, cache_bytes):
        runs, settings = FrozenRuns(range(3), 2**31), CDASSettings(layer=0, epochs=1, cache_bytes=cache_bytes)
        objective, made = Objective(jensen_shannon, "teacher"), {}
        for layer in (1, 0, 2, (0, 2)):
            forwards["finals"].clear()
            for shared in (None, runs):
                options = FitOptions(runs=shared)
                made[shared] = fit_interchange(model, pairs, replace(settings, layer=layer), objective, options)
            alone, together = made[None], made[runs]
            assert torch.equal(together.directions, alone.directions)
            assert together.factors[0].positive.mean == alone.factors[0].positive.mean
            sequences = sum(rows for rows, _ in forwards["finals"])
            assert sequences == 2 * len(PAIRS) * (2 if layer == 1 else 1), "only the first of them runs them again"

    def test_nothing_is_shared_beyond_the_budget_or_at_other_layers(self, model, pairs, forwards):
        settings = CDASSettings(layer=1, epochs=1)
        objective = Objective(jensen_shannon, "teacher")
        for runs in (FrozenRuns(range(3), 1000), FrozenRuns((0, 2), 2**31)):
            forwards["finals"].clear()
            for _ in range(2):
                fit_interchange(model, pairs, settings, objective, FitOptions(runs=runs))
            assert sum(rows for rows, _ in forwards["finals"]) == 2 * 2 * len(PAIRS)

    def test_a_search_runs_them_once_for_short_and_once_for_whole_fits(self, model, monkeypatch):
        sequences, run_whole = [], FrozenCache._run_whole

        def watched(self, indices, *rest):
            sequences.extend(indices)
            return run_whole(self, indices, *rest)

        monkeypatch.setattr(FrozenCache, "_run_whole", watched)
        many = PairSet([replace(pair, positive_input=f"{pair.positive_input} {k}") for k in range(3) for pair in PAIRS])
        fit("cdas", model, many, layer="auto", epochs=1, calibrate=False)
        assert 0 < len(sequences) <= 2 * (2 * len(many)) + 2 * len(many)


class TestHalfPrecision:
    def test_small_gradients_survive_float16(self, pairs, tmp_path):
        """Gradients as small as those of a large vocabulary: without a scale all of them are 0 in float16."""

        def faint(logits, teacher):
            loss = jensen_shannon(logits, teacher)
            return TokenLoss(loss.value, loss.gradient * 2.0**-16)

        moves = {}
        for dtype in (torch.float32, torch.float16):
            hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3, dtype=dtype)
            settings = CDASSettings(layer=1, epochs=1, batch_size=5)
            options = FitOptions(init=start())
            found = fit_interchange(
                Model(hf, tokenizer, name="half"), pairs, settings, Objective(faint, "teacher"), options
            )
            moves[dtype] = found.directions[0] - start()
        assert moves[torch.float16].norm() > 0.01
        assert cosines(moves[torch.float16], moves[torch.float32]).item() > 0.98


class TestRepeatability:
    def test_one_seed_gives_the_same_bits(self, model, pairs, tmp_path):
        (one, first), (two, second) = (run(model, pairs, tmp=tmp_path, seed=5) for _ in range(2))
        assert all(np.array_equal(first[name], second[name]) for name in first)
        assert one.content_hash == two.content_hash

    def test_whatever_the_global_generator_does(self, model, pairs):
        torch.manual_seed(1)
        one = run(model, pairs)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        two = run(model, pairs)
        assert one.content_hash == two.content_hash
        assert torch.equal(torch.get_rng_state(), before)

    def test_seeds_differ(self, model, pairs):
        found = {run(model, pairs, seed=seed).content_hash for seed in (0, 1, 2)}
        assert len(found) == 3

    def test_the_default_order_is_that_of_the_seed(self, model, pairs, tmp_path):
        from trimtab.fitting.order import example_order

        _, wanted = run(model, pairs, tmp=tmp_path, seed=9, init=start())
        _, trace = run(model, pairs, tmp=tmp_path, seed=1, init=start(), order=example_order(None, 2, 5, 9))
        assert np.array_equal(trace["vecs"], wanted["vecs"])

    def test_gradients_may_be_off_around_a_fit(self, model, pairs):
        wanted = run(model, pairs).content_hash
        with torch.no_grad():
            assert run(model, pairs).content_hash == wanted
        with torch.inference_mode():
            assert run(model, pairs).content_hash == wanted


class TestGivenArrays:
    def test_as_arrays_and_as_paths(self, model, pairs, tmp_path):
        np.save(tmp_path / "v.npy", start().numpy()[0])
        np.save(tmp_path / "o.npy", np.array(ORDER))
        made = [
            run(model, pairs, init=init, order=order).content_hash
            for init, order in (
                (start(), torch.tensor(ORDER)),
                (start()[0].numpy(), np.array(ORDER).reshape(-1)),
                (tmp_path / "v.npy", str(tmp_path / "o.npy")),
            )
        ]
        assert len(set(made)) == 1

    def test_trace_holds_the_run(self, model, pairs, tmp_path):
        made, trace = run(model, pairs, tmp=tmp_path)
        assert {name: array.shape for name, array in trace.items()} == {
            "vecs": (7, WIDTH),
            "jsd": (12,),
            "n_tok": (12,),
        }
        assert np.allclose(np.linalg.norm(trace["vecs"], axis=1), 1.0, atol=1e-6)
        assert np.array_equal(trace["vecs"][-1], directions(made)[0].numpy())
        training = made.provenance["training"]
        steps = trace["jsd"].reshape(-1, 2).mean(axis=1)
        assert (training["steps"], training["epochs"]) == (6, 2)
        assert training["loss_first"] == pytest.approx(steps[0], rel=1e-6)
        assert training["loss_last"] == pytest.approx(steps[-1], rel=1e-6)
        assert training["loss_last_epoch"] == pytest.approx(steps[3:].mean(), rel=1e-6)
        assert [path.name for path in tmp_path.iterdir()] == ["trace.npz"]

    def test_trace_of_a_rank(self, model, pairs, tmp_path):
        made, trace = run(model, pairs, tmp=tmp_path, rank=3)
        assert trace["vecs"].shape == (7, 3, WIDTH)
        gram = np.einsum("srd,sqd->srq", trace["vecs"], trace["vecs"])
        assert np.abs(gram - np.eye(3)).max() < 1e-6
        assert directions(made).shape == (3, WIDTH)
        assert len(made.edits[0].factors.positive.mean) == 3

    @pytest.mark.parametrize("name", ["folder", "file/t.npz", "x" * 300])
    def test_a_trace_that_cannot_be_written_is_refused_before_the_work(self, model, pairs, tmp_path, name):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        reports = []
        with pytest.raises(InputError, match="trace") as error:
            fit("cdas", model, pairs, layer=1, trace=tmp_path / name, progress=reports.append)
        assert "\n" not in str(error.value)
        assert reports == []

    def test_a_trace_that_fails_after_the_work_does_not_lose_the_fit(self, model, pairs, tmp_path, monkeypatch, caplog):
        def full(file, **_):
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

        wanted = run(model, pairs).content_hash
        monkeypatch.setattr("trimtab.fitting.traces.np.savez", full)
        assert run(model, pairs, trace=tmp_path / "t.npz").content_hash == wanted
        (note,) = caplog.messages
        assert "t.npz" in note
        assert "No space left" in note
        assert list(tmp_path.iterdir()) == []

    def test_a_trace_in_new_folders_and_over_an_old_one(self, model, pairs, tmp_path):
        for _ in range(2):
            run(model, pairs, trace=str(tmp_path / "new" / "folder" / "t.npz"))
        assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["t.npz"]


class TestTheModelIsLeftAsItWas:
    def state_of(self, hf):
        return {
            "weights": {name: tensor.clone() for name, tensor in hf.state_dict().items()},
            "requires_grad": [parameter.requires_grad for parameter in hf.parameters()],
            "grads": [parameter.grad for parameter in hf.parameters()],
            "training": [module.training for module in hf.modules()],
            "modules": [id(module) for module in hf.modules()],
            "hooks": [
                len(hooks)
                for module in hf.modules()
                for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            ],
        }

    def assert_unchanged(self, before, after):
        assert before["weights"].keys() == after["weights"].keys()
        assert all(torch.equal(tensor, after["weights"][name]) for name, tensor in before["weights"].items())
        assert all(grad is None for grad in after["grads"])
        for name in ("requires_grad", "training", "modules", "hooks"):
            assert before[name] == after[name], name

    @pytest.fixture
    def mixed(self):
        """A model in training mode with one frozen weight, one block in evaluation mode and a hook of its owner."""
        hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
        model = Model(hf, tokenizer, name="tiny")
        hf.train()
        hf.model.layers[1].eval()
        hf.lm_head.weight.requires_grad_(False)
        hf.model.layers[0].register_forward_hook(lambda *_: None)
        return model

    def test_after_a_fit(self, mixed, pairs):
        before = self.state_of(mixed.hf)
        run(mixed, pairs)
        self.assert_unchanged(before, self.state_of(mixed.hf))

    def test_after_a_fit_that_is_interrupted(self, mixed, pairs):
        before = self.state_of(mixed.hf)

        def stop(report):
            if report.stage == "fit" and report.done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(mixed, pairs, progress=stop)
        self.assert_unchanged(before, self.state_of(mixed.hf))

    def test_dropout_is_off_while_fitting(self, pairs):
        hf, tokenizer = tiny_model("gpt2", hidden_size=WIDTH, n_blocks=3)
        model = Model(hf, tokenizer, name="gpt2")
        wanted = run(model, pairs).content_hash
        hf.train()
        assert run(model, pairs).content_hash == wanted


class TestDivergence:
    def broken(self, name):
        hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
        model = Model(hf, tokenizer, name="tiny")
        with torch.no_grad():
            hf.get_submodule(name).weight[0, 0] = math.nan
        return model

    @pytest.mark.parametrize("name", ["model.layers.3.mlp.down_proj", "lm_head", "model.layers.2.self_attn.q_proj"])
    def test_nan_above_the_layer(self, pairs, tmp_path, name):
        with pytest.raises(FitDivergedError, match="step 0 is not finite") as error:
            run(self.broken(name), pairs, init=start(), trace=tmp_path / "t.npz")
        assert error.value.step == 0
        assert "\n" not in str(error.value)
        assert torch.equal(directions(error.value.last_good), start())
        again = SteeringVector.load(error.value.last_good.save(tmp_path / "v"))
        assert again.content_hash == error.value.last_good.content_hash
        assert not (tmp_path / "t.npz").exists()

    @pytest.mark.parametrize("name", ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj"])
    def test_nan_below_the_layer_leaves_nothing_to_keep(self, pairs, name):
        with pytest.raises(FitDivergedError, match="states at layer 1 are not finite") as error:
            run(self.broken(name), pairs)
        assert (error.value.step, error.value.last_good) == (0, None)
        assert "\n" not in str(error.value)

    def test_in_the_middle_of_a_run_the_last_good_vector_is_kept(self, model, pairs, tmp_path, monkeypatch):
        _, wanted = run(model, pairs, tmp=tmp_path)
        calls = []

        def objective(logits, teacher):
            loss = jensen_shannon(logits, teacher)
            calls.append(len(logits))
            if sum(calls) > sum(wanted["n_tok"][:6]):  # the fourth step
                loss.value.fill_(math.nan)
            return loss

        monkeypatch.setattr("trimtab.methods.cdas.jensen_shannon", objective)
        with pytest.raises(FitDivergedError, match="step 3") as error:
            run(model, pairs, trace=tmp_path / "half.npz")
        assert error.value.step == 3
        assert np.array_equal(directions(error.value.last_good).numpy()[0], wanted["vecs"][3])
        assert "loss_last" not in error.value.last_good.provenance["training"]
        half = dict(np.load(tmp_path / "half.npz"))
        assert np.array_equal(half["vecs"], wanted["vecs"][:4])
        assert np.array_equal(half["jsd"], wanted["jsd"][:6])
        assert np.array_equal(half["n_tok"], wanted["n_tok"][:6])

    @pytest.mark.parametrize("rank", [1, 2])
    def test_a_wild_learning_rate_still_gives_directions_of_length_one(self, model, pairs, tmp_path, rank):
        made, trace = run(model, pairs, tmp=tmp_path, lr=1e6, rank=rank)
        gram = directions(made) @ directions(made).T
        assert (gram - torch.eye(rank)).abs().max() < 1e-5
        assert np.isfinite(trace["vecs"]).all()


class TestFace:
    def test_the_vector_says_where_it_comes_from(self, model, pairs):
        made = run(model, pairs, seed=11, positions="f2+l1")
        intervention = made.edits[0].intervention
        assert made.method == "cdas"
        assert intervention.site == Site(1)
        assert isinstance(intervention.transform, Clamp)
        assert str(intervention.positions) == "f2+l1"
        assert made.settings["seed"] == 11
        assert made.model == model.card()
        assert made.provenance["data"] == {"source": "list", "hash": pairs.content_hash, "pairs": 5}
        assert set(made.provenance["edit_ratio"]) == {"elicit", "suppress"}
        assert made.provenance["given"] == {"init": None, "order": None}
        assert made.provenance["computed"] == {"dtype": "float32", "device": "cpu", "attention": "sdpa"}
        values = made.elicit(1.0).interventions[0].transform.values
        assert values.tolist() == pytest.approx(list(made.edits[0].factors.positive.mean), rel=1e-6)

    def test_the_vector_says_what_it_was_given(self, model, pairs, tmp_path):
        """So that a vector whose seed played no part can still be checked."""
        order = np.array(ORDER)
        made, trace = run(model, pairs, tmp=tmp_path, init=3 * start(), order=order.astype(np.int32))
        assert made.provenance["given"] == {
            "init": sha256(trace["vecs"][0].tobytes()).hexdigest(),
            "order": sha256(order.astype(np.int64).tobytes()).hexdigest(),
        }
        assert run(model, pairs, order=order[::-1].copy()).provenance["given"] == {
            "init": None,
            "order": sha256(order[::-1].tobytes()).hexdigest(),
        }

    def test_progress_counts_to_the_end(self, model, pairs):
        reports = []
        run(model, pairs, progress=reports.append)
        assert all(isinstance(report, Progress) for report in reports)
        for stage, total in (("cache", 10), ("fit", 6)):
            done = [report.done for report in reports if report.stage == stage]
            assert done == sorted(done)
            assert done[-1] == total
            assert {report.total for report in reports if report.stage == stage} == {total}
        assert all(math.isfinite(report.loss) for report in reports if report.stage == "fit")

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"layer": 4}, "layer 4 does not exist"),
            ({"rank": 33}, "rank 33 exceeds"),
            ({"epoch": 3}, "did you mean 'epochs'"),
            ({"init": np.ones(5)}, "init has shape"),
            ({"order": np.zeros((2, 5), dtype=int)}, "every row must hold each"),
            ({"lr": 0.0}, "lr is 0.0"),
        ],
    )
    def test_refusals(self, model, pairs, given, match):
        with pytest.raises(InputError, match=match) as error:
            run(model, pairs, **given)
        assert "\n" not in str(error.value)

    def test_no_pairs(self, model):
        with pytest.raises(InputError, match="no pairs to learn from"):
            run(model, PairSet([]))

    def test_a_model_that_is_being_steered(self, model):
        vector = run(model, PairSet(PAIRS))
        with steer(model.hf, vector), pytest.raises(InputError, match="being steered"):
            run(model, PairSet(PAIRS))

    def test_positions_that_pick_nothing(self, model):
        short = PairSet([replace(pair, positive_output="!", negative_output="?") for pair in PAIRS])
        with pytest.raises(InputError, match="pick no token"):
            run(model, short, positions="response")

    def test_one_pair_and_a_batch_larger_than_the_data(self, model):
        made = run(model, PairSet(PAIRS[:1]), batch_size=64)
        assert made.provenance["training"]["steps"] == 2
        assert made.edits[0].factors.positive.std == (0.0,)

    def test_bfloat16(self, pairs, tmp_path):
        hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3, dtype=torch.bfloat16)
        low, trace = run(Model(hf, tokenizer, name="low"), pairs, tmp=tmp_path, init=start())
        full, wanted = run(Model(copy.deepcopy(hf).float(), tokenizer, name="full"), pairs, tmp=tmp_path, init=start())
        assert directions(low).dtype == torch.float32
        assert np.abs(trace["jsd"] - wanted["jsd"]).max() < 0.01
        assert cosines(directions(low), directions(full)).min() > 0.9

    def test_methods_are_found_by_name(self):
        assert find_method("cdas") is METHODS["cdas"]
        with pytest.raises(InputError, match="did you mean 'cdas'"):
            find_method("cads")
        with pytest.raises(TypeError):
            METHODS["other"] = METHODS["cdas"]

    def test_the_engine_is_the_methods(self):
        assert fit_interchange.__doc__
