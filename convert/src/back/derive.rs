//! Fields of configurations whose values follow from the keys of a file by a rule of the class.

use gguf::arch::MAX_LAYERS;
use serde_json::{Map, Value as Json, json};

use super::keys::{Keys, Numbers, float};
use crate::config::Config;
use crate::hf::{GAIN, NGRAM_CONSTANTS, NGRAM_WIDTH, PREDICTION_BLOCK};
use crate::names;
use crate::transform;

/// The fields of a configuration.
type Root = Map<String, Json>;

/// What queries of Gemma are divided by: the dimensions of a head, in the largest models the width by the heads.
pub(super) fn query_scalar(keys: &Keys<'_>, largest: u64) -> Option<u64> {
    if keys.u64("block_count") == Some(largest) {
        return keys.u64("embedding_length")?.checked_div(keys.u64("attention.head_count")?);
    }
    keys.head()
}

/// Layers that towers feed directly: as many as the file says, by any numbers.
pub(crate) fn deep_layers(keys: &Keys<'_>, root: &mut Map<String, Json>) {
    let deep: Vec<u64> = (0..keys.u64("n_deepstack_layers").unwrap_or(0).min(MAX_LAYERS as u64)).collect();
    root.insert("vision_config".into(), json!({"deepstack_visual_indexes": deep}));
}

/// Files say no window that their reader would not apply.
pub(super) fn no_window(_: &Keys<'_>, root: &mut Root) {
    root.insert("sliding_window".into(), Json::Null);
}

pub(super) fn gemma2(keys: &Keys<'_>, root: &mut Root) {
    root.insert("query_pre_attn_scalar".into(), query_scalar(keys, 46).into());
}

pub(super) fn gemma3(keys: &Keys<'_>, root: &mut Root) {
    root.insert("query_pre_attn_scalar".into(), query_scalar(keys, 62).into());
    root.insert("use_bidirectional_attention".into(), (keys.arch() == "gemma-embedding").into());
}

/// Phi's file says another width of the feed-forward than it has.
pub(super) fn feed_width(keys: &Keys<'_>, root: &mut Root) {
    set(root, &[("intermediate_size", keys.first_dimension("blk.0.ffn_up.weight"))]);
}

/// Mamba's files have no feed-forward.
pub(super) fn inner_width(keys: &Keys<'_>, root: &mut Root) {
    root.insert("intermediate_size".into(), keys.u64("ssm.inner_size").into());
}

/// The parts of a head of latent attention, of which the keys say sums.
pub(super) fn latent(keys: &Keys<'_>, root: &mut Root) {
    let rope = keys.u64("rope.dimension_count");
    let whole = keys.u64("attention.key_length_mla").or(keys.u64("attention.key_length"));
    let plain = whole.zip(rope).and_then(|(whole, rope)| whole.checked_sub(rope));
    let value = keys.u64("attention.value_length_mla").or(keys.u64("attention.value_length"));
    for (field, value) in [("qk_rope_head_dim", rope), ("qk_nope_head_dim", plain), ("v_head_dim", value)] {
        root.insert(field.into(), value.into());
    }
    if root.contains_key("head_dim") {
        root.insert("head_dim".into(), rope.into());
    }
    let scale = keys.f32("rope.scaling.yarn_log_multiplier").map(|by| by * 10.0);
    // Published models have the same for both.
    in_rope(root, "mscale_all_dim", scale);
    in_rope(root, "mscale", scale);
    // What the keys call heads is the one that all share.
    root.insert("num_key_value_heads".into(), keys.u64("attention.head_count").into());
}

/// Sets a number of the scaling of rotation.
pub(super) fn in_rope(root: &mut Root, field: &str, value: Option<f32>) {
    if let (Some(value), Some(scaling)) = (value, root.get_mut("rope_scaling").and_then(Json::as_object_mut)) {
        scaling.insert(field.to_owned(), float(value));
    }
}

pub(super) fn ministral(keys: &Keys<'_>, root: &mut Root) {
    no_window(keys, root);
    let by = keys.f32("rope.scaling.yarn_log_multiplier");
    in_rope(root, "mscale_all_dim", by);
    // The class divides by the scale of another part, which published models have equal.
    in_rope(root, "mscale", by);
    in_rope(root, "llama_4_scaling_beta", keys.f32("attention.temperature_scale"));
}

/// The embedding is always scaled.
pub(super) fn afmoe(_: &Keys<'_>, root: &mut Root) {
    root.insert("mup_enabled".into(), true.into());
}

pub(super) fn gpt_oss(_: &Keys<'_>, root: &mut Root) {
    // All published models leave it so, and so does the reader of files.
    if let Some(scaling) = root.get_mut("rope_scaling").and_then(Json::as_object_mut) {
        scaling.insert("truncate".into(), false.into());
    }
}

/// Which of two forms the feed-forward has.
pub(super) fn mt5(keys: &Keys<'_>, root: &mut Root) {
    let gated = keys.has_tensor("ffn_gate.weight");
    root.insert("feed_forward_proj".into(), if gated { "gated-gelu" } else { "relu" }.into());
}

/// The first T5 scales what enters the head and has no gates; version 1.1 has gates and does not scale.
pub(super) fn t5(keys: &Keys<'_>, root: &mut Root) {
    mt5(keys, root);
    root.insert("scale_decoder_outputs".into(), (!keys.has_tensor("ffn_gate.weight")).into());
}

fn set(root: &mut Root, fields: &[(&str, Option<u64>)]) {
    for (field, value) in fields {
        if let Some(value) = value {
            root.insert((*field).to_owned(), (*value).into());
        }
    }
}

/// The kind of each layer, by a number of it.
fn kinds(numbers: &[u64], kind: impl Fn(u64) -> &'static str) -> Json {
    numbers.iter().map(|n| kind(*n)).collect()
}

/// The decimal of fewest digits of which `forth` makes this number, of the first that `back` gives.
fn decimal(target: f32, back: f64, forth: impl Fn(f64) -> f32) -> Json {
    let tries = (1..17).filter_map(|digits| format!("{back:.digits$e}").parse::<f64>().ok());
    let found = tries.into_iter().find(|number| forth(*number) == target);
    json!(found.unwrap_or(back))
}

/// Heads of keys and values, and which layers attend: those that have such heads.
fn hybrid(keys: &Keys<'_>, root: &mut Root, attends: &'static str, other: &'static str) {
    if let Some(heads) = keys.list("attention.head_count_kv") {
        root.insert("num_key_value_heads".into(), heads.iter().max().copied().into());
        root.insert("layer_types".into(), kinds(&heads, |n| if n > 0 { attends } else { other }));
    }
}

pub(super) fn lfm2(keys: &Keys<'_>, root: &mut Root) {
    hybrid(keys, root, "full_attention", "conv");
    // The width that the file says is the adjusted one.
    if root.contains_key("block_auto_adjust_ff_dim") || !root.contains_key("moe_intermediate_size") {
        root.insert("block_auto_adjust_ff_dim".into(), false.into());
    } else {
        root.insert("use_expert_bias".into(), keys.has_tensor("exp_probs_b.bias").into());
    }
}

