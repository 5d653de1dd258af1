//! Decoding what a checkpoint already quantized.
//!
//! `quantization_config` names a method; the method is a row of `METHODS`, which takes the tensors it knows out of the
//! checkpoint, checks them against each other, and puts in their place weights that decode their rows when asked.

pub mod bnb;
mod compressed;
mod fp8;
mod groups;
mod microscaling;
mod mlx;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use gguf::{Error, Result, Runtime};
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::config::text_config;
use crate::json;
use crate::safetensors::{Dtype, Stored};
use crate::transform::{self, Elements, RowSource, Rows, row_len};

pub use crate::float::Float;
pub use fp8::{decode_e4m3, decode_e5m2};

/// What becomes of blocks that GGUF has a type for: MXFP4 and NVFP4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocks {
    /// They stay, bit for bit.
    #[default]
    Keep,
    /// MXFP4, which is complete by itself, stays; NVFP4, which has a factor beside it, is decoded.
    Alone,
    /// They are decoded, for another type.
    Decode,
}

/// A checkpoint's tensors without their packing.
#[derive(Debug)]
pub struct Unpacked {
    /// Names, as in an unpacked checkpoint, and data.
    pub tensors: Vec<(String, Rows)>,
    /// What was found and what is done with it, in a line.
    pub note: String,
    /// The method, as a configuration names it.
    pub method: &'static str,
}

/// A way of packing.
struct Method {
    /// `quant_method` of the configuration.
    name: &'static str,
    /// What the note calls it.
    title: &'static str,
    open: fn(&mut Parts<'_>) -> Result<()>,
}

const METHODS: &[Method] = &[
    Method { name: "bitsandbytes", title: "bitsandbytes", open: bnb::open },
    Method { name: "fp8", title: "FP8 with scales", open: fp8::open },
    Method { name: "fbgemm_fp8", title: "FP8 with a scale for each row", open: fp8::open },
    Method { name: "mxfp4", title: "MXFP4", open: microscaling::open_mxfp4 },
    Method { name: "gptq", title: "GPTQ", open: groups::open_gptq },
    Method { name: "awq", title: "AWQ", open: groups::open_awq },
    Method { name: "auto-round", title: "AutoRound", open: groups::open_auto_round },
    Method { name: "intel/auto-round", title: "AutoRound", open: groups::open_auto_round },
    Method { name: "compressed-tensors", title: "compressed-tensors", open: compressed::open },
    Method { name: "modelopt", title: "ModelOpt", open: microscaling::open_modelopt },
    Method { name: "deepseek-v4", title: "MXFP4 experts and FP8", open: microscaling::open_deepseek },
    Method { name: "mlx", title: "MLX", open: mlx::open },
];

/// Scales of activations and of the cache of keys and values: of use at run time only.
const RUN_TIME: &[&str] = &[
    ".act_scale",
    ".activation_scale",
    "_activation_scale",
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".output_scale",
    ".k_scale",
    ".kv_scale",
    ".prob_output_scale",
    ".prob_scale",
    ".q_scale",
    ".qscale_act",
    ".v_scale",
];

/// The packing that a configuration claims, if any: here or in the part about text. One that says nothing claims none.
pub fn configuration(root: &Map<String, Value>) -> Option<&Map<String, Value>> {
    const NAMES: [&str; 3] = ["quantization_config", "compression_config", "quantization"];
    [Some(root), text_config(root)]
        .into_iter()
        .flatten()
        .flat_map(|map| NAMES.iter().filter_map(|name| map.get(*name)?.as_object()))
        .find(|config| !config.is_empty())
}

/// A file that says how weights are packed where `config.json` does not.
struct SideFile {
    name: &'static str,
    /// Where in the file it is said.
    within: Option<&'static str>,
    method: &'static str,
    /// The ending of a tensor's name without which the weights are plain and the file is left over.
    mark: &'static str,
}

const SIDE_FILES: &[SideFile] = &[
    SideFile { name: "quantize_config.json", within: None, method: "gptq", mark: ".qweight" },
    SideFile { name: "quantization_config.json", within: None, method: "gptq", mark: ".qweight" },
    SideFile { name: "quant_config.json", within: None, method: "awq", mark: ".qweight" },
    SideFile { name: "hf_quant_config.json", within: Some("quantization"), method: "modelopt", mark: ".weight_scale" },
];

/// Adds to `root` what another file of the folder says of the packing, where `root` says nothing.
///
/// # Errors
/// A file that cannot be read.
pub fn complete(root: &mut Map<String, Value>, folder: &Path, stored: &[Stored]) -> Result<()> {
    if configuration(root).is_some_and(|config| config.contains_key("quant_method")) {
        return Ok(());
    }
    for file in SIDE_FILES.iter().filter(|file| stored.iter().any(|t| t.name().ends_with(file.mark))) {
        let Some(found) = json::read_optional(&folder.join(file.name))? else { continue };
        let found = file.within.map_or(&found, |key| &found[key]);
        if let Some(config) = found.as_object().filter(|config| !config.is_empty()) {
            let mut config = config.clone();
            if config.get("quant_method").is_none_or(|method| !method.is_string()) {
                config.insert("quant_method".into(), file.method.into());
            }
            root.insert("quantization_config".into(), config.into());
            return Ok(());
        }
    }
    Ok(())
}

/// The method of a configuration that may not name it; none where the weights are plain.
fn method_of<'a>(config: &'a Map<String, Value>, stored: &[Stored]) -> Option<&'a str> {
    if let Some(name) = config.get("quant_method").and_then(Value::as_str) {
        return Some(name);
    }
    let says = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
    let has = |ending: &str| stored.iter().any(|t| t.name().ends_with(ending));
    match () {
        () if says("load_in_4bit") || says("load_in_8bit") => Some("bitsandbytes"),
        () if has(".qweight") && (config.contains_key("w_bit") || config.contains_key("zero_point")) => Some("awq"),
        () if has(".qweight") => Some("gptq"),
        () if has(".scales") => Some("mlx"),
        () => None,
    }
}

