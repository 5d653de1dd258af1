//! What projector files have to hold: the towers that see, hear or speak, and what joins them to a text model.
//!
//! A row is a kind of projector as `clip.projector_type` names it. Facts are those of llama.cpp's loader (`tools/mtmd`):
//! it ignores tensors that it does not know and compares no shapes.

mod shapes;

use crate::value::Value;

/// What a tower is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// Images.
    Vision,
    /// Sound that comes in.
    Audio,
    /// Sound that is made.
    Voice,
}

impl Sense {
    /// The tower's name in keys: `vision` in `clip.vision.block_count`.
    pub fn name(self) -> &'static str {
        match self {
            Sense::Vision => "vision",
            Sense::Audio => "audio",
            Sense::Voice => "gen.audio",
        }
    }

    /// The key that says whether a file has such a tower.
    pub fn flag(self) -> &'static str {
        match self {
            Sense::Vision => "clip.has_vision_encoder",
            Sense::Audio => "clip.has_audio_encoder",
            Sense::Voice => "clip.has_gen_audio_encoder",
        }
    }

    /// What the names of its layers begin with.
    pub fn stack(self) -> &'static str {
        match self {
            Sense::Vision => "v.blk.",
            Sense::Audio => "a.blk.",
            Sense::Voice => "a.gen.code.blk.",
        }
    }
}

/// Every sense.
pub const SENSES: [Sense; 3] = [Sense::Vision, Sense::Audio, Sense::Voice];

/// A kind of projector.
#[derive(Debug)]
pub struct Projector {
    /// Its name.
    pub name: &'static str,
    /// What its tower is for.
    pub sense: Sense,
    /// Keys that it demands beside those of its sense, without their beginning.
    pub keys: &'static [&'static str],
    /// Tensors outside of layers; `.*` stands for weight and bias.
    pub ends: &'static [&'static str],
    /// Whether layers hold attention and a feed-forward part under the usual names.
    pub usual: bool,
    /// What each layer holds beside them.
    pub layers: &'static [&'static str],
    /// Tensors that llama.cpp demands and its own converter may leave out.
    pub lacks: &'static [&'static str],
    /// The first dimensions of convolutions: beginnings of names, and the kernels.
    pub kernels: &'static [(&'static str, &'static [u64])],
    /// Ways that values take through tensors outside of layers, as `shapes` reads them.
    pub ways: &'static [&'static str],
    /// What layers need not have alike: beginnings of names.
    pub varies: &'static [&'static str],
    /// Convolutions that are transposed, which give what others take: beginnings of names before the number of a layer.
    pub turned: &'static [&'static str],
    /// How many positions its table has.
    pub positions: Positions,
    /// Whether `ffn_up` and `ffn_down` may have each other's names, which readers see from their shapes.
    pub swaps: bool,
}

/// How many positions a tower's table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// As many as it was made with.
    Any,
    /// Those of a square image, and one of a class where there is one.
    Square,
    /// As many as it was made with, in each of two directions.
    Directions,
}

const VISION: Projector = Projector {
    name: "",
    sense: Sense::Vision,
    keys: &[],
    ends: &[],
    usual: true,
    layers: &[],
    lacks: &[],
    kernels: &[],
    ways: &[],
    varies: &[],
    turned: &[],
    positions: Positions::Any,
    swaps: false,
};

const AUDIO: Projector = Projector { sense: Sense::Audio, ..VISION };

const VOICE: Projector = Projector { sense: Sense::Voice, ..VISION };

