"""Methods that look into heads, features, dimensions and tokens: each formula by hand, and something planted found."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import trimtab as tt
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.fitting import attribution, heads, refusal, thoughts
from trimtab.fitting.autoencoder import read_autoencoder
from trimtab.fitting.closed import closed_states
from trimtab.fitting.features import auroc, feature_stats
from trimtab.fitting.places import ending_means, shared_ending, states_at
from trimtab.fitting.states import ClassStates
from trimtab.methods import austeer, fv, grains, refusal_direction, sae, seal
from trimtab.models import Model, capture, steer
from trimtab.models.families import hook_point
from trimtab.models.projections import head_weights
from trimtab.models.tiny import tiny_model
from trimtab.models.versions import cache_argument
from trimtab.steering import Add, FeatureClamp, Site, Steering

PAIRS = PairSet([ContrastPair(f"Shout {k}!", f"YES {k}", f"Say {k}.", f"no {k}") for k in range(6)])
WIDTH, DEPTH, HEADS, SIZE = 16, 4, 4, 4
MARK = "\n\n"


def fresh(family="llama", **settings):
    hf, tokenizer = tiny_model(family, hidden_size=WIDTH, n_blocks=DEPTH, seed=0, **settings)
    return Model(hf, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def model():
    return fresh()


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism")


def fitted(method, model, pairs=PAIRS, **settings):
    return tt.fit(method, model, pairs, **{"calibrate": False} | settings)


def rendered(model, side="positive", pairs=PAIRS):
    return [model.chat.render(getattr(pair, f"{side}_input")) for pair in pairs]


class TestHeads:
    @pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "falcon", "opt", "phi3", "qwen2", "gpt_oss"])
    def test_what_heads_write_is_the_output_of_the_attention_less_its_bias(self, family):
        """Grouped queries, GPT-2's transposed weights and biases included."""
        model = fresh(family)
        module = hook_point(model.layout.blocks[1], Site(1, "attn_in"), model.layout.model_type).module
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias)
        (states,) = capture(model.hf, [[5, 9, 30, 7]], [Site(1, "attn_in"), Site(1, "attn_out")])
        parts = states[Site(1, "attn_in")].unflatten(-1, (HEADS, SIZE))  # (s, n, k)
        written = torch.einsum("shk,hdk->sd", parts, head_weights(model.layout, 1))
        bias = getattr(module, "bias", None)
        expected = states[Site(1, "attn_out")] - (0 if bias is None else bias.detach())
        torch.testing.assert_close(written, expected, rtol=1e-4, atol=1e-5)

    def test_weights_that_are_no_plain_matrix_are_refused(self):
        class Packed(nn.Linear):
            """What a quantised projection does: its weights are not what it multiplies by."""

            def forward(self, x):
                return nn.functional.linear(x, self.weight.sign())

        model = fresh()
        model.layout.blocks[0].self_attn.o_proj = Packed(WIDTH, WIDTH, bias=False)
        with pytest.raises(InputError, match=r"Packed.*without quantisation"):
            head_weights(model.layout, 0)
        model.layout.blocks[1].self_attn.o_proj.weight = nn.Parameter(
            torch.zeros(WIDTH * WIDTH // 2, 1, dtype=torch.uint8), requires_grad=False
        )
        with pytest.raises(InputError, match="block 1 is a Linear that does not multiply"):
            head_weights(model.layout, 1)
        with pytest.raises(InputError, match="Packed"):
            fitted("fv", model, layer=1)

    def test_a_head_set_to_its_own_part_has_no_effect(self, model):
        prompt = rendered(model)[:1]
        (states,) = capture(model.hf, [prompt[0].ids], [Site(2, "attn_in")])
        own = {(2, head): part for head, part in enumerate(states[Site(2, "attn_in")][-1].split(SIZE))}
        effects = heads.indirect_effects(model, prompt, [(9, 12, 40)], own)
        assert effects.keys() == own.keys()
        assert max(map(abs, effects.values())) < 1e-5

    @pytest.mark.parametrize("in_probability", [False, True])
    def test_an_effect_is_that_of_the_edit(self, model, in_probability):
        prompts, responses = rendered(model, "negative")[:2], [(9, 12), (40,)]
        part = 3 * torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
        found = heads.indirect_effects(model, prompts, responses, {(1, 2): part}, in_probability=in_probability)

        def score(prompt, response, *, edited):
            def put(_, args):
                states = args[0].clone()
                if edited:
                    states[0, len(prompt.ids) - 1, 2 * SIZE : 3 * SIZE] = part
                return (states,)

            handle = model.layout.blocks[1].self_attn.o_proj.register_forward_pre_hook(put)
            with torch.no_grad():
                logits = model.hf(torch.tensor([[*prompt.ids, *response]])).logits[0, len(prompt.ids) - 1 : -1]
            handle.remove()
            logs = logits.log_softmax(-1)[range(len(response)), list(response)]
            return float(logs.sum().exp() if in_probability else logs.mean())

        pairs = list(zip(prompts, responses, strict=True))
        wanted = sum(score(*pair, edited=True) - score(*pair, edited=False) for pair in pairs) / 2
        assert found[1, 2] == pytest.approx(wanted, abs=1e-5)

    def test_a_planted_head_ranks_first(self):
        """All heads but one write nothing, and that one writes what makes a token likelier."""
        model = fresh()
        token, planted = 77, (2, 3)
        with torch.no_grad():
            for block in model.layout.blocks:
                block.self_attn.o_proj.weight.zero_()
            row = model.layout.head.weight[token]
            last = model.layout.blocks[2].self_attn.o_proj.weight
            last[:, 3 * SIZE : 4 * SIZE] = 5 * row[:, None]
        parts = {(layer, head): torch.ones(SIZE) for layer in range(DEPTH) for head in range(HEADS)}
        effects = heads.indirect_effects(model, rendered(model, "negative"), [(token,)] * len(PAIRS), parts)
        assert heads.strongest(effects, 1) == [planted]
        assert effects[planted] > 0.1
        assert max(abs(effect) for head, effect in effects.items() if head != planted) < 1e-5
        written = fv.written_by(model, parts, [planted])
        torch.testing.assert_close(written, 5 * SIZE * row.detach())

    def test_equal_effects_go_by_block_and_head(self):
        assert heads.strongest({(1, 0): 1.0, (0, 3): 1.0, (0, 1): 2.0, (0, 2): 1.0}, 3) == [(0, 1), (0, 2), (0, 3)]


class TestFunctionVector:
    def test_it_is_the_sum_of_what_its_heads_write(self, model):
        vector = fitted("fv", model, layer=2, heads=3)
        states = [
            capture(model.hf, [prompt.ids], [Site(layer, "attn_in") for layer in range(DEPTH)])[0]
            for prompt in rendered(model)
        ]
        chosen = vector.provenance["training"]["heads"]
        assert len(chosen) == 3
        assert [head["effect"] for head in chosen] == sorted((head["effect"] for head in chosen), reverse=True)
        total = torch.zeros(WIDTH)
        for place in chosen:
            layer, head = place["layer"], place["head"]
            cut = slice(head * SIZE, (head + 1) * SIZE)
            part = torch.stack([row[Site(layer, "attn_in")][-1, cut] for row in states]).mean(dim=0)
            total += model.layout.blocks[layer].self_attn.o_proj.weight[:, cut].detach() @ part
        elicit, suppress = (edit.intervention for edit in vector.edits)
        torch.testing.assert_close(elicit.transform.vector, total, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(suppress.transform.vector, -elicit.transform.vector)
        assert str(elicit.positions) == "last"
        assert elicit.site == Site(2)

    def test_layers_share_the_ranking(self, model, monkeypatch):
        asked = []
        monkeypatch.setattr(fv, "head_effects", lambda *a: asked.append(a) or {(0, 0): 1.0, (1, 1): 0.5})
        from trimtab.fitting import FitOptions
        from trimtab.fitting.states import SharedStates

        options = FitOptions(states=SharedStates([0, 1]))
        for layer in (0, 1):
            fv.fit_fv(model, PAIRS, fv.FunctionVectorSettings(layer, heads=1), options)
        assert len(asked) == 1

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"layer": 9}, "layer 9"),
            ({"heads": 0}, "heads is 0"),
            ({"trials": 0}, "trials is 0"),
            ({"scored": "all"}, "response, first"),
            ({"measure": "odds"}, "log, probability"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, model, given, said):
        with pytest.raises(InputError, match=said):
            fitted("fv", model, **{"layer": 1} | given)


