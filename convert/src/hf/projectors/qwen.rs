//! Qwen's towers, and those of models that took them over.

use gguf::{Array, Error, Result};
use serde_json::Value;

use super::spelling::{VISUAL, VISUAL_FUSED, VISUAL_SEPARATE, WHISPER};
use super::{BASE, Forced, Sense, Tower, audio, common, epsilon, processor_of, r, tower, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Params};
use crate::transform::{self, Rows};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["Qwen2VLModel", "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"],
        towers: &[vision("qwen2_vl_vision")],
        keys: |p| {
            common(p)?;
            qwen2(p)
        },
        remark: "the towers of Qwen2-VL and Qwen2.5-VL",
        ..QWEN2
    },
    Class {
        names: &["Sarashina2VisionForCausalLM"],
        towers: &[vision("")],
        prepare: |config| {
            config.set("model_type", "qwen2_vl");
            qwen2_sizes(config)
        },
        keys: |p| {
            common(p)?;
            qwen2(p)
        },
        remark: "the tower of Sarashina 2.2, which is that of Qwen2-VL",
        ..QWEN2
    },
    Class {
        names: &["Qwen2_5OmniModel"],
        towers: OMNI,
        prefixes: &[("thinker.", "")],
        rename: |_, name| {
            let own = name.starts_with("visual.") || name.starts_with("audio_tower.");
            // The embeddings of marks around sound are not used.
            (own && !name.contains("audio_bos_eos_token")).then(|| name.to_owned())
        },
        prepare: |config| {
            qwen2_sizes(config)?;
            audio_sizes(config)
        },
        generated: |config| Ok(vec![("a.position_embd.weight".into(), sinusoids(config)?)]),
        spelling: &[VISUAL, VISUAL_SEPARATE, QWEN2_MERGER, WHISPER, OMNI_AUDIO],
        forced: &[("a.conv1d.{}.weight", Forced::F16)],
        keys: |p| {
            common(p)?;
            encoder(p)?;
            qwen2(p)
        },
        remark: "the towers of Qwen2.5-Omni's thinker",
        ..QWEN2
    },
    Class {
        names: &["Exaone4_5_ForConditionalGeneration"],
        towers: &[vision("exaone4_5_vision")],
        spelling: &[VISUAL, VISUAL_FUSED, QWEN2_MERGER],
        keys: exaone,
        remark: "the tower of EXAONE 4.5: that of Qwen2.5-VL with fewer key-value heads",
        ..QWEN2
    },
    Class {
        names: &["Qwen3VLForConditionalGeneration"],
        towers: &[vision("qwen3_vl_vision")],
        remark: "the tower of Qwen3-VL, some of whose layers feed the text model's directly",
        ..QWEN3
    },
    Class {
        names: &["Qwen3VLMoeForConditionalGeneration"],
        towers: &[vision("qwen3_vl_moe_vision")],
        remark: "the same for the text model with experts",
        ..QWEN3
    },
    Class {
        names: &["Qwen3_5ForConditionalGeneration"],
        towers: &[vision("qwen3_5_vision")],
        remark: "the tower of Qwen3.5",
        ..QWEN3
    },
    Class {
        names: &["Qwen3_5MoeForConditionalGeneration"],
        towers: &[vision("qwen3_5_moe_vision")],
        remark: "the same for the text model with experts",
        ..QWEN3
    },
    Class {
        names: &["Qwen4ExpForConditionalGeneration"],
        towers: &[vision("qwen4_exp_vision")],
        remark: "the tower of Qwen4's experiment, which is that of Qwen3-VL",
        ..QWEN3
    },
    Class {
        names: &["BailingMoeV3VLForConditionalGeneration"],
        towers: &[vision("")],
        rename: |_, name| (name.starts_with("visual.") || name.starts_with("linear_proj.")).then(|| name.to_owned()),
        spelling: &[VISUAL, VISUAL_FUSED, LING],
        keys: ling,
        remark: "the tower of Ling 3.0 VL: that of Qwen3-VL, whose merger is a norm with a projector behind it",
        ..QWEN3
    },
    Class {
        names: &["Qwen3OmniMoeForConditionalGeneration"],
        towers: &[
            Tower { kind: "qwen3_omni_moe_vision_encoder", ..OMNI[0] },
            Tower { kind: "qwen3_omni_moe_audio_encoder", ..OMNI[1] },
        ],
        prepare: |config| {
            qwen3_sizes(config)?;
            audio_sizes(config)
        },
        prefixes: &[("thinker.", ""), ("model.visual.", "visual.")],
        rename: |_, name| {
            let named = merger_names(name);
            (named.starts_with("visual.") || named.starts_with("audio_tower.")).then_some(named)
        },
        generated: |config| Ok(vec![("a.position_embd.weight".into(), sinusoids(config)?)]),
        spelling: &[VISUAL, VISUAL_FUSED, QWEN3_MERGER, QWEN3_AUDIO, WHISPER, OMNI_AUDIO],
        forced: &[("a.conv2d.{}.weight", Forced::F16), ("a.conv_out.weight", Forced::F16)],
        keys: |p| {
            common(p)?;
            encoder(p)?;
            qwen3(p)?;
            p.set("vision.projector_type", "qwen3vl_merger");
            p.set("audio.projector_type", "qwen3a");
            Ok(())
        },
        remark: "the towers of Qwen3-Omni's thinker",
        ..QWEN3
    },
    Class {
        names: &["Qwen3ASRForConditionalGeneration"],
        when: |root| root.get("thinker_config").is_some_and(Value::is_object),
        towers: &[Tower { kind: "", ..OMNI[1] }],
        remark: "the encoder of Qwen3-ASR",
        ..ASR
    },
    Class {
        names: &["Qwen3ASRForConditionalGeneration"],
        towers: &[audio("qwen3_asr_encoder")],
        remark: "the same in the form of transformers",
        ..ASR
    },
];

