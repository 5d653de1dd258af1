//! The decoder of WavTokenizer: tokens of a voice become sound.

use gguf::{Error, Result};

use crate::config::as_u64;
use crate::hf::{BASE, Class, NameRule, Params, Types, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["WavTokenizerDec"],
    arch: "wavtokenizer-dec",
    vocabulary: VocabKind::None,
    spelling: &[WAVTOKENIZER],
    rename: |_, name| {
        let of_training = ["codebook.cluster_size", "codebook.embed_avg", "codebook.inited"];
        (!of_training.iter().any(|end| name.ends_with(end))).then(|| name.to_owned())
    },
    types: Types::Also(&[".norm1.weight", ".norm2.weight"]),
    keys: wavtokenizer,
    remark: "convolutions; no tokenizer of text",
    ..BASE
}];

const WAVTOKENIZER: &[NameRule] = &[
    r("backbone.embedding", "token_embd"),
    r("backbone.norm", "token_embd_norm"),
    r("backbone.embed", "conv1d"),
    r("backbone.convnext.{}.dwconv", "convnext.{}.dw"),
    r("backbone.convnext.{}.norm", "convnext.{}.norm"),
    r("backbone.convnext.{}.pwconv1", "convnext.{}.pw1"),
    r("backbone.convnext.{}.pwconv2", "convnext.{}.pw2"),
    r("backbone.convnext.{}.gamma", "convnext.{}.gamma"),
    r("backbone.posnet.{}.conv1", "posnet.{}.conv1"),
    r("backbone.posnet.{}.conv2", "posnet.{}.conv2"),
    r("backbone.posnet.{}.norm1", "posnet.{}.norm1"),
    r("backbone.posnet.{}.norm2", "posnet.{}.norm2"),
    r("backbone.posnet.{}.norm", "posnet.{}.attn_norm"),
    r("backbone.posnet.{}.q", "posnet.{}.attn_q"),
    r("backbone.posnet.{}.k", "posnet.{}.attn_k"),
    r("backbone.posnet.{}.v", "posnet.{}.attn_v"),
    r("backbone.posnet.{}.proj_out", "posnet.{}.attn_output"),
    r("backbone.final_layer_norm", "output_norm"),
    r("head.out", "output"),
];

fn wavtokenizer(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.need_u32("vocab_size", &["vocab_size"])?;
    p.need_u32("features_length", &["n_embd_features"])?;
    p.need_u32("feed_forward_length", &["n_ff"])?;
    p.need_f32("attention.group_norm_epsilon", &["group_norm_epsilon"])?;
    p.need_u32("attention.group_norm_groups", &["group_norm_groups"])?;
    for part in ["posnet", "convnext"] {
        for (key, name) in [("embedding_length", "n_embd"), ("block_count", "n_layer")] {
            let value = p.config().get(part).and_then(|part| part.get(name)).and_then(as_u64);
            let value = value.ok_or_else(|| Error::input(format!("config.json has no {name} of {part}")))?;
            p.u32(&format!("{part}.{key}"), value)?;
        }
    }
    p.set("attention.causal", false);
    Ok(())
}