/// Unpacks the tensors of a checkpoint whose `config.json` is `root`; none where it is not packed. `packing` is the
/// method of models that are always packed so, whatever the configuration says.
///
/// # Errors
/// A method that is not known, settings or tensors that do not fit it or each other.
pub fn unpack(
    root: &Map<String, Value>,
    packing: Option<&str>,
    stored: &[Stored],
    blocks: Blocks,
) -> Result<Option<Unpacked>> {
    let none = Map::new();
    let Some(config) = configuration(root).or(packing.map(|_| &none)) else { return Ok(None) };
    let Some(name) = packing.or_else(|| method_of(config, stored)) else { return Ok(None) };
    let method = METHODS.iter().find(|m| m.name == name).ok_or_else(|| {
        let known: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
        Error::input(format!("the checkpoint is quantized by a method that is not known: \"{name}\""))
            .help(format!("convert the checkpoint it was made from; known methods are {}", known.join(", ")))
    })?;
    let mut parts = Parts {
        root,
        config,
        blocks,
        stored: stored.iter().map(|t| (t.name().to_owned(), t)).collect(),
        before: IndexMap::new(),
        after: Vec::new(),
        forms: IndexMap::new(),
    };
    (method.open)(&mut parts)?;
    let Parts { stored, mut before, after, forms, .. } = parts;
    let (mut kept, mut tensors) = (0_u64, Vec::with_capacity(stored.len() + before.len() + after.len()));
    for tensor in stored.values() {
        // A weight takes the place of the part it was named by.
        if let Some(made) = before.shift_remove(tensor.name()) {
            tensors.extend(made);
        } else {
            kept += 1;
            tensors.push((tensor.name().to_owned(), transform::stored(tensor)?));
        }
    }
    tensors.extend(after);
    if forms.is_empty() {
        return Err(Error::input(format!("config.json claims {}, but no tensor is packed so", method.title))
            .help("remove quantization_config from config.json where the weights are plain"));
    }
    let forms: Vec<String> = forms.iter().map(|(form, count)| format!("{count} as {form}")).collect();
    let note = format!("packed by {}: {}; {kept} tensors plain", method.title, forms.join(", "));
    Ok(Some(Unpacked { tensors, note, method: method.name }))
}

/// A checkpoint on its way through a method.
struct Parts<'a> {
    root: &'a Map<String, Value>,
    config: &'a Map<String, Value>,
    blocks: Blocks,
    /// Tensors that no weight was made of yet. What makes up a weight is taken out, but for the part whose place the
    /// weight takes.
    stored: IndexMap<String, &'a Stored>,
    /// Weights in the place of a part, by its name.
    before: IndexMap<String, Vec<(String, Rows)>>,
    /// Weights that come last.
    after: Vec<(String, Rows)>,
    /// How many weights there were of each form.
    forms: IndexMap<String, u64>,
}

impl<'a> Parts<'a> {
    /// The names that end so, without the ending.
    fn ending(&self, ending: &str) -> Vec<String> {
        self.stored.keys().filter_map(|name| name.strip_suffix(ending)).map(str::to_owned).collect()
    }

