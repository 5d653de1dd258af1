//! Which weights are linear layers that transformers replaces.
//!
//! A folder loads only if exactly those tensors are quantized that transformers (5.23) will look for in quantized form:
//! modules of the class `torch.nn.Linear` or `Conv1D`. Names alone decide here; where a family keeps linear weights in
//! a class of its own, that is a row of a table.

use gguf::{Error, Result};

use crate::pattern::Pattern;

/// Parts of a name that belong to embeddings, routers, expert stacks, convolutions and poolers, never to a plain linear layer.
const NOT_LINEAR: &[&str] = &[
    "embed_tokens",
    "embed_in",
    "embeddings",
    "word_embeddings",
    "position_embeddings",
    "token_type_embeddings",
    "relative_attention_bias",
    "shared",
    "wte",
    "wpe",
    "experts",
    "router",
    "conv1d",
    "pooler",
];

/// Modules that transformers leaves alone unless a list of its own is given: output heads and the last module.
const HEADS: &[&str] = &["lm_head", "embed_out", "cls", "classifier", "score", "qa_outputs"];

/// What is peculiar to a model type.
struct Family {
    model_type: &'static str,
    kind: Kind,
}

enum Kind {
    /// Linear layers are `Conv1D`: stored input-major, and transposed before they are quantized.
    Transposed,
    /// Linear layers are a class of their own, which the library does not replace.
    OwnClass,
    /// Modules that stay in f32 whatever else happens.
    Keeps(&'static [&'static str]),
}

const FAMILIES: &[Family] = &[
    Family { model_type: "gpt2", kind: Kind::Transposed },
    Family { model_type: "openai-gpt", kind: Kind::Transposed },
    Family { model_type: "imagegpt", kind: Kind::Transposed },
    Family { model_type: "decision_transformer", kind: Kind::Transposed },
    Family { model_type: "falcon", kind: Kind::OwnClass },
    Family { model_type: "t5", kind: Kind::Keeps(&["wo"]) },
    Family { model_type: "mt5", kind: Kind::Keeps(&["wo"]) },
    Family { model_type: "umt5", kind: Kind::Keeps(&["wo"]) },
];

/// What is done with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It stays as it is.
    Kept,
    /// It is quantized as it lies.
    Quantized,
    /// It is quantized with rows and columns exchanged.
    Transposed,
}

/// Decides for each tensor of a checkpoint.
#[derive(Debug)]
pub struct Layers {
    transposed: bool,
    keeps: &'static [&'static str],
    /// The caller's modules.
    skip: Option<Vec<Pattern>>,
}

impl Layers {
    /// For a model of this type. `skip` replaces the heads that are left alone by default, and is matched as
    /// transformers matches `llm_int8_skip_modules`: a regular expression up to a whole part of the name, or an ending.
    ///
    /// # Errors
    /// A model type whose linear layers are of a class that is not replaced, or a pattern that is no regular expression.
    pub fn new(model_type: &str, skip: Option<&[String]>) -> Result<Layers> {
        let mut layers = Layers { transposed: false, keeps: &[], skip: None };
        match FAMILIES.iter().find(|f| f.model_type == model_type).map(|f| &f.kind) {
            Some(Kind::OwnClass) => {
                return Err(Error::input(format!(
                    "transformers keeps the linear layers of \"{model_type}\" in a class of its own, which bitsandbytes does not replace"
                ))
                .help("choose a GGUF type such as q4_k_m for this model"));
            }
            Some(Kind::Transposed) => layers.transposed = true,
            Some(Kind::Keeps(modules)) => layers.keeps = modules,
            None => {}
        }
        if let Some(skip) = skip {
            let patterns = skip.iter().map(|text| Pattern::module("--modules-to-not-convert", text));
            layers.skip = Some(patterns.collect::<Result<_>>()?);
        }
        Ok(layers)
    }

    /// What to do with the tensor of this name and shape (row-major).
    pub fn treatment(&self, name: &str, shape: &[u64]) -> Treatment {
        let Some(module) = name.strip_suffix(".weight") else { return Treatment::Kept };
        let mut parts = module.split('.');
        let last = parts.clone().next_back().unwrap_or_default();
        let plain = shape.len() == 2 && !parts.clone().any(|p| NOT_LINEAR.contains(&p)) && last != "gate";
        let skipped = match &self.skip {
            None => parts.any(|p| HEADS.contains(&p)),
            Some(skip) => skip.iter().any(|pattern| pattern.matches(module)),
        };
        if !plain || skipped || self.keeps.iter().any(|keep| module.ends_with(keep)) {
            Treatment::Kept
        } else if self.transposed && last != "lm_head" {
            Treatment::Transposed
        } else {
            Treatment::Quantized
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(skip: &[&str], name: &str) -> bool {
        let skip: Vec<String> = skip.iter().map(|s| (*s).to_owned()).collect();
        let layers = Layers::new("llama", Some(&skip)).unwrap();
        layers.treatment(&format!("{name}.weight"), &[8, 8]) == Treatment::Kept
    }

    #[test]
    fn modules_are_skipped_as_transformers_skips_them() {
        assert!(kept(&["model.layers.1"], "model.layers.1.mlp.up_proj"));
        assert!(!kept(&["model.layers.1"], "model.layers.11.mlp.up_proj"));
        assert!(kept(&["fc1"], "model.decoder.layers.23.fc1"));
        assert!(!kept(&["fc1"], "lm_head"), "a list of one's own replaces the default");
        assert!(Layers::new("llama", Some(&["(".to_owned()])).is_err());
    }

    #[test]
    fn families_have_one_row() {
        for (i, family) in FAMILIES.iter().enumerate() {
            assert!(FAMILIES[..i].iter().all(|f| f.model_type != family.model_type));
        }
        assert!(Layers::new("falcon", None).unwrap_err().message().contains("falcon"));
    }
}
