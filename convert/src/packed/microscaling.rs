//! MXFP4 and NVFP4: four-bit floats with a scale for 32 or 16 of them, which GGUF has types for.
//!
//! Elements are E2M1. In a checkpoint a byte holds two neighbours, the first in its lower half; in a GGUF block it holds
//! an element of the first half of the block (MXFP4) or sub-block (NVFP4) and one of the second. Repacking moves bits
//! and loses nothing. MXFP4's scale is a power of two (E8M0, OCP *Microscaling Formats*, 2023), NVFP4's an E4M3 and one
//! f32 for the whole tensor.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use gguf::{Error, Result, TensorType};

use super::fp8::{decode_e4m3, decode_e5m2};
use super::{Blocks, Decode, Parts, Scales, decode_e8m0, expect, lazy, matrix, misfit};
use crate::safetensors::{Dtype, Stored};
use crate::transform::{Elements, RowSource, Rows, as_q8_0, integers, values};

/// The values of E2M1.
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The `i`th of elements that lie two in a byte, the first in the lower half.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 15
}

/// Codes of half a block: neighbours apart, element `j` beside element `j + half`.
fn apart(codes: &[u8], out: &mut [u8]) {
    let half = out.len();
    for (j, out) in out.iter_mut().enumerate() {
        *out = nibble(codes, j) | nibble(codes, j + half) << 4;
    }
}

/// Blocks of GGUF made of codes and scales.
#[derive(Debug)]
struct Repacked {
    shape: Vec<u64>,
    codes: Stored,
    scales: Stored,
    ty: TensorType,
}

impl RowSource for Repacked {
    fn shape(&self) -> &[u64] {
        &self.shape
    }

    fn elements(&self) -> Elements {
        Elements::Blocks(self.ty)
    }

    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let cols = self.shape.last().copied().unwrap_or(0) as usize;
        let (from, to) = (rows.start as usize * cols, rows.end as usize * cols);
        let codes = &self.codes.bytes()[from / 2..to / 2];
        let mut out = Vec::with_capacity((to - from) * 9 / 16);
        if self.ty == TensorType::MXFP4 {
            let scales = &self.scales.bytes()[from / 32..to / 32];
            for (scale, codes) in scales.iter().zip(codes.chunks_exact(16)) {
                out.push(*scale);
                let start = out.len();
                out.resize(start + 16, 0);
                apart(codes, &mut out[start..]);
            }
        } else {
            let scales = &self.scales.bytes()[from / 16..to / 16];
            for (scales, codes) in scales.chunks_exact(4).zip(codes.chunks_exact(32)) {
                out.extend(scales.iter().map(|s| s & 0x7F));
                for codes in codes.chunks_exact(8) {
                    let start = out.len();
                    out.resize(start + 8, 0);
                    apart(codes, &mut out[start..]);
                }
            }
        }
        Ok(Cow::Owned(out))
    }
}

/// E2M1 with a scale for a group, decoded.
#[derive(Debug)]
struct Micro {
    codes: Stored,
    scales: Stored,
    group: usize,
    decode_scale: fn(u8) -> f32,
    /// A factor for the whole tensor.
    factor: f32,
}

impl Decode for Micro {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let from = first * cols;
        let scales = &self.scales.bytes()[from / self.group..];
        let codes = &self.codes.bytes()[from / 2..];
        for ((out, scale), codes) in out.chunks_mut(self.group).zip(scales).zip(codes.chunks(self.group / 2)) {
            let scale = (self.decode_scale)(*scale) * self.factor;
            for (i, out) in out.iter_mut().enumerate() {
                *out = E2M1[usize::from(nibble(codes, i))] * scale;
            }
        }
    }
}

/// Takes gpt-oss's expert stacks out of a checkpoint: `…_blocks` [experts, rows, groups, 16] and `…_scales`.
///
/// They keep the name with `_blocks`: unlike the plain stacks, they are stored output-major.
pub(super) fn open_mxfp4(parts: &mut Parts<'_>) -> Result<()> {
    for stack in parts.ending("_blocks") {
        let name = format!("{stack}_blocks");
        let codes = *parts.stored.get(&name).ok_or_else(|| Error::input(format!("tensor {name} is missing")))?;
        let &[experts, rows, groups, 16] = codes.shape() else {
            return Err(misfit(
                codes,
                format!("its shape {:?} is not that of experts, rows, groups and 16", codes.shape()),
            ));
        };
        expect(codes, Dtype::U8, &[experts, rows, groups, 16])?;
        let scales = parts.need(&format!("{stack}_scales"), &name)?;
        expect(scales, Dtype::U8, &[experts, rows, groups])?;
        let rows = mxfp4(parts, codes, scales, vec![experts, rows, groups * 32]);
        parts.replace(&name, name.clone(), rows);
    }
    Ok(())
}

