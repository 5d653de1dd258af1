//! Kimi Linear and Kimi K3: Kimi delta attention beside latent attention.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::rows::deepseek::absorbed;
use crate::hf::rows::mamba::minus_exp;
use crate::hf::{
    ATTENTION, BASE, Class, ENDS, EXPERT, GATED, How, NORMS, NameRule, Outputs, Params, Piece, SIGMOID, r,
};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, multiplied, reshaped};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["KimiLinearForCausalLM", "KimiLinearModel"],
        arch: "kimi-linear",
        vocabulary: VocabKind::KimiLinear,
        defaults: r#"{"vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024,
            "num_hidden_layers": 27, "num_attention_heads": 32, "num_key_value_heads": 32, "num_shared_experts": 1,
            "routed_scaling_factor": 2.446, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "qk_nope_head_dim": 128, "num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 8,
            "model_max_length": 1048576, "rms_norm_eps": 1e-05, "num_experts": 256, "tie_word_embeddings": false}"#,
        aliases: &[
            ("max_position_embeddings", "model_max_length"),
            ("norm_topk_prob", "moe_renormalize"),
            ("n_group", "num_expert_group"),
            ("num_local_experts", "num_experts"),
            ("num_experts_per_tok", "num_experts_per_token"),
            ("n_shared_experts", "num_shared_experts"),
        ],
        spelling: KIMI,
        prepare: |config| {
            if config.is_known() && !config.has("head_dim") {
                config.set("head_dim", config.need_u64(&["qk_rope_head_dim"])?);
            }
            Ok(())
        },
        keys: linear,
        remark: "Kimi delta attention, latent attention in some layers",
        ..BASE
    },
    Class {
        names: &["KimiK3ForConditionalGeneration"],
        arch: "kimi-k3",
        vocabulary: VocabKind::KimiK3,
        unused: &["vision_tower.", "mm_projector."],
        spelling: &[ENDS, ATTENTION, NORMS, GATED, MIXERS, MIXTURE, K3],
        keys: k3,
        remark: "the text model of Kimi K3: residuals across layers, experts in a smaller space",
        ..BASE
    },
];

const KIMI: &[&[NameRule]] = &[ENDS, ATTENTION, NORMS, GATED, MIXERS, MIXTURE];

const MIXERS: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_conv1d", "blk.{}.ssm_conv1d_q").how(How::Change(convolution)),
    r("model.layers.{}.self_attn.k_conv1d", "blk.{}.ssm_conv1d_k").how(How::Change(convolution)),
    r("model.layers.{}.self_attn.v_conv1d", "blk.{}.ssm_conv1d_v").how(How::Change(convolution)),
    r("model.layers.{}.self_attn.A_log", "blk.{}.ssm_a").how(How::Map(minus_exp)),
    r("model.layers.{}.self_attn.dt_bias", "blk.{}.ssm_dt.bias"),
    r("model.layers.{}.self_attn.b_proj", "blk.{}.ssm_beta"),
    r("model.layers.{}.self_attn.f_a_proj", "blk.{}.ssm_f_a"),
    r("model.layers.{}.self_attn.f_b_proj", "blk.{}.ssm_f_b"),
    r("model.layers.{}.self_attn.g_a_proj", "blk.{}.ssm_g_a"),
    r("model.layers.{}.self_attn.g_b_proj", "blk.{}.ssm_g_b"),
    r("model.layers.{}.self_attn.o_norm", "blk.{}.ssm_norm"),
    r("model.layers.{}.self_attn.q_a_proj", "blk.{}.attn_q_a"),
    r("model.layers.{}.self_attn.q_a_layernorm", "blk.{}.attn_q_a_norm"),
    r("model.layers.{}.self_attn.q_b_proj", "blk.{}.attn_q_b"),
    r("model.layers.{}.self_attn.kv_a_proj_with_mqa", "blk.{}.attn_kv_a_mqa"),
    r("model.layers.{}.self_attn.kv_a_layernorm", "blk.{}.attn_kv_a_norm"),
    r("model.layers.{}.self_attn.kv_b_proj", "blk.{}.attn_").how(How::Split(absorbed)),
];

