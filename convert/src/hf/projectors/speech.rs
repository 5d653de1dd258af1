//! What models of speech hear a voice with and speak with, beside the text model: Qwen3-TTS and Pocket TTS.

use std::path::Path;

use gguf::{Error, Result};

use super::change::{QUERY_KEY_VALUE, floats, without};
use super::{BASE, Forced, Sense, Tower, audio, r, tower};
use crate::config::Config;
use crate::hf::{Class, How, NameRule, Outputs, Params, Piece};
use crate::json as document;
use crate::safetensors::{self, Stored};
use crate::transform::{self, Elements, Rows};

pub(super) const ROWS: &[Class] = &[
    Class {
        names: &["Qwen3TTSForConditionalGeneration"],
        towers: &[Tower { path: &["speaker_encoder_config"], ..audio("") }],
        prepare: |config| {
            let Some(tower) = config.section_mut("audio") else { return Ok(()) };
            tower.set("n_layers", SPEAKER_STAGES);
            Ok(())
        },
        beside: codec,
        rename: |_, name| {
            let own = ["speaker_encoder.", "talker.code_predictor."].iter().any(|part| name.starts_with(part));
            (own || name == "talker.model.codec_embedding.weight").then(|| name.to_owned())
        },
        spelling: &[SPEAKER, PREDICTOR, CODEC],
        forced: &[
            ("a.gen.wav.pre_conv.weight", Forced::F16),
            ("a.gen.wav.dac.entry.weight", Forced::F16),
            ("a.gen.wav.dac.post_conv.weight", Forced::F16),
            ("a.gen.wav.up.blk.{}.dwconv.weight", Forced::F16),
            ("a.gen.wav.up.blk.{}.conv.weight", Forced::F32),
            ("a.gen.wav.dac.blk.{}.conv.weight", Forced::F32),
            ("a.gen.wav.dac.blk.{}.res.0.conv", Forced::F16),
            ("a.gen.wav.dac.blk.{}.res.1.conv", Forced::F16),
            ("a.gen.wav.dac.blk.{}.res.2.conv", Forced::F16),
            // Its sums are beyond what F16 holds.
            ("a.gen.code.blk.{}.ffn_down.weight", Forced::F32),
        ],
        keys: qwen_keys,
        remark: "the encoder of a speaker, and what makes sound of codes, from the folder speech_tokenizer",
        ..BASE
    },
    Class {
        names: &["PocketTTSModel"],
        towers: &[audio("")],
        rename: pocket_name,
        spelling: &[POCKET],
        forced: &[
            ("a.seanet.", Forced::F16),
            ("a.gen.wav.seanet.", Forced::F16),
            ("a.downsample.conv.weight", Forced::F16),
            ("a.gen.wav.upsample.weight", Forced::F16),
        ],
        keys: pocket_keys,
        remark: "the encoder of a voice, and what makes sound of states",
        ..BASE
    },
];

/// The stages of Qwen's encoder of a speaker, the first convolution counted.
const SPEAKER_STAGES: u64 = 4;

/// The codebooks behind the first, which the text model speaks.
const CODEBOOKS: u64 = 15;

/// The blocks of the decoder of sound, which stand between its first convolution and its last activation.
const DECODER_BLOCKS: usize = 4;

/// What a layer and an activation of the decoder have.
const LAYER: [&str; 2] = ["weight", "bias"];
const PARAMETERS: [&str; 2] = ["alpha", "beta"];