pub(super) fn jamba(keys: &Keys<'_>, root: &mut Root) {
    let Some(heads) = keys.list("attention.head_count_kv") else { return };
    root.insert("num_key_value_heads".into(), heads.iter().max().copied().into());
    let layers = heads.len() as u64;
    let experts = |layer: &u64| keys.shape(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some();
    let (attends, experts): (Vec<u64>, Vec<u64>) =
        ((0..layers).filter(|layer| heads[*layer as usize] > 0).collect(), (0..layers).filter(experts).collect());
    for (beginning, own) in [("attn", attends), ("expert", experts)] {
        let (first, second) = (own.first().copied(), own.get(1).copied());
        let period = first.zip(second).map_or(layers, |(a, b)| b - a);
        root.insert(format!("{beginning}_layer_offset"), first.unwrap_or(0).into());
        root.insert(format!("{beginning}_layer_period"), period.max(1).into());
    }
    set(root, &[("mamba_expand", quotient(keys, "ssm.inner_size", "embedding_length"))]);
}

fn quotient(keys: &Keys<'_>, a: &str, b: &str) -> Option<u64> {
    keys.u64(a)?.checked_div(keys.u64(b)?)
}

pub(super) fn granite_hybrid(keys: &Keys<'_>, root: &mut Root) {
    hybrid(keys, root, "attention", "mamba");
    set(
        root,
        &[
            ("mamba_n_heads", keys.u64("ssm.time_step_rank")),
            ("mamba_d_head", quotient(keys, "ssm.inner_size", "ssm.time_step_rank")),
            ("mamba_expand", quotient(keys, "ssm.inner_size", "embedding_length")),
        ],
    );
    let rotates = keys.flag("rope.scaling.finetuned") == Some(true);
    root.insert("position_embedding_type".into(), if rotates { "rope" } else { "nope" }.into());
}

pub(super) fn bamba(keys: &Keys<'_>, root: &mut Root) {
    granite_hybrid(keys, root);
    root.shift_remove("layer_types");
    root.shift_remove("position_embedding_type");
    let heads = keys.list("attention.head_count_kv").unwrap_or_default();
    let attend = (0_u64..).zip(heads).filter(|(_, heads)| *heads > 0);
    root.insert("attn_layer_indices".into(), attend.map(|(layer, _)| layer).collect());
    set(root, &[("attn_rotary_emb", keys.u64("rope.dimension_count"))]);
}

pub(super) fn linear_attention(keys: &Keys<'_>, root: &mut Root) {
    set(
        root,
        &[
            ("linear_key_head_dim", keys.u64("ssm.state_size")),
            ("linear_num_key_heads", keys.u64("ssm.group_count")),
            ("linear_num_value_heads", keys.u64("ssm.time_step_rank")),
            ("linear_value_head_dim", quotient(keys, "ssm.inner_size", "ssm.time_step_rank")),
        ],
    );
    if let Some(recurrent) = keys.list("attention.recurrent_layers") {
        let further = keys.u64("nextn_predict_layers").unwrap_or(0) as usize;
        let own = &recurrent[..recurrent.len().saturating_sub(further)];
        let kind = |recurrent| if recurrent > 0 { "linear_attention" } else { "full_attention" };
        root.insert("layer_types".into(), kinds(own, kind));
    }
}

pub(super) fn mamba2(keys: &Keys<'_>, root: &mut Root) {
    set(
        root,
        &[
            ("num_heads", keys.u64("ssm.time_step_rank")),
            ("head_dim", quotient(keys, "ssm.inner_size", "ssm.time_step_rank")),
            ("expand", quotient(keys, "ssm.inner_size", "embedding_length")),
        ],
    );
}

pub(super) fn nemotron_h(keys: &Keys<'_>, root: &mut Root) {
    let (Some(heads), Some(widths)) = (keys.list("attention.head_count_kv"), keys.list("feed_forward_length")) else {
        return;
    };
    let layer = |(i, (heads, width)): (usize, (&u64, &u64))| match (heads, width) {
        (0, 0) => 'M',
        (0, _) if keys.shape(&format!("blk.{i}.ffn_gate_inp.weight")).is_some() => 'E',
        (0, _) => '-',
        _ => '*',
    };
    let pattern: String = heads.iter().zip(&widths).enumerate().map(layer).collect();
    let dense = heads.iter().zip(&widths).enumerate().filter(|one| layer((one.0, one.1)) == '-');
    let dense = dense.map(|(_, (_, width))| *width).max();
    root.insert("hybrid_override_pattern".into(), pattern.into());
    root.shift_remove("intermediate_size");
    set(
        root,
        &[
            ("num_hidden_layers", Some(heads.len() as u64)),
            ("num_key_value_heads", heads.iter().max().copied()),
            ("intermediate_size", dense),
            ("mamba_num_heads", keys.u64("ssm.time_step_rank")),
            ("mamba_head_dim", quotient(keys, "ssm.inner_size", "ssm.time_step_rank")),
            ("expand", quotient(keys, "ssm.inner_size", "embedding_length")),
        ],
    );
}

pub(super) fn cohere_moe(keys: &Keys<'_>, root: &mut Root) {
    set(
        root,
        &[
            ("intermediate_size", keys.u64("expert_feed_forward_length")),
            ("prefix_dense_intermediate_size", keys.u64("feed_forward_length")),
        ],
    );
    dense_then_experts(keys, root);
}

/// The kinds of feed-forwards: so many dense ones, then experts.
fn dense_then_experts(keys: &Keys<'_>, root: &mut Root) {
    let layers = root.get("num_hidden_layers").and_then(Json::as_u64);
    let (Some(layers), Some(dense)) = (layers, keys.u64("leading_dense_block_count")) else { return };
    if layers <= 1 << 16 {
        let kind = |layer| if layer < dense { "dense" } else { "sparse" };
        root.insert("mlp_layer_types".into(), (0..layers).map(kind).collect());
    }
}

/// The projection behind attention has a switch of its own.
pub(super) fn seed_oss(keys: &Keys<'_>, root: &mut Root) {
    root.insert("attention_bias".into(), keys.has_tensor("attn_q.bias").into());
    root.insert("attention_out_bias".into(), keys.has_tensor("attn_output.bias").into());
}

/// What may differ by layer is a list.
pub(super) fn hunyuan_moe(keys: &Keys<'_>, root: &mut Root) {
    let layers = keys.u64("block_count").unwrap_or(0).min(MAX_LAYERS as u64) as usize;
    for (field, key) in [
        ("moe_intermediate_size", "expert_feed_forward_length"),
        ("moe_topk", "expert_used_count"),
        ("num_shared_expert", "expert_shared_count"),
    ] {
        root.insert(field.into(), keys.u64(key).map_or(Json::Null, |number| json!(vec![number; layers])));
    }
}

pub(super) fn minimax_m3(keys: &Keys<'_>, root: &mut Root) {
    let (layers, dense) = (keys.u64("block_count").unwrap_or(0), keys.u64("leading_dense_block_count").unwrap_or(0));
    if layers <= MAX_LAYERS as u64 {
        root.insert("moe_layer_freq".into(), (0..layers).map(|layer| u64::from(layer >= dense)).collect());
    }
    let index = |key: &str| keys.u64(&format!("attention.indexer.{key}"));
    let blocks = layers.min(MAX_LAYERS as u64);
    let sparse = |layer| u64::from(keys.shape(&format!("blk.{layer}.indexer.q_proj.weight")).is_some());
    let sparse: Vec<u64> = (0..blocks).map(sparse).collect();
    root.insert(
        "sparse_attention_config".into(),
        json!({"sparse_num_index_heads": index("head_count"), "sparse_index_dim": index("key_length"),
            "sparse_topk_blocks": index("top_k"), "sparse_block_size": index("block_size"),
            "sparse_local_block": index("local_blocks"), "sparse_attention_freq": sparse}),
    );
    // One of the experts that all tokens share.
    let shared = keys.first_dimension(&format!("blk.{dense}.ffn_up_shexp.weight"));
    let shared = shared.zip(keys.u64("expert_shared_count")).and_then(|(width, count)| width.checked_div(count));
    set(
        root,
        &[
            ("dense_intermediate_size", keys.first_dimension("blk.0.ffn_up.weight")),
            ("shared_intermediate_size", shared),
        ],
    );
}

/// The token that ends texts has a field of its own.
pub(super) fn hunyuan(keys: &Keys<'_>, root: &mut Root) {
    set(root, &[("eod_token_id", keys.token("eos"))]);
}

pub(super) fn exaone(keys: &Keys<'_>, root: &mut Root) {
    set(root, &[("num_layers", keys.u64("block_count"))]);
    root.insert("activation_function".into(), "silu".into());
    let epsilon = keys.f32("attention.layer_norm_epsilon").or(keys.f32("attention.layer_norm_rms_epsilon"));
    root.insert("layer_norm_epsilon".into(), epsilon.map_or(Json::Null, float));
}

pub(super) fn chatglm(keys: &Keys<'_>, root: &mut Root) {
    let size = root.get("vocab_size").and_then(Json::as_u64);
    set(
        root,
        &[
            ("num_layers", keys.u64("block_count")),
            ("kv_channels", keys.head()),
            ("padded_vocab_size", size),
            ("multi_query_group_num", keys.u64("attention.head_count_kv")),
        ],
    );
    root.insert("multi_query_attention".into(), true.into());
    root.insert("add_qkv_bias".into(), keys.has_tensor("attn_qkv.bias").into());
    let ratio = keys.f32("rope.freq_base").map(|base| f64::from(base) / 10_000.0);
    root.insert("rope_ratio".into(), ratio.map_or(json!(1), |ratio| json!(ratio)));
    root.shift_remove("rope_theta");
}

pub(super) fn minicpm(keys: &Keys<'_>, root: &mut Root) {
    let (layers, width) =
        (keys.u64("block_count").unwrap_or(1) as f64, keys.u64("embedding_length").unwrap_or(0) as f64);
    if let Some(scale) = keys.f32("residual_scale") {
        let forth = |depth: f64| (depth / layers.powf(0.5)) as f32;
        root.insert("scale_depth".into(), decimal(scale, f64::from(scale) * layers.powf(0.5), forth));
    }
    if let Some(scale) = keys.f32("logit_scale").filter(|scale| *scale != 0.0) {
        set(root, &[("dim_model_base", Some((width / f64::from(scale)).round() as u64))]);
    }
}

/// The parts of a head where the keys say its whole.
pub(super) fn parts_of_head(keys: &Keys<'_>, root: &mut Root) {
    latent(keys, root);
    set(root, &[("num_key_value_heads", keys.u64("attention.head_count_kv"))]);
}

pub(super) fn kimi(keys: &Keys<'_>, root: &mut Root) {
    latent(keys, root);
    let Some(heads) = keys.list("attention.head_count_kv") else { return };
    let of =
        |attends: bool| -> Json { (1..).zip(&heads).filter(|(_, n)| (**n > 0) == attends).map(|(i, _)| i).collect() };
    let (head, kernel) = (keys.u64("kda.head_dim"), keys.u64("ssm.conv_kernel"));
    let count = keys.u64("attention.head_count");
    root.insert(
        "linear_attn_config".into(),
        json!({"full_attn_layers": of(true), "kda_layers": of(false), "head_dim": head, "num_heads": count,
            "short_conv_kernel_size": kernel}),
    );
    let kind = |n| if n > 0 { "full_attention" } else { "linear_attention" };
    root.insert("layer_types".into(), kinds(&heads, kind));
    set(root, &[("linear_head_dim", head), ("linear_num_heads", count), ("linear_conv_kernel_dim", kernel)]);
    dense_then_experts(keys, root);
}

pub(super) fn gemma3n(keys: &Keys<'_>, root: &mut Root) {
    if let Some(scales) = keys.floats("activation_sparsity_scale") {
        // The quantile of all published models; another is found out when the keys are compared.
        let part = |scale: &f32| if scale.is_finite() { 0.95 } else { 0.0 };
        root.insert("activation_sparsity_pattern".into(), scales.iter().map(part).collect());
    }
    set(
        root,
        &[
            ("laurel_rank", keys.first_dimension("blk.0.laurel_l.weight")),
            ("vocab_size_per_layer_input", keys.first_dimension("per_layer_token_embd.weight")),
        ],
    );
}

pub(super) fn dbrx(keys: &Keys<'_>, root: &mut Root) {
    let number = |key: &str| keys.f32(key).map_or(Json::Null, float);
    root.insert(
        "attn_config".into(),
        json!({"clip_qkv": number("attention.clamp_kqv"), "kv_n_heads": keys.u64("attention.head_count_kv"),
            "rope_theta": number("rope.freq_base")}),
    );
    root.insert(
        "ffn_config".into(),
        json!({"ffn_hidden_size": keys.u64("feed_forward_length"), "hidden_size": keys.u64("embedding_length"),
            "moe_num_experts": keys.u64("expert_count"), "moe_top_k": keys.u64("expert_used_count")}),
    );
}

pub(super) fn sparse_attention(keys: &Keys<'_>, root: &mut Root) {
    latent(keys, root);
    if let Some(whole) = keys.list("attention.indexer.types") {
        root.insert("indexer_types".into(), kinds(&whole, |whole| if whole > 0 { "full" } else { "shared" }));
    }
    dense_then_experts(keys, root);
}

pub(super) fn maple(_: &Keys<'_>, root: &mut Root) {
    root.insert("hidden_act".into(), "silu".into());
    root.insert("nope_on_global_attention".into(), true.into());
}

/// The parameters of rotation, those of layers with full attention and those of layers that slide.
fn rope_by_kind(keys: &Keys<'_>, root: &mut Root, kind: &str) {
    let of = |base: Option<f32>, part: Option<u64>, kind: &str| {
        let head = keys.head().unwrap_or(1) as f64;
        let mut of = Root::new();
        of.insert("rope_type".into(), kind.into());
        of.extend(base.map(|base| ("rope_theta".to_owned(), float(base))));
        of.extend(part.map(|part| ("partial_rotary_factor".to_owned(), json!(part as f64 / head))));
        Json::Object(of)
    };
    let full = of(keys.f32("rope.freq_base"), keys.u64("rope.dimension_count"), kind);
    let mut rope = json!({ "full_attention": full });
    // A file that says nothing of layers that slide has none.
    let (base, part) = (keys.f32("rope.freq_base_swa"), keys.u64("rope.dimension_count_swa"));
    if base.is_some() || part.is_some() {
        rope["sliding_attention"] = of(base, part, "default");
    }
    root.insert("rope_parameters".into(), rope);
    for field in ["rope_theta", "rope_local_base_freq", "rope_scaling", "partial_rotary_factor"] {
        root.shift_remove(field);
    }
}

/// Layers with full attention may be stretched, those that slide are not.
pub(super) fn mellum(keys: &Keys<'_>, root: &mut Root) {
    let scaling = root.get("rope_scaling").and_then(Json::as_object).cloned();
    rope_by_kind(keys, root, "default");
    if let (Some(scaling), Some(full)) = (scaling, root["rope_parameters"]["full_attention"].as_object_mut()) {
        full.extend(scaling);
        full.shift_remove("partial_rotary_factor");
    }
    if keys.key("attention.sliding_window").is_some() && keys.key("rope.freq_base_swa").is_none() {
        let base = keys.f32("rope.freq_base").map(float);
        root["rope_parameters"]["sliding_attention"] = json!({"rope_type": "default", "rope_theta": base});
    }
}

pub(super) fn spark(keys: &Keys<'_>, root: &mut Root) {
    rope_by_kind(keys, root, "default");
    root.insert("hidden_act".into(), "gelu".into());
    root.insert("gate_attn_act_mode".into(), "sigmoid".into());
    root.insert("headwise_attn_output_gate".into(), true.into());
}

pub(super) fn laguna(keys: &Keys<'_>, root: &mut Root) {
    rope_by_kind(keys, root, "default");
    if let Some(heads) = keys.list("attention.head_count") {
        root.insert("num_attention_heads".into(), heads.first().copied().into());
        // Every fourth layer sees everything, which the reader of files does not ask for.
        let kind = |layer| if layer % 4 == 0 { "full_attention" } else { "sliding_attention" };
        root.insert("layer_types".into(), (0..heads.len()).map(kind).collect());
        root.insert("num_attention_heads_per_layer".into(), heads.into());
    }
    dense_then_experts(keys, root);
}

pub(super) fn gemma4(keys: &Keys<'_>, root: &mut Root) {
    let (Some(full), Some(sliding)) = (keys.u64("attention.key_length"), keys.u64("attention.key_length_swa")) else {
        return;
    };
    let pattern = keys.list("attention.sliding_window_pattern").unwrap_or_default();
    let heads = keys.list("attention.head_count_kv");
    let most = heads.as_ref().and_then(|heads| heads.iter().max().copied()).or(keys.u64("attention.head_count_kv"));
    let own = |layer: usize| {
        let mut own = Map::new();
        own.insert("head_dim".into(), full.into());
        if let Some(few) = heads.as_ref().and_then(|heads| heads.get(layer)).filter(|few| Some(**few) != most) {
            own.insert("num_key_value_heads".into(), (*few).into());
        }
        own
    };
    let layers = pattern.iter().enumerate().filter(|(_, slides)| **slides == 0);
    let layers: Root = layers.map(|(layer, _)| (layer.to_string(), own(layer).into())).collect();
    root.insert("per_layer_config".into(), layers.into());
    set(root, &[("head_dim", Some(sliding)), ("num_key_value_heads", most)]);
    let theta = |key: &str| keys.f32(key).map(float);
    root.insert(
        "rope_parameters".into(),
        json!({"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25,
                "rope_theta": theta("rope.freq_base")},
            "sliding_attention": {"rope_type": "default", "rope_theta": theta("rope.freq_base_swa")}}),
    );
    for field in ["rope_theta", "rope_local_base_freq", "rope_scaling", "partial_rotary_factor"] {
        root.shift_remove(field);
    }
    let experts = keys.u64("expert_count").is_some_and(|n| n > 0);
    root.insert("enable_moe_block".into(), experts.into());
    if let Some(widths) = keys.list("feed_forward_length") {
        let least = widths.iter().min().copied();
        root.insert("use_double_wide_mlp".into(), (widths.iter().max().copied() != least).into());
        root.insert("intermediate_size".into(), least.into());
    } else {
        root.insert("use_double_wide_mlp".into(), false.into());
    }
    // Values of layers with full attention are their keys where there are none.
    let full = pattern.iter().position(|slides| *slides == 0);
    let same = full.is_some_and(|layer| keys.shape(&format!("blk.{layer}.attn_v.weight")).is_none());
    root.insert("attention_k_eq_v".into(), same.into());
    set(root, &[("vocab_size_per_layer_input", keys.first_dimension("per_layer_token_embd.weight"))]);
    if keys.key("final_logit_softcapping").is_none() {
        root.insert("final_logit_softcapping".into(), Json::Null);
    }
}

