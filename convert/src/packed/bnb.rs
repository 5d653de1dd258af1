//! What bitsandbytes writes, read back: NF4 and FP4 with plain or quantized scales, INT8 by rows.
//!
//! Formats, constants and the order of operations are those of bitsandbytes 0.50.2; how the codes are chosen is the
//! business of the crate `quantize`.

use gguf::{Error, Result, Runtime};
use serde_json::{Map, Value};

use super::{Decode, Float, Parts, Scales, expect, lazy, matrix, misfit};
use crate::hf::modules::{self, Part};
use crate::safetensors::{Dtype, Stored};
use crate::transform::{self, Elements, Rows};

/// Block lengths that bitsandbytes accepts.
pub const BLOCK_LENGTHS: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Activations from here on stay in 16 bits where a configuration has no `llm_int8_threshold`.
pub const LLM_INT8_THRESHOLD: f32 = 6.0;

/// Scales that share a scale, with double quantization.
pub const NESTED_BLOCK: usize = 256;

/// A set of sixteen code points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Quantiles of the normal distribution with an exact zero (Dettmers et al., *QLoRA*, 2023, appendix E).
    Nf4,
    /// A four-bit float: sign, two exponent bits, one mantissa bit, scaled to 1.
    Fp4,
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// In the order of the bit patterns: three bits of magnitude, then the sign. Twelfths of the unscaled float.
const FP4: [f32; 16] = {
    let magnitudes: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let mut points = [0.0; 16];
    let mut i = 1;
    while i < 8 {
        points[i] = magnitudes[i] / 12.0;
        points[8 + i] = -points[i];
        i += 1;
    }
    points
};

impl Code {
    /// Both codes, for tables and tests.
    pub const ALL: [Code; 2] = [Code::Nf4, Code::Fp4];

    /// The name bitsandbytes gives it: `nf4` or `fp4`.
    pub fn name(self) -> &'static str {
        match self {
            Code::Nf4 => "nf4",
            Code::Fp4 => "fp4",
        }
    }

    /// The code of this name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The value of each of the sixteen codes (`quant_map`).
    pub const fn points(self) -> &'static [f32; 16] {
        match self {
            Code::Nf4 => &NF4,
            Code::Fp4 => &FP4,
        }
    }
}

/// Decodes the elements `from .. from + out.len()` of a tensor, of which `codes` and `scales` are all: code point ×
/// the block's scale, in f32.
pub fn decode(points: &[f32; 16], codes: &[u8], scales: &[f32], block: usize, from: usize, out: &mut [f32]) {
    let mut at = from;
    let mut out = out;
    while !out.is_empty() {
        let now = out.len().min(block - at % block);
        let (head, rest) = out.split_at_mut(now);
        let scale = scales[at / block];
        for (out, i) in head.iter_mut().zip(at..) {
            let code = codes[i / 2] >> (4 * (1 - i % 2)) & 15;
            *out = points[usize::from(code)] * scale;
        }
        at += now;
        out = rest;
    }
}

/// Scales that were quantized themselves: point × scale of the block + offset, in f32.
pub fn decode_nested(points: &[f32; 256], codes: &[u8], scales: &[f32], block: usize, offset: f32) -> Vec<f32> {
    codes
        .chunks(block)
        .zip(scales)
        .flat_map(|(codes, &scale)| codes.iter().map(move |&code| points[usize::from(code)] * scale + offset))
        .collect()
}

/// Decodes a row of INT8: code × scale ÷ 127, as one product with the rounded reciprocal.
pub fn decode_int8(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = f32::from(code as i8) * scale * (1.0 / 127.0);
    }
}

/// The most bytes that are believed to be a state.
const MAX_BYTES: usize = 1 << 16;

/// The state of a tensor in four bits, but for its scales.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantState {
    /// The code points.
    pub code: Code,
    /// Weights that share a scale.
    pub block: usize,
    /// The float type the weight had and gets back.
    pub float: Float,
    /// Its shape, row-major: `[rows, cols]` for a linear layer.
    pub shape: Vec<u64>,
    /// What double quantization took off the scales; none where they are plain f32.
    pub offset: Option<f32>,
    /// Scales that share a scale, with double quantization.
    pub nested_block: usize,
}

impl QuantState {
    /// The name of the tensor that holds this, after `weight.`.
    pub fn key(code: Code) -> String {
        format!("quant_state.bitsandbytes__{}", code.name())
    }

