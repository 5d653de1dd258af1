//! How the values of a matrix are stored, and how codes and scales for it are chosen.

use convert::packed::Float;
use convert::packed::bnb::Code;

use super::chosen::{BLOCK, Coded, GROUP};
use super::{affine, four_bit, int8};
use crate::search::grid::{Grid, Levels, Min, Points, Scale};
use crate::search::inputs::Inputs;
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
