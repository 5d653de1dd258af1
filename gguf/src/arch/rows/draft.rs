//! Draft models, which guess tokens from the states of another model: EAGLE 3 and DFlash.

use crate::arch::{
    Arch, BASE, Bias, Compressed, Dense, Dim, Dims, Ends, Experts, Gating, IndexForm, Indexer, Item, Keys, Kind, Layer,
    Need, Norm, Other, Own, Residual, Rotary, Slot, StreamWeights, Streams, WindowKind, linear, optional, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "eagle3",
        computed: false,
        keys: eagle3_keys,
        ends: eagle3_ends,
        stacks: &[trunk(eagle3)],
        remark: "a draft model: reads the states of three layers of another",
        ..BASE
    },
    Arch {
        name: "dflash",
        computed: false,
        keys: dflash_keys,
        ends: dflash_ends,
        stacks: &[trunk(dflash)],
        demand: |d| {
            let selects = has_any(d, SELECTOR_TENSORS);
            let [rank, block, best, kernel, group] = SELECTOR.map(|key| d.count(key));
            let known = [rank, block, best, kernel, group].iter().all(|n| *n > 0);
            let fits = known && d.embd % group == 0 && d.embd >= best * (best + 1);
            (selects && !fits)
                .then(|| "a selector has a rank, blocks, candidates and convolutions of groups".to_owned())
        },
        remark: "a draft model: denoises a block of tokens from the states of another",
        ..BASE
    },
];

const TARGETS: &str = "target_layers";
const TARGET_WIDTH: &str = "target_hidden_size";

/// The layers whose states are read, which must be said.
fn targets(k: &mut Keys<'_>) -> usize {
    let layers = k.need_array(TARGETS);
    let count = layers.len();
    k.keep(TARGETS, Own::Counts(layers));
    count
}

/// Rows of the output: the draft's own vocabulary where the file has a table from it to the target's.
fn drafted(d: &Dims) -> Dim {
    if d.present("d2t") { d.dim_of("d2t", 0) } else { d.vocab }
}

/// Tensors that come together: one of them alone says that the others are missing.
const MARKOV_TENSORS: &[&str] = &["markov_w1.weight", "markov_w2.weight", "conf_proj.weight", "conf_proj.bias"];
const SELECTOR_TENSORS: &[&str] =
    &["selector_hidden.weight", "selector_predecessor.weight", "selector_successor.weight"];

fn has_any(d: &Dims, names: &[&str]) -> bool {
    names.iter().any(|name| d.present(name))
}

/// The table, in whatever length it is there.
fn table(d: &Dims) -> Option<Item> {
    d.present("d2t").then(|| Slot::new("d2t", [d.dim_of("d2t", 0)]).into())
}

fn eagle3_keys(k: &mut Keys<'_>) {
    k.rms();
    let count = targets(k);
    k.demand(count == 3, TARGETS, "the states of three layers are read");
    k.own_need_u32(TARGET_WIDTH);
    k.bool("norm_before_residual");
    if let Some(before) = k.bool("norm_before_fc") {
        k.keep("norm_before_fc", Own::Count(before.into()));
    }
}

fn eagle3_ends(d: &Dims) -> Ends {
    let read = d.count(TARGET_WIDTH) * d.counts(TARGETS).len() as u64;
    let mut items = linear("fc", read, d.embd, Bias::Never);
    items.extend(table(d));
    if d.count("norm_before_fc") > 0 {
        items.push(Slot::new("enc.output_norm.weight", [read]).into());
    }
    items.push(Slot::new("output.weight", [d.embd, drafted(d)]).optional().into());
    items.push(Slot::new("rope_freqs.weight", [d.rot(0) / 2]).optional().into());
    let ends = Ends::of(d, Norm::rms(d, "output_norm"));
    // Embeddings may be those of the target.
    let rows = d.dim_of("token_embd.weight", 1);
    let embedding = Slot::new("token_embd.weight", [d.embd, if rows > 0 { rows } else { d.vocab }]);
    Ends { items: vec![embedding.optional().into()], ..ends }.with(items)
}

/// The first projections read the embedding and the state beside each other, each behind a norm.
fn eagle3(d: &Dims, _: usize) -> Layer {
    let mut items: Vec<Item> = Norm::rms(d, "attn_norm").items();
    items.extend(Norm::rms(d, "attn_norm_2").items());
    for (name, rows) in [("attn_q", d.queries(0)), ("attn_k", d.keys(0)), ("attn_v", d.values(0))] {
        items.extend(linear(name, d.embd * 2, rows, Bias::Never));
    }
    items.extend(linear("attn_output", d.queries(0), d.embd, Bias::Never));
    let attention = Other { name: "attention of a draft model", items };
    Layer::new([step(None, attention), step(Norm::rms(d, "ffn_norm"), Dense::gated(d, d.ff(0)))])
}