const SPEAKER: &[NameRule] = &[
    r("speaker_encoder.blocks.{}.conv", "a.conv1d.{}"),
    r("speaker_encoder.blocks.{}.tdnn1.conv", "a.blk.{}.conv_pw1"),
    r("speaker_encoder.blocks.{}.tdnn2.conv", "a.blk.{}.conv_pw2"),
    r("speaker_encoder.blocks.{}.res2net_block.blocks.{x}.conv", "a.blk.{}.res2.{x}"),
    r("speaker_encoder.blocks.{}.se_block.conv1", "a.blk.{}.se_conv1"),
    r("speaker_encoder.blocks.{}.se_block.conv2", "a.blk.{}.se_conv2"),
    r("speaker_encoder.mfa.conv", "a.conv_out"),
    r("speaker_encoder.asp.conv", "a.asp_attn"),
    r("speaker_encoder.asp.tdnn.conv", "a.asp_tdnn"),
    r("speaker_encoder.fc", "mm.a.fc"),
];

const EMBEDDINGS: How = How::Stack { group: "embeddings of codes", members: |_| Ok(CODEBOOKS) };
const HEADS: How = How::Stack { group: "heads of codes", members: |_| Ok(CODEBOOKS) };

const PREDICTOR: &[NameRule] = &[
    r("talker.model.codec_embedding", "a.gen.code.out_embd"),
    r("talker.code_predictor.model.codec_embedding.{x}", "a.gen.code.embd").how(EMBEDDINGS),
    r("talker.code_predictor.lm_head.{x}", "a.gen.code.head").how(HEADS),
    r("talker.code_predictor.model.norm", "a.gen.code.output_norm"),
    r("talker.code_predictor.small_to_mtp_projection", "a.gen.code.proj_in"),
    r("talker.code_predictor.model.layers.{}.input_layernorm", "a.gen.code.blk.{}.ln1"),
    r("talker.code_predictor.model.layers.{}.self_attn.q_proj", "a.gen.code.blk.{}.attn_q"),
    r("talker.code_predictor.model.layers.{}.self_attn.q_norm", "a.gen.code.blk.{}.attn_q_norm"),
    r("talker.code_predictor.model.layers.{}.self_attn.k_proj", "a.gen.code.blk.{}.attn_k"),
    r("talker.code_predictor.model.layers.{}.self_attn.k_norm", "a.gen.code.blk.{}.attn_k_norm"),
    r("talker.code_predictor.model.layers.{}.self_attn.v_proj", "a.gen.code.blk.{}.attn_v"),
    r("talker.code_predictor.model.layers.{}.self_attn.o_proj", "a.gen.code.blk.{}.attn_out"),
    r("talker.code_predictor.model.layers.{}.post_attention_layernorm", "a.gen.code.blk.{}.ln2"),
    r("talker.code_predictor.model.layers.{}.mlp.gate_proj", "a.gen.code.blk.{}.ffn_gate"),
    r("talker.code_predictor.model.layers.{}.mlp.up_proj", "a.gen.code.blk.{}.ffn_up"),
    r("talker.code_predictor.model.layers.{}.mlp.down_proj", "a.gen.code.blk.{}.ffn_down"),
];

/// A kernel over one step loses its last dimension.
const POINT: How = How::Change(|_, piece| without(piece, 2));

/// The blocks of the decoder count from 1, their residual units from 2.
const RENUMBERED: How = How::Split(|_, piece| Ok(vec![(renumbered(piece)? + &piece.suffix, piece.rows.clone())]));

const SNAKE: How = How::Join { group: "snake", make: |_, piece, parts| snake(renumbered(piece)?, &parts) };
const FIRST_SNAKE: How = How::Join { group: "first snake", make: |_, piece, parts| snake(renumbered(piece)?, &parts) };
const SECOND_SNAKE: How =
    How::Join { group: "second snake", make: |_, piece, parts| snake(renumbered(piece)?, &parts) };
const LAST_SNAKE: How = How::Join { group: "last snake", make: |_, piece, parts| snake(piece.to.clone(), &parts) };

const FIRST_BOOK: How = How::Join { group: "first codebook", make: |_, piece, parts| codebooks(piece, &parts, false) };
const BOOKS: How = How::JoinAll {
    group: "codebooks",
    members: |_| Ok(CODEBOOKS),
    make: |_, piece, parts| codebooks(piece, &parts, true),
};

