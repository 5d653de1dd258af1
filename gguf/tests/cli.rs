//! The program itself: results, exit codes, and files that change whole or not at all.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::program::{Folder, args, gguf, json, stderr, stdout};
use common::{Model, Raw};
use gguf::{File, Metadata, Source, Value, check};

fn imatrix() -> PathBuf {
    fixtures::path("golden/tiny-llama/imatrix.gguf")
}

#[test]
fn show_gives_metadata_tensors_and_totals() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().bytes());
    let text = stdout(&gguf(args(&["show"], &[&path])).code(0));
    for part in ["general.architecture", "blk.0.ffn_down.weight", "16 × 8", "Totals by type", "32.0000"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let shown = json(&gguf(args(&["show", "--json"], &[&path])).code(0));
    assert_eq!(shown["tensors"].as_array().map(Vec::len), Some(12));
    assert_eq!(shown["totals"]["all"]["bits_per_weight"], 32.0);
    assert_eq!(shown["metadata"]["llama.block_count"], serde_json::json!({"type": "u32", "value": 1}));
    let one = stdout(&gguf(args(&["show", "--key", "general.name"], &[&path])).code(0));
    assert_eq!(one, "Tiny\n");
    let missing = gguf(args(&["show", "--key", "nam"], &[&path])).code(3);
    assert!(stderr(&missing).contains("general.name"));
    // A hostile name cannot drive the terminal.
    let evil = folder.with("e.gguf", Raw::default().key(b"a.b", 8, &common::text(b"\x1b[2J")).bytes());
    assert!(!stdout(&gguf(args(&["show"], &[&evil])).code(0)).contains('\x1b'));
}

#[test]
fn the_layout_covers_every_byte_once() {
    let folder = Folder::new();
    let bytes = Raw::default().bytes();
    let path = folder.with("m.gguf", &bytes);
    let text = stdout(&gguf(args(&["show", "--layout"], &[&path])).code(0));
    let mut next = 0;
    for line in text.lines().skip(1).filter(|l| l.len() > 58 && l.as_bytes()[8] == b' ') {
        let at = usize::from_str_radix(&line[..8], 16).expect("an offset");
        assert_eq!(at, next, "{line}");
        let field: String = line.chars().skip(10).take(48).collect();
        let field = field.trim();
        let shown = field.split(" … ").next().unwrap_or("").split_whitespace().count();
        let len = field.split(" … ").nth(1).map_or(shown, |n| n.split(' ').next().unwrap().parse().expect("a count"));
        next += len;
    }
    assert_eq!(next, bytes.len());
}

#[test]
fn check_reports_rules_places_and_sarif() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Raw::default().key(b"a.b", 7, &[2]).only(b"a", &[16], 0, 0).bytes());
    let report = json(&gguf(args(&["check", "--profile", "format", "--json"], &[&path])).code(1));
    let findings = report["reports"][0]["findings"].as_array().expect("findings").clone();
    let of = |rule: &str| findings.iter().find(|f| f["rule"] == rule).expect(rule).clone();
    assert_eq!(of("bool-invalid")["key"], "a.b");
    assert_eq!(of("tensor-out-of-file")["tensor"], "a");
    assert!(of("bool-invalid")["offset"].as_u64().is_some_and(|at| at > 24));
    let sarif = json(&gguf(args(&["check", "--profile", "format", "--sarif"], &[&path])).code(1));
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    for result in run["results"].as_array().expect("results") {
        let index = result["ruleIndex"].as_u64().expect("an index") as usize;
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        assert!(["error", "warning"].contains(&result["level"].as_str().expect("a level")));
        assert!(result["message"]["text"].is_string());
        let uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str().expect("a URI");
        assert!(uri.starts_with("file:///"), "{uri}");
    }
    let allowed = ["check", "--profile", "format", "--allow", "bool-invalid", "--allow", "tensor-out-of-file"];
    gguf(args(&allowed, &[&path])).code(0);
    assert!(stderr(&gguf(args(&["check", "--deny", "no-such-rule"], &[&path])).code(2)).contains("near ones"));
    let rules = json(&gguf(["check", "--list-rules", "--json"]).code(0));
    assert_eq!(rules["rules"].as_array().map(Vec::len), Some(check::rules().count()));
    for rule in check::rules() {
        assert!(stdout(&gguf(["explain", rule.name]).code(0)).contains(rule.fix));
    }
}

