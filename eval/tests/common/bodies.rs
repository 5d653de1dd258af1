//! What must hold for any bytes in any file that a person may hand over: no panic, no endless work, no memory by an
//! unchecked count. The bodies of a test and of the fuzz target.

use std::fs;
use std::path::{Path, PathBuf};

use convert::{Checkpoint, Options};
use gguf::Source;

/// A kind of input.
#[derive(Clone, Copy)]
pub struct Body {
    /// What the bytes are.
    pub name: &'static str,
    /// Reads them.
    pub run: fn(&Place, &[u8]),
    /// Fixtures that such bytes are found in: files, or the folders around them with the name of the file.
    pub seeds: &'static [(&'static str, &'static str)],
}

/// Where golden checkpoints lie.
const ARCH: &str = "golden/arch";
/// A folder with a SentencePiece model.
const LLAMA: &str = "models/tiny-llama";

pub const BODIES: &[Body] = &[
    Body {
        name: "safetensors",
        run: safetensors,
        seeds: &[(ARCH, "model.safetensors"), ("lora", "adapter_model.safetensors")],
    },
    Body { name: "index", run: index, seeds: &[] },
    Body { name: "config", run: config, seeds: &[(ARCH, "config.json"), ("packed", "config.json")] },
    Body { name: "tokenizer-json", run: tokenizer_json, seeds: &[(ARCH, "tokenizer.json")] },
    Body { name: "tokenizer-config", run: tokenizer_config, seeds: &[(ARCH, "tokenizer_config.json")] },
    Body { name: "sentencepiece", run: sentencepiece, seeds: &[(LLAMA, "tokenizer.model"), (ARCH, "tokenizer.model")] },
    Body { name: "vocab-merges", run: vocab_merges, seeds: &[] },
    Body {
        name: "imatrix",
        run: imatrix,
        seeds: &[("golden/tiny-llama", "imatrix.dat"), ("golden/tiny-llama", "imatrix.gguf")],
    },
    Body { name: "kld", run: kld, seeds: &[] },
    Body { name: "base", run: base, seeds: &[("golden/hostile", "")] },
    Body { name: "quant-state", run: quant_state, seeds: &[] },
    Body { name: "card", run: card, seeds: &[] },
    Body { name: "plan", run: plan, seeds: &[("golden/plans", "")] },
    Body { name: "template", run: template, seeds: &[(ARCH, "chat_template.jinja")] },
];

/// Small inputs of kinds that have no fixture: they tell a fuzzer the words.
pub const WORDS: &[(&str, &str)] = &[
    ("index", r#"{"metadata": {"total_size": 64}, "weight_map": {"a.weight": "part.safetensors", "b": "../x"}}"#),
    ("vocab-merges", "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|endoftext|>\": 3}\0#version: 0.2\na b\n"),
    (
        "quant-state",
        r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.1}"#,
    ),
    (
        "card",
        "---\nlicense: apache-2.0\nlicense_name: x\nbase_model:\n- a/b\n- c/d\nlanguage: [en, de]\ntags:\n  - chat\nmodel-index:\n- name: x\n---\n# Title\n",
    ),
    ("plan", "file_type = \"Q4_K_M\"\n[tensors]\n\"token_embd.weight\" = \"Q4_K\"\n"),
    ("template", "{% for m in messages %}{{ m['content'] | trim }}{% generation %}x{% endgeneration %}{%- endfor -%}"),
    (
        "safetensors",
        "\u{3e}\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}\n    0123456789abcdef",
    ),
    ("kld", "_logits_\u{4}\0\0\0\u{3}\0\0\0\u{1}\0\0\0"),
];

/// Folders that the bytes are put into, in memory where the system has such a place.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let place = Place(folder.expect("a folder"));
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|f| f.join("fixtures").is_dir());
        let fixtures = fixtures.expect("the workspace").join("fixtures");
        for (name, from) in [("bpe", "golden/arch/Qwen2-Tiny/hf/Qwen2-Tiny"), ("llama", LLAMA)] {
            fs::create_dir(place.path(name)).expect("made");
            for entry in fs::read_dir(fixtures.join(from)).expect("a fixture") {
                let entry = entry.expect("an entry");
                // Weights are not read where the vocabulary alone is wanted.
                if entry.metadata().expect("a file").len() < 1 << 20 {
                    fs::copy(entry.path(), place.path(name).join(entry.file_name())).expect("copied");
                }
            }
        }
        // A tokenizer of this folder comes from its oldest form.
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            let _ = fs::remove_file(place.path("llama").join(name));
        }
        fs::create_dir(place.path("old")).expect("made");
        fs::copy(place.path("bpe/config.json"), place.path("old/config.json")).expect("copied");
        fs::create_dir(place.path("shards")).expect("made");
        let header = r#"{"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        let shard = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat();
        fs::write(place.path("shards/part.safetensors"), shard).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    /// Runs with a file of a folder replaced, and puts the old one back.
    fn with(&self, name: &str, bytes: &[u8], run: impl FnOnce(&Path)) {
        let path = self.path(name);
        let old = fs::read(&path).ok();
        fs::write(&path, bytes).expect("written");
        run(path.parent().expect("a folder"));
        match old {
            Some(old) => fs::write(&path, old).expect("written"),
            None => fs::remove_file(&path).expect("removed"),
        }
    }
}

