//! Every rule of the table is broken by some file and named for it; the files they start from break none.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{Model, Raw, text};
use gguf::check::{self, Options, Profile, Severity};
use gguf::split::{self, KeyOrder};
use gguf::{Array, Endian, File, Source, TensorType, Value, ValueType, write};

/// The rules that a file breaks.
fn found(bytes: &[u8], profile: Profile) -> BTreeSet<&'static str> {
    let options = Options { profile, data: true, ..Options::default() };
    let report = check::check_bytes(bytes.to_vec().into(), "x.gguf", &options);
    report.findings.iter().map(|f| f.rule.name).collect()
}

fn array(element: u32, len: u64, data: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes()[..], &len.to_le_bytes(), data].concat()
}

/// Blocks of Q8_0: with weights, with zeros, and with numbers whose scale is 0.
const HELD: (u16, u8) = (0x3C00, 1);
const ZEROS: (u16, u8) = (0, 0);
const NUMBERS: (u16, u8) = (0x8000, 1);

/// A matrix of two rows of two blocks.
fn q8_0(rows: &[[(u16, u8); 2]; 2]) -> Vec<u8> {
    let mut raw = Raw::default().only(b"a", &[64, 2], 8, 0);
    raw.data.clear();
    for &(scale, step) in rows.as_flattened() {
        raw.data.extend(scale.to_le_bytes());
        raw.data.extend((0..32).map(|i| i * step));
    }
    raw.data.resize(raw.data.len().next_multiple_of(32), 0);
    raw.bytes()
}

#[test]
fn blocks_are_degenerate_where_weights_were_lost() {
    let is = |rows: &[[(u16, u8); 2]; 2]| found(&q8_0(rows), Profile::Format).contains("block-degenerate");
    assert!(is(&[[NUMBERS, NUMBERS], [NUMBERS, NUMBERS]]), "all of them too small");
    assert!(is(&[[HELD, ZEROS], [HELD, HELD]]), "a hole");
    assert!(is(&[[ZEROS, ZEROS], [ZEROS, ZEROS]]), "a matrix of zeros");
    // Padding: rows or columns that hold nothing at all.
    assert!(!is(&[[HELD, ZEROS], [HELD, ZEROS]]));
    assert!(!is(&[[HELD, HELD], [ZEROS, ZEROS]]));
    assert!(!is(&[[HELD, HELD], [HELD, HELD]]));
}

