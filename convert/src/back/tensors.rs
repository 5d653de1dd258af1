//! Tensors of a file under the names of a checkpoint: the rules of a row, read from right to left.
//!
//! A rule that keeps, rotates, stacks or maps says by itself what its inverse is. What a row splits, joins or changes
//! by a function of its own is inverted by watching that function ([`layout`]); of its source only the shape has to be
//! found, and the one is right from which the function makes the very tensors that the file has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gguf::{Error, Result};

use super::config::Found;
use super::file::File;
use super::ways::Way;
use super::{elementwise, layout};
use crate::config::Config;
use crate::hf::{Class, FIRST_POSITION, How, NameRule, Outputs, Piece};
use crate::names;
use crate::text_names::TextNames;
use crate::transform::rotated;
use crate::transform::{self, Rows};

/// A tensor of the checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) rows: Rows,
    /// The tensors of the file that it is made of.
    pub(crate) of: Vec<usize>,
}

/// Puts the tensors of a file back under the names of a class.
pub(crate) struct Tensors<'a> {
    class: &'static Class,
    config: &'a Config,
    file: &'a File,
    rules: Vec<&'static NameRule>,
    /// Whether vectors of the folder have ones before their length.
    wide: bool,
    /// Whether its matrices have no ones between their lengths.
    plain: bool,
    /// The shortest ending that a rule leaves to a name, and whether such a rule has a number in the rest.
    endings: BTreeMap<&'a str, (usize, bool)>,
    /// Ends of the names of vectors that have a row a head in the folder.
    per_head: &'static [&'static str],
    /// Ends of the names of tables whose rows are the places of a square, and have two dimensions in the folder.
    square: &'static [&'static str],
    /// Rows of a table of positions that the file does not have, before its first.
    first_position: u64,
    /// Tensors that no rule has taken, by name.
    rest: BTreeMap<&'a str, usize>,
    out: Vec<Named>,
    /// Why a tensor that is left could not be put back, by its name.
    faults: BTreeMap<String, String>,
}

/// What the inverse of tensors asks of a class, beside its rules.
pub(crate) struct Asked<'a> {
    /// Whether a tensor of a folder can have the name of a rule.
    pub(crate) stores: &'a dyn Fn(&str) -> bool,
    /// Whether vectors of the folder have ones before their length.
    pub(crate) wide: bool,
    /// Whether its matrices have no ones between their lengths.
    pub(crate) plain: bool,
    /// Ends of the names of vectors that have a row a head in the folder.
    pub(crate) per_head: &'static [&'static str],
    /// Ends of the names of tables whose rows are the places of a square, and have two dimensions in the folder.
    pub(crate) square: &'static [&'static str],
    /// Rows of a table of positions that the file does not have, before its first.
    pub(crate) first_position: u64,
    /// Tensors of the file that no folder has.
    pub(crate) passed: &'a [&'static str],
}

