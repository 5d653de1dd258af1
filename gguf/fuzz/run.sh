#!/bin/sh
# Fuzzes each target for a while on the stable toolchain: `gguf/fuzz/run.sh [SECONDS] [TARGET…]`.
# cargo-fuzz with a nightly toolchain does the same with the address sanitizer: `cargo +nightly fuzz run read`.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-"read check edit split"}
# What cargo-fuzz passes, without the sanitizer, which needs nightly.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host"
for target in $targets; do
    mkdir -p "corpus/$target" "artifacts/$target"
    # The hostile files are the seeds; targets that take a choice read their first byte as one.
    for file in ../../fixtures/golden/hostile/*.gguf; do
        case $target in
            read | check) cp "$file" "corpus/$target/" ;;
            *) for choice in '\000' '\013' '\044' '\376'; do
                   { printf "$choice"; cat "$file"; } > "corpus/$target/$(printf %s "$choice" | tr -d '\\')-${file##*/}"
               done ;;
        esac
    done
    "target/$host/release/$target" -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=512 -timeout=10 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "corpus/$target"
done