def orthonormal(m=WIDTH, d=WIDTH, seed=0):
    rows = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed))).Q
    return rows[:m].contiguous()


def toy(path, *, seed=0, **more):
    """An autoencoder whose dictionary is orthonormal: decoder rows are encoder columns."""
    rows = orthonormal(seed=seed)
    save_file({"W_enc": rows.T.contiguous(), "W_dec": rows, **more}, path)
    return rows


class TestAutoencoder:
    def test_a_state_is_its_code_and_its_error(self, tmp_path):
        toy(tmp_path / "a.safetensors", b_dec=torch.ones(WIDTH), b_enc=torch.full((WIDTH,), -0.1))
        found = read_autoencoder(tmp_path / "a.safetensors", WIDTH)
        states = torch.randn(5, WIDTH)
        code = found.encode(states)
        assert float(code.min()) >= 0
        torch.testing.assert_close(code, torch.relu(states @ found.encoder.T - 0.1))
        error = states - found.decode(code)
        torch.testing.assert_close(found.decode(code) + error, states)

    def test_a_clamp_leaves_all_other_atoms_and_the_error(self, tmp_path):
        toy(tmp_path / "a.safetensors", threshold=torch.full((WIDTH,), 0.3))
        found = read_autoencoder(tmp_path / "a.safetensors", WIDTH)
        states = 2 * torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(4))
        edited, code = found.clamp(3, 1.7)(states), found.encode(states)
        after = found.encode(edited)
        others = [k for k in range(WIDTH) if k != 3]
        torch.testing.assert_close(after[:, others], code[:, others], rtol=1e-4, atol=1e-5)
        on = code[:, 3] > 0
        torch.testing.assert_close(after[on, 3], torch.full((int(on.sum()),), 1.7), rtol=1e-4, atol=1e-5)
        code[:, 3] = 1.7  # the decoded code with the feature set, and the error of the plain one
        error = states - found.decode(found.encode(states))
        torch.testing.assert_close(edited, found.decode(code) + error, rtol=1e-4, atol=1e-5)

    def test_thresholds_are_jumps(self, tmp_path):
        rows = toy(tmp_path / "a.safetensors", threshold=torch.full((WIDTH,), 0.5))
        found = read_autoencoder(tmp_path / "a.safetensors", WIDTH)
        torch.testing.assert_close(found.encode(torch.stack([0.4 * rows[2], 0.6 * rows[2]]))[:, 2],
                                   torch.tensor([0.0, 0.6]))  # fmt: skip

    def test_top_k_keeps_so_many_and_cannot_be_clamped(self, tmp_path):
        toy(tmp_path / "a.safetensors", k=torch.tensor(3))
        found = read_autoencoder(tmp_path / "a.safetensors", WIDTH)
        states = torch.randn(20, WIDTH)
        code = found.encode(states)
        assert found.top_k == 3
        assert int((code > 0).sum(dim=1).max()) <= 3
        torch.testing.assert_close(code.amax(dim=1), torch.relu(states @ found.encoder.T).amax(dim=1))
        with pytest.raises(InputError, match=r"3 greatest features.*mode 'add'"):
            found.clamp(0, 1.0)
        assert read_autoencoder(tmp_path / "a.safetensors", WIDTH, top_k=2).top_k == 2

    @pytest.mark.parametrize("turned", [False, True])
    @pytest.mark.parametrize("names", [("W_enc", "W_dec"), ("encoder.weight", "decoder.weight")])
    def test_matrices_may_lie_either_way(self, tmp_path, names, turned):
        encoder, decoder = torch.randn(40, WIDTH), torch.randn(40, WIDTH)
        tensors = {names[0]: encoder.T if turned else encoder, names[1]: decoder.T if turned else decoder}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
        found = read_autoencoder(tmp_path, WIDTH)  # a folder that holds one
        torch.testing.assert_close(found.encoder, encoder)
        torch.testing.assert_close(found.decoder, decoder)

    def test_square_ones_go_by_name(self, tmp_path):
        matrix = torch.randn(WIDTH, WIDTH)
        save_file({"W_enc": matrix, "W_dec": matrix.clone()}, tmp_path / "a.safetensors")
        save_file({"encoder.weight": matrix, "decoder.weight": matrix.clone()}, tmp_path / "b.safetensors")
        first, second = (read_autoencoder(tmp_path / f"{name}.safetensors", WIDTH) for name in "ab")
        torch.testing.assert_close(first.encoder, matrix.T)
        torch.testing.assert_close(first.decoder, matrix)
        torch.testing.assert_close(second.encoder, matrix)
        torch.testing.assert_close(second.decoder, matrix.T)

    @pytest.mark.parametrize(
        ("name", "config", "given", "centred"),
        [
            ("W_enc", None, None, False),
            ("encoder.weight", None, None, True),
            ("W_enc", {"apply_b_dec_to_input": True}, None, True),
            ("encoder.weight", None, False, False),
        ],
    )
    def test_the_bias_is_taken_off_first_where_that_is_meant(self, tmp_path, name, config, given, centred):
        rows, bias = orthonormal(), torch.randn(WIDTH)
        encoder = rows.clone() if name == "encoder.weight" else rows.T.contiguous()
        save_file({name: encoder, "W_dec": rows, "b_dec": bias}, tmp_path / "a.safetensors")
        if config:
            (tmp_path / "cfg.json").write_text(json.dumps(config))
        found = read_autoencoder(tmp_path, WIDTH, subtract_bias=given)
        states = torch.randn(3, WIDTH)
        wanted = torch.relu((states - bias if centred else states) @ rows.T)
        torch.testing.assert_close(found.encode(states), wanted, rtol=1e-4, atol=1e-5)
        clamp = found.clamp(1, 0.0)
        torch.testing.assert_close(clamp.activation(states), wanted[:, 1], rtol=1e-4, atol=1e-5)

    def test_gemma_scope_files_are_read_without_pickle(self, tmp_path):
        rows = orthonormal().numpy()
        good = {"W_enc": rows.T, "W_dec": rows, "b_enc": np.zeros(WIDTH), "b_dec": np.ones(WIDTH)}
        np.savez(tmp_path / "params.npz", threshold=np.full(WIDTH, 0.2), **good)
        found = read_autoencoder(tmp_path / "params.npz", WIDTH)
        torch.testing.assert_close(found.threshold, torch.full((WIDTH,), 0.2))
        np.savez(tmp_path / "bad.npz", W_enc=np.array([{"a": 1}], dtype=object), W_dec=rows)
        with pytest.raises(InputError, match=r"cannot read .*bad.npz"):
            read_autoencoder(tmp_path / "bad.npz", WIDTH)

    @pytest.mark.parametrize(
        ("tensors", "config", "said"),
        [
            ({"W_enc": torch.zeros(12, 40), "W_dec": torch.zeros(40, 12)}, None, "12 wide.*of the model 16"),
            ({"encoder.weight": torch.zeros(40, 12), "W_dec": torch.zeros(40, 12)}, None, "12 wide.*of the model 16"),
            ({"W_dec": torch.zeros(40, 16)}, None, "no W_enc or encoder.weight, but W_dec"),
            ({"W_enc": torch.zeros(16, 40), "W_dec": torch.zeros(30, 16)}, None, "40 features and W_dec 30"),
            ({"W_enc": torch.zeros(16, 40), "W_dec": torch.zeros(40, 16), "b_enc": torch.zeros(3)}, None, "40 entries"),
            ({"W_enc": torch.zeros(16, 4), "W_dec": torch.zeros(4, 16), "b_gate": torch.zeros(4)}, None, "gated"),
            ({"W_enc": torch.zeros(16, 4), "W_dec": torch.zeros(4, 16)}, {"architecture": "gated"}, "gated"),
            ({"W_enc": torch.zeros(16, 4), "W_dec": torch.zeros(4, 16)}, {"normalize_activations": "layer_norm"},
             "layer_norm"),
            ({"W_enc": torch.zeros(16, 4), "W_dec": torch.zeros(4, 16)}, {"hook_name": "blocks.2.hook_resid_post"},
             "block 2, not 1"),
            ({"W_enc": torch.zeros(16, 4), "W_dec": torch.zeros(4, 16)},
             {"metadata": {"hook_name": "blocks.1.hook_mlp_out"}}, "mlp_out"),
            ({"W_enc": torch.full((16, 4), math.nan), "W_dec": torch.zeros(4, 16)}, None, "NaN"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, tmp_path, tensors, config, said):
        save_file(tensors, tmp_path / "a.safetensors")
        if config:
            (tmp_path / "cfg.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=said):
            read_autoencoder(tmp_path, WIDTH, layer=1)

    def test_files_that_are_none_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="no autoencoder at"):
            read_autoencoder(tmp_path / "none.safetensors", WIDTH)
        with pytest.raises(InputError, match=r"0 \.safetensors"):
            read_autoencoder(tmp_path, WIDTH)
        for name, said in (("a.pt", "pickles are not read"), ("a.safetensors", "cannot read")):
            (tmp_path / name).write_bytes(b"no weights")
            with pytest.raises(InputError, match=said):
                read_autoencoder(tmp_path / name, WIDTH)


class TestFeatureStats:
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def test_auroc_counts_pairs(self, high, low):
        wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low) / (len(high) * len(low))
        found = auroc(torch.tensor(high).float()[:, None], torch.tensor(low).float()[:, None])
        assert float(found[0]) == pytest.approx(wins)

    @pytest.mark.parametrize("pool", ["max", "mean"])
    def test_rows_are_pooled_behind_the_prefix(self, model, pool):
        stats = feature_stats(model, PAIRS, Site(1), torch.relu, pool=pool)
        rows = []
        for pair in PAIRS:
            prompt = model.chat.render(pair.positive_input)
            ids = prompt.ids + model.chat.response_ids(prompt, pair.positive_output)
            states = torch.relu(capture(model.hf, [ids], [Site(1)])[0][Site(1)][prompt.prefix_length :])
            rows.append(states)
        wanted = [row.amax(dim=0) if pool == "max" else row.mean(dim=0) for row in rows]
        torch.testing.assert_close(stats.positive, torch.stack(wanted), rtol=1e-4, atol=1e-5)
        tokens = torch.cat(rows)
        torch.testing.assert_close(stats.largest, tokens.amax(dim=0), rtol=1e-4, atol=1e-5)
        on = tokens.sum(dim=0) / (tokens > 0).sum(dim=0).clamp_min(1)
        torch.testing.assert_close(stats.mean, on, rtol=1e-4, atol=1e-5)


class TestSAE:
    def planted(self, model, path, *, at=5):
        """A dictionary one atom of which is the direction in which the classes differ."""
        settings = sae.SAESettings(1, path=str(path))
        states = closed_states("sae", model, PAIRS, settings, tt.fitting.FitOptions())[Site(1)]
        rows = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(8))
        rows[at] = states.difference
        basis, r = torch.linalg.qr(rows[[at, *[k for k in range(WIDTH) if k != at]]].T)
        basis = (basis * torch.where(r.diagonal() < 0, -1.0, 1.0)).T  # the first is the difference, with its sign
        order = [*range(1, at + 1), 0, *range(at + 1, WIDTH)]
        return basis[order].contiguous(), states

    def test_the_planted_atom_is_found_and_sized(self, model, tmp_path):
        rows, _ = self.planted(model, tmp_path)
        save_file({"W_enc": rows.T.contiguous(), "W_dec": rows}, tmp_path / "a.safetensors")
        stats = feature_stats(model, PAIRS, Site(1), lambda h: torch.relu(h @ rows.T))
        vector = fitted("sae", model, layer=1, path=tmp_path / "a.safetensors")
        areas = stats.auroc()
        found = vector.provenance["training"]["feature"]
        assert found == int((areas == areas.max()).nonzero()[0])  # ties: the smallest
        assert float(areas[5]) == float(areas.max())
        elicit, suppress = (edit.intervention.transform.vector for edit in vector.edits)
        torch.testing.assert_close(elicit, float(stats.largest[found]) * rows[found], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(suppress, -elicit)
        mean = fitted("sae", model, layer=1, path=tmp_path / "a.safetensors", activation="mean", feature=5)
        found = mean.edits[0].intervention.transform.vector
        torch.testing.assert_close(found, float(stats.mean[5]) * rows[5], rtol=1e-4, atol=1e-5)

    def test_a_clamp_sets_and_silences_the_feature(self, model, tmp_path):
        rows, _ = self.planted(model, tmp_path)
        save_file({"W_enc": rows.T.contiguous(), "W_dec": rows}, tmp_path / "a.safetensors")
        vector = fitted("sae", model, layer=1, path=tmp_path / "a.safetensors", mode="clamp", feature=5)
        clamp = vector.elicit(2.0).interventions[0].transform
        assert isinstance(clamp, FeatureClamp)
        assert float(clamp.value) == pytest.approx(2 * vector.provenance["training"]["largest"])
        ids = torch.tensor([rendered(model)[0].ids])
        for steering, wanted in ((vector.elicit(), float(vector.edits[0].intervention.transform.value)),
                                 (vector.suppress(), 0.0)):  # fmt: skip
            with torch.no_grad(), steer(model.hf, steering):
                states = model.hf(ids, output_hidden_states=True).hidden_states[2][0, 3:]
            plain = capture(model.hf, ids.tolist(), [Site(1)])[0][Site(1)][3:]
            on = clamp.activation(plain) > 0
            torch.testing.assert_close(clamp.activation(states)[on], torch.full((int(on.sum()),), wanted),
                                       rtol=1e-4, atol=1e-4)  # fmt: skip

    @pytest.mark.parametrize("mode", ["add", "clamp"])
    def test_strength_0_is_the_identity(self, model, tmp_path, mode):
        toy(tmp_path / "a.safetensors")
        vector = fitted("sae", model, layer=1, path=tmp_path / "a.safetensors", mode=mode)
        ids = torch.tensor([rendered(model)[0].ids])
        with torch.no_grad():
            plain = model.hf(ids).logits
            for way in ("elicit", "suppress"):
                steering = vector.steering(way)
                off = replace(steering, interventions=tuple(replace(i, strength=0.0) for i in steering.interventions))
                with steer(model.hf, off):
                    torch.testing.assert_close(model.hf(ids).logits, plain, rtol=0, atol=0)

    def test_a_top_k_autoencoder_is_added_only(self, model, tmp_path):
        toy(tmp_path / "a.safetensors", k=torch.tensor(4))
        path = tmp_path / "a.safetensors"
        assert isinstance(fitted("sae", model, layer=1, path=path).edits[0].intervention.transform, Add)
        with pytest.raises(InputError, match="4 greatest"):
            fitted("sae", model, layer=1, path=path, mode="clamp")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"feature": 99}, "features 0 to 15"),
            ({"mode": "set"}, "add, clamp"),
            ({"activation": "sum"}, "max, mean"),
            ({"pool": "last"}, "max, mean"),
            ({"top_k": 0}, "top_k is 0"),
            ({"feature": -1}, "feature is -1"),
            ({"path": ""}, "path is ''"),
            ({"subtract_bias": "yes"}, "subtract_bias"),
            ({"layer": 9}, "layer 9"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, model, tmp_path, given, said):
        toy(tmp_path / "a.safetensors")
        with pytest.raises(InputError, match=said):
            fitted("sae", model, **{"layer": 1, "path": tmp_path / "a.safetensors"} | given)

    def test_the_path_is_required(self, model):
        with pytest.raises(InputError, match="'path' is missing"):
            fitted("sae", model, layer=1)

    def test_features_that_are_never_on_are_refused(self, model, tmp_path):
        toy(tmp_path / "a.safetensors", threshold=torch.full((WIDTH,), 1e6))
        for feature, said in ((3, "feature 3 .* not on at any token of the 6"), (None, "none of the 16 .*0.50")):
            with pytest.raises(InputError, match=said):
                fitted("sae", model, layer=1, path=tmp_path / "a.safetensors", feature=feature)


