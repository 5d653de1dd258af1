//! Qwen 2 and 3, dense and with experts.

use gguf::{Array, Error, Result};
use serde_json::{Map, Value};

use crate::config::{Config, RAW};
use crate::hf::rows::llama::{halves, local_experts};
use crate::hf::{
    ATTENTION, BARE, BASE, Class, Contents, ENDS, GATED, HEAD_NORMS, How, Key, NORMS, NameRule, Outputs, Params, Piece,
    r, switched_window, window,
};
use crate::tokenizer::{self, VocabKind};
use crate::transform::permuted;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["QWenLMHeadModel"],
        arch: "qwen",
        vocabulary: VocabKind::Qwen,
        spelling: &[QWEN1],
        beyond: one_epsilon,
        remark: "Qwen 1; query, key and value are one tensor; llama.cpp asks for an epsilon that its converter leaves out",
        ..BASE
    },
    Class {
        names: &[
            "Qwen2ForCausalLM",
            "Qwen2Model",
            "Qwen2AudioForConditionalGeneration",
            "AudioFlamingo3ForConditionalGeneration",
        ],
        beyond: |config| switched_window(config, |layer, most| layer >= most),
        remark: "Qwen 1.5, 2, 2.5; biases of query, key and value",
        ..QWEN2
    },
    Class {
        names: &["KORMoForCausalLM", "DotsOCRForCausalLM"],
        defaults: RAW,
        remark: "the same model by other makers",
        ..QWEN2
    },
    Class {
        names: &["Qwen3ForCausalLM"],
        when: is_intern_s1,
        vocabulary: VocabKind::InternS1,
        remark: "the text model of Intern-S1 mini",
        ..QWEN3
    },
    Class {
        names: &["Qwen3ForCausalLM", "Qwen3Model"],
        beyond: |config| switched_window(config, |layer, most| layer >= most),
        remark: "norms of each head; rerankers",
        ..QWEN3
    },
    Class { names: &["StepVLForConditionalGeneration"], remark: "the text model of Step3-VL", ..QWEN3 },
    Class {
        names: &["Qwen2MoeForCausalLM"],
        arch: "qwen2moe",
        defaults: r#"{"num_key_value_heads": 16, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768,
            "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "num_hidden_layers": 24,
            "num_attention_heads": 16, "shared_expert_intermediate_size": 5632, "vocab_size": 151936,
            "intermediate_size": 5632, "hidden_size": 2048, "tie_word_embeddings": false,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, NORMS, DENSE_OR_EXPERTS, EXPERTS, SHARED_EXPERT],
        keys: qwen_moe,
        beyond: |config| {
            let mut keys = switched_window(config, |layer, most| layer % 2 == 0 && layer < most);
            keys.push(weights_norm(config));
            keys
        },
        remark: "Qwen 1.5 and 2 with experts and one that all tokens share",
        ..BASE
    },
    Class {
        names: &["Qwen3MoeForCausalLM"],
        when: is_intern_s1,
        vocabulary: VocabKind::InternS1,
        remark: "the text model of Intern-S1",
        ..QWEN3_MOE
    },
    Class {
        names: &["Qwen3MoeForCausalLM"],
        beyond: |config| {
            let windowed = config.bool("use_sliding_window") == Some(true);
            let mut keys = if windowed { window(config) } else { Vec::new() };
            keys.push(weights_norm(config));
            keys
        },
        remark: "experts stacked, or fused ones taken apart",
        ..QWEN3_MOE
    },
    Class {
        names: &["RND1"],
        arch: "rnd1",
        defaults: RAW,
        keys: |p| {
            qwen_moe(p)?;
            p.set("attention.causal", false);
            p.maybe_u32("tokenizer.ggml.mask_token_id", &["mask_token_id"])
        },
        remark: "Qwen 3 with experts and attention in both directions; diffusion",
        ..QWEN3_MOE
    },
];

/// The epsilon of root-mean-square norms, which the maker calls as that of other norms is called: the reference writes it
/// as such alone.
fn one_epsilon(config: &Config) -> Vec<Key> {
    let own = config.first(&["rms_norm_eps", "norm_eps"]).is_some();
    let epsilon = config.f64("layer_norm_epsilon").filter(|_| !own);
    epsilon.map(|epsilon| ("attention.layer_norm_rms_epsilon", (epsilon as f32).into())).into_iter().collect()
}

