//! Gemma 1 to 4.

use crate::arch::{
    Activation, AltUp, AltUpEnds, Arch, Attention, BASE, Bias, Branch, Dense, Dim, Dims, Ends, Experts, Item, Keys,
    Kind, Laurel, Layer, Norm, NormKind, Other, Own, PerLayer, PerLayerInputs, Reads, Rotary, RouterInput, Slot, Stack,
    Step, WindowKind, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "gemma",
        keys: |k| {
            k.rms();
            scale_embeddings(k);
        },
        ends: Ends::embedding_only,
        stacks: &[trunk(|d, l| super::rms_layer(d, attention(d, l), feed(d, d.ff(0))))],
        remark: "embeddings times the root of their length; GELU gates",
        ..BASE
    },
    Arch {
        name: "gemma2",
        keys: gemma2_keys,
        ends: Ends::embedding_only,
        stacks: &[trunk(|d, l| between_norms(d, attention(d, l), feed(d, d.ff(0))))],
        remark: "norms before and behind; capped scores and logits; windows in every second layer",
        ..BASE
    },
    Arch {
        name: "gemma3",
        keys: gemma3_keys,
        ends: |d| Ends::tied(d).dense_after_pooling(d),
        remark: "norms of heads; windows in five of six layers, which rotate with a base of their own",
        ..GEMMA3
    },
    Arch {
        name: "gemma-embedding",
        keys: embedding_keys,
        ends: |d| Ends::tied(d).dense_after_pooling(d).hidden(),
        remark: "Gemma 3 in both directions, with dense layers behind the pooling",
        ..GEMMA3
    },
    Arch {
        name: "gemma3n",
        keys: gemma3n_keys,
        ends: gemma3n_ends,
        stacks: &[trunk(gemma3n)],
        remark: "four streams, residuals of low rank, inputs for each layer; the last layers share keys and values",
        ..BASE
    },
    Arch {
        name: "gemma4",
        keys: gemma4_keys,
        ends: gemma4_ends,
        stacks: &[trunk(gemma4)],
        demand: key_is_as_long_as_value,
        remark: "heads of other sizes in windows; inputs for each layer, experts beside the feed, shared keys and values",
        ..BASE
    },
    Arch {
        name: "gemma4-assistant",
        computed: false,
        keys: assistant_keys,
        ends: assistant_ends,
        stacks: &[Stack { prefix: "blk.", count: |d| d.nextn, layer: assistant, norm: |_| None }],
        demand: |d| {
            let same = d.embd_out.or(d.embd) == d.embd;
            key_is_as_long_as_value(d).or_else(|| same.then(|| "embedding_length_out is that of the model".to_owned()))
        },
        remark: "drafts for a Gemma 4 with that model's keys, values and states",
        ..BASE
    },
];

const GEMMA3: Arch =
    Arch { stacks: &[trunk(|d, l| between_norms(d, attention(d, l).head_norms(d), feed(d, d.ff(0))))], ..BASE };

fn scale_embeddings(k: &mut Keys<'_>) {
    k.d.embedding_scale = (k.d.embd.get() as f32).sqrt();
}

fn attention(d: &Dims, l: usize) -> Attention {
    Attention::uniform(d, l).rotary(d, Rotary::Halves, l)
}

fn feed(d: &Dims, len: Dim) -> Dense {
    Dense::gated(d, len).activation(Activation::GeluTanh)
}

fn between_norms(d: &Dims, mixer: impl Into<Kind>, feed: impl Into<Kind>) -> Layer {
    let feed = Step::of([Branch::new(Norm::rms(d, "ffn_norm"), feed)]);
    Layer::new([mixed(d, mixer), feed.then(Norm::rms(d, "post_ffw_norm"))])
}

fn mixed(d: &Dims, mixer: impl Into<Kind>) -> Step {
    step(Norm::rms(d, "attn_norm"), mixer).then(Norm::rms(d, "post_attention_norm"))
}

