//! Recipes: which type each tensor of a model gets in a file of a given type.
//!
//! One row of [`FILE_TYPES`] is one file type. Its rules are tried from the top, the first that fits a tensor's role
//! and place wins, and a tensor that none fits gets the row's base type. What a model adds to every recipe (tied
//! embeddings, experts, rows that is not a whole number of blocks, tensors that are never quantized) stands once,
//! below the table.
//!
//! The facts are those of llama.cpp's `llama-quant.cpp`, down to its counters: the place of an attention value tensor
//! is counted over the tensors of that role, in the order of the output file.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use gguf::TensorType::{self, *};
use gguf::arch::{self, Role};
use gguf::{Error, Metadata, Result, Shape};

use crate::pattern::Pattern;

/// A condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// At least four query heads share a key/value head.
    SharedHeads,
    /// At least four query heads share a key/value head, or there are at least four experts.
    SharedHeadsOrExperts,
    /// There are exactly eight experts.
    EightExperts,
    /// Among the first 1/k of the layers.
    Early(u64),
    /// Neither in the first nor in the last eighth of the layers.
    Middle,
    /// The first and last eighth of the layers, and every third between.
    MoreBits,
    /// Among the first k tensors of this role.
    First(u64),
    /// An importance matrix is given (or is not).
    Importance(bool),
    /// The architecture is Falcon (or is not).
    Falcon(bool),
}

/// One line of a recipe: tensors of this role, under all these conditions, get this type.
#[derive(Clone, Copy, Debug)]
struct Rule(Role, &'static [When], TensorType);

/// What kind of recipe a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Every tensor as it is.
    Copy,
    /// One plain type, no rules.
    Plain,
    /// Rules, then the corrections for eight experts and for the 70B models.
    Mixture,
    /// Rules of the lowest bit rates, which have their own corrections in them.
    Lowest,
    /// Stacks of experts get the base type, everything else Q8_0.
    ExpertsOnly,
}

/// One row of the table: a type of file.
#[derive(Debug)]
pub struct FileType {
    /// The name, as `llama-quantize` spells it.
    pub name: &'static str,
    /// `general.file_type`.
    pub id: u32,
    /// The type of every tensor that no rule fits.
    pub base: TensorType,
    /// The type of the output tensor (and of an embedding that serves as one).
    output: TensorType,
    kind: Kind,
    rules: &'static [Rule],
}

use Kind::*;
use Role::*;
use When::*;

const fn row(
    name: &'static str,
    id: u32,
    base: TensorType,
    output: TensorType,
    kind: Kind,
    rules: &'static [Rule],
) -> FileType {
    FileType { name, id, base, output, kind, rules }
}

