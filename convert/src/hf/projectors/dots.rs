//! The towers of dots3 note.

use gguf::{Error, Result};
use serde_json::{Value, json};

use super::change::halved;
use super::qwen::pixels;
use super::{BASE, Forced, PROCESSOR, Sense, audio, common, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration"],
    towers: &[vision(""), audio("")],
    prepare: sizes,
    rename: |_, name| {
        let own = ["vision_encoder.", "audio_encoder."].iter().any(|beginning| name.starts_with(beginning));
        let bare = name.ends_with(".gate_weight") || name.ends_with(".router_bias");
        own.then(|| format!("{name}{}", if bare { ".weight" } else { "" }))
    },
    spelling: &[VISION, AUDIO],
    forced: &[
        ("v.blk.{}.ffn_gate_inp.", Forced::F32),
        ("v.blk.{}.exp_probs_b.", Forced::F32),
        ("a.conv2d.", Forced::F32),
        ("a.conv_out.", Forced::F32),
    ],
    keys: note,
    remark: "the towers of dots3 note; layers of the one that sees have more experts the later they come",
    ..BASE
}];

/// One of a layer's experts.
const EXPERT: How = How::Uneven { group: "experts", members: experts, padded: false };

const VISION: &[NameRule] = &[
    r("vision_encoder.patch_embed.proj", "v.patch_embd"),
    r("vision_encoder.patch_embed.norm", "v.pre_ln"),
    r("vision_encoder.blocks.{}.norm_1", "v.blk.{}.ln1"),
    r("vision_encoder.blocks.{}.norm_2", "v.blk.{}.ln2"),
    r("vision_encoder.blocks.{}.attn.qkv", "v.blk.{}.attn_qkv"),
    r("vision_encoder.blocks.{}.attn.q_norm", "v.blk.{}.attn_q_norm"),
    r("vision_encoder.blocks.{}.attn.k_norm", "v.blk.{}.attn_k_norm"),
    r("vision_encoder.blocks.{}.attn.proj", "v.blk.{}.attn_out"),
    r("vision_encoder.blocks.{}.mlp.fc1", "v.blk.{}.ffn_gate"),
    r("vision_encoder.blocks.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("vision_encoder.blocks.{}.mlp.fc3", "v.blk.{}.ffn_up"),
    r("vision_encoder.blocks.{}.mlp.gate_weight", "v.blk.{}.ffn_gate_inp"),
    r("vision_encoder.blocks.{}.mlp.router_bias", "v.blk.{}.exp_probs_b"),
    r("vision_encoder.blocks.{}.mlp.experts.{x}.fc1", "v.blk.{}.ffn_gate_exps").how(EXPERT),
    r("vision_encoder.blocks.{}.mlp.experts.{x}.fc2", "v.blk.{}.ffn_down_exps").how(EXPERT),
    r("vision_encoder.blocks.{}.mlp.experts.{x}.fc3", "v.blk.{}.ffn_up_exps").how(EXPERT),
    r("vision_encoder.post_trunk_norm", "mm.post_norm"),
    r("vision_encoder.adapter.ln_q", "mm.input_norm"),
    r("vision_encoder.adapter.mlp.{}", "mm.{}"),
];

const AUDIO: &[NameRule] = &[
    r("audio_encoder.dots_encoder.speech_encoder.conv2d{}", "a.conv2d.{}"),
    r("audio_encoder.dots_encoder.speech_encoder.conv_out", "a.conv_out"),
    r("audio_encoder.dots_encoder.speech_encoder.layer_norm", "a.post_ln"),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn_layer_norm", "a.blk.{}.ln1"),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.final_layer_norm", "a.blk.{}.ln2"),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.q_proj", "a.blk.{}.attn_q"),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.k_proj", "a.blk.{}.attn_k"),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.v_proj", "a.blk.{}.attn_v"),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.out_proj", "a.blk.{}.attn_out"),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.fc1", "a.blk.{}.ffn_")
        .how(How::Split(|_, piece| halved(piece, "gate", "up"))),
    r("audio_encoder.dots_encoder.speech_encoder.layers.{}.fc2", "a.blk.{}.ffn_down"),
    r("audio_encoder.audio_adapter.proj.0", "mm.a.norm_pre"),
    r("audio_encoder.audio_adapter.proj.{}", "mm.a.mlp.{}"),
];

/// The experts of each layer; none are less than one.
fn pyramid(config: &Config) -> Result<Vec<u64>> {
    let tower = tower_of(config, Sense::Vision)?;
    let wrong =
        || Error::input(format!("{}: pyramid_num_routed has no number of experts for each layer", tower.place()));
    let counts = tower.get("pyramid_num_routed").and_then(Value::as_array).ok_or_else(wrong)?;
    counts.iter().map(|count| Ok(count.as_i64().ok_or_else(wrong)?.max(0) as u64)).collect()
}