const CODEC: &[NameRule] = &[
    r("decoder.quantizer.rvq_first.input_proj", "a.gen.wav.quant.first.in_proj").how(POINT),
    r("decoder.quantizer.rvq_first.output_proj", "a.gen.wav.quant.first.out_proj").how(POINT),
    r("decoder.quantizer.rvq_first.vq.layers.0._codebook.embedding_sum", "a.gen.wav.quant.first.codebook")
        .how(FIRST_BOOK),
    r("decoder.quantizer.rvq_first.vq.layers.0._codebook.cluster_usage", "a.gen.wav.quant.first.codebook")
        .how(FIRST_BOOK),
    r("decoder.quantizer.rvq_rest.input_proj", "a.gen.wav.quant.rest.in_proj").how(POINT),
    r("decoder.quantizer.rvq_rest.output_proj", "a.gen.wav.quant.rest.out_proj").how(POINT),
    r("decoder.quantizer.rvq_rest.vq.layers.{x}._codebook.embedding_sum", "a.gen.wav.quant.rest.codebook").how(BOOKS),
    r("decoder.quantizer.rvq_rest.vq.layers.{x}._codebook.cluster_usage", "a.gen.wav.quant.rest.codebook").how(BOOKS),
    r("decoder.pre_conv.conv", "a.gen.wav.pre_conv"),
    r("decoder.pre_transformer.input_proj", "a.gen.wav.tfm.in_proj"),
    r("decoder.pre_transformer.output_proj", "a.gen.wav.tfm.out_proj"),
    r("decoder.pre_transformer.norm", "a.gen.wav.tfm.output_norm"),
    r("decoder.pre_transformer.layers.{}.input_layernorm", "a.gen.wav.tfm.blk.{}.ln1"),
    r("decoder.pre_transformer.layers.{}.self_attn.q_proj", "a.gen.wav.tfm.blk.{}.attn_q"),
    r("decoder.pre_transformer.layers.{}.self_attn.k_proj", "a.gen.wav.tfm.blk.{}.attn_k"),
    r("decoder.pre_transformer.layers.{}.self_attn.v_proj", "a.gen.wav.tfm.blk.{}.attn_v"),
    r("decoder.pre_transformer.layers.{}.self_attn.o_proj", "a.gen.wav.tfm.blk.{}.attn_out"),
    r("decoder.pre_transformer.layers.{}.self_attn_layer_scale.scale", "a.gen.wav.tfm.blk.{}.ls1.weight"),
    r("decoder.pre_transformer.layers.{}.post_attention_layernorm", "a.gen.wav.tfm.blk.{}.ln2"),
    r("decoder.pre_transformer.layers.{}.mlp.gate_proj", "a.gen.wav.tfm.blk.{}.ffn_gate"),
    r("decoder.pre_transformer.layers.{}.mlp.up_proj", "a.gen.wav.tfm.blk.{}.ffn_up"),
    r("decoder.pre_transformer.layers.{}.mlp.down_proj", "a.gen.wav.tfm.blk.{}.ffn_down"),
    r("decoder.pre_transformer.layers.{}.mlp_layer_scale.scale", "a.gen.wav.tfm.blk.{}.ls2.weight"),
    r("decoder.upsample.{}.0.conv", "a.gen.wav.up.blk.{}.conv"),
    r("decoder.upsample.{}.1.dwconv.conv", "a.gen.wav.up.blk.{}.dwconv"),
    r("decoder.upsample.{}.1.norm", "a.gen.wav.up.blk.{}.norm"),
    r("decoder.upsample.{}.1.pwconv1", "a.gen.wav.up.blk.{}.pw1"),
    r("decoder.upsample.{}.1.pwconv2", "a.gen.wav.up.blk.{}.pw2"),
    r("decoder.upsample.{}.1.gamma", "a.gen.wav.up.blk.{}.gamma"),
    r("decoder.decoder.0.conv", "a.gen.wav.dac.entry"),
    r("decoder.decoder.{}.block.0.alpha", "a.gen.wav.dac.blk.{}.snake").how(SNAKE),
    r("decoder.decoder.{}.block.0.beta", "a.gen.wav.dac.blk.{}.snake").how(SNAKE),
    r("decoder.decoder.{}.block.1.conv", "a.gen.wav.dac.blk.{}.conv").how(RENUMBERED),
    r("decoder.decoder.{}.block.{x}.act1.alpha", "a.gen.wav.dac.blk.{}.res.{x}.act1").how(FIRST_SNAKE),
    r("decoder.decoder.{}.block.{x}.act1.beta", "a.gen.wav.dac.blk.{}.res.{x}.act1").how(FIRST_SNAKE),
    r("decoder.decoder.{}.block.{x}.conv1.conv", "a.gen.wav.dac.blk.{}.res.{x}.conv1").how(RENUMBERED),
    r("decoder.decoder.{}.block.{x}.act2.alpha", "a.gen.wav.dac.blk.{}.res.{x}.act2").how(SECOND_SNAKE),
    r("decoder.decoder.{}.block.{x}.act2.beta", "a.gen.wav.dac.blk.{}.res.{x}.act2").how(SECOND_SNAKE),
    r("decoder.decoder.{}.block.{x}.conv2.conv", "a.gen.wav.dac.blk.{}.res.{x}.conv2").how(RENUMBERED),
    r("decoder.decoder.5.alpha", "a.gen.wav.dac.post_snake").how(LAST_SNAKE),
    r("decoder.decoder.5.beta", "a.gen.wav.dac.post_snake").how(LAST_SNAKE),
    r("decoder.decoder.6.conv", "a.gen.wav.dac.post_conv"),
];

