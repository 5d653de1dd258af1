//! FP8 weights and the scales beside them: one for the tensor, one a row, or one for each block of 128 × 128.
//!
//! E4M3 is the variant without infinities (`float8_e4m3fn`), E5M2 an IEEE float cut to eight bits (Micikevicius et al.,
//! *FP8 Formats for Deep Learning*, 2022).

use gguf::{Error, Result};
use serde_json::Value;

use super::{Decode, Parts, RUN_TIME, Scales, lazy, matrix, misfit};
use crate::safetensors::{Dtype, Stored};
use crate::transform::Elements;

/// A byte of E4M3: sign, four exponent bits with bias 7, three of mantissa; only 0x7F and 0xFF are NaN.
pub const fn decode_e4m3(byte: u8) -> f32 {
    let magnitude = match (byte >> 3 & 15, byte & 7) {
        (15, 7) => f32::NAN,
        (0, m) => m as f32 * (1.0 / 512.0),
        (e, m) => f32::from_bits(((e as u32 + 120) << 23) | ((m as u32) << 20)),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// A byte of E5M2: sign, five exponent bits with bias 15, two of mantissa.
pub const fn decode_e5m2(byte: u8) -> f32 {
    let magnitude = match (byte >> 2 & 31, byte & 3) {
        (31, 0) => f32::INFINITY,
        (31, _) => f32::NAN,
        (0, m) => m as f32 * (1.0 / 65536.0),
        (e, m) => f32::from_bits(((e as u32 + 112) << 23) | ((m as u32) << 21)),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

const fn table(decode: bool) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = if decode { decode_e4m3(i as u8) } else { decode_e5m2(i as u8) };
        i += 1;
    }
    table
}

static E4M3: [f32; 256] = table(true);
static E5M2: [f32; 256] = table(false);
static INT8: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = i as u8 as i8 as f32;
        i += 1;
    }
    table
};

/// What a scale stands for.
#[derive(Clone, Copy, Debug)]
enum Grid {
    Tensor,
    Rows,
    /// Rows and columns of a block, and blocks in a row of blocks.
    Blocks(usize, usize, usize),
}

/// One byte a weight, times a scale.
#[derive(Debug)]
pub(super) struct Scaled {
    codes: Stored,
    table: &'static [f32; 256],
    scales: Scales,
    grid: Grid,
    /// Subtracted from the code: a zero point for each scale.
    zeros: Option<Stored>,
}

impl Scaled {
    /// Checks a weight of one-byte elements against its scales. `block` is what the configuration claims.
    pub(super) fn new(
        codes: &Stored,
        scales: &Stored,
        block: Option<[u64; 2]>,
        zeros: Option<&Stored>,
    ) -> Result<Scaled> {
        let table = match codes.dtype() {
            Dtype::F8_E4M3 => &E4M3,
            Dtype::F8_E5M2 => &E5M2,
            Dtype::I8 => &INT8,
            other => return Err(misfit(codes, format!("a packed weight of type {other} is not known"))),
        };
        let (rows, cols) = matrix(codes)?;
        let count = scales.elements();
        let (grid, count) = match block {
            Some([height, width]) => {
                let (down, across) = (rows.div_ceil(height), cols.div_ceil(width));
                if scales.shape() != [down, across] {
                    let what = format!(
                        "its shape {:?} is not [{down}, {across}], that of blocks of {height} × {width}",
                        scales.shape()
                    );
                    return Err(misfit(scales, what));
                }
                (Grid::Blocks(height as usize, width as usize, across as usize), down * across)
            }
            None if count == 1 => (Grid::Tensor, 1),
            None if count == rows => (Grid::Rows, rows),
            None => {
                let what =
                    format!("its shape {:?} is neither one scale nor one for each of {rows} rows", scales.shape());
                return Err(misfit(scales, what));
            }
        };
        if let Some(zeros) = zeros
            && (zeros.dtype() != Dtype::I8 || zeros.elements() != count)
        {
            return Err(misfit(zeros, format!("is not {count} zero points of I8")));
        }
        Ok(Scaled { codes: codes.clone(), table, scales: Scales::new(scales, count)?, grid, zeros: zeros.cloned() })
    }

