//! Mamba 1 and 2, and Jamba.

use super::rms_layer;
use crate::arch::{
    Arch, Attention, BASE, Bias, Dense, Dims, Experts, Gating, Keys, Kind, Layer, Mamba, Mamba2, Norm, Norms, step,
    trunk,
};

pub(super) const ROWS: &[Arch] = &[
    Arch {
        name: "mamba",
        keys: |k| {
            k.state_space(false);
            k.d.ssm_norms = k.bool("ssm.dt_b_c_rms").unwrap_or(false);
            k.rms();
        },
        stacks: &[trunk(|d, _| {
            // transformers' epsilon within the mixer of Falcon Mamba; llama.cpp takes that of the key.
            let plain_norms = d.ssm_norms.then_some(1e-6);
            mixer_layer(d, Mamba { input: d.embd, sizes: d.ssm, norms: None, plain_norms })
        })],
        recurrent: true,
        demand: twice_the_width,
        remark: "Mamba and Falcon Mamba, which normalizes B, C and the time step",
        ..BASE
    },
    Arch {
        name: "mamba2",
        keys: |k| {
            k.state_space(true);
            k.rms();
        },
        stacks: &[trunk(|d, _| mixer_layer(d, Mamba2 { conv_bias: Bias::Required, ..Mamba2::new(d) }))],
        recurrent: true,
        remark: "state spaces of heads, with a norm behind the gate",
        ..BASE
    },
    Arch {
        name: "jamba",
        keys: jamba_keys,
        stacks: &[trunk(jamba)],
        demand: twice_the_width,
        remark: "Mamba where a layer has no key-value heads, attention without positions elsewhere; experts",
        ..BASE
    },
];

fn mixer_layer(d: &Dims, mixer: impl Into<Kind>) -> Layer {
    Layer::new([step(Norm::rms(d, "attn_norm"), mixer)])
}

fn twice_the_width(d: &Dims) -> Option<String> {
    (d.embd * 2 != d.ssm.inner).then(|| format!("ssm.inner_size is {}, not twice {}", d.ssm.inner, d.embd))
}

fn jamba_keys(k: &mut Keys<'_>) {
    k.state_space(false);
    k.rms();
    k.d.recurrent = (0..k.d.layers()).map(|l| k.d.kv_heads(l) == 0).collect();
}

fn jamba(d: &Dims, l: usize) -> Layer {
    let mixer: Kind = if d.recurrent(l) {
        let norms = Some(Norms { eps: d.rms_eps, suffix: ".weight" });
        Mamba { input: d.embd, sizes: d.ssm, norms, plain_norms: None }.into()
    } else {
        Attention::square(d, l).into()
    };
    if d.has(l, "ffn_gate_inp.weight") {
        rms_layer(d, mixer, Experts::new(d, 0, d.ff(0)).gating(Gating::Softmax, false))
    } else {
        rms_layer(d, mixer, Dense::gated(d, d.ff(0)))
    }
}
