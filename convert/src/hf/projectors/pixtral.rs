//! Towers of Pixtral, in the form of transformers and in Mistral's own.

use gguf::Result;
use serde_json::{Map, Value};

use super::change::ROTATED;
use super::{BASE, Sense, activation, common, epsilon, r, tower, vision};
use crate::config::{Config, MISTRAL_FORM};
use crate::hf::{Class, Contents, How, NameRule, Params, Tower};
use crate::transform;

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["LlavaForConditionalGeneration"],
        when: sees_as_pixtral,
        remark: "the tower of Pixtral",
        ..PIXTRAL
    },
    Class {
        names: &["Mistral3ForConditionalGeneration"],
        when: sees_as_pixtral,
        defaults: r#"{"spatial_merge_size": 2}"#,
        remark: "the tower of Mistral Small 3 and Ministral 3",
        ..PIXTRAL
    },
    Class {
        names: &["LightOnOCRForConditionalGeneration"],
        when: sees_as_pixtral,
        defaults: r#"{"spatial_merge_size": 2}"#,
        inspect: |_, _| Ok(()),
        prefixes: &[("model.vision_encoder.", "vision_tower."), ("model.vision_projection.", "multi_modal_projector.")],
        keys: |p| {
            pixtral(p)?;
            p.set("projector_type", "lightonocr");
            Ok(())
        },
        remark: "the tower of LightOnOCR",
        ..PIXTRAL
    },
    Class {
        names: &[MISTRAL_FORM],
        towers: &[Tower { path: &["vision_encoder"], ..vision("") }],
        prepare: |config| {
            let eps = config.get("norm_eps").cloned();
            if let (Some(tower), Some(eps)) = (config.section_mut("vision"), eps) {
                tower.set("norm_eps", eps);
            }
            normalization(config);
            Ok(())
        },
        inspect: |config, contents| {
            let stated = config.section("vision").and_then(|t| t.get("image_break_token_id")).and_then(Value::as_i64);
            let id = match stated {
                Some(id) if id >= 0 => Some(id as u64),
                _ => token_id(contents, "tekken.json", &["special_tokens"], "token_str", "rank")?,
            };
            config.set(BREAK, id);
            Ok(())
        },
        rename: own_or_break,
        spelling: &[MISTRAL],
        keys: mistral,
        remark: "the tower of a folder in Mistral's own form",
        ..BASE
    },
];

const PIXTRAL: Class = Class {
    towers: &[vision("pixtral")],
    prepare: |config| {
        if let Some(tower) = config.section_mut("vision").filter(|tower| tower.get("layer_norm_eps").is_none()) {
            tower.set("layer_norm_eps", 1e-5);
        }
        Ok(())
    },
    inspect: |config, contents| {
        let id = token_id(contents, "tokenizer.json", &["added_tokens"], "content", "id")?;
        config.set(BREAK, id);
        Ok(())
    },
    rename: own_or_break,
    prefixes: &[("model.vision_tower.", "vision_tower."), ("model.multi_modal_projector.", "multi_modal_projector.")],
    spelling: &[SPELLING],
    keys: pixtral,
    ..BASE
};

/// The key of the configuration under which the token is kept that ends a row of patches.
const BREAK: &str = "image_break_token";

fn sees_as_pixtral(root: &Map<String, Value>) -> bool {
    let kind = root.get("vision_config").and_then(|tower| tower.get("model_type")).and_then(Value::as_str);
    let wrapper = root.get("model_type").and_then(Value::as_str);
    kind.map_or(wrapper != Some("llava"), |kind| kind == "pixtral")
}

/// The tensors of the tower, and the token embeddings: the end of a row of patches is one of them.
fn own_or_break(config: &Config, name: &str) -> Option<String> {
    const OWN: &[&str] = &[
        "multi_modal_projector.",
        "vision_tower.",
        "vision_encoder.",
        "vision_language_adapter.",
        "patch_merger.",
        "pre_mm_projector_norm",
    ];
    let embeds = ["embed_tokens.weight", "tok_embeddings.weight"].iter().any(|part| name.contains(part));
    match OWN.iter().any(|prefix| name.starts_with(prefix)) {
        true => Some(name.to_owned()),
        false => (embeds && config.u64(BREAK).is_some_and(|id| id > 0)).then(|| "embed_tokens".to_owned()),
    }
}

/// The id of `[IMG_BREAK]` in a tokenizer's file, where it has one.
fn token_id(contents: &Contents<'_>, file: &str, list: &[&str], word: &str, id: &str) -> Result<Option<u64>> {
    let Some(read) = crate::json::read_optional(&contents.folder.join(file))? else { return Ok(None) };
    let tokens = list.iter().fold(&read, |value, key| &value[*key]).as_array();
    let found = tokens.into_iter().flatten().find(|token| token[word] == "[IMG_BREAK]");
    Ok(found.and_then(|token| token[id].as_u64()))
}

