//! The Hugging Face side of an architecture: one row a class family, one file a family of rows.
//!
//! A row says which classes of the transformers library it converts, which GGUF architecture they are, how their
//! tensors are spelled, what happens to the data and which keys describe them. Which tensors and shapes make a complete
//! model is not said here: that is `gguf::arch`, and every conversion is held against it. What is special about a member
//! is a named value of its row.

mod contents;
pub mod modules;
mod params;
pub mod projectors;
mod rows;

use std::path::Path;

use gguf::{Error, Result};
use serde_json::{Map, Value};

pub use contents::{Contents, Target};
pub use modules::Modules;
pub(crate) use params::{OWN_BEGINNINGS, switched_window, window};
pub use params::{Params, SIGMOID, SOFTMAX};
pub use projectors::{Forced, Sense, Tower};
pub(crate) use rows::{ANSWERS, FIRST_POSITION, GAIN, NGRAM_CONSTANTS, NGRAM_WIDTH, PREDICTION_BLOCK, WHOLE_HEAD};

use crate::config::fields::Fields;
use crate::config::{self, Config, HEADS, KEY_HEADS, RAW, Reading, Rope};
use crate::names;
use crate::safetensors::Stored;
use crate::tasks::Task;
use crate::tokenizer::VocabKind;
use crate::transform::Rows;
use crate::{OutType, Part};

/// Tensors by the names they have in the file.
pub type Outputs = Vec<(String, Rows)>;

/// A key without the architecture's name, and its value.
pub type Key = (&'static str, gguf::Value);

/// One family of classes.
#[derive(Debug)]
pub struct Class {
    /// The classes of `config.json` that this row converts.
    pub names: &'static [&'static str],
    /// `general.architecture`.
    pub arch: &'static str,
    /// Which configurations of these classes, where more than one row has them: the first that says yes.
    pub when: fn(&Map<String, Value>) -> bool,
    /// What the configuration class fills in where `config.json` says nothing, as JSON.
    pub defaults: &'static str,
    /// Other names that the configuration class takes for a field, each with the one that is read.
    pub aliases: &'static [(&'static str, &'static str)],
    /// What the configuration class makes of rope parameters.
    pub rope: Rope,
    /// How the vocabulary is read.
    pub vocabulary: VocabKind,
    /// Whether it drafts for another model, whose folder has the vocabulary.
    pub drafts: bool,
    /// The layers of multi-token prediction, of a class whose files can be without them or have nothing else.
    pub prediction: Option<Prediction>,
    /// The tensors, in tables that families share.
    pub spelling: &'static [&'static [NameRule]],
    /// How the names of its tensors begin, where the other parts of the model have theirs; left away before all else.
    pub inner: &'static str,
    /// Beginnings of names that are replaced before the tables are asked.
    ///
    /// `{}` in the first stands for a number. In the second, `{+}` is that number counted from the first block after the
    /// layers of the model, `{*}` each of the blocks there are after these; where there are none, the tensor is left out.
    pub prefixes: &'static [(&'static str, &'static str)],
    /// Beginnings of names of tensors that the format has no use for.
    pub unused: &'static [&'static str],
    /// The name under which the tables know a tensor, where prefixes do not say it; nothing for one of no use.
    pub rename: fn(&Config, &str) -> Option<String>,
    /// Changes the configuration before anything else reads it.
    pub prepare: fn(&mut Config) -> Result<()>,
    /// Adds to the configuration what only the tensors or other files of the folder say.
    pub inspect: fn(&mut Config, &Contents<'_>) -> Result<()>,
    /// Whether tensors of blocks that the file has not are left out. They are an error otherwise.
    pub drop_further_blocks: bool,
    /// How the weights are packed where `config.json` names no method.
    pub packing: Option<&'static str>,
    /// Keys that come before all others.
    pub early: fn(&mut Params<'_>) -> Result<()>,
    /// In which files they are.
    pub early_of: Early,
    /// The keys that describe the model.
    pub keys: fn(&mut Params<'_>) -> Result<()>,
    /// Keys that come after the vocabulary's, or change them.
    pub late: fn(&mut Params<'_>) -> Result<()>,
    /// What the configuration says of the model's arithmetic and the format does not: keys without the architecture's
    /// name, see [`gguf::Source::beyond`].
    pub beyond: fn(&Config) -> Vec<Key>,
    /// Where llama.cpp computes something else from the file than the model's own code, beyond what
    /// [`gguf::arch::Arch::departs`] knows of the architecture.
    pub departs: fn(&Config) -> Option<&'static str>,
    /// Tensors that llama.cpp's converter leaves out of the file though its loader asks for them: their names without
    /// `blk.N.` and the ending.
    pub lacks: &'static [&'static str],
    /// The layer before a classifier, which the file leaves out though the model computes with it.
    pub pooler: Option<&'static str>,
    /// Tensors of other files of the folder, which come before the model's.
    pub beside: fn(&Config, &Path) -> Result<Vec<Stored>>,
    /// Adapters among the tensors, one for each task, which become files of their own.
    pub tasks: fn(&Config, &'static Class, &[Stored]) -> Result<Vec<Task>>,
    /// Tensors that are made from the configuration.
    pub generated: fn(&Config) -> Result<Outputs>,
    /// Whether the tensor of this name in the file is f32 whatever the rest is, where the general rule is not right.
    pub in_f32: fn(&Config, &str) -> Option<bool>,
    /// Tensors that come first in the file, by their names there: group by group, and within a group block by block.
    pub leading: &'static [&'static [&'static str]],
    /// Tensors that come last in the file, by their names there.
    pub last: &'static [&'static str],
    /// Which tensors have a type that is not asked for.
    pub types: Types,
    /// `general.file_type`, where it does not follow from the type of the matrices, with its name.
    pub file_type: Option<(u32, &'static str)>,
    /// Whether biases are left out, all of which must be zero.
    pub drop_zero_biases: bool,
    /// Whether a stored output head that equals the token embedding is left out.
    pub drop_equal_output: bool,
    /// Whether token embeddings beyond the vocabulary are cut off.
    pub cut_embedding: bool,
    /// Which modules transformers makes of the weights, where it is not the usual.
    pub modules: Modules,
    /// The towers, where the row makes a projector file.
    pub towers: &'static [Tower],
    /// The names of the numbers of heads whose rotation changes, the first one used: of queries, and of keys.
    pub rotated: [&'static [&'static str]; 2],
    /// What may follow the names of the tables.
    pub suffixes: &'static [&'static str],
    /// Tensors of projector files whose type is not asked for: beginnings of their names in the file, in which `{}`
    /// stands for a number.
    pub forced: &'static [(&'static str, Forced)],
    /// The type of matrices where none is asked for, if that does not follow from the tensors.
    pub unasked: Option<OutType>,
    /// Whether the file has the general keys.
    pub general: bool,
    /// What is special, for `--list`.
    pub remark: &'static str,
}

