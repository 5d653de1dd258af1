//! Granite: dense, with experts, with layers that slide, with state spaces, with adapters inside.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::config::{Config, as_u64};
use crate::hf::rows::llama::{FIRST_NAMES, halves, llama, quotient, rope_freqs};
use crate::hf::{ATTENTION_ROTATED, BARE, BASE, Class, ENDS, GATED, How, NORMS, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, joined, mapped, reordered, reshaped, sliced, view, zeros};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["GraniteForCausalLM"],
        defaults: r#"{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
            "vocab_size": 32000, "intermediate_size": 11008, "hidden_size": 4096,
            "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED],
        remark: "multipliers as scales",
        ..GRANITE
    },
    Class {
        names: &["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"],
        arch: "granitemoe",
        defaults: r#"{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
            "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000, "intermediate_size": 11008,
            "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
            "hidden_size": 4096, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GRANITE_EXPERTS],
        keys: granite_moe,
        remark: "fused experts taken apart",
        ..GRANITE
    },
    Class {
        names: &["GraniteSWAForCausalLM"],
        arch: "granite_swa",
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-05, "max_position_embeddings": 8192,
            "vocab_size": 100352, "intermediate_size": 8192, "hidden_size": 2560, "num_hidden_layers": 24,
            "num_attention_heads": 20, "sliding_window": 128,
            "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": true}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED, SINKS],
        keys: granite_swa,
        remark: "layers that slide, attention sinks",
        ..GRANITE
    },
    Class {
        names: &["GraniteMoeSWAForCausalLM"],
        arch: "granite_swa",
        defaults: r#"{"num_key_value_heads": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 2048,
            "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000, "intermediate_size": 11008,
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "shared_intermediate_size": 0,
            "sliding_window": 128,
            "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION_ROTATED, NORMS, SINKS, FUSED_EXPERTS],
        keys: granite_moe_swa,
        remark: "experts with gate and up fused, layers that slide, attention sinks",
        ..GRANITE
    },
    Class {
        names: &["GraniteSwitchForCausalLM"],
        arch: "graniteswitch",
        spelling: &[SWITCH],
        unused: &["model.switch.", "switch.", "model.adapter_token_ids", "model.control_to_substitute_lut"],
        prefixes: BARE,
        prepare: without_switch,
        keys: granite_switch,
        remark: "adapters inside the model, one for each token's task",
        ..GRANITE
    },
    // State spaces in some layers or in none, with experts or without. The configuration is read as it stands.
    Class { when: |root| dense(root) && !states(root), ..HYBRID },
    Class { arch: "granitemoe", when: |root| !states(root), ..HYBRID },
    Class {
        arch: "granitehybrid",
        when: states,
        prepare: |config| {
            config.set("pad_vocab_size_multiple", 8_u64);
            without_head_dim(config)
        },
        remark: "Granite 4, Bamba; state spaces beside attention",
        ..HYBRID
    },
];

const GRANITE: Class = Class {
    arch: "granite",
    vocabulary: VocabKind::Llama,
    unused: &["encoder.", "image_", "model.layerwise_projectors", "model.spatial_projectors"],
    prepare: without_head_dim,
    keys: granite,
    generated: rope_freqs,
    rotated: FIRST_NAMES,
    ..BASE
};

const HYBRID: Class = Class {
    names: &["GraniteMoeHybridForCausalLM", "BambaForCausalLM"],
    vocabulary: VocabKind::Mamba2,
    spelling: &[ENDS, ATTENTION_ROTATED, NORMS, GATED, GRANITE_EXPERTS, BAMBA, STATE_SPACES],
    prepare: |config| {
        config.set("pad_vocab_size_multiple", 1_u64);
        without_head_dim(config)
    },
    keys: granite_hybrid,
    remark: "Granite 4 without state spaces",
    ..GRANITE
};

const GRANITE_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.block_sparse_moe.input_linear", "blk.{}.ffn_").how(How::Split(expert_halves)),
    r("model.layers.{}.block_sparse_moe.output_linear", "blk.{}.ffn_down_exps"),
    r("model.layers.{}.block_sparse_moe.router.layer", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.shared_mlp.input_linear", "blk.{}.ffn_").how(How::Split(shared_halves)),
    r("model.layers.{}.shared_mlp.output_linear", "blk.{}.ffn_down").how(How::Split(shared_down)),
];

const SINKS: &[NameRule] = &[r("model.layers.{}.self_attn.sinks", "blk.{}.attn_sinks.weight")];

