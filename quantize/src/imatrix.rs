//! Importance matrices: how much the activations weigh each column of a tensor.
//!
//! For each tensor the sums of squared activations by column (for each expert of a stack) and the number of tokens
//! they are summed over. Read and written in both of `llama-imatrix`'s forms: GGUF, which holds just that, and the
//! legacy `.dat`, which holds means scaled by a number of calls.

use std::collections::BTreeMap;
use std::path::Path;

use gguf::{Array, Error, File, Metadata, Result, Shape, Source, TensorInfo, TensorType, Value};

const KEY_DATASETS: &str = "imatrix.datasets";
const KEY_CHUNKS: &str = "imatrix.chunk_count";
const KEY_CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Tokens of a chunk where a file does not say: what `llama-imatrix` assumes of legacy files.
pub const DEFAULT_CHUNK_SIZE: u32 = 512;

/// The statistics of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Sums of squared activations, `[experts][columns]` (one expert for plain tensors).
    pub sums: Vec<f32>,
    /// Tokens that went into the sums of each expert.
    pub counts: Vec<i64>,
}

impl Entry {
    /// Columns of one expert.
    fn columns(&self) -> usize {
        self.sums.len() / self.counts.len().max(1)
    }

    /// Mean squared activations, 1 throughout for experts that saw no token: what encoders take.
    fn means(&self) -> Vec<f32> {
        let columns = self.columns().max(1);
        let mean = |(i, &sum): (usize, &f32)| match self.counts.get(i / columns) {
            Some(&count) if count > 0 => sum / count as f32,
            _ => 1.0,
        };
        self.sums.iter().enumerate().map(mean).collect()
    }
}

/// An importance matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// By the GGUF name of the tensor.
    pub entries: BTreeMap<String, Entry>,
    /// Names of the texts that were run through the model.
    pub datasets: Vec<String>,
    /// Chunks of text.
    pub chunks: u32,
    /// Tokens of a chunk.
    pub chunk_size: u32,
    /// The file is of the legacy form: its counts are calls rather than tokens.
    pub legacy: bool,
}

/// The most bytes of an importance matrix. That of a model of a trillion weights has some gigabytes.
const LARGEST: u64 = 8 << 30;
/// The most of one that is no regular file.
const LARGEST_PIPED: u64 = 256 << 20;

