//! Names of tensors: matching the tables' patterns, and what a name says of its type.
//!
//! Rows of [`crate::hf`] whose functions ask for a name import this file, and this file the form of a row: a table and what
//! reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use gguf::TensorType;

use crate::hf::{Class, Forced, NameRule, Types, projectors};
use crate::transform::Elements;

/// A name that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match<'a> {
    /// The rule's position in the table, over all of its parts.
    pub(crate) index: usize,
    /// The block of the name, where the pattern has one.
    pub(crate) block: Option<u64>,
    /// The member of a stack, where the pattern has one.
    pub(crate) member: Option<u64>,
    /// `.weight`, `.bias`, a factor beside packed weights, or nothing.
    pub(crate) suffix: &'a str,
}

/// All rules of a class, in order.
pub(crate) fn rules(class: &Class) -> impl Iterator<Item = &'static NameRule> {
    class.spelling.iter().flat_map(|table| table.iter())
}

/// The rule that a name falls under.
pub(crate) fn find<'a>(class: &Class, name: &'a str) -> Option<Match<'a>> {
    [""].iter().chain(class.suffixes).find_map(|suffix| {
        let stem = name.strip_suffix(suffix)?;
        rules(class).enumerate().find_map(|(index, rule)| {
            let (block, member) = matches(rule.from, stem)?;
            Some(Match { index, block, member, suffix: &name[stem.len()..] })
        })
    })
}

/// What a name of experts in one tensor stands for, where a class spells each expert for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fused {
    /// The router, under another module's name.
    Router,
    /// Gate and up of all experts, one after the other along the second dimension.
    GateUp,
    /// Gate of all experts.
    Gate,
    /// Up of all experts.
    Up,
    /// Down of all experts.
    Down,
}

/// The form of a name of fused experts (`mlp.experts.gate_up_proj` of transformers 5, `switch_mlp.up_proj` of MLX) and its
/// block.
pub(crate) fn fused(class: &Class, name: &str) -> Option<(Fused, u64)> {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let stacked = rules(class).find(|rule| rule.from.contains("{x}") && rule.to.ends_with("_exps"))?;
    let rest = stem.strip_prefix(stacked.from.split_once("{}")?.0)?;
    let (block, rest) = rest.split_once('.')?;
    let form = match rest.split('.').collect::<Vec<_>>().as_slice() {
        [_, "experts", "gate_up_proj"] => Fused::GateUp,
        [_, "switch_mlp", "gate_proj"] => Fused::Gate,
        [_, "switch_mlp", "up_proj"] => Fused::Up,
        [_, "experts" | "switch_mlp", "down_proj"] => Fused::Down,
        [_, "gate" | "router"] => Fused::Router,
        _ => return None,
    };
    Some((form, block.parse().ok()?))
}

/// The rule whose target, without the block, is this.
pub(crate) fn target(class: &Class, own: &str) -> Option<(usize, &'static NameRule)> {
    rules(class).enumerate().find(|(_, rule)| rule.to.strip_prefix("blk.{}.") == Some(own))
}

/// The numbers that stand for `{}` and `{x}`, if the name has the pattern's form.
fn matches(pattern: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (mut pattern, mut name) = (pattern, name);
    let (mut block, mut member) = (None, None);
    while let Some((before, after)) = pattern.split_once('{') {
        name = name.strip_prefix(before)?;
        let digits = name.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = name[..digits].parse().ok()?;
        name = &name[digits..];
        let (kind, rest) = after.split_once('}')?;
        *(if kind == "x" { &mut member } else { &mut block }) = Some(number);
        pattern = rest;
    }
    (pattern == name).then_some((block, member))
}

/// The block that a name has where a pattern has `{}`, and what follows the pattern, if the name begins so.
pub(crate) fn blocks_in<'a>(pattern: &str, name: &'a str) -> Option<(Option<u64>, &'a str)> {
    let Some((before, after)) = pattern.split_once("{}") else { return Some((None, name.strip_prefix(pattern)?)) };
    let (number, rest) = number_behind(before, name)?;
    Some((Some(number), rest.strip_prefix(after)?))
}