/// Files that break a rule of the container.
fn containers() -> Vec<(&'static str, Vec<u8>)> {
    let raw = Raw::default;
    let bytes = |raw: Raw| raw.bytes();
    let edited = |at: usize, with: &[u8]| {
        let mut out = raw().bytes();
        out[at..at + with.len()].copy_from_slice(with);
        out
    };
    let deep = (0..6).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    let big = {
        let file = File::from_bytes(raw().bytes().into()).expect("good");
        write::copy_part(&file, 0..1, file.metadata(), Endian::Big, Vec::new(), |_| {}).expect("written")
    };
    vec![
        ("header-truncated", raw().bytes()[..20].to_vec()),
        ("magic-invalid", edited(0, b"GGML")),
        ("edit-interrupted", edited(0, &gguf::edit::MARK)),
        ("version-unsupported", edited(4, &4_u32.to_le_bytes())),
        ("version-legacy", edited(4, &2_u32.to_le_bytes())),
        ("big-endian", big),
        ("count-exceeds-file", edited(8, &(1_u64 << 60).to_le_bytes())),
        ("kv-truncated", {
            let full = raw().key(b"x.y", 10, &7_u64.to_le_bytes());
            let cut = Raw { tensors: Vec::new(), data: Vec::new(), alignment: 1, ..full }.bytes();
            cut[..cut.len() - 4].to_vec()
        }),
        ("key-empty", bytes(raw().key(b"", 0, &[1]))),
        ("key-too-long", bytes(raw().key(&[b'a'; 65536], 0, &[1]))),
        ("key-charset", bytes(raw().key(b"General.Name", 0, &[1]))),
        ("key-invalid-utf8", bytes(raw().key(b"a\xff", 0, &[1]))),
        ("key-contains-nul", bytes(raw().key(b"general.name\0x", 0, &[1]))),
        ("key-duplicate", bytes(raw().key(b"a.b", 0, &[1]).key(b"a.b", 0, &[2]))),
        ("value-type-unknown", bytes(raw().key(b"a.b", 13, &[1]))),
        ("string-exceeds-file", bytes(raw().key(b"a.b", 8, &(1_u64 << 40).to_le_bytes()))),
        ("string-invalid-utf8", bytes(raw().key(b"a.b", 8, &text(b"\xff")))),
        ("string-contains-nul", bytes(raw().key(b"a.b", 8, &text(b"a\0b")))),
        ("bool-invalid", bytes(raw().key(b"a.b", 7, &[2]))),
        ("array-too-long", bytes(raw().key(b"a.b", 9, &array(4, 1 << 40, &[])))),
        ("array-element-type", bytes(raw().key(b"a.b", 9, &array(99, 0, &[])))),
        ("array-nested", bytes(raw().key(b"a.b", 9, &deep))),
        ("alignment-type", bytes(raw().key(b"general.alignment", 10, &32_u64.to_le_bytes()))),
        ("alignment-invalid", bytes(raw().key(b"general.alignment", 4, &0_u32.to_le_bytes()))),
        ("alignment-unusual", {
            let raw = raw().key(b"general.alignment", 4, &4_u32.to_le_bytes());
            Raw { alignment: 4, ..raw }.bytes()
        }),
        ("tensor-info-truncated", bytes(Raw { n_tensors: Some(2), alignment: 1, data: Vec::new(), ..raw() })),
        ("tensor-name-empty", bytes(raw().only(b"", &[8], 0, 0))),
        ("tensor-name-too-long", bytes(raw().only(&[b'a'; 64], &[8], 0, 0))),
        ("tensor-name-duplicate", {
            let mut raw = raw().tensor(b"a", &[8], 0, 32);
            raw.data = vec![0; 64];
            raw.bytes()
        }),
        ("tensor-name-control", bytes(raw().only(b"a\x07", &[8], 0, 0))),
        ("tensor-too-many-dims", bytes(raw().only(b"a", &[8, 1, 1, 1, 1], 0, 0))),
        ("tensor-zero-dims", bytes(raw().only(b"a", &[], 0, 0))),
        ("tensor-dim-zero", bytes(raw().only(b"a", &[8, 0], 0, 0))),
        ("tensor-dim-negative", bytes(raw().only(b"a", &[u64::MAX], 0, 0))),
        ("tensor-elements-overflow", bytes(raw().only(b"a", &[1 << 40, 1 << 40], 0, 0))),
        ("tensor-bytes-overflow", bytes(raw().only(b"a", &[1 << 62], 0, 0))),
        ("tensor-type-unknown", bytes(raw().only(b"a", &[8], 43, 0))),
        ("tensor-type-removed", bytes(raw().only(b"a", &[8], 31, 0))),
        ("tensor-type-intermediate", bytes(raw().only(b"a", &[32], 9, 0))),
        ("tensor-row-not-block-multiple", bytes(raw().only(b"a", &[8, 4], 8, 0))),
        ("tensor-offset-unaligned", bytes(raw().only(b"a", &[4], 0, 8))),
        ("tensor-offset-overflow", bytes(raw().only(b"a", &[8], 0, u64::MAX - 31))),
        ("tensor-overlap", bytes(raw().tensor(b"b", &[8], 0, 0))),
        ("tensor-offset-not-contiguous", {
            let mut raw = raw().tensor(b"b", &[8], 0, 64);
            raw.data = vec![0; 96];
            raw.bytes()
        }),
        ("tensor-out-of-file", bytes(raw().only(b"a", &[16], 0, 0))),
        ("final-padding-missing", {
            let mut raw = raw().only(b"a", &[4], 0, 0);
            raw.data.truncate(16);
            raw.bytes()
        }),
        ("trailing-bytes", [raw().bytes(), vec![0; 32]].concat()),
        ("padding-nonzero", {
            let mut raw = raw().only(b"a", &[4], 0, 0);
            raw.data[20] = 1;
            raw.bytes()
        }),
        ("data-nonfinite", {
            let mut raw = raw();
            raw.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            raw.bytes()
        }),
        ("block-scale-nonfinite", {
            let mut raw = raw().only(b"a", &[32], 8, 0);
            raw.data = [&0x7C00_u16.to_le_bytes()[..], &[0; 62]].concat();
            raw.bytes()
        }),
        ("mxfp4-scale-invalid", {
            let mut raw = raw().only(b"a", &[32], 39, 0);
            raw.data = [&[0xFF][..], &[0; 31]].concat();
            raw.bytes()
        }),
        ("block-scale-nonfinite", {
            let mut raw = raw().only(b"a", &[64], 40, 0);
            raw.data = [&[0x38, 0x38, 0x7F, 0x38][..], &[0x11; 60]].concat();
            raw.bytes()
        }),
        ("block-degenerate", q8_0(&[[HELD, NUMBERS], [HELD, HELD]])),
    ]
}

