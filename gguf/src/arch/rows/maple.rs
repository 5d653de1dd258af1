//! Maple.

use super::{needs_experts, rms_layer};
use crate::arch::{
    Activation, Arch, Attention, BASE, Dims, Ends, Experts, Keys, Layer, Own, Rotary, WindowKind, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "maple",
    keys: maple_keys,
    ends: Ends::untied,
    stacks: &[trunk(maple)],
    demand: needs_experts,
    remark: "experts with limited gates; rotation in windowed layers alone",
    ..BASE
}];

fn maple_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.window_kind = WindowKind::Sliding;
    k.d.window = k.need_u32("attention.sliding_window");
    k.need_expert_ff();
    k.need_window_list();
    k.windowed_rope_as_others();
    k.d.rotates = (0..k.d.layers_all).map(|l| k.d.windowed(l)).collect();
    let limits = k.need_f32s("swiglu_clamp_exp", k.d.layers_all);
    k.keep("swiglu_clamp_exp", Own::Floats(limits));
}

fn maple(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l).head_norms(d);
    attention.rows[2] = attention.rows[1];
    let mut experts = Experts::new(d, l, d.expert_ff(0));
    if let Some(limit) = d.float_at("swiglu_clamp_exp", l).filter(|l| *l > 1e-6) {
        experts.activation = Activation::SiluClamped(limit);
    }
    rms_layer(d, attention, experts)
}
