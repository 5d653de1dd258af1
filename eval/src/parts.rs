//! A measurement in parts that several machines make, each for itself, and what they come to together.
//!
//! A part holds the numbers of its share, not sums of them: what is worked out from the gathered parts is bit for bit
//! what one run works out, however many parts there were. The file is a GGUF file: `gguf show` looks into it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use gguf::{Error, ErrorKind, File, Metadata, Result, Shape, Source, TensorInfo, TensorType, Value};
use quantize::parts::Part;

const KIND: &str = "evaluate-part";

/// The largest text of a part's keys that is read, in bytes.
const MOST_TEXT: usize = 64 << 20;

/// The share of a part: neighbours of `count` things in a row.
///
/// # Errors
/// More parts than there are things of this name.
pub fn share(part: Part, count: usize, things: &str) -> Result<Range<usize>> {
    if part.of > count {
        return Err(Error::usage(format!("{count} {things} cannot be divided into {} parts", part.of))
            .help(format!("a part has at least one of the {things}")));
    }
    let at = |i: usize| (i as u128 * count as u128 / part.of as u128) as usize;
    Ok(at(part.no - 1)..at(part.no))
}

/// Numbers of a part, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// As f64.
    F64(Vec<f64>),
    /// As f32.
    F32(Vec<f32>),
    /// As i64.
    I64(Vec<i64>),
    /// As i8.
    I8(Vec<i8>),
}

impl Numbers {
    fn ty(&self) -> TensorType {
        match self {
            Numbers::F64(_) => TensorType::F64,
            Numbers::F32(_) => TensorType::F32,
            Numbers::I64(_) => TensorType::I64,
            Numbers::I8(_) => TensorType::I8,
        }
    }