/// Positions begin behind that of padding, and no file has the rows before.
pub(super) fn roberta(keys: &Keys<'_>, root: &mut Root) {
    let first = root.get("pad_token_id").and_then(Json::as_u64).unwrap_or(1).saturating_add(1);
    let count = keys.u64("context_length").and_then(|count| count.checked_add(first));
    set(root, &[("max_position_embeddings", count), ("type_vocab_size", token_types(keys))]);
    root.insert("pad_token_id".into(), (first - 1).into());
}

/// The kinds of segments.
fn token_types(keys: &Keys<'_>) -> Option<u64> {
    keys.first_dimension("token_types.weight")
}

pub(super) fn bert(keys: &Keys<'_>, root: &mut Root) {
    set(root, &[("type_vocab_size", token_types(keys))]);
}

/// Positions begin behind that of padding in the model's own numbering, whatever the vocabulary calls padding.
pub(super) fn camembert(keys: &Keys<'_>, root: &mut Root) {
    bert(keys, root);
    root.insert("pad_token_id".into(), 1.into());
}

pub(super) fn jina_bert(keys: &Keys<'_>, root: &mut Root) {
    bert(keys, root);
    root.insert("position_embedding_type".into(), "alibi".into());
    root.insert("feed_forward_type".into(), "geglu".into());
    root.insert("emb_pooler".into(), "mean".into());
}

