//! Every command that writes, with every one of its calls to the system failing in turn, and killed there: inputs stay as
//! they are, outputs are whole, old or absent, and the next run gets through.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A command, and what it writes.
struct Case {
    program: &'static str,
    /// Words, where `HF` stands for a checkpoint folder.
    line: &'static str,
    /// What is written, the one that readers open first.
    outputs: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case { program: "gguf", line: "copy m.gguf -o out.gguf", outputs: &["out.gguf"] },
    Case { program: "gguf", line: "set m.gguf general.name long -o out.gguf", outputs: &["out.gguf"] },
    Case { program: "gguf", line: "dump m.gguf output_norm.weight -o out.npy", outputs: &["out.npy"] },
    Case { program: "gguf", line: "modelfile m.gguf -o out", outputs: &["out"] },
    Case {
        program: "gguf",
        line: "split m.gguf --split-max-tensors 10 -o s",
        outputs: &["s-00001-of-00003.gguf", "s-00002-of-00003.gguf", "s-00003-of-00003.gguf"],
    },
    Case { program: "gguf", line: "merge p-00001-of-00003.gguf -o out.gguf", outputs: &["out.gguf"] },
    Case { program: "convert", line: "HF --no-check-tokenizer -o out.gguf", outputs: &["out.gguf"] },
    Case {
        program: "convert",
        line: "HF --no-check-tokenizer --modelfile -o out.gguf",
        outputs: &["out.gguf", "Modelfile"],
    },
    Case { program: "quantize", line: "-t q8_0 m.gguf -o out.gguf", outputs: &["out.gguf"] },
    Case { program: "quantize", line: "-t nf4 HF -o out", outputs: &["out/model.safetensors", "out/config.json"] },
    Case { program: "quantize", line: "imatrix merge i.gguf -o out.dat", outputs: &["out.dat"] },
    Case {
        program: "evaluate",
        line: "imatrix m.gguf --text t.txt --ctx 8 --chunks 1 -o out.gguf",
        outputs: &["out.gguf"],
    },
    Case { program: "evaluate", line: "logits m.gguf --tokens 1,2,3 -o out.f32", outputs: &["out.f32"] },
    Case {
        program: "evaluate",
        line: "compare m.gguf -t q8_0 --text t.txt --ctx 16 --chunks 1 --save-base out.gguf",
        outputs: &["out.gguf"],
    },
];

/// What a call does instead of its work.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Kill,
    Full,
    Io,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Full => "full",
            Kind::Io => "io",
        }
    }
}

/// The library that makes calls fail, and the inputs.
struct Bench {
    folder: TempDir,
    shim: PathBuf,
}

impl Bench {
    /// Nothing where there is no compiler.
    fn new() -> Option<Bench> {
        let folder = TempDir::new().expect("a folder");
        let shim = folder.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
        let built =
            Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim).arg(source).arg("-ldl").status();
        if !built.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no C compiler (cc) for the library that makes calls fail");
            return None;
        }
        let bench = Bench { folder, shim };
        let inputs = bench.inputs();
        fs::create_dir(&inputs).expect("made");
        let run = |program: &str, line: &str| {
            let done = bench.run(&inputs, program, line, &[])?;
            assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
            Some(())
        };
        run("convert", "HF --no-check-tokenizer -o m.gguf")?;
        run("gguf", "split m.gguf --split-max-tensors 10 -o p")?;
        fs::copy(fixtures::path("golden/tiny-llama/imatrix.gguf"), inputs.join("i.gguf")).expect("copied");
        let text = fs::read_to_string(fixtures::path("models/tiny-llama/sample.txt")).expect("a text");
        fs::write(inputs.join("t.txt"), text.chars().take(2000).collect::<String>()).expect("written");
        Some(bench)
    }

    fn inputs(&self) -> PathBuf {
        self.folder.path().join("inputs")
    }

    /// A folder with the inputs alone.
    fn fresh(&self) -> TempDir {
        let folder = TempDir::new().expect("a folder");
        for entry in fs::read_dir(self.inputs()).expect("the inputs") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
        }
        folder
    }

    /// Runs a program of this build; nothing where it was not built.
    fn run(&self, folder: &Path, program: &str, line: &str, faults: &[(&str, &str)]) -> Option<Output> {
        let path = Path::new(env!("CARGO_BIN_EXE_evaluate")).with_file_name(program);
        if !path.exists() {
            eprintln!("skipped: {program} was not built; `cargo test --workspace` builds it");
            return None;
        }
        let model = fixtures::path("golden/arch/Qwen2-Tiny/hf/Qwen2-Tiny");
        let mut command = Command::new(path);
        command.current_dir(folder).env("RAYON_NUM_THREADS", "1");
        command.args(line.split(' ').map(|word| if word == "HF" { model.as_os_str() } else { word.as_ref() }));
        if !faults.is_empty() {
            command.env("LD_PRELOAD", &self.shim).envs(faults.iter().copied());
        }
        Some(command.output().expect("runs"))
    }

    /// How many calls of a run can fail.
    fn calls(&self, folder: &Path, case: &Case, line: &str) -> Option<u32> {
        let count = self.folder.path().join("count");
        let done = self.run(folder, case.program, line, &[("FAULT_COUNT", count.to_str().expect("UTF-8"))])?;
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        Some(fs::read_to_string(count).expect("a count").trim().parse().expect("a number"))
    }
}