/// Every kind that llama.cpp knows.
#[rustfmt::skip]
pub static KINDS: &[Projector] = &[
    Projector { name: "mlp", positions: Positions::Square, swaps: true, ways: &["W *mm.0 mm.2"], ..VISION },
    Projector { name: "ldp", ends: &["mm.model.mlp.1.*", "mm.model.mlp.3.*", "mm.model.mb_block.1.block.0.0.weight", "mm.model.mb_block.1.block.0.1.*", "mm.model.mb_block.1.block.1.fc1.*", "mm.model.mb_block.1.block.1.fc2.*", "mm.model.mb_block.1.block.2.0.weight", "mm.model.mb_block.1.block.2.1.*", "mm.model.mb_block.2.block.0.0.weight", "mm.model.mb_block.2.block.0.1.*", "mm.model.mb_block.2.block.1.fc1.*", "mm.model.mb_block.2.block.1.fc2.*", "mm.model.mb_block.2.block.2.0.weight", "mm.model.mb_block.2.block.2.1.*"], swaps: true, ..VISION },
    Projector { name: "ldpv2", ends: &["mm.model.mlp.0.*", "mm.model.mlp.2.*", "mm.model.peg.0.*"], swaps: true, ..VISION },
    Projector { name: "resampler", ends: &["resampler.pos_embed_k", "resampler.query", "resampler.proj.weight", "resampler.kv.weight", "resampler.attn.q.*", "resampler.attn.k.*", "resampler.attn.v.*", "resampler.attn.out.*", "resampler.ln_q.*", "resampler.ln_kv.*", "resampler.ln_post.*"], swaps: true, ..VISION },
    Projector { name: "adapter", ends: &["adapter.conv.*", "adapter.linear.linear.weight", "adapter.linear.norm1.*", "adapter.linear.dense_h_to_4h.weight", "adapter.linear.gate.weight", "adapter.linear.dense_4h_to_h.weight", "adapter.boi", "adapter.eoi"], swaps: true, ..VISION },
    Projector { name: "qwen2vl_merger", ends: &["mm.0.*", "mm.2.*"], ways: &["W v.post_ln *mm.0 mm.2 P"], swaps: true, ..VISION },
    Projector { name: "qwen2.5vl_merger", keys: &["n_wa_pattern"], ends: &["mm.0.*", "mm.2.*"], ways: &["W v.post_ln *mm.0 mm.2 P"], swaps: true, ..VISION },
    Projector { name: "qwen2.5o", keys: &["n_wa_pattern"], ends: &["mm.0.*", "mm.2.*"], ways: &["W v.post_ln *mm.0 mm.2 P"], ..VISION },
    Projector { name: "qwen3vl_merger", ends: &["mm.0.*", "mm.2.*"], ways: &["W v.post_ln *mm.0 mm.2 P"], positions: Positions::Square, ..VISION },
    Projector { name: "ling3vl", ends: &["mm.input_norm.*", "mm.0.*", "mm.2.*"], ways: &["W mm.input_norm *mm.0 mm.2 P"], positions: Positions::Square, ..VISION },
    Projector { name: "step3vl", ends: &["mm.0.weight", "mm.1.weight", "mm.model.fc.weight"], ways: &["W mm.0 mm.1 mm.model.fc P"], positions: Positions::Square, kernels: &[("mm.0.weight", &[3, 3]), ("mm.1.weight", &[3, 3])], ..VISION },
    Projector { name: "gemma3", ends: &["mm.input_projection.weight", "mm.soft_emb_norm.weight"], ways: &["P mm.input_projection W", "W mm.soft_emb_norm"], positions: Positions::Square, swaps: true, ..VISION },
    Projector { name: "gemma3nv", ends: &["mm.input_projection.weight", "mm.soft_emb_norm.weight"], usual: false, ways: &["W mm.soft_emb_norm mm.input_projection P", "W mm.hard_emb_norm", "W @mm.embedding"], ..VISION },
    Projector { name: "gemma4v", ends: &["mm.input_projection.weight"], ways: &["W @v.position_embd", "W mm.input_projection P"], positions: Positions::Directions, ..VISION },
    Projector { name: "gemma4uv", ends: &["mm.input_projection.weight", "v.patch_embd.weight", "v.position_embd.weight", "v.patch_norm.1.*", "v.patch_norm.2.*", "v.patch_norm.3.*"], ways: &["W @v.position_embd", "v.patch_norm.1 v.patch_embd v.patch_norm.2 W", "W v.patch_norm.3 mm.input_projection P"], positions: Positions::Directions, ..VISION },
    Projector { name: "phi4", keys: &["image_min_pixels", "image_max_pixels"], ends: &["mm.0.*", "mm.2.*"], ways: &["W mm.0 mm.2 P"], positions: Positions::Square, ..VISION },
    Projector { name: "idefics3", ends: &["mm.model.fc.weight"], ways: &["W *mm.model.fc P"], positions: Positions::Square, swaps: true, ..VISION },
    Projector { name: "pixtral", ends: &["mm.1.weight", "mm.2.weight"], lacks: &["v.token_embd.img_break"], ways: &["W mm.1 mm.2 P", "W mm.input_norm *mm.patch_merger W"], ..VISION },
    Projector { name: "internvl", ends: &["mm.model.mlp.0.*", "mm.model.mlp.1.*", "mm.model.mlp.3.*"], ways: &["W *mm.model.mlp.0 mm.model.mlp.1 mm.model.mlp.3 P"], positions: Positions::Square, ..VISION },
    Projector { name: "llama4", ends: &["mm.model.fc.weight", "mm.model.mlp.1.weight", "mm.model.mlp.2.weight"], ways: &["W *mm.model.mlp.1 mm.model.mlp.2 mm.model.fc P"], positions: Positions::Square, ..VISION },
    Projector { name: "lfm2", ends: &["mm.1.*", "mm.2.*"], ways: &["W *mm.input_norm mm.1 mm.2 P", "W *mm.1"], ..VISION },
    Projector { name: "kimivl", ends: &["mm.input_norm.*", "mm.1.*", "mm.2.*"], ways: &["W mm.input_norm *mm.1 mm.2 P"], ..VISION },
    Projector { name: "paddleocr", keys: &["image_min_pixels", "image_max_pixels"], ends: &["mm.input_norm.*", "mm.1.*", "mm.2.*"], ways: &["W mm.input_norm *mm.1 mm.2 P"], ..VISION },
    Projector { name: "lightonocr", ends: &["mm.1.weight", "mm.2.weight"], ways: &["W mm.1 mm.2 P", "W mm.input_norm *mm.patch_merger W"], ..VISION },
    Projector { name: "cogvlm", ends: &["mm.model.fc.weight", "mm.post_fc_norm.*", "mm.up.weight", "mm.gate.weight", "mm.down.weight", "v.boi", "v.eoi"], ways: &["W mm.model.fc mm.post_fc_norm mm.up mm.down P", "mm.post_fc_norm mm.gate mm.down", "P !v.boi", "P !v.eoi"], positions: Positions::Square, ..VISION },
    Projector { name: "janus_pro", ends: &["mm.0.*", "mm.1.*"], ways: &["W mm.0 mm.1 P"], positions: Positions::Square, ..VISION },
    Projector { name: "dots_ocr", keys: &["projector.scale_factor", "image_min_pixels", "image_max_pixels"], ends: &["mm.0.*", "mm.2.*", "mm.input_norm.*", "mm.post_norm.weight"], ways: &["W mm.post_norm mm.input_norm *mm.0 mm.2 P"], ..VISION },
    Projector { name: "dots3note_v", keys: &["spatial_merge_size", "image_min_pixels", "image_max_pixels", "expert_used_count"], ends: &["mm.0.*", "mm.2.*", "mm.input_norm.*", "mm.post_norm.weight"], ways: &["W mm.post_norm mm.input_norm *mm.0 mm.2 P"], varies: &["ffn_", "exp_probs_b"], ..VISION },
    Projector { name: "deepseekocr", keys: &["sam.block_count", "sam.head_count", "sam.embedding_length", "window_size"], ends: &["v.sam.pos_embd.weight", "v.sam.patch_embd.*", "v.sam.neck.0.weight", "v.sam.neck.1.*", "v.sam.neck.2.weight", "v.sam.neck.3.*", "v.sam.net_2.weight", "v.sam.net_3.weight", "v.view_seperator", "mm.model.fc.*"], ways: &["S v.sam.neck.0 v.sam.neck.1 v.sam.neck.2 v.sam.neck.3 v.sam.net_2 v.sam.net_3 W", "S @v.sam.pos_embd", "v.sam.patch_embd S", "W *mm.model.fc P", "P !v.view_seperator", "P v.image_newline"], positions: Positions::Square, kernels: &[("v.sam.neck.0.", &[1, 1]), ("v.sam.neck.2.", &[3, 3]), ("v.sam.net_2.", &[3, 3]), ("v.sam.net_3.", &[3, 3])], varies: &["attn.pos_"], ..VISION },
    Projector { name: "deepseekocr2", keys: &["sam.block_count", "sam.head_count", "sam.embedding_length", "window_size", "attention.head_count_kv"], ends: &["v.sam.pos_embd.weight", "v.sam.patch_embd.*", "v.sam.neck.0.weight", "v.sam.neck.1.*", "v.sam.neck.2.weight", "v.sam.neck.3.*", "v.sam.net_2.weight", "v.sam.net_3.weight", "v.view_seperator", "mm.model.fc.*"], ways: &["S v.sam.neck.0 v.sam.neck.1 v.sam.neck.2 v.sam.neck.3 v.sam.net_2 v.sam.net_3 W", "S @v.sam.pos_embd", "v.sam.patch_embd S", "W mm.model.fc P", "W @v.resample_query_768", "W @v.resample_query_1024", "P !v.view_seperator"], kernels: &[("v.sam.neck.0.", &[1, 1]), ("v.sam.neck.2.", &[3, 3]), ("v.sam.net_2.", &[3, 3]), ("v.sam.net_3.", &[3, 3])], varies: &["attn.pos_"], ..VISION },
    Projector { name: "deepseek4v", keys: &["projector.scale_factor", "image_min_pixels"], ends: &["mm.1.*", "mm.2.*", "v.image_newline", "v.token_embd.img_start", "v.token_embd.img_end", "v.token_embd.img_pad"], ways: &["W *mm.1 mm.2 P", "v.image_newline P", "v.token_embd.img_start P", "v.token_embd.img_end P", "v.token_embd.img_pad P"], ..VISION },
    Projector { name: "glm4v", ends: &["mm.model.fc.weight", "mm.up.weight", "mm.gate.weight", "mm.down.weight", "mm.post_norm.weight", "mm.patch_merger.*"], ways: &["W mm.patch_merger mm.model.fc mm.post_norm mm.up mm.down P", "mm.post_norm mm.gate mm.down"], positions: Positions::Square, kernels: &[("mm.patch_merger.weight", &[2, 2])], ..VISION },
    Projector { name: "glm5v", keys: &["swiglu_clamp", "image_min_pixels", "image_max_pixels"], ends: &["mm.model.fc.weight", "mm.up.weight", "mm.gate.weight", "mm.down.weight", "mm.post_norm.weight", "mm.patch_merger.*"], ways: &["W mm.patch_merger mm.model.fc mm.post_norm mm.up mm.down P", "mm.post_norm mm.gate mm.down"], positions: Positions::Square, kernels: &[("mm.patch_merger.weight", &[2, 2])], ..VISION },
    Projector { name: "youtuvl", keys: &["window_size", "wa_layer_indexes"], ends: &["mm.input_norm.weight", "mm.0.*", "mm.2.*"], ways: &["W mm.input_norm *mm.0 mm.2 P"], ..VISION },
    Projector { name: "yasa2", ends: &["mm.0.weight", "mm.2.weight"], ..VISION },
    Projector { name: "kimik25", ends: &["mm.input_norm.*", "mm.1.*", "mm.2.*"], ways: &["W mm.input_norm *mm.1 mm.2 P"], ..VISION },
    Projector { name: "nemotron_v2_vl", ends: &["mm.model.mlp.0.weight", "mm.model.mlp.1.weight", "mm.model.mlp.3.weight"], ways: &["W *mm.model.mlp.0 mm.model.mlp.1 mm.model.mlp.3 P"], positions: Positions::Square, ..VISION },
    Projector { name: "exaone4_5", keys: &["image_min_pixels", "image_max_pixels", "attention.head_count_kv"], ends: &["mm.0.*", "mm.2.*"], ways: &["W v.post_ln *mm.0 mm.2 P"], swaps: true, ..VISION },
    Projector { name: "hunyuanvl", ends: &["mm.0.*", "mm.2.*", "mm.model.fc.*", "mm.pre_norm.weight", "mm.post_norm.weight", "mm.image_begin", "mm.image_end", "v.image_newline"], ways: &["W mm.pre_norm mm.0 mm.2 mm.model.fc mm.post_norm P", "mm.image_begin P", "mm.image_end P", "v.view_seperator P", "mm.2 v.image_newline"], kernels: &[("mm.0.weight", &[2, 2]), ("mm.2.weight", &[1, 1])], ..VISION },
    Projector { name: "minicpmv4_6", ends: &["mm.input_norm.weight", "mm.up.weight", "mm.down.weight"], ways: &["W v.vit_merger.attn_q v.vit_merger.attn_out W", "W v.vit_merger.attn_k", "W v.vit_merger.attn_v", "W *v.vit_merger.ds_ln v.vit_merger.ds_ffn_up v.vit_merger.ds_ffn_down W", "W v.vit_merger.ln1", "W *mm.input_norm mm.up mm.down P"], positions: Positions::Square, swaps: true, ..VISION },
    Projector { name: "mimovl", keys: &["attention.head_count_kv", "window_size", "wa_pattern_mode", "image_min_pixels", "image_max_pixels"], ends: &["mm.0.weight", "mm.2.weight"], ways: &["W v.post_ln *mm.0 mm.2 P"], varies: &["attn_sinks"], ..VISION },
    Projector { name: "minimax_m3", ends: &["mm.1.*", "mm.2.*", "mm.merger.fc1.*", "mm.merger.fc2.*"], ways: &["W mm.1 mm.2 *mm.merger.fc1 mm.merger.fc2 P"], ..VISION },
    Projector { name: "granite4_vision", keys: &["projector.spatial_offsets", "projector.query_side", "projector.window_side"], ends: &["v.image_newline"], ways: &["P v.image_newline"], positions: Positions::Square, ..VISION },
    Projector { name: "muse-glimmer", ends: &["mm.0.weight", "mm.1.weight", "mm.2.weight"], ways: &["W *mm.0 mm.1 mm.2 P"], ..VISION },
    Projector { name: "mlp_norm", swaps: true, ..VISION },
    Projector { name: "gemma3na", ways: &["W mm.a.soft_emb_norm mm.a.input_projection P", "W mm.a.hard_emb_norm", "W @mm.a.embedding", "a.conv1d.0 a.conv1d.1 *a.pre_encode.out W"], kernels: &[("a.conv1d.0.weight", &[3, 3, 1]), ("a.conv1d.1.weight", &[3, 3])], ..AUDIO },
    Projector { name: "gemma4a", ends: &["a.conv1d.0.weight", "a.conv1d.1.weight", "a.input_projection.weight"], layers: &["ffn_norm.weight", "conv_pw1.weight", "conv_dw.weight", "conv_pw2.weight", "ffn_norm_1.weight", "ffn_up_1.weight", "ffn_down_1.weight"], ways: &["a.conv1d.0 a.conv1d.0.norm a.conv1d.1 a.conv1d.1.norm *a.input_projection W", "W a.pre_encode.out mm.a.input_projection P"], kernels: &[("a.conv1d.0.weight", &[3, 3, 1]), ("a.conv1d.1.weight", &[3, 3])], ..AUDIO },
    Projector { name: "gemma4ua", ends: &["mm.a.input_projection.weight"], ways: &["W mm.a.input_projection P"], ..AUDIO },
    Projector { name: "ultravox", ends: &["a.conv1d.1.*", "a.conv1d.2.*", "mm.a.mlp.1.weight", "mm.a.mlp.2.weight", "mm.a.norm_pre.weight", "mm.a.norm_mid.weight"], ways: &["W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W *mm.a.norm_pre mm.a.mlp.1 /mm.a.norm_mid mm.a.mlp.2 P"], kernels: &[("a.conv1d.", &[3])], ..AUDIO },
    Projector { name: "qwen2a", ends: &["a.conv1d.1.*", "a.conv1d.2.*", "mm.a.fc.*"], ways: &["W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W mm.a.fc P"], kernels: &[("a.conv1d.", &[3])], ..AUDIO },
    Projector { name: "qwen2.5o", ends: &["a.conv1d.1.*", "a.conv1d.2.*", "mm.a.fc.*"], ways: &["W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W mm.a.fc P"], kernels: &[("a.conv1d.", &[3])], ..AUDIO },
    Projector { name: "qwen3a", ends: &["a.conv2d.1.*", "a.conv2d.2.*", "a.conv2d.3.*", "a.conv_out.weight", "mm.a.mlp.1.*", "mm.a.mlp.2.*"], ways: &["W @a.position_embd", "a.conv2d.1 a.conv2d.2 a.conv2d.3 *a.conv_out W", "W mm.a.mlp.1 mm.a.mlp.2 P"], kernels: &[("a.conv2d.1.weight", &[3, 3, 1]), ("a.conv2d.", &[3, 3])], ..AUDIO },
    Projector { name: "glma", ends: &["a.conv1d.1.*", "a.conv1d.2.*", "mm.a.mlp.1.*", "mm.a.mlp.2.*", "mm.a.norm_pre.*", "v.boi", "v.eoi"], ways: &["W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W mm.a.norm_pre *mm.a.mlp.1 mm.a.mlp.2 P", "P !v.boi", "P !v.eoi"], kernels: &[("a.conv1d.", &[3])], ..AUDIO },
    Projector { name: "voxtral", ends: &["a.conv1d.1.*", "a.conv1d.2.*", "mm.a.mlp.1.weight", "mm.a.mlp.2.weight"], ways: &["W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W *mm.a.mlp.1 mm.a.mlp.2 P"], kernels: &[("a.conv1d.", &[3])], ..AUDIO },
    Projector { name: "meralion", ends: &["a.conv1d.1.*", "a.conv1d.2.*", "mm.a.mlp.0.*", "mm.a.mlp.1.*", "mm.a.mlp.2.*", "mm.a.mlp.3.*", "mm.a.norm_pre.*"], ways: &["W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W mm.a.norm_pre *mm.a.mlp.0 mm.a.mlp.1 mm.a.mlp.3 P", "mm.a.mlp.0 mm.a.mlp.2 mm.a.mlp.3"], kernels: &[("a.conv1d.", &[3])], ..AUDIO },
    Projector { name: "musicflamingo", ends: &["a.conv1d.1.*", "a.conv1d.2.*", "mm.a.mlp.1.*", "mm.a.mlp.2.*"], ways: &["W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W mm.a.mlp.1 mm.a.mlp.2 P"], kernels: &[("a.conv1d.", &[3])], ..AUDIO },
    Projector { name: "dots3note_a", ends: &["a.conv2d.1.*", "a.conv2d.2.*", "a.conv2d.3.*", "a.conv_out.weight", "mm.a.norm_pre.*", "mm.a.mlp.1.*", "mm.a.mlp.3.*"], ways: &["a.conv2d.1 a.conv2d.2 a.conv2d.3 *a.conv_out W", "W mm.a.norm_pre mm.a.mlp.1 mm.a.mlp.3 P"], kernels: &[("a.conv2d.1.weight", &[3, 3, 1]), ("a.conv2d.", &[3, 3])], ..AUDIO },
    Projector { name: "lfm2a", ends: &["a.conv1d.0.*", "a.conv1d.2.*", "a.conv1d.3.*", "a.conv1d.5.*", "a.conv1d.6.*", "a.pre_encode.out.*", "mm.a.mlp.0.*", "mm.a.mlp.1.*", "mm.a.mlp.3.*"], layers: &["ffn_norm.*", "ffn_norm_1.*", "ffn_up_1.*", "ffn_down_1.*", "pos_bias_u", "pos_bias_v", "norm_conv.*", "linear_pos.weight", "conv_norm.*", "conv_dw.*", "conv_pw1.*", "conv_pw2.*"], ways: &["P @a.position_embd", "P a.position_embd_norm", "P a.embd_to_logits", "a.conv1d.0 a.conv1d.3 a.conv1d.6 *a.pre_encode.out W", "a.conv1d.2 a.conv1d.3", "a.conv1d.5 a.conv1d.6", "W mm.a.mlp.0 mm.a.mlp.1 mm.a.mlp.3 P"], kernels: &[("a.conv1d.0.weight", &[3, 3, 1]), ("a.conv1d.2.weight", &[3, 3, 1]), ("a.conv1d.3.weight", &[1, 1]), ("a.conv1d.5.weight", &[3, 3, 1]), ("a.conv1d.6.weight", &[1, 1])], ..AUDIO },
    Projector { name: "granite_speech", keys: &["chunk_size", "conv_kernel_size", "max_pos_emb", "projector.window_size", "projector.downsample_rate", "projector.head_count"], ends: &["a.input_projection.*", "a.enc_ctc_out.*", "a.enc_ctc_out_mid.*", "a.proj_query", "a.proj_norm.*", "a.proj_linear.*", "a.proj_blk.0.self_attn_q.*", "a.proj_blk.0.self_attn_k.*", "a.proj_blk.0.self_attn_v.*", "a.proj_blk.0.self_attn_out.*", "a.proj_blk.0.self_attn_norm.*", "a.proj_blk.0.cross_attn_q.*", "a.proj_blk.0.cross_attn_k.*", "a.proj_blk.0.cross_attn_v.*", "a.proj_blk.0.cross_attn_out.*", "a.proj_blk.0.cross_attn_norm.*", "a.proj_blk.0.ffn_up.*", "a.proj_blk.0.ffn_down.*", "a.proj_blk.0.ffn_norm.*"], layers: &["attn_rel_pos_emb", "ffn_norm.*", "ffn_norm_1.*", "ffn_up_1.*", "ffn_down_1.*", "norm_conv.*", "conv_dw.weight", "conv_pw1.*", "conv_pw2.*"], lacks: &["a.blk.{}.conv_norm.weight"], ways: &["a.proj_norm a.proj_blk.0.self_attn_q a.proj_blk.0.self_attn_out a.proj_norm", "a.proj_norm a.proj_blk.0.cross_attn_q a.proj_blk.0.cross_attn_out a.proj_norm", "a.proj_norm a.proj_blk.0.ffn_up a.proj_blk.0.ffn_down a.proj_norm", "a.proj_norm a.proj_blk.0.self_attn_k", "a.proj_norm a.proj_blk.0.self_attn_v", "W *a.proj_blk.0.cross_attn_k", "W *a.proj_blk.0.cross_attn_v", "a.proj_norm @a.proj_query", "M a.input_projection W", "a.proj_norm a.proj_linear P", "W a.enc_ctc_out a.enc_ctc_out_mid W"], ..AUDIO },
    Projector { name: "mimo_audio", keys: &["window_size", "wa_pattern_mode", "local_block_count", "local_group_size"], ends: &["a.conv1d.1.*", "a.conv1d.2.*", "a.downsample.conv.weight", "a.downsample.norm.*", "mm.a.local_norm.weight", "mm.a.mlp.1.weight", "mm.a.mlp.2.weight"], ways: &["W @a.rvq.codebook", "mm.a.local_norm @mm.a.code_embd", "W @a.position_embd", "M a.conv1d.1 a.conv1d.2 W", "W a.downsample.conv a.downsample.norm W", "mm.a.local_norm *mm.a.mlp.1 mm.a.mlp.2 P"], kernels: &[("a.conv1d.", &[3]), ("a.downsample.conv.", &[2])], ..AUDIO },
    Projector { name: "parakeet", keys: &["subsampling_factor", "conv_kernel_size"], ends: &["a.conv1d.0.*", "a.conv1d.2.*", "a.conv1d.3.*", "a.conv1d.5.*", "a.conv1d.6.*", "a.pre_encode.out.*", "mm.model.mlp.0.weight", "mm.model.mlp.1.weight", "mm.model.mlp.3.weight"], layers: &["linear_pos.weight", "pos_bias_u", "pos_bias_v", "conv_pw1.weight", "conv_dw.weight", "conv_norm.*", "conv_norm_mean", "conv_norm_var", "conv_pw2.weight", "ffn_norm.*", "ffn_norm_1.*", "ffn_up_1.weight", "ffn_down_1.weight", "norm_conv.*"], ways: &["a.conv1d.0 a.conv1d.3 a.conv1d.6 *a.pre_encode.out W", "a.conv1d.2 a.conv1d.3", "a.conv1d.5 a.conv1d.6", "W mm.a.norm_pre mm.a.mlp.1 mm.a.mlp.2 P"], kernels: &[("a.conv1d.0.weight", &[3, 3, 1]), ("a.conv1d.2.weight", &[3, 3, 1]), ("a.conv1d.3.weight", &[1, 1]), ("a.conv1d.5.weight", &[3, 3, 1]), ("a.conv1d.6.weight", &[1, 1])], ..AUDIO },
    Projector { name: "qwen3tts_spkenc", ends: &["a.conv1d.0.*", "a.conv_out.*", "a.asp_attn.*", "a.asp_tdnn.*", "mm.a.fc.*"], usual: false, ways: &["M a.conv1d.0 a.blk.1.conv_pw1 a.blk.1.conv_pw2 a.blk.1.se_conv1 a.blk.1.se_conv2 a.blk.2.conv_pw1 a.blk.2.conv_pw2 a.blk.2.se_conv1 a.blk.2.se_conv2 a.blk.3.conv_pw1 a.blk.3.conv_pw2 a.blk.3.se_conv1 a.blk.3.se_conv2 *a.conv_out *a.asp_tdnn a.asp_attn a.conv_out", "a.asp_attn *mm.a.fc P", "a.blk.1.res2.0 a.blk.1.res2.1 a.blk.1.res2.2 a.blk.1.res2.3 a.blk.1.res2.4 a.blk.1.res2.5 a.blk.1.res2.6", "a.blk.1.res2.6 a.blk.1.res2.5 a.blk.1.res2.4 a.blk.1.res2.3 a.blk.1.res2.2 a.blk.1.res2.1 a.blk.1.res2.0", "a.blk.2.res2.0 a.blk.2.res2.1 a.blk.2.res2.2 a.blk.2.res2.3 a.blk.2.res2.4 a.blk.2.res2.5 a.blk.2.res2.6", "a.blk.2.res2.6 a.blk.2.res2.5 a.blk.2.res2.4 a.blk.2.res2.3 a.blk.2.res2.2 a.blk.2.res2.1 a.blk.2.res2.0", "a.blk.3.res2.0 a.blk.3.res2.1 a.blk.3.res2.2 a.blk.3.res2.3 a.blk.3.res2.4 a.blk.3.res2.5 a.blk.3.res2.6", "a.blk.3.res2.6 a.blk.3.res2.5 a.blk.3.res2.4 a.blk.3.res2.3 a.blk.3.res2.2 a.blk.3.res2.1 a.blk.3.res2.0"], kernels: &[("a.conv1d.0.", &[5]), ("a.conv_out.", &[1]), ("a.asp_tdnn.", &[1]), ("a.asp_attn.", &[1]), ("mm.a.fc.", &[1]), ("a.blk.1.res2.", &[3]), ("a.blk.1.conv_pw1.", &[1]), ("a.blk.1.conv_pw2.", &[1]), ("a.blk.1.se_conv1.", &[1]), ("a.blk.1.se_conv2.", &[1]), ("a.blk.2.res2.", &[3]), ("a.blk.2.conv_pw1.", &[1]), ("a.blk.2.conv_pw2.", &[1]), ("a.blk.2.se_conv1.", &[1]), ("a.blk.2.se_conv2.", &[1]), ("a.blk.3.res2.", &[3]), ("a.blk.3.conv_pw1.", &[1]), ("a.blk.3.conv_pw2.", &[1]), ("a.blk.3.se_conv1.", &[1]), ("a.blk.3.se_conv2.", &[1])], varies: &["snake", "conv.", "res."], turned: &["a.gen.wav.dac.blk.", "a.gen.wav.up.blk."], ..AUDIO },
    Projector { name: "pockettts_spkenc", ends: &["a.seanet.conv_in.*", "a.seanet.conv_out.*", "a.downsample.conv.weight", "a.speaker_proj.weight"], ways: &["a.seanet.conv_out W", "a.downsample.conv a.speaker_proj P"], varies: &["res_conv", "scale_conv"], turned: &["a.gen.wav.seanet.blk."], ..AUDIO },
    Projector { name: "qwen3tts_gen", ends: &["a.gen.code.embd.weight", "a.gen.code.head.weight", "a.gen.code.out_embd.weight", "a.gen.code.output_norm.weight", "a.gen.wav.quant.first.in_proj.weight", "a.gen.wav.quant.first.out_proj.weight", "a.gen.wav.quant.first.codebook.weight", "a.gen.wav.quant.rest.in_proj.weight", "a.gen.wav.quant.rest.out_proj.weight", "a.gen.wav.quant.rest.codebook.weight", "a.gen.wav.pre_conv.*", "a.gen.wav.tfm.in_proj.*", "a.gen.wav.tfm.out_proj.*", "a.gen.wav.tfm.output_norm.weight", "a.gen.wav.dac.entry.*", "a.gen.wav.dac.post_snake.alpha", "a.gen.wav.dac.post_snake.beta", "a.gen.wav.dac.post_conv.*"], ..VOICE },
    Projector { name: "pockettts_gen", ends: &["a.gen.flow.input_proj.*", "a.gen.flow.cond_embd.*", "a.gen.flow.final.ada.*", "a.gen.flow.final.proj.*", "a.gen.out_eos.*", "a.gen.input_linear.weight", "a.gen.emb_mean", "a.gen.emb_std", "a.gen.wav.quant_out.weight", "a.gen.wav.upsample.weight", "a.gen.wav.seanet.conv_in.*", "a.gen.wav.seanet.conv_out.*"], usual: false, ..VOICE },
];

