//! MLX: affine numbers of a few bits, with a scale and a bias for each group of a row.
//!
//! `weight` is a row of 32-bit words, the lowest bits first, with `scales` and `biases` beside it: a weight is number ×
//! scale + bias (format: `mx.quantize` of MLX, mode `affine`). `config.json` has bits and group size under
//! `quantization`, for all and for modules by name.

use gguf::{Error, Result};
use serde_json::{Map, Value};

use super::{Decode, Packing, Parts, Scales, lazy, misfit, word};
use crate::safetensors::{Dtype, Stored};
use crate::transform::{Elements, row_count};

/// The bits that MLX packs.
const BITS: [u64; 6] = [2, 3, 4, 5, 6, 8];

#[derive(Debug)]
struct Affine {
    codes: Stored,
    scales: Scales,
    biases: Scales,
    /// Groups of a row.
    groups: usize,
    words: usize,
    packing: Packing,
}

impl Decode for Affine {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let size = cols / self.groups.max(1);
        for (row, out) in (first..).zip(out.chunks_mut(cols.max(1))) {
            let codes = &self.codes.bytes()[row * self.words * 4..(row + 1) * self.words * 4];
            for (group, out) in out.chunks_mut(size.max(1)).enumerate() {
                let at = row * self.groups + group;
                let (scale, bias) = (self.scales.at(at), self.biases.at(at));
                for (i, out) in (group * size..).zip(out) {
                    *out = self.packing.at(i, |w| word(codes, w)) as f32 * scale + bias;
                }
            }
        }
    }
}

/// Takes MLX's weights out of a checkpoint.
pub(super) fn open(parts: &mut Parts<'_>) -> Result<()> {
    for module in parts.ending(".scales") {
        let name = format!("{module}.weight");
        let codes = *parts.stored.get(&name).ok_or_else(|| Error::input(format!("tensor {name} is missing")))?;
        let own = parts.config.get(&module).and_then(Value::as_object);
        let setting = |key: &str| {
            let find = |map: &Map<String, Value>| map.get(key).filter(|v| !v.is_null()).cloned();
            own.and_then(find).or_else(|| find(parts.config))
        };
        let mode = setting("mode");
        let mode = mode.as_ref().map_or(Some("affine"), Value::as_str).unwrap_or_default();
        if mode != "affine" {
            return Err(misfit(codes, format!("MLX's mode \"{mode}\" is not known; affine is")));
        }
        let number = |key: &str| setting(key).and_then(|v| v.as_u64()).filter(|n| *n > 0);
        let (Some(bits), Some(size)) = (number("bits").filter(|b| BITS.contains(b)), number("group_size")) else {
            return Err(Error::input("the quantization of MLX has no bits and group_size that are known")
                .help(format!("bits are one of {BITS:?}, under \"quantization\" of config.json")));
        };
        let scales = parts.need(&format!("{module}.scales"), &name)?;
        let biases = parts.need(&format!("{module}.biases"), &name)?;
        let (Some((&words, rows)), Some((&groups, same))) = (codes.shape().split_last(), scales.shape().split_last())
        else {
            return Err(misfit(codes, "it is a scalar"));
        };
        let cols = groups.checked_mul(size);
        let fits = cols.and_then(|cols| cols.checked_mul(bits)) == words.checked_mul(32);
        let (Some(cols), true) = (cols, fits && rows == same && codes.dtype() == Dtype::U32) else {
            return Err(misfit(
                codes,
                format!(
                    "{} {:?} is not {bits} bits in groups of {size} with scales {:?}",
                    codes.dtype(),
                    codes.shape(),
                    scales.shape()
                ),
            ));
        };
        let count = row_count(scales.shape()) * groups;
        let decoder = Affine {
            codes: codes.clone(),
            scales: Scales::new(scales, count)?,
            biases: Scales::new(biases, count)?,
            groups: groups as usize,
            words: words as usize,
            packing: Packing { bits: bits as u32 },
        };
        let shape: Vec<u64> = rows.iter().copied().chain([cols]).collect();
        parts.replace(&name, name.clone(), lazy(&shape, Elements::F32, decoder));
        parts.count(&format!("{bits} bits in groups of {size}"));
    }
    Ok(())
}
