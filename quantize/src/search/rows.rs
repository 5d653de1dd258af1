//! The search over the rows of a matrix: error feedback, then descent. One lane is one row.

use std::ops::Range;

use gguf::TensorType;
use rayon::prelude::*;

use super::book::{BookPiece, BookSteps};
use super::grid::{Grid, Levels, Min, Scale, inverse};
use super::inputs::{BLOCK, Inputs};
use super::pack::{Chosen, pack};
use super::strips::{STRIP, Strips, Sum, multiply};
use crate::lanes::{Floats, Path, Task};

/// Strips that are searched together: each block of the factor is read once for all of them.
const TOGETHER: usize = 4;

/// The longest block of values that share a scale.
const LONGEST: usize = 256;

/// How hard to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Integers of scale and minimum that are tried on either side.
    pub reach: i32,
    /// Sweeps of the descent.
    pub sweeps: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { reach: 2, sweeps: 2 }
    }
}

/// Levels and scales of a strip of rows, as far as they are chosen.
struct State {
    /// `[n][STRIP]`
    levels: Vec<f32>,
    /// Target less chosen value, `[n][STRIP]`.
    error: Vec<f32>,
    /// Codes of scales and minima, `[n / sub][STRIP]`.
    scales: Vec<f32>,
    mins: Vec<f32>,
    /// Floats of superblocks, `[n / len][STRIP]`.
    d: Vec<f32>,
    dmin: Vec<f32>,
}

impl State {
    fn new(n: usize, grid: &Grid) -> State {
        let zeros = |count: usize| vec![0.0; count * STRIP];
        State {
            levels: zeros(n),
            error: zeros(n),
            scales: zeros(n / grid.sub),
            mins: zeros(n / grid.sub),
            d: zeros(n / grid.len),
            dmin: zeros(n / grid.len),
        }
    }
}

/// Chooses the numbers of a type for a matrix whose rows are the columns of `target` (`[n, rows]`), so that its outputs
/// are near those of `target`. Gives the bytes, row after row, and what is left: target less chosen value.
///
/// # Panics
/// Where the type has no grid, or a row is not a whole number of its blocks: the caller is wrong.
pub fn search(inputs: &Inputs, ty: TensorType, effort: Effort, target: &Strips) -> (Vec<u8>, Strips) {
    let grid = super::grid::grid(ty).unwrap_or_else(|| panic!("{ty} has no grid"));
    let row_bytes = ty.bytes_for(inputs.columns() as u64).unwrap_or(0) as usize;
    search_on(inputs, grid, effort, target, None, row_bytes, &|state, lane, out| write_row(ty, grid, state, lane, out))
}

/// The codes of a row's levels, and the scales of its blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coded {
    /// The code of each value, row after row.
    pub codes: Vec<u8>,
    /// The scale of each block, row after row; those of rows where blocks have none.
    pub scales: Vec<f32>,
}

