//! Every hostile file gets the verdict it must get, through the library and through the program.

use assert_cmd::Command;
use gguf::Source;
use gguf::check::{self, Options, Profile, Severity};

fn cases() -> Vec<(String, serde_json::Value)> {
    let verdicts = fixtures::json("golden/hostile/verdicts.json");
    let cases = verdicts["cases"].as_object().expect("cases");
    assert!(cases.len() > 40);
    cases.iter().map(|(name, case)| (name.clone(), case.clone())).collect()
}

#[test]
fn every_file_gets_its_verdict() {
    let mut wrong = Vec::new();
    for (name, case) in cases() {
        let profile = if case["profile"] == "format" { Profile::Format } else { Profile::Model };
        let path = fixtures::path(&format!("golden/hostile/{name}"));
        let report = check::check(&path, &Options { profile, data: true, ..Options::default() }).expect("readable");
        let found: Vec<_> = report.findings.iter().map(|f| (f.severity, f.rule.name)).collect();
        let severity = match case["verdict"].as_str() {
            Some("ok") => None,
            Some("warning") => Some(Severity::Warning),
            _ => Some(Severity::Error),
        };
        let named = case["rule"].as_str();
        let good = match severity {
            None => found.is_empty(),
            Some(severity) => {
                report.passed() == (severity == Severity::Warning)
                    && found.iter().any(|&(s, rule)| s == severity && named.is_none_or(|n| n == rule))
            }
        };
        if !good {
            wrong.push(format!("{name}: wanted {case}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_strict_reader_refuses_what_the_checker_calls_an_error() {
    for (name, case) in cases() {
        if case["profile"] != "format" {
            continue;
        }
        let path = fixtures::path(&format!("golden/hostile/{name}"));
        let opened = gguf::File::open(&path);
        assert_eq!(opened.is_ok(), case["verdict"] != "error", "{name}: {opened:?}");
    }
}

/// Every key of a sound file as every other type, and every damaged file: no message shows how Rust prints a value.
#[test]
fn no_message_speaks_rust() {
    let mut messages = Vec::new();
    let mut judge = |path: &std::path::Path| {
        messages.extend(gguf::open(path).err().map(|e| e.to_string()));
        let options = Options { data: true, ..Options::default() };
        let report = check::check(path, &options).expect("readable");
        messages.extend(report.findings.into_iter().map(|f| f.message));
    };
    for (name, _) in cases() {
        judge(&fixtures::path(&format!("golden/hostile/{name}")));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = gguf::File::open(fixtures::path("golden/hostile/ok.gguf")).unwrap();
    let mut metadata = file.metadata().clone();
    for (key, value) in [
        ("split.no", gguf::Value::from(0_u16)),
        ("split.count", 1_u16.into()),
        ("general.alignment", 32_u32.into()),
        ("general.base_model.count", 1_u32.into()),
        ("tokenizer.ggml.pre", "default".into()),
        ("tokenizer.ggml.precompiled_charsmap", "".into()),
        ("tokenizer.ggml.suppress_tokens", gguf::Array::from(&[0_i32; 1][..]).into()),
    ] {
        if metadata.get(key).is_none() {
            metadata.set(key, value);
        }
    }
    let keys: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys {
        let others = [
            gguf::Value::from(3_u32),
            gguf::Value::from(-3_i32),
            gguf::Value::from(u64::MAX),
            gguf::Value::from(0.5_f32),
            gguf::Value::from(true),
            gguf::Value::from("text"),
            gguf::Value::from(gguf::Array::from(&[7_u32; 2][..])),
        ];
        for other in others {
            let mut retyped = metadata.clone();
            retyped.set(&*key, other);
            let Ok(bytes) = gguf::write::to_bytes(&retyped, file.tensors(), |i| {
                Ok(file.rows(i, 0..file.tensors()[i].rows())?.into_owned())
            }) else {
                continue;
            };
            let path = folder.path().join("retyped.gguf");
            std::fs::write(&path, bytes).unwrap();
            judge(&path);
        }
    }
    assert!(messages.len() > 200, "{}", messages.len());
    for message in messages {
        assert!(!fixtures::speaks_rust(&message), "{message}");
    }
}

#[test]
fn the_program_answers_with_the_exit_code() {
    for (name, code) in [("ok.gguf", 0), ("key-upper.gguf", 0), ("offset-overlap.gguf", 1), ("no-such-file.gguf", 3)] {
        let path = fixtures::path("golden/hostile").join(name);
        let run = Command::new(env!("CARGO_BIN_EXE_gguf"))
            .args(["check", "--data", "--profile", "format", "--json"])
            .arg(path)
            .assert()
            .code(code);
        if code < 3 {
            let report: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).expect("JSON");
            assert_eq!(report["passed"], code == 0, "{name}");
        }
    }
}