    fn take(&mut self, name: &str) -> Option<&'a Stored> {
        self.stored.shift_remove(name)
    }

    /// A part that the tensor `of` needs.
    fn need(&mut self, name: &str, of: &str) -> Result<&'a Stored> {
        self.take(name).ok_or_else(|| Error::input(format!("its part {name} is missing")).in_tensor(of))
    }

    /// Leaves aside what is of use at run time only.
    fn ignore(&mut self, endings: &[&str]) {
        self.stored.retain(|name, _| !endings.iter().any(|e| name.ends_with(e)));
    }

    /// Puts a weight in the place of the tensor `at`.
    fn replace(&mut self, at: &str, name: String, rows: Rows) {
        self.before.entry(at.to_owned()).or_default().push((name, rows));
    }

    /// Puts a weight behind all tensors.
    fn append(&mut self, at: &str, name: String, rows: Rows) {
        self.stored.shift_remove(at);
        self.after.push((name, rows));
    }

    fn count(&mut self, form: &str) {
        *self.forms.entry(form.to_owned()).or_default() += 1;
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.config.get(key).and_then(Value::as_str)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.config.get(key).and_then(Value::as_u64)
    }
}

/// The error for a tensor that does not fit.
fn misfit(tensor: &Stored, what: impl fmt::Display) -> Error {
    Error::input(what.to_string())
        .in_tensor(tensor.name())
        .at(tensor.path())
        .help("the checkpoint is damaged, or of a variant that is not supported")
}

/// Checks a part's type and shape.
fn expect(tensor: &Stored, dtype: Dtype, shape: &[u64]) -> Result<()> {
    if tensor.dtype() != dtype || tensor.shape() != shape {
        let found = format!("is {} {:?}", tensor.dtype(), tensor.shape());
        return Err(misfit(tensor, format!("{found}, not {dtype} {shape:?}")));
    }
    Ok(())
}

/// The rows and columns of a matrix.
fn matrix(tensor: &Stored) -> Result<(u64, u64)> {
    match tensor.shape() {
        &[rows, cols] => Ok((rows, cols)),
        shape => Err(misfit(tensor, format!("its shape {shape:?} is not that of a matrix"))),
    }
}

/// Floats that are looked up one by one: scales.
#[derive(Clone, Debug)]
struct Scales {
    stored: Stored,
    kind: ScaleKind,
}

#[derive(Clone, Copy, Debug)]
enum ScaleKind {
    Float(Float),
    /// A power of two in a byte.
    E8m0,
}

impl Scales {
    /// Scales of a float type, this many of them.
    fn new(tensor: &Stored, count: u64) -> Result<Scales> {
        let float = Float::from_safetensors(tensor.dtype()).map(ScaleKind::Float);
        let kind = float.or_else(|| (tensor.dtype() == Dtype::F8_E8M0).then_some(ScaleKind::E8m0));
        let kind = kind.ok_or_else(|| misfit(tensor, format!("scales of type {} are not floats", tensor.dtype())))?;
        if tensor.elements() != count {
            return Err(misfit(tensor, format!("its shape {:?} does not make {count} scales", tensor.shape())));
        }
        Ok(Scales { stored: tensor.clone(), kind })
    }

    fn at(&self, i: usize) -> f32 {
        match self.kind {
            ScaleKind::Float(float) => float.at(self.stored.bytes(), i),
            ScaleKind::E8m0 => decode_e8m0(self.stored.bytes()[i]),
        }
    }
}

/// A byte of E8M0: a power of two from 2⁻¹²⁷ on; 0xFF is NaN (OCP *Microscaling Formats*, 2023).
fn decode_e8m0(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x0040_0000),
        0xFF => f32::NAN,
        byte => f32::from_bits(u32::from(byte) << 23),
    }
}

/// Unsigned numbers of a few bits in little-endian 32-bit words.
///
/// Numbers of 2, 4 and 8 bits fill a word; those of 3 bits run on into the next, 32 of them in three words.
#[derive(Clone, Copy, Debug)]
struct Packing {
    bits: u32,
}

impl Packing {
    /// The number at place `i` of words that `word` gives.
    fn at(self, i: usize, word: impl Fn(usize) -> u32) -> u32 {
        let mask = (1 << self.bits) - 1;
        let bit = i * self.bits as usize;
        let (first, shift) = (bit / 32, bit as u32 % 32);
        let low = word(first) >> shift;
        if shift + self.bits > 32 { (low | word(first + 1) << (32 - shift)) & mask } else { low & mask }
    }

