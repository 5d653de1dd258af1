//! The program as people call it.

use std::path::Path;

use assert_cmd::Command;

fn evaluate() -> Command {
    Command::cargo_bin("evaluate").unwrap()
}

fn tiny() -> std::path::PathBuf {
    fixtures::path("models/tiny-llama")
}

fn json(command: &mut Command) -> serde_json::Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Standard error of a command that must end with this code.
fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty());
    text
}

#[test]
fn perplexity_prints_one_document_or_a_summary() {
    let text = tiny().join("sample.txt");
    let mut command = evaluate();
    command.arg("perplexity").arg(tiny()).arg("--text").arg(&text).args(["--ctx", "64", "--chunks", "3"]);
    let found = json(&mut command);
    assert_eq!((found["chunks"].as_u64(), found["scored"].as_u64()), (Some(3), Some(3 * 31)));
    assert_eq!(found["running_ppl"].as_array().unwrap().len(), 3);
    assert_eq!(found["running_ppl"][2], found["ppl"]);

    let output = evaluate()
        .arg("perplexity")
        .arg(tiny())
        .arg("--text")
        .arg(&text)
        .args(["--ctx", "64", "--chunks", "3", "--quiet"])
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.starts_with(&format!("perplexity  {:.4}", found["ppl"].as_f64().unwrap())), "{shown}");
    assert!(output.stderr.is_empty());
}

#[test]
fn kernels_of_integers_are_forced_behind_their_path() {
    let run = |simd: Option<&str>| {
        let mut command = evaluate();
        command.arg("compare").arg(tiny()).args(["--types", "q4_k_m"]).arg("--text").arg(tiny().join("sample.txt"));
        command.args(["--ctx", "64", "--chunks", "2", "--arithmetic", "deployed", "--quiet"]);
        if let Some(simd) = simd {
            command.env("DOWNCAST_SIMD", simd);
        }
        command
    };
    let path = quantize::SimdPath::current();
    let figures = |simd: Option<&str>| json(&mut run(simd))["models"][0]["divergence"].clone();
    assert!(figures(None)["kld"].is_object());
    assert_eq!(figures(Some(&format!("{path}:plain"))), figures(None));
    let said = fails(&mut run(Some(&format!("{path}:abacus"))), 2);
    assert!(said.contains("abacus") && said.contains(path.name()) && said.contains("plain"), "{said}");
}

#[test]
fn other_protocols_score_other_tokens() {
    let run = |more: &[&str]| {
        let mut command = evaluate();
        command.arg("perplexity").arg(tiny()).arg("--text").arg(tiny().join("sample.txt"));
        json(command.args(["--ctx", "64", "--chunks", "2"]).args(more))
    };
    let plain = run(&["--protocol", "plain"]);
    assert_eq!((plain["protocol"].as_str(), plain["scored"].as_u64()), (Some("plain"), Some(2 * 63)));
    let strided = run(&["--stride", "16"]);
    assert_eq!((strided["protocol"].as_str(), strided["scored"].as_u64()), (Some("stride"), Some(2 * 16)));
}

#[test]
fn generation_is_the_same_with_and_without_the_cache_and_for_the_same_seed() {
    let run = |more: &[&str]| {
        let mut command = evaluate();
        command.arg("generate").arg(tiny()).args(["--prompt", "The old man", "--tokens", "12"]).args(more);
        json(&mut command)
    };
    let greedy = run(&[]);
    assert_eq!(greedy["tokens"], run(&["--no-cache"])["tokens"]);
    assert!(!greedy["text"].as_str().unwrap().is_empty());
    let sampled = run(&["--temperature", "1", "--seed", "3"]);
    assert_eq!(sampled["tokens"], run(&["--temperature", "1", "--seed", "3", "--no-cache"])["tokens"]);
    assert_ne!(sampled["tokens"], run(&["--temperature", "1", "--seed", "4"])["tokens"]);

    // The prompt in pieces, and no room for what is kept of it.
    let prompt = "The old man and the sea went down to the water. ".repeat(20);
    let long = |memory: &str| {
        let mut command = evaluate();
        command.arg("generate").arg(tiny()).args(["--prompt", &prompt, "-n", "12", "--max-memory", memory]);
        command
    };
    assert_eq!(json(&mut long("3M"))["tokens"], json(&mut long("1G"))["tokens"]);
    let told = fails(&mut long("16k"), 2);
    assert!(told.contains("tokens need") && told.contains("--max-memory"), "{told}");
    let endless = fails(evaluate().arg("generate").arg(tiny()).args(["--prompt", "a", "-n", "99999999999999"]), 2);
    assert!(endless.contains("fewer tokens"), "{endless}");

    let streamed = evaluate().arg("generate").arg(tiny()).args(["--prompt", "The old man", "--tokens", "12"]).output();
    let streamed = String::from_utf8(streamed.unwrap().stdout).unwrap();
    assert_eq!(streamed.trim_end_matches('\n'), format!("The old man{}", greedy["text"].as_str().unwrap()));
}