const FUSED_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.block_sparse_moe.experts.gate_up_proj", "blk.{}.ffn_gate_up_exps.weight"),
    r("model.layers.{}.block_sparse_moe.experts.down_proj", "blk.{}.ffn_down_exps.weight"),
    r("model.layers.{}.block_sparse_moe.input_linear", "blk.{}.ffn_gate_up_exps"),
    r("model.layers.{}.block_sparse_moe.output_linear", "blk.{}.ffn_down_exps"),
    r("model.layers.{}.block_sparse_moe.router", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.block_sparse_moe.router.layer", "blk.{}.ffn_gate_inp"),
    r("model.layers.{}.shared_mlp.input_linear", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.shared_mlp.output_linear", "blk.{}.ffn_down_shexp"),
];

/// What Bamba calls otherwise than Granite.
const BAMBA: &[NameRule] = &[
    r("model.final_layernorm", "output_norm"),
    r("model.layers.{}.pre_ff_layernorm", "blk.{}.ffn_norm"),
    r("model.layers.{}.feed_forward.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.feed_forward.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.feed_forward.down_proj", "blk.{}.ffn_down"),
];

/// A Mamba 2 mixer inside a model of other layers.
pub(super) const STATE_SPACES: &[NameRule] = &[
    r("model.layers.{}.mamba.in_proj", "blk.{}.ssm_in"),
    r("model.layers.{}.mamba.conv1d", "blk.{}.ssm_conv1d").how(How::Change(|_, p| without_ones(p))),
    r("model.layers.{}.mamba.dt_bias", "blk.{}.ssm_dt.bias"),
    r("model.layers.{}.mamba.A_log", "blk.{}.ssm_a")
        .how(How::Change(|_, p| column(&mapped(&p.rows, |v| -crate::transform::exp(v))))),
    r("model.layers.{}.mamba.D", "blk.{}.ssm_d").how(How::Change(|_, p| column(&p.rows))),
    r("model.layers.{}.mamba.norm", "blk.{}.ssm_norm").how(How::Change(in_groups)),
    r("model.layers.{}.mamba.out_proj", "blk.{}.ssm_out"),
];

const SWITCH: &[NameRule] = &[
    ENDS[0],
    ENDS[1],
    r("lm_head", "").how(How::Drop),
    r("adapter_token_ids", "").how(How::Drop),
    r("control_to_substitute_lut", "").how(How::Drop),
    NORMS[0],
    NORMS[1],
    r("model.layers.{}.self_attn.qkv_proj.base_layer", "blk.{}.attn_qkv").how(How::Change(switch_qkv)),
    r("model.layers.{}.self_attn.qkv_proj.lora_A_slices.0", "blk.{}.attn_q.lora_a").how(DOWN),
    r("model.layers.{}.self_attn.qkv_proj.lora_A_slices.1", "blk.{}.attn_k.lora_a").how(DOWN),
    r("model.layers.{}.self_attn.qkv_proj.lora_A_slices.2", "blk.{}.attn_v.lora_a").how(DOWN),
    r("model.layers.{}.self_attn.qkv_proj.lora_B_slices.0", "blk.{}.attn_q.lora_b")
        .how(How::Change(|c, p| adapters(p, Some(c.heads()?)))),
    r("model.layers.{}.self_attn.qkv_proj.lora_B_slices.1", "blk.{}.attn_k.lora_b")
        .how(How::Change(|c, p| adapters(p, Some(c.kv_heads()?)))),
    r("model.layers.{}.self_attn.qkv_proj.lora_B_slices.2", "blk.{}.attn_v.lora_b").how(UP),
    r("model.layers.{}.self_attn.o_proj.base_layer", "blk.{}.attn_output"),
    r("model.layers.{}.self_attn.o_proj.lora_A", "blk.{}.attn_output.lora_a").how(DOWN),
    r("model.layers.{}.self_attn.o_proj.lora_B", "blk.{}.attn_output.lora_b").how(UP),
    r("model.layers.{}.shared_mlp.input_linear.base_layer", "blk.{}.ffn_").how(How::Split(switch_halves)),
    r("model.layers.{}.shared_mlp.input_linear.lora_A_slices.0", "blk.{}.ffn_gate.lora_a").how(DOWN),
    r("model.layers.{}.shared_mlp.input_linear.lora_A_slices.1", "blk.{}.ffn_up.lora_a").how(DOWN),
    r("model.layers.{}.shared_mlp.input_linear.lora_B_slices.0", "blk.{}.ffn_gate.lora_b").how(UP),
    r("model.layers.{}.shared_mlp.input_linear.lora_B_slices.1", "blk.{}.ffn_up.lora_b").how(UP),
    r("model.layers.{}.shared_mlp.output_linear.base_layer", "blk.{}.ffn_down"),
    r("model.layers.{}.shared_mlp.output_linear.lora_A", "blk.{}.ffn_down.lora_a").how(DOWN),
    r("model.layers.{}.shared_mlp.output_linear.lora_B", "blk.{}.ffn_down.lora_b").how(UP),
];

const DOWN: How = How::Change(|_, p| adapters(p, None));
const UP: How = DOWN;

/// Granite's heads are the quotient, whatever the configuration says.
fn without_head_dim(config: &mut Config) -> Result<()> {
    config.remove("head_dim");
    Ok(())
}

/// The first layer is the switch, which has no weights. The heads of the others may be stated.
fn without_switch(config: &mut Config) -> Result<()> {
    let stated = ["projection_head_dim", "head_dim"].iter().find_map(|k| config.u64(k).filter(|n| *n > 0));
    let head = match stated {
        Some(head) => head,
        None => quotient(config)?,
    };
    config.set("projection_head_dim", head);
    config.set_blocks(config.layers()?.saturating_sub(1));
    without_head_dim(config)
}

fn expert_halves(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}_exps{}", piece.to, piece.suffix);
    halves(&piece.rows, name("gate"), name("up"))
}

