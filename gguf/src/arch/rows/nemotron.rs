//! Nemotron 4 and Nemotron-H.

use super::mtp::{head_norm, joining};
use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Compression, Dense, Dim, Dims, Ends, ExpertGate, Experts, Gating, Item,
    Keys, Kind, Layer, Mamba2, Mtp, Need, Norm, Rotary, blocks, output, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "nemotron",
        keys: |k| k.layer_norm(),
        ends: |d| Ends::of(d, Norm::layer(d, "output_norm")).with([output(d).into()]),
        stacks: &[trunk(nemotron)],
        remark: "squared ReLU without gate, norms by mean and variance (the 1 that is added to their weights is in them)",
        ..BASE
    },
    Arch { name: "nemotron_h", remark: "each layer is Mamba 2, attention or a feed", ..NEMOTRON_H },
    Arch { name: "nemotron_h_moe", remark: "the same with experts, in Nemotron 3 of a compressed input", ..NEMOTRON_H },
];

const NEMOTRON_H: Arch = Arch {
    keys: nemotron_h_keys,
    stacks: &[blocks(nemotron_h)],
    mtp: Mtp { without_trunk: true, without_layers: false },
    demand: |d| {
        let known = (d.layers()..d.layers_all).all(|l| d.expert_ff(l) > 0 || d.experts_used(l) > 0);
        (!known).then(|| "nothing says how long the experts of multi-token prediction are".to_owned())
    },
    ..BASE
};

fn nemotron(d: &Dims, l: usize) -> Layer {
    let attention = Attention { rows: Attention::square(d, 0).rows, ..Attention::uniform(d, l) };
    let attention = attention.rotary(d, Rotary::Halves, l).bias(Bias::Optional, Bias::Optional);
    let feed = Dense::plain(d, d.ff(0), Activation::ReluSquared).bias(Bias::Optional);
    Layer::new([step(Norm::layer(d, "attn_norm"), attention), step(Norm::layer(d, "ffn_norm"), feed)])
}

fn nemotron_h_keys(k: &mut Keys<'_>) {
    k.state_space(true);
    let trunk = k.d.layers();
    k.d.recurrent = (0..k.d.layers_all).map(|l| l < trunk && k.d.kv_heads(l) == 0 && k.d.ff(l) == 0).collect();
    k.layer_norm();
    let eps = k.d.norm_eps;
    k.d.rms_eps = k.f32_or("attention.layer_norm_rms_epsilon", eps);
    k.expert_ff();
    k.shared_ff();
    k.d.experts_shared = k.u32_or("expert_shared_count", 0);
    k.expert_norm();
    k.expert_scale();
    k.d.expert_latent = k.u32_or("moe_latent_size", 0);
}

/// A layer is one step: what it does is said by its key-value heads and its feed-forward length.
fn nemotron_h(d: &Dims, l: usize) -> Layer {
    let attention = || Attention::new(d, l).bias(Bias::Optional, Bias::Optional);
    let before = Norm::rms(d, "attn_norm");
    if l >= d.layers() {
        let experts = nemotron_h_experts(d, l, d.expert_ff(l).or(d.ff(0) / d.experts_used(l)));
        return Layer::new([step(before, attention()), step(Norm::rms(d, "post_attention_norm"), experts)])
            .with(joining(d))
            .with([Item::from(head_norm(d))]);
    }
    let kind: Kind = if d.recurrent(l) {
        Mamba2::new(d).into()
    } else if d.ff(l) == 0 {
        attention().into()
    } else if d.experts > 0 {
        nemotron_h_experts(d, l, d.expert_ff(l).or(d.ff(l) / d.experts_used(l))).into()
    } else {
        Dense::plain(d, d.ff(l), Activation::ReluSquared).bias(Bias::Optional).into()
    };
    Layer::new([step(before, kind)])
}

/// Experts without gate. Their input may be compressed; the router and the shared experts read it as it is.
fn nemotron_h_experts(d: &Dims, l: usize, len: Dim) -> Experts {
    let inner = d.expert_latent.or(d.embd);
    let compression = Compression { down: "ffn_latent_down", up: "ffn_latent_up", norm: None, need: Need::Optional };
    Experts {
        inner,
        gate: ExpertGate::None,
        activation: Activation::ReluSquared,
        choice_bias: Some(Need::Required),
        gating: Gating::Sigmoid,
        normalize: d.expert_weights_norm,
        compression: Some(compression),
        ..Experts::new(d, l, len).shared(Dense::plain(d, d.shared_ff, Activation::ReluSquared))
    }
}
