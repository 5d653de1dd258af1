//! The towers of Nemotron Nano VL: RADIO, which sees, and Parakeet, which hears.

use std::collections::BTreeMap;

use gguf::{Error, Result};

use super::change::without;
use super::{BASE, Forced, PROCESSOR, Sense, Tower, audio, common, inverse, r, tower_of, vision};
use crate::config::Config;
use crate::hf::{Class, Contents, How, NameRule, Outputs, Params, Piece};
use crate::names::blocks_in;
use crate::transform::{self, Rows};

pub(super) const ROWS: &[Class] = &[Class {
    names: &["NemotronH_Nano_VL_V2", "RADIOModel"],
    towers: &[vision(""), Tower { path: &["sound_config"], optional: true, ..audio("") }],
    prepare: |config| {
        let size = config.u64_or(&["force_image_size"], 512)?;
        if let Some(tower) = config.section_mut("vision") {
            tower.set("image_size", size);
        }
        if let Some(processor) = config.section_mut(PROCESSOR) {
            for (name, usual) in [("image_mean", [0.485, 0.456, 0.406]), ("image_std", [0.229, 0.224, 0.225])] {
                if !processor.has(name) {
                    processor.set(name, usual.to_vec());
                }
            }
        }
        Ok(())
    },
    inspect: sizes,
    prefixes: &[("vision_model.radio_model.model.", "radio.")],
    rename: |_, name| {
        let own = ["radio.", "mlp1.", "sound_encoder.", "sound_projection."].iter().any(|own| name.starts_with(own));
        // Videos have an embedder of their own; counters are of training.
        let unused = ["input_conditioner", "radio.patch_generator.video_embedder", "num_batches"];
        if !own || unused.iter().any(|part| name.contains(part)) {
            return None;
        }
        let bare = if name == "radio.patch_generator.pos_embed" { ".weight" } else { "" };
        Some(format!("{name}{bare}"))
    },
    spelling: &[RADIO, PARAKEET],
    forced: &[("a.conv1d.", Forced::F32), ("a.blk.{}.conv_", Forced::F32)],
    keys: nemotron,
    remark: "the towers of Nemotron Nano VL and Omni; positions are interpolated to the size of its tiles",
    ..BASE
}];