/// One over the root of a head's length; of the width shared out among heads in the model with so many layers (27B).
fn score_scale(d: &Dims, layers_of_27b: usize) -> f32 {
    let len = if d.layers() == layers_of_27b { d.embd / d.heads(0) } else { d.key_len(0) };
    1.0 / (len.get() as f32).sqrt()
}

fn gemma2_keys(k: &mut Keys<'_>) {
    scale_embeddings(k);
    k.d.window_kind = WindowKind::Sliding;
    k.window_pattern(2, false);
    k.windowed_rope_as_others();
    k.d.window = k.u32_or("attention.sliding_window", 4096);
    k.rms();
    k.d.attn_softcap = k.f32_or("attn_logit_softcapping", 50.0);
    k.d.final_softcap = k.f32_or("final_logit_softcapping", 30.0);
    k.d.attention_scale = score_scale(&k.d, 46);
}

fn gemma3_keys(k: &mut Keys<'_>) {
    scale_embeddings(k);
    k.d.window = k.u32_or("attention.sliding_window", 0);
    if k.d.window > 0 {
        k.d.window_kind = WindowKind::Sliding;
        k.window_pattern(6, false);
        k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
    } else {
        k.no_windows();
    }
    k.d.final_softcap = k.f32_or("final_logit_softcapping", 0.0);
    k.rms();
    k.d.attention_scale = score_scale(&k.d, 62);
}

fn embedding_keys(k: &mut Keys<'_>) {
    scale_embeddings(k);
    k.d.window_kind = WindowKind::Symmetric;
    k.window_pattern(6, false);
    k.d.causal = false;
    k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
    k.d.window = k.need_u32("attention.sliding_window");
    k.rms();
    for key in ["dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out"] {
        k.own_u32(key);
    }
    let embd = k.d.embd;
    for key in ["dense_2_feat_in", "dense_3_feat_out"] {
        let len = k.d.count(key);
        k.demand(len == 0 || len == embd, key, &format!("{len}, not the model's width of {embd}"));
    }
}

/// What llama.cpp's loader takes for Gemma 3n, whatever the keys say.
const STREAMS: Dim = Dim(4);
const LAYER_WIDTH: Dim = Dim(256);
const LAUREL_RANK: Dim = Dim(64);

/// Streams, width of a layer's input and rank of the residual as the loader demands them.
fn demanded(d: &Dims) -> [Dim; 3] {
    if d.any_size {
        let places = [("blk.0.laurel_l.weight", 1), ("blk.0.laurel_r.weight", 0), ("blk.1.laurel_l.weight", 1)];
        [d.count("altup.num_inputs"), d.per_layer_embd, d.usual_dim(&places).or(LAUREL_RANK)]
    } else {
        [STREAMS, LAYER_WIDTH, LAUREL_RANK]
    }
}

fn gemma3n_keys(k: &mut Keys<'_>) {
    scale_embeddings(k);
    k.d.window_kind = WindowKind::Sliding;
    k.window_pattern(5, false);
    k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
    k.d.window = k.need_u32("attention.sliding_window");
    k.rms();
    k.d.attention_scale = 1.0;
    // The loader has constants for these. Where a model departs from them, transformers follows the keys.
    k.d.final_softcap = k.unread_f32("final_logit_softcapping").unwrap_or(30.0);
    let shared = k.unread_u32("attention.shared_kv_layers");
    k.d.own_kv_layers = Some(shared.map_or(20, |n| k.d.layers().saturating_sub(Dim(n).len())));
    k.d.per_layer_embd = Dim(k.unread_u32("embedding_length_per_layer_input").unwrap_or(LAYER_WIDTH.get()));
    let streams = k.unread_u32("altup.num_inputs").unwrap_or(STREAMS.get());
    k.keep("altup.num_inputs", Own::Count(streams));
    let active = k.unread_u32("altup.active_idx").unwrap_or(0);
    k.keep("altup.active_idx", Own::Count(active));
    // The tenth largest of a hundred normally distributed values, in the first ten layers.
    let sparse = k.unread_f32s("activation_sparsity_scale").unwrap_or_else(|| vec![1.644_853_6; 10]);
    k.keep("activation_sparsity_scale", Own::Floats(sparse));
}

