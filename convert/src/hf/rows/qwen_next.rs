//! Qwen3-Next and Qwen3.5: gated delta nets, every few layers gated attention, and layers of multi-token prediction.

use gguf::{Error, Result};

use crate::Part;
use crate::config::Config;
use crate::hf::rows::mamba::minus_exp;
use crate::hf::rows::qwen::{DENSE_OR_EXPERTS, EXPERTS, SHARED_EXPERT, qwen_moe};
use crate::hf::{
    ATTENTION, BARE, BASE, Class, Contents, How, NameRule, Outputs, Params, Piece, Prediction, plus_one, r,
};
use crate::transform::{Rows, joined, mapped, reordered, reshaped, sliced, squeezed, view};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Qwen3NextForCausalLM"],
        arch: "qwen3next",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
            "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06,
            "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10, "num_experts": 512,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"}}"#,
        remark: "gated delta nets and gated attention; experts and one that all tokens share",
        ..DELTA
    },
    Class {
        names: &["Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"],
        arch: "qwen35",
        defaults: QWEN35,
        keys: qwen35,
        remark: "gated delta nets and gated attention; the text model of the multi-modal ones",
        ..DELTA
    },
    Class {
        names: &["Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"],
        arch: "qwen35moe",
        defaults: r#"{"vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
            "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "head_dim": 256,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8, "num_experts": 256,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"}}"#,
        keys: qwen35,
        remark: "as Qwen3.5 with experts and one that all tokens share",
        ..DELTA
    },
    Class {
        names: &["MiniCPMV4_6ForConditionalGeneration"],
        arch: "qwen35",
        defaults: QWEN35,
        unused: &["model.merger."],
        rename: |_, name| (!name.starts_with("mtp")).then(|| name.to_owned()),
        inspect: |_, _| Ok(()),
        prepare: stated_next_token_layers,
        keys: qwen35,
        remark: "the text model, which is Qwen3.5's; layers of multi-token prediction are left out",
        ..DELTA
    },
];

const QWEN35: &str = r#"{"vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
            "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06,
            "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"}}"#;

/// What all of them share.
pub(super) const DELTA: Class = Class {
    prefixes: BARE,
    spelling: &[ENDS, ATTENTION, NORMS, DELTA_NET, DENSE_OR_EXPERTS, EXPERTS, SHARED_EXPERT, PREDICTION_PLUS_ONE],
    prediction: Some(Prediction {
        beginnings: &["mtp.", "model.mtp."],
        shared: &["model.embed_tokens.", "model.norm.", "lm_head.", "embed_tokens.", "norm."],
    }),
    prepare: usual_layers,
    inspect: count_next_token_layers,
    rename: next_token_names,
    keys: qwen3_next,
    ..BASE
};

/// Norms that store their distance from 1.
pub(super) const NORM: How = How::MapWeight(plus_one);

/// Token embedding, final norm and output head.
pub(super) const ENDS: &[NameRule] =
    &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm").how(NORM), r("lm_head", "output")];

const NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm").how(NORM),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm").how(NORM),
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(NORM),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(NORM),
];

/// The gated delta net. Where there are more value heads than key heads, the file has those of each key head apart.
pub(super) const DELTA_NET: &[NameRule] = &[
    r("model.layers.{}.linear_attn.A_log", "blk.{}.ssm_a").how(How::Change(decay)),
    r("model.layers.{}.linear_attn.dt_bias", "blk.{}.ssm_dt.bias").how(How::Change(one_a_value_head)),
    r("model.layers.{}.linear_attn.conv1d", "blk.{}.ssm_conv1d").how(How::Change(convolution)),
    r("model.layers.{}.linear_attn.norm", "blk.{}.ssm_norm"),
    r("model.layers.{}.linear_attn.in_proj_qkvz", "blk.{}.attn_").how(How::Split(by_kind)),
    r("model.layers.{}.linear_attn.in_proj_ba", "blk.{}.ssm_ba"),
    r("model.layers.{}.linear_attn.in_proj_qkv", "blk.{}.attn_qkv").how(How::Change(values_apart)),
    r("model.layers.{}.linear_attn.in_proj_z", "blk.{}.attn_gate").how(How::Change(value_rows)),
    r("model.layers.{}.linear_attn.in_proj_a", "blk.{}.ssm_alpha").how(How::Change(one_a_value_head)),
    r("model.layers.{}.linear_attn.in_proj_b", "blk.{}.ssm_beta").how(How::Change(one_a_value_head)),
    r("model.layers.{}.linear_attn.out_proj", "blk.{}.ssm_out").how(How::Change(value_columns)),
];

