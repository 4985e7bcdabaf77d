#!/usr/bin/env bash
# A first steering vector, start to end: a model, a fit, a look inside, and text steered both ways.
#   examples/first_vector.sh [FOLDER]        about a minute on two CPU cores; no download
set -euo pipefail

folder=${1:-build/demo}
model=$folder/model
vector=$folder/vector
prompt="Mia went to the park. She was so"

show_and_run() {
    printf '\n$'
    for word in "$@"; do
        case $word in *[[:space:]]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
}

generate() {
    show_and_run trimtab generate --model "$model" --max-new-tokens 16 "$@" "$prompt"
}

mkdir -p "$folder"
show_and_run python -m trimtab.cli.tiny "$model" --family llama --seed 0 --overwrite
show_and_run trimtab fit cdas --model "$model" --pairs story-mood --layer 2 --epochs 4 --out "$vector" --overwrite
show_and_run trimtab inspect "$vector" --model "$model"
generate
generate --vector "$vector" --direction elicit --multiplier 20
generate --vector "$vector" --direction suppress --multiplier 20

cat <<EOT

Done; the vector is in $vector.

The weights of this model are random: it has never read a sentence, and its text is noise, steered or not. It can hardly
tell a happy story from a sad one (the two factors above lie close together), hence the large multiplier. So this shows
that the machinery works (the fit ran; the vector was saved, loaded, inspected, and applied in both directions), and
nothing about language. Give --model the id or folder of a trained model to see a mood change.
EOT
