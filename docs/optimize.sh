#!/bin/sh
# The tables of optimize.md: plain bytes with importance against chosen ones, on text that neither has seen.
#   docs/optimize.sh [TYPE…]      from the root of the repository, after cargo build --release; without types all tables
set -e
bin=${BIN:-target/release}
model=${MODEL:-fixtures/models/tiny-llama}
calibration=${CALIBRATION:-fixtures/models/tiny-llama/calibration.txt}
text=${TEXT:-fixtures/models/tiny-llama/sample.txt}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# Embedding and head are the same in both files.
alike="--pure --output-tensor-type f32 --token-embedding-type f32"
files="q8_0 q6_k q5_k q5_0 q5_1 q4_k q4_1 q4_0 iq4_nl iq4_xs mxfp4_moe q3_k iq3_s iq3_xxs q2_k iq2_s iq2_xxs iq1_m iq1_s tq2_0"
folders="nf4 fp4 affine4 int8 affine8"
# Each line: what is compared, its divergence and the share of same top tokens; the change from the first to the last.
row() {
    name=$1
    shift
    "$bin/evaluate" compare "$model" "$@" --text "$text" --chunks 40 --csv --quiet |
        awk -F, -v name="$name" '
            NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
            { kld[NR] = $column["kld"]; line = line sprintf(" %.6f, %.1f |", kld[NR], 100 * $column["same_top"]) }
            END { printf "| %s |%s %+.0f %% |\n", name, line, 100 * (kld[NR] / kld[2] - 1) }'
}
optimize() { "$bin/evaluate" optimize "$model" "$@" --calibrate "$calibration" --chunks 32 --force --quiet >/dev/null; }
plain() { "$bin/quantize" "$model" "$@" --force --quiet >/dev/null; }
imatrix="--imatrix $out/imatrix.gguf"
"$bin/evaluate" imatrix "$model" --text "$calibration" --chunks 32 -o "$out/imatrix.gguf" --quiet >/dev/null
echo "| type | plain: mean KLD, same top % | optimized | |"
echo "|---|---|---|---|"
for type in ${*:-$files $folders}; do
    case " $folders " in
    *" $type "*)
        plain --type "$type" -o "$out/plain-$type"
        optimize --type "$type" -o "$out/chosen-$type"
        row "$type" "$out/plain-$type" "$out/chosen-$type"
        ;;
    *)
        plain --type "$type" $alike $imatrix -o "$out/plain.gguf"
        optimize --type "$type" $alike -o "$out/chosen.gguf"
        row "$(echo "$type" | tr a-z A-Z)" "$out/plain.gguf" "$out/chosen.gguf"
        ;;
    esac
done
[ $# -eq 0 ] || exit 0
echo
echo "| size | plain | mix from an importance matrix | optimized | optimized mix | |"
echo "|---|---|---|---|---|---|"
for type in q4_k_m q3_k_m; do
    plain --type $type $imatrix -o "$out/plain.gguf"
    size=$(wc -c <"$out/plain.gguf")
    plain --target-size "$size" $imatrix -o "$out/mixed.gguf"
    optimize --type $type -o "$out/chosen.gguf"
    optimize --target-size "$size" -o "$out/mix.gguf"
    row "$type" "$out/plain.gguf" "$out/mixed.gguf" "$out/chosen.gguf" "$out/mix.gguf"
done
optimize --target-bpw 3.5 -o "$out/mix.gguf"
row "3.5 bits against the last" "$out/plain.gguf" "$out/mix.gguf"
