//! The options of a model in several files.

use crate::split::Division;

/// How a model is divided into files.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SplitArgs {
    /// The most tensor data of a file, in decimal units as llama.cpp counts: 500M, 2G. Where more than one is needed they
    /// are called NAME-00001-of-0000N.gguf
    #[arg(long, value_name = "SIZE", value_parser = decimal_bytes)]
    split_max_size: Option<u64>,

    /// The most tensors of a file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    split_max_tensors: Option<u64>,

    /// Keep tensors out of the first file, so that the metadata can be fetched quickly
    #[arg(long)]
    no_tensor_first_split: bool,
}

impl SplitArgs {
    /// What was asked for; nothing is divided where nothing was.
    pub fn division(&self) -> Division {
        Division {
            max_bytes: self.split_max_size,
            max_tensors: self.split_max_tensors,
            metadata_first: self.no_tensor_first_split,
        }
    }

    /// The first option that was given, where one was.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            (self.split_max_size.is_some(), "--split-max-size"),
            (self.split_max_tensors.is_some(), "--split-max-tensors"),
            (self.no_tensor_first_split, "--no-tensor-first-split"),
        ];
        all.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }
}

/// llama.cpp counts in powers of ten here.
fn decimal_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim_end_matches(['B', 'b']) {
        "" => 1,
        "K" | "k" => 1000,
        "M" | "m" => 1_000_000,
        "G" | "g" => 1_000_000_000,
        _ => return Err(format!("\"{unit}\" is no unit of size; K, M and G are")),
    };
    let number: u64 = number.parse().map_err(|_| format!("\"{text}\" is no size such as 500M or 2G"))?;
    number.checked_mul(unit).filter(|&n| n > 0).ok_or_else(|| format!("\"{text}\" is out of range"))
}