/// A row from which others are made by functional update.
pub(crate) const BASE: Class = Class {
    names: &[],
    when: |_| true,
    arch: "",
    defaults: RAW,
    aliases: &[],
    rope: Rope::ONE,
    vocabulary: VocabKind::Gpt2,
    drafts: false,
    prediction: None,
    spelling: &[],
    inner: "",
    prefixes: &[],
    unused: &[],
    rename: |_, name| Some(name.to_owned()),
    prepare: |_| Ok(()),
    inspect: |_, _| Ok(()),
    drop_further_blocks: false,
    packing: None,
    early: |_| Ok(()),
    early_of: Early::Tensors,
    keys: Params::common,
    late: |_| Ok(()),
    beyond: |_| Vec::new(),
    lacks: &[],
    departs: |_| None,
    pooler: None,
    beside: |_, _| Ok(Vec::new()),
    tasks: |_, _, _| Ok(Vec::new()),
    generated: |_| Ok(Vec::new()),
    in_f32: |_, _| None,
    leading: &[],
    last: &[],
    types: Types::Usual,
    file_type: None,
    drop_zero_biases: false,
    drop_equal_output: false,
    cut_embedding: false,
    modules: Modules::USUAL,
    towers: &[],
    rotated: [HEADS, KEY_HEADS],
    suffixes: &[".weight", ".bias", ".scale", ".input_scale"],
    forced: &[],
    unasked: None,
    general: true,
    remark: "",
};

/// What the early keys follow from, and with it the files that have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// The class alone: all files.
    Class,
    /// Tensors of any kind: models and adapters, not vocabularies.
    Content,
    /// The model's tensors.
    Tensors,
}

/// How layers of multi-token prediction are told from others.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// How the names of their tensors begin, beside those of blocks after the layers.
    pub beginnings: &'static [&'static str],
    /// How the names of the tensors begin that a file of these layers alone has too.
    pub shared: &'static [&'static str],
}

