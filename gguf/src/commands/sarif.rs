//! SARIF 2.1.0, as code-scanning viewers read it.

use std::path::Path;

use gguf::check::{Finding, Report, Rule, Severity};
use serde_json::{Value as Json, json};

/// A log of one run over these files.
pub fn log(reports: &[Report]) -> Json {
    // Only rules that were broken: viewers list every rule of a run.
    let mut rules: Vec<&'static Rule> = Vec::new();
    for finding in reports.iter().flat_map(|r| &r.findings) {
        if !rules.iter().any(|r| r.name == finding.rule.name) {
            rules.push(finding.rule);
        }
    }
    let results: Vec<Json> = reports.iter().flat_map(|r| &r.findings).map(|finding| result(finding, &rules)).collect();
    let artifacts: Vec<Json> =
        reports.iter().flat_map(|r| &r.files).map(|f| json!({"location": {"uri": uri(f)}})).collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "gguf check",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules.iter().map(|r| descriptor(r)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "artifacts": artifacts,
            "invocations": [{"executionSuccessful": true}],
            "results": results,
        }],
    })
}

fn descriptor(rule: &Rule) -> Json {
    json!({
        "id": rule.name,
        "name": pascal(rule.name),
        "shortDescription": {"text": rule.what},
        "fullDescription": {"text": format!("{} (source: {})", rule.what, rule.source)},
        "help": {"text": rule.mend},
        "defaultConfiguration": {"level": rule.severity.name()},
        "properties": {"tags": [rule.group.name()]},
    })
}

fn result(finding: &Finding, rules: &[&'static Rule]) -> Json {
    let mut physical = json!({"artifactLocation": {"uri": uri(&finding.file)}});
    if let Some(offset) = finding.offset {
        physical["region"] = json!({"byteOffset": offset, "byteLength": 0});
    }
    let mut location = json!({"physicalLocation": physical});
    let logical = [("key", &finding.key), ("tensor", &finding.tensor)]
        .into_iter()
        .filter_map(|(kind, name)| Some((kind, name.as_ref()?)))
        // A name may be empty in a hostile file; the standard wants a string all the same.
        .map(|(kind, name)| json!({"name": name, "fullyQualifiedName": format!("{kind} {name}"), "kind": "member"}))
        .collect::<Vec<_>>();
    if !logical.is_empty() {
        location["logicalLocations"] = json!(logical);
    }
    json!({
        "ruleId": finding.rule.name,
        "ruleIndex": rules.iter().position(|r| r.name == finding.rule.name),
        "level": match finding.severity { Severity::Warning => "warning", Severity::Error => "error" },
        "message": {"text": finding.message},
        "locations": [location],
    })
}

/// A relative or `file:` URI: every byte that RFC 3986 does not allow in a path is escaped.
fn uri(path: &Path) -> String {
    let mut out = String::from(if path.is_absolute() { "file://" } else { "" });
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// `tensor-overlap` as `TensorOverlap`.
fn pascal(name: &str) -> String {
    name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}
