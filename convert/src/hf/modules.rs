//! Which module of the transformers library a tensor of a checkpoint is the weight of.
//!
//! Libraries that quantize inside transformers replace modules of the classes `torch.nn.Linear` and `Conv1D`, and leave
//! alone what `get_keys_to_not_convert` names: the output embedding, what is tied, and the module of the model's last
//! parameter. What a weight is follows from the slot that its class's row gives it; what no row knows (towers, heads of
//! other tasks, other classes) is told by its shape and, of embeddings, routers and experts, by its module's name.

use std::collections::HashMap;

use gguf::arch::Module;
use serde_json::{Map, Value};

use super::{Class, How};
use crate::config::{self, Config};
use crate::names;
use crate::safetensors::Stored;
use crate::text_names::TextNames;

/// What transformers makes of the weights of a class, where their place in the model does not say it. Names are endings of
/// the checkpoint's names of modules.
#[derive(Clone, Copy, Debug)]
pub struct Modules {
    /// Routers that are plain linear layers. Most are parameters of a class of their own.
    pub linear: &'static [&'static str],
    /// Linear layers of a class of the model's own, which libraries do not replace.
    pub own_class: &'static [&'static str],
    /// Linear layers that are computed in f32 whatever happens (`_keep_in_fp32_modules`).
    pub in_f32: &'static [&'static str],
    /// Linear layers without bias that a model ends with, where that is not a head: the first of these that is there. `{}`
    /// stands for the greatest number.
    pub last: &'static [&'static str],
}

impl Modules {
    /// Nothing special.
    pub const USUAL: Modules = Modules { linear: &[], own_class: &[], in_f32: &[], last: &[] };
}

/// What a tensor is the weight of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A linear layer, `[out, in]`.
    Linear,
    /// A linear layer that is stored `[in, out]` (`Conv1D`).
    InputMajor,
    /// A linear layer of a class of the model's own.
    OwnClass,
    /// A linear layer that is computed in f32.
    InF32,
    /// A linear layer that is the output embedding, or the last module of the model.
    Head,
    /// A table that is looked up.
    Embedding,
    /// A router of experts.
    Router,
    /// Experts, stacked or one of them.
    Experts,
    /// A norm, a bias, a convolution, a parameter without a module.
    Other,
}

/// The modules of a checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    row: Option<(&'static Class, Config)>,
    /// Tokens of the vocabulary: rows of an output embedding.
    vocabulary: Option<u64>,
    /// Labels that a model for a task gives: rows of its head.
    labels: Option<u64>,
    /// Biases by the module's name, with their length.
    biases: HashMap<String, u64>,
    /// Whether linear layers are stored input-major, as far as biases of matrices that are not square tell.
    input_major: bool,
    /// The module of the last parameter, where the row says it.
    last: Option<String>,
}

/// What the name of a class begins with, before it says which task it is for.
fn stem(class: &str) -> &str {
    const TASKS: [&str; 5] = ["For", "LMHead", "DoubleHeads", "EncoderModel", "Model"];
    let end = TASKS.iter().filter_map(|task| class.find(task)).min().unwrap_or(class.len());
    &class[..end]
}

/// The row of a configuration: that of its class, else that of a class of the same model for another task.
fn row(root: &Map<String, Value>) -> Option<(&'static Class, Config)> {
    if let Ok(found) = super::read(root, crate::Part::Model) {
        return Some(found);
    }
    let class = config::class(root).ok()?;
    let same = |name: &&str| !stem(name).is_empty() && stem(name) == stem(&class);
    let row = super::all().find(|row| row.names.iter().any(same))?;
    let mut config = Config::new(root, &class, row.reading(root)).ok()?;
    (row.prepare)(&mut config).ok()?;
    Some((row, config))
}

impl Checkpoint {
    /// The modules that a configuration and these tensors make.
    pub fn new(root: &Map<String, Value>, tensors: &[Stored]) -> Checkpoint {
        let row = row(root);
        let number = |key: &str| {
            [Some(root), config::text_config(root)].into_iter().flatten().find_map(|map| map.get(key)?.as_u64())
        };
        let labels = root.get("id2label").and_then(Value::as_object).map(|all| all.len() as u64);
        let task = root.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or_default();
        let has_head = task.contains("For") && !task.contains("ForCausalLM") && !task.contains("Generation");
        let biases: HashMap<String, u64> = tensors
            .iter()
            .filter(|t| t.shape().len() == 1)
            .filter_map(|t| Some((t.name().strip_suffix(".bias")?.to_owned(), t.elements())))
            .collect();
        let sides = tensors.iter().filter_map(|t| {
            let bias = biases.get(t.name().strip_suffix(".weight")?)?;
            let &[rows, cols] = t.shape() else { return None };
            (rows != cols).then_some(*bias == cols)
        });
        let last = row.as_ref().and_then(|(row, _)| {
            row.modules.last.iter().find_map(|ending| {
                let matches = tensors.iter().filter_map(|t| {
                    let module = t.name().strip_suffix(".weight")?;
                    Some((number_at(ending, module)?, module.to_owned()))
                });
                matches.max_by_key(|(number, _)| *number).map(|(_, module)| module)
            })
        });
        Checkpoint {
            vocabulary: number("vocab_size"),
            labels: has_head.then(|| labels.or_else(|| number("num_labels")).unwrap_or(2)),
            input_major: sides.fold(None, |all: Option<bool>, one| Some(all.unwrap_or(true) && one)) == Some(true),
            biases,
            last,
            row,
        }
    }

