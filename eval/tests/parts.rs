//! Measurements in parts, through the program: together they are what one run finds, bit for bit.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn evaluate(args: &[&str], at: &Path) -> Command {
    let mut command = Command::cargo_bin("evaluate").unwrap();
    command.args(args).current_dir(at).env_remove("SLURM_ARRAY_TASK_ID").env_remove("JOB_COMPLETION_INDEX");
    command
}

/// What a run that succeeds prints.
fn done(args: &[&str], at: &Path) -> String {
    let out = evaluate(args, at).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What a run says that ends with this code.
fn refused(code: i32, args: &[&str], at: &Path) -> String {
    let out = evaluate(args, at).output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stderr).unwrap()
}

/// A report without what a clock says.
fn report(text: &str) -> Value {
    let mut json: Value = serde_json::from_str(text).unwrap();
    // How it was called and from which files differs, what was measured does not.
    for key in ["seconds", "tokens_per_second", "options", "files"] {
        json.as_object_mut().unwrap().remove(key);
    }
    if let Some(protocol) = json.get_mut("protocol").and_then(Value::as_object_mut) {
        protocol.remove("seconds");
    }
    json
}

/// Runs a command in parts and gives the folder that they are in.
fn in_parts(args: &[&str], parts: usize, name: &str, at: &Path) -> PathBuf {
    for no in (1..=parts).rev() {
        done(&[args, &["--part", &format!("{no}/{parts}"), "-o", name]].concat(), at);
    }
    at.join(name)
}

fn model(name: &str) -> String {
    fixtures::path(name).to_str().unwrap().to_owned()
}

#[test]
fn perplexity_of_parts_is_that_of_one_run() {
    let place = tempfile::tempdir().unwrap();
    let (tiny, text) = (model("models/tiny-llama"), model("models/tiny-llama/sample.txt"));
    for more in [&["--ctx", "64", "--chunks", "7"][..], &["--ctx", "64", "--stride", "32", "--chunks", "5"]] {
        let args = [&["perplexity", &tiny, "--text", &text], more].concat();
        let whole = report(&done(&[&args[..], &["--json"]].concat(), place.path()));
        for parts in [1, 2, 5] {
            let folder = format!("{parts}-{}", more.len());
            in_parts(&args, parts, &folder, place.path());
            assert_eq!(report(&done(&["gather", &folder, "--json"], place.path())), whole, "{parts} {more:?}");
        }
        assert!(refused(2, &[&args[..], &["--part", "1/8", "-o", "x"]].concat(), place.path()).contains("8 parts"));
    }
}

