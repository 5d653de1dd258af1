//! One grammar of the command line: an option means the same wherever it stands, in all four programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

const PROGRAMS: [&str; 4] = ["gguf", "convert", "quantize", "evaluate"];

/// Options that differ all the same, and why.
const EXCEPTIONS: [(&str, &str); 3] = [
    (
        "mmproj",
        "of a folder it is a switch everywhere; of a GGUF file, which `convert` alone takes back, it names the projector file",
    ),
    ("sarif", "`gguf check` prints its log unless =FILE says where to; `evaluate` prints its report besides"),
    ("text", "-f was --force in `convert`: --text takes it there when that spelling is gone"),
];

/// An option as a page of help shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    short: Option<char>,
    value: String,
}

/// The programs of this build; those of other crates are there when the whole workspace was built.
fn programs() -> Vec<(&'static str, PathBuf)> {
    let folder = PathBuf::from(env!("CARGO_BIN_EXE_evaluate"));
    let beside = |name: &str| folder.with_file_name(name).with_extension(std::env::consts::EXE_EXTENSION);
    let all = PROGRAMS.map(|name| (name, beside(name)));
    let (there, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, path)| path.exists());
    for (name, _) in missing {
        eprintln!("skipped: {name} was not built; `cargo test --workspace` builds it");
    }
    there
}

fn help(program: &PathBuf, command: &[String]) -> String {
    let output = Command::new(program).args(command).arg("--help").env("COLUMNS", "100").output().expect("runs");
    assert!(output.status.success(), "{} {command:?} --help", program.display());
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The options on a page: `  -o, --output <PATH>`.
fn options(page: &str) -> Vec<(String, Form)> {
    let own = page.split("\nExamples:").next().unwrap_or_default();
    let lines = own.lines().filter(|line| (2..=6).contains(&(line.len() - line.trim_start().len())));
    lines
        .filter_map(|line| {
            let line = line.trim();
            let (short, rest) = match line.strip_prefix('-')?.split_once(", --") {
                Some((short, rest)) => (short.chars().next(), rest),
                None => (None, line.strip_prefix("--")?),
            };
            let end = rest.find([' ', '[', '=']).unwrap_or(rest.len());
            Some((rest[..end].to_owned(), Form { short, value: rest[end..].trim().to_owned() }))
        })
        .collect()
}

fn subcommands(page: &str) -> Vec<String> {
    let Some((_, list)) = page.split_once("\nCommands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|n| *n != "help").map(str::to_owned).collect()
}

/// Every command of every program with its page.
fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    for (name, program) in programs() {
        let mut todo = vec![Vec::new()];
        while let Some(command) = todo.pop() {
            let page = help(&program, &command);
            todo.extend(subcommands(&page).into_iter().map(|sub| [&command[..], &[sub]].concat()));
            pages.push((format!("{name} {}", command.join(" ")), page));
        }
    }
    pages
}

#[test]
fn an_option_means_the_same_in_every_command_of_every_program() {
    let mut longs: BTreeMap<String, BTreeMap<Form, Vec<String>>> = BTreeMap::new();
    let mut shorts: BTreeMap<char, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for (command, page) in pages() {
        for (long, form) in options(&page) {
            if let Some(short) = form.short {
                shorts.entry(short).or_default().entry(long.clone()).or_default().push(command.clone());
            }
            longs.entry(long).or_default().entry(form).or_default().push(command.clone());
        }
    }
    assert!(longs.len() > 60, "the pages were not understood: {:?}", longs.keys());
    let excepted = |long: &String| EXCEPTIONS.iter().any(|(name, _)| name == long);
    let long = longs.iter().filter(|(long, forms)| !excepted(long) && forms.len() > 1);
    let short = shorts.iter().filter(|(_, meanings)| meanings.len() > 1);
    let several: Vec<String> = long
        .map(|(long, forms)| format!("--{long} has several forms: {forms:#?}"))
        .chain(short.map(|(short, meanings)| format!("-{short} has several meanings: {meanings:#?}")))
        .collect();
    assert!(several.is_empty(), "{}", several.join("\n"));
}

#[test]
fn an_output_is_named_by_an_option_and_replaced_by_force() {
    for (command, page) in pages() {
        let all = options(&page);
        let has = |long: &str| all.iter().any(|(name, _)| name == long);
        // What may be replaced is what was named.
        if has("force") && !has("gate") {
            assert!(has("output"), "{command} has --force and no -o");
        }
        assert!(all.iter().filter(|(long, _)| long == "force").all(|(_, form)| form.short.is_none()), "{command}");
        let usage = page.lines().find(|line| line.starts_with("Usage:")).unwrap_or_default();
        assert!(!usage.contains("OUTPUT") && !usage.contains("PREFIX"), "{command}: {usage}");
    }
}
