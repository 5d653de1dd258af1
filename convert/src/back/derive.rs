//! Fields of configurations whose values follow from the keys of a file by a rule of the class.

use serde_json::{Map, Value as Json, json};

use super::config::{Keys, float};

/// The fields of a configuration.
type Root = Map<String, Json>;

/// What queries of Gemma are divided by: the dimensions of a head, in the largest models the width by the heads.
pub(super) fn query_scalar(keys: &Keys<'_>, largest: u64) -> Option<u64> {
    if keys.u64("block_count") == Some(largest) {
        return keys.u64("embedding_length")?.checked_div(keys.u64("attention.head_count")?);
    }
    keys.head()
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
    if let Some(shape) = keys.shape("blk.0.ffn_up.weight") {
        root.insert("intermediate_size".into(), shape[0].into());
    }
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
    let rows = |name: &str| keys.shape(name).map(|shape| shape[0]);
    set(
        root,
        &[
            ("laurel_rank", rows("blk.0.laurel_l.weight")),
            ("vocab_size_per_layer_input", rows("per_layer_token_embd.weight")),
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
        json!({"rope_type": kind, "rope_theta": base.map(float),
            "partial_rotary_factor": part.map(|part| part as f64 / head)})
    };
    let full = of(keys.f32("rope.freq_base"), keys.u64("rope.dimension_count"), kind);
    let sliding = of(keys.f32("rope.freq_base_swa"), keys.u64("rope.dimension_count_swa"), "default");
    root.insert("rope_parameters".into(), json!({"full_attention": full, "sliding_attention": sliding}));
    for field in ["rope_theta", "rope_local_base_freq", "rope_scaling", "partial_rotary_factor"] {
        root.shift_remove(field);
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
    let rows = keys.shape("per_layer_token_embd.weight").map(|shape| shape[0]);
    set(root, &[("vocab_size_per_layer_input", rows)]);
    if keys.key("final_logit_softcapping").is_none() {
        root.insert("final_logit_softcapping".into(), Json::Null);
    }
}
