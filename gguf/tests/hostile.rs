//! Every hostile file gets the verdict it must get, through the library and through the program.

use assert_cmd::Command;
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
