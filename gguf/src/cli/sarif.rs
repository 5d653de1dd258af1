//! SARIF 2.1.0, as code-scanning viewers read it.

use serde_json::{Value, json};

/// A log of one run of a tool: the rules that its results are of, the files that it looked at, the results.
pub fn sarif(tool: &str, version: &str, rules: Vec<Value>, artifacts: Vec<Value>, results: Vec<Value>) -> Value {
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": tool,
                "version": version,
                "semanticVersion": version,
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "artifacts": artifacts,
            "invocations": [{"executionSuccessful": true}],
            "results": results,
        }],
    })
}
