//! Checkpoints that are made here, as `fixtures/generated/cases.json` says.

use std::fs;
use std::path::Path;

use convert::{Options, OutType, Part};
use serde_json::{Map, Value, json};

pub fn resolved(cases: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let mut case = cases[name].as_object().unwrap_or_else(|| panic!("there is no case {name}")).clone();
    let Some(like) = case.remove("like") else { return case };
    let mut out = resolved(cases, like.as_str().unwrap());
    out.remove("sha256");
    out.remove("error");
    let without = case.remove("without").unwrap_or(json!([]));
    for key in ["config", "tensors", "files"] {
        let own = case.remove(key).unwrap_or(json!({}));
        let merged = out.entry(key).or_insert(json!({})).as_object_mut().unwrap();
        merged.extend(own.as_object().unwrap().clone());
        without.as_array().unwrap().iter().for_each(|gone| _ = merged.shift_remove(gone.as_str().unwrap()));
    }
    out.extend(case);
    out
}

fn element(tensor: u32, i: u32, dtype: &str) -> Vec<u8> {
    let h = i.wrapping_mul(2_654_435_761).wrapping_add((tensor + 1).wrapping_mul(2_246_822_519));
    let h = (h ^ (h >> 15)).wrapping_mul(2_654_435_761);
    let bits = (h >> 31) << 15 | (0x3B80 + (h >> 20 & 0x1FF));
    match dtype {
        "BF16" => (bits as u16).to_le_bytes().to_vec(),
        "F16" => (((h >> 31) << 15 | (0x2000 + (h >> 20 & 0x7FF))) as u16).to_le_bytes().to_vec(),
        "F32" => (bits << 16 | h & 0xFFFF).to_le_bytes().to_vec(),
        // No infinity and no NaN.
        "F8_E4M3" | "F8_E8M0" => vec![(h & 0x3F) as u8],
        other => u64::from(h).to_le_bytes()[..size(other)].to_vec(),
    }
}

fn size(dtype: &str) -> usize {
    match dtype {
        "I8" | "U8" | "F8_E4M3" | "F8_E8M0" => 1,
        "BF16" | "F16" => 2,
        "F32" | "I32" => 4,
        "I64" => 8,
        other => panic!("elements of type {other} are not made"),
    }
}

/// The numbers that `0,2-4` lists; nothing stands for all blocks.
fn numbers(text: &str, blocks: u64) -> Vec<u64> {
    let number = |text: &str| -> u64 { text.parse().unwrap() };
    let part = |part: &str| match part.split_once('-') {
        _ if part.is_empty() => 0..blocks,
        Some((first, last)) => number(first)..number(last) + 1,
        None => number(part)..number(part) + 1,
    };
    text.split(',').flat_map(part).collect()
}

fn names(pattern: &str, blocks: u64) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (inside, after) = rest.split_once('}').unwrap();
    let ends = names(after, blocks);
    let number = |n: u64| ends.iter().map(move |end| format!("{before}{n}{end}"));
    numbers(inside, blocks).into_iter().flat_map(number).collect()
}

/// Adds special tokens to a tokenizer.json.
fn add(tokens: &[Value], path: &Path) {
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let ids = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .values()
        .chain(tokenizer["added_tokens"].as_array().unwrap().iter().map(|token| &token["id"]));
    let first = ids.filter_map(Value::as_u64).max().unwrap() + 1;
    for (id, token) in (first..).zip(tokens) {
        let token = json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    }
    fs::write(path, tokenizer.to_string()).unwrap();
}

pub fn write(case: &Map<String, Value>, folder: &Path) {
    fs::create_dir(folder).unwrap();
    let mut config = case.get("config").cloned();
    if let Some(source) = case.get("folder").and_then(Value::as_str) {
        let entries = fs::read_dir(fixtures::path(source)).unwrap().map(Result::unwrap);
        for entry in entries.filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        let mut whole = fixtures::json(&format!("{source}/config.json"));
        whole.as_object_mut().unwrap().extend(config.and_then(|c| c.as_object().cloned()).unwrap_or_default());
        let gone = case.get("gone").and_then(Value::as_array).into_iter().flatten();
        gone.for_each(|key| _ = whole.as_object_mut().unwrap().shift_remove(key.as_str().unwrap()));
        config = Some(whole);
    }
    if let Some(tokenizer) = case.get("tokenizer").and_then(Value::as_str) {
        for entry in fs::read_dir(fixtures::path(tokenizer)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("tokenizer")
                || name.starts_with("rwkv_vocab")
                || ["vocab.txt", "special_tokens_map.json"].contains(&name.as_str())
            {
                fs::copy(entry.path(), folder.join(name)).unwrap();
            }
        }
    }
    if let Some(tokens) = case.get("added").and_then(Value::as_array) {
        add(tokens, &folder.join("tokenizer.json"));
    }
    if let Some(config) = config.filter(|c| c.as_object().is_some_and(|c| !c.is_empty())) {
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }
    for (name, content) in case.get("files").and_then(Value::as_object).into_iter().flatten() {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), text).unwrap();
    }
    let blocks = case.get("blocks").and_then(Value::as_u64).unwrap_or(1);
    for (name, tensors) in case.get("weights").and_then(Value::as_object).into_iter().flatten() {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        weights(&folder.join(name), tensors.as_object().unwrap(), blocks);
    }
    let Some(tensors) = case.get("tensors").and_then(Value::as_object).filter(|t| !t.is_empty()) else { return };
    let written = weights(&folder.join("model.safetensors"), tensors, blocks);
    if case.get("index").is_some() {
        let map: Map<String, Value> = written.into_iter().map(|name| (name, json!("model.safetensors"))).collect();
        fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    }
}