/// The same for a grid that is no type's: codes and scales in place of bytes. `rows`: the scale of each row, where the
/// grid has no other.
///
/// # Panics
/// Where a row is not a whole number of the grid's blocks: the caller is wrong.
pub fn search_codes(
    inputs: &Inputs,
    grid: &Grid,
    effort: Effort,
    target: &Strips,
    rows: Option<&[f32]>,
) -> (Coded, Strips) {
    let n = inputs.columns();
    let blocks = n / grid.sub;
    let row_bytes = n + 4 * blocks;
    let (bytes, left) = search_on(inputs, grid, effort, target, rows, row_bytes, &|state, lane, out| {
        let (codes, scales) = out.split_at_mut(n);
        codes.iter_mut().enumerate().for_each(|(i, code)| *code = grid.code(state.levels[i * STRIP + lane]));
        for (i, out) in scales.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *out = state.scales[i * STRIP + lane].to_le_bytes();
        }
    });
    let mut coded = Coded { codes: Vec::with_capacity(target.cols() * n), scales: Vec::new() };
    for row in bytes.chunks_exact(row_bytes.max(1)) {
        coded.codes.extend_from_slice(&row[..n]);
        if rows.is_none() {
            coded.scales.extend(row[n..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
    }
    coded.scales.extend_from_slice(rows.unwrap_or_default());
    (coded, left)
}

/// Searches all rows, which `write` turns into bytes one by one.
fn search_on(
    inputs: &Inputs,
    grid: &Grid,
    effort: Effort,
    target: &Strips,
    row_scales: Option<&[f32]>,
    row_bytes: usize,
    write: &(dyn Fn(&State, usize, &mut [u8]) + Sync),
) -> (Vec<u8>, Strips) {
    let n = inputs.columns();
    assert!(target.rows() == n && n.is_multiple_of(grid.len));
    let rows = target.cols();
    let mut bytes = vec![0; rows * row_bytes];
    let mut left = Strips::zeros(n, rows);
    let strips: Vec<usize> = (0..target.count()).collect();
    strips
        .par_chunks(TOGETHER)
        .zip(left.par_groups_mut(TOGETHER))
        .zip(bytes.par_chunks_mut((TOGETHER * STRIP * row_bytes).max(1)))
        .for_each(|((strips, left), bytes)| {
            let targets: Vec<&[f32]> = strips.iter().map(|&s| target.strip(s)).collect();
            let mut states: Vec<State> = strips.iter().map(|_| State::new(n, grid)).collect();
            if let Some(scales) = row_scales {
                for (state, &s) in states.iter_mut().zip(strips) {
                    let scales = &scales[s * STRIP..rows.min((s + 1) * STRIP)];
                    for d in state.d.chunks_exact_mut(STRIP) {
                        d[..scales.len()].copy_from_slice(scales);
                    }
                }
            }
            feedback(inputs, grid, effort, &targets, &mut states);
            for _ in 0..effort.sweeps {
                sweep(inputs, grid, &targets, &mut states);
            }
            for (state, left) in states.iter().zip(left.chunks_mut(n * STRIP)) {
                left.copy_from_slice(&state.error);
            }
            for (row, out) in bytes.chunks_exact_mut(row_bytes.max(1)).enumerate() {
                write(&states[row / STRIP], row % STRIP, out);
            }
        });
    (bytes, left)
}

/// The bytes of one row.
fn write_row(ty: TensorType, grid: &Grid, state: &State, lane: usize, out: &mut [u8]) {
    let superblocks = state.levels.len() / STRIP / grid.len;
    let block_bytes = out.len() / superblocks.max(1);
    let of = |values: &[f32], range: Range<usize>, to: &mut Vec<f32>| {
        to.clear();
        to.extend(range.map(|i| values[i * STRIP + lane]));
    };
    let (mut codes, mut scales, mut mins) = (Vec::new(), Vec::new(), Vec::new());
    for (b, out) in out.chunks_exact_mut(block_bytes).enumerate() {
        codes.clear();
        codes.extend((b * grid.len..(b + 1) * grid.len).map(|i| grid.code(state.levels[i * STRIP + lane])));
        let blocks = b * grid.blocks()..(b + 1) * grid.blocks();
        of(&state.scales, blocks.clone(), &mut scales);
        of(&state.mins, blocks, &mut mins);
        let (d, dmin) = (state.d[b * STRIP + lane], state.dmin[b * STRIP + lane]);
        if let Levels::Book(book) = grid.levels {
            let levels: Vec<f32> = (b * grid.len..(b + 1) * grid.len).map(|i| state.levels[i * STRIP + lane]).collect();
            book.pack(&levels, &scales, d, out);
            continue;
        }
        pack(ty, &Chosen { codes: &codes, scales: &scales, mins: &mins, d, dmin }, out);
    }
}

/// Error feedback over all columns.
fn feedback(inputs: &Inputs, grid: &Grid, effort: Effort, targets: &[&[f32]], states: &mut [State]) {
    let n = inputs.columns();
    let mut moved = vec![0.0; BLOCK * STRIP];
    let mut now = vec![0.0; BLOCK * STRIP];
    let mut errors = vec![0.0; BLOCK * STRIP];
    for (block, at) in (0..n).step_by(BLOCK).enumerate() {
        let len = BLOCK.min(n - at);
        let u = &inputs.u[block];
        for (target, state) in targets.iter().zip(states.iter_mut()) {
            // What the best real numbers are, given the errors of the columns before.
            now[..len * STRIP].copy_from_slice(&target[at * STRIP..(at + len) * STRIP]);
            multiply(&inputs.r, at..at + len, &state.error, 0..at, Sum::Store, &mut moved);
            multiply(u, 0..len, &moved, 0..len, Sum::Add, &mut now);
            for first in (0..len).step_by(grid.len) {
                let root = &inputs.root[at + first..][..grid.len];
                let blocks = (at + first) / grid.sub * STRIP..((at + first) / grid.sub + grid.blocks()) * STRIP;
                if let Levels::Book(book) = grid.levels {
                    let now = &now[first * STRIP..(first + grid.len) * STRIP];
                    let d = &mut state.d[(at + first) / grid.len * STRIP..][..STRIP];
                    book.begin(now, root, d, &mut state.scales[blocks]);
                } else if grid.is_nested() {
                    Path::current().run(Superblock {
                        grid,
                        root,
                        now: &now[first * STRIP..(first + grid.len) * STRIP],
                        d: &mut state.d[(at + first) / grid.len * STRIP..][..STRIP],
                        dmin: &mut state.dmin[(at + first) / grid.len * STRIP..][..STRIP],
                    });
                }
                for sub in (first..first + grid.len).step_by(grid.sub) {
                    for piece in (sub..sub + grid.sub).step_by(STRIP) {
                        let end = (piece + STRIP).min(sub + grid.sub);
                        let superblock = (at + sub) / grid.len * STRIP..((at + sub) / grid.len + 1) * STRIP;
                        let own = (at + sub) / grid.sub * STRIP..((at + sub) / grid.sub + 1) * STRIP;
                        if let Levels::Book(book) = grid.levels {
                            Path::current().run(BookPiece {
                                grid,
                                book,
                                reach: effort.reach,
                                u,
                                r: &inputs.r,
                                column: at + piece,
                                piece: piece..end,
                                now: &now,
                                d: &state.d[superblock],
                                scale: &mut state.scales[own],
                                levels: &mut state.levels[(at + piece) * STRIP..(at + end) * STRIP],
                                values: &mut state.error[(at + piece) * STRIP..(at + end) * STRIP],
                                errors: &mut errors[piece * STRIP..end * STRIP],
                            });
                            if end < len {
                                multiply(u, end..len, &errors, piece..end, Sum::Subtract, &mut now[end * STRIP..]);
                            }
                            continue;
                        }
                        Path::current().run(Piece {
                            grid,
                            effort,
                            u,
                            root: &inputs.root[at..at + len],
                            sub: sub..sub + grid.sub,
                            piece: piece..end,
                            now: &now,
                            d: &state.d[superblock.clone()],
                            dmin: &state.dmin[superblock],
                            scale: &mut state.scales[own.clone()],
                            min: &mut state.mins[own],
                            levels: &mut state.levels[(at + piece) * STRIP..(at + end) * STRIP],
                            values: &mut state.error[(at + piece) * STRIP..(at + end) * STRIP],
                            errors: &mut errors[piece * STRIP..end * STRIP],
                        });
                        if end < len {
                            multiply(u, end..len, &errors, piece..end, Sum::Subtract, &mut now[end * STRIP..]);
                        }
                    }
                }
            }
            // The chosen values become errors.
            let block = at * STRIP..(at + len) * STRIP;
            for (error, target) in state.error[block.clone()].iter_mut().zip(&target[block]) {
                *error = target - *error;
            }
        }
    }
}

/// Chooses a superblock's floats.
struct Superblock<'a> {
    grid: &'a Grid,
    root: &'a [f32],
    now: &'a [f32],
    d: &'a mut [f32],
    dmin: &'a mut [f32],
}

impl Task for Superblock<'_> {
    #[inline(always)]
    fn run<F: Floats>(self) {
        for lane in (0..STRIP).step_by(F::Wide::N) {
            let (d, dmin) = superblock::<F::Wide>(self.grid, self.root, &self.now[lane..]);
            d.store(&mut self.d[lane..]);
            dmin.store(&mut self.dmin[lane..]);
        }
    }
}

