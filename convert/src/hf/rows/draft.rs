//! Draft models, which guess tokens from the states of another model: EAGLE 3, DFlash and DSpark.
//!
//! A draft has no tokenizer. Its vocabulary, and some of what describes it, are those of the model that it drafts for.

use gguf::{Error, Result};
use serde_json::{Map, Value, json};

use crate::config::{self, Config, Rope, as_u64};
use crate::hf::contents::integers;
use crate::hf::rows::deepseek::{DEEPSEEK4, DEEPSEEK4_CLASS, deepseek4_of_draft};
use crate::hf::rows::llama::{FIRST_NAMES, LLAMA_DEFAULTS, MAX_ROTARY, head_dim, llama, rope_freqs};
use crate::hf::rows::qwen::{QWEN3, qwen};
use crate::hf::{
    ATTENTION_ROTATED, BASE, Class, Contents, Early, GATED, How, NORMS, NameRule, Outputs, Params, Piece, r,
};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, reordered, values, whole_numbers};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &[
            "LlamaForCausalLMEagle3",
            "Eagle3LlamaForCausalLM",
            "Eagle3Speculator",
            "Eagle3DraftModel",
            "LlamaForCausalLM",
            "LLaMAForCausalLM",
            "LlamaModel",
            "MistralForCausalLM",
            "IQuestCoderForCausalLM",
        ],
        when: is_eagle3,
        arch: "eagle3",
        defaults: LLAMA_DEFAULTS,
        vocabulary: VocabKind::Llama,
        drafts: true,
        spelling: &[EAGLE_ENDS, ATTENTION_ROTATED, NORMS, GATED],
        rotated: FIRST_NAMES,
        prefixes: &[
            ("midlayer.", "model.layers.0."),
            ("layers.", "model.layers."),
            ("embed_tokens.", "model.embed_tokens."),
            ("norm.", "model.norm."),
        ],
        inspect: eagle3_tensors,
        early: eagle3_target,
        early_of: Early::Class,
        keys: llama,
        generated: |config| {
            let mut out = rope_freqs(config)?;
            out.extend(table(config));
            Ok(out)
        },
        last: TABLE,
        remark: "EAGLE 3: a Llama of one layer with a vocabulary of its own",
        ..BASE
    },
    Class {
        names: &["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"],
        arch: "eagle3",
        drafts: true,
        prepare: |_| {
            Err(Error::input("config.json has not both draft_vocab_size and one layer, by which EAGLE 3 is known")
                .help("the format has a place for drafts of one layer alone"))
        },
        remark: "refused where it is not EAGLE 3",
        ..BASE
    },
    Class { names: &["DFlashDraftModel", "DFlash2DraftModel"], ..DFLASH },
    Class {
        names: &["Qwen3DSparkModel", "DSparkDraftModel", "DSparkSpeculator", "Lfm2DSparkDraftModel", "LingDSparkModel"],
        rename: |config, name| {
            let name = dflash_name(config, name)?;
            // With a vocabulary that is the target's, its output is the target's too.
            let own = vocabularies(config).is_ok_and(|(drafted, all)| drafted != all);
            (own || !name.ends_with("lm_head.weight")).then_some(name)
        },
        prepare: dspark,
        inspect: dspark_tensors,
        keys: dspark_keys,
        generated: |config| Ok(table(config).into_iter().collect()),
        last: TABLE,
        remark: "DSpark: DFlash with a Markov head",
        ..DFLASH
    },
    Class {
        names: &["Gemma4DSparkModel"],
        defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 131072, "head_dim": 256,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8,
            "global_head_dim": 512, "vocab_size": 262144, "sliding_window": 512, "tie_word_embeddings": true,
            "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}}"#,
        rope: Rope::Stated,
        spelling: &[DFLASH_ENDS, DFLASH_LAYERS, GEMMA_NORMS, GATED],
        rename: |config, name| {
            let name = dflash_name(config, name)?.replace("model.confidence_proj.", "model.confidence_head.proj.");
            Some(if name.ends_with(".layer_scalar") { name + ".weight" } else { name })
        },
        prepare: gemma,
        inspect: gemma_tensors,
        keys: gemma_keys,
        late: gemma_mask,
        generated: gemma_factors,
        remark: "DSpark for Gemma 4",
        ..DFLASH
    },
    Class {
        names: &["DeepseekV4DSparkModel"],
        arch: "dflash",
        drafts: true,
        spelling: &[DEEPSEEK_DSPARK, DEEPSEEK4],
        unused: &[],
        rename: deepseek_name,
        inspect: deepseek_blocks,
        keys: deepseek_keys,
        late: |p| {
            let mask = p.config().need_u64(&["dspark_noise_token_id"])?;
            p.u32(MASK, mask)
        },
        remark: "DSpark in the folder of DeepSeek V4, which it drafts for (--dspark)",
        ..DEEPSEEK4_CLASS
    },
    Class {
        names: &["MuseGlimmerAssistantModel"],
        defaults: r#"{"hidden_size": 6656, "intermediate_size": 19968, "num_hidden_layers": 5, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072,
            "sliding_window": 2048, "block_size": 16, "mask_token_id": 201818, "target_layer_ids": [1, 13, 25, 37, 49],
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#,
        spelling: &[DFLASH_ENDS, DFLASH_LAYERS, NORMS, GATED],
        prefixes: &[
            ("layers.", "model.layers."),
            ("norm.", "model.norm."),
            ("encoder.fc.", "model.fc."),
            ("encoder.output_norm_enc.", "model.hidden_norm."),
        ],
        rename: |_, name| Some(name.to_owned()),
        prepare: |config| {
            if config.is_known() { config.set_layer_types(|_, _| "sliding_attention") } else { Ok(()) }
        },
        inspect: |_, _| Ok(()),
        keys: muse,
        late: |p| p.maybe_u32(MASK, &["mask_token_id"]),
        remark: "DFlash for Muse Glimmer",
        ..DFLASH
    },
];