const OMNI: &[Tower] = &[
    Tower { path: &["thinker_config", "vision_config"], ..vision("qwen2_5_omni_vision_encoder") },
    Tower { path: &["thinker_config", "audio_config"], ..audio("qwen2_5_omni_audio_encoder") },
];

const ASR: Class = Class {
    prepare: audio_sizes,
    prefixes: &[("model.", ""), ("thinker.", "")],
    rename: |_, name| name.starts_with("audio_tower.").then(|| name.to_owned()),
    generated: |config| Ok(vec![("a.position_embd.weight".into(), sinusoids(config)?)]),
    spelling: &[QWEN3_AUDIO, WHISPER, OMNI_AUDIO],
    forced: &[("a.conv2d.{}.weight", Forced::F16), ("a.conv_out.weight", Forced::F16)],
    keys: |p| {
        common(p)?;
        encoder(p)?;
        p.set("audio.projector_type", "qwen3a");
        Ok(())
    },
    ..BASE
};

const QWEN2: Class = Class {
    prepare: qwen2_sizes,
    prefixes: &[("model.visual.", "visual.")],
    rename: |_, name| name.starts_with("visual.").then(|| name.to_owned()),
    spelling: &[VISUAL, VISUAL_SEPARATE, QWEN2_MERGER],
    ..BASE
};

const QWEN3: Class = Class {
    prepare: qwen3_sizes,
    prefixes: &[("model.visual.", "visual.")],
    rename: |_, name| name.starts_with("visual.").then(|| name.to_owned()),
    spelling: &[VISUAL, VISUAL_FUSED, QWEN3_MERGER],
    keys: |p| {
        common(p)?;
        p.set("projector_type", "qwen3vl_merger");
        qwen3(p)
    },
    ..BASE
};

pub(super) const QWEN2_MERGER: &[NameRule] =
    &[r("visual.merger.ln_q", "v.post_ln"), r("visual.merger.mlp.{}", "mm.{}")];

const QWEN3_MERGER: &[NameRule] = &[
    r("visual.pos_embed", "v.position_embd"),
    r("visual.merger.norm", "v.post_ln"),
    r("visual.merger.linear_fc1", "mm.0"),
    r("visual.merger.linear_fc2", "mm.2"),
    r("visual.deepstack_merger_list.{}.norm", "v.deepstack.{}.norm").how(DEEP),
    r("visual.deepstack_merger_list.{}.linear_fc1", "v.deepstack.{}.fc1").how(DEEP),
    r("visual.deepstack_merger_list.{}.linear_fc2", "v.deepstack.{}.fc2").how(DEEP),
];

const LING: &[NameRule] = &[
    r("visual.pos_embed", "v.position_embd"),
    r("visual.merger.norm", "mm.input_norm"),
    r("linear_proj.0", "mm.0"),
    r("linear_proj.2", "mm.2"),
];

const OMNI_AUDIO: &[NameRule] =
    &[r("audio_tower.ln_post", "a.post_ln"), r("audio_tower.proj", "mm.a.fc"), r("audio_tower.proj{}", "mm.a.mlp.{}")];

const QWEN3_AUDIO: &[NameRule] = &[
    r("audio_tower.conv2d{}", "a.conv2d.{}").how(How::Change(|_, piece| match piece.rows.shape() {
        &[len] if piece.suffix == ".bias" => transform::reshaped(&piece.rows, vec![len, 1, 1]),
        _ => Ok(piece.rows.clone()),
    })),
    r("audio_tower.conv_out", "a.conv_out"),
];

