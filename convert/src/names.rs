//! Names of tensors: matching the tables' patterns, and what a name says of its type.

use crate::hf::{Class, Rule};

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
pub(crate) fn rules(class: &Class) -> impl Iterator<Item = &'static Rule> {
    class.spelling.iter().flat_map(|table| table.iter())
}

/// The rule that a name falls under.
pub(crate) fn find<'a>(class: &Class, name: &'a str) -> Option<Match<'a>> {
    ["", ".weight", ".bias", ".scale", ".input_scale"].iter().find_map(|suffix| {
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
pub(crate) fn target(class: &Class, own: &str) -> Option<(usize, &'static Rule)> {
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

/// A pattern with the block's number.
pub(crate) fn with_block(pattern: &str, block: Option<u64>) -> String {
    block.map_or_else(|| pattern.to_owned(), |b| pattern.replacen("{}", &b.to_string(), 1))
}

/// Matrices that llama.cpp wants in f32 whatever the rest is.
const ALWAYS_F32: &[&str] = &[
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
    "shortconv.conv.weight",
];

/// Whether a tensor of this name and number of dimensions is f32 in every file.
pub(crate) fn is_always_f32(name: &str, dimensions: usize) -> bool {
    let own = name.split_once("blk.").and_then(|(_, rest)| rest.split_once('.')).map_or(name, |(_, own)| own);
    dimensions <= 1 || name.ends_with("_norm.weight") || !name.ends_with(".weight") || ALWAYS_F32.contains(&own)
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
fn distance(a: &str, b: &str) -> usize {
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

/// Beginnings of names that belong to towers of other senses or to what stands between them and the text model.
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

/// Whether a tensor belongs to another sense than text.
pub(crate) fn is_other_sense(name: &str) -> bool {
    OTHER_BEGINNINGS.iter().any(|b| name.starts_with(b)) || OTHER_PARTS.iter().any(|p| name.contains(p))
}

/// Buffers that some checkpoints store and nobody needs.
pub(crate) fn is_buffer(name: &str) -> bool {
    [".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq"].iter().any(|e| name.ends_with(e))
}

#[cfg(test)]
mod tests {
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
        let class = crate::hf::find("MixtralForCausalLM").unwrap();
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
        assert_eq!(fused(crate::hf::find("LlamaForCausalLM").unwrap(), "model.layers.0.mlp.gate.weight"), None);
        assert!(target(class, "ffn_gate_inp").is_some() && target(class, "nothing").is_none());
    }

    #[test]
    fn types_follow_names() {
        assert!(is_always_f32("blk.3.ffn_gate_inp.weight", 2));
        assert!(is_always_f32("blk.3.attn_q.bias", 2));
        assert!(is_always_f32("position_embd.weight", 2));
        assert!(!is_always_f32("blk.3.attn_q.weight", 2));
        assert!(!is_always_f32("dec.blk.0.attn_rel_b.weight", 2));
    }

    #[test]
    fn the_nearest_name_is_found() {
        let class = crate::hf::find("LlamaForCausalLM").unwrap();
        let near = nearest(class, "model.layers.3.self_attn.query.weight").unwrap();
        assert!(near.starts_with("model.layers.3.self_attn."), "{near}");
    }
}
