//! The matrices of a folder and the tensors of the model that was read from it.
//!
//! A search works on the tensors of the model that runs; a folder holds matrices under other names, with their rows in
//! another order at times. [`Matrices`] says which row of the folder each row of a tensor is, by the values alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use convert::packed::Float;
use convert::safetensors;
use gguf::{Result, Source};
use sha2::{Digest, Sha256};

use super::chosen::Coded;
use super::coding::Coding;
use super::folder::{Matrix, matrices, read_config};

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

/// Tells rows apart.
fn print(values: &[f32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Both zeros are one.
    values.iter().for_each(|v| hash.update((v + 0.0).to_bits().to_le_bytes()));
    hash.finalize().into()
}
