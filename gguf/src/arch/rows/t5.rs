//! T5: an encoder and a decoder with biases for buckets of distances.

use crate::arch::{
    Activation, Arch, Attention, BASE, Bias, Branch, Dense, Dim, Dims, Ends, FeedGate, Keys, Kind, Layer, Norm,
    Projections, Slot, Stack, Step, output, step,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "t5",
        keys: |k| {
            keys(k);
            k.own_u32("decoder_start_token_id");
            k.d.decoder_layers = k.u32("decoder_block_count").map_or(k.d.layers(), |n| Dim(n).len());
        },
        // Tied models divide the states by the root of the width before the output; no key of a file says so.
        ends: |d| Ends::of(d, Norm::rms(d, "dec.output_norm")).with([output(d).optional().into()]),
        stacks: &[Stack { norm: |d| Some(encoder_norm(d)), ..ENCODER }, DECODER],
        remark: "encoder and decoder, relative positions, no rotation",
        ..BASE
    },
    Arch {
        name: "t5encoder",
        keys,
        ends: |d| Ends::of(d, encoder_norm(d)).with([output(d).optional().into()]).hidden(),
        stacks: &[ENCODER],
        remark: "the encoder of T5",
        ..BASE
    },
];

const ENCODER: Stack = Stack { prefix: "enc.blk.", count: Dims::layers, layer: encoder, norm: |_| None };
const DECODER: Stack = Stack { prefix: "dec.blk.", count: |d| d.decoder_layers, layer: decoder, norm: |_| None };

fn keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.relative_buckets = k.need_u32("attention.relative_buckets_count");
}

fn encoder_norm(d: &Dims) -> Norm {
    Norm::rms(d, "enc.output_norm")
}

/// Attention whose scores are not scaled. Each layer may have biases of its own; others use those of the first.
fn attention(d: &Dims, causal: bool) -> Attention {
    Attention {
        rows: [d.keys(0), d.keys(0), d.values(0), d.values(0)],
        bias: Bias::Never,
        out_name: "attn_o",
        scale: 1.0,
        buckets: d.relative_buckets,
        causal,
        ..Attention::new(d, 0).stored(Projections::Separate)
    }
}

/// A gated network with GELU, or one without gate with ReLU.
fn feed(d: &Dims) -> Step {
    let feed = Dense { gate: FeedGate::Optional, ungated: Activation::Relu, ..Dense::gated(d, d.ff(0)) };
    step(Norm::rms(d, "ffn_norm"), feed.activation(Activation::GeluTanh))
}

/// The loader takes a file without biases of distances, which nothing can run.
fn relative_bias(d: &Dims, name: &str, l: usize) -> Slot {
    let slot = Slot::new(format!("{name}.weight"), [d.heads(0), d.relative_buckets]);
    slot.needed(d.any_size && l == 0 && name == "attn_rel_b")
}

fn encoder(d: &Dims, l: usize) -> Layer {
    Layer::new([step(Norm::rms(d, "attn_norm"), attention(d, false)), feed(d)]).with([relative_bias(
        d,
        "attn_rel_b",
        l,
    )
    .into()])
}

fn decoder(d: &Dims, l: usize) -> Layer {
    let cross = Attention { buckets: Dim(0), ..attention(d, false) };
    let cross = Step::of([Branch::new(Norm::rms(d, "cross_attn_norm"), Kind::Cross(Box::new(cross)))]);
    Layer::new([step(Norm::rms(d, "attn_norm"), attention(d, true)), cross, feed(d)])
        .with([relative_bias(d, "attn_rel_b", l).into(), relative_bias(d, "cross_attn_rel_b", l).into()])
}
