//! `docs/classes.md` says what the table of classes says. `REWRITE=1 cargo test -p downcast-convert --test classes` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use convert::hf;

const HEAD: &str = "\
# The classes that `convert` knows

Made from the table of classes itself; `convert --list` prints the same. *evaluate* says whether `evaluate` computes the
model from the folder or the file; where it says no, the file is written, checked and quantized, and `evaluate` refuses it
by the name of what it has no kernel for.

Of the classes that llama.cpp's converter registers for text, two are not converted: `Qwen3TTSForConditionalGeneration` (its
talker is a text model with codebooks of sound for words) and `PocketTTSModel` (a folder without a config.json, whose sizes
are guessed from its tensors). Of `PlamoForCausalLM` the reference converts one size alone, that of PLaMo 13B; `convert`
does the same. `BaichuanForCausalLM` is converted though the reference fails on it. llama.cpp's converter has not
the name `MptForCausalLM`.
";

fn table<'a>(text: &mut String, title: &str, rows: impl Iterator<Item = &'a hf::Class>) {
    writeln!(text, "\n## {title}\n\n| class | architecture | evaluate | what is special |\n|---|---|---|---|").unwrap();
    for row in rows {
        let names: Vec<String> = row.names.iter().map(|name| format!("`{name}`")).collect();
        let evaluated = row.is_evaluated().map_or("by kind", |runs| if runs { "yes" } else { "no" });
        writeln!(text, "| {} | {} | {evaluated} | {} |", names.join(", "), row.arch, row.remark).unwrap();
    }
}

#[test]
fn the_page_of_classes_says_what_the_table_says() {
    let mut text = HEAD.to_owned();
    table(&mut text, "Text models", hf::all());
    table(&mut text, "Projector files", hf::projectors::all());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/classes.md");
    if std::env::var_os("REWRITE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let page = fs::read_to_string(path).unwrap();
    assert!(page == text, "docs/classes.md is stale: run with REWRITE=1 and review the difference");
}