    /// What the note calls it.
    pub(super) fn form(&self) -> String {
        let name = match self.codes.dtype() {
            Dtype::F8_E4M3 => "FP8 E4M3",
            Dtype::F8_E5M2 => "FP8 E5M2",
            _ => "INT8",
        };
        match self.grid {
            Grid::Tensor => format!("{name} with a scale for the tensor"),
            Grid::Rows => format!("{name} with a scale for each row"),
            Grid::Blocks(1, width, _) => format!("{name} with a scale for {width} weights"),
            Grid::Blocks(height, width, _) => format!("{name} with a scale for {height} × {width} weights"),
        }
    }
}

impl Decode for Scaled {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let codes = &self.codes.bytes()[first * cols..];
        for ((row, out), codes) in (first..).zip(out.chunks_mut(cols)).zip(codes.chunks(cols)) {
            let (width, scale_row) = match self.grid {
                Grid::Tensor => (cols, 0),
                Grid::Rows => (cols, row),
                Grid::Blocks(height, width, across) => (width, row / height * across),
            };
            for ((i, out), codes) in (scale_row..).zip(out.chunks_mut(width)).zip(codes.chunks(width)) {
                let scale = self.scales.at(i);
                let zero = self.zeros.as_ref().map_or(0.0, |z| f32::from(z.bytes()[i] as i8));
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = (self.table[usize::from(*code)] - zero) * scale;
                }
            }
        }
    }
}

/// Takes FP8 weights out of a checkpoint: `weight` with `weight_scale_inv` or `weight_scale`.
///
/// The name notwithstanding, `weight_scale_inv` is multiplied by: it is the inverse of what was multiplied by before.
pub(super) fn open(parts: &mut Parts<'_>) -> Result<()> {
    parts.ignore(RUN_TIME);
    let block = match parts.config.get("weight_block_size").filter(|v| !v.is_null()) {
        None => None,
        Some(sizes) => {
            let sizes = sizes.as_array().and_then(|a| a.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
            match sizes.as_deref() {
                Some(&[rows, cols]) if rows > 0 && cols > 0 => Some([rows, cols]),
                _ => return Err(Error::input("weight_block_size of quantization_config is not two numbers")),
            }
        }
    };
    for ending in ["_scale_inv", "_scale", ".qscale_weight"] {
        for stem in parts.ending(ending) {
            let scales = parts.need(&format!("{stem}{ending}"), &stem)?;
            let weight = if ending == ".qscale_weight" { format!("{stem}.weight") } else { stem };
            let codes = *parts.stored.get(&weight).ok_or_else(|| misfit(scales, "its weight is missing"))?;
            let block = block.filter(|_| scales.elements() != 1);
            let decoder = Scaled::new(codes, scales, block, None)?;
            let form = decoder.form();
            parts.replace(&weight, weight.clone(), lazy(codes.shape(), Elements::F32, decoder));
            parts.count(&form);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits() {
        for (byte, value) in
            [(0x00, 0.0), (0x01, 0.001_953_125), (0x08, 0.015_625), (0x38, 1.0), (0x7E, 448.0), (0xC0, -2.0)]
        {
            assert_eq!(decode_e4m3(byte), value, "{byte:#x}");
        }
        assert!(decode_e4m3(0x7F).is_nan() && decode_e4m3(0xFF).is_nan());
        for byte in 0..=255 {
            // E5M2 is the upper byte of an f16.
            let half = half::f16::from_bits(u16::from(byte) << 8).to_f32();
            assert!(decode_e5m2(byte) == half || half.is_nan() && decode_e5m2(byte).is_nan(), "{byte:#x}");
        }
    }
}
