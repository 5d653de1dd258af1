//! What must hold for any file, and for any bytes at all.

mod common;

use common::bodies;
use gguf::check::{self, Options, Profile};
use gguf::{Array, Endian, File, Metadata, Shape, Source, TensorInfo, TensorType, Value, ValueType, write};
use proptest::prelude::*;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        ".{0,40}".prop_map(Value::from),
        (0_usize..70_000).prop_map(|n| Value::from("ä".repeat(n))),
        // Strings need not be UTF-8.
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|b| Value::String(bytes::Bytes::from(b).into())),
    ]
}

/// Arrays of any one type, empty ones and nested ones included.
fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 24, 6, |inner| {
        (inner, 0_usize..6, 0_usize..13).prop_map(|(item, n, empty)| {
            let element = if n == 0 { ValueType::ALL[empty] } else { item.value_type() };
            Value::Array(Array::of(element, std::iter::repeat_n(item, n)).expect("one type"))
        })
    })
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let alignment = prop_oneof![Just(None), (3_u32..13).prop_map(|shift| Some(1_u32 << shift))];
    (proptest::collection::vec(("[a-z]{1,8}\\.[a-z_]{1,8}", value()), 0..8), alignment).prop_map(|(keys, alignment)| {
        let mut metadata: Metadata = keys.into_iter().filter(|(k, _)| k != "general.alignment").collect();
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", alignment);
        }
        metadata
    })
}

/// Tensors of any type, each dimension from none to a few, with a seed for their data.
fn tensors() -> impl Strategy<Value = Vec<(TensorInfo, u8)>> {
    let types: Vec<TensorType> = TensorType::all().collect();
    let one = (proptest::sample::select(types), 0_u64..4, proptest::collection::vec(0_u64..4, 0..3), any::<u8>());
    proptest::collection::vec(one, 0..6).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(i, (ty, blocks, rest, seed))| {
                let dims: Vec<u64> = std::iter::once(blocks * ty.block_len()).chain(rest).collect();
                let info =
                    TensorInfo::new(format!("t{i}"), Shape::new(&dims).expect("small"), ty).expect("whole blocks");
                (info, seed)
            })
            .collect()
    })
}

fn data(info: &TensorInfo, seed: u8) -> Vec<u8> {
    (0..info.bytes()).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn written(metadata: &Metadata, tensors: &[(TensorInfo, u8)]) -> Vec<u8> {
    let infos: Vec<TensorInfo> = tensors.iter().map(|t| t.0.clone()).collect();
    write::to_bytes(metadata, &infos, |i| Ok(data(&tensors[i].0, tensors[i].1))).expect("a good plan")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(metadata in metadata(), tensors in tensors()) {
        let bytes = written(&metadata, &tensors);
        let file = File::from_bytes(bytes.clone().into()).expect("readable");
        bodies::assert_same_metadata(&metadata, file.metadata());
        let keys = |m: &Metadata| m.iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>();
        prop_assert_eq!(keys(&metadata), keys(file.metadata()));
        for (i, (info, seed)) in tensors.iter().enumerate() {
            prop_assert_eq!(&file.tensors()[i], info);
            let all = file.rows(i, 0..info.rows()).expect("rows");
            prop_assert_eq!(&all[..], &data(info, *seed)[..]);
        }
        // And written again it is the same file.
        prop_assert_eq!(write::copy(&file, file.metadata(), Vec::new(), |_| {}).expect("written"), bytes);
    }

    #[test]
    fn what_is_written_is_clean(metadata in metadata(), tensors in tensors()) {
        let bytes = written(&metadata, &tensors);
        let report = check::check_bytes(bytes.into(), "x.gguf", &Options { profile: Profile::Format, ..Options::default() });
        // The strategies make these on purpose: odd strings, empty and intermediate tensors.
        let expected = ["string-invalid-utf8", "string-contains-nul", "array-nested", "tensor-dim-zero", "tensor-type-intermediate"];
        let others: Vec<_> = report.findings.iter().filter(|f| !expected.contains(&f.rule.name)).collect();
        prop_assert!(others.is_empty(), "{others:?}");
    }

    #[test]
    fn the_other_byte_order_says_the_same(metadata in metadata(), tensors in tensors()) {
        let file = File::from_bytes(written(&metadata, &tensors).into()).expect("readable");
        let all = 0..file.tensors().len();
        match write::copy_part(&file, all, file.metadata(), Endian::Big, Vec::new(), |_| {}) {
            Ok(big) => {
                let again = File::from_bytes(big.into()).expect("readable");
                prop_assert_eq!(again.endian(), Endian::Big);
                bodies::assert_same_metadata(file.metadata(), again.metadata());
                prop_assert_eq!(file.tensors(), again.tensors());
                prop_assert_eq!(bodies::data_of(&file).expect("data"), bodies::data_of(&again).expect("data"));
            }
            Err(error) => prop_assert!(error.message().contains("not specified"), "{error:?}"),
        }
    }

    #[test]
    fn a_writer_takes_pieces_of_any_size(tensors in tensors(), sizes in proptest::collection::vec(1_usize..50, 1..9), big: bool) {
        let infos: Vec<TensorInfo> = tensors.iter().map(|t| t.0.clone()).collect();
        let endian = if big { Endian::Big } else { Endian::Little };
        let Ok(plan) = gguf::FileLayout::with_layout(&Metadata::new(), &infos, endian) else { return Ok(()) };
        let whole = {
            let mut writer = gguf::Writer::new(Vec::new(), plan.clone()).expect("a vector takes all");
            for (info, seed) in &tensors {
                writer.write(&data(info, *seed)).expect("as planned");
            }
            writer.finish().expect("complete")
        };
        let mut writer = gguf::Writer::new(Vec::new(), plan).expect("a vector takes all");
        for (info, seed) in &tensors {
            let (bytes, mut at) = (data(info, *seed), 0);
            for size in sizes.iter().cycle() {
                let end = bytes.len().min(at + size);
                writer.write(&bytes[at..end]).expect("as planned");
                at = end;
                if at == bytes.len() {
                    break;
                }
            }
        }
        prop_assert_eq!(writer.finish().expect("complete"), whole);
    }

    #[test]
    fn flipped_and_cut_bytes_never_panic(
        metadata in metadata(),
        tensors in tensors(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..=255), 1..4),
        cut in any::<prop::sample::Index>(),
        choice: u8,
    ) {
        let mut bytes = written(&metadata, &tensors);
        for (at, mask) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            bodies::read(bytes);
            bodies::check(bytes);
            let chosen = [&[choice], bytes].concat();
            bodies::edit(&chosen);
            bodies::split(&chosen);
        }
    }

    #[test]
    fn edits_and_splits_keep_every_tensor(metadata in metadata(), tensors in tensors(), choice: u8) {
        let chosen = [&[choice], &written(&metadata, &tensors)[..]].concat();
        bodies::edit(&chosen);
        bodies::split(&chosen);
    }
}

