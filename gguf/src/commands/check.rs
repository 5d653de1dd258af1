//! `gguf check` and `gguf explain`.

use std::io::Write;
use std::path::PathBuf;

use gguf::check::{self, Options, Profile, Report, Rule, Severity};
use gguf::cli::{Align, Common, Exit, Output, Table, print, print_json};
use gguf::{Error, Result, quote};
use serde_json::{Value as Json, json};

/// Judge files by every rule of the format and of the programs that load them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf check model.gguf
  gguf check --data --profile format *.gguf
  gguf check --deny key-charset --allow filename-convention model.gguf
  gguf check --sarif model.gguf > results.sarif
  gguf check --list-rules")]
pub struct Check {
    /// The GGUF files; of a split model the first shard
    #[arg(required_unless_present = "list_rules", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Look at the tensors' values too: NaN, infinities, scales that are neither
    #[arg(long)]
    data: bool,

    /// What to judge: the container alone, or everything a model must be
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,

    /// Where the GGUF begins in the files
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    at: u64,

    /// Take this rule's findings as errors
    #[arg(long, value_name = "RULE")]
    deny: Vec<String>,

    /// Leave this rule's findings out
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,

    /// Take every warning as an error
    #[arg(long)]
    warnings_as_errors: bool,

    /// List the rules
    #[arg(long)]
    list_rules: bool,

    /// Print the report as SARIF 2.1.0, which code-scanning viewers read; with =FILE, write it there instead
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    sarif: Option<PathBuf>,
}

impl Check {
    pub fn run(self, common: &Common) -> Result<Exit> {
        if self.list_rules {
            return list_rules(common);
        }
        let named = |names: &[String]| names.iter().map(|n| check::rule(n).map(|r| r.name)).collect::<Result<Vec<_>>>();
        let options = Options {
            profile: self.profile,
            data: self.data,
            at: self.at,
            deny: named(&self.deny)?,
            allow: named(&self.allow)?,
            warnings_as_errors: self.warnings_as_errors,
        };
        let mut reports: Vec<Report> = Vec::new();
        for file in &self.files {
            // `*.gguf` names every shard; those of a model that was judged whole were judged with it.
            if !reports.iter().any(|r| r.files.iter().skip(1).any(|shard| shard == file)) {
                reports.push(check::check(file, &options)?);
            }
        }
        let verdict = if reports.iter().all(Report::passed) { Exit::Done } else { Exit::No };
        if let Some(path) = &self.sarif {
            let log = super::sarif::log(&reports);
            if path.as_os_str() == "-" {
                if common.json {
                    return Err(Error::usage("--json and --sarif both print").help("--sarif=FILE writes the log"));
                }
                print_json(&log)?;
                return Ok(verdict);
            }
            let inputs: Vec<_> = reports.iter().flat_map(|r| r.files.iter().chain([&r.path])).collect();
            let mut output = Output::create(path, true, &inputs)?;
            output.write_all(format!("{log:#}\n").as_bytes()).map_err(|e| Error::io(path, "write", e))?;
            output.commit()?;
        }
        if common.wants_document() {
            let inputs: Vec<PathBuf> = reports.iter().flat_map(|r| r.files.iter().cloned()).collect();
            super::print_document(common, "check", self.data, &inputs, &[], document(&reports))?;
        } else {
            print(&page(&reports, common))?;
        }
        Ok(verdict)
    }
}

fn page(reports: &[Report], common: &Common) -> String {
    let mut out = String::new();
    for report in reports {
        for finding in &report.findings {
            out.push_str(&format!("{finding}\n"));
            if !common.quiet {
                out.push_str(&format!("  fix: {}\n", finding.fix));
            }
        }
        for (rule, n) in &report.more {
            out.push_str(&format!("{}: {n} more of [{}]\n", quote::path(&report.path), rule.name));
        }
        if !common.quiet {
            let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
            let verdict = if errors + warnings == 0 {
                "good".to_owned()
            } else {
                format!("{errors} errors, {warnings} warnings")
            };
            out.push_str(&format!("{}: {verdict}\n", quote::path(&report.path)));
        }
    }
    out
}

fn document(reports: &[Report]) -> Json {
    let one = |report: &Report| {
        let findings: Vec<Json> = report
            .findings
            .iter()
            .map(|f| {
                json!({"rule": f.rule.name, "severity": f.severity.name(), "group": f.rule.group.name(),
                    "file": quote::json(&f.file), "offset": f.offset, "key": f.key, "tensor": f.tensor,
                    "message": f.message, "fix": f.fix, "mend": f.fix})
            })
            .collect();
        let more: serde_json::Map<String, Json> =
            report.more.iter().map(|(r, n)| (r.name.to_owned(), json!(n))).collect();
        let files: Vec<Json> = report.files.iter().map(quote::json).collect();
        json!({"file": quote::json(&report.path), "files": files, "passed": report.passed(),
            "errors": report.count(Severity::Error), "warnings": report.count(Severity::Warning),
            "findings": findings, "findings_not_listed": more})
    };
    json!({"passed": reports.iter().all(Report::passed), "reports": reports.iter().map(one).collect::<Vec<_>>()})
}

fn rule_json(rule: &Rule) -> Json {
    json!({"name": rule.name, "severity": rule.severity.name(), "group": rule.group.name(), "source": rule.source,
        "what": rule.what, "fix": rule.fix, "mend": rule.fix})
}

fn list_rules(common: &Common) -> Result<Exit> {
    if common.wants_document() {
        let fields = json!({"rules": check::rules().map(rule_json).collect::<Vec<_>>()});
        super::print_document(common, "rules", false, &[], &[], fields)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("rule", Align::Left),
        ("severity", Align::Left),
        ("group", Align::Left),
        ("what it demands", Align::Left),
    ]);
    for rule in check::rules() {
        table.row([rule.name, rule.severity.name(), rule.group.name(), rule.what]);
    }
    print(&table.render())?;
    Ok(Exit::Done)
}

/// Explain a rule of `gguf check`
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf explain tensor-overlap
  gguf explain key-charset --json")]
pub struct Explain {
    /// The rule's name
    rule: String,
}

impl Explain {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let rule = check::rule(&self.rule)?;
        if common.wants_document() {
            super::print_document(common, "explain", false, &[], &[], rule_json(rule))?;
            return Ok(Exit::Done);
        }
        print(&format!(
            "{} ({}, {})\n  demands: {}\n  source:  {}\n  fix:     {}\n",
            rule.name,
            rule.severity.name(),
            rule.group.name(),
            rule.what,
            rule.source,
            rule.fix
        ))?;
        Ok(Exit::Done)
    }
}
