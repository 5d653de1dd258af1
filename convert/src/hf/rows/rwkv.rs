//! RWKV 6 and 7, and Qwen 2 with their time mixing in place of attention.

use gguf::{Error, Result};

use crate::config::Config;
use crate::hf::{BASE, Class, GATED, How, NameRule, Outputs, Params, Piece, r};
use crate::tokenizer::VocabKind;
use crate::transform::{Rows, joined, mapped, reshaped, sliced, squeezed, stacked, transposed};

pub(in crate::hf) const ROWS: &[Class] = &[
    Class {
        names: &["Rwkv6ForCausalLM"],
        arch: "rwkv6",
        vocabulary: VocabKind::Rwkv,
        spelling: &[RWKV6],
        keys: rwkv6,
        remark: "Finch; weights scaled down every few layers",
        ..BASE
    },
    Class {
        names: &["RWKV6Qwen2ForCausalLM"],
        arch: "rwkv6qwen2",
        vocabulary: VocabKind::SentencePieceOrGpt2,
        spelling: &[QWEN_ENDS, QWEN6, GATED],
        keys: qwen6,
        remark: "QRWKV6: Qwen 2 with the time mixing of RWKV 6",
        ..BASE
    },
    Class {
        names: &["Rwkv7ForCausalLM", "RWKV7ForCausalLM"],
        when: |root| root.get("wkv_has_gate").is_none_or(|gate| gate != false),
        spelling: &[RWKV7_ENDS, RWKV7, LERP, LERP_OF_GATE],
        ..RWKV_7
    },
    Class { names: &["Rwkv7ForCausalLM", "RWKV7ForCausalLM"], spelling: &[RWKV7_ENDS, RWKV7, LERP], ..RWKV_7 },
    Class {
        names: &["RwkvHybridForCausalLM"],
        when: |root| root.get("wkv_has_gate").is_none_or(|gate| gate != false),
        spelling: &[QWEN_ENDS, QWEN_NORMS, GATED, RWKV7, LERP, LERP_OF_GATE],
        ..ARWKV
    },
    Class { names: &["RwkvHybridForCausalLM"], spelling: &[QWEN_ENDS, QWEN_NORMS, GATED, RWKV7, LERP], ..ARWKV },
];

const RWKV_7: Class = Class {
    arch: "rwkv7",
    vocabulary: VocabKind::Rwkv,
    rename: names_of_all_makers,
    keys: rwkv7,
    remark: "Goose, as its makers and as the flash-linear-attention library save it",
    ..BASE
};

const ARWKV: Class = Class {
    arch: "arwkv7",
    vocabulary: VocabKind::SentencePieceOrGpt2,
    rename: names_of_all_makers,
    keys: arwkv,
    remark: "ARWKV: Qwen 2 with the time mixing of RWKV 7",
    ..BASE
};

const SQUEEZED: How = How::Change(|_, piece| squeezed(&piece.rows));
const TRANSPOSED: How = How::Change(|_, piece| transposed(&piece.rows));

/// The shares of the last token that five inputs have, one tensor in the file.
const LERP6: How = How::Join { group: "shares", make: five_shares };

