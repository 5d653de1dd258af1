//! The decoder of WavTokenizer: from tokens to the spectrum of sound.

use crate::arch::{
    Arch, BASE, Bias, Dim, Dims, Ends, Item, Keys, Layer, Norm, Other, Own, Slot, Stack, bias, linear, step,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "wavtokenizer-dec",
    computed: false,
    early,
    keys: |k| {
        k.layer_norm();
        k.d.group_eps = k.need_f32("attention.group_norm_epsilon");
        k.d.norm_groups = k.need_u32("attention.group_norm_groups");
    },
    ends,
    stacks: &[
        Stack { prefix: "posnet.", count: |d| d.count(POSNET[1]).len(), layer: posnet, norm: |_| None },
        Stack { prefix: "convnext.", count: |d| d.count(CONVNEXT[1]).len(), layer: convnext, norm: |_| None },
    ],
    demand: |d| {
        if d.count(POSNET[1]) > 6 {
            return Some("there are six layers of the position net at most".to_owned());
        }
        let same = d.count(POSNET[0]) == d.count(CONVNEXT[0]);
        (!same).then(|| "both nets are as wide".to_owned())
    },
    remark: "convolutions, no text: a vocoder",
    ..BASE
}];

const POSNET: [&str; 2] = ["posnet.embedding_length", "posnet.block_count"];
const CONVNEXT: [&str; 2] = ["convnext.embedding_length", "convnext.block_count"];

/// The length of embeddings is that of what comes out here.
fn early(k: &mut Keys<'_>) {
    k.d.embd_out = k.d.embd;
    k.d.embd = k.need_u32("features_length");
    for [width, count] in [POSNET, CONVNEXT] {
        let n = k.need_u32(width);
        k.keep(width, Own::Count(n.get()));
        let n = k.need_u32(count);
        k.demand(n <= k.d.layers_all as u64, count, "no more layers than the model has");
        k.keep(count, Own::Count(n.get()));
    }
}

fn ends(d: &Dims) -> Ends {
    let (inner, outer) = (d.count(POSNET[0]), d.count(CONVNEXT[0]));
    let mut items = conv("conv1d", [Dim(7), d.embd, inner]);
    items.extend(linear("output", outer, d.embd_out, Bias::Required));
    let norm = |name, len| Norm::layer(d, name).len(len);
    Ends::of(d, norm("output_norm", outer)).embedding_norm(norm("token_embd_norm", inner)).with(items).hidden()
}

/// A convolution and its bias, which is a column.
fn conv(name: &str, shape: [Dim; 3]) -> Vec<Item> {
    let column = Slot::new(format!("{name}.bias"), [Dim(1), shape[2]]);
    vec![Slot::new(format!("{name}.weight"), shape).into(), column.into()]
}

/// A norm of groups, whose weights are columns.
fn group_norm(name: &str, len: Dim) -> Vec<Item> {
    ["weight", "bias"].map(|part| Slot::new(format!("{name}.{part}"), [Dim(1), len]).into()).into()
}

/// Residual convolutions, attention in the third layer, a norm at the end.
fn posnet(d: &Dims, l: usize) -> Layer {
    let width = d.count(POSNET[0]);
    let (name, items) = match l {
        2 => {
            let mut items = group_norm("attn_norm", width);
            let matrices = ["attn_q", "attn_k", "attn_v", "attn_output"];
            items.extend(matrices.iter().flat_map(|n| conv(n, [Dim(1), width, width])));
            ("attention of a position net", items)
        }
        5 => ("norm of a position net", group_norm("attn_norm", width)),
        _ => {
            let part = |n: u8| {
                let mut items = group_norm(&format!("norm{n}"), width);
                items.extend(conv(&format!("conv{n}"), [Dim(3), width, width]));
                items
            };
            ("residual convolutions", [part(1), part(2)].concat())
        }
    };
    Layer::new([step(None, Other { name, items })])
}

fn convnext(d: &Dims, _: usize) -> Layer {
    let (width, len) = (d.count(CONVNEXT[0]), d.ff(0));
    let mut items = conv("dw", [Dim(7), Dim(1), width]);
    items.push(Slot::new("norm.weight", [width]).into());
    items.extend(bias("norm", width, Bias::Required));
    items.extend(linear("pw1", width, len, Bias::Required));
    items.extend(linear("pw2", len, width, Bias::Required));
    items.push(Slot::new("gamma.weight", [width]).into());
    Layer::new([step(None, Other { name: "a ConvNeXt layer", items })])
}