#[inline(always)]
fn superblock<F: Floats>(grid: &Grid, root: &[f32], now: &[f32]) -> (F, F) {
    let zero = F::splat(0.0);
    let (mut scales, mut mins) = ([zero; 16], [zero; 16]);
    let (mut scale_weights, mut min_weights) = ([zero; 16], [zero; 16]);
    let (mut x, mut w) = ([zero; STRIP], [zero; STRIP]);
    let blocks = grid.blocks();
    for b in 0..blocks {
        for i in 0..grid.sub {
            let root = root[b * grid.sub + i];
            x[i] = F::load(&now[(b * grid.sub + i) * STRIP..]);
            w[i] = F::splat(root * root);
        }
        let (x, w) = (&x[..grid.sub], &w[..grid.sub]);
        if grid.min == Min::None {
            scales[b] = grid.fit(x, w);
        } else {
            (scales[b], mins[b]) = grid.fit_min(x, w);
        }
        // What a change of the scale, and of the minimum, costs.
        let inverse = inverse(scales[b]);
        for (&x, &w) in x.iter().zip(w) {
            let level = grid.level(x + mins[b], inverse);
            scale_weights[b] = scale_weights[b] + (w * level) * level;
            min_weights[b] = min_weights[b] + w;
        }
    }
    let d = match grid.scale {
        Scale::Times { low, high } => Grid::fit_super(low, high, &scales[..blocks], &scale_weights[..blocks]),
        _ => zero,
    };
    let dmin = match grid.min {
        Min::Times { high } => Grid::fit_super(0, high, &mins[..blocks], &min_weights[..blocks]),
        _ => zero,
    };
    (d, dmin)
}

/// Rounds at most [`STRIP`] columns of one block, after choosing the block's scale if they are its first.
struct Piece<'a> {
    grid: &'a Grid,
    effort: Effort,
    u: &'a Strips,
    root: &'a [f32],
    sub: Range<usize>,
    piece: Range<usize>,
    now: &'a [f32],
    d: &'a [f32],
    dmin: &'a [f32],
    scale: &'a mut [f32],
    min: &'a mut [f32],
    levels: &'a mut [f32],
    values: &'a mut [f32],
    errors: &'a mut [f32],
}

impl Task for Piece<'_> {
    #[inline(always)]
    fn run<F: Floats>(mut self) {
        for lane in (0..STRIP).step_by(F::Wide::N) {
            self.lanes::<F::Wide>(lane);
        }
    }
}