const RADIO: &[NameRule] = &[
    r("radio.patch_generator.embedder", "v.patch_embd").how(How::Change(patches)),
    r("radio.patch_generator.cls_token.token", "v.class_embd"),
    r("radio.patch_generator.pos_embed", "v.position_embd").how(How::Cut(positions)),
    r("radio.blocks.{}.norm1", "v.blk.{}.ln1"),
    r("radio.blocks.{}.norm2", "v.blk.{}.ln2"),
    r("radio.blocks.{}.attn.qkv", "v.blk.{}.attn_qkv"),
    r("radio.blocks.{}.attn.proj", "v.blk.{}.attn_out"),
    r("radio.blocks.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("radio.blocks.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("mlp1.{}", "mm.model.mlp.{}"),
];

const PARAKEET: &[NameRule] = &[
    r("sound_encoder.encoder.feature_extractor.featurizer.fb", "a.mel_filters"),
    r("sound_encoder.encoder.feature_extractor.featurizer.window", "a.window"),
    r("sound_encoder.encoder.subsampling.layers.{}", "a.conv1d.{}").how(CHANNEL_BIAS),
    r("sound_encoder.encoder.subsampling.linear", "a.pre_encode.out"),
    r("sound_encoder.encoder.layers.{}.norm_self_att", "a.blk.{}.ln1"),
    r("sound_encoder.encoder.layers.{}.norm_out", "a.blk.{}.ln2"),
    r("sound_encoder.encoder.layers.{}.self_attn.q_proj", "a.blk.{}.attn_q"),
    r("sound_encoder.encoder.layers.{}.self_attn.k_proj", "a.blk.{}.attn_k"),
    r("sound_encoder.encoder.layers.{}.self_attn.v_proj", "a.blk.{}.attn_v"),
    r("sound_encoder.encoder.layers.{}.self_attn.o_proj", "a.blk.{}.attn_out"),
    r("sound_encoder.encoder.layers.{}.self_attn.relative_k_proj", "a.blk.{}.linear_pos"),
    r("sound_encoder.encoder.layers.{}.self_attn.bias_u", "a.blk.{}.pos_bias_u"),
    r("sound_encoder.encoder.layers.{}.self_attn.bias_v", "a.blk.{}.pos_bias_v"),
    r("sound_encoder.encoder.layers.{}.norm_feed_forward1", "a.blk.{}.ffn_norm"),
    r("sound_encoder.encoder.layers.{}.feed_forward1.linear1", "a.blk.{}.ffn_up"),
    r("sound_encoder.encoder.layers.{}.feed_forward1.linear2", "a.blk.{}.ffn_down"),
    r("sound_encoder.encoder.layers.{}.norm_feed_forward2", "a.blk.{}.ffn_norm_1"),
    r("sound_encoder.encoder.layers.{}.feed_forward2.linear1", "a.blk.{}.ffn_up_1"),
    r("sound_encoder.encoder.layers.{}.feed_forward2.linear2", "a.blk.{}.ffn_down_1"),
    r("sound_encoder.encoder.layers.{}.norm_conv", "a.blk.{}.norm_conv"),
    r("sound_encoder.encoder.layers.{}.conv.pointwise_conv1", "a.blk.{}.conv_pw1").how(POINTWISE),
    r("sound_encoder.encoder.layers.{}.conv.pointwise_conv2", "a.blk.{}.conv_pw2").how(POINTWISE),
    r("sound_encoder.encoder.layers.{}.conv.depthwise_conv", "a.blk.{}.conv_dw").how(How::Change(|_, piece| {
        let &[channels, 1, kernel] = piece.rows.shape() else { return Ok(piece.rows.clone()) };
        transform::reshaped(&piece.rows, vec![1, 1, channels, kernel])
    })),
    r("sound_encoder.encoder.layers.{}.conv.norm", "a.blk.{}.conv_norm"),
    r("sound_encoder.encoder.layers.{}.conv.norm.running_mean", "a.blk.{}.conv_norm_mean"),
    r("sound_encoder.encoder.layers.{}.conv.norm.running_var", "a.blk.{}.conv_norm_var"),
    r("sound_projection.norm", "mm.a.norm_pre"),
    r("sound_projection.linear{}", "mm.a.mlp.{}"),
];

const CHANNEL_BIAS: How = How::Change(|_, piece| channel_bias(piece));

/// A kernel over one step loses its last dimension.
const POINTWISE: How = How::Change(|_, piece| match piece.suffix.as_str() {
    ".bias" => channel_bias(piece),
    _ => without(piece, 2),
});

/// A bias of each channel of an image.
fn channel_bias(piece: &Piece) -> Result<Rows> {
    match piece.rows.shape() {
        &[len] if piece.suffix == ".bias" => transform::reshaped(&piece.rows, vec![1, len, 1, 1]),
        _ => Ok(piece.rows.clone()),
    }
}

/// The tower's sizes are those of its tensors: its configuration has the name of a ViT alone.
fn sizes(config: &mut Config, contents: &Contents<'_>) -> Result<()> {
    let mut layers = 0;
    let (mut widths, mut inner) = (BTreeMap::new(), BTreeMap::new());
    for tensor in contents.tensors {
        let Some(name) = tensor.name().strip_prefix("vision_model.radio_model.model.") else { continue };
        let Some((Some(layer), own)) = blocks_in("blocks.{}.", name) else { continue };
        layers = layers.max(layer.saturating_add(1));
        let rows = tensor.shape().first().copied().unwrap_or(0);
        match own {
            "norm1.weight" => *widths.entry(rows).or_insert(0) += 1,
            "mlp.fc1.weight" => *inner.entry(rows).or_insert(0) += 1,
            _ => {}
        }
    }
    // One that differs from the others is not what the tower is.
    let most = |rows: BTreeMap<u64, u64>, name: &str| {
        let most = rows.into_iter().max_by_key(|(_, times)| *times).map(|(rows, _)| rows);
        most.ok_or_else(|| {
            Error::input(format!("the folder has no tensor vision_model.radio_model.model.blocks.0.{name}"))
        })
    };
    let (width, inner) = (most(widths, "norm1.weight")?, most(inner, "mlp.fc1.weight")?);
    if let Some(tower) = config.section_mut("vision") {
        // ViT-L and ViT-H have as many heads.
        for (name, value) in [
            ("hidden_size", width),
            ("intermediate_size", inner),
            ("num_hidden_layers", layers),
            ("num_attention_heads", 16),
        ] {
            tower.set(name, value);
        }
    }
    let blocks = super::blocks(config)?;
    config.set_blocks(blocks);
    Ok(())
}

/// A linear layer over patches becomes a convolution.
fn patches(config: &Config, piece: &Piece) -> Result<Rows> {
    let &[out, _] = piece.rows.shape() else { return Ok(piece.rows.clone()) };
    let side = tower_of(config, Sense::Vision)?.need_u64(&["patch_size"])?;
    transform::reshaped(&piece.rows, vec![out, 3, side, side])
}

/// The positions of a square of patches, interpolated to those of a tile.
fn positions(config: &Config, piece: &Piece) -> Result<Outputs> {
    let name = format!("{}{}", piece.to, piece.suffix);
    let tower = tower_of(config, Sense::Vision)?;
    let size = tower.need_u64(&["image_size"])?;
    let to = size.checked_div(tower.need_u64(&["patch_size"])?).unwrap_or(0);
    let &[1, count, width] = piece.rows.shape() else {
        return Err(Error::input(format!("its shape {:?} is not that of positions", piece.rows.shape())));
    };
    let from = count.isqrt();
    if from * from != count || to == 0 || to > 4096 {
        return Err(Error::input(format!("{count} positions are no square for {to} patches to a side")));
    }
    if from == to {
        return Ok(vec![(name, piece.rows.clone())]);
    }
    let values = super::change::floats(&piece.rows)?;
    let values = transform::bilinear(&values, from as usize, to as usize, width as usize);
    Ok(vec![(name, transform::values(vec![1, to * to, width], &values))])
}

fn nemotron(p: &mut Params<'_>) -> Result<()> {
    if let Some(sound) = p.config().section("audio") {
        p.u32("audio.num_mel_bins", sound.need_u64(&["num_mel_bins"])?)?;
        p.f32("audio.attention.layer_norm_epsilon", 1e-5);
        p.u32("audio.subsampling_factor", sound.need_u64(&["subsampling_factor"])?)?;
        p.u32("audio.conv_kernel_size", sound.need_u64(&["conv_kernel_size"])?)?;
        p.set("audio.projector_type", "parakeet");
        p.set("vision.projector_type", "nemotron_v2_vl");
    } else {
        p.set("projector_type", "nemotron_v2_vl");
    }
    common(p)?;
    p.f32("vision.attention.layer_norm_epsilon", 1e-6);
    p.set("use_gelu", true);
    let ratio = p.config().f64_or(&["downsample_ratio"], 0.5)?;
    p.u32("vision.projector.scale_factor", inverse("config.json", "downsample_ratio", ratio)?)
}