    /// Words for this many numbers; none where the last would not be full.
    fn words(self, numbers: u64) -> Option<u64> {
        let bits = numbers.checked_mul(u64::from(self.bits))?;
        bits.is_multiple_of(32).then_some(bits / 32)
    }
}

/// The 32-bit word at this place.
fn word(bytes: &[u8], i: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(i).map_or(0, |b| u32::from_le_bytes(*b))
}

/// Makes values of rows. Ranges are within the shape that was checked when it was made.
trait Decode: Send + Sync + fmt::Debug {
    /// Fills `out` with the rows from `first` on, `cols` values each.
    fn decode(&self, first: usize, cols: usize, out: &mut [f32]);

    /// As [`RowSource::runtime`].
    fn runtime(&self) -> Runtime {
        Runtime::Ggml
    }
}

/// A weight that decodes its rows when asked.
#[derive(Debug)]
struct Lazy<D> {
    shape: Vec<u64>,
    elements: Elements,
    decoder: D,
}

/// A weight of this row-major shape.
fn lazy<D: Decode + 'static>(shape: &[u64], elements: Elements, decoder: D) -> Rows {
    Arc::new(Lazy { shape: shape.to_vec(), elements, decoder })
}

impl<D: Decode> RowSource for Lazy<D> {
    fn shape(&self) -> &[u64] {
        &self.shape
    }

    fn elements(&self) -> Elements {
        self.elements
    }

    fn runtime(&self) -> Runtime {
        self.decoder.runtime()
    }

    fn rows(&self, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let cols = row_len(&self.shape) as usize;
        let mut values = vec![0.0; (rows.end - rows.start) as usize * cols];
        // Rows that hold nothing need no decoder, which may take them in pieces.
        if !values.is_empty() {
            self.decoder.decode(rows.start as usize, cols, &mut values);
        }
        let float = match self.elements {
            Elements::F16 => Float::F16,
            Elements::BF16 => Float::Bf16,
            Elements::F32 | Elements::Blocks(_) => Float::F32,
        };
        let mut bytes = Vec::with_capacity(values.len() * float.size());
        values.iter().for_each(|v| float.push(*v, &mut bytes));
        Ok(Cow::Owned(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_says_nothing_claims_nothing() {
        let of = |value: Value| match value {
            Value::Object(root) => configuration(&root).and_then(|c| c.get("bits")).and_then(Value::as_u64),
            _ => None,
        };
        use serde_json::json;
        for key in ["quantization_config", "compression_config", "quantization"] {
            assert_eq!(of(json!({key: {"bits": 4}})), Some(4));
            for nothing in [json!(null), json!({}), json!("none"), json!([]), json!(false)] {
                assert_eq!(of(json!({key: nothing})), None);
                for part in ["text_config", "llm_config", "language_config"] {
                    assert_eq!(of(json!({key: nothing, part: {"quantization_config": {"bits": 3}}})), Some(3));
                }
            }
        }
        assert_eq!(of(json!({"thinker_config": {"text_config": {"quantization_config": {"bits": 3}}}})), Some(3));
    }

    #[test]
    fn powers_of_two_in_a_byte() {
        assert_eq!(
            [decode_e8m0(127), decode_e8m0(128), decode_e8m0(0), decode_e8m0(1)],
            [1.0, 2.0, 2_f32.powi(-127), 2_f32.powi(-126)]
        );
        assert_eq!(decode_e8m0(254), 2_f32.powi(127));
        assert!(decode_e8m0(255).is_nan());
    }

    #[test]
    fn methods_have_one_row() {
        for (i, method) in METHODS.iter().enumerate() {
            assert!(METHODS[..i].iter().all(|m| m.name != method.name));
        }
    }

    #[test]
    fn numbers_of_three_bits_run_over_words() {
        let numbers: Vec<u32> = (0..32).map(|i| (i * 5 + 3) % 8).collect();
        let bits: u128 = numbers.iter().enumerate().map(|(i, n)| u128::from(*n) << (3 * i)).sum();
        let words = [0, 32, 64].map(|shift| (bits >> shift) as u32);
        let read: Vec<u32> = (0..32).map(|i| Packing { bits: 3 }.at(i, |w| words[w])).collect();
        assert_eq!(read, numbers);
        assert_eq!(Packing { bits: 3 }.words(32), Some(3));
        assert_eq!(Packing { bits: 3 }.words(16), None);
    }
}