/// The target of a tensor of the decoder, by the numbers of the file.
fn renumbered(piece: &Piece) -> Result<String> {
    let mut parts: Vec<String> = piece.to.split('.').map(str::to_owned).collect();
    for i in 1..parts.len() {
        let first: u64 = match parts[i - 1].as_str() {
            "blk" => 1,
            "res" => 2,
            _ => continue,
        };
        let number = parts[i].parse::<u64>().ok().and_then(|number| number.checked_sub(first));
        let number = number.ok_or_else(|| Error::input(format!("its block or unit is before number {first}")))?;
        parts[i] = number.to_string();
    }
    Ok(parts.join("."))
}

/// Rounds a step of arithmetic to the type of the tensors.
fn rounded(elements: Elements) -> fn(f32) -> f32 {
    match elements {
        Elements::BF16 => |v| half::bf16::from_f32(v).to_f32(),
        Elements::F16 => |v| half::f16::from_f32(v).to_f32(),
        _ => |v| v,
    }
}

/// The activation's two parameters, taken out of their logarithms; the second is divided by.
fn snake(to: String, parts: &[Rows]) -> Result<Outputs> {
    let [alpha, beta] = parts else { return Err(Error::input("the activation has two parameters")) };
    let (round, of) = (rounded(alpha.elements()), rounded(beta.elements()));
    let exp = |v: &f32| transform::exp(*v);
    let a: Vec<f32> = floats(alpha)?.iter().map(|v| round(exp(v))).collect();
    let b: Vec<f32> = floats(beta)?.iter().map(|v| of(1.0 / of(of(exp(v)) + 1e-9))).collect();
    let made = |name: &str, of: &Rows, values: &[f32]| {
        (format!("{to}.{name}"), transform::values(of.shape().to_vec(), values))
    };
    Ok(vec![made("alpha", alpha, &a), made("beta", beta, &b)])
}

