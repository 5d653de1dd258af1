//! Nemotron-H: Mamba 2, attention and feed-forwards, each a layer of its own; dense or with experts.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::hf::contents::block_of;
use crate::hf::rows::granite::scales;
use crate::hf::rows::llama::llama;
use crate::hf::rows::mamba::{column, convolution, decay_a_head, in_groups};
use crate::hf::{BASE, Class, EXPERT, How, NameRule, Params, Piece, Prediction, r};
use crate::tokenizer::VocabKind;
use crate::transform::Rows;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["NemotronHForCausalLM"],
        when: has_experts,
        arch: "nemotron_h_moe",
        defaults: r#"{"vocab_size": 131072, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": null,
            "head_dim": 128, "max_position_embeddings": 4096, "intermediate_size": 21504, "ssm_state_size": 128,
            "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4, "n_routed_experts": 8,
            "n_shared_experts": 1, "moe_intermediate_size": 7688, "moe_shared_expert_intermediate_size": 7688,
            "num_experts_per_tok": 2, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "norm_topk_prob": true,
            "num_nextn_predict_layers": 0, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": false}"#,
        aliases: &[("layer_types", "layers_block_type"), ("num_local_experts", "n_routed_experts")],
        spelling: &[NEMOTRON_H, EXPERTS, NEXT_TOKENS],
        prepare: next_token_layer,
        rename: next_token_names,
        keys: |p| {
            shared(p)?;
            experts(p)
        },
        in_f32: router_of_next_token,
        remark: "Nemotron 3: Mamba 2, attention and experts; one layer of multi-token prediction",
        ..DENSE
    },
    Class { names: &["NemotronHForCausalLM"], remark: "Mamba 2, attention and squared ReLU", ..DENSE },
    Class {
        names: &["NemotronHPuzzleForCausalLM"],
        arch: "nemotron_h_moe",
        unused: &["mtp."],
        prediction: None,
        spelling: &[NEMOTRON_H, EXPERTS],
        prepare: by_block,
        rename: |_, name| {
            Some(name.strip_prefix("model.").map_or_else(|| name.to_owned(), |own| format!("backbone.{own}")))
        },
        keys: |p| {
            shared(p)?;
            puzzle(p)
        },
        remark: "Nemotron 3 with experts of another width in every layer; multi-token prediction is left out",
        ..DENSE
    },
];

const DENSE: Class = Class {
    arch: "nemotron_h",
    vocabulary: VocabKind::NemotronH,
    spelling: &[NEMOTRON_H],
    prediction: Some(Prediction {
        beginnings: &["mtp."],
        shared: &["backbone.embeddings.", "backbone.norm_f.", "lm_head."],
    }),
    prepare: counted,
    rename: |_, name| Some(adapter_names(name)),
    keys: |p| {
        shared(p)?;
        let width = p.config().need_u64(&["intermediate_size", "n_inner", "hidden_dim"])?;
        in_feed_forwards(p, width)
    },
    ..BASE
};

const NEMOTRON_H: &[NameRule] = &[
    r("backbone.embeddings", "token_embd"),
    r("backbone.embedding", "token_embd"),
    r("backbone.norm_f", "output_norm"),
    r("lm_head", "output"),
    r("backbone.layers.{}.norm", "blk.{}.attn_norm"),
    r("backbone.layers.{}.mixer.in_proj", "blk.{}.ssm_in"),
    r("backbone.layers.{}.mixer.conv1d", "blk.{}.ssm_conv1d").how(How::Change(convolution)),
    r("backbone.layers.{}.mixer.dt_bias", "blk.{}.ssm_dt.bias"),
    r("backbone.layers.{}.mixer.A_log", "blk.{}.ssm_a").how(How::Change(decay_a_head)),
    r("backbone.layers.{}.mixer.D", "blk.{}.ssm_d").how(How::Change(column)),
    r("backbone.layers.{}.mixer.norm", "blk.{}.ssm_norm").how(How::Change(norm_a_group)),
    r("backbone.layers.{}.mixer.out_proj", "blk.{}.ssm_out"),
    r("backbone.layers.{}.mixer.q_proj", "blk.{}.attn_q").how(How::RotateQuery),
    r("backbone.layers.{}.mixer.k_proj", "blk.{}.attn_k").how(How::RotateKey),
    r("backbone.layers.{}.mixer.v_proj", "blk.{}.attn_v"),
    r("backbone.layers.{}.mixer.o_proj", "blk.{}.attn_output"),
    r("backbone.layers.{}.mixer.up_proj", "blk.{}.ffn_up"),
    r("backbone.layers.{}.mixer.down_proj", "blk.{}.ffn_down"),
];