#[test]
fn each_bad_input_has_its_own_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let perplexity = |model: &Path, text: &Path| {
        let mut command = evaluate();
        command.arg("perplexity").arg(model).arg("--text").arg(text);
        command
    };
    let short = file("short.txt", b"Too short.");
    let message = fails(&mut perplexity(&tiny(), &short), 3);
    assert!(message.contains("short.txt: the text has") && message.contains("one chunk needs 512"), "{message}");

    let broken = file("broken.txt", b"caf\xe9");
    let message = fails(&mut perplexity(&tiny(), &broken), 3);
    assert!(message.contains("not UTF-8 text (at byte 3)"), "{message}");

    let message = fails(&mut perplexity(&tiny(), &folder.path().join("none.txt")), 3);
    assert!(message.contains("none.txt"), "{message}");

    let meta = gguf::Metadata::from_iter([("general.architecture", "llama5")]);
    let unknown = file("unknown.gguf", &gguf::write::to_bytes(&meta, &[], |_| Ok(Vec::new())).unwrap());
    let message = fails(&mut perplexity(&unknown, &short), 3);
    assert!(message.contains("the architecture llama5 is not known"), "{message}");

    let small = fails(perplexity(&tiny(), &short).args(["--ctx", "1"]), 2);
    assert!(small.contains("leaves nothing to score"), "{small}");
    fails(evaluate().arg("perplexity"), 2);
    let nothing = fails(evaluate().arg("generate").arg(tiny()).args(["--prompt", "a", "--temperature", "-1"]), 2);
    assert!(nothing.contains("temperature -1"), "{nothing}");
}

/// The tiny model in memory, with changes to its metadata and to the bytes of its tensors.
fn changed(metadata: impl Fn(&mut gguf::Metadata), bytes: impl Fn(&str, &mut Vec<u8>)) -> Vec<u8> {
    let source = convert::open(&tiny(), &convert::Options::default()).unwrap();
    let mut meta = source.metadata().clone();
    metadata(&mut meta);
    let tensors = source.tensors().to_vec();
    gguf::write::to_bytes(&meta, &tensors, |i| {
        let mut data = source.rows(i, 0..tensors[i].rows())?.into_owned();
        bytes(tensors[i].name(), &mut data);
        Ok(data)
    })
    .unwrap()
}

#[test]
fn a_value_that_is_no_number_is_traced_to_its_block_and_a_missing_tokenizer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = tiny().join("sample.txt");
    let run = |bytes: Vec<u8>| {
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        fails(evaluate().arg("perplexity").arg(&path).arg("--text").arg(&text).args(["--chunks", "1"]), 3)
    };
    let nan = run(changed(
        |_| {},
        |name, data| {
            if name == "blk.1.ffn_down.weight" {
                data[0..2].copy_from_slice(&[0xC0, 0x7F]);
            }
        },
    ));
    assert!(nan.contains("layer blk.1 is the first that makes a value of NaN"), "{nan}");

    let silent = run(changed(|meta| drop(meta.remove("tokenizer.ggml.model")), |_, _| {}));
    assert!(silent.contains("tokenizer.ggml.model"), "{silent}");

    let heads = run(changed(|meta| drop(meta.set("llama.attention.head_count_kv", 3_u32)), |_, _| {}));
    assert!(
        heads.contains("blk.0.attn_k.weight has the shape [256, 128], the keys of llama ask for [256, 96]"),
        "{heads}"
    );

    let eps = run(changed(|meta| drop(meta.remove("llama.attention.layer_norm_rms_epsilon")), |_, _| {}));
    assert!(eps.contains("llama.attention.layer_norm_rms_epsilon is missing"), "{eps}");
}