const DFLASH: Class = Class {
    arch: "dflash",
    vocabulary: VocabKind::Target,
    drafts: true,
    spelling: &[DFLASH_ENDS, DFLASH_LAYERS, NORMS, GATED],
    prefixes: &[],
    rename: dflash_name,
    prepare: qwen_windows,
    inspect: dflash_tensors,
    keys: dflash,
    late: |p| match number(p.config(), "mask_token_id") {
        Some(mask) => p.u32(MASK, mask),
        None => Ok(()),
    },
    remark: "DFlash: denoises a block of tokens",
    ..QWEN3
};

const MASK: &str = "tokenizer.ggml.mask_token_id";

/// The table from the draft's tokens to the target's, in the file and in the configuration as it is read here.
const TABLE: &[&str] = &["d2t"];

const EAGLE_ENDS: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm"),
    r("lm_head", "output"),
    r("fc", "fc"),
    r("input_norm", "enc.output_norm"),
    r("model.layers.{}.hidden_norm", "blk.{}.attn_norm_2"),
    r("d2t", "").how(How::Drop),
    r("t2d", "").how(How::Drop),
];

const DFLASH_ENDS: &[NameRule] = &[
    r("model.embed_tokens", "token_embd"),
    r("model.norm", "output_norm"),
    r("model.lm_head", "output"),
    r("model.fc", "fc"),
    r("model.hidden_norm", "enc.output_norm"),
    r("model.markov_head.markov_w1", "markov_w1"),
    r("model.markov_head.markov_w2", "markov_w2"),
    r("model.confidence_head.proj", "conf_proj"),
    r("model.candidate_selector.predecessor_codebook", "selector_predecessor"),
    r("model.candidate_selector.successor_codebook", "selector_successor"),
    r("model.candidate_selector.hidden_projection", "selector_hidden"),
    r("model.d2t", "").how(How::Drop),
    r("model.t2d", "").how(How::Drop),
];

const HALVES: How = How::Change(halves);

