//! Files of which a key or a tensor is changed never end the way back in a panic: each key of the model is taken away and
//! gets other types and sizes, each tensor is taken away and gets other sizes and types, in files of classes with and
//! without towers. `EVERY=N` makes every Nth change of a file; `ONLY=PART` is for those of this name.

mod cases;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use convert::back::{Folder, Options as Back, Projector};
use convert::{Checkpoint, Options, OutType};
use gguf::{Array, File, Metadata, Shape, Source, TensorInfo, TensorType, Value};

/// A file with another key or tensor.
struct Changed {
    file: Arc<File>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// The tensors of the file that these are, and whether they are as they were.
    of: Vec<(usize, bool)>,
}

impl Changed {
    fn new(file: &Arc<File>) -> Changed {
        let of = (0..file.tensors().len()).map(|tensor| (tensor, true)).collect();
        Changed { file: file.clone(), metadata: file.metadata().clone(), tensors: file.tensors().to_vec(), of }
    }

    fn with_key(file: &Arc<File>, key: &str, value: Option<Value>) -> Changed {
        let mut changed = Changed::new(file);
        _ = match value {
            Some(value) => changed.metadata.set(key, value),
            None => changed.metadata.remove(key),
        };
        changed
    }

    fn with_tensor(file: &Arc<File>, tensor: usize, shape: Option<(&[u64], TensorType)>) -> Option<Changed> {
        let mut changed = Changed::new(file);
        match shape {
            Some((dims, ty)) => {
                let name = file.tensors()[tensor].name();
                changed.tensors[tensor] = TensorInfo::new(name, Shape::new(dims).ok()?, ty).ok()?;
                changed.of[tensor].1 = false;
            }
            None => {
                changed.tensors.remove(tensor);
                changed.of.remove(tensor);
            }
        }
        Some(changed)
    }
}

impl Source for Changed {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn rows(&self, tensor: usize, rows: Range<u64>) -> gguf::Result<Cow<'_, [u8]>> {
        let info = &self.tensors[tensor];
        match self.of[tensor] {
            (of, true) => self.file.rows(of, rows),
            _ => Ok(vec![0; (info.bytes() / info.rows().max(1) * (rows.end - rows.start)) as usize].into()),
        }
    }
}

/// What a key may be instead.
fn values(value: &Value) -> Vec<Option<Value>> {
    let mut out = vec![None, Some(Value::from("other")), Some(0_u32.into()), Some(u32::MAX.into()), Some(true.into())];
    out.push(Some(Array::from(&[0_i32, -1][..]).into()));
    out.push(Some(Array::from(&[f32::NAN][..]).into()));
    out.push(Some(f32::INFINITY.into()));
    if let Some(array) = value.as_array() {
        out.push(array.to_i32s().map(|numbers| Array::from(&numbers[..numbers.len() / 2]).into()));
        out.push(array.to_i32s().map(|numbers| Array::from(&vec![i32::MAX; numbers.len()][..]).into()));
    }
    out
}

/// The files that differ from this one in a key of the model or a tensor: every `step`th of them.
fn changes(file: &Arc<File>, step: usize) -> Vec<(String, Changed)> {
    let mut out: Vec<(String, Changed)> = Vec::new();
    let mut number = 0;
    let mut next = || {
        number += 1;
        number % step == 0
    };
    let own = |key: &str| !key.starts_with("general.name") && key != "general.architecture";
    for (key, value) in file.metadata().iter().filter(|(key, _)| own(key)) {
        for other in values(value) {
            if next() {
                out.push((format!("{key} is {other:?}"), Changed::with_key(file, key, other)));
            }
        }
    }
    for (place, info) in file.tensors().iter().enumerate() {
        let dims = info.shape().dims();
        let shifted: Vec<u64> = dims.iter().map(|d| d + 32).collect();
        let turned: Vec<u64> = dims.iter().rev().copied().collect();
        let flat = [info.elements()];
        for shape in [
            None,
            Some((&[][..], TensorType::F32)),
            Some((&shifted[..], TensorType::F32)),
            Some((&turned[..], info.ty())),
            Some((&flat[..], TensorType::BF16)),
            Some((dims, TensorType::I32)),
            Some((dims, TensorType::Q8_0)),
            Some((&[0, 4][..], TensorType::F32)),
        ] {
            if next()
                && let Some(changed) = Changed::with_tensor(file, place, shape)
            {
                out.push((format!("{} is {shape:?}", info.name()), changed));
            }
        }
    }
    out
}

fn opened(folder: &Path, projector: bool) -> Option<Arc<File>> {
    let options = Options { outtype: OutType::BF16, any_pre: true, projector, ..Options::default() };
    let checkpoint = Checkpoint::open(folder, &options).ok()?;
    let bytes = gguf::write::copy(&checkpoint, checkpoint.metadata(), Vec::new(), |_| {}).unwrap();
    Some(Arc::new(File::from_bytes(bytes.into()).unwrap()))
}