#[test]
fn a_comparison_in_parts_is_that_of_one_run() {
    let place = tempfile::tempdir().unwrap();
    let (tiny, text) = (model("models/tiny-llama"), model("models/tiny-llama/sample.txt"));
    let args = ["compare", &tiny, "--text", &text, "--types", "q8_0,q4_k_m,nf4", "--ctx", "64", "--chunks", "5"];
    let whole = report(&done(&[&args[..], &["--json"]].concat(), place.path()));
    for (parts, more, folder) in [(2, &[][..], "chunks"), (3, &["--by-types"], "types"), (2, &["--by-types"], "2")] {
        in_parts(&[&args[..], more].concat(), parts, folder, place.path());
        assert_eq!(report(&done(&["gather", folder, "--json"], place.path())), whole, "{parts} {more:?}");
    }
    // The gate judges all parts together.
    let out = evaluate(&["gather", "chunks", "--max-kld", "0.0001"], place.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    done(&["gather", "chunks", "--max-kld", "1", "--html", "r.html"], place.path());
    assert!(place.path().join("r.html").exists());
    let part = [&args[..], &["--part", "1/2", "-o", "y", "--max-kld", "1"]].concat();
    assert!(refused(2, &part, place.path()).contains("evaluate gather"));
    let refusal = refused(3, &["gather", "chunks", "types"], place.path());
    assert!(refusal.contains("another number of parts") || refusal.contains("kind of division"), "{refusal}");
}

#[test]
fn the_importance_of_parts_is_that_of_one_run_with_experts_too() {
    let place = tempfile::tempdir().unwrap();
    let text = model("models/tiny-llama/sample.txt");
    for (model, folder) in
        [(model("models/tiny-llama"), "llama"), (model("golden/arch/Qwen3-MoE-Tiny-A1B/hf/Qwen3-MoE-Tiny-A1B"), "moe")]
    {
        let args = ["imatrix", &model, "--text", &text, "--ctx", "32", "--chunks", "6", "--process-output"];
        let one = format!("{folder}.gguf");
        done(&[&args[..], &["-o", &one]].concat(), place.path());
        for parts in [2, 3] {
            let (folder, together) = (format!("{folder}-{parts}"), format!("{folder}-{parts}.gguf"));
            in_parts(&args, parts, &folder, place.path());
            done(&["gather", &folder, "-o", &together], place.path());
            let read = |name: &str| std::fs::read(place.path().join(name)).unwrap();
            assert!(read(&together) == read(&one), "{folder}");
        }
    }
}

#[test]
fn what_is_finished_is_skipped_and_what_does_not_belong_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (tiny, text) = (model("models/tiny-llama"), model("models/tiny-llama/sample.txt"));
    let args = ["perplexity", &tiny, "--text", &text, "--ctx", "64", "--chunks", "4", "-o", "p"];
    let auto = |task: &str| {
        let mut command = evaluate(&[&args[..], &["--part", "auto"]].concat(), place.path());
        command.env("JOB_COMPLETION_INDEX", task).env("JOB_COMPLETIONS", "2");
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(auto("0").contains("part 1 of 2"));
    assert!(auto("0").contains("was finished before"));
    let missing = refused(3, &["gather", "p"], place.path());
    assert!(missing.contains("part 2 of 2 is missing") && missing.contains("--part 2/2"), "{missing}");
    auto("1");
    done(&["gather", "p"], place.path());

    let other = [&args[..4], &["--ctx", "64", "--chunks", "3", "-o", "p", "--part", "2/2"]].concat();
    let told = refused(2, &other, place.path());
    assert!(told.contains("another"), "{told}");
    let first = place.path().join("p").join("tiny-llama-perplexity-00001-of-00002.part");
    let first = first.to_str().unwrap();
    let told = refused(3, &["gather", "p", first], place.path());
    assert!(told.contains("there twice") && told.contains("remove one"), "{told}");
    assert!(refused(2, &["perplexity", &tiny, "--text", &text, "--part", "1/2"], place.path()).contains("-o FOLDER"));
    std::fs::create_dir(place.path().join("none")).unwrap();
    assert!(refused(3, &["gather", "none"], place.path()).contains("holds no parts"));
    // A part that was cut off.
    let bytes = std::fs::read(first).unwrap();
    std::fs::write(first, &bytes[..bytes.len() - 100]).unwrap();
    let told = refused(3, &["gather", "p"], place.path());
    assert!(told.contains("00001-of-00002.part") && told.contains("cut short"), "{told}");
}

#[test]
fn files_of_better_numbers_are_shared_out_by_types() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    let (tiny, text) = (model("models/tiny-llama"), model("models/tiny-llama/sample.txt"));
    let more = ["--type", "q8_0", "--type", "q4_0", "--type", "iq4_nl", "--ctx", "32", "--chunks", "4", "--quiet"];
    let args = [&["optimize", &tiny, "--calibrate", &text][..], &more].concat();
    std::fs::create_dir(at.join("whole")).unwrap();
    done(&[&args[..], &["-o", "whole"]].concat(), at);
    let part = |no: &'static str| [&args[..], &["--part", no, "-o", "p"]].concat();
    done(&part("2/2"), at);
    assert!(refused(3, &["gather", "p"], at).contains("part 1 of 2 is missing"));
    done(&part("1/2"), at);
    let told = done(&["gather", "p"], at);
    for name in ["Q8_0", "Q4_0", "IQ4_NL"].map(|ty| format!("tiny-llama-{ty}.gguf")) {
        assert_eq!(
            std::fs::read(at.join("whole").join(&name)).unwrap(),
            std::fs::read(at.join("p").join(&name)).unwrap()
        );
        assert!(told.contains(&name), "{told}");
    }
    // A file that was lost is made again, and only that one.
    let (first, second) = (at.join("p/tiny-llama-Q4_0.gguf"), at.join("p/tiny-llama-IQ4_NL.gguf"));
    let time = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = time(&first);
    std::fs::remove_file(&second).unwrap();
    let missing = refused(3, &["gather", "p"], at);
    assert!(missing.contains("tiny-llama-IQ4_NL.gguf") && missing.contains("run part 2 again"), "{missing}");
    done(&part("2/2"), at);
    assert_eq!(time(&first), before);
    done(&["gather", "p", "--json"], at);
    // Another text is another run; more parts than types are none.
    let other = ["--ctx", "32", "--chunks", "3", "--type", "q8_0", "--type", "q4_0", "--type", "iq4_nl", "--quiet"];
    let other = [&["optimize", &tiny, "--calibrate", &text][..], &other, &["--part", "1/2", "-o", "p"]].concat();
    assert!(refused(2, &other, at).contains("number of chunks"));
    assert!(refused(2, &part("1/4"), at).contains("3 types"));
}
