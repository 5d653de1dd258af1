//! Maincoder, Maple and Mellum: models of Qwen 3's form.

use gguf::{Error, Result};

use crate::config::{Config, Rope};
use crate::hf::rows::llada::ROUTER;
use crate::hf::rows::llama::head_dim;
use crate::hf::rows::qwen::DENSE_OR_EXPERTS;
use crate::hf::{ATTENTION, BARE, BASE, Class, ENDS, EXPERTS, GATED, HEAD_NORMS, NORMS, Params};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["MaincoderForCausalLM"],
        arch: "maincoder",
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, GATED],
        keys: |p| {
            Params::common(p)?;
            p.maybe_u32("rope.dimension_count", &["head_dim"])
        },
        remark: "norms of each head",
        ..BASE
    },
    Class {
        names: &["MapleForCausalLM"],
        arch: "maple",
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, DENSE_OR_EXPERTS, EXPERTS, ROUTER],
        keys: maple,
        remark: "experts with a clamp; layers of full attention do not rotate",
        ..BASE
    },
    Class {
        names: &["MellumForCausalLM"],
        arch: "mellum",
        defaults: r#"{"vocab_size": 98304, "hidden_size": 2304, "intermediate_size": 7168, "num_hidden_layers": 28,
            "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-06, "sliding_window": 1024, "moe_intermediate_size": 896, "num_experts_per_tok": 8,
            "num_local_experts": 64, "head_dim": 128, "tie_word_embeddings": false, "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}"#,
        rope: Rope::Stated,
        aliases: &[("num_experts", "num_local_experts"), ("num_mtp_layers", "num_nextn_predict_layers")],
        prefixes: BARE,
        spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, DENSE_OR_EXPERTS, EXPERTS, ROUTER],
        prepare: |config| config.set_layer_types(|_, _| "full_attention"),
        keys: mellum,
        remark: "experts; layers that slide",
        ..BASE
    },
];

fn known(config: &Config) -> Result<()> {
    let fault = |what: &str| Err(Error::input(format!("config.json: {what}")));
    match () {
        () if config.str("hidden_act") != Some("silu") => fault("hidden_act is not silu, the only one that is known"),
        () if config.u64("num_shared_experts").unwrap_or(0) != 0 => fault("num_shared_experts is not 0"),
        () if config.bool("norm_topk_prob") == Some(false) => fault("norm_topk_prob is not true"),
        () if config.bool("nope_on_global_attention") != Some(true) => fault("nope_on_global_attention is not true"),
        () => Ok(()),
    }
}

fn maple(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    known(config)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let part = config.rope_f64("partial_rotary_factor").unwrap_or(1.0);
    p.u32("rope.dimension_count", (head_dim(config)? as f64 * part) as u64)?;
    p.need_u32("attention.sliding_window", &["sliding_window"])?;
    let sliding = p.sliding_layers().ok_or_else(|| Error::input("config.json has no layer_types"))?;
    p.sliding_pattern(&sliding);
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    // The class clamps gate and up of its experts by this, whatever the configuration says.
    p.f32s("swiglu_clamp_exp", &vec![7.0; config.blocks()? as usize]);
    Ok(())
}

fn mellum(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    let config = p.config();
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    if config.bool("use_sliding_window") != Some(false) && config.get("sliding_window").is_some() {
        p.need_u32("attention.sliding_window", &["sliding_window"])?;
        let sliding = p.sliding_layers().ok_or_else(|| Error::input("config.json has no layer_types"))?;
        p.sliding_pattern(&sliding);
    }
    Ok(())
}
