#!/usr/bin/env bash
# A fine-tuned checkpoint becomes a file and a Modelfile that `ollama create` takes: one command, then proof of what it is.
#   docs/stories/fine-tune-to-ollama.sh MODEL_FOLDER EMPTY_FOLDER
set -euo pipefail
model=$(realpath "$1")
cd "$2"
quantize "$model" --type q4_k_m --modelfile
gguf check ./*-Q4_K_M.gguf
gguf show --memory ./*-Q4_K_M.gguf
cat Modelfile
# Where Ollama is installed: ollama create my-model -f Modelfile
