//! Qwen 4 (experimental): delta nets and sparse attention over several residual streams, n-gram embeddings.

use crate::arch::{
    Arch, Attention, BASE, Bias, DeltaInputs, DeltaNet, Dense, Dim, Dims, Ends, Experts, FaultKind, Gate, IndexForm,
    Indexer, Item, Keys, Kind, Layer, Need, Other, Over, Own, Pool, Residual, Rotary, Slot, Sparse, StreamWeights,
    Streams, linear, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "qwen4exp",
    computed: false,
    keys,
    ends,
    stacks: &[trunk(layer)],
    demand: |d| {
        let rows = d.dim_of(TABLE, 1);
        let short = ngram_heads(d) > 0 && rows > 0 && rows < table_rows(d);
        short.then(|| format!("{TABLE} has {rows} rows, fewer than the heads of n-grams ask for"))
    },
    remark: "delta nets, attention with an indexer, several residual streams, n-gram embeddings, experts",
    ..BASE
}];

const STREAMS: &str = "hyper_connection.count";
const RANK: &str = "hyper_connection.low_rank";
const RATIOS: &str = "attention.compress_ratios";
const TABLE: &str = "per_layer_token_embd.weight";

fn keys(k: &mut Keys<'_>) {
    k.expert_ff();
    k.shared_ff();
    k.rms();
    k.need_rope_sections();
    k.state_space(true);
    let sizes = k.d.ssm;
    let whole = [sizes.kernel, sizes.inner, sizes.state, sizes.rank, sizes.groups].iter().all(|n| *n > 0);
    k.demand(whole, "ssm.inner_size", "no size of a state space is zero");
    k.own_need_u32(STREAMS);
    k.own_need_u32(RANK);
    k.demand(k.d.count(STREAMS) > 1, STREAMS, "there are several residual streams");
    k.demand(k.d.count(RANK) > 0, RANK, "their weights have a rank");
    k.indexer();
    let whole = ["head_count", "key_length", "top_k"].iter().all(|n| k.d.count(&format!("attention.indexer.{n}")) > 0);
    k.demand(whole, "attention.indexer.top_k", "no size of an indexer is zero");
    if let Some(ratios) = k.u32s(RATIOS, k.d.layers_all) {
        k.keep(RATIOS, Own::Counts(ratios.iter().map(|r| r.get()).collect()));
    }
    ngram_keys(k);
    recurrent(k);
    for l in 0..k.d.layers_all {
        k.demand(!ngrams(&k.d, l) || k.d.recurrent(l), LAYERS, "n-gram embeddings go with delta nets");
    }
}

fn recurrent(k: &mut Keys<'_>) {
    let all = k.d.layers_all;
    k.d.recurrent = match k.u32s("attention.recurrent_layers", all) {
        Some(list) => {
            k.unused(&["full_attention_interval"]);
            list.iter().map(|n| *n != 0).collect()
        }
        None => {
            let interval = k.need_u32("full_attention_interval").len();
            k.demand(interval > 0, "full_attention_interval", "every so many layers attend");
            let trunk = k.d.layers();
            (0..all).map(|l| l < trunk && !(l + 1).is_multiple_of(interval)).collect()
        }
    };
}

const LAYERS: &str = "ple.layers";
const SIZE: &str = "ple.ngram_size";
const HEADS: &str = "ple.heads_per_ngram";
const KERNEL: &str = "ple.conv_kernel";
const MULTIPLIERS: &str = "ple.layer_multipliers";
const OFFSETS: &str = "ple.head_offsets";
const VOCABULARIES: &str = "ple.head_vocab_sizes";

/// The most n-grams, heads of them and rows of their table.
const MOST: (u64, u64, u64) = (8, 64, i32::MAX as u64);

