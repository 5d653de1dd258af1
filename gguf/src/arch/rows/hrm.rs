//! HRM-Text: two stacks that run in cycles.

use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, Ends, Flow, Gate, Item, Keys, Layer, Norm, Rotary, Slot, Stack, step,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "hrm_text",
    keys,
    ends: |d| {
        let start: Item = Slot::new(START, [d.embd]).into();
        Ends::tied(d).norm(None).with([start])
    },
    stacks: &[Stack { prefix: "blk.", count: |d| 2 * d.count(LAYERS).len(), layer, norm: |_| None }],
    flow: |d| Flow::Cycles {
        layers: d.count(LAYERS).len(),
        high: d.count(HIGH).len(),
        low: d.count(LOW).len(),
        start: START,
        eps: d.rms_eps,
    },
    remark: "two stacks that run in cycles; gated attention, norms without weights",
    ..BASE
}];

const LAYERS: &str = "hrm.layers_per_stack";
const HIGH: &str = "hrm.h_cycles";
const LOW: &str = "hrm.l_cycles";
const START: &str = "hrm.z_l_init";

/// `block_count` is the number of layers that are run, not of those that a file has.
fn keys(k: &mut Keys<'_>) {
    k.rms();
    k.d.embedding_scale = k.f32_or("embedding_scale", 0.0);
    for key in [LAYERS, HIGH, LOW] {
        k.own_need_u32(key);
        k.demand(k.d.count(key) > 0, key, "a stack has layers and runs");
    }
    // Says how a prompt is masked, which is for programs that have prompts.
    k.bool("hrm.prefix_lm");
    let runs = k.d.count(LAYERS) * k.d.count(HIGH) * (k.d.count(LOW) + 1);
    k.demand(runs == k.d.layers() as u64, "block_count", "the number of layers that the cycles run");
}

fn layer(d: &Dims, _: usize) -> Layer {
    let attention = Attention::new(d, 0).rotary(d, Rotary::Halves, 0).gate(Gate::Element);
    let attention = Attention { rope_factors: false, ..attention.bias(Bias::Optional, Bias::Never) };
    let plain = || Norm::rms(d, "").plain();
    Layer::new([step(plain(), attention), step(plain(), Dense::gated(d, d.ff(0)))])
}