const EXPERTS: &[NameRule] = &[
    r("backbone.layers.{}.mixer.gate", "blk.{}.ffn_gate_inp"),
    r("backbone.layers.{}.mixer.gate.e_score_correction", "blk.{}.exp_probs_b"),
    r("backbone.layers.{}.mixer.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(EXPERT),
    r("backbone.layers.{}.mixer.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(EXPERT),
    r("backbone.layers.{}.mixer.fc1_latent_proj", "blk.{}.ffn_latent_down"),
    r("backbone.layers.{}.mixer.fc2_latent_proj", "blk.{}.ffn_latent_up"),
    r("backbone.layers.{}.mixer.shared_experts.down_proj", "blk.{}.ffn_down_shexp"),
    r("backbone.layers.{}.mixer.shared_experts.up_proj", "blk.{}.ffn_up_shexp"),
];

const NEXT_TOKENS: &[NameRule] = &[
    r("backbone.layers.{}.enorm", "blk.{}.nextn.enorm"),
    r("backbone.layers.{}.hnorm", "blk.{}.nextn.hnorm"),
    r("backbone.layers.{}.eh_proj", "blk.{}.nextn.eh_proj"),
    r("backbone.layers.{}.shared_head.norm", "blk.{}.nextn.shared_head_norm"),
    r("backbone.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
];

/// Whether a configuration is one with experts: it says how many a token takes, or names layers of them.
fn has_experts(root: &Map<String, Value>) -> bool {
    let map = root.get("llm_config").and_then(Value::as_object).unwrap_or(root);
    let pattern = map.get("hybrid_override_pattern").and_then(Value::as_str).unwrap_or("");
    let kinds = ["layers_block_type", "layer_types"].iter().find_map(|key| map.get(*key)?.as_array());
    map.contains_key("num_experts_per_tok")
        || root.contains_key("num_experts_per_tok")
        || pattern.contains('E')
        || kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "moe"))
}

/// What a layer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    StateSpace,
    Attention,
    FeedForward,
    Other,
}

/// The kinds of all layers of the model, without those of multi-token prediction.
fn kinds(config: &Config) -> Result<Vec<Kind>> {
    let experts = config.get("num_experts_per_tok").is_some();
    let of_letter = |letter: char| match letter {
        'M' => Kind::StateSpace,
        '*' => Kind::Attention,
        'E' if experts => Kind::FeedForward,
        '-' if !experts => Kind::FeedForward,
        _ => Kind::Other,
    };
    let of_word = |word: &Value| match word.as_str() {
        Some("mamba" | "linear_attention") => Kind::StateSpace,
        Some("attention" | "full_attention") => Kind::Attention,
        Some("moe") => Kind::FeedForward,
        _ => Kind::Other,
    };
    let kinds: Vec<Kind> = match (config.str("hybrid_override_pattern"), config.get("layers_block_type")) {
        (Some(pattern), _) if !pattern.is_empty() => pattern.chars().map(of_letter).collect(),
        (_, Some(Value::Array(words))) => words.iter().map(of_word).collect(),
        _ => return Err(Error::input("config.json has no hybrid_override_pattern and no layers_block_type")),
    };
    let layers = config.layers()?;
    if kinds.len() as u64 != layers {
        return Err(Error::input(format!("config.json names the kinds of {} layers of {layers}", kinds.len())));
    }
    Ok(kinds)
}