/// As [`blocks_in`], with the member that the name has where the pattern has `{x}`.
pub(crate) fn numbers_in<'a>(pattern: &str, name: &'a str) -> Option<(Option<u64>, Option<u64>, &'a str)> {
    let Some((before, after)) = pattern.split_once("{x}") else {
        let (block, rest) = blocks_in(pattern, name)?;
        return Some((block, None, rest));
    };
    let (block, rest) = blocks_in(before, name)?;
    let (member, rest) = number_behind("", rest)?;
    Some((block, Some(member), rest.strip_prefix(after)?))
}

/// The number behind this beginning of a name, and what follows.
fn number_behind<'a>(before: &str, name: &'a str) -> Option<(u64, &'a str)> {
    let rest = name.strip_prefix(before)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    Some((rest[..digits].parse().ok()?, &rest[digits..]))
}

/// A pattern with the block's number.
pub(crate) fn with_block(pattern: &str, block: Option<u64>) -> String {
    block.map_or_else(|| pattern.to_owned(), |b| pattern.replacen("{}", &b.to_string(), 1))
}

/// A tensor's name with its beginning replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renamed {
    pub(crate) name: String,
    /// Whether it is of another block now.
    pub(crate) moved: bool,
}

/// The name, or names, that a tensor has after the replacement of beginnings. `further` are the blocks after the layers.
pub(crate) fn replaced(prefixes: &[(&str, &str)], name: String, further: &Range<u64>) -> Vec<Renamed> {
    let mut names = vec![Renamed { name, moved: false }];
    for (from, to) in prefixes {
        names = names.into_iter().flat_map(|n| replaced_once(from, to, n, further)).collect();
    }
    names
}

fn replaced_once(from: &str, to: &str, old: Renamed, further: &Range<u64>) -> Vec<Renamed> {
    let Some((number, rest)) = blocks_in(from, &old.name) else { return vec![old] };
    if !to.contains(['+', '*']) {
        return vec![Renamed { name: with_block(to, number) + rest, moved: old.moved }];
    }
    let made = |block: u64| {
        let to = to.replace("{+}", &block.to_string()).replace("{*}", &block.to_string());
        Renamed { name: to + rest, moved: true }
    };
    match number.filter(|_| to.contains("{+}")) {
        _ if further.is_empty() => Vec::new(),
        Some(number) => vec![made(further.start.saturating_add(number))],
        None => further.clone().map(made).collect(),
    }
}

/// Where a tensor comes among those that come first: group, block and place; all others after them.
pub(crate) fn leading(groups: &[&[&str]], name: &str) -> (usize, u64, usize) {
    for (g, group) in groups.iter().enumerate() {
        for (i, pattern) in group.iter().enumerate() {
            if let Some((block, _)) = matches(pattern, name) {
                return (g, block.unwrap_or(0), i);
            }
        }
    }
    (groups.len(), 0, 0)
}

/// Matrices that llama.cpp wants in f32 whatever the rest is.
const ALWAYS_F32: &[&str] = &[
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
    "ssm_conv1d_q.weight",
    "ssm_conv1d_k.weight",
    "ssm_conv1d_v.weight",
    "shortconv.conv.weight",
    "time_mix_first.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "altup_correct_coef.weight",
    "altup_predict_coef.weight",
    "indexer.proj.weight",
];

/// Tables and small matrices that are f16 beside ternary blocks.
const F16_BESIDE_TERNARY: &[&str] = &[
    "token_embd.weight",
    "per_layer_token_embd.weight",
    "output.weight",
    "altup_router.weight",
    "laurel_l.weight",
    "laurel_r.weight",
];

/// Endings of the names of weights, those of adapters inside a model among them.
const WEIGHTS: &[&str] = &[".weight", ".lora_a", ".lora_b"];

