//! A mix of types for a size: the types of all tensors with the least total loss.
//!
//! Losses of tensors add up as long as they are small, so that the choice is a knapsack with one item of each kind.
//! It is solved exactly: tensor by tensor, all sums of bytes and losses that no other beats are kept, but for those that
//! cannot end below the best mix that is known. What such a sum ends at is bounded by pricing bytes (Lagrange): at
//! the right price the bound is so near that few sums stay.

use gguf::{Error, Metadata, Result, TensorInfo, TensorType};

use crate::pattern::Pattern;
use crate::plan::{self, Importance, Plan, Planned};
use crate::recipe::{FileType, guessed};

/// The types that are tried, where rows fit them.
pub const TYPES: &[TensorType] = {
    use TensorType::*;
    &[
        IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, Q2_K, IQ3_XXS, IQ3_S, Q3_K, IQ4_XS, IQ4_NL, Q4_0, Q4_K, Q4_1, Q5_0, Q5_K,
        Q5_1, Q6_K, Q8_0,
    ]
};

/// What the file may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// So many bits for each weight, over all tensors.
    Bits(f64),
    /// So many bytes of the whole file.
    Bytes(u64),
}

impl Target {
    /// What a mix is called that has so many weights.
    pub fn label(self, weights: u64) -> String {
        match self {
            Target::Bits(bits) => format!("{bits}bpw"),
            Target::Bytes(bytes) => format!("{:.2}bpw", bytes as f64 * 8.0 / weights.max(1) as f64),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Bits(bits) => write!(f, "{bits} bits a weight"),
            Target::Bytes(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

/// Parses a number of bits for each weight.
///
/// # Errors
/// What is no number above 0.
pub fn parse_bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if bits > 0.0 && bits <= 32.0 => Ok(bits),
        _ => Err(format!("\"{text}\" is no number of bits such as 4.5")),
    }
}

/// A bound for the types of some tensors.
#[derive(Clone, Debug)]
pub struct Limit {
    /// For tensors whose name matches; for all where there is none.
    pub pattern: Option<Pattern>,
    /// The type, as far as its bits go.
    pub ty: TensorType,
}

/// Bounds for the types; of each list the first that concerns a tensor holds for it.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// No fewer bits than these.
    pub at_least: Vec<Limit>,
    /// No more bits than these.
    pub at_most: Vec<Limit>,
}

/// Parses `TYPE` or `PATTERN=TYPE`.
///
/// # Errors
/// Text of another form, and types that weights cannot be encoded to.
pub fn parse_limit(text: &str) -> Result<(Option<String>, TensorType), String> {
    match text.contains('=') {
        true => plan::parse_tensor_rule(text).map(|(pattern, ty)| (Some(pattern), ty)),
        false => plan::parse_tensor_type(text).map(|ty| (None, ty)),
    }
}

impl Limits {
    /// From what was given on a command line.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn new(at_least: &[(Option<String>, TensorType)], at_most: &[(Option<String>, TensorType)]) -> Result<Limits> {
        let limits = |option: &str, given: &[(Option<String>, TensorType)]| -> Result<Vec<Limit>> {
            let mut limits = Vec::with_capacity(given.len());
            for (pattern, ty) in given {
                let pattern = pattern.as_deref().map(|p| Pattern::anywhere(option, p)).transpose()?;
                limits.push(Limit { pattern, ty: *ty });
            }
            // What is said of some tensors goes before what is said of all.
            limits.sort_by_key(|limit| limit.pattern.is_none());
            Ok(limits)
        };
        Ok(Limits { at_least: limits("--at-least", at_least)?, at_most: limits("--at-most", at_most)? })
    }

    fn allow(&self, name: &str, ty: TensorType) -> bool {
        let of = |limits: &[Limit]| -> Option<f64> {
            let limit = limits.iter().find(|l| l.pattern.as_ref().is_none_or(|p| p.matches(name)));
            limit.map(|l| l.ty.bits_per_weight())
        };
        let bits = ty.bits_per_weight();
        of(&self.at_least).is_none_or(|least| bits >= least) && of(&self.at_most).is_none_or(|most| bits <= most)
    }
}

