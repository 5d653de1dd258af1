#!/usr/bin/env bash
# A pipeline publishes an artifact with checksums and a manifest; who receives it derives it again and compares.
#   docs/stories/pipeline.sh MODEL_FOLDER EMPTY_FOLDER
set -euo pipefail
model=$(realpath "$1")
cd "$2"
make=(quantize "$model" --type q4_k_m -o model.gguf --manifest model.intoto.json --checksums --if-changed)
quantize "$model" --type q4_k_m --print-cache-key
"${make[@]}" --json > result.json
# Nothing has changed: nothing is done.
"${make[@]}"
sha256sum --check SHA256SUMS
quantize verify model.intoto.json --source "$model" --result .
