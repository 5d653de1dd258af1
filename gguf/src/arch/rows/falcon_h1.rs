//! Falcon-H1: attention and Mamba 2 side by side in every layer.

use crate::arch::{
    Arch, Attention, BASE, Bias, Branch, Dense, Dims, Ends, Layer, Mamba2, Need, Norm, Reads, Rotary, Step, step, trunk,
};

pub(super) const ROWS: &[Arch] = &[Arch {
    name: "falcon-h1",
    keys: |k| {
        k.rms();
        k.state_space(true);
    },
    ends: |d| Ends::tied(d).rope_freqs(d.rot(0) / 2),
    stacks: &[trunk(layer)],
    recurrent: true,
    remark: "attention and Mamba 2 side by side in every layer",
    ..BASE
}];

/// Both mixers read the same norm. The multipliers of muP are in the weights.
fn layer(d: &Dims, l: usize) -> Layer {
    // The graph does not take the factors of frequencies that the loader does.
    let attention = Attention { rope_factors: false, ..Attention::uniform(d, l) };
    let attention = attention.rotary(d, Rotary::Halves, l).bias(Bias::Optional, Bias::Optional);
    let mamba = Mamba2 { norm_need: Need::Optional, ..Mamba2::new(d) };
    let mixers = Step::of([
        Branch::new(Norm::rms(d, "attn_norm"), attention),
        Branch::new(None, mamba).reads(Reads::FirstInput),
    ]);
    // The norm's name has no `.weight`.
    let feed = Dense::gated(d, d.ff(0)).bias(Bias::Optional);
    Layer::new([mixers, step(Norm::rms(d, "ffn_norm").bare(), feed)])
}