    /// What a tensor of this name and row-major shape is the weight of.
    pub fn part(&self, name: &str, shape: &[u64]) -> Part {
        let Some(module) = name.strip_suffix(".weight") else {
            // Stacks of experts have no module of their own.
            let stack = matches!(shape, &[a, b, c] if a.min(b).min(c) > 1) && !name.ends_with("bias");
            return if stack { Part::Experts } else { Part::Other };
        };
        let slot = self.slot(name);
        let part = slot.map_or_else(|| by_name(module, shape), |(part, _)| part);
        let modules = self.row.as_ref().map_or(Modules::USUAL, |(row, _)| row.modules);
        let is = |endings: &[&str]| endings.iter().any(|ending| ends_with(module, ending));
        match (part, shape) {
            (Part::Router, [_, _]) if is(modules.linear) => Part::Linear,
            (Part::Linear, [_, _]) if self.is_head(module, shape) => Part::Head,
            (Part::Linear, [_, _]) if is(modules.own_class) => Part::OwnClass,
            (Part::Linear, [_, _]) if is(modules.in_f32) => Part::InF32,
            (Part::Linear, [rows, cols]) if self.is_input_major(module, slot.is_some_and(|s| s.1), *rows, *cols) => {
                Part::InputMajor
            }
            (Part::Linear, &[a, b, c]) if a.min(b).min(c) > 1 && !module.contains("conv") => Part::Experts,
            (Part::Linear | Part::InputMajor, shape) if shape.len() != 2 => Part::Other,
            (part, _) => part,
        }
    }

    /// What the row's slot says, and whether the row turns the matrix round.
    fn slot(&self, name: &str) -> Option<(Part, bool)> {
        let (row, config) = self.row.as_ref()?;
        let known = TextNames::new(row, config).ok()?.of(name)?;
        let rule = known.iter().find_map(|known| {
            let found = names::find(row, &known.name)?;
            names::rules(row).nth(found.index).filter(|rule| !rule.to.is_empty())
        })?;
        let target = rule.to.strip_suffix(".weight").unwrap_or(rule.to).to_owned() + ".weight";
        let part = match Module::of(&target, 2) {
            Module::Linear => Part::Linear,
            Module::Head => Part::Head,
            Module::Embedding => Part::Embedding,
            Module::Router => Part::Router,
            Module::Experts => Part::Experts,
            Module::Other => Part::Other,
        };
        Some((part, matches!(rule.how, How::Transpose)))
    }

    /// The output embedding has a row for each token, the head of another task one for each label; both lie outside the
    /// layers. The latter is left alone where it is the last parameter: where no bias comes after it.
    fn is_head(&self, module: &str, shape: &[u64]) -> bool {
        let inside = module.split('.').any(|part| part.parse::<u64>().is_ok());
        let rows = shape.first().copied();
        let tokens = rows == self.vocabulary;
        let labels = rows == self.labels && !self.biases.contains_key(module);
        self.last.as_deref() == Some(module) || (!inside && rows.is_some() && (tokens || labels))
    }

    /// A `Conv1D` has a bias as long as its matrix has columns. Square ones are told by the others.
    fn is_input_major(&self, module: &str, turned: bool, rows: u64, cols: u64) -> bool {
        match self.biases.get(module) {
            Some(bias) if rows != cols => *bias == cols,
            Some(_) => turned || self.input_major,
            None => turned,
        }
    }
}