/// Models that break a rule of models.
fn models() -> Vec<(&'static str, Model)> {
    let m = Model::llama;
    let strings = |items: &[&str]| Value::from(Array::strings(items));
    let bpe = || m().set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", "gpt-2");
    let mut duplicate: Vec<String> = (0..260).map(|i| format!("t{i}")).collect();
    duplicate[9] = "t8".into();
    let mut long = duplicate.clone();
    (long[9], long[10]) = ("x".repeat(70_000), String::new());
    vec![
        ("architecture-missing", m().without("general.architecture")),
        ("architecture-unknown", m().set("general.architecture", "lama")),
        ("architecture-charset", m().set("general.architecture", "La ma")),
        (
            "quantization-version-missing",
            m().without("general.quantization_version").tensor("output.weight", &[32, 4], TensorType::Q8_0),
        ),
        ("quantization-version-unknown", m().set("general.quantization_version", 1_u32)),
        ("file-type-unknown", m().set("general.file_type", 4_u32)),
        ("file-type-mismatch", m().set("general.file_type", 1_u32)),
        ("general-type-unknown", m().set("general.type", "song")),
        ("general-value-type", m().set("general.name", 7_u32)),
        ("license-not-spdx", m().set("general.license", "do what you like")),
        ("uuid-doi-url-format", m().set("general.uuid", "1234")),
        ("languages-not-iso639", m().set("general.languages", strings(&["en", "xx"]))),
        ("base-model-count", m().set("general.base_model.0.name", "A")),
        ("size-label-mismatch", m().set("general.size_label", "7B")),
        ("hparam-missing", m().without("llama.context_length")),
        ("hparam-type", m().set("llama.context_length", 64_u64)),
        ("hparam-range", m().set("llama.block_count", 0_u32)),
        ("hparam-array-length", m().set("llama.attention.head_count_kv", Array::from(&[1_u32, 1][..]))),
        ("head-divisibility", m().set("llama.attention.head_count", 3_u32)),
        ("rope-dimension-mismatch", m().set("llama.rope.dimension_count", 2_u32)),
        ("rope-scaling-type", m().set("llama.rope.scaling.type", "magic")),
        ("float-hparam-invalid", m().set("llama.rope.freq_base", f32::NAN)),
        ("tensor-missing", m().without_tensor("blk.0.ffn_up.weight")),
        ("tensor-unexpected", m().tensor("blk.0.soul.weight", &[8], TensorType::F32)),
        ("block-index-range", m().tensor("blk.1.attn_norm.weight", &[8], TensorType::F32)),
        ("tensor-shape-mismatch", m().tensor("blk.0.attn_q.weight", &[8, 4], TensorType::F32)),
        ("tokenizer-model-unknown", m().set("tokenizer.ggml.model", "rot13")),
        ("tokenizer-pre-unknown", bpe().set("tokenizer.ggml.pre", "nobody")),
        ("tokenizer-pre-missing", bpe().without("tokenizer.ggml.pre")),
        ("tokens-missing", m().without("tokenizer.ggml.tokens")),
        ("vocab-size-mismatch", m().set("llama.vocab_size", 7_u32)),
        ("token-duplicate", m().set("tokenizer.ggml.tokens", Array::strings(&duplicate))),
        ("token-empty", m().set("tokenizer.ggml.tokens", Array::strings(&long))),
        ("token-too-long", m().set("tokenizer.ggml.tokens", Array::strings(&long))),
        ("scores-type", m().set("tokenizer.ggml.scores", strings(&["0"]))),
        ("scores-length", m().set("tokenizer.ggml.scores", Array::from(&[0_f32][..]))),
        ("scores-nonfinite", m().set("tokenizer.ggml.scores", Array::from(&vec![f32::NAN; 260][..]))),
        ("token-type-type", m().set("tokenizer.ggml.token_type", strings(&["1"]))),
        ("token-type-length", m().set("tokenizer.ggml.token_type", Array::from(&[1_i32][..]))),
        ("token-type-range", m().set("tokenizer.ggml.token_type", Array::from(&vec![9_i32; 260][..]))),
        ("merges-missing", bpe()),
        ("merges-form", bpe().set("tokenizer.ggml.merges", strings(&["ab"]))),
        ("merges-unknown-token", bpe().set("tokenizer.ggml.merges", strings(&["a b"]))),
        ("special-id-range", m().set("tokenizer.ggml.eos_token_id", 260_u32)),
        ("special-id-type", m().set("tokenizer.ggml.eos_token_id", "2")),
        ("byte-tokens-missing", m().set("tokenizer.ggml.tokens", Array::strings(&duplicate))),
        ("separator-key-spelling", m().set("tokenizer.ggml.separator_token_id", 1_u32)),
        ("charsmap-invalid", m().set("tokenizer.ggml.precompiled_charsmap", Array::from(&[9_u8, 0, 0, 0, 1][..]))),
        ("suppress-id-range", m().set("tokenizer.ggml.suppress_tokens", Array::from(&[999_i32][..]))),
        ("chat-template-missing", {
            let mut tokens = duplicate.clone();
            (tokens[9], tokens[10]) = ("t9".into(), "<|im_start|>".into());
            m().set("general.name", "Tiny Chat").set("tokenizer.ggml.tokens", Array::strings(&tokens))
        }),
        ("chat-template-unparseable", m().set("tokenizer.chat_template", "{% for m in %}")),
        ("chat-template-unsafe", m().set("tokenizer.chat_template", "{{ x.__class__ }}")),
        ("chat-templates-names", m().set("tokenizer.chat_templates", strings(&["rag"]))),
        ("adapter-invalid", m().set("general.type", "adapter")),
        ("projector-empty", {
            let mut empty = Model::projector();
            empty.tensors.clear();
            empty
        }),
        ("projector-tower", Model::projector().set("clip.projector_type", "no such kind")),
        ("projector-tower", Model::projector().without("clip.has_vision_encoder")),
        ("projector-key-missing", Model::projector().without("clip.vision.block_count")),
        ("projector-key-value", Model::projector().set("clip.vision.patch_size", 0_u32)),
        ("projector-key-value", Model::projector().set("clip.vision.attention.head_count", 3_u32)),
        ("projector-key-value", Model::projector().set("clip.use_gelu", true).set("clip.use_silu", true)),
        ("projector-tensor-missing", Model::projector().without_tensor("v.blk.0.attn_k.weight")),
        ("projector-tensor-missing", Model::projector().set("clip.vision.block_count", 2_u32)),
        ("projector-tensor-lacking", Model::projector().without_tensor("v.token_embd.img_break")),
        ("projector-layer-range", Model::projector().tensor("v.blk.1.ln1.weight", &[8], TensorType::F32)),
        ("projector-shape", Model::projector().tensor("v.blk.0.attn_out.weight", &[8, 16], TensorType::F32)),
        ("projector-shape", Model::projector().tensor("mm.1.bias", &[99], TensorType::F32)),
    ]
}