impl Prediction {
    /// Whether a tensor is one of the layers of prediction.
    fn has(self, config: &Config, name: &str) -> bool {
        let block = names::blocks_in("model.layers.{}.", name).and_then(|(block, _)| block);
        let behind = block.zip(config.layers().ok()).is_some_and(|(block, layers)| block >= layers);
        behind || self.beginnings.iter().any(|beginning| name.starts_with(beginning))
    }

    /// Whether a tensor belongs into a file of this part of the model.
    fn keeps(self, config: &Config, name: &str) -> bool {
        match config.part() {
            Part::Model | Part::DSpark => true,
            Part::Trunk => !self.has(config, name),
            Part::Prediction => {
                self.has(config, name) || self.shared.iter().any(|beginning| name.starts_with(beginning))
            }
        }
    }
}

impl Class {
    /// Whether `evaluate` runs the file; nothing for projector files, where it depends on the kind of projector.
    pub fn is_evaluated(&self) -> Option<bool> {
        let computed = gguf::arch::find(self.arch).is_some_and(|arch| arch.computed);
        (self.arch != "clip").then_some(computed && self.lacks.is_empty())
    }

    /// How the library reads a configuration: by the class of its kind, which may be that of another family.
    pub(crate) fn reading(&self, root: &Map<String, Value>) -> Reading<'static> {
        let fields = root.get("model_type").and_then(Value::as_str).and_then(Fields::of);
        let classes = || fields.into_iter().flat_map(Fields::classes);
        let own = classes().any(|class| self.names.contains(&class));
        let other = if own { None } else { classes().find_map(|class| find(class, root).ok()) };
        let Class { defaults, aliases, rope, .. } = other.unwrap_or(self);
        Reading { defaults, aliases, rope: *rope }
    }

    /// Heads of queries whose rotation changes.
    ///
    /// # Errors
    /// Those of [`Config::heads`].
    pub(crate) fn rotated_queries(&self, config: &Config) -> Result<u64> {
        config.heads_under(self.rotated[0])
    }

    /// Heads of keys whose rotation changes.
    ///
    /// # Errors
    /// Those of [`Config::heads`].
    pub(crate) fn rotated_keys(&self, config: &Config) -> Result<u64> {
        config.key_heads_under(self.rotated[1], self.rotated[0])
    }

    /// Whether a tensor belongs into a file of the part that the configuration is read for.
    pub(crate) fn keeps(&self, config: &Config, name: &str) -> bool {
        self.prediction.is_none_or(|prediction| prediction.keeps(config, name))
    }

    /// Whether a tensor is of a layer of prediction.
    pub(crate) fn predicts(&self, config: &Config, name: &str) -> bool {
        self.prediction.is_some_and(|prediction| prediction.has(config, name))
    }
}

/// Layers of prediction that follow the others, with the embedding, norm and head of most models.
pub(crate) const BEHIND: Prediction =
    Prediction { beginnings: &[], shared: &["model.embed_tokens.", "model.norm.", "lm_head."] };

/// Which tensors have a type that does not depend on what is asked for.
///
/// Vectors, norms and what is no weight are f32 in every file.
#[derive(Clone, Copy, Debug)]
pub enum Types {
    /// The matrices that llama.cpp wants in f32 in all models.
    Usual,
    /// No other tensors.
    NoMatrices,
    /// These as well: parts of names that are f32.
    Also(&'static [&'static str]),
    /// All of them have the type in which they are stored: f32, bf16, or Q8_0 for what was FP8.
    AsStored,
}

/// A tensor's way from the checkpoint's name to the file's.
///
/// `{}` stands for the block, `{x}` for the member of a stack. Names are without `.weight` and `.bias`, which are
/// kept; a name that has neither in the checkpoint is matched whole.
#[derive(Clone, Copy, Debug)]
pub struct NameRule {
    /// The name in the checkpoint.
    pub from: &'static str,
    /// The name in the file.
    pub to: &'static str,
    /// What happens to the data.
    pub how: How,
}

/// How many parts become one.
pub type Members = fn(&Config) -> Result<u64>;

