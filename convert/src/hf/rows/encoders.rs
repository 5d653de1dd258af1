//! Encoders of other forms than BERT's: Nomic's, ModernBERT, NeoBERT, EuroBERT.

use gguf::{Error, Result};
use serde_json::Value;

use super::bert::{BERT_ENDS, classifier, encoder};
use crate::config::{Config, RAW, Rope};
use crate::hf::{ATTENTION, BARE, BASE, Class, GATED, How, NORMS, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::{VocabKind, truthy};
use crate::transform::{Rows, reshaped, transposed};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["NomicBertModel"],
        when: |root| !root.get("moe_every_n_layers").is_some_and(truthy),
        arch: "nomic-bert",
        remark: "Nomic's embedding models: rotation, a gated feed",
        ..NOMIC
    },
    Class {
        names: &["NomicBertModel"],
        arch: "nomic-bert-moe",
        keys: |p| {
            encoder(p)?;
            p.need_u32("moe_every_n_layers", &["moe_every_n_layers"])?;
            p.need_u32("expert_used_count", &["moe_top_k"])
        },
        remark: "the same with experts in every nth layer",
        ..NOMIC
    },
    Class {
        names: &["ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"],
        beyond: |config| {
            let function = config.str("classifier_activation").filter(|f| *f != "gelu");
            function.map(|f| ("classifier.activation", f.into())).into_iter().collect()
        },
        departs: |config| {
            let other = config.str("classifier_activation").is_some_and(|f| f != "gelu");
            let classifies = config.class().ends_with("SequenceClassification");
            (other && classifies).then_some("the classifier's function is not GELU, which llama.cpp takes always")
        },
        arch: "modern-bert",
        defaults: r#"{"vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
            "num_attention_heads": 12, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-05,
            "local_attention": 128, "classifier_pooling": "cls", "pad_token_id": 50283, "eos_token_id": 50282,
            "bos_token_id": 50281, "cls_token_id": 50281, "sep_token_id": 50282, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0}}}"#,
        rope: Rope::Kinds { full: "global_rope_theta", sliding: "local_rope_theta", both: true },
        vocabulary: VocabKind::ModernBert,
        spelling: &[MODERN],
        prefixes: &[("model.", "")],
        unused: &["decoder."],
        prepare: |config| {
            // The class takes a window for the half of a stated one of its own.
            if let (true, Some(half)) = (config.is_known(), config.u64("sliding_window")) {
                config.set("local_attention", half.saturating_mul(2));
                config.remove("sliding_window");
            }
            Ok(())
        },
        keys: modern_bert,
        remark: "windows around each token, a gated feed; classifiers and rerankers",
        ..BASE
    },
    Class {
        names: &["NeoBERT", "NeoBERTLMHead", "NeoBERTForSequenceClassification"],
        arch: "neo-bert",
        defaults: RAW,
        vocabulary: VocabKind::Bert,
        spelling: &[NEO],
        prefixes: &[("model.", "")],
        unused: &["decoder."],
        keys: neo_bert,
        remark: "query, key and value of each head are neighbours, which llama.cpp reads as three blocks",
        ..BASE
    },
    Class {
        names: &["EuroBertModel", "JinaEmbeddingsV5Model"],
        arch: "eurobert",
        // The class of the library pools classifiers in a way that no file can say: the reference reads what is written.
        defaults: RAW,
        vocabulary: VocabKind::EuroBert,
        spelling: &[EURO_ENDS, ATTENTION, NORMS, GATED],
        prefixes: BARE,
        keys: |p| {
            Params::common(p)?;
            p.set("attention.causal", false);
            p.set("rope.scaling.type", "none");
            p.pooling()
        },
        remark: "Llama's layers without a causal mask; Jina v5",
        ..BASE
    },
];

const NOMIC: Class = Class {
    defaults: RAW,
    vocabulary: VocabKind::NomicBert,
    spelling: &[BERT_ENDS, NOMIC_LAYER],
    prefixes: &[("bert.", "")],
    unused: &["embeddings.position_ids", "pooler.dense.", "cls.predictions", "cls.seq_relationship"],
    rename: |_, name| (!name.contains("mlp.experts.bias")).then(|| name.to_owned()),
    prepare: nomic,
    keys: encoder,
    ..BASE
};

const NOMIC_LAYER: &[NameRule] = &[
    r("encoder.layers.{}.attn.Wqkv", "blk.{}.attn_qkv"),
    r("encoder.layers.{}.attn.out_proj", "blk.{}.attn_output"),
    r("encoder.layers.{}.norm1", "blk.{}.attn_output_norm"),
    r("encoder.layers.{}.mlp.fc11", "blk.{}.ffn_up"),
    r("encoder.layers.{}.mlp.fc12", "blk.{}.ffn_gate"),
    r("encoder.layers.{}.mlp.fc1", "blk.{}.ffn_up"),
    r("encoder.layers.{}.mlp.fc2", "blk.{}.ffn_down"),
    r("encoder.layers.{}.mlp.router.layer", "blk.{}.ffn_gate_inp"),
    r("encoder.layers.{}.mlp.experts.mlp.w1", "blk.{}.ffn_up_exps")
        .how(How::Split(|config, piece| named(piece, experts(config, piece)?))),
    r("encoder.layers.{}.mlp.experts.mlp.w2", "blk.{}.ffn_down_exps")
        .how(How::Split(|config, piece| named(piece, transposed(&experts(config, piece)?)?))),
    r("encoder.layers.{}.norm2", "blk.{}.layer_output_norm"),
];

