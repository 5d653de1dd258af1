//! Attention: multi-head, grouped-query, multi-query and latent, block by block with an online softmax.
//!
//! A head's scores are never held as a whole: a block of queries meets the keys a block at a time, and its running
//! maximum, sum and weighted values are corrected when a greater score appears (FlashAttention). Memory is one block
//! of scores a thread, whatever the context.

use gguf::{Error, Result};
use rayon::prelude::*;

use super::rope::Table;
use super::{Part, numeric};
use crate::matmul::{Into, View, dense};
use crate::model::{Latent, Model};

const QUERIES: usize = 64;
const KEYS: usize = 128;

/// The tokens of one sequence within a group.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first token's row in the group.
    pub start: usize,
    /// How many tokens.
    pub len: usize,
    /// How many tokens of the sequence came before.
    pub past: usize,
}

/// What a block remembers of one sequence.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Keys of all tokens so far.
    pub keys: Vec<f32>,
    /// Values of all tokens so far.
    pub values: Vec<f32>,
    /// Last inputs of the convolution of a state space.
    pub inputs: Vec<f32>,
    /// State of a state space.
    pub state: Vec<f32>,
}

/// Where a block stands and what it may look at.
pub struct Site<'a> {
    /// The model.
    pub model: &'a Model,
    /// The block's number within its stack.
    pub layer: usize,
    /// The sequences of the group.
    pub spans: &'a [Span],
    /// Rotations, where the block has them.
    pub table: Option<&'a Table>,
    /// Whether tokens see only their past.
    pub causal: bool,
    /// Learned biases of distances.
    pub buckets: Option<&'a Buckets>,
}

/// Learned biases for buckets of distances (T5).
#[derive(Clone, Debug)]
pub struct Buckets {
    bias: Vec<f32>,
    heads: usize,
    both_ways: bool,
}

/// Distances beyond this share a bucket.
const FARTHEST: f64 = 128.0;

impl Buckets {
    /// Biases `[buckets, heads]`, row-major; `both_ways` where tokens see their future.
    pub fn new(bias: Vec<f32>, heads: usize, both_ways: bool) -> Buckets {
        Buckets { bias, heads, both_ways }
    }

    /// The bias of a head for a key this far after the query: half the buckets are exact, the rest logarithmic.
    fn bias(&self, head: usize, distance: i64) -> f32 {
        let all = (self.bias.len() / self.heads) as i64;
        let half = if self.both_ways { all / 2 } else { all };
        let first = if self.both_ways && distance > 0 { half } else { 0 };
        let far = if self.both_ways { distance.abs() } else { (-distance).max(0) };
        let exact = half / 2;
        let bucket = if far < exact || exact == 0 {
            far
        } else {
            let log = (far as f64 / exact as f64).ln() / (FARTHEST / exact as f64).ln();
            (exact + (log * (half - exact) as f64) as i64).min(half - 1)
        };
        self.bias.get((first + bucket) as usize * self.heads + head).copied().unwrap_or(0.0)
    }
}

/// Self-attention of a block: from normalized activations to what the output matrix gives.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn attention(part: &Part<'_>, site: &Site<'_>, x: &[f32], memory: Option<&mut [Memory]>) -> Result<Vec<f32>> {
    if let Some(latent) = site.model.latent {
        return latent_attention(part, site, latent, x, memory);
    }
    let model = site.model;
    let (mut q, mut k, v) = projections(part, model, x)?;
    head_norms(part, model, "attn_q_norm", &mut q, model.heads)?;
    head_norms(part, model, "attn_k_norm", &mut k, model.kv_heads)?;
    if let Some(table) = site.table {
        rotate(table, site.spans, &mut q, model.heads, model.key_len, 0);
        rotate(table, site.spans, &mut k, model.kv_heads, model.key_len, 0);
    }
    let sinks = part.values("attn_sinks.weight")?;
    if sinks.as_ref().is_some_and(|s| s.len() != model.heads) {
        return Err(Error::input("attn_sinks has not one value a head"));
    }
    let heads = Heads {
        heads: model.heads,
        kv_heads: model.kv_heads,
        key_len: model.key_len,
        value_len: model.value_len,
        scale: model.score_scale,
        cap: model.score_cap,
        window: model.window(site.layer),
        causal: site.causal,
        slopes: model.alibi.map(|exponent| slopes(model.heads, exponent)),
        sinks,
        buckets: site.buckets,
    };
    let out = with_memory(&heads, site, &q, k, v, memory, model.keys_len(), model.values_len());
    output(part, &out)
}

