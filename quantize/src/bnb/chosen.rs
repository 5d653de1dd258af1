//! Codes and scales that a search has chosen, in place of those that rounding gives.
//!
//! A search works on the tensors of the model that runs; a folder holds matrices under other names, with their rows in
//! another order at times. [`Matrices`] says which row of the folder each row of a tensor is, by the values alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use convert::packed::Float;
use convert::packed::bnb::Code;
use convert::safetensors;
use gguf::{Error, Result, Source};
use sha2::{Digest, Sha256};

use super::folder::{Matrix, matrices, read_config};
use super::{affine, four_bit, int8};
use crate::search::grid::{Grid, Levels, Min, Points, Scale};
use crate::search::inputs::Inputs;
pub use crate::search::rows::Coded;
use crate::search::rows::{Effort, search_codes};
use crate::search::strips::Strips;

/// How the values of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Coding {
    /// Points times the scale of a block of [`BLOCK`].
    FourBit(Code),
    /// Integers times the scale of a row.
    Int8,
    /// Integers of so many bits times the scale of a group of [`GROUP`].
    Affine(u32),
}

/// Weights that share a scale in four bits.
pub const BLOCK: usize = 64;
/// Weights that share a scale in affine form.
pub const GROUP: usize = 128;

impl Coding {
    /// Whether rows of this length can be searched.
    pub fn fits(self, cols: usize) -> bool {
        cols > 0
            && cols.is_multiple_of(match self {
                Coding::FourBit(_) => BLOCK,
                Coding::Int8 => ROW,
                Coding::Affine(_) => GROUP,
            })
    }

    /// The numbers that can be stored, where the model's weights are of this type.
    fn grid(self, float: Float) -> Grid {
        let even = |len: usize, low: i32, high: i32, scale: Scale| Grid {
            len,
            sub: len,
            levels: Levels::Even { low, high },
            scale,
            min: Min::None,
        };
        match self {
            Coding::FourBit(code) => {
                let mut points: Vec<(f32, u8)> = code.points().iter().copied().zip(0..).collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
                points.dedup_by(|b, a| a.0 == b.0);
                let (values, codes): (Vec<f32>, Vec<u8>) = points.into_iter().unzip();
                let levels = Levels::Points(Points::new(&values, &codes));
                Grid { len: BLOCK, sub: BLOCK, levels, scale: Scale::Magnitude(Float::F32), min: Min::None }
            }
            Coding::Int8 => even(ROW, -127, 127, Scale::Row),
            Coding::Affine(bits) => {
                let high = (1 << (bits - 1)) - 1;
                even(GROUP, -high - 1, high, Scale::Magnitude(float))
            }
        }
    }

    /// Chooses codes and scales so that the outputs are near those of `target` (a row in a column).
    pub fn search(self, inputs: &Inputs, effort: Effort, target: &Strips, float: Float) -> Coded {
        let grid = self.grid(float);
        if self != Coding::Int8 {
            return search_codes(inputs, &grid, effort, target, None).0;
        }
        let mut row = vec![0.0; target.rows()];
        let scales: Vec<f32> = (0..target.cols())
            .map(|i| {
                target.column(i, &mut row);
                Float::F16.round(row.iter().fold(0.0, |most, v| v.abs().max(most)))
            })
            .collect();
        let steps: Vec<f32> = scales.iter().map(|s| s * (1.0 / 127.0)).collect();
        let (coded, _) = search_codes(inputs, &grid, effort, target, Some(&steps));
        Coded { codes: coded.codes, scales }
    }

    /// What rounding gives; `None` where a value is not finite.
    pub fn plain(self, values: &[f32], cols: usize, float: Float) -> Option<Coded> {
        let mut coded = Coded { codes: vec![0; values.len()], scales: Vec::new() };
        match self {
            Coding::FourBit(code) => {
                let mut pairs = vec![0; values.len().div_ceil(2)];
                coded.scales = vec![0.0; values.len().div_ceil(BLOCK)];
                if !four_bit::encode(code, values, BLOCK, &mut pairs, &mut coded.scales) {
                    return None;
                }
                coded.codes.iter_mut().enumerate().for_each(|(i, c)| *c = pairs[i / 2] >> (4 * (1 - i % 2)) & 15);
            }
            Coding::Int8 => {
                for (values, codes) in values.chunks(cols).zip(coded.codes.chunks_mut(cols)) {
                    coded.scales.push(int8::encode_row(&mut values.to_vec(), codes)?);
                    codes.iter_mut().for_each(|c| *c = c.wrapping_add(127));
                }
            }
            Coding::Affine(bits) => {
                super::absmax::absmax(values)?;
                let low = -(1 << (bits - 1));
                for (values, codes) in values.chunks(GROUP).zip(coded.codes.chunks_mut(GROUP)) {
                    let ends = values.iter().fold((0.0_f32, 0.0_f32), |(l, h), v| (l.min(*v), h.max(*v)));
                    let affine = affine::Affine::new(ends.0, ends.1, bits, true, float);
                    coded.scales.push(affine.scale);
                    codes.iter_mut().zip(values).for_each(|(c, v)| *c = (affine.quantize(*v, bits) - low) as u8);
                }
            }
        }
        Some(coded)
    }

    /// The values, as they are decoded to the type of the model's weights.
    pub fn decode(self, coded: &Coded, cols: usize, float: Float) -> Vec<f32> {
        let value = |i: usize, code: u8| match self {
            Coding::FourBit(points) => points.points()[usize::from(code & 15)] * coded.scales[i / BLOCK],
            Coding::Int8 => (f32::from(code) - 127.0) * coded.scales[i / cols.max(1)] * (1.0 / 127.0),
            Coding::Affine(bits) => (i32::from(code) - (1 << (bits - 1))) as f32 * coded.scales[i / GROUP],
        };
        coded.codes.iter().enumerate().map(|(i, &code)| float.round(value(i, code))).collect()
    }
}

