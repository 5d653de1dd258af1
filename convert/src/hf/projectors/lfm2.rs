//! The encoder of LFM2 Audio.

use super::change::{folded_norm, without};
use super::{BASE, Forced, Sense, Tower, audio, common, r, tower};
use crate::hf::{Class, How, NameRule};
use crate::transform;

pub(super) const ROWS: &[Class] = &[Class {
    names: &["Lfm2AudioForConditionalGeneration"],
    towers: &[Tower { path: &["encoder"], ..audio("") }],
    prepare: |config| {
        let Some(tower) = config.section_mut("audio") else { return Ok(()) };
        // Readers go by the tensors for the width of the feed-forward.
        for (name, from) in
            [("hidden_size", "d_model"), ("intermediate_size", "d_model"), ("num_attention_heads", "n_heads")]
        {
            let value = tower.need_u64(&[from])?;
            tower.set(name, value);
        }
        Ok(())
    },
    unused: &["lfm."],
    rename: |_, name| {
        // What speaks, and what is of training alone.
        let parts = ["audio_loss_weight", "codebook_offsets", "depth_embeddings", "depth_linear", "depthformer"];
        let unused = parts.iter().any(|part| name.contains(part)) || name.ends_with("num_batches_tracked");
        (!unused).then(|| name.to_owned())
    },
    spelling: &[LFM2],
    forced: &[("a.conv1d.", Forced::F32), ("a.blk.{}.conv_", Forced::F32)],
    keys: |p| {
        common(p)?;
        p.set("projector_type", "lfm2a");
        p.u32("audio.num_mel_bins", tower(p, Sense::Audio)?.need_u64(&["feat_in"])?)?;
        p.f32("audio.attention.layer_norm_epsilon", 1e-5);
        Ok(())
    },
    remark: "the encoder of LFM2 Audio; what it speaks with stays in the checkpoint",
    ..BASE
}];

/// A bias of each channel of an image.
const CHANNEL_BIAS: How = How::Change(|_, piece| match piece.rows.shape() {
    &[len] if piece.suffix == ".bias" => transform::reshaped(&piece.rows, vec![len, 1, 1]),
    _ => Ok(piece.rows.clone()),
});

/// A kernel over one step loses its last dimension.
const POINT: How = How::Change(|_, piece| without(piece, 2));

/// A kernel of a channel alone loses the middle one.
const DEPTH: How = How::Change(|_, piece| without(piece, 1));

const NORM: How = How::Join { group: "batch norm", make: |_, piece, parts| folded_norm(piece, &parts) };

const LFM2: &[NameRule] = &[
    r("conformer.pre_encode.conv.{}", "a.conv1d.{}").how(CHANNEL_BIAS),
    r("conformer.pre_encode.out", "a.pre_encode.out"),
    r("conformer.layers.{}.norm_self_att", "a.blk.{}.ln1"),
    r("conformer.layers.{}.norm_out", "a.blk.{}.ln2"),
    r("conformer.layers.{}.self_attn.linear_q", "a.blk.{}.attn_q"),
    r("conformer.layers.{}.self_attn.linear_k", "a.blk.{}.attn_k"),
    r("conformer.layers.{}.self_attn.linear_v", "a.blk.{}.attn_v"),
    r("conformer.layers.{}.self_attn.linear_out", "a.blk.{}.attn_out"),
    r("conformer.layers.{}.self_attn.linear_pos", "a.blk.{}.linear_pos"),
    r("conformer.layers.{}.self_attn.pos_bias_u", "a.blk.{}.pos_bias_u"),
    r("conformer.layers.{}.self_attn.pos_bias_v", "a.blk.{}.pos_bias_v"),
    r("conformer.layers.{}.norm_feed_forward1", "a.blk.{}.ffn_norm"),
    r("conformer.layers.{}.feed_forward1.linear1", "a.blk.{}.ffn_up"),
    r("conformer.layers.{}.feed_forward1.linear2", "a.blk.{}.ffn_down"),
    r("conformer.layers.{}.norm_feed_forward2", "a.blk.{}.ffn_norm_1"),
    r("conformer.layers.{}.feed_forward2.linear1", "a.blk.{}.ffn_up_1"),
    r("conformer.layers.{}.feed_forward2.linear2", "a.blk.{}.ffn_down_1"),
    r("conformer.layers.{}.norm_conv", "a.blk.{}.norm_conv"),
    r("conformer.layers.{}.conv.pointwise_conv1", "a.blk.{}.conv_pw1").how(POINT),
    r("conformer.layers.{}.conv.pointwise_conv2", "a.blk.{}.conv_pw2").how(POINT),
    r("conformer.layers.{}.conv.depthwise_conv", "a.blk.{}.conv_dw").how(DEPTH),
    r("conformer.layers.{}.conv.batch_norm.weight", "a.blk.{}.conv_norm").how(NORM),
    r("conformer.layers.{}.conv.batch_norm.bias", "a.blk.{}.conv_norm").how(NORM),
    r("conformer.layers.{}.conv.batch_norm.running_mean", "a.blk.{}.conv_norm").how(NORM),
    r("conformer.layers.{}.conv.batch_norm.running_var", "a.blk.{}.conv_norm").how(NORM),
    r("audio_adapter.model.{}", "mm.a.mlp.{}"),
    r("audio_embedding.embedding", "a.position_embd"),
    r("audio_embedding.embedding_norm", "a.position_embd_norm"),
    r("audio_embedding.to_logits", "a.embd_to_logits"),
];
