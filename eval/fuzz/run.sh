#!/bin/sh
# Fuzzes each kind of input for a while on the stable toolchain: `eval/fuzz/run.sh [SECONDS] [KIND…]`. The kinds are in
# eval/tests/common/bodies.rs; what is found goes into eval/tests/regressions, which a test reads.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
kinds=${*:-$(sed -n 's/.*Body { name: "\([a-z-]*\)".*/\1/p; s/^ *name: "\([a-z-]*\)",$/\1/p' ../tests/common/bodies.rs)}
# The seeds are written by the test of the same bodies.
FUZZ_SEEDS="$PWD/corpus" cargo test --manifest-path ../Cargo.toml --test any_bytes seeds -q
# What cargo-fuzz passes, without the sanitizer, which needs nightly.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host"
for kind in $kinds; do
    mkdir -p "corpus/$kind" "artifacts/$kind"
    FUZZ_BODY=$kind "target/$host/release/inputs" -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=1024 -timeout=10 \
        -print_final_stats=1 -artifact_prefix="artifacts/$kind/" "corpus/$kind"
done
