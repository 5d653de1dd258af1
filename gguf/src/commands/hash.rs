//! `gguf hash`.

use std::path::{Path, PathBuf};

use gguf::cli::{Common, Exit, Progress, print};
use gguf::write::for_each_piece;
use gguf::{Error, Result, Source, quote};
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh64::Xxh64;

/// The hashes, in the order in which they are printed: what each is called, and whether a tensor has one of its own.
const KINDS: [(&str, bool); 4] = [("xxh64", true), ("sha1", true), ("sha256", true), ("uuid", false)];

/// The namespace of llama.cpp's UUIDs of models, ef001206-dadc-5f6d-a15f-3359e577d4e5.
const NAMESPACE: [u8; 16] =
    [0xef, 0x00, 0x12, 0x06, 0xda, 0xdc, 0x5f, 0x6d, 0xa1, 0x5f, 0x33, 0x59, 0xe5, 0x77, 0xd4, 0xe5];

/// The longest manifest that is read.
const MOST_MANIFEST: u64 = 64 << 20;

/// Hash the data of every tensor and of all together, as llama-gguf-hash prints it
///
/// Exit code 1 where --check finds another hash.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf hash model.gguf
  gguf hash --all model.gguf > model.gguf.manifest
  gguf hash --check model.gguf.manifest model.gguf
  gguf hash --uuid --no-layer model.gguf
  gguf hash --all --json model-00001-of-00003.gguf")]
pub struct Hash {
    /// The GGUF file, or the first shard of a split model
    file: PathBuf,

    /// XXH64 (the default)
    #[arg(long)]
    xxh64: bool,

    /// SHA-1
    #[arg(long)]
    sha1: bool,

    /// SHA-256
    #[arg(long)]
    sha256: bool,

    /// The UUID of the model: version 5 in llama.cpp's namespace, of all tensors' data
    #[arg(long)]
    uuid: bool,

    /// XXH64 and SHA-256
    #[arg(long)]
    all: bool,

    /// Leave the tensors out
    #[arg(long)]
    no_layer: bool,

    /// Compare with a manifest: what `gguf hash` or llama-gguf-hash printed of a file of this name
    #[arg(long, short_alias = 'c', value_name = "MANIFEST")]
    check: Option<PathBuf>,
}

/// A hash that runs.
enum Running {
    Xxh64(Xxh64),
    Sha1(Sha1),
    Sha256(Sha256),
    Uuid(Sha1),
}