/// Keys of every tower.
const KEYS: &[&str] = &[
    "embedding_length",
    "attention.head_count",
    "feed_forward_length",
    "block_count",
    "projection_dim",
    "attention.layer_norm_epsilon",
];

/// Keys that a sense has beside them.
fn own_keys(sense: Sense) -> &'static [&'static str] {
    match sense {
        Sense::Vision => &["image_size", "patch_size"],
        Sense::Audio => &["num_mel_bins"],
        Sense::Voice => &[],
    }
}

/// The kinds of this name.
pub fn find(name: &str, sense: Sense) -> Option<&'static Projector> {
    KINDS.iter().find(|kind| kind.name == name && kind.sense == sense)
}

/// What is wrong with a projector file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No tower is said to be there.
    NoTower,
    /// A tower without a kind, or with one that is not known: the key, and what it says.
    Kind(String, String),
    /// A key that is not there.
    Key(String),
    /// A key whose value cannot be: the key, and what is wrong.
    Value(String, String),
    /// A tensor that is not there.
    Tensor(String),
    /// One that llama.cpp demands and its converter may leave out.
    Lacking(String),
    /// A tensor of a layer beyond the last.
    Beyond(String),
    /// A tensor that is not as wide as the tower: its name, and what is wrong.
    Shape(String, String),
    /// Two tensors whose shapes contradict each other, and what is wrong.
    Apart(String, String, String),
}