/// What Mistral's own library takes of every image.
fn normalization(config: &mut Config) {
    if let Some(processor) = config.section_mut(super::PROCESSOR) {
        processor.set("image_mean", vec![0.48145466, 0.4578275, 0.40821073]);
        processor.set("image_std", vec![0.26862954, 0.26130258, 0.27577711]);
    }
}

/// One row of the token embedding.
const BREAK_ROW: How = How::Change(|config, piece| {
    let id = config.need_u64(&[BREAK])?;
    let row = transform::sliced(&piece.rows, 0, id, 1)?;
    transform::reshaped(&row, row.shape()[1..].to_vec())
});

const SPELLING: &[NameRule] = &[
    r("vision_tower.patch_conv", "v.patch_embd"),
    r("vision_tower.ln_pre", "v.pre_ln"),
    r("vision_tower.transformer.layers.{}.attention_norm", "v.blk.{}.ln1"),
    r("vision_tower.transformer.layers.{}.ffn_norm", "v.blk.{}.ln2"),
    r("vision_tower.transformer.layers.{}.attention.q_proj", "v.blk.{}.attn_q").how(ROTATED),
    r("vision_tower.transformer.layers.{}.attention.k_proj", "v.blk.{}.attn_k").how(ROTATED),
    r("vision_tower.transformer.layers.{}.attention.v_proj", "v.blk.{}.attn_v"),
    r("vision_tower.transformer.layers.{}.attention.o_proj", "v.blk.{}.attn_out"),
    r("vision_tower.transformer.layers.{}.feed_forward.gate_proj", "v.blk.{}.ffn_gate"),
    r("vision_tower.transformer.layers.{}.feed_forward.up_proj", "v.blk.{}.ffn_up"),
    r("vision_tower.transformer.layers.{}.feed_forward.down_proj", "v.blk.{}.ffn_down"),
    r("multi_modal_projector.norm", "mm.input_norm"),
    r("multi_modal_projector.linear_{}", "mm.{}"),
    r("multi_modal_projector.patch_merger.merging_layer", "mm.patch_merger"),
    r("embed_tokens", "v.token_embd.img_break").how(BREAK_ROW),
];

const MISTRAL: &[NameRule] = &[
    r("vision_encoder.patch_conv", "v.patch_embd"),
    r("vision_encoder.ln_pre", "v.pre_ln"),
    r("vision_encoder.transformer.layers.{}.attention_norm", "v.blk.{}.ln1"),
    r("vision_encoder.transformer.layers.{}.ffn_norm", "v.blk.{}.ln2"),
    r("vision_encoder.transformer.layers.{}.attention.wq", "v.blk.{}.attn_q"),
    r("vision_encoder.transformer.layers.{}.attention.wk", "v.blk.{}.attn_k"),
    r("vision_encoder.transformer.layers.{}.attention.wv", "v.blk.{}.attn_v"),
    r("vision_encoder.transformer.layers.{}.attention.wo", "v.blk.{}.attn_out"),
    r("vision_encoder.transformer.layers.{}.feed_forward.w1", "v.blk.{}.ffn_gate"),
    r("vision_encoder.transformer.layers.{}.feed_forward.w3", "v.blk.{}.ffn_up"),
    r("vision_encoder.transformer.layers.{}.feed_forward.w2", "v.blk.{}.ffn_down"),
    r("vision_language_adapter.w_in", "mm.1"),
    r("vision_language_adapter.w_out", "mm.2"),
    r("pre_mm_projector_norm", "mm.input_norm"),
    r("patch_merger.merging_layer", "mm.patch_merger"),
    r("embed_tokens", "v.token_embd.img_break").how(BREAK_ROW),
];

fn pixtral(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "pixtral");
    epsilon(p, Sense::Vision, "layer_norm_eps", 1e-5)?;
    let tower = tower(p, Sense::Vision)?;
    activation(p, tower)?;
    if p.config().get("spatial_merge_size").is_some() {
        p.need_u32("vision.spatial_merge_size", &["spatial_merge_size"])?;
    }
    Ok(())
}

fn mistral(p: &mut Params<'_>) -> Result<()> {
    common(p)?;
    p.set("projector_type", "pixtral");
    let tower = tower(p, Sense::Vision)?;
    p.f32("vision.attention.layer_norm_epsilon", tower.need_f64(&["norm_eps"])?);
    p.f32("rope.freq_base", tower.need_f64(&["rope_theta"])?);
    p.set("use_silu", true);
    if tower.str("mm_projector_id") == Some("patch_merge") {
        p.u32("vision.spatial_merge_size", tower.need_u64(&["spatial_merge_size"])?)?;
    }
    Ok(())
}
