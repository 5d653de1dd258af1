//! SARIF 2.1.0, as code-scanning viewers read it.

use gguf::check::{Finding, Report, Rule, Severity};
use gguf::quote;
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
        reports.iter().flat_map(|r| &r.files).map(|f| json!({"location": {"uri": quote::uri(f)}})).collect();
    let rules_json = rules.iter().map(|r| descriptor(r)).collect();
    gguf::cli::sarif("gguf check", env!("CARGO_PKG_VERSION"), rules_json, artifacts, results)
}

fn descriptor(rule: &Rule) -> Json {
    json!({
        "id": rule.name,
        "name": pascal(rule.name),
        "shortDescription": {"text": rule.what},
        "fullDescription": {"text": format!("{} (source: {})", rule.what, rule.source)},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": rule.severity.name()},
        "properties": {"tags": [rule.group.name()]},
    })
}

fn result(finding: &Finding, rules: &[&'static Rule]) -> Json {
    let mut physical = json!({"artifactLocation": {"uri": quote::uri(&finding.file)}});
    // Code scanning shows nothing without a line, which a binary file has one of.
    physical["region"] = json!({"startLine": 1});
    if let Some(offset) = finding.offset {
        physical["region"]["byteOffset"] = json!(offset);
        physical["region"]["byteLength"] = json!(0);
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
    // What stays the same when the file's other parts change; a finding on the file as a whole is known by its words.
    let (file, rule) = (quote::uri(&finding.file), finding.rule.name);
    let subject = match (&finding.key, &finding.tensor) {
        (None, None) => format!("{rule}\n{file}\n{}", finding.message),
        (key, tensor) => format!("{rule}\n{file}\n{key:?}\n{tensor:?}"),
    };
    json!({
        "ruleId": finding.rule.name,
        "ruleIndex": rules.iter().position(|r| r.name == finding.rule.name),
        "level": match finding.severity { Severity::Warning => "warning", Severity::Error => "error" },
        "message": {"text": finding.message},
        "locations": [location],
        "partialFingerprints": {"finding/v1": gguf::digest::sha256(subject.as_bytes())},
    })
}

/// `tensor-overlap` as `TensorOverlap`.
fn pascal(name: &str) -> String {
    name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}