/// A merger of a layer is counted among the mergers in the checkpoint, and has the layer's number in the file.
const DEEP: How = How::Split(|config, piece| {
    let layers = tower_of(config, Sense::Vision)?.need_list(&["deepstack_visual_indexes"])?;
    let layer = usize::try_from(piece.block)
        .ok()
        .and_then(|n| layers.get(n))
        .ok_or_else(|| Error::input(format!("config.json: deepstack_visual_indexes has no number {}", piece.block)))?;
    let own = piece.to.rsplit('.').next().unwrap_or("");
    Ok(vec![(format!("v.deepstack.{layer}.{own}{}", piece.suffix), piece.rows.clone())])
});

/// The names that mergers have in Qwen3-Omni, as those of Qwen3-VL.
fn merger_names(name: &str) -> String {
    let name = name.replace("visual.merger_list.", "visual.deepstack_merger_list.");
    if !name.contains("merger") {
        return name;
    }
    name.replace(".ln_q", ".norm").replace(".mlp.0", ".linear_fc1").replace(".mlp.2", ".linear_fc2")
}

/// The sizes that Qwen's own configuration classes name otherwise.
fn qwen2_sizes(config: &mut Config) -> Result<()> {
    let Some(tower) = config.section_mut("vision") else { return Ok(()) };
    if tower.get("image_size").is_none() {
        tower.set("image_size", 560);
    }
    for (name, from) in [("num_attention_heads", "num_heads"), ("num_hidden_layers", "depth")] {
        if let Some(value) = tower.get(from).cloned() {
            tower.set(name, value);
        }
    }
    // The older tower names its own width embed_dim, and the text model's hidden_size.
    if let Some(width) = tower.get("embed_dim").cloned() {
        let text = tower.get("hidden_size").cloned().unwrap_or(Value::Null);
        tower.set("intermediate_size", text);
        tower.set("hidden_size", width);
    }
    Ok(())
}

pub(super) fn qwen3_sizes(config: &mut Config) -> Result<()> {
    let Some(tower) = config.section_mut("vision") else { return Ok(()) };
    if tower.get("image_size").is_none() {
        let places = tower.u64_or(&["num_position_embeddings"], 2304)? as f64;
        let patch = tower.u64_or(&["patch_size"], 16)? as f64;
        tower.set("image_size", (places.sqrt() * patch) as u64);
    }
    for (name, from) in [("num_attention_heads", "num_heads"), ("num_hidden_layers", "depth")] {
        if let Some(value) = tower.get(from).cloned() {
            tower.set(name, value);
        }
    }
    Ok(())
}

/// The sizes of an encoder that names them as Whisper's does.
pub(super) fn audio_sizes(config: &mut Config) -> Result<()> {
    let Some(tower) = config.section_mut("audio") else { return Ok(()) };
    for (name, from) in [
        ("hidden_size", "d_model"),
        ("intermediate_size", "encoder_ffn_dim"),
        ("num_attention_heads", "encoder_attention_heads"),
    ] {
        if let Some(value) = tower.get(from).cloned() {
            tower.set(name, value);
        }
    }
    Ok(())
}

/// The layers with attention over the whole image, each as far from the one before.
fn full_layers(tower: &Config) -> Result<Option<u64>> {
    let Some(_) = tower.get("fullatt_block_indexes") else { return Ok(None) };
    let layers = tower.need_list(&["fullatt_block_indexes"])?;
    let Some(period) = layers.first().and_then(|n| n.checked_add(1)) else { return Ok(None) };
    match layers.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(period)) {
        true => Ok(Some(period)),
        false => Err(Error::input(format!(
            "{}: fullatt_block_indexes {layers:?} are not every {period}th layer",
            tower.place()
        ))
        .help("the format has no place for another pattern")),
    }
}

/// The text model's epsilon where the configuration has it beside the tower's, as folders of unknown classes do.
fn outer_epsilon(config: &Config) -> f64 {
    let stated = if config.is_known() { None } else { config.f64("rms_norm_eps") };
    stated.unwrap_or(1e-6)
}

fn qwen2(p: &mut Params<'_>) -> Result<()> {
    let tower = tower(p, Sense::Vision)?;
    match p.config().str("model_type").unwrap_or("") {
        "qwen2_vl" => p.set("projector_type", "qwen2vl_merger"),
        kind @ ("qwen2_5_vl" | "qwen2_5_omni") => {
            p.set("projector_type", if kind == "qwen2_5_vl" { "qwen2.5vl_merger" } else { "qwen2.5o" });
            p.set("use_silu", true);
            let period = full_layers(tower)?
                .ok_or_else(|| Error::input(format!("{} has no fullatt_block_indexes", tower.place())))?;
            p.u32("vision.n_wa_pattern", period)?;
        }
        other => {
            return Err(Error::input(format!("config.json: model_type is {other}, which is none of Qwen's towers")));
        }
    }
    let eps = outer_epsilon(p.config());
    p.f32("vision.attention.layer_norm_epsilon", eps);
    Ok(())
}