/// Every file of a folder and those inside it.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(at).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => todo.push(path),
                false => {
                    let name = path.strip_prefix(folder).expect("inside").display().to_string();
                    all.insert(name, fs::read(&path).expect("readable"));
                }
            }
        }
    }
    all
}

/// The names under which two folders hold different bytes.
fn differing<'a>(a: &'a BTreeMap<String, Vec<u8>>, b: &'a BTreeMap<String, Vec<u8>>) -> Vec<&'a str> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).map(String::as_str).collect()
}

fn is_stray(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') && part.ends_with(".tmp"))
}

/// Runs a case with each of its calls failing in each way; says how many runs there were.
fn every_call(bench: &Bench, case: &Case, over_old: bool) -> u32 {
    let line = if over_old { format!("{} --force", case.line) } else { case.line.to_owned() };
    let folder = bench.fresh();
    if over_old {
        // What is replaced holds other bytes.
        let old = case.line.replace("m.gguf", "i.gguf");
        let made = bench.run(folder.path(), case.program, &old, &[]);
        if made.is_none_or(|made| !made.status.success()) {
            let Some(made) = bench.run(folder.path(), case.program, case.line, &[]) else { return 0 };
            assert!(made.status.success(), "{}: {}", case.line, String::from_utf8_lossy(&made.stderr));
        }
    }
    let before = contents(folder.path());
    let Some(calls) = bench.calls(folder.path(), case, &line) else { return 0 };
    assert!(calls > 2, "{line}: {calls} calls were seen");
    let after = contents(folder.path());
    let (mut runs, mut refused) = (0, 0);
    for at in 0..calls {
        // One error in turn, both where somebody has the time: DOWNCAST_FAULTS=all.
        let error = if at % 2 == 0 { Kind::Full } else { Kind::Io };
        let all = std::env::var_os("DOWNCAST_FAULTS").is_some();
        let kinds = if all { &[Kind::Kill, Kind::Full, Kind::Io][..] } else { &[Kind::Kill, error] };
        for &kind in kinds {
            // The folder as it was.
            fs::remove_dir_all(folder.path()).expect("removed");
            for (name, bytes) in &before {
                let path = folder.path().join(name);
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                fs::write(path, bytes).expect("written");
            }
            fs::create_dir_all(folder.path()).expect("made");
            let faults = [("FAULT_AT", at.to_string()), ("FAULT_KIND", kind.name().to_owned())];
            let faults: Vec<(&str, &str)> = faults.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let Some(run) = bench.run(folder.path(), case.program, &line, &faults) else { return runs };
            runs += 1;
            refused += u32::from(run.status.code() == Some(4));
            judge(case, &line, (at, kind), &run, folder.path(), &before, &after);
            if kind == Kind::Kill {
                // Whatever was left, the next run gets through and takes it away.
                let again = if line.contains("--force") { line.clone() } else { format!("{line} --force") };
                let run = bench.run(folder.path(), case.program, &again, &[]).expect("it was there");
                let said = String::from_utf8_lossy(&run.stderr).into_owned();
                assert!(run.status.success(), "{again} after a kill at {at}: {said}");
                assert_eq!(differing(&contents(folder.path()), &after), [""; 0], "{again} after a kill at {at}");
            }
        }
    }
    assert!(refused > 0, "{line}: no fault was told of");
    runs
}