/// A tensor whose type is to be chosen.
#[derive(Clone, Debug)]
pub struct Free {
    /// Its position in the source.
    pub source: usize,
    /// Its name in the output.
    pub name: String,
    /// The types that it may have, its own last where that needs no encoding.
    pub types: Vec<TensorType>,
}

/// One type that a tensor may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The type.
    pub ty: TensorType,
    /// Its bytes.
    pub bytes: u64,
    /// What it costs.
    pub loss: f64,
}

/// A file of which some types are still to be chosen.
#[derive(Debug)]
pub struct Frame<'a> {
    metadata: &'a Metadata,
    tensors: &'a [TensorInfo],
    options: &'a plan::Options,
    importance: Option<&'a Importance>,
    plan: Plan,
    /// The tensors that are free.
    pub free: Vec<Free>,
}

/// The type of a file of mixed types before any is chosen.
const FRAME: &str = "Q8_0";

impl<'a> Frame<'a> {
    /// Finds the tensors whose type nobody asks for, and the types that each may have.
    ///
    /// # Errors
    /// Those of [`Plan::new`]; limits that leave a tensor without a type.
    pub fn new(
        metadata: &'a Metadata,
        tensors: &'a [TensorInfo],
        options: &'a plan::Options,
        importance: Option<&'a Importance>,
        limits: &Limits,
    ) -> Result<Frame<'a>> {
        let frame_type: &'static FileType = FRAME.parse()?;
        let plan = Plan::new(metadata, tensors, frame_type, options, importance)?;
        let mut free = Vec::new();
        for tensor in plan.tensors.iter().filter(|t| t.free && t.converts() && t.info.ty() == TensorType::Q8_0) {
            let (name, shape) = (tensor.info.name(), tensor.info.shape());
            let fits = |ty: &TensorType| shape.row_len().is_multiple_of(ty.block_len());
            let encodes = |ty: &TensorType| {
                options.measured || tensor.importance.is_some() || !plan::wants_importance(name, *ty, frame_type)
            };
            let mut types: Vec<TensorType> = TYPES.iter().copied().filter(|ty| fits(ty) && encodes(ty)).collect();
            types.push(tensor.from);
            types.retain(|ty| limits.allow(name, *ty));
            if types.is_empty() {
                return Err(Error::usage(format!("the limits leave no type for tensor {name}"))
                    .help("a lower --at-least, or a higher --at-most"));
            }
            free.push(Free { source: tensor.source, name: name.to_owned(), types });
        }
        Ok(Frame { metadata, tensors, options, importance, plan, free })
    }

    /// The plan before any type is chosen.
    pub fn base(&self) -> &Plan {
        &self.plan
    }

    /// The planned tensor of one that is free.
    pub fn planned(&self, free: &Free) -> Option<&Planned> {
        self.plan.tensors.iter().find(|t| t.source == free.source)
    }

    /// The plan with these types: source and type of each tensor that is to differ from the frame's.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn plan(&self, file_type: &'static FileType, types: &[(usize, TensorType)]) -> Result<Plan> {
        let mut fixed: std::collections::BTreeMap<String, TensorType> =
            self.plan.tensors.iter().map(|t| (t.info.name().to_owned(), t.info.ty())).collect();
        for (source, ty) in types {
            if let Some(free) = self.free.iter().find(|f| f.source == *source) {
                fixed.insert(free.name.clone(), *ty);
            }
        }
        let options = plan::Options { fixed: Some(fixed), ..self.options.clone() };
        Plan::new(self.metadata, self.tensors, file_type, &options, self.importance)
    }

    /// The plan of the least loss within a size. `losses`: of each free tensor, for each of its types.
    ///
    /// # Errors
    /// A size that the smallest types exceed; those of [`Plan::new`].
    pub fn solve(&self, target: Target, losses: &[Vec<f64>]) -> Result<Plan> {
        let frame_type: &'static FileType = FRAME.parse()?;
        let alignment = self.metadata.u64("general.alignment").unwrap_or(gguf::read::DEFAULT_ALIGNMENT).max(1);
        let stored = |bytes: u64| match target {
            Target::Bits(_) => bytes,
            Target::Bytes(_) => bytes.next_multiple_of(alignment),
        };
        let mut items = Vec::with_capacity(self.free.len());
        let mut free_bytes = 0;
        for (free, losses) in self.free.iter().zip(losses) {
            let Some(planned) = self.planned(free) else { continue };
            let bytes = |ty: TensorType| ty.bytes_for(planned.info.elements()).map_or(u64::MAX / 4, stored);
            free_bytes += bytes(planned.info.ty());
            let choices = free.types.iter().zip(losses);
            items.push(choices.map(|(&ty, &loss)| Choice { ty, bytes: bytes(ty), loss }).collect::<Vec<_>>());
        }
        let (whole, budget) = match target {
            Target::Bits(bits) => {
                let whole: u64 = self.plan.tensors.iter().map(|t| t.info.bytes()).sum();
                (whole, (bits * self.plan.elements() as f64 / 8.0) as u64)
            }
            Target::Bytes(bytes) => (self.plan.file_bytes()?, bytes),
        };
        let others = whole.saturating_sub(free_bytes);
        let least: u64 = items.iter().map(|i| i.iter().map(|c| c.bytes).min().unwrap_or(0)).sum();
        let Some(chosen) = budget.checked_sub(others).and_then(|budget| solve(&items, budget)) else {
            let least = least + others;
            let smallest = match target {
                Target::Bits(_) => format!("{:.3} bits a weight", least as f64 * 8.0 / self.plan.elements() as f64),
                Target::Bytes(_) => format!("{least} bytes"),
            };
            return Err(Error::usage(format!("no mix of the types fits {target}: the smallest takes {smallest}"))
                .help("a larger target, a lower --at-least, or fewer types that are asked for"));
        };
        let types: Vec<(usize, TensorType)> =
            self.free.iter().zip(&items).zip(&chosen).map(|((f, item), &c)| (f.source, item[c].ty)).collect();
        let plan = self.plan(frame_type, &types)?;
        let plan = self.plan(named_after(&plan).unwrap_or(frame_type), &types)?;
        Ok(Plan { mix: Some(target.label(plan.elements())), ..plan })
    }
}

