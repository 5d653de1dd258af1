//! The towers of MiMo V2.5. What it hears with is a tokenizer of sound, in a folder of its own.

use std::path::Path;

use gguf::{Error, Result};
use serde_json::Value;

use super::change::COLUMN_BIAS;
use super::qwen::{QWEN2_MERGER, audio_sizes, pixels};
use super::spelling::{VISUAL, VISUAL_FUSED};
use super::{BASE, Forced, Sense, Tower, audio, common, epsilon, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params};
use crate::names::blocks_in;
use crate::safetensors::{self, Stored};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["MiMoV2ForCausalLM"],
    when: |root| root.get("vision_config").is_some_and(Value::is_object),
    towers: &[vision(""), Tower { file: "audio_tokenizer/config.json", path: &[], ..audio("") }],
    prepare: sizes,
    inspect: |config, contents| {
        let books = tokenizer(contents.folder)?.1;
        let sizes: Vec<u64> = books.iter().map(|book| book.shape().first().copied().unwrap_or(0)).collect();
        config.set(BOOKS, sizes);
        Ok(())
    },
    beside: |_, folder| {
        let (mut all, books) = tokenizer(folder)?;
        all.extend(books);
        Ok(all)
    },
    rename: |_, name| {
        let own = ["visual.", "speech_embeddings.", "audio_encoder."];
        own.iter().any(|beginning| name.starts_with(beginning)).then(|| name.to_owned())
    },
    spelling: &[VISUAL, VISUAL_FUSED, QWEN2_MERGER, MIMO],
    forced: &[
        ("a.rvq.codebook.", Forced::F32),
        ("mm.a.code_embd.", Forced::F32),
        ("a.conv1d.", Forced::F32),
        ("a.downsample.conv.", Forced::F32),
    ],
    keys: mimo,
    remark: "the towers of MiMo V2.5; audio_tokenizer is the folder of what it hears with",
    ..BASE
}];

const MIMO: &[NameRule] = &[
    r("visual.blocks.{}.attn.sinks", "v.blk.{}.attn_sinks"),
    r("encoder.conv{}", "a.conv1d.{}").how(COLUMN_BIAS),
    r("encoder.layers.{}.self_attn_layer_norm", "a.blk.{}.ln1"),
    r("encoder.layers.{}.final_layer_norm", "a.blk.{}.ln2"),
    r("encoder.layers.{}.self_attn.q_proj", "a.blk.{}.attn_q"),
    r("encoder.layers.{}.self_attn.k_proj", "a.blk.{}.attn_k"),
    r("encoder.layers.{}.self_attn.v_proj", "a.blk.{}.attn_v"),
    r("encoder.layers.{}.self_attn.out_proj", "a.blk.{}.attn_out"),
    r("encoder.layers.{}.fc1", "a.blk.{}.ffn_up"),
    r("encoder.layers.{}.fc2", "a.blk.{}.ffn_down"),
    r("encoder.layer_norm", "a.post_ln"),
    r("encoder.down_sample_layer.0", "a.downsample.conv"),
    r("encoder.down_sample_norm", "a.downsample.norm"),
    r("encoder.quantizer.vq.layers.{x}._codebook.embed", "a.rvq.codebook.weight").how(How::Uneven {
        group: "codebooks",
        members: |config, _| Ok(books(config)?.len() as u64),
        padded: true,
    }),
    r("speech_embeddings.{x}", "mm.a.code_embd")
        .how(How::Stack { group: "codes", members: |config| spoken(config)?.need_u64(&["audio_channels"]) }),
    r("audio_encoder.input_local_transformer.norm", "mm.a.local_norm"),
    r("audio_encoder.input_local_transformer.layers.{}.input_layernorm", "mm.a.local_blk.{}.ln1"),
    r("audio_encoder.input_local_transformer.layers.{}.post_attention_layernorm", "mm.a.local_blk.{}.ln2"),
    r("audio_encoder.input_local_transformer.layers.{}.self_attn.q_proj", "mm.a.local_blk.{}.attn_q"),
    r("audio_encoder.input_local_transformer.layers.{}.self_attn.k_proj", "mm.a.local_blk.{}.attn_k"),
    r("audio_encoder.input_local_transformer.layers.{}.self_attn.v_proj", "mm.a.local_blk.{}.attn_v"),
    r("audio_encoder.input_local_transformer.layers.{}.self_attn.o_proj", "mm.a.local_blk.{}.attn_out"),
    r("audio_encoder.input_local_transformer.layers.{}.mlp.gate_proj", "mm.a.local_blk.{}.ffn_gate"),
    r("audio_encoder.input_local_transformer.layers.{}.mlp.up_proj", "mm.a.local_blk.{}.ffn_up"),
    r("audio_encoder.input_local_transformer.layers.{}.mlp.down_proj", "mm.a.local_blk.{}.ffn_down"),
    r("audio_encoder.projection.mlp.0", "mm.a.mlp.1"),
    r("audio_encoder.projection.mlp.2", "mm.a.mlp.2"),
];

