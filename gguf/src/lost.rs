//! Weights that a type cannot hold and that become zeros in it.

use std::fmt;
use std::ops::Range;

use crate::error::Result;
use crate::source::Source;
use crate::types::TensorType;

/// Groups of weights of which the largest became 0, and the largest of these weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lost {
    /// The number of groups.
    pub blocks: u64,
    /// The largest magnitude of a weight that became 0.
    pub largest: f32,
}

impl Lost {
    /// Counts one more group, whose largest magnitude became 0.
    pub fn count(&mut self, largest: f32) {
        self.add(Lost { blocks: 1, largest });
    }

    /// Adds what another part of a tensor lost.
    pub fn add(&mut self, other: Lost) {
        self.blocks += other.blocks;
        self.largest = self.largest.max(other.largest);
    }
}

impl std::iter::Sum for Lost {
    fn sum<I: Iterator<Item = Lost>>(parts: I) -> Lost {
        parts.fold(Lost::default(), |mut sum, part| {
            sum.add(part);
            sum
        })
    }
}

/// What a group of weights is that is lost as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A block.
    Block,
    /// A superblock, of which parts are lost.
    PartOfBlock,
    /// A row.
    Row,
    /// Neighbours in a row that share a scale.
    Group,
}

impl Unit {
    /// What is lost as one in a type of GGUF.
    pub fn of(ty: TensorType) -> Unit {
        match ty.is_quantized() {
            true if ty.scale_len() < ty.block_len() => Unit::PartOfBlock,
            true => Unit::Block,
            false => Unit::Row,
        }
    }
}

/// Groups of weights of one tensor that a type holds nothing of: they are smaller than its least scale, or than a part of
/// a superblock can tell beside its neighbours, or so large that the search for a scale overflows. The reference writes
/// the same bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Degenerate {
    /// The name of the tensor.
    pub tensor: String,
    /// The name of the type.
    pub ty: &'static str,
    /// What is counted.
    pub unit: Unit,
    /// The number of such groups.
    pub blocks: u64,
    /// The number of all groups.
    pub of: u64,
    /// The largest magnitude of a weight that became 0.
    pub largest: f32,
}

impl fmt::Display for Degenerate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Degenerate { tensor, ty, unit, blocks, of, largest } = self;
        let tensor = crate::quote::text(tensor);
        let (noun, which) = match unit {
            Unit::Block => ("blocks", "their weights"),
            Unit::PartOfBlock => ("blocks", "some of their weights"),
            Unit::Row => ("rows", "their weights"),
            Unit::Group => ("groups", "their weights"),
        };
        write!(
            f,
            "tensor {tensor}: {blocks} of {of} {noun} of {ty} cannot hold {which} (up to {largest:e}), which became 0"
        )
    }
}

impl Degenerate {
    /// What a tensor lost in a type of GGUF.
    pub fn new(tensor: &str, ty: TensorType, lost: Lost, elements: u64, row_len: u64) -> Degenerate {
        let of = elements / unit_len(ty, row_len).max(1);
        let Lost { blocks, largest } = lost;
        Degenerate { tensor: tensor.to_owned(), ty: ty.name(), unit: Unit::of(ty), blocks, of, largest }
    }

    /// The same for programs.
    pub fn json(&self) -> serde_json::Value {
        let Degenerate { tensor, ty, blocks, of, largest, .. } = self;
        serde_json::json!({"tensor": tensor, "type": ty, "blocks": blocks, "of": of, "largest": largest})
    }
}

/// One line each for people; of many tensors the first ones.
pub fn warnings(lost: &[Degenerate]) -> Vec<String> {
    const MOST: usize = 20;
    let mut lines: Vec<String> = lost.iter().take(MOST).map(|d| format!("warning: {d}")).collect();
    if lost.len() > MOST {
        lines.push(format!("warning: {} more tensors have such blocks; --json lists them", lost.len() - MOST));
    }
    lines
}

/// Weights of what is counted: those of a row of plain types.
pub fn unit_len(ty: TensorType, row_len: u64) -> u64 {
    if ty.is_quantized() { ty.block_len() } else { row_len }
}

/// What of these rows became 0 when the source rounded them to the type it declares; `bytes` is what it gave.
///
/// # Errors
/// What reading meets.
pub fn narrowed(source: &dyn Source, tensor: usize, rows: Range<u64>, bytes: &[u8]) -> Result<Lost> {
    let Some(info) = source.tensors().get(tensor) else { return Ok(Lost::default()) };
    // No rows tell whether there are any: where nothing is rounded, nothing is looked at.
    if source.unrounded(tensor, rows.start..rows.start)?.is_none() {
        return Ok(Lost::default());
    }
    rounded(info.ty(), info.shape().row_len(), bytes, || source.unrounded(tensor, rows))
}

/// The same of rows whose weights `before` has, if they were rounded to this type at all. It is asked only where there are
/// zeros.
///
/// # Errors
/// Those of `before`.
pub fn rounded(
    ty: TensorType,
    row_len: u64,
    bytes: &[u8],
    before: impl FnOnce() -> Result<Option<Vec<f32>>>,
) -> Result<Lost> {
    let halves = |bytes: &[u8]| bytes.as_chunks::<2>().0.iter().fold(0, |any, b| any | u16::from_le_bytes(*b)) & 0x7FFF;
    // What is all zeros where a unit is: each weight, or the scale of the block.
    let scale = match ty {
        TensorType::F16 | TensorType::BF16 => usize::MAX,
        TensorType::Q8_0 => 2,
        _ => return Ok(Lost::default()),
    };
    let len = unit_len(ty, row_len);
    let size = ty.bytes_for(len).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let mut lost = Lost::default();
    if size == 0 {
        return Ok(lost);
    }
    let gone: Vec<usize> = bytes
        .chunks_exact(size)
        .enumerate()
        .filter(|(_, unit)| halves(&unit[..scale.min(unit.len())]) == 0)
        .map(|(i, _)| i)
        .collect();
    // Almost always there is none, and nothing is read a second time.
    if gone.is_empty() {
        return Ok(lost);
    }
    let Some(weights) = before()? else { return Ok(lost) };
    let len = len as usize;
    for unit in gone.into_iter().filter_map(|i| weights.get(i * len..(i + 1) * len)) {
        let largest = largest(unit);
        if largest > 0.0 {
            lost.count(largest);
        }
    }
    Ok(lost)
}

/// The largest magnitude.
pub fn largest(weights: &[f32]) -> f32 {
    // The bits of magnitudes are in their order, and whole numbers compare faster.
    f32::from_bits(weights.iter().fold(0, |most, w| most.max(w.to_bits() & 0x7FFF_FFFF)))
}