/// Makes the folder of a file, as far as there is one; whether it is whole.
fn back(file: Arc<dyn Source + Send + Sync>, projector: Option<Arc<dyn Source + Send + Sync>>) -> bool {
    let options = Back { projector: projector.map(Projector), ..Back::default() };
    let made = tempfile::tempdir().unwrap();
    let whole = Folder::plan(file, &options).and_then(|folder| {
        folder.write(made.path(), &|_| {})?;
        folder.check(made.path())
    });
    whole.is_ok()
}

/// Changes the files of a folder. Gives how many there were, and how many came back all the same.
fn change(folder: &Path, step: usize) -> (usize, usize) {
    let Some(text) = opened(folder, false) else { return (0, 0) };
    let projector = opened(folder, true);
    let mut seen = (0, 0);
    let mut look = |what: String, file: Arc<dyn Source + Send + Sync>, projector| {
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| back(file, projector)));
        let whole = whole.unwrap_or_else(|_| panic!("{}: {what}", folder.display()));
        // The size of a tensor may say a field, and a file may give it none.
        assert!(!whole || !what.ends_with("is Some(([], F32))"), "{}: {what}", folder.display());
        seen = (seen.0 + 1, seen.1 + usize::from(whole));
    };
    let towers = || projector.clone().map(|file| file as Arc<dyn Source + Send + Sync>);
    for (what, changed) in changes(&text, step) {
        look(what, Arc::new(changed), towers());
    }
    for (what, changed) in projector.iter().flat_map(|file| changes(file, step)) {
        look(what, text.clone(), Some(Arc::new(changed)));
    }
    seen
}

#[test]
fn changed_files_are_refused_without_a_panic() {
    let only = std::env::var("ONLY").ok();
    // A prime number, so that keys and tensors meet every change in some file.
    let every = std::env::var("EVERY").map_or(307, |every| every.parse().unwrap());
    let mut cases = fixtures::json("generated/cases.json");
    let cases = cases.as_object_mut().unwrap();
    cases.extend(fixtures::json("generated/back.json").as_object().unwrap().clone());
    let cases = &*cases;
    let asked = |name: &&String| only.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let (mut all, mut whole) = (0, 0);
    for name in cases.keys().filter(asked) {
        let case = cases::resolved(cases, name);
        let towers = case.contains_key("text");
        if case.contains_key("error") || case.contains_key("large") || name.starts_with("mmproj-") {
            continue;
        }
        let case = if towers { cases::with_text(cases, name) } else { case };
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(name);
        cases::write(&case, &folder);
        let (seen, same) = change(&folder, every);
        (all, whole) = (all + seen, whole + same);
    }
    println!("{all} changes, {whole} came back");
    assert!(only.is_some() || all > 300, "{all} changes");
}

/// The size of a tensor may say a field, and a file may give it none.
#[test]
fn a_tensor_without_dimensions_is_refused() {
    let mut seen = BTreeSet::new();
    for root in ["golden/arch", "golden/encoders"] {
        for entry in std::fs::read_dir(fixtures::path(root)).unwrap().map(Result::unwrap) {
            let folder = entry.path().join("hf").join(entry.file_name());
            let Some(file) = opened(&folder, false) else { continue };
            for name in ["blk.0.ffn_up.weight", "token_types.weight", "token_embd.weight"] {
                let Some(place) = file.find(name) else { continue };
                let changed = Changed::with_tensor(&file, place, Some((&[], TensorType::F32))).unwrap();
                assert!(!back(Arc::new(changed), None), "{}: {name}", folder.display());
                seen.insert(name);
            }
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// Without the base of its sliding layers, as files of an older year are, no other field may stand for it: a value that the
/// class refuses would have the whole configuration read without the defaults of the class.
#[test]
fn an_old_file_has_the_fields_of_a_new_one() {
    let file = opened(&fixtures::path("golden/arch/Gemma-3-Tiny/hf/Gemma-3-Tiny"), false).unwrap();
    let config = |file: Arc<dyn Source + Send + Sync>| -> serde_json::Map<String, serde_json::Value> {
        let made = tempfile::tempdir().unwrap();
        Folder::plan(file, &Back::default()).and_then(|folder| folder.write(made.path(), &|_| {})).unwrap();
        serde_json::from_slice(&std::fs::read(made.path().join("config.json")).unwrap()).unwrap()
    };
    let new = config(file.clone());
    let old = config(Arc::new(Changed::with_key(&file, "gemma3.rope.freq_base_swa", None)));
    let differs = |key: &&String| new.get(*key) != old.get(*key) && !key.starts_with("rope");
    assert_eq!(new.keys().chain(old.keys()).filter(differs).collect::<Vec<_>>(), [""; 0]);
}
