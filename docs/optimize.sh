#!/bin/sh
# The table of optimize.md: plain bytes with importance against chosen ones, on text that neither has seen.
#   docs/optimize.sh [TYPE…]      from the root of the repository, after cargo build --release
set -e
bin=${BIN:-target/release}
model=${MODEL:-fixtures/models/tiny-llama}
calibration=${CALIBRATION:-fixtures/models/tiny-llama/calibration.txt}
text=${TEXT:-fixtures/models/tiny-llama/sample.txt}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# Embedding and head are the same in both files.
alike="--pure --output-tensor-type f32 --token-embedding-type f32"
[ $# -gt 0 ] || set -- q8_0 q6_k q5_k q5_0 q5_1 q4_k q4_1 q4_0 iq4_nl iq4_xs mxfp4_moe q3_k iq3_s iq3_xxs q2_k iq2_s iq2_xxs iq1_m iq1_s tq2_0
"$bin/evaluate" imatrix "$model" --text "$calibration" --chunks 32 -o "$out/imatrix.gguf" --quiet >/dev/null
echo "| type | plain: mean KLD, same top % | optimized | |"
echo "|---|---|---|---|"
for type in "$@"; do
    "$bin/quantize" "$model" --type "$type" $alike --imatrix "$out/imatrix.gguf" -o "$out/plain.gguf" --force --quiet >/dev/null
    "$bin/evaluate" optimize "$model" --type "$type" $alike --calibrate "$calibration" --chunks 32 -o "$out/chosen.gguf" --force --quiet >/dev/null
    "$bin/evaluate" compare "$model" "$out/plain.gguf" "$out/chosen.gguf" --text "$text" --chunks 40 --csv --quiet |
        awk -F, -v type="$type" '
            NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
            { kld[NR] = $column["kld"]; top[NR] = 100 * $column["same_top"] }
            END { printf "| %s | %.6f, %.1f | %.6f, %.1f | %+.0f %% |\n", toupper(type), kld[2], top[2], kld[3], top[3], 100 * (kld[3] / kld[2] - 1) }'
done
