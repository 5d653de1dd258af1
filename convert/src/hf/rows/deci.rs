//! DeciLM and Nemotron's pruned Llamas: layers of unequal kinds.

use gguf::{Error, Result};
use serde_json::Value;

use crate::config::{Config, as_u64};
use crate::hf::rows::llama::{head_dim, quotient, rope_freqs};
use crate::hf::{BASE, Class, ENDS, GATED, How, NORMS, NameRule, Params, r};
use crate::tokenizer::VocabKind;
use crate::transform::rotated;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["DeciLMForCausalLM"],
    arch: "deci",
    vocabulary: VocabKind::Deci,
    spelling: &[ENDS, NORMS, GATED, DECI],
    keys: deci,
    generated: rope_freqs,
    remark: "DeciLM-7B, Llama-3.1-Nemotron-51B, Ultra-253B; layers without attention or with a linear one",
    ..BASE
}];

const DECI: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q")
        .how(How::Change(|c, p| rotated(&p.rows, Heads::of(c, p.block)?.queries))),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k")
        .how(How::Change(|c, p| rotated(&p.rows, Heads::of(c, p.block)?.turned_keys()))),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    r("model.layers.{}.self_attn.linear_attn", "blk.{}.attn_output"),
];

/// Heads of a layer.
#[derive(Clone, Copy)]
struct Heads {
    queries: u64,
    keys: Option<u64>,
}

impl Heads {
    fn of(config: &Config, block: u64) -> Result<Heads> {
        let queries = config.need_u64(&["num_attention_heads"])?;
        let missing = || Error::input(format!("config.json has no heads for layer {block}"));
        if let Some(keys) = config.get("num_key_value_heads_per_layer") {
            let keys = keys.get(block as usize).and_then(as_u64).ok_or_else(missing)?;
            return Ok(Heads { queries, keys: Some(keys) });
        }
        let Some(layers) = config.get("block_configs") else {
            return Ok(Heads { queries, keys: config.u64("num_key_value_heads") });
        };
        let attention = &layers.get(block as usize).ok_or_else(missing)?["attention"];
        Ok(match as_u64(&attention["n_heads_in_group"]) {
            Some(group) if group > 0 => Heads { queries, keys: Some(queries / group) },
            _ if attention["replace_with_linear"] == true => Heads { queries, keys: Some(0) },
            _ => Heads { queries: 0, keys: Some(0) },
        })
    }

    fn turned_keys(self) -> u64 {
        self.keys.unwrap_or(self.queries)
    }
}

/// The width of a feed-forward by its multiplier, in steps of 256.
fn inner(multiplier: &Value, width: u64) -> u64 {
    const STEP: u64 = 256;
    let size = (2.0 * multiplier.as_f64().unwrap_or(0.0) * width as f64 / 3.0) as u64;
    size.next_multiple_of(STEP)
}

fn deci(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    if let Some(layers) = config.get("block_configs").and_then(Value::as_array) {
        let blocks = config.blocks()?;
        if layers.len() as u64 != blocks {
            return Err(Error::input(format!("config.json describes {} of {blocks} layers", layers.len())));
        }
        let width = config.need_u64(&["hidden_size"])?;
        let heads = (0..blocks).map(|b| Heads::of(config, b)).collect::<Result<Vec<Heads>>>()?;
        let each = |f: &dyn Fn(&Heads) -> u64| heads.iter().map(|h| f(h) as i64).collect::<Vec<i64>>();
        if let Some(base) = config.rope_f64("rope_theta") {
            p.f32("rope.freq_base", base);
        }
        p.i32s("attention.head_count_kv", &each(&|h| h.keys.unwrap_or(0)))?;
        p.i32s("attention.head_count", &each(&|h| h.queries))?;
        let inner: Vec<i64> = layers.iter().map(|l| inner(&l["ffn"]["ffn_mult"], width) as i64).collect();
        p.i32s("feed_forward_length", &inner)?;
        p.blocks()?;
        p.need_u32("context_length", &["max_position_embeddings"])?;
        p.u32("embedding_length", width)?;
        p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
        let head = quotient(config)?;
        p.u32("attention.key_length", head)?;
        p.u32("attention.value_length", head)?;
        p.file_type();
    } else {
        Params::common(p)?;
        if config.get("num_key_value_heads_per_layer").is_some() {
            p.need_i32s("attention.head_count_kv", "num_key_value_heads_per_layer")?;
        }
    }
    p.need_u32("vocab_size", &["vocab_size"])?;
    let head = head_dim(config)?;
    p.u32("rope.dimension_count", head)
}
