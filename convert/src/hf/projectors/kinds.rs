//! What the configuration classes of towers fill in: facts of version 5.24 of the transformers library.

/// The configuration class of a tower.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its `model_type`.
    pub(super) name: &'static str,
    /// What it fills in, as JSON.
    pub(super) defaults: &'static str,
    /// Other names that it takes for a field, each with the one that is read.
    pub(super) aliases: &'static [(&'static str, &'static str)],
}

/// The class of this name.
pub(super) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

const fn kind(name: &'static str, aliases: &'static [(&'static str, &'static str)], defaults: &'static str) -> Kind {
    Kind { name, defaults, aliases }
}

const CONFORMER: &[(&str, &str)] = &[
    ("hidden_size", "hidden_dim"),
    ("num_attention_heads", "num_heads"),
    ("num_hidden_layers", "num_layers"),
    ("num_mel_bins", "input_dim"),
];
const DEPTH: &[(&str, &str)] = &[("num_attention_heads", "num_heads"), ("num_hidden_layers", "depth")];
const ENCODER: &[(&str, &str)] = &[
    ("hidden_size", "d_model"),
    ("intermediate_size", "encoder_ffn_dim"),
    ("num_attention_heads", "encoder_attention_heads"),
    ("num_hidden_layers", "encoder_layers"),
];
const HUNYUAN: &[(&str, &str)] = &[("attention_heads", "num_attention_heads"), ("layer_norm_eps", "rms_norm_eps")];
const STEP: &[(&str, &str)] =
    &[("width", "hidden_size"), ("layers", "num_hidden_layers"), ("heads", "num_attention_heads")];