fn gemma3n_ends(d: &Dims) -> Ends {
    let [streams, width, _] = demanded(d);
    let mut ends = Ends::tied(d).with(PerLayerInputs::items(d, width)).with(AltUpEnds::items(d, streams));
    ends.per_layer = Some(PerLayerInputs::new(d, d.per_layer_embd));
    let (streams, active) = (d.count("altup.num_inputs"), d.count("altup.active_idx").len());
    ends.altup = Some(AltUpEnds { streams, active, floor: 1e-5 });
    ends
}

fn gemma3n(d: &Dims, l: usize) -> Layer {
    let mut mixer = attention(d, l).head_norms(d);
    (mixer.value_norm, mixer.unused_kv) = (Some(NormKind::Rms(d.rms_eps)), !d.any_size);
    let [rows, width, rank] = demanded(d);
    let laurel = Laurel { input: d.embd, rank, norm: Norm::rms(d, "laurel_post_norm") };
    let mut first = Step::of([
        Branch::new(Norm::rms(d, "attn_norm"), mixer).then(Norm::rms(d, "post_attention_norm")),
        Branch::new(None, laurel).reads(Reads::FirstInput),
    ]);
    first.stream_scale = std::f32::consts::FRAC_1_SQRT_2;
    let mut feed = feed(d, d.ff(0));
    feed.sparsity = d.float_at("activation_sparsity_scale", l).filter(|s| s.is_finite());
    let second = step(Norm::rms(d, "ffn_norm"), feed).then(Norm::rms(d, "post_ffw_norm"));
    let altup = AltUp {
        streams: d.count("altup.num_inputs"),
        active: d.count("altup.active_idx").len(),
        input: d.embd,
        norm: NormKind::Rms(d.rms_eps),
        router_scale: 1.0 / d.embd.get() as f32,
        per_layer: per_layer(d, width),
        after: Norm::rms(d, "post_norm"),
        rows,
    };
    Layer { altup: Some(Box::new(altup)), ..Layer::new([first, second]) }
}

fn per_layer(d: &Dims, rows: Dim) -> PerLayer {
    PerLayer { input: d.embd, width: d.per_layer_embd, rows, activation: Activation::GeluTanh }
}

/// What Gemma 4 and its assistant both read.
fn windowed_keys(k: &mut Keys<'_>) {
    scale_embeddings(k);
    k.d.window_kind = WindowKind::Sliding;
    k.need_window_list();
    let shared = k.u32_or("attention.shared_kv_layers", 0).len();
    // More shared layers than there are mean none.
    k.d.own_kv_layers = k.d.layers_all.checked_sub(shared);
    k.d.attention_scale = 1.0;
    k.d.rope_base_windowed = k.f32_or("rope.freq_base_swa", 10_000.0);
    k.d.window = k.need_u32("attention.sliding_window");
    k.rms();
    k.d.key_len_windowed = k.need_u32("attention.key_length_swa");
    k.d.value_len_windowed = k.need_u32("attention.value_length_swa");
}

fn key_is_as_long_as_value(d: &Dims) -> Option<String> {
    let equal = d.key_len(0) == d.value_len(0) && d.key_len_windowed == d.value_len_windowed;
    (!equal).then(|| format!("the keys of {} are as long as its values", d.arch))
}

fn gemma4_keys(k: &mut Keys<'_>) {
    windowed_keys(k);
    k.expert_ff();
    k.d.per_layer_embd = k.need_u32("embedding_length_per_layer_input");
    k.d.final_softcap = k.f32_or("final_logit_softcapping", 30.0);
}

