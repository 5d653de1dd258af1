//! Kimi delta attention: a delta rule whose state decays by channel.

use super::dim::Dim;
use super::slot::{Bias, Item, Slot, bias, linear};
use super::step::either_projections;

/// A delta rule over heads with a decay of each channel of a key.
///
/// Queries, keys and values each pass a causal convolution and SiLU; queries and keys are divided by their lengths,
/// queries also by the root of a head's length. The state loses e^decay of each key channel, then learns value − state ·
/// key at the rate σ(`ssm_beta`). What it gives is normalized (`ssm_norm`) and multiplied with the sigmoid of the gate.
#[derive(Clone, Debug)]
pub struct Kda {
    /// Length of what is projected.
    pub input: Dim,
    /// Heads.
    pub heads: Dim,
    /// Length of a head's query, key and value.
    pub head: Dim,
    /// Width of the convolutions.
    pub kernel: Dim,
    /// How decay and gate are projected.
    pub projected: KdaInputs,
    /// How decay is made.
    pub decay: Decay,
    /// Shape of `ssm_a`: a row or a column of heads.
    pub a_rows: bool,
    /// Epsilon of the norm of what it gives.
    pub eps: f32,
    /// Least length of a query or key.
    pub least: f32,
}

/// How the decay (`ssm_f`) and the gate (`ssm_g`) of a Kimi delta attention are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KdaInputs {
    /// Both through a head's length (`_a`, `_b`).
    LowRank,
    /// The decay through a head's length, the gate at once (`ssm_g`).
    WholeGate,
    /// Both at once (`_a`).
    Whole,
}

/// How the logarithm of a state's decay is made of the projection f and of A (`ssm_a`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// A · softplus(f + `ssm_dt`).
    Softplus,
    /// bound · σ(sign · A · (f + `ssm_dt`)).
    Bounded {
        /// The most that is lost: a negative logarithm.
        bound: f32,
        /// 1 or −1: how A is stored.
        sign: f32,
    },
}

impl Kda {
    pub(super) fn items(&self) -> Vec<Item> {
        let Kda { input, head, heads, kernel, .. } = *self;
        let inner = head * heads;
        let names = ["q", "k", "v"];
        let separate = names.iter().flat_map(|n| linear(&format!("attn_{n}"), input, inner, Bias::Never)).collect();
        let biases = names.iter().filter_map(|n| bias(&format!("attn_{n}"), inner, Bias::Optional)).collect();
        let mut items = vec![either_projections("attn_qkv", input, inner * 3, Bias::Optional, separate, biases)];
        items.extend(names.map(|n| Slot::new(format!("ssm_conv1d_{n}.weight"), [kernel, Dim(1), inner]).into()));
        let low_rank = |name: &str| {
            let mut items = linear(&format!("{name}_a"), input, head, Bias::Never);
            items.extend(linear(&format!("{name}_b"), head, inner, Bias::Never));
            items
        };
        items.extend(match self.projected {
            KdaInputs::Whole => linear("ssm_f_a", input, inner, Bias::Never),
            _ => low_rank("ssm_f"),
        });
        items.extend(linear("ssm_beta", input, heads, Bias::Never));
        items.push(Slot::new("ssm_a", if self.a_rows { vec![Dim(1), heads] } else { vec![heads] }).into());
        items.push(Slot::new("ssm_dt.bias", [inner]).into());
        items.extend(match self.projected {
            KdaInputs::LowRank => low_rank("ssm_g"),
            KdaInputs::WholeGate => linear("ssm_g", input, inner, Bias::Never),
            KdaInputs::Whole => linear("ssm_g_a", input, inner, Bias::Never),
        });
        items.push(Slot::new("ssm_norm.weight", [head]).into());
        items.extend(linear("attn_output", inner, input, Bias::Never));
        items
    }
}
