//! `evaluate optimize` through the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gguf::Source;
use quantize::bnb;
use serde_json::Value;

fn evaluate(folder: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("evaluate"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Runs a command that must succeed and gives its JSON.
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = evaluate(folder).args(args).args(["--json", "--quiet"]).output().unwrap();
    done(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that must fail with this code and gives what it says.
fn refused(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = evaluate(folder).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

struct Place {
    folder: tempfile::TempDir,
    model: String,
    calibration: String,
    sample: String,
}

impl Place {
    fn new() -> Place {
        let model = fixtures::path("models/tiny-llama");
        let owned = |p: PathBuf| p.to_string_lossy().into_owned();
        Place {
            folder: tempfile::tempdir().unwrap(),
            calibration: owned(model.join("calibration.txt")),
            sample: owned(model.join("sample.txt")),
            model: owned(model),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn optimize<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["optimize", &self.model, "--calibrate", &self.calibration][..], more].concat()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }
}

#[test]
fn the_same_bytes_lose_half() {
    let p = Place::new();
    let made = json(p.path(), &p.optimize(&["--type", "q4_k_m", "--type", "iq3_s", "--chunks", "17", "-o", "."]));
    assert_eq!(made["calibration"]["tokens"], 16 * 512);
    done(&evaluate(p.path()).args(["imatrix", &p.model, "-f", &p.calibration, "-o", "i.gguf"]).output().unwrap());
    for (made, name, at_most) in [(&made["files"][0], "Q4_K_M", 0.5), (&made["files"][1], "IQ3_S", 0.6)] {
        assert_eq!((&made["type"], &made["optimized"]), (&name.into(), &true.into()));
        let file = format!("tiny-llama-{name}.gguf");
        let types = name.to_lowercase();
        let compare = ["compare", &p.model, &file, "--types", &types, "--imatrix", "i.gguf"];
        let found = json(p.path(), &[&compare[..], &["--text", &p.sample, "--chunks", "8"]].concat());
        let kld = |i: usize| found["models"][i]["divergence"]["kld"]["value"].as_f64().unwrap();
        assert!(kld(0) < at_most * kld(1), "{name}: {} of {}", kld(0), kld(1));
    }
    let file = gguf::File::open(p.path().join("tiny-llama-Q4_K_M.gguf")).unwrap();
    let key = |name: &str| file.metadata().get(&format!("quantize.optimize.{name}")).cloned();
    assert_eq!(key("steps"), Some("feedback,scales,descent,targets,residual,judge".into()));
    assert_eq!(key("tokens"), Some(gguf::Value::U32(16 * 512)));
    assert_eq!(key("calibration"), Some("calibration.txt".into()));
    assert!(!p.read("tiny-llama-Q4_K_M.gguf").windows(4).any(|w| w == b"/tmp"));
}

#[test]
fn threads_and_lanes_do_not_change_the_bytes() {
    let p = Place::new();
    let args =
        p.optimize(&["--type", "q3_k_m", "--tensor-type", "ffn_up=iq2_s", "--ctx", "64", "--chunks", "9", "--force"]);
    let mut first = None;
    for (threads, path) in [("1", None), ("3", None), ("2", Some("plain")), ("2", Some("avx2")), ("1", Some("avx512"))]
    {
        let mut command = evaluate(p.path());
        command.args(&args).args(["-o", "out.gguf"]).env("RAYON_NUM_THREADS", threads);
        if let Some(path) = path {
            if path.parse::<quantize::SimdPath>().is_ok_and(|p| !p.is_available()) {
                continue;
            }
            command.env("DOWNCAST_SIMD", path);
        }
        done(&command.output().unwrap());
        let bytes = p.read("out.gguf");
        assert!(first.get_or_insert_with(|| bytes.clone()) == &bytes, "{threads} threads, {path:?}");
    }
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let p = Place::new();
    let args = p.optimize(&["--type", "q4_0", "--ctx", "128", "--chunks", "9"]);
    done(&evaluate(p.path()).args(&args).args(["-o", "whole.gguf"]).output().unwrap());
    let mut child = evaluate(p.path()).args(&args).args(["-o", "part.gguf"]).spawn().unwrap();
    let state = p.path().join("part.gguf.optimize/state.json");
    let begun = Instant::now();
    while !state.exists() && begun.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !p.path().join("part.gguf").exists() {
        let said = refused(p.path(), 3, &[&args[..], &["-o", "part.gguf", "--resume", "--no-residual"]].concat());
        assert!(said.contains("another model, text or options"), "{said}");
        let layer = p.path().join("part.gguf.optimize/layer-0000");
        let bytes = std::fs::read(&layer).unwrap();
        std::fs::write(&layer, [&bytes[1..], &[1]].concat()).unwrap();
        let said = refused(p.path(), 3, &[&args[..], &["-o", "part.gguf", "--resume"]].concat());
        assert!(said.contains("layer-0000") && said.contains("--resume"), "{said}");
        std::fs::write(&layer, bytes).unwrap();
        done(&evaluate(p.path()).args(&args).args(["-o", "part.gguf", "--resume"]).output().unwrap());
    }
    assert!(p.read("part.gguf") == p.read("whole.gguf"));
    assert!(!p.path().join("part.gguf.optimize").exists());
}

#[test]
fn a_model_calibrates_itself() {
    let p = Place::new();
    let own = ["optimize", &p.model, "--calibrate", "self", "--type", "q4_k_s", "--ctx", "48", "--chunks", "6"];
    let made = json(p.path(), &[&own[..], &["-o", "a.gguf"]].concat());
    assert_eq!(made["calibration"]["tokens"], 5 * 48);
    let again = json(p.path(), &[&own[..], &["-o", "b.gguf"]].concat());
    assert_eq!(made["calibration"], again["calibration"]);
    assert!(p.read("a.gguf") == p.read("b.gguf"));
    let other = json(p.path(), &[&own[..], &["-o", "c.gguf", "--seed", "1"]].concat());
    assert_ne!(made["calibration"]["sha256"], other["calibration"]["sha256"]);
    let judge = &made["files"][0]["judge"];
    assert!(made["files"][0]["optimized"] == false || judge["chosen"].as_f64() <= judge["plain"].as_f64());
}

#[test]
fn a_gguf_and_its_folder_and_a_plan_give_the_same_file() {
    let p = Place::new();
    let wide = ["optimize", &p.model, "--calibrate", &p.calibration, "--type", "bf16", "--ctx", "16", "--chunks", "2"];
    done(&evaluate(p.path()).args(wide).args(["-o", "bf16.gguf"]).output().unwrap());
    let more = ["--calibrate", &p.calibration, "--type", "q5_0", "--ctx", "64", "--chunks", "5"];
    let from = |model: &str, out: &str, rest: &[&str]| {
        let args = [&["optimize", model][..], &more, rest, &["-o", out]].concat();
        done(&evaluate(p.path()).args(&args).output().unwrap());
    };
    // A run that fails leaves no plan behind, nor does one of several write it.
    let new = ["--type", "q5_0", "--plan", "plan.toml"];
    for more in [&["--calibrate", "missing.txt"][..], &["--calibrate", &p.calibration, "--part", "1/2", "-o", "x"]] {
        let code = if more.len() == 2 { 3 } else { 2 };
        let said = refused(p.path(), code, &[&["optimize", &p.model][..], &new, more].concat());
        assert!(!p.path().join("plan.toml").exists(), "{said}");
    }
    from(&p.model, "folder.gguf", &["--plan", "plan.toml"]);
    from("bf16.gguf", "file.gguf", &["--plan", "plan.toml"]);
    let open = |name: &str| gguf::File::open(p.path().join(name)).unwrap();
    let (folder, file) = (open("folder.gguf"), open("file.gguf"));
    assert_eq!(folder.tensors(), file.tensors());
    for (i, info) in folder.tensors().iter().enumerate() {
        assert!(folder.rows(i, 0..info.rows()).unwrap() == file.rows(i, 0..info.rows()).unwrap(), "{}", info.name());
    }
    // Experts.
    let experts = fixtures::path("golden/arch/Qwen2-MoE-Tiny/hf/Qwen2-MoE-Tiny");
    from(&experts.to_string_lossy(), "experts.gguf", &["--tensor-type", "attn_q=nvfp4"]);
}

#[test]
fn what_cannot_be_optimized_is_refused() {
    let p = Place::new();
    let said = refused(p.path(), 3, &p.optimize(&["--type", "q4_0", "--ctx", "512", "--chunks", "1"]));
    assert!(said.contains("held back") && said.contains("--ctx"), "{said}");
    let said = refused(p.path(), 2, &p.optimize(&["--type", "q9_9"]));
    assert!(said.contains("q9_9"), "{said}");
    let said = refused(p.path(), 2, &["optimize", &p.model, "--type", "q4_0"]);
    assert!(said.contains("--calibrate"), "{said}");
    std::fs::copy(Path::new(&p.model).join("config.json"), p.path().join("config.json")).unwrap();
    std::fs::copy(Path::new(&p.model).join("model.safetensors"), p.path().join("model.safetensors")).unwrap();
    std::fs::copy(Path::new(&p.model).join("tokenizer.model"), p.path().join("tokenizer.model")).unwrap();
    let own = ["optimize", ".", "--calibrate", &p.calibration, "--type", "q4_0", "-o", "model.safetensors", "--force"];
    let said = refused(p.path(), 2, &own);
    assert!(said.contains("the output is the input"), "{said}");
    // Groups of 128 are not to be had: known before the work begins.
    let gemma = fixtures::path("golden/arch/Gemma-3-Tiny/hf/Gemma-3-Tiny");
    let gemma = gemma.to_string_lossy();
    let affine =
        ["optimize", &gemma, "--calibrate", &p.calibration, "--type", "affine4", "--ctx", "16", "--chunks", "3"];
    let said = refused(p.path(), 2, &[&affine[..], &["-o", "gemma"]].concat());
    assert!(said.contains("groups of 128") && said.contains("quantize --type affine4"), "{said}");
    assert!(!p.path().join("gemma").exists() && !p.path().join("gemma.optimize").exists());
    let t5 = fixtures::path("golden/arch/T5-Tiny-small/hf/T5-Tiny-small");
    let t5 = t5.to_string_lossy();
    let said = refused(p.path(), 3, &["optimize", &t5, "--calibrate", &p.calibration, "--type", "q8_0", "--ctx", "16"]);
    assert!(said.contains("encoder and a decoder"), "{said}");
}

#[test]
fn a_mix_of_types_fits_its_size_and_loses_less() {
    let p = Place::new();
    let short = ["--ctx", "256", "--chunks", "17"];
    let optimize = |more: &[&str]| json(p.path(), &p.optimize(&[&short[..], more].concat()));
    let one = optimize(&["--type", "q4_k_m", "-o", "one.gguf"]);
    let bytes = one["files"][0]["bytes"].as_u64().unwrap();
    let size = bytes.to_string();
    let mix = optimize(&["--target-size", &size, "--plan", "plan.toml", "-o", "mix.gguf"]);
    let took = mix["files"][0]["bytes"].as_u64().unwrap();
    assert!(took <= bytes && took + 4096 > bytes, "{took} of {bytes}");
    let compare = ["compare", &p.model, "one.gguf", "mix.gguf", "--text", &p.sample, "--chunks", "8"];
    let found = json(p.path(), &compare);
    let kld = |i: usize| found["models"][i]["divergence"]["kld"]["value"].as_f64().unwrap();
    assert!(kld(1) < 0.9 * kld(0), "{} of {}", kld(1), kld(0));
    // The plan gives the same file, which says nothing of how its types were chosen.
    optimize(&["--plan", "plan.toml", "-o", "again.gguf"]);
    assert!(p.read("mix.gguf") == p.read("again.gguf"));
    let said = refused(p.path(), 2, &p.optimize(&["--plan", "plan.toml", "--target-bpw", "3"]));
    assert!(said.contains("plan.toml"), "{said}");
    // What is asked of single tensors holds; nothing else has fewer bits than the limit, or more.
    let limits = ["--at-least", "q3_k", "--at-least", "attn_v=q6_k", "--at-most", "q5_k", "--at-most", "attn_v=q8_0"];
    let rest = ["--target-bpw", "3.9", "--tensor-type", "blk.0.ffn_up=q4_0", "-o", "."];
    let made = optimize(&[&limits[..], &rest].concat());
    let bits = made["files"][0]["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 3.9 && bits > 3.85, "{bits}");
    let file = gguf::File::open(p.path().join("tiny-llama-3.9bpw.gguf")).unwrap();
    for tensor in file.tensors().iter().filter(|t| t.shape().dims().len() > 1) {
        let bits = tensor.ty().bits_per_weight();
        match tensor.name() {
            "blk.0.ffn_up.weight" => assert_eq!(tensor.ty(), gguf::TensorType::Q4_0),
            name if name.contains("attn_v") => assert!((6.5..=8.5).contains(&bits), "{name}"),
            name => assert!((3.4..=5.5).contains(&bits), "{name} {bits}"),
        }
    }
}

#[test]
fn a_mix_goes_on_where_it_was_stopped() {
    let p = Place::new();
    let args = p.optimize(&["--target-bpw", "4", "--ctx", "128", "--chunks", "9"]);
    done(&evaluate(p.path()).args(&args).args(["-o", "whole.gguf"]).output().unwrap());
    let mut child = evaluate(p.path()).args(&args).args(["-o", "part.gguf"]).spawn().unwrap();
    let begun = Instant::now();
    let second = p.path().join("part.gguf.optimize/survey-0001.json");
    while !second.exists() && begun.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !p.path().join("part.gguf").exists() {
        let said = refused(p.path(), 3, &[&args[..], &["-o", "part.gguf", "--resume", "--at-least", "q3_k"]].concat());
        assert!(said.contains("another model, text or options"), "{said}");
        done(&evaluate(p.path()).args(&args).args(["-o", "part.gguf", "--resume"]).output().unwrap());
    }
    assert!(p.read("part.gguf") == p.read("whole.gguf"));
    assert!(!p.path().join("part.gguf.optimize").exists());
    let said = refused(p.path(), 2, &p.optimize(&["--target-bpw", "1", "--ctx", "128", "--chunks", "9"]));
    assert!(said.contains("the smallest takes 1."), "{said}");
    let said = refused(p.path(), 2, &p.optimize(&["--type", "q4_0", "--at-least", "q3_k"]));
    assert!(said.contains("--target-bpw"), "{said}");
}

#[test]
fn folders_for_transformers_lose_less() {
    let p = Place::new();
    let types = ["nf4", "fp4", "int8", "affine4", "affine8"];
    let asked: Vec<&str> = types.iter().flat_map(|ty| ["--type", ty]).collect();
    let made = json(p.path(), &p.optimize(&[&["--ctx", "256", "--chunks", "17", "-o", "."], &asked[..]].concat()));
    let coding = |ty: &str| match ty {
        "affine4" => Form::Affine(4),
        "affine8" => Form::Affine(8),
        "int8" => Form::Bnb(bnb::Form::Int8 { threshold: 6.0 }),
        ty => Form::Bnb(bnb::Form::FourBit {
            code: if ty == "nf4" { bnb::four_bit::Code::Nf4 } else { bnb::four_bit::Code::Fp4 },
            block: 64,
            double: false,
            storage: bnb::Storage::Uint8,
        }),
    };
    let mut args = vec!["compare".to_owned(), p.model.clone()];
    for ty in types {
        coding(ty).write(Path::new(&p.model), &p.path().join(format!("plain-{ty}")));
        args.extend([format!("plain-{ty}"), format!("tiny-llama-{ty}")]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let found = json(p.path(), &[&args[..], &["--text", &p.sample, "--chunks", "6"]].concat());
    for (i, ty) in types.iter().enumerate() {
        assert_eq!((&made["files"][i]["type"], &made["files"][i]["optimized"]), (&(*ty).into(), &true.into()));
        let kld = |i: usize| found["models"][i]["divergence"]["kld"]["value"].as_f64().unwrap();
        // In eight bits there is less to gain from so short a text.
        let most = if ty.ends_with('8') { 0.8 } else { 0.6 };
        assert!(kld(2 * i + 1) < most * kld(2 * i), "{ty}: {} of {}", kld(2 * i + 1), kld(2 * i));
        // The same tensors of the same sizes, and a record of how.
        let bytes = |folder: &str| std::fs::metadata(p.path().join(folder).join("model.safetensors")).unwrap().len();
        assert_eq!(bytes(&format!("plain-{ty}")), bytes(&format!("tiny-llama-{ty}")), "{ty}");
        let record = p.read(&format!("tiny-llama-{ty}/quantize.optimize.json"));
        let record: Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["quantize.optimize.tokens"], 16 * 256);
    }
    // From a GGUF file there is no folder to follow.
    let bf16 = ["optimize", &p.model, "--calibrate", &p.calibration, "--type", "bf16", "--ctx", "16", "--chunks", "2"];
    done(&evaluate(p.path()).args(bf16).args(["-o", "bf16.gguf"]).output().unwrap());
    let said = refused(p.path(), 3, &["optimize", "bf16.gguf", "--calibrate", &p.calibration, "--type", "nf4"]);
    assert!(said.contains("not a checkpoint folder"), "{said}");
}

/// A folder that is rounded plainly.
enum Form {
    Bnb(bnb::Form),
    Affine(u32),
}

impl Form {
    fn write(self, input: &Path, output: &Path) {
        match self {
            Form::Bnb(form) => bnb::write(input, output, &bnb::Options::new(form), &|_| ()).map(drop).unwrap(),
            Form::Affine(bits) => {
                let options = bnb::AffineOptions {
                    bits,
                    granularity: bnb::Granularity::Group(128),
                    symmetric: true,
                    skip: None,
                    no_fallback: false,
                    no_degenerate: false,
                    shard_bytes: 1 << 30,
                    force: false,
                };
                bnb::write_affine(input, output, &options, &|_| ()).map(drop).unwrap();
            }
        }
    }
}
