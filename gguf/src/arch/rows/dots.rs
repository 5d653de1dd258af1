//! dots.llm1 and dots Note.

use crate::arch::{
    Absorbed, Arch, Attention, BASE, Bias, Dense, Dims, Ends, Experts, Gate, Gating, IndexForm, Indexer, Item, Keys,
    Kind, Latent, Layer, Need, Norm, Over, Own, Rotary, Slot, Sparse, WindowKind, blocks, linear, optional, step,
    trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "dots1",
        keys: |k| {
            k.rms();
            k.dense_lead();
            k.need_expert_ff();
            k.d.experts_shared = k.need_u32("expert_shared_count");
            k.expert_weights();
        },
        ends: Ends::untied,
        stacks: &[trunk(dots1)],
        demand: experts_behind_lead,
        remark: "experts behind leading dense layers, norms of heads",
        ..BASE
    },
    Arch {
        name: "dots3note",
        keys: dots3_keys,
        stacks: &[blocks(dots3)],
        demand: |d| {
            if !d.is_mla() {
                return Some("keys and values are compressed".to_owned());
            }
            experts_behind_lead(d)
        },
        remark: "gated latent attention, windowed or with an indexer, and experts",
        ..BASE
    },
];

fn experts_behind_lead(d: &Dims) -> Option<String> {
    let experts = d.dense_lead >= d.layers() || d.experts > 0 && d.experts_used(0) > 0;
    (!experts).then(|| "layers behind the leading dense ones have experts".to_owned())
}

fn experts(d: &Dims, l: usize, bias: Need) -> Kind {
    Experts {
        gating: Gating::said(d, Gating::Sigmoid),
        normalize: d.expert_weights_norm,
        choice_bias: Some(bias),
        ..Experts::new(d, l, d.expert_ff(0)).shared(Dense::gated(d, d.expert_ff(0) * d.experts_shared))
    }
    .into()
}

fn dots1(d: &Dims, l: usize) -> Layer {
    let attention = Attention { rows: [d.queries(0); 4], ..Attention::uniform(d, l).head_norms(d) };
    let feed = if l < d.dense_lead { Dense::gated(d, d.ff(0)).into() } else { experts(d, l, Need::Optional) };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention.rotary(d, Rotary::Halves, l)),
        step(Norm::rms(d, "ffn_norm"), feed),
    ])
}

/// Lengths of latent attention in windowed layers.
const WINDOWED: [&str; 3] =
    ["attention.kv_lora_rank_swa", "attention.key_length_mla_swa", "attention.value_length_mla_swa"];
/// Which layers have an indexer.
const TYPES: &str = "attention.indexer.types";

fn dots3_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.norm_eps = 1e-6;
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.need_expert_ff();
    k.need_dense_lead();
    k.expert_scale();
    k.expert_norm();
    k.d.expert_gating = k.need_u32("expert_gating_func").get();
    k.d.q_rank = k.need_u32("attention.q_lora_rank");
    k.d.kv_rank = k.need_u32("attention.kv_lora_rank");
    k.d.key_len_mla = k.need_u32("attention.key_length_mla");
    k.d.value_len_mla = k.need_u32("attention.value_length_mla");
    WINDOWED.iter().for_each(|key| k.own_need_u32(key));
    k.d.window_kind = WindowKind::Sliding;
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.rope_base_windowed = k.need_f32("rope.freq_base_swa");
    k.d.windowed = k.need_array("attention.sliding_window_pattern").iter().map(|n| *n != 0).collect();
    k.indexer();
    let types = k.need_array(TYPES);
    k.keep(TYPES, Own::Counts(types));
}

/// Layers of multi-token prediction are windowed and dense, and nothing of them must be there.
fn dots3(d: &Dims, l: usize) -> Layer {
    let predicts = l >= d.layers();
    let windowed = predicts || d.windowed(l);
    let latent = Latent { gate: Gate::Head, rotated_norm: true, absorbed: Absorbed::Yes, ..Latent::new(d, l) };
    let heads = Latent { heads: d.heads(l), rot: d.rot(0), ..latent };
    let form = IndexForm::Compressed { input: d.embd, rank: d.q_rank };
    let indexer = (!predicts && d.indexes(l)).then(|| Indexer::new(d, form, Rotary::Halves));
    // A windowed layer has no use for an indexer that the loader takes.
    let mut unused = Vec::new();
    let mixer: Kind = if windowed {
        unused.extend(indexer.iter().flat_map(Indexer::items));
        let [kv_rank, key_len, value_len] = WINDOWED.map(|key| d.count(key));
        Latent {
            kv_rank,
            key_len,
            value_len,
            scale: 1.0 / (key_len.get() as f32).sqrt(),
            window: (d.window_kind, d.window),
            windowed_rope: true,
            ..heads
        }
        .into()
    } else {
        Sparse { over: Over::Latent(Box::new(heads)), indexer }.into()
    };
    let dense = predicts || l < d.dense_lead;
    let feed = if dense { Dense::gated(d, d.ff(0)).into() } else { experts(d, l, Need::Required) };
    let layer = Layer::new([step(Norm::rms(d, "attn_norm"), mixer), step(Norm::rms(d, "ffn_norm"), feed)]);
    let layer = layer.with(unused);
    if predicts {
        let mut items = layer.items();
        items.extend(linear("nextn.eh_proj", d.embd * 2, d.embd, Bias::Never));
        items.extend(["enorm", "hnorm"].map(|n| Item::from(Slot::new(format!("nextn.{n}.weight"), [d.embd]))));
        items.push(Slot::new("nextn.embed_tokens.weight", [d.embd, d.vocab]).into());
        items.push(Slot::new("nextn.shared_head_norm.weight", [d.embd]).into());
        return Layer::new([]).with(optional(items));
    }
    layer
}
