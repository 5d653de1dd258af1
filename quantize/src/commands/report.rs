//! What is told at the end, and of a plan.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gguf::cli::{Align, NO_INPUTS, Output, Table, bytes, count};
use gguf::lost::Degenerate;
use gguf::{Error, Result, TensorType, quote};
use quantize::pipeline::Summary;
use quantize::plan::Plan;
use serde_json::{Value, json};

use super::folder;

/// A finished run.
pub struct Run<'a> {
    pub input: &'a Path,
    pub files: Option<Done<'a>>,
    pub folders: &'a [folder::Written<'a>],
    pub begun: Instant,
}

impl Run<'_> {
    /// Tensors of all outputs with weights that their type cannot hold.
    pub fn lost(&self) -> Vec<Degenerate> {
        let files = self.files.iter().flat_map(|done| &done.summary.degenerate);
        files.chain(self.folders.iter().flat_map(|folder| &folder.report.degenerate)).cloned().collect()
    }

    /// Every file that was written, those of folders too.
    pub fn written(&self) -> Result<Vec<PathBuf>> {
        let mut all: Vec<PathBuf> = self.files.iter().flat_map(|done| done.targets.iter().flatten().cloned()).collect();
        for folder in self.folders {
            let failed = |e| Error::io(folder.output, "list", e);
            let entries = std::fs::read_dir(folder.output).map_err(failed)?;
            let mut files = entries.map(|e| Ok(e.map_err(failed)?.path())).collect::<Result<Vec<_>>>()?;
            files.sort();
            all.extend(files);
        }
        Ok(all)
    }

    pub fn json(&self) -> Result<Value> {
        let mut outputs = self.files.as_ref().map_or(Ok(Vec::new()), Done::outputs)?;
        outputs.extend(self.folders.iter().map(folder::Written::json));
        let mut out = serde_json::Map::new();
        // Names of the first version, in which a folder was a run of its own.
        if let ([folder], None) = (self.folders, &self.files) {
            out.extend(folder.json().as_object().cloned().unwrap_or_default());
        }
        let fields = json!({
            "input": quote::json(self.input),
            "outputs": outputs,
            "source_bytes": self.files.as_ref().map(|done| done.source_bytes),
            "nonfinite_weights": self.files.as_ref().map(|done| done.summary.nonfinite),
            "degenerate": self.lost().iter().map(Degenerate::json).collect::<Vec<_>>(),
            "seconds": self.begun.elapsed().as_secs_f64(),
        });
        out.extend(fields.as_object().cloned().unwrap_or_default());
        Ok(Value::Object(out))
    }

    pub fn text(&self) -> Result<String> {
        let mut out = String::new();
        if let Some(done) = &self.files {
            out += &done.text(self.begun)?;
        }
        self.folders.iter().for_each(|folder| out += &folder.text());
        Ok(out)
    }
}

/// The GGUF files of a run.
pub struct Done<'a> {
    pub plans: &'a [Plan],
    /// The files of each plan.
    pub targets: &'a [Vec<PathBuf>],
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    pub summary: Summary,
}

impl Done<'_> {
    fn outputs(&self) -> Result<Vec<Value>> {
        let outputs = self.plans.iter().zip(self.targets).map(|(plan, target)| {
            let mut output = describe(plan)?;
            output["path"] = quote::json(&target[0]);
            if target.len() > 1 {
                output["shards"] = target.iter().map(quote::json).collect();
            }
            Ok(output)
        });
        outputs.collect()
    }

    fn text(&self, begun: Instant) -> Result<String> {
        let mut out = String::new();
        for (plan, target) in self.plans.iter().zip(self.targets) {
            for file in target {
                out.push_str(&format!("{}\n", quote::path(file)));
            }
            out.push_str(&format!("{}{}", table(plan), summary_lines(plan)?));
        }
        if self.summary.nonfinite > 0 {
            out.push_str(&format!("  {} weights are NaN or infinite\n", count(self.summary.nonfinite)));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let rate = self.source_bytes as f64 / seconds.max(1e-9);
        out.push_str(&format!("  {} read in {seconds:.1} s, {}/s\n", bytes(self.source_bytes), bytes(rate as u64)));
        Ok(out)
    }
}

/// Tensors, weights and bytes of each type in a plan.
fn by_type(plan: &Plan) -> Vec<(TensorType, u64, u64, u64)> {
    let mut types: BTreeMap<TensorType, (u64, u64, u64)> = BTreeMap::new();
    for tensor in &plan.tensors {
        let entry = types.entry(tensor.info.ty()).or_default();
        *entry = (entry.0 + 1, entry.1 + tensor.info.elements(), entry.2 + tensor.info.bytes());
    }
    let mut rows: Vec<_> = types.into_iter().map(|(ty, (n, weights, size))| (ty, n, weights, size)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.3));
    rows
}

fn bits_per_weight(size: u64, weights: u64) -> f64 {
    if weights == 0 { 0.0 } else { size as f64 * 8.0 / weights as f64 }
}

fn table(plan: &Plan) -> String {
    let columns = ["tensors", "weights", "size", "bits/weight"].map(|c| (c, Align::Right));
    let mut table = Table::new(&[&[("type", Align::Left)], &columns[..]].concat());
    let rows = by_type(plan);
    for &(ty, tensors, weights, size) in &rows {
        table.row([ty.to_string(), count(tensors), count(weights), bytes(size), bpw(size, weights)]);
    }
    let total = |f: fn(&(TensorType, u64, u64, u64)) -> u64| rows.iter().map(f).sum::<u64>();
    let (tensors, weights, size) = (total(|r| r.1), total(|r| r.2), total(|r| r.3));
    table.row(["all".to_owned(), count(tensors), count(weights), bytes(size), bpw(size, weights)]);
    table.render()
}