/// Files of a split model that break a rule of splits.
fn splits(folder: &Path) -> Vec<(&'static str, std::path::PathBuf)> {
    let whole = File::from_bytes(Model::llama().bytes().into()).expect("good");
    let shards = |name: &str, change: &dyn Fn(usize, &mut gguf::Metadata), second: std::ops::Range<usize>| {
        let prefix = folder.join(name);
        for (i, part) in [0..6, second].into_iter().enumerate() {
            let mut keys = split::metadata(whole.metadata(), i, 2, 12, KeyOrder::GgufSplit).expect("two");
            change(i, &mut keys);
            let bytes = write::copy_part(&whole, part, &keys, Endian::Little, Vec::new(), |_| {}).expect("written");
            std::fs::write(split::path(&prefix, i, 2), bytes).expect("written");
        }
        split::path(&prefix, 0, 2)
    };
    let good = shards("good", &|_, _| {}, 6..12);
    let options = Options { data: true, ..Options::default() };
    let report = check::check(&good, &options).expect("readable");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.files.len(), 2);
    let renamed = folder.join("renamed.gguf");
    std::fs::copy(&good, &renamed).expect("copied");
    let lonely = shards("lonely", &|_, _| {}, 6..12);
    std::fs::remove_file(split::path(folder.join("lonely"), 1, 2)).expect("removed");
    let set = |key: &'static str, i: usize, value: Value| {
        move |n: usize, keys: &mut gguf::Metadata| {
            if n == i {
                keys.set(key, value.clone());
            }
        }
    };
    vec![
        ("split-key-type", shards("type", &set(split::TENSORS_COUNT, 0, Value::U32(12)), 6..12)),
        ("split-key-missing", shards("missing", &|_, keys| _ = keys.remove(split::TENSORS_COUNT), 6..12)),
        ("split-first-shard", split::path(folder.join("good"), 1, 2)),
        ("split-number", shards("number", &set(split::NO, 1, Value::U16(0)), 6..12)),
        ("split-filename", renamed),
        ("split-file-missing", lonely),
        ("split-count-mismatch", shards("count", &set(split::COUNT, 1, Value::U16(3)), 6..12)),
        ("split-tensor-count", shards("tensors", &set(split::TENSORS_COUNT, 0, Value::I32(11)), 6..12)),
        ("split-tensor-duplicate", shards("twice", &|_, _| {}, 0..6)),
    ]
}