/// The key of the configuration under which the sizes of the codebooks are kept.
const BOOKS: &str = "codebooks";

fn books(config: &Config) -> Result<Vec<u64>> {
    config.need_list(&[BOOKS])
}

/// What `config.json` says of sound.
fn spoken(config: &Config) -> Result<Config> {
    match config.get("audio_config") {
        Some(Value::Object(map)) => Ok(Config::of(map.clone(), "config.json: audio_config")),
        _ => Err(Error::input("config.json has no audio_config")),
    }
}

/// The tensors of the tokenizer that the model hears with, as they follow each other in its file, and its codebooks.
fn tokenizer(folder: &Path) -> Result<(Vec<Stored>, Vec<Stored>)> {
    let mut all = safetensors::open_file(&folder.join("audio_tokenizer/model.safetensors"))?;
    all.sort_by_key(Stored::offset);
    // What it speaks with, and counters of training.
    let unused = ["_codebook.cluster_size", "_codebook.embed_avg", "_codebook.inited"];
    all.retain(|tensor| {
        let name = tensor.name();
        !name.starts_with("decoder.") && !unused.iter().any(|end| name.ends_with(end))
    });
    let number = |tensor: &Stored| {
        let (number, rest) = blocks_in("encoder.quantizer.vq.layers.{}._codebook.embed", tensor.name())?;
        number.filter(|_| rest.is_empty())
    };
    let (mut books, all): (Vec<Stored>, Vec<Stored>) = all.into_iter().partition(|tensor| number(tensor).is_some());
    books.sort_by_key(number);
    Ok((all, books))
}

fn sizes(config: &mut Config) -> Result<()> {
    audio_sizes(config)?;
    let Some(tower) = config.section_mut("vision") else { return Ok(()) };
    for (name, value) in [
        ("image_size", tower.u64_or(&["image_size"], 560)?),
        ("num_attention_heads", tower.need_u64(&["num_heads"])?),
        ("num_hidden_layers", tower.u64_or(&["depth"], 28)?),
    ] {
        tower.set(name, value);
    }
    Ok(())
}

/// Whether each layer sees a window, where it is not said layer by layer: the last of so many sees everything.
fn windows(tower: &Config) -> Result<Vec<i64>> {
    let (layers, period) = (tower.need_u64(&["encoder_layers"])?, tower.u64_or(&["swa_per_block"], 1)?);
    let hybrid = tower.bool("hybrid_attention") == Some(true) && period > 1;
    Ok((0..layers).map(|layer| if hybrid && layer % period < period - 1 { 0 } else { -1 }).collect())
}

fn mimo(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let (tower, audio) = (tower(p, Sense::Vision)?, tower_of(p.config(), Sense::Audio)?);
    p.set("vision.projector_type", "mimovl");
    p.set("use_silu", true);
    p.u32("vision.attention.head_count_kv", tower.u64_or(&["num_key_value_heads"], 8)?)?;
    p.u32("vision.spatial_merge_size", tower.need_u64(&["spatial_merge_size"])?)?;
    p.u32("vision.window_size", tower.need_u64(&["visual_token_window_size"])?)?;
    let wrong = || Error::input(format!("{}: vit_window_attn_types has no number for each layer", tower.place()));
    let kinds = tower.get("vit_window_attn_types").and_then(Value::as_array).ok_or_else(wrong)?;
    let kinds: Option<Vec<i64>> = kinds.iter().map(Value::as_i64).collect();
    p.i32s("vision.wa_pattern_mode", &kinds.ok_or_else(wrong)?)?;
    epsilon(p, Sense::Vision, "rms_norm_eps", 1e-6)?;
    pixels(p)?;
    p.set("audio.projector_type", "mimo_audio");
    p.u32("audio.num_mel_bins", audio.need_u64(&["n_mels"])?)?;
    epsilon(p, Sense::Audio, "layer_norm_eps", 1e-5)?;
    let books = books(p.config())?;
    p.u32("audio.rvq.num_quantizers", books.len() as u64)?;
    p.i32s("audio.rvq.codebook_size", &books)?;
    p.i32s("audio.wa_pattern_mode", &windows(audio)?)?;
    let window = audio.need_list(&["encoder_attn_window_size"])?.first().copied();
    let window = window.ok_or_else(|| Error::input(format!("{}: encoder_attn_window_size is empty", audio.place())))?;
    p.u32("audio.window_size", window)?;
    let spoken = spoken(p.config())?;
    p.u32("audio.local_block_count", spoken.need_u64(&["input_local_layers"])?)?;
    p.u32("audio.local_group_size", spoken.need_u64(&["group_size"])?)
}