/// What the published models have; files say it by what they leave out.
pub(super) fn nomic(keys: &Keys<'_>, root: &mut Root) {
    bert(keys, root);
    let experts = keys.u64("moe_every_n_layers").is_some_and(|n| n > 0);
    // Trained for fewer tokens than it takes: both numbers of both models.
    let positions = if keys.u64("context_length") == Some(2048) { 8192 } else { 2048 };
    set(root, &[("n_positions", Some(positions)), ("max_trained_positions", Some(2048))]);
    for (field, value) in [
        ("activation_function", Json::from(if experts { "gelu" } else { "swiglu" })),
        ("causal", false.into()),
        ("prenorm", false.into()),
        ("rotary_emb_fraction", json!(1.0)),
        ("rotary_emb_interleaved", false.into()),
        ("rotary_emb_scale_base", Json::Null),
    ] {
        root.insert(field.into(), value);
    }
    if let Some(base) = keys.f32("rope.freq_base") {
        root.insert("rotary_emb_base".into(), float(base));
    }
    if experts {
        root.insert("moe_normalize_expert_weights".into(), false.into());
    }
    root.shift_remove("rope_theta");
}

pub(super) fn modern_bert(keys: &Keys<'_>, root: &mut Root) {
    rope_by_kind(keys, root, "default");
    set(root, &[("global_attn_every_n_layers", keys.u64("attention.sliding_window_pattern"))]);
    let pooling = if keys.u64("classifier.pooling_type") == Some(1) { "mean" } else { "cls" };
    root.insert("classifier_pooling".into(), pooling.into());
    if let Some(epsilon) = keys.f32("attention.layer_norm_epsilon") {
        root.insert("norm_eps".into(), float(epsilon));
        root.insert("layer_norm_eps".into(), float(epsilon));
    }
}

/// The gate and what it gates share what the configuration states.
pub(super) fn neo_bert(keys: &Keys<'_>, root: &mut Root) {
    let width = keys.u64("feed_forward_length").and_then(|width| width.checked_mul(3));
    set(
        root,
        &[("intermediate_size", width.map(|width| width.div_ceil(2))), ("max_length", keys.u64("context_length"))],
    );
    // All rotate with the same base.
    root.shift_remove("rope_theta");
}

/// Multipliers are in the weights of a file: in the folder they are all 1, and the model is the same.
pub(super) fn falcon_h1(keys: &Keys<'_>, root: &mut Root) {
    for field in [
        "attention_in_multiplier",
        "attention_out_multiplier",
        "embedding_multiplier",
        "key_multiplier",
        "lm_head_multiplier",
        "ssm_in_multiplier",
        "ssm_out_multiplier",
    ] {
        root.insert(field.into(), json!(1.0));
    }
    root.insert("mlp_multipliers".into(), json!([1.0, 1.0]));
    root.insert("ssm_multipliers".into(), json!([1.0, 1.0, 1.0, 1.0, 1.0]));
    let heads = keys.u64("ssm.time_step_rank");
    set(
        root,
        &[
            ("mamba_n_heads", heads),
            ("mamba_d_ssm", keys.u64("ssm.inner_size")),
            ("mamba_d_head", quotient(keys, "ssm.inner_size", "ssm.time_step_rank")),
        ],
    );
    root.insert("mamba_rms_norm".into(), keys.has_tensor("ssm_norm.weight").into());
    root.insert("projectors_bias".into(), keys.has_tensor("ssm_out.bias").into());
}