/// The dense feed-forward of a model without experts, else that which all experts share.
fn shared_suffix(config: &Config) -> &'static str {
    if config.u64("num_local_experts").unwrap_or(0) > 0 { "_shexp" } else { "" }
}

fn shared_halves(config: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}{}{}", piece.to, shared_suffix(config), piece.suffix);
    halves(&piece.rows, name("gate"), name("up"))
}

fn shared_down(config: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(vec![(format!("{}{}{}", piece.to, shared_suffix(config), piece.suffix), piece.rows.clone())])
}

fn switch_halves(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}{}", piece.to, piece.suffix);
    halves(&piece.rows, name("gate"), name("up"))
}

/// Queries, keys and values in one; the first two rotate neighbours in the file.
fn switch_qkv(config: &Config, piece: &Piece) -> Result<Rows> {
    let (heads, keys, head) = (config.heads()?, config.kv_heads()?, config.need_u64(&["projection_head_dim"])?);
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    let all = keys.checked_mul(2).and_then(|n| n.checked_add(heads)).and_then(|n| n.checked_mul(head));
    if all != Some(rows) || !head.is_multiple_of(2) {
        return Err(Error::input(format!(
            "its {rows} rows are not {heads} queries and {keys} keys and values of {head}"
        )));
    }
    let turned = |first: u64, heads: u64| reordered(&piece.rows, first, &[(heads, head), (head / 2, 1), (2, head / 2)]);
    let values = sliced(&piece.rows, 0, (heads + keys) * head, keys * head)?;
    joined(vec![turned(0, heads)?, turned(heads * head, keys)?, values])
}

/// Adapters [n, 1, rows, columns] with one of zeros before them, for tokens of no task. Rows of these heads are those
/// of a matrix that rotates neighbours in the file.
fn adapters(piece: &Piece, heads: Option<u64>) -> Result<Rows> {
    let &[n, 1, rows, columns] = piece.rows.shape() else {
        return Err(Error::input(format!("its shape {:?} is not that of adapters", piece.rows.shape())));
    };
    let shape = vec![n, rows, columns];
    let matrices = match heads {
        None => reshaped(&piece.rows, shape)?,
        Some(heads) => {
            let half = rows / heads / 2;
            if half * 2 * heads != rows {
                return Err(Error::input(format!("its {rows} rows are not a whole number of pairs for {heads} heads")));
            }
            let pairs = [(heads, 2 * half * columns), (half, columns), (2, half * columns), (columns, 1)];
            let axes: Vec<(u64, u64)> = std::iter::once((n, rows * columns)).chain(pairs).collect();
            view(&piece.rows, shape, 0, &axes)?
        }
    };
    joined(vec![zeros(vec![1, rows, columns], matrices.elements()), matrices])
}

/// A vector as a matrix of one column.
fn column(rows: &Rows) -> Result<Rows> {
    let count = rows.shape().iter().product();
    reshaped(rows, vec![count, 1])
}

