//! Ling and Ring (Bailing) 1 to 3.

use super::mtp::{joining, prediction};
use crate::arch::{
    Absorbed, Activation, Arch, Attention, BASE, Bias, Decay, Dense, Dims, Ends, Experts, Gate, Gating, Item, Kda,
    KdaInputs, Keys, Kind, Latent, Layer, Mtp, Need, Norm, Projections, Rotary, Slot, Types, blocks, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "bailingmoe",
        keys: |k| {
            k.rms();
            k.dense_lead();
            k.need_expert_ff();
            k.d.experts_shared = k.need_u32("expert_shared_count");
            k.expert_scale();
            k.expert_norm();
        },
        ends: Ends::untied,
        stacks: &[trunk(bailing)],
        demand: has_experts,
        remark: "Ling lite: experts with shared ones in every layer",
        ..BASE
    },
    Arch {
        name: "bailingmoe2",
        keys: |k| {
            k.rms();
            k.dense_lead();
            k.need_expert_ff();
            k.shared_ff();
            k.d.experts_shared = k.need_u32("expert_shared_count");
            k.expert_scale();
            k.expert_norm();
            k.d.expert_gating = k.need_u32("expert_gating_func").get();
        },
        ends: Ends::untied,
        stacks: &[blocks(bailing2)],
        demand: has_experts,
        remark: "Ling 2: norms of heads, experts behind leading dense layers",
        ..BASE
    },
    Arch {
        name: "bailingmoe3",
        keys: bailing3_keys,
        stacks: &[blocks(bailing3)],
        mtp: Mtp { without_trunk: true, without_layers: true },
        types: Types { stacks_by_role: true, ..BASE.types },
        remark: "Kimi delta attention, gated latent attention in some layers, experts",
        ..BASE
    },
];

fn has_experts(d: &Dims) -> Option<String> {
    let experts = d.layers() == 0 || d.experts > 0 && d.experts_used(0) > 0;
    (!experts).then(|| "every layer has experts".to_owned())
}

/// Heads are as long as their rotated part, which the scale is computed from too.
fn bailing(d: &Dims, l: usize) -> Layer {
    let len = d.rot(0);
    let [q, kv] = [len * d.heads(0), len * d.kv_heads(0)];
    let attention = Attention {
        key_len: len,
        value_len: len,
        rows: [q, kv, kv, q],
        scale: 1.0 / (len.get() as f32).sqrt(),
        ..Attention::uniform(d, l)
    };
    let len = d.expert_ff(0);
    let experts = Experts {
        normalize: d.expert_weights_norm,
        ..Experts::new(d, l, len).shared(Dense::gated(d, len * d.experts_shared))
    };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Pairs, l)),
        step(Norm::rms(d, "ffn_norm"), experts),
    ])
}

fn experts(d: &Dims, l: usize, shared: Dense, bias: Need) -> Experts {
    Experts {
        gating: Gating::said(d, Gating::Sigmoid),
        normalize: d.expert_weights_norm,
        choice_bias: Some(bias),
        ..Experts::new(d, l, d.expert_ff(0)).shared(shared)
    }
}

fn bailing2(d: &Dims, l: usize) -> Layer {
    let attention = Attention {
        rows: [d.embd, d.values(0), d.values(0), d.queries(0)],
        bias: Bias::Never,
        ..Attention::uniform(d, l).stored(Projections::Fused).head_norms(d)
    };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        let shared = d.shared_ff.or(d.expert_ff(0)) * d.experts_shared;
        experts(d, l, Dense::gated(d, shared), Need::Optional).into()
    };
    let layer = Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l)),
        step(Norm::rms(d, "ffn_norm"), feed),
    ]);
    if l < d.layers() { layer } else { layer.with(prediction(d)).with([output_norm(d)]) }
}

fn output_norm(d: &Dims) -> Item {
    Slot::new("layer_output_norm.weight", [d.embd]).into()
}

const BOUND: &str = "kda.gate_lower_bound";

fn bailing3_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.key_len_mla = k.need_u32("attention.key_length_mla");
    k.d.value_len_mla = k.need_u32("attention.value_length_mla");
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.q_rank = k.u32_or("attention.q_lora_rank", 0);
    k.d.ssm.kernel = k.need_u32("ssm.conv_kernel");
    k.own_need_u32("kda.head_dim");
    let safe = k.bool("kda.safe_gate").unwrap_or(true);
    k.own_need_f32(BOUND);
    k.rope_sections();
    k.need_expert_ff();
    k.shared_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.need_dense_lead();
    k.expert_scale();
    k.expert_norm();
    k.d.expert_gating = k.need_u32("expert_gating_func").get();
    k.swiglu_limits("swiglu_clamp_exp");
    k.swiglu_limits("swiglu_clamp_shexp");
    k.demand(safe, "kda.safe_gate", "decays have a bound");
    k.demand(k.d.float(BOUND).is_some_and(|b| b < 0.0), BOUND, "a bound of decays is negative");
    k.d.shared_ff = k.d.shared_ff.or(k.d.expert_ff(0) * k.d.experts_shared.or(1.into()));
    k.recurrent_without_kv();
}

fn bailing3(d: &Dims, l: usize) -> Layer {
    let mixer: Kind = if l < d.layers() && d.recurrent(l) {
        Kda {
            input: d.embd,
            heads: d.heads(0),
            head: d.count("kda.head_dim"),
            kernel: d.ssm.kernel,
            projected: KdaInputs::Whole,
            decay: Decay::Bounded { bound: d.float(BOUND).unwrap_or(0.0), sign: 1.0 },
            a_rows: true,
            eps: d.rms_eps,
            least: d.rms_eps,
        }
        .into()
    } else {
        let by_sections = d.rope_sections[0] > 0 && d.rope_sections[1] > 0;
        let rotary = if by_sections { Rotary::Sections } else { Rotary::Pairs };
        Latent { gate: Gate::Head, absorbed: Absorbed::Yes, rotary, ..Latent::new(d, 0) }.into()
    };
    let dense = |len| Dense::gated(d, len).activation(d.limited("swiglu_clamp_shexp", l, Activation::SiluLimited));
    let feed: Kind = if l < d.dense_lead && l < d.layers() {
        dense(d.ff(0)).into()
    } else {
        let activation = d.limited("swiglu_clamp_exp", l, Activation::SiluLimited);
        Experts { activation, ..experts(d, l, dense(d.shared_ff), Need::Required) }.into()
    };
    let layer = Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed)]);
    if l < d.layers() { layer } else { layer.with(joining(d)).with([output_norm(d)]) }
}