/// Whether the weights of a token's experts are made to sum to one, which files of these architectures cannot say.
fn weights_norm(config: &Config) -> Key {
    ("expert_weights_norm", config.bool("norm_topk_prob").unwrap_or(false).into())
}

const QWEN2: Class = Class {
    arch: "qwen2",
    defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768,
        "vocab_size": 151936, "intermediate_size": 22016, "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "tie_word_embeddings": false,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    vocabulary: VocabKind::SentencePieceOrGpt2,
    spelling: &[ENDS, ATTENTION, NORMS, GATED],
    prefixes: BARE,
    keys: qwen,
    ..BASE
};

/// Qwen 3; also as a reranker, which scores by the rows of two tokens alone.
pub(super) const QWEN3: Class = Class {
    arch: "qwen3",
    defaults: r#"{"num_key_value_heads": 32, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768, "head_dim": 128,
        "vocab_size": 151936, "intermediate_size": 22016, "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "tie_word_embeddings": false,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    vocabulary: VocabKind::SentencePieceOrGpt2,
    spelling: &[RERANKER_ENDS, ATTENTION, HEAD_NORMS, NORMS, GATED],
    prefixes: BARE,
    inspect: find_reranker,
    keys: qwen3,
    ..BASE
};

pub(super) const QWEN3_MOE: Class = Class {
    arch: "qwen3moe",
    defaults: r#"{"num_key_value_heads": 4, "rms_norm_eps": 1e-06, "max_position_embeddings": 32768, "head_dim": "computed",
        "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "num_hidden_layers": 24,
        "num_attention_heads": 32, "vocab_size": 151936, "intermediate_size": 6144, "hidden_size": 2048,
        "tie_word_embeddings": false, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}"#,
    prepare: one_number_of_experts,
    spelling: &[ENDS, ATTENTION, HEAD_NORMS, NORMS, DENSE_OR_EXPERTS, EXPERTS],
    keys: qwen_moe,
    ..BASE
};

const QWEN1: &[NameRule] = &[
    r("transformer.wte", "token_embd"),
    r("transformer.ln_f", "output_norm"),
    r("lm_head", "output"),
    r("transformer.h.{}.ln_1", "blk.{}.attn_norm"),
    r("transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv"),
    r("transformer.h.{}.attn.c_proj", "blk.{}.attn_output"),
    r("transformer.h.{}.ln_2", "blk.{}.ffn_norm"),
    r("transformer.h.{}.mlp.w1", "blk.{}.ffn_up"),
    r("transformer.h.{}.mlp.w2", "blk.{}.ffn_gate"),
    r("transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"),
];

/// Token embedding, final norm, and an output head. A reranker has only the head's rows of its two answers.
pub(super) const RERANKER_ENDS: &[NameRule] = &[
    r("model.embed_tokens", "token_embd").how(How::Split(|config, piece| {
        let mut out = if is_tied(config) { answers(config, piece)? } else { Vec::new() };
        out.push((format!("{}{}", piece.to, piece.suffix), piece.rows.clone()));
        Ok(out)
    })),
    r("model.norm", "output_norm"),
    r("lm_head", "output").how(How::Cut(|config, piece| {
        let of_answers = if is_tied(config) { Vec::new() } else { answers(config, piece)? };
        let whole = (format!("{}{}", piece.to, piece.suffix), piece.rows.clone());
        let kept = of_answers.is_empty() || config.get(WHOLE_HEAD).is_some();
        Ok(of_answers.into_iter().chain(kept.then_some(whole)).collect())
    })),
];

const STACK: How = How::Stack { group: "experts", members: local_experts };

/// Experts with tensors of their own.
pub(super) const SEPARATE_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(STACK),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(STACK),
];

/// What chooses the experts.
pub(super) const ROUTER: &[NameRule] = &[r("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp")];

/// Experts, each with its own tensors or all in one.
pub(super) const EXPERTS: &[NameRule] =
    &[SEPARATE_EXPERTS[0], SEPARATE_EXPERTS[1], SEPARATE_EXPERTS[2], FUSED_EXPERTS[0], FUSED_EXPERTS[1], ROUTER[0]];

/// Experts in one tensor for all.
pub(super) const FUSED_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.experts.down_proj", "blk.{}.ffn_down_exps").how(How::Split(fused_down)),
    r("model.layers.{}.mlp.experts.gate_up_proj", "blk.{}.ffn_").how(How::Split(fused_halves)),
];

/// The feed-forward of a layer without experts.
pub(super) const DENSE_OR_EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    r("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
];