/// The layers that are named are counted, not those that are stated.
fn counted(config: &mut Config) -> Result<()> {
    let named = config.get("layers_block_type").and_then(Value::as_array).map(Vec::len);
    let letters = config.str("hybrid_override_pattern").map(|pattern| pattern.chars().count());
    if let Some(layers) = named.or_else(|| letters.filter(|_| !config.has("num_hidden_layers"))) {
        config.set("num_hidden_layers", layers as u64);
    }
    Ok(())
}

fn next_token_layer(config: &mut Config) -> Result<()> {
    for (old, new) in [("mamba_n_groups", "n_groups"), ("mamba_d_conv", "conv_kernel")] {
        if let Some(value) = config.get(old).cloned() {
            config.set(new, value);
        }
    }
    counted(config)?;
    match config.u64("num_nextn_predict_layers").unwrap_or(0) {
        0 => Ok(()),
        1 => {
            config.set_blocks(config.layers()?.saturating_add(1));
            Ok(())
        }
        more => Err(Error::input(format!("config.json has {more} layers of multi-token prediction, 1 is known"))),
    }
}

/// Adapters call the model by another name.
fn adapter_names(name: &str) -> String {
    match name.strip_prefix("model.layers.") {
        Some(own) if own.contains(".mixer.") => format!("backbone.layers.{own}"),
        _ => name.to_owned(),
    }
}

/// The layer of multi-token prediction stands in the checkpoint as two, attention and experts.
fn next_token_names(config: &Config, name: &str) -> Option<String> {
    let Some(rest) = name.strip_prefix("mtp.layers.") else { return Some(adapter_names(name)) };
    let (half, own) = rest.split_once('.').filter(|(half, _)| ["0", "1"].contains(half))?;
    let own = match (half, own) {
        ("1", "norm.weight") => "post_attention_layernorm.weight",
        ("1", "final_layernorm.weight") => "shared_head.norm.weight",
        (_, own) => own,
    };
    Some(format!("backbone.layers.{}.{own}", config.layers().ok()?))
}

/// The reference looks for the router under the number that its half of the layer has in the checkpoint.
fn router_of_next_token(config: &Config, name: &str) -> Option<bool> {
    let layers = config.layers().ok()?;
    (block_of(name) == Some(layers) && layers != 1 && name.ends_with("ffn_gate_inp.weight")).then_some(false)
}

fn norm_a_group(config: &Config, piece: &Piece) -> Result<Rows> {
    in_groups(&piece.rows, config.need_u64(GROUPS)?)
}

const GROUPS: &[&str] = &["n_groups", "num_groups", "mamba_n_groups", "mamba_num_groups"];

/// A number for the layers of one kind, 0 for the others.
fn where_(kinds: &[Kind], kind: Kind, blocks: u64, value: u64) -> Vec<u64> {
    let mut list: Vec<u64> = kinds.iter().map(|k| if *k == kind { value } else { 0 }).collect();
    // The layer of multi-token prediction attends and has experts.
    list.resize(blocks as usize, value);
    list
}