const STREAMS: &str = "hyper_connection.count";
const ROUNDS: &str = "hyper_connection.sinkhorn_iterations";
const EPSILON: &str = "hyper_connection.epsilon";
const GROUPS: &str = "attention.output_group_count";
const OUT_RANK: &str = "attention.output_lora_rank";
const RATIOS: &str = "attention.compress_ratios";
const SELECTOR: [&str; 5] = ["selector_rank", "block_size", "selector_top_k", "conv_kernel_size", "conv_group_size"];

/// A draft of DeepSeek 4 has its layers; others have attention over heads.
fn dflash_keys(k: &mut Keys<'_>) {
    k.d.embedding_scale = k.f32_or("embedding_scale", 0.0);
    k.d.attention_scale = k.f32_or("attention.scale", 0.0);
    k.own_f32("attention.value_scale");
    let known = k.str("hidden_activation").is_none_or(|a| matches!(a.as_str(), "silu" | "gelu" | "gelu_pytorch_tanh"));
    k.demand(known, "hidden_activation", "silu or gelu");
    k.rms();
    k.d.logit_scale = k.f32_or("logit_scale", 0.0);
    k.d.final_softcap = k.f32_or("final_logit_softcapping", 0.0);
    k.rope_sections();
    SELECTOR.iter().for_each(|key| k.own_u32(key));
    targets(k);
    k.own_u32(STREAMS);
    if k.d.count(STREAMS) > 0 {
        deepseek_keys(k);
    } else if let Some(window) = k.u32("attention.sliding_window").filter(|w| *w > 0) {
        k.d.window = Dim(window);
        k.d.window_kind = WindowKind::Sliding;
        k.d.windowed = k.need_array("attention.sliding_window_pattern").iter().map(|n| *n != 0).collect();
    }
}

fn deepseek_keys(k: &mut Keys<'_>) {
    k.d.q_rank = k.need_u32("attention.q_lora_rank");
    k.d.window = k.need_u32("attention.sliding_window");
    k.need_expert_ff();
    k.d.experts_shared = k.need_u32("expert_shared_count");
    k.d.expert_weights_scale = k.need_f32("expert_weights_scale");
    k.d.expert_weights_norm = k.need_bool("expert_weights_norm");
    k.d.expert_gating = k.need_u32("expert_gating_func").get();
    let limits = k.need_f32s("swiglu_clamp_exp", k.d.layers_all);
    k.keep("swiglu_clamp_exp", Own::Floats(limits));
    k.swiglu_limits("swiglu_clamp_shexp");
    k.own_need_u32(GROUPS);
    k.own_need_u32(OUT_RANK);
    k.own_need_u32(ROUNDS);
    k.own_need_f32(EPSILON);
    let ratios = k.array(RATIOS).unwrap_or_default();
    k.demand(ratios.iter().take(k.d.layers_all).all(|r| *r == 0), RATIOS, "a draft compresses no keys");
    k.demand(k.d.count(GROUPS) > 0, GROUPS, "the output has groups");
    k.demand(k.d.expert_gating == 4, "expert_gating_func", "experts are weighted by the root of softplus");
    k.demand(k.d.window > 0, "attention.sliding_window", "there is a window");
    k.d.window_kind = WindowKind::Sliding;
    k.d.windowed = vec![true; k.d.layers_all];
}

fn streams(d: &Dims, name: &'static str) -> Residual {
    let weights = StreamWeights::Doubly { rounds: d.count(ROUNDS), eps: d.float(EPSILON).unwrap_or(0.0) };
    Residual::Streams(Streams { count: d.count(STREAMS), width: d.embd, name, weights, eps: d.rms_eps })
}