const WHISPER: &[(&str, &str)] = &[
    ("hidden_size", "d_model"),
    ("num_attention_heads", "encoder_attention_heads"),
    ("num_hidden_layers", "encoder_layers"),
];
const WIDTH: &[(&str, &str)] = &[
    ("d_model", "hidden_size"),
    ("encoder_attention_heads", "num_attention_heads"),
    ("encoder_ffn_dim", "intermediate_size"),
    ("encoder_layers", "num_hidden_layers"),
];

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    kind("audioflamingo3_encoder", WIDTH, r#"
        {"num_mel_bins": 128, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120,
        "activation_function": "gelu", "hidden_size": 1280, "max_source_positions": 1500}"#),
    kind("blip_2_qformer", &[], r#"
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "cross_attention_frequency": 2}"#),
    kind("clip_vision_model", &[], r#"
        {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05}"#),
    kind("exaone4_5_vision", DEPTH, r#"
        {"depth": 32, "hidden_size": 3584, "hidden_act": "silu", "intermediate_size": 3420, "num_heads": 16,
        "patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31], "num_key_value_heads": 8}"#),
    kind("gemma3n_audio", &[], r#"
        {"input_feat_size": 128, "hidden_size": 1536, "rms_norm_eps": 1e-06, "conf_num_attention_heads": 8,
        "conf_num_hidden_layers": 12}"#),
    kind("gemma3n_vision", &[], r#"
        {"hidden_size": 2048, "rms_norm_eps": 1e-06}"#),
    kind("gemma4_audio", &[], r#"
        {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8, "hidden_act": "silu",
        "conv_kernel_size": 5, "residual_weight": 0.5, "attention_chunk_size": 12, "attention_context_left":
        13, "attention_context_right": 0, "attention_logit_cap": 50.0, "use_clipped_linears": true,
        "rms_norm_eps": 1e-06}"#),
    kind("gemma4_unified_audio", &[], r#"
        {"audio_embed_dim": 640, "rms_norm_eps": 1e-06}"#),
    kind("gemma4_unified_vision", &[], r#"
        {"patch_size": 16, "pooling_kernel_size": 3, "mm_embed_dim": 3840, "rms_norm_eps": 1e-06}"#),
    kind("gemma4_vision", &[], r#"
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12,
        "num_key_value_heads": 12, "head_dim": 64, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps":
        1e-06, "pooling_kernel_size": 3, "patch_size": 16, "use_clipped_linears": false, "standardize":
        false}"#),
    kind("glm4v_moe_vision", DEPTH, r#"
        {"depth": 24, "hidden_size": 1536, "hidden_act": "silu", "num_heads": 12, "image_size": 336,
        "patch_size": 14, "rms_norm_eps": 1e-05, "spatial_merge_size": 2, "out_hidden_size": 4096,
        "intermediate_size": 13696}"#),
    kind("glm4v_vision", DEPTH, r#"
        {"depth": 24, "hidden_size": 1536, "hidden_act": "silu", "num_heads": 12, "image_size": 336,
        "patch_size": 14, "rms_norm_eps": 1e-05, "spatial_merge_size": 2, "out_hidden_size": 4096,
        "intermediate_size": 13696}"#),
    kind("glm5_next_vision", DEPTH, r#"
        {"depth": 24, "hidden_size": 1024, "hidden_act": "silu", "num_heads": 16, "image_size": 336,
        "patch_size": 14, "rms_norm_eps": 1e-05, "spatial_merge_size": 2, "out_hidden_size": 1536,
        "intermediate_size": 4096, "swiglu_limit": 10.0}"#),
    kind("glm_ocr_vision", DEPTH, r#"
        {"depth": 24, "hidden_size": 1024, "hidden_act": "silu", "num_heads": 16, "image_size": 336,
        "patch_size": 14, "rms_norm_eps": 1e-05, "spatial_merge_size": 2, "out_hidden_size": 1536,
        "intermediate_size": 4096}"#),
    kind("glmasr_encoder", &[], r#"
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "num_key_value_heads": 20, "hidden_act": "gelu", "num_mel_bins": 128}"#),
    kind("granite_speech_encoder", CONFORMER, r#"
        {"input_dim": 160, "num_layers": 10, "hidden_dim": 1024, "feedforward_mult": 4, "num_heads": 8,
        "context_size": 200, "max_pos_emb": 512, "conv_kernel_size": 15}"#),
    kind("granite_speech_plus_encoder", CONFORMER, r#"
        {"input_dim": 160, "num_layers": 10, "hidden_dim": 1024, "feedforward_mult": 4, "num_heads": 8,
        "context_size": 200, "max_pos_emb": 512, "conv_kernel_size": 15}"#),
    kind("hunyuan_vl_vision", HUNYUAN, r#"
        {"hidden_act": "gelu", "hidden_size": 1152, "intermediate_size": 4304, "rms_norm_eps": 1e-05,
        "num_attention_heads": 16, "num_key_value_heads": 16, "num_hidden_layers": 27, "out_hidden_size":
        4096, "patch_size": 16, "spatial_merge_size": 2, "max_image_size": 2048}"#),
    kind("idefics3_vision", &[], r#"
        {"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 32, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06}"#),
    kind("janus_vision_model", &[], r#"
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 384,
        "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-06, "mlp_ratio": 4.0, "projection_dim":
        2048, "depth": 2}"#),
    kind("kimi_k25_vision", &[], r#"
        {"patch_size": 14, "pos_emb_height": 64, "pos_emb_width": 64, "pos_emb_time": 4,
        "num_attention_heads": 16, "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304,
        "hidden_act": "gelu_pytorch_tanh", "merge_kernel_size": [2, 2]}"#),
    kind("llama4_vision_model", &[], r#"
        {"hidden_size": 768, "hidden_act": "gelu", "num_hidden_layers": 34, "num_attention_heads": 16,
        "intermediate_size": 5632, "image_size": 448, "patch_size": 14, "norm_eps": 1e-05,
        "pixel_shuffle_ratio": 0.5}"#),
    kind("minicpmv4_6_vision", &[], r#"
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06,
        "insert_layer_id": 6, "window_kernel_size": [2, 2]}"#),
    kind("minimax_m3_vl_vision", &[], r#"
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "image_size": 2016, "patch_size": 14, "spatial_merge_size": 2, "hidden_act": "gelu",
        "layer_norm_eps": 1e-05}"#),
    kind("muse_glimmer_vision", &[], r#"
        {"patch_size": 14, "pos_emb_height": 32, "num_attention_heads": 16, "num_hidden_layers": 50,
        "hidden_size": 1536, "intermediate_size": 8960, "hidden_act": "gelu", "patch_temporal": 2,
        "merge_size": 2, "layer_norm_eps": 1e-05}"#),
    kind("paddleocr_vl_vision", &[], r#"
        {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "image_size": 384, "patch_size": 14, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06,
        "spatial_merge_size": 2}"#),
    kind("pixtral", &[], r#"
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 1024, "patch_size": 16, "hidden_act": "gelu", "head_dim": 64}"#),
    kind("qwen2_5_omni_audio_encoder", ENCODER, r#"
        {"num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
        "d_model": 1280, "activation_function": "gelu", "max_source_positions": 1500, "n_window": 100}"#),
    kind("qwen2_5_omni_vision_encoder", DEPTH, r#"
        {"depth": 32, "hidden_size": 3584, "hidden_act": "silu", "intermediate_size": 3420, "num_heads": 16,
        "patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31]}"#),
    kind("qwen2_5_vl_vision", DEPTH, r#"
        {"depth": 32, "hidden_size": 3584, "hidden_act": "silu", "intermediate_size": 3420, "num_heads": 16,
        "patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31]}"#),
    kind("qwen2_audio_encoder", ENCODER, r#"
        {"num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
        "d_model": 1280, "activation_function": "gelu", "max_source_positions": 1500}"#),
    kind("qwen2_vl_vision", DEPTH, r#"
        {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "hidden_act": "quick_gelu", "mlp_ratio": 4,
        "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2}"#),
    kind("qwen3_5_moe_vision", DEPTH, r#"
        {"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 4304,
        "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304}"#),
    kind("qwen3_5_vision", DEPTH, r#"
        {"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 4304,
        "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304}"#),
    kind("qwen3_omni_moe_audio_encoder", ENCODER, r#"
        {"num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
        "d_model": 1280, "activation_function": "gelu", "max_source_positions": 1500, "n_window": 50}"#),
    kind("qwen3_omni_moe_vision_encoder", DEPTH, r#"
        {"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 4304,
        "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}"#),
    kind("qwen3_vl_moe_vision", DEPTH, r#"
        {"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 4304,
        "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}"#),
    kind("qwen3_vl_vision", DEPTH, r#"
        {"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 4304,
        "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}"#),
    kind("qwen4_exp_vision", DEPTH, r#"
        {"depth": 27, "hidden_size": 1152, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 4304,
        "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2, "out_hidden_size": 3584,
        "num_position_embeddings": 2304}"#),
    kind("siglip2_vision_model", &[], r#"
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06}"#),
    kind("siglip_vision_model", &[], r#"
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06}"#),
    kind("smolvlm_vision", &[], r#"
        {"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 32, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06}"#),
    kind("step3p5_vision", STEP, r#"
        {"hidden_size": 1536, "intermediate_size": 3072, "num_hidden_layers": 47, "num_attention_heads": 16,
        "image_size": 728, "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05,
        "mlp_ratio": 5.833333333333333}"#),
    kind("voxtral_encoder", WIDTH, r#"
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "activation_function": "gelu", "num_mel_bins": 128, "max_source_positions": 1500}"#),
    kind("whisper", WHISPER, r#"
        {"num_mel_bins": 80, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
        "activation_function": "gelu", "d_model": 384, "max_source_positions": 1500}"#),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_an_object() {
        for kind in KINDS {
            let parsed: serde_json::Map<String, serde_json::Value> = serde_json::from_str(kind.defaults).unwrap();
            assert!(!parsed.is_empty(), "{}", kind.name);
            assert_eq!(KINDS.iter().filter(|other| other.name == kind.name).count(), 1, "{}", kind.name);
        }
    }
}
