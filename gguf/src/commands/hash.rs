//! `gguf hash`.

use std::path::PathBuf;

use gguf::cli::{Common, Exit, Progress, print, print_json};
use gguf::write::for_each_piece;
use gguf::{Result, Source, quote};
use serde_json::json;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh64::Xxh64;

/// Hash the data of every tensor and of all together, as llama-gguf-hash prints it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf hash model.gguf
  gguf hash --sha256 --no-layer model.gguf
  gguf hash --all --json model-00001-of-00003.gguf")]
pub struct Hash {
    /// The GGUF file, or the first shard of a split model
    file: PathBuf,

    /// XXH64 (the default)
    #[arg(long)]
    xxh64: bool,

    /// SHA-256
    #[arg(long)]
    sha256: bool,

    /// Both
    #[arg(long)]
    all: bool,

    /// Leave the tensors out
    #[arg(long)]
    no_layer: bool,
}

/// Both hashes of a tensor or of a whole model, each where it was asked for.
struct Hashes {
    xxh64: Option<Xxh64>,
    sha256: Option<Sha256>,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.xxh64 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha256 {
            hash.update(bytes);
        }
    }

    fn finish(self) -> Vec<(&'static str, String)> {
        let xxh64 = self.xxh64.map(|h| ("xxh64", format!("{:016x}", h.digest())));
        let sha256 = self.sha256.map(|h| ("sha256", quote::hex(&h.finalize())));
        xxh64.into_iter().chain(sha256).collect()
    }
}

impl Hash {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let source = gguf::open(&self.file)?;
        let sha256 = self.sha256 || self.all;
        let xxh64 = self.xxh64 || self.all || !sha256;
        let fresh = || Hashes { xxh64: xxh64.then(|| Xxh64::new(0)), sha256: sha256.then(Sha256::new) };
        let total = source.tensors().iter().map(|t| t.bytes()).sum();
        let progress = Progress::bytes(common.progress, common.quiet, "hashing", total);
        let mut whole = fresh();
        let mut tensors = Vec::new();
        for (i, info) in source.tensors().iter().enumerate() {
            let mut own = fresh();
            for_each_piece(&source, i, |bytes| {
                own.update(bytes);
                whole.update(bytes);
                progress.add(bytes.len() as u64);
                Ok(())
            })?;
            tensors.push((info.name(), own.finish()));
        }
        progress.finish();
        let whole = whole.finish();
        let file = quote::path(&self.file);
        if common.json {
            let map = |hashes: &[(&str, String)]| {
                hashes.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect::<serde_json::Map<_, _>>()
            };
            let listed: serde_json::Map<_, _> = tensors
                .iter()
                .filter(|_| !self.no_layer)
                .map(|(name, hashes)| ((*name).to_owned(), json!(map(hashes))))
                .collect();
            print_json(&json!({"file": quote::json(&self.file), "tensors": listed, "all": map(&whole)}))?;
            return Ok(Exit::Done);
        }
        let mut out = String::new();
        let named = tensors
            .into_iter()
            .filter(|_| !self.no_layer)
            .map(|(name, h)| (format!("{file}:{}", quote::text(name)), h));
        for (name, hashes) in named.chain([(file.clone(), whole)]) {
            for (kind, hash) in hashes {
                out.push_str(&format!("{kind:<8}  {hash}  {name}\n"));
            }
        }
        print(&out)?;
        Ok(Exit::Done)
    }
}

/// The XXH64 of a tensor's data.
pub fn xxh64(source: &dyn Source, tensor: usize) -> Result<u64> {
    let mut hash = Xxh64::new(0);
    for_each_piece(source, tensor, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    Ok(hash.digest())
}
