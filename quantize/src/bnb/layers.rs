//! Which weights are linear layers that transformers replaces.
//!
//! A folder loads only if exactly those tensors are quantized that transformers (5.23) will look for in quantized form:
//! modules of the class `torch.nn.Linear` or `Conv1D`. Names alone decide here; where a family keeps linear weights in
//! a class of its own, that is a row of a table.

use gguf::{Error, Result};

use crate::pattern::Pattern;

/// Why a tensor stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The weights of experts: transformers (5.23) holds them in one stack, however a file lays them out, and a stack is
    /// no linear layer.
    Experts,
    /// A linear layer that transformers computes in f32.
    FullPrecision,
    /// A linear weight of a type that is not quantized.
    Type,
    /// Named by the caller.
    Asked,
    /// The output head.
    Head,
    /// An embedding.
    Embedding,
    /// The router of experts.
    Router,
    /// A norm, a bias, a convolution and the like.
    Small,
}

impl Why {
    fn row(self) -> (&'static str, Option<&'static str>) {
        match self {
            Why::Experts => {
                ("experts", Some("transformers keeps experts in stacks, which it does not replace by quantized layers"))
            }
            Why::FullPrecision => ("layers computed in f32", Some("transformers computes these layers in f32")),
            Why::Type => ("weights of other types", Some("only weights in F32, F16 and BF16 are quantized")),
            Why::Asked => ("named by --modules-to-not-convert", None),
            Why::Head => ("output head", None),
            Why::Embedding => ("embeddings", None),
            Why::Router => ("routers", None),
            Why::Small => ("norms, biases and the like", None),
        }
    }

    /// What tensors these are.
    pub fn what(self) -> &'static str {
        self.row().0
    }

    /// Why a linear weight, which was to be quantized, is not; nothing where the tensor was never meant to be.
    pub fn fallback(self) -> Option<&'static str> {
        self.row().1
    }
}

/// Parts of a name that tell that a weight is no plain linear layer.
const NOT_LINEAR: &[(&str, Why)] = &[
    ("embed_tokens", Why::Embedding),
    ("embed_in", Why::Embedding),
    ("embeddings", Why::Embedding),
    ("word_embeddings", Why::Embedding),
    ("position_embeddings", Why::Embedding),
    ("token_type_embeddings", Why::Embedding),
    ("relative_attention_bias", Why::Embedding),
    ("shared", Why::Embedding),
    ("wte", Why::Embedding),
    ("wpe", Why::Embedding),
    ("router", Why::Router),
    ("experts", Why::Experts),
    ("conv1d", Why::Small),
    ("pooler", Why::Small),
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
    Kept(Why),
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
        if shape.len() < 2 || name.ends_with("bias") {
            return Treatment::Kept(Why::Small);
        }
        let (module, is_weight) = name.strip_suffix(".weight").map_or((name, false), |module| (module, true));
        let last = module.rsplit('.').next().unwrap_or_default();
        match (self.kept(module, last), shape) {
            (Some(why), _) => Treatment::Kept(why),
            (None, [_, _]) if is_weight && self.transposed && last != "lm_head" => Treatment::Transposed,
            (None, [_, _]) if is_weight => Treatment::Quantized,
            // Stacks of experts that are not named so.
            (None, &[a, b, c]) if a.min(b).min(c) > 1 && !module.contains("conv") => Treatment::Kept(Why::Experts),
            _ => Treatment::Kept(Why::Small),
        }
    }

    /// Why a module stays as it is, as far as its name and the last part of it tell.
    fn kept(&self, module: &str, last: &str) -> Option<Why> {
        let has = |part: &str| module.split('.').any(|p| p == part);
        let left = match &self.skip {
            None => HEADS.iter().any(|head| has(head)).then_some(Why::Head),
            Some(skip) => skip.iter().any(|pattern| pattern.matches(module)).then_some(Why::Asked),
        };
        let keeps = || self.keeps.iter().any(|keep| module.ends_with(keep)).then_some(Why::FullPrecision);
        left.or_else(|| NOT_LINEAR.iter().find(|(part, _)| has(part)).map(|row| row.1))
            .or_else(|| (last == "gate").then_some(Why::Router))
            .or_else(keeps)
    }
}

/// Whether a tensor of this name and shape is the matrix of one expert, which transformers stacks with its like as it
/// loads them.
pub fn is_single_expert(name: &str, shape: &[u64]) -> bool {
    let after = name.split('.').skip_while(|part| *part != "experts").nth(1);
    shape.len() == 2 && name.ends_with(".weight") && after.is_some_and(|part| part.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(skip: &[&str], name: &str) -> bool {
        let skip: Vec<String> = skip.iter().map(|s| (*s).to_owned()).collect();
        let layers = Layers::new("llama", Some(&skip)).unwrap();
        matches!(layers.treatment(&format!("{name}.weight"), &[8, 8]), Treatment::Kept(_))
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
    fn a_tensor_that_stays_has_its_reason() {
        let skip = ["model.layers.1".to_owned()];
        let why = |model_type, skip: Option<&[String]>, name, shape: &[u64]| match Layers::new(model_type, skip)
            .unwrap()
            .treatment(name, shape)
        {
            Treatment::Kept(why) => Some(why),
            _ => None,
        };
        for (name, shape, reason) in [
            ("model.layers.0.mlp.experts.7.up_proj.weight", &[8, 8][..], Why::Experts),
            ("model.layers.0.mlp.experts.gate_up_proj", &[4, 8, 8], Why::Experts),
            ("model.layers.0.mlp.experts.gate_up_proj_bias", &[4, 8], Why::Small),
            ("model.layers.0.block_sparse_moe.input_linear.weight", &[4, 8, 8], Why::Experts),
            ("model.layers.0.mlp.gate.weight", &[4, 8], Why::Router),
            ("model.layers.0.block_sparse_moe.router.layer.weight", &[4, 8], Why::Router),
            ("model.embed_tokens.weight", &[8, 8], Why::Embedding),
            ("lm_head.weight", &[8, 8], Why::Head),
            ("model.norm.weight", &[8], Why::Small),
            ("backbone.layers.0.mixer.conv1d.weight", &[8, 1, 4], Why::Small),
            ("model.encoder.conv1.weight", &[8, 8, 3], Why::Small),
            ("backbone.layers.0.mixer.A_log", &[8, 8], Why::Small),
        ] {
            assert_eq!(why("llama", None, name, shape), Some(reason), "{name}");
        }
        for name in ["model.layers.0.mlp.shared_experts.up_proj.weight", "model.layers.0.mlp.shared_expert_gate.weight"]
        {
            assert_eq!(why("llama", None, name, &[8, 8]), None, "{name}");
        }
        assert_eq!(
            why("t5", None, "decoder.block.0.layer.2.DenseReluDense.wo.weight", &[8, 8]),
            Some(Why::FullPrecision)
        );
        let asked = "model.layers.1.mlp.experts.7.up_proj.weight";
        assert_eq!(why("llama", Some(&skip), asked, &[8, 8]), Some(Why::Asked));
        assert!(is_single_expert(asked, &[8, 8]));
        assert!(!is_single_expert("model.layers.0.mlp.experts.gate_up_proj", &[4, 8, 8]));
        assert!(!is_single_expert("model.layers.0.mlp.shared_experts.up_proj.weight", &[8, 8]));
    }

    #[test]
    fn families_have_one_row() {
        for (i, family) in FAMILIES.iter().enumerate() {
            assert!(FAMILIES[..i].iter().all(|f| f.model_type != family.model_type));
        }
        assert!(Layers::new("falcon", None).unwrap_err().message().contains("falcon"));
    }
}