#[test]
fn limits_and_counts_that_mean_nothing_are_wrong_usage() {
    let text = fixtures::path("models/tiny-llama/sample.txt");
    let run = |command: &str| {
        let mut evaluate = evaluate();
        evaluate.arg(command).arg(tiny()).arg("--text").arg(&text);
        evaluate
    };
    for command in ["perplexity", "compare", "imatrix"] {
        let told = fails(run(command).args(["--chunks", "0"]), 2);
        assert!(told.contains("--chunks") && told.contains("at least 1"), "{command}: {told}");
        fails(run(command).args(["--max-memory", "0"]), 2);
    }
    for limit in [
        ["--max-kld", "nan"],
        ["--max-kld", "inf"],
        ["--max-kld", "1e999"],
        ["--min-same-top", "200%"],
        ["--min-same-top", "nan"],
        ["--max-ppl-increase", "nan%"],
        ["--max-ppl-increase", "inf"],
        ["--confidence", "nan"],
    ] {
        let told = fails(run("compare").args(["--types", "q8_0"]).args(limit), 2);
        assert!(told.contains(limit[0]), "{told}");
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf_8_fit_into_json_and_texts_end() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join(OsStr::from_bytes(b"t\xFE.txt"));
    std::fs::copy(fixtures::path("models/tiny-llama/sample.txt"), &text).unwrap();
    let found =
        json(evaluate().arg("perplexity").arg(tiny()).arg("--text").arg(&text).args(["--ctx", "16", "--chunks", "1"]));
    assert!(found["text"].as_str().is_some_and(|name| name.ends_with(r"t\xFE.txt'")), "{found}");
    let told = fails(evaluate().arg("perplexity").arg(tiny()).args(["--text", "/dev/zero"]), 3);
    assert!(told.contains("/dev/zero: is larger than"), "{told}");
}

#[test]
fn no_output_replaces_what_a_model_is_read_from() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny-llama");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let text = folder.path().join("text.txt");
    std::fs::copy(tiny().join("sample.txt"), &text).unwrap();
    let weights = model.join("model.safetensors");
    let before = std::fs::read(&weights).unwrap();
    // As it is in the hub's cache, where the names of a snapshot lead to blobs.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&weights, &link).unwrap();
    let text = text.to_str().unwrap();
    let commands: &[&[&str]] = &[
        &["logits", "--tokens", "1,2", "-o"],
        &["imatrix", "--text", text, "--ctx", "16", "--chunks", "1", "-o"],
        &["embed", "--text", text, "-o"],
        &["compare", "--text", text, "--types", "q8_0", "--chunks", "1", "--html"],
        &["compare", "--text", text, "--types", "q8_0", "--chunks", "1", "--max-kld", "1", "--junit"],
        &["compare", "--text", text, "--types", "q8_0", "--chunks", "1", "--save-base"],
        &["optimize", "--calibrate", text, "--type", "q8_0", "-o"],
    ];
    for command in commands {
        for target in [&weights, &link] {
            let (name, options) = command.split_first().unwrap();
            let mut program = evaluate();
            program.arg(name).arg(&model).args(options).arg(target).arg("--force");
            let said = fails(&mut program, 2);
            assert!(said.contains("the output is the input"), "{command:?}: {said}");
        }
    }
    assert!(std::fs::read(&weights).unwrap() == before);
    let both = model.join("report");
    let mut program = evaluate();
    program.arg("compare").arg(&model).args(["--text", text, "--max-kld", "1", "--html"]).arg(&both).arg("--junit");
    assert!(fails(program.arg(&both), 2).contains("two files at once"));
}

#[test]
fn without_the_feature_a_device_is_refused_by_its_name() {
    if cfg!(feature = "gpu") {
        return;
    }
    let text = tiny().join("sample.txt");
    let run = |device: &str| {
        let mut command = evaluate();
        command.arg("perplexity").arg(tiny()).arg("--text").arg(&text).args(["--ctx", "32", "--chunks", "1"]);
        command.args(["--device", device]);
        command
    };
    for told in [fails(&mut run("gpu"), 2), fails(&mut run("0"), 2), fails(evaluate().arg("devices"), 2)] {
        assert!(told.contains("feature \"gpu\"") && told.contains("--features gpu"), "{told}");
    }
    assert!(fails(&mut run("cuda"), 2).contains("evaluate devices"));
    // What may go on on the processor does, and says so.
    let output = run("auto").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the processor is used"));
    assert_eq!(json(&mut run("auto"))["device"], serde_json::Value::Null);
}

#[test]
fn devices_are_listed_or_missed_in_one_line() {
    if !cfg!(feature = "gpu") {
        return;
    }
    // No driver is found where the loader looks for none.
    let told =
        fails(evaluate().arg("devices").env("VK_ICD_FILENAMES", "/nowhere").env("VK_DRIVER_FILES", "/nowhere"), 4);
    let lines = told.lines().filter(|l| l.starts_with("error: ") || l.starts_with("  help: ")).count();
    assert!(told.contains("there is no device") && lines == 2, "{told}");
    let output = evaluate().args(["devices", "--json"]).output().unwrap();
    if !output.status.success() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(fixtures::schema::faults(&document), [""; 0]);
    let text = tiny().join("sample.txt");
    let run = |device: &str| {
        let mut command = evaluate();
        command.arg("perplexity").arg(tiny()).arg("--text").arg(&text).args(["--ctx", "32", "--chunks", "1"]);
        json(command.args(["--device", device]))
    };
    let (cpu, gpu) = (run("cpu"), run("0"));
    assert_eq!(gpu["device"]["driver"], document["devices"][0]["driver"]);
    let ratio = gpu["ppl"].as_f64().unwrap() / cpu["ppl"].as_f64().unwrap();
    assert!((ratio - 1.0).abs() < 1e-5, "{ratio}");
}
