//! PLaMo 1 to 3.

use super::parallel_layer;
use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dim, Dims, Ends, HeadMamba, HeadNorm, Keys, Kind, Layer, Norm, NormKind,
    Projections, Rotary, WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "plamo",
        ends: Ends::untied,
        stacks: &[trunk(|d, l| {
            // The whole head rotates, whatever rope.dimension_count says.
            let attention = Attention { rot: d.key_len(0), ..Attention::wide(d, l) };
            parallel_layer(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l), Dense::gated(d, d.ff(0)))
        })],
        remark: "attention and feed side by side on one norm",
        ..BASE
    },
    Arch {
        name: "plamo2",
        keys: plamo2_keys,
        stacks: &[trunk(plamo2)],
        remark: "state spaces of heads where a layer has no key-value heads; norms before and behind",
        ..BASE
    },
    Arch {
        name: "plamo3",
        keys: plamo3_keys,
        stacks: &[trunk(|d, l| {
            let attention = fused(d, l).norms(NormKind::Rms(d.rms_eps), HeadNorm::Head);
            between_norms(d, attention, Dense::gated(d, d.ff(l)).fused())
        })],
        remark: "norms before and behind; windows in seven of eight layers",
        ..BASE
    },
];

/// One tensor for queries, keys and values of this layer's heads.
fn fused(d: &Dims, l: usize) -> Attention {
    Attention::uniform(d, l)
        .heads(d.heads(l), d.kv_heads(l))
        .stored(Projections::Fused)
        .bias(Bias::Never, Bias::Never)
        .rotary(d, Rotary::Halves, l)
}

fn between_norms(d: &Dims, mixer: impl Into<Kind>, feed: Dense) -> Layer {
    Layer::new([
        step(Norm::rms(d, "attn_norm"), mixer).then(Norm::rms(d, "post_attention_norm").bare()),
        step(Norm::rms(d, "ffn_norm"), feed).then(Norm::rms(d, "post_ffw_norm").bare()),
    ])
}

fn plamo2_keys(k: &mut Keys<'_>) {
    k.rms();
    k.state_space(true);
    k.d.key_len = k.u32_or("attention.key_length", k.d.key_len);
    k.d.value_len = k.u32_or("attention.value_length", k.d.value_len);
    k.d.recurrent = (0..k.d.layers()).map(|l| k.d.kv_heads(l) == 0).collect();
}

fn plamo2(d: &Dims, l: usize) -> Layer {
    let feed = Dense::gated(d, d.ff(0)).fused();
    if d.recurrent(l) {
        let step = (d.embd / 16).max(Dim(64));
        return between_norms(d, HeadMamba { input: d.embd, sizes: d.ssm, step, eps: d.rms_eps }, feed);
    }
    // The whole head rotates; the loader takes the length from the first layer, which has no heads.
    let attention = Attention { rot: d.key_len, ..fused(d, l) };
    between_norms(d, attention.norms(NormKind::Rms(d.rms_eps), HeadNorm::PerHead), feed)
}

fn plamo3_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.window = k.u32_or("attention.sliding_window", 0);
    if k.d.window > 0 {
        k.d.window_kind = WindowKind::Sliding;
        k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
        k.window_pattern(8, false);
    } else {
        k.no_windows();
    }
}
