//! `gguf show --memory`.

use std::path::Path;

use gguf::cli::{Align, Common, Exit, Table, bytes, count, print};
use gguf::memory::{self, CACHE_TYPES, Cache};
use gguf::{Result, Source, quote};
use serde_json::json;

/// Contexts that are shown beside the whole one.
const CONTEXTS: [u64; 2] = [4096, 32_768];

/// Prints what a model takes in memory where it runs.
pub fn show(source: &dyn Source, file: &Path, wanted: &[u64], common: &Common) -> Result<Exit> {
    let cache = Cache::new(source).map_err(|e| e.at(file))?;
    let weights = memory::weights(source);
    let whole = cache.context();
    let usual = CONTEXTS.into_iter().filter(|n| whole.is_none_or(|all| *n < all));
    let mut contexts: Vec<u64> = usual.chain(whole).chain(wanted.iter().copied()).collect();
    contexts.sort_unstable();
    contexts.dedup();
    if common.wants_document() {
        let row = |n: &u64| {
            let caches = CACHE_TYPES.map(|ty| {
                let size = cache.bytes(*n, ty);
                (ty.name().to_owned(), json!({"cache_bytes": size, "bytes": size.map(|s| s.saturating_add(weights))}))
            });
            json!({"context": n, "whole": Some(*n) == whole, "caches": serde_json::Map::from_iter(caches)})
        };
        let fields = json!({"file": quote::json(file), "weights_bytes": weights, "context_length": whole,
            "contexts": contexts.iter().map(row).collect::<Vec<_>>()});
        super::print_document(common, "show-memory", false, &gguf::split::files(file), &[], fields)?;
        return Ok(Exit::Done);
    }
    let mut heads = vec![("context".to_owned(), Align::Right)];
    for ty in CACHE_TYPES {
        heads.push((format!("{ty} cache"), Align::Right));
        heads.push(("with weights".to_owned(), Align::Right));
    }
    heads.push((String::new(), Align::Left));
    let heads: Vec<(&str, Align)> = heads.iter().map(|(head, align)| (head.as_str(), *align)).collect();
    let mut table = Table::new(&heads);
    for n in &contexts {
        let mut row = vec![count(*n)];
        for ty in CACHE_TYPES {
            let size = cache.bytes(*n, ty);
            let shown = |size: Option<u64>| size.map_or_else(|| "–".to_owned(), bytes);
            row.extend([shown(size), shown(size.map(|s| s.saturating_add(weights)))]);
        }
        row.push(if Some(*n) == whole { "all that it was made for".into() } else { String::new() });
        table.row(row);
    }
    let nothing = if cache.is_empty() { "The model keeps no cache.\n" } else { "" };
    print(&format!("{}: {} of weights\n{nothing}{}", quote::path(file), bytes(weights), table.render()))?;
    Ok(Exit::Done)
}