/// What happens to a tensor's data.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Nothing.
    Keep,
    /// The halves of each query head are interleaved: rotation of neighbours instead of halves.
    RotateQuery,
    /// The same for key heads.
    RotateKey,
    /// Every element changes: a function of f32.
    Map(fn(f32) -> f32),
    /// Only weights change so, biases are kept.
    MapWeight(fn(f32) -> f32),
    /// The last two dimensions of weights are exchanged.
    Transpose,
    /// One of many tensors that become one. Tables of the same group are written together, in the table's order,
    /// when the last of them was seen.
    Stack {
        /// Which tables belong together.
        group: &'static str,
        /// How many members each has.
        members: Members,
    },
    /// The same with members that follow each other in one tensor.
    Chain {
        /// Which tables belong together.
        group: &'static str,
        /// How many members each has.
        members: Members,
    },
    /// The same whose number differs by block.
    Uneven {
        /// Which tables belong together.
        group: &'static str,
        /// How many members a block has.
        members: fn(&Config, u64) -> Result<u64>,
        /// Whether members of fewer rows are filled up with zeros.
        padded: bool,
    },
    /// The tensor becomes others, all of it.
    Split(fn(&Config, &Piece) -> Result<Outputs>),
    /// The tensor becomes others, of which a part may be left out.
    Cut(fn(&Config, &Piece) -> Result<Outputs>),
    /// The tensor stays one under its name, its data in another shape or order, or with arithmetic that depends on
    /// the configuration.
    Change(fn(&Config, &Piece) -> Result<Rows>),
    /// One of several tensors of a block, each with a rule of its own, from which others are made when the last of
    /// them was seen. Rules of the same group belong together, in the table's order; weights and biases are apart.
    Join {
        /// Which rules belong together.
        group: &'static str,
        /// Makes the tensors. The piece is the last one seen; the data is that of all, in the table's order.
        make: fn(&Config, &Piece, Vec<Rows>) -> Result<Outputs>,
    },
    /// The same with several members for each rule, `{x}` in the names: those of the first rule come before those of
    /// the next.
    JoinAll {
        /// Which rules belong together.
        group: &'static str,
        /// How many members each rule has.
        members: Members,
        /// Makes the tensors.
        make: fn(&Config, &Piece, Vec<Rows>) -> Result<Outputs>,
    },
    /// The first of several names for one tensor is written, the others are not.
    First,
    /// Not written where the configuration ties it to the token embedding.
    Untied,
    /// The tensor is not written.
    Drop,
    /// Not written where the configuration ties it to the token embedding; an error where it does not.
    Tied,
}

/// A tensor on its way through a [`How::Split`].
#[derive(Debug)]
pub struct Piece {
    /// The rule's target with the block's number.
    pub to: String,
    /// `.weight`, `.bias` or nothing.
    pub suffix: String,
    /// The block.
    pub block: u64,
    /// The data.
    pub rows: Rows,
}

/// A tensor that is kept as it is.
pub(crate) const fn r(from: &'static str, to: &'static str) -> NameRule {
    NameRule { from, to, how: How::Keep }
}

impl How {
    /// What becomes of a tensor with this suffix: a change of weights alone keeps biases.
    pub(crate) fn of(self, suffix: &str) -> How {
        match self {
            How::MapWeight(_) | How::Transpose if suffix == ".bias" => How::Keep,
            how => how,
        }
    }

    /// The group of what becomes one with others, and the number of members of a block.
    pub(crate) fn stack(self, config: &Config, block: u64) -> Option<(&'static str, Result<u64>)> {
        match self {
            How::Stack { group, members } | How::Chain { group, members } => Some((group, members(config))),
            How::Uneven { group, members, .. } => Some((group, members(config, block))),
            _ => None,
        }
    }
}

impl NameRule {
    /// The same with this change of data.
    pub(crate) const fn how(mut self, how: How) -> NameRule {
        self.how = how;
        self
    }
}

impl Class {
    /// Whether the row makes a projector file.
    pub fn is_projector(&self) -> bool {
        !self.towers.is_empty()
    }
}

/// Every row of a text model, family by family.
pub fn all() -> impl Iterator<Item = &'static Class> {
    rows::FAMILIES.iter().copied().flatten()
}

/// The row that converts the text model of a configuration, and the configuration as that row reads it.
///
/// # Errors
/// A configuration that names no class or one that no row has, or values that contradict each other.
pub fn read(root: &Map<String, Value>, part: Part) -> Result<(&'static Class, Config)> {
    let mut class = config::class(root)?;
    if part == Part::DSpark {
        if class != "DeepseekV4ForCausalLM" {
            return Err(Error::input(format!("{class} has no draft inside that is written alone"))
                .help("drafts in folders of their own are converted as any model"));
        }
        class = "DeepseekV4DSparkModel".to_owned();
    }
    let row = find(&class, root)?;
    if row.prediction.is_none() && [Part::Trunk, Part::Prediction].contains(&part) {
        return Err(Error::usage(format!("{class} has no layers of multi-token prediction that stand apart"))
            .help("convert it without --mtp and --no-mtp"));
    }
    let mut config = Config::new(root, &class, row.reading(root))?;
    config.set_part(part);
    (row.prepare)(&mut config)?;
    Ok((row, config))
}

