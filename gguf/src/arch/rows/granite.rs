//! Granite 3 and 4, and MiniCPM, which has their scales.

use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dim, Dims, Ends, ExpertGate, Experts, Item, Keys, Kind, Layer, Mamba2, Need,
    Norm, Other, Own, Projections, Rotary, Slot, WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "granite",
        keys: |k| {
            scales(k);
            k.array("deepstack_mapping");
            k.rotates_by_finetuned();
            k.shared_ff();
            // Granite 4 without state spaces.
            k.unused(&["ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "ssm.group_count"]);
        },
        remark: "scales of embeddings, attention, residuals and logits",
        ..GRANITE
    },
    Arch {
        name: "granitemoe",
        keys: |k| {
            scales(k);
            k.shared_ff();
        },
        remark: "the same with experts",
        ..GRANITE
    },
    Arch {
        name: "granite_swa",
        keys: swa_keys,
        stacks: &[trunk(|d, l| {
            let attention = Attention { sinks: Some(Need::Required), ..attention(d, l).global_rope() };
            let shared = Dense::gated(d, d.shared_ff).fused();
            layer(d, attention.into(), experts_or(d, l, shared, Experts::fused_or_apart))
        })],
        remark: "the same with windows and sinks",
        ..GRANITE
    },
    Arch {
        name: "granitehybrid",
        keys: hybrid_keys,
        ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2).divided(d),
        stacks: &[trunk(|d, l| {
            let mixer: Kind = if d.recurrent(l) {
                Mamba2::new(d).into()
            } else {
                Attention::new(d, l).rotary(d, Rotary::Pairs, l).bias(Bias::Optional, Bias::Optional).into()
            };
            layer(d, mixer, feed(d, l))
        })],
        demand: |d| {
            let rule = "a state space is twice as wide as the model";
            (d.ssm.inner != 2 * d.embd).then(|| rule.to_owned())
        },
        remark: "Mamba 2 in layers without key-value heads, often no positions",
        ..GRANITE
    },
    Arch {
        name: "graniteswitch",
        computed: false,
        keys: switch_keys,
        ends: |d| Ends::tied(d).divided(d),
        stacks: &[trunk(switched)],
        demand: |d| {
            let substitutes = d.counts("adapters.token_ids_substitute");
            let known = substitutes.iter().all(|&id| id < d.vocab.get());
            (!known).then(|| "an adapter's token is replaced by one beyond the vocabulary".to_owned())
        },
        remark: "low-rank adapters that tokens switch on",
        ..GRANITE
    },
    Arch {
        name: "minicpm",
        keys: |k| {
            // Without keys the loader takes 256 / width for what logits are divided by, though 256 / width is what
            // published models multiply them with.
            k.rms();
            k.d.embedding_scale = k.f32_or("embedding_scale", 12.0);
            let residual = 1.4 / (k.d.layers() as f32).sqrt();
            k.d.residual_scale = k.f32_or("residual_scale", residual);
            let logit = if k.d.embd == 0 { 1.0 } else { 256.0 / k.d.embd.get() as f32 };
            k.d.logit_scale = k.f32_or("logit_scale", logit);
        },
        remark: "Granite's scales with defaults of its own",
        ..GRANITE
    },
];

const GRANITE: Arch = Arch {
    ends: |d| Ends::tied(d).rope_factors(d).divided(d),
    stacks: &[trunk(|d, l| layer(d, attention(d, l).into(), feed(d, l)))],
    ..BASE
};

fn scales(k: &mut Keys<'_>) {
    k.rms();
    k.d.logit_scale = k.need_f32("logit_scale");
    other_scales(k);
}

fn other_scales(k: &mut Keys<'_>) {
    k.d.residual_scale = k.f32_or("residual_scale", 0.0);
    k.d.embedding_scale = k.f32_or("embedding_scale", 0.0);
    k.d.attention_scale = k.f32_or("attention.scale", 0.0);
}

fn swa_keys(k: &mut Keys<'_>) {
    scales(k);
    k.d.windowed = k.need_array("attention.sliding_window_pattern").iter().map(|n| *n != 0).collect();
    k.d.window = k.need_u32("attention.sliding_window");
    k.d.window_kind = WindowKind::Sliding;
    k.array("deepstack_mapping");
    if let Some(rotates) = k.array("attention.rope_pattern") {
        k.d.rotates = rotates.iter().map(|n| *n != 0).collect();
    }
    k.shared_ff();
}