/// The type of file that is named after the type that most bytes have.
fn named_after(plan: &Plan) -> Option<&'static FileType> {
    let mut bytes = std::collections::BTreeMap::new();
    for tensor in plan.tensors.iter().filter(|t| t.converts()) {
        *bytes.entry(tensor.info.ty()).or_insert(0) += tensor.info.bytes();
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes)?.0;
    guessed(most).and_then(FileType::from_id)
}

/// Sums that are followed while a first good mix is looked for.
const FEW: usize = 4096;
/// The most sums that are followed in the proof: models of real sizes need far fewer.
const MANY: usize = 1 << 22;

/// One mix of the first tensors.
#[derive(Clone, Copy)]
struct Partial {
    bytes: u64,
    loss: f64,
    /// The mix that it continues, and with which choice.
    from: u32,
    choice: u32,
}

/// Chooses one of each so that all fit the budget and the losses add up to the least; `None` where nothing fits.
pub fn solve(items: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let useful: Vec<Vec<usize>> = items.iter().map(|item| undominated(item)).collect();
    let least: u64 = useful.iter().zip(items).map(|(u, item)| u.first().map_or(0, |&c| item[c].bytes)).sum();
    if least > budget || useful.iter().any(Vec::is_empty) {
        return None;
    }
    let price = price(items, &useful, budget);
    let search = Search { items, useful: &useful, budget, price };
    let (first, best) = search.run(f64::INFINITY, FEW)?;
    Some(search.run(best, MANY).filter(|(_, loss)| *loss <= best).map_or(first, |found| found.0))
}