impl Piece<'_> {
    #[inline(always)]
    fn lanes<F: Floats>(&mut self, lane: usize) {
        let grid = self.grid;
        let (d, dmin) = (F::load(&self.d[lane..]), F::load(&self.dmin[lane..]));
        if self.piece.start == self.sub.start {
            let (scale, min) = self.choose(lane, d, dmin);
            scale.store(&mut self.scale[lane..]);
            min.store(&mut self.min[lane..]);
        }
        let scale = grid.scale_of(F::load(&self.scale[lane..]), d);
        let min = grid.minimum_of(F::load(&self.min[lane..]), dmin);
        let mut x = [F::splat(0.0); STRIP];
        let count = self.piece.len();
        for i in 0..count {
            x[i] = F::load(&self.now[(self.piece.start + i) * STRIP + lane..]);
        }
        let inverse = inverse(scale);
        for j in 0..count {
            let level = grid.level(x[j] + min, inverse);
            let value = scale * level - min;
            let error = (x[j] - value) * F::splat(self.root[self.piece.start + j]);
            level.store(&mut self.levels[j * STRIP + lane..]);
            value.store(&mut self.values[j * STRIP + lane..]);
            error.store(&mut self.errors[j * STRIP + lane..]);
            let row = self.row(j);
            for i in j + 1..count {
                x[i] = x[i] - error * F::splat(row[i]);
            }
        }
    }

    /// Row `j` of U from the first column of the piece on.
    #[inline(always)]
    fn row(&self, j: usize) -> &[f32] {
        let at = self.piece.start;
        &self.u.strip(at / STRIP)[(at + j) * STRIP + at % STRIP..(at + j + 1) * STRIP]
    }

    /// The codes of the scale and the minimum.
    #[inline(always)]
    fn choose<F: Floats>(&self, lane: usize, d: F, dmin: F) -> (F, F) {
        let grid = self.grid;
        let zero = F::splat(0.0);
        let (mut x, mut w) = ([zero; LONGEST], [zero; LONGEST]);
        let count = self.sub.len();
        for i in 0..count {
            let root = self.root[self.sub.start + i];
            x[i] = F::load(&self.now[(self.sub.start + i) * STRIP + lane..]);
            w[i] = F::splat(root * root);
        }
        let (x, w) = (&x[..count], &w[..count]);
        let (scale, min) = if grid.min == Min::None { (grid.fit(x, w), zero) } else { grid.fit_min(x, w) };
        let reach = self.effort.reach;
        let min_reach = if grid.min == Min::None { 0 } else { reach };
        let mut best = F::splat(f32::INFINITY);
        let (mut best_scale, mut best_min) = (zero, zero);
        for scale_step in -reach..=reach {
            let (scale, scale_code) = grid.scale(scale, d, scale_step);
            for min_step in -min_reach..=min_reach {
                let (min, min_code) = grid.minimum(min, dmin, scale, min_step);
                let cost = if count <= STRIP { self.trial(x, scale, min) } else { plain_cost(grid, x, w, scale, min) };
                let better = cost.lt(best);
                best = F::select(better, cost, best);
                best_scale = F::select(better, scale_code, best_scale);
                best_min = F::select(better, min_code, best_min);
            }
        }
        (best_scale, best_min)
    }

    /// What the block costs with this scale and minimum: the feedback within it, tried out.
    #[inline(always)]
    fn trial<F: Floats>(&self, x: &[F], scale: F, min: F) -> F {
        let grid = self.grid;
        let mut now = [F::splat(0.0); STRIP];
        let count = x.len();
        now[..count].copy_from_slice(x);
        let inverse = inverse(scale);
        let mut cost = F::splat(0.0);
        for j in 0..count {
            let level = grid.level(now[j] + min, inverse);
            let error = (now[j] - (scale * level - min)) * F::splat(self.root[self.piece.start + j]);
            cost = cost + error * error;
            let row = self.row(j);
            for i in j + 1..count {
                now[i] = now[i] - error * F::splat(row[i]);
            }
        }
        cost
    }
}

/// What a block costs with this scale and minimum where its columns are taken one by one.
#[inline(always)]
fn plain_cost<F: Floats>(grid: &Grid, x: &[F], w: &[F], scale: F, min: F) -> F {
    let inverse = inverse(scale);
    let mut cost = F::splat(0.0);
    for (&x, &w) in x.iter().zip(w) {
        let error = x - (scale * grid.level(x + min, inverse) - min);
        cost = cost + (w * error) * error;
    }
    cost
}

