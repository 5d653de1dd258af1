#!/bin/sh
# Time, processor time and peak memory of `quantize` on a whole model, beside llama-quantize on the same input.
#
#   quantize/benches/whole-model.sh [FOLDER] [TYPE ...]
#
# FOLDER (default: a folder in the temporary directory) holds the model, which is generated when it is missing: a
# random BF16 Llama of 1.1 billion parameters, 2.2 GB. LLAMA_QUANTIZE names the other program; without it only ours is
# measured. THREADS is the number of threads of both (default 2). Where both ran, the files are compared as well: they
# are equal where the other program was compiled without fused multiply-add.
set -eu
cd "$(dirname "$0")/../.."

folder=${1:-${TMPDIR:-/tmp}/quantize-bench}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- Q8_0 Q4_0 Q4_K_M Q5_K_M Q6_K Q3_K_M Q2_K IQ4_XS IQ4_NL
threads=${THREADS:-2}
time=$(command -v time || true)
[ -x "$time" ] || { echo "the program time (GNU) is needed" >&2; exit 2; }

cargo build --release --quiet -p downcast-quantize
quantize=$PWD/target/release/quantize
mkdir -p "$folder"
input=$folder/random-1.1b-bf16.gguf
if [ ! -f "$input" ]; then
    cargo run --release --quiet -p fixtures --example random-checkpoint -- "$folder/random-1.1b"
    "$quantize" -q -t bf16 -o "$input" "$folder/random-1.1b"
fi
cat "$input" > /dev/null # into the page cache

measure() { # prints: wall seconds, processor seconds, peak MiB
    "$time" -o "$folder/time.txt" -f '%e %U %S %M' "$@" > "$folder/log.txt" 2>&1 || { cat "$folder/log.txt"; exit 1; }
    awk '{ printf "%s %.1f %.0f", $1, $2 + $3, $4 / 1024 }' "$folder/time.txt"
}

printf '%-8s %10s %10s %10s' type 'wall s' 'CPU s' 'peak MiB'
[ -n "${LLAMA_QUANTIZE:-}" ] && printf ' %12s %12s %12s %7s %s' 'llama wall' 'llama CPU' 'llama MiB' ratio bytes
printf '\n'
for type in "$@"; do
    ours=$(measure "$quantize" -q --force --threads "$threads" -t "$type" -o "$folder/ours.gguf" "$input")
    # shellcheck disable=SC2086 # three words on purpose
    printf '%-8s %10s %10s %10s' "$type" $ours
    if [ -n "${LLAMA_QUANTIZE:-}" ]; then
        theirs=$(measure "$LLAMA_QUANTIZE" "$input" "$folder/theirs.gguf" "$type" "$threads")
        ratio=$(echo "$ours $theirs" | awk '{ printf "%.1f", $5 / $2 }')
        same=$(cmp -s "$folder/ours.gguf" "$folder/theirs.gguf" && echo equal || echo differ)
        # shellcheck disable=SC2086
        printf ' %12s %12s %12s %7s %s' $theirs "$ratio" "$same"
    fi
    printf '\n'
    rm -f "$folder/ours.gguf" "$folder/theirs.gguf"
done
