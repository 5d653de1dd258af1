//! `gguf show`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::values::{short, short_json, type_name, whole, whole_json};
use gguf::cli::{Align, Common, Exit, Table, bytes, count, print, stdout_is_terminal};
use gguf::{Error, File, Result, Source, TensorInfo, TensorType, quote};
use serde_json::{Value as Json, json};

/// Show the metadata and tensors of a file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf show model.gguf
  gguf show model.gguf --key tokenizer.chat_template
  gguf show small.gguf --layout
  gguf show model.gguf --memory
  gguf show model.gguf --markdown > model.md
  gguf show model.gguf --json | jq '.tensors[].name'")]
pub struct Show {
    /// The GGUF file
    file: PathBuf,

    /// Print the whole value of this key alone (may be given more than once)
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,

    /// Print the bytes of the file, field by field (for small files and the curious)
    #[arg(long, conflicts_with = "key")]
    layout: bool,

    /// Print the memory that the model takes: weights and the cache of keys and values, by context
    #[arg(long, conflicts_with_all = ["key", "layout"])]
    memory: bool,

    /// Another context to count the cache for, with --memory (may be given more than once)
    #[arg(long, short, value_name = "TOKENS", requires = "memory", value_parser = clap::value_parser!(u64).range(1..))]
    ctx: Vec<u64>,

    /// Print keys, totals and tensors as Markdown, for a model's page
    #[arg(long, conflicts_with_all = ["key", "layout", "memory", "json"])]
    markdown: bool,

    /// Where the GGUF begins in the file
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    at: u64,
}

impl Show {
    pub fn run(self, common: &Common) -> Result<Exit> {
        if self.memory {
            let source: Box<dyn Source + Send> = match self.at {
                // All shards of a split model count.
                0 => gguf::open(&self.file)?,
                at => Box::new(File::open_at(&self.file, at)?),
            };
            return super::memory::show(&source, &self.file, &self.ctx, common);
        }
        let file = File::open_at(&self.file, self.at)?;
        if !self.key.is_empty() {
            return self.keys(&file, common);
        }
        if self.layout {
            print(&super::layout::picture(&file)?)?;
            return Ok(Exit::Done);
        }
        if self.markdown {
            print(&markdown(&file))?;
            return Ok(Exit::Done);
        }
        if common.wants_document() {
            super::print_document(common, "show", false, &[self.file], &[], document(&file)?)?
        } else {
            print(&page(&file))?
        }
        Ok(Exit::Done)
    }

    fn keys(&self, file: &File, common: &Common) -> Result<Exit> {
        let mut found = serde_json::Map::new();
        for key in &self.key {
            let value = file.metadata().get(key).ok_or_else(|| {
                let near: Vec<&str> =
                    file.metadata().iter().map(|(k, _)| k).filter(|k| k.contains(key.as_str())).take(5).collect();
                let error = Error::input(format!("there is no key {key}")).at(&self.file);
                if near.is_empty() { error } else { error.help(format!("near ones: {}", near.join(", "))) }
            })?;
            if common.wants_document() {
                found.insert(key.clone(), whole_json(value));
            } else {
                // A value goes into a file as it is, and to a terminal without what would drive it.
                let text = whole(value);
                print(&format!("{}\n", if stdout_is_terminal() { quote::lines(&text) } else { text }))?;
            }
        }
        if common.wants_document() {
            let fields = Json::Object(found.clone().into_iter().chain([("keys".to_owned(), found.into())]).collect());
            super::print_document(common, "show-key", false, std::slice::from_ref(&self.file), &[], fields)?;
        }
        Ok(Exit::Done)
    }
}

/// Totals of one tensor type.
#[derive(Default)]
struct Total {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

fn totals(tensors: &[TensorInfo]) -> (BTreeMap<TensorType, Total>, Total) {
    let mut by_type = BTreeMap::<TensorType, Total>::new();
    let mut all = Total::default();
    for info in tensors {
        for total in [by_type.entry(info.ty()).or_default(), &mut all] {
            total.tensors += 1;
            total.elements += info.elements();
            total.bytes += info.bytes();
        }
    }
    (by_type, all)
}

fn bits_per_weight(total: &Total) -> f64 {
    if total.elements == 0 { 0.0 } else { 8.0 * total.bytes as f64 / total.elements as f64 }
}

fn page(file: &File) -> String {
    let mut out = String::new();
    let (by_type, all) = totals(file.tensors());
    let order = match file.endian() {
        gguf::Endian::Little => "little-endian",
        gguf::Endian::Big => "big-endian",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{}: GGUF version {}, {order}, alignment {}, {}",
        file.path().map(quote::path).unwrap_or_default(),
        file.version(),
        file.alignment(),
        bytes(file.file_bytes())
    );
    let _ = writeln!(out, "\n{} keys", count(file.metadata().len() as u64));
    let mut table = Table::new(&[("key", Align::Left), ("type", Align::Left), ("value", Align::Left)]);
    for (key, value) in file.metadata().iter() {
        table.row([quote::text(key), type_name(value), short(value)]);
    }
    out.push_str(&table.render());

    let _ = writeln!(out, "\n{} tensors", count(all.tensors));
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("type", Align::Left),
        ("bytes", Align::Right),
        ("offset", Align::Right),
    ]);
    for (i, info) in file.tensors().iter().enumerate() {
        table.row([
            quote::text(info.name()),
            info.shape().to_string(),
            info.ty().to_string(),
            count(info.bytes()),
            count(file.offset(i).unwrap_or(0)),
        ]);
    }
    out.push_str(&table.render());

    let _ = writeln!(out, "\nTotals by type");
    out.push_str(&types(&by_type, &all).render());
    out
}

