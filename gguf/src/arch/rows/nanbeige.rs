//! Nanbeige 4.2: the same layers more than once.

use super::rms_layer;
use crate::arch::{Arch, Attention, BASE, Dense, Ends, Keys, MAX_LAYERS, Own, Rotary, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "nanbeige",
    keys: nanbeige_keys,
    ends: |d| {
        let mut ends = Ends::tied(d).rope_freqs(d.rot(0) / 2);
        ends.loops = d.count("num_loops").len();
        ends.loop_norm = d.count("skip_loop_final_norm") == 0;
        ends
    },
    stacks: &[trunk(|d, l| {
        rms_layer(d, Attention::uniform(d, l).rotary(d, Rotary::Pairs, l), Dense::gated(d, d.ff(0)))
    })],
    remark: "the layers run num_loops times, with the last norm between two passes unless a key says no",
    ..BASE
}];

fn nanbeige_keys(k: &mut Keys<'_>) {
    k.rms();
    let loops = k.u32_or("num_loops", 1);
    k.demand(loops >= 1, "num_loops", "the layers must run once at least");
    let all = loops * k.d.layers() as u64;
    k.demand(all <= MAX_LAYERS as u64, "num_loops", &format!("{all} layers in all; {MAX_LAYERS} at most"));
    k.keep("num_loops", Own::Count(loops.get()));
    let skip = k.bool("skip_loop_final_norm").unwrap_or(false);
    k.keep("skip_loop_final_norm", Own::Count(skip.into()));
}