impl<'a> Asked<'a> {
    /// Nothing but which names there are.
    pub(crate) fn of(stores: &'a dyn Fn(&str) -> bool) -> Asked<'a> {
        Asked { stores, wide: false, plain: false, per_head: &[], square: &[], first_position: 0, passed: &[] }
    }
}

/// The tensors of a checkpoint of this class, in the order of the file.
///
/// # Errors
/// A tensor that the class has no name for, or whose change has no inverse.
pub(crate) fn back(class: &'static Class, way: &Way, found: &Found, file: &File) -> Result<Vec<Named>> {
    let gated = file.0.tensors().iter().any(|t| t.name().ends_with("ffn_gate.weight"));
    let stores = |name: &str| way.stores(name, gated);
    let first_position = found.config.u64(FIRST_POSITION).unwrap_or(0);
    let (wide, plain, per_head) = (way.wide, way.plain, way.per_head);
    let asked = Asked { wide, plain, per_head, first_position, ..Asked::of(&stores) };
    let mut out = inverted(class, &found.config, file, &asked)?;
    for (name, rows) in &found.numbers {
        out.push(Named { name: name.clone(), rows: Arc::clone(rows), of: Vec::new() });
    }
    out.sort_by_key(|tensor| tensor.of.first().copied().unwrap_or(usize::MAX));
    let own = TextNames::new(class, &found.config)?;
    for tensor in &mut out {
        tensor.name = stored_name(class, way, found, &own, &tensor.name);
    }
    Ok(out)
}

/// The tensors of a file under the names that the rules of a class have for them.
///
/// # Errors
/// As [`back`].
pub(crate) fn inverted(class: &'static Class, config: &Config, file: &File, asked: &Asked<'_>) -> Result<Vec<Named>> {
    let rest = file.0.tensors().iter().enumerate().map(|(i, info)| (info.name(), i));
    let rest = rest.filter(|(name, _)| !asked.passed.contains(name)).collect();
    let mut rules: Vec<&'static NameRule> = Vec::new();
    for rule in names::rules(class).filter(|rule| (asked.stores)(rule.from)) {
        // Of several rules for one name the first is the one that is followed.
        if !class.is_projector() || rules.iter().all(|own| own.from != rule.from) {
            rules.push(rule);
        }
    }
    let ending = |name: &&str| {
        let left = |rule: &&'static NameRule| {
            let (block, _, suffix) = names::numbers_in(rule.to, name)?;
            (suffix.is_empty() || class.suffixes.contains(&suffix)).then_some((suffix.len(), block.is_some()))
        };
        rules.iter().filter_map(left).min()
    };
    let all = file.0.tensors().iter().map(|info| info.name());
    let endings = all.filter_map(|name| Some((name, ending(&name)?))).collect();
    let mut tensors = Tensors {
        endings,
        per_head: asked.per_head,
        square: asked.square,
        first_position: asked.first_position,
        class,
        config,
        file,
        rules,
        wide: asked.wide,
        plain: asked.plain,
        rest,
        out: Vec::new(),
        faults: BTreeMap::new(),
    };
    // What is made from the configuration was never stored.
    if let Ok(generated) = (class.generated)(config) {
        for (name, _) in generated {
            tensors.rest.remove(name.as_str());
        }
    }
    for index in 0..tensors.rules.len() {
        tensors.simple(index)?;
    }
    for index in 0..tensors.rules.len() {
        tensors.watched(index)?;
    }
    if let Some(name) = tensors.rest.keys().next() {
        let named = class.names.first().copied().unwrap_or_default();
        let error = Error::input(format!("tensor {name} has no place in a checkpoint of {named}"));
        return Err(match tensors.faults.get(*name) {
            Some(fault) => error.help(fault.clone()),
            None => error,
        });
    }
    let mut out = tensors.out;
    out.sort_by_key(|tensor| tensor.of.first().copied().unwrap_or(usize::MAX));
    Ok(out)
}

/// A name under which the tables' name is found: itself, or with the first beginning that leads to it.
fn stored_name(class: &Class, way: &Way, found: &Found, own: &TextNames<'_>, name: &str) -> String {
    let config = &found.config;
    // What gives states alone is stored without its head.
    let bare = way.bare || found.pooling.is_some();
    let leads = |stored: &str| own.of(stored).is_some_and(|names| names.iter().any(|n| n.name == name));
    if let Some(stored) = (way.rename)(config, name).filter(|stored| own.of(stored).is_some()) {
        return stored;
    }
    let spelled = name.replace("e_score_correction.bias", "e_score_correction_bias");
    // Classes with a head keep the trunk under a name of its own, which older checkpoints leave out.
    let is_head = ["lm_head.", "score.", "classifier."].iter().any(|head| spelled.starts_with(head));
    let trunk = class.prefixes.contains(&("transformer.", ""));
    let under = format!("transformer.{spelled}");
    if trunk && !is_head && leads(&under) {
        return under;
    }
    if let Some(stored) = prediction_name(config, &spelled).filter(|stored| leads(stored)) {
        return stored;
    }
    if let Some(under) =
        way.under.filter(|_| !is_head && !["head.", "pre_classifier.", "dense."].iter().any(|h| spelled.starts_with(h)))
        && let Some(stored) = Some(format!("{under}{spelled}")).filter(|stored| leads(stored))
    {
        return stored;
    }
    if let Some(bare) = spelled.strip_prefix("model.").filter(|name| bare && leads(name)) {
        return bare.to_owned();
    }
    if leads(&spelled) {
        return spelled;
    }
    let beginnings = class.prefixes.iter().filter_map(|(from, to)| {
        let (block, rest) = names::blocks_in(to, name)?;
        Some(names::with_block(from, block) + rest)
    });
    beginnings.into_iter().find(|stored| leads(stored)).unwrap_or(spelled)
}