    /// Reads the JSON inside `weight.quant_state.bitsandbytes__nf4`.
    ///
    /// # Errors
    /// JSON that lacks a key, or names a code, block length or dtype that does not exist. The message says which.
    pub fn from_json(bytes: &[u8]) -> Result<QuantState> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::input(format!("a quant_state of {} bytes is no quant_state", bytes.len())));
        }
        let map: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|e| Error::input("the quant_state is no JSON object").caused_by(e))?;
        let missing = |key: &str| Error::input(format!("the quant_state has no usable \"{key}\""));
        let text = |key: &str| map.get(key).and_then(Value::as_str).ok_or_else(|| missing(key));
        let number = |key: &str| map.get(key).and_then(Value::as_u64).ok_or_else(|| missing(key));

        let code = text("quant_type")?;
        let code = Code::from_name(code)
            .ok_or_else(|| Error::input(format!("quant_type \"{code}\" is neither nf4 nor fp4")))?;
        let block = number("blocksize")? as usize;
        if !BLOCK_LENGTHS.contains(&block) {
            return Err(Error::input(format!("blocksize {block} is none of {BLOCK_LENGTHS:?}")));
        }
        let float = text("dtype")?;
        let float = Float::from_torch(float)
            .ok_or_else(|| Error::input(format!("dtype \"{float}\" is none of float32, float16 and bfloat16")))?;
        let shape = map
            .get("shape")
            .and_then(Value::as_array)
            .and_then(|dims| dims.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>())
            .filter(|dims| (1..=4).contains(&dims.len()))
            .ok_or_else(|| missing("shape"))?;
        let mut state = QuantState { code, block, float, shape, offset: None, nested_block: NESTED_BLOCK };
        if map.contains_key("nested_offset") {
            let offset = map["nested_offset"].as_f64().map(|v| v as f32).filter(|v| v.is_finite());
            state.offset = Some(offset.ok_or_else(|| missing("nested_offset"))?);
            state.nested_block = number("nested_blocksize")? as usize;
            if !(1..=1 << 20).contains(&state.nested_block) {
                return Err(Error::input(format!("nested_blocksize {} is out of range", state.nested_block)));
            }
        }
        Ok(state)
    }
}

/// Takes NF4, FP4 and INT8 weights out of a checkpoint.
pub(super) fn open(parts: &mut Parts<'_>) -> Result<()> {
    // What the checkpoint keeps input-major lies the other way round in packed form.
    let modules = modules::Checkpoint::new(parts.root, &[]);
    let turn = |name: &str, rows: Rows| match modules.part(name, rows.shape()) {
        Part::InputMajor => transform::transposed(&rows),
        _ => Ok(rows),
    };
    for code in Code::ALL {
        let ending = format!(".{}", QuantState::key(code));
        for weight in parts.ending(&ending) {
            let (rows, form) = four_bit(parts, &weight, &ending)?;
            parts.replace(&weight, weight.clone(), turn(&weight, rows)?);
            parts.count(&form);
        }
    }
    let threshold = parts.config.get("llm_int8_threshold").and_then(Value::as_f64);
    let threshold = threshold.map_or(LLM_INT8_THRESHOLD, |threshold| threshold as f32);
    for module in parts.ending(".SCB") {
        let weight = format!("{module}.weight");
        let scales = parts.need(&format!("{module}.SCB"), &weight)?;
        let codes = *parts.stored.get(&weight).ok_or_else(|| misfit(scales, "its weight is missing"))?;
        let (rows, cols) = matrix(codes)?;
        expect(codes, Dtype::I8, &[rows, cols])?;
        if let Some(format) = parts.take(&format!("{module}.weight_format"))
            && format.bytes().iter().any(|b| *b != 0)
        {
            return Err(misfit(format, "the weight is not row-major")
                .help("a checkpoint that an early bitsandbytes saved on a GPU: save it again with a current one"));
        }
        let decoder = Int8 { codes: codes.clone(), scales: Scales::new(scales, rows)?, threshold };
        parts.replace(&weight, weight.clone(), turn(&weight, lazy(&[rows, cols], Elements::F32, decoder))?);
        parts.count("INT8");
    }
    Ok(())
}