#[test]
fn a_file_inside_a_larger_one_is_read_checked_and_taken_out() {
    let folder = Folder::new();
    let plain = Model::llama().bytes();
    let path = folder.with("bundle.bin", [&[7; 100][..], &plain].concat());
    assert!(stdout(&gguf(args(&["show", "--at", "100"], &[&path])).code(0)).contains("general.name"));
    gguf(args(&["check", "--at", "100", "--warnings-as-errors"], &[&path])).code(0);
    gguf(args(&["check", "--at", "99"], &[&path])).code(1);
    gguf(args(&["show", "--at", "9999999"], &[&path])).code(2);
    let out = folder.path("m.gguf");
    gguf(args(&["copy", "--at", "100"], &[&path, &out])).code(0);
    assert_eq!(fs::read(&out).expect("written"), plain);
}

#[test]
fn files_of_others_are_copied_to_the_same_bytes_and_back_from_the_other_order() {
    let folder = Folder::new();
    for path in [imatrix(), fixtures::path("golden/hostile/ok.gguf"), fixtures::path("golden/hostile/align-4096.gguf")]
    {
        let (big, little) = (folder.path("big.gguf"), folder.path("little.gguf"));
        gguf(args(&["copy", "--force", "--endian", "big"], &[&path, &big])).code(0);
        assert!(File::open(&big).is_ok_and(|f| f.endian() == gguf::Endian::Big));
        gguf(args(&["copy", "--force"], &[&big, &little])).code(0);
        assert_eq!(fs::read(&little).expect("written"), fs::read(&path).expect("readable"), "{}", path.display());
    }
    gguf(args(&["copy"], &[&imatrix(), &folder.path("big.gguf")])).code(2);
    gguf(args(&["copy", "--force"], &[&folder.path("big.gguf"), &folder.path("big.gguf")])).code(2);
}

/// Shards of `golden/tiny-llama/imatrix.gguf` as llama-gguf-split wrote them (`--split-max-tensors 20`;
/// `--no-tensor-first-split --split-max-size 1M`; and the first set merged).
#[test]
fn split_and_merge_write_the_bytes_of_gguf_split() {
    let folder = Folder::new();
    let sum = |name: &str| fixtures::sha256(&fs::read(folder.path(name)).expect(name));
    gguf(args(&["split", "--split-max-tensors", "20"], &[&imatrix(), &folder.path("a")])).code(0);
    assert_eq!(sum("a-00001-of-00003.gguf"), "185e5fb8298676f1c7bc57266e697754ba94d30d6ba84a1359dd0e7bbc0b041c");
    assert_eq!(sum("a-00002-of-00003.gguf"), "e334108df8052f23a417556b90982ac7502e9867dc43e319120d9bcda8bf6871");
    assert_eq!(sum("a-00003-of-00003.gguf"), "da559e592da7b33001de75a885a957d68d34c88a9e6055403b3678e6deaca7ac");
    let first = ["split", "--no-tensor-first-split", "--split-max-size", "1M"];
    gguf(args(&first, &[&imatrix(), &folder.path("b")])).code(0);
    assert_eq!(sum("b-00001-of-00002.gguf"), "07d8f3070f5021929eba9c196d818f359dc9f37e11a9bf8a780a6b7c39ddff21");
    assert_eq!(sum("b-00002-of-00002.gguf"), "484c6d4bddd1cdc503d816d7453b8dd94b7a76b8c249ec9bacfb02c79a3b290c");
    gguf(args(&["merge"], &[&folder.path("a-00001-of-00003.gguf"), &folder.path("m.gguf")])).code(0);
    assert_eq!(sum("m.gguf"), "5b210c3e29db7080d8688eae3a49fdeaa51241c08ed22580367d60a922105d4a");
    // The shards as one source are the whole.
    gguf(args(&["diff"], &[&folder.path("a-00001-of-00003.gguf"), &imatrix()])).code(0);
    // Nothing is replaced unasked, and nothing is written when one shard cannot be.
    let before = folder.names();
    gguf(args(&["split", "--split-max-tensors", "20"], &[&imatrix(), &folder.path("a")])).code(2);
    gguf(args(&["split", "--split-max-tensors", "20", "--dry-run"], &[&imatrix(), &folder.path("new")])).code(0);
    assert_eq!(folder.names(), before);
    fs::remove_file(folder.path("a-00002-of-00003.gguf")).expect("removed");
    let missing = gguf(args(&["merge", "--force"], &[&folder.path("a-00001-of-00003.gguf"), &folder.path("m.gguf")]));
    assert!(stderr(&missing.code(3)).contains("a-00002-of-00003.gguf"));
    let second = gguf(args(&["hash"], &[&folder.path("a-00003-of-00003.gguf")])).code(3);
    assert!(stderr(&second).contains("a-00001-of-00003.gguf"));
}