impl Imatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// A file that cannot be read, is of neither form, or holds values that are not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix> {
        let path = path.as_ref();
        // A device may never end, and a pipe has no size to tell beforehand.
        let most = if path.is_file() { LARGEST } else { LARGEST_PIPED };
        let bytes = convert::json::read_at_most(path, most)?;
        let read = if bytes.starts_with(&gguf::read::MAGIC) { from_gguf } else { from_dat };
        let imatrix = read(bytes.into()).map_err(|e| e.at(path))?;
        if imatrix.entries.is_empty() {
            return Err(Error::input("holds no importance of any tensor").at(path));
        }
        let broken = |e: &Entry| e.sums.iter().any(|v| !v.is_finite());
        if let Some((name, _)) = imatrix.entries.iter().find(|(_, e)| broken(e)) {
            return Err(Error::input(format!("the importance of {name} holds NaN or infinity"))
                .at(path)
                .help("compute the importance matrix again"));
        }
        Ok(imatrix)
    }

    /// Keeps the tensors whose name contains one of `include` (all, if it is empty) and none of `exclude`.
    pub fn filter(&mut self, include: &[String], exclude: &[String]) {
        let listed = |list: &[String], name: &str| list.iter().any(|part| name.contains(part.as_str()));
        self.entries.retain(|name, _| (include.is_empty() || listed(include, name)) && !listed(exclude, name));
    }

    /// What encoders take for a tensor: a weight for each column, expert after expert.
    pub fn importance(&self, name: &str) -> Option<Vec<f32>> {
        self.entries.get(name).map(Entry::means)
    }

    /// Adds what another matrix saw.
    ///
    /// # Errors
    /// A tensor whose number of columns or experts differs.
    pub fn merge(&mut self, other: &Imatrix) -> Result<()> {
        self.to_raw();
        let chunk_size = self.chunk_size;
        let scale = if other.legacy { i64::from(chunk_size) } else { 1 };
        for (name, theirs) in &other.entries {
            let ours = self.entries.entry(name.clone()).or_default();
            let differs = |what: &str, a: usize, b: usize| {
                Error::input(format!("{name} has {a} {what} in one importance matrix and {b} in the other"))
                    .help("merge matrices of the same model only")
            };
            if ours.sums.is_empty() {
                ours.sums = vec![0.0; theirs.sums.len()];
            }
            if ours.counts.is_empty() {
                ours.counts = vec![0; theirs.counts.len()];
            }
            if ours.sums.len() != theirs.sums.len() {
                return Err(differs("values", ours.sums.len(), theirs.sums.len()));
            }
            if ours.counts.len() == 1 && theirs.counts.len() > 1 {
                ours.counts = vec![ours.counts[0]; theirs.counts.len()];
            }
            if theirs.counts.len() != 1 && ours.counts.len() != theirs.counts.len() {
                return Err(differs("experts", ours.counts.len(), theirs.counts.len()));
            }
            for (a, b) in ours.sums.iter_mut().zip(&theirs.sums) {
                *a += b * scale as f32;
            }
            for (i, a) in ours.counts.iter_mut().enumerate() {
                let b = if theirs.counts.len() == 1 { theirs.counts[0] } else { theirs.counts[i] };
                *a = a.saturating_add(b.saturating_mul(scale));
            }
        }
        self.datasets.extend(other.datasets.iter().cloned());
        self.count_chunks();
        Ok(())
    }

    /// Turns legacy means by call into sums by token.
    pub fn to_raw(&mut self) {
        if self.chunk_size == 0 {
            self.chunk_size = DEFAULT_CHUNK_SIZE;
        }
        if !self.legacy {
            return;
        }
        for entry in self.entries.values_mut() {
            entry.sums.iter_mut().for_each(|v| *v *= self.chunk_size as f32);
            entry.counts.iter_mut().for_each(|n| *n = n.saturating_mul(i64::from(self.chunk_size)));
        }
        self.legacy = false;
        self.count_chunks();
    }

    fn count_chunks(&mut self) {
        let most = self.entries.values().flat_map(|e| &e.counts).copied().max().unwrap_or(0).max(0);
        self.chunks = u32::try_from(most / i64::from(self.chunk_size.max(1))).unwrap_or(u32::MAX);
    }

    /// The file in GGUF form.
    ///
    /// # Errors
    /// Names that GGUF forbids.
    pub fn to_gguf(&self) -> Result<Vec<u8>> {
        let mut raw = self.clone();
        raw.to_raw();
        let metadata = Metadata::from_iter([
            ("general.type", Value::from("imatrix")),
            (KEY_DATASETS, Value::from(Array::strings(&raw.datasets))),
            (KEY_CHUNKS, Value::from(raw.chunks)),
            (KEY_CHUNK_SIZE, Value::from(raw.chunk_size)),
        ]);
        let (mut infos, mut data) = (Vec::new(), Vec::new());
        for (name, entry) in raw.entries.iter().filter(|(_, e)| !e.sums.is_empty() && !e.counts.is_empty()) {
            let experts = entry.counts.len() as u64;
            // ggml leaves trailing dimensions of 1 out.
            let shape = |columns: u64| match experts {
                1 => Shape::new(&[columns]),
                n => Shape::new(&[columns, n]),
            };
            infos.push(TensorInfo::new(format!("{name}{SUMS}"), shape(entry.columns() as u64)?, TensorType::F32)?);
            data.push(le_bytes(entry.sums.iter().copied()));
            infos.push(TensorInfo::new(format!("{name}{COUNTS}"), shape(1)?, TensorType::F32)?);
            data.push(le_bytes(entry.counts.iter().map(|&n| n as f32)));
        }
        gguf::write::to_bytes(&metadata, &infos, |i| Ok(std::mem::take(&mut data[i])))
    }

    /// The file in the legacy form. Tensors that saw no token are left out; experts that saw none count as 1.
    pub fn to_dat(&self) -> Vec<u8> {
        let mut raw = self.clone();
        raw.to_raw();
        let chunk_size = i64::from(raw.chunk_size.max(1));
        let kept: Vec<_> = raw.entries.iter().filter(|(_, e)| e.counts.iter().any(|&n| n != 0)).collect();
        let mut out = Vec::new();
        out.extend((kept.len() as i32).to_le_bytes());
        for (name, entry) in kept {
            out.extend((name.len() as i32).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            let most = entry.counts.iter().copied().max().unwrap_or(0);
            // Rounded up so that no tensor with data ends at zero calls.
            let calls = i32::try_from(most.saturating_add(chunk_size - 1) / chunk_size).unwrap_or(i32::MAX);
            out.extend(calls.to_le_bytes());
            out.extend((entry.sums.len() as i32).to_le_bytes());
            let columns = entry.columns().max(1);
            out.extend(le_bytes(entry.sums.iter().enumerate().map(|(i, &sum)| {
                let count = entry.counts[i / columns] as f32;
                let (sum, count) = if count == 0.0 { (1.0, 1.0) } else { (sum, count) };
                sum / count * calls as f32
            })));
        }
        out.extend((raw.chunks as i32).to_le_bytes());
        let dataset = raw.datasets.last().map_or("", String::as_str);
        out.extend((dataset.len() as i32).to_le_bytes());
        out.extend_from_slice(dataset.as_bytes());
        out
    }

    /// What there is to say of each tensor, in the order of the names.
    pub fn statistics(&self) -> Vec<Statistics> {
        let mut all: Vec<Statistics> =
            self.entries.iter().filter_map(|(name, entry)| Statistics::of(name, entry)).collect();
        for (stats, similar) in all.iter_mut().zip(self.similarities()) {
            stats.similarity = similar;
        }
        all
    }

    /// The cosine between each tensor's sums and those of the layer before it, in the order of [`Imatrix::statistics`].
    fn similarities(&self) -> Vec<f32> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0_f32, |sum, (x, y)| sum + x * y);
        let described = self.entries.iter().filter(|(name, e)| Statistics::of(name, e).is_some());
        described
            .map(|(name, entry)| {
                let previous = layer_before(name).and_then(|before| self.entries.get(&before));
                previous.map_or(0.0, |before| {
                    dot(&entry.sums, &before.sums)
                        / (dot(&entry.sums, &entry.sums).sqrt() * dot(&before.sums, &before.sums).sqrt())
                })
            })
            .collect()
    }
}

