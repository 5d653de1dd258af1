//! Which weights are linear layers that transformers replaces.
//!
//! A folder loads only if exactly those tensors are quantized that transformers (5.24) will look for in quantized form:
//! modules of the class `torch.nn.Linear` or `Conv1D`, but for the head and the last one. Which module a tensor is the
//! weight of is said by [`convert::hf::modules`].

use convert::hf::modules::{self, Part};
use convert::safetensors::Stored;
use gguf::{Error, Result};
use serde_json::{Map, Value};

use crate::pattern::Pattern;

/// Why a tensor stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The weights of experts: transformers (5.23) holds them in one stack, however a file lays them out, and a stack is
    /// no linear layer.
    Experts,
    /// A linear layer that transformers computes in f32.
    FullPrecision,
    /// A linear layer of a class of the model's own, which transformers does not replace.
    OwnClass,
    /// A linear weight of a type that is not quantized.
    Type,
    /// Named by the caller.
    Asked,
    /// The output embedding, or the last module.
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
            Why::OwnClass => (
                "linear layers of a class of their own",
                Some("transformers replaces torch.nn.Linear and Conv1D, not the model's own class"),
            ),
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
    checkpoint: modules::Checkpoint,
    /// The caller's modules.
    skip: Option<Vec<Pattern>>,
}

impl Layers {
    /// For the checkpoint of this configuration and these tensors. `skip` replaces the head and the last module, which are
    /// left alone by default, and is matched as transformers matches `llm_int8_skip_modules`: a regular expression up to a
    /// whole part of the name, or an ending.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn new(config: &Map<String, Value>, tensors: &[Stored], skip: Option<&[String]>) -> Result<Layers> {
        let pattern = |text: &String| Pattern::module("--modules-to-not-convert", text);
        let skip = skip.map(|skip| skip.iter().map(pattern).collect::<Result<_>>()).transpose()?;
        Ok(Layers { checkpoint: modules::Checkpoint::new(config, tensors), skip })
    }

    /// What to do with the tensor of this name and shape (row-major).
    pub fn treatment(&self, name: &str, shape: &[u64]) -> Treatment {
        let part = self.checkpoint.part(name, shape);
        let module = name.strip_suffix(".weight");
        if let (Some(module), Some(skip)) = (module.filter(|_| part != Part::Other), &self.skip)
            && skip.iter().any(|pattern| pattern.matches(module))
        {
            return Treatment::Kept(Why::Asked);
        }
        match part {
            Part::Linear => Treatment::Quantized,
            Part::InputMajor => Treatment::Transposed,
            Part::Head if self.skip.is_some() => Treatment::Quantized,
            Part::Head => Treatment::Kept(Why::Head),
            Part::OwnClass => Treatment::Kept(Why::OwnClass),
            Part::InF32 => Treatment::Kept(Why::FullPrecision),
            Part::Embedding => Treatment::Kept(Why::Embedding),
            Part::Router => Treatment::Kept(Why::Router),
            Part::Experts => Treatment::Kept(Why::Experts),
            Part::Other => Treatment::Kept(Why::Small),
        }
    }

    /// The error for a checkpoint of which nothing is to be quantized.
    pub fn nothing<'a>(&self, mut kept: impl Iterator<Item = &'a Why>) -> Error {
        if kept.any(|why| *why == Why::OwnClass) {
            return Error::input(
                "transformers keeps the linear layers of this model in a class of its own, which bitsandbytes does not replace",
            )
            .help("choose a GGUF type such as q4_k_m for this model");
        }
        Error::input("there is no linear weight to quantize").help("--modules-to-not-convert may match every layer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(skip: &[&str]) -> Result<Layers> {
        let config = serde_json::json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 512});
        let skip: Vec<String> = skip.iter().map(|s| (*s).to_owned()).collect();
        Layers::new(config.as_object().unwrap(), &[], Some(&skip))
    }

    #[test]
    fn modules_are_skipped_as_transformers_skips_them() {
        let kept = |skip: &[&str], name: &str| {
            let treatment = layers(skip).unwrap().treatment(&format!("{name}.weight"), &[8, 8]);
            matches!(treatment, Treatment::Kept(_))
        };
        assert!(kept(&["model.layers.1"], "model.layers.1.mlp.up_proj"));
        assert!(!kept(&["model.layers.1"], "model.layers.11.mlp.up_proj"));
        assert!(kept(&["fc1"], "model.decoder.layers.23.fc1"));
        assert!(!kept(&["fc1"], "lm_head"), "a list of one's own replaces the default");
        assert!(layers(&["("]).is_err());
        let asked = "model.layers.1.mlp.experts.7.up_proj.weight";
        let skip = layers(&["model.layers.1"]).unwrap();
        assert_eq!(skip.treatment(asked, &[8, 8]), Treatment::Kept(Why::Asked));
    }
}