fn four_bit(parts: &mut Parts<'_>, weight: &str, ending: &str) -> Result<(Rows, String)> {
    let json = parts.need(&format!("{weight}{ending}"), weight)?;
    let state = QuantState::from_json(json.bytes()).map_err(|e| misfit(json, e.message()))?;
    if !ending.ends_with(state.code.name()) {
        return Err(misfit(json, format!("the state is of {}", state.code.name())));
    }
    let codes = *parts.stored.get(weight).ok_or_else(|| misfit(json, "its weight is missing"))?;
    let elements = state.shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 48);
    let elements = elements.ok_or_else(|| misfit(json, "the shape overflows"))?;
    if codes.bytes().len() as u64 != elements.div_ceil(2) {
        let what = format!("{} bytes are not the codes of shape {:?}", codes.bytes().len(), state.shape);
        return Err(misfit(codes, what));
    }
    let blocks = elements.div_ceil(state.block as u64);
    let points: [f32; 16] = floats(parts.need(&format!("{weight}.quant_map"), weight)?)?;
    let absmax = parts.need(&format!("{weight}.absmax"), weight)?;
    let (scales, nested) = match state.offset {
        None => (BlockScales::Plain(Scales::new(absmax, blocks)?), ""),
        Some(offset) => {
            expect(absmax, Dtype::U8, &[blocks])?;
            let scales = parts.need(&format!("{weight}.nested_absmax"), weight)?;
            let points: [f32; 256] = floats(parts.need(&format!("{weight}.nested_quant_map"), weight)?)?;
            let block = state.nested_block;
            let scales = Scales::new(scales, blocks.div_ceil(block as u64))?;
            let nested = NestedScales { codes: absmax.clone(), points: points.to_vec(), scales, block, offset };
            (BlockScales::Nested(nested), ", double quantized")
        }
    };
    let form = format!("{} in blocks of {}{nested}", state.code.name().to_uppercase(), state.block);
    let elements = Elements::from(state.float);
    // transformers computes in f32 where nothing else is said.
    let compute = parts.text("bnb_4bit_compute_dtype").and_then(Float::from_torch).unwrap_or(Float::F32);
    let decoder = FourBit { codes: codes.clone(), points, scales, block: state.block, compute };
    Ok((lazy(&state.shape, elements, decoder), form))
}

/// A table of exactly `N` floats.
fn floats<const N: usize>(tensor: &Stored) -> Result<[f32; N]> {
    let scales = Scales::new(tensor, N as u64)?;
    Ok(std::array::from_fn(|i| scales.at(i)))
}

#[derive(Debug)]
enum BlockScales {
    Plain(Scales),
    Nested(NestedScales),
}

#[derive(Debug)]
struct NestedScales {
    codes: Stored,
    points: Vec<f32>,
    scales: Scales,
    block: usize,
    offset: f32,
}

impl BlockScales {
    fn at(&self, i: usize) -> f32 {
        match self {
            BlockScales::Plain(scales) => scales.at(i),
            BlockScales::Nested(nested) => {
                let point = nested.points[usize::from(nested.codes.bytes()[i])];
                point * nested.scales.at(i / nested.block) + nested.offset
            }
        }
    }
}

#[derive(Debug)]
struct FourBit {
    codes: Stored,
    points: [f32; 16],
    scales: BlockScales,
    block: usize,
    compute: Float,
}

impl Decode for FourBit {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let from = first * cols;
        let block = from / self.block;
        let scales: Vec<f32> = (block..(from + out.len()).div_ceil(self.block)).map(|i| self.scales.at(i)).collect();
        let codes = &self.codes.bytes()[block * self.block / 2..];
        decode(&self.points, codes, &scales, self.block, from - block * self.block, out);
    }

    fn runtime(&self) -> Runtime {
        Runtime::FourBit(Elements::from(self.compute).ty())
    }
}

#[derive(Debug)]
struct Int8 {
    codes: Stored,
    scales: Scales,
    threshold: f32,
}

impl Decode for Int8 {
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]) {
        let codes = &self.codes.bytes()[first * cols..];
        for ((row, out), codes) in (first..).zip(out.chunks_mut(cols)).zip(codes.chunks(cols)) {
            decode_int8(codes, self.scales.at(row), out);
        }
    }

    fn runtime(&self) -> Runtime {
        Runtime::Int8 { threshold: self.threshold }
    }
}
