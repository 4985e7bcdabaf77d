"""What a run is given: start vectors, example orders, settings."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from trimtab.errors import InputError
from trimtab.fitting.order import example_order, retract, start_directions
from trimtab.fitting.settings import MAX_SEED, TrainSettings, build_settings

many = examples(max_examples=40)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


class TestOrder:
    @many
    @given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 5))
    def test_is_that_of_the_published_loader(self, seed, n, epochs):
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(range(n), batch_size=3, shuffle=True, generator=generator)
        published = [[int(k) for batch in loader for k in batch] for _ in range(epochs)]
        assert example_order(None, epochs, n, seed).tolist() == published

    def test_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        example_order(None, 3, 9, 1), start_directions(None, 2, 8, 1)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.uint64, ">i8"])
    @pytest.mark.parametrize("flat", [True, False])
    def test_one_that_is_given(self, tmp_path, dtype, flat):
        rows = np.array([[2, 0, 1], [1, 2, 0]], dtype=dtype)
        given = rows.reshape(-1) if flat else rows
        np.save(tmp_path / "o.npy", given)
        for order in (given, tmp_path / "o.npy", str(tmp_path / "o.npy"), given.tolist(), np.asfortranarray(given)):
            found = example_order(order, 2, 3, 0)
            assert found.dtype == torch.int64
            assert found.tolist() == [[2, 0, 1], [1, 2, 0]]
        assert example_order(torch.tensor(given.astype(np.int64)), 2, 3, 0).tolist() == rows.tolist()

    @pytest.mark.parametrize(
        "order",
        [
            [[0, 1, 2]],
            [[0, 1, 2], [0, 1, 1]],
            [[0, 1, 2], [0, 1, 3]],
            [[0, 1, 2], [0, 1, -1]],
            [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]],
            [[0, 1], [1, 0]],
            [0, 1, 2],
            [["a", "b", "c"], ["a", "b", "c"]],
            [[True, False, True], [True, False, True]],
            [],
            5,
        ],
    )
    def test_refusals(self, order):
        with pytest.raises(InputError, match="order"):
            example_order(np.array(order), 2, 3, 0)


class TestStart:
    @pytest.mark.parametrize("rank", [1, 3])
    def test_random_rows_are_orthonormal_and_repeat(self, rank):
        rows = start_directions(None, rank, 16, 5)
        assert rows.dtype == torch.float32
        assert (rows @ rows.T - torch.eye(rank)).abs().max() < 1e-6
        assert torch.equal(rows, start_directions(None, rank, 16, 5))
        assert not torch.equal(rows, start_directions(None, rank, 16, 6))

    def test_is_float32_whatever_the_default(self):
        try:
            torch.set_default_dtype(torch.float64)
            rows = start_directions(None, 1, 16, 5)
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(rows, start_directions(None, 1, 16, 5))

    @pytest.mark.parametrize("rank", [1, 2])
    def test_orthonormal_rows_are_taken_bit_for_bit(self, tmp_path, rank):
        rows = start_directions(None, rank, 16, 5)
        np.save(tmp_path / "v.npy", rows.numpy())
        given = [rows, rows.numpy(), tmp_path / "v.npy", str(tmp_path / "v.npy"), rows.tolist(), rows.double()]
        given += [rows[0], rows[0].numpy(), rows.numpy().astype(">f4")[0]] if rank == 1 else []
        for init in given:
            assert torch.equal(start_directions(init, rank, 16, 0), rows)

    def test_other_rows_are_brought_to_length_one_first(self):
        """An interchange along a direction of length 30 would move a coordinate 900 times too far."""
        w = torch.randn(16, generator=torch.Generator().manual_seed(0)) * 30
        assert start_directions(w, 1, 16, 0).allclose(w[None] / w.norm(), atol=1e-6)
        assert start_directions(w.bfloat16(), 1, 16, 0).norm().item() == pytest.approx(1.0, abs=1e-6)
        assert start_directions(np.arange(16), 1, 16, 0).norm().item() == pytest.approx(1.0, abs=1e-6)
        rows = start_directions(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), 2, 16, 0)
        assert (rows @ rows.T - torch.eye(2)).abs().max() < 1e-6

    def test_the_array_given_is_not_shared(self):
        w = start_directions(None, 1, 8, 0)
        mine = start_directions(w, 1, 8, 0)
        w.zero_()
        assert mine.norm() > 0.9

    @pytest.mark.parametrize(
        "init",
        [
            np.ones(7),
            np.ones((2, 8)),
            np.ones((1, 1, 8)),
            np.float32(1.0),
            np.zeros(8),
            np.full(8, np.nan),
            np.full(8, 1e300),
            np.array(["a"] * 8),
            np.ones(8, dtype=complex),
            np.array([None] * 8),
            np.ones(8, dtype=bool),
            np.ones(0),
        ],
    )
    def test_refusals(self, init):
        with pytest.raises(InputError) as error:
            start_directions(init, 1, 8, 0)
        assert "init" in one_line(error)

    def test_refusals_of_a_rank(self):
        for init in (np.ones((2, 8)), np.ones(8), np.float32(1.0), np.ones(16)):
            with pytest.raises(InputError, match="init"):
                start_directions(init, 2, 8, 0)

    def test_files_that_hold_something_else(self, tmp_path):
        np.savez(tmp_path / "many.npz", vecs=np.ones(8))
        np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
        (tmp_path / "text.npy").write_text("hello")
        (tmp_path / "empty.npy").touch()
        for name in ("many.npz", "objects.npy", "text.npy", "empty.npy", "absent.npy", ""):
            with pytest.raises(InputError, match=r"numpy\.save") as error:
                start_directions(tmp_path / name, 1, 8, 0)
            one_line(error)


class TestRetract:
    @many
    @given(st.integers(0, 2**31), st.integers(1, 5))
    def test_is_the_nearest_orthonormal_matrix(self, seed, rank):
        rows = torch.randn(rank, 12, generator=torch.Generator().manual_seed(seed))
        near = retract(rows)
        assert (near @ near.T - torch.eye(rank)).abs().max() < 1e-5
        values, vectors = torch.linalg.eigh(rows.double() @ rows.double().T)
        polar = vectors @ torch.diag(values.rsqrt()) @ vectors.T @ rows.double()
        assert near.double().allclose(polar, atol=1e-4)

    def test_rank_one_is_the_published_division(self):
        w = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
        assert torch.equal(retract(w), w / (torch.norm(w, dim=1, keepdim=True) + torch.finfo(torch.float32).eps))


class TestSettings:
    def test_defaults_are_those_published(self):
        made = TrainSettings(layer=10)
        assert (made.epochs, made.lr, made.batch_size, made.seed, made.grad_clip) == (18, 0.04, 8, 42, 1.0)
        assert (made.rank, made.positions, made.weighting, made.weight_decay) == (1, "all", "minibatch", 0.0)

    @pytest.mark.parametrize(
        "bad",
        [{name: bad} for name in ("layer", "epochs", "batch_size", "rank", "seed", "max_tokens", "cache_bytes")
         for bad in (-1, 1.5, "1", None, True, math.nan, math.inf)]
        + [{name: 0} for name in ("epochs", "batch_size", "rank", "max_tokens", "max_response_tokens")]
        + [{name: bad} for name in ("lr", "grad_clip") for bad in (0, -1.0, math.nan, math.inf, "0.1", None, True)]
        + [{"weight_decay": bad} for bad in (-0.1, math.nan, math.inf, 1e30)]
        + [{"lr": 1e30}, {"seed": MAX_SEED + 1}, {"weighting": "token"}, {"positions": "near"}, {"positions": "f0"}],
    )  # fmt: skip
    def test_refusals(self, bad):
        with pytest.raises(InputError) as error:
            build_settings(TrainSettings, {"layer": 1, **bad})
        assert next(iter(bad)) in one_line(error)

    def test_the_largest_values_work(self):
        made = TrainSettings(layer=0, seed=MAX_SEED, lr=1e6, weight_decay=1e6)
        assert start_directions(None, 1, 8, made.seed).norm() > 0.9
        assert example_order(None, 1, 3, made.seed).shape == (1, 3)

    def test_unknown_names_come_with_the_nearest(self):
        with pytest.raises(InputError, match=r"unknown setting 'epoch'; did you mean 'epochs'\?"):
            build_settings(TrainSettings, {"layer": 1, "epoch": 3})
        with pytest.raises(InputError, match="setting 'layer' is missing"):
            build_settings(TrainSettings, {})

    def test_every_field_is_documented(self):
        for field in fields(TrainSettings):
            assert f"\n        {field.name}: " in TrainSettings.__doc__
