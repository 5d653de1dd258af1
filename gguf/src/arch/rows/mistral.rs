//! Ministral 3 and Mistral 4: queries grow with their position.

use super::deepseek::{EPSILON_WITHIN, yarn_scale};
use super::mtp::prediction;
use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dim, Dims, Ends, ExpertGate, Experts, Gating, Keys, Kind, Latent, Layer, Mtp,
    Need, Norm, Rotary, Temperature, blocks, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "mistral3",
        keys: mistral3_keys,
        ends: |d| Ends::tied(d).rope_factors(d),
        stacks: &[trunk(mistral3)],
        remark: "Llama's layers with queries that grow with their position",
        ..BASE
    },
    Arch {
        name: "mistral4",
        keys: mistral4_keys,
        stacks: &[blocks(mistral4)],
        mtp: Mtp { without_trunk: true, without_layers: true },
        demand: |d| {
            let key_len = if d.is_mla() { d.key_len_mla } else { d.key_len(0) };
            if key_len <= d.rot(0) {
                return Some("keys are longer than what rotates".to_owned());
            }
            let experts = d.dense_lead >= d.layers_all || d.experts > 0 && d.experts_used(0) > 0;
            (!experts).then(|| "layers behind the leading dense ones have experts".to_owned())
        },
        remark: "DeepSeek 2's layers with queries that grow with their position",
        ..BASE
    },
];

const SCALE: &str = "attention.temperature_scale";
const LENGTH: &str = "attention.temperature_length";

fn mistral3_keys(k: &mut Keys<'_>) {
    k.rms();
    k.own_f32(SCALE);
    k.d.yarn_log_mul = k.f32_or("rope.scaling.yarn_log_multiplier", 0.0);
    let grows = k.d.float(SCALE).is_some_and(|s| s != 0.0);
    let original = k.d.original_context;
    k.demand(!grows || original > 0, "rope.scaling.original_context_length", "queries grow by steps of some positions");
}

fn temperature(d: &Dims, floor: Dim) -> Option<Temperature> {
    let scale = d.float(SCALE).filter(|s| *s != 0.0)?;
    Some(Temperature { scale, floor, offset: 0.0 })
}

fn mistral3(d: &Dims, l: usize) -> Layer {
    let attention = Attention { temperature: temperature(d, d.original_context), ..Attention::uniform(d, l) };
    let attention = attention.bias(Bias::Optional, Bias::Optional).rotary(d, Rotary::Pairs, l);
    let feed: Kind = if d.experts == 0 {
        Dense::gated(d, d.ff(0)).bias(Bias::Optional).into()
    } else {
        Experts { gate: ExpertGate::Optional, ..Experts::new(d, l, d.ff(0)) }.into()
    };
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)])
}

/// Sizes whose queries are not compressed, and which need no rank of them.
fn lite(d: &Dims) -> bool {
    matches!(d.layers(), 26 | 27) || d.layers() == 48 && d.vocab == 128_256
}

fn mistral4_keys(k: &mut Keys<'_>) {
    k.rms();
    k.dense_lead();
    if lite(&k.d) {
        k.unused(&["attention.q_lora_rank"]);
    } else {
        k.d.q_rank = k.need_u32("attention.q_lora_rank");
    }
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.key_len_mla = k.u32_or("attention.key_length_mla", 0);
    k.d.value_len_mla = k.u32_or("attention.value_length_mla", 0);
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.expert_weights();
    // The converter writes a tenth of it.
    k.d.yarn_log_mul = k.f32("rope.scaling.yarn_log_multiplier").map_or(0.0, |v| v / 0.1);
    k.own_f32(SCALE);
    k.own_u32(LENGTH);
}

fn mistral4(d: &Dims, l: usize) -> Layer {
    let temperature = temperature(d, d.count(LENGTH));
    let mut latent = Latent { norm: EPSILON_WITHIN, temperature, ..Latent::new(d, 0) };
    latent.scale *= yarn_scale(d, 0.1 * d.yarn_log_mul);
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        // GLM 4.7 Flash, by its size.
        let flash = matches!(d.layers(), 47 | 48) && d.vocab == 154_880;
        Experts {
            gating: Gating::said(d, if flash { Gating::Sigmoid } else { Gating::Softmax }),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Optional),
            ..Experts::new(d, l, d.expert_ff(0))
        }
        .fused_or_apart()
        .shared(Dense::gated(d, d.expert_ff(0) * d.experts_shared))
        .into()
    };
    let layer = Layer::new([step(Norm::rms(d, "attn_norm"), latent), step(Norm::rms(d, "ffn_norm"), feed)]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
