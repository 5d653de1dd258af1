//! The vocabulary of a GGUF: texts, scores, attributes, and the special tokens among them.

use std::collections::BTreeSet;

use ahash::AHashMap;

use gguf::{Error, Metadata, Result};

use super::Id;

/// What a token is; several may hold at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attr(u8);

#[allow(missing_docs)]
impl Attr {
    pub const UNDEFINED: Attr = Attr(0);
    pub const UNKNOWN: Attr = Attr(1);
    pub const UNUSED: Attr = Attr(2);
    pub const NORMAL: Attr = Attr(4);
    pub const CONTROL: Attr = Attr(8);
    pub const USER_DEFINED: Attr = Attr(16);
    pub const BYTE: Attr = Attr(32);
    /// Takes the white space on its left with it.
    pub const LSTRIP: Attr = Attr(64);
    /// Takes the white space on its right with it.
    pub const RSTRIP: Attr = Attr(128);

    fn from_type(ty: i32) -> Attr {
        match ty {
            1 => Attr::NORMAL,
            2 => Attr::UNKNOWN,
            3 => Attr::CONTROL,
            4 => Attr::USER_DEFINED,
            5 => Attr::UNUSED,
            6 => Attr::BYTE,
            _ => Attr::UNDEFINED,
        }
    }

    /// Whether one of these holds.
    pub fn any(self, of: Attr) -> bool {
        self.0 & of.0 != 0
    }
}

impl std::ops::BitOr for Attr {
    type Output = Attr;
    fn bitor(self, other: Attr) -> Attr {
        Attr(self.0 | other.0)
    }
}

/// The tokens by id and by text.
#[derive(Debug)]
pub(crate) struct Tokens {
    texts: Vec<Box<[u8]>>,
    ids: AHashMap<Box<[u8]>, Id>,
    scores: Vec<f32>,
    attrs: Vec<Attr>,
    longest: usize,
}

impl Tokens {
    /// Reads token list, scores and types, which must agree in length.
    pub fn load(metadata: &Metadata) -> Result<Tokens> {
        let list = metadata
            .get("tokenizer.ggml.tokens")
            .ok_or_else(|| Error::input("the metadata has no tokenizer.ggml.tokens"))?
            .as_array()
            .ok_or_else(|| Error::input("tokenizer.ggml.tokens is no array of strings"))?;
        let texts = list.iter_bytes().ok_or_else(|| Error::input("tokenizer.ggml.tokens is no array of strings"))?;
        if list.is_empty() {
            return Err(Error::input("tokenizer.ggml.tokens is empty"));
        }
        if list.len() > i32::MAX as u64 {
            return Err(Error::input(format!(
                "tokenizer.ggml.tokens has {} elements, more than ids can tell",
                list.len()
            )));
        }
        // An empty token would match everywhere; it gets a text that nothing has.
        let texts: Vec<Box<[u8]>> = texts
            .enumerate()
            .map(|(i, t)| if t.is_empty() { format!("[EMPTY_{i}]").into_bytes().into() } else { t.into() })
            .collect();
        let n = texts.len();
        let mut ids = AHashMap::with_capacity(n);
        for (id, text) in texts.iter().enumerate() {
            if let Some(before) = ids.insert(text.clone(), id as Id) {
                let text = String::from_utf8_lossy(text);
                return Err(Error::input(format!("tokenizer.ggml.tokens has '{text}' twice, as {before} and {id}")));
            }
        }
        let array = |key: &str| match metadata.get(key) {
            None => Ok(None),
            Some(value) => match value.as_array() {
                Some(array) if array.len() >= n as u64 => Ok(Some(array)),
                Some(array) => Err(Error::input(format!("{key} has {} elements for {n} tokens", array.len()))),
                None => Err(Error::input(format!("{key} is no array"))),
            },
        };
        let scores = match array("tokenizer.ggml.scores")? {
            None => vec![0.0; n],
            Some(array) => {
                array.to_f32s().or_else(|| Some(array.to_i32s()?.into_iter().map(|s| s as f32).collect())).ok_or_else(
                    || Error::input(format!("tokenizer.ggml.scores holds {}, not f32", array.element_type())),
                )?
            }
        };
        let attrs = match array("tokenizer.ggml.token_type")? {
            None => vec![Attr::NORMAL; n],
            Some(array) => array
                .to_i32s()
                .ok_or_else(|| {
                    Error::input(format!("tokenizer.ggml.token_type holds {}, not i32", array.element_type()))
                })?
                .into_iter()
                .map(Attr::from_type)
                .collect(),
        };
        let longest = texts.iter().map(|t| t.len()).max().unwrap_or(0);
        Ok(Tokens { texts, ids, scores, attrs, longest })
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Bytes of the longest text.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn text(&self, id: Id) -> Option<&[u8]> {
        self.texts.get(id as usize).map(|t| &**t)
    }

    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.texts.iter().map(|t| &**t)
    }