const DFLASH_LAYERS: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q").how(HALVES),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k").how(HALVES),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm").how(HALVES),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm").how(HALVES),
    r("model.layers.{}.self_attn.sinks", "blk.{}.attn_sinks"),
    r("model.layers.{}.self_attn.attention_sink_bias", "blk.{}.attn_sinks"),
    r("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
    r("model.layers.{}.layer_scalar", "blk.{}.layer_output_scale"),
    r("model.layers.{}.attention_conv.base_kernel", "blk.{}.attn_conv_base"),
    r("model.layers.{}.attention_conv.kernel_projection", "blk.{}.attn_conv_proj"),
    r("model.layers.{}.mlp_conv.base_kernel", "blk.{}.ffn_conv_base"),
    r("model.layers.{}.mlp_conv.kernel_projection", "blk.{}.ffn_conv_proj"),
];

const GEMMA_NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm"),
];

const DEEPSEEK_DSPARK: &[NameRule] = &[
    r("main_proj", "fc"),
    r("main_norm", "enc.output_norm"),
    r("markov_head.markov_w1", "markov_w1"),
    r("markov_head.markov_w2", "markov_w2"),
    r("confidence_head.proj", "conf_proj"),
    r("layers.{}.ffn.gate.bias_vl", "").how(How::Drop),
    r("layers.{}.ffn.gate.tid2eid", "").how(How::Drop),
];

/// A value that is there and not null, of the text model's configuration or that of its layers inside.
fn nested<'a>(root: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let parts = [root.get(config::LAYER_CONFIG).and_then(Value::as_object), config::text_config(root), Some(root)];
    parts.into_iter().flatten().find_map(|part| part.get(key))
}

fn is_eagle3(root: &Map<String, Value>) -> bool {
    nested(root, "draft_vocab_size").is_some() && nested(root, "num_hidden_layers").and_then(as_u64) == Some(1)
}

/// The states that a draft reads, and the norms around them.
fn eagle3_target(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    p.i32s("target_layers", &whole(config.get(LAYERS)).unwrap_or_default())?;
    p.need_u32("target_hidden_size", &[WIDTH])?;
    for key in ["norm_before_residual", "norm_before_fc"] {
        p.set(key, config.bool(key).unwrap_or(false));
    }
    Ok(())
}

const LAYERS: &str = "target_layers";
const WIDTH: &str = "target_hidden_size";

fn eagle3_tensors(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let target = contents.target()?;
    let number = |key: &str| {
        let value = target.value(key).and_then(as_u64);
        value.ok_or_else(|| Error::input(format!("has no {key}")).at(target.folder().join("config.json")))
    };
    let stated = whole(config.get("eagle_aux_hidden_state_layer_ids")).filter(|ids| !ids.is_empty());
    let layers = match stated {
        Some(ids) => ids,
        None => {
            let layers = number("num_hidden_layers")?.min(MAX_ROTARY) as i64;
            vec![2, layers / 2, layers - 3]
        }
    };
    config.set(LAYERS, layers);
    if config.get(WIDTH).is_none() {
        config.set(WIDTH, number("hidden_size")?);
    }
    let all = number("vocab_size")?;
    let drafted = config.u64_or(&["draft_vocab_size"], all)?;
    set_table(config, contents, drafted, all)
}

/// Whole numbers of a list.
fn whole(value: Option<&Value>) -> Option<Vec<i64>> {
    value?.as_array()?.iter().map(Value::as_i64).collect()
}