/// Scales are in the weights of a file: in the folder they are 1.
pub(super) fn jais(_: &Keys<'_>, root: &mut Root) {
    root.insert("activation_function".into(), "swiglu".into());
    root.insert("position_embedding_type".into(), "alibi".into());
    root.insert("embeddings_scale".into(), json!(1.0));
    root.insert("width_scale".into(), json!(1.0));
}

/// Which layers slide and rotate is no key: what readers of files take, the window being one where every fourth layer
/// sees everything and does not rotate.
pub(super) fn smallthinker(keys: &Keys<'_>, root: &mut Root) {
    let Some(layers) = keys.u64("block_count").filter(|n| *n <= 1 << 16) else { return };
    let window = keys.u64("attention.sliding_window");
    let slides = |layer: u64| u64::from(window.is_some() && !layer.is_multiple_of(4));
    let rotates = |layer: u64| u64::from(window.is_none() || !layer.is_multiple_of(4));
    root.insert("sliding_window_layout".into(), (0..layers).map(slides).collect());
    root.insert("rope_layout".into(), (0..layers).map(rotates).collect());
    root.insert("moe_primary_router_apply_softmax".into(), (keys.u64("expert_gating_func") == Some(1)).into());
    set(
        root,
        &[
            ("sliding_window_size", window),
            ("moe_num_primary_experts", keys.u64("expert_count")),
            ("moe_num_active_primary_experts", keys.u64("expert_used_count")),
            ("moe_ffn_hidden_size", keys.u64("expert_feed_forward_length").or(keys.u64("feed_forward_length"))),
        ],
    );
}

pub(super) fn deci(keys: &Keys<'_>, root: &mut Root) {
    let (Some(kv), width) = (keys.list("attention.head_count_kv"), keys.u64("embedding_length").unwrap_or(1)) else {
        return;
    };
    root.insert("num_key_value_heads".into(), kv.iter().max().copied().into());
    let (Some(heads), Some(inner)) = (keys.list("attention.head_count"), keys.list("feed_forward_length")) else {
        root.insert("num_key_value_heads_per_layer".into(), kv.into());
        return;
    };
    root.insert("num_attention_heads".into(), heads.iter().max().copied().into());
    let layer = |((heads, kv), inner): ((&u64, &u64), &u64)| {
        let group = if *kv > 0 { Json::from(heads / kv) } else { Json::Null };
        let multiplier = 3.0 * *inner as f64 / 2.0 / width as f64;
        json!({"attention": {"n_heads_in_group": group, "no_op": *heads == 0, "replace_with_linear": *heads > 0 && *kv == 0},
            "ffn": {"ffn_mult": if *inner > 0 { json!(multiplier) } else { Json::Null }, "no_op": *inner == 0,
                "replace_with_linear": false}})
    };
    root.insert("block_configs".into(), heads.iter().zip(&kv).zip(&inner).map(layer).collect());
    root.shift_remove("intermediate_size");
}

/// Layers with one matrix in place of attention have another name for it.
pub(super) fn deci_names(config: &Config, name: &str) -> Option<String> {
    let (block, rest) = names::blocks_in("model.layers.{}.self_attn.o_proj", name)?;
    let block = usize::try_from(block?).ok()?;
    let linear = config.get("block_configs")?.get(block)?["attention"]["replace_with_linear"] == true;
    linear.then(|| format!("model.layers.{block}.self_attn.linear_attn{rest}"))
}

pub(super) fn hrm(keys: &Keys<'_>, root: &mut Root) {
    let (layers, low) = (keys.u64("hrm.layers_per_stack"), keys.u64("hrm.l_cycles"));
    set(
        root,
        &[
            ("num_layers_per_stack", layers),
            ("num_hidden_layers", layers.zip(low).and_then(|(layers, low)| layers.checked_mul(low.checked_add(1)?))),
            ("H_cycles", keys.u64("hrm.h_cycles")),
            ("L_cycles", low),
        ],
    );
    root.insert("embedding_scale".into(), keys.f32("embedding_scale").map(float).into());
    root.insert("prefix_lm".into(), keys.flag("hrm.prefix_lm").into());
}

/// The low stack, then the high one.
pub(super) fn hrm_names(config: &Config, name: &str) -> Option<String> {
    let (block, rest) = names::blocks_in("model.layers.{}.", name)?;
    let (block, low) = (block?, config.u64("num_layers_per_stack")?);
    let (stack, layer) = if block < low { ("L", block) } else { ("H", block - low) };
    let rest = rest.replace("self_attn.", "attn.");
    Some(format!("model.{stack}_module.layers.{layer}.{rest}"))
}

