//! ChatGLM, GLM 4 and GLM 4.5.

use super::mtp::prediction;
use crate::arch::{
    Arch, Attention, BASE, Dense, Dims, Experts, Gating, HeadNorms, Keys, Kind, Layer, Mtp, Need, Norm, Rotary, blocks,
    step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "chatglm",
        stacks: &[trunk(chatglm)],
        remark: "half of each head rotates in pairs; gate and up in one matrix",
        ..BASE
    },
    Arch {
        name: "glm4",
        keys: |k| {
            k.rms();
            k.rope_sections();
        },
        stacks: &[blocks(glm4)],
        remark: "norms before and behind the branches; gate and up in one matrix",
        ..BASE
    },
    Arch {
        name: "glm4moe",
        keys: glm4moe_keys,
        stacks: &[blocks(glm4moe)],
        mtp: Mtp { without_trunk: true, without_layers: true },
        demand: |d| (d.experts == 0 || d.experts_used(0) == 0).then(|| "glm4moe has experts".to_owned()),
        remark: "GLM 4.5: experts behind leading dense layers",
        ..BASE
    },
];

fn chatglm(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).rotary(d, Rotary::Pairs, l);
    attention.rows[3] = d.embd;
    let feed = Dense::gated(d, d.ff(0)).fused();
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), feed)])
}

/// Models that see images rotate by sections, which their converter has ordered as halves.
fn rotary(d: &Dims, otherwise: Rotary) -> Rotary {
    if d.rope_sections[0] > 0 && d.rope_sections[1] > 0 { Rotary::Sections } else { otherwise }
}

fn glm4(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, rotary(d, Rotary::Pairs), l);
    let layer = Layer::new([
        step(Norm::rms(d, "attn_norm"), attention).then(Norm::rms(d, "post_attention_norm")),
        step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)).fused()).then(Norm::rms(d, "post_ffw_norm")),
    ]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}

fn glm4moe_keys(k: &mut Keys<'_>) {
    k.need_expert_ff();
    k.rms();
    k.rope_sections();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.dense_lead();
    k.expert_weights();
}

fn glm4moe(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, rotary(d, Rotary::Halves), l).head_norms(d);
    let norms = attention.norms.map(|norms| HeadNorms { need: Need::Optional, ..norms });
    let attention = Attention { norms, ..attention };
    let feed: Kind = if l < d.dense_lead {
        Dense::gated(d, d.ff(0)).into()
    } else {
        let len = d.expert_ff(0).or(d.ff(0) / d.experts_used(0));
        let experts = Experts {
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Required),
            ..Experts::new(d, l, len)
        };
        if d.experts_shared > 0 { experts.shared(Dense::gated(d, len * d.experts_shared)) } else { experts }.into()
    };
    let layer =
        Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "post_attention_norm"), feed)]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
