//! The choice of the numbers: the scales that codecs search, and the search for better levels from what a matrix is
//! multiplied with.
//!
//! Codecs ask [`scale`](self) searches for each block by itself. The rest of this module chooses the levels of a whole
//! matrix together: its output is a sum over columns, so that an error in one column can be taken back by the columns
//! behind it. What the inputs of a matrix X look like is told by their second moments H = XᵀX alone (`Moments`): the
//! squared error of the output of a row w that is stored as q is (w − q) H (w − q)ᵀ.
//!
//! * [`cholesky`] writes H as R Rᵀ, R upper triangular: the error is then |(w − q) R|², a sum over columns of which each
//!   depends on the columns up to it alone.
//! * `feedback` goes through the columns from left to right and rounds each after the errors before it were
//!   taken off (GPTQ, Frantar et al. 2023; geometrically Babai's nearest plane).
//! * `descent` then changes single levels, scales and minima while that lowers the error.
//! * [`mix`] chooses the types of a whole model for a size, [`estimate`] guesses what they cost.
//! * [`grid`] says which numbers each format can store; the bytes are ordinary blocks that every reader decodes.
//!
//! Every sum has a fixed order and every lane belongs to one row: the bytes are the same for any number of threads and
//! any SIMD path.

// One index runs over several arrays at once in these kernels.
#![allow(clippy::needless_range_loop)]

pub(crate) mod book;
pub mod cholesky;
pub mod estimate;
pub mod grid;
pub mod inputs;
pub mod mix;
pub mod moments;
mod pack;
pub mod rows;
mod scale;
pub mod strips;

pub use rows::{Coded, knows, search, search_codes};
pub(crate) use scale::{Affine, AffineTries, Symmetric, affine, clamp, positive, refined, symmetric};
