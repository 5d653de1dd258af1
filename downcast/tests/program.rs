//! The binary `downcast` runs the four programs, and speaks of itself as the person called it.

use std::path::{Path, PathBuf};
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_downcast");
const PROGRAMS: [&str; 4] = ["convert", "quantize", "evaluate", "gguf"];

fn tiny() -> String {
    fixtures::path("models/tiny-llama").to_string_lossy().into_owned()
}

/// Exit code, standard output and standard error of a run.
fn run(binary: &Path, folder: &Path, args: &[&str]) -> (i32, String, String) {
    let out = Command::new(binary).args(args).env("COLUMNS", "200").current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

fn downcast(folder: &Path, args: &[&str]) -> (i32, String, String) {
    run(Path::new(BINARY), folder, args)
}

/// A folder on the volume of the binary.
fn beside() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The binary under another name. A copy could not be started while another test's child still has it open for writing.
fn called(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    std::fs::hard_link(BINARY, &path).unwrap();
    path
}

/// The lines of a help that give a command to type.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let examples = help.split("Examples:\n").nth(1).unwrap_or_default();
    examples.lines().map_while(|line| line.strip_prefix("  "))
}

#[test]
fn usage_and_examples_can_be_typed() {
    let place = tempfile::tempdir().unwrap();
    let (code, said, _) = downcast(place.path(), &["--help"]);
    assert_eq!(code, 0);
    for program in PROGRAMS {
        assert!(said.contains(&format!("\n  {program} ")), "{said}");
        let (code, said, errors) = downcast(place.path(), &[program, "--help"]);
        assert_eq!(code, 0, "{errors}");
        assert!(said.contains(&format!("Usage: downcast {program} ")), "{said}");
        let typed = |name: &str| commands(&said).filter(|line| line.starts_with(&format!("{name} "))).count();
        assert!(typed(&format!("downcast {program}")) >= 3, "{said}");
        assert!(PROGRAMS.iter().all(|name| typed(name) == 0), "{said}");
        let prose = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!PROGRAMS.iter().any(|name| prose.contains(&format!("`{name} "))), "{prose}");
    }
    let (_, said, _) = downcast(place.path(), &["evaluate", "compare", "--help"]);
    assert!(said.contains("Usage: downcast evaluate compare "), "{said}");
    let (code, said, _) = downcast(place.path(), &["quantize", "--version"]);
    assert!(code == 0 && said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}

#[test]
fn a_subcommand_is_the_program() {
    let place = beside();
    let folder = place.path();
    let args = [&tiny(), "--type", "q4_k_m", "--json", "-q", "-o"];
    let (code, one, errors) = downcast(folder, &[&["quantize"], &args[..], &["one.gguf"]].concat());
    assert_eq!(code, 0, "{errors}");
    let (code, two, errors) = run(&called(folder, "quantize"), folder, &[&args[..], &["two.gguf"]].concat());
    assert_eq!(code, 0, "{errors}");
    let document = |text: &str| {
        let mut document: serde_json::Value = serde_json::from_str(text).unwrap();
        document.as_object_mut().unwrap().remove("seconds");
        document
    };
    assert_eq!(document(&one.replace("one.gguf", "two.gguf")), document(&two));
    let document = document(&one);
    assert_eq!((&document["program"], &document["options"]["type"][0]), (&"quantize".into(), &"q4_k_m".into()));
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert!(read("one.gguf") == read("two.gguf"));

    let (code, said, errors) = downcast(folder, &["gguf", "check", "--data", "one.gguf"]);
    assert_eq!((code, said.as_str()), (0, "one.gguf: good\n"), "{errors}");
    assert_eq!(downcast(folder, &["gguf", "diff", "one.gguf", "two.gguf"]).0, 0);
    let (code, said, errors) = downcast(folder, &["convert", &tiny(), "--outtype", "f16", "-o", "half.gguf"]);
    assert!(code == 0 && said.contains("half.gguf"), "{errors}");
    let (code, _, errors) =
        downcast(folder, &["evaluate", "logits", "one.gguf", "--tokens", "1,2", "-o", "logits.f32"]);
    assert!(code == 0 && folder.join("logits.f32").exists(), "{errors}");
}

#[test]
fn a_manifest_is_verified_by_every_name_of_the_binary() {
    let place = beside();
    let folder = place.path();
    let tiny = tiny();
    let make = ["quantize", &tiny, "--type", "q4_0", "-q", "-o", "one.gguf", "--manifest", "one.json"];
    let (code, _, errors) = downcast(folder, &make);
    assert_eq!(code, 0, "{errors}");
    let verify = ["quantize", "verify", "one.json", "--source", &tiny];
    let (code, said, errors) = downcast(folder, &verify);
    assert!(code == 0 && said.contains("same"), "{said}{errors}");
    let (code, said, errors) = run(&called(folder, "quantize"), folder, &verify[1..]);
    assert!(code == 0 && said.contains("same"), "{said}{errors}");
    #[cfg(unix)]
    {
        let link = folder.join("links/quantize");
        std::fs::create_dir(folder.join("links")).unwrap();
        std::os::unix::fs::symlink(BINARY, &link).unwrap();
        let (code, said, errors) = run(&link, folder, &verify[1..]);
        assert!(code == 0 && said.contains("same"), "{said}{errors}");
    }
}

#[test]
fn exit_codes_are_those_of_the_programs() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let (code, _, said) = downcast(folder, &[]);
    assert!(code == 2 && said.contains("Usage: downcast"), "{said}");
    let (code, _, said) = downcast(folder, &["quantise", "x"]);
    assert!(code == 2 && said.contains("quantize"), "{said}");
    // The way out is a command that is there.
    let (code, _, said) = downcast(folder, &["quantize", &tiny()]);
    assert!(code == 2 && said.contains("`downcast quantize --type list`") || said.contains("--type q4_k_m"), "{said}");
    assert_eq!(downcast(folder, &["gguf", "show", "absent.gguf"]).0, 3);
    std::fs::write(folder.join("bad.gguf"), b"GGUF").unwrap();
    assert_eq!(downcast(folder, &["gguf", "check", "bad.gguf"]).0, 1);
}

#[test]
fn completions_and_man_pages_are_of_all_programs() {
    let place = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, said, errors) = downcast(place.path(), &["--completions", shell]);
        assert!(code == 0 && said.contains("tensor-type-file") && said.contains("perplexity"), "{shell}: {errors}");
    }
    assert_eq!(downcast(place.path(), &["--man", "man1"]).0, 0);
    let page = |name: &str| std::fs::read_to_string(place.path().join("man1").join(name)).unwrap();
    for program in PROGRAMS {
        assert!(page("downcast.1").contains(&format!("downcast\\-{program}(1)")));
        assert!(page(&format!("downcast-{program}.1")).contains(&format!("\\fBdowncast {program}\\fR")));
    }
    assert!(page("downcast-evaluate-compare.1").contains("html"));
}

#[test]
fn each_program_has_completions_and_man_pages() {
    let place = beside();
    for program in PROGRAMS {
        let binary = called(place.path(), program);
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let (code, said, errors) = run(&binary, place.path(), &["--completions", shell]);
            assert!(code == 0 && said.contains(program) && said.contains("quiet"), "{program} {shell}: {errors}");
        }
        assert_eq!(run(&binary, place.path(), &["--man", program.to_uppercase().as_str()]).0, 0);
        let page = place.path().join(program.to_uppercase()).join(format!("{program}.1"));
        assert!(std::fs::read_to_string(page).unwrap().contains("completions"));
    }
}