/// Whether the last parts of a module's name are these.
fn ends_with(module: &str, ending: &str) -> bool {
    module.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The number for which a module's name has this ending; 0 where the ending has none.
fn number_at(ending: &str, module: &str) -> Option<u64> {
    let Some((before, after)) = ending.split_once("{}") else { return ends_with(module, ending).then_some(0) };
    let rest = module.strip_suffix(after)?;
    let digits = rest.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (rest, number) = rest.split_at(rest.len() - digits);
    ends_with(rest, before).then(|| number.parse().ok())?
}

/// What a module is by its name, for those that no row knows.
fn by_name(module: &str, shape: &[u64]) -> Part {
    const TABLES: [&str; 4] = ["wte", "wpe", "shared", "relative_attention_bias"];
    let has = |part: &str| module.split('.').any(|p| p == part);
    let last = module.rsplit('.').next().unwrap_or_default();
    let table = last.contains("embed") || last.ends_with("_emb") || module.contains("ngram_embedding.");
    match last {
        _ if has("experts") => Part::Experts,
        _ if TABLES.contains(&last) || table && !last.contains("proj") && !last.contains("patch") => Part::Embedding,
        "gate" | "router" => Part::Router,
        _ if has("router") => Part::Router,
        _ if shape.len() < 2 || last.contains("conv1d") => Part::Other,
        _ => Part::Linear,
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

    fn of(config: Value) -> Checkpoint {
        let Value::Object(root) = config else { unreachable!() };
        Checkpoint::new(&root, &[])
    }

    #[test]
    fn classes_of_a_model_share_a_stem() {
        for (class, expected) in [
            ("LlamaForTokenClassification", "Llama"),
            ("GPT2LMHeadModel", "GPT2"),
            ("GPT2DoubleHeadsModel", "GPT2"),
            ("BertModel", "Bert"),
            ("T5EncoderModel", "T5"),
        ] {
            assert_eq!(stem(class), expected);
        }
    }

    #[test]
    fn parts_follow_slots_and_names() {
        let llama = of(serde_json::json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 512}));
        for (name, shape, part) in [
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8][..], Part::Linear),
            ("model.layers.0.mlp.experts.7.up_proj.weight", &[8, 8], Part::Experts),
            ("model.layers.0.mlp.experts.gate_up_proj", &[4, 8, 8], Part::Experts),
            ("model.layers.0.mlp.experts.gate_up_proj_bias", &[4, 8], Part::Other),
            ("model.layers.0.block_sparse_moe.input_linear.weight", &[4, 8, 8], Part::Experts),
            ("model.layers.0.mlp.shared_experts.up_proj.weight", &[8, 8], Part::Linear),
            ("model.layers.0.mlp.gate.weight", &[4, 8], Part::Router),
            ("model.layers.0.block_sparse_moe.router.layer.weight", &[4, 8], Part::Router),
            ("model.embed_tokens.weight", &[512, 8], Part::Embedding),
            ("lm_head.weight", &[512, 8], Part::Head),
            ("another_head.weight", &[512, 8], Part::Head),
            ("model.norm.weight", &[8], Part::Other),
            ("backbone.layers.0.mixer.conv1d.weight", &[8, 1, 4], Part::Other),
            ("model.encoder.conv1.weight", &[8, 8, 3], Part::Other),
            ("backbone.layers.0.mixer.A_log", &[8, 8], Part::Other),
            ("vision_tower.patch_embedding.weight", &[8, 8], Part::Linear),
            ("vision_tower.embeddings.position_embedding.weight", &[8, 8], Part::Embedding),
        ] {
            assert_eq!(llama.part(name, shape), part, "{name}");
        }
        let t5 = of(serde_json::json!({"architectures": ["T5ForConditionalGeneration"], "num_layers": 1}));
        assert_eq!(t5.part("decoder.block.0.layer.2.DenseReluDense.wo.weight", &[8, 8]), Part::InF32);
        let falcon = of(serde_json::json!({"architectures": ["FalconForSequenceClassification"]}));
        assert_eq!(falcon.part("transformer.h.0.mlp.dense_h_to_4h.weight", &[8, 8]), Part::OwnClass);
        assert_eq!(falcon.part("score.weight", &[2, 8]), Part::Head);
    }

    #[test]
    fn the_greatest_number_is_the_last() {
        assert_eq!(number_at("a.projections.{}", "model.a.projections.12"), Some(12));
        assert_eq!(number_at("a.projections.{}", "model.ba.projections.12"), None);
        assert_eq!(number_at("a.projection", "model.a.projection"), Some(0));
        assert_eq!(number_at("a.projections.{}", "model.a.projections."), None);
    }

    #[test]
    fn a_single_expert_is_told_by_its_number() {
        assert!(is_single_expert("model.layers.1.mlp.experts.7.up_proj.weight", &[8, 8]));
        assert!(!is_single_expert("model.layers.0.mlp.experts.gate_up_proj", &[4, 8, 8]));
        assert!(!is_single_expert("model.layers.0.mlp.shared_experts.up_proj.weight", &[8, 8]));
    }
}