/// Every file type, in the order of `llama-quantize --help`.
#[rustfmt::skip]
pub const FILE_TYPES: &[FileType] = &[
    row("Q1_0",      40, Q1_0,    Q6_K, Mixture, &[]),
    row("Q2_0",      41, Q2_0,    Q6_K, Mixture, &[Rule(Embedding, &[], Q4_K)]),
    row("Q4_0",       2, Q4_0,    Q6_K, Mixture, &[Rule(FfnDown, &[Importance(true), Early(8)], Q4_1)]),
    row("Q4_1",       3, Q4_1,    Q6_K, Mixture, &[]),
    row("MXFP4_MOE", 38, MXFP4,   Q8_0, ExpertsOnly, &[]),
    row("Q5_0",       8, Q5_0,    Q6_K, Mixture, &[Rule(FfnDown, &[Importance(true), Early(8)], Q5_1)]),
    row("Q5_1",       9, Q5_1,    Q6_K, Mixture, &[]),
    row("IQ2_XXS",   19, IQ2_XXS, Q5_K, Lowest, &[
        Rule(Embedding,  &[],                     Q2_K),
        Rule(AttnV,      &[SharedHeadsOrExperts], Q4_K),
        Rule(AttnV,      &[],                     Q2_K),
        Rule(AttnK,      &[EightExperts],         Q4_K),
        Rule(FfnDown,    &[Early(8)],             Q2_K),
        Rule(AttnOutput, &[EightExperts],         Q5_K),
    ]),
    row("IQ2_XS",    20, IQ2_XS,  Q5_K, Lowest, &[
        Rule(Embedding,  &[],                     Q2_K),
        Rule(AttnV,      &[SharedHeadsOrExperts], Q4_K),
        Rule(AttnV,      &[],                     Q2_K),
        Rule(AttnK,      &[EightExperts],         Q4_K),
        Rule(FfnDown,    &[Early(8)],             Q2_K),
        Rule(AttnOutput, &[EightExperts],         Q5_K),
    ]),
    row("IQ2_S",     28, IQ2_XS,  Q5_K, Lowest, &[
        Rule(Embedding,  &[],                     IQ3_S),
        Rule(AttnV,      &[SharedHeadsOrExperts], Q4_K),
        Rule(AttnV,      &[],                     IQ3_S),
        Rule(AttnK,      &[EightExperts],         Q4_K),
        Rule(FfnDown,    &[Early(8)],             IQ3_S),
        Rule(AttnOutput, &[EightExperts],         Q5_K),
        Rule(AttnOutput, &[],                     IQ3_S),
    ]),
    row("IQ2_M",     29, IQ2_S,   Q5_K, Lowest, &[
        Rule(Embedding,  &[],                     IQ3_S),
        Rule(AttnV,      &[SharedHeadsOrExperts], Q4_K),
        Rule(AttnV,      &[],                     IQ3_S),
        Rule(AttnK,      &[EightExperts],         Q4_K),
        Rule(FfnDown,    &[Early(8)],             IQ3_S),
        Rule(AttnOutput, &[EightExperts],         Q5_K),
        Rule(AttnOutput, &[],                     IQ3_S),
    ]),
    row("IQ1_S",     24, IQ1_S,   Q5_K, Lowest, &[
        Rule(Embedding,  &[],                     Q2_K),
        Rule(AttnV,      &[SharedHeadsOrExperts], Q4_K),
        Rule(AttnV,      &[],                     Q2_K),
        Rule(AttnK,      &[EightExperts],         Q4_K),
        Rule(FfnDown,    &[Early(8)],             Q2_K),
        Rule(AttnOutput, &[EightExperts],         Q5_K),
        Rule(AttnOutput, &[],                     IQ2_XXS),
    ]),
    row("IQ1_M",     31, IQ1_M,   Q5_K, Lowest, &[
        Rule(Embedding,  &[],                     Q2_K),
        Rule(AttnV,      &[SharedHeadsOrExperts], Q4_K),
        Rule(AttnV,      &[],                     Q2_K),
        Rule(AttnK,      &[EightExperts],         Q4_K),
        Rule(FfnDown,    &[Early(8)],             Q2_K),
        Rule(AttnOutput, &[EightExperts],         Q5_K),
        Rule(AttnOutput, &[],                     IQ2_XXS),
    ]),
    row("TQ1_0",     36, TQ1_0,   Q6_K, Mixture, &[Rule(Embedding, &[], Q4_K)]),
    row("TQ2_0",     37, TQ2_0,   Q6_K, Mixture, &[Rule(Embedding, &[], Q4_K)]),
    row("Q2_K",      10, Q2_K,    Q6_K, Mixture, &[
        Rule(AttnV,      &[SharedHeads],   Q4_K),
        Rule(AttnV,      &[],              Q3_K),
        Rule(FfnDown,    &[],              Q3_K),
        Rule(AttnOutput, &[EightExperts],  Q5_K),
        Rule(AttnOutput, &[Falcon(false)], Q3_K),
    ]),
    row("Q2_K_S",    21, Q2_K,    Q6_K, Mixture, &[
        Rule(AttnV,      &[SharedHeads],   Q4_K),
        Rule(FfnDown,    &[Early(8)],      Q4_K),
    ]),
    row("IQ3_XXS",   23, IQ3_XXS, Q5_K, Mixture, &[
        Rule(Embedding,  &[],                            IQ3_S),
        Rule(AttnV,      &[SharedHeads],                 Q4_K),
        Rule(AttnV,      &[Importance(false)],           IQ3_S),
        Rule(AttnK,      &[],                            IQ2_S),
        Rule(AttnQ,      &[],                            IQ2_S),
        Rule(FfnDown,    &[Importance(false), Early(8)], Q4_K),
        Rule(FfnDown,    &[Importance(false)],           Q3_K),
        Rule(AttnOutput, &[EightExperts],                Q5_K),
        Rule(AttnOutput, &[Falcon(false)],               IQ3_S),
    ]),
    row("IQ3_S",     26, IQ3_S,   Q6_K, Mixture, &[
        Rule(AttnV,      &[SharedHeads],  Q4_K),
        Rule(AttnOutput, &[EightExperts], Q5_K),
    ]),
    row("IQ3_M",     27, IQ3_S,   Q6_K, Mixture, &[
        Rule(AttnV,      &[],                       Q4_K),
        Rule(FfnDown,    &[Early(8)],               Q4_K),
        Rule(FfnDown,    &[EightExperts, MoreBits], Q4_K),
        Rule(AttnOutput, &[EightExperts],           Q5_K),
        Rule(AttnOutput, &[Falcon(false)],          Q4_K),
    ]),
    row("IQ3_XS",    22, IQ3_S,   Q6_K, Mixture, &[
        Rule(AttnV,      &[SharedHeads],  Q4_K),
        Rule(AttnK,      &[],             IQ3_XXS),
        Rule(AttnQ,      &[],             IQ3_XXS),
        Rule(FfnGate,    &[Middle],       IQ3_XXS),
        Rule(FfnUp,      &[Middle],       IQ3_XXS),
        Rule(AttnOutput, &[EightExperts], Q5_K),
    ]),
    row("Q3_K_S",    11, Q3_K,    Q6_K, Mixture, &[
        Rule(AttnOutput, &[EightExperts], Q5_K),
    ]),
    row("Q3_K_M",    12, Q3_K,    Q6_K, Mixture, &[
        Rule(AttnV,      &[First(2)],      Q5_K),
        Rule(AttnV,      &[],              Q4_K),
        Rule(FfnDown,    &[Early(16)],     Q5_K),
        Rule(FfnDown,    &[Falcon(false)], Q4_K),
        Rule(FfnDown,    &[MoreBits],      Q4_K),
        Rule(AttnOutput, &[EightExperts],  Q5_K),
        Rule(AttnOutput, &[Falcon(false)], Q4_K),
    ]),
    row("Q3_K_L",    13, Q3_K,    Q6_K, Mixture, &[
        Rule(AttnV,      &[],              Q5_K),
        Rule(FfnDown,    &[Falcon(true)],  Q4_K),
        Rule(FfnDown,    &[],              Q5_K),
        Rule(AttnOutput, &[Falcon(true)],  Q4_K),
        Rule(AttnOutput, &[EightExperts],  Q3_K),
        Rule(AttnOutput, &[],              Q5_K),
    ]),
    row("IQ4_NL",    25, IQ4_NL,  Q6_K, Mixture, &[
        Rule(AttnV,      &[SharedHeads],                 Q5_K),
        Rule(FfnDown,    &[Importance(false), Early(8)], Q5_K),
        Rule(AttnOutput, &[EightExperts],                Q5_K),
    ]),
    row("IQ4_XS",    30, IQ4_XS,  Q6_K, Mixture, &[
        Rule(AttnV,      &[SharedHeads],                 Q5_K),
        Rule(FfnDown,    &[Importance(false), Early(8)], Q5_K),
        Rule(AttnOutput, &[EightExperts],                Q5_K),
    ]),
    row("Q4_K_S",    14, Q4_K,    Q6_K, Mixture, &[
        Rule(AttnV,      &[First(4)],                Q5_K),
        Rule(FfnDown,    &[Falcon(false), Early(8)], Q5_K),
        Rule(AttnOutput, &[EightExperts],            Q5_K),
    ]),
    row("Q4_K_M",    15, Q4_K,    Q6_K, Mixture, &[
        Rule(AttnV,      &[MoreBits],                Q6_K),
        Rule(FfnDown,    &[Falcon(true), Early(16)], Q6_K),
        Rule(FfnDown,    &[Falcon(true), MoreBits],  Q5_K),
        Rule(FfnDown,    &[Falcon(false), MoreBits], Q6_K),
        Rule(AttnOutput, &[EightExperts],            Q5_K),
    ]),
    row("Q5_K_S",    16, Q5_K,    Q6_K, Mixture, &[]),
    row("Q5_K_M",    17, Q5_K,    Q6_K, Mixture, &[
        Rule(AttnV,      &[MoreBits], Q6_K),
        Rule(FfnDown,    &[MoreBits], Q6_K),
    ]),
    row("Q6_K",      18, Q6_K,    Q6_K, Mixture, &[]),
    row("Q8_0",       7, Q8_0,    Q8_0, Mixture, &[]),
    row("F16",        1, F16,     F16,  Plain, &[]),
    row("BF16",      32, BF16,    BF16, Plain, &[]),
    row("F32",        0, F32,     F32,  Plain, &[]),
    row("COPY",       0, F32,     F32,  Copy,  &[]),
];

