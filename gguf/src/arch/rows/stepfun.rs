//! Step 3.5: windows with other rotations, gates of heads, limits of SwiGLU by layer.

use super::mtp::prediction;
use crate::arch::{
    Activation, Arch, Attention, BASE, Dense, Dims, Ends, Experts, Gate, Gating, HeadNorms, Keys, Layer, Mtp, Need,
    Norm, Rotary, Scaling, WindowKind, blocks, output, step,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "step35",
    keys,
    ends,
    stacks: &[blocks(layer)],
    mtp: Mtp { without_trunk: true, without_layers: true },
    remark: "windows with a base of their own; full layers rotate half as much; gates of heads; experts",
    ..BASE
}];

fn keys(k: &mut Keys<'_>) {
    k.rms();
    k.unused(&["leading_dense_block_count", "moe_every_n_layers"]);
    k.d.window_kind = WindowKind::Sliding;
    k.d.rot = k.d.rot / 2;
    k.need_expert_ff();
    k.shared_ff();
    k.expert_weights();
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
    k.d.windowed = k.need_array("attention.sliding_window_pattern").iter().map(|n| *n != 0).collect();
    k.swiglu_limits("swiglu_clamp_exp");
    k.swiglu_limits("swiglu_clamp_shexp");
}

/// One tensor of factors serves layers of both rotations.
fn ends(d: &Dims) -> Ends {
    let most = (0..d.layers()).map(|l| d.rot(l)).max().unwrap_or_default().or(d.rot(0)) / 2;
    let trunk = d.nextn == 0 || d.has(0, "attn_norm.weight");
    let ends = Ends::embedding_only(d).with([output(d).needed(trunk).into()]);
    if d.rope_scaling == Scaling::LongRope { ends.long_rope(most) } else { ends.rope_freqs(most) }
}

/// A layer with a router is one of experts; the loader takes every tensor of both feeds where it is there.
fn layer(d: &Dims, l: usize) -> Layer {
    let (heads, key_len) = (d.heads(l), d.key_len(0));
    let attention = Attention {
        key_len,
        value_len: d.value_len(0),
        rows: [key_len * heads, d.keys(l), d.values(l), d.value_len(0) * heads],
        ..Attention::new(d, l).rotary(d, Rotary::Halves, l).head_norms(d)
    };
    let norms = attention.norms.map(|norms| HeadNorms { need: Need::Optional, ..norms });
    let has_gate = d.shapes.is_empty() || d.has(l, "attn_gate.weight");
    let gate = if has_gate { Gate::Head } else { Gate::None };
    let attention = Attention { norms, gate, ..attention };
    let limited = |key| d.limited(key, l, Activation::SiluLimited);
    let dense = |len| Dense::gated(d, len).activation(limited("swiglu_clamp_shexp"));
    let experts = Experts {
        activation: limited("swiglu_clamp_exp"),
        gating: Gating::said(d, Gating::Sigmoid),
        normalize: d.expert_weights_norm,
        choice_bias: Some(Need::Optional),
        may_lack: true,
        ..Experts::new(d, l, d.expert_ff(0)).shared(dense(d.shared_ff))
    };
    let (feed, other) = super::feed_by_router(d, l, Dense { need: Need::Optional, ..dense(d.ff(0)) }, experts);
    let layer = Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)]);
    let layer = layer.with(other);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
