//! The keys and tensors of a file, as what makes fields of them asks for them.

use gguf::{Metadata, Value};
use serde_json::Value as Json;

use super::file::File;
use crate::transform::{Elements, Rows, to_f32};

/// Entries of a configuration, and tensors of few numbers.
pub(crate) type Numbers = (Vec<(&'static str, Json)>, Vec<(String, Rows)>);

/// What a file says: its keys and its tensors.
pub(crate) struct Keys<'a> {
    pub(super) arch: &'a str,
    pub(super) metadata: &'a Metadata,
    pub(super) file: &'a File,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(arch: &'a str, metadata: &'a Metadata, file: &'a File) -> Keys<'a> {
        Keys { arch, metadata, file }
    }

    /// A key of the architecture.
    pub(crate) fn key(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{key}", self.arch))
    }

    /// The architecture.
    pub(crate) fn arch(&self) -> &'a str {
        self.arch
    }

    pub(crate) fn u64(&self, key: &str) -> Option<u64> {
        self.key(key).and_then(Value::as_u64)
    }

    /// A whole number of a key that is not under the architecture's name.
    pub(crate) fn whole_key(&self, key: &str) -> Option<u64> {
        self.metadata.u64(key)
    }

    pub(crate) fn f32(&self, key: &str) -> Option<f32> {
        self.key(key).and_then(Value::as_f64).map(|v| v as f32)
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.key(key).and_then(Value::as_bool)
    }

    /// Numbers, one a layer.
    pub(crate) fn list(&self, key: &str) -> Option<Vec<u64>> {
        let array = self.key(key)?.as_array()?;
        array.iter().map(|v| v.as_u64().or(v.as_bool().map(u64::from))).collect()
    }

    pub(crate) fn floats(&self, key: &str) -> Option<Vec<f32>> {
        self.key(key)?.as_array()?.to_f32s()
    }

    /// The token with this role.
    pub(crate) fn token(&self, role: &str) -> Option<u64> {
        self.metadata.u64(&format!("tokenizer.ggml.{role}_token_id"))
    }

    /// The dimensions of a head.
    pub(crate) fn head(&self) -> Option<u64> {
        let quotient = || self.u64("embedding_length")?.checked_div(self.u64("attention.head_count")?);
        self.u64("attention.key_length").or_else(quotient)
    }

    /// Lists of numbers whose keys begin so, by what follows.
    pub(crate) fn beginning(&self, beginning: &str) -> Vec<(&'a str, Vec<f32>)> {
        let of = |(key, value): (&'a str, &Value)| Some((key.strip_prefix(beginning)?, value.as_array()?.to_f32s()?));
        self.metadata.iter().filter_map(of).collect()
    }

    /// Whether there is a tensor of this name, in some layer where it is one of a layer.
    pub(crate) fn has_tensor(&self, end: &str) -> bool {
        let ends = |name: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.file.0.tensors().iter().any(|t| ends(t.name()))
    }

    /// The kind of the vocabulary.
    pub(crate) fn vocabulary(&self) -> &str {
        self.metadata.str("tokenizer.ggml.model").unwrap_or("none")
    }

    /// The token of this text.
    pub(crate) fn id_of(&self, text: &str) -> Option<u64> {
        let tokens = self.metadata.array("tokenizer.ggml.tokens")?;
        let place = tokens.iter_bytes()?.into_iter().position(|token| token == text.as_bytes())?;
        u64::try_from(place).ok()
    }

    /// The shape of a tensor, row-major.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<u64>> {
        let tensor = self.file.0.find(name)?;
        Some(self.file.0.tensors()[tensor].shape().dims().iter().rev().copied().collect())
    }

    /// The first dimension of a tensor, row-major; none where it has no dimension.
    pub(crate) fn first_dimension(&self, name: &str) -> Option<u64> {
        self.shape(name)?.first().copied()
    }

    /// Whether a tensor is these rows of another, as near as their types let it be.
    pub(super) fn are_rows(&self, part: &str, whole: &str, rows: &[u64]) -> bool {
        let (Some(part), Some(whole)) = (self.file.0.find(part), self.file.0.find(whole)) else { return false };
        // Two bits a weight are off by less.
        let exact = |tensor: usize| !self.file.0.tensors()[tensor].ty().is_quantized();
        let most = if exact(part) && exact(whole) { 0.01 } else { 0.5 };
        let (part, whole) = (self.file.rows(part), self.file.rows(whole));
        let floats = |of: &Rows, row: u64| to_f32(of.elements(), &of.rows(row..row + 1)?);
        (0..).zip(rows).all(|(place, row)| {
            let (Ok(a), Ok(b)) = (floats(&part, place), floats(&whole, *row)) else { return false };
            let far: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum();
            a.len() == b.len() && far <= most * a.iter().map(|v| v.abs()).sum::<f32>()
        })
    }

    /// The numbers of a small tensor.
    pub(crate) fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.file.0.find(name)?;
        let info = &self.file.0.tensors()[tensor];
        let bytes = self.file.0.rows(tensor, 0..info.rows()).ok()?;
        (info.ty() == gguf::TensorType::F32).then(|| to_f32(Elements::F32, &bytes).ok()).flatten()
    }
}

/// The shortest number that is this f32.
pub(crate) fn float(value: f32) -> Json {
    value.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}
