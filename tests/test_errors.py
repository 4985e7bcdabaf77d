"""The errors: what a user reads, and that a worker process can hand them over whole."""

import pickle

import pytest

from trimtab.errors import FitDivergedError, InputError, MissingExtraError, NetworkError, TrimtabError


@pytest.mark.parametrize("error", [InputError, MissingExtraError, NetworkError, FitDivergedError])
def test_one_except_clause_catches_them_all(error):
    assert issubclass(error, TrimtabError)


def test_wrong_input_is_also_a_value_error_and_a_failed_network_is_not():
    assert issubclass(InputError, ValueError)
    assert not issubclass(NetworkError, ValueError)


def test_a_missing_extra_names_the_command_that_mends_it():
    error = MissingExtraError("Reading from the Hub", "datasets", "hub")
    assert str(error) == (
        "Reading from the Hub needs the package 'datasets': run pip install datasets (trimtab's extra 'hub' brings it)"
    )
    assert (error.feature, error.package, error.extra) == ("Reading from the Hub", "datasets", "hub")


def test_a_diverged_fit_carries_its_step_and_the_last_good_vector():
    error = FitDivergedError("loss is nan at step 7 with lr 5.0; lower lr", step=7, last_good=None)
    assert str(error) == "loss is nan at step 7 with lr 5.0; lower lr"
    assert error.step == 7
    assert error.last_good is None


@pytest.mark.parametrize(
    "error",
    [
        InputError("layer 9 is not one of 0..3; give one of these"),
        NetworkError("no answer from the endpoint"),
        MissingExtraError("Reading from the Hub", "datasets", "hub"),
        FitDivergedError("loss is nan", step=3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