/// The centres of clusters: sums over how often each was taken. `parts` are all sums, then all counts.
fn codebooks(piece: &Piece, parts: &[Rows], stacked: bool) -> Result<Outputs> {
    let (sums, counts) = parts.split_at(parts.len() / 2);
    let mut books = Vec::new();
    for (sum, count) in sums.iter().zip(counts) {
        let (&[rows, width], &[of]) = (sum.shape(), count.shape()) else {
            return Err(Error::input("a codebook is a matrix, and its counts are a vector"));
        };
        if rows != of || width == 0 {
            return Err(Error::input(format!("{of} counts are not one for each of {rows} codes")));
        }
        let (round, of) = (rounded(sum.elements()), rounded(count.elements()));
        let counts: Vec<f32> = floats(count)?.iter().map(|n| of(n.max(1e-5))).collect();
        let book: Vec<f32> = floats(sum)?
            .chunks_exact(width as usize)
            .zip(&counts)
            .flat_map(|(row, n)| row.iter().map(move |v| round(v / n)))
            .collect();
        books.push(transform::values(vec![rows, width], &book));
    }
    let whole = if stacked { transform::stacked(books)? } else { books.swap_remove(0) };
    Ok(vec![(format!("{}.weight", piece.to), whole)])
}

/// The tensors of the folder speech_tokenizer that make sound of codes, in the order of the file.
fn codec(_: &Config, folder: &Path) -> Result<Vec<Stored>> {
    let (weights, described) =
        (folder.join("speech_tokenizer/model.safetensors"), folder.join("speech_tokenizer/config.json"));
    let config = document::read(&described)?;
    let config = &config["decoder_config"];
    let wrong = |what: &str| Error::input(format!("decoder_config has no {what}")).at(&described);
    let count = |name: &str| config[name].as_array().map(Vec::len).ok_or_else(|| wrong(name));
    let layers = config["num_hidden_layers"].as_u64().ok_or_else(|| wrong("num_hidden_layers"))?;
    if count("upsample_rates")? != DECODER_BLOCKS {
        let what = format!("decoder_config.upsample_rates are not {DECODER_BLOCKS}, as readers of the file have it");
        return Err(Error::input(what).at(&described));
    }
    let mut stored: std::collections::HashMap<String, Stored> =
        safetensors::open_file(&weights)?.into_iter().map(|t| (t.name().to_owned(), t)).collect();
    let mut out = Vec::new();
    let mut take = |name: String| match stored.remove(&name) {
        Some(tensor) => {
            out.push(tensor);
            Ok(())
        }
        None => Err(Error::input(format!("tensor {name} is missing")).at(&weights).help("is the folder complete?")),
    };
    for (part, books) in [("first", 1), ("rest", CODEBOOKS)] {
        take(format!("decoder.quantizer.rvq_{part}.input_proj.weight"))?;
        take(format!("decoder.quantizer.rvq_{part}.output_proj.weight"))?;
        for book in 0..books {
            for what in ["embedding_sum", "cluster_usage"] {
                take(format!("decoder.quantizer.rvq_{part}.vq.layers.{book}._codebook.{what}"))?;
            }
        }
    }
    for name in ["pre_conv.conv", "pre_transformer.input_proj", "pre_transformer.output_proj"] {
        take(format!("decoder.{name}.weight"))?;
        take(format!("decoder.{name}.bias"))?;
    }
    take("decoder.pre_transformer.norm.weight".into())?;
    for layer in 0..layers {
        for name in [
            "input_layernorm.weight",
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "self_attn.o_proj.weight",
            "self_attn_layer_scale.scale",
            "post_attention_layernorm.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
            "mlp.down_proj.weight",
            "mlp_layer_scale.scale",
        ] {
            take(format!("decoder.pre_transformer.layers.{layer}.{name}"))?;
        }
    }
    for step in 0..count("upsampling_ratios")? {
        for name in ["0.conv", "1.dwconv.conv", "1.norm", "1.pwconv1", "1.pwconv2"] {
            take(format!("decoder.upsample.{step}.{name}.weight"))?;
            take(format!("decoder.upsample.{step}.{name}.bias"))?;
        }
        take(format!("decoder.upsample.{step}.1.gamma"))?;
    }
    let mut both =
        |name: &str, parts: [&str; 2]| parts.iter().try_for_each(|part| take(format!("decoder.{name}.{part}")));
    both("decoder.0.conv", LAYER)?;
    for block in 1..=DECODER_BLOCKS {
        both(&format!("decoder.{block}.block.0"), PARAMETERS)?;
        both(&format!("decoder.{block}.block.1.conv"), LAYER)?;
        for unit in 2..5 {
            for (name, parts) in
                [("act1", PARAMETERS), ("conv1.conv", LAYER), ("act2", PARAMETERS), ("conv2.conv", LAYER)]
            {
                both(&format!("decoder.{block}.block.{unit}.{name}"), parts)?;
            }
        }
    }
    both("decoder.5", PARAMETERS)?;
    both("decoder.6.conv", LAYER)?;
    Ok(out)
}

