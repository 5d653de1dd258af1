//! `docs/classes.md` and `docs/way-back.md` say what the tables of classes say. `REWRITE=1 cargo test -p downcast-convert --test classes` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use convert::hf;

const HEAD: &str = "\
# The classes that `convert` knows

Made from the table of classes itself; `convert --list` prints the same. *evaluate* says whether `evaluate` computes the
model from the folder or the file; where it says no, the file is written, checked and quantized, and `evaluate` refuses it
by the name of what it has no kernel for.

Every class that llama.cpp's converter registers for text is converted. Of `Qwen3TTSForConditionalGeneration` and
`PocketTTSModel` embeddings are products, which the reference adds up in the order of the processor's library: here it is
the same everywhere. Of `PlamoForCausalLM` the reference converts one size alone, that of PLaMo 13B; `convert`
does the same. llama.cpp's converter has not the name `MptForCausalLM`.

## Where the reference fails

Elsewhere the bytes are the reference's, and `convert` says so where llama.cpp does not load them. Here the reference
stops, or what it writes is not the model, and `convert` goes on:

| what | the reference | `convert` |
|---|---|---|
| `BaichuanForCausalLM`, `BaiChuanForCausalLM` | stops | writes the model |
| a base of rotation that is null | no key, and readers take 10,000 | the base of the class |
| an epsilon or a context length that is null | no key, and llama.cpp does not load the file | that of the class |
| one name of a field null, another with its value | no key | the value |
| adapters of queries and keys of `GraniteMoeHybridForCausalLM` with state spaces | rows in the order of the folder, not of the model's file | rows as in the model's file |
| adapters of `GraniteMoeHybridForCausalLM` without state spaces | names the architecture granitehybrid, and llama.cpp refuses it beside the model's | granite, as the model's file |
| adapters of one projection of experts alone | left out | written |
| adapters of the experts of `DeepseekV4ForCausalLM` | left out | written |
| a type that the class refuses, in a folder whose tokenizer is not SentencePiece's | stops, as the tokenizer asks the class too | reads `config.json` as it stands |
";

const BACK: &str = "\
# The way back: a checkpoint folder from a GGUF file

`convert FILE.gguf -o FOLDER` makes safetensors shards (`--max-shard-size`), `config.json`, `generation_config.json`, the
tokenizer's files and a model card of a file, of the first part where it is split. `--outtype bf16|f16|f32` says what blocks are
decoded to; every GGML type of weights is. `--class` chooses where files of an architecture are those of several classes; else the
first whose names and fields say the whole file is taken. The finished folder is converted again and held against the file, keys
and values, before it gets its name.

What a file cannot say, and what is taken:

- heads of masked language models and the pooler of BERT are in no file: the trunk comes back (`BertModel`), a classifier that
  needs its pooler is refused;
- rows of positions before the first of a text (RoBERTa): zeros, which no model reads;
- whether states are normalized behind the pooling: they are (`2_Normalize`), as programs that read files do;
- dense layers behind the pooling, which are in a file only where it was made with them;
- multipliers that were taken into the weights (Falcon-H1, Jais): 1, with the weights of the file; the model is the same;
- which layers of SmallThinker slide and rotate: every fourth sees everything and does not rotate, as readers of files take it;
- whether the scales of dots3-note's norms were taken into them: they were, as in the published models;
- in how many parts the table of Qwen4-Exp's n-grams was stored: 512, as the class has it, or one;
- windows that a reader of files does not apply, ranges of initialization, dropout: the default of the class, or null;
- of towers: the window of Qwen2.5-VL (112), the pooling of Gemma 4 (3), frames that become one patch (2), the square of Kimi-VL's table
  of positions; layers, heads and positions that a model stores and does not run (LLaVA, Phi-4, PaddleOCR-VL, Youtu-VL), and the position
  of HunyuanVL's class token, which becomes zeros.

`convert FILE.gguf -o FOLDER --mmproj PROJECTOR.gguf` puts the towers of a projector file into the same folder: names and layouts of
their tensors are again the rows read the other way, `config.json` has a part for the text model and one for each tower, and
`preprocessor_config.json` what the keys say of images and sound. Both files are made again of the finished folder and held against
those that were given. Convolutions that are F16 in every projector file come back as what F16 holds of them.

Names of tensors, shapes and bytes of bf16 checkpoints come back, and the folder gives the same file, byte for byte, for the fixtures
of all classes with *yes*. `docs/way-back.py` compares logits and tokens in transformers.

| class | architecture | back |
|---|---|---|
";

fn way(row: &hf::Class, name: &str) -> String {
    let towers = convert::back::with_towers().any(|(class, ..)| class == name);
    match convert::back::has_way(row, name) {
        Ok(()) if towers => "with its projector file".to_owned(),
        Ok(()) => "yes".to_owned(),
        Err(Some(why)) => format!("no: {why}"),
        Err(None) => panic!("{name} has neither a way back nor a reason why not"),
    }
}

#[test]
fn the_page_of_the_way_back_says_what_the_table_says() {
    let mut text = BACK.to_owned();
    for row in hf::all() {
        let mut ways: Vec<(String, Vec<String>)> = Vec::new();
        for name in row.names {
            let (way, name) = (way(row, name), format!("`{name}`"));
            match ways.iter_mut().find(|(known, _)| *known == way) {
                Some((_, names)) => names.push(name),
                None => ways.push((way, vec![name])),
            }
        }
        for (way, names) in ways {
            writeln!(text, "| {} | {} | {way} |", names.join(", "), row.arch).unwrap();
        }
    }
    text.push_str("\n## With a projector file\n\n| class | kind of projector | back |\n|---|---|---|\n");
    for (class, kinds, refused) in convert::back::with_towers() {
        let kinds: Vec<String> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
        let way = refused.map_or("yes".to_owned(), |why| format!("no: {why}"));
        writeln!(text, "| `{class}` | {} | {way} |", kinds.join(", ")).unwrap();
    }
    is_page("../docs/way-back.md", &text);
}

fn is_page(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("REWRITE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert!(page == text, "{} is stale: run with REWRITE=1 and review the difference", path.display());
}

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
    is_page("../docs/classes.md", &text);
}