class TestRefusalRoom:
    def test_the_score_is_the_log_odds_of_the_openings(self, model):
        prompts, tokens = rendered(model), (9, 40)
        found = refusal.log_odds(model, refusal.first_finals(model, prompts), tokens)
        for prompt, score in zip(prompts, found, strict=True):
            with torch.no_grad():
                p = model.hf(torch.tensor([prompt.ids])).logits[0, -1].double().softmax(-1)[list(tokens)].sum()
            assert float(score) == pytest.approx(float(p.log() - (1 - p).log()), abs=1e-4)

    def test_ablation_leaves_nothing_of_the_direction_anywhere(self, model):
        direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
        made = refusal.ablation(model, direction, tt.steering.Positions(include_prefix=True))
        assert {i.site.kind for i in made} == {"resid_pre", "attn_out", "mlp_out"}
        assert len(made) == 3 * DEPTH
        ids = torch.tensor([rendered(model)[0].ids])
        with torch.no_grad(), steer(model.hf, Steering(made)):
            states = model.layout.stack(input_ids=ids, output_hidden_states=True).hidden_states
        for of_block in states[1:-1]:
            assert float((of_block @ direction).abs().max()) < 1e-5

    def test_a_family_without_these_sites_is_ablated_around_its_blocks(self, caplog):
        model = fresh("opt")
        made = refusal.ablation(model, torch.ones(WIDTH), tt.steering.Positions())
        assert {i.site.kind for i in made} == {"resid_pre", "resid_post"}
        assert "inputs and outputs of blocks only" in caplog.text

    def test_the_choice(self):
        row = refusal.Candidate(1, -1, ablated=-3.0, induced=1.0, kl=0.05)
        rows = [
            row,
            replace(row, token=-2, ablated=-9.0, kl=0.1),  # changes harmless prompts
            replace(row, token=-3, ablated=-9.0, induced=0.0),  # induces nothing
            replace(row, token=-4, ablated=-2.0),
        ]
        assert refusal.best_candidate(rows, 0.1, 0.0) == row
        assert refusal.best_candidate(rows, 0.2, 0.0).token == -2
        with pytest.raises(InputError, match=r"none of 4 candidates.*smallest divergence is 0.05.*score 1;"):
            refusal.best_candidate(rows, 0.01, 0.0)

    def test_the_shared_ending_is_the_template_behind_the_instruction(self, model):
        prompts = rendered(model)
        k = shared_ending(model, prompts)
        tail = model.tokenizer.decode(prompts[0].ids[-k:])
        assert tail == "<|end|>\n<|assistant|>\n"

    def test_means_of_the_last_tokens(self, model):
        rows = [prompt.ids for prompt in rendered(model)]
        means = ending_means(model, rows, 2, [Site(1)])[Site(1)]
        wanted = states_at(model, rows, [[-2, -1]] * len(rows), [Site(1)])[Site(1)].reshape(-1, 2, WIDTH).mean(dim=0)
        torch.testing.assert_close(means.float(), wanted)


