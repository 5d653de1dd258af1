//! BERT and those of its form: RoBERTa, XLM-RoBERTa, DistilBERT, and Jina's.

use gguf::{Array, Error, Result};
use serde_json::Value;

use crate::config::Config;
use crate::hf::{BASE, Class, How, NameRule, Outputs, Params, Piece, r};
use crate::names::{self, with_block};
use crate::safetensors::Stored;
use crate::tasks::Task;
use crate::tokenizer::{VocabKind, truthy};
use crate::transform::{self, reshaped, sliced, transposed};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class { names: &["BertModel", "BertForMaskedLM"], remark: "embedding models", ..BERT },
    Class {
        names: &["BertForSequenceClassification"],
        pooler: Some("pooler.dense"),
        remark: "classifiers and their labels, rerankers; llama.cpp scores without the layer before the classifier",
        ..BERT
    },
    Class {
        names: &["CamembertModel"],
        defaults: ROBERTA_DEFAULTS,
        beyond: |config| {
            let pad = config.u64("pad_token_id");
            pad.map(|pad| ("position_offset", pad.saturating_add(1).into())).into_iter().collect()
        },
        departs: |_| Some("positions begin behind that of padding, llama.cpp begins at 0"),
        remark: "as BERT: llama.cpp begins at the position 0 where the model begins at 2",
        ..BERT
    },
    Class {
        names: &["RobertaModel", "RobertaForSequenceClassification"],
        remark: "positions from the first that a text has; classifiers",
        ..ROBERTA
    },
    Class {
        names: &["XLMRobertaModel", "XLMRobertaForSequenceClassification"],
        when: |root| !root.get("lora_adaptations").is_some_and(truthy),
        vocabulary: VocabKind::XlmRoberta,
        remark: "BGE-M3, multilingual E5, rerankers: unigram vocabularies",
        ..ROBERTA
    },
    Class {
        names: &["XLMRobertaModel"],
        arch: "jina-bert-v3",
        vocabulary: VocabKind::XlmRoberta,
        spelling: &[BERT_ENDS, FLASH],
        rename: |_, name| {
            // The weight of a parametrized matrix; what its tasks add goes into files of their own.
            let name = name.replace(".parametrizations.", ".");
            match task_matrix(&name) {
                Some(_) => None,
                None => Some(name.strip_suffix(".original").unwrap_or(&name).to_owned()),
            }
        },
        tasks,
        remark: "Jina v3: rotation; an adapter file for each task",
        ..ROBERTA
    },
    Class { names: &["DistilBertModel", "DistilBertForMaskedLM"], remark: "half of BERT's layers", ..DISTILBERT },
    Class {
        names: &["DistilBertForSequenceClassification"],
        beyond: |_| vec![("classifier.activation", "relu".into())],
        departs: |_| Some("ReLU stands before the classifier, llama.cpp takes the hyperbolic tangent"),
        remark: "the same as a classifier",
        ..DISTILBERT
    },
    Class {
        names: &["JinaBertModel", "JinaBertForMaskedLM"],
        arch: "jina-bert-v2",
        vocabulary: VocabKind::JinaBert2,
        spelling: &[BERT_ENDS, BERT_ATTENTION, JINA_V2],
        remark: "Jina v2: ALiBi; llama.cpp gates with the other half in the model for code",
        ..BERT
    },
];

const BERT: Class = Class {
    arch: "bert",
    defaults: r#"{"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 2, "vocab_size": 30522,
        "pad_token_id": 0}"#,
    vocabulary: VocabKind::Bert,
    spelling: &[BERT_ENDS, BERT_ATTENTION, BERT_FEED],
    prefixes: &[("bert.", "")],
    unused: &["embeddings.position_ids", "pooler.dense.", "cls.predictions", "cls.seq_relationship"],
    keys: encoder,
    ..BASE
};