/// Takes MXFP4 matrices out of a checkpoint: `weight_packed` and `weight_scale`.
pub(super) fn open_mxfp4_rows(parts: &mut Parts<'_>) -> Result<()> {
    for weight in parts.ending("_packed") {
        let name = format!("{weight}_packed");
        let codes = *parts.stored.get(&name).ok_or_else(|| Error::input(format!("tensor {name} is missing")))?;
        let (rows, bytes) = matrix(codes)?;
        expect(codes, Dtype::U8, &[rows, bytes])?;
        if !bytes.is_multiple_of(16) {
            return Err(misfit(codes, format!("{} columns are not a whole number of groups of 32", bytes * 2)));
        }
        let scales = parts.need(&format!("{weight}_scale"), &name)?;
        if scales.bytes().len() as u64 != rows * bytes / 16 {
            return Err(misfit(scales, "is not one byte for 32 weights"));
        }
        let data = mxfp4(parts, codes, scales, vec![rows, bytes * 2]);
        parts.replace(&name, weight, data);
    }
    Ok(())
}

/// Codecs decode MXFP4 from its blocks alone, so these stay unless a float is wanted.
fn mxfp4(parts: &mut Parts<'_>, codes: &Stored, scales: &Stored, shape: Vec<u64>) -> Rows {
    let (codes, scales) = (codes.clone(), scales.clone());
    match parts.blocks {
        Blocks::Keep | Blocks::Alone => {
            parts.count("MXFP4, kept bit for bit");
            Arc::new(Repacked { shape, codes, scales, ty: TensorType::MXFP4 })
        }
        Blocks::Decode => {
            parts.count("MXFP4, decoded");
            let decoder = Micro { codes, scales, group: 32, decode_scale: decode_e8m0, factor: 1.0 };
            lazy(&shape, Elements::F32, decoder)
        }
    }
}

/// Takes DeepSeek-V4's weights out of a checkpoint: experts in MXFP4, FP8 with a power of two for each block of 128 × 128
/// (which goes to the file as Q8_0), and tables of token ids.
pub(super) fn open_deepseek(parts: &mut Parts<'_>) -> Result<()> {
    let is_packed = |name: &String| {
        matches!(parts.stored[name.as_str()].dtype(), Dtype::I8 | Dtype::U8 | Dtype::F8_E4M3 | Dtype::F8_E5M2)
    };
    let packed: Vec<String> = parts.ending(".weight").into_iter().map(|module| module + ".weight").collect();
    for name in packed.iter().filter(|name| is_packed(name)) {
        let scale = name.replace(".weight", ".scale");
        if !parts.stored.contains_key(scale.as_str()) {
            return Err(Error::input(format!("its part {scale} is missing")).in_tensor(name));
        }
    }
    for module in parts.ending(".scale") {
        let name = format!("{module}.weight");
        let Some(&codes) = parts.stored.get(&name) else { continue };
        let (rows, cols) = matrix(codes)?;
        let scales = parts.need(&format!("{module}.scale"), &name)?;
        match codes.dtype() {
            Dtype::I8 | Dtype::U8 => {
                if !cols.is_multiple_of(16) || scales.bytes().len() as u64 != rows * cols / 16 {
                    return Err(misfit(scales, format!("is not one byte for 32 weights of {name}")));
                }
                let data = mxfp4(parts, codes, scales, vec![rows, cols * 2]);
                parts.replace(&name, name.clone(), data);
            }
            Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
                if scales.bytes().len() as u64 != rows.div_ceil(TILE) * cols.div_ceil(TILE) {
                    return Err(misfit(scales, format!("is not one byte for each block of 128 × 128 of {name}")));
                }
                let decode = if codes.dtype() == Dtype::F8_E4M3 { decode_e4m3 } else { decode_e5m2 };
                let tiles = Tiles { codes: codes.clone(), scales: scales.clone(), decode };
                parts.replace(&name, name.clone(), as_q8_0(&lazy(&[rows, cols], Elements::F32, tiles)));
                parts.count("FP8, as Q8_0");
            }
            other => return Err(misfit(codes, format!("a packed weight of type {other} is not known"))),
        }
    }
    for module in parts.ending(".tid2eid") {
        let name = format!("{module}.tid2eid");
        if let Some(&table) = parts.stored.get(&name) {
            parts.replace(&name, name.clone(), integers(table)?);
        }
    }
    Ok(())
}

/// Rows and columns of a block with one scale.
const TILE: u64 = 128;

