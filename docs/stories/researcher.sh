#!/usr/bin/env bash
# One model in the types f32, f16, bf16, q8_0, q4_k_m, nf4, fp4 and int8, from one command, then what each of them costs on a text.
#   docs/stories/researcher.sh MODEL_FOLDER EMPTY_FOLDER TEXT
set -euo pipefail
model=$(realpath "$1")
text=$(realpath "$3")
cd "$2"
quantize "$model" -o . -t f32 -t f16 -t bf16 -t q8_0 -t q4_k_m -t nf4 -t fp4 -t int8
evaluate compare "$model" --type f32,f16,bf16,q8_0,q4_k_m,nf4,fp4,int8 --text "$text" --ctx 64 --chunks 4 --html report.html
