//! A model in parts that several machines write, each for itself: which tensors are whose, and what proves that parts
//! belong together.
//!
//! Part *i* of *n* is shard *i* of *n* of the whole model, final as it is written. Everybody who has the source and the
//! options comes to the same division, so no part waits for another and any part can be written again anywhere.

use std::ops::Range;

use gguf::{Error, ErrorKind, Result, Source, TensorType, Writer, quote};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::plan::{Plan, Planned};

/// Which part of how many, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The part, from 1 to `of`.
    pub no: usize,
    /// The number of parts.
    pub of: usize,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "part {} of {}", self.no, self.of)
    }
}

impl Part {
    /// A part by its number from 1.
    ///
    /// # Errors
    /// A number that is 0 or above the count, or a count that no split model can have.
    pub fn new(no: usize, of: usize) -> Result<Part> {
        match of {
            1..=65535 if (1..=of).contains(&no) => Ok(Part { no, of }),
            1..=65535 => Err(Error::usage(format!("there is no part {no} of {of}; parts count from 1"))),
            _ => Err(Error::usage(format!("a model has 1 to 65535 parts, not {of}"))),
        }
    }

    /// Reads `I/N`, or `auto`: the number and count of a Slurm array task (`SLURM_ARRAY_TASK_ID`, counted from
    /// `SLURM_ARRAY_TASK_MIN`, of `SLURM_ARRAY_TASK_COUNT`) or of a Kubernetes indexed job (`JOB_COMPLETION_INDEX`, from
    /// 0, of `JOB_COMPLETIONS`), which `variable` looks up.
    ///
    /// # Errors
    /// Text of another form, and `auto` where neither says it.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Part> {
        if text != "auto" {
            let (no, of) = text.split_once('/').ok_or_else(|| not_a_part(text))?;
            let number = |text: &str| text.trim().parse::<usize>().map_err(|_| not_a_part(text));
            return Part::new(number(no)?, number(of)?);
        }
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            let number = text.trim().parse();
            number.map(Some).map_err(|_| Error::usage(format!("{name} is \"{text}\", which is no number")))
        };
        if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
            let of = number("SLURM_ARRAY_TASK_COUNT")?
                .ok_or_else(|| Error::usage("SLURM_ARRAY_TASK_ID is set, but SLURM_ARRAY_TASK_COUNT is not"))?;
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(1);
            let no = id.checked_sub(first).map(|n| n + 1).filter(|no| (1..=of).contains(no));
            let no = no.ok_or_else(|| {
                Error::usage(format!("the array task {id} is none of {of} that follow {first} one by one"))
                    .help("give the array as 1-N, without steps and gaps")
            })?;
            return Part::new(no, of);
        }
        if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            let of = number("JOB_COMPLETIONS")?.ok_or_else(|| {
                Error::usage("JOB_COMPLETION_INDEX is set, but JOB_COMPLETIONS is not")
                    .help("set JOB_COMPLETIONS in the container's environment to the job's .spec.completions")
            })?;
            return Part::new(index.saturating_add(1), of);
        }
        Err(Error::usage("neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set, so there is no automatic part")
            .help("say which part, such as --part 2/8"))
    }
}

/// Reads the argument of `--part` as [`Part::parse`] does, in the environment of the process; errors are one line for
/// people.
///
/// # Errors
/// As [`Part::parse`].
pub fn argument(text: &str) -> std::result::Result<Part, String> {
    Part::parse(text, |name| std::env::var(name).ok()).map_err(|e| e.on_one_line())
}

fn not_a_part(text: &str) -> Error {
    Error::usage(format!("\"{text}\" is no part such as 2/8, and not auto"))
}

/// What it takes to encode a weight, in picoseconds of one core: the record of the codec bench (AVX-512), with and
/// without an importance. Only the proportions matter.
const COST: &[(TensorType, u64, u64)] = &[
    (TensorType::F32, 400, 400),
    (TensorType::F16, 230, 230),
    (TensorType::BF16, 230, 230),
    (TensorType::Q4_0, 1_300, 6_400),
    (TensorType::Q4_1, 1_000, 16_500),
    (TensorType::Q5_0, 1_250, 6_100),
    (TensorType::Q5_1, 900, 21_300),
    (TensorType::Q8_0, 900, 900),
    (TensorType::Q2_K, 9_000, 18_700),
    (TensorType::Q3_K, 4_000, 7_200),
    (TensorType::Q4_K, 10_300, 19_300),
    (TensorType::Q5_K, 10_300, 21_900),
    (TensorType::Q6_K, 6_000, 6_500),
    (TensorType::IQ4_NL, 4_500, 5_500),
    (TensorType::IQ4_XS, 4_500, 5_500),
    (TensorType::IQ3_S, 148_000, 148_000),
    (TensorType::IQ3_XXS, 250_000, 285_000),
    (TensorType::IQ2_S, 65_000, 65_000),
    (TensorType::IQ2_XS, 129_000, 129_000),
    (TensorType::IQ2_XXS, 108_000, 108_000),
    (TensorType::IQ1_S, 23_000, 23_000),
    (TensorType::IQ1_M, 30_000, 30_000),
];

