//! Checkpoints from the hub, by the real program and a small server on this machine that speaks the hub's protocol.
#![cfg(feature = "hub")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository on a server of this test.
struct Hub {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Requests as `PATH RANGE`.
    log: Mutex<Vec<String>>,
    /// A token without which nothing is shown.
    token: Mutex<Option<String>>,
    /// So many answers with weights break off in their middle.
    cuts: Mutex<usize>,
    /// One byte of the weights is wrong on the way.
    damage: Mutex<bool>,
}

impl Hub {
    fn new(folder: &Path) -> Hub {
        let shared = Arc::<Shared>::default();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            shared.files.lock().unwrap().insert(name, fs::read(path).unwrap());
        }
        // What nobody needs must not be asked for.
        for name in ["pytorch_model.bin", "onnx/model.onnx", "images/a.png"] {
            shared.files.lock().unwrap().insert(name.into(), b"unneeded".to_vec());
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                std::thread::spawn(move || serve(stream, &server));
            }
        });
        Hub { address, shared }
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.log.lock().unwrap())
    }
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// One request of a connection, which is closed then.
fn serve(mut stream: TcpStream, hub: &Shared) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let (mut range, mut authorization) = (String::new(), None);
    for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "range" => range = value.to_owned(),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let path = request.split(' ').nth(1)?.split('?').next()?.to_owned();
    hub.log.lock().unwrap().push(format!("{path} {range}"));
    let mut answer = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok()
    };
    let wanted = hub.token.lock().unwrap().clone();
    if wanted.is_some_and(|token| authorization != Some(format!("Bearer {token}"))) && !path.starts_with("/blob/") {
        return answer("401 Unauthorized", "Content-Length: 0\r\n", b"");
    }
    let files = hub.files.lock().unwrap().clone();
    if let Some(revision) = path.strip_prefix("/api/models/tiny/Tiny-Llama/revision/") {
        if !["main", "v1", COMMIT].contains(&revision) {
            return answer("404 Not Found", "Content-Length: 0\r\n", b"");
        }
        let siblings: Vec<_> = files.iter().map(|(n, f)| json!({"rfilename": n, "size": f.len()})).collect();
        let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return answer("200 OK", &format!("Content-Length: {}\r\n", body.len()), body.as_bytes());
    }
    let (name, redirect) = match path.strip_prefix("/blob/") {
        Some(name) => (name, false),
        None => {
            let name = path.strip_prefix("/tiny/Tiny-Llama/resolve/").and_then(|p| p.split_once('/')).map(|p| p.1);
            (name.unwrap_or(""), name.is_some_and(is_large))
        }
    };
    let Some(bytes) = files.get(name) else { return answer("404 Not Found", "Content-Length: 0\r\n", b"") };
    let etag = if is_large(name) { fixtures::sha256(bytes) } else { git_digest(bytes) };
    if redirect {
        let host = "Location: /blob/".to_owned() + name;
        let headers = format!(
            "{host}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-ETag: \"{etag}\"\r\nETag: \"x\"\r\nContent-Length: 0\r\n"
        );
        return answer("302 Found", &headers, b"");
    }
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let from: usize = from.parse().ok()?;
    let to = to.parse().map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
    let mut body = bytes[from..to].to_vec();
    let headers = format!(
        "ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n",
        to - 1,
        bytes.len(),
        body.len()
    );
    if is_large(name) && body.len() > 1 {
        let mut cuts = hub.cuts.lock().unwrap();
        if *cuts > 0 {
            *cuts -= 1;
            body.truncate(body.len() / 2);
        }
        if *hub.damage.lock().unwrap() {
            body[0] ^= 1;
        }
    }
    answer("206 Partial Content", &headers, &body)
}

/// The digest by which Git, and so the hub, names a small file.
fn git_digest(bytes: &[u8]) -> String {
    use sha1::Digest;
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

struct Case {
    hub: Hub,
    place: tempfile::TempDir,
}

impl Case {
    fn new() -> Case {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("work")).unwrap();
        Case { hub: Hub::new(&fixtures::path("models/tiny-llama")), place }
    }

    fn home(&self) -> PathBuf {
        self.place.path().join("home")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("convert").unwrap();
        for name in
            ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "ALL_PROXY"]
        {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.home()).env("HF_ENDPOINT", &self.hub.address);
        command.current_dir(self.place.path().join("work")).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        result(&mut self.command(args))
    }

    fn repository(&self) -> PathBuf {
        self.home().join("hub/models--tiny--Tiny-Llama")
    }
}