/// The most layers that are looked at.
const MOST_LAYERS: u64 = 1024;

/// The senses whose towers a file has, with the kind that it names for each.
pub fn towers<'v>(get: &dyn Fn(&str) -> Option<&'v Value>) -> Vec<(Sense, Option<&'v str>)> {
    let text = |key: &str| get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let has = |sense: &Sense| get(sense.flag()).and_then(Value::as_bool) == Some(true);
    let kind = |sense: Sense| {
        let own = text(&format!("clip.{}.projector_type", sense.name()));
        (sense, text("clip.projector_type").or(own))
    };
    SENSES.into_iter().filter(has).map(kind).collect()
}

/// Everything that is wrong with the keys and tensors of a projector file: `tensors` are names and dimensions.
pub fn faults<'v>(get: &dyn Fn(&str) -> Option<&'v Value>, tensors: &[(&str, &[u64])]) -> Vec<Fault> {
    let towers = towers(get);
    if towers.is_empty() {
        return vec![Fault::NoTower];
    }
    let mut faults = Vec::new();
    let flag = |key: &str| get(key).and_then(Value::as_bool) == Some(true);
    if flag("clip.use_gelu") && flag("clip.use_silu") {
        faults.push(Fault::Value("clip.use_silu".into(), "an activation cannot be GELU and SiLU".into()));
    }
    for (sense, name) in towers {
        let Some(name) = name else {
            faults.push(Fault::Kind(format!("clip.{}.projector_type", sense.name()), String::new()));
            continue;
        };
        match find(name, sense) {
            Some(kind) => tower(kind, get, tensors, &mut faults),
            None => {
                let own = format!("clip.{}.projector_type", sense.name());
                let key = if get(&own).is_some() { own } else { "clip.projector_type".into() };
                faults.push(Fault::Kind(key, name.into()));
            }
        }
    }
    faults
}