class TestRefusalDirection:
    LOOSE = {"max_kl": 1e9, "min_induced": -1e9, "filtered": False}  # noqa: RUF012

    def test_on_the_organism_it_takes_an_opening_away(self, organism):
        vector = fitted("refusal-direction", organism, tt.load_pairs("upper-case")[:10], depth=0.3)
        figures = vector.provenance["training"]
        assert [organism.tokenizer.decode([token]) for token in figures["openings"]] == ["THE"]
        assert figures["score"] > 0 > figures["ablated"]
        assert figures["induced"] > 0
        assert figures["kl"] < 0.1
        prompt = tt.load_pairs("upper-case")[40].positive_input
        (plain,) = organism.generate([prompt], max_new_tokens=4)
        (steered,) = organism.generate([prompt], max_new_tokens=4, steering=vector.suppress(1.0))
        assert plain.startswith("THE")
        assert steered.startswith("The")

    def test_a_candidate_is_a_difference_of_means(self, model):
        vector = fitted("refusal-direction", model, **self.LOOSE, seed=1)
        figures = vector.provenance["training"]
        assert figures["layer"] < 0.8 * DEPTH
        train, held = refusal_direction.parted(
            tt.data.tokenise_pairs(model.chat, PAIRS, context_length=512),
            refusal_direction.RefusalDirectionSettings(seed=1),
        )
        assert (len(train.positive), len(held.positive)) == (5, 1)
        means = []
        for prompts in train:
            states = [capture(model.hf, [p.ids], [Site(figures["layer"])])[0][Site(figures["layer"])] for p in prompts]
            means.append(torch.stack([of_row[figures["token"]] for of_row in states]).double().mean(dim=0))
        torch.testing.assert_close(
            vector.edits[0].intervention.transform.vector, (means[0] - means[1]).float(), rtol=1e-4, atol=1e-6
        )
        assert vector.directions["elicit"] == (0,)
        assert len(vector.directions["suppress"]) == 3 * DEPTH

    def test_openings_are_those_of_one_side(self, model):
        tokenised = tt.data.tokenise_pairs(model.chat, PAIRS, context_length=512)
        found = refusal_direction.opening_tokens(model, tokenised, ())
        assert set(found) == {pair.positive_response[0] for pair in tokenised}
        (given_one,) = refusal_direction.opening_tokens(model, tokenised, ("Sure, here",))
        assert model.tokenizer.decode([given_one]).startswith("S")

    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet([]), {}, "no pairs"),
            (PAIRS[:4], {}, "4 pairs are too few.*at least 5"),
            (PairSet([ContrastPair(f"a{k}", "b", f"c{k}", "b") for k in range(6)]), {}, "6 pairs begin with 1 diff"),
            (PAIRS, {}, "positive prompts are answered"),
            (PAIRS, {"filtered": False}, "none of .* candidates"),
            (PAIRS, {"layer": 2}, "leave out the layer"),
            (PAIRS, {"depth": 2.0}, "depth is 2.0"),
            (PAIRS, {"max_kl": 0}, "max_kl is 0"),
            (PAIRS, {"openings": "I"}, "openings is 'I'"),
            (PAIRS, {"filtered": 1}, "filtered is 1"),
            (PAIRS, {"train": 0}, "train is 0"),
            (PAIRS, {"include_prefix": 1}, "include_prefix is 1"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, model, pairs, given, said):
        with pytest.raises(InputError, match=said):
            fitted("refusal-direction", model, PairSet(pairs), **given)