/// The choices that no other beats in both bytes and loss, by bytes.
fn undominated(item: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..item.len()).collect();
    order.sort_by(|&a, &b| item[a].bytes.cmp(&item[b].bytes).then(item[a].loss.total_cmp(&item[b].loss)));
    let mut least = f64::INFINITY;
    order.retain(|&c| {
        let better = item[c].loss < least;
        least = least.min(item[c].loss);
        better
    });
    order
}

/// What a byte costs where the cheapest choices just fit the budget.
fn price(items: &[Vec<Choice>], useful: &[Vec<usize>], budget: u64) -> f64 {
    let taken = |price: f64| -> u64 {
        let cheapest = useful.iter().zip(items).map(|(useful, item)| {
            let cost = |c: usize| item[c].loss + price * item[c].bytes as f64;
            useful.iter().copied().min_by(|&a, &b| cost(a).total_cmp(&cost(b))).map_or(0, |c| item[c].bytes)
        });
        cheapest.sum()
    };
    if taken(0.0) <= budget {
        return 0.0;
    }
    let steepest = items.iter().flatten().map(|c| c.loss).fold(0.0, f64::max);
    let (mut low, mut high) = (0.0, steepest.max(f64::MIN_POSITIVE));
    while taken(high) > budget && high < f64::MAX / 4.0 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = low / 2.0 + high / 2.0;
        if taken(middle) > budget { low = middle } else { high = middle }
    }
    high
}

struct Search<'a> {
    items: &'a [Vec<Choice>],
    useful: &'a [Vec<usize>],
    budget: u64,
    price: f64,
}

