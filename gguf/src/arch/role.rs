//! What a tensor is for, by the name that the format gives it, and what follows for its type.
//!
//! Names are the format's own and the same for all architectures, so this is one table, not one a row. It is what
//! llama.cpp's `llama-quant.cpp` and gguf-py's converter decide by.

/// What a tensor is for, as far as the choice of its type goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Role {
    Output,
    Embedding,
    AttnQ,
    AttnK,
    /// Values, and the fused tensors that hold them (`attn_qkv`, `attn_kv_b`).
    AttnV,
    AttnOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

/// Parts of a name that give a role away; the first that fits wins.
const ROLES: &[(&str, Role)] = &[
    ("attn_qkv.weight", Role::AttnV),
    ("attn_kv_b.weight", Role::AttnV),
    ("attn_v.weight", Role::AttnV),
    ("attn_k.weight", Role::AttnK),
    ("attn_q.weight", Role::AttnQ),
    ("attn_output.weight", Role::AttnOutput),
    ("ffn_up", Role::FfnUp),
    ("ffn_gate", Role::FfnGate),
    ("ffn_down", Role::FfnDown),
];

impl Role {
    /// The role of a tensor by its name.
    pub fn of(name: &str) -> Role {
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
            _ => ROLES.iter().find(|(part, _)| name.contains(part)).map_or(Role::Other, |r| r.1),
        }
    }
}

/// What kind of module a tensor is the weight of: what libraries that replace linear layers ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Module {
    /// A linear layer.
    Linear,
    /// The output embedding.
    Head,
    /// A table of which rows are looked up.
    Embedding,
    /// A router of experts.
    Router,
    /// Experts, stacked.
    Experts,
    /// A norm, a bias, a convolution, factors and the like.
    Other,
}

/// Parts of a name that give a module away; the first that fits wins. Everything else that is a matrix is a linear layer.
const MODULES: &[(&str, Module)] = &[
    ("_norm", Module::Other),
    ("conv1d", Module::Other),
    (".conv.weight", Module::Other),
    ("time_mix_", Module::Other),
    ("rope_f", Module::Other),
    ("nextn.embed_tokens", Module::Embedding),
    ("token_embd", Module::Embedding),
    ("position_embd", Module::Embedding),
    ("token_types", Module::Embedding),
    ("attn_rel_b", Module::Embedding),
    ("ffn_gate_inp_shexp", Module::Linear),
    ("ffn_gate_inp", Module::Router),
    ("ffn_gate_tid2eid", Module::Other),
    ("exps.", Module::Experts),
];

impl Module {
    /// The module of a tensor by its name and number of dimensions (without trailing ones).
    pub fn of(name: &str, dimensions: usize) -> Module {
        if name == "output.weight" {
            return Module::Head;
        }
        let (matrix, known) = (dimensions == 2, MODULES.iter().find(|(part, _)| name.contains(part)));
        match known {
            _ if !name.ends_with(".weight") => Module::Other,
            Some((_, module)) if *module != Module::Linear => *module,
            _ if matrix => Module::Linear,
            _ => Module::Other,
        }
    }
}

/// Names and parts of names of tensors that are never quantized: small, or too delicate.
const KEPT_NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];
#[rustfmt::skip]
const KEPT_PARTS: &[&str] = &[
    "_norm.weight",
    // The router of experts, and its table of tokens.
    "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight",
    // Gemma 3n.
    "altup", "laurel", "per_layer_model_proj",
    // Convolutions and small projections of recurrent and hybrid models.
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    // RWKV.
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight",
    "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight",
    "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // Relative positions (T5).
    "attn_rel_b.weight",
    // Images and sound.
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
];

/// Whether a tensor of this name and number of dimensions (without trailing ones) is ever quantized, in a model whose
/// row keeps these parts of names.
pub fn quantizes(name: &str, dimensions: usize, kept_parts: &[&str]) -> bool {
    let parts = || KEPT_PARTS.iter().chain(kept_parts);
    dimensions >= 2 && name.ends_with("weight") && !KEPT_NAMES.contains(&name) && !parts().any(|p| name.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_follow_names() {
        let of = |name| Module::of(name, 2);
        assert_eq!(of("blk.0.attn_q.weight"), Module::Linear);
        assert_eq!(of("blk.0.ffn_gate_inp_shexp.weight"), Module::Linear);
        assert_eq!(of("time_embd.weight"), Module::Linear);
        assert_eq!(of("blk.0.attn_q.scale"), Module::Other);
        assert_eq!(of("token_embd.weight"), Module::Embedding);
        assert_eq!(of("token_embd_norm.weight"), Module::Other);
        assert_eq!(of("output.weight"), Module::Head);
        assert_eq!(of("blk.0.ffn_gate_inp.weight"), Module::Router);
        assert_eq!(Module::of("blk.0.ffn_up_exps.weight", 3), Module::Experts);
        assert_eq!(of("blk.0.ssm_conv1d.weight"), Module::Other);
        assert_eq!(of("blk.0.shortconv.conv.weight"), Module::Other);
        assert_eq!(of("blk.0.shortconv.in_proj.weight"), Module::Linear);
        assert_eq!(Module::of("blk.0.attn_norm.weight", 1), Module::Other);
    }

    #[test]
    fn types_follow_names() {
        assert!(!quantizes("blk.3.ssm_conv1d.weight", 2, &[]) && quantizes("blk.3.attn_q.weight", 2, &[]));
        assert!(!quantizes("blk.3.hc_attn_fn.weight", 2, &["hc_"]));
    }
}
