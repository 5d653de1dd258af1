//! Grok.

use crate::arch::{
    Activation, Arch, Attention, BASE, Branch, Dense, Dims, Ends, ExpertGate, Experts, Keys, Kind, Layer, Need, Norm,
    Reads, Rotary, Step, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "grok",
    keys: grok_keys,
    ends: Ends::tied,
    stacks: &[trunk(grok)],
    demand: |d| (d.experts == 0).then(|| "grok has experts".to_owned()),
    remark: "norms before and behind; scores and logits capped; scales that hold where no key says them",
    ..BASE
}];

fn grok_keys(k: &mut Keys<'_>) {
    k.rms();
    k.expert_ff();
    k.d.logit_scale = k.f32_or("logit_scale", 0.577_350_26);
    k.d.embedding_scale = k.f32_or("embedding_scale", 78.383_675);
    k.d.attention_scale = k.f32_or("attention.output_scale", 0.088_388_346);
    k.d.attn_softcap = k.f32_or("attn_logit_softcapping", 30.0);
    // Read by the loader, used by no graph.
    k.f32("router_logit_softcapping");
    k.u32("attention.temperature_length");
    k.d.final_softcap = k.f32_or("final_logit_softcapping", 0.0);
    k.d.yarn_beta_fast = k.f32_or("rope.scaling.yarn_beta_fast", 8.0);
}

fn grok(d: &Dims, l: usize) -> Layer {
    let attention = Attention::wide(d, l).rotary(d, Rotary::Halves, l);
    let mut experts = Experts::new(d, l, d.expert_ff(0).or(d.ff(0))).activation(Activation::GeluTanh);
    experts.gate = ExpertGate::Optional;
    let dense = Dense { need: Need::Optional, ..Dense::gated(d, d.ff(0)).activation(Activation::GeluTanh) };
    let first = d.has(l, "layer_output_norm.weight");
    let after = Norm::rms(d, if first { "layer_output_norm" } else { "post_ffw_norm" });
    let experts = Branch::new(Norm::rms(d, "ffn_norm"), experts);
    let mixed = step(Norm::rms(d, "attn_norm"), attention).then(Norm::rms(d, "attn_output_norm"));
    if !d.has(l, "ffn_up.weight") {
        let spare = Kind::from(dense).items();
        return Layer::new([mixed, Step::of([experts]).then(after)]).with(spare);
    }
    let half = std::f32::consts::FRAC_1_SQRT_2;
    let dense = Branch::new(None, dense).reads(Reads::FirstInput).times(half);
    Layer::new([mixed, Step::of([experts.times(half), dense]).then(after)])
}
