#!/usr/bin/env bash
# A first steering vector on the built-in model, start to end: fit, look inside, steer both ways.
#   examples/first_vector.sh [FOLDER]        less than a minute on two CPU cores; no download
set -euo pipefail

folder=${1:-build/demo}
vector=$folder/past
prompt="Tell me two facts about the otter."

show_and_run() {
    printf '\n$'
    for word in "$@"; do
        case $word in *[[:space:]]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
}

generate() {
    show_and_run trimtab generate --model organism --max-new-tokens 48 "$@" "$prompt"
}

mkdir -p "$folder"
show_and_run trimtab fit cdas --model organism --pairs past-tense --layer 3 --epochs 6 --out "$vector" --overwrite
show_and_run trimtab inspect "$vector" --model organism
generate
generate --vector "$vector" --direction elicit
generate --system "Write in the past tense."
generate --system "Write in the past tense." --vector "$vector" --direction suppress

cat <<EOT

Done; the vector is in $vector.

The model is trimtab's own organism: it knows a small world and nothing else, so what it says can be judged exactly
(docs/organism.md). Give --model the id or folder of any causal language model, and --pairs your own pairs.
EOT
