//! Checkpoints from the Hugging Face hub, into the cache that every tool of the hub shares.
//!
//! The crate `hf-hub` speaks the protocol and resumes what was cut short. Around it stands what it leaves open: which
//! files of a repository are needed, names that lead out of the cache, digests of what arrived, and errors that say what
//! to do. `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean
//! everywhere.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use gguf::cli::{self, Common};
use gguf::{Error, ErrorKind, Result};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::remote::Remote;
use crate::side_files;

/// A list of files longer than this is none that a model has.
const MAX_FILES: usize = 100_000;

/// Times that a file is asked for again before an error of the network counts.
const RETRIES: usize = 4;

/// How much of a model is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that a conversion reads.
    Checkpoint,
    /// `config.json` alone.
    Configuration,
}

/// Fetches what is needed of a model, or the one file that is named, and gives its place in the cache. Files that are
/// there already are left alone.
///
/// # Errors
/// A model or revision that is not there or not open to this person, no network while the cache does not have the model,
/// names that lead out of the cache, files that arrive damaged.
pub fn fetch(remote: &Remote, extent: Extent, common: &Common) -> Result<PathBuf> {
    let cache = cache_folder()?;
    let repository = cache.join(remote.folder_name());
    if is_set("HF_HUB_OFFLINE") {
        return cached(&repository, remote).ok_or_else(|| {
            Error::input(format!("{remote} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"))
                .at(&repository)
                .help("unset HF_HUB_OFFLINE, or give a folder")
        });
    }
    let api = api(&cache)?;
    let wanted = |revision: &str| Repo::with_revision(remote.repository.clone(), RepoType::Model, revision.to_owned());
    let info = match ask(&api.repo(wanted(&remote.revision))) {
        Ok(info) => info,
        Err(error) => {
            let error = explain(error, remote);
            let Some(folder) = cached(&repository, remote).filter(|_| error.kind() == ErrorKind::System) else {
                return Err(error);
            };
            if !common.quiet {
                cli::say(&format!("note: the hub cannot be reached; taking what the cache has of {remote}"));
            }
            return Ok(folder);
        }
    };
    let commit = info["sha"].as_str().filter(|sha| !sha.is_empty() && sha.chars().all(|c| c.is_ascii_hexdigit()));
    let commit = commit.ok_or_else(|| Error::input(format!("{remote}: the hub names no commit")))?;
    let all = listed(remote, &info)?;
    let snapshot = repository.join("snapshots").join(commit);
    let repo = api.repo(wanted(commit));
    let place = Place { api: &api, repo: &repo, remote, blobs: repository.join("blobs"), snapshot: &snapshot };
    let missing = |name: &str| !snapshot.join(name).exists();
    let one = match extent {
        Extent::Checkpoint => remote.file.as_deref(),
        Extent::Configuration => Some("config.json"),
    };
    let needed = match one {
        Some(name) => match all.iter().find(|f| f.name == name) {
            Some(file) => vec![file],
            None => return Err(Error::input(format!("{remote}: the repository has no file {name}"))),
        },
        None => {
            // An index tells which shards there are, so it comes first.
            for file in all.iter().filter(|f| is_index(&f.name) && missing(&f.name)) {
                place.download(file, &|_| {})?;
            }
            let shards = shards(&snapshot)?;
            needed(remote, &all, &shards)?
        }
    };
    let needed: Vec<&File> = needed.into_iter().filter(|f| missing(&f.name)).collect();
    let total = needed.iter().map(|f| f.size).sum();
    let progress = cli::Progress::bytes(common.progress, common.quiet, "downloading", total);
    for file in needed {
        place.download(file, &|n| progress.add(n))?;
    }
    progress.finish();
    if remote.revision != commit {
        let named = Cache::new(cache).repo(wanted(&remote.revision)).create_ref(commit);
        named.map_err(|e| Error::io(&repository, "write the revision", e))?;
        // The library names every commit that it fetches, which no other tool does.
        let _ = fs::remove_file(repository.join("refs").join(commit));
    }
    Ok(remote.file.as_ref().map_or(snapshot.clone(), |file| snapshot.join(file)))
}

/// What the cache has of a model, or of its file that is named; nobody is asked.
pub(crate) fn fetched(remote: &Remote) -> Option<PathBuf> {
    cached(&cache_folder().ok()?.join(remote.folder_name()), remote)
}

/// Where the cache is.
fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(cache) = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
        return Ok(cache);
    }
    Ok(home()?.join("hub"))
}