#[test]
fn every_rule_is_broken_by_a_file_and_named_for_it() {
    assert_eq!(found(&Raw::default().bytes(), Profile::Format), BTreeSet::new());
    assert_eq!(found(&Model::llama().bytes(), Profile::Model), BTreeSet::new());
    assert_eq!(found(&Model::projector().bytes(), Profile::Model), BTreeSet::new());
    let mut named = BTreeSet::new();
    for (rule, bytes) in containers() {
        let rules = found(&bytes, Profile::Format);
        assert!(rules.contains(rule), "{rule}: found {rules:?}");
        named.insert(rule);
    }
    for (rule, model) in models() {
        let rules = found(&model.bytes(), Profile::Model);
        assert!(rules.contains(rule), "{rule}: found {rules:?}");
        // The container of a wrong model is not wrong.
        assert_eq!(found(&model.filled(1), Profile::Format), BTreeSet::new(), "{rule}");
        named.insert(rule);
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (rule, path) in splits(folder.path()) {
        let report = check::check(&path, &Options::default()).expect("readable");
        let rules: BTreeSet<_> = report.findings.iter().map(|f| f.rule.name).collect();
        assert!(rules.contains(rule), "{rule}: found {rules:?}");
        named.insert(rule);
    }
    for name in ["a model.gguf", "model.bin", "model-Q4_K_M.gguf"] {
        let path = folder.path().join(name);
        std::fs::write(&path, Model::llama().bytes()).expect("written");
        let report = check::check(&path, &Options::default()).expect("readable");
        let rules: Vec<_> = report.findings.iter().map(|f| f.rule.name).collect();
        assert_eq!(rules, ["filename-convention"], "{name}");
        named.insert("filename-convention");
    }
    let all: BTreeSet<_> = check::rules().map(|r| r.name).collect();
    assert_eq!(all, named);
}

#[test]
fn rules_can_be_denied_and_allowed() {
    let bytes = Raw::default().key(b"General.Name", 0, &[1]).bytes();
    let run = |options: Options| check::check_bytes(bytes.clone().into(), "x.gguf", &options);
    let base = Options { profile: Profile::Format, ..Options::default() };
    assert!(run(base.clone()).passed());
    assert!(!run(Options { deny: vec!["key-charset"], ..base.clone() }).passed());
    assert!(!run(Options { warnings_as_errors: true, ..base.clone() }).passed());
    assert!(run(Options { allow: vec!["key-charset"], ..base }).findings.is_empty());
}

#[test]
fn a_flood_of_findings_is_counted_but_not_kept() {
    let flags = vec![7_u8; 5000];
    let bytes = Raw::default().key(b"a.b", 9, &array(7, 5000, &flags)).bytes();
    let report =
        check::check_bytes(bytes.into(), "x.gguf", &Options { profile: Profile::Format, ..Options::default() });
    assert_eq!(report.count(Severity::Error) as u64, check::MOST_PER_RULE);
    assert_eq!(report.more.iter().map(|(r, n)| (r.name, *n)).collect::<Vec<_>>(), [("bool-invalid", 4800)]);
}

/// The advisories at the end of the rules' page, each with a file of its kind: refused, never read past.
#[test]
fn what_broke_readers_before_is_refused() {
    let raw = Raw::default;
    let huge = u64::MAX / 8;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("CVE-2024-25664: tensor count", Raw { n_tensors: Some(huge), ..raw() }.bytes(), "count-exceeds-file"),
        ("CVE-2024-25665: key count", Raw { n_keys: Some(huge), ..raw() }.bytes(), "count-exceeds-file"),
        ("CVE-2024-25666: string length", raw().key(b"a.b", 8, &huge.to_le_bytes()).bytes(), "string-exceeds-file"),
        ("CVE-2024-25667: array of strings", raw().key(b"a.b", 9, &array(8, huge, &[])).bytes(), "array-too-long"),
        ("CVE-2024-25668: array of numbers", raw().key(b"a.b", 9, &array(12, huge, &[])).bytes(), "array-too-long"),
        (
            "CVE-2024-21825: array count × size wraps",
            raw().key(b"a.b", 9, &array(10, (1 << 61) + 1, &[0; 8])).bytes(),
            "array-too-long",
        ),
        (
            "CVE-2024-23496: string length wraps with + 1",
            raw().key(b"a.b", 8, &u64::MAX.to_le_bytes()).bytes(),
            "string-exceeds-file",
        ),
        (
            "CVE-2024-21802: tensor count × size wraps",
            Raw { n_tensors: Some((1 << 58) + 1), ..raw() }.bytes(),
            "count-exceeds-file",
        ),
        ("CVE-2024-21836: more dimensions than room", raw().only(b"a", &[1; 9], 0, 0).bytes(), "tensor-too-many-dims"),
        (
            "CVE-2024-23605: key count × size wraps",
            Raw { n_keys: Some((1 << 59) + 1), ..raw() }.bytes(),
            "count-exceeds-file",
        ),
        (
            "CVE-2025-53630: sizes add up past 2^64",
            raw()
                .only(b"a", &[1 << 60], 0, 0)
                .tensor(b"b", &[1 << 60], 0, 1 << 62)
                .tensor(b"c", &[1 << 60], 0, 2 << 62)
                .tensor(b"d", &[1 << 60], 0, 3 << 62)
                .bytes(),
            "tensor-bytes-overflow",
        ),
        (
            "CVE-2026-27940: padding wraps",
            raw().only(b"a", &[(1 << 63) - 1], 24, 0).tensor(b"b", &[(1 << 63) - 1], 24, 1 << 63).bytes(),
            "tensor-bytes-overflow",
        ),
        (
            "CVE-2026-33298: elements wrap",
            raw().only(b"a", &[1 << 32, 1 << 31, 2], 0, 0).bytes(),
            "tensor-elements-overflow",
        ),
        (
            "CVE-2025-0317: alignment 0",
            raw().key(b"general.alignment", 4, &0_u32.to_le_bytes()).bytes(),
            "alignment-invalid",
        ),
        ("CVE-2024-39720: four bytes", b"GGUF".to_vec(), "header-truncated"),
        ("CVE-2026-7482: offset past the end", raw().only(b"a", &[8], 0, 1 << 20).bytes(), "tensor-out-of-file"),
        (
            "nested arrays",
            raw()
                .key(b"a.b", 9, &(0..3000).fold(array(0, 0, &[]), |x, _| [&array(9, 1, &[])[..], &x].concat()))
                .bytes(),
            "array-nested",
        ),
    ];
    for (what, bytes, rule) in cases {
        assert!(found(&bytes, Profile::Format).contains(rule), "{what}: {:?}", found(&bytes, Profile::Format));
        assert!(File::from_bytes(bytes.into()).is_err(), "{what}");
    }
    // Zero dimensions are no error, and divide nothing.
    let zero = raw().only(b"a", &[0], 8, 0).bytes();
    let file = File::from_bytes(zero.into()).expect("empty tensors can be read");
    assert_eq!(file.rows(0, 0..1).expect("an empty row").len(), 0);
    // CVE-2024-8063: a known key of another type is told, and asked for it says nothing.
    let wrong = Model::llama().set("general.name", 7_u32).set("tokenizer.ggml.bos_token_id", "one");
    assert!(found(&wrong.bytes(), Profile::Model).contains("special-id-type"));
    assert_eq!(wrong.metadata.str("general.name"), None);
    assert_eq!(wrong.metadata.u64("tokenizer.ggml.bos_token_id"), None);
    // CVE-2025-49847: a token longer than is sane. CVE-2024-34359, CVE-2026-5760: templates are never run.
    assert_eq!(ValueType::from_id(13), None);
}