/// Short names for the usual member of a family.
const ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

/// What takes a type's place where a row is not a whole number of its blocks.
const FALLBACKS: &[(TensorType, TensorType)] = &[
    (IQ1_S, IQ4_NL),
    (IQ1_M, IQ4_NL),
    (IQ2_XXS, IQ4_NL),
    (IQ2_XS, IQ4_NL),
    (IQ2_S, IQ4_NL),
    (IQ3_XXS, IQ4_NL),
    (IQ3_S, IQ4_NL),
    (IQ4_XS, IQ4_NL),
    (Q2_0, Q4_0),
    (Q2_K, Q4_0),
    (Q3_K, Q4_0),
    (TQ1_0, Q4_0),
    (TQ2_0, Q4_0),
    (Q4_K, Q5_0),
    (Q5_K, Q5_1),
    (Q6_K, Q8_0),
];

/// Types that are useless without an importance. Embedding and output are exempt; Q2_K needs one in Q2_K_S only.
const NEED_IMPORTANCE: &[TensorType] = &[IQ3_XXS, IQ2_XXS, IQ2_XS, IQ2_S, IQ1_M, IQ1_S];

impl FileType {
    /// The row with this `general.file_type`, if there is one.
    pub fn from_id(id: u32) -> Option<&'static FileType> {
        FILE_TYPES.iter().find(|t| t.id == id && t.kind != Copy)
    }

    /// Whether every tensor stays as it is.
    pub fn is_copy(&self) -> bool {
        self.kind == Copy
    }

    /// Whether tensors are quantized to blocks (rather than stored as plain floats).
    pub fn is_quantized(&self) -> bool {
        !matches!(self.kind, Copy | Plain)
    }
}