/// A convolution over one channel has a dimension of 1 that the file leaves out.
fn without_ones(piece: &Piece) -> Result<Rows> {
    if piece.suffix != ".weight" {
        return Ok(piece.rows.clone());
    }
    reshaped(&piece.rows, piece.rows.shape().iter().copied().filter(|d| *d != 1).collect())
}

/// The norm of a state space, one row a group.
fn in_groups(config: &Config, piece: &Piece) -> Result<Rows> {
    let count: u64 = piece.rows.shape().iter().product();
    let groups = state(config, &["n_groups", "num_groups"])?.max(1);
    reshaped(&piece.rows, vec![groups, count / groups])
}

/// A number of the state spaces, under one of these names or with `mamba_` before it.
pub(super) fn state(config: &Config, names: &[&str]) -> Result<u64> {
    match maybe_state(config, names) {
        Some(value) => Ok(value),
        None => Err(Error::input(format!("config.json has no mamba_{}", names.join(" nor mamba_")))),
    }
}

/// As [`state`], where it is there.
pub(super) fn maybe_state(config: &Config, names: &[&str]) -> Option<u64> {
    let plain = names.iter().find_map(|name| config.u64(name));
    plain.or_else(|| names.iter().find_map(|name| config.u64(&format!("mamba_{name}"))))
}

/// The layers with attention, by kind, by list or by period.
fn attention_layers(root: &Map<String, Value>) -> Option<Vec<u64>> {
    let get = |key: &str| root.get(key).filter(|v| !v.is_null());
    let list = |key: &str| get(key).and_then(Value::as_array).filter(|l| !l.is_empty());
    if let Some(types) = list("layer_types") {
        return Some(
            (0_u64..)
                .zip(types)
                .filter(|(_, t)| ["attention", "full_attention"].iter().any(|a| t == a))
                .map(|(i, _)| i)
                .collect(),
        );
    }
    if let Some(layers) = list("attn_layer_indices") {
        return layers.iter().map(as_u64).collect();
    }
    let layers = get("num_hidden_layers").and_then(as_u64).filter(|n| *n <= 4096)?;
    let period = get("attn_layer_period").and_then(as_u64).filter(|n| *n > 0)?;
    let offset = get("attn_layer_offset").and_then(as_u64)?;
    Some((0..layers).filter(|i| i % period == offset).collect())
}

/// Whether some layers are state spaces.
fn states(root: &Map<String, Value>) -> bool {
    let layers = root.get("num_hidden_layers").and_then(as_u64);
    let attention = attention_layers(root).unwrap_or_default();
    layers.is_none_or(|n| n > 4096 || (0..n).any(|i| !attention.contains(&i)))
}

/// Whether there are no experts.
fn dense(root: &Map<String, Value>) -> bool {
    let used = ["num_experts_per_tok", "num_experts_per_token"].iter().find_map(|k| root.get(*k));
    used.and_then(as_u64).unwrap_or(0) == 0
}

fn granite(p: &mut Params<'_>) -> Result<()> {
    llama(p)?;
    scales(p);
    deepstack(p)
}

/// The multipliers, where they are there.
pub(super) fn scales(p: &mut Params<'_>) {
    for (key, name) in [
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ] {
        if let Some(scale) = p.config().f64(name).filter(|s| *s != 0.0) {
            p.f32(key, scale);
        }
    }
}

/// Which features of the images come in at which layer, for the text model of Granite 4 Vision.
fn deepstack(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let list = |key: &str| config.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (map, spatial) = (list("deepstack_layer_map"), list("spatial_target_layers"));
    if map.is_empty() && spatial.is_empty() {
        return Ok(());
    }
    let blocks = config.blocks()?;
    let layers = config.layers()? as i64;
    let fault = || Error::input("config.json: deepstack_layer_map and spatial_target_layers do not name layers");
    let pairs: Option<Vec<(i64, i64)>> =
        map.iter().map(|pair| Some((pair.get(0)?.as_i64()?, pair.get(1)?.as_i64()?))).collect();
    let mut pairs = pairs.ok_or_else(fault)?;
    pairs.sort_unstable();
    let from_end = |n: i64| if n < 0 { n + layers } else { n };
    let mut targets: Vec<i64> = pairs.iter().map(|&(_, layer)| from_end(layer)).collect();
    for layer in spatial {
        targets.push(layer.as_i64().ok_or_else(fault)?);
    }
    targets.sort_unstable();
    let mut mapping = vec![-1_i64; blocks as usize];
    // The first one is what the embedding stands for.
    for (i, layer) in (0_i64..).zip(targets).skip(1) {
        let place = usize::try_from(layer).ok().and_then(|l| mapping.get_mut(l));
        *place.ok_or_else(fault)? = i;
    }
    p.i32s("deepstack_mapping", &mapping)
}