/// Columns that are rounded together where a row has one scale.
const ROW: usize = 32;

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
    fn rows(&self, order: &[usize], cols: usize) -> Coded {
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

/// Which rows of a folder's matrices the rows of a model's tensors are.
#[derive(Debug, Default)]
pub struct Matrices {
    /// Of each matrix: its columns, and for each row the tensor and the row of that.
    rows: BTreeMap<String, (usize, Vec<(usize, usize)>)>,
    /// The types of the tensors that are stored as codes.
    floats: BTreeMap<usize, Float>,
}

impl Matrices {
    /// Finds the matrices that `write` quantizes by default in the tensors of a model that was read from the folder.
    /// Tensors whose rows are not all in matrices, and matrices of which a row is in no tensor, are left out.
    ///
    /// # Errors
    /// Whatever reading meets.
    pub fn find(folder: &Path, source: &dyn Source, coding: Coding) -> Result<Matrices> {
        let config = read_config(folder)?;
        let tensors = safetensors::open_folder(folder)?;
        let found: Vec<Matrix<'_>> = matrices(&config, &tensors)?;
        // Where each row may be, first come first served.
        let mut places: HashMap<[u8; 32], VecDeque<(usize, usize)>> = HashMap::new();
        for (m, matrix) in found.iter().enumerate().filter(|(_, m)| coding.fits(m.cols)) {
            let mut values = vec![0.0; matrix.cols];
            for row in 0..matrix.rows {
                matrix.decode(row, &mut values);
                places.entry(print(&values)).or_default().push_back((m, row));
            }
        }
        let mut owners: Vec<Vec<Option<(usize, usize)>>> = found.iter().map(|m| vec![None; m.rows]).collect();
        let mut floats = BTreeMap::new();
        for (t, info) in source.tensors().iter().enumerate() {
            let cols = info.shape().row_len() as usize;
            if info.shape().dims().len() < 2
                || info.shape().dim(2) > 1
                || !coding.fits(cols)
                || !info.name().ends_with(".weight")
            {
                continue;
            }
            let mut mine = Vec::with_capacity(info.rows() as usize);
            let mut values = vec![0.0; cols];
            for row in 0..info.rows() {
                crate::decode_rows(info.ty(), &source.rows(t, row..row + 1)?, &mut values)?;
                let Some(free) = places.get_mut(&print(&values)) else { break };
                // Equal rows: those of the matrix that this tensor is in already.
                let same = mine.last().and_then(|&(m, _)| free.iter().position(|place| place.0 == m));
                let Some(place) = free.remove(same.unwrap_or(0)) else { break };
                mine.push(place);
            }
            if mine.len() as u64 == info.rows() {
                mine.iter().enumerate().for_each(|(row, &(m, r))| owners[m][r] = Some((t, row)));
                mine.first().and_then(|&(m, _)| floats.insert(t, found[m].float));
            } else {
                mine.into_iter().for_each(|(m, r)| {
                    let mut values = vec![0.0; found[m].cols];
                    found[m].decode(r, &mut values);
                    places.entry(print(&values)).or_default().push_front((m, r));
                });
            }
            source.release(t, 0..info.rows());
        }
        let mut rows: BTreeMap<String, (usize, Vec<(usize, usize)>)> = BTreeMap::new();
        for (matrix, owners) in found.iter().zip(owners) {
            if let Some(owners) = owners.into_iter().collect::<Option<Vec<_>>>() {
                rows.insert(matrix.name.to_owned(), (matrix.cols, owners));
            }
        }
        // A tensor belongs to whole matrices only.
        let whole: std::collections::BTreeSet<usize> = rows.values().flat_map(|(_, o)| o.iter().map(|o| o.0)).collect();
        floats.retain(|tensor, _| whole.contains(tensor));
        Ok(Matrices { rows, floats })
    }

    /// The tensors that are stored as codes, and the type that they are decoded to.
    pub fn tensors(&self) -> &BTreeMap<usize, Float> {
        &self.floats
    }

    /// What a matrix is to hold, given what its tensors hold.
    ///
    /// # Errors
    /// Those of `of`.
    pub fn coded(&self, name: &str, of: impl Fn(usize) -> Result<Option<Coded>>) -> Result<Option<Coded>> {
        let Some((cols, rows)) = self.rows.get(name) else { return Ok(None) };
        let mut tensors = BTreeMap::new();
        for &(tensor, _) in rows {
            if let std::collections::btree_map::Entry::Vacant(place) = tensors.entry(tensor) {
                let Some(coded) = of(tensor)? else { return Ok(None) };
                place.insert(coded);
            }
        }
        let mut all = Coded::default();
        for same in rows.chunk_by(|a, b| a.0 == b.0) {
            let order: Vec<usize> = same.iter().map(|o| o.1).collect();
            all.extend(tensors[&same[0].0].rows(&order, *cols));
        }
        Ok(Some(all))
    }
}

/// The file of a folder that says how its numbers were chosen.
pub const RECORD: &str = "quantize.optimize.json";

pub(super) fn write_record(folder: &Path, record: Option<&serde_json::Value>) -> Result<()> {
    let path = folder.join(RECORD);
    match record {
        Some(record) => std::fs::write(&path, format!("{record:#}\n")).map_err(|e| Error::io(&path, "write", e)),
        None => Ok(()),
    }
}

/// Tells rows apart.
fn print(values: &[f32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Both zeros are one.
    values.iter().for_each(|v| hash.update((v + 0.0).to_bits().to_le_bytes()));
    hash.finalize().into()
}