impl PartialEq for FileType {
    fn eq(&self, other: &FileType) -> bool {
        self.name == other.name
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// The `general.file_type` that llama.cpp's loader names after the most frequent type of a tensor; `None` for types it
/// names no file after.
pub(crate) fn guessed(most: TensorType) -> Option<u32> {
    match most {
        // No recipe makes such files.
        NVFP4 => Some(39),
        ty => ty.name().parse::<&FileType>().ok().map(|row| row.id),
    }
}

impl FromStr for &'static FileType {
    type Err = Error;

    /// Takes a name in any case, an alias, or the number of `general.file_type`.
    fn from_str(text: &str) -> Result<&'static FileType> {
        let name = ALIASES.iter().find(|a| a.0.eq_ignore_ascii_case(text)).map_or(text, |a| a.1);
        FILE_TYPES
            .iter()
            .find(|t| t.name.eq_ignore_ascii_case(name))
            .or_else(|| FileType::from_id(name.parse().ok()?))
            .ok_or_else(|| {
                let known = FILE_TYPES.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
                Error::usage(format!("\"{text}\" is no type of file")).help(format!("the types are {known}"))
            })
    }
}

/// The name of a type that is most like a text that names none, if one is like it at all.
pub fn near_name(text: &str, names: impl Iterator<Item = String>) -> Option<String> {
    /// How alike names are that stand for one another.
    const ALIKE: f64 = 0.6;
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', '.', ' '], "");
    let wanted = plain(text);
    let scored = names.map(|name| (strsim::normalized_damerau_levenshtein(&wanted, &plain(&name)), name));
    let (score, name) = scored.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))?;
    (score >= ALIKE).then_some(name)
}

/// What recipes ask of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    falcon: bool,
    types: arch::Types,
    layers: u64,
    experts: u64,
    /// Query heads for each key/value head of the first layer; 0 where it has none.
    heads_per_kv: u64,
    seventy_b: bool,
}

impl ModelFacts {
    /// Reads what recipes need, as the architecture's loader sees it: missing keys count as 0, and a model whose layers
    /// run several times has them all. An architecture without a row has what its keys say.
    pub fn from_metadata(metadata: &Metadata) -> ModelFacts {
        let name = metadata.architecture().unwrap_or("");
        match arch::find(name) {
            Some(row) => ModelFacts::from_row(row, metadata),
            None => ModelFacts::from_keys(name, metadata),
        }
    }

