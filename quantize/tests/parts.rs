//! A model in parts, by the real binary: the parts together are the file of one machine, and what does not belong
//! together is told.

use std::path::Path;

use assert_cmd::Command;
use gguf::Source;

fn quantize(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::cargo_bin("quantize").unwrap();
    command.current_dir(folder).env_remove("SLURM_ARRAY_TASK_ID").env_remove("JOB_COMPLETION_INDEX").args(args);
    command
}

fn done(args: &[&str], folder: &Path) -> String {
    let output = quantize(args, folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn refused(code: i32, args: &[&str], folder: &Path) -> String {
    let output = quantize(args, folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn parts_together_are_the_file_of_one_machine_for_any_number() {
    let place = tempfile::tempdir().unwrap();
    let model = fixtures::path("models/tiny-llama");
    let model = model.to_str().unwrap();
    done(&["--type", "q4_k_m", model, "-o", "one.gguf"], place.path());
    let one = std::fs::read(place.path().join("one.gguf")).unwrap();
    for of in [1, 3, 7, 39] {
        let (folder, whole) = (format!("parts-{of}"), format!("whole-{of}.gguf"));
        for no in (1..=of).rev() {
            done(&["--type", "q4_k_m", model, "--part", &format!("{no}/{of}"), "-o", &folder], place.path());
        }
        done(&["--gather", &folder, "--parts", &of.to_string(), "-o", &whole], place.path());
        assert!(std::fs::read(place.path().join(&whole)).unwrap() == one, "{of} parts");
        // Unmerged the shards are a model for any reader.
        let first = place.path().join(&folder).join(format!("Tiny-Llama-4.2M-Q4_K_M-00001-of-{of:05}.gguf"));
        assert_eq!(gguf::open(&first).unwrap().tensors().len(), 39);
        gguf::check::verify_file(&first, true).unwrap();
    }
}

#[test]
fn a_finished_part_is_skipped_and_what_does_not_belong_is_named() {
    let place = tempfile::tempdir().unwrap();
    let model = fixtures::path("models/tiny-llama");
    let model = model.to_str().unwrap();
    let part = |no: usize, more: &[&'static str]| {
        let no = format!("{no}/3");
        let args = [&["--type", "q8_0", model, "--part", no.as_str(), "-o", "p"], more].concat();
        (args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), no)
    };
    let run = |no: usize, more: &[&'static str]| {
        let (args, _) = part(no, more);
        done(&args.iter().map(String::as_str).collect::<Vec<_>>(), place.path())
    };
    run(1, &[]);
    let second = quantize(&["--type", "q8_0", model, "--part", "auto", "-o", "p"], place.path())
        .env("SLURM_ARRAY_TASK_ID", "2")
        .env("SLURM_ARRAY_TASK_COUNT", "3")
        .output()
        .unwrap();
    assert!(second.status.success());
    assert!(run(2, &[]).contains("was finished before"));
    let missing = refused(3, &["--gather", "p"], place.path());
    assert!(missing.contains("part 3 of 3 is missing") && missing.contains("--part 3/3"), "{missing}");

    // Other options: refused when writing over it, told when gathering.
    run(3, &[]);
    done(&["--gather", "p"], place.path());
    let (args, _) = part(3, &["--token-embedding-type", "f16"]);
    let other = refused(2, &args.iter().map(String::as_str).collect::<Vec<_>>(), place.path());
    assert!(other.contains("another set of options"), "{other}");
    run(3, &["--token-embedding-type", "f16", "--force"]);
    let mixed = refused(3, &["--gather", "p"], place.path());
    assert!(mixed.contains("part 3 was made with another set of options than part 1"), "{mixed}");
    run(3, &["--force"]);

    // A damaged shard, and one that a killed run left unnamed.
    let shard = place.path().join("p/Tiny-Llama-4.2M-Q8_0-00002-of-00003.gguf");
    let mut bytes = std::fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&shard, &bytes).unwrap();
    assert!(refused(3, &["--gather", "p"], place.path()).contains("not the file that its record describes"));
    std::fs::remove_file(&shard).unwrap();
    assert!(refused(3, &["--gather", "p"], place.path()).contains("was never finished"));
    run(2, &[]);
    done(&["--gather", "p"], place.path());

    assert!(refused(3, &["--gather", "p", "--parts", "4"], place.path()).contains("where 4 parts are wanted"));
    assert!(refused(2, &["--type", "q8_0", model, "--part", "1/40", "-o", "q"], place.path()).contains("39 tensors"));
    assert!(
        refused(2, &["--type", "q8_0", model, "--part", "4/3", "-o", "q"], place.path()).contains("no part 4 of 3")
    );
    assert!(refused(2, &["--type", "q8_0", model, "--part", "1/3"], place.path()).contains("-o FOLDER"));
    assert!(refused(2, &["--type", "q8_0", model, "--part", "auto", "-o", "q"], place.path()).contains("--part 2/8"));
}
