//! BERT.

use gguf::{Array, Result};

use crate::config::Config;
use crate::hf::{BASE, Class, How, Outputs, Params, Piece, Rule, r};
use crate::tokenizer::VocabKind;

pub(in crate::hf) const ROWS: &[Class] = &[Class {
    names: &["BertModel", "BertForMaskedLM", "BertForSequenceClassification", "CamembertModel"],
    arch: "bert",
    defaults: r#"{"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 2, "vocab_size": 30522}"#,
    vocabulary: VocabKind::Bert,
    spelling: &[BERT],
    prefixes: &[("bert.", "")],
    unused: &["embeddings.position_ids", "pooler.dense.", "cls.predictions", "cls.seq_relationship"],
    keys: bert,
    remark: "embedding models; labels of classifiers",
    ..BASE
}];

const BERT: &[Rule] = &[
    r("embeddings.word_embeddings", "token_embd"),
    r("embeddings.position_embeddings", "position_embd"),
    r("embeddings.token_type_embeddings", "token_types"),
    r("embeddings.LayerNorm", "token_embd_norm"),
    r("encoder.layer.{}.attention.self.query", "blk.{}.attn_q"),
    r("encoder.layer.{}.attention.self.key", "blk.{}.attn_k"),
    r("encoder.layer.{}.attention.self.value", "blk.{}.attn_v"),
    r("encoder.layer.{}.attention.output.dense", "blk.{}.attn_output"),
    r("encoder.layer.{}.attention.output.LayerNorm", "blk.{}.attn_output_norm"),
    r("encoder.layer.{}.intermediate.dense", "blk.{}.ffn_up"),
    r("encoder.layer.{}.output.dense", "blk.{}.ffn_down"),
    r("encoder.layer.{}.output.LayerNorm", "blk.{}.layer_output_norm"),
    r("classifier", "cls").how(How::Split(classifier)),
    r("classifier.dense", "cls"),
    r("classifier.out_proj", "cls.output"),
];

/// The names of a classifier's outputs in order, but for the two that the library makes up.
fn labels(config: &Config) -> Option<Vec<String>> {
    let mut labels: Vec<(u64, String)> = config
        .get("id2label")?
        .as_object()?
        .iter()
        .filter_map(|(id, label)| Some((id.parse().ok()?, label.as_str()?.to_owned())))
        .collect();
    labels.sort();
    let dummy = labels.len() == 2 && labels[0].1 == "LABEL_0";
    (!labels.is_empty() && !dummy).then(|| labels.into_iter().map(|(_, label)| label).collect())
}

fn classifier(config: &Config, piece: &Piece) -> Result<Outputs> {
    let to = if labels(config).is_some() { "cls.output" } else { piece.to.as_str() };
    Ok(vec![(format!("{to}{}", piece.suffix), piece.rows.clone())])
}

fn bert(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.set("attention.causal", false);
    p.pooling()?;
    if let Some(labels) = labels(p.config()) {
        p.set("classifier.output_labels", Array::strings(labels));
    }
    Ok(())
}