#[test]
fn shards_keep_another_alignment() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().set("general.alignment", 256_u32).bytes());
    gguf(args(&["split", "--split-max-tensors", "5"], &[&path, &folder.path("s")])).code(0);
    let first = folder.path("s-00001-of-00003.gguf");
    let shards: Vec<PathBuf> = (0..3).map(|i| gguf::split::path(folder.path("s"), i, 3)).collect();
    let shards: Vec<&Path> = shards.iter().map(PathBuf::as_path).collect();
    gguf(args(&["check", "--data", "--warnings-as-errors"], &shards)).code(0);
    gguf(args(&["merge"], &[&first, &folder.path("whole.gguf")])).code(0);
    assert!(File::open(folder.path("whole.gguf")).is_ok_and(|f| f.alignment() == 256));
    let ignore = ["diff", "--ignore", "split.no", "--ignore", "split.count", "--ignore", "split.tensors.count"];
    gguf(args(&ignore, &[&path, &folder.path("whole.gguf")])).code(0);
}

/// Hashes as llama-gguf-hash prints them for this file.
#[test]
fn hashes_are_those_of_gguf_hash() {
    let path = imatrix();
    let text = stdout(&gguf(args(&["hash", "--all", "--no-layer"], &[&path])).code(0));
    let name = path.display();
    assert_eq!(
        text,
        format!(
            "xxh64     f5e9bcb0422c3d44  {name}\nsha256    9e99a9e16c0686477b7ec0496e0b2f175ee699d7e528dba0b03ac681fcf4618e  {name}\n"
        )
    );
    let listed = stdout(&gguf(args(&["hash"], &[&path])).code(0));
    assert_eq!(listed.lines().count(), 57);
    assert!(listed.contains(&format!("{name}:blk.0.attn_k.weight.counts\n")));
}

#[test]
fn diff_tells_keys_and_tensors_apart() {
    let folder = Folder::new();
    let a = folder.with("a.gguf", Model::llama().bytes());
    let b =
        folder.with("b.gguf", Model::llama().set("general.name", "Other").without_tensor("output.weight").filled(1));
    gguf(args(&["diff"], &[&a, &a])).code(0);
    let found = json(&gguf(args(&["diff", "--json"], &[&a, &b])).code(1));
    assert_eq!(found["metadata"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["tensors"].as_array().map(Vec::len), Some(12));
    gguf(args(&["diff", "--metadata-only", "--ignore", "general.name"], &[&a, &b])).code(0);
}

fn metadata(path: &Path) -> Metadata {
    File::open(path).expect("readable").metadata().clone()
}

#[test]
fn keys_are_edited_in_place_where_they_fit_and_by_a_copy_where_not() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().filled(3));
    let data = |path: &Path| common::bodies::data_of(&File::open(path).expect("readable")).expect("data");
    let before = data(&path);
    let edit = |words: &[&str]| {
        let mut all = vec!["--json"];
        all.extend_from_slice(&words[..1]);
        let mut list = args(&all, &[&path]);
        list.extend(words[1..].iter().map(std::ffi::OsStr::new));
        json(&gguf(list).code(0))["how"].as_str().expect("how").to_owned()
    };
    assert_eq!(edit(&["set", "general.name", "Tony"]), "in place");
    assert_eq!(metadata(&path).str("general.name"), Some("Tony"));
    assert_eq!(edit(&["set", "general.description", &"x".repeat(300)]), "copied");
    assert_eq!(edit(&["set", "general.author", "me", "--reserve", "4K"]), "copied");
    // The reserved room takes what comes and gives it back.
    assert_eq!(edit(&["set", "general.organization", &"y".repeat(2000)]), "in place");
    assert_eq!(edit(&["remove", "general.organization", "general.author"]), "in place");
    assert_eq!(edit(&["rename", "general.description", "general.summary"]), "in place");
    assert_eq!(edit(&["set", "general.tags", "[\"a\",\"b\"]"]), "in place");
    let keys = metadata(&path);
    assert_eq!(keys.str("general.summary").map(str::len), Some(300));
    assert_eq!(keys.get("general.description"), None);
    assert_eq!(keys.array("general.tags").map(|a| a.len()), Some(2));
    // A key that exists keeps its type, which the value must fit.
    gguf(args(&["set"], &[&path, Path::new("llama.block_count"), Path::new("many")])).code(2);
    gguf(args(&["remove"], &[&path, Path::new("no.such_key")])).code(2);
    assert_eq!(edit(&["set", "llama.context_length", "128"]), "in place");
    assert_eq!(metadata(&path).get("llama.context_length"), Some(&Value::U32(128)));
    // Another alignment moves the tensors.
    assert_eq!(edit(&["set", "general.alignment", "64"]), "copied");
    assert_eq!(before, data(&path));
    gguf(args(&["check", "--warnings-as-errors", "--data"], &[&path])).code(0);
    assert_eq!(folder.names(), ["m.gguf"]);
    // With an output the input stays.
    let bytes = fs::read(&path).expect("readable");
    let out = folder.path("new.gguf");
    gguf(args(&["remove", "--output"], &[&out, &path, Path::new("general.name")])).code(0);
    assert_eq!(fs::read(&path).expect("readable"), bytes);
    assert_eq!(metadata(&out).str("general.name"), None);
}