fn granite_moe(p: &mut Params<'_>) -> Result<()> {
    granite(p)?;
    shared_length(p)
}

fn shared_length(p: &mut Params<'_>) -> Result<()> {
    match p.config().u64("shared_intermediate_size") {
        Some(length) if length > 0 => p.u32("expert_shared_feed_forward_length", length),
        _ => Ok(()),
    }
}

fn granite_swa(p: &mut Params<'_>) -> Result<()> {
    granite(p)?;
    let config = p.config();
    match config.u64("sliding_window") {
        Some(window) => p.u32("attention.sliding_window", window)?,
        None => p.u32("attention.sliding_window", 128)?,
    }
    let listed = p.sliding_layers().filter(|l| !l.is_empty());
    let usual = (0..config.blocks()?).map(|i| i % 4 != 0).collect();
    p.sliding_pattern(&listed.unwrap_or(usual));
    if let Some(layers) = config.get("no_rope_layers").and_then(Value::as_array) {
        let rotates: Vec<bool> = layers.iter().map(|l| l.as_bool().unwrap_or(l.as_f64() != Some(0.0))).collect();
        p.bools("attention.rope_pattern", &rotates);
    }
    Ok(())
}

fn granite_moe_swa(p: &mut Params<'_>) -> Result<()> {
    granite_swa(p)?;
    shared_length(p)
}

fn granite_switch(p: &mut Params<'_>) -> Result<()> {
    granite_moe(p)?;
    let config = p.config();
    if config.u64("num_local_experts").unwrap_or(0) == 0 {
        // The configuration may carry a number of experts that nothing uses.
        p.u32("expert_used_count", 0)?;
    }
    p.need_u32("adapters.count", &["num_adapters"])?;
    p.need_u32("adapters.lora_rank", &["max_lora_rank"])?;
    p.need_i32s("adapters.token_ids_activate", "adapter_token_ids")?;
    p.need_i32s("adapters.token_ids_substitute", "adapter_substitute_token_ids")?;
    p.f32("adapters.router_gain", config.f64("control_token_gain").unwrap_or(15.0));
    Ok(())
}

fn granite_hybrid(p: &mut Params<'_>) -> Result<()> {
    granite_moe(p)?;
    let config = p.config();
    let Value::Object(root) = config.to_value() else { return Ok(()) };
    let attention = attention_layers(&root).ok_or_else(|| {
        Error::input("config.json has no layer_types, attn_layer_indices nor attn_layer_period with attn_layer_offset")
    })?;
    let width = config.need_u64(&["mamba_head_dim", "hidden_size", "d_model"])?;
    let inner = state(config, &["expand", "num_heads"])?.saturating_mul(width);
    p.u32("ssm.conv_kernel", state(config, &["conv_kernel", "d_conv"])?)?;
    p.u32("ssm.state_size", state(config, &["state_size", "d_state", "state_dim", "ssm_state_size"])?)?;
    p.u32("ssm.group_count", state(config, &["n_groups", "num_groups"])?)?;
    p.u32("ssm.inner_size", inner)?;
    p.u32("ssm.time_step_rank", state(config, &["n_heads", "num_heads"])?)?;
    let heads = config.need_u64(&["num_key_value_heads", "n_head_kv"])?;
    let heads: Vec<i64> =
        (0..config.blocks()?).map(|i| if attention.contains(&i) { heads as i64 } else { 0 }).collect();
    if let Some(dimensions) = config.u64("attn_rotary_emb").filter(|n| *n > 0) {
        p.u32("rope.dimension_count", dimensions)?;
    }
    p.i32s("attention.head_count_kv", &heads)?;
    let rotates = config.origin() == "BambaForCausalLM" || !states(&root);
    p.set("rope.scaling.finetuned", rotates);
    if !rotates {
        // State spaces have no longest context.
        p.u32("context_length", 1 << 20)?;
    }
    let activation = config.str("hidden_act").unwrap_or("silu");
    let head = maybe_state(config, &["d_head"]).filter(|n| *n > 0).unwrap_or(64);
    if activation != "silu" || !inner.is_multiple_of(head) {
        return Err(Error::input(format!(
            "config.json: state spaces with {activation} and heads of {head} in {inner} dimensions are not known"
        )));
    }
    Ok(())
}