/// Writes a file of tensors; their names.
#[allow(dead_code, reason = "not every test makes files of weights alone")]
pub fn weights(path: &Path, tensors: &Map<String, Value>, blocks: u64) -> Vec<String> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (pattern, entry) in tensors {
        let shape = if entry.is_object() { &entry["shape"] } else { entry };
        let dtype = entry.get("type").and_then(Value::as_str).unwrap_or("BF16");
        let count: u64 = shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product();
        for name in names(pattern, blocks) {
            let tensor = header.len() as u32;
            let start = data.len();
            for i in 0..count as u32 {
                match entry.get("values") {
                    Some(values) => {
                        let values = values.as_array().unwrap();
                        data.extend(&values[i as usize % values.len()].as_i64().unwrap().to_le_bytes()[..size(dtype)]);
                    }
                    None => data.extend(element(tensor, i, dtype)),
                }
            }
            header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
        }
    }
    let written = header.keys().cloned().collect();
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(path, file).unwrap();
    written
}

/// The converter's options of the reference's arguments.
#[allow(dead_code, reason = "not every test that makes cases converts them as the reference was asked to")]
pub fn options(cases: &Map<String, Value>, case: &Map<String, Value>, folder: &Path) -> Options {
    let arguments = case.get("arguments").cloned().unwrap_or(json!([]));
    let has = |name: &str| arguments.as_array().unwrap().iter().any(|a| a == name);
    let target = case.get("target").and_then(Value::as_str).map(|target| match target.strip_prefix("case:") {
        Some(name) => {
            let target = folder.with_file_name("target");
            write(&resolved(cases, name), &target);
            target
        }
        None if target == "." => folder.to_path_buf(),
        None => fixtures::path(target),
    });
    Options {
        outtype: match case.get("outtype").and_then(Value::as_str) {
            Some("f16") => OutType::F16,
            Some("q8_0") => OutType::Q8_0,
            Some("tq1_0") => OutType::TQ1_0,
            Some("tq2_0") => OutType::TQ2_0,
            _ => OutType::BF16,
        },
        pre: case.get("pre").and_then(Value::as_str).map(str::to_owned),
        part: match () {
            () if has("--dspark") => Part::DSpark,
            () if has("--mtp") => Part::Prediction,
            () if has("--no-mtp") => Part::Trunk,
            () => Part::Model,
        },
        target,
        projector: has("--mmproj"),
        ..Options::default()
    }
}

/// A case of towers with the text model that it names in the form of its folder.
#[allow(dead_code, reason = "not every test makes folders with towers")]
pub fn with_text(cases: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let mut case = resolved(cases, name);
    let text = case["text"].clone();
    let (config, tensors) = match text["folder"].as_str() {
        Some(source) => {
            let config = fixtures::json(&format!("{source}/config.json"));
            let tensors = convert::safetensors::open_folder(&fixtures::path(source)).unwrap();
            let tensors = tensors.iter().map(|tensor| (tensor.name().to_owned(), json!(tensor.shape()))).collect();
            case.insert("tokenizer".into(), source.into());
            (config, tensors)
        }
        None => {
            let of = resolved(cases, text["case"].as_str().unwrap());
            let blocks = of.get("blocks").and_then(Value::as_u64).unwrap_or(1);
            let tensors = of["tensors"].as_object().unwrap().iter();
            let each = |(pattern, entry): (&String, &Value)| {
                names(pattern, blocks).into_iter().map(|name| (name, entry.clone())).collect::<Vec<_>>()
            };
            for key in ["tokenizer", "added"] {
                case.extend(of.get(key).map(|value| (key.to_owned(), value.clone())));
            }
            (of["config"].clone(), tensors.flat_map(each).collect::<Map<String, Value>>())
        }
    };
    let beginnings = text["names"].as_array().cloned().unwrap_or_default();
    let renamed = |name: &str| {
        let found = beginnings
            .iter()
            .find_map(|pair| Some(format!("{}{}", pair[1].as_str()?, name.strip_prefix(pair[0].as_str()?)?)));
        found.unwrap_or_else(|| name.to_owned())
    };
    let own = text["without"].as_array().cloned().unwrap_or_default();
    let of_text =
        tensors.into_iter().filter(|(name, _)| !own.iter().any(|part| name.starts_with(part.as_str().unwrap())));
    let of_text: Vec<_> = of_text.map(|(name, entry)| (renamed(&name), entry)).collect();
    case["tensors"].as_object_mut().unwrap().extend(of_text);
    let whole = case["config"].as_object_mut().unwrap();
    let mut config = config.as_object().unwrap().clone();
    for part in ["vision_config", "audio_config", "language_config", "architectures"] {
        config.shift_remove(part);
    }
    if let Some(Value::Object(inner)) = config.shift_remove("text_config") {
        config = inner;
    }
    config
        .extend(text["fields"].as_object().into_iter().flatten().map(|(field, value)| (field.clone(), value.clone())));
    match text["under"].as_str() {
        Some(under) => {
            let (outer, part) = under.split_once('/').map_or((None, under), |(outer, part)| (Some(outer), part));
            let place = match outer {
                Some(outer) => whole[outer].as_object_mut().unwrap(),
                None => whole,
            };
            place.insert(part.to_owned(), Value::Object(config));
        }
        None => whole.extend(config.into_iter().filter(|(field, _)| field != "model_type")),
    }
    case
}