#[test]
fn a_tensor_is_dumped_as_npy() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().tensor("q", &[64, 3], gguf::TensorType::Q8_0).filled(5));
    let out = folder.path("t.npy");
    let dump = |tensor: &str| {
        gguf(args(&["dump", "--force", "-o"], &[&out, &path, Path::new(tensor)])).code(0);
        fs::read(&out).expect("written")
    };
    let plain = dump("blk.0.ffn_down.weight");
    let text = String::from_utf8_lossy(&plain[..128]).into_owned();
    assert!(plain.starts_with(b"\x93NUMPY\x01\x00") && text.contains("'descr': '<f4'") && text.contains("(8,16,)"));
    assert_eq!(plain.len(), 128 + 8 * 16 * 4);
    let blocks = dump("q");
    assert!(String::from_utf8_lossy(&blocks[..128]).contains("'shape': (3,68,)"));
    assert_eq!(blocks.len(), 128 + 3 * 68);
    gguf(args(&["dump"], &[&path, Path::new("no.such.tensor")])).code(2);
}

#[test]
fn decoded_values_are_f32_rows() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().tensor("q", &[64, 3], gguf::TensorType::Q8_0).filled(5));
    let (npy, csv) = (folder.path("t.npy"), folder.path("t.csv"));
    let dump = |out: &Path, more: &[&str]| {
        gguf(args(&[&["dump", "--decode", "--force"], more, &["-o"]].concat(), &[out, &path, Path::new("q")])).code(0);
        fs::read(out).expect("written")
    };
    let values = dump(&npy, &[]);
    let text = String::from_utf8_lossy(&values[..128]).into_owned();
    assert!(text.contains("'descr': '<f4'") && text.contains("'shape': (3,64,)"), "{text}");
    let values: Vec<f32> = values[128..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    // A scale and 32 signed bytes make 32 values.
    let source = gguf::open(&path).expect("readable");
    let index = gguf::Source::find(&source, "q").expect("there");
    let bytes = gguf::Source::rows(&source, index, 0..3).expect("readable").into_owned();
    let expected = bytes.chunks_exact(34).flat_map(|block| {
        let d = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        block[2..].iter().map(move |q| f32::from(*q as i8) * d).collect::<Vec<_>>()
    });
    assert!(expected.eq(values.iter().copied()));
    // Lines of numbers read back as the same.
    for lines in [dump(&csv, &[]), dump(&folder.path("t"), &["--format", "csv"])] {
        let lines = String::from_utf8(lines).expect("text");
        assert_eq!(lines.lines().count(), 3);
        let read =
            lines.lines().flat_map(|line| line.split(',')).map(|number| number.parse::<f32>().expect("a number"));
        assert!(read.eq(values.iter().copied()));
    }
    // What is no number of a weight is named; without --decode there is no form.
    let path = folder.with("i.gguf", Model::llama().tensor("q", &[256, 1], gguf::TensorType::I32).filled(5));
    gguf(args(&["dump", "--decode", "-o"], &[&folder.path("i.npy"), &path, Path::new("q")])).code(3);
    gguf(args(&["dump", "--format", "csv", "-o"], &[&folder.path("i.csv"), &path, Path::new("q")])).code(2);
    assert!(!folder.names().contains(&"i.npy".to_owned()));
}