/// What a layer of multi-token prediction has beside those of a usual one, norms plus 1.
pub(super) const PREDICTION_PLUS_ONE: &[NameRule] = &[
    r("model.layers.{}.eh_proj", "blk.{}.nextn.eh_proj"),
    r("model.layers.{}.embed_tokens", "blk.{}.nextn.embed_tokens"),
    r("model.layers.{}.enorm", "blk.{}.nextn.enorm").how(NORM),
    r("model.layers.{}.hnorm", "blk.{}.nextn.hnorm").how(NORM),
    r("model.layers.{}.shared_head.head", "blk.{}.nextn.shared_head_head"),
    r("model.layers.{}.shared_head.norm", "blk.{}.nextn.shared_head_norm").how(NORM),
];

/// Every fourth layer attends where the configuration names no kinds.
fn usual_layers(config: &mut Config) -> Result<()> {
    let every = config.u64("full_attention_interval").unwrap_or(4).max(1);
    config.set_layer_types(|i, _| if (i + 1) % every == 0 { "full_attention" } else { "linear_attention" })
}

/// The layers of multi-token prediction that the configuration states count, though they are left out.
fn stated_next_token_layers(config: &mut Config) -> Result<()> {
    usual_layers(config)?;
    let more = config.u64("mtp_num_hidden_layers").unwrap_or(0);
    config.set_blocks(config.layers()?.saturating_add(more));
    Ok(())
}

/// Layers of multi-token prediction follow the others: as many as the configuration says, else as there are.
fn count_next_token_layers(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let stored = contents.tensors.iter().filter_map(|t| {
        let (_, rest) = t.name().split_once("mtp.layers.")?;
        rest.split('.').next()?.parse::<u64>().ok()
    });
    let stored = stored.max().map_or(0, |last| last.saturating_add(1));
    let stored = if config.part() == Part::Trunk { 0 } else { stored };
    let more = config.u64("mtp_num_hidden_layers").filter(|n| *n > 0).unwrap_or(stored);
    config.set_blocks(config.layers()?.saturating_add(more));
    Ok(())
}

/// The names of multi-token prediction as those of the layer that it is in the file.
fn next_token_names(config: &Config, name: &str) -> Option<String> {
    let own = name.strip_prefix("model.").unwrap_or(name);
    let Some(rest) = own.strip_prefix("mtp.") else { return Some(name.to_owned()) };
    let first = config.layers().ok()?;
    let renamed = match rest.split('.').collect::<Vec<_>>().as_slice() {
        ["layers", layer, tail @ ..] => {
            format!("model.layers.{}.{}", first.checked_add(layer.parse().ok()?)?, tail.join("."))
        }
        [part, suffix] => {
            let part = match *part {
                "fc" => "eh_proj",
                "pre_fc_norm_embedding" => "enorm",
                "pre_fc_norm_hidden" => "hnorm",
                "norm" => "shared_head.norm",
                other => other,
            };
            format!("model.layers.{first}.{part}.{suffix}")
        }
        _ => own.to_owned(),
    };
    Some(renamed)
}

/// The heads of a gated delta net.
struct Heads {
    keys: u64,
    values_a_key: u64,
    key: u64,
    value: u64,
}

impl Heads {
    fn new(config: &Config) -> Result<Heads> {
        let need = |name: &str| config.need_u64(&[name]);
        let (keys, values) = (need("linear_num_key_heads")?, need("linear_num_value_heads")?);
        if keys == 0 || values % keys != 0 {
            return Err(Error::input(format!("config.json has {values} value heads for {keys} key heads")));
        }
        let (key, value) = (need("linear_key_head_dim")?, need("linear_value_head_dim")?);
        Ok(Heads { keys, values_a_key: values / keys, key, value })
    }

    /// The axes that take value heads, `dims` entries each, from the order of their key heads.
    fn apart(&self, dims: u64) -> [(u64, u64); 3] {
        [(self.values_a_key, dims), (self.keys, self.values_a_key * dims), (dims, 1)]
    }
}

fn decay(config: &Config, piece: &Piece) -> Result<Rows> {
    Ok(mapped(&one_a_value_head(config, piece)?, minus_exp))
}

/// The heads, where Qwen3.5's order of value heads differs from the file's.
fn reorders(config: &Config) -> Result<Option<Heads>> {
    if config.class() == "Qwen3NextForCausalLM" {
        return Ok(None);
    }
    Ok(Some(Heads::new(config)?).filter(|h| h.values_a_key != 1))
}