/// The factors that layers without windows rotate with.
fn full_rope_factors(d: &Dims, layers: usize) -> Option<Item> {
    let full = (0..layers).find(|&l| !d.windowed(l))?;
    Some(Slot::new("rope_freqs.weight", [d.key_len(full) / 2]).into())
}

fn gemma4_ends(d: &Dims) -> Ends {
    let mut ends = Ends::tied(d).with(full_rope_factors(d, d.layers()));
    if d.per_layer_embd > 0 {
        ends = ends.with(PerLayerInputs::items(d, d.per_layer_embd));
        ends.per_layer = Some(PerLayerInputs::new(d, d.per_layer_embd));
    }
    ends
}

/// Attention of a layer with lengths of its own.
fn layer_attention(d: &Dims, l: usize) -> Attention {
    let a = Attention::new(d, l).bias(Bias::Never, Bias::Never);
    let mut a = a.rotary(d, Rotary::Halves, l).head_norms(d);
    a.rope_factors = !d.windowed(l);
    a
}

fn gemma4(d: &Dims, l: usize) -> Layer {
    let mut mixer = layer_attention(d, l);
    (mixer.value_norm, mixer.value_optional) = (Some(NormKind::Rms(d.rms_eps)), true);
    let dense = Branch::new(Norm::rms(d, "ffn_norm"), feed(d, d.ff(l)));
    let feed = if d.has(l, "ffn_gate_inp.weight") {
        let mut experts = Experts::new(d, 0, d.expert_ff(0)).activation(Activation::GeluTanh).fused_or_apart();
        let scale = 1.0 / (d.embd.get() as f32).sqrt();
        experts.router = Some(RouterInput { norm: NormKind::Rms(d.rms_eps), scale });
        let experts = Branch::new(Norm::rms(d, "pre_ffw_norm_2"), experts).then(Norm::rms(d, "post_ffw_norm_2"));
        Step::of([dense.then(Norm::rms(d, "post_ffw_norm_1")), experts])
    } else {
        Step::of([dense])
    };
    let mut layer = Layer::new([mixed(d, mixer), feed.then(Norm::rms(d, "post_ffw_norm"))]);
    if d.per_layer_embd > 0 {
        layer.steps.push(step(None, per_layer(d, d.per_layer_embd)).then(Norm::rms(d, "post_norm")));
    }
    scaled(layer, false)
}

/// A layer that ends with a factor of the stream.
fn scaled(mut layer: Layer, required: bool) -> Layer {
    let name = "layer_output_scale.weight";
    layer.out_scale = Some(name);
    layer.with([Slot::new(name, [Dim(1)]).needed(required).into()])
}

fn assistant_keys(k: &mut Keys<'_>) {
    windowed_keys(k);
    k.d.own_kv_layers = Some(0);
}

fn assistant_ends(d: &Dims) -> Ends {
    let target = d.embd_out.or(d.embd);
    let mut ends = Ends::embedding_only(d).with(full_rope_factors(d, d.nextn));
    ends.items.extend(["masked_embd_centroids.weight", "masked_embd_ordering"].map(|n| Slot::ignored(n).into()));
    ends.items.push(Slot::new("nextn.post_projection.weight", [d.embd, target]).into());
    if d.nextn > 0 {
        ends.items.push(Slot::new("nextn.pre_projection.weight", [target * 2, d.embd]).into());
    }
    ends
}

fn assistant(d: &Dims, l: usize) -> Layer {
    let a = layer_attention(d, l);
    let mut items = crate::arch::linear("attn_q", d.embd, a.rows[0], Bias::Never);
    items.extend(crate::arch::linear("attn_output", a.rows[3], d.embd, Bias::Never));
    items.push(Slot::new("attn_q_norm.weight", [a.key_len]).into());
    let mixer = Other { name: "attention to the keys and values of the model that it drafts for", items };
    scaled(between_norms(d, mixer, feed(d, d.ff(l))), true)
}