    fn from_row(row: &'static arch::Arch, metadata: &Metadata) -> ModelFacts {
        let (dims, _) = row.dims(&|key| metadata.get(key), HashMap::new());
        let (heads, heads_kv) = (dims.heads(0).get(), dims.kv_heads(0).get());
        let types = row.types;
        let layers = dims.layers_all * (row.ends)(&dims).loops.max(1);
        let deep = types.seventy_b > 0 && layers == types.seventy_b;
        ModelFacts {
            falcon: row.name == "falcon",
            types,
            layers: layers as u64,
            experts: dims.experts.get(),
            heads_per_kv: heads.checked_div(heads_kv).unwrap_or(0),
            seventy_b: deep && !(types.shared_heads_only && heads == heads_kv),
        }
    }

    fn from_keys(name: &str, metadata: &Metadata) -> ModelFacts {
        let first = |key: &str| {
            let key = format!("{name}.{key}");
            match metadata.array(&key) {
                Some(layers) => layers.iter().next().and_then(|v| v.as_u64()),
                None => metadata.u64(&key),
            }
        };
        let heads = first("attention.head_count").unwrap_or(0);
        let heads_kv = first("attention.head_count_kv").unwrap_or(heads);
        ModelFacts {
            falcon: false,
            types: arch::Types::default(),
            layers: first("block_count").unwrap_or(0),
            experts: first("expert_count").unwrap_or(0),
            heads_per_kv: heads.checked_div(heads_kv).unwrap_or(0),
            seventy_b: false,
        }
    }

    /// Whether a type of file asks of this tensor how many query heads share a key head.
    pub fn asks_shared_heads(file_type: &FileType, name: &str) -> bool {
        let asks = |rule: &Rule| rule.1.iter().any(|when| matches!(when, SharedHeads | SharedHeadsOrExperts));
        file_type.rules.iter().any(|rule| rule.0 == Role::of(name) && asks(rule))
    }

    /// Whether a tensor of this name and shape is ever quantized.
    pub fn quantizes(&self, name: &str, shape: &Shape) -> bool {
        arch::quantizes(name, dimensions(shape), self.types.kept)
    }
}

/// The number of dimensions without trailing ones, at least 1: what ggml writes and counts.
pub fn dimensions(shape: &Shape) -> usize {
    shape.dims().iter().rposition(|&d| d > 1).map_or(1, |i| i + 1)
}

/// What the person asks of a recipe.
#[derive(Clone, Debug, Default)]
pub struct TypeOverrides {
    /// Every tensor gets the base type.
    pub pure: bool,
    /// The output tensor stays as it is.
    pub leave_output: bool,
    /// The type of the output tensor.
    pub output: Option<TensorType>,
    /// The type of the token embedding.
    pub embedding: Option<TensorType>,
    /// Types for tensors whose name a pattern matches; the first that does wins.
    pub tensors: Vec<(Pattern, TensorType)>,
}

/// The type that a recipe chose for a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub ty: TensorType,
    /// The type it stands for, where a row is not a whole number of that one's blocks.
    pub instead_of: Option<TensorType>,
    /// Whether another type would do as well: neither the person nor the architecture asks for this one.
    pub free: bool,
}

/// A recipe at work: asked for one tensor after the other, in the order of the output file.
#[derive(Debug)]
pub struct Recipe<'a> {
    file_type: &'static FileType,
    model: &'a ModelFacts,
    wishes: &'a TypeOverrides,
    importance: bool,
    /// The embedding serves as output.
    tied: bool,
    attn_v_total: u64,
    attn_v: u64,
    ffn: [u64; 3],
}