/// The hub's folder of this person.
fn home() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let usual = || {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")))?;
        Some(cache.join("huggingface"))
    };
    set("HF_HOME").or_else(usual).ok_or_else(|| {
        Error::new(ErrorKind::System, "there is no home folder for the hub's cache").help("set HF_HOME to a folder")
    })
}

/// The token of this person, if there is one.
fn token() -> Option<String> {
    let set = |name: &str| env::var(name).ok().filter(|v| !v.trim().is_empty());
    let file = || {
        let path = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home().ok()?.join("token")))?;
        crate::json::read_text(&path, 1 << 16).ok()
    };
    let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(file)?;
    Some(token.trim().to_owned()).filter(|t| !t.is_empty())
}

fn is_set(name: &str) -> bool {
    env::var(name).is_ok_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()))
}

fn api(cache: &Path) -> Result<Api> {
    let builder = ApiBuilder::from_cache(Cache::new(cache.to_path_buf()))
        .with_progress(false)
        .with_retries(RETRIES)
        .with_token(token())
        .with_user_agent("downcast", env!("CARGO_PKG_VERSION"));
    let builder = match env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty()) {
        Some(endpoint) => builder.with_endpoint(endpoint.trim_end_matches('/').to_owned()),
        None => builder,
    };
    builder.build().map_err(|e| Error::new(ErrorKind::System, "cannot speak to the hub").caused_by(e.to_string()))
}

/// What the hub says of a repository.
fn ask(repo: &ApiRepo) -> Result<Value, ApiError> {
    let mut response = repo.info_request().query("blobs", "true").call().map_err(Box::new)?;
    let mut body = Vec::new();
    response.body_mut().as_reader().take(64 << 20).read_to_end(&mut body)?;
    serde_json::from_slice(&body).map_err(|e| ApiError::IoError(e.into()))
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    name: String,
    size: u64,
}

/// The files of a repository. A name that would lead out of the cache is an error.
fn listed(remote: &Remote, info: &Value) -> Result<Vec<File>> {
    let fault = |what: String| Error::input(format!("{remote}: the hub lists {what}"));
    let siblings = info["siblings"].as_array().ok_or_else(|| fault("no files".into()))?;
    if siblings.len() > MAX_FILES {
        return Err(fault(format!("{} files", siblings.len())));
    }
    let file = |entry: &Value| {
        let name = entry["rfilename"].as_str().unwrap_or_default();
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0', ':']);
        if !name.split('/').all(plain) {
            return Err(fault(format!("a file \"{}\"", name.escape_debug())));
        }
        Ok(File { name: name.to_owned(), size: entry["size"].as_u64().unwrap_or(0) })
    };
    siblings.iter().map(file).collect()
}

fn is_index(name: &str) -> bool {
    name == "model.safetensors.index.json"
}

/// The shards that the index of a snapshot names; none where it has no index.
fn shards(snapshot: &Path) -> Result<BTreeSet<String>> {
    let Some(index) = crate::json::read_optional(&snapshot.join("model.safetensors.index.json"))? else {
        return Ok(BTreeSet::new());
    };
    let map = index["weight_map"].as_object().into_iter().flatten();
    Ok(map.filter_map(|(_, file)| file.as_str().map(str::to_owned)).collect())
}

/// What a conversion reads of a repository: configuration, tokenizer and model card, the weights as safetensors, and the
/// parts of an embedding model. The same weights in other forms stay where they are.
fn needed<'a>(remote: &Remote, all: &'a [File], shards: &BTreeSet<String>) -> Result<Vec<&'a File>> {
    let root = |f: &&File| !f.name.contains('/');
    let weights = |f: &&File| f.name.ends_with(".safetensors");
    let has = |name: &str| all.iter().any(|f| f.name == name);
    let adapter = has("adapter_config.json") && !has("model.safetensors") && shards.is_empty();
    let chosen = |f: &&File| {
        let name = f.name.as_str();
        match () {
            () if adapter => name.starts_with("adapter_model"),
            () if !shards.is_empty() => shards.contains(name) || (name == "model.safetensors"),
            () if has("model.safetensors") => name == "model.safetensors",
            () => true,
        }
    };
    let of_weights: Vec<&File> = all.iter().filter(root).filter(weights).filter(chosen).collect();
    if of_weights.is_empty() {
        let ending =
            |e: &str| all.iter().filter(|f| f.name.ends_with(e)).map(|f| f.name.as_str()).take(4).collect::<Vec<_>>();
        let (gguf, pickles) = (ending(".gguf"), [ending(".bin"), ending(".pt"), ending(".pth")].concat());
        let error = Error::input(format!("{remote}: the repository has no safetensors files"));
        return Err(match (gguf.as_slice(), pickles.as_slice()) {
            ([first, ..], _) => error.help(format!("it has GGUF files: add /{first} to the name to take that one")),
            ([], [_, ..]) => error.help(
                "its weights are pickles, which may run any code and are never loaded; \
                 the hub's space safetensors/convert makes safetensors of them",
            ),
            _ => error.help("is it the repository of a model?"),
        });
    }
    let side = |f: &&File| side_files::is_side(&f.name);
    let module = |f: &&File| f.name.split_once('/').is_some_and(|(folder, name)| side_files::is_module(folder, name));
    let mut out = of_weights;
    out.extend(all.iter().filter(root).filter(side));
    out.extend(all.iter().filter(module));
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out.dedup();
    Ok(out)
}