/// The keys of all.
fn shared(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    // The width of a head comes behind, with the attention's other keys.
    let mut usual = config.clone();
    usual.remove("head_dim");
    p.with(&usual, llama)?;
    scales(p);
    if config.str("hidden_act").is_some_and(|act| act != "silu") {
        return Err(Error::input("config.json: hidden_act is not silu, the only one that is known"));
    }
    let kinds = kinds(config)?;
    p.need_u32("ssm.conv_kernel", &["conv_kernel", "d_conv", "mamba_conv_kernel", "mamba_d_conv"])?;
    p.need_u32("ssm.state_size", &["state_size", "d_state", "state_dim", "ssm_state_size", "mamba_d_state"])?;
    p.need_u32("ssm.group_count", GROUPS)?;
    let heads = config.need_u64(&["n_heads", "num_heads", "mamba_n_heads", "mamba_num_heads"])?;
    let head = config.need_u64(&["mamba_head_dim", "hidden_size", "d_model"])?;
    p.u32("ssm.inner_size", heads.saturating_mul(head))?;
    p.u32("ssm.time_step_rank", heads)?;
    let attention = config.need_u64(&["num_key_value_heads", "n_head_kv"])?;
    if let Some(dimensions) = config.u64("attn_rotary_emb").filter(|n| *n > 0) {
        p.u32("rope.dimension_count", dimensions)?;
    }
    p.i32s("attention.head_count_kv", &where_(&kinds, Kind::Attention, config.blocks()?, attention))?;
    // Only without state spaces do the others rotate.
    let rotates = !kinds.contains(&Kind::StateSpace);
    p.set("rope.scaling.finetuned", rotates);
    if !rotates {
        p.u32("context_length", 1 << 20)?;
    }
    p.need_u32("attention.key_length", &["head_dim", "attention_head_dim"])?;
    p.need_u32("attention.value_length", &["head_dim", "attention_head_dim"])
}

fn in_feed_forwards(p: &mut Params<'_>, width: u64) -> Result<()> {
    let (kinds, blocks) = (kinds(p.config())?, p.config().blocks()?);
    p.i32s("feed_forward_length", &where_(&kinds, Kind::FeedForward, blocks, width))
}

fn experts(p: &mut Params<'_>) -> Result<()> {
    let width = p.config().need_u64(&["moe_intermediate_size"])?;
    in_feed_forwards(p, width)?;
    p.need_u32("expert_used_count", &["num_experts_per_tok"])?;
    p.u32("expert_feed_forward_length", width)?;
    mixture(p)?;
    p.maybe_u32("moe_latent_size", &["moe_latent_size"])?;
    match p.config().u64("num_nextn_predict_layers") {
        Some(layers) if layers > 0 => p.u32("nextn_predict_layers", layers),
        _ => Ok(()),
    }
}

fn mixture(p: &mut Params<'_>) -> Result<()> {
    p.need_u32("expert_shared_feed_forward_length", &["moe_shared_expert_intermediate_size"])?;
    p.need_u32("expert_count", &["n_routed_experts"])?;
    p.need_u32("expert_shared_count", &["n_shared_experts"])?;
    p.need_bool("expert_weights_norm", "norm_topk_prob")?;
    p.need_f32("expert_weights_scale", &["routed_scaling_factor"])?;
    p.need_u32("expert_group_count", &["n_group"])
}

/// The blocks are described one by one.
fn by_block(config: &mut Config) -> Result<()> {
    let blocks = config.get("block_configs").and_then(Value::as_array).cloned();
    let blocks = blocks.ok_or_else(|| Error::input("config.json has no block_configs"))?;
    let kinds: Vec<Value> = blocks.iter().map(|block| block["block_type"].clone()).collect();
    config.set("num_hidden_layers", blocks.len() as u64);
    config.set("layers_block_type", kinds);
    config.remove("hybrid_override_pattern");
    Ok(())
}

fn puzzle(p: &mut Params<'_>) -> Result<()> {
    let blocks = p.config().get("block_configs").and_then(Value::as_array).cloned().unwrap_or_default();
    let of_each = |name: &str| -> Vec<u64> { blocks.iter().map(|block| block[name].as_u64().unwrap_or(0)).collect() };
    let widths = of_each("moe_intermediate_size");
    p.i32s("feed_forward_length", &widths)?;
    p.i32s("expert_feed_forward_length", &widths)?;
    p.i32s("expert_used_count", &of_each("num_experts_per_tok"))?;
    mixture(p)?;
    p.need_u32("moe_latent_size", &["moe_latent_size"])
}