/// One sweep of coordinate descent on e H eᵀ: the level of each column, then its block's scale and minimum, then the
/// superblock's floats; each step only where it lowers the error.
fn sweep(inputs: &Inputs, grid: &Grid, targets: &[&[f32]], states: &mut [State]) {
    let n = inputs.columns();
    let mut gradient = vec![0.0; BLOCK * STRIP];
    let mut change = vec![0.0; BLOCK * STRIP];
    let mut directions = [vec![0.0; BLOCK * STRIP], vec![0.0; BLOCK * STRIP]];
    let mut products = [vec![0.0; BLOCK * STRIP], vec![0.0; BLOCK * STRIP]];
    for (block, at) in (0..n).step_by(BLOCK).enumerate() {
        let len = BLOCK.min(n - at);
        let square = &inputs.squares[block];
        for (target, state) in targets.iter().zip(states.iter_mut()) {
            multiply(&inputs.h, at..at + len, &state.error, 0..n, Sum::Store, &mut gradient);
            let target = &target[at * STRIP..(at + len) * STRIP];
            for first in (0..len).step_by(grid.len) {
                let superblock = (at + first) / grid.len * STRIP..((at + first) / grid.len + 1) * STRIP;
                for sub in (first..first + grid.len).step_by(grid.sub) {
                    let own = (at + sub) / grid.sub * STRIP..((at + sub) / grid.sub + 1) * STRIP;
                    for piece in (sub..sub + grid.sub).step_by(STRIP) {
                        let piece = piece..(piece + STRIP).min(sub + grid.sub);
                        let columns = (at + piece.start) * STRIP..(at + piece.end) * STRIP;
                        if let Levels::Book(book) = grid.levels {
                            Path::current().run(BookSteps {
                                grid,
                                book,
                                square,
                                piece: piece.clone(),
                                gradient: &gradient,
                                target: &target[piece.start * STRIP..piece.end * STRIP],
                                d: &state.d[superblock.clone()],
                                scale: &state.scales[own.clone()],
                                levels: &mut state.levels[columns.clone()],
                                error: &mut state.error[columns],
                                change: &mut change[piece.start * STRIP..piece.end * STRIP],
                            });
                            multiply(square, 0..len, &change, piece, Sum::Subtract, &mut gradient);
                            continue;
                        }
                        Path::current().run(Steps {
                            grid,
                            square,
                            piece: piece.clone(),
                            gradient: &gradient,
                            target: &target[piece.start * STRIP..piece.end * STRIP],
                            d: &state.d[superblock.clone()],
                            dmin: &state.dmin[superblock.clone()],
                            scale: &state.scales[own.clone()],
                            min: &state.mins[own.clone()],
                            levels: &mut state.levels[columns.clone()],
                            error: &mut state.error[columns],
                            change: &mut change[piece.start * STRIP..piece.end * STRIP],
                        });
                        multiply(square, 0..len, &change, piece, Sum::Subtract, &mut gradient);
                    }
                    let columns = (at + sub) * STRIP..(at + sub + grid.sub) * STRIP;
                    Path::current().run(Rescale {
                        grid,
                        square,
                        sub: sub..sub + grid.sub,
                        gradient: &gradient,
                        target: &target[sub * STRIP..(sub + grid.sub) * STRIP],
                        d: &state.d[superblock.clone()],
                        dmin: &state.dmin[superblock.clone()],
                        scale: &mut state.scales[own.clone()],
                        min: &mut state.mins[own],
                        levels: &state.levels[columns.clone()],
                        error: &mut state.error[columns],
                        change: &mut change[sub * STRIP..(sub + grid.sub) * STRIP],
                    });
                    multiply(square, 0..len, &change, sub..sub + grid.sub, Sum::Subtract, &mut gradient);
                }
                if !grid.is_nested() {
                    continue;
                }
                let all = first..first + grid.len;
                let blocks = (at + first) / grid.sub * STRIP..((at + first) / grid.sub + grid.blocks()) * STRIP;
                let columns = (at + first) * STRIP..(at + first + grid.len) * STRIP;
                // How values change with the two floats, and what that does to the gradient.
                for i in 0..grid.len {
                    let b = blocks.start + i / grid.sub * STRIP;
                    for lane in 0..STRIP {
                        let level = state.levels[columns.start + i * STRIP + lane];
                        directions[0][(first + i) * STRIP + lane] = grid.times(state.scales[b + lane]) * level;
                        directions[1][(first + i) * STRIP + lane] = state.mins[b + lane];
                    }
                }
                for (direction, product) in directions.iter().zip(&mut products) {
                    let product = &mut product[first * STRIP..(first + grid.len) * STRIP];
                    multiply(square, all.clone(), direction, all.clone(), Sum::Store, product);
                }
                let range = first * STRIP..(first + grid.len) * STRIP;
                Path::current().run(Refloat {
                    grid,
                    gradient: &gradient[range.clone()],
                    target: &target[range.clone()],
                    directions: [&directions[0][range.clone()], &directions[1][range.clone()]],
                    products: [&products[0][range.clone()], &products[1][range.clone()]],
                    d: &mut state.d[superblock.clone()],
                    dmin: &mut state.dmin[superblock],
                    scales: &state.scales[blocks.clone()],
                    mins: &state.mins[blocks],
                    levels: &state.levels[columns.clone()],
                    error: &mut state.error[columns],
                    change: &mut change[range],
                });
                multiply(square, 0..len, &change, all, Sum::Subtract, &mut gradient);
            }
        }
    }
}