/// Attention of a decoder's tokens to the output of the encoder, `[.., width]` for each span.
///
/// # Errors
/// Tensors that are missing or do not fit.
pub fn cross_attention(part: &Part<'_>, site: &Site<'_>, x: &[f32], encoded: &[&[f32]]) -> Result<Vec<f32>> {
    let model = site.model;
    let q = part.linear("cross_attn_q", x)?;
    check_len(&q, x.len() / model.width, model.heads * model.key_len, "cross_attn_q")?;
    let heads = Heads {
        heads: model.heads,
        kv_heads: model.kv_heads,
        key_len: model.key_len,
        value_len: model.value_len,
        scale: model.score_scale,
        cap: None,
        window: None,
        causal: false,
        slopes: None,
        sinks: None,
        buckets: None,
    };
    let width = heads.heads * heads.value_len;
    let mut out = vec![0.0; x.len() / model.width * width];
    for (span, encoded) in site.spans.iter().zip(encoded) {
        let (k, v) = (part.linear("cross_attn_k", encoded)?, part.linear("cross_attn_v", encoded)?);
        check_len(&k, encoded.len() / model.width, model.keys_len(), "cross_attn_k")?;
        check_len(&v, encoded.len() / model.width, model.values_len(), "cross_attn_v")?;
        let one = Past { keys: &k, values: &v, key_step: model.keys_len(), value_step: model.values_len() };
        let q = &q[span.start * heads.heads * heads.key_len..(span.start + span.len) * heads.heads * heads.key_len];
        attend(&heads, &[(q, one, 0)], &mut out[span.start * width..(span.start + span.len) * width]);
    }
    part.linear("cross_attn_o", &out)
}

fn output(part: &Part<'_>, x: &[f32]) -> Result<Vec<f32>> {
    // T5 has its own name for it.
    part.linear(if part.has("attn_o.weight") { "attn_o" } else { "attn_output" }, x)
}

type Projections = (Vec<f32>, Vec<f32>, Vec<f32>);

fn projections(part: &Part<'_>, model: &Model, x: &[f32]) -> Result<Projections> {
    let tokens = x.len() / model.width;
    let (query, key, value) = (model.heads * model.key_len, model.keys_len(), model.values_len());
    let (mut q, mut k, mut v) = if part.has("attn_qkv.weight") {
        let all = part.linear("attn_qkv", x)?;
        check_len(&all, tokens, query + key + value, "attn_qkv")?;
        let columns = |from: usize, len: usize| {
            all.chunks(query + key + value).flat_map(|row| &row[from..from + len]).copied().collect::<Vec<f32>>()
        };
        (columns(0, query), columns(query, key), columns(query + key, value))
    } else {
        (part.linear("attn_q", x)?, part.linear("attn_k", x)?, part.linear("attn_v", x)?)
    };
    check_len(&q, tokens, query, "attn_q")?;
    check_len(&k, tokens, key, "attn_k")?;
    check_len(&v, tokens, value, "attn_v")?;
    if let Some(limit) = model.clamp {
        for x in [&mut q, &mut k, &mut v] {
            x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
        }
    }
    Ok((q, k, v))
}

fn check_len(x: &[f32], tokens: usize, len: usize, name: &str) -> Result<()> {
    if x.len() == tokens * len {
        return Ok(());
    }
    Err(Error::input(format!(
        "{name} gives {} values a token, the metadata asks for {len}",
        x.len().checked_div(tokens).unwrap_or(0)
    )))
}