#[test]
fn arrays_in_arrays_are_a_warning_down_to_four_and_an_error_below() {
    // Whatever stands at the bottom: numbers, strings, or nothing.
    let bottoms = [array(0, 2, &[1, 2]), array(8, 1, &text(b"a")), array(8, 0, &[]), array(9, 0, &[])];
    for bottom in bottoms {
        for deep in 1..8 {
            let value = (1..deep).fold(bottom.clone(), |inner, _| array(9, 1, &inner));
            let bytes = Raw::default().key(b"a.b", 9, &value).bytes();
            let options = Options { profile: Profile::Format, data: true, ..Options::default() };
            let report = check::check_bytes(bytes.clone().into(), "x.gguf", &options);
            assert_eq!(report.passed(), deep <= 4, "{deep}: {:?}", report.findings);
            assert_eq!(File::from_bytes(bytes.into()).is_ok(), deep <= 4, "{deep}");
            let nested = report.findings.iter().any(|f| f.rule.name == "array-nested");
            assert_eq!(nested, deep > 1 || bottom[..4] == 9_u32.to_le_bytes(), "{deep}");
        }
    }
}

#[test]
fn experts_of_which_none_is_said_to_be_used_are_an_error() {
    let mixed = Model::llama().set("llama.expert_count", 8_u32);
    let rules = |m: &Model| found(&m.bytes(), Profile::Model);
    assert!(rules(&mixed).contains("hparam-missing"));
    assert!(rules(&mixed.clone().set("llama.expert_used_count", 0_u32)).contains("hparam-range"));
    assert!(rules(&mixed.clone().set("llama.expert_used_count", 9_u32)).contains("hparam-range"));
    let used = mixed.set("llama.expert_used_count", 2_u32);
    assert!(!rules(&used).contains("hparam-missing") && !rules(&used).contains("hparam-range"));
    let none = Model::llama().set("llama.expert_count", 0_u32);
    assert!(!rules(&none).contains("hparam-missing"));
}