/// Moves each level of some columns to the one nearest to the optimum.
struct Steps<'a> {
    grid: &'a Grid,
    square: &'a Strips,
    piece: Range<usize>,
    gradient: &'a [f32],
    target: &'a [f32],
    d: &'a [f32],
    dmin: &'a [f32],
    scale: &'a [f32],
    min: &'a [f32],
    levels: &'a mut [f32],
    error: &'a mut [f32],
    change: &'a mut [f32],
}

impl Task for Steps<'_> {
    #[inline(always)]
    fn run<F: Floats>(mut self) {
        for lane in (0..STRIP).step_by(F::Wide::N) {
            self.lanes::<F::Wide>(lane);
        }
    }
}

impl Steps<'_> {
    #[inline(always)]
    fn lanes<F: Floats>(&mut self, lane: usize) {
        let grid = self.grid;
        let scale = grid.scale_of(F::load(&self.scale[lane..]), F::load(&self.d[lane..]));
        let min = grid.minimum_of(F::load(&self.min[lane..]), F::load(&self.dmin[lane..]));
        let inverse = inverse(scale);
        let count = self.piece.len();
        let at = self.piece.start;
        let mut gradient = [F::splat(0.0); STRIP];
        for i in 0..count {
            gradient[i] = F::load(&self.gradient[(at + i) * STRIP + lane..]);
        }
        for j in 0..count {
            let row = &self.square.strip(at / STRIP)[(at + j) * STRIP + at % STRIP..][..count];
            let target = F::load(&self.target[j * STRIP + lane..]);
            let old = F::load(&self.levels[j * STRIP + lane..]);
            let value = scale * old - min;
            let optimum = value + gradient[j] * F::splat(1.0 / row[j]);
            let level = grid.level(optimum + min, inverse);
            let new = scale * level - min;
            // Where several levels stand for one value, or the scale is zero, nothing changes.
            let same = new.eq(value);
            let level = F::select(same, old, level);
            let change = F::select(same, F::splat(0.0), new - value);
            level.store(&mut self.levels[j * STRIP + lane..]);
            (target - F::select(same, value, new)).store(&mut self.error[j * STRIP + lane..]);
            change.store(&mut self.change[j * STRIP + lane..]);
            for i in 0..count {
                gradient[i] = gradient[i] - change * F::splat(row[i]);
            }
        }
    }
}

/// Fits the scale and the minimum of a block to its levels.
struct Rescale<'a> {
    grid: &'a Grid,
    square: &'a Strips,
    sub: Range<usize>,
    gradient: &'a [f32],
    target: &'a [f32],
    d: &'a [f32],
    dmin: &'a [f32],
    scale: &'a mut [f32],
    min: &'a mut [f32],
    levels: &'a [f32],
    error: &'a mut [f32],
    change: &'a mut [f32],
}

impl Task for Rescale<'_> {
    #[inline(always)]
    fn run<F: Floats>(mut self) {
        for lane in (0..STRIP).step_by(F::Wide::N) {
            self.lanes::<F::Wide>(lane);
        }
    }
}

impl Rescale<'_> {
    #[inline(always)]
    fn lanes<F: Floats>(&mut self, lane: usize) {
        let grid = self.grid;
        let zero = F::splat(0.0);
        let (d, dmin) = (F::load(&self.d[lane..]), F::load(&self.dmin[lane..]));
        let (old_scale_code, old_min_code) = (F::load(&self.scale[lane..]), F::load(&self.min[lane..]));
        let (old_scale, old_min) = (grid.scale_of(old_scale_code, d), grid.minimum_of(old_min_code, dmin));
        let count = self.sub.len();
        let mut levels = [zero; LONGEST];
        for i in 0..count {
            levels[i] = F::load(&self.levels[i * STRIP + lane..]);
        }
        let mut sums = Quadratic::zero();
        for j in 0..count {
            // H times the levels, and the sum of H's row.
            let (mut product, mut sum) = (zero, 0.0_f32);
            let mut i = 0;
            while i < count {
                let at = self.sub.start + i;
                let here = (STRIP - at % STRIP).min(count - i);
                let row = &self.square.strip(at / STRIP)[(self.sub.start + j) * STRIP + at % STRIP..][..here];
                for (k, &h) in row.iter().enumerate() {
                    product = product + levels[i + k] * F::splat(h);
                    sum += h;
                }
                i += here;
            }
            let gradient = F::load(&self.gradient[(self.sub.start + j) * STRIP + lane..]);
            sums.add(gradient, levels[j], F::splat(1.0), product, F::splat(sum));
        }
        let (more_scale, more_min) = sums.optimum(grid.min != Min::None);
        let around = match grid.scale {
            Scale::Half | Scale::Magnitude(_) | Scale::Row => 0..=0,
            _ => -1..=1,
        };
        let min_around = match grid.min {
            Min::Times { .. } => -1..=1,
            _ => 0..=0,
        };
        let mut best = zero;
        let (mut scale_code, mut min_code) = (old_scale_code, old_min_code);
        let (mut scale, mut min) = (old_scale, old_min);
        for scale_step in around {
            let (new_scale, new_scale_code) = grid.scale(old_scale + more_scale, d, scale_step);
            for min_step in min_around.clone() {
                let (new_min, new_min_code) = grid.minimum(old_min + more_min, dmin, new_scale, min_step);
                let gain = sums.change(new_scale - old_scale, new_min - old_min);
                let better = gain.lt(best);
                best = F::select(better, gain, best);
                scale_code = F::select(better, new_scale_code, scale_code);
                min_code = F::select(better, new_min_code, min_code);
                scale = F::select(better, new_scale, scale);
                min = F::select(better, new_min, min);
            }
        }
        scale_code.store(&mut self.scale[lane..]);
        min_code.store(&mut self.min[lane..]);
        for i in 0..count {
            let (old, new) = (old_scale * levels[i] - old_min, scale * levels[i] - min);
            (new - old).store(&mut self.change[i * STRIP + lane..]);
            (F::load(&self.target[i * STRIP + lane..]) - new).store(&mut self.error[i * STRIP + lane..]);
        }
    }
}