const MIXTURE: &[NameRule] = &[
    r("model.layers.{}.block_sparse_moe.experts.{x}.w1", "blk.{}.ffn_gate_exps").how(EXPERT),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w2", "blk.{}.ffn_down_exps").how(EXPERT),
    r("model.layers.{}.block_sparse_moe.experts.{x}.w3", "blk.{}.ffn_up_exps").how(EXPERT),
    r("model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.block_sparse_moe.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("model.layers.{}.block_sparse_moe.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.block_sparse_moe.shared_experts.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.block_sparse_moe.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
];

const ATTENTION_RESIDUAL: How = How::Join { group: "attention residual", make: product };
const FEED_RESIDUAL: How = How::Join { group: "feed-forward residual", make: product };
const OUTPUT_RESIDUAL: How = How::Join { group: "output residual", make: product };

const K3: &[NameRule] = &[
    r("model.layers.{}.self_attn.g_proj", "blk.{}.").how(How::Split(gate_of_mixer)),
    r("model.layers.{}.self_attention_res_norm", "blk.{}.attn_res_score").how(ATTENTION_RESIDUAL),
    r("model.layers.{}.self_attention_res_proj", "blk.{}.attn_res_score").how(ATTENTION_RESIDUAL),
    r("model.layers.{}.mlp_res_norm", "blk.{}.ffn_res_score").how(FEED_RESIDUAL),
    r("model.layers.{}.mlp_res_proj", "blk.{}.ffn_res_score").how(FEED_RESIDUAL),
    r("model.output_attn_res_norm", "output_res_score").how(OUTPUT_RESIDUAL),
    r("model.output_attn_res_proj", "output_res_score").how(OUTPUT_RESIDUAL),
    r("model.layers.{}.block_sparse_moe.routed_expert_down_proj", "blk.{}.ffn_routed_down"),
    r("model.layers.{}.block_sparse_moe.routed_expert_up_proj", "blk.{}.ffn_routed_up"),
    r("model.layers.{}.block_sparse_moe.routed_expert_norm", "blk.{}.ffn_routed_norm"),
];

/// A convolution of each channel, in llama.cpp's four dimensions.
fn convolution(_: &Config, piece: &Piece) -> Result<Rows> {
    match *piece.rows.shape() {
        [channels, width] | [channels, 1, width] => reshaped(&piece.rows, vec![1, channels, 1, width]),
        _ => Err(Error::input(format!("its shape {:?} is not that of a convolution", piece.rows.shape()))),
    }
}

/// A norm and a projection to one number are used as their product only.
fn product(_: &Config, piece: &Piece, parts: Vec<Rows>) -> Result<Outputs> {
    Ok(vec![(format!("{}{}", piece.to, piece.suffix), multiplied(&parts)?)])
}

/// Layers of full attention, counted from 1.
fn attends(config: &Config, block: u64) -> Result<bool> {
    let layers = linear_attention(config)?.get("full_attn_layers").and_then(serde_json::Value::as_array);
    let layers = layers.ok_or_else(|| Error::input("config.json: linear_attn_config has no full_attn_layers"))?;
    Ok(layers.iter().any(|layer| layer.as_u64() == Some(block + 1)))
}

fn linear_attention(config: &Config) -> Result<&serde_json::Value> {
    config.get("linear_attn_config").ok_or_else(|| Error::input("config.json has no linear_attn_config"))
}

/// One name is the gate of the delta attention in its layers, and of the attention in the others.
fn gate_of_mixer(config: &Config, piece: &Piece) -> Result<Outputs> {
    let kind = if attends(config, piece.block)? { "attn_gate" } else { "ssm_g" };
    Ok(vec![(format!("{}{kind}{}", piece.to, piece.suffix), piece.rows.clone())])
}

/// The keys of both, in which latent attention is attention with one head of keys and values.
fn shared(p: &mut Params<'_>) -> Result<()> {
    let mut config = p.config().clone();
    config.set("num_key_value_heads", 1_u64);
    p.common_of(&config)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    let heads: Result<Vec<u64>> = (0..config.layers()?).map(|i| Ok(u64::from(attends(&config, i)?))).collect();
    p.i32s("attention.head_count_kv", &heads?)
}

fn of_linear(p: &mut Params<'_>, key: &str, name: &str) -> Result<()> {
    match linear_attention(p.config())?.get(name).and_then(serde_json::Value::as_u64) {
        Some(value) => p.u32(key, value),
        None => Ok(()),
    }
}

fn linear(p: &mut Params<'_>) -> Result<()> {
    shared(p)?;
    let config = p.config();
    of_linear(p, "ssm.conv_kernel", "short_conv_kernel_size")?;
    of_linear(p, "kda.head_dim", "head_dim")?;
    p.maybe_u32("attention.q_lora_rank", &["q_lora_rank", "n_lora_q"])?;
    let rank = config.need_u64(&["kv_lora_rank", "n_lora_kv"])?;
    let rope = config.need_u64(&["qk_rope_head_dim", "n_rot"])?;
    p.u32("attention.kv_lora_rank", rank)?;
    p.u32("rope.dimension_count", rope)?;
    p.u32("attention.key_length", rank.saturating_add(rope))?;
    match (config.u64("n_embd_head_k_mla"), config.u64("qk_nope_head_dim")) {
        (Some(length), _) => p.u32("attention.key_length_mla", length)?,
        (None, Some(rest)) => p.u32("attention.key_length_mla", rest.saturating_add(rope))?,
        (None, None) => {}
    }
    if let Some(length) = config.u64("n_embd_head_v_mla").or_else(|| config.u64("v_head_dim")) {
        p.u32("attention.value_length_mla", length)?;
    }
    mixture(p)
}

fn mixture(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.need_u32("expert_shared_count", &["num_shared_experts"])?;
    p.need_u32("leading_dense_block_count", &["first_k_dense_replace"])?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])
}