impl<'a> Recipe<'a> {
    /// Begins with the names of all tensors of the output file. `importance` says that a matrix is given.
    pub fn new<'n>(
        file_type: &'static FileType,
        model: &'a ModelFacts,
        wishes: &'a TypeOverrides,
        importance: bool,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Recipe<'a> {
        let (mut tied, mut attn_v_total) = (true, 0);
        for name in names {
            match Role::of(name) {
                Output => tied = false,
                AttnV => attn_v_total += 1,
                _ => {}
            }
        }
        Recipe { file_type, model, wishes, importance, tied, attn_v_total, attn_v: 0, ffn: [0; 3] }
    }

    /// The type for the next tensor.
    ///
    /// # Errors
    /// A row that neither the type nor a fallback fits, or a tensor of a model with experts whose name has no layer.
    pub fn choose(&mut self, name: &str, shape: &Shape, current: TensorType) -> Result<Choice> {
        let kept = Ok(Choice { ty: current, instead_of: None, free: false });
        if self.file_type.kind == Copy || !self.model.quantizes(name, shape) {
            return kept;
        }
        let role = Role::of(name);
        if self.wishes.leave_output && role == Output {
            return kept;
        }
        let by_pattern = self.wishes.tensors.iter().find(|(pattern, _)| pattern.matches(name)).map(|w| w.1);
        // A pattern may name the per-layer embedding, a large table of its own; the token embedding it may not.
        let pattern_first = name == "per_layer_token_embd.weight" && by_pattern.is_some();
        let wished = match role {
            Embedding if !pattern_first => self.wishes.embedding,
            Output => self.wishes.output,
            _ => None,
        };
        let ty = match (wished, by_pattern) {
            (Some(ty), _) => ty,
            (None, _) if !self.file_type.is_quantized() => return Ok(Choice { ty: self.file_type.base, ..kept? }),
            (None, Some(ty)) => ty,
            (None, None) if self.wishes.pure => self.file_type.base,
            (None, None) => self.by_rules(role, name, shape)?,
        };
        let free = wished.is_none() && by_pattern.is_none() && !self.needs_eight_bits(name);
        Ok(Choice { free, ..fitting(ty, name, shape)? })
    }

    /// Whether the architecture wants eight bits for a tensor.
    fn needs_eight_bits(&self, name: &str) -> bool {
        self.model.types.at_least_q8_0.iter().any(|part| name.contains(part))
    }

    fn by_rules(&mut self, role: Role, name: &str, shape: &Shape) -> Result<TensorType> {
        let base = self.file_type.base;
        if self.needs_eight_bits(name) {
            return Ok(Q8_0);
        }
        if role == Output || (self.tied && role == Embedding) {
            let whole = shape.row_len().is_multiple_of(base.block_len());
            let output = if self.model.falcon || !whole { Q8_0 } else { self.file_type.output };
            return Ok(self.wishes.output.unwrap_or(output));
        }
        if self.file_type.kind == ExpertsOnly {
            let by_role = self.model.types.stacks_by_role;
            let stack = shape.dim(2) > 1 && (!by_role || matches!(role, FfnUp | FfnGate | FfnDown));
            return Ok(if stack { base } else { Q8_0 });
        }
        let place = self.place(role, name)?;
        let fits = |rule: &&Rule| rule.0 == role && rule.1.iter().all(|&when| self.holds(when, place));
        let ty = self.file_type.rules.iter().find(fits).map_or(base, |rule| rule.2);
        Ok(match (self.file_type.kind, role) {
            (Mixture, AttnV | AttnK) if self.model.experts == 8 => Q8_0,
            (Mixture, AttnV) if self.model.seventy_b && matches!(ty, Q3_K | Q4_K) => Q5_K,
            _ => ty,
        })
    }

    /// Where a tensor stands among those of its role: its number, and how many there are. Counts on.
    fn place(&mut self, role: Role, name: &str) -> Result<(u64, u64)> {
        let counter = match role {
            AttnV => {
                self.attn_v += 1;
                return Ok((self.attn_v - 1, self.attn_v_total));
            }
            FfnUp => 0,
            FfnGate => 1,
            FfnDown => 2,
            _ => return Ok((0, 0)),
        };
        let counted = self.ffn[counter];
        self.ffn[counter] += 1;
        if self.model.experts <= 1 || self.file_type.kind == Lowest {
            return Ok((counted, self.model.layers));
        }
        // With experts there can be several tensors of a role in a layer, so the name has to tell the layer.
        match layer(name).filter(|&l| l < self.model.layers) {
            Some(layer) => Ok((layer, self.model.layers)),
            None => Err(Error::input(format!(
                "its name tells no layer below {}, which a model with experts needs",
                self.model.layers
            ))
            .in_tensor(name)),
        }
    }

    fn holds(&self, when: When, (i, n): (u64, u64)) -> bool {
        match when {
            SharedHeads => self.model.heads_per_kv >= 4,
            SharedHeadsOrExperts => self.model.heads_per_kv >= 4 || self.model.experts >= 4,
            EightExperts => self.model.experts == 8,
            Early(k) => i < n / k,
            Middle => i >= n / 8 && i < 7 * n / 8,
            MoreBits => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
            First(k) => i < k,
            Importance(given) => self.importance == given,
            Falcon(is) => self.model.falcon == is,
        }
    }
}