/// The name of the same tensor one layer earlier.
fn layer_before(name: &str) -> Option<String> {
    let at = name.find("blk.")? + 4;
    let digits = name[at..].find('.')?;
    let layer: u64 = name[at..at + digits].parse().ok()?;
    Some(format!("{}{}{}", &name[..at], layer.checked_sub(1)?, &name[at + digits..]))
}

fn le_bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

/// What `llama-imatrix --show-statistics` tells of a tensor. Activations are mean squares by column.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Statistics {
    /// The GGUF name.
    pub tensor: String,
    /// Columns with data.
    pub elements: usize,
    /// The sum of the activations.
    pub sum: f32,
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// The mean.
    pub mean: f32,
    /// The standard deviation.
    pub deviation: f32,
    /// The share of columns above 1e-5.
    pub active: f32,
    /// The entropy of the activations as a distribution over columns, in bits.
    pub entropy: f32,
    /// The share of columns more than a deviation above the mean ("ZD score").
    pub outliers: f32,
    /// The cosine with the same tensor of the layer before.
    pub similarity: f32,
}

impl Statistics {
    /// Of one tensor; `None` where no expert saw a token.
    fn of(name: &str, entry: &Entry) -> Option<Statistics> {
        if entry.counts.is_empty() || !entry.sums.len().is_multiple_of(entry.counts.len()) {
            return None;
        }
        let columns = entry.columns().max(1);
        let seen = |i: usize| entry.counts.get(i / columns).copied().filter(|&n| n != 0);
        let values: Vec<f32> = entry.sums.iter().enumerate().filter_map(|(i, &v)| Some(v / seen(i)? as f32)).collect();
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f32;
        // Summed one after the other in f32, as the reference does.
        let sum = values.iter().fold(0.0_f32, |a, &v| a + v);
        let mean = sum / n;
        let squares = values.iter().fold(0.0_f32, |a, &v| a + v * v);
        let deviation = (squares / n - mean * mean).max(0.0).sqrt();
        let inactive = values.iter().filter(|v| v.abs() <= 1e-5).count();
        let mut entropy = 0.0;
        if sum > 0.0 {
            for p in values.iter().map(|v| v / sum).filter(|&p| p > 0.0) {
                entropy -= p * p.log2();
            }
        }
        let outliers = values.iter().filter(|&&v| deviation > 0.0 && (v - mean) / deviation > 1.0).count();
        Some(Statistics {
            tensor: name.to_owned(),
            elements: values.len(),
            sum,
            min: values.iter().copied().fold(f32::INFINITY, f32::min),
            max: values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            mean,
            deviation,
            active: 1.0 - inactive as f32 / n,
            entropy,
            outliers: outliers as f32 / n,
            similarity: 0.0,
        })
    }
}