/// Fits a superblock's floats to the integers.
struct Refloat<'a> {
    grid: &'a Grid,
    gradient: &'a [f32],
    target: &'a [f32],
    directions: [&'a [f32]; 2],
    products: [&'a [f32]; 2],
    d: &'a mut [f32],
    dmin: &'a mut [f32],
    scales: &'a [f32],
    mins: &'a [f32],
    levels: &'a [f32],
    error: &'a mut [f32],
    change: &'a mut [f32],
}

impl Task for Refloat<'_> {
    #[inline(always)]
    fn run<F: Floats>(mut self) {
        for lane in (0..STRIP).step_by(F::Wide::N) {
            self.lanes::<F::Wide>(lane);
        }
    }
}

impl Refloat<'_> {
    #[inline(always)]
    fn lanes<F: Floats>(&mut self, lane: usize) {
        let grid = self.grid;
        let (old_d, old_dmin) = (F::load(&self.d[lane..]), F::load(&self.dmin[lane..]));
        let mut sums = Quadratic::zero();
        for i in 0..grid.len {
            let at = i * STRIP + lane;
            sums.add(
                F::load(&self.gradient[at..]),
                F::load(&self.directions[0][at..]),
                F::load(&self.directions[1][at..]),
                F::load(&self.products[0][at..]),
                F::load(&self.products[1][at..]),
            );
        }
        let (more_d, more_dmin) = sums.optimum(matches!(grid.min, Min::Times { .. }));
        let new_d = F::from_half((old_d + more_d).to_half());
        let new_dmin = F::from_half((old_dmin + more_dmin).to_half());
        let zero = F::splat(0.0);
        let mut best = zero;
        let (mut d, mut dmin) = (old_d, old_dmin);
        for (try_d, try_dmin) in [(new_d, new_dmin), (new_d, old_dmin), (old_d, new_dmin)] {
            let gain = sums.change(try_d - old_d, try_dmin - old_dmin);
            // A book is searched with the signs apart, for positive scales.
            let better = match grid.levels {
                Levels::Book(_) => gain.lt(best) & zero.lt(try_d),
                _ => gain.lt(best),
            };
            best = F::select(better, gain, best);
            d = F::select(better, try_d, d);
            dmin = F::select(better, try_dmin, dmin);
        }
        d.store(&mut self.d[lane..]);
        dmin.store(&mut self.dmin[lane..]);
        for b in 0..grid.blocks() {
            let (scale, min) = (F::load(&self.scales[b * STRIP + lane..]), F::load(&self.mins[b * STRIP + lane..]));
            let (old_scale, old_min) = (grid.scale_of(scale, old_d), grid.minimum_of(min, old_dmin));
            let (scale, min) = (grid.scale_of(scale, d), grid.minimum_of(min, dmin));
            for i in b * grid.sub..(b + 1) * grid.sub {
                let at = i * STRIP + lane;
                let level = F::load(&self.levels[at..]);
                let (old, new) = (old_scale * level - old_min, scale * level - min);
                (new - old).store(&mut self.change[at..]);
                (F::load(&self.target[at..]) - new).store(&mut self.error[at..]);
            }
        }
    }
}

/// How e H eᵀ changes along two directions: values grow by p a − q b.
pub(super) struct Quadratic<F> {
    ga: F,
    gb: F,
    haa: F,
    hab: F,
    hbb: F,
}

impl<F: Floats> Quadratic<F> {
    #[inline(always)]
    fn zero() -> Quadratic<F> {
        let zero = F::splat(0.0);
        Quadratic { ga: zero, gb: zero, haa: zero, hab: zero, hbb: zero }
    }

    /// Counts a column: its gradient (e H), its share of the directions, and of those times H.
    #[inline(always)]
    fn add(&mut self, gradient: F, a: F, b: F, ha: F, hb: F) {
        self.ga = self.ga + gradient * a;
        self.gb = self.gb + gradient * b;
        self.haa = self.haa + a * ha;
        self.hab = self.hab + b * ha;
        self.hbb = self.hbb + b * hb;
    }