fn one_a_value_head(config: &Config, piece: &Piece) -> Result<Rows> {
    match reorders(config)? {
        Some(heads) => reordered(&piece.rows, 0, &heads.apart(1)),
        None => Ok(piece.rows.clone()),
    }
}

fn value_rows(config: &Config, piece: &Piece) -> Result<Rows> {
    match reorders(config)? {
        Some(heads) => reordered(&piece.rows, 0, &heads.apart(heads.value)),
        None => Ok(piece.rows.clone()),
    }
}

fn value_columns(config: &Config, piece: &Piece) -> Result<Rows> {
    let (Some(heads), &[rows, columns]) = (reorders(config)?, piece.rows.shape()) else {
        return Ok(piece.rows.clone());
    };
    let [a, b, c] = heads.apart(heads.value);
    let shape = vec![rows.saturating_mul(a.0 * b.0), c.0];
    reshaped(&view(&piece.rows, shape, 0, &[(rows, columns), a, b, c])?, vec![rows, columns])
}

/// Queries and keys as they are, values in the file's order.
fn values_apart(config: &Config, piece: &Piece) -> Result<Rows> {
    let Some(heads) = reorders(config)? else { return Ok(piece.rows.clone()) };
    let first = 2 * heads.keys * heads.key;
    joined(vec![sliced(&piece.rows, 0, 0, first)?, reordered(&piece.rows, first, &heads.apart(heads.value))?])
}

fn convolution(config: &Config, piece: &Piece) -> Result<Rows> {
    let piece = Piece { to: String::new(), suffix: String::new(), block: piece.block, rows: squeezed(&piece.rows)? };
    values_apart(config, &piece)
}

/// Queries, keys, values and gates of each key head one after the other, as queries, keys and values of all, and gates.
fn by_kind(config: &Config, piece: &Piece) -> Result<Outputs> {
    let heads = Heads::new(config)?;
    let values = heads.values_a_key * heads.value;
    let all = 2 * (heads.key + values);
    if piece.rows.shape().first() != Some(&(all * heads.keys)) {
        let shape = piece.rows.shape();
        return Err(Error::input(format!("its shape {shape:?} is not that of {} heads of {all} rows", heads.keys)));
    }
    let part = |first: u64, rows: u64| reordered(&piece.rows, first, &[(heads.keys, all), (rows, 1)]);
    let qkv = joined(vec![part(0, heads.key)?, part(heads.key, heads.key)?, part(2 * heads.key, values)?])?;
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    Ok(vec![(name("qkv"), qkv), (name("gate"), part(2 * heads.key + values, values)?)])
}

fn qwen3_next(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    qwen_moe(p)?;
    let (blocks, layers) = (config.blocks()?, config.layers()?);
    let (values, value) = (config.need_u64(&["linear_num_value_heads"])?, config.need_u64(&["linear_value_head_dim"])?);
    if blocks > layers {
        p.u32("nextn_predict_layers", blocks - layers)?;
    }
    p.need_u32("ssm.conv_kernel", &["linear_conv_kernel_dim"])?;
    p.need_u32("ssm.state_size", &["linear_key_head_dim"])?;
    p.need_u32("ssm.group_count", &["linear_num_key_heads"])?;
    p.u32("ssm.time_step_rank", values)?;
    p.u32("ssm.inner_size", value.saturating_mul(values))?;
    if let Some(mut recurrent) = p.layers_of("linear_attention") {
        if recurrent.len() as u64 != layers {
            let what = format!("config.json names the kinds of {} layers of {layers}", recurrent.len());
            return Err(Error::input(what));
        }
        recurrent.resize(blocks as usize, false);
        p.bools("attention.recurrent_layers", &recurrent);
    }
    p.u32("full_attention_interval", config.u64("full_attention_interval").unwrap_or(4))?;
    let factor = config.rope_f64("partial_rotary_factor").unwrap_or(0.25);
    let head = crate::hf::rows::llama::head_dim(config)?;
    p.u32("rope.dimension_count", (head as f64 * factor) as u64)
}

/// The keys of Qwen3.5.
pub(super) fn qwen35(p: &mut Params<'_>) -> Result<()> {
    qwen3_next(p)?;
    if !p.config().rope().contains_key("mrope_section") {
        p.i32s("rope.dimension_sections", &[11, 11, 10, 0])?;
    }
    Ok(())
}
