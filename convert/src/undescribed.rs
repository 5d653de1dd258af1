//! Folders without a configuration, whose tensors say what it would.

use std::path::Path;

use gguf::{Error, Result};
use serde_json::{Map, Value, json};

use crate::safetensors::{self, Stored};

/// The configuration of a folder of Pocket TTS, which has none: sizes are those of its tensors.
///
/// # Errors
/// Weights that cannot be read, or that lack a tensor that says a size.
pub(crate) fn configuration(folder: &Path) -> Result<Option<Map<String, Value>>> {
    if !safetensors::has_file(folder, "model")? {
        return Ok(None);
    }
    let stored = safetensors::open_folder(folder)?;
    let find = |name: &str| stored.iter().find(|tensor| tensor.name() == name);
    if !stored.iter().any(|tensor| tensor.name().starts_with("flow_lm.")) {
        return Ok(None);
    }
    let length = |name: &str, axis: usize| {
        let found = find(name).and_then(|tensor| tensor.shape().get(axis)).copied();
        found.ok_or_else(|| Error::input(format!("tensor {name} is missing, whose shape says a size")).at(folder))
    };
    let layers = |beginning: &str| {
        let number = |tensor: &Stored| tensor.name().strip_prefix(beginning)?.split('.').next()?.parse::<u64>().ok();
        stored.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
    };
    const TEXT: &str = "flow_lm.transformer.layers.";
    const SOUND: &str = "mimi.encoder_transformer.transformer.layers.";
    const HEAD: u64 = 64;
    let embedding = "flow_lm.conditioner.embed.weight";
    length("flow_lm.bos_emb", 0)?;
    let (tokens, width) = (length(embedding, 0)?, length(embedding, 1)?);
    let sound = length(&format!("{SOUND}0.norm1.weight"), 0)?;
    let voice = find("flow_lm.bos_before_voice").is_some();
    let config = json!({
        "architectures": ["PocketTTSModel"],
        "model_type": "pockettts",
        "num_hidden_layers": layers(TEXT),
        "hidden_size": width,
        "intermediate_size": length(&format!("{TEXT}0.linear1.weight"), 0)?,
        "max_position_embeddings": 4096,
        "num_attention_heads": width / HEAD,
        "vocab_size": tokens.saturating_add(1 + u64::from(voice)),
        "bos_before_voice": voice,
        "rope_theta": 10000.0,
        "layer_norm_eps": 1e-5,
        "audio_config": {
            "num_hidden_layers": layers(SOUND),
            "hidden_size": sound,
            "intermediate_size": length(&format!("{SOUND}0.linear1.weight"), 0)?,
            "num_attention_heads": sound / HEAD,
        },
    });
    match config {
        Value::Object(map) => Ok(Some(map)),
        _ => Ok(None),
    }
}