/// The name of a tensor of a block after the layers, where layers of prediction have one of their own.
fn prediction_name(config: &Config, name: &str) -> Option<String> {
    const PARTS: &[(&str, &str)] = &[
        ("eh_proj", "fc"),
        ("enorm", "pre_fc_norm_embedding"),
        ("hnorm", "pre_fc_norm_hidden"),
        ("shared_head.norm", "norm"),
    ];
    let (block, rest) = names::blocks_in("model.layers.{}.", name)?;
    let further = block?.checked_sub(config.layers().ok()?)?;
    let part = PARTS.iter().find_map(|(part, own)| Some(format!("mtp.{own}{}", rest.strip_prefix(part)?)));
    Some(part.unwrap_or_else(|| format!("mtp.layers.{further}.{rest}")))
}

/// A tensor whose name has the form of a rule's target.
struct Target<'a> {
    name: &'a str,
    tensor: usize,
    block: Option<u64>,
    /// The number that stands for `{x}`.
    member: Option<u64>,
    suffix: &'a str,
}

impl<'a> Tensors<'a> {
    fn rows(&self, tensor: usize) -> Rows {
        self.file.rows(tensor)
    }

    /// The width of the model.
    fn width(&self) -> Option<u64> {
        ["hidden_size", "d_model", "n_embd"].iter().find_map(|field| self.config.u64(field))
    }