/// Reads the table of the draft's tokens, which are stored as distances from the token of the same number.
fn set_table(config: &mut Config, contents: &Contents<'_>, drafted: u64, vocabulary: u64) -> Result<()> {
    let Some(tensor) = contents.tensors.iter().find(|t| ["d2t", "model.d2t"].contains(&t.name())) else {
        let what = format!("tensor d2t (or model.d2t) is missing: the draft knows {drafted} of {vocabulary} tokens");
        let missing = drafted < vocabulary;
        return if missing { Err(Error::input(what).help("is the checkpoint complete?")) } else { Ok(()) };
    };
    let fault = |what: &str| Error::input(what).in_tensor(tensor.name()).at(tensor.path());
    let tokens: Option<Vec<i64>> = (0..).zip(integers(tensor)?).map(|(i, n)| n.checked_add(i)).collect();
    let tokens = tokens.filter(|all| all.iter().all(|t| u64::try_from(*t).is_ok_and(|t| t < vocabulary)));
    let tokens = tokens.ok_or_else(|| fault("a token lies beyond the vocabulary of the model that it drafts for"))?;
    if tokens.len() as u64 != drafted {
        return Err(fault(&format!("it has {} tokens, draft_vocab_size is {drafted}", tokens.len())));
    }
    let mut sorted = tokens.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(fault("two tokens of the draft are the same one"));
    }
    config.set(TABLE[0], tokens);
    Ok(())
}

fn table(config: &Config) -> Option<(String, Rows)> {
    let tokens = whole(config.get(TABLE[0]))?;
    Some((TABLE[0].to_owned(), whole_numbers(&tokens)))
}

/// A value of `dflash_config`.
fn own<'a>(config: &'a Config, key: &str) -> Option<&'a Value> {
    config.get("dflash_config")?.get(key).filter(|v| !v.is_null())
}

/// The same, or of the whole configuration.
fn anywhere<'a>(config: &'a Config, key: &str) -> Option<&'a Value> {
    own(config, key).or_else(|| config.get(key))
}

fn number(config: &Config, key: &str) -> Option<u64> {
    own(config, key).and_then(as_u64)
}

fn is_on(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool) == Some(true)
}

/// What the class of Qwen 3 makes of its windows.
fn qwen_windows(config: &mut Config) -> Result<()> {
    if !config.is_known() {
        return Ok(());
    }
    if config.bool("use_sliding_window") != Some(true) {
        config.remove("sliding_window");
    } else if !config.has("sliding_window") {
        config.set("sliding_window", 4096_u64);
    }
    let windows = config.get("sliding_window").is_some();
    let full = config.u64("max_window_layers").unwrap_or(28);
    config.set_layer_types(|i, _| if windows && i >= full { "sliding_attention" } else { "full_attention" })
}

fn dflash_name(config: &Config, name: &str) -> Option<String> {
    let mut name = if name.starts_with("model.") { name.to_owned() } else { format!("model.{name}") };
    let is_bare = ["predecessor_codebook", "successor_codebook"].iter().any(|end| name.ends_with(end));
    if is_bare || name.contains("sink") && !name.ends_with(".weight") {
        name += ".weight";
    }
    let lent = name == "model.embed_tokens.weight" && config.bool("has_embed_tokens") == Some(false);
    (!lent).then_some(name)
}

/// Rotation of neighbours becomes one of halves where the configuration says that it is not.
fn halves(config: &Config, piece: &Piece) -> Result<Rows> {
    if config.bool("rope_is_neox_style") != Some(false) || piece.suffix != ".weight" {
        return Ok(piece.rows.clone());
    }
    let head = config.need_u64(&["head_dim"])?;
    let rows = piece.rows.shape().first().copied().unwrap_or(0);
    if head == 0 || !head.is_multiple_of(2) || !rows.is_multiple_of(head) {
        return Err(Error::input(format!("its {rows} rows are no heads of {head}")));
    }
    reordered(&piece.rows, 0, &[(rows / head, head), (2, 1), (head / 2, 2)])
}

const MROPE: &str = "the target rotates by sections";

fn dflash_tensors(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let mask = contents.folder.join("mask_embedding.pt");
    if mask.is_file() {
        return Err(Error::input("a pickle is never loaded").at(mask).help(
            "write the vector into the row of the mask's token of model.embed_tokens.weight, take the file away, and \
             set \"has_embed_tokens\": true",
        ));
    }
    let target = contents.target()?;
    let rope = ["rope_parameters", "rope_scaling"].iter().find_map(|key| target.value(key)?.as_object());
    config.set(MROPE, rope.is_some_and(|rope| rope.contains_key("mrope_section")));
    Ok(())
}

