//! GPTQ and AWQ: numbers of a few bits, input-major, with a scale and a zero point for each group of inputs.
//!
//! Both store the transpose of the weight. GPTQ packs numbers along the inputs and may assign inputs to groups in any
//! order (`g_idx`, written with `desc_act`); its first format stores zero points less one (Frantar et al., *GPTQ*,
//! 2023; format: AutoGPTQ). AWQ packs eight columns in the order 0 2 4 6 1 3 5 7 (Lin et al., *AWQ*, 2023; format:
//! AutoAWQ, version GEMM).

use gguf::{Error, Result};
use serde_json::Value;

use super::{Decode, Packing, Parts, Scales, expect, lazy, matrix, misfit, word};
use crate::safetensors::{Dtype, Stored};
use crate::transform::Elements;

/// Where each of eight neighbouring columns lies in a word of AWQ.
const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

#[derive(Debug)]
struct Gptq {
    codes: Stored,
    zeros: Stored,
    scales: Scales,
    /// The group of each input.
    groups: Vec<u32>,
    packing: Packing,
    outputs: usize,
    /// 1 where zero points are stored less one.
    offset: u32,
}

impl Decode for Gptq {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let rows = out.len() / cols.max(1);
        let (codes, zeros) = (self.codes.bytes(), self.zeros.bytes());
        let zero_words = self.outputs * self.packing.bits as usize / 32;
        // Scale and zero of every group for these outputs, then the inputs in their order.
        let count = self.scales.stored.elements() as usize / self.outputs.max(1);
        let at = |group: usize, row: usize| {
            let zero = self.packing.at(first + row, |w| word(zeros, group * zero_words + w)) + self.offset;
            (self.scales.at(group * self.outputs + first + row), zero as i32)
        };
        let table: Vec<(f32, i32)> =
            (0..count).flat_map(|g| (0..rows).map(move |r| (g, r))).map(|(g, r)| at(g, r)).collect();
        for input in 0..cols {
            let group = self.groups[input] as usize;
            for row in 0..rows {
                let code = self.packing.at(input, |w| word(codes, w * self.outputs + first + row));
                let (scale, zero) = table[group * rows + row];
                out[row * cols + input] = scale * (code as i32 - zero) as f32;
            }
        }
    }
}

/// The bits that GPTQ packs.
const BITS: [u64; 4] = [2, 3, 4, 8];

/// Takes GPTQ weights out of a checkpoint.
pub(super) fn open_gptq(parts: &mut Parts<'_>) -> Result<()> {
    let bits = parts.number("bits").unwrap_or_default() as u32;
    if !BITS.contains(&u64::from(bits)) {
        return Err(Error::input(format!("GPTQ of {bits} bits is not known; 2, 3, 4 and 8 are")));
    }
    let format = parts.text("checkpoint_format").unwrap_or("gptq");
    let offset = match format {
        "gptq" => 1,
        "gptq_v2" => 0,
        other => {
            return Err(Error::input(format!("GPTQ's checkpoint_format \"{other}\" is not known"))
                .help("gptq and gptq_v2 are; kernels' own forms such as marlin have to be converted back"));
        }
    };
    let group_size = parts.config.get("group_size").and_then(Value::as_i64).unwrap_or(-1);
    // Modules may have bits of their own, by patterns of their names: the zero points of an output tell how many.
    let mixed = ["dynamic", "extra_config"]
        .iter()
        .any(|key| parts.config.get(*key).and_then(Value::as_object).is_some_and(|map| !map.is_empty()));
    for module in parts.ending(".qweight") {
        let name = format!("{module}.qweight");
        let codes = *parts.stored.get(&name).ok_or_else(|| Error::input(format!("tensor {name} is missing")))?;
        let (words, outputs) = matrix(codes)?;
        expect(codes, Dtype::I32, &[words, outputs])?;
        let scales = parts.need(&format!("{module}.scales"), &name)?;
        let (groups, _) = matrix(scales)?;
        let zeros = parts.need(&format!("{module}.qzeros"), &name)?;
        let own = matrix(zeros)?.1.checked_mul(32).filter(|all| outputs > 0 && all.is_multiple_of(outputs));
        let own = own.map(|all| all / outputs).filter(|own| mixed && BITS.contains(own));
        let bits = own.map_or(bits, |own| own as u32);
        let packing = Packing { bits };
        let inputs = words * 32 / u64::from(bits);
        let zero_words = packing.words(outputs).ok_or_else(|| misfit(codes, "the outputs do not fill words"))?;
        expect(zeros, Dtype::I32, &[groups, zero_words])?;
        let order: Vec<u32> = match parts.take(&format!("{module}.g_idx")) {
            Some(order) => {
                expect(order, Dtype::I32, &[inputs])?;
                let order: Vec<u32> = (0..inputs as usize).map(|i| word(order.bytes(), i)).collect();
                if let Some(bad) = order.iter().find(|g| u64::from(**g) >= groups) {
                    return Err(misfit(codes, format!("g_idx names group {bad} of {groups}")));
                }
                order
            }
            None => {
                let stated = if group_size > 0 { group_size as u64 } else { inputs };
                let own = inputs.checked_div(groups).filter(|own| mixed && own * groups == inputs);
                let size = own.unwrap_or(stated);
                if inputs.div_ceil(size.max(1)) != groups {
                    return Err(misfit(scales, format!("{groups} groups are not those of {inputs} inputs by {size}")));
                }
                (0..inputs).map(|i| (i / size) as u32).collect()
            }
        };
        let decoder = Gptq {
            codes: codes.clone(),
            zeros: zeros.clone(),
            scales: Scales::new(scales, groups * outputs)?,
            groups: order,
            packing,
            outputs: outputs as usize,
            offset,
        };
        parts.append(&name, format!("{module}.weight"), lazy(&[outputs, inputs], Elements::F32, decoder));
        parts.count(&format!("{bits} bits in groups"));
    }
    Ok(())
}

