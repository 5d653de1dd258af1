//! ChatGLM 2 and 3, GLM-4-9B: the models of Tsinghua before GLM-4-0414.

use gguf::Result;

use crate::hf::{ATTENTION, BASE, Class, ENDS, NORMS, NameRule, Params, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["ChatGLMModel", "ChatGLMForConditionalGeneration"],
        spelling: &[CHATGLM],
        prefixes: &[("transformer.", "")],
        remark: "ChatGLM 2 and 3, GLM-4-9B with its own code",
        ..BASE_GLM
    },
    Class {
        names: &["GlmForCausalLM"],
        defaults: r#"{"num_key_value_heads": 2, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
            "num_attention_heads": 32, "vocab_size": 151552,
            "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_type": "default"}}"#,
        spelling: &[ENDS, ATTENTION, NORMS, GLM],
        // Files have what the model's own code had, whatever the library's class says.
        beyond: |config| {
            let eps = config.f64("rms_norm_eps").map(|eps| ("attention.layer_norm_rms_epsilon", eps as f32));
            let base = config.rope_f64("rope_theta").map(|base| ("rope.freq_base", base as f32));
            [eps, base].into_iter().flatten().map(|(key, value)| (key, value.into())).collect()
        },
        remark: "GLM-4-9B as the library has it",
        ..BASE_GLM
    },
];

const BASE_GLM: Class = Class {
    arch: "chatglm",
    vocabulary: VocabKind::ChatGlm,
    unused: &["rotary_pos_emb.inv_freq"],
    keys: chatglm,
    ..BASE
};

const CHATGLM: &[NameRule] = &[
    r("embedding.word_embeddings", "token_embd"),
    r("encoder.final_layernorm", "output_norm"),
    r("output_layer", "output"),
    r("encoder.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("encoder.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    r("encoder.layers.{}.self_attention.query_key_value", "blk.{}.attn_qkv"),
    r("encoder.layers.{}.self_attention.dense", "blk.{}.attn_output"),
    r("encoder.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
    r("encoder.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
];

const GLM: &[NameRule] =
    &[r("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"), r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down")];

fn chatglm(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    let width = config.need_u64(&["hidden_size", "n_embed"])?;
    let heads = config.need_u64(&["n_head", "num_attention_heads"])?;
    let or = |names: &[&str], default: u64| {
        if config.first(names).is_some() { config.need_u64(names) } else { Ok(default) }
    };
    p.u32("context_length", or(&["seq_length"], width)?)?;
    p.u32("embedding_length", width)?;
    p.u32("feed_forward_length", or(&["ffn_hidden_size", "intermediate_size"], width.saturating_mul(4))?)?;
    p.blocks()?;
    p.u32("attention.head_count", heads)?;
    p.u32("attention.head_count_kv", or(&["multi_query_group_num", "num_key_value_heads"], heads)?)?;
    p.f32("attention.layer_norm_rms_epsilon", config.f64("layernorm_epsilon").unwrap_or(1e-5));
    p.file_type();
    let head = or(&["attention_dim"], config.need_u64(&["hidden_size"])? / config.heads()?)?;
    let factor = config.rope_f64("partial_rotary_factor").unwrap_or(0.5);
    p.u32("rope.dimension_count", (head as f64 * factor) as u64)?;
    p.set("tokenizer.ggml.add_bos_token", false);
    p.f32("rope.freq_base", 10000.0 * config.f64("rope_ratio").unwrap_or(1.0));
    Ok(())
}