impl Running {
    fn new(kind: &str) -> Running {
        match kind {
            "xxh64" => Running::Xxh64(Xxh64::new(0)),
            "sha1" => Running::Sha1(Sha1::new()),
            "sha256" => Running::Sha256(Sha256::new()),
            _ => Running::Uuid(Sha1::new_with_prefix(NAMESPACE)),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Running::Xxh64(hash) => hash.update(bytes),
            Running::Sha1(hash) | Running::Uuid(hash) => hash.update(bytes),
            Running::Sha256(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Running::Xxh64(hash) => format!("{:016x}", hash.digest()),
            Running::Sha1(hash) => quote::hex(&hash.finalize()),
            Running::Sha256(hash) => quote::hex(&hash.finalize()),
            Running::Uuid(hash) => {
                let mut bytes = hash.finalize();
                // Version 5, and the variant of RFC 9562.
                bytes[6] = (bytes[6] & 0x0F) | 0x50;
                bytes[8] = (bytes[8] & 0x3F) | 0x80;
                let all = quote::hex(&bytes[..16]);
                [&all[..8], &all[8..12], &all[12..16], &all[16..20], &all[20..]].join("-")
            }
        }
    }
}

/// Hashes of a tensor or of a whole model, each by its kind.
struct Hashes(Vec<(&'static str, Running)>);

impl Hashes {
    fn new(kinds: &[&'static str], whole: bool) -> Hashes {
        let has = |kind: &&'static str| KINDS.iter().any(|(name, of_tensors)| name == kind && (whole || *of_tensors));
        Hashes(kinds.iter().copied().filter(has).map(|kind| (kind, Running::new(kind))).collect())
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|(_, hash)| hash.update(bytes));
    }

    fn finish(self) -> Vec<(&'static str, String)> {
        self.0.into_iter().map(|(kind, hash)| (kind, hash.finish())).collect()
    }
}

/// A line of a manifest: the kind, the hash, and the tensor where it is of one.
struct Line {
    kind: String,
    hash: String,
    tensor: Option<String>,
}

/// What a manifest says of a file of this name.
fn manifest(path: &Path, file: &Path) -> Result<Vec<Line>> {
    let text = crate::commands::read_text(path, MOST_MANIFEST)?;
    let name = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
    let own = name(&file.to_string_lossy());
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let mut words = line.trim_start().splitn(3, char::is_whitespace).map(str::trim_start);
        let (kind, rest) = (words.next().unwrap_or_default(), line.trim_start());
        let rest = rest[kind.len()..].trim_start();
        let (hash, subject) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let subject = subject.trim_start();
        if !KINDS.iter().any(|(known, _)| *known == kind) || hash.is_empty() || subject.is_empty() {
            return Err(Error::input(format!("line {number} is no line of a manifest"))
                .at(path)
                .help("a line is KIND HASH FILE[:TENSOR], as `gguf hash` prints it"));
        }
        let base = name(subject);
        let tensor = match base.strip_prefix(&own) {
            Some("") => None,
            Some(rest) if rest.starts_with(':') => Some(rest[1..].to_owned()),
            _ => continue,
        };
        lines.push(Line { kind: kind.to_owned(), hash: hash.to_ascii_lowercase(), tensor });
    }
    if lines.is_empty() {
        return Err(Error::input(format!("says nothing of {own}")).at(path));
    }
    Ok(lines)
}

impl Hash {
    /// The kinds that are asked for, by options or by the lines of a manifest.
    fn kinds(&self, expected: &[Line]) -> Vec<&'static str> {
        let given = |kind: &str| match kind {
            "xxh64" => self.xxh64 || self.all,
            "sha1" => self.sha1,
            "sha256" => self.sha256 || self.all,
            _ => self.uuid,
        };
        let any = KINDS.iter().any(|(kind, _)| given(kind));
        let asked = |kind: &str| match expected {
            [] => given(kind) || (!any && kind == "xxh64"),
            lines => lines.iter().any(|line| line.kind == kind) && (given(kind) || !any),
        };
        KINDS.iter().map(|(kind, _)| *kind).filter(|kind| asked(kind)).collect()
    }

    pub fn run(self, common: &Common) -> Result<Exit> {
        let expected = self.check.as_deref().map(|path| manifest(path, &self.file)).transpose()?.unwrap_or_default();
        let kinds = self.kinds(&expected);
        if kinds.is_empty() {
            return Err(Error::usage("the manifest has no hash of the kinds that were asked for"));
        }
        let source = gguf::open(&self.file)?;
        let total = source.tensors().iter().map(|t| t.bytes()).sum();
        let progress = Progress::bytes(common.progress, common.quiet, "hashing", total);
        let mut whole = Hashes::new(&kinds, true);
        let mut tensors = Vec::new();
        for (i, info) in source.tensors().iter().enumerate() {
            let mut own = Hashes::new(&kinds, false);
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
        let compared = (self.check.is_some()).then(|| self.compare(&kinds, &expected, &tensors, &whole));
        let holds = compared.as_ref().is_none_or(|all| all.iter().all(|one| one.2 == SAME));
        if common.wants_document() {
            let map = |hashes: &[(&str, String)]| {
                hashes.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect::<serde_json::Map<_, _>>()
            };
            let listed: serde_json::Map<_, _> = tensors
                .iter()
                .filter(|_| !self.no_layer)
                .map(|(name, hashes)| ((*name).to_owned(), json!(map(hashes))))
                .collect();
            let mut fields = json!({"file": quote::json(&self.file), "tensors": listed, "all": map(&whole)});
            if let Some(compared) = compared {
                let rows =
                    compared.iter().map(|(kind, tensor, says)| json!({"hash": kind, "tensor": tensor, "says": says}));
                fields["compared"] = rows.collect();
                fields["holds"] = holds.into();
            }
            let inputs: Vec<PathBuf> = gguf::split::files(&self.file).into_iter().chain(self.check).collect();
            super::print_document(common, "hash", true, &inputs, &[], fields)?;
        } else if let Some(compared) = compared {
            let mut out = String::new();
            for (kind, tensor, says) in &compared {
                if !common.quiet || *says != SAME {
                    let subject = tensor.as_ref().map_or(String::new(), |name| format!(":{}", quote::text(name)));
                    out.push_str(&format!("{kind:<8}  {says}  {}{subject}\n", quote::path(&self.file)));
                }
            }
            print(&out)?;
        } else {
            let file = quote::path(&self.file);
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
        }
        Ok(if holds { Exit::Done } else { Exit::No })
    }

    /// Each line of a manifest with what the file says to it; tensors of the file that the manifest leaves out too.
    fn compare(
        &self,
        kinds: &[&'static str],
        expected: &[Line],
        tensors: &[(&str, Vec<(&'static str, String)>)],
        whole: &[(&'static str, String)],
    ) -> Vec<(String, Option<String>, &'static str)> {
        let hashes_of = |tensor: &Option<String>| match tensor {
            None => Some(whole),
            // A manifest has names as they are printed.
            Some(name) => tensors.iter().find(|(own, _)| own == name || quote::text(own) == *name).map(|(_, h)| &**h),
        };
        let mut out = Vec::new();
        for line in expected.iter().filter(|line| kinds.contains(&line.kind.as_str())) {
            let says = match hashes_of(&line.tensor) {
                None => "there is no such tensor",
                Some(hashes) => match hashes.iter().find(|(kind, _)| *kind == line.kind) {
                    Some((_, hash)) if *hash == line.hash => SAME,
                    _ => "differs",
                },
            };
            out.push((line.kind.clone(), line.tensor.clone(), says));
        }
        let listed: Vec<&String> = expected.iter().filter_map(|line| line.tensor.as_ref()).collect();
        if !listed.is_empty() {
            for (name, _) in
                tensors.iter().filter(|(own, _)| !listed.iter().any(|l| l == own || **l == quote::text(own)))
            {
                out.push((kinds[0].to_owned(), Some((*name).to_owned()), "not in the manifest"));
            }
        }
        out
    }
}

/// What is said of a hash that is that of the manifest.
const SAME: &str = "same";

/// The XXH64 of a tensor's data.
pub fn xxh64(source: &dyn Source, tensor: usize) -> Result<u64> {
    let mut hash = Xxh64::new(0);
    for_each_piece(source, tensor, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    Ok(hash.digest())
}