/// The type that a tensor has in every file whose matrices are asked for in this type, if there is one. `stored` is its
/// type in the checkpoint; `moved` says that its block has another number there, or that it has one there alone, which
/// the reference does not follow in its lists of names.
pub(crate) fn fixed_type(
    types: Types,
    name: &str,
    dimensions: usize,
    asked: TensorType,
    stored: Elements,
    moved: bool,
) -> Option<TensorType> {
    if dimensions <= 1 || name.ends_with("_norm.weight") {
        return Some(TensorType::F32);
    }
    match (types, stored) {
        (Types::NoMatrices, _) => return None,
        (Types::Also(parts), _) if parts.iter().any(|p| name.contains(p)) => return Some(TensorType::F32),
        (Types::AsStored, Elements::F32) => return Some(TensorType::F32),
        (Types::AsStored, Elements::BF16) => return Some(TensorType::BF16),
        _ => {}
    }
    let own = name.split_once("blk.").and_then(|(_, rest)| rest.split_once('.')).map_or(name, |(_, own)| own);
    let named = |list: &[&str]| !moved && list.contains(&own);
    if named(ALWAYS_F32) || !WEIGHTS.iter().any(|w| name.ends_with(w)) {
        return Some(TensorType::F32);
    }
    let ternary = matches!(asked, TensorType::TQ1_0 | TensorType::TQ2_0);
    (ternary && named(F16_BESIDE_TERNARY)).then_some(TensorType::F16)
}

/// Whether a tensor of no block is of one in the checkpoint, by the numbers in the names there.
pub(crate) fn leaves_its_block(name: &str, of: &[String]) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    !name.contains("blk.") && of.iter().any(|stored| stored.split('.').any(is_number))
}

/// The type that a tensor of a projector file has whatever is asked for, if there is one: vectors, norms and what is no
/// weight are f32.
pub(crate) fn forced_type(class: &Class, name: &str, dimensions: usize, asked: TensorType) -> Option<TensorType> {
    if dimensions <= 1 || name.ends_with("_norm.weight") {
        return Some(TensorType::F32);
    }
    let begins = |pattern: &str| blocks_in(pattern, name).is_some();
    let forced = class.forced.iter().chain(projectors::FORCED).find(|(pattern, _)| begins(pattern));
    match forced.map(|(_, forced)| forced) {
        Some(Forced::F32) => Some(TensorType::F32),
        Some(Forced::F16) => Some(TensorType::F16),
        Some(Forced::Float) => Some(if asked == TensorType::F16 { asked } else { TensorType::F32 }),
        None => (!name.ends_with(".weight")).then_some(TensorType::F32),
    }
}

/// For each tensor of the file those of the checkpoint that it is made of, without what wrappers put in front.
pub(crate) type Sources = BTreeMap<String, Vec<String>>;

/// The names of a stored tensor without what wrappers put in front; nothing for one that is of no use.
pub(crate) type Naming<'a> = dyn Fn(&str) -> Option<Vec<Renamed>> + 'a;

/// What the checkpoint itself calls tensors that are known without what wrappers put in front.
pub(crate) struct Origins<'a> {
    names: Box<Naming<'a>>,
    prefixes: &'static [(&'static str, &'static str)],
    /// Layers before those of prediction.
    layers: u64,
    stored: BTreeMap<String, String>,
}