class TestAttribution:
    @pytest.mark.parametrize("steps", [1, 3, 20])
    def test_of_a_linear_function_they_are_x_times_its_gradient(self, steps):
        x, w = torch.randn(5, 8), torch.randn(5, 8)
        found = attribution.integrated_gradients(lambda e: (e * w).sum(dim=(1, 2)) + 3.0, x, steps)
        torch.testing.assert_close(found, x * w)

    def test_they_add_up(self):
        """Completeness: F(x) - F(0)."""
        x, w = torch.randn(5, 8), torch.randn(5, 8)

        def function(e):
            return torch.sin((e * w).sum(dim=(1, 2))) + (e**2 * w).sum(dim=(1, 2))

        found = attribution.integrated_gradients(function, x, 100)
        wanted = function(x[None]) - function(torch.zeros(1, 5, 8))
        torch.testing.assert_close(found.sum(), wanted[0], rtol=1e-2, atol=1e-2)

    def test_they_add_up_for_a_model(self, model):
        """With more steps the closer: norms change fast near zero."""
        ids, answer = rendered(model)[0].ids, (9, 12, 40)
        free = list(range(2, len(ids) - 3))
        score = attribution.answer_score(model, ids, free, answer, slice(None))
        x = model.hf.get_input_embeddings()(torch.tensor(ids))[free].detach()
        with torch.no_grad():
            wanted = float((score(x[None]) - score(torch.zeros_like(x)[None]))[0])
        errors = []
        for steps in (5, 400):
            found = attribution.integrated_gradients(score, x, steps)
            errors.append(abs(float(found.sum()) - wanted))
        assert errors[1] < 0.1 * abs(wanted)
        assert errors[1] < errors[0]

    def test_the_score_is_the_mean_log_probability(self, model):
        ids, answer = rendered(model)[0].ids, (9, 12, 40)
        with torch.no_grad():
            logs = model.hf(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            each = logs[range(3), list(answer)]
            x = model.hf.get_input_embeddings()(torch.tensor(ids))[[4, 5]]
            for scored, wanted in ((slice(None), each.mean()), (slice(-1, None), each[2]), (slice(0, 1), each[0])):
                score = attribution.answer_score(model, ids, [4, 5], answer, scored)
                torch.testing.assert_close(score(x[None])[0], wanted, rtol=1e-4, atol=1e-5)

    def test_weights_get_no_gradients_and_keep_their_flags(self, model):
        ids = rendered(model)[0].ids
        flags = [parameter.requires_grad for parameter in model.hf.parameters()]
        attribution.token_scores(model, ids, [3, 4], (9,), (12,), steps=2)
        assert all(parameter.grad is None for parameter in model.hf.parameters())
        assert [parameter.requires_grad for parameter in model.hf.parameters()] == flags

    def test_a_planted_token_is_found(self):
        """Attention looks at all tokens alike and hands on one direction, which one token alone has."""
        model = fresh()
        ids = rendered(model)[0].ids
        target = 5
        assert ids.count(ids[target]) == 1
        unit = torch.zeros(WIDTH)
        unit[3] = 1.0
        with torch.no_grad():
            embeddings = model.hf.get_input_embeddings().weight
            embeddings[:, 3] = 0
            embeddings[ids[target], 3] = 1.0
            for number, block in enumerate(model.layout.blocks):
                block.mlp.down_proj.weight.zero_()
                block.self_attn.k_proj.weight.zero_()
                block.self_attn.v_proj.weight.copy_(torch.outer(torch.ones(WIDTH // 2), unit))
                if number:
                    block.self_attn.o_proj.weight.zero_()
        free = list(range(2, len(ids) - 4))
        scores = attribution.token_scores(model, ids, free, (9, 12), (40, 41))
        assert free[int(scores.abs().argmax())] == target
        rest = [k for k, place in enumerate(free) if place != target]
        assert float(scores[rest].abs().max()) < 1e-3 * float(scores.abs().max())


class TestGrAInS:
    def test_the_greatest_of_each_sign(self):
        scores = torch.tensor([0.0, 3.0, -1.0, 2.0, -5.0, 3.0])
        assert grains.extremes(scores, 2) == ([1, 5], [4, 2])
        assert grains.extremes(scores, 9) == ([1, 5, 3], [4, 2])

    def test_no_token_replaced_makes_no_difference(self, model, monkeypatch):
        assert grains.replaced((4, 5, 6), [], 0) == (4, 5, 6)
        assert grains.replaced((4, 5, 6), [1], 0) == (4, 0, 6)
        monkeypatch.setattr(grains, "token_scores", lambda *a, **k: torch.zeros(len(a[2])))
        with pytest.raises(InputError, match="6 positive prompts changes nothing at layer 1"):
            fitted("grains", model, layer=1)

    @given(st.integers(0, 10**6), st.sampled_from([-1.0, 1.0]))
    def test_the_component_is_turned_and_sized_by_the_mean(self, seed, sign):
        generator = torch.Generator().manual_seed(seed)
        unit = torch.nn.functional.normalize(torch.randn(8, generator=generator), dim=0)
        sizes = 1 + torch.rand(12, 1, generator=generator)
        rows = sign * sizes * unit
        torch.testing.assert_close(grains.average_of(rows, "pca"), rows.mean(dim=0), rtol=1e-3, atol=1e-4)
        noisy = rows + 0.1 * torch.randn(12, 8, generator=generator)
        found = grains.average_of(noisy, "pca")
        assert float(found @ noisy.mean(dim=0)) > 0
        torch.testing.assert_close(grains.average_of(noisy, "mean"), noisy.mean(dim=0))

    def test_zero_rows_average_to_zero(self):
        assert float(grains.average_of(torch.zeros(3, 4), "pca").norm()) == 0

    def test_the_vector_by_hand(self, model):
        settings = grains.GrAInSSettings(1, average="mean", top=1, steps=4)
        vector = fitted("grains", model, layer=1, average="mean", top=1, steps=4)
        assert vector.edits[0].scales == "transform"
        differences = []
        ending = shared_ending(model, rendered(model))
        for pair in PAIRS:
            prompt = model.chat.render(pair.positive_input)
            free = list(range(prompt.prefix_length, len(prompt.ids) - ending))
            answers = [
                model.chat.response_ids(model.chat.render(getattr(pair, f"{side}_input")),
                                        getattr(pair, f"{side}_output"))
                for side in ("positive", "negative")
            ]  # fmt: skip
            scores = attribution.token_scores(model, prompt.ids, free, *answers, steps=4)
            rows = [list(prompt.ids)]
            for signed in (scores, -scores):
                row = list(prompt.ids)
                if float(signed.max()) > 0:
                    row[free[int(signed.argmax())]] = grains.replacement_of(model, settings)
                rows.append(row)
            last = [states[Site(1)][-1] for states in capture(model.hf, rows, [Site(1)])]
            differences.append((last[0] - last[1]) - (last[0] - last[2]))
        wanted = torch.stack(differences).mean(dim=0)
        torch.testing.assert_close(vector.edits[0].intervention.transform.vector, wanted, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(vector.edits[1].intervention.transform.vector, -wanted, rtol=1e-3, atol=1e-5)

    def test_every_token_keeps_its_own_norm(self, model):
        vector = fitted("grains", model, layer=1, steps=2)
        rows = torch.tensor([prompt.ids[:12] for prompt in rendered(model)])
        with torch.no_grad():
            plain = model.hf(rows, output_hidden_states=True).hidden_states[2]
            with steer(model.hf, vector.elicit(4.0)):
                steered = model.hf(rows, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(steered.norm(dim=-1), plain.norm(dim=-1), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(steered, plain, atol=1e-3)

    def test_groups(self):
        states = torch.randn(9, 4)
        made = {
            group: grains.grains_vector(states, grains.GrAInSSettings(0, group=group, average="mean"))
            for group in ("both", "positive", "negative")
        }
        torch.testing.assert_close(made["both"], made["positive"] + made["negative"])

    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet([]), {}, "no pairs"),
            (PAIRS, {"layer": 9}, "layer 9"),
            (PAIRS, {"group": "none"}, "both, positive, negative"),
            (PAIRS, {"average": "sum"}, "pca, mean"),
            (PAIRS, {"scored": "all"}, "response, last, first"),
            (PAIRS, {"reading": "answer"}, "reading is 'answer'"),
            (PAIRS, {"steps": 0}, "steps is 0"),
            (PAIRS, {"replacement": 10**6}, "replacement is 1000000, but tiny has tokens 0 to"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, model, pairs, given, said):
        with pytest.raises(InputError, match=said):
            fitted("grains", model, pairs, **{"layer": 1} | given)


def class_states(site, positive, negative):
    return ClassStates(site, positive, negative, positive.mean(dim=0), negative.mean(dim=0))


class TestAUSteer:
    def test_the_share_of_signs(self):
        differences = torch.tensor([[1.0, -2.0, 1.0, 1.0, 0.0], [2.0, -1.0, -1.0, 5.0, 0.0],
                                    [1.0, -9.0, 3.0, -1.0, 0.0], [1.0, -1.0, -4.0, 1.0, 0.0]])  # fmt: skip
        found = austeer.momentum(differences, torch.zeros_like(differences))
        assert found.tolist() == [1.0, -1.0, 0.5, 0.75, 0.0]  # as many either way: +1/2, as published

    @given(st.integers(0, 10**6))
    def test_only_signs_count(self, seed):
        """No monotone change of size and no outlier moves it."""
        differences = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed)).double()
        zero = torch.zeros_like(differences)
        found = austeer.momentum(differences, zero)
        torch.testing.assert_close(austeer.momentum(differences**3, zero), found)
        outlier = differences.clone()
        outlier[0] *= 1e9
        torch.testing.assert_close(austeer.momentum(outlier, zero), found)
        assert float(austeer.relative_shift(outlier, zero).max()) < 1e3  # nor is the order of ties at its mercy

    def test_planted_dimensions_go_first(self):
        generator, states = torch.Generator().manual_seed(0), {}
        planted = {(0, 3): 1.0, (2, 7): -1.0, (2, 1): 1.0}
        for layer in range(3):
            negative = torch.randn(40, 8, generator=generator)
            positive = torch.randn(40, 8, generator=generator)
            for (at, dim), sign in planted.items():
                if at == layer:
                    positive[:, dim] = negative[:, dim] + sign * (0.1 + torch.rand(40, generator=generator))
            states[Site(layer)] = class_states(Site(layer), positive, negative)
        kept = austeer.top_dimensions(states, 3)
        found = {(site.layer, int(i)): float(share[i]) for site, share in kept.items() for i in share.nonzero()[:, 0]}
        assert found == planted

    def test_only_so_many_places_change_and_zero_is_the_identity(self, model):
        vector = fitted("austeer", model, top=5, site="resid_post", strength=2.0)
        kept = {
            edit.intervention.site: edit.intervention.transform.weight
            for edit in (vector.edits[k] for k in vector.directions["elicit"])
        }
        assert sum(int((weight != 1).sum()) for weight in kept.values()) == 5
        ids = torch.tensor([rendered(model)[0].ids])
        first = min(kept, key=lambda site: site.layer)
        with torch.no_grad():
            plain = model.hf(ids, output_hidden_states=True)
            with steer(model.hf, vector.elicit(0.0)):
                torch.testing.assert_close(model.hf(ids).logits, plain.logits, rtol=0, atol=0)
            seen = capture(model.hf, ids.tolist(), [first])[0][first]
            with steer(model.hf, vector.elicit(3.0)):
                (states,) = capture(model.hf, ids.tolist(), [first])
        share = kept[first] - 1  # (d,)
        wanted = seen * (1 + 3.0 * 2.0 * share)
        behind = rendered(model)[0].prefix_length
        torch.testing.assert_close(states[first][behind:], wanted[behind:], rtol=1e-4, atol=1e-5)
        still = share == 0
        torch.testing.assert_close(states[first][:, still], seen[:, still], rtol=0, atol=0)

    @pytest.mark.parametrize("site", ["attn_in", "mlp_out", "resid_post"])
    def test_suppressing_is_the_other_way(self, model, site):
        vector = fitted("austeer", model, top=4, site=site)
        elicit, suppress = (
            [vector.edits[k].intervention for k in vector.directions[way]] for way in ("elicit", "suppress")
        )
        assert {i.site.kind for i in elicit} == {site}
        for one, other in zip(elicit, suppress, strict=True):
            torch.testing.assert_close(one.transform.weight - 1, 1 - other.transform.weight)

    @pytest.mark.parametrize(
        ("pairs", "given", "said"),
        [
            (PairSet([]), {}, "no pairs"),
            (PairSet([ContrastPair("a", "b", "a", "b")]), {}, "no dimension differs"),
            (PAIRS, {"top": 0}, "top is 0"),
            (PAIRS, {"strength": 0}, "strength is 0"),
            (PAIRS, {"site": "norm_out"}, "attn_in, mlp_out, resid_post"),
            (PAIRS, {"reading": "tokens"}, "reading is 'tokens'"),
            (PAIRS, {"layer": 1}, "leave out the layer"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, model, pairs, given, said):
        with pytest.raises(InputError, match=said):
            fitted("austeer", model, pairs, **{"top": 4} | given)


TRACE = (
    "Let me add the numbers.{m}Two and two is four.{m}Wait, is that so?{m}The sum is four.{m}"
    "Alternatively, count them.{m}One, two, three, four.{m}I verify it another way.{m}</think>{m}Four, wait.{m}Done."
)


class TestThoughts:
    @pytest.mark.parametrize(
        ("thought", "kind"),
        [
            ("Wait, no.", "reflection"),
            ("  Wait", "reflection"),
            ("I cannot wait for it.", "execution"),  # an opening, not a phrase
            ("Let me verify this.", "reflection"),
            ("Hold on.", "reflection"),
            ("That's correct.", "reflection"),
            ("Alternatively, 4.", "transition"),
            ("Or, alternatively, 4.", "execution"),
            ("Try another approach.", "transition"),
            ("Wait, another approach.", "reflection"),  # tried first
            ("Alternatively, verify it.", "reflection"),
            ("Think differenly now.", "transition"),
            ("So 2 + 2 = 4.", "execution"),
        ],
    )
    def test_kinds(self, thought, kind):
        assert thoughts.kind_of(thought) == kind

    def test_a_boundary_is_tagged_by_what_follows(self):
        ids = list(TRACE.format(m="\n"))

        found = thoughts.boundaries(
            [ord(c) for c in ids], frozenset([10]), lambda part: "".join(map(chr, part)), "</think>", thoughts.kind_of
        )
        kinds = [kind for _, kind in found]
        assert kinds == ["execution", "reflection", "execution", "transition", "execution", "reflection"]
        assert [ids[place] for place, _ in found] == ["\n"] * 6

    def test_the_last_boundary_counts_only_if_something_follows(self):
        for text, n in (("a\nb", 1), ("a\n", 0), ("a\n ", 0), ("a\n\nb", 1)):
            found = thoughts.boundaries(
                [ord(c) for c in text], frozenset([10]), lambda part: "".join(map(chr, part)), "", thoughts.kind_of
            )
            assert len(found) == n, text


@pytest.fixture(scope="module")
def reasoner():
    """A tiny model with tokens that hold a blank line."""
    hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=DEPTH, seed=0)
    tokenizer.add_tokens([MARK, "." + MARK])
    hf.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return Model(hf, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def traces():
    return PairSet(
        [ContrastPair(f"Think {k}.", TRACE.format(m=MARK), f"Say {k}.", f"So {k}.{MARK}Wait, {k}?{MARK}Yes.")
         for k in range(3)]
    )  # fmt: skip


class TestSEAL:
    def test_all_tokens_with_a_blank_line_are_boundaries(self, reasoner):
        found = thoughts.boundary_tokens(reasoner, MARK)
        assert [reasoner.tokenizer.decode([token]) for token in found] == [MARK, "." + MARK]

    def test_it_is_the_pooled_gap_of_means(self, reasoner, traces):
        """The union of reflection and transition counts boundaries alike, not classes."""
        vector = fitted("seal", reasoner, traces, layer=1)
        assert vector.provenance["training"]["boundaries"] == {"execution": 12, "reflection": 9, "transition": 3}
        marks = thoughts.boundary_tokens(reasoner, MARK)
        groups = {"execution": [], "reflection": [], "transition": []}
        for pair in traces:
            for side in ("positive", "negative"):
                prompt = reasoner.chat.render(getattr(pair, f"{side}_input"))
                ids = prompt.ids + reasoner.chat.response_ids(prompt, getattr(pair, f"{side}_output"))
                states = capture(reasoner.hf, [ids], [Site(1)])[0][Site(1)]
                places = [k for k in range(len(prompt.ids), len(ids)) if ids[k] in marks]
                tags = (
                    ["execution", "reflection", "execution", "transition", "execution", "reflection"]
                    if side == "positive"
                    else ["reflection", "execution"]
                )
                for place, tag in zip(places, tags, strict=False):
                    groups[tag].append(states[place])
        other = torch.stack(groups["reflection"] + groups["transition"]).mean(dim=0)
        wanted = torch.stack(groups["execution"]).mean(dim=0) - other
        torch.testing.assert_close(vector.edits[0].intervention.transform.vector, wanted, rtol=1e-4, atol=1e-5)

    def test_planted_means_are_recovered(self):
        generator = torch.Generator().manual_seed(0)
        kinds = ["execution"] * 200 + ["reflection"] * 150 + ["transition"] * 50
        shift = torch.tensor([2.0, 0.0, 0.0, -1.0])
        states = 0.1 * torch.randn(400, 4, generator=generator)
        states[:200] += shift
        torch.testing.assert_close(seal.gap_of_kinds(states, kinds), shift, rtol=0, atol=0.05)

    def test_only_boundaries_of_the_response_change(self, reasoner, traces):
        vector = fitted("seal", reasoner, traces, layer=1)
        prompt = reasoner.chat.render(f"Give{MARK}it")
        response = reasoner.chat.response_ids(prompt, f"So{MARK}now.{MARK}End")
        ids = [*prompt.ids, *response]
        marks = thoughts.boundary_tokens(reasoner, MARK)
        assert set(prompt.ids) & set(marks)
        (plain,) = capture(reasoner.hf, [ids], [Site(1)])
        with steer(reasoner.hf, vector.elicit(), prompt_lengths=[len(prompt.ids)]):
            (steered,) = capture(reasoner.hf, [ids], [Site(1)])
        moved = (steered[Site(1)] - plain[Site(1)]).norm(dim=-1) > 0
        assert moved.tolist() == [k >= len(prompt.ids) and token in marks for k, token in enumerate(ids)]

    def test_decoding_with_a_cache_is_one_pass(self, reasoner, traces):
        vector = fitted("seal", reasoner, traces, layer=1)
        prompt = reasoner.chat.render("Give it")
        response = reasoner.chat.response_ids(prompt, f"So{MARK}now.{MARK}End")
        steering = reasoner.own(vector.elicit(3.0))
        with torch.no_grad():
            with steer(reasoner.hf, steering, prompt_lengths=[len(prompt.ids)]):
                whole = reasoner.hf(torch.tensor([[*prompt.ids, *response]])).logits[0, len(prompt.ids) - 1 :]
            steps, cache = [], cache_argument(reasoner.hf.forward)
            with steer(reasoner.hf, steering):
                found = reasoner.hf(torch.tensor([prompt.ids]), use_cache=True)
                steps.append(found.logits[0, -1])
                for token in response:
                    found = reasoner.hf(torch.tensor([[token]]), **{cache: found[cache]}, use_cache=True)
                    steps.append(found.logits[0, -1])
        torch.testing.assert_close(torch.stack(steps), whole, rtol=1e-4, atol=1e-4)

    def test_it_survives_saving(self, reasoner, traces, tmp_path):
        vector = fitted("seal", reasoner, traces, layer=1)
        vector.save(tmp_path / "v")
        loaded = tt.SteeringVector.load(tmp_path / "v")
        assert loaded.content_hash == vector.content_hash
        assert loaded.edits[0].intervention.positions == vector.edits[0].intervention.positions

    def test_traces_of_one_sort_are_refused(self, reasoner):
        plain = PairSet([ContrastPair("a", f"b{MARK}c", "d", "e")])
        with pytest.raises(InputError, match=r"2 responses .* 1 before execution, 0 before reflection, 0 before trans"):
            fitted("seal", reasoner, plain, layer=1)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"boundary": ""}, "boundary is ''"),
            ({"boundary": "no token holds this"}, "no token of tiny holds"),
            ({"end": 3}, "end is 3"),
            ({"reflection_phrases": "Wait"}, "reflection_phrases is 'Wait'"),
            ({"layer": 9}, "layer 9"),
        ],
    )
    def test_what_it_cannot_use_is_refused(self, reasoner, traces, given, said):
        with pytest.raises(InputError, match=said):
            fitted("seal", reasoner, traces, **{"layer": 1} | given)

    def test_no_pairs(self, reasoner):
        with pytest.raises(InputError, match="no pairs"):
            fitted("seal", reasoner, PairSet([]), layer=1)