fn hybrid_keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.logit_scale = k.f32_or("logit_scale", 0.0);
    other_scales(k);
    k.state_space(true);
    k.rotates_by_finetuned();
    k.recurrent_without_kv();
    k.shared_ff();
}

fn switch_keys(k: &mut Keys<'_>) {
    const MOST: u64 = 4096;
    scales(k);
    k.rotates_by_finetuned();
    k.shared_ff();
    let count = k.need_u32("adapters.count");
    let rank = k.need_u32("adapters.lora_rank");
    k.own_f32("adapters.router_gain");
    k.demand(count <= MOST, "adapters.count", &format!("{count} adapters; {MOST} at most"));
    k.demand(rank <= MOST, "adapters.lora_rank", &format!("rank {rank}; {MOST} at most"));
    for name in ["adapters.token_ids_activate", "adapters.token_ids_substitute"] {
        let ids = k.need_array(name);
        k.demand(count == ids.len() as u64, name, &format!("{} tokens for {count} adapters", ids.len()));
        k.keep(name, Own::Counts(ids));
    }
    // The loader has one more layer, without tensors, for the attention that chooses adapters.
    (k.d.layers_all, k.d.nextn) = (k.d.layers() + 1, 1);
    k.keep("adapters.count", Own::Count(count.get()));
    k.keep("adapters.lora_rank", Own::Count(rank.get()));
}

/// Both branches are scaled before they join.
fn layer(d: &Dims, mixer: Kind, feed: Kind) -> Layer {
    let scale = if d.residual_scale == 0.0 { 1.0 } else { d.residual_scale };
    Layer::new([step(Norm::rms(d, "attn_norm"), mixer).times(scale), step(Norm::rms(d, "ffn_norm"), feed).times(scale)])
}

fn attention(d: &Dims, l: usize) -> Attention {
    Attention::uniform(d, l).rotary(d, Rotary::Pairs, l).bias(Bias::Optional, Bias::Optional)
}

fn feed(d: &Dims, l: usize) -> Kind {
    let shared = Dense::gated(d, d.shared_ff);
    experts_or(d, l, shared, |experts| Experts { gate: ExpertGate::Optional, ..experts })
}

/// A dense network, or where there are experts, they and the shared ones.
fn experts_or(d: &Dims, l: usize, shared: Dense, stored: fn(Experts) -> Experts) -> Kind {
    if d.experts == 0 {
        return Dense::gated(d, d.ff(0)).bias(Bias::Optional).into();
    }
    let experts = stored(Experts::new(d, l, d.ff(0)));
    if d.shared_ff > 0 { experts.shared(shared).into() } else { experts.into() }
}

/// Every matrix has a stack of low-rank adapters, the first of which stands for none; which one a token takes is said by
/// the adapters' own tokens up to it.
fn switched(d: &Dims, l: usize) -> Layer {
    let (rank, slots) = (d.count("adapters.lora_rank"), d.count("adapters.count") + 1);
    let adapted = |kind: Kind, matrices: &[(&str, Dim, Dim)]| -> Kind {
        let mut items: Vec<Item> = kind.items();
        for (name, cols, rows) in matrices {
            items.push(Slot::new(format!("{name}.lora_a"), [*cols, rank, slots]).into());
            items.push(Slot::new(format!("{name}.lora_b"), [rank, *rows, slots]).into());
        }
        Other { name: "switched adapters", items }.into()
    };
    let (q, kv) = (d.queries(0), d.keys(0));
    let attention = Attention { rows: [q, kv, kv, q], bias: Bias::Never, ..Attention::uniform(d, l) };
    let attention = adapted(
        attention.stored(Projections::Fused).rotary(d, Rotary::Pairs, l).into(),
        &[("attn_q", d.embd, q), ("attn_k", d.embd, kv), ("attn_v", d.embd, kv), ("attn_output", q, d.embd)],
    );
    let len = d.ff(0);
    let feed = adapted(
        Dense::gated(d, len).into(),
        &[("ffn_gate", d.embd, len), ("ffn_up", d.embd, len), ("ffn_down", len, d.embd)],
    );
    layer(d, attention, feed)
}