fn k3(p: &mut Params<'_>) -> Result<()> {
    shared(p)?;
    let config = p.config();
    for (name, known) in [("moe_router_activation_func", "sigmoid"), ("hidden_act", "situ")] {
        if config.str(name) != Some(known) {
            return Err(Error::input(format!("config.json: {name} is not {known}, the only one that is known")));
        }
    }
    if config.bool("mla_use_nope") != Some(true) {
        return Err(Error::input("config.json: latent attention that rotates is not known (mla_use_nope)"));
    }
    of_linear(p, "ssm.conv_kernel", "short_conv_kernel_size")?;
    of_linear(p, "kda.head_dim", "head_dim")?;
    if let Some(bound) = linear_attention(config)?.get("gate_lower_bound").and_then(serde_json::Value::as_f64) {
        p.f32("kda.gate_lower_bound", bound);
    }
    p.maybe_u32("attention.q_lora_rank", &["q_lora_rank"])?;
    let need = |name: &str| config.need_u64(&[name]);
    let (rank, rope) = (need("kv_lora_rank")?, need("qk_rope_head_dim")?);
    p.u32("attention.kv_lora_rank", rank)?;
    p.u32("rope.dimension_count", rope)?;
    p.u32("attention.key_length", rank.saturating_add(rope))?;
    p.u32("attention.value_length", rank)?;
    p.u32("attention.key_length_mla", need("qk_nope_head_dim")?.saturating_add(rope))?;
    p.u32("attention.value_length_mla", need("v_head_dim")?)?;
    mixture(p)?;
    let normed = config.bool("moe_renormalize");
    let normed = normed.ok_or_else(|| Error::input("config.json has no moe_renormalize"))?;
    p.set("expert_weights_norm", normed);
    p.set("expert_gating_func", SIGMOID);
    p.maybe_u32("expert_latent_length", &["routed_expert_hidden_size"])?;
    p.need_f32("activation.situ_beta", &["activation_situ_beta"])?;
    p.need_f32("activation.situ_linear_beta", &["activation_situ_linear_beta"])?;
    p.need_u32("attn_res.block_size", &["attn_res_block_size"])
}
