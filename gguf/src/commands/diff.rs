//! `gguf diff`.

use std::collections::HashMap;
use std::path::PathBuf;

use gguf::cli::{Common, Exit, print};
use gguf::{Metadata, Result, Source, Value, quote};
use serde_json::{Value as Json, json};

use super::hash::xxh64;
use super::values::{short, type_name, whole_json};

/// Compare the metadata and tensors of two files; exit code 1 when they differ
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf diff a.gguf b.gguf
  gguf diff --metadata-only model-f16.gguf model-Q4_K_M.gguf
  gguf diff a.gguf b.gguf --json | jq .tensors")]
pub struct Diff {
    /// One file, or the first shard of a split model
    a: PathBuf,

    /// The other
    b: PathBuf,

    /// Compare the keys alone
    #[arg(long)]
    metadata_only: bool,

    /// Leave this key out of the comparison (may be given more than once)
    #[arg(long, value_name = "KEY")]
    ignore: Vec<String>,
}

/// One difference: the name, and what stands on either side.
struct Difference {
    name: String,
    a: Option<String>,
    b: Option<String>,
    json: Json,
}

impl Diff {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let (a, b) = (gguf::open(&self.a)?, gguf::open(&self.b)?);
        let keys = self.keys(a.metadata(), b.metadata());
        let tensors = if self.metadata_only { Vec::new() } else { tensors(&a, &b)? };
        let same = keys.is_empty() && tensors.is_empty();
        if common.wants_document() {
            let list = |d: Vec<Difference>| d.into_iter().map(|d| d.json).collect::<Vec<_>>();
            let fields = json!({"same": same, "metadata": list(keys), "tensors": list(tensors)});
            let inputs = [&self.a, &self.b].map(gguf::split::files).concat();
            super::print_document(common, "diff", !self.metadata_only, &inputs, &[], fields)?;
        } else {
            let mut out = String::new();
            for d in keys.iter().chain(&tensors) {
                for (mark, side) in [('-', &d.a), ('+', &d.b)] {
                    if let Some(text) = side {
                        out.push_str(&format!("{mark} {}  {text}\n", d.name));
                    }
                }
            }
            if !common.quiet {
                let (k, t) = (keys.len(), tensors.len());
                out.push_str(&if same {
                    "no difference\n".to_owned()
                } else {
                    format!("{k} keys and {t} tensors differ\n")
                });
            }
            print(&out)?;
        }
        Ok(if same { Exit::Done } else { Exit::No })
    }

    fn keys(&self, a: &Metadata, b: &Metadata) -> Vec<Difference> {
        let names = a.iter().map(|(k, _)| k).chain(b.iter().map(|(k, _)| k).filter(|k| a.get(k).is_none()));
        names
            .filter(|k| !self.ignore.iter().any(|i| i == k))
            .filter_map(|key| {
                let (va, vb) = (a.get(key), b.get(key));
                // NaN equals itself here: the question is whether the files say the same.
                let nan = |v: &Value| v.as_f64().is_some_and(f64::is_nan);
                let same =
                    va.zip(vb).is_some_and(|(x, y)| x == y || (nan(x) && nan(y) && x.value_type() == y.value_type()));
                (!same).then(|| Difference {
                    name: quote::text(key),
                    a: va.map(|v| format!("{} {}", type_name(v), short(v))),
                    b: vb.map(|v| format!("{} {}", type_name(v), short(v))),
                    json: json!({"key": key, "a": va.map(whole_json), "b": vb.map(whole_json),
                        "a_type": va.map(type_name), "b_type": vb.map(type_name)}),
                })
            })
            .collect()
    }
}

fn tensors(a: &dyn Source, b: &dyn Source) -> Result<Vec<Difference>> {
    let index: HashMap<&str, usize> = b.tensors().iter().enumerate().map(|(i, t)| (t.name(), i)).collect();
    let mut out = Vec::new();
    let mut found = vec![false; b.tensors().len()];
    for (i, ta) in a.tensors().iter().enumerate() {
        let ha = xxh64(a, i)?;
        let describe = |t: &gguf::TensorInfo, hash: u64| format!("{} {} {hash:016x}", t.shape(), t.ty());
        let json = |t: &gguf::TensorInfo, hash: u64| json!({"shape": t.shape().dims(), "type": t.ty().name(), "xxh64": format!("{hash:016x}")});
        match index.get(ta.name()) {
            None => out.push(Difference {
                name: quote::text(ta.name()),
                a: Some(describe(ta, ha)),
                b: None,
                json: json!({"tensor": ta.name(), "a": json(ta, ha), "b": null}),
            }),
            Some(&j) => {
                found[j] = true;
                let (tb, hb) = (&b.tensors()[j], xxh64(b, j)?);
                if (ta, ha) != (tb, hb) {
                    out.push(Difference {
                        name: quote::text(ta.name()),
                        a: Some(describe(ta, ha)),
                        b: Some(describe(tb, hb)),
                        json: json!({"tensor": ta.name(), "a": json(ta, ha), "b": json(tb, hb)}),
                    });
                }
            }
        }
    }
    for (j, _) in found.iter().enumerate().filter(|(_, found)| !**found) {
        let (tb, hb) = (&b.tensors()[j], xxh64(b, j)?);
        out.push(Difference {
            name: quote::text(tb.name()),
            a: None,
            b: Some(format!("{} {} {hb:016x}", tb.shape(), tb.ty())),
            json: json!({"tensor": tb.name(), "a": null,
                "b": {"shape": tb.shape().dims(), "type": tb.ty().name(), "xxh64": format!("{hb:016x}")}}),
        });
    }
    Ok(out)
}