/// FP8 with a power of two for each block.
#[derive(Debug)]
struct Tiles {
    codes: Stored,
    scales: Stored,
    decode: fn(u8) -> f32,
}

impl Decode for Tiles {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let tile = TILE as usize;
        let across = cols.div_ceil(tile);
        let codes = &self.codes.bytes()[first * cols..];
        for ((i, out), codes) in out.chunks_mut(cols.max(1)).enumerate().zip(codes.chunks(cols.max(1))) {
            let scales = &self.scales.bytes()[(first + i) / tile * across..];
            for (j, (out, code)) in out.iter_mut().zip(codes).enumerate() {
                *out = (self.decode)(*code) * decode_e8m0(scales[j / tile]);
            }
        }
    }
}

/// Takes NVFP4 weights out of a checkpoint of compressed-tensors, whose scale of the tensor is a divisor.
pub(super) fn open_nvfp4(parts: &mut Parts<'_>) -> Result<()> {
    for weight in parts.ending("_packed") {
        let name = format!("{weight}_packed");
        let module = weight.strip_suffix(".weight").unwrap_or(&weight).to_owned();
        let global = |part: Option<&Stored>| part.map(|p| Ok(1.0 / Scales::new(p, 1)?.at(0))).transpose();
        let factor = global(parts.take(&format!("{weight}_global_scale")))?;
        let input = global(parts.take(&format!("{module}.input_global_scale")))?;
        nvfp4(parts, &name, &weight, factor, input)?;
    }
    parts.ignore(&[".k_scale", ".v_scale"]);
    Ok(())
}

/// Takes NVFP4 and FP8 weights out of a checkpoint of ModelOpt.
pub(super) fn open_modelopt(parts: &mut Parts<'_>) -> Result<()> {
    for weight in parts.ending("_scale_2") {
        let module = weight.strip_suffix(".weight").unwrap_or(&weight).to_owned();
        let factor = parts.need(&format!("{weight}_scale_2"), &weight)?;
        let factor = Scales::new(factor, 1)?.at(0);
        let input = parts.take(&format!("{module}.input_scale"));
        let input = input.map(|i| Ok::<f32, Error>(Scales::new(i, 1)?.at(0))).transpose()?;
        nvfp4(parts, &weight.clone(), &weight, Some(factor), input)?;
    }
    super::fp8::open(parts)
}

/// One NVFP4 weight, with the factors that GGUF keeps beside it.
fn nvfp4(parts: &mut Parts<'_>, name: &str, weight: &str, factor: Option<f32>, input: Option<f32>) -> Result<()> {
    let codes = *parts.stored.get(name).ok_or_else(|| Error::input(format!("tensor {name} is missing")))?;
    let (rows, bytes) = matrix(codes)?;
    expect(codes, Dtype::U8, &[rows, bytes])?;
    let cols = bytes * 2;
    let scales = parts.need(&format!("{weight}_scale"), name)?;
    if !cols.is_multiple_of(16) {
        return Err(misfit(codes, format!("{cols} columns are not a whole number of groups of 16")));
    }
    expect(scales, Dtype::F8_E4M3, &[rows, cols / 16])?;
    let factor = factor.unwrap_or(1.0);
    let shape = vec![rows, cols];
    // Stacks of experts get one factor each, which a file would have to stack as well.
    if parts.blocks == Blocks::Keep && cols.is_multiple_of(64) && !weight.contains(".experts.") {
        let repacked = Repacked { shape, codes: codes.clone(), scales: scales.clone(), ty: TensorType::NVFP4 };
        parts.replace(name, weight.to_owned(), Arc::new(repacked));
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        for (kind, factor) in [("scale", Some(factor)), ("input_scale", input)] {
            if let Some(factor) = factor.filter(|f| (f - 1.0).abs() > 1e-6) {
                parts.replace(name, format!("{module}.{kind}"), values(vec![1], &[factor]));
            }
        }
        parts.count("NVFP4, kept bit for bit");
    } else {
        let decoder =
            Micro { codes: codes.clone(), scales: scales.clone(), group: 16, decode_scale: decode_e4m3, factor };
        parts.replace(name, weight.to_owned(), lazy(&shape, Elements::F32, decoder));
        parts.count("NVFP4, decoded");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_move_apart() {
        let codes: Vec<u8> = (0..16).map(|j| (2 * j % 16) | ((2 * j + 1) % 16) << 4).collect();
        let mut out = [0; 16];
        apart(&codes, &mut out);
        for (j, byte) in out.iter().enumerate() {
            assert_eq!((usize::from(byte & 15), usize::from(byte >> 4)), (j, j));
        }
    }
}