/// Norms of queries or keys: over all heads together, or each head with shared weights or weights of its own.
fn head_norms(part: &Part<'_>, model: &Model, name: &str, x: &mut [f32], heads: usize) -> Result<()> {
    let Some(weight) = part.get(&format!("{name}.weight")) else { return Ok(()) };
    let together = weight.rows() == 1 && weight.cols() == heads * model.key_len;
    let len = if together { weight.cols() } else { model.key_len };
    part.norm_in_place(model, name, x, len).map(|_| ())
}

/// Rotates heads of `len` values from the value `from` on.
fn rotate(table: &Table, spans: &[Span], x: &mut [f32], heads: usize, len: usize, from: usize) {
    let mut positions = vec![0; x.len() / (heads * len)];
    for span in spans {
        for (i, p) in positions[span.start..span.start + span.len].iter_mut().enumerate() {
            *p = span.past + i;
        }
    }
    x.par_chunks_mut(heads * len).zip(&positions).for_each(|(token, &position)| {
        for head in token.chunks_mut(len) {
            table.rotate(&mut head[from..], position);
        }
    });
}

/// Slopes of ALiBi for each head (Press et al., for any number of heads).
fn slopes(heads: usize, exponent: f32) -> Vec<f32> {
    let whole = 1_usize << heads.ilog2();
    let slope = |h: usize| {
        let (base, power) = if h < whole { (exponent, h + 1) } else { (exponent / 2.0, 2 * (h - whole) + 1) };
        f64::from(-base / whole as f32 * power as f32).exp2() as f32
    };
    (0..heads).map(slope).collect()
}

/// Latent attention: queries are brought into the space of the compressed vectors, so that all heads share one key and
/// one value, and the result is brought back (the absorbed form of DeepSeek-V2).
fn latent_attention(
    part: &Part<'_>,
    site: &Site<'_>,
    latent: Latent,
    x: &[f32],
    memory: Option<&mut [Memory]>,
) -> Result<Vec<f32>> {
    let model = site.model;
    let tokens = x.len() / model.width;
    let (heads, rank, plain) = (model.heads, latent.rank, latent.plain);
    let rotated = model.key_len - plain;
    let mut q = if part.has("attn_q_a.weight") {
        let mut low = part.linear("attn_q_a", x)?;
        let len = part.need("attn_q_a.weight")?.rows();
        part.norm_in_place(model, "attn_q_a_norm", &mut low, len)?;
        part.linear("attn_q_b", &low)?
    } else {
        part.linear("attn_q", x)?
    };
    check_len(&q, tokens, heads * model.key_len, "attn_q")?;
    let mut k = part.linear("attn_kv_a_mqa", x)?;
    check_len(&k, tokens, rank + rotated, "attn_kv_a_mqa")?;
    let mut compressed: Vec<f32> = k.chunks(rank + rotated).flat_map(|k| &k[..rank]).copied().collect();
    part.norm_in_place(model, "attn_kv_a_norm", &mut compressed, rank)?;
    for (k, c) in k.chunks_mut(rank + rotated).zip(compressed.chunks(rank)) {
        k[..rank].copy_from_slice(c);
    }
    if let Some(table) = site.table {
        rotate(table, site.spans, &mut q, heads, model.key_len, plain);
        rotate(table, site.spans, &mut k, 1, rank + rotated, rank);
    }
    let columns = |from: usize, len: usize, h: usize| -> Vec<f32> {
        q.chunks(heads * model.key_len).flat_map(|q| &q[h * model.key_len + from..][..len]).copied().collect()
    };
    let mut wide = vec![0.0; tokens * heads * (rank + rotated)];
    for h in 0..heads {
        let absorbed = part.expert("attn_k_b", h, heads, &columns(0, plain, h))?;
        check_len(&absorbed, tokens, rank, "attn_k_b")?;
        let turned = columns(plain, rotated, h);
        for (t, row) in wide.chunks_mut(heads * (rank + rotated)).enumerate() {
            let row = &mut row[h * (rank + rotated)..][..rank + rotated];
            row[..rank].copy_from_slice(&absorbed[t * rank..(t + 1) * rank]);
            row[rank..].copy_from_slice(&turned[t * rotated..(t + 1) * rotated]);
        }
    }
    let spec = Heads {
        heads,
        kv_heads: 1,
        key_len: rank + rotated,
        value_len: rank,
        scale: model.score_scale,
        cap: model.score_cap,
        window: model.window(site.layer),
        causal: site.causal,
        slopes: None,
        sinks: None,
        buckets: None,
    };
    // The value is the compressed part of the key.
    let found = with_memory(&spec, site, &wide, k, Vec::new(), memory, rank + rotated, rank + rotated);
    let mut out = vec![0.0; tokens * heads * model.value_len];
    for h in 0..heads {
        let part_of: Vec<f32> = found.chunks(heads * rank).flat_map(|f| &f[h * rank..][..rank]).copied().collect();
        let value = part.expert("attn_v_b", h, heads, &part_of)?;
        check_len(&value, tokens, model.value_len, "attn_v_b")?;
        for (row, v) in out.chunks_mut(heads * model.value_len).zip(value.chunks(model.value_len)) {
            row[h * model.value_len..][..model.value_len].copy_from_slice(v);
        }
    }
    output(part, &out)
}