/// The totals as a table.
fn types(by_type: &BTreeMap<TensorType, Total>, all: &Total) -> Table {
    let mut table = Table::new(&[
        ("type", Align::Left),
        ("tensors", Align::Right),
        ("weights", Align::Right),
        ("size", Align::Right),
        ("bits per weight", Align::Right),
    ]);
    for (label, total) in by_type.iter().map(|(ty, t)| (ty.to_string(), t)).chain([("all".to_owned(), all)]) {
        table.row([
            label,
            count(total.tensors),
            count(total.elements),
            bytes(total.bytes),
            format!("{:.4}", bits_per_weight(total)),
        ]);
    }
    table
}

/// The page as Markdown.
fn markdown(file: &File) -> String {
    let (by_type, all) = totals(file.tensors());
    let name = file.metadata().str("general.name").map(quote::text);
    let name = name.or_else(|| file.path().and_then(|p| p.file_name()).map(|n| quote::text(&n.to_string_lossy())));
    let mut keys = Table::new(&[("key", Align::Left), ("type", Align::Left), ("value", Align::Left)]);
    for (key, value) in file.metadata().iter() {
        keys.row([code(&quote::text(key)), type_name(value), code(&short(value))]);
    }
    let mut tensors =
        Table::new(&[("tensor", Align::Left), ("shape", Align::Left), ("type", Align::Left), ("bytes", Align::Right)]);
    for info in file.tensors() {
        tensors.row([
            code(&quote::text(info.name())),
            info.shape().to_string(),
            info.ty().to_string(),
            count(info.bytes()),
        ]);
    }
    format!(
        "# {}\n\nGGUF version {}, {} keys, {} tensors, {}\n\n## Keys\n\n{}\n## Types\n\n{}\n## Tensors\n\n{}",
        name.unwrap_or_default().replace('|', "\\|"),
        file.version(),
        count(file.metadata().len() as u64),
        count(all.tensors),
        bytes(file.file_bytes()),
        keys.markdown(),
        types(&by_type, &all).markdown(),
        tensors.markdown()
    )
}

/// Text that Markdown takes as it is.
fn code(text: &str) -> String {
    let ticks = if text.contains('`') { "``" } else { "`" };
    if text.is_empty() { String::new() } else { format!("{ticks}{text}{ticks}") }
}

fn document(file: &File) -> Result<Json> {
    let (by_type, all) = totals(file.tensors());
    let total_json = |t: &Total| json!({"tensors": t.tensors, "elements": t.elements, "bytes": t.bytes, "bits_per_weight": bits_per_weight(t)});
    let metadata: serde_json::Map<String, Json> = file
        .metadata()
        .iter()
        .map(|(k, v)| (k.to_owned(), json!({"type": type_name(v), "value": short_json(v)})))
        .collect();
    let tensors: Vec<Json> = file
        .tensors()
        .iter()
        .enumerate()
        .map(|(i, t)| {
            json!({"name": t.name(), "shape": t.shape().dims(), "type": t.ty().name(), "elements": t.elements(),
                "bytes": t.bytes(), "offset": file.offset(i)})
        })
        .collect();
    let types: serde_json::Map<String, Json> =
        by_type.iter().map(|(ty, t)| (ty.name().to_owned(), total_json(t))).collect();
    Ok(json!({
        "file": file.path().map(quote::json),
        "gguf_version": file.version(),
        "endian": match file.endian() { gguf::Endian::Little => "little", gguf::Endian::Big => "big" },
        "alignment": file.alignment(),
        "bytes": file.file_bytes(),
        "data_start": file.data_start(),
        "metadata": metadata,
        "tensors": tensors,
        "totals": {"by_type": types, "all": total_json(&all)},
    }))
}
