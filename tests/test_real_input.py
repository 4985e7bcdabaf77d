"""Real input through the command line: refusal pairs, and story models that nobody of this project trained."""

import json

import pytest

import trimtab as tt
from examples.story_mood import NEUTRAL, STORIES, lift, perplexity
from trimtab.cli.main import main
from trimtab.steering import separation

STORY_MODELS = [("bitllama-3m", 5), ("stories260k-hf", 3)]


def fit_json(capsys, *arguments):
    assert main(["fit", "cdas", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_refusal_pairs_on_the_parity_checkpoint(shared, tmp_path, capsys):
    model = shared / "parity/cdas-llama/model"
    pairs = shared / "data/refusal/contrast_train_data.parquet"
    out = tmp_path / "refusal"
    options = ("--layer", 2, "--batch-size", 16, "--epochs", 20, "--lr", 0.02, "--source-tokens", "<|assistant|>\n")
    options += ("--no-calibrate",)
    done = fit_json(capsys, "--model", model, "--pairs", pairs, "--out", out, *options)
    assert done["steps"] == 20 * 8
    assert done["factors"]["positive"]["n"] == done["factors"]["negative"]["n"] == 128
    vector = tt.SteeringVector.load(out)
    training = vector.provenance["training"]
    assert training["loss_last_epoch"] < training["loss_first"]
    loaded = tt.load_model(model, source_tokens="<|assistant|>\n")
    # On random weights only the machinery can be judged: the clamp is where it was asked to be, at every edited token.
    rows = [loaded.chat.render("Name three fruits.").ids]
    steering = vector.suppress()
    with tt.steer(loaded.hf, steering):
        states = tt.capture(loaded.hf, rows, [tt.Site(2)])[0][tt.Site(2)]
    transform = steering.interventions[0].transform
    coordinates = states.float() @ transform.directions[0]
    prefix = len(loaded.chat.prefix_ids)
    wanted = [float(transform.values[0])] * (len(rows[0]) - prefix)
    assert coordinates[prefix:].tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), STORY_MODELS)
def test_a_mood_vector_moves_a_real_model_both_ways_and_leaves_it_fluent(shared, tmp_path, capsys, name, layer):
    path = shared / "models" / name
    out = tmp_path / "mood"
    fit_json(capsys, "--model", path, "--pairs", "story-mood", "--layer", layer, "--out", out)
    model, vector = tt.load_model(path), tt.SteeringVector.load(out)
    apart = separation(vector.edits[0].factors).auroc
    assert max(apart, 1 - apart) > 0.99
    test = tt.load_pairs("story-mood-test")
    happy, sad = [pair.positive_input for pair in test], [pair.negative_input for pair in test]
    for m in (1.0, 2.0):
        assert lift(model, sad, vector.elicit(m)) > lift(model, sad, None) + 0.5
        assert lift(model, happy, vector.suppress(m)) < lift(model, happy, None) - 0.5
        assert lift(model, NEUTRAL, vector.suppress(m)) < lift(model, NEUTRAL, None) - 0.5
        assert lift(model, NEUTRAL, vector.elicit(m)) > lift(model, NEUTRAL, None) + 0.4
    sampled = perplexity(model, STORIES, model.generate(STORIES, max_new_tokens=40, temperature=1.0))
    for steering in (vector.elicit(1.0), vector.suppress(1.0)):
        assert perplexity(model, STORIES, model.generate(STORIES, steering=steering, max_new_tokens=40)) < sampled
