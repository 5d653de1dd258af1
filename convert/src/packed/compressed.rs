//! compressed-tensors: integers of four and eight bits packed or plain, FP8, NVFP4.
//!
//! `format` of the configuration says how, the one group of `config_groups` with what: bits, a scale for the tensor, a
//! row (`channel`), a group of a row or a block. Format: compressed-tensors 0.20.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use super::fp8::Scaled;
use super::{Decode, Packing, Parts, RUN_TIME, Scales, expect, lazy, matrix, microscaling, misfit, word};
use crate::safetensors::{Dtype, Stored};
use crate::transform::Elements;

/// Takes the weights of compressed-tensors out of a checkpoint.
pub(super) fn open(parts: &mut Parts<'_>) -> Result<()> {
    let fault = |what: String| Error::input(format!("quantization_config of compressed-tensors: {what}"));
    if let Some(status) = parts.text("quantization_status").filter(|s| *s != "compressed" && *s != "frozen") {
        return Err(fault(format!("the status \"{status}\" is not \"compressed\"")));
    }
    let groups: Vec<&Map<String, Value>> = parts
        .config
        .get("config_groups")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|g| g.values())
        .filter_map(Value::as_object)
        .collect();
    let weights: Vec<&Map<String, Value>> = groups.iter().filter_map(|g| g.get("weights")?.as_object()).collect();
    let Some(first) = weights.first() else { return Err(fault("config_groups has no group with weights".into())) };
    if weights.iter().any(|w| w != first) {
        return Err(fault("groups that treat weights differently are not known".into()));
    }
    let own = groups.iter().find_map(|g| g.get("format").and_then(Value::as_str));
    let format = match parts.text("format") {
        Some("mixed-precision") | None => own.unwrap_or_default(),
        Some(format) => format,
    };
    match format {
        "nvfp4-pack-quantized" => return microscaling::open_nvfp4(parts),
        "mxfp4-pack-quantized" => return microscaling::open_mxfp4_rows(parts),
        _ => parts.ignore(RUN_TIME),
    }
    match format {
        "pack-quantized" => pack_quantized(parts, first),
        "int-quantized" | "float-quantized" | "naive-quantized" => plain(parts, first),
        other => Err(fault(format!("the format \"{other}\" is not known")).help(
            "pack-quantized, int-quantized, float-quantized, naive-quantized, nvfp4-pack-quantized and mxfp4-pack-quantized are",
        )),
    }
}

/// Elements of one byte each beside their scales.
fn plain(parts: &mut Parts<'_>, weights: &Map<String, Value>) -> Result<()> {
    let structure = weights
        .get("block_structure")
        .and_then(Value::as_array)
        .and_then(|a| Some([a.first()?.as_u64()?, a.get(1)?.as_u64()?]));
    for weight in parts.ending("_scale").into_iter().filter(|w| w.ends_with(".weight")) {
        let scales = parts.need(&format!("{weight}_scale"), &weight)?;
        let zeros = parts.take(&format!("{weight}_zero_point"));
        let codes = *parts.stored.get(&weight).ok_or_else(|| misfit(scales, "its weight is missing"))?;
        let (rows, cols) = matrix(codes)?;
        let block = match (structure, scales.shape()) {
            (Some([height, width]), _) if height > 0 && width > 0 => Some([height, width]),
            // A scale for each group of a row.
            (None, &[r, groups]) if r == rows && groups > 1 && cols.is_multiple_of(groups) => Some([1, cols / groups]),
            _ => None,
        };
        // FP8 is symmetric: its zero points, where there are any, are zeros of its own type.
        let zeros = zeros.filter(|z| z.bytes().iter().any(|b| *b != 0));
        let decoder = Scaled::new(codes, scales, block, zeros)?;
        let form = decoder.form();
        parts.replace(&weight, weight.clone(), lazy(codes.shape(), Elements::F32, decoder));
        parts.count(&form);
    }
    Ok(())
}