const DISTILBERT: Class = Class {
    defaults: r#"{"vocab_size": 30522, "max_position_embeddings": 512, "n_layers": 6, "n_heads": 12, "dim": 768,
        "hidden_dim": 3072}"#,
    aliases: &[("hidden_size", "dim"), ("num_attention_heads", "n_heads"), ("num_hidden_layers", "n_layers")],
    spelling: &[BERT_ENDS, DISTILBERT_LAYER],
    prefixes: &[("distilbert.", ""), ("bert.", "")],
    unused: &["vocab_", "embeddings.position_ids"],
    keys: |p| {
        p.f32("attention.layer_norm_epsilon", 1e-12);
        encoder(p)
    },
    ..BERT
};

const ROBERTA_DEFAULTS: &str = r#"{"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 2,
    "vocab_size": 30522, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}"#;

const ROBERTA: Class = Class {
    defaults: ROBERTA_DEFAULTS,
    vocabulary: VocabKind::Roberta,
    spelling: &[ROBERTA_ENDS, BERT_ATTENTION, BERT_FEED],
    prefixes: &[("roberta.", ""), ("bert.", "")],
    prepare: without_first_positions,
    ..BERT
};

/// What stands before and behind the layers.
pub(super) const BERT_ENDS: &[NameRule] = &[
    r("embeddings.word_embeddings", "token_embd"),
    r("embeddings.position_embeddings", "position_embd"),
    r("embeddings.token_type_embeddings", "token_types"),
    r("embeddings.LayerNorm", "token_embd_norm"),
    r("emb_ln", "token_embd_norm"),
    r("pre_classifier", "cls"),
    r("classifier", "cls").how(How::Split(classifier)),
    r("classifier.dense", "cls"),
    r("classifier.out_proj", "cls.output"),
];

const ROBERTA_ENDS: &[NameRule] = &[
    BERT_ENDS[0],
    r("embeddings.position_embeddings", "position_embd").how(How::Cut(from_first_position)),
    BERT_ENDS[2],
    BERT_ENDS[3],
    BERT_ENDS[6],
    BERT_ENDS[7],
    BERT_ENDS[8],
];

const BERT_ATTENTION: &[NameRule] = &[
    r("encoder.layer.{}.attention.self.query", "blk.{}.attn_q"),
    r("encoder.layer.{}.attention.self.key", "blk.{}.attn_k"),
    r("encoder.layer.{}.attention.self.value", "blk.{}.attn_v"),
    r("encoder.layer.{}.attention.output.dense", "blk.{}.attn_output"),
];

const BERT_FEED: &[NameRule] = &[
    r("encoder.layer.{}.attention.output.LayerNorm", "blk.{}.attn_output_norm"),
    r("encoder.layer.{}.intermediate.dense", "blk.{}.ffn_up"),
    r("encoder.layer.{}.output.dense", "blk.{}.ffn_down"),
    r("encoder.layer.{}.output.LayerNorm", "blk.{}.layer_output_norm"),
];

const DISTILBERT_LAYER: &[NameRule] = &[
    r("transformer.layer.{}.attention.q_lin", "blk.{}.attn_q"),
    r("transformer.layer.{}.attention.k_lin", "blk.{}.attn_k"),
    r("transformer.layer.{}.attention.v_lin", "blk.{}.attn_v"),
    r("transformer.layer.{}.attention.out_lin", "blk.{}.attn_output"),
    r("transformer.layer.{}.sa_layer_norm", "blk.{}.attn_output_norm"),
    r("transformer.layer.{}.ffn.lin1", "blk.{}.ffn_up"),
    r("transformer.layer.{}.ffn.lin2", "blk.{}.ffn_down"),
    r("transformer.layer.{}.output_layer_norm", "blk.{}.layer_output_norm"),
];

