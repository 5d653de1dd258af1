//! EXAONE 3, 4 and K-EXAONE.

use super::mtp::{head_norm, joining, prediction};
use crate::arch::{
    Arch, Attention, BASE, Dense, Dim, Dims, Ends, Experts, Gating, Item, Keys, Kind, Layer, Need, Norm, Own, Rotary,
    WindowKind, blocks, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "exaone",
        ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2),
        stacks: &[trunk(exaone)],
        remark: "EXAONE 3 and 3.5: Llama's layers with halves that rotate",
        ..BASE
    },
    Arch {
        name: "exaone4",
        keys: exaone4_keys,
        ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2),
        stacks: &[blocks(exaone4)],
        remark: "norms behind the branches only; with windows, full layers do not rotate",
        ..BASE
    },
    Arch {
        name: "exaone-moe",
        keys: exaone_moe_keys,
        ends: |d| Ends::untied(d).rope_freqs(d.rot(0) / 2),
        stacks: &[blocks(exaone_moe)],
        demand: |d| {
            let experts = d.dense_lead >= d.layers() || d.experts > 0 && d.experts_used(0) > 0;
            (!experts).then(|| "layers behind the leading dense ones have experts".to_owned())
        },
        remark: "experts, windows in three of four layers, full layers do not rotate",
        ..BASE
    },
];

fn exaone(d: &Dims, l: usize) -> Layer {
    let attention = Attention::uniform(d, l).rotary(d, Rotary::Halves, l);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention), step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)))])
}

/// Layers with a window by what the model computes, which is not what the loader takes them for.
const WINDOWED: &str = "attention.sliding_window_pattern";

/// llama.cpp's loader knows windows at 64 layers only, where they need no keys. The model has them at any size where its
/// configuration says so, and then its file has the keys; evaluation follows the model, shapes the loader.
fn exaone4_keys(k: &mut Keys<'_>) {
    let known = k.d.layers() == 64;
    if known {
        k.d.window = Dim(4096);
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(4, false);
        k.windowed_rope_as_others();
        k.d.window = k.u32_or("attention.sliding_window", k.d.window);
    } else {
        k.d.window = k.u32_or("attention.sliding_window", 0);
        k.unused(&["rope.freq_base_swa"]);
    }
    let windowed: Vec<u64> = match k.array(WINDOWED) {
        _ if k.d.window == 0 => Vec::new(),
        Some(list) => list,
        None if known => k.d.windowed.iter().map(|w| u64::from(*w)).collect(),
        None => {
            let period = k.u32(WINDOWED).unwrap_or(4);
            (1..=k.d.layers() as u64).map(|n| n.checked_rem(period).unwrap_or(1)).collect()
        }
    };
    k.d.rotates = (0..k.d.layers_all).map(|l| windowed.is_empty() || windowed.get(l).is_some_and(|w| *w > 0)).collect();
    k.keep(WINDOWED, Own::Counts(windowed));
    k.rms();
}

fn exaone4(d: &Dims, l: usize) -> Layer {
    let window = if d.count_at(WINDOWED, l) > 0 { (WindowKind::Sliding, d.window) } else { (WindowKind::None, Dim(0)) };
    let mut attention = Attention { window, ..Attention::uniform(d, l).global_rope() };
    attention.rows[3] = d.embd;
    let layer = Layer::new([
        step(None, attention.rotary(d, Rotary::Halves, l).head_norms(d)).then(Norm::rms(d, "post_attention_norm")),
        step(None, Dense::gated(d, d.ff(0))).then(Norm::rms(d, "post_ffw_norm")),
    ]);
    if l < d.layers() { layer } else { layer.with(joining(d)).with([Item::from(head_norm(d).optional())]) }
}

fn exaone_moe_keys(k: &mut Keys<'_>) {
    k.d.window_kind = WindowKind::Sliding;
    k.window_pattern(4, false);
    k.windowed_rope_as_others();
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.rotates = (0..k.d.layers_all).map(|l| k.d.windowed(l)).collect();
    k.rms();
    k.d.experts_shared = k.u32_or("expert_shared_count", 0);
    k.need_expert_ff();
    k.shared_ff();
    k.d.expert_gating = k.need_u32("expert_gating_func").get();
    k.expert_scale();
    k.expert_norm();
    k.dense_lead();
}

/// Windowed layers rotate with the base of all, whatever the key for theirs says.
fn exaone_moe(d: &Dims, l: usize) -> Layer {
    let mut attention = Attention::uniform(d, l).global_rope();
    attention.rows[2] = d.keys(0);
    let feed: Kind = if l < d.dense_lead || l >= d.layers() {
        Dense::gated(d, d.ff(0)).into()
    } else {
        let shared = Dense::gated(d, d.shared_ff.or(d.expert_ff(0)));
        Experts {
            gating: Gating::said(d, Gating::Sigmoid),
            normalize: d.expert_weights_norm,
            choice_bias: Some(Need::Optional),
            ..Experts::new(d, l, d.expert_ff(0)).shared(shared)
        }
        .into()
    };
    let layer = Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l).head_norms(d)),
        step(Norm::rms(d, "ffn_norm"), feed),
    ]);
    if l < d.layers() { layer } else { layer.with(prediction(d)) }
}