    /// The change for p and q.
    #[inline(always)]
    fn change(&self, p: F, q: F) -> F {
        let two = F::splat(2.0);
        let linear = q * self.gb - p * self.ga;
        two * (linear - (p * q) * self.hab) + ((p * p) * self.haa + (q * q) * self.hbb)
    }

    /// The p and q of the least error; q is zero where there is no second direction.
    #[inline(always)]
    fn optimum(&self, both: bool) -> (F, F) {
        let zero = F::splat(0.0);
        let alone = F::select(self.haa.gt(zero), self.ga / self.haa, zero);
        if !both {
            return (alone, zero);
        }
        let determinant = self.haa * self.hbb - self.hab * self.hab;
        let solvable = determinant.gt((self.haa * self.hbb) * F::splat(1e-5));
        let p = (self.ga * self.hbb - self.gb * self.hab) / determinant;
        let q = (self.ga * self.hab - self.gb * self.haa) / determinant;
        (F::select(solvable, p, alone), F::select(solvable, q, zero))
    }
}

/// Whether the search knows the numbers of a type.
pub fn knows(ty: TensorType) -> bool {
    super::grid::grid(ty).is_some_and(|grid| {
        // Blocks are pieces of a strip, or made of whole strips.
        let whole = grid.sub.is_multiple_of(STRIP) || STRIP.is_multiple_of(grid.sub);
        whole && grid.sub <= LONGEST && BLOCK.is_multiple_of(grid.len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::grid::GRIDS;
    use crate::search::inputs::quadratic;
    use crate::search::strips::multiply_all;

    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        /// Nearly normal.
        pub(crate) fn normal(&mut self) -> f32 {
            let mut sum = 0.0;
            for _ in 0..12 {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (self.0 >> 40) as f32 / (1 << 24) as f32;
            }
            sum - 6.0
        }
    }

    /// Inputs whose columns hang together and differ in size, as those of trained models do.
    pub(crate) fn moments(n: usize, tokens: usize, seed: u64) -> Strips {
        let mut random = Random(seed);
        let causes = 12;
        let mix: Vec<f32> = (0..causes * n).map(|_| random.normal()).collect();
        let size: Vec<f32> = (0..n).map(|_| (0.5 * random.normal()).exp()).collect();
        let mut x = vec![0.0; tokens * n];
        for row in x.chunks_mut(n) {
            let cause: Vec<f32> = (0..causes).map(|_| random.normal()).collect();
            for (i, x) in row.iter_mut().enumerate() {
                let shared: f32 = (0..causes).map(|c| cause[c] * mix[c * n + i]).sum();
                *x = size[i] * (0.4 * shared + random.normal());
            }
        }
        let x = Strips::from_rows(&x, n);
        let mut h = Strips::zeros(n, n);
        multiply_all(&x, &x, Sum::Store, &mut h);
        h
    }

    fn error(h: &Strips, ty: TensorType, bytes: &[u8], target: &Strips) -> f64 {
        let mut values = vec![0.0; target.rows() * target.cols()];
        crate::decode_rows(ty, bytes, &mut values).unwrap();
        let mut left = Strips::transposed(&values, target.rows());
        for (left, target) in left.values_mut().iter_mut().zip(target.values()) {
            *left = target - *left;
        }
        quadratic(h, &left)
    }

    #[test]
    fn every_format_comes_nearer_than_its_codec_does() {
        let (n, rows) = (512, 33);
        let h = moments(n, 1024, 3);
        let diagonal: Vec<f32> = (0..n).map(|i| h.at(i, i)).collect();
        let inputs = Inputs::new(h.clone(), 0.01).unwrap();
        let mut random = Random(5);
        let weights: Vec<f32> = (0..rows * n).map(|_| 0.02 * random.normal()).collect();
        let target = Strips::transposed(&weights, n);
        for (ty, _) in GRIDS {
            assert!(knows(*ty));
            let mut plain = vec![0; rows * ty.bytes_for(n as u64).unwrap() as usize];
            crate::encode_rows(*ty, &weights, n, Some(&diagonal), &mut plain).unwrap();
            let before = error(&h, *ty, &plain, &target);
            let mut last = before;
            for sweeps in [0, 2] {
                let (bytes, left) = search(&inputs, *ty, Effort { sweeps, ..Effort::default() }, &target);
                let after = error(&h, *ty, &bytes, &target);
                let told = quadratic(&h, &left);
                println!("{ty:8} sweeps {sweeps}: {:.3} of the codec's error", after / before);
                assert!((told / after - 1.0).abs() < 1e-3, "{ty}: {told} {after}");
                assert!(after < last, "{ty} with {sweeps} sweeps: {after} after {last}");
                last = after;
            }
            assert!(last < 0.6 * before, "{ty}: {last} after {before}");
        }
    }
}
