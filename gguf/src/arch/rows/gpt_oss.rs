//! gpt-oss: sinks, windows in every second layer, experts with biases.

use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Dims, Ends, Experts, Gating, Layer, Need, Norm, Rotary, WindowKind, step,
    trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "gpt-oss",
    keys: |k| {
        k.rms();
        k.need_expert_ff();
        k.d.window = k.need_u32("attention.sliding_window");
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(2, false);
        k.windowed_rope_as_others();
    },
    ends: Ends::untied,
    stacks: &[trunk(layer)],
    fractional_yarn: true,
    remark: "sinks, windows in every second layer, experts with biases and a clamped SwiGLU",
    ..BASE
}];

/// Heads are as long as their rotated part, which the scale is computed from too.
fn layer(d: &Dims, l: usize) -> Layer {
    let len = d.rot(0);
    let [q, kv] = [len * d.heads(0), len * d.kv_heads(0)];
    let attention = Attention {
        key_len: len,
        value_len: len,
        rows: [q, kv, kv, q],
        scale: 1.0 / (len.get() as f32).sqrt(),
        out_bias: Bias::Required,
        sinks: Some(Need::Required),
        ..Attention::uniform(d, l)
    };
    let experts = Experts {
        activation: Activation::SwigluOai,
        bias: Bias::Required,
        gating: Gating::SoftmaxOfBest,
        normalize: false,
        ..Experts::new(d, l, d.expert_ff(0))
    };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l)),
        step(Norm::rms(d, "post_attention_norm"), experts),
    ])
}
