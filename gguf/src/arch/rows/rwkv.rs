//! RWKV 6 and 7, and models that were made with their mixing from Qwen 2.5.

use crate::arch::{
    Arch, BASE, Bias, ChannelMix, Dense, Dims, Ends, Keys, Kind, Layer, Need, Norm, Rwkv6, Rwkv7, bias, output, step,
    trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "rwkv6",
        keys: rwkv6_keys,
        ends: normed_ends,
        stacks: &[trunk(rwkv6)],
        remark: "no attention: a state of each head, with decays that depend on the data",
        ..RWKV
    },
    Arch {
        name: "rwkv6qwen2",
        keys: rwkv6_keys,
        // The loader takes a bias of the last norm that its graph has no use for.
        ends: |d| Ends::untied(d).with(bias("output_norm", d.embd, Bias::Optional)),
        stacks: &[trunk(rwkv6qwen2)],
        remark: "the same in place of Qwen 2.5's attention",
        ..RWKV
    },
    Arch {
        name: "rwkv7",
        keys: rwkv7_keys,
        ends: normed_ends,
        stacks: &[trunk(rwkv7)],
        remark: "no attention: a delta rule of each head",
        ..RWKV
    },
    Arch {
        name: "arwkv7",
        keys: rwkv7_keys,
        ends: Ends::untied,
        stacks: &[trunk(arwkv7)],
        remark: "the same in place of Qwen 2.5's attention",
        ..RWKV
    },
];

const RWKV: Arch = Arch { recurrent: true, ..BASE };

const RESCALE: &str = "rescale_every_n_layers";

fn keys(k: &mut Keys<'_>) {
    k.d.norm_eps = k.f32_or("attention.layer_norm_epsilon", 0.0);
    k.d.rms_eps = k.f32_or("attention.layer_norm_rms_epsilon", 0.0);
    k.d.wkv_head = k.need_u32("wkv.head_size");
    k.d.token_shift = k.u32_or("token_shift_count", 2);
}

fn rwkv6_keys(k: &mut Keys<'_>) {
    keys(k);
    k.own_need_u32("time_mix_extra_dim");
    k.own_need_u32("time_decay_extra_dim");
    k.own_u32(RESCALE);
}

const RANKS: [&str; 3] =
    ["attention.decay_lora_rank", "attention.iclr_lora_rank", "attention.value_residual_mix_lora_rank"];
const GATE_RANK: &str = "attention.gate_lora_rank";

fn rwkv7_keys(k: &mut Keys<'_>) {
    keys(k);
    RANKS.iter().for_each(|key| k.own_need_u32(key));
    k.own_u32(GATE_RANK);
}

fn normed_ends(d: &Dims) -> Ends {
    let ends = Ends::of(d, Norm::layer(d, "output_norm")).with([output(d).into()]);
    ends.embedding_norm(Norm::layer(d, "token_embd_norm"))
}

/// Epsilon of the norms of heads, whatever the keys say.
const HEAD_EPS: f32 = 64e-5;

fn time_mix6(d: &Dims, from_attention: bool) -> Rwkv6 {
    Rwkv6 {
        input: d.embd,
        head: d.wkv_head,
        kv_heads: if from_attention { d.kv_heads(0) } else { 0.into() },
        mix_rank: d.count("time_mix_extra_dim"),
        decay_rank: d.count("time_decay_extra_dim"),
        from_attention,
        eps: HEAD_EPS,
    }
}

fn mixes(d: &Dims, time: Kind, receptance: bool) -> Layer {
    let channels = ChannelMix { input: d.embd, len: d.ff(0), receptance };
    Layer::new([step(Norm::layer(d, "attn_norm"), time), step(Norm::layer(d, "attn_norm_2"), channels)])
}

fn gated(d: &Dims, time: Kind) -> Layer {
    Layer::new([step(Norm::rms(d, "attn_norm"), time), step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)))])
}

/// The stream is halved every so many layers; converters have halved the weights that write to it as often.
fn rwkv6(d: &Dims, l: usize) -> Layer {
    let halved = (l as u64 + 1).checked_rem(d.count(RESCALE).get()) == Some(0);
    let layer = mixes(d, time_mix6(d, false).into(), true);
    Layer { times: if halved { 0.5 } else { 1.0 }, ..layer }
}

fn rwkv6qwen2(d: &Dims, _: usize) -> Layer {
    gated(d, time_mix6(d, true).into())
}

/// The first layer has no first layer to mix values with: its tensors for that are of the rate's rank and not used.
fn time_mix7(d: &Dims, l: usize, need: Need) -> Rwkv7 {
    let [decay_rank, rate_rank, value_rank] = RANKS.map(|key| d.count(key));
    Rwkv7 {
        input: d.embd,
        head: d.wkv_head,
        decay_rank,
        rate_rank,
        value_rank: if l == 0 { rate_rank } else { value_rank },
        gate_rank: d.count(GATE_RANK),
        need,
        eps: HEAD_EPS,
    }
}

fn rwkv7(d: &Dims, l: usize) -> Layer {
    mixes(d, time_mix7(d, l, Need::Required).into(), false)
}

fn arwkv7(d: &Dims, l: usize) -> Layer {
    gated(d, time_mix7(d, l, Need::Optional).into())
}