/// The names that a pattern of a row stands for.
fn names(pattern: &str) -> Vec<String> {
    match pattern.strip_suffix(".*") {
        Some(stem) => vec![format!("{stem}.weight"), format!("{stem}.bias")],
        None => vec![pattern.to_owned()],
    }
}

fn tower<'v>(
    kind: &Projector,
    get: &dyn Fn(&str) -> Option<&'v Value>,
    tensors: &[(&str, &[u64])],
    faults: &mut Vec<Fault>,
) {
    let full = |key: &str| format!("clip.{}.{key}", kind.sense.name());
    let number = |key: &str| get(&full(key)).and_then(Value::as_u64);
    let own = KEYS.iter().chain(own_keys(kind.sense)).chain(kind.keys);
    faults.extend(own.filter(|key| get(&full(key)).is_none()).map(|key| Fault::Key(full(key))));
    values(kind, get, faults);
    let has: std::collections::HashMap<&str, &[u64]> = tensors.iter().copied().collect();
    let mut demand = |name: String| {
        if !has.contains_key(name.as_str()) {
            faults.push(Fault::Tensor(name));
        }
    };
    kind.ends.iter().flat_map(|pattern| names(pattern)).for_each(&mut demand);
    let layers = number("block_count").unwrap_or(0).min(MOST_LAYERS);
    let stack = kind.sense.stack();
    let fused = (0..layers).any(|layer| has.contains_key(format!("{stack}{layer}.attn_qkv.weight").as_str()));
    for layer in 0..layers {
        let prefix = format!("{stack}{layer}.");
        if kind.usual {
            if fused {
                demand(format!("{prefix}attn_qkv.weight"));
            } else {
                ["q", "k", "v"].iter().for_each(|part| demand(format!("{prefix}attn_{part}.weight")));
            }
            demand(format!("{prefix}attn_out.weight"));
            if !has.contains_key(format!("{prefix}ffn_gate_exps.weight").as_str()) {
                ["up", "down"].iter().for_each(|part| demand(format!("{prefix}ffn_{part}.weight")));
            }
        }
        kind.layers.iter().flat_map(|p| names(p)).for_each(|name| demand(format!("{prefix}{name}")));
    }
    for lacking in kind.lacks {
        let name = lacking.replace("{}", "0");
        if !has.contains_key(name.as_str()) && (layers > 0 || name == *lacking) {
            faults.push(Fault::Lacking(name));
        }
    }
    for (name, _) in tensors {
        let Some((layer, _)) = name.strip_prefix(stack).and_then(|rest| rest.split_once('.')) else { continue };
        let Ok(layer) = layer.parse::<u64>() else { continue };
        if kind.usual && layer >= layers && number("block_count").is_some() {
            faults.push(Fault::Beyond((*name).to_owned()));
        }
    }
    if kind.sense != Sense::Voice {
        shapes::Shapes { kind, has: &has, number: &number, faults }.check();
    }
}