    pub fn id(&self, text: &[u8]) -> Option<Id> {
        self.ids.get(text).copied()
    }

    pub fn score(&self, id: Id) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    pub fn attr(&self, id: Id) -> Attr {
        self.attrs.get(id as usize).copied().unwrap_or_default()
    }

    fn set_attr(&mut self, id: Id, attr: Attr) {
        if let Some(slot) = self.attrs.get_mut(id as usize) {
            *slot = attr;
        }
    }

    /// The token of a single byte where characters fall back to their bytes: `<0x41>`, else the byte itself.
    pub fn byte(&self, byte: u8) -> Option<Id> {
        self.id(format!("<0x{byte:02X}>").as_bytes()).or_else(|| self.id(&[byte]))
    }
}

/// The byte that a token like `<0x0A>` stands for.
pub(crate) fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(text.get(3..5)?).ok()?;
    u8::from_str_radix(digits, 16).ok()
}

/// The tokens with a role.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials {
    pub bos: Option<Id>,
    pub eos: Option<Id>,
    pub eot: Option<Id>,
    pub eom: Option<Id>,
    pub unk: Option<Id>,
    pub sep: Option<Id>,
    pub pad: Option<Id>,
    pub mask: Option<Id>,
    pub(super) fim_pre: Option<Id>,
    pub(super) fim_suf: Option<Id>,
    pub(super) fim_mid: Option<Id>,
    pub(super) fim_pad: Option<Id>,
    pub(super) fim_rep: Option<Id>,
    pub(super) fim_sep: Option<Id>,
    pub end_of_generation: BTreeSet<Id>,
}

type Slot = fn(&mut Specials) -> &mut Option<Id>;

/// The keys that give an id a role; where two give the same, the later one wins.
const KEYS: [(&str, Slot); 17] = [
    ("tokenizer.ggml.bos_token_id", |s| &mut s.bos),
    ("tokenizer.ggml.eos_token_id", |s| &mut s.eos),
    ("tokenizer.ggml.eot_token_id", |s| &mut s.eot),
    ("tokenizer.ggml.eom_token_id", |s| &mut s.eom),
    ("tokenizer.ggml.unknown_token_id", |s| &mut s.unk),
    ("tokenizer.ggml.seperator_token_id", |s| &mut s.sep),
    ("tokenizer.ggml.padding_token_id", |s| &mut s.pad),
    ("tokenizer.ggml.mask_token_id", |s| &mut s.mask),
    ("tokenizer.ggml.fim_pre_token_id", |s| &mut s.fim_pre),
    ("tokenizer.ggml.fim_suf_token_id", |s| &mut s.fim_suf),
    ("tokenizer.ggml.fim_mid_token_id", |s| &mut s.fim_mid),
    ("tokenizer.ggml.fim_pad_token_id", |s| &mut s.fim_pad),
    ("tokenizer.ggml.fim_rep_token_id", |s| &mut s.fim_rep),
    ("tokenizer.ggml.fim_sep_token_id", |s| &mut s.fim_sep),
    ("tokenizer.ggml.prefix_token_id", |s| &mut s.fim_pre),
    ("tokenizer.ggml.suffix_token_id", |s| &mut s.fim_suf),
    ("tokenizer.ggml.middle_token_id", |s| &mut s.fim_mid),
];