#[test]
fn every_help_has_an_example_and_wrong_usage_is_2() {
    let top = stdout(&gguf(["--help"]).code(0));
    let commands: Vec<&str> = top
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1)
        .take_while(|l| l.starts_with("  "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.len() >= 13, "{commands:?}");
    for command in commands {
        let help = stdout(&gguf([command, "--help"]).code(0));
        assert!(help.contains("Examples:") && help.contains(&format!("  gguf {command}")), "{command}: {help}");
    }
    gguf(["show"]).code(2);
    gguf(["shwo"]).code(2);
    gguf(["show", "/"]).code(3);
}

#[test]
fn a_known_key_gets_its_own_type() {
    let folder = Folder::new();
    let path = folder.with("m.gguf", Model::llama().bytes());
    let set = |key: &str, value: &str, more: &[&str]| {
        let mut list = args(&["set"], &[&path, Path::new(key), Path::new(value)]);
        list.extend(more.iter().map(std::ffi::OsStr::new));
        let run = gguf(list);
        (run.get_output().status.code(), stderr(&run), metadata(&path).get(key).cloned())
    };
    let stored = |key: &str, value: &str| set(key, value, &[]).2.expect("there");
    assert_eq!(stored("llama.rope.scaling.factor", "4"), Value::F32(4.0));
    assert_eq!(stored("general.version", "2"), Value::from("2"));
    assert_eq!(stored("general.basename", "true"), Value::from("true"));
    assert_eq!(stored("tokenizer.ggml.add_bos_token", "1"), Value::Bool(true));
    assert_eq!(stored("general.base_model.0.name", "7"), Value::from("7"));
    assert_eq!(stored("split.no", "0"), Value::U16(0));
    assert_eq!(stored("general.sampling.temp", "1"), Value::F32(1.0));
    let listed = |key: &str, value: &str| stored(key, value).as_array().expect("an array").element_type();
    assert_eq!(listed("llama.feed_forward_length", "[16]"), gguf::ValueType::U32);
    assert_eq!(listed("llama.attention.sliding_window_pattern", "[true]"), gguf::ValueType::Bool);
    assert_eq!(listed("general.tags", "[]"), gguf::ValueType::String);
    assert_eq!(listed("llama.rope.dimension_sections", "[1,2,1,0]"), gguf::ValueType::I32);
    // What is no value of the type is refused, and another type is stored on demand and told.
    let (code, said, _) = set("llama.context_length", "1.5", &[]);
    assert!(code == Some(2) && said.contains("llama.context_length is of type u32"), "{said}");
    assert_eq!(set("general.tags", "chat", &[]).0, Some(2));
    let (code, said, value) = set("llama.vocab_size", "9", &["--type", "u64"]);
    assert!(code == Some(0) && said.contains("as u32") && value == Some(Value::U64(9)), "{said}");
    // The wrong type goes with the next value.
    assert_eq!(stored("llama.vocab_size", "260"), Value::U32(260));
    // Keys of others keep the type they have.
    assert_eq!(set("my.key", "3", &["--type", "i16"]).2, Some(Value::I16(3)));
    assert_eq!(stored("my.key", "4"), Value::I16(4));
    assert_eq!(stored("my.other", "-4"), Value::I32(-4));
}

