//! Mellum 2.

use super::{expert_len, needs_experts, rms_layer};
use crate::arch::{Arch, Attention, BASE, Ends, Experts, Keys, Rotary, WindowKind, trunk};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "mellum",
    keys: mellum_keys,
    ends: Ends::untied,
    stacks: &[trunk(|d, l| {
        let attention = Attention::grouped(d, l).rotary(d, Rotary::Halves, l).head_norms(d).plain_rope_in_windows(d, l);
        rms_layer(d, attention, Experts::new(d, l, expert_len(d)))
    })],
    demand: needs_experts,
    remark: "experts, windows in three of four layers; positions are not scaled in windowed layers",
    ..BASE
}];

fn mellum_keys(k: &mut Keys<'_>) {
    k.rms();
    k.need_expert_ff();
    k.d.window = k.u32_or("attention.sliding_window", 0);
    if k.d.window > 0 {
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(4, false);
        k.windowed_rope_as_others();
    } else {
        k.no_windows();
    }
}