    /// The tensors that are left and whose names have the form of a rule's target, with block, member and suffix.
    fn targets(&self, rule: &NameRule) -> Vec<Target<'a>> {
        let of = |(name, tensor): (&&'a str, &usize)| {
            let (block, member, suffix) = names::numbers_in(rule.to, name)?;
            let known = suffix.is_empty() || self.class.suffixes.contains(&suffix);
            // A rule whose target is the whole name comes before one that leaves an ending to the name, and one that says
            // a number itself before one that takes any.
            let best = self.endings.get(name).is_none_or(|ending| (suffix.len(), block.is_some()) <= *ending);
            (known && best).then_some(Target { name, tensor: *tensor, block, member, suffix })
        };
        self.rest.iter().filter_map(of).collect()
    }

    fn take(&mut self, name: &str, stored: String, rows: Rows, of: Vec<usize>) {
        self.rest.remove(name);
        self.out.push(Named { name: stored, rows, of });
    }

    /// A rule whose inverse needs nothing but itself.
    fn simple(&mut self, index: usize) -> Result<()> {
        let rule = self.rules[index];
        for Target { name, tensor, block, member, suffix } in self.targets(rule) {
            let mut stored = names::with_block(rule.from, block) + suffix;
            if let Some(member) = member {
                stored = stored.replace("{x}", &member.to_string());
            }
            let rows = self.rows(tensor);
            let fault = |e: Error| e.in_tensor(name);
            // The same name from two tables: the first is the one that is written.
            let back = match rule.how.of(suffix) {
                // The factor of a packed weight stands beside it, whatever order its rows have.
                How::Keep | How::First | How::Untied | How::Tied => rows,
                _ if suffix.ends_with("scale") => rows,
                How::Map(f) | How::MapWeight(f) => elementwise::undone(&rows, f),
                How::Transpose => transform::transposed(&rows).map_err(fault)?,
                How::RotateQuery => unrotated(&rows, self.class.rotated_queries(self.config)?).map_err(fault)?,
                How::RotateKey => unrotated(&rows, self.class.rotated_keys(self.config)?).map_err(fault)?,
                How::Stack { .. } | How::Chain { .. } | How::Uneven { padded: false, .. } => {
                    let Some((_, count)) = rule.how.stack(self.config, block.unwrap_or(0)) else { continue };
                    let chained = matches!(rule.how, How::Chain { .. });
                    let parts = unstacked(&rows, count?, chained).map_err(fault)?;
                    self.rest.remove(name);
                    for (member, rows) in parts.into_iter().enumerate() {
                        let stored = stored.replace("{x}", &member.to_string());
                        self.out.push(Named { name: stored, rows, of: vec![tensor] });
                    }
                    continue;
                }
                How::Drop
                | How::Split(_)
                | How::Cut(_)
                | How::Change(_)
                | How::Join { .. }
                | How::JoinAll { .. }
                | How::Uneven { .. } => continue,
            };
            self.take(name, stored, back, vec![tensor]);
        }
        Ok(())
    }

    /// A rule with a function of its own.
    fn watched(&mut self, index: usize) -> Result<()> {
        let rule = self.rules[index];
        match rule.how {
            How::Change(change) => {
                for Target { name, tensor, block, suffix, .. } in self.targets(rule) {
                    let make = |config: &Config, piece: &Piece| {
                        Ok(vec![(format!("{}{}", piece.to, piece.suffix), change(config, piece)?)])
                    };
                    let data = self.rows(tensor);
                    let mut shapes = changed_shapes(data.shape(), self.width(), self.wide);
                    if self.per_head.iter().any(|end| rule.from.ends_with(end))
                        && let Some(head) =
                            self.config.u64("head_size").or(self.config.u64("head_dim")).filter(|n| *n > 0)
                    {
                        let total: u64 = data.shape().iter().product();
                        shapes.insert(0, vec![total / head, head]);
                    }
                    if self.square.iter().any(|end| rule.from.ends_with(end))
                        && let &[places, width] = data.shape()
                        && places.isqrt().pow(2) == places
                    {
                        shapes.insert(0, vec![places.isqrt(), places.isqrt(), width]);
                    }
                    if self.plain {
                        shapes.insert(0, data.shape().to_vec());
                    }
                    if !self.find(rule, block, suffix, &make, &[name], &shapes)
                        && !self.find_scaled(rule, (name, block, suffix), change, (tensor, &data))
                    {
                        self.find_value(rule, (name, block, suffix), change, (tensor, &data), &shapes);
                    }
                }
            }
            How::Split(split) | How::Cut(split) => {
                for block in self.blocks() {
                    // A function that gives whole names belongs to a parameter without an ending.
                    for suffix in ["", ".weight", ".bias"] {
                        self.find_split(rule, block, suffix, &split);
                    }
                }
            }
            How::Join { group, make } => self.unjoin(index, group, make)?,
            _ => {}
        }
        Ok(())
    }

    /// Puts a tensor back that was multiplied with a number.
    fn find_scaled(
        &mut self,
        rule: &NameRule,
        (name, block, suffix): (&'a str, Option<u64>, &str),
        change: fn(&Config, &Piece) -> Result<Rows>,
        (tensor, data): (usize, &Rows),
    ) -> bool {
        let to = names::with_block(rule.to, block);
        let changed = |rows: Rows| {
            let piece = Piece { to: to.clone(), suffix: suffix.to_owned(), block: block.unwrap_or(0), rows };
            change(self.config, &piece)
        };
        // What is its own inverse, as changes of signs are, is done once more.
        let rows = match layout::factor(data.shape(), changed) {
            Some(factor) => elementwise::undone(data, move |v| v * factor),
            None if layout::undoes_itself(data.shape(), changed) => match changed(Arc::clone(data)) {
                Ok(rows) => rows,
                Err(_) => return false,
            },
            None => return false,
        };
        self.take(name, names::with_block(rule.from, block) + suffix, rows, vec![tensor]);
        true
    }

    /// Puts a tensor back whose values went through one of [`FUNCTIONS`], beside being moved.
    fn find_value(
        &mut self,
        rule: &NameRule,
        (name, block, suffix): (&'a str, Option<u64>, &str),
        change: fn(&Config, &Piece) -> Result<Rows>,
        (tensor, data): (usize, &Rows),
        shapes: &[Vec<u64>],
    ) {
        let to = names::with_block(rule.to, block);
        let changed = |rows: Rows| {
            let piece = Piece { to: to.clone(), suffix: suffix.to_owned(), block: block.unwrap_or(0), rows };
            change(self.config, &piece)
        };
        let tries = shapes.iter().flat_map(|shape| FUNCTIONS.iter().map(move |f| (shape, f)));
        let found = tries.into_iter().find_map(|(shape, f)| layout::inverted_by_value(shape, changed, *f, data).ok());
        if let Some(rows) = found {
            self.take(name, names::with_block(rule.from, block) + suffix, rows, vec![tensor]);
        }
    }

    /// The blocks of what is left, and none for tensors of no block.
    fn blocks(&self) -> BTreeSet<Option<u64>> {
        self.rest.keys().map(|name| block_of(name)).collect()
    }

    /// Tries whether some of a block's tensors that are left are what a split makes of one tensor.
    fn find_split(
        &mut self,
        rule: &NameRule,
        block: Option<u64>,
        suffix: &str,
        split: &dyn Fn(&Config, &Piece) -> Result<Outputs>,
    ) {
        let begins = rule.to.split("{}").next().unwrap_or_default();
        if rule.to.contains("{}") && block.is_none() {
            self.find_renumbered(rule, begins, suffix, split);
            return;
        }
        let mut left: Vec<&'a str> = self
            .rest
            .keys()
            .copied()
            .filter(|name| block_of(name) == block)
            .filter(|name| block.is_none() || name.starts_with(begins))
            .collect();
        if rule.to.contains("{}") != block.is_some() {
            return;
        }
        // Of many those first that are called as the rule says.
        left.sort_by_key(|name| !name.starts_with(begins));
        // The largest sets first: a split into three is not one into two.
        let most = left.len().min(12);
        let mut sets: Vec<u32> = (1_u32..1 << most).filter(|set| set.count_ones() <= 6).collect();
        sets.sort_by_key(|set| std::cmp::Reverse(set.count_ones()));
        for set in sets {
            let names: Vec<&'a str> = (0..most).filter(|i| set >> i & 1 == 1).map(|i| left[i]).collect();
            let shapes: Vec<Vec<u64>> = names.iter().map(|n| self.rows(self.rest[n]).shape().to_vec()).collect();
            if self.find(rule, block, suffix, split, &names, &split_shapes(&shapes, self.width(), self.wide)) {
                return;
            }
        }
    }

    /// Puts tensors back whose number in the file is not that of the checkpoint, and which are no blocks there.
    fn find_renumbered(
        &mut self,
        rule: &NameRule,
        begins: &str,
        suffix: &str,
        split: &dyn Fn(&Config, &Piece) -> Result<Outputs>,
    ) {
        let left = |tensors: &Self| tensors.rest.keys().filter(|name| name.starts_with(begins)).count();
        for number in 0..left(self) as u64 {
            let names: Vec<&'a str> = self.rest.keys().copied().filter(|name| name.starts_with(begins)).collect();
            for name in names {
                let shape = self.rows(self.rest[name]).shape().to_vec();
                if self.find(rule, Some(number), suffix, split, &[name], &[shape]) {
                    break;
                }
            }
        }
    }

    /// Puts `names` back as one tensor of a shape from which the rule's function makes exactly them.
    fn find(
        &mut self,
        rule: &NameRule,
        block: Option<u64>,
        suffix: &str,
        make: &dyn Fn(&Config, &Piece) -> Result<Outputs>,
        names: &[&'a str],
        shapes: &[Vec<u64>],
    ) -> bool {
        let to = names::with_block(rule.to, block);
        // Rows before the first position that a text has are in no file, and no model reads them.
        let first = if matches!(rule.how, How::Cut(_)) { self.first_position } else { 0 };
        for shape in shapes {
            let shape = &match shape.split_first() {
                Some((rows, rest)) if first > 0 => [&[rows + first], rest].concat(),
                _ => shape.clone(),
            };
            let Ok(probe) = layout::numbered(std::slice::from_ref(shape)) else { continue };
            let piece =
                Piece { to: to.clone(), suffix: suffix.to_owned(), block: block.unwrap_or(0), rows: probe[0].clone() };
            let Ok(made) = make(self.config, &piece) else { continue };
            let Some(order) = self.same(&made, names) else { continue };
            let moved: Vec<Rows> = made.iter().map(|(_, rows)| rows.clone()).collect();
            let data: Vec<Rows> = order.iter().map(|tensor| self.rows(*tensor)).collect();
            match layout::inverted_behind(first * transform::row_len(shape), std::slice::from_ref(shape), &moved, &data)
            {
                Ok(mut back) => {
                    let stored = names::with_block(rule.from, block) + suffix;
                    let rows = back.swap_remove(0);
                    names.iter().for_each(|name| _ = self.rest.remove(name));
                    let mut order = order;
                    order.sort_unstable();
                    self.out.push(Named { name: stored, rows, of: order });
                    return true;
                }
                Err(error) => {
                    for name in names {
                        let why =
                            format!("the change that {} went through has no inverse: {}", rule.from, error.message());
                        self.faults.insert((*name).to_owned(), why);
                    }
                }
            }
        }
        false
    }

    /// The tensors of the file that these outputs are, where names and shapes are the same.
    fn same(&self, made: &Outputs, names: &[&str]) -> Option<Vec<usize>> {
        if made.len() != names.len() {
            return None;
        }
        let find = |(name, rows): &(String, Rows)| {
            let tensor = *self.rest.get(name.as_str()).filter(|_| names.contains(&name.as_str()))?;
            (self.rows(tensor).shape() == rows.shape()).then_some(tensor)
        };
        made.iter().map(find).collect()
    }

    /// Several tensors that became one.
    fn unjoin(
        &mut self,
        index: usize,
        group: &'static str,
        make: fn(&Config, &Piece, Vec<Rows>) -> Result<Outputs>,
    ) -> Result<()> {
        let belongs = |rule: &&NameRule| matches!(rule.how, How::Join { group: g, .. } if g == group);
        let members: Vec<&'static NameRule> = self.rules.iter().copied().filter(|r| belongs(r)).collect();
        if !std::ptr::eq(members[0], self.rules[index]) {
            return Ok(());
        }
        let last = members[members.len() - 1];
        for Target { name, tensor, block, suffix, .. } in self.targets(last) {
            let data = self.rows(tensor);
            for shapes in joined_shapes(data.shape(), members.len(), self.config) {
                let Ok(probes) = layout::numbered(&shapes) else { continue };
                let piece = Piece {
                    to: names::with_block(last.to, block),
                    suffix: suffix.to_owned(),
                    block: block.unwrap_or(0),
                    rows: probes[probes.len() - 1].clone(),
                };
                let Ok(made) = make(self.config, &piece, probes) else { continue };
                let Some(order) = self.same(&made, &[name]) else { continue };
                let moved: Vec<Rows> = made.iter().map(|(_, rows)| rows.clone()).collect();
                let Ok(back) = layout::inverted(&shapes, &moved, std::slice::from_ref(&data)) else { continue };
                self.rest.remove(name);
                for (rule, rows) in members.iter().zip(back) {
                    let stored = names::with_block(rule.from, block) + suffix;
                    self.out.push(Named { name: stored, rows, of: order.clone() });
                }
                break;
            }
        }
        Ok(())
    }
}

/// What changes of layout have beside them: decays of state spaces from their logarithms, and norms that store their
/// distance from 1.
const FUNCTIONS: &[fn(f32) -> f32] = &[|v| -transform::exp(v), transform::exp, |v| v + 1.0];

/// The number of the block that a name of the file has.
fn block_of(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once("blk.")?;
    rest.split('.').next()?.parse().ok()
}

/// The shapes that a tensor of one's own may have had before a change, likeliest first. `width` is that of the model.
fn changed_shapes(shape: &[u64], width: Option<u64>, wide: bool) -> Vec<Vec<u64>> {
    let total: u64 = shape.iter().product();
    let mut shapes = Vec::new();
    match *shape {
        [rows, columns] => {
            // What became a column, or one row a group.
            shapes.push(vec![total]);
            // A convolution of one channel each, a transpose, and vectors that became columns or lost them.
            shapes.push(vec![rows, 1, columns]);
            shapes.push(shape.to_vec());
            shapes.push(vec![columns, rows]);
            shapes.push(vec![columns, 1, rows]);
            shapes.push(vec![1, rows, columns]);
            shapes.push(vec![1, 1, rows, columns]);
        }
        [a, 1, 1] => shapes.extend([vec![a], shape.to_vec()]),
        [a, b, c] => {
            // What takes experts apart is stored as one matrix of rows as wide as the model.
            let mut flat = [vec![a * b, c], vec![a * c, b]];
            flat.sort_by_key(|shape| Some(shape[1]) != width);
            shapes.extend(flat);
            shapes.extend([shape.to_vec(), vec![a, c, b], vec![b, a, c], vec![total]]);
            // Adapters behind one of zeros.
            shapes.extend(a.checked_sub(1).filter(|n| *n > 0).map(|n| vec![n, 1, b, c]));
        }
        [1, a, 1, 1] => shapes.extend([vec![a], shape.to_vec()]),
        [1, a, b, c] => shapes.extend([vec![a, b, c], vec![a, c], shape.to_vec(), vec![total]]),
        // A convolution over patches is stored as one matrix.
        [out, a, b, c] => shapes.extend([vec![out, a * b * c], shape.to_vec()]),
        _ => {
            if wide {
                shapes.push(vec![1, 1, total]);
            }
            shapes.push(shape.to_vec());
            shapes.extend([vec![total, 1], vec![1, total], vec![1, 1, total]]);
        }
    }
    shapes
}

/// The shapes that a tensor may have had before it became several.
fn split_shapes(shapes: &[Vec<u64>], width: Option<u64>, wide: bool) -> Vec<Vec<u64>> {
    let mut out = Vec::new();
    let Some(first) = shapes.first() else { return out };
    let dimensions = first.len();
    let equal_but = |axis: usize| {
        shapes
            .iter()
            .all(|s| s.len() == dimensions && s.iter().zip(first).enumerate().all(|(i, (a, b))| i == axis || a == b))
    };
    for axis in 0..dimensions {
        if !equal_but(axis) {
            continue;
        }
        let mut whole = first.clone();
        whole[axis] = shapes.iter().map(|s| s[axis]).sum();
        // What takes experts apart is stored as one matrix.
        if let [experts, rows, columns] = *whole {
            let mut flat = [vec![experts * rows, columns], vec![experts * columns, rows]];
            flat.sort_by_key(|shape| Some(shape[1]) != width);
            out.extend(flat);
        }
        out.push(whole.clone());
        if dimensions >= 2 {
            let mut turned = whole.clone();
            turned.swap(dimensions - 2, dimensions - 1);
            out.push(turned);
        }
    }
    // A convolution over two frames that became one over each.
    if let [a, b] = shapes
        && a == b
        && let &[out_channels, channels, height, width] = a.as_slice()
    {
        out.push(vec![out_channels, channels, 2, height, width]);
    }
    // Keys by head that were transposed, and values: the two halves of what latent attention expands to.
    if let [a, b] = shapes
        && a.len() == 3
        && b.len() == 3
    {
        for (keys, values) in [(a, b), (b, a)] {
            if keys[0] == values[0] && keys[1] == values[2] {
                out.push(vec![keys[0] * (keys[2] + values[1]), keys[1]]);
            }
        }
    }
    if wide && dimensions == 1 {
        out.insert(0, vec![1, 1, first[0]]);
    }
    // One of them may be what another is cut out of.
    out.extend(shapes.iter().filter(|_| shapes.len() > 1).cloned());
    if shapes.len() == 1 {
        let changed = changed_shapes(first, width, wide);
        out.extend(changed);
    }
    out
}

/// Shapes of tensors that were joined to one, likeliest first.
fn joined_shapes(shape: &[u64], parts: usize, config: &Config) -> Vec<Vec<Vec<u64>>> {
    let Some((&rows, tail)) = shape.split_first() else { return Vec::new() };
    let with = |rows: &[u64]| -> Vec<Vec<u64>> {
        rows.iter().map(|r| std::iter::once(*r).chain(tail.iter().copied()).collect()).collect()
    };
    let mut out = Vec::new();
    if rows == parts as u64 && tail.len() > 1 {
        out.push(vec![tail.to_vec(); parts]);
    }
    if rows.is_multiple_of(parts as u64) {
        out.push(with(&vec![rows / parts as u64; parts]));
    }
    if let (3, Ok(heads), Ok(kv)) = (parts, config.heads(), config.kv_heads())
        && rows.is_multiple_of(heads + 2 * kv)
    {
        let head = rows / (heads + 2 * kv);
        out.push(with(&[heads * head, kv * head, kv * head]));
    }
    out
}

/// Heads whose neighbours rotate, in the order in which their halves do.
fn unrotated(rows: &Rows, heads: u64) -> Result<Rows> {
    let count = rows.shape().first().copied().unwrap_or(0);
    let half = count / heads.max(1) / 2;
    if half == 0 || half * 2 * heads != count {
        // The same complaint as on the way there.
        return rotated(rows, heads);
    }
    transform::reordered(rows, 0, &[(heads, 2 * half), (2, 1), (half, 2)])
}

/// The members of a stack.
fn unstacked(rows: &Rows, members: u64, chained: bool) -> Result<Vec<Rows>> {
    let shape = rows.shape();
    let first = shape.first().copied().unwrap_or(0);
    if members == 0 || !first.is_multiple_of(members) || !chained && first != members {
        return Err(Error::input(format!("its shape {shape:?} is not that of {members} experts")));
    }
    let each = first / members;
    (0..members)
        .map(|member| {
            let part = transform::sliced(rows, 0, member * each, each)?;
            if chained { Ok(part) } else { transform::reshaped(&part, shape[1..].to_vec()) }
        })
        .collect()
}