#[test]
fn a_manifest_of_hashes_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, Model::llama().bytes()).unwrap();
    let model = path.to_string_lossy().into_owned();
    let manifest = folder.path().join("m.manifest");
    let printed = stdout(&gguf(["hash", "--all", "--sha1", "--uuid", &model]).code(0));
    std::fs::write(&manifest, &printed).unwrap();
    let list = manifest.to_string_lossy().into_owned();
    gguf(["hash", "--check", &list, &model]).code(0);
    // The UUID is of version 5, of all tensors' data.
    let uuid = printed.lines().last().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!((uuid.len(), &uuid[14..15], printed.matches("uuid").count()), (36, "5", 1));
    // Another hash, a tensor too many and one too few are told; kinds may be chosen.
    let hash = printed.lines().find(|l| l.starts_with("sha1")).unwrap().split_whitespace().nth(1).unwrap();
    std::fs::write(&manifest, printed.replace(hash, &"0".repeat(40))).unwrap();
    let told = json(&gguf(["hash", "--check", &list, &model, "--json"]).code(1));
    let differ = told["compared"].as_array().unwrap().iter().filter(|c| c["says"] == "differs").count();
    assert_eq!((differ, &told["holds"]), (printed.matches(hash).count(), &false.into()));
    gguf(["hash", "--check", &list, "--sha256", &model]).code(0);
    let lines: Vec<&str> = printed.lines().filter(|l| l.starts_with("xxh64")).skip(1).collect();
    std::fs::write(&manifest, lines.join("\n")).unwrap();
    assert!(stdout(&gguf(["hash", "--check", &list, &model]).code(1)).contains("not in the manifest"));
    std::fs::write(&manifest, "md5 00 m.gguf\n").unwrap();
    gguf(["hash", "--check", &list, &model]).code(3);
}

#[test]
fn several_changes_are_one_edit_and_can_be_looked_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, Model::llama().bytes()).unwrap();
    let model = path.to_string_lossy().into_owned();
    let before = std::fs::read(&path).unwrap();
    let template = folder.path().join("tokenizer_config.json");
    std::fs::write(&template, "{\"chat_template\": \"{{ messages }}\"}").unwrap();
    let template = template.to_string_lossy().into_owned();
    let changes = [
        "--set",
        "general.name=Mine",
        "--set",
        "general.url=u=v",
        "--special-token",
        "pad=</s>",
        "--special-token-by-id",
        "eot=1",
        "--chat-template",
        &template,
    ];
    let looked = json(&gguf(["set", &model, "--dry-run", "--json"].iter().chain(&changes)).code(0));
    assert_eq!((&looked["written"], looked["changes"].as_array().map(Vec::len)), (&false.into(), Some(5)));
    assert!(std::fs::read(&path).unwrap() == before);
    gguf(["set", &model].iter().chain(&changes)).code(0);
    let key = |key: &str| stdout(&gguf(["show", &model, "--key", key]).code(0)).trim().to_owned();
    assert_eq!(key("general.name"), "Mine");
    assert_eq!(key("general.url"), "u=v");
    assert_eq!(key("tokenizer.ggml.padding_token_id"), "2");
    assert_eq!(key("tokenizer.ggml.eot_token_id"), "1");
    assert_eq!(key("tokenizer.chat_template"), "{{ messages }}");
    let copy = folder.path().join("copy.gguf").to_string_lossy().into_owned();
    gguf(["copy", &model, &copy, "--remove", "general.url", "--rename", "general.name=general.basename"]).code(0);
    let told = json(&gguf(["show", &copy, "--json"]).code(0));
    assert!(told["metadata"].get("general.url").is_none());
    assert_eq!(told["metadata"]["general.basename"]["value"], "Mine");
    for wrong in [
        ["--special-token", "pad=no such token"],
        ["--special-token", "nope=</s>"],
        ["--special-token-by-id", "eot=99999999"],
    ] {
        gguf(["set", &model].iter().chain(&wrong)).code(2);
    }
    let markdown = stdout(&gguf(["show", &copy, "--markdown"]).code(0));
    assert!(markdown.contains("| `general.basename` | str | `Mine` |"), "{markdown}");
}

#[test]
fn a_file_that_is_cut_short_is_one_finding() {
    let folder = Folder::new();
    let whole = Model::llama().bytes();
    let path = folder.with("m.gguf", &whole[..whole.len() / 2]);
    let report = json(&gguf(args(&["check", "--json"], &[&path])).code(1));
    let findings = report["reports"][0]["findings"].as_array().expect("findings");
    let cut: Vec<_> = findings.iter().filter(|f| f["rule"] == "tensor-out-of-file").collect();
    assert_eq!(cut.len(), 1, "{findings:?}");
    assert!(cut[0]["message"].as_str().is_some_and(|m| m.contains("bytes are missing")), "{cut:?}");
    let errors = findings.iter().filter(|f| f["severity"] == "error").count();
    assert_eq!(errors, 1, "{findings:?}");
}