fn ngram_keys(k: &mut Keys<'_>) {
    let Some(count) = k.array_len(LAYERS).filter(|n| *n > 0) else {
        k.unused(&[SIZE, HEADS, KERNEL, MULTIPLIERS, OFFSETS, VOCABULARIES]);
        k.unused(&["ple.eos_token_id", "ple.image_token_id", "embedding_length_per_layer_input"]);
        return;
    };
    let layers = k.need_array(LAYERS);
    let known = layers.iter().all(|l| *l < k.d.layers_all as u64);
    k.demand(count == 1 && known, LAYERS, "one layer of the model has n-gram embeddings");
    k.keep(LAYERS, Own::Counts(layers));
    [SIZE, HEADS, KERNEL, "ple.eos_token_id"].iter().for_each(|key| k.own_need_u32(key));
    k.own_u32("ple.image_token_id");
    k.d.per_layer_embd = k.need_u32("embedding_length_per_layer_input");
    k.demand(k.d.count(KERNEL) > 0, KERNEL, "the convolution has a width");
    k.demand(k.d.per_layer_embd > 0, "embedding_length_per_layer_input", "embeddings have a width");
    let size = k.d.count(SIZE);
    k.demand(size >= 2 && size <= MOST.0, SIZE, "n-grams of 2 to 8 tokens");
    let heads = ngram_heads(&k.d);
    k.demand(heads > 0 && heads <= MOST.1, HEADS, "1 to 64 heads of all n-grams");
    for (key, len) in [(MULTIPLIERS, size), (OFFSETS, heads), (VOCABULARIES, heads)] {
        let Some(list) = k.u64_array(key) else {
            k.fault(FaultKind::KeyMissing, key, format!("qwen4exp.{key} is missing or not a list of u64"));
            continue;
        };
        k.demand(len == list.len() as u64, key, "there is one for each n-gram, or for each head");
        k.keep(key, Own::Counts(list));
    }
    let fits =
        k.d.counts(OFFSETS)
            .iter()
            .zip(k.d.counts(VOCABULARIES))
            .all(|(&offset, &rows)| rows > 0 && offset <= MOST.2 && rows <= MOST.2 && offset + rows <= MOST.2);
    k.demand(fits, VOCABULARIES, "rows of a head's table can be counted");
}

/// Heads of the n-grams of all lengths.
fn ngram_heads(d: &Dims) -> Dim {
    (d.count(SIZE) - 1) * d.count(HEADS)
}

/// Rows of the table that the heads share.
fn table_rows(d: &Dims) -> Dim {
    let ends = d.counts(OFFSETS).iter().zip(d.counts(VOCABULARIES)).map(|(&a, &b)| Dim(a) + b);
    ends.max().unwrap_or_default()
}

/// Whether a layer begins with n-gram embeddings.
fn ngrams(d: &Dims, l: usize) -> bool {
    d.counts(LAYERS).contains(&(l as u64))
}

fn streams(d: &Dims, name: &'static str) -> Residual {
    let weights = StreamWeights::LowRank { rank: d.count(RANK) };
    Residual::Streams(Streams { count: d.count(STREAMS), width: d.embd, name, weights, eps: d.rms_eps })
}

/// Reading from the streams normalizes, behind the layers as within them.
fn ends(d: &Dims) -> Ends {
    let ends = Ends::tied(d).norm(None).reads(streams(d, "output_hc"));
    if ngram_heads(d) == 0 {
        return ends;
    }
    let rows = if d.present(TABLE) { d.dim_of(TABLE, 1) } else { table_rows(d) };
    ends.with([Slot::new(TABLE, [d.per_layer_embd, rows]).into()])
}

fn layer(d: &Dims, l: usize) -> Layer {
    let mut unused = Vec::new();
    let mixer: Kind = if d.recurrent(l) {
        DeltaNet { inputs_need: Need::Required, sigmoid_gate: true, ..DeltaNet::new(d, DeltaInputs::Apart) }.into()
    } else {
        let attention = Attention::uniform(d, l).rotary(d, Rotary::Sections, l).head_norms(d).gate(Gate::DoubledQuery);
        let ratio = d.count_at(RATIOS, l);
        let form = IndexForm::Plain { input: d.embd };
        let indexer = Indexer { pool: Pool::Mean { len: ratio }, ..Indexer::new(d, form, Rotary::Sections) };
        if ratio > 0 {
            Sparse { over: Over::Heads(Box::new(attention)), indexer: Some(indexer) }.into()
        } else {
            unused = indexer.items();
            attention.into()
        }
    };
    let len = d.expert_ff(0).or(d.ff(0) / d.experts_used(0));
    let shared = Dense::gated(d, d.shared_ff.or(d.ff(0)));
    let experts = Experts { shared_gate: true, ..Experts::new(d, l, len).fused_or_apart().shared(shared) };
    let branches = [step(None, mixer).joins(streams(d, "hc_attn")), step(None, experts).joins(streams(d, "hc_ffn"))];
    let before = ngrams(d, l).then(|| step(None, ngram_embedding(d)));
    Layer::new(before.into_iter().chain(branches).collect::<Vec<_>>()).with(unused)
}

/// Embeddings of the last tokens, by a hash of each n-gram in each head; a gate for each stream, a dilated convolution.
fn ngram_embedding(d: &Dims) -> Other {
    let (count, kernel) = (d.count(STREAMS), d.count(KERNEL));
    let mut items: Vec<Item> = linear("ple_key", d.embd, count * d.embd, Bias::Never);
    items.extend(linear("ple_value", d.embd, d.embd, Bias::Never));
    items.extend(
        ["key", "query", "conv"]
            .map(|n| Item::from(Slot::new(format!("ple_norm_{n}.weight"), [d.embd, count]).count_only())),
    );
    items.push(Slot::new("ple_conv1d.weight", [kernel, count * d.embd]).into());
    Other { name: "n-gram embeddings", items }
}