const FLASH: &[NameRule] = &[
    r("encoder.layers.{}.mixer.Wqkv", "blk.{}.attn_qkv"),
    r("encoder.layers.{}.mixer.out_proj", "blk.{}.attn_output"),
    r("encoder.layers.{}.norm1", "blk.{}.attn_output_norm"),
    r("encoder.layers.{}.mlp.fc1", "blk.{}.ffn_up"),
    r("encoder.layers.{}.mlp.fc2", "blk.{}.ffn_down"),
    r("encoder.layers.{}.norm2", "blk.{}.layer_output_norm"),
];

const JINA_V2: &[NameRule] = &[
    r("encoder.layer.{}.attention.output.LayerNorm", "blk.{}.attn_output_norm"),
    r("encoder.layer.{}.attention.self.layer_norm_q", "blk.{}.attn_q_norm"),
    r("encoder.layer.{}.attention.self.layer_norm_k", "blk.{}.attn_k_norm"),
    r("encoder.layer.{}.layer_norm_1", "blk.{}.attn_norm_2"),
    r("encoder.layer.{}.mlp.gated_layers", "blk.{}.ffn_up"),
    r("encoder.layer.{}.mlp.up_gated_layer", "blk.{}.ffn_up"),
    r("encoder.layer.{}.mlp.gated_layers_v", "blk.{}.ffn_up"),
    r("encoder.layer.{}.mlp.gated_layers_w", "blk.{}.ffn_gate"),
    r("encoder.layer.{}.mlp.wo", "blk.{}.ffn_down"),
    r("encoder.layer.{}.mlp.down_layer", "blk.{}.ffn_down"),
    r("encoder.layer.{}.mlp.layernorm", "blk.{}.layer_output_norm"),
    r("encoder.layer.{}.layer_norm_2", "blk.{}.layer_output_norm"),
];

/// The names of a classifier's outputs in order, but for the two that the library makes up.
pub(super) fn labels(config: &Config) -> Option<Vec<String>> {
    let stated = config.get("id2label").and_then(Value::as_object);
    let mut labels: Vec<(String, String)> = match stated {
        Some(stated) => stated.iter().filter_map(|(id, l)| Some((id.clone(), l.as_str()?.to_owned()))).collect(),
        // The library names as many as there are, two where nothing is said.
        None if config.is_known() => {
            let count = config.u64("num_labels").unwrap_or(2).min(MOST_LABELS);
            (0..count).map(|id| (id.to_string(), format!("LABEL_{id}"))).collect()
        }
        None => return None,
    };
    // The library has numbers for ids; what it does not know is sorted as text.
    let number = |id: &str| if config.is_known() { id.parse::<u64>().ok() } else { None };
    labels.sort_by(|(a, _), (b, _)| number(a).cmp(&number(b)).then_with(|| a.cmp(b)));
    let dummy = labels.len() == 2 && labels.iter().any(|(id, label)| id == "0" && label == "LABEL_0");
    (!labels.is_empty() && !dummy).then(|| labels.into_iter().map(|(_, label)| label).collect())
}

/// More labels than any classifier has.
const MOST_LABELS: u64 = 1 << 20;

/// Scores of a classifier whose labels have names; a hidden layer of one whose labels have none.
pub(super) fn classifier(config: &Config, piece: &Piece) -> Result<Outputs> {
    let to = if labels(config).is_some() { "cls.output" } else { piece.to.as_str() };
    Ok(vec![(format!("{to}{}", piece.suffix), piece.rows.clone())])
}

/// The position of a text's first token.
pub(crate) const FIRST_POSITION: &str = "position of the first token";

/// Positions begin behind that of padding.
fn without_first_positions(config: &mut Config) -> Result<()> {
    let Some(pad) = config.u64("pad_token_id") else { return Ok(()) };
    let first = pad.saturating_add(1);
    config.set(FIRST_POSITION, first);
    if let Some(count) = config.u64("max_position_embeddings") {
        let left = count.checked_sub(first).filter(|n| *n > 0);
        let left = left.ok_or_else(|| {
            Error::input(format!(
                "config.json: {count} positions with padding at {pad} leave none for text: texts begin behind it"
            ))
        })?;
        config.set("max_position_embeddings", left);
    }
    Ok(())
}

