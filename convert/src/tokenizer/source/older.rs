//! The tokenizers of folders older than `tokenizer.json`, in its form.

use std::path::Path;

use serde_json::{Map, Value, json};

use gguf::{Error, Result};

use crate::tokenizer::{expressions, folder};

/// A class of tokenizers whose vocabulary is `vocab.json` and `merges.txt`.
struct Class {
    names: &'static [&'static str],
    /// The expression that words match; else GPT-2's in the byte-level step.
    words: Option<&'static str>,
    normalizer: Option<&'static str>,
    /// Texts stand between a beginning and a separator.
    encloses: bool,
    /// The roles that the class gives where the folder gives none.
    roles: &'static [(&'static str, &'static str)],
}

const END: &str = "<|endoftext|>";

const CLASSES: &[Class] = &[
    Class {
        names: &["GPT2Tokenizer", "CodeGenTokenizer", ""],
        words: None,
        normalizer: None,
        encloses: false,
        roles: &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
    },
    Class {
        names: &["Qwen2Tokenizer"],
        words: Some(expressions::QWEN2),
        normalizer: Some("NFC"),
        encloses: false,
        roles: &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
    },
    Class {
        names: &["RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"],
        words: None,
        normalizer: None,
        encloses: true,
        roles: ROBERTA_ROLES,
    },
];

/// The special tokens of RoBERTa's and XLM-RoBERTa's tokenizers.
pub(in crate::tokenizer) const ROBERTA_ROLES: &[(&str, &str)] = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("sep_token", "</s>"),
    ("cls_token", "<s>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
    ("mask_token", "<mask>"),
];

/// Those of BERT's.
pub(in crate::tokenizer) const BERT_ROLES: &[(&str, &str)] = &[
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("mask_token", "[MASK]"),
];

/// The classes whose vocabulary is `vocab.txt`.
const WORD_PIECE: [&str; 3] = ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"];

/// A tokenizer of older files.
pub(super) struct Older {
    /// The first of the files.
    pub file: &'static str,
    pub json: Value,
    /// The tokens that the class gives a role where the folder gives none.
    pub roles: &'static [(&'static str, &'static str)],
}

/// The tokenizer of older files; `None` where there are none that are known.
pub(super) fn read(dir: &Path, config: &Value) -> Result<Option<Older>> {
    let class = config["tokenizer_class"].as_str().unwrap_or_default().trim_end_matches("Fast");
    if let Some(class) = CLASSES.iter().find(|c| c.names.contains(&class))
        && let (Some(vocab), Some(merges)) = (folder::json(dir, "vocab.json")?, folder::text(&dir.join("merges.txt"))?)
    {
        let json = byte_level(class, vocab, &merges, config);
        return Ok(Some(Older { file: "vocab.json", json, roles: class.roles }));
    }
    if WORD_PIECE.contains(&class)
        && let Some(text) = folder::text(&dir.join("vocab.txt"))?
    {
        let json = word_piece(&text, config).map_err(|e| e.at(dir.join("vocab.txt")))?;
        return Ok(Some(Older { file: "vocab.txt", json, roles: &[] }));
    }
    Ok(None)
}

fn byte_level(class: &Class, vocab: Value, merges: &str, config: &Value) -> Value {
    let prefix = config["add_prefix_space"].as_bool().unwrap_or(false);
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let pre = match class.words {
        None => bytes(true),
        Some(words) => {
            let split = json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
        }
    };
    let role = |role: &str| {
        let given = config[role].as_str().or(config[role]["content"].as_str());
        given.or(class.roles.iter().find(|(r, _)| *r == role).map(|(_, text)| *text)).unwrap_or_default().to_owned()
    };
    let end = |text: String| json!([text, vocab[&text].as_u64().unwrap_or(0)]);
    let post = class.encloses.then(|| {
        json!({"type": "RobertaProcessing", "sep": end(role("sep_token")), "cls": end(role("cls_token")), "trim_offsets": true, "add_prefix_space": prefix})
    });
    let merges: Vec<&str> = merges.lines().filter(|l| !l.starts_with("#version") && !l.trim().is_empty()).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": class.normalizer.map(|name| json!({"type": name})), "pre_tokenizer": pre, "post_processor": post,
        "decoder": bytes(true), "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

fn word_piece(text: &str, config: &Value) -> Result<Value> {
    let vocab: Map<String, Value> = text.lines().enumerate().map(|(id, t)| (t.to_owned(), Value::from(id))).collect();
    let id = |text: &str| {
        vocab.get(text).cloned().ok_or_else(|| Error::input(format!("the vocabulary has no token {text}")))
    };
    let added: Vec<Value> = BERT_ROLES
        .iter()
        .filter_map(|(_, t)| {
            let id = vocab.get(*t)?;
            Some(json!({"id": id, "content": t, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
        })
        .collect();
    let ends = [json!(["[SEP]", id("[SEP]")?]), json!(["[CLS]", id("[CLS]")?])];
    let lowercase = config["do_lower_case"].as_bool().unwrap_or(true);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "lowercase": lowercase,
            "handle_chinese_chars": config["tokenize_chinese_chars"].as_bool().unwrap_or(true),
            "strip_accents": config["strip_accents"].as_bool()},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ends[0], "cls": ends[1]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
    }))
}