/// Roles that are known by the text of their token where no key gives them; such a token is a control token.
const BY_TEXT: [(Slot, &[&str]); 8] = [
    (
        |s| &mut s.eot,
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    (|s| &mut s.eom, &["<|eom_id|>"]),
    (
        |s| &mut s.fim_pre,
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        |s| &mut s.fim_suf,
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        |s| &mut s.fim_mid,
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (|s| &mut s.fim_pad, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (|s| &mut s.fim_rep, &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (|s| &mut s.fim_sep, &["<|file_sep|>"]),
];

/// Tokens at which generation ends, whatever the keys say.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Tokens of gpt-oss that are always shown.
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl Specials {
    /// Takes the ids of the keys over the defaults, finds roles by text, and corrects the attributes of their tokens.
    pub fn load(metadata: &Metadata, defaults: Specials, tokens: &mut Tokens) -> Specials {
        let mut s = defaults;
        let n = tokens.len() as u64;
        for (key, slot) in KEYS {
            let id = slot(&mut s);
            *id = id.filter(|&id| u64::from(id) < n);
            if let Some(given) = metadata.u64(key).filter(|&given| given < n) {
                *id = Some(given as Id);
            }
        }
        for (slot, texts) in BY_TEXT {
            let id = slot(&mut s);
            if id.is_none()
                && let Some(found) = texts.iter().find_map(|t| tokens.id(t.as_bytes()))
            {
                *id = Some(found);
                tokens.set_attr(found, tokens.attr(found) | Attr::CONTROL);
            }
        }
        s.end_of_generation.extend([s.fim_pad, s.fim_rep, s.fim_sep].into_iter().flatten());
        for text in ENDS {
            if let Some(id) = tokens.id(text.as_bytes()) {
                s.end_of_generation.insert(id);
                tokens.set_attr(id, tokens.attr(id) | Attr::CONTROL);
            }
        }
        for text in SHOWN {
            if let Some(id) = tokens.id(text.as_bytes()) {
                tokens.set_attr(id, Attr::USER_DEFINED);
            }
        }
        s.end_of_generation.extend([s.eos, s.eot, s.eom].into_iter().flatten());
        let ends = |s: &Specials, text: &str| tokens.id(text.as_bytes()).filter(|id| s.end_of_generation.contains(id));
        // Where a model has tokens for returning and calling, its `<|end|>` ends a message only.
        let call = ends(&s, "<|call|>").or(ends(&s, "<|calls|>")).is_some();
        let other = ends(&s, "<|return|>").or(ends(&s, "<|flush|>")).is_some();
        let end = ends(&s, "<|end|>").filter(|_| call && other);
        // Where a model ends otherwise, `</s>` is an ordinary token.
        let strike = ends(&s, "</s>").filter(|_| ends(&s, "<|tool_response>").or(ends(&s, "<|plamo:eos|>")).is_some());
        if let Some(id) = end {
            s.end_of_generation.remove(&id);
            tokens.set_attr(id, Attr::USER_DEFINED);
        }
        if let Some(id) = strike {
            s.end_of_generation.remove(&id);
            tokens.set_attr(id, Attr::NORMAL);
        }
        s
    }
}

/// Corrects which tokens take white space with them, which a few models want and no key tells.
pub(crate) fn strip_attributes(metadata: &Metadata, tokens: &mut Tokens) {
    let pre = metadata.str("tokenizer.ggml.pre").unwrap_or_default();
    let architecture = metadata.architecture().unwrap_or_default();
    let name = metadata.str("general.name").unwrap_or_default().to_ascii_lowercase();
    let contains = |text: &str, any: &[&str]| any.iter().any(|s| text.contains(s));
    let mut mark = |text: &str, attr: Attr| {
        if let Some(id) = tokens.id(text.as_bytes()) {
            tokens.set_attr(id, tokens.attr(id) | attr);
        }
    };
    if contains(pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
        || contains(architecture, &["nomic-bert-moe", "jina-bert-v3"])
    {
        mark("<mask>", Attr::LSTRIP);
    } else if contains(&name, &["phi-3", "phi3"]) {
        mark("</s>", Attr::RSTRIP);
        let plain = ["<unk>", "<s>", "<|endoftext|>"].map(|t| tokens.id(t.as_bytes()));
        for id in 0..tokens.len() as Id {
            let attr = tokens.attr(id);
            if attr.any(Attr::CONTROL | Attr::USER_DEFINED | Attr::UNKNOWN) && !plain.contains(&Some(id)) {
                tokens.set_attr(id, attr | Attr::RSTRIP);
            }
        }
    } else if contains(&name, &["modern-bert"]) {
        mark("[MASK]", Attr::LSTRIP);
    }
}