/// Counts what arrives.
struct Counted<'a>(&'a dyn Fn(u64));

impl hf_hub::api::Progress for Counted<'_> {
    fn init(&mut self, _: usize, _: &str) {}
    fn update(&mut self, size: usize) {
        (self.0)(size as u64);
    }
    fn finish(&mut self) {}
}

/// Where files come from and go to.
struct Place<'a> {
    api: &'a Api,
    repo: &'a ApiRepo,
    remote: &'a Remote,
    blobs: PathBuf,
    snapshot: &'a Path,
}

impl Place<'_> {
    /// Fetches one file into the cache and holds it against its digest.
    fn download(&self, file: &File, told: &dyn Fn(u64)) -> Result<()> {
        let Place { remote, .. } = self;
        if file.size == 0 {
            // No range of an empty file can be asked for.
            let path = self.snapshot.join(&file.name);
            let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, ""));
            return made.map_err(|e| Error::io(&path, "write", e));
        }
        let about = self.api.metadata(&self.repo.url(&file.name)).map_err(|e| explain(e, remote))?;
        let etag = about.etag();
        if etag.is_empty() || !etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(Error::input(format!("{remote}: the hub calls {} \"{}\"", file.name, etag.escape_debug())));
        }
        let part = self.blobs.join(etag).with_extension("part");
        if fs::metadata(&part).is_ok_and(|meta| meta.len() >= about.size() as u64) {
            // Nothing is left to ask for, and it did not become the file: it is not what it should be.
            fs::remove_file(&part).map_err(|e| Error::io(&part, "remove", e))?;
        }
        let link = self.repo.download_with_progress(&file.name, Counted(told)).map_err(|e| explain(e, remote))?;
        let blob = self.blobs.join(etag);
        let found = digest(&blob, etag.len()).map_err(|e| Error::io(&blob, "read", e))?;
        if found.is_some_and(|found| found != etag) {
            let _ = (fs::remove_file(&link), fs::remove_file(&blob));
            return Err(Error::input(format!("{remote}: {} arrived damaged", file.name))
                .help("run the same command again; what arrived was thrown away"));
        }
        Ok(())
    }
}

/// The digest of a file that the hub names it by: SHA-256 of large files, Git's own of small ones; `None` for other names.
fn digest(file: &Path, len: usize) -> std::io::Result<Option<String>> {
    let mut input = fs::File::open(file)?;
    Ok(match len {
        64 => {
            let mut hash = Sha256::new();
            each(&mut input, |bytes| hash.update(bytes))?;
            Some(gguf::quote::hex(&hash.finalize()))
        }
        40 => {
            let mut hash = Sha1::new();
            hash.update(format!("blob {}\0", input.metadata()?.len()));
            each(&mut input, |bytes| hash.update(bytes))?;
            Some(gguf::quote::hex(&hash.finalize()))
        }
        _ => None,
    })
}

fn each(input: &mut fs::File, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(()),
            n => take(&buffer[..n]),
        }
    }
}

/// The newest snapshot of this revision that the cache has.
fn cached(repository: &Path, remote: &Remote) -> Option<PathBuf> {
    let snapshots = repository.join("snapshots");
    let named = crate::json::read_text(&repository.join("refs").join(&remote.revision), 1 << 16).ok();
    let commit = named.as_deref().map_or(remote.revision.as_str(), str::trim);
    if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let snapshot = snapshots.join(commit);
    let place = remote.file.as_ref().map_or(snapshot.clone(), |file| snapshot.join(file));
    place.exists().then_some(place)
}

