//! Kimi Linear and K3: delta attention, latent attention without positions.

use super::deepseek::EPSILON_WITHIN;
use crate::arch::{
    Absorbed, Activation, Arch, BASE, Blocks, Compression, Decay, Dense, Dims, Ends, Experts, Gate, Gating, Kda,
    KdaInputs, Keys, Kind, Latent, Layer, Need, Norm, Residual, Rotary, Step, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "kimi-linear",
        keys: |k| {
            keys(k);
            k.expert_scale();
            k.d.expert_gating = k.need_u32("expert_gating_func").get();
        },
        ends: Ends::untied,
        stacks: &[trunk(linear)],
        remark: "delta attention with decays of channels, latent attention without positions, experts",
        ..BASE
    },
    Arch {
        name: "kimi-k3",
        keys: k3_keys,
        ends: |d| match blocks(d, "output_res_score", false) {
            Some(blocks) => Ends::untied(d).reads(Residual::Blocks(blocks)),
            None => Ends::untied(d),
        },
        stacks: &[trunk(k3)],
        remark: "the same with gates, residuals over blocks, experts of a compressed input and SiTU",
        ..BASE
    },
];

fn keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.key_len_mla = k.need_u32("attention.key_length_mla");
    k.d.value_len_mla = k.need_u32("attention.value_length_mla");
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.ssm.kernel = k.need_u32("ssm.conv_kernel");
    k.own_need_u32("kda.head_dim");
    k.recurrent_without_kv();
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.dense_lead();
}

/// Delta attention in layers without key-value heads.
pub(super) fn kda(d: &Dims) -> Kda {
    Kda {
        input: d.embd,
        heads: d.heads(0),
        head: d.count("kda.head_dim"),
        kernel: d.ssm.kernel,
        projected: KdaInputs::LowRank,
        decay: decay(d),
        a_rows: false,
        eps: d.rms_eps,
        least: d.rms_eps,
    }
}

const BOUND: &str = "kda.gate_lower_bound";

fn decay(d: &Dims) -> Decay {
    match d.float(BOUND).filter(|b| *b > f32::NEG_INFINITY) {
        Some(bound) => Decay::Bounded { bound, sign: -1.0 },
        None => Decay::Softplus,
    }
}

fn latent(d: &Dims) -> Latent {
    Latent {
        norm: EPSILON_WITHIN,
        absorbed: Absorbed::Either,
        either_query: true,
        rotary: Rotary::None,
        ..Latent::new(d, 0)
    }
}

/// The shared experts, which the loader takes a file without.
fn shared(d: &Dims) -> Dense {
    let len = d.expert_ff(0) * d.experts_shared.or(1.into());
    Dense { need: Need::Optional, ..Dense::gated(d, len) }
}

fn linear(d: &Dims, l: usize) -> Layer {
    let mixer: Kind = if d.recurrent(l) { Kda { a_rows: true, ..kda(d) }.into() } else { latent(d).into() };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        Experts {
            gating: Gating::said(d, Gating::Sigmoid),
            choice_bias: Some(Need::Required),
            ..Experts::new(d, l, d.expert_ff(0)).shared(shared(d))
        }
        .into()
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed)])
}

const BLOCK: &str = "attn_res.block_size";
const BETA: &str = "activation.situ_beta";
const LINEAR_BETA: &str = "activation.situ_linear_beta";

fn k3_keys(k: &mut Keys<'_>) {
    keys(k);
    k.d.q_rank = k.u32_or("attention.q_lora_rank", 0);
    k.own_f32(BOUND);
    k.expert_scale();
    k.expert_norm();
    k.d.expert_gating = k.need_u32("expert_gating_func").get();
    k.d.expert_latent = k.u32_or("expert_latent_length", 0);
    k.own_need_u32(BLOCK);
    k.own_need_f32(BETA);
    k.own_need_f32(LINEAR_BETA);
}

/// What a step reads where the model has residuals over blocks.
fn blocks(d: &Dims, score: &'static str, begins: bool) -> Option<Blocks> {
    (d.count(BLOCK) > 0).then_some(Blocks { width: d.embd, score, begins, eps: d.rms_eps })
}

fn k3(d: &Dims, l: usize) -> Layer {
    let mixer: Kind = if d.recurrent(l) {
        Kda { projected: KdaInputs::WholeGate, ..kda(d) }.into()
    } else {
        let gated = d.shapes.is_empty() || d.has(l, "attn_gate.weight");
        Latent { gate: if gated { Gate::Element } else { Gate::None }, ..latent(d) }.into()
    };
    let situ = Activation::Situ { beta: d.float(BETA).unwrap_or(0.0), linear: d.float(LINEAR_BETA).unwrap_or(0.0) };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).activation(situ).into()
    } else {
        let norm = Norm::rms(d, "ffn_routed_norm").len(d.expert_latent).optional();
        let compression =
            Compression { down: "ffn_routed_down", up: "ffn_routed_up", norm: Some(norm), need: Need::Required };
        Experts {
            inner: d.expert_latent.or(d.embd),
            activation: situ,
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Required),
            compression: (d.expert_latent > 0).then_some(compression),
            ..Experts::new(d, l, d.expert_ff(0)).shared(shared(d).activation(situ))
        }
        .into()
    };
    let begins = (l as u64).checked_rem(d.count(BLOCK).get()) == Some(0);
    let joined = |step: Step, score, begins| match blocks(d, score, begins) {
        Some(blocks) => step.joins(Residual::Blocks(blocks)),
        None => step,
    };
    Layer::new([
        joined(step(Norm::rms(d, "attn_norm"), mixer), "attn_res_score", begins),
        joined(step(Norm::rms(d, "ffn_norm"), feed), "ffn_res_score", false),
    ])
}