pub(super) fn mimo(keys: &Keys<'_>, root: &mut Root) {
    let (Some(heads), Some(slides)) =
        (keys.list("attention.head_count_kv"), keys.list("attention.sliding_window_pattern"))
    else {
        return;
    };
    let further = keys.u64("nextn_predict_layers").unwrap_or(0) as usize;
    let layers = slides.len().saturating_sub(further);
    let of = |kind: u64| slides.iter().zip(&heads).find(|(slides, _)| **slides == kind).map(|(_, heads)| *heads);
    let experts = |layer: &usize| u64::from(keys.shape(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some());
    root.insert("moe_layer_freq".into(), (0..layers).map(|layer| experts(&layer)).collect());
    root.insert("hybrid_layer_pattern".into(), slides[..layers].to_vec().into());
    let value = keys.u64("attention.value_length");
    set(
        root,
        &[
            ("num_key_value_heads", of(0).or(of(1))),
            ("swa_num_key_value_heads", of(1).or(of(0))),
            ("swa_num_attention_heads", keys.u64("attention.head_count")),
            ("swa_head_dim", keys.head()),
            ("v_head_dim", value),
            ("swa_v_head_dim", value),
        ],
    );
    root.insert("topk_method".into(), "noaux_tc".into());
    root.insert("scoring_func".into(), "sigmoid".into());
    if let Some(base) = keys.f32("rope.freq_base_swa") {
        root.insert("swa_rope_theta".into(), float(base));
    }
    root.insert("add_swa_attention_sink_bias".into(), keys.has_tensor("attn_sinks.weight").into());
    root.insert("add_full_attention_sink_bias".into(), false.into());
}

/// Layers of prediction have a list of their own.
pub(super) fn mimo_names(config: &Config, name: &str) -> Option<String> {
    let (block, rest) = names::blocks_in("model.layers.{}.", name)?;
    let further = block?.checked_sub(config.layers().ok()?)?;
    Some(format!("model.mtp.layers.{further}.{rest}"))
}

pub(super) fn minimax01(keys: &Keys<'_>, root: &mut Root) {
    for part in ["full_attention", "linear_attention", "mlp"] {
        root.insert(format!("layernorm_{part}_alpha"), keys.f32("residual_scale").map(float).into());
        root.insert(format!("layernorm_{part}_beta"), json!(1.0));
    }
    let layers = keys.u64("block_count").unwrap_or(0).min(1 << 16);
    let attends = |layer: u64| u64::from(keys.shape(&format!("blk.{layer}.attn_q.weight")).is_some());
    root.insert("attn_type_list".into(), (0..layers).map(attends).collect());
    root.insert("postnorm".into(), true.into());
    root.insert("shared_intermediate_size".into(), 0.into());
}

pub(super) fn openelm(keys: &Keys<'_>, root: &mut Root) {
    let (Some(widths), Some(model)) = (keys.list("feed_forward_length"), keys.u64("embedding_length")) else { return };
    let common = |a: u64, b: u64| {
        let (mut a, mut b) = (a, b);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    // Multipliers that give these widths as they are.
    let divisor = widths.iter().copied().fold(256, common).max(1);
    root.insert("ffn_multipliers".into(), widths.iter().map(|w| *w as f64 / model.max(1) as f64).collect());
    root.insert("share_input_output_layers".into(), (!keys.has_tensor("output.weight")).into());
    root.insert("num_query_heads".into(), keys.list("attention.head_count").into());
    root.insert("num_kv_heads".into(), keys.list("attention.head_count_kv").into());
    root.insert("rope_freq_constant".into(), keys.f32("rope.freq_base").map(float).into());
    set(
        root,
        &[
            ("ffn_dim_divisor", Some(divisor)),
            ("model_dim", Some(model)),
            ("num_transformer_layers", keys.u64("block_count")),
            ("max_context_length", keys.u64("context_length")),
            ("head_dim", keys.head()),
        ],
    );
}

pub(super) fn plamo2(keys: &Keys<'_>, root: &mut Root) {
    let attends: Vec<u64> = keys.list("attention.head_count_kv").unwrap_or_default();
    root.insert("mamba_enabled".into(), (!attends.is_empty()).into());
    let places: Vec<u64> = (0..).zip(&attends).filter(|(_, heads)| **heads > 0).map(|(layer, _)| layer).collect();
    // The first that attends is in the middle of a step.
    let step = match places[..] {
        [first, second, ..] => Some(second.abs_diff(first)),
        [first] => Some(first * 2),
        [] => None,
    };
    let most = |key: &str| keys.list(key).and_then(|list| list.into_iter().max());
    set(
        root,
        &[
            ("mamba_step", step),
            ("num_key_value_heads", most("attention.head_count_kv")),
            ("num_attention_heads", most("attention.head_count")),
            ("hidden_size_per_head", keys.head()),
            ("mamba_num_heads", keys.u64("ssm.time_step_rank")),
        ],
    );
}

pub(super) fn plamo3(keys: &Keys<'_>, root: &mut Root) {
    set(root, &[("sliding_window_pattern", keys.u64("attention.sliding_window_pattern"))]);
    if let Some(base) = keys.f32("rope.freq_base_swa") {
        root.insert("rope_local_theta".into(), float(base));
    }
}

pub(super) fn qrwkv6(keys: &Keys<'_>, root: &mut Root) {
    set(
        root,
        &[
            ("lora_rank_tokenshift", keys.u64("time_mix_extra_dim")),
            ("lora_rank_decay", keys.u64("time_decay_extra_dim")),
            ("num_attention_heads", quotient(keys, "embedding_length", "wkv.head_size")),
        ],
    );
    root.insert("attention_bias".into(), keys.has_tensor("time_mix_key.bias").into());
}

pub(super) fn arwkv(keys: &Keys<'_>, root: &mut Root) {
    root.insert("wkv_version".into(), 7.into());
    root.insert("wkv_has_gate".into(), keys.has_tensor("time_mix_g1.weight").into());
    set(root, &[("num_attention_heads", quotient(keys, "embedding_length", "wkv.head_size"))]);
}

pub(super) fn rwkv6(keys: &Keys<'_>, root: &mut Root) {
    let width = keys.u64("embedding_length");
    set(
        root,
        &[
            ("num_attention_heads", quotient(keys, "embedding_length", "wkv.head_size")),
            ("attention_hidden_size", width),
            ("rescale_every", keys.u64("rescale_every_n_layers")),
        ],
    );
}

/// Numbers of layers of full attention, and those of layers that slide.
pub(super) fn step(keys: &Keys<'_>, root: &mut Root) {
    let further = keys.u64("nextn_predict_layers").unwrap_or(0) as usize;
    let Some(slides) = keys.list("attention.sliding_window_pattern") else { return };
    let layers = &slides[..slides.len().saturating_sub(further)];
    let pick = |full: f32, sliding: f32| -> Json {
        layers.iter().map(|slides| if *slides > 0 { float(sliding) } else { float(full) }).collect()
    };
    root.insert("layer_types".into(), kinds(layers, |s| if s > 0 { "sliding_attention" } else { "full_attention" }));
    root.insert("partial_rotary_factors".into(), pick(0.5, 1.0));
    if let (Some(full), Some(sliding)) = (keys.f32("rope.freq_base"), keys.f32("rope.freq_base_swa")) {
        root.insert("rope_theta".into(), pick(full, sliding));
    }
    let of = |key: &str, kind: u64| {
        let list = keys.list(key)?;
        slides.iter().zip(list).find(|(slides, _)| **slides == kind).map(|(_, heads)| heads)
    };
    let (heads, groups) = ("attention.head_count", "attention.head_count_kv");
    set(
        root,
        &[
            ("num_attention_heads", of(heads, 0).or(of(heads, 1))),
            ("num_attention_groups", of(groups, 0).or(of(groups, 1))),
            ("moe_num_experts", keys.u64("expert_count")),
            ("moe_top_k", keys.u64("expert_used_count")),
            ("share_expert_dim", keys.u64("expert_shared_feed_forward_length")),
        ],
    );
    root.insert(
        "attention_other_setting".into(),
        json!({"num_attention_heads": of(heads, 1), "num_attention_groups": of(groups, 1)}),
    );
    let experts = |layer: &usize| keys.shape(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some();
    let sparse: Vec<String> = (0..layers.len()).filter(experts).map(|layer| layer.to_string()).collect();
    root.insert("moe_layers_enum".into(), sparse.join(",").into());
    root.insert("moe_router_activation".into(), "sigmoid".into());
    if let Some(scale) = keys.f32("expert_weights_scale") {
        root.insert("moe_router_scaling_factor".into(), float(scale));
    }
    root.insert("norm_expert_weight".into(), keys.flag("expert_weights_norm").unwrap_or(true).into());
    root.shift_remove("rope_local_base_freq");
}

/// Layers of lightning attention have another name for what they give.
pub(super) fn minimax01_names(config: &Config, name: &str) -> Option<String> {
    let (block, rest) = names::blocks_in("model.layers.{}.self_attn.o_proj", name)?;
    let block = usize::try_from(block?).ok()?;
    let lightning = config.get("attn_type_list")?.get(block)? == 0;
    lightning.then(|| format!("model.layers.{block}.self_attn.out_proj{rest}"))
}

pub(super) fn grok(keys: &Keys<'_>, root: &mut Root) {
    for (field, key) in [
        ("embedding_multiplier_scale", "embedding_scale"),
        ("output_multiplier_scale", "logit_scale"),
        ("attn_output_multiplier", "attention.output_scale"),
    ] {
        root.insert(field.into(), keys.f32(key).map(float).into());
    }
}

/// The activation of each layer has numbers of its own, which are keys of a file.
pub(super) fn apertus(keys: &Keys<'_>) -> Numbers {
    let (mut kinds, mut tensors) = (Vec::new(), Vec::new());
    for (kind, values) in keys.beginning("xielu.") {
        // Those that training changes are vectors.
        let shape: &[u64] = if kind.starts_with("alpha") { &[1] } else { &[] };
        for (layer, value) in values.iter().enumerate() {
            let name = format!("model.layers.{layer}.mlp.act_fn.{kind}");
            tensors.push((name, transform::values(shape.to_vec(), &[*value])));
        }
        kinds.push(json!([kind, values]));
    }
    (vec![("xielu", kinds.into())], tensors)
}

/// The gain of the output is a key of a file.
pub(super) fn talkie(keys: &Keys<'_>) -> Numbers {
    let gain = keys.f32("logit_scale");
    let tensors = gain.map(|gain| ("lm_head_gain.w_g".to_owned(), transform::values(vec![1], &[gain])));
    (gain.map(|gain| (GAIN, gain.into())).into_iter().collect(), tensors.into_iter().collect())
}

pub(super) fn rwkv7(keys: &Keys<'_>, root: &mut Root) {
    set(
        root,
        &[
            ("decay_low_rank_dim", keys.u64("attention.decay_lora_rank")),
            ("a_low_rank_dim", keys.u64("attention.iclr_lora_rank")),
            ("v_low_rank_dim", keys.u64("attention.value_residual_mix_lora_rank")),
            ("gate_low_rank_dim", keys.u64("attention.gate_lora_rank")),
        ],
    );
}

/// The names of the flash-linear-attention library.
pub(super) fn rwkv7_names(_: &Config, name: &str) -> Option<String> {
    let name = name.replace(".attention.", ".attn.").replace(".attention_norm.", ".attn_norm.");
    let name = name.replace(".feed_forward.", ".ffn.").replace(".ln2.", ".ffn_norm.").replace(".ln_x.", ".g_norm.");
    let low = ["w", "a", "v"].into_iter().find_map(|part| Some((part, name.strip_suffix(&format!(".attn.{part}0"))?)));
    Some(match low {
        Some((part, layer)) => format!("{layer}.attn.{part}_lora.lora.2.bias"),
        None => name,
    })
}

/// Delta attention in most layers, latent attention in the last of each group.
pub(super) fn ling3(keys: &Keys<'_>, root: &mut Root) {
    latent(keys, root);
    let heads = keys.list("attention.head_count_kv").unwrap_or_default();
    let group = heads.iter().position(|heads| *heads > 0).map_or(heads.len(), |place| place + 1);
    root.insert("layer_group_size".into(), group.into());
    for field in ["no_kda_lora", "kda_safe_gate"] {
        root.insert(field.into(), true.into());
    }
    root.insert("gated_attention_proj_granularity_type".into(), "head_wise".into());
    for (field, key) in
        [("expert_swiglu_limit_list", "swiglu_clamp_exp"), ("share_expert_swiglu_limit_list", "swiglu_clamp_shexp")]
    {
        if let Some(limits) = keys.floats(key) {
            root.insert(field.into(), limits.into_iter().map(float).collect());
        }
    }
    root.insert("kda_lower_bound".into(), keys.f32("kda.gate_lower_bound").map(float).into());
    set(root, &[("head_dim", keys.u64("kda.head_dim"))]);
    let sections = keys.list("rope.dimension_sections");
    if let Some(sections) = sections.as_deref().and_then(|sections| sections.get(..3)) {
        root.insert("mrope_section".into(), sections.into());
    }
}

/// Layers of latent attention have another name for what they give.
pub(super) fn ling3_names(config: &Config, name: &str) -> Option<String> {
    let (block, rest) = names::blocks_in("model.layers.{}.attention.o_proj", name)?;
    let (block, group, layers) = (block?, config.u64("layer_group_size")?.max(1), config.layers().ok()?);
    let latent = block >= layers / group * group || (block + 1).is_multiple_of(group);
    latent.then(|| format!("model.layers.{block}.attention.dense{rest}"))
}

/// Ministral's scale of positions beside latent attention.
pub(super) fn mistral4(keys: &Keys<'_>, root: &mut Root) {
    latent(keys, root);
    in_rope(root, "llama_4_scaling_beta", keys.f32("attention.temperature_scale"));
}

/// Two kinds of latent attention. Whether the scales of the norms were taken into them is in no file: they are in the
/// published models.
pub(super) fn dots3(keys: &Keys<'_>, root: &mut Root) {
    latent(keys, root);
    let slides = keys.list("attention.sliding_window_pattern").unwrap_or_default();
    let heads = keys.list("attention.head_count").unwrap_or_default();
    let of = |kind: u64| slides.iter().zip(&heads).find(|(slides, _)| **slides == kind).map(|(_, heads)| *heads);
    let full = of(0).or(of(1));
    let rope = keys.u64("rope.dimension_count");
    let whole = keys.u64("attention.key_length_mla_swa");
    let dense = keys.u64("leading_dense_block_count").unwrap_or(0);
    let shared = keys.first_dimension(&format!("blk.{dense}.ffn_up_shexp.weight"));
    let shared = shared.zip(keys.u64("expert_shared_count")).and_then(|(width, count)| width.checked_div(count));
    set(
        root,
        &[
            ("num_attention_heads", full),
            ("num_key_value_heads", full),
            ("swa_num_key_value_heads", heads.get(slides.len()).copied().or(of(1)).or(full)),
            ("moe_shared_expert_intermediate_size", shared),
            // The block of prediction slides.
            ("swa_num_attention_heads", heads.get(slides.len()).copied().or(of(1)).or(full)),
            ("swa_kv_lora_rank", keys.u64("attention.kv_lora_rank_swa")),
            ("swa_q_lora_rank", keys.u64("attention.q_lora_rank")),
            ("swa_head_dim", whole),
            ("swa_qk_rope_head_dim", rope),
            ("swa_qk_nope_head_dim", whole.zip(rope).and_then(|(whole, rope)| whole.checked_sub(rope))),
            ("swa_v_head_dim", keys.u64("attention.value_length_mla_swa")),
            ("sliding_window_size", keys.u64("attention.sliding_window")),
            ("num_hidden_layers", Some(slides.len() as u64)),
            ("n_group", Some(1)),
            ("topk_group", Some(1)),
        ],
    );
    for (field, value) in [
        ("apply_mla_qkv_lora_rescale", Json::from(true)),
        ("use_dsa", true.into()),
        ("k_rope_only_layernorm", true.into()),
        ("moe_gating_fp32", false.into()),
        ("use_dynamic_rsf", false.into()),
        ("normalization", "RMSNorm".into()),
        ("final_norm", "RMSNorm".into()),
        ("topk_method", "noaux_tc".into()),
        ("scoring_func", "sigmoid".into()),
        ("attention_gate_type", "headwise".into()),
        ("swa_attention_gate_type", "headwise".into()),
    ] {
        root.insert(field.into(), value);
    }
    root.shift_remove("head_dim");
}

/// The embedding of the block of prediction has a name of its own.
pub(super) fn dots3_names(_: &Config, name: &str) -> Option<String> {
    let (_, rest) = names::blocks_in("model.layers.{}.embed_tokens", name)?;
    Some(format!("model.mtp.embed_tokens{rest}"))
}

/// The block of prediction, of which the configuration says nothing.
pub(super) fn predicted_block(keys: &Keys<'_>) -> Numbers {
    let further = keys.u64("nextn_predict_layers").filter(|n| *n > 0);
    (further.map(|further| (PREDICTION_BLOCK, further.into())).into_iter().collect(), Vec::new())
}

/// Delta attention, latent attention that does not rotate, and several residual streams.
pub(super) fn glm5_next(keys: &Keys<'_>, root: &mut Root) {
    sparse_attention(keys, root);
    let heads = keys.list("attention.head_count_kv").unwrap_or_default();
    let layers = heads.len().saturating_sub(keys.u64("nextn_predict_layers").unwrap_or(0) as usize);
    let kind = |heads| if heads > 0 { "indexed_attention" } else { "linear_attention" };
    root.insert("layer_types".into(), kinds(&heads[..layers], kind));
    let (head, kernel, count) =
        (keys.u64("kda.head_dim"), keys.u64("ssm.conv_kernel"), keys.u64("attention.head_count"));
    let mut linear = json!({"head_dim": head, "num_heads": count, "short_conv_kernel_size": kernel});
    if let Some(bound) = keys.f32("kda.gate_lower_bound") {
        linear["gate_lower_bound"] = float(bound);
    }
    root.insert("linear_attn_config".into(), linear);
    root.insert("mla_use_nope".into(), true.into());
    root.insert("mhc".into(), true.into());
    root.insert("index_kpool_always_select_tail".into(), keys.flag("attention.indexer.kpool_select_tail").into());
    let limit = keys.floats("swiglu_clamp_exp").and_then(|limits| limits.first().copied());
    root.insert("swiglu_limit".into(), limit.map(float).into());
    set(root, &[("index_kpool", keys.u64("attention.indexer.kpool")), ("num_key_value_heads", count)]);
    root.shift_remove("head_dim");
}

/// Attention of the common kind, under the names of latent attention.
pub(super) fn ocr(keys: &Keys<'_>, root: &mut Root) {
    root.insert("use_mla".into(), false.into());
    for field in ["q_lora_rank", "kv_lora_rank"] {
        root.insert(field.into(), Json::Null);
    }
    for field in ["qk_nope_head_dim", "v_head_dim"] {
        root.insert(field.into(), 0.into());
    }
    set(root, &[("qk_rope_head_dim", keys.u64("rope.dimension_count"))]);
}

/// Rotation in several directions, whose base is stretched by the reader of the configuration.
pub(super) fn hunyuan_vl(keys: &Keys<'_>, root: &mut Root) {
    hunyuan(keys, root);
    let Some(alpha) = keys.f32("rope.scaling.alpha") else { return };
    let sections = keys.list("rope.dimension_sections").map(|sections| sections.into_iter().collect::<Json>());
    root.insert(
        "rope_scaling".into(),
        json!({"type": "xdrope", "rope_type": "xdrope", "alpha": float(alpha), "xdrope_section": sections,
            "factor": keys.f32("rope.scaling.factor").map(float)}),
    );
    root.shift_remove("original_max_position_embeddings");
}

/// Hyper-connections, an indexer, and the sizes of what is known of n-grams.
pub(super) fn qwen4(keys: &Keys<'_>, root: &mut Root) {
    linear_attention(keys, root);
    let ratios = keys.list("attention.compress_ratios").unwrap_or_default();
    let kind = |ratio| if ratio > 0 { "full_attention" } else { "linear_attention" };
    root.insert("layer_types".into(), kinds(&ratios, kind));
    let layers: Vec<u64> = keys.list("ple.layers").unwrap_or_default().into_iter().map(|layer| layer + 1).collect();
    root.insert("ple_layer_ids".into(), layers.into());
    let (grams, heads) = (keys.u64("ple.ngram_size"), keys.u64("ple.heads_per_ngram"));
    let all = grams.zip(heads).and_then(|(grams, heads)| grams.checked_sub(1)?.checked_mul(heads));
    let width = all.zip(keys.u64("embedding_length_per_layer_input")).and_then(|(all, width)| all.checked_mul(width));
    let rows = keys.first_dimension("per_layer_token_embd.weight");
    // As many parts as the class has the table in, where it is so many.
    let parts = rows.map(|rows| if rows.is_multiple_of(NGRAM_PARTS) { NGRAM_PARTS } else { 1 });
    set(
        root,
        &[
            ("hc_count", keys.u64("hyper_connection.count")),
            ("hc_lowrank", keys.u64("hyper_connection.low_rank")),
            ("indexer_n_heads", keys.u64("attention.indexer.head_count")),
            ("indexer_head_dim", keys.u64("attention.indexer.key_length")),
            ("indexer_budget", keys.u64("attention.indexer.top_k")),
            ("indexer_kv_heads", Some(1)),
            ("indexer_compress_ratio", ratios.iter().max().copied()),
            ("ngram_size", grams),
            ("heads_per_ngram", heads),
            ("ple_conv_kernel_size", keys.u64("ple.conv_kernel")),
            ("ple_embed_dim", width),
            // The first head's is the smallest prime that is no less.
            ("ngram_vocab_size_base", keys.list("ple.head_vocab_sizes").and_then(|sizes| sizes.first().copied())),
            ("split_ngram_parts", parts),
            ("image_token_id", keys.u64("ple.image_token_id")),
        ],
    );
}

/// The parts in which the class has its table of n-grams.
const NGRAM_PARTS: u64 = 512;

/// The constants of the hash of n-grams are keys of a file.
pub(super) fn ngrams(keys: &Keys<'_>) -> Numbers {
    let Some(layer) = keys.list("ple.layers").and_then(|layers| layers.first().copied()) else {
        return (Vec::new(), Vec::new());
    };
    let mut entries = vec![(NGRAM_WIDTH, keys.u64("embedding_length_per_layer_input").into())];
    let mut tensors = Vec::new();
    for (key, name) in NGRAM_CONSTANTS {
        let Some(numbers) = keys.list(key) else { continue };
        let whole: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
        tensors.push((format!("model.layers.{layer}.ple.{name}"), transform::whole_numbers(&whole)));
        entries.push((key, numbers.into()));
    }
    (entries, tensors)
}

/// The table of n-grams is that of one layer.
pub(super) fn qwen4_names(config: &Config, name: &str) -> Option<String> {
    let layer = config.get("ple_layer_ids")?.get(0)?.as_u64()?.checked_sub(1)?;
    name.contains("{}").then(|| name.replace("{}", &layer.to_string()))
}

/// Adapters inside the model; the first layer is a switch without weights.
pub(super) fn granite_switch(keys: &Keys<'_>, root: &mut Root) {
    let ids = |key: &str| keys.list(key).map_or(Json::Null, Json::from);
    root.insert("adapter_token_ids".into(), ids("adapters.token_ids_activate"));
    root.insert("adapter_substitute_token_ids".into(), ids("adapters.token_ids_substitute"));
    root.insert("control_token_gain".into(), keys.f32("adapters.router_gain").map(float).into());
    let width = keys.first_dimension("blk.0.ffn_up.weight");
    set(
        root,
        &[
            ("num_hidden_layers", keys.u64("block_count").and_then(|blocks| blocks.checked_add(1))),
            ("num_adapters", keys.u64("adapters.count")),
            ("max_lora_rank", keys.u64("adapters.lora_rank")),
            ("shared_intermediate_size", width),
            ("projection_head_dim", keys.head()),
            ("num_local_experts", Some(0)),
        ],
    );
}

/// Blocks that are described one by one.
pub(super) fn puzzle(keys: &Keys<'_>, root: &mut Root) {
    let lists =
        ["attention.head_count_kv", "expert_feed_forward_length", "expert_used_count"].map(|key| keys.list(key));
    let [Some(heads), Some(widths), Some(used)] = lists else { return };
    let block = |((heads, width), used): ((&u64, &u64), &u64)| match (heads, width) {
        (0, 0) => json!({"block_type": "mamba"}),
        (0, _) => json!({"block_type": "moe", "moe_intermediate_size": width, "num_experts_per_tok": used}),
        _ => json!({"block_type": "attention"}),
    };
    root.insert("block_configs".into(), heads.iter().zip(&widths).zip(&used).map(block).collect());
    root.insert("mtp_block_configs".into(), json!([]));
    set(
        root,
        &[
            ("num_key_value_heads", heads.iter().max().copied()),
            ("mamba_num_heads", keys.u64("ssm.time_step_rank")),
            ("mamba_head_dim", quotient(keys, "ssm.inner_size", "ssm.time_step_rank")),
            ("expand", quotient(keys, "ssm.inner_size", "embedding_length")),
            ("moe_latent_size", keys.u64("moe_latent_size")),
            ("n_group", keys.u64("expert_group_count")),
        ],
    );
}