impl Search<'_> {
    /// The best mix whose loss is at most `best`, following at most `most` sums at a time: those whose bound is lowest.
    fn run(&self, best: f64, most: usize) -> Option<(Vec<usize>, f64)> {
        let Search { items, useful, budget, price } = *self;
        let count = items.len();
        // What the tensors from each on take at least, in bytes and in loss with bytes priced.
        let (mut bytes_behind, mut cost_behind) = (vec![0_u64; count + 1], vec![0.0_f64; count + 1]);
        for i in (0..count).rev() {
            let item = |c: &usize| items[i][*c];
            let bytes = useful[i].iter().map(|c| item(c).bytes).min().unwrap_or(0);
            let cost = useful[i].iter().map(|c| item(c).loss + price * item(c).bytes as f64);
            bytes_behind[i] = bytes_behind[i + 1] + bytes;
            cost_behind[i] = cost_behind[i + 1] + cost.fold(f64::INFINITY, f64::min);
        }
        let limit = best + best.abs() * 1e-12;
        let mut steps: Vec<Vec<Partial>> = vec![vec![Partial { bytes: 0, loss: 0.0, from: 0, choice: 0 }]];
        for i in 0..count {
            let before = &steps[i];
            let mut next = Vec::with_capacity(before.len() * useful[i].len());
            let bound = |p: &Partial| p.loss + price * (p.bytes as f64 - budget as f64) + cost_behind[i + 1];
            for (from, partial) in before.iter().enumerate() {
                for &choice in &useful[i] {
                    let added = items[i][choice];
                    let (bytes, loss) = (partial.bytes + added.bytes, partial.loss + added.loss);
                    let one = Partial { bytes, loss, from: from as u32, choice: choice as u32 };
                    if bytes + bytes_behind[i + 1] <= budget && bound(&one) <= limit {
                        next.push(one);
                    }
                }
            }
            next.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
            let mut least = f64::INFINITY;
            next.retain(|p| {
                let better = p.loss < least;
                least = least.min(p.loss);
                better
            });
            if next.len() > most {
                next.sort_by(|a, b| bound(a).total_cmp(&bound(b)).then(a.bytes.cmp(&b.bytes)));
                // The smallest always has a way on.
                let smallest = next.iter().copied().min_by_key(|p| p.bytes);
                next.truncate(most - 1);
                next.extend(smallest);
            }
            steps.push(next);
        }
        let last = steps.last()?;
        let mut at = (0..last.len()).min_by(|&a, &b| last[a].loss.total_cmp(&last[b].loss))?;
        let loss = last[at].loss;
        let mut chosen = vec![0; count];
        for i in (0..count).rev() {
            let partial = steps[i + 1][at];
            chosen[i] = partial.choice as usize;
            at = partial.from as usize;
        }
        Some((chosen, loss))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    fn item(seed: &mut u64) -> Vec<Choice> {
        let scale = (1 + random(seed) % 50) as f64;
        let size = 1 + random(seed) % 7;
        TYPES[..6]
            .iter()
            .enumerate()
            .map(|(i, &ty)| Choice {
                ty,
                bytes: size * (i as u64 + 2) + random(seed) % 2,
                loss: scale * 0.5_f64.powi(i as i32) * (1.0 + (random(seed) % 100) as f64 / 300.0),
            })
            .collect()
    }

    fn all(items: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = items.split_first() else { return Some(0.0) };
        let with = first.iter().filter(|c| c.bytes <= budget);
        with.filter_map(|c| Some(c.loss + all(rest, budget - c.bytes)?)).min_by(f64::total_cmp)
    }

    #[test]
    fn the_mix_is_the_best_of_all() {
        let mut seed = 5;
        for _ in 0..200 {
            let items: Vec<Vec<Choice>> = (0..6).map(|_| item(&mut seed)).collect();
            let budget = 20 + random(&mut seed) % 150;
            let want = all(&items, budget);
            let got = solve(&items, budget).map(|chosen| {
                let chosen: Vec<&Choice> = chosen.iter().zip(&items).map(|(&c, item)| &item[c]).collect();
                assert!(chosen.iter().map(|c| c.bytes).sum::<u64>() <= budget);
                chosen.iter().map(|c| c.loss).sum::<f64>()
            });
            match (want, got) {
                (Some(want), Some(got)) => assert!((want - got).abs() < 1e-9 * want, "{want} {got}"),
                (want, got) => assert_eq!(want, got),
            }
        }
    }

    #[test]
    fn a_thousand_tensors_are_solved() {
        let mut seed = 9;
        let items: Vec<Vec<Choice>> = (0..1000).map(|_| item(&mut seed)).collect();
        let budget = 1000 * 20;
        let chosen = solve(&items, budget).unwrap();
        let bytes: u64 = chosen.iter().zip(&items).map(|(&c, item)| item[c].bytes).sum();
        assert!(bytes <= budget && bytes + 10 > budget, "{bytes}");
    }

    #[test]
    fn limits_hold_for_the_tensors_that_they_name() {
        let at_least = [(None, TensorType::Q4_K), (Some("attn_v".to_owned()), TensorType::Q6_K)];
        let limits = Limits::new(&at_least, &[(None, TensorType::Q6_K)]).unwrap();
        assert!(limits.allow("blk.0.attn_k.weight", TensorType::Q4_0));
        assert!(!limits.allow("blk.0.attn_k.weight", TensorType::Q3_K));
        assert!(!limits.allow("blk.0.attn_v.weight", TensorType::Q5_K));
        assert!(!limits.allow("blk.0.attn_k.weight", TensorType::Q8_0));
        assert!(Limits::new(&[(Some("(".to_owned()), TensorType::Q8_0)], &[]).is_err());
        assert_eq!(parse_limit("ffn=q8_0"), Ok((Some("ffn".to_owned()), TensorType::Q8_0)));
        assert!(parse_limit("q9").is_err() && parse_bits("0").is_err() && parse_bits("x").is_err());
    }
}