/// The longest work on a few kilobytes; a body that takes longer is a find by libFuzzer's own limit.
fn vocabulary(folder: &Path) -> Option<Checkpoint> {
    Checkpoint::open(folder, &Options { vocab_only: true, any_pre: true, ..Options::default() }).ok()
}

fn safetensors(place: &Place, bytes: &[u8]) {
    let path = place.put("model.safetensors", bytes);
    let Ok(tensors) = convert::safetensors::open_file(&path) else { return };
    for tensor in tensors {
        let bits = tensor.elements().checked_mul(tensor.dtype().bitsize() as u64).expect("a size that was checked");
        assert_eq!(tensor.bytes().len() as u64, bits.div_ceil(8), "{}", tensor.name());
    }
}

fn index(place: &Place, bytes: &[u8]) {
    place.with("shards/model.safetensors.index.json", bytes, |folder| {
        for tensor in convert::safetensors::open_folder(folder).unwrap_or_default() {
            assert!(tensor.path().starts_with(folder), "{}", tensor.path().display());
        }
    });
}

fn config(place: &Place, bytes: &[u8]) {
    place.with("bpe/config.json", bytes, |folder| {
        drop(vocabulary(folder));
        drop(Checkpoint::open(folder, &Options { any_pre: true, ..Options::default() }));
        drop(Checkpoint::open(folder, &Options { projector: true, ..Options::default() }));
    });
}

fn tokenizer_json(place: &Place, bytes: &[u8]) {
    place.with("bpe/tokenizer.json", bytes, check_vocabulary);
}

fn tokenizer_config(place: &Place, bytes: &[u8]) {
    place.with("bpe/tokenizer_config.json", bytes, check_vocabulary);
}

fn sentencepiece(place: &Place, bytes: &[u8]) {
    place.with("llama/tokenizer.model", bytes, check_vocabulary);
}

fn check_vocabulary(folder: &Path) {
    if let Some(checkpoint) = vocabulary(folder) {
        drop(convert::tokenizer::check_tokenizer(folder, checkpoint.metadata(), Some("a text of its own")));
    }
}

/// A vocabulary, a zero byte and merges.
fn vocab_merges(place: &Place, bytes: &[u8]) {
    let middle = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (vocab, merges) = (&bytes[..middle], bytes.get(middle + 1..).unwrap_or_default());
    place.put("old/merges.txt", merges);
    place.with("old/vocab.json", vocab, check_vocabulary);
}

fn imatrix(place: &Place, bytes: &[u8]) {
    let path = place.put("imatrix.dat", bytes);
    let Ok(mut matrix) = quantize::imatrix::Imatrix::open(&path) else { return };
    drop(matrix.to_gguf());
    drop(matrix.to_dat());
    drop(matrix.statistics());
    let other = matrix.clone();
    drop(matrix.merge(&other));
    matrix.to_raw();
    drop(matrix.statistics());
    drop(matrix.importance("blk.0.attn_q.weight"));
}

fn kld(place: &Place, bytes: &[u8]) {
    let path = place.put("base.kld", bytes);
    let Ok(file) = eval::kld::KldFile::open(&path) else { return };
    let mut row = Vec::new();
    for chunk in 0..file.chunks().min(4) {
        assert_eq!(file.tokens(chunk).len(), file.context());
        for position in 0..4 {
            if file.log_probabilities(chunk, position, &mut row).is_ok() {
                assert_eq!(row.len(), file.vocabulary());
            }
        }
    }
}

fn base(place: &Place, bytes: &[u8]) {
    let path = place.put("base.gguf", bytes);
    let Ok(base) = eval::baseline::SavedBase::open(&path) else { return };
    for (chunk, position) in [(0, 0), (0, 3), (1, 0), (7, 1)] {
        drop(base.hidden(chunk, position..position + 1));
    }
}

fn quant_state(_: &Place, bytes: &[u8]) {
    drop(convert::packed::bnb::QuantState::from_json(bytes));
}

fn card(place: &Place, bytes: &[u8]) {
    place.with("bpe/README.md", bytes, |folder| drop(vocabulary(folder)));
}

fn plan(_: &Place, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(quantize::plan::Written::parse(text));
    for line in text.lines().take(8) {
        drop(quantize::plan::parse_tensor_rule(line));
        drop(quantize::plan::parse_override(line));
        if let Ok(pattern) = quantize::pattern::Pattern::anywhere("--tensor-type", line) {
            let _ = pattern.matches("blk.0.attn_q.weight");
        }
        drop(gguf::edit::value_for("general.tags", None, line));
    }
}

fn template(_: &Place, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(convert::tokenizer::check_chat_template(text));
    let metadata = gguf::Metadata::from_iter([("general.architecture", "llama"), ("tokenizer.chat_template", text)]);
    drop(gguf::check::faults(&metadata, &[]));
}