/// What a type costs that the table does not list: the quick ones of blocks of 32.
const OTHER_COST: u64 = 2_000;
/// What it takes to read or write a byte, in picoseconds: a disk of 1 GB/s.
const BYTE_COST: u64 = 1_000;

/// What encoding a tensor takes, in picoseconds of one core; 0 for one that is copied.
pub fn encoding(tensor: &Planned) -> u64 {
    if !tensor.converts() {
        return 0;
    }
    let ty = tensor.info.ty();
    let each = COST
        .iter()
        .find(|row| row.0 == ty)
        .map_or(OTHER_COST, |row| if tensor.importance.is_some() { row.2 } else { row.1 });
    tensor.info.elements().saturating_mul(each)
}

/// What a tensor costs, in picoseconds of one core: reading, encoding, writing.
pub fn cost(tensor: &Planned) -> u64 {
    let read = tensor.from.bytes_for(tensor.info.elements()).unwrap_or(0);
    read.saturating_add(tensor.info.bytes()).saturating_mul(BYTE_COST).saturating_add(encoding(tensor))
}

/// Divides costs in a row into parts of neighbours, none empty, so that the dearest part is as cheap as can be.
///
/// ```
/// assert_eq!(quantize::parts::divide(&[5, 1, 1, 1, 4], 3).unwrap(), [0..1, 1..4, 4..5]);
/// ```
///
/// # Errors
/// More parts than there are costs.
pub fn divide(costs: &[u64], parts: usize) -> Result<Vec<Range<usize>>> {
    if parts == 0 || parts > costs.len() {
        return Err(Error::usage(format!("{} tensors cannot be divided into {parts} parts", costs.len()))
            .help("a part has at least one tensor"));
    }
    // The smallest bound that so many parts can keep: by halving between the dearest tensor and all.
    let (mut low, mut high) =
        (costs.iter().copied().max().unwrap_or(0), costs.iter().fold(0_u64, |sum, c| sum.saturating_add(*c)));
    while low < high {
        let middle = low + (high - low) / 2;
        if within(costs, middle).len() <= parts { high = middle } else { low = middle + 1 }
    }
    let mut ranges = within(costs, low);
    // Where fewer are enough the dearest that can be cut is cut in its middle.
    while ranges.len() < parts {
        let sum = |r: &Range<usize>| costs[r.clone()].iter().fold(0_u64, |sum, c| sum.saturating_add(*c));
        let Some(i) =
            (0..ranges.len()).filter(|&i| ranges[i].len() > 1).max_by_key(|&i| (sum(&ranges[i]), usize::MAX - i))
        else {
            break;
        };
        let range = ranges[i].clone();
        let half = sum(&range) / 2;
        let mut at = range.start + 1;
        while at + 1 < range.end && sum(&(range.start..at)) < half {
            at += 1;
        }
        ranges.splice(i..=i, [range.start..at, at..range.end]);
    }
    Ok(ranges)
}

/// Fills parts in a row up to a bound.
fn within(costs: &[u64], bound: u64) -> Vec<Range<usize>> {
    let (mut ranges, mut start, mut sum) = (Vec::new(), 0, 0_u64);
    for (i, &cost) in costs.iter().enumerate() {
        if i > start && sum.saturating_add(cost) > bound {
            ranges.push(start..i);
            (start, sum) = (i, 0);
        }
        sum = sum.saturating_add(cost);
    }
    ranges.push(start..costs.len());
    ranges
}

/// Gives each tensor of a plan its part, which is its shard.
///
/// # Errors
/// A plan that keeps the shards of its source, more parts than tensors.
pub fn assign(plan: &mut Plan, parts: usize) -> Result<()> {
    let costs: Vec<u64> = plan.tensors.iter().map(cost).collect();
    plan.divide(&divide(&costs, parts)?)
}

/// What a source is known by: SHA-256 over its keys, its tensors and the first row of each. It costs next to no reading,
/// and another checkpoint, another revision or another fine-tune has another one.
///
/// # Errors
/// What reading meets.
pub fn source_digest(source: &dyn Source) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(header(gguf::FileLayout::new(source.metadata(), source.tensors())?)?);
    for (i, tensor) in source.tensors().iter().enumerate() {
        if tensor.rows() > 0 && tensor.shape().row_len() > 0 {
            hash.update(source.rows(i, 0..1)?);
            source.release(i, 0..1);
        }
    }
    Ok(quote::hex(&hash.finalize()))
}

