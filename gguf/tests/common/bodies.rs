//! What must hold for any bytes: the bodies of the property tests and of the fuzz targets.

use bytes::Bytes;
use gguf::check::{self, Group, Options, Profile, Severity};
use gguf::edit::{self, Change};
use gguf::split::{self, Division, KeyOrder};
use gguf::{Array, Endian, File, Metadata, Result, Source, Value, write};

/// All data of a source, tensor after tensor.
pub fn data_of(source: &dyn Source) -> Result<Vec<Vec<u8>>> {
    (0..source.tensors().len())
        .map(|i| {
            let mut out = Vec::new();
            write::for_each_piece(source, i, |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            })?;
            assert_eq!(out.len() as u64, source.tensors()[i].bytes());
            Ok(out)
        })
        .collect()
}

/// The same keys and values, where NaN is the same as NaN.
pub fn assert_same_metadata(a: &Metadata, b: &Metadata) {
    let encoded = |m: &Metadata| write::to_bytes(m, &[], |_| Ok(Vec::new())).ok();
    assert_eq!(encoded(a), encoded(b));
}

fn visit(value: &Value) {
    match value {
        Value::Array(array) => visit_array(array),
        Value::String(text) => drop(text.to_str_lossy()),
        other => drop((other.as_u64(), other.as_i64(), other.as_f64(), other.as_bool(), other.as_str())),
    }
}

fn visit_array(array: &Array) {
    let (mut walked, len) = (0, array.len());
    for item in array.iter() {
        visit(&item);
        walked += 1;
    }
    // A validated array holds what it says.
    assert_eq!(walked, len);
    drop((array.to_f32s(), array.to_i32s(), array.to_u64s()));
    if let Some(items) = array.iter_bytes() {
        assert_eq!(items.count() as u64, len);
    }
}

/// Reads; what can be read can be written, and reads the same then.
pub fn read(bytes: &[u8]) {
    let Ok(file) = File::from_bytes(Bytes::copy_from_slice(bytes)) else { return };
    for (_, value) in file.metadata().iter() {
        visit(value);
    }
    for (i, info) in file.tensors().iter().enumerate() {
        assert_eq!(file.find(info.name()), Some(i));
    }
    assert_eq!(file.find("no such tensor \u{1}"), None);
    // Big-endian files may hold types whose data nobody can interpret.
    let Ok(data) = data_of(&file) else { return };
    let copy = write::copy(&file, file.metadata(), Vec::new(), |_| {}).expect("what was read can be written");
    let again = File::from_bytes(copy.into()).expect("what was written can be read");
    assert_same_metadata(file.metadata(), again.metadata());
    assert_eq!(file.tensors(), again.tensors());
    assert_eq!(data, data_of(&again).expect("little-endian data can be read"));
}

/// Checks; what the strict reader takes is what the checker finds no error of format in.
pub fn check(bytes: &[u8]) {
    let shared = Bytes::copy_from_slice(bytes);
    let format = Options { profile: Profile::Format, data: true, ..Options::default() };
    let report = check::check_bytes(shared.clone(), "fuzz.gguf", &format);
    let errors: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Error && f.rule.group != Group::Data)
        .map(|f| f.rule.name)
        .collect();
    let opened = File::from_bytes(shared.clone());
    assert_eq!(opened.is_ok(), errors.is_empty(), "{:?} against {errors:?}", opened.err());
    for finding in &report.findings {
        assert!(finding.offset.is_none_or(|at| at <= bytes.len() as u64), "{finding}");
    }
    let model = check::check_bytes(shared, "fuzz.gguf", &Options { data: true, ..Options::default() });
    assert!(model.findings.len() >= report.findings.len());
}

/// Edits: a header that fits leaves every tensor where it was, and holds the new keys.
pub fn edit(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let Ok(file) = File::from_bytes(Bytes::copy_from_slice(bytes)) else { return };
    let Some(key) = file.metadata().iter().map(|(k, _)| k.to_owned()).nth(usize::from(choice >> 3)) else { return };
    let change = match choice & 7 {
        0 => Change::Remove(key),
        1 => Change::Rename(key, "renamed.key".into()),
        2 => Change::Set(key, Value::from("a text")),
        3 => Change::Set("new.key".into(), Value::U8(choice)),
        4 => Change::Reserve(u64::from(choice) * 8),
        5 => Change::Set(key, Value::from(Array::strings(["a", "b"]))),
        6 => Change::Set("general.alignment".into(), Value::U32(1 << (choice >> 4))),
        _ => Change::Rename("absent".into(), key),
    };
    let Ok(metadata) = edit::apply(file.metadata(), &[change]) else { return };
    let Ok(Some(fitting)) = edit::fit(&file, &metadata) else { return };
    let mut edited = bytes.to_vec();
    edited[..fitting.header().len()].copy_from_slice(fitting.header());
    let again = File::from_bytes(edited.into()).expect("an edited file can be read");
    let (mut wanted, mut got) = (metadata, again.metadata().clone());
    // The reserved space is what gives way.
    wanted.remove(edit::RESERVED);
    got.remove(edit::RESERVED);
    assert_same_metadata(&wanted, &got);
    assert_eq!(file.tensors(), again.tensors());
    assert_eq!(data_of(&file).ok(), data_of(&again).ok());
}

/// Splits: the shards together hold what the whole held.
pub fn split(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let Ok(file) = File::from_bytes(Bytes::copy_from_slice(bytes)) else { return };
    let Ok(data) = data_of(&file) else { return };
    let limit = u64::from(choice >> 3);
    let division = Division {
        max_bytes: (choice & 1 != 0).then_some(limit * 64),
        max_tensors: (choice & 4 != 0).then_some(limit),
        metadata_first: choice & 2 != 0,
    };
    let Ok(parts) = division.parts(file.tensors(), file.alignment()) else { return };
    let (mut tensors, mut all) = (Vec::new(), Vec::new());
    for (i, part) in parts.iter().enumerate() {
        let metadata = split::metadata(file.metadata(), i, parts.len(), file.tensors().len(), KeyOrder::GgufSplit);
        let metadata = metadata.expect("few shards");
        let shard = write::copy_part(&file, part.clone(), &metadata, Endian::Little, Vec::new(), |_| {});
        let shard = File::from_bytes(shard.expect("a shard can be written").into()).expect("a shard can be read");
        assert_eq!(shard.alignment(), file.alignment());
        tensors.extend_from_slice(shard.tensors());
        all.extend(data_of(&shard).expect("a shard's data can be read"));
    }
    assert_eq!(file.tensors(), tensors);
    assert_eq!(data, all);
}