#[test]
fn a_licence_is_judged_by_its_name_and_no_other_is_advised() {
    let findings = |license: &str| {
        let bytes = Model::llama().set("general.license", license).bytes();
        let report = check::check_bytes(bytes.into(), "x.gguf", &Options::default());
        report.findings.into_iter().filter(|f| f.rule.name == "license-not-spdx").collect::<Vec<_>>()
    };
    let good = [
        "MIT",
        "apache-2.0",
        "MIT OR Apache-2.0",
        "gemma",
        "llama3.1",
        "Llama2",
        "openrail++",
        "other",
        "LicenseRef-x",
    ];
    for license in good {
        assert!(findings(license).is_empty(), "{license}: {:?}", findings(license));
    }
    for (license, reference) in [
        ("do what you like", "LicenseRef-do-what-you-like"),
        ("Qwen Research v1.1", "LicenseRef-Qwen-Research-v1.1"),
        ("\u{1b}[2J", "LicenseRef-2J"),
        ("", "LicenseRef-NAME"),
    ] {
        let found = findings(license);
        assert_eq!(found.len(), 1, "{license}");
        let fix = &found[0].fix;
        assert!(fix.contains(reference) && !fix.contains("MIT") && !fix.contains('\u{1b}'), "{fix}");
        assert!(!found[0].rule.fix.contains("MIT"));
    }
}