fn dflash_ends(d: &Dims) -> Ends {
    let mut items = linear("fc", d.embd * d.counts(TARGETS).len() as u64, d.embd, Bias::Never);
    items.push(Slot::new("fc.scale", [Dim(1)]).optional().into());
    items.extend(Norm::rms(d, "enc.output_norm").items());
    items.extend(table(d));
    items.push(Slot::new("output.weight", [d.embd, drafted(d)]).optional().into());
    if has_any(d, MARKOV_TENSORS) {
        let rank = d.dim_of("markov_w1.weight", 0);
        items.extend(linear("markov_w1", rank, d.vocab, Bias::Never));
        items.extend(linear("markov_w2", rank, drafted(d), Bias::Never));
        items.push(Slot::new("markov_w2.scale", [Dim(1)]).optional().into());
        items.extend(optional(linear("conf_proj", d.embd + rank, Dim(1), Bias::Optional)));
    }
    if has_any(d, SELECTOR_TENSORS) {
        let rank = d.count(SELECTOR[0]);
        items.extend(
            ["predecessor", "successor"]
                .iter()
                .flat_map(|n| linear(&format!("selector_{n}"), rank, d.vocab, Bias::Never)),
        );
        items.extend(linear("selector_hidden", d.embd, rank, Bias::Never));
    }
    let of_heads = d.count(STREAMS) == 0;
    if of_heads && d.layers() > 0 {
        items.push(Slot::new("rope_freqs.weight", [d.key_len(0) / 2]).optional().into());
    }
    let ends = Ends::of(d, Norm::rms(d, "output_norm"));
    let embedding = Slot::new("token_embd.weight", [d.embd, d.vocab]).optional().into();
    let ends = Ends { items: vec![embedding], ..ends }.with(items);
    if of_heads { ends } else { ends.reads(streams(d, "output_hc")) }
}

fn dflash(d: &Dims, l: usize) -> Layer {
    if d.count(STREAMS) > 0 { dflash_of_deepseek(d, l) } else { dflash_of_heads(d) }
}

/// Each token of the block attends to the others and to the target's states. Where there is a selector, convolutions of
/// groups mix neighbours before and behind each branch.
fn dflash_of_heads(d: &Dims) -> Layer {
    let tensor = |name: &str, shape: Vec<Dim>| Slot::new(name, shape);
    let mut items: Vec<Item> = Norm::rms(d, "attn_norm").items();
    items.extend(linear("attn_q", d.embd, d.queries(0), Bias::Never));
    items.extend(linear("attn_k", d.embd, d.keys(0), Bias::Never));
    items.extend(optional(linear("attn_v", d.embd, d.values(0), Bias::Never)));
    items.extend(linear("attn_output", d.queries(0), d.embd, Bias::Never));
    items.extend(
        ["attn_q_norm", "attn_k_norm"]
            .iter()
            .flat_map(|n| Norm { name: n, ..Norm::rms(d, "") }.len(d.key_len(0)).items()),
    );
    items.extend(Norm::rms(d, "post_attention_norm").optional().items());
    items.push(tensor("attn_sinks.weight", vec![d.heads(0)]).optional().into());
    let mut feed: Vec<Item> = Norm::rms(d, "ffn_norm").items();
    feed.extend(Kind::from(Dense::gated(d, d.ff(0))).items());
    feed.extend(Norm::rms(d, "post_ffw_norm").optional().items());
    if has_any(d, SELECTOR_TENSORS) {
        let (kernel, group) = (d.count(SELECTOR[3]), d.count(SELECTOR[4]));
        for (name, items) in [("attn", &mut items), ("ffn", &mut feed)] {
            items.push(tensor(&format!("{name}_conv_base"), vec![d.embd, kernel, Dim(2)]).into());
            items.extend(linear(&format!("{name}_conv_proj"), d.embd, kernel * 2 * (d.embd / group), Bias::Never));
        }
    }
    let scale: Item = tensor("layer_output_scale.weight", vec![Dim(1)]).optional().into();
    Layer::new([
        step(None, Other { name: "attention of a draft model", items }),
        step(None, Other { name: "feed of a draft model", items: feed }),
    ])
    .with([scale])
}

fn dflash_of_deepseek(d: &Dims, l: usize) -> Layer {
    let attention = Compressed {
        input: d.embd,
        heads: d.heads(0),
        head: d.key_len(0),
        rot: d.rot(0),
        q_rank: d.q_rank,
        ratio: Dim(0),
        window: d.window,
        groups: d.count(GROUPS),
        out_rank: d.count(OUT_RANK),
        indexer: Indexer::new(d, IndexForm::Compressed { input: d.embd, rank: d.q_rank }, Rotary::Pairs),
        compressed_base: 0.0,
        eps: d.rms_eps,
    };
    // As the model's own, but to the target's states as well.
    let attention = Other { name: "attention of a draft model", items: Kind::from(attention).items() };
    let len = d.expert_ff(0);
    let shared = Dense::gated(d, len * d.experts_shared);
    let experts = Experts {
        gating: Gating::SqrtSoftplus,
        normalize: d.expert_weights_norm,
        choice_bias: Some(Need::Required),
        ..Experts::new(d, l, len).shared(shared)
    };
    Layer::new([
        step(Norm::rms(d, "attn_norm"), attention).joins(streams(d, "hc_attn")),
        step(Norm::rms(d, "ffn_norm"), experts).joins(streams(d, "hc_ffn")),
    ])
}