    fn len(&self) -> usize {
        match self {
            Numbers::F64(v) => v.len(),
            Numbers::F32(v) => v.len(),
            Numbers::I64(v) => v.len(),
            Numbers::I8(v) => v.len(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Numbers::F64(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Numbers::F32(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Numbers::I64(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Numbers::I8(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    fn read(ty: TensorType, bytes: &[u8]) -> Option<Numbers> {
        Some(match ty {
            TensorType::F64 => Numbers::F64(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
            TensorType::F32 => Numbers::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            TensorType::I64 => Numbers::I64(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            TensorType::I8 => Numbers::I8(bytes.iter().map(|b| b.cast_signed()).collect()),
            _ => return None,
        })
    }
}

/// What one part found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The command that made it.
    pub command: String,
    /// Which part it is.
    pub part: Part,
    /// What is divided: `chunks` or `types`.
    pub by: String,
    /// What all parts of a run have in common, by a name for people: the model, the text, the options.
    pub run: BTreeMap<String, String>,
    /// What the command needs to report, beside the numbers.
    pub facts: serde_json::Value,
    /// The path of the processor that the sums ran on: their last bits depend on it.
    pub path: String,
    /// Seconds of wall time.
    pub seconds: f64,
    /// The numbers, by name.
    pub numbers: BTreeMap<String, Numbers>,
}

impl Found {
    /// The file of a part.
    ///
    /// # Errors
    /// More numbers than a file can hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let no_text = |e| Error::usage("a part cannot be put into words").caused_by(e);
        let run = serde_json::to_string(&self.run).map_err(no_text)?;
        let facts = serde_json::to_string(&self.facts).map_err(no_text)?;
        let metadata = Metadata::from_iter([
            ("general.type", Value::from(KIND)),
            ("part.command", Value::from(self.command.as_str())),
            ("part.number", Value::from(self.part.no as u32)),
            ("part.count", Value::from(self.part.of as u32)),
            ("part.by", Value::from(self.by.as_str())),
            ("part.run", Value::from(run.as_str())),
            ("part.facts", Value::from(facts.as_str())),
            ("part.path", Value::from(self.path.as_str())),
            ("part.seconds", Value::from(self.seconds)),
        ]);
        let info = |(name, numbers): (&String, &Numbers)| {
            TensorInfo::new(name.as_str(), Shape::new(&[numbers.len() as u64])?, numbers.ty())
        };
        let tensors = self.numbers.iter().map(info).collect::<Result<Vec<_>>>()?;
        let failed = |e| Error::new(ErrorKind::System, "cannot lay out a part").caused_by(e);
        let mut writer = gguf::Writer::new(Vec::new(), gguf::FileLayout::new(&metadata, &tensors)?).map_err(failed)?;
        for numbers in self.numbers.values() {
            writer.write(&numbers.bytes()).map_err(failed)?;
        }
        writer.finish().map_err(failed)
    }

    /// Reads the file of a part.
    ///
    /// # Errors
    /// A file that cannot be read or is none.
    pub fn open(path: &Path) -> Result<Found> {
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::Input => error.help("the part is damaged: remove it and measure it again"),
            _ => error,
        })?;
        let none = || Error::input("is no part of a measurement").at(path).help("`evaluate … --part I/N` writes one");
        let meta = file.metadata();
        let text = |key: &str| meta.str(key).filter(|text| text.len() <= MOST_TEXT).ok_or_else(none);
        if text("general.type")? != KIND {
            return Err(none());
        }
        let number = |key: &str| meta.u64(key).and_then(|n| usize::try_from(n).ok()).ok_or_else(none);
        let part = Part::new(number("part.number")?, number("part.count")?).map_err(|e| e.at(path))?;
        let mut numbers = BTreeMap::new();
        for (i, info) in file.tensors().iter().enumerate() {
            let bytes = file.rows(i, 0..info.rows())?;
            numbers.insert(info.name().to_owned(), Numbers::read(info.ty(), &bytes).ok_or_else(none)?);
        }
        Ok(Found {
            command: text("part.command")?.to_owned(),
            part,
            by: text("part.by")?.to_owned(),
            run: serde_json::from_str(text("part.run")?).map_err(|e| none().caused_by(e))?,
            facts: serde_json::from_str(text("part.facts")?).map_err(|e| none().caused_by(e))?,
            path: text("part.path")?.to_owned(),
            seconds: meta.f64("part.seconds").ok_or_else(none)?,
            numbers,
        })
    }

    /// What differs from another part that should be of the same run, for a person.
    pub fn differs(&self, other: &Found) -> Option<String> {
        let mut same = vec![
            ("command", self.command == other.command),
            ("number of parts", self.part.of == other.part.of),
            ("kind of division", self.by == other.by),
        ];
        let names = self.run.keys().chain(other.run.keys());
        same.extend(names.map(|name| (name.as_str(), self.run.get(name) == other.run.get(name))));
        same.iter().find(|(_, same)| !same).map(|(what, _)| (*what).to_owned())
    }
}

/// All parts of one run, in order.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// Where each was read from.
    pub paths: Vec<PathBuf>,
    /// What each found.
    pub parts: Vec<Found>,
}

impl Gathered {
    /// Reads all parts of a run.
    ///
    /// # Errors
    /// A file that is no part, one that is missing or there twice, and one of another run: what differs is named.
    pub fn open(paths: &[PathBuf]) -> Result<Gathered> {
        let mut all = paths.iter().map(|path| Ok((path.clone(), Found::open(path)?))).collect::<Result<Vec<_>>>()?;
        all.sort_by_key(|(_, found)| found.part.no);
        let Some((first_path, first)) = all.first() else {
            return Err(Error::usage("there is no part to gather"));
        };
        for (path, found) in &all[1..] {
            if let Some(what) = found.differs(first) {
                return Err(Error::input(format!(
                    "was measured with another {what} than {}",
                    gguf::quote::path(first_path)
                ))
                .at(path)
                .help("gather parts of one run; measure those of another again"));
            }
        }
        let of = first.part.of;
        for no in 1..=of {
            let mut these = all.iter().filter(|(_, found)| found.part.no == no);
            match (these.next(), these.next()) {
                (None, _) => {
                    return Err(Error::input(format!("part {no} of {of} is missing"))
                        .at(first_path.parent().unwrap_or(Path::new(".")))
                        .help(format!("measure it with --part {no}/{of} and the options of the others")));
                }
                (Some((one, _)), Some((twice, _))) => {
                    return Err(Error::input(format!("part {no} of {of} is there twice"))
                        .at(twice)
                        .help(format!("the other is {}; remove one of them", gguf::quote::path(one))));
                }
                _ => {}
            }
        }
        let (paths, parts) = all.into_iter().unzip();
        Ok(Gathered { paths, parts })
    }

    /// The first part, of which there always is one.
    pub fn first(&self) -> &Found {
        &self.parts[0]
    }

    /// Seconds of wall time of all parts together.
    pub fn seconds(&self) -> f64 {
        self.parts.iter().map(|part| part.seconds).sum()
    }

    /// The paths of processors that the parts ran on, where they were several.
    pub fn several_paths(&self) -> Option<String> {
        let mut paths: Vec<&str> = self.parts.iter().map(|part| part.path.as_str()).collect();
        paths.sort_unstable();
        paths.dedup();
        (paths.len() > 1).then(|| paths.join(", "))
    }

    fn numbers(&self, part: usize, name: &str) -> Result<&Numbers> {
        self.parts[part]
            .numbers
            .get(name)
            .ok_or_else(|| Error::input(format!("holds no numbers \"{name}\"")).at(&self.paths[part]))
    }

    fn joined<T: Clone>(
        &self,
        parts: Range<usize>,
        name: &str,
        pick: impl Fn(&Numbers) -> Option<&Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for part in parts {
            let numbers = self.numbers(part, name)?;
            all.extend_from_slice(pick(numbers).ok_or_else(|| {
                Error::input(format!("the numbers \"{name}\" are of type {}, which is not theirs", numbers.ty()))
                    .at(&self.paths[part])
            })?);
        }
        Ok(all)
    }

    /// The f64 numbers of some parts, in order; parts count from 0.
    ///
    /// # Errors
    /// None of this name or type in one of them.
    pub fn f64s(&self, parts: Range<usize>, name: &str) -> Result<Vec<f64>> {
        self.joined(parts, name, |n| if let Numbers::F64(v) = n { Some(v) } else { None })
    }

    /// The f32 numbers of some parts, in order; parts count from 0.
    ///
    /// # Errors
    /// None of this name or type in one of them.
    pub fn f32s(&self, parts: Range<usize>, name: &str) -> Result<Vec<f32>> {
        self.joined(parts, name, |n| if let Numbers::F32(v) = n { Some(v) } else { None })
    }

    /// The i64 numbers of some parts, in order; parts count from 0.
    ///
    /// # Errors
    /// None of this name or type in one of them.
    pub fn i64s(&self, parts: Range<usize>, name: &str) -> Result<Vec<i64>> {
        self.joined(parts, name, |n| if let Numbers::I64(v) = n { Some(v) } else { None })
    }

    /// The i8 numbers of some parts, in order; parts count from 0.
    ///
    /// # Errors
    /// None of this name or type in one of them.
    pub fn i8s(&self, parts: Range<usize>, name: &str) -> Result<Vec<i8>> {
        self.joined(parts, name, |n| if let Numbers::I8(v) = n { Some(v) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(no: usize, of: usize) -> Found {
        Found {
            command: "perplexity".into(),
            part: Part { no, of },
            by: "chunks".into(),
            run: BTreeMap::from([("text".to_owned(), "abc".to_owned())]),
            facts: serde_json::json!({"chunks": 3}),
            path: "avx2".into(),
            seconds: 1.5,
            numbers: BTreeMap::from([
                ("nll".to_owned(), Numbers::F64(vec![0.1 + no as f64, f64::NAN, -0.0])),
                ("kld".to_owned(), Numbers::F32(vec![f32::MIN_POSITIVE])),
                ("same".to_owned(), Numbers::I8(vec![-1, 1])),
                ("sums".to_owned(), Numbers::I64(vec![i64::MIN, 7])),
            ]),
        }
    }

    fn written(folder: &Path, name: &str, found: &Found) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, found.to_bytes().unwrap()).unwrap();
        path
    }

    #[test]
    fn shares_are_all_of_it_in_order() {
        for of in 1..=7 {
            let shares: Vec<_> = (1..=of).map(|no| share(Part { no, of }, 7, "chunks").unwrap()).collect();
            assert!(shares.iter().all(|s| !s.is_empty()));
            assert_eq!((shares[0].start, shares[of - 1].end), (0, 7));
            assert!(shares.windows(2).all(|w| w[0].end == w[1].start));
        }
        assert!(share(Part { no: 1, of: 8 }, 7, "chunks").is_err());
    }

    #[test]
    fn numbers_come_back_bit_for_bit_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [written(folder.path(), "b", &found(2, 2)), written(folder.path(), "a", &found(1, 2))];
        let gathered = Gathered::open(&paths).unwrap();
        let nll: Vec<u64> = gathered.f64s(0..2, "nll").unwrap().iter().map(|v| v.to_bits()).collect();
        let want = [1.1, f64::NAN, -0.0, 2.1, f64::NAN, -0.0].map(f64::to_bits);
        assert_eq!(nll, want);
        assert_eq!(gathered.i64s(1..2, "sums").unwrap(), [i64::MIN, 7]);
        assert_eq!(gathered.i8s(0..1, "same").unwrap(), [-1, 1]);
        assert_eq!(gathered.f32s(0..1, "kld").unwrap(), [f32::MIN_POSITIVE]);
        assert!(gathered.f64s(0..2, "kld").is_err() && gathered.f64s(0..2, "other").is_err());
        assert_eq!(gathered.seconds(), 3.0);
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let first = written(folder.path(), "1", &found(1, 2));
        let told = |paths: &[PathBuf]| Gathered::open(paths).unwrap_err().to_string();
        assert!(told(std::slice::from_ref(&first)).contains("part 2 of 2 is missing"));
        assert!(told(&[first.clone(), first.clone(), written(folder.path(), "2", &found(2, 2))]).contains("twice"));
        let other = Found { run: BTreeMap::from([("text".to_owned(), "x".to_owned())]), ..found(2, 2) };
        assert!(told(&[first.clone(), written(folder.path(), "x", &other)]).contains("another text"));
        assert!(told(&[first.clone(), written(folder.path(), "n", &found(3, 3))]).contains("another number of parts"));
        let text = folder.path().join("text");
        std::fs::write(&text, "no part").unwrap();
        assert!(Gathered::open(&[first, text]).is_err());
        assert!(Gathered::open(&[]).is_err());
    }
}