fn dflash(p: &mut Params<'_>) -> Result<()> {
    qwen(p)?;
    let config = p.config();
    if let Some(factor) = config.rope().get("partial_rotary_factor").and_then(Value::as_f64) {
        p.u32("rope.dimension_count", (head_dim(config)? as f64 * factor) as u64)?;
    }
    if let Some(scale) = own(config, "attention_value_scale").and_then(Value::as_f64) {
        p.f32("attention.value_scale", scale);
    }
    p.u32("block_size", anywhere(config, "block_size").and_then(as_u64).unwrap_or(16))?;
    if own(config, "conv_kernel_size").is_some() {
        for key in ["conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k"] {
            let value = number(config, key);
            let value = value.ok_or_else(|| Error::input(format!("config.json: dflash_config has no {key}")))?;
            p.u32(key, value)?;
        }
    }
    let float = |key: &str| anywhere(config, key).and_then(Value::as_f64);
    if let Some(scale) = float("output_multiplier") {
        p.f32("logit_scale", scale);
    }
    if let Some(cap) = float("final_logit_softcapping").filter(|cap| *cap > 0.0) {
        p.f32("final_logit_softcapping", cap);
    }
    if let Some(scale) = float("input_embedding_scale") {
        p.f32("embedding_scale", scale);
    }
    p.i32s("target_layers", &inputs(anywhere(config, "target_layer_ids")))?;
    windows(p)?;
    let causal = config.bool("is_causal").or_else(|| own(config, "causal").and_then(Value::as_bool));
    if let Some(causal) = causal {
        p.set("attention.causal", causal);
    }
    if config.bool(MROPE) == Some(true) {
        // Tokens of text have one position alone.
        let sections: [u64; 4] = [head_dim(config)? / 2, 0, 0, 0];
        p.i32s("rope.dimension_sections", &sections)?;
    }
    Ok(())
}

/// The format counts layers by what goes in, configurations by what comes out.
fn inputs(layers: Option<&Value>) -> Vec<i64> {
    whole(layers).unwrap_or_default().into_iter().map(|layer| layer.saturating_add(1)).collect()
}

fn windows(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let all = is_on(own(config, "use_swa"));
    let window = own(config, "swa_window_size").and_then(as_u64).filter(|w| *w > 0).or(config.u64("sliding_window"));
    let Some(window) = window.filter(|w| *w > 0 && (all || config.bool("use_sliding_window") == Some(true))) else {
        return Ok(());
    };
    p.u32("attention.sliding_window", window)?;
    let pattern = if all { vec![true; config.blocks()? as usize] } else { p.sliding_layers().unwrap_or_default() };
    p.sliding_pattern(&pattern);
    Ok(())
}

/// The numbers of tokens of the draft and of the model that it drafts for.
fn vocabularies(config: &Config) -> Result<(u64, u64)> {
    let all = config.need_u64(&["vocab_size"])?;
    Ok((config.u64_or(&["draft_vocab_size"], all)?, all))
}

const FROM_ANCHOR: &str = "sample_from_anchor";
const CONFIDENCE: &str = "has_confidence_head";

fn dspark(config: &mut Config) -> Result<()> {
    const AUX: &str = "aux_hidden_state_layer_ids";
    qwen_windows(config)?;
    if config.get(FROM_ANCHOR).is_none() {
        config.set(FROM_ANCHOR, !config.has(config::LAYER_CONFIG) && !config.has(AUX));
    }
    if !config.has("dflash_config") {
        let mask = config.get("mask_token_id").cloned().unwrap_or(Value::Null);
        let layers = match whole(config.get(AUX)) {
            Some(ids) => json!(ids.into_iter().map(|id| id.saturating_sub(1)).collect::<Vec<_>>()),
            None => config.get("target_layer_ids").cloned().unwrap_or(Value::Null),
        };
        config.set("dflash_config", json!({"mask_token_id": mask, "target_layer_ids": layers}));
    }
    if let Some(kind) = config.str("markov_head_type").filter(|kind| *kind != "vanilla") {
        return Err(Error::input(format!(
            "config.json: markov_head_type is \"{kind}\"; the format knows vanilla alone"
        )));
    }
    let (drafted, all) = vocabularies(config)?;
    if drafted > all {
        return Err(Error::input(format!("config.json: draft_vocab_size is {drafted}, vocab_size {all}")));
    }
    Ok(())
}