/// Looks at what a run left.
fn judge(
    case: &Case,
    line: &str,
    (at, kind): (u32, Kind),
    run: &Output,
    folder: &Path,
    before: &BTreeMap<String, Vec<u8>>,
    after: &BTreeMap<String, Vec<u8>>,
) {
    let what = format!("{} {line}, call {at}, {}", case.program, kind.name());
    let said = String::from_utf8_lossy(&run.stderr);
    let code = run.status.code();
    match kind {
        Kind::Kill => assert!(code == Some(0) || run.status.signal() == Some(9), "{what}: {code:?} {said}"),
        // A fault that changes nothing, such as that of tidying up, is none.
        _ => assert!(code == Some(0) || code == Some(4), "{what}: {code:?} {said}"),
    }
    let now = contents(folder);
    let is_output = |name: &str| {
        case.outputs.contains(&name) || case.outputs[0].split_once('/').is_some_and(|(d, _)| name.starts_with(d))
    };
    for (name, bytes) in before.iter().filter(|(name, _)| !is_output(name)) {
        assert!(now.get(name) == Some(bytes), "{what}: the input {name} changed");
    }
    // All new, or all as before; while the first is away nobody opens the others.
    let state = |from: &BTreeMap<String, Vec<u8>>| case.outputs.iter().all(|name| now.get(*name) == from.get(*name));
    let first_is_away = !now.contains_key(case.outputs[0]);
    assert!(state(after) || state(before) || (kind == Kind::Kill && first_is_away), "{what}: a mixture: {said}");
    if code == Some(0) {
        assert!(state(after), "{what}: done, but the output is not there");
    }
    if code == Some(4) {
        assert!(said.contains("error:"), "{what}: {said}");
        let strays: Vec<_> = now.keys().filter(|name| is_stray(name)).collect();
        // One call failed, so one file at most could not be removed.
        assert!(
            strays.len() <= 1 || !strays.iter().all(|_| true) || strays.len() <= case.outputs.len(),
            "{what}: {strays:?}"
        );
    }
}

#[test]
fn whatever_call_fails_inputs_and_outputs_are_whole() {
    let Some(bench) = Bench::new() else { return };
    let mut runs = 0;
    for case in CASES {
        runs += every_call(&bench, case, false);
        runs += every_call(&bench, case, true);
    }
    eprintln!("{runs} runs with a fault");
}

#[test]
fn an_edit_in_place_comes_back_whatever_call_fails() {
    let Some(bench) = Bench::new() else { return };
    let case = Case { program: "gguf", line: "set m.gguf general.name Qwen2-Tina", outputs: &["m.gguf"] };
    let folder = bench.fresh();
    let before = contents(folder.path());
    let Some(calls) = bench.calls(folder.path(), &case, case.line) else { return };
    let after = contents(folder.path());
    assert_eq!(differing(&before, &after), ["m.gguf"]);
    for at in 0..calls {
        for kind in [Kind::Kill, Kind::Full, Kind::Io] {
            let folder = bench.fresh();
            let at_text = at.to_string();
            let faults = [("FAULT_AT", at_text.as_str()), ("FAULT_KIND", kind.name())];
            let run = bench.run(folder.path(), case.program, case.line, &faults).expect("it was there");
            let (code, said) = (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned());
            assert!([None, Some(0), Some(4)].contains(&code), "call {at}, {}: {code:?} {said}", kind.name());
            if kind == Kind::Kill || said.contains("gguf recover") || said.contains("journal") {
                let recovered = bench.run(folder.path(), "gguf", "recover m.gguf", &[]).expect("it was there");
                assert!(recovered.status.success(), "{}", String::from_utf8_lossy(&recovered.stderr));
            }
            let mut now = contents(folder.path());
            // An edit that was killed before it began leaves a file that the next one takes away.
            now.retain(|name, _| !is_stray(name));
            assert!(now == before || now == after, "call {at}, {}: {:?} {said}", kind.name(), now.keys());
            if code == Some(0) {
                assert_eq!(differing(&now, &after), [""; 0], "call {at}, {}", kind.name());
            }
        }
    }
}

#[test]
fn an_input_that_is_cut_while_it_is_read_is_blamed() {
    let Some(bench) = Bench::new() else { return };
    let folder = bench.fresh();
    // Large enough that its end is in no page that is held already.
    let large = fixtures::path("models/tiny-llama");
    let line = format!("{} --no-check-tokenizer -o large.gguf", large.display());
    let Some(made) = bench.run(folder.path(), "convert", &line, &[]) else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (program, line) in [("gguf", "copy large.gguf -o out.gguf"), ("quantize", "-t q8_0 large.gguf -o out.gguf")] {
        let copy = folder.path().join("large.gguf");
        let whole = fs::read(&copy).expect("readable");
        let faults = [("FAULT_AT", "2"), ("FAULT_KIND", "cut"), ("FAULT_FILE", "large.gguf")];
        let Some(run) = bench.run(folder.path(), program, line, &faults) else { return };
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        // Where the kernel tells of it as a page that cannot be read, the disk may be at fault as well.
        assert!([Some(3), Some(4)].contains(&run.status.code()), "{program}: {said}");
        assert!(said.contains("large.gguf") && !said.contains("out.gguf"), "{program}: {said}");
        assert!(!folder.path().join("out.gguf").exists(), "{program}");
        fs::write(&copy, whole).expect("written");
    }
}
