//! Codes and scales that a search has chosen, in place of those that rounding gives.

use std::path::Path;

use gguf::{Error, Result};

pub use crate::search::rows::Coded;

/// Weights that share a scale in four bits.
pub const BLOCK: usize = 64;
/// Weights that share a scale in affine form.
pub const GROUP: usize = 128;

impl Coded {
    /// As bytes: scales, then codes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.scales.iter().flat_map(|s| s.to_le_bytes()).chain(self.codes.iter().copied()).collect()
    }

    /// From these, with so many codes.
    pub fn from_bytes(bytes: &[u8], codes: usize) -> Coded {
        let (scales, codes) = bytes.split_at(bytes.len().saturating_sub(codes));
        let scales = scales.as_chunks::<4>().0.iter().map(|s| f32::from_le_bytes(*s)).collect();
        Coded { scales, codes: codes.to_vec() }
    }

    /// Appends another matrix's rows.
    pub fn extend(&mut self, other: Coded) {
        self.codes.extend(other.codes);
        self.scales.extend(other.scales);
    }

    /// Some rows, in this order.
    pub(super) fn rows(&self, order: &[usize], cols: usize) -> Coded {
        let count = self.codes.len() / cols.max(1);
        let scales = self.scales.len() / count.max(1);
        let mut some = Coded::default();
        for &row in order {
            some.codes.extend_from_slice(&self.codes[row * cols..(row + 1) * cols]);
            some.scales.extend_from_slice(&self.scales[row * scales..(row + 1) * scales]);
        }
        some
    }
}

/// Gives what was chosen for the matrix of this name, where something was.
pub type Chosen<'a> = &'a (dyn Fn(&str) -> Result<Option<Coded>> + Sync);

/// The file of a folder that says how its numbers were chosen.
pub const RECORD: &str = "quantize.optimize.json";

pub(super) fn write_record(folder: &Path, record: Option<&serde_json::Value>) -> Result<()> {
    let path = folder.join(RECORD);
    match record {
        Some(record) => std::fs::write(&path, format!("{record:#}\n")).map_err(|e| Error::io(&path, "write", e)),
        None => Ok(()),
    }
}
