#!/usr/bin/env bash
# A first steering vector, start to end: a model, a fit, a look inside, and text steered both ways.
#   examples/first_vector.sh [FOLDER]        about a minute on two CPU cores; no download
set -euo pipefail

folder=${1:-build/demo}
model=$folder/model
vector=$folder/vector
prompt="Lily and her dog went to the park."

run() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

mkdir -p "$folder"
run python -m trimtab.models.tiny "$model" --family llama --seed 0 --overwrite
run trimtab fit cdas --model "$model" --pairs story-mood --layer 2 --epochs 4 --out "$vector" --overwrite
run trimtab inspect "$vector" --model "$model"
run trimtab generate --model "$model" --max-new-tokens 12 "$prompt"
run trimtab generate --model "$model" --vector "$vector" --direction elicit --max-new-tokens 12 "$prompt"
run trimtab generate --model "$model" --vector "$vector" --direction suppress --max-new-tokens 12 "$prompt"

cat <<EOT

Done; the vector is in $vector.

The weights of this model are random: it has never read a sentence, and its text is noise, steered or not. So this shows that
the machinery works (the fit ran, the vector was saved, loaded, inspected and applied in both directions), and nothing about
language. Give --model the id or folder of a trained model to see a mood change.
EOT