/// Attends over what the tokens bring and, where there is a memory, what came before. Empty values are the keys.
#[allow(clippy::too_many_arguments)]
fn with_memory(
    heads: &Heads<'_>,
    site: &Site<'_>,
    q: &[f32],
    k: Vec<f32>,
    v: Vec<f32>,
    memory: Option<&mut [Memory]>,
    key_step: usize,
    value_step: usize,
) -> Vec<f32> {
    let (wide, width) = (heads.heads * heads.key_len, heads.heads * heads.value_len);
    let mut out = vec![0.0; q.len() / wide * width];
    fn rows<'x>(x: &'x [f32], span: &Span, step: usize) -> &'x [f32] {
        x.get(span.start * step..(span.start + span.len) * step).unwrap_or_default()
    }
    let memory = memory.map(|memory| {
        for (span, memory) in site.spans.iter().zip(memory.iter_mut()) {
            memory.keys.extend_from_slice(rows(&k, span, key_step));
            memory.values.extend_from_slice(rows(&v, span, value_step));
        }
        &*memory
    });
    let mut jobs = Vec::new();
    for (i, span) in site.spans.iter().enumerate() {
        let (keys, values): (&[f32], &[f32]) = match memory {
            Some(memory) => (&memory[i].keys, &memory[i].values),
            None => (rows(&k, span, key_step), rows(&v, span, value_step)),
        };
        let values = if values.is_empty() { keys } else { values };
        jobs.push((rows(q, span, wide), Past { keys, values, key_step, value_step }, span.past));
    }
    attend(heads, &jobs, &mut out);
    out
}

/// What attention needs to know of the heads.
struct Heads<'a> {
    heads: usize,
    kv_heads: usize,
    key_len: usize,
    value_len: usize,
    scale: f32,
    cap: Option<f32>,
    window: Option<usize>,
    causal: bool,
    slopes: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
    buckets: Option<&'a Buckets>,
}

/// Keys and values to attend to, rows `*_step` apart.
#[derive(Clone, Copy)]
struct Past<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    key_step: usize,
    value_step: usize,
}

/// All heads of all sequences; each job: queries `[tokens, heads · key_len]`, what they see, the first one's position.
/// The results follow each other in `out` `[tokens, heads · value_len]`.
fn attend(spec: &Heads<'_>, jobs: &[(&[f32], Past<'_>, usize)], out: &mut [f32]) {
    let wide = spec.heads * spec.key_len;
    let work: Vec<(usize, usize)> = (0..jobs.len()).flat_map(|j| (0..spec.heads).map(move |h| (j, h))).collect();
    let found: Vec<Vec<f32>> = work
        .par_iter()
        .map(|&(j, h)| {
            let (q, past, first) = jobs[j];
            head(spec, h, q, past, first, q.len() / wide)
        })
        .collect();
    let width = spec.heads * spec.value_len;
    let mut rest = out;
    for ((q, ..), found) in jobs.iter().zip(found.chunks(spec.heads)) {
        let (rows, behind) = rest.split_at_mut(q.len() / wide * width);
        rows.par_chunks_mut(width).with_min_len(16).enumerate().for_each(|(t, row)| {
            for (part, found) in row.chunks_mut(spec.value_len).zip(found) {
                part.copy_from_slice(&found[t * spec.value_len..][..spec.value_len]);
            }
        });
        rest = behind;
    }
}