fn dspark_tensors(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    dflash_tensors(config, contents)?;
    let (drafted, all) = vocabularies(config)?;
    set_table(config, contents, drafted, all)?;
    set_confidence(config, contents);
    Ok(())
}

fn set_confidence(config: &mut Config, contents: &Contents<'_>) {
    let has = |name: &str| name.contains("confidence_head.proj") || name.contains("confidence_proj.");
    config.set(CONFIDENCE, contents.tensors.iter().any(|t| has(t.name())));
}

fn dspark_keys(p: &mut Params<'_>) -> Result<()> {
    dflash(p)?;
    p.maybe_bool(FROM_ANCHOR, FROM_ANCHOR)?;
    p.maybe_bool(CONFIDENCE, CONFIDENCE)
}

/// What the format has a place for, of all that a draft of Gemma 4 could be.
fn gemma(config: &mut Config) -> Result<()> {
    let fault = |key: &str, want: &str| Error::input(format!("config.json: {key} is not {want}"));
    let blocks = config.blocks()?;
    let full = config.get("layer_types").and_then(Value::as_array);
    if full.is_none_or(|kinds| kinds.len() as u64 != blocks || kinds.iter().any(|kind| kind != "full_attention")) {
        return Err(fault("layer_types", "full_attention for every layer"));
    }
    for (key, wanted) in [("attention_k_eq_v", true), ("attention_bias", false), ("enable_moe_block", false)] {
        if config.bool(key).unwrap_or(false) != wanted {
            return Err(fault(key, if wanted { "true" } else { "false" }));
        }
    }
    if config.str("hidden_activation").is_some_and(|function| function != "gelu_pytorch_tanh") {
        return Err(fault("hidden_activation", "gelu_pytorch_tanh"));
    }
    if anywhere(config, "markov_head_type").is_some_and(|kind| kind != "vanilla") {
        return Err(fault("markov_head_type", "vanilla"));
    }
    let (drafted, all) = vocabularies(config)?;
    if drafted != all {
        return Err(fault("draft_vocab_size", "that of the whole vocabulary"));
    }
    if config.f64("final_logit_softcapping").is_some_and(|cap| cap != 0.0) {
        return Err(fault("final_logit_softcapping", "off"));
    }
    if is_on(own(config, "use_swa")) && number(config, "swa_window_size").unwrap_or(0) == 0 {
        return Err(fault("dflash_config.swa_window_size", "the size of a window"));
    }
    if inputs(anywhere(config, "target_layer_ids")).is_empty() {
        return Err(fault("target_layer_ids", "there"));
    }
    let stated = config.get("rope_parameters").and_then(Value::as_object).is_some_and(|rope| !rope.is_empty());
    let rope = if stated { config.rope_full().clone() } else { gemma_rope() };
    config.set_rope_parameters(rope);
    if !["default", "proportional"].contains(&config.rope_type().as_str()) {
        return Err(fault("rope_type", "default or proportional"));
    }
    if config.get(FROM_ANCHOR).is_none() {
        config.set(FROM_ANCHOR, true);
    }
    Ok(())
}

