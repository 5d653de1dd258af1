//! Blocks of rows as lanes: in as a struct of arrays, out as bytes.

use super::{Floats, Ints, MAX_LANES, Routine};

/// Rows to encode: whole rows of `row_len` values, the importance (one value a column) shared by all of them.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_len: usize,
    pub(crate) importance: Option<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// The blocks of these rows in groups of `lanes`, each with the place of its blocks in `out`.
    #[inline(always)]
    pub(crate) fn groups<'b>(
        self,
        lanes: usize,
        block_len: usize,
        block_bytes: usize,
        out: &'b mut [u8],
    ) -> impl Iterator<Item = (Group<'a>, Slots<'b>)> {
        let groups = out.chunks_mut(lanes * block_bytes).enumerate();
        groups.map(move |(i, bytes)| (Group::new(self, i * lanes, block_len), Slots { bytes, block_bytes }))
    }
}

impl Rows<'_> {
    /// The mean square of each row, summed in its order; one lane per row.
    #[inline(always)]
    pub(crate) fn mean_squares<F: Floats>(self) -> Vec<f32> {
        const STEP: usize = 32;
        let rows = self.values.len() / self.row_len;
        let mut means = vec![0.0; rows.next_multiple_of(F::N)];
        for (i, means) in means.chunks_exact_mut(F::N).enumerate() {
            let mut starts = [0; MAX_LANES];
            for (lane, start) in starts.iter_mut().enumerate() {
                *start = (i * F::N + lane).min(rows - 1) * self.row_len;
            }
            let mut sum = F::splat(0.0);
            let mut x = [sum; STEP];
            // Formats that need this have blocks of 32.
            for column in (0..self.row_len).step_by(STEP) {
                transpose(&self.values[column..], &starts, &mut x);
                for x in x {
                    sum = sum + x * x;
                }
            }
            (sum / F::splat(self.row_len as f32)).store(means);
        }
        means
    }
}

/// [`Floats::transpose`] as a routine, since every search begins with it.
#[inline(always)]
fn transpose<F: Floats>(from: &[f32], starts: &[usize], out: &mut [F]) {
    struct Transpose<'a, F>(&'a [f32], &'a [usize], &'a mut [F]);
    impl<F: Floats> Routine for Transpose<'_, F> {
        type Output = ();
        #[inline(always)]
        fn run(self) {
            F::transpose(self.0, self.1, self.2);
        }
    }
    F::call(Transpose(from, starts, out));
}

/// As many neighbouring blocks as there are lanes. Where the rows end earlier, the last block fills the rest.
#[derive(Clone, Copy)]
pub(crate) struct Group<'a> {
    values: &'a [f32],
    importance: Option<&'a [f32]>,
    row_len: usize,
    /// Where each lane's block starts in `values`, and where in `importance`.
    starts: [usize; MAX_LANES],
    columns: [usize; MAX_LANES],
}

impl<'a> Group<'a> {
    #[inline(always)]
    fn new(rows: Rows<'a>, first: usize, block_len: usize) -> Group<'a> {
        let last = rows.values.len() / block_len - 1;
        let mut starts = [0; MAX_LANES];
        let mut columns = [0; MAX_LANES];
        for lane in 0..MAX_LANES {
            starts[lane] = (first + lane).min(last) * block_len;
            columns[lane] = starts[lane] % rows.row_len;
        }
        Group { values: rows.values, importance: rows.importance, row_len: rows.row_len, starts, columns }
    }

    /// The values from `from` of each block on, as many as `out` takes.
    #[inline(always)]
    pub(crate) fn values<F: Floats>(&self, from: usize, out: &mut [F]) {
        transpose(&self.values[from..], &self.starts, out);
    }

    /// Whether these rows have an importance.
    #[inline(always)]
    pub(crate) fn has_importance(&self) -> bool {
        self.importance.is_some()
    }

    /// The importance of the values from `from` of each block on; `out` stays as it is where there is none.
    #[inline(always)]
    pub(crate) fn importance<F: Floats>(&self, from: usize, out: &mut [F]) {
        if let Some(importance) = self.importance {
            transpose(&importance[from..], &self.columns, out);
        }
    }

    /// The value of each lane's row out of one value for every row.
    #[inline(always)]
    pub(crate) fn of_row<F: Floats>(&self, rows: &[f32]) -> F {
        let mut lanes = [0.0; MAX_LANES];
        for (lane, start) in lanes[..F::N].iter_mut().zip(self.starts) {
            *lane = rows[start / self.row_len];
        }
        F::load(&lanes)
    }
}

/// The bytes of a group's blocks; lanes beyond the last block have none.
pub(crate) struct Slots<'a> {
    bytes: &'a mut [u8],
    block_bytes: usize,
}

impl Slots<'_> {
    /// The block of each lane that has one.
    #[inline(always)]
    pub(crate) fn blocks(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bytes.chunks_exact_mut(self.block_bytes)
    }

    /// Writes the low 16 bits of each lane, little-endian, `at` bytes into its block.
    #[inline(always)]
    pub(crate) fn put_u16<I: Ints>(&mut self, at: usize, word: I) {
        let mut lanes = [0i32; MAX_LANES];
        word.store(&mut lanes);
        for (block, lane) in self.blocks().zip(lanes) {
            block[at..at + 2].copy_from_slice(&(lane as u16).to_le_bytes());
        }
    }

    /// Writes the bytes that lanes of small numbers make: four of them side by side are one word of the block.
    #[inline(always)]
    pub(crate) fn put_bytes<I: Ints>(&mut self, at: usize, bytes: &[I]) {
        for (k, four) in bytes.chunks_exact(4).enumerate() {
            let word = (four[0] | four[1].shl(8)) | (four[2].shl(16) | four[3].shl(24));
            self.put_u32(at + 4 * k, word);
        }
    }

    /// Writes each lane, little-endian, `at` bytes into its block.
    #[inline(always)]
    pub(crate) fn put_u32<I: Ints>(&mut self, at: usize, word: I) {
        let mut lanes = [0i32; MAX_LANES];
        word.store(&mut lanes);
        for (block, lane) in self.blocks().zip(lanes) {
            block[at..at + 4].copy_from_slice(&lane.to_le_bytes());
        }
    }
}
