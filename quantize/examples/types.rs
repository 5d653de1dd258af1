//! The type that every file type gives each tensor: `types FILE...`.
//!
//! One JSON line a file: `{"file", "plain": {FILE_TYPE: {tensor: type}}, "measured": {…}}`, without and with an importance
//! matrix; in place of the types stands the error of a plan that is refused. Read by the comparison with the published
//! facts about `llama-quantize`.

use gguf::Source as _;
use quantize::plan::{Options, Plan};
use quantize::recipe::{FILE_TYPES, FileType};
use serde_json::{Map, Value as Json, json};

fn main() -> gguf::Result<()> {
    for path in std::env::args().skip(1) {
        let file = gguf::File::open(&path)?;
        let plan = |file_type: &'static FileType, measured: bool| {
            let options = Options { dry_run: true, measured, ..Options::default() };
            match Plan::new(file.metadata(), file.tensors(), file_type, &options, None) {
                Err(e) => Json::from(e.to_string()),
                Ok(plan) => {
                    let ty = |t: &quantize::plan::Planned| (t.info.name().to_owned(), t.info.ty().to_string().into());
                    Json::Object(plan.tensors.iter().map(ty).collect())
                }
            }
        };
        let all = |measured: bool| -> Map<String, Json> {
            let quantized = FILE_TYPES.iter().filter(|row| row.is_quantized());
            quantized.map(|row| (row.name.to_owned(), plan(row, measured))).collect()
        };
        println!("{}", json!({"file": path, "plain": all(false), "measured": all(true)}));
    }
    Ok(())
}