fn result(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_model_is_fetched_once_and_only_what_is_needed() {
    let case = Case::new();
    let (code, _, said) = case.run(&["hf://tiny/Tiny-Llama", "-o", "a.gguf"]);
    assert_eq!(code, 0, "{said}");
    let asked = case.hub.log();
    assert!(asked.iter().any(|l| l.contains("config.json")) && asked.iter().any(|l| l.contains("tokenizer.model")));
    assert!(!asked.iter().any(|l| l.contains("pytorch") || l.contains("onnx") || l.contains("png")), "{asked:?}");
    // Both spellings name it, in the cache that every tool shares; now nothing but the list is asked for.
    let (code, out, said) = case.run(&["tiny/Tiny-Llama", "--dry-run", "--json"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(case.hub.log().len(), 1);
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(plan["name"], "Tiny Llama", "it is called by its repository, not by a commit");
    assert_eq!(fs::read_to_string(case.repository().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_dir(case.repository().join("refs")).unwrap().count(), 1);
    // The same bytes as from the folder, but for the name.
    let tiny = fixtures::path("models/tiny-llama");
    let (code, _, said) = case.run(&[tiny.to_str().unwrap(), "-o", "b.gguf", "--model-name", "Tiny Llama"]);
    assert_eq!(code, 0, "{said}");
    let read = |name: &str| fs::read(case.place.path().join("work").join(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"));
    // The cache's folder is the model too, and needs no network.
    let (code, _, said) = case.run(&[case.repository().to_str().unwrap(), "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    assert!(case.hub.log().is_empty());
}

#[test]
fn what_breaks_off_goes_on_from_there() {
    let case = Case::new();
    *case.hub.shared.cuts.lock().unwrap() = usize::MAX;
    let (code, _, said) = case.run(&["hf://tiny/Tiny-Llama", "--dry-run"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("goes on from there"), "{said}");
    *case.hub.shared.cuts.lock().unwrap() = 1;
    case.hub.log();
    let (code, _, said) = case.run(&["hf://tiny/Tiny-Llama", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    let ranges: Vec<String> = case.hub.log().into_iter().filter(|l| l.starts_with("/blob/model.safetensors")).collect();
    assert!(ranges.iter().all(|l| !l.ends_with("bytes=0-")), "nothing is fetched twice: {ranges:?}");
}

#[test]
fn damage_on_the_way_is_found_and_thrown_away() {
    let case = Case::new();
    *case.hub.shared.damage.lock().unwrap() = true;
    let (code, _, said) = case.run(&["hf://tiny/Tiny-Llama", "--dry-run"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("model.safetensors arrived damaged"), "{said}");
    *case.hub.shared.damage.lock().unwrap() = false;
    assert_eq!(case.run(&["hf://tiny/Tiny-Llama", "--dry-run"]).0, 0);
}

#[test]
fn tokens_revisions_and_missing_models_are_told_apart() {
    let case = Case::new();
    *case.hub.shared.token.lock().unwrap() = Some("hf_secret".into());
    let (code, _, said) = case.run(&["hf://tiny/Tiny-Llama", "--dry-run"]);
    assert_eq!(code, 3);
    assert!(said.contains("HF_TOKEN"), "{said}");
    let (code, _, said) = result(case.command(&["hf://tiny/Tiny-Llama@v1", "--dry-run"]).env("HF_TOKEN", "hf_secret"));
    assert_eq!(code, 0, "{said}");
    fs::create_dir_all(case.home()).unwrap();
    fs::write(case.home().join("token"), "hf_secret\n").unwrap();
    let (code, _, said) = case.run(&["tiny/Tiny-Llama@v1", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    for (name, word) in
        [("hf://tiny/Tiny-Llama@v2", "revision"), ("hf://tiny/none", "no such model"), ("hf://tiny", "form")]
    {
        let (code, _, said) = case.run(&[name, "--dry-run"]);
        assert!([2, 3].contains(&code) && said.contains(word), "{name}: {said}");
    }
}

#[test]
fn without_a_network_the_cache_serves_or_the_error_is_clear() {
    let case = Case::new();
    let dead = "http://127.0.0.1:1";
    let (code, _, said) = result(case.command(&["hf://tiny/Tiny-Llama", "--dry-run"]).env("HF_ENDPOINT", dead));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("cannot be reached") && said.contains("help:"), "{said}");
    let offline = |case: &Case| result(case.command(&["hf://tiny/Tiny-Llama", "--dry-run"]).env("HF_HUB_OFFLINE", "1"));
    let (code, _, said) = offline(&case);
    assert_eq!(code, 3);
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
    assert_eq!(case.run(&["hf://tiny/Tiny-Llama", "--dry-run"]).0, 0);
    case.hub.log();
    assert_eq!(offline(&case).0, 0);
    let (code, _, said) = result(case.command(&["hf://tiny/Tiny-Llama", "--dry-run"]).env("HF_ENDPOINT", dead));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("taking what the cache has"), "{said}");
    assert!(case.hub.log().is_empty());
}

#[test]
fn an_adapter_finds_its_base_and_needs_only_its_configuration() {
    let case = Case::new();
    let adapter = case.place.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    for entry in fs::read_dir(fixtures::path("lora/tiny-llama-adapter")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, adapter.join(path.file_name().unwrap())).unwrap();
    }
    let path = adapter.join("adapter_config.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"tiny-llama\"", "\"tiny/Tiny-Llama\"");
    fs::write(&path, text).unwrap();
    let (code, _, said) = case.run(&[adapter.to_str().unwrap(), "-o", "lora.gguf"]);
    assert_eq!(code, 0, "{said}");
    assert!(!case.hub.log().iter().any(|l| l.contains("safetensors")));
    let (code, _, said) =
        case.run(&[adapter.to_str().unwrap(), "-o", "named.gguf", "--base-model-id", "tiny/Tiny-Llama"]);
    assert_eq!(code, 0, "{said}");
}