/// Takes weights out of a checkpoint of AutoRound, which packs as GPTQ or AWQ do.
pub(super) fn open_auto_round(parts: &mut Parts<'_>) -> Result<()> {
    let form = parts.text("packing_format").or(parts.text("backend")).unwrap_or_default();
    match form {
        form if form.contains("gptq") => open_gptq(parts),
        form if form.contains("awq") => open_awq(parts),
        other => Err(Error::input(format!("AutoRound's packing_format \"{other}\" is not known"))
            .help("auto_round:auto_gptq and auto_round:auto_awq are")),
    }
}

#[derive(Debug)]
struct Awq {
    codes: Stored,
    zeros: Stored,
    scales: Scales,
    group: usize,
    outputs: usize,
}

impl Decode for Awq {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let (codes, zeros) = (self.codes.bytes(), self.zeros.bytes());
        let rows = out.len() / cols.max(1);
        let number = |bytes: &[u8], line: usize, column: usize| {
            let word = word(bytes, (line * self.outputs + column) / 8);
            (word >> (4 * AWQ_PLACES[column % 8]) & 15) as i32
        };
        for input in 0..cols {
            let group = input / self.group;
            for row in 0..rows {
                let column = first + row;
                let difference = number(codes, input, column) - number(zeros, group, column);
                out[row * cols + input] = difference as f32 * self.scales.at(group * self.outputs + column);
            }
        }
    }
}

/// Takes AWQ weights out of a checkpoint.
pub(super) fn open_awq(parts: &mut Parts<'_>) -> Result<()> {
    let bits = parts.number("bits").or(parts.number("w_bit")).unwrap_or(4);
    let version = parts.text("version").unwrap_or("gemm").to_ascii_lowercase();
    if bits != 4 || version != "gemm" {
        return Err(Error::input(format!("AWQ of {bits} bits, version {version}, is not known"))
            .help("4 bits in version gemm are; other versions are reorderings for a kernel"));
    }
    for module in parts.ending(".qweight") {
        let name = format!("{module}.qweight");
        let codes = *parts.stored.get(&name).ok_or_else(|| Error::input(format!("tensor {name} is missing")))?;
        let (inputs, words) = matrix(codes)?;
        expect(codes, Dtype::I32, &[inputs, words])?;
        let outputs = words * 8;
        let scales = parts.need(&format!("{module}.scales"), &name)?;
        let (groups, _) = matrix(scales)?;
        if groups == 0 || !inputs.is_multiple_of(groups) {
            return Err(misfit(scales, format!("{groups} groups do not divide {inputs} inputs")));
        }
        let zeros = parts.need(&format!("{module}.qzeros"), &name)?;
        expect(zeros, Dtype::I32, &[groups, words])?;
        let decoder = Awq {
            codes: codes.clone(),
            zeros: zeros.clone(),
            scales: Scales::new(scales, groups * outputs)?,
            group: (inputs / groups) as usize,
            outputs: outputs as usize,
        };
        parts.replace(&name, format!("{module}.weight"), lazy(&[outputs, inputs], Elements::F32, decoder));
        parts.count(&format!("4 bits in groups of {}", inputs / groups));
    }
    Ok(())
}