fn experts(config: &Config, block: u64) -> Result<u64> {
    let count = usize::try_from(block).ok().and_then(|block| pyramid(config).ok()?.get(block).copied());
    count.ok_or_else(|| Error::input(format!("config.json: pyramid_num_routed says nothing of layer {block}")))
}

/// Names and values that a configuration must have, with what it has where it says nothing.
type Demands<'a> = &'a [(&'a str, Value, Value)];

/// What the format has no place for, since readers know one value alone.
fn demand(tower: &Config, demands: Demands<'_>) -> Result<()> {
    for (name, wanted, usual) in demands {
        let value = tower.get(name).unwrap_or(usual);
        if value != wanted && value.as_f64().zip(wanted.as_f64()).is_none_or(|(a, b)| a != b) {
            return Err(Error::input(format!("{}: {name} is {value}", tower.place()))
                .help(format!("the format knows {wanted} alone")));
        }
    }
    Ok(())
}

fn sizes(config: &mut Config) -> Result<()> {
    if let Some(processor) = config.section_mut(PROCESSOR)
        && let Some(Value::Object(nested)) = processor.get("vision_config").cloned()
    {
        nested.into_iter().for_each(|(name, value)| processor.set(&name, value));
    }
    if let Some(tower) = config.section_mut("vision") {
        demand(
            tower,
            &[
                ("adapter_type", json!("patch_merger"), Value::Null),
                ("pre_pixel_shuffle", json!(true), Value::Null),
                ("router_scoring_func", json!("sigmoid"), json!("sigmoid")),
                ("router_scale", json!(1.0), json!(1.0)),
                ("temporal_patch_size", json!(1), json!(1)),
                ("use_bias", json!(false), json!(false)),
                ("use_qk_norm", json!(true), Value::Null),
            ],
        )?;
        // Its hidden_size is that of what comes out of the adapter.
        let width = tower.need_u64(&["embed_dim"])?;
        tower.set("hidden_size", width);
        // Images are of any size.
        tower.set("image_size", 0);
    }
    if let Some(tower) = config.section_mut("audio") {
        demand(
            tower,
            &[
                ("use_conv2d_stem", json!(true), Value::Null),
                ("use_rope", json!(true), Value::Null),
                ("use_rms_norm", json!(true), Value::Null),
                ("use_causal", json!(false), json!(false)),
                ("merge_factor", json!(1), json!(1)),
                ("chunk_seconds", json!(60), Value::Null),
            ],
        )?;
        let part = |name: &str| match tower.get(name) {
            Some(Value::Object(map)) => Ok(Config::of(map.clone(), &format!("{}.{name}", tower.place()))),
            _ => Err(Error::input(format!("{} has no {name}", tower.place()))),
        };
        let (whisper, rope) = (part("whisper_config")?, part("rope_parameters")?);
        demand(&whisper, &[("activation_function", json!("swiglu"), Value::Null)])?;
        demand(
            &rope,
            &[("partial_rotary_factor", json!(0.5), Value::Null), ("rope_theta", json!(10000.0), Value::Null)],
        )?;
        for (name, from) in [
            ("hidden_size", "d_model"),
            ("intermediate_size", "encoder_ffn_dim"),
            ("num_attention_heads", "encoder_attention_heads"),
            ("num_hidden_layers", "encoder_layers"),
            ("num_mel_bins", "num_mel_bins"),
        ] {
            tower.set(name, whisper.need_u64(&[from])?);
        }
    }
    Ok(())
}

fn note(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let (vision, audio) = (tower(p, Sense::Vision)?, tower(p, Sense::Audio)?);
    p.set("vision.projector_type", "dots3note_v");
    p.set("use_silu", true);
    p.f32("vision.attention.layer_norm_epsilon", vision.need_f64(&["rms_norm_eps"])?);
    p.u32("vision.spatial_merge_size", vision.need_u64(&["spatial_merge_size"])?)?;
    pixels(p)?;
    p.i32s("vision.expert_count_per_layer", &pyramid(p.config())?)?;
    p.u32("vision.expert_used_count", vision.need_f64(&["capacity_factor"])?.max(0.0) as u64)?;
    p.set("audio.projector_type", "dots3note_a");
    p.u32("audio.num_mel_bins", audio.need_u64(&["num_mel_bins"])?)?;
    p.f32("audio.attention.layer_norm_epsilon", 1e-6);
    Ok(())
}