/// What a rule about types advises is what `gguf set` does: the value gets the type that the rule asks for.
#[test]
fn the_type_that_a_key_is_set_to_is_the_one_that_the_check_wants() {
    let wrong: &[(&str, Value, &str)] = &[
        ("llama.rope.freq_base", Value::U32(10000), "10000"),
        ("llama.attention.layer_norm_rms_epsilon", Value::F64(1e-5), "0.00001"),
        ("llama.context_length", Value::U64(64), "64"),
        ("llama.attention.head_count_kv", Value::I32(1), "1"),
        ("tokenizer.ggml.bos_token_id", Value::from("one"), "1"),
        ("general.name", Value::U32(7), "7"),
        ("general.quantization_version", Value::I64(2), "2"),
        ("general.tags", Value::from("chat"), "[\"chat\"]"),
        ("general.languages", Value::from(Array::from(&[1_u8][..])), "[\"en\"]"),
        ("split.count", Value::U32(0), "0"),
        ("split.no", Value::I32(0), "0"),
        ("split.tensors.count", Value::U64(12), "12"),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    for (key, value, text) in wrong {
        let model = Model::llama().set(key, value.clone());
        let typed = |m: &Model| {
            std::fs::write(&path, m.bytes()).expect("written");
            let report = check::check(&path, &Options::default()).expect("readable");
            report.findings.iter().map(|f| f.rule.name).filter(|r| r.ends_with("-type")).collect::<Vec<_>>()
        };
        assert_eq!(typed(&model).len(), 1, "{key}");
        let fixed = gguf::edit::value_for(key, Some(value), text).expect(key);
        assert_eq!(typed(&model.set(key, fixed.clone())), Vec::<&str>::new(), "{key}: {fixed:?}");
    }
}