fn from_first_position(config: &Config, piece: &Piece) -> Result<Outputs> {
    let first = config.u64(FIRST_POSITION).unwrap_or(0);
    let count = piece.rows.shape().first().copied().unwrap_or(0);
    let left = count.checked_sub(first).filter(|n| *n > 0);
    let left = left.ok_or_else(|| Error::input(format!("its {count} positions end before the first of a text")))?;
    Ok(vec![(format!("{}{}", piece.to, piece.suffix), sliced(&piece.rows, 0, first, left)?)])
}

/// A matrix that tasks add to a weight: the weight's name, and whether the matrix is the second one.
fn task_matrix(name: &str) -> Option<(&str, bool)> {
    let first = name.strip_suffix(".0.lora_A").map(|weight| (weight, false));
    first.or_else(|| name.strip_suffix(".0.lora_B").map(|weight| (weight, true)))
}

/// The matrices of each task, which the checkpoint stacks.
fn tasks(config: &Config, class: &'static Class, stored: &[Stored]) -> Result<Vec<Task>> {
    let names = config.get("lora_adaptations").and_then(Value::as_array);
    let names: Option<Vec<&str>> = names.and_then(|names| names.iter().map(Value::as_str).collect());
    let names = names.ok_or_else(|| Error::input("config.json: lora_adaptations is no list of names"))?;
    let alpha = config.f64("lora_alpha").unwrap_or(1.0) as f32;
    let prefixes = config.get("task_instructions").filter(|p| truthy(p));
    let mut tasks = Vec::new();
    for name in &names {
        let prefix = match prefixes {
            None => None,
            Some(prefixes) => Some(prefixes[*name].as_str().map(str::to_owned).ok_or_else(|| {
                Error::input(format!("config.json: task_instructions says nothing of {}", name.escape_debug()))
            })?),
        };
        tasks.push(Task { name: (*name).to_owned(), alpha, prefix, tensors: Vec::new() });
    }
    for tensor in stored {
        let name = tensor.name().replace(".parametrizations.", ".");
        let name = name.strip_prefix("roberta.").unwrap_or(&name);
        let Some((weight, second)) = task_matrix(name).filter(|(weight, _)| !weight.starts_with("pooler.dense")) else {
            continue;
        };
        let fault = |e: Error| e.in_tensor(tensor.name());
        let found = names::find(class, weight);
        let to = found.and_then(|f| Some(with_block(names::rules(class).nth(f.index)?.to, f.block) + f.suffix));
        let to = to.ok_or_else(|| fault(Error::input(format!("{weight} has no place in a {} file", class.arch))))?;
        let rows = transform::stored(tensor)?;
        let &[count, height, width] = rows.shape() else {
            return Err(fault(Error::input(format!("its shape {:?} is not that of matrices", rows.shape()))));
        };
        if count != names.len() as u64 {
            return Err(fault(Error::input(format!("it is of {count} tasks, config.json names {}", names.len()))));
        }
        // Tables are looked up in, not multiplied with: what is first of a matrix is second of a table.
        let (swapped, turned) = (to == "token_types.weight", second && to == "token_embd.weight");
        let name = format!("{to}.lora_{}", if second == swapped { "a" } else { "b" });
        for (i, task) in (0..).zip(&mut tasks) {
            let own = sliced(&rows, 0, i, 1).and_then(|own| reshaped(&own, vec![height, width])).map_err(fault)?;
            task.tensors.push((name.clone(), if turned { transposed(&own).map_err(fault)? } else { own }));
        }
    }
    Ok(tasks)
}

/// The keys of an encoder: common ones, how states are pooled, and what is scored.
pub(super) fn encoder(p: &mut Params<'_>) -> Result<()> {
    Params::common(p)?;
    p.set("attention.causal", false);
    p.pooling()?;
    if let Some(labels) = labels(p.config()) {
        p.set("classifier.output_labels", Array::strings(labels));
    }
    Ok(())
}