/// Integers packed along the inputs, less their smallest value.
fn pack_quantized(parts: &mut Parts<'_>, weights: &Map<String, Value>) -> Result<()> {
    let bits = weights.get("num_bits").and_then(Value::as_u64).unwrap_or_default() as u32;
    if ![4, 8].contains(&bits) || weights.get("type").and_then(Value::as_str).unwrap_or("int") != "int" {
        return Err(Error::input(format!("pack-quantized weights of {bits} bits are not known"))
            .help("integers of 4 and 8 bits are"));
    }
    let packing = Packing { bits };
    let per_word = u64::from(32 / bits);
    for weight in parts.ending("_packed") {
        let name = format!("{weight}_packed");
        let codes = *parts.stored.get(&name).ok_or_else(|| Error::input(format!("tensor {name} is missing")))?;
        let shape = parts.need(&format!("{weight}_shape"), &name)?;
        let (rows, cols) = shape_of(shape)?;
        expect(codes, Dtype::I32, &[rows, cols.div_ceil(per_word)])?;
        let scales = parts.need(&format!("{weight}_scale"), &name)?;
        let groups = match scales.shape() {
            &[1] | &[] => 0,
            &[r, groups] if r == rows && groups > 0 => groups,
            found => return Err(misfit(scales, format!("its shape {found:?} does not fit {rows} rows"))),
        };
        let count = if groups == 0 { 1 } else { rows * groups };
        let order = match parts.take(&format!("{weight}_g_idx")).filter(|g| word(g.bytes(), 0) != u32::MAX) {
            Some(order) => {
                expect(order, Dtype::I32, &[cols])?;
                let order: Vec<u32> = (0..cols as usize).map(|i| word(order.bytes(), i)).collect();
                if order.iter().any(|g| u64::from(*g) >= groups.max(1)) {
                    return Err(misfit(codes, "its g_idx names a group that is not there"));
                }
                Some(order)
            }
            None => None,
        };
        if order.is_none() && groups > 0 && !cols.is_multiple_of(groups) {
            return Err(misfit(scales, format!("{groups} groups do not divide {cols} columns")));
        }
        let zeros = parts.take(&format!("{weight}_zero_point"));
        if let Some(zeros) = zeros {
            expect(zeros, Dtype::I32, &[rows.div_ceil(per_word), groups.max(1)])?;
        }
        let decoder = Packed {
            codes: codes.clone(),
            scales: Scales::new(scales, count)?,
            zeros: zeros.cloned(),
            groups: groups as usize,
            order,
            packing,
        };
        let zero = if zeros.is_some() { " and zero points" } else { "" };
        parts.append(&name, weight, lazy(&[rows, cols], Elements::F32, decoder));
        let what = if groups > 1 {
            format!("{bits} bits in groups of {}{zero}", cols / groups)
        } else {
            format!("{bits} bits{zero}")
        };
        parts.count(&what);
    }
    Ok(())
}

/// `weight_shape`: two integers.
fn shape_of(tensor: &Stored) -> Result<(u64, u64)> {
    let bytes = tensor.bytes();
    let numbers: Vec<i64> = match tensor.dtype() {
        Dtype::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        _ => Vec::new(),
    };
    match numbers.as_slice() {
        &[rows, cols] if (1..1 << 31).contains(&rows) && (1..1 << 31).contains(&cols) => Ok((rows as u64, cols as u64)),
        _ => Err(misfit(tensor, "is not the two numbers of a shape")),
    }
}

#[derive(Debug)]
struct Packed {
    codes: Stored,
    scales: Scales,
    zeros: Option<Stored>,
    /// Groups of a row; 0 where one scale serves the tensor.
    groups: usize,
    order: Option<Vec<u32>>,
    packing: Packing,
}

impl Decode for Packed {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let bits = self.packing.bits as usize;
        let words = cols.div_ceil(32 / bits);
        let middle = 1 << (bits - 1);
        let groups = self.groups.max(1);
        let size = cols.div_ceil(groups);
        for (row, out) in (first..).zip(out.chunks_mut(cols)) {
            let table: Vec<(f32, i32)> = (0..groups)
                .map(|group| {
                    let scale = self.scales.at(if self.groups == 0 { 0 } else { row * groups + group });
                    let zero = self.zeros.as_ref().map_or(middle, |zeros| {
                        let per_word = 32 / bits;
                        let word = word(zeros.bytes(), row / per_word * groups + group);
                        (word >> (row % per_word * bits) & ((1 << bits) - 1)) as i32
                    });
                    (scale, zero)
                })
                .collect();
            for (col, out) in out.iter_mut().enumerate() {
                let group = self.order.as_ref().map_or(col / size, |order| order[col] as usize);
                let (scale, zero) = table[group];
                let code = self.packing.at(col, |w| word(self.codes.bytes(), row * words + w)) as i32;
                *out = (code - zero) as f32 * scale;
            }
        }
    }
}
