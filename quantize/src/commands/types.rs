//! The types that `--type` takes: files of GGUF, folders that transformers loads, and the list of both.

use gguf::Result;
use gguf::cli::{Align, Common, Files, Table, document};
use quantize::recipe::{FILE_TYPES, FileType, near_name};
use serde_json::{Value, json};

use super::folder::FolderType;

/// What `--type` asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// A GGUF file.
    File(&'static FileType),
    /// A folder that transformers loads.
    Folder(FolderType),
    /// The list of all types.
    List,
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        if text.eq_ignore_ascii_case("list") {
            return Ok(Wanted::List);
        }
        if let Some(folder) = FolderType::ALL.iter().find(|ty| ty.name().eq_ignore_ascii_case(text)) {
            return Ok(Wanted::Folder(*folder));
        }
        text.parse().map(Wanted::File).map_err(|_: gguf::Error| match near_name(text, names()) {
            Some(name) => format!("there is no such type; did you mean {name}? `--type list` prints all"),
            None => "there is no such type; `--type list` prints all".to_owned(),
        })
    }
}

/// The names of all types, in small letters.
fn names() -> impl Iterator<Item = String> {
    FILE_TYPES.iter().map(|t| t.name.to_lowercase()).chain(FolderType::ALL.iter().map(|t| t.name().to_owned()))
}

/// Prints every type.
pub fn list(common: &Common) -> Result<()> {
    let rows = || FILE_TYPES.iter().filter(|t| !t.is_copy());
    let json = || {
        let files = rows().map(|t| {
            json!({"type": t.name.to_lowercase(), "makes": "file", "file_type": t.id, "base": t.base.name(),
                "base_bits_per_weight": bits(t)})
        });
        let folders = FolderType::ALL.iter().map(|t| json!({"type": t.name(), "makes": "folder", "what": t.what()}));
        let all: Vec<Value> = files.chain(folders).collect();
        Ok(document("quantize-types-1", env!("CARGO_PKG_VERSION"), &Files::default(), json!({"types": all})))
    };
    let table = || {
        let left = Align::Left;
        let mut table = Table::new(&[("type", left), ("", left), ("bits/weight", Align::Right)]);
        for t in rows() {
            let what = format!("GGUF, {} for most tensors", t.base);
            table.row([t.name.to_lowercase(), what, format!("{:.4}", bits(t))]);
        }
        table.row(["copy", "GGUF, every tensor as it is", "–"]);
        for t in FolderType::ALL {
            table.row([t.name().to_owned(), t.what().to_owned(), String::new()]);
        }
        Ok(table.render())
    };
    common.result(json, table)
}

/// Bits of a weight in the type that most tensors get.
fn bits(ty: &FileType) -> f64 {
    8.0 * ty.base.block_bytes() as f64 / ty.base.block_len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right_are_told() {
        let said = |text: &str| text.parse::<Wanted>().unwrap_err();
        for (text, meant) in
            [("q4km", "q4_k_m"), ("q4-k-m", "q4_k_m"), ("Q5KM", "q5_k_m"), ("nf44", "nf4"), ("iq4xs", "iq4_xs")]
        {
            assert!(said(text).contains(&format!("did you mean {meant}?")), "{text}: {}", said(text));
        }
        assert!(!said("banana").contains("did you mean"), "{}", said("banana"));
        assert!(said("banana").contains("--type list"));
        assert_eq!("LIST".parse(), Ok(Wanted::List));
        assert_eq!("Nf4".parse(), Ok(Wanted::Folder(FolderType::Nf4)));
        // The number by which llama-quantize knows it.
        assert!(matches!("15".parse(), Ok(Wanted::File(t)) if t.name == "Q4_K_M"));
    }

    #[test]
    fn every_name_of_the_list_is_taken() {
        for name in names() {
            assert!(name.parse::<Wanted>().is_ok(), "{name}");
        }
    }
}