/// The layer that a name begins with: 12 for `blk.12.attn_q.weight`.
pub fn layer(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("blk.")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// The type, or what takes its place where the rows do not fit.
fn fitting(ty: TensorType, name: &str, shape: &Shape) -> Result<Choice> {
    let fits = |ty: TensorType| shape.row_len().is_multiple_of(ty.block_len());
    if fits(ty) {
        return Ok(Choice { ty, instead_of: None, free: true });
    }
    let next = match FALLBACKS.iter().find(|f| f.0 == ty) {
        Some(f) => f.1,
        None if ty.block_len() <= 32 => ty,
        None => {
            return Err(Error::input(format!(
                "row length {} is not a multiple of the {ty} block size {}, and nothing stands in for {ty}",
                shape.row_len(),
                ty.block_len()
            ))
            .in_tensor(name)
            .help(format!("choose another type, or one for this tensor: --tensor-type '{name}=q8_0'")));
        }
    };
    Ok(Choice { ty: if fits(next) { next } else { F16 }, instead_of: Some(ty), free: true })
}

/// Whether a tensor of this type is useless without an importance in a file of this type.
pub fn needs_importance(name: &str, ty: TensorType, file_type: &FileType) -> bool {
    !matches!(Role::of(name), Output | Embedding)
        && (NEED_IMPORTANCE.contains(&ty) || (ty == Q2_K && file_type.name == "Q2_K_S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_parse() {
        for (i, row) in FILE_TYPES.iter().enumerate() {
            assert!(FILE_TYPES[..i].iter().all(|other| other.name != row.name));
            assert!(row.is_copy() || FILE_TYPES[..i].iter().all(|other| other.id != row.id), "{row}");
            assert_eq!(row.name.to_lowercase().parse::<&FileType>().unwrap(), row);
        }
        assert_eq!("q4_k".parse::<&FileType>().unwrap().name, "Q4_K_M");
        assert_eq!("15".parse::<&FileType>().unwrap().name, "Q4_K_M");
        assert_eq!("0".parse::<&FileType>().unwrap().name, "F32");
        assert!("Q9".parse::<&FileType>().is_err());
    }

    #[test]
    fn every_fallback_has_smaller_blocks() {
        for (from, to) in FALLBACKS {
            assert!(to.block_len() < from.block_len(), "{from}");
        }
    }

    #[test]
    fn a_tensor_that_a_pattern_matches_gets_the_type_of_the_pattern() {
        let shape = Shape::new(&[256, 256]).unwrap();
        let model = ModelFacts::from_metadata(&Metadata::from_iter([("general.architecture", "llama")]));
        let pattern = Pattern::anywhere("--tensor-type", r"BLK\.(?!0)\d+\.attn_v").unwrap();
        let wishes = TypeOverrides { tensors: vec![(pattern, Q8_0)], ..TypeOverrides::default() };
        let names = ["blk.0.attn_v.weight", "blk.1.attn_v.weight"];
        let mut recipe = Recipe::new("q4_0".parse().unwrap(), &model, &wishes, false, names);
        assert_eq!(recipe.choose(names[0], &shape, F32).unwrap().ty, Q4_0);
        assert_eq!(recipe.choose(names[1], &shape, F32).unwrap().ty, Q8_0);
    }

    #[test]
    fn a_type_without_fallback_is_an_error_that_names_the_tensor() {
        let shape = Shape::new(&[96, 4]).unwrap();
        let error = fitting(Q1_0, "blk.0.attn_q.weight", &shape).unwrap_err();
        assert!(error.to_string().contains("blk.0.attn_q.weight"), "{error}");
        let q4_k = Choice { ty: Q5_0, instead_of: Some(Q4_K), free: true };
        assert_eq!(fitting(Q4_K, "x", &shape).unwrap(), q4_k);
        let narrow = Shape::new(&[20, 4]).unwrap();
        assert_eq!(fitting(Q8_0, "x", &narrow).unwrap().ty, F16);
    }
}
