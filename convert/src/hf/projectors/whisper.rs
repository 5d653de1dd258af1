//! Encoders of Whisper's form, with the projectors of several families.

use gguf::Result;

use super::qwen::audio_sizes;
use super::spelling::WHISPER;
use super::{BASE, Forced, Sense, Tower, audio, common, epsilon, r, tower};
use crate::hf::{Class, NameRule, Params};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["Qwen2AudioForConditionalGeneration"],
        towers: &[audio("qwen2_audio_encoder")],
        keys: |p| whisper(p, "qwen2a"),
        remark: "the encoder of Qwen2-Audio",
        ..ENCODER
    },
    Class {
        names: &["UltravoxModel"],
        towers: &[audio("")],
        keys: |p| {
            whisper(p, "ultravox")?;
            p.need_u32("audio.projector.stack_factor", &["stack_factor"])
        },
        remark: "the encoder of Ultravox",
        ..ENCODER
    },
    Class {
        names: &["VoxtralForConditionalGeneration"],
        towers: &[audio("voxtral_encoder")],
        keys: |p| {
            whisper(p, "voxtral")?;
            p.set("audio.projector.stack_factor", 4_u32);
            Ok(())
        },
        remark: "the encoder of Voxtral",
        ..ENCODER
    },
    Class {
        names: &["AudioFlamingo3ForConditionalGeneration"],
        towers: &[audio("audioflamingo3_encoder")],
        forced: &[("a.conv1d.{}.weight", Forced::F32)],
        keys: |p| whisper(p, "musicflamingo"),
        remark: "the encoder of Audio Flamingo 3",
        ..ENCODER
    },
    Class {
        names: &["MERaLiON2ForConditionalGeneration"],
        towers: &[Tower { path: &["speech_config"], ..audio("") }],
        unused: &["text_decoder."],
        prefixes: &[("speech_encoder.", "audio_tower.")],
        rename: |_, name| Some(name.to_owned()),
        spelling: &[WHISPER, MERALION],
        keys: |p| {
            whisper(p, "meralion")?;
            let factor = p.config().u64_or(&["speech_mlp_scale_factor"], 15)?;
            p.u32("audio.projector.stack_factor", factor)
        },
        remark: "the encoder of MERaLiON 2",
        ..ENCODER
    },
    Class {
        names: &["GlmasrModel"],
        towers: &[audio("")],
        unused: &["model.", "lm_head."],
        prefixes: &[
            ("audio_encoder.whisper.", "audio_tower."),
            ("audio_encoder.layer_norm.", "audio_encoder.adapting.layer_norm."),
            ("audio_encoder.proj.", "audio_encoder.adapting.proj."),
        ],
        rename: |_, name| (!name.starts_with("audio_encoder.adapting.proj.")).then(|| name.to_owned()),
        spelling: &[WHISPER, GLM],
        keys: |p| {
            whisper(p, "glma")?;
            p.need_u32("audio.projector.stack_factor", &["merge_factor"])
        },
        remark: "the encoder of GLM-ASR",
        ..ENCODER
    },
];

const ENCODER: Class = Class {
    prepare: audio_sizes,
    prefixes: &[("model.audio_tower.", "audio_tower."), ("model.multi_modal_projector.", "multi_modal_projector.")],
    rename: |_, name| {
        let own = name.starts_with("audio_tower.") || name.starts_with("multi_modal_projector.");
        own.then(|| name.to_owned())
    },
    spelling: &[WHISPER, PROJECTOR],
    forced: &[("a.conv1d.{}.weight", Forced::F16)],
    ..BASE
};

const PROJECTOR: &[NameRule] = &[
    r("multi_modal_projector.linear", "mm.a.fc"),
    r("multi_modal_projector.linear_{}", "mm.a.mlp.{}"),
    r("multi_modal_projector.ln_pre", "mm.a.norm_pre"),
    r("multi_modal_projector.ln_mid", "mm.a.norm_mid"),
];

const MERALION: &[NameRule] = &[
    r("ln_speech", "mm.a.norm_pre"),
    r("speech_audio_adapter.mlp_adapter.0", "mm.a.mlp.0"),
    r("speech_audio_adapter.gate_proj", "mm.a.mlp.1"),
    r("speech_audio_adapter.pool_proj", "mm.a.mlp.2"),
    r("speech_audio_adapter.out_proj", "mm.a.mlp.3"),
];

const GLM: &[NameRule] = &[
    r("audio_encoder.adapting.layer_norm", "mm.a.norm_pre"),
    r("audio_encoder.adapting.0", "mm.a.mlp.1"),
    r("audio_encoder.adapting.2", "mm.a.mlp.2"),
    r("audio_encoder.audio_bos_eos_token.weight", "v.").how(crate::hf::How::Split(|_, piece| {
        let token = |n: u64, name: &str| {
            let row = crate::transform::sliced(&piece.rows, 0, n, 1)?;
            Ok((format!("{}{name}", piece.to), crate::transform::reshaped(&row, row.shape()[1..].to_vec())?))
        };
        Ok(vec![token(0, "boi")?, token(1, "eoi")?])
    })),
];

fn whisper(p: &mut Params<'_>, kind: &str) -> Result<()> {
    common(p)?;
    p.set("projector_type", kind);
    let tower = tower(p, Sense::Audio)?;
    p.u32("audio.num_mel_bins", tower.need_u64(&["num_mel_bins"])?)?;
    epsilon(p, Sense::Audio, "layer_norm_eps", 1e-5)
}