#[test]
fn every_byte_of_a_small_file_may_be_wrong() {
    let bytes = common::Raw::default()
        .key(b"a.b", 9, &[&8_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &common::text(b"hi")].concat())
        .bytes();
    for at in 0..bytes.len() {
        for mask in [1, 0x80, 0xFF] {
            let mut wrong = bytes.clone();
            wrong[at] ^= mask;
            bodies::read(&wrong);
            bodies::check(&wrong);
        }
        bodies::read(&bytes[..at]);
        bodies::check(&bytes[..at]);
    }
}

/// Inputs on which a fuzz target once crashed; the first part of the name is the target.
#[test]
fn what_once_crashed_does_not_any_more() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    for entry in std::fs::read_dir(folder).expect("the folder").flatten() {
        let bytes = std::fs::read(entry.path()).expect("readable");
        match entry.file_name().to_string_lossy().split('-').next() {
            Some("read") => bodies::read(&bytes),
            Some("check") => bodies::check(&bytes),
            Some("edit") => bodies::edit(&bytes),
            Some("split") => bodies::split(&bytes),
            _ => {}
        }
    }
}

/// Every step over tensors is linear in their number: one that is not takes minutes here.
#[test]
fn two_hundred_thousand_empty_tensors_are_no_burden() {
    let none = Shape::new(&[32, 0]).expect("small");
    let infos: Vec<TensorInfo> = (0..200_000)
        .map(|i| TensorInfo::new(format!("blk.{i}.x.weight"), none, TensorType::Q8_0).expect("whole blocks"))
        .collect();
    let bytes = write::to_bytes(&Metadata::new(), &infos, |_| Ok(Vec::new())).expect("written");
    let file = File::from_bytes(bytes.clone().into()).expect("readable");
    for (i, info) in infos.iter().enumerate() {
        assert_eq!(file.find(info.name()), Some(i));
    }
    assert_eq!(write::copy(&file, file.metadata(), Vec::new(), |_| {}).expect("written"), bytes);
    let report = check::check_bytes(bytes.into(), "x.gguf", &Options { data: true, ..Options::default() });
    assert!(report.more.iter().any(|(rule, n)| rule.name == "tensor-dim-zero" && *n == 200_000 - check::MOST_PER_RULE));
}