fn from_gguf(bytes: bytes::Bytes) -> Result<Imatrix> {
    let file = File::from_bytes(bytes)?;
    let metadata = file.metadata();
    let number = |key: &str| metadata.u64(key).and_then(|n| u32::try_from(n).ok());
    let (Some(datasets), Some(chunks), Some(chunk_size)) =
        (metadata.array(KEY_DATASETS), number(KEY_CHUNKS), number(KEY_CHUNK_SIZE))
    else {
        return Err(Error::input(format!("is no importance matrix: {KEY_DATASETS} or {KEY_CHUNKS} is missing"))
            .help("llama-imatrix and `evaluate imatrix` write such files"));
    };
    let datasets = datasets
        .iter_bytes()
        .map_or(Vec::new(), |all| all.map(|name| String::from_utf8_lossy(name).into_owned()).collect());
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for (i, info) in file.tensors().iter().enumerate() {
        let (name, is_sums) = match (info.name().strip_suffix(SUMS), info.name().strip_suffix(COUNTS)) {
            (Some(name), _) => (name, true),
            (None, Some(name)) => (name, false),
            (None, None) => continue,
        };
        if info.ty() != TensorType::F32 {
            return Err(Error::input(format!("tensor {} is {}, not F32", info.name(), info.ty())));
        }
        let rows = file.rows(i, 0..info.rows())?;
        let values = rows.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
        let entry = entries.entry(name.to_owned()).or_default();
        if is_sums {
            entry.sums = values.collect();
        } else {
            // The cast saturates; NaN counts as 0.
            entry.counts = values.map(|n| n.round() as i64).collect();
        }
    }
    for (name, entry) in &entries {
        if entry.sums.is_empty() || entry.counts.is_empty() || entry.sums.len() % entry.counts.len() != 0 {
            return Err(Error::input(format!(
                "{name}: {} sums and {} counts do not belong together",
                entry.sums.len(),
                entry.counts.len()
            )));
        }
    }
    Ok(Imatrix { entries, datasets, chunks, chunk_size, legacy: false })
}

fn from_dat(bytes: bytes::Bytes) -> Result<Imatrix> {
    let mut reader = Reader { rest: &bytes, len: bytes.len() };
    let n = reader.count("the number of tensors")?;
    if n == 0 {
        return Err(reader.fault("is no importance matrix: neither GGUF nor the legacy form"));
    }
    let mut entries = BTreeMap::new();
    for _ in 0..n {
        let name = reader.text("a name")?;
        let calls = reader.count("the number of calls")?;
        let values = reader.count("the number of values")?;
        let data = values
            .checked_mul(4)
            .and_then(|n| reader.take(n))
            .filter(|_| values > 0)
            .ok_or_else(|| reader.fault(&format!("the {values} values of {name} do not fit the file")))?;
        let sums = data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        // Sums of no call are taken as they stand.
        entries.insert(name, Entry { sums, counts: vec![calls.max(1) as i64] });
    }
    let (mut chunks, mut datasets) = (0, Vec::new());
    // Files of before 2024 end here.
    if !reader.rest.is_empty() {
        chunks = reader.count("the number of chunks")? as u32;
        if !reader.rest.is_empty() {
            datasets.push(reader.text("the data set")?);
            datasets.retain(|name| !name.is_empty());
        }
    }
    Ok(Imatrix { entries, datasets, chunks, chunk_size: 0, legacy: true })
}

struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    fn fault(&self, message: &str) -> Error {
        Error::input(message).at_offset((self.len - self.rest.len()) as u64)
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }

    /// A non-negative `i32`.
    fn count(&mut self, what: &str) -> Result<usize> {
        let fault = self.fault(&format!("is no importance matrix: {what} is missing or negative"));
        let bytes = self.take(4).and_then(|b| b.first_chunk::<4>().copied());
        bytes.and_then(|b| usize::try_from(i32::from_le_bytes(b)).ok()).ok_or(fault)
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let len = self.count(what)?;
        let fault = self.fault(&format!("{what} of {len} bytes does not fit the file"));
        self.take(len).map(|b| String::from_utf8_lossy(b).into_owned()).ok_or(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(scale: f32) -> Imatrix {
        let entry = |n: usize, counts: &[i64]| Entry {
            sums: (0..n).map(|i| scale * (i + 1) as f32).collect(),
            counts: counts.to_vec(),
        };
        Imatrix {
            entries: [
                ("blk.0.ffn_down.weight".to_owned(), entry(8, &[512])),
                ("blk.1.ffn_down_exps.weight".to_owned(), entry(8, &[512, 0])),
            ]
            .into(),
            datasets: vec!["a.txt".into()],
            chunks: 1,
            chunk_size: 512,
            legacy: false,
        }
    }

    #[test]
    fn gguf_round_trips_and_an_unused_expert_weighs_one() {
        let one = matrix(1.0);
        let back = from_gguf(one.to_gguf().unwrap().into()).unwrap();
        assert_eq!(back, one);
        let means = back.importance("blk.1.ffn_down_exps.weight").unwrap();
        assert_eq!(means[..2], [1.0 / 512.0, 2.0 / 512.0]);
        assert_eq!(means[4..], [1.0; 4]);
        assert_eq!(back.importance("blk.2.ffn_down.weight"), None);
    }

    #[test]
    fn the_legacy_form_keeps_means() {
        let one = matrix(1.0);
        let back = from_dat(one.to_dat().into()).unwrap();
        assert!(back.legacy);
        assert_eq!(back.chunks, 1);
        assert_eq!(back.importance("blk.0.ffn_down.weight"), one.importance("blk.0.ffn_down.weight"));
    }

    #[test]
    fn merging_adds_sums_and_counts() {
        let (mut one, two) = (matrix(1.0), matrix(3.0));
        one.merge(&two).unwrap();
        let entry = &one.entries["blk.0.ffn_down.weight"];
        assert_eq!((entry.sums[1], entry.counts[0]), (8.0, 1024));
        assert_eq!((one.chunks, one.datasets.len()), (2, 2));
        let mut other = matrix(1.0);
        other.entries.get_mut("blk.0.ffn_down.weight").unwrap().sums.pop();
        assert!(one.merge(&other).unwrap_err().to_string().contains("blk.0.ffn_down.weight"));
    }

    #[test]
    fn filters_by_parts_of_names() {
        let mut one = matrix(1.0);
        one.filter(&[], &["_exps".into()]);
        assert_eq!(one.entries.len(), 1);
        one.filter(&["attn".into()], &[]);
        assert!(one.entries.is_empty());
    }

    #[test]
    fn cut_and_lying_legacy_files_are_refused() {
        let whole = matrix(1.0).to_dat();
        for len in 0..whole.len() {
            // Only a file that is cut exactly before the optional tail is still one.
            if let Ok(cut) = from_dat(whole[..len].to_vec().into()) {
                assert_eq!(cut.entries.len(), 2, "{len} bytes");
            }
        }
        assert!(from_dat(vec![0xFF; 64].into()).is_err());
        assert!(from_dat(vec![0x7F; 64].into()).is_err());
    }
}