impl<'a> Origins<'a> {
    pub(crate) fn new(class: &Class, layers: u64, names: impl Fn(&str) -> Option<Vec<Renamed>> + 'a) -> Origins<'a> {
        Origins { names: Box::new(names), prefixes: class.prefixes, layers, stored: BTreeMap::new() }
    }

    /// The names that a stored tensor has without what wrappers put in front.
    pub(crate) fn names_of(&self, stored: &str) -> Option<Vec<Renamed>> {
        (self.names)(stored)
    }

    pub(crate) fn add(&mut self, name: &str, stored: &str) {
        self.stored.insert(name.to_owned(), stored.to_owned());
    }

    /// The name in the checkpoint. One that is not there is called as its like is.
    pub(crate) fn of(&self, name: &str) -> String {
        match self.stored.get(name) {
            Some(stored) => stored.clone(),
            None => self.likely(name).next().unwrap_or_else(|| name.to_owned()),
        }
    }

    /// The names that a tensor which is not there may have in the checkpoint, the likeliest first, no more than so many.
    pub(crate) fn all_of(&self, name: &str, most: usize) -> Vec<String> {
        let mut names = vec![self.of(name)];
        for other in self.likely(name) {
            if names.len() < most && !names.contains(&other) {
                names.push(other);
            }
        }
        names
    }

    /// Names that lead to this one. What leads to it may be what is missing.
    fn likely<'b>(&'b self, name: &'b str) -> impl Iterator<Item = String> + 'b {
        let leads = move |stored: &String| {
            let names = self.names_of(stored);
            names.is_some_and(|names| names.iter().any(|renamed| renamed.name == name))
        };
        let candidates = self.of_prediction(name).into_iter().chain(self.of_own_block(name));
        let candidates = candidates.chain(self.of_another_block(name)).chain(self.of_neighbours(name));
        let candidates = candidates.chain(self.of_beginnings(name)).chain(self.of_siblings(name));
        let adapted = self.stored.values().any(|stored| stored.ends_with(ADAPTED));
        // Where tasks have adapters, tables have them too; what another block has is known from there. A correction is a
        // parameter of its own, no bias of a module.
        let forms = move |candidate: String| {
            let stem = candidate.strip_suffix(".weight").filter(|stem| adapted && stem.ends_with("_embeddings"));
            let correction = candidate.strip_suffix("e_score_correction.bias");
            let table = stem.map(|stem| format!("{stem}{ADAPTED}"));
            let correction = correction.map(|front| format!("{front}e_score_correction_bias"));
            let bare = candidate.strip_suffix(".weight").map(str::to_owned);
            table.into_iter().chain(correction).chain([candidate]).chain(bare).collect::<Vec<_>>()
        };
        candidates.chain([name.to_owned()]).flat_map(forms).filter(leads)
    }

    /// The names by what the class puts in place of a beginning.
    fn of_beginnings(&self, name: &str) -> Vec<String> {
        let in_block = name.split('.').any(|part| part.parse::<u64>().is_ok());
        let begins = |stored: &String| {
            let front = stored.split('.').next();
            !in_block || self.stored.values().any(|other| other.split('.').next() == front)
        };
        let replaced = self.prefixes.iter().filter(|(_, to)| !to.is_empty() && !to.contains(['+', '*']));
        let replaced = replaced.filter_map(|(from, to)| {
            let (block, rest) = blocks_in(to, name)?;
            Some(with_block(from, block) + rest)
        });
        replaced.filter(begins).collect()
    }

    /// The names by those of tensors that differ in a letter: what `w0` is made of says what `v0` is made of.
    fn of_siblings(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (other, stored) in &self.stored {
            let alike = |(a, b): &(char, char)| a == b;
            let before: usize = other.chars().zip(name.chars()).take_while(alike).map(|(c, _)| c.len_utf8()).sum();
            let (theirs, own) = (&other[before..], &name[before..]);
            let (Some(a), Some(b)) = (theirs.chars().next(), own.chars().next()) else { continue };
            if theirs[a.len_utf8()..] != own[b.len_utf8()..] {
                continue;
            }
            let places = stored.match_indices(a).filter(|(at, _)| *at == 0 || stored[..*at].ends_with('.'));
            found.extend(places.map(|(at, _)| format!("{}{b}{}", &stored[..at], &stored[at + a.len_utf8()..])));
        }
        found
    }

    /// The names of a layer of prediction, where the checkpoint has such under names of their own.
    fn of_prediction(&self, name: &str) -> Vec<String> {
        let mut found: Vec<(usize, String)> = Vec::new();
        for (from, to) in self.prefixes {
            let (Some((before, after)), Some(first)) = (to.split_once('{'), from.split('.').next()) else { continue };
            let there = self.stored.values().any(|stored| stored.split('.').next() == Some(first) && first != "model")
                || self.stored.values().any(|stored| stored.starts_with(from.split('{').next().unwrap_or_default()));
            let Some(rest) = name.strip_prefix(before).filter(|_| there && !after.starts_with('}')) else { continue };
            let Some((number, rest)) = rest.split_once('.') else { continue };
            let (Ok(number), Some((_, ending))) = (number.parse::<u64>(), after.split_once("}.")) else { continue };
            if let (Some(own), Some(rest)) = (number.checked_sub(self.layers), rest.strip_prefix(ending)) {
                found.push((to.len(), with_block(from, Some(own)) + rest));
            }
        }
        found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        found.into_iter().map(|(_, stored)| stored).collect()
    }

    /// The names by what is put in front of the names of the same block, where it has another number there.
    fn of_own_block(&self, name: &str) -> Vec<String> {
        let Some(own) = name.split('.').position(|part| part.parse::<u64>().is_ok()) else { return Vec::new() };
        let front: String = name.split('.').take(own + 1).map(|part| format!("{part}.")).collect();
        let suffix = name.rsplit('.').next().unwrap_or_default();
        let (mut fronts, mut around) = (BTreeSet::new(), BTreeSet::new());
        for (other, stored) in &self.stored {
            let Some(rest) = other.strip_prefix(&front) else { continue };
            let moved = |theirs: &&str| !theirs.split('.').any(|part| front.split('.').nth(own) == Some(part));
            fronts.extend(stored.strip_suffix(rest).filter(moved));
            around.extend(stored.split_once("mtp.").map(|(theirs, _)| theirs));
        }
        let around = around
            .into_iter()
            .flat_map(|theirs| AROUND_PREDICTION.iter().map(move |part| format!("{theirs}mtp.{part}.{suffix}")));
        around.chain(fronts.into_iter().map(|theirs| theirs.to_owned() + &name[front.len()..])).collect()
    }

    /// The names that the same tensor has in another block, with this block's number.
    fn of_another_block<'b>(&'b self, name: &'b str) -> impl Iterator<Item = String> + 'b {
        let number = name.split('.').find(|part| part.parse::<u64>().is_ok());
        self.stored.iter().filter_map(move |(other, stored)| {
            let own = other.split('.').find(|part| part.parse::<u64>().is_ok())?;
            let alike = |of: &str| {
                let mut left = number;
                let parts = of.split('.').map(|part| if part == own { left.take().unwrap_or(part) } else { part });
                parts.collect::<Vec<_>>().join(".")
            };
            (alike(other) == name).then(|| alike(stored))
        })
    }

    /// The names by what is put in front of the neighbours' names: that of the most parts first, of these the one of
    /// names that begin alike, then the most frequent.
    fn of_neighbours(&self, name: &str) -> Vec<String> {
        let mut found: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
        for (other, stored) in &self.stored {
            let same = other.rsplit('.').zip(stored.rsplit('.')).take_while(|(a, b)| a == b).count();
            let front = |of: &str| -> String {
                let parts: Vec<&str> = of.split('.').collect();
                parts[..parts.len() - same].iter().map(|part| format!("{part}.")).collect()
            };
            let alike = other.split('.').zip(name.split('.')).take_while(|(a, b)| a == b).count();
            let (most, times) = found.entry((front(other), front(stored))).or_default();
            (*most, *times) = (alike.max(*most), *times + 1);
        }
        let mut found: Vec<_> = found.into_iter().filter(|((ours, _), _)| name.starts_with(ours.as_str())).collect();
        found.sort_by_key(|((ours, _), (alike, times))| std::cmp::Reverse((ours.len(), *alike, *times)));
        found.into_iter().map(|((ours, theirs), _)| theirs + &name[ours.len()..]).collect()
    }
}

/// The known name that is most like this one.
pub(crate) fn nearest(class: &Class, name: &str) -> Option<String> {
    let block = name.split('.').find_map(|part| part.parse::<u64>().ok());
    let numbers: Vec<u64> = name.split('.').filter_map(|part| part.parse().ok()).collect();
    let member = numbers.get(1).copied().unwrap_or(0).to_string();
    let suffix = [".weight", ".bias"].iter().find(|s| name.ends_with(*s)).unwrap_or(&"");
    rules(class)
        .map(|rule| with_block(rule.from, block.or(Some(0))).replace("{x}", &member) + suffix)
        .min_by_key(|known| distance(known, name))
}

/// The stored name that is most like this one.
pub(crate) fn nearest_of<'a>(names: impl Iterator<Item = &'a str>, wanted: &str) -> Option<&'a str> {
    names.min_by_key(|name| distance(name, wanted))
}