fn bpw(size: u64, weights: u64) -> String {
    format!("{:.3}", bits_per_weight(size, weights))
}

/// The size of the file, and what share of the weights did not get the type the recipe wanted.
fn summary_lines(plan: &Plan) -> Result<String> {
    let files = if plan.shards > 1 { format!(" in {} files", count(plan.shards as u64)) } else { String::new() };
    let mut out = format!("  {} bytes on disk{files}\n", count(plan.file_bytes()?));
    let (tensors, weights) = plan.fallbacks();
    if tensors == 0 {
        out.push_str("  0 % of the weights fell back to another type\n");
        return Ok(out);
    }
    let share = 100.0 * weights as f64 / plan.elements().max(1) as f64;
    out.push_str(&format!("  {share:.1} % of the weights ({tensors} tensors) fell back to another type:\n"));
    for ((from, to, columns), n) in fallbacks(plan) {
        let block = from.block_len();
        out.push_str(&format!("    {n} × {columns} columns are no multiple of {block} ({from}): {to}\n"));
    }
    Ok(out)
}

/// How many tensors fell back from a type to another because of their row length.
fn fallbacks(plan: &Plan) -> BTreeMap<(TensorType, TensorType, u64), usize> {
    let mut kinds = BTreeMap::new();
    for tensor in &plan.tensors {
        if let Some(from) = tensor.instead_of {
            *kinds.entry((from, tensor.info.ty(), tensor.info.shape().row_len())).or_insert(0) += 1;
        }
    }
    kinds
}

/// A plan as JSON, without its tensors.
fn describe(plan: &Plan) -> Result<Value> {
    let types = by_type(plan).into_iter().map(|(ty, tensors, weights, size)| {
        json!({"type": ty.name(), "tensors": tensors, "weights": weights, "bytes": size,
            "bits_per_weight": bits_per_weight(size, weights)})
    });
    let size: u64 = plan.tensors.iter().map(|t| t.info.bytes()).sum();
    let (tensors, weights) = plan.fallbacks();
    let fell = fallbacks(plan).into_iter().map(
        |((from, to, columns), n)| json!({"wanted": from.name(), "got": to.name(), "columns": columns, "tensors": n}),
    );
    Ok(json!({
        "type": plan.file_type.name,
        "files": plan.shards,
        "file_bytes": plan.file_bytes()?,
        "tensors": plan.tensors.len(),
        "weights": plan.elements(),
        "bits_per_weight": bits_per_weight(size, plan.elements()),
        "types": types.collect::<Vec<_>>(),
        "fallback": {"tensors": tensors, "weights": weights,
            "share": weights as f64 / plan.elements().max(1) as f64, "kinds": fell.collect::<Vec<_>>()},
    }))
}

/// Plans as JSON, with every tensor.
pub fn dry_run(input: &Path, plans: &[Plan]) -> Result<Value> {
    let outputs = plans.iter().map(|plan| {
        let mut output = describe(plan)?;
        let tensors = plan.tensors.iter().map(|t| {
            json!({"name": t.info.name(), "shape": t.info.shape().dims(), "file": t.shard, "from": t.from.name(),
                "type": t.info.ty().name(), "bytes": t.info.bytes(), "instead_of": t.instead_of.map(TensorType::name),
                "lacks_importance": t.lacks_importance})
        });
        output["plan"] = tensors.collect();
        Ok(output)
    });
    Ok(json!({"input": quote::json(input), "dry_run": true, "outputs": outputs.collect::<Result<Vec<_>>>()?}))
}

/// Plans for people, with every tensor.
pub fn dry_run_text(plans: &[Plan]) -> Result<String> {
    let mut out = String::new();
    for plan in plans {
        let left = Align::Left;
        let mut tensors = Table::new(&[
            ("tensor", left),
            ("shape", left),
            ("from", left),
            ("to", left),
            ("size", Align::Right),
            ("", left),
        ]);
        for t in &plan.tensors {
            let remark = match (t.instead_of, t.lacks_importance) {
                (_, true) => "needs an importance matrix".to_owned(),
                (Some(wanted), _) => format!("instead of {wanted}"),
                (None, false) => String::new(),
            };
            let (name, shape) = (t.info.name().to_owned(), t.info.shape().to_string());
            tensors.row([name, shape, t.from.to_string(), t.info.ty().to_string(), bytes(t.info.bytes()), remark]);
        }
        out.push_str(&format!("{}\n{}\n{}{}", plan.file_type, tensors.render(), table(plan), summary_lines(plan)?));
        let lacking = plan.tensors.iter().filter(|t| t.lacks_importance).count();
        if lacking > 0 {
            out.push_str(&format!(
                "  {lacking} tensors need an importance matrix: without --imatrix this would be refused\n"
            ));
        }
    }
    Ok(out)
}

/// Writes a plan as TOML, to be given its name.
pub fn write_plan(plan: &Plan, path: &Path) -> Result<Output> {
    let mut output = Output::create(path, false, NO_INPUTS)?;
    output.write_all(plan.to_toml().as_bytes()).map_err(|e| Error::io(path, "write", e))?;
    Ok(output)
}
