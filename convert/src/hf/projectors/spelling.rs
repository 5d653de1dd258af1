//! Names of towers' tensors that families share.

use super::r;
use crate::hf::NameRule;

/// A tower of CLIP or SigLIP under `vision.`.
pub(super) const SIGLIP: &[NameRule] = &[
    r("vision.embeddings.class_embedding", "v.class_embd"),
    r("vision.embeddings.patch_embedding", "v.patch_embd"),
    r("vision.embeddings.position_embedding", "v.position_embd"),
    r("vision.pre_layrnorm", "v.pre_ln"),
    r("vision.encoder.layers.{}.layer_norm1", "v.blk.{}.ln1"),
    r("vision.encoder.layers.{}.layer_norm2", "v.blk.{}.ln2"),
    r("vision.encoder.layers.{}.self_attn.q_proj", "v.blk.{}.attn_q"),
    r("vision.encoder.layers.{}.self_attn.k_proj", "v.blk.{}.attn_k"),
    r("vision.encoder.layers.{}.self_attn.v_proj", "v.blk.{}.attn_v"),
    r("vision.encoder.layers.{}.self_attn.out_proj", "v.blk.{}.attn_out"),
    r("vision.encoder.layers.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("vision.encoder.layers.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("vision.post_layernorm", "v.post_ln"),
];

/// The encoder of Whisper under `audio_tower.`.
pub(super) const WHISPER: &[NameRule] = &[
    r("audio_tower.conv{}", "a.conv1d.{}").how(super::change::COLUMN_BIAS),
    r("audio_tower.embed_positions", "a.position_embd"),
    r("audio_tower.layers.{}.self_attn_layer_norm", "a.blk.{}.ln1"),
    r("audio_tower.layers.{}.self_attn.q_proj", "a.blk.{}.attn_q"),
    r("audio_tower.layers.{}.self_attn.k_proj", "a.blk.{}.attn_k"),
    r("audio_tower.layers.{}.self_attn.v_proj", "a.blk.{}.attn_v"),
    r("audio_tower.layers.{}.self_attn.out_proj", "a.blk.{}.attn_out"),
    r("audio_tower.layers.{}.final_layer_norm", "a.blk.{}.ln2"),
    r("audio_tower.layers.{}.fc1", "a.blk.{}.ffn_up"),
    r("audio_tower.layers.{}.fc2", "a.blk.{}.ffn_down"),
    r("audio_tower.layer_norm", "a.post_ln"),
];

/// The blocks of Qwen's towers and their relatives under `visual.`.
pub(super) const VISUAL: &[NameRule] = &[
    r("visual.patch_embed.proj", "v.patch_embd").how(super::change::FRAMES),
    r("visual.blocks.{}.norm1", "v.blk.{}.ln1"),
    r("visual.blocks.{}.norm2", "v.blk.{}.ln2"),
    r("visual.blocks.{}.attn.proj", "v.blk.{}.attn_out"),
    r("visual.blocks.{}.attn.q_norm", "v.blk.{}.attn_q_norm"),
    r("visual.blocks.{}.attn.k_norm", "v.blk.{}.attn_k_norm"),
    r("visual.blocks.{}.mlp.fc1", "v.blk.{}.ffn_up"),
    r("visual.blocks.{}.mlp.fc2", "v.blk.{}.ffn_down"),
    r("visual.blocks.{}.mlp.linear_fc1", "v.blk.{}.ffn_up"),
    r("visual.blocks.{}.mlp.linear_fc2", "v.blk.{}.ffn_down"),
    r("visual.blocks.{}.mlp.gate_proj", "v.blk.{}.ffn_gate"),
    r("visual.blocks.{}.mlp.up_proj", "v.blk.{}.ffn_up"),
    r("visual.blocks.{}.mlp.down_proj", "v.blk.{}.ffn_down"),
];

/// Projections of queries, keys and values in one tensor that is kept.
pub(super) const VISUAL_FUSED: &[NameRule] = &[r("visual.blocks.{}.attn.qkv", "v.blk.{}.attn_qkv")];

/// The same, taken apart or stored apart.
pub(super) const VISUAL_SEPARATE: &[NameRule] = &[
    r("visual.blocks.{}.attn.qkv", "v.blk.{}.attn_").how(super::change::QUERY_KEY_VALUE),
    r("visual.blocks.{}.attn.q", "v.blk.{}.attn_q"),
    r("visual.blocks.{}.attn.k", "v.blk.{}.attn_k"),
    r("visual.blocks.{}.attn.v", "v.blk.{}.attn_v"),
];