/// What the options come to: SHA-256 over the headers of all parts and every importance.
///
/// # Errors
/// Those of [`Plan::layouts`].
pub fn plan_digest(plan: &Plan) -> Result<String> {
    let mut hash = Sha256::new();
    for layout in plan.layouts()? {
        hash.update(header(layout)?);
    }
    for tensor in &plan.tensors {
        for value in tensor.importance.iter().flat_map(|all| all.iter()) {
            hash.update(value.to_le_bytes());
        }
    }
    Ok(quote::hex(&hash.finalize()))
}

/// What a file begins with.
fn header(layout: gguf::FileLayout) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, layout).map_err(|e| Error::new(ErrorKind::System, "cannot lay out a file").caused_by(e))?;
    Ok(bytes)
}

impl Plan {
    /// The plan of one part alone: its tensors, and the layout of its file.
    ///
    /// # Errors
    /// Those of [`Plan::layouts`].
    pub fn part(&self, part: Part) -> Result<(Plan, gguf::FileLayout)> {
        let layout = self.layouts()?.into_iter().nth(part.no - 1);
        let layout = layout.ok_or_else(|| Error::usage(format!("the plan has no {part}")))?;
        let mut own = self.clone();
        own.tensors.retain(|t| t.shard + 1 == part.no);
        Ok((own, layout))
    }
}

/// The record of a finished part: what stands in the file beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What the document is.
    pub schema: String,
    /// The part, from 1.
    pub part: usize,
    /// The number of parts.
    pub parts: usize,
    /// The type of file.
    pub file_type: String,
    /// The version of the program.
    pub version: String,
    /// [`source_digest`] of the input.
    pub source: String,
    /// [`plan_digest`] of the whole output.
    pub plan: String,
    /// The name of the part's file.
    pub file: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

/// What [`Record::schema`] says.
pub const SCHEMA: &str = "downcast-part-1";

impl Record {
    /// Whether another part is of the same run: the first thing that differs, for a person.
    pub fn differs(&self, other: &Record) -> Option<&'static str> {
        let same = [
            (self.parts == other.parts, "number of parts"),
            (self.source == other.source, "source"),
            (self.file_type == other.file_type, "type"),
            (self.version == other.version, "version of the program"),
            (self.plan == other.plan, "set of options"),
        ];
        same.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_said_or_found_in_the_environment() {
        let none = |_: &str| None;
        assert_eq!(Part::parse("2/8", none).unwrap(), Part { no: 2, of: 8 });
        for text in ["0/8", "9/8", "2", "2/0", "a/b", "1/70000", ""] {
            assert!(Part::parse(text, none).is_err(), "{text}");
        }
        assert!(Part::parse("auto", none).is_err());
        let of = |pairs: &'static [(&str, &str)]| {
            Part::parse("auto", |name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.to_owned()))
        };
        let slurm = &[("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "1")];
        assert_eq!(of(slurm).unwrap(), Part { no: 3, of: 4 });
        let from_0 = &[("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "0")];
        assert_eq!(of(from_0).unwrap(), Part { no: 4, of: 4 });
        let stepped = &[("SLURM_ARRAY_TASK_ID", "9"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "1")];
        assert!(of(stepped).is_err());
        assert_eq!(of(&[("JOB_COMPLETION_INDEX", "0"), ("JOB_COMPLETIONS", "2")]).unwrap(), Part { no: 1, of: 2 });
        assert!(of(&[("JOB_COMPLETION_INDEX", "0")]).is_err());
    }

    #[test]
    fn parts_are_whole_in_order_and_balanced() {
        let costs: Vec<u64> = (0..97_u64).map(|i| 1 + i * 7919 % 101).collect();
        for parts in 1..=costs.len() {
            let ranges = divide(&costs, parts).unwrap();
            assert_eq!(ranges.len(), parts);
            assert!(ranges.iter().all(|r| !r.is_empty()));
            assert_eq!(ranges[0].start, 0);
            assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
            assert_eq!(ranges[parts - 1].end, costs.len());
            let dearest = ranges.iter().map(|r| costs[r.clone()].iter().sum::<u64>()).max().unwrap();
            let total: u64 = costs.iter().sum();
            assert!(dearest <= total / parts as u64 + 101, "{parts}: {dearest}");
        }
        assert!(divide(&costs, 0).is_err());
        assert!(divide(&costs, costs.len() + 1).is_err());
        assert_eq!(divide(&[0, 0, 0], 3).unwrap(), [0..1, 1..2, 2..3]);
    }
}