/// The row that converts this configuration of a class.
///
/// # Errors
/// A class that no row has; the error lists those there are.
pub fn find(class: &str, root: &Map<String, Value>) -> Result<&'static Class> {
    all().find(|a| a.names.contains(&class) && (a.when)(root)).ok_or_else(|| {
        let mut known: Vec<&str> = all().flat_map(|a| a.names.iter().copied()).collect();
        known.sort_unstable();
        Error::input(format!("the architecture {class} is not known")).help(format!("known are {}", known.join(", ")))
    })
}

/// Token embedding, final norm and output head of most models.
pub(crate) const ENDS: &[NameRule] =
    &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm"), r("lm_head", "output")];

/// What a checkpoint of the model without its head leaves out of the names.
pub(crate) const BARE: &[(&str, &str)] =
    &[("layers.", "model.layers."), ("embed_tokens.", "model.embed_tokens."), ("norm.", "model.norm.")];

/// Adds 1, where the model's norms store their distance from it.
pub(crate) fn plus_one(v: f32) -> f32 {
    v + 1.0
}

/// Attention with separate projections, as stored.
pub(crate) const ATTENTION: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
];

/// Attention whose rotation is of halves in the checkpoint and of neighbours in the file.
pub(crate) const ATTENTION_ROTATED: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q").how(How::RotateQuery),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k").how(How::RotateKey),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
];

/// Norms of each head's queries and keys.
pub(crate) const HEAD_NORMS: &[NameRule] = &[
    r("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    r("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
];

/// Norms after attention and feed-forward, beside those before.
pub(crate) const POST_NORMS: &[NameRule] = &[
    r("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    r("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
];

/// The norms before attention and feed-forward.
pub(crate) const NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
];

/// A block after the layers of the model, which predicts the token after the next.
pub(crate) const PREDICTION: &[NameRule] = &[
    r("model.layers.{}.eh_proj", "blk.{}.nextn.eh_proj"),
    r("model.layers.{}.embed_tokens", "blk.{}.nextn.embed_tokens"),
    r("model.layers.{}.enorm", "blk.{}.nextn.enorm"),
    r("model.layers.{}.hnorm", "blk.{}.nextn.hnorm"),
    r("model.layers.{}.shared_head.head", "blk.{}.nextn.shared_head_head"),
    r("model.layers.{}.shared_head.norm", "blk.{}.nextn.shared_head_norm"),
];

/// The blocks of the file are the layers and those of prediction after them.
pub(crate) fn with_prediction(config: &mut Config) -> Result<()> {
    let further = config.u64("num_nextn_predict_layers").unwrap_or(0);
    config.set_blocks(config.layers()?.saturating_add(further));
    Ok(())
}

/// A gated feed-forward.
pub(crate) const GATED: &[NameRule] = &[
    r("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    r("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    r("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
];

/// Token embedding, final norm and an output head that is left out where it is the embedding.
pub(crate) const ENDS_UNTIED: &[NameRule] =
    &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm"), r("lm_head", "output").how(How::Untied)];

/// Experts with tensors of their own, in the usual names.
pub(crate) const EXPERTS: &[NameRule] = &[
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(EXPERT),
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(EXPERT),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(EXPERT),
];

/// The same in another order.
pub(crate) const EXPERTS_GATE_FIRST: &[NameRule] = &[
    r("model.layers.{}.mlp.experts.{x}.gate_proj", "blk.{}.ffn_gate_exps").how(EXPERT),
    r("model.layers.{}.mlp.experts.{x}.up_proj", "blk.{}.ffn_up_exps").how(EXPERT),
    r("model.layers.{}.mlp.experts.{x}.down_proj", "blk.{}.ffn_down_exps").how(EXPERT),
];

/// One of a layer's experts.
pub(crate) const EXPERT: How = How::Stack { group: "experts", members: experts };

/// How many experts a layer has.
pub(crate) fn experts(config: &Config) -> Result<u64> {
    config.need_u64(&["num_local_experts", "num_experts", "n_routed_experts"])
}