pub(super) const SHARED_EXPERT: &[NameRule] = &[
    r("model.layers.{}.mlp.shared_expert.down_proj", "blk.{}.ffn_down_shexp"),
    r("model.layers.{}.mlp.shared_expert.gate_proj", "blk.{}.ffn_gate_shexp"),
    r("model.layers.{}.mlp.shared_expert.up_proj", "blk.{}.ffn_up_shexp"),
    r("model.layers.{}.mlp.shared_expert_gate", "blk.{}.ffn_gate_inp_shexp"),
];

fn fused_down(_: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(vec![(format!("{}.weight", piece.to), piece.rows.clone())])
}

fn fused_halves(_: &Config, piece: &Piece) -> Result<Outputs> {
    let name = |kind: &str| format!("{}{kind}_exps.weight", piece.to);
    halves(&piece.rows, name("gate"), name("up"))
}

/// A default must not stand beside a stated number of the other spelling.
fn one_number_of_experts(config: &mut Config) -> Result<()> {
    if let Some(experts) = config.u64("num_experts") {
        config.set("num_local_experts", experts);
    }
    Ok(())
}

/// Whether the folder is that of Intern-S1, whose text model this is.
fn is_intern_s1(root: &Map<String, Value>) -> bool {
    root.get("architectures").and_then(|a| a.get(0)).is_some_and(|class| class == "InternS1ForConditionalGeneration")
}

/// What rerankers are called in their cards and names.
const RERANKERS: [&str; 2] = ["qwen3-reranker", "qwen3-vl-reranker"];

/// A reranker says so in its card or in a name; it is scored by the answers "yes" and "no".
pub(super) fn find_reranker(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let card = crate::json::read_bytes(&contents.folder.join("README.md")).unwrap_or_default();
    let card = String::from_utf8_lossy(&card).to_lowercase();
    let folder = contents.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let class = config.origin().to_lowercase();
    let names = [&folder, config.str("_name_or_path").unwrap_or(""), config.str("model_type").unwrap_or(""), &class];
    let is_named = names.iter().any(|name| RERANKERS.iter().any(|hint| name.to_lowercase().contains(hint)));
    let is_titled = RERANKERS.iter().any(|hint| card.contains(&format!("# {hint}")));
    if is_named || is_titled || class.contains("sequenceclassification") {
        let answers: Vec<u32> = ["yes", "no"]
            .iter()
            .map(|text| {
                let help = "a reranker is scored by the answers \"yes\" and \"no\"";
                let id = tokenizer::id_of(contents.folder, text)?;
                id.ok_or_else(|| Error::input(format!("the tokenizer has no token \"{text}\"")).help(help))
            })
            .collect::<Result<_>>()?;
        config.set(ANSWERS, answers);
        if contents.whole_head {
            config.set(WHOLE_HEAD, true);
        }
    }
    Ok(())
}

/// The ids of a reranker's answers.
pub(crate) const ANSWERS: &str = "answers of a reranker";

/// Whether a reranker keeps the rows of all tokens too.
pub(crate) const WHOLE_HEAD: &str = "whole head of a reranker";

fn is_tied(config: &Config) -> bool {
    config.bool("tie_word_embeddings") == Some(true)
}

/// The rows of a reranker's answers; nothing for other models.
fn answers(config: &Config, piece: &Piece) -> Result<Outputs> {
    if config.get(ANSWERS).is_none() || piece.suffix != ".weight" {
        return Ok(Vec::new());
    }
    Ok(vec![("cls.output.weight".to_owned(), permuted(&piece.rows, config.need_list(&[ANSWERS])?)?)])
}

/// The template by which a reranker is asked.
const RERANK: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the \
    Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n\
    <Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {query}\n\
    <Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

/// The keys that all of Qwen 2 and 3 have.
pub(super) fn qwen(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.pooling()
}

/// The keys of Qwen 3 and its rerankers.
pub(super) fn qwen3(p: &mut Params<'_>) -> Result<()> {
    qwen(p)?;
    if p.config().get(ANSWERS).is_some() {
        p.u32("pooling_type", 4)?;
        p.set("classifier.output_labels", Array::strings(["yes", "no"]));
        p.set("tokenizer.chat_template.rerank", RERANK);
        p.set("tokenizer.chat_templates", Array::strings(["rerank"]));
    }
    Ok(())
}

/// The keys of experts.
pub(super) fn qwen_moe(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.maybe_u32("expert_feed_forward_length", &["moe_intermediate_size"])?;
    p.maybe_u32("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"])
}