const RWKV6: &[NameRule] = &[
    r("rwkv.embeddings", "token_embd"),
    r("rwkv.blocks.0.pre_ln", "token_embd_norm"),
    r("rwkv.ln_out", "output_norm"),
    r("head", "output"),
    r("rwkv.blocks.{}.ln1", "blk.{}.attn_norm"),
    r("rwkv.blocks.{}.ln2", "blk.{}.attn_norm_2"),
    r("rwkv.blocks.{}.attention.time_maa_w1", "blk.{}.time_mix_w1.weight").how(TRANSPOSED),
    r("rwkv.blocks.{}.attention.time_maa_w2", "blk.{}.time_mix_w2.weight").how(TRANSPOSED),
    r("rwkv.blocks.{}.attention.time_maa_x", "blk.{}.time_mix_lerp_x.weight").how(SQUEEZED),
    r("rwkv.blocks.{}.attention.time_maa_w", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("rwkv.blocks.{}.attention.time_maa_k", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("rwkv.blocks.{}.attention.time_maa_v", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("rwkv.blocks.{}.attention.time_maa_r", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("rwkv.blocks.{}.attention.time_maa_g", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("rwkv.blocks.{}.attention.time_faaaa", "blk.{}.time_mix_first.weight"),
    r("rwkv.blocks.{}.attention.time_decay", "blk.{}.time_mix_decay.weight").how(SQUEEZED),
    r("rwkv.blocks.{}.attention.time_decay_w1", "blk.{}.time_mix_decay_w1.weight").how(TRANSPOSED),
    r("rwkv.blocks.{}.attention.time_decay_w2", "blk.{}.time_mix_decay_w2.weight").how(TRANSPOSED),
    r("rwkv.blocks.{}.attention.key", "blk.{}.time_mix_key"),
    r("rwkv.blocks.{}.attention.value", "blk.{}.time_mix_value"),
    r("rwkv.blocks.{}.attention.receptance", "blk.{}.time_mix_receptance"),
    r("rwkv.blocks.{}.attention.gate", "blk.{}.time_mix_gate"),
    r("rwkv.blocks.{}.attention.ln_x", "blk.{}.time_mix_ln"),
    r("rwkv.blocks.{}.attention.output", "blk.{}.time_mix_output").how(How::Change(scaled_down)),
    r("rwkv.blocks.{}.feed_forward.time_maa_k", "blk.{}.channel_mix_lerp_k.weight").how(SQUEEZED),
    r("rwkv.blocks.{}.feed_forward.time_maa_r", "blk.{}.channel_mix_lerp_r.weight").how(SQUEEZED),
    r("rwkv.blocks.{}.feed_forward.key", "blk.{}.channel_mix_key"),
    r("rwkv.blocks.{}.feed_forward.receptance", "blk.{}.channel_mix_receptance"),
    r("rwkv.blocks.{}.feed_forward.value", "blk.{}.channel_mix_value").how(How::Change(scaled_down)),
];

const QWEN_ENDS: &[NameRule] =
    &[r("model.embed_tokens", "token_embd"), r("model.norm", "output_norm"), r("lm_head", "output")];

const QWEN_NORMS: &[NameRule] = &[
    r("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    r("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
];

const QWEN6: &[NameRule] = &[
    QWEN_NORMS[0],
    QWEN_NORMS[1],
    r("model.layers.{}.self_attn.time_maa_w1", "blk.{}.time_mix_w1.weight").how(How::Change(decay_first)),
    r("model.layers.{}.self_attn.time_maa_w2", "blk.{}.time_mix_w2.weight").how(How::Change(decay_first)),
    r("model.layers.{}.self_attn.time_maa_x", "blk.{}.time_mix_lerp_x.weight").how(SQUEEZED),
    r("model.layers.{}.self_attn.time_maa_w", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("model.layers.{}.self_attn.time_maa_k", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("model.layers.{}.self_attn.time_maa_v", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("model.layers.{}.self_attn.time_maa_r", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("model.layers.{}.self_attn.time_maa_g", "blk.{}.time_mix_lerp_fused.weight").how(LERP6),
    r("model.layers.{}.self_attn.time_decay", "blk.{}.time_mix_decay.weight").how(SQUEEZED),
    r("model.layers.{}.self_attn.time_decay_w1", "blk.{}.time_mix_decay_w1.weight").how(TRANSPOSED),
    r("model.layers.{}.self_attn.time_decay_w2", "blk.{}.time_mix_decay_w2.weight").how(TRANSPOSED),
    r("model.layers.{}.self_attn.k_proj", "blk.{}.time_mix_key"),
    r("model.layers.{}.self_attn.v_proj", "blk.{}.time_mix_value"),
    r("model.layers.{}.self_attn.q_proj", "blk.{}.time_mix_receptance"),
    r("model.layers.{}.self_attn.gate", "blk.{}.time_mix_gate"),
    r("model.layers.{}.self_attn.o_proj", "blk.{}.time_mix_output").how(How::Change(scaled_down)),
];

const RWKV7_ENDS: &[NameRule] = &[
    r("model.embeddings", "token_embd"),
    r("model.layers.0.pre_norm", "token_embd_norm"),
    r("model.pre_ln", "token_embd_norm"),
    r("model.norm", "output_norm"),
    r("model.ln_out", "output_norm"),
    r("lm_head", "output"),
    r("head", "output"),
    r("model.layers.{}.attention_norm", "blk.{}.attn_norm"),
    r("model.layers.{}.ln1", "blk.{}.attn_norm"),
    r("model.layers.{}.ln2", "blk.{}.attn_norm_2"),
    r("model.layers.{}.feed_forward.x_k", "blk.{}.channel_mix_lerp_k.weight").how(SQUEEZED),
    r("model.layers.{}.feed_forward.key", "blk.{}.channel_mix_key"),
    r("model.layers.{}.feed_forward.value", "blk.{}.channel_mix_value"),
];

const RWKV7: &[NameRule] = &[
    r("model.layers.{}.attention.w0", "blk.{}.time_mix_w0.weight").how(SQUEEZED),
    r("model.layers.{}.attention.w1", "blk.{}.time_mix_w1.weight").how(TRANSPOSED),
    r("model.layers.{}.attention.w2", "blk.{}.time_mix_w2.weight").how(TRANSPOSED),
    r("model.layers.{}.attention.w_lora.lora.0", "blk.{}.time_mix_w1"),
    r("model.layers.{}.attention.w_lora.lora.2", "blk.{}.time_mix_w2"),
    r("model.layers.{}.attention.a0", "blk.{}.time_mix_a0.weight").how(How::Split(squeezed_rate)),
    r("model.layers.{}.attention.a1", "blk.{}.time_mix_a1.weight").how(How::Split(transposed_rate)),
    r("model.layers.{}.attention.a2", "blk.{}.time_mix_a2.weight").how(How::Split(transposed_rate)),
    r("model.layers.{}.attention.a_lora.lora.0", "blk.{}.time_mix_a1").how(How::Split(squeezed_rate)),
    r("model.layers.{}.attention.a_lora.lora.2", "blk.{}.time_mix_a2").how(How::Split(squeezed_rate)),
    r("model.layers.{}.attention.v0", "blk.{}.time_mix_v0.weight").how(How::Split(squeezed_residual)),
    r("model.layers.{}.attention.v1", "blk.{}.time_mix_v1.weight").how(How::Split(transposed_residual)),
    r("model.layers.{}.attention.v2", "blk.{}.time_mix_v2.weight").how(How::Split(transposed_residual)),
    r("model.layers.{}.attention.v_lora.lora.0", "blk.{}.time_mix_v1").how(How::Split(squeezed_residual)),
    r("model.layers.{}.attention.v_lora.lora.2", "blk.{}.time_mix_v2").how(How::Split(squeezed_residual)),
    r("model.layers.{}.attention.g1", "blk.{}.time_mix_g1.weight").how(TRANSPOSED),
    r("model.layers.{}.attention.g2", "blk.{}.time_mix_g2.weight").how(TRANSPOSED),
    r("model.layers.{}.attention.g_lora.lora.0", "blk.{}.time_mix_g1"),
    r("model.layers.{}.attention.g_lora.lora.2", "blk.{}.time_mix_g2"),
    r("model.layers.{}.attention.k_k", "blk.{}.time_mix_k_k.weight").how(SQUEEZED),
    r("model.layers.{}.attention.k_a", "blk.{}.time_mix_k_a.weight").how(SQUEEZED),
    r("model.layers.{}.attention.r_k", "blk.{}.time_mix_r_k.weight").how(How::Change(flat)),
    r("model.layers.{}.attention.key", "blk.{}.time_mix_key"),
    r("model.layers.{}.attention.k_proj", "blk.{}.time_mix_key"),
    r("model.layers.{}.attention.value", "blk.{}.time_mix_value"),
    r("model.layers.{}.attention.v_proj", "blk.{}.time_mix_value"),
    r("model.layers.{}.attention.receptance", "blk.{}.time_mix_receptance"),
    r("model.layers.{}.attention.r_proj", "blk.{}.time_mix_receptance"),
    r("model.layers.{}.attention.output", "blk.{}.time_mix_output"),
    r("model.layers.{}.attention.o_proj", "blk.{}.time_mix_output"),
    r("model.layers.{}.attention.ln_x", "blk.{}.time_mix_ln"),
    r("model.layers.{}.attention.x_x", "blk.{}.time_mix_lerp_fused.weight").how(How::Change(shares_in_one)),
];

const LERP7: How = How::Join { group: "shares", make: all_shares };

const LERP: &[NameRule] = &[
    r("model.layers.{}.attention.x_r", "blk.{}.time_mix_lerp_fused.weight").how(LERP7),
    r("model.layers.{}.attention.x_w", "blk.{}.time_mix_lerp_fused.weight").how(LERP7),
    r("model.layers.{}.attention.x_k", "blk.{}.time_mix_lerp_fused.weight").how(LERP7),
    r("model.layers.{}.attention.x_v", "blk.{}.time_mix_lerp_fused.weight").how(LERP7),
    r("model.layers.{}.attention.x_a", "blk.{}.time_mix_lerp_fused.weight").how(LERP7),
];

/// Only models with a gate have it.
const LERP_OF_GATE: &[NameRule] = &[r("model.layers.{}.attention.x_g", "blk.{}.time_mix_lerp_fused.weight").how(LERP7)];

/// The names that all makers' names are made to, but for the low ranks, whose matrices lie the other way round.
fn names_of_all_makers(_: &Config, name: &str) -> Option<String> {
    let name = name.replace("blocks", "layers").replace("ffn", "feed_forward").replace("self_attn", "attention");
    // "attention" stands in many of the names already.
    let name = name.replace("attn", "attention").replace("time_mixer.", "").replace("feed_forward_norm", "ln2");
    Some(name.replace("g_norm", "ln_x").replace("_lora.lora.2.bias", "0"))
}

/// Halved every few layers, so that f16 does not overflow.
fn scaled_down(config: &Config, piece: &Piece) -> Result<Rows> {
    let halvings = config.u64("rescale_every").and_then(|every| piece.block.checked_div(every)).unwrap_or(0);
    if halvings == 0 || piece.suffix != ".weight" {
        return Ok(piece.rows.clone());
    }
    let divisor = 2_f32.powi(i32::try_from(halvings).unwrap_or(i32::MAX));
    Ok(mapped(&piece.rows, move |v| v / divisor))
}

fn five_shares(_: &Config, piece: &Piece, parts: Vec<Rows>) -> Result<Outputs> {
    let parts = parts.iter().map(squeezed).collect::<Result<Vec<_>>>()?;
    let whole = stacked(parts)?;
    let &[count, width] = whole.shape() else {
        return Err(Error::input(format!("its shape {:?} is not that of one share an entry", piece.rows.shape())));
    };
    Ok(vec![(piece.to.clone(), reshaped(&whole, vec![count, 1, 1, width])?)])
}

fn all_shares(_: &Config, piece: &Piece, parts: Vec<Rows>) -> Result<Outputs> {
    Ok(vec![(piece.to.clone(), stacked(parts)?)])
}

fn shares_in_one(config: &Config, piece: &Piece) -> Result<Rows> {
    let count = if config.bool("wkv_has_gate") == Some(false) { 5 } else { 6 };
    let all = piece.rows.shape().iter().product::<u64>();
    reshaped(&piece.rows, vec![count, 1, 1, all / count])
}

/// Decay, key, value, receptance and gate of QRWKV6, whose order begins with receptance and has decay as the fourth.
fn decay_first(_: &Config, piece: &Piece) -> Result<Rows> {
    let rows = transposed(&piece.rows)?;
    let part = rows.shape().first().copied().unwrap_or(0) / 5;
    joined([3, 1, 2, 0, 4].iter().map(|i| sliced(&rows, 0, i * part, part)).collect::<Result<_>>()?)
}

fn flat(_: &Config, piece: &Piece) -> Result<Rows> {
    reshaped(&piece.rows, vec![piece.rows.shape().iter().product()])
}

/// The rate of learning in context. The first layer has no residual of values, and takes these in its place.
fn rate(piece: &Piece, rows: Rows) -> Outputs {
    let name = format!("{}{}", piece.to, piece.suffix);
    let residual = (piece.block == 0).then(|| (name.replace("time_mix_a", "time_mix_v"), rows.clone()));
    residual.into_iter().chain([(name, rows)]).collect()
}

fn squeezed_rate(_: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(rate(piece, squeezed(&piece.rows)?))
}

fn transposed_rate(_: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(rate(piece, transposed(&piece.rows)?))
}

/// The residual of values, of no use in the first layer.
fn residual(piece: &Piece, rows: Rows) -> Outputs {
    if piece.block == 0 { Vec::new() } else { vec![(format!("{}{}", piece.to, piece.suffix), rows)] }
}

fn squeezed_residual(_: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(residual(piece, squeezed(&piece.rows)?))
}

fn transposed_residual(_: &Config, piece: &Piece) -> Result<Outputs> {
    Ok(residual(piece, transposed(&piece.rows)?))
}

/// What all begin with. There is no longest context.
fn beginning(p: &mut Params<'_>) -> Result<()> {
    p.u32("context_length", 1 << 20)?;
    p.need_u32("embedding_length", &["hidden_size"])?;
    p.blocks()
}

/// The length of the feed-forward.
fn feed_forward(p: &mut Params<'_>, usual: impl Fn(u64) -> u64) -> Result<()> {
    let config = p.config();
    let length = match config.u64("intermediate_size") {
        Some(length) => length,
        None => usual(config.need_u64(&["hidden_size"])?),
    };
    p.u32("feed_forward_length", length)?;
    p.file_type();
    Ok(())
}

fn rwkv6(p: &mut Params<'_>) -> Result<()> {
    beginning(p)?;
    let large = p.config().u64("hidden_size") == Some(4096);
    p.need_f32("attention.layer_norm_epsilon", &["layer_norm_epsilon"])?;
    p.need_u32("rescale_every_n_layers", &["rescale_every"])?;
    p.need_u32("wkv.head_size", &["head_size"])?;
    p.u32("time_mix_extra_dim", if large { 64 } else { 32 })?;
    p.u32("time_decay_extra_dim", if large { 128 } else { 64 })?;
    feed_forward(p, |width| (width as f64 * 3.5) as u64 / 32 * 32)?;
    p.u32("attention.head_count", 0)
}

fn qwen6(p: &mut Params<'_>) -> Result<()> {
    beginning(p)?;
    let config = p.config();
    let width = config.need_u64(&["hidden_size"])?;
    let large = width >= 4096;
    p.u32("wkv.head_size", width / config.need_u64(&["num_attention_heads"])?.max(1))?;
    p.u32("time_mix_extra_dim", config.u64("lora_rank_tokenshift").unwrap_or(if large { 64 } else { 32 }))?;
    p.u32("time_decay_extra_dim", config.u64("lora_rank_decay").unwrap_or(if large { 128 } else { 64 }))?;
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.file_type();
    p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
    p.u32("token_shift_count", 1)?;
    p.need_u32("attention.head_count_kv", &["num_key_value_heads"])?;
    p.u32("attention.head_count", 0)
}

/// The low ranks of RWKV 7: their keys, the names that two makers have for them, and by which power of the width and
/// which factor they grow where the configuration leaves them open.
const RANKS: [(&str, [&str; 2], f64, f64); 4] = [
    ("attention.decay_lora_rank", ["lora_rank_decay", "decay_low_rank_dim"], 0.5, 1.8),
    ("attention.iclr_lora_rank", ["lora_rank_iclr", "a_low_rank_dim"], 0.5, 1.8),
    ("attention.value_residual_mix_lora_rank", ["lora_rank_value_residual_mix", "v_low_rank_dim"], 0.5, 1.3),
    ("attention.gate_lora_rank", ["lora_rank_gate", "gate_low_rank_dim"], 0.8, 0.6),
];

fn rwkv7(p: &mut Params<'_>) -> Result<()> {
    beginning(p)?;
    let config = p.config();
    let width = config.need_u64(&["hidden_size"])?;
    let of_its_makers = config.has("head_size") && config.has("layer_norm_epsilon");
    let (head, epsilon) = if of_its_makers { ("head_size", "layer_norm_epsilon") } else { ("head_dim", "norm_eps") };
    p.need_f32("attention.layer_norm_epsilon", &[epsilon])?;
    p.need_u32("wkv.head_size", &[head])?;
    let maker = usize::from(!RANKS.iter().all(|(_, names, _, _)| config.has(names[0])));
    for (key, names, power, factor) in RANKS {
        let grown = ((width as f64).powf(power) * factor / 32.0).round_ties_even().max(1.0) as u64 * 32;
        p.u32(key, config.u64(names[maker]).unwrap_or(grown))?;
    }
    feed_forward(p, |width| width.saturating_mul(4))?;
    p.u32("attention.head_count", 0)
}

fn arwkv(p: &mut Params<'_>) -> Result<()> {
    let config = p.config();
    if config.u64("wkv_version") != Some(7) {
        return Err(Error::input("config.json: wkv_version is not 7, the only one that is known"));
    }
    let gate = config.bool("wkv_has_gate");
    let gate = gate.ok_or_else(|| Error::input("config.json does not say whether wkv_has_gate"))?;
    beginning(p)?;
    p.need_f32("attention.layer_norm_rms_epsilon", &["rms_norm_eps"])?;
    p.need_u32("wkv.head_size", &["head_size"])?;
    let ranks = [64, 64, 32, if gate { 128 } else { 0 }];
    for ((key, ..), rank) in RANKS.iter().zip(ranks) {
        p.u32(key, rank)?;
    }
    p.need_u32("feed_forward_length", &["intermediate_size"])?;
    p.file_type();
    p.u32("token_shift_count", 1)?;
    p.u32("attention.head_count", 0)
}