/// One head of one sequence: `[tokens, value_len]`.
fn head(spec: &Heads<'_>, h: usize, q: &[f32], past: Past<'_>, first: usize, tokens: usize) -> Vec<f32> {
    let wide = spec.heads * spec.key_len;
    let shared = h / (spec.heads / spec.kv_heads);
    let seen = past.keys.len() / past.key_step;
    let mut out = vec![0.0; tokens * spec.value_len];
    let mut scores = vec![0.0; QUERIES * KEYS];
    for (block, out) in out.chunks_mut(QUERIES * spec.value_len).enumerate() {
        let n = out.len() / spec.value_len;
        let start = block * QUERIES;
        let (top, bottom) = (first + start, first + start + n - 1);
        let end = if spec.causal { seen.min(bottom + 1) } else { seen };
        let begin = spec.window.filter(|_| spec.causal).map_or(0, |w| (top + 1).saturating_sub(w));
        let mut peaks = [f32::NEG_INFINITY; QUERIES];
        let mut sums = [0.0_f32; QUERIES];
        for at in (begin..end).step_by(KEYS) {
            let m = KEYS.min(end - at);
            let scores = &mut scores[..n * m];
            let queries = View::new(&q[start * wide + h * spec.key_len..], wide, 1);
            let keys = View::new(&past.keys[at * past.key_step + shared * spec.key_len..], 1, past.key_step);
            dense(n, m, spec.key_len, spec.scale, queries, keys, Into::Store, scores, m);
            for (i, row) in scores.chunks_mut(m).enumerate() {
                bend(spec, h, row, top + i, at);
                let peak = numeric::max(row).max(peaks[i]);
                if peak == f32::NEG_INFINITY {
                    row.fill(0.0);
                    continue;
                }
                let keep = (peaks[i] - peak).exp();
                let sum = numeric::exp_and_sum(row, peak);
                if keep != 1.0 {
                    numeric::scale(&mut out[i * spec.value_len..(i + 1) * spec.value_len], keep);
                }
                sums[i] = sums[i] * keep + sum;
                peaks[i] = peak;
            }
            let values = View::new(&past.values[at * past.value_step + shared * spec.value_len..], past.value_step, 1);
            dense(n, spec.value_len, m, 1.0, View::new(scores, m, 1), values, Into::Add, out, spec.value_len);
        }
        for (i, row) in out.chunks_mut(spec.value_len).enumerate() {
            // A sink is a score without a value: it only takes a share.
            let sink = spec.sinks.as_ref().map_or(f32::NEG_INFINITY, |s| s[h]);
            let peak = peaks[i].max(sink);
            let keep = (peaks[i] - peak).exp();
            let scale = keep / (sums[i] * keep + (sink - peak).exp());
            numeric::scale(row, scale);
        }
    }
    out
}

/// Caps, biases and masks the scores of the query at `position` for the keys from `at` on.
fn bend(spec: &Heads<'_>, h: usize, row: &mut [f32], position: usize, at: usize) {
    if let Some(cap) = spec.cap {
        row.iter_mut().for_each(|s| *s = (*s / cap).tanh() * cap);
    }
    if let Some(slopes) = &spec.slopes {
        for (j, s) in row.iter_mut().enumerate() {
            let distance = (at + j) as f32 - position as f32;
            *s += slopes[h] * if spec.causal { distance } else { -distance.abs() };
        }
    }
    if let Some(buckets) = spec.buckets {
        for (j, s) in row.iter_mut().enumerate() {
            *s += buckets.bias(h, (at + j) as i64 - position as i64);
        }
    }
    if spec.causal {
        let seen = (position + 1).saturating_sub(at).min(row.len());
        row[seen..].fill(f32::NEG_INFINITY);
        if let Some(window) = spec.window {
            let gone = (position + 1).saturating_sub(window).saturating_sub(at).min(row.len());
            row[..gone].fill(f32::NEG_INFINITY);
        }
    }
}