const MODERN: &[NameRule] = &[
    r("embeddings.tok_embeddings", "token_embd"),
    r("embeddings.norm", "token_embd_norm"),
    r("final_norm", "output_norm"),
    r("head.dense", "cls"),
    r("head.norm", "cls.norm"),
    r("classifier", "cls").how(How::Split(classifier)),
    r("layers.{}.attn_norm", "blk.{}.attn_norm"),
    r("layers.{}.attn.Wqkv", "blk.{}.attn_qkv"),
    r("layers.{}.attn.Wo", "blk.{}.attn_output"),
    r("layers.{}.mlp_norm", "blk.{}.ffn_norm"),
    r("layers.{}.mlp.Wi", "blk.{}.ffn_up"),
    r("layers.{}.mlp.Wo", "blk.{}.ffn_down"),
];

const NEO: &[NameRule] = &[
    r("encoder", "token_embd"),
    r("layer_norm", "enc.output_norm"),
    r("dense", "cls"),
    r("classifier", "cls").how(How::Split(classifier)),
    r("transformer_encoder.{}.attention_norm", "blk.{}.attn_norm"),
    r("transformer_encoder.{}.qkv", "blk.{}.attn_qkv"),
    r("transformer_encoder.{}.wo", "blk.{}.attn_output"),
    r("transformer_encoder.{}.ffn_norm", "blk.{}.ffn_norm"),
    r("transformer_encoder.{}.ffn.w12", "blk.{}.ffn_up"),
    r("transformer_encoder.{}.ffn.w3", "blk.{}.ffn_down"),
];

const EURO_ENDS: &[NameRule] = &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm")];

/// What these models are trained for, and the values without which they would be others.
fn nomic(config: &mut Config) -> Result<()> {
    let experts = config.get("moe_every_n_layers").is_some_and(truthy);
    let positions = config.need_u64(&["n_positions"])?;
    let trained = config.u64_or(&["max_trained_positions"], 2048)?;
    let context = match (positions, trained) {
        (8192, 2048) => 2048,
        (2048, 2048) => 512,
        _ => {
            return Err(Error::input(format!(
                "config.json: n_positions is {positions} and max_trained_positions {trained}; known are 8192 and 2048 \
                 with 2048, which are trained for 2048 and 512 tokens"
            )));
        }
    };
    config.set("n_positions", context);
    let activation = if experts { "gelu" } else { "swiglu" };
    for (key, value) in [
        ("activation_function", Value::from(activation)),
        ("causal", false.into()),
        ("qkv_proj_bias", experts.into()),
        ("mlp_fc1_bias", experts.into()),
        ("mlp_fc2_bias", experts.into()),
        ("prenorm", false.into()),
        ("rotary_emb_fraction", 1.0.into()),
        ("rotary_emb_interleaved", false.into()),
        ("rotary_emb_scale_base", Value::Null),
    ] {
        let stated = config.get(key).unwrap_or(&Value::Null);
        let equal = stated == &value || stated.as_f64().is_some_and(|n| Some(n) == value.as_f64());
        if !equal {
            return Err(Error::input(format!("config.json: {key} is {stated}; the format has {value} alone")));
        }
    }
    Ok(())
}

/// Matrices of all experts, which the checkpoint has below each other: `[experts, inner, width]`.
fn experts(config: &Config, piece: &Piece) -> Result<Rows> {
    let experts = config.need_u64(&["num_local_experts", "num_experts"])?;
    reshaped(&piece.rows, vec![experts, config.need_u64(&["n_inner"])?, config.need_u64(&["n_embd"])?])
}

fn named(piece: &Piece, rows: Rows) -> Result<Outputs> {
    Ok(vec![(format!("{}.weight", piece.to), rows)])
}

fn modern_bert(p: &mut Params<'_>) -> Result<()> {
    encoder(p)?;
    p.need_u32("attention.sliding_window", &["local_attention"])?;
    p.maybe_u32("attention.sliding_window_pattern", &["global_attn_every_n_layers"])?;
    p.set("rope.scaling.type", "none");
    p.need_u32("vocab_size", &["vocab_size"])?;
    if let Some(activation) = p.config().str("hidden_activation").filter(|a| !a.is_empty()) {
        p.set("hidden_activation", activation);
    }
    Ok(())
}

fn neo_bert(p: &mut Params<'_>) -> Result<()> {
    encoder(p)?;
    let stated = p.config().need_u64(&["intermediate_size"])?;
    // The gate and what it gates share what is stated.
    p.u32("feed_forward_length", stated.saturating_mul(2) / 3)?;
    p.f32("rope.freq_base", 10_000.0);
    p.set("rope.scaling.type", "none");
    p.f32("attention.layer_norm_rms_epsilon", p.config().f64("norm_eps").unwrap_or(1e-6));
    p.u32("pooling_type", 2)
}