/// The keys of an encoder that hears.
fn encoder(p: &mut Params<'_>) -> Result<()> {
    let tower = tower(p, Sense::Audio)?;
    p.u32("audio.num_mel_bins", tower.need_u64(&["num_mel_bins"])?)?;
    epsilon(p, Sense::Audio, "layer_norm_eps", 1e-5)
}

fn exaone(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let tower = tower(p, Sense::Vision)?;
    p.set("projector_type", "exaone4_5");
    p.set("use_silu", true);
    pixels(p)?;
    if tower.get("num_key_value_heads").is_some() {
        p.u32("vision.attention.head_count_kv", tower.need_u64(&["num_key_value_heads"])?)?;
    }
    let outer = outer_epsilon(p.config());
    p.f32("vision.attention.layer_norm_epsilon", tower.f64("rms_norm_eps").unwrap_or(outer));
    if tower.get("window_size").is_some() {
        p.u32("vision.window_size", tower.need_u64(&["window_size"])?)?;
    }
    if let Some(period) = full_layers(tower)? {
        p.u32("vision.n_wa_pattern", period)?;
    }
    Ok(())
}

/// The sizes of images between which the processor keeps them.
pub(super) fn pixels(p: &mut Params<'_>) -> Result<()> {
    let processor = processor_of(p)?;
    p.u32("vision.image_min_pixels", processor.need_u64(&["min_pixels"])?)?;
    p.u32("vision.image_max_pixels", processor.need_u64(&["max_pixels"])?)
}

fn qwen3(p: &mut Params<'_>) -> Result<()> {
    let tower = tower(p, Sense::Vision)?;
    p.set("use_gelu", true);
    merging(p, tower)?;
    text_epsilon(p);
    let layers = tower.need_u64(super::LAYERS)?.min(4096) as usize;
    let mut deep = vec![false; layers];
    if tower.get("deepstack_visual_indexes").is_some() {
        for layer in tower.need_list(&["deepstack_visual_indexes"])? {
            match usize::try_from(layer).ok().and_then(|n| deep.get_mut(n)) {
                Some(is_deep) => *is_deep = true,
                None => {
                    return Err(Error::input(format!(
                        "{}: deepstack_visual_indexes names layer {layer} of {layers}",
                        tower.place()
                    )));
                }
            }
        }
    }
    if !deep.is_empty() {
        p.set("vision.is_deepstack_layers", Array::from(&deep[..]));
    }
    Ok(())
}

fn ling(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    let tower = tower(p, Sense::Vision)?;
    if tower.bool("disable_merger_proj") != Some(true) {
        return Err(Error::input(format!("{}: disable_merger_proj is not true", tower.place()))
            .help("the format knows the tower without a projector in its merger alone"));
    }
    tower.need_u64(&["out_hidden_size"])?;
    p.set("projector_type", "ling3vl");
    p.set("use_gelu", true);
    merging(p, tower)?;
    text_epsilon(p);
    Ok(())
}

/// How many patches to a side become one, where it is said.
fn merging(p: &mut Params<'_>, tower: &Config) -> Result<()> {
    match tower.get("spatial_merge_size") {
        Some(_) => p.u32("vision.spatial_merge_size", tower.need_u64(&["spatial_merge_size"])?),
        None => Ok(()),
    }
}

/// The epsilon of the text model, which the tower's norms have as well.
fn text_epsilon(p: &mut Params<'_>) {
    let text = p.config().get("text_config").and_then(|text| text.get("rms_norm_eps")).and_then(Value::as_f64);
    p.f32("vision.attention.layer_norm_epsilon", text.unwrap_or(1e-6));
}

/// The sines and cosines that Whisper's positions are, for 1500 of them.
fn sinusoids(config: &Config) -> Result<Rows> {
    const LENGTH: u64 = 1500;
    let width = tower_of(config, Sense::Audio)?.need_u64(&["hidden_size"])?;
    if !(4..=1 << 16).contains(&width) {
        return Err(Error::input(format!("config.json: an encoder of width {width} has no sinusoidal positions")));
    }
    let half = width / 2;
    let step = -(10000_f64.ln() / (half - 1) as f64) as f32;
    let scales: Vec<f32> = (0..half).map(|i| transform::exp(step * i as f32)).collect();
    let mut values = Vec::with_capacity((LENGTH * 2 * half) as usize);
    for t in 0..LENGTH {
        let angle = |scale: &f32| f64::from(t as f32 * scale);
        values.extend(scales.iter().map(|s| angle(s).sin() as f32));
        values.extend(scales.iter().map(|s| angle(s).cos() as f32));
    }
    Ok(transform::values(vec![LENGTH, 2 * half], &values))
}