/// What Gemma 4 rotates by where nothing is said.
fn gemma_rope() -> Map<String, Value> {
    [("rope_type", json!("proportional")), ("partial_rotary_factor", json!(0.25)), ("rope_theta", json!(1e6))]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

fn gemma_tensors(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    dflash_tensors(config, contents)?;
    set_confidence(config, contents);
    let head = contents.tensors.iter().any(|t| t.name().trim_start_matches("model.") == "lm_head.weight");
    if !head && config.bool("tie_word_embeddings") != Some(true) {
        return Err(Error::input("tensor lm_head.weight is missing").help("or set \"tie_word_embeddings\": true"));
    }
    Ok(())
}

fn gemma_keys(p: &mut Params<'_>) -> Result<()> {
    dflash(p)?;
    let config = p.config();
    let head = config.need_u64(&["global_head_dim"])?;
    p.need_u32("attention.head_count_kv", &["num_global_key_value_heads"])?;
    for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
        p.u32(key, head)?;
    }
    p.f32("embedding_scale", config.need_f64(&["hidden_size"])?.sqrt());
    p.f32("attention.scale", 1.0);
    p.set("hidden_activation", "gelu_pytorch_tanh");
    p.maybe_bool(FROM_ANCHOR, FROM_ANCHOR)?;
    p.maybe_bool(CONFIDENCE, CONFIDENCE)
}

fn gemma_mask(p: &mut Params<'_>) -> Result<()> {
    let mask = anywhere(p.config(), "mask_token_id").and_then(as_u64);
    let mask = mask.ok_or_else(|| Error::input("config.json has no mask_token_id"))?;
    p.u32(MASK, mask)
}

/// The factors of a rotation of a part of each head: the rest turns infinitely slowly.
fn gemma_factors(config: &Config) -> Result<Outputs> {
    if config.rope_type() != "proportional" {
        return Ok(Vec::new());
    }
    let head = config.need_u64(&["global_head_dim"])?;
    let part = config.rope_f64("partial_rotary_factor").unwrap_or(0.25);
    let pairs = head as f64 * part / 2.0;
    if !(part > 0.0 && part <= 1.0 && pairs.fract() == 0.0) {
        return Err(Error::input(format!("config.json: partial_rotary_factor {part} of {head} is no number of pairs")));
    }
    let factors: Vec<f32> = (0..head / 2).map(|pair| if pair < pairs as u64 { 1.0 } else { 1e30 }).collect();
    Ok(vec![("rope_freqs.weight".to_owned(), values(vec![head / 2], &factors))])
}

/// Tensors of the draft inside DeepSeek V4: those of a layer keep its number, the ends are those of one stage alone.
fn deepseek_name(_: &Config, name: &str) -> Option<String> {
    let (stage, rest) = name.strip_prefix("mtp.")?.split_once('.')?;
    Some(if is_root(rest) { rest.to_owned() } else { format!("layers.{stage}.{rest}") })
}

fn is_root(rest: &str) -> bool {
    let of_head = ["main_proj.", "main_norm.", "markov_head.", "confidence_head.", "norm.", "hc_head_"];
    of_head.iter().any(|beginning| rest.starts_with(beginning))
}

fn deepseek_blocks(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let stage = |name: &str| name.strip_prefix("layers.")?.split('.').next()?.parse::<u64>().ok();
    let names = contents.tensors.iter().filter_map(|t| stage(&deepseek_name(config, t.name())?));
    let blocks = names.max().ok_or_else(|| Error::input("the folder has no draft: no tensors mtp.0 and following"))?;
    let blocks = blocks.saturating_add(1);
    config.set_blocks(blocks);
    config.set("compress_ratios", vec![0; config.blocks()? as usize]);
    config.set("num_hash_layers", 0);
    Ok(())
}

fn deepseek_keys(p: &mut Params<'_>) -> Result<()> {
    deepseek4_of_draft(p)?;
    p.need_u32("block_size", &["dspark_block_size"])?;
    let layers = inputs(p.config().get("dspark_target_layer_ids"));
    if layers.is_empty() {
        return Err(Error::input("config.json has no list dspark_target_layer_ids"));
    }
    p.i32s("target_layers", &layers)
}

fn muse(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("block_size", &["block_size"])?;
    let layers = inputs(p.config().get("target_layer_ids"));
    p.i32s("target_layers", &layers)?;
    if let (Some(window), Some(slides)) = (p.config().u64("sliding_window").filter(|w| *w > 0), p.sliding_layers()) {
        p.u32("attention.sliding_window", window)?;
        p.sliding_pattern(&slides);
    }
    Ok(())
}