/// Keys whose values cannot be.
fn values<'v>(kind: &Projector, get: &dyn Fn(&str) -> Option<&'v Value>, faults: &mut Vec<Fault>) {
    let full = |key: &str| format!("clip.{}.{key}", kind.sense.name());
    let number = |key: &str| get(&full(key)).and_then(Value::as_u64);
    let mut wrong = |key: &str, message: String| faults.push(Fault::Value(full(key), message));
    for (key, low, high) in [
        ("image_size", 0, 8192),
        ("patch_size", 1, 65535),
        ("embedding_length", 1, u64::from(u32::MAX)),
        ("attention.head_count", 1, u64::from(u32::MAX)),
        ("projector.scale_factor", 1, 65535),
        ("spatial_merge_size", 1, 65535),
        ("window_size", 0, 4096),
    ] {
        // Towers without layers have no heads.
        let bare = key == "attention.head_count" && number("block_count") == Some(0);
        if let Some(n) = number(key).filter(|n| !(low..=high).contains(n) && !bare) {
            wrong(key, format!("{n} is not from {low} to {high}"));
        }
    }
    if let (Some(least), Some(most)) = (number("image_min_pixels"), number("image_max_pixels"))
        && most < least
    {
        wrong("image_max_pixels", format!("{most} is below the {least} of image_min_pixels"));
    }
    for key in ["image_mean", "image_std"] {
        match get(&full(key)) {
            Some(Value::Array(list)) if list.len() < 3 => {
                wrong(key, format!("{} numbers are not one for each of three channels", list.len()));
            }
            _ => {}
        }
    }
    let (width, heads) = (number("embedding_length"), number("attention.head_count"));
    if let (Some(width), Some(heads), None) = (width, heads, number("attention.head_dim"))
        && kind.usual
        && heads > 0
        && !width.is_multiple_of(heads)
    {
        wrong("attention.head_count", format!("{heads} heads do not divide a width of {width}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_unique_and_name_tensors_once() {
        for kind in KINDS {
            let same = KINDS.iter().filter(|other| other.name == kind.name && other.sense == kind.sense);
            assert_eq!(same.count(), 1, "{}", kind.name);
            let mut all: Vec<String> = kind.ends.iter().chain(kind.layers).flat_map(|p| names(p)).collect();
            let count = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count, "{}", kind.name);
        }
        assert_eq!(KINDS.len(), 65);
    }
}