/// An error of the hub with the way out.
fn explain(error: ApiError, remote: &Remote) -> Error {
    let mut inner = &error;
    while let ApiError::TooManyRetries(cause) = inner {
        inner = cause;
    }
    let status = match inner {
        // The text of a status is the number; the library does not show its type.
        ApiError::RequestError(e) => {
            let text = e.to_string();
            text.strip_prefix("http status: ").and_then(|n| n.trim().parse::<u16>().ok())
        }
        _ => None,
    };
    let page = format!("https://huggingface.co/{}", remote.repository);
    match status {
        Some(404) if remote.revision != "main" => {
            Error::input(format!("{remote}: there is no such model or revision on the hub")).help(page)
        }
        Some(404) => Error::input(format!("{remote}: there is no such model on the hub")).help(page),
        Some(401) => Error::input(format!("{remote}: there is no such model on the hub, or it is private"))
            .help("log in with `hf auth login`, or set HF_TOKEN to a token that may read it"),
        Some(403) => Error::input(format!("{remote}: the model is gated, and this token has no access"))
            .help(format!("ask for access on {page}, then log in with `hf auth login` or set HF_TOKEN")),
        Some(429) => Error::new(ErrorKind::System, format!("{remote}: the hub refuses so many requests (429)"))
            .help("log in with `hf auth login`, or try again later"),
        Some(code) => Error::new(ErrorKind::System, format!("{remote}: the hub answers with status {code}"))
            .help("try again later"),
        None => match inner {
            ApiError::IoError(e) if e.kind() == std::io::ErrorKind::StorageFull => {
                Error::new(ErrorKind::System, format!("{remote}: no space is left for the cache"))
                    .help("set HF_HOME to a folder on a larger disk; what arrived is kept")
            }
            ApiError::LockAcquisition(path) => {
                Error::new(ErrorKind::System, "another program fetches this file").at(path).help("wait for it")
            }
            ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) => {
                Error::input(format!("{remote}: the answer is not that of a hub")).help("check HF_ENDPOINT")
            }
            _ => Error::new(ErrorKind::System, format!("{remote}: the hub cannot be reached")).help(
                "check the network and HF_ENDPOINT; what was fetched is kept, and the same command goes on from there. \
                 A folder needs no network",
            ),
        }
        .caused_by(inner.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        Remote::parse("hf://a/b").unwrap()
    }

    fn names(list: &[&str], shards: &[&str]) -> Result<Vec<String>> {
        let all: Vec<File> = list.iter().map(|n| File { name: (*n).to_owned(), size: 1 }).collect();
        let shards = shards.iter().map(|s| (*s).to_owned()).collect();
        Ok(needed(&remote(), &all, &shards)?.into_iter().map(|f| f.name.clone()).collect())
    }

    #[test]
    fn only_what_is_read_is_fetched() {
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "tokenizer.json",
            "vocab.txt",
            "tokenizer.model",
            "chat_template.jinja",
            "model.safetensors",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "images/a.png",
        ];
        let got = names(&all, &[]).unwrap();
        let expected = [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer.model",
            "vocab.txt",
        ];
        assert_eq!(got, expected);
        let shards = ["model-1.safetensors", "model-2.safetensors"];
        let all =
            ["model-1.safetensors", "model-2.safetensors", "consolidated.safetensors", "model.safetensors.index.json"];
        assert_eq!(
            names(&all, &shards).unwrap(),
            ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
        );
        let adapter = ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"];
        assert_eq!(names(&adapter, &[]).unwrap(), ["adapter_config.json", "adapter_model.safetensors"]);
    }

    #[test]
    fn a_repository_without_safetensors_is_told_what_it_has() {
        let help = |list: &[&str]| names(list, &[]).unwrap_err().way_out().unwrap_or_default().to_owned();
        assert!(help(&["config.json", "pytorch_model.bin"]).contains("pickles"));
        assert!(help(&["a-q4.gguf"]).contains("/a-q4.gguf"));
        assert!(help(&["config.json"]).contains("repository of a model"));
    }

    #[test]
    fn names_that_lead_out_of_the_cache_are_refused() {
        for bad in ["../x", "a/../../x", "/etc/passwd", "a//b", "a\\..\\b", ""] {
            let info = serde_json::json!({"siblings": [{"rfilename": bad, "size": 1}]});
            assert!(listed(&remote(), &info).is_err(), "{bad}");
        }
        let info = serde_json::json!({"siblings": [{"rfilename": "a/b.json", "size": 3}]});
        assert_eq!(listed(&remote(), &info).unwrap()[0].size, 3);
    }
}