/// Insertions, deletions and substitutions between two names, of which very long ones count by length alone.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 256;
    if a.len() > LONGEST || b.len() > LONGEST {
        return a.len().abs_diff(b.len()) + LONGEST;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

/// What a weight is called that adapters of tasks change.
const ADAPTED: &str = ".parametrizations.weight.original";

/// What checkpoints of the Qwen family call what is not of the layer of prediction itself.
const AROUND_PREDICTION: &[&str] = &["fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"];

/// Beginnings of names that belong to vision and audio towers or to what stands between them and the text model.
const OTHER_BEGINNINGS: &[&str] = &[
    "mlp",
    "vit.",
    "vpm.",
    "siglip2.",
    "conformer.",
    "merger.",
    "resampler.",
    "sound_encoder.",
    "sound_projection.",
    "speech_embeddings.",
];

/// Parts of names that say the same.
const OTHER_PARTS: &[&str] = &[
    "visual.",
    "vision.",
    "audio.",
    "talker.",
    "vision_",
    "audio_",
    "token2wav.",
    "code2wav.",
    "projector.",
    "pre_mm_projector_norm",
    "image_newline",
    "view_seperator",
    "patch_embed",
    "patch_embedding",
    "patch_merger.",
    "patch_merge_mlp.",
    "model.connector.",
];

/// Whether a tensor belongs to vision or audio.
pub(crate) fn is_vision_or_audio(name: &str) -> bool {
    OTHER_BEGINNINGS.iter().any(|b| name.starts_with(b)) || OTHER_PARTS.iter().any(|p| name.contains(p))
}

/// Buffers that some checkpoints store and nobody needs.
pub(crate) fn is_buffer(name: &str) -> bool {
    [".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq"].iter().any(|e| name.ends_with(e))
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    #[test]
    fn patterns_match_numbers_only() {
        assert_eq!(matches("h.{}.ln", "h.12.ln"), Some((Some(12), None)));
        assert_eq!(matches("h.{}.e.{x}.w", "h.1.e.7.w"), Some((Some(1), Some(7))));
        assert_eq!(matches("h.{}.ln", "h..ln"), None);
        assert_eq!(matches("h.{}.ln", "h.1.lnx"), None);
        assert_eq!(matches("h.{}.ln", "h.99999999999999999999999.ln"), None);
    }

    #[test]
    fn fused_experts_have_the_place_of_single_ones() {
        let class = crate::hf::find("MixtralForCausalLM", &Map::new()).unwrap();
        for (name, expected) in [
            ("model.layers.3.mlp.experts.gate_up_proj", Some((Fused::GateUp, 3))),
            ("model.layers.3.block_sparse_moe.experts.down_proj.weight", Some((Fused::Down, 3))),
            ("model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight", Some((Fused::Up, 0))),
            ("model.layers.10.mlp.gate.weight", Some((Fused::Router, 10))),
            ("model.layers.x.mlp.gate.weight", None),
            ("model.layers.1.mlp.experts.0.gate_up_proj", None),
            ("model.layers.1.experts.gate_up_proj", None),
            ("layers.1.mlp.experts.gate_up_proj", None),
        ] {
            assert_eq!(fused(class, name), expected, "{name}");
        }
        assert_eq!(
            fused(crate::hf::find("LlamaForCausalLM", &Map::new()).unwrap(), "model.layers.0.mlp.gate.weight"),
            None
        );
        assert!(target(class, "ffn_gate_inp").is_some() && target(class, "nothing").is_none());
    }

    #[test]
    fn types_follow_names() {
        let fixed = |types, name, asked, stored, moved| fixed_type(types, name, 2, asked, stored, moved);
        let is_f32 =
            |types, name, stored, moved| fixed(types, name, TensorType::BF16, stored, moved) == Some(TensorType::F32);
        let usual = |name| is_f32(Types::Usual, name, Elements::BF16, false);
        assert!(usual("blk.3.ffn_gate_inp.weight"));
        assert!(usual("blk.3.attn_q.bias"));
        assert!(usual("position_embd.weight"));
        assert!(!usual("blk.3.attn_q.weight"));
        assert!(!usual("blk.3.attn_q.lora_a"));
        assert!(!usual("dec.blk.0.attn_rel_b.weight"));
        assert!(!is_f32(Types::Usual, "blk.3.ffn_gate_inp.weight", Elements::BF16, true));
        assert!(!is_f32(Types::NoMatrices, "blk.3.ffn_gate_inp.weight", Elements::BF16, false));
        assert!(!is_f32(Types::AsStored, "blk.3.ffn_gate_inp.weight", Elements::BF16, false));
        assert!(is_f32(Types::AsStored, "blk.3.attn_q.weight", Elements::F32, false));
        assert!(is_f32(Types::Also(&["hc_attn_"]), "blk.3.hc_attn_fn.weight", Elements::BF16, false));
        let beside = |types, name| fixed(types, name, TensorType::TQ1_0, Elements::BF16, false);
        for name in ["token_embd.weight", "output.weight", "blk.0.laurel_r.weight", "blk.12.altup_router.weight"] {
            assert_eq!(beside(Types::Usual, name), Some(TensorType::F16));
            assert_eq!(fixed(Types::Usual, name, TensorType::Q8_0, Elements::BF16, false), None);
        }
        assert_eq!(beside(Types::Usual, "blk.3.ffn_gate_inp.weight"), Some(TensorType::F32));
        assert_eq!(beside(Types::Usual, "blk.3.attn_output.weight"), None);
        assert_eq!(beside(Types::NoMatrices, "output.weight"), None);
        assert!(leaves_its_block("output.weight", &["layers.1.head.weight".to_owned()]));
        assert!(!leaves_its_block("output.weight", &["head.weight".to_owned()]));
        assert!(!leaves_its_block("blk.1.head.weight", &["layers.1.head.weight".to_owned()]));
    }

    #[test]
    fn beginnings_are_replaced() {
        let names = |prefixes: &[(&str, &str)], name: &str, further: Range<u64>| -> Vec<(String, bool)> {
            replaced(prefixes, name.to_owned(), &further).into_iter().map(|r| (r.name, r.moved)).collect()
        };
        assert_eq!(names(&[("model.", "")], "model.norm", 2..2), [("norm".to_owned(), false)]);
        let prediction = &[("mtp.layers.{}.", "model.layers.{+}."), ("mtp.fc.", "model.layers.{*}.eh_proj.")];
        assert_eq!(names(prediction, "mtp.layers.1.a", 2..4), [("model.layers.3.a".to_owned(), true)]);
        let all = names(prediction, "mtp.fc.weight", 2..4);
        assert_eq!(all[1], ("model.layers.3.eh_proj.weight".to_owned(), true));
        assert_eq!((all.len(), names(prediction, "mtp.fc.weight", 2..2).len()), (2, 0));
        assert_eq!(names(prediction, "mtp.layers.x.a", 2..4), [("mtp.layers.x.a".to_owned(), false)]);
    }

    #[test]
    fn what_comes_first_is_sorted_by_block() {
        let groups: &[&[&str]] = &[&["a.{}"], &["b.{}", "c.{}"]];
        let mut names = ["x", "c.1", "b.1", "c.0", "a.5", "b.0"];
        names.sort_by_key(|n| leading(groups, n));
        assert_eq!(names, ["a.5", "b.0", "c.0", "b.1", "c.1", "x"]);
    }

    #[test]
    fn the_nearest_name_is_found() {
        let class = crate::hf::find("LlamaForCausalLM", &Map::new()).unwrap();
        let near = nearest(class, "model.layers.3.self_attn.query.weight").unwrap();
        assert!(near.starts_with("model.layers.3.self_attn."), "{near}");
    }
}