fn qwen_keys(p: &mut Params<'_>) -> Result<()> {
    p.file_type();
    let part = |name: &[&str]| {
        let found = name.iter().try_fold(p.config().get("talker_config"), |found, key| Some(found?.get(key)));
        found.flatten().cloned()
    };
    let width = part(&["hidden_size"]).and_then(|v| v.as_u64());
    let width = width.ok_or_else(|| Error::input("config.json: talker_config has no hidden_size"))?;
    let predictor = part(&["code_predictor_config"]).and_then(|v| v.as_object().cloned());
    let predictor = predictor.ok_or_else(|| Error::input("config.json: talker_config has no code_predictor_config"))?;
    let predictor = Config::of(predictor, "config.json: talker_config.code_predictor_config");
    p.set("has_audio_encoder", true);
    p.set("audio.projector_type", "qwen3tts_spkenc");
    p.u32("audio.projection_dim", width)?;
    // The encoder has neither attention nor feed-forward; readers want to know of some.
    for (key, value) in [
        ("num_mel_bins", 128_u32),
        ("block_count", 3),
        ("embedding_length", 1536),
        ("attention.head_count", 1),
        ("feed_forward_length", 1536),
    ] {
        p.set(&format!("audio.{key}"), value);
    }
    p.f32("audio.attention.layer_norm_epsilon", 1e-5);
    p.set("has_gen_audio_encoder", true);
    p.set("gen.audio.projector_type", "qwen3tts_gen");
    p.u32("gen.audio.projection_dim", width)?;
    for (key, name) in [
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("block_count", "num_hidden_layers"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        p.u32(&format!("gen.audio.{key}"), predictor.need_u64(&[name])?)?;
    }
    p.f32("gen.audio.attention.layer_norm_epsilon", predictor.need_f64(&["rms_norm_eps"])?);
    Ok(())
}

fn pocket_keys(p: &mut Params<'_>) -> Result<()> {
    p.file_type();
    let (tower, width) = (tower(p, Sense::Audio)?, p.config().need_u64(&["hidden_size"])?);
    p.set("has_audio_encoder", true);
    p.set("audio.projector_type", "pockettts_spkenc");
    p.u32("audio.projection_dim", width)?;
    let sizes = [
        ("block_count", tower.need_u64(&["num_hidden_layers"])?),
        ("embedding_length", tower.need_u64(&["hidden_size"])?),
        ("feed_forward_length", tower.need_u64(&["intermediate_size"])?),
        ("attention.head_count", tower.need_u64(&["num_attention_heads"])?),
    ];
    for (key, value) in sizes {
        p.u32(&format!("audio.{key}"), value)?;
    }
    p.f32("audio.attention.layer_norm_epsilon", 1e-5);
    // The waveform itself is what comes in.
    p.set("audio.num_mel_bins", 1_u32);
    p.set("has_gen_audio_encoder", true);
    p.set("gen.audio.projector_type", "pockettts_gen");
    p.u32("gen.audio.projection_dim", width)?;
    let [blocks, width, wide, heads] = sizes;
    for (key, value) in [width, wide, blocks, heads] {
        p.u32(&format!("gen.audio.{key}"), value)?;
    }
    p.f32("gen.audio.attention.layer_norm_epsilon", 1e-5);
    // Readers know the variants by the names of their folders.
    let folder = p.folder().canonicalize().unwrap_or_else(|_| p.folder().to_path_buf());
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    p.set("gen.audio.model_variant", name);
    Ok(())
}

/// The stages of the encoder and the decoder of sound.
const STAGES: u64 = 3;

/// The name under which [`POCKET`] knows a tensor; nothing for those of the text model, and of no use.
fn pocket_name(_: &Config, name: &str) -> Option<String> {
    if let Some((side, rest)) = ["encoder", "decoder"]
        .iter()
        .find_map(|side| Some((*side, name.strip_prefix("mimi.")?.strip_prefix(side)?.strip_prefix(".model.")?)))
    {
        let (number, rest) = rest.split_once('.')?;
        let (number, suffix) = (number.parse::<u64>().ok()?, rest.rsplit('.').next()?);
        // Of three modules that a stage has, one is an activation.
        let (resampling, residual) = if side == "encoder" { (3, 1) } else { (2, 3) };
        let stage = |first: u64| {
            let stage = number.checked_sub(first)?;
            (stage.is_multiple_of(3) && stage / 3 < STAGES).then_some(stage / 3)
        };
        let part = if number == 0 {
            "conv_in".to_owned()
        } else if number == 3 * STAGES + 2 {
            "conv_out".to_owned()
        } else if let Some(stage) = stage(resampling) {
            format!("blk.{stage}.scale_conv")
        } else {
            let unit = rest.split_once("block.")?.1.split('.').next()?;
            format!("blk.{}.res_conv{}", stage(residual)?, if unit == "1" { 1 } else { 2 })
        };
        return Some(format!("{side}.{part}.{suffix}"));
    }
    const TEXT: &[&str] = &["transformer.", "out_norm.", "conditioner.", "bos_"];
    const SOUND: &[&str] = &[
        "downsample.conv.conv.",
        "upsample.convtr.convtr.",
        "quantizer.output_proj.",
        "encoder_transformer.transformer.layers.",
        "decoder_transformer.transformer.layers.",
    ];
    let begins = |rest: &str, parts: &[&str]| parts.iter().any(|part| rest.starts_with(part));
    let own = match name.strip_prefix("flow_lm.") {
        Some(rest) => !begins(rest, TEXT),
        None => begins(name.strip_prefix("mimi.")?, SOUND),
    };
    own.then(|| name.to_owned())
}

const POCKET: &[NameRule] = &[
    r("encoder.conv_in", "a.seanet.conv_in"),
    r("encoder.conv_out", "a.seanet.conv_out"),
    r("encoder.blk.{}.res_conv1", "a.seanet.blk.{}.res_conv1"),
    r("encoder.blk.{}.res_conv2", "a.seanet.blk.{}.res_conv2"),
    r("encoder.blk.{}.scale_conv", "a.seanet.blk.{}.scale_conv"),
    r("decoder.conv_in", "a.gen.wav.seanet.conv_in"),
    r("decoder.conv_out", "a.gen.wav.seanet.conv_out"),
    r("decoder.blk.{}.res_conv1", "a.gen.wav.seanet.blk.{}.res_conv1"),
    r("decoder.blk.{}.res_conv2", "a.gen.wav.seanet.blk.{}.res_conv2"),
    r("decoder.blk.{}.scale_conv", "a.gen.wav.seanet.blk.{}.scale_conv"),
    r("mimi.downsample.conv.conv", "a.downsample.conv"),
    r("mimi.upsample.convtr.convtr", "a.gen.wav.upsample"),
    r("mimi.quantizer.output_proj", "a.gen.wav.quant_out").how(POINT),
    r("mimi.encoder_transformer.transformer.layers.{}.norm1", "a.blk.{}.ln1"),
    r("mimi.encoder_transformer.transformer.layers.{}.norm2", "a.blk.{}.ln2"),
    r("mimi.encoder_transformer.transformer.layers.{}.self_attn.in_proj", "a.blk.{}.attn_").how(QUERY_KEY_VALUE),
    r("mimi.encoder_transformer.transformer.layers.{}.self_attn.out_proj", "a.blk.{}.attn_out"),
    r("mimi.encoder_transformer.transformer.layers.{}.linear1", "a.blk.{}.ffn_up"),
    r("mimi.encoder_transformer.transformer.layers.{}.linear2", "a.blk.{}.ffn_down"),
    r("mimi.encoder_transformer.transformer.layers.{}.layer_scale_1.scale", "a.blk.{}.ls1.weight"),
    r("mimi.encoder_transformer.transformer.layers.{}.layer_scale_2.scale", "a.blk.{}.ls2.weight"),
    r("mimi.decoder_transformer.transformer.layers.{}.norm1", "a.gen.wav.tfm.blk.{}.ln1"),
    r("mimi.decoder_transformer.transformer.layers.{}.norm2", "a.gen.wav.tfm.blk.{}.ln2"),
    r("mimi.decoder_transformer.transformer.layers.{}.self_attn.in_proj", "a.gen.wav.tfm.blk.{}.attn_")
        .how(QUERY_KEY_VALUE),
    r("mimi.decoder_transformer.transformer.layers.{}.self_attn.out_proj", "a.gen.wav.tfm.blk.{}.attn_out"),
    r("mimi.decoder_transformer.transformer.layers.{}.linear1", "a.gen.wav.tfm.blk.{}.ffn_up"),
    r("mimi.decoder_transformer.transformer.layers.{}.linear2", "a.gen.wav.tfm.blk.{}.ffn_down"),
    r("mimi.decoder_transformer.transformer.layers.{}.layer_scale_1.scale", "a.gen.wav.tfm.blk.{}.ls1.weight"),
    r("mimi.decoder_transformer.transformer.layers.{}.layer_scale_2.scale", "a.gen.wav.tfm.blk.{}.ls2.weight"),
    r("flow_lm.speaker_proj_weight", "a.speaker_proj.weight"),
    r("flow_lm.input_linear", "a.gen.input_linear"),
    r("flow_lm.emb_mean", "a.gen.emb_mean"),
    r("flow_lm.emb_std", "a.gen.emb_std"),
    r("flow_lm.out_eos", "a.gen.out_eos"),
    r("flow_lm.flow_net.input_proj", "a.gen.flow.input_proj"),
    r("flow_lm.flow_net.cond_embed", "a.gen.flow.cond_embd"),
    r("flow_lm.flow_net.final_layer.linear", "a.gen.flow.final.proj"),
    r("flow_lm.flow_net.final_layer.adaLN_modulation.1", "a.gen.flow.final.ada"),
    r("flow_lm.flow_net.time_embed.{}.freqs", "a.gen.flow.time.{}.freqs"),
    r("flow_lm.flow_net.time_embed.{}.mlp.0", "a.gen.flow.time.{}.up"),
    r("flow_lm.flow_net.time_embed.{}.mlp.2", "a.gen.flow.time.{}.down"),
    r("flow_lm.flow_net.time_embed.{}.mlp.3.alpha", "a.gen.flow.time.{}.norm"),
    r("flow_lm.flow_net.res_blocks.{}.in_ln", "a.gen.flow.blk.{}.norm"),
    r("flow_lm.flow_net.res_blocks.{}.mlp.0", "a.gen.flow.blk.{}.up"),
    r("flow_lm.flow_net.res_blocks.{}.mlp.2", "a.gen.flow.blk.{}.down"),
    r("flow_lm.flow_net.res_blocks.{}.adaLN_modulation.1", "a.gen.flow.blk.{}.ada"),
];
