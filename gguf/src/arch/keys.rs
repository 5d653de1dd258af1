//! Reading a model's keys as llama.cpp's loader reads them: which must be there, of which type, and what holds where one
//! is absent.

use std::collections::{HashMap, HashSet};

use super::dim::Dim;
use super::dims::{Dims, Own, Scaling, StateSpace, WindowKind};
use super::{Arch, Fault, FaultKind};
use crate::value::{Value, ValueType};

/// Most layers that llama.cpp loads.
pub const MAX_LAYERS: usize = 512;
/// Most experts that llama.cpp loads.
const MAX_EXPERTS: u64 = 1024;

/// Reads keys into [`Dims`] and keeps what is wrong with them.
pub struct Keys<'a> {
    get: &'a dyn Fn(&str) -> Option<&'a Value>,
    /// What was read so far.
    pub d: Dims,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(
        arch: &'static Arch,
        get: &'a dyn Fn(&str) -> Option<&'a Value>,
        shapes: HashMap<String, Vec<u64>>,
        any_size: bool,
    ) -> Keys<'a> {
        Keys { get, d: Dims { any_size, ..unset(arch.name, shapes) }, faults: Vec::new() }
    }

    /// The architecture's key of this name. Names of the tokenizer and xIELU's have no prefix.
    fn key(&self, name: &str) -> String {
        if name.starts_with("tokenizer.") || name.starts_with("xielu.") {
            name.to_owned()
        } else {
            format!("{}.{name}", self.d.arch)
        }
    }

    fn value(&mut self, name: &str) -> Option<&'a Value> {
        let key = self.key(name);
        let value = (self.get)(&key);
        self.d.read.insert(key);
        value
    }

    /// Records that a key is missing, of a wrong type or impossible.
    pub fn fault(&mut self, kind: FaultKind, name: &str, message: impl Into<String>) {
        let key = self.key(name);
        self.faults.push(Fault { kind, subject: key, message: message.into() });
    }

    /// Records a rule between keys that does not hold.
    pub fn demand(&mut self, holds: bool, name: &str, rule: &str) {
        if !holds {
            let key = self.key(name);
            self.fault(FaultKind::Range, name, format!("{key}: {rule}"));
        }
    }

    fn wrong(&mut self, name: &str, value: &Value, want: &str) {
        let key = self.key(name);
        self.fault(FaultKind::KeyType, name, format!("{key} is of type {}, not {want}", value.value_type()));
    }

    fn required<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        let key = self.key(name);
        if value.is_none() && !self.faults.iter().any(|f| f.subject == key) {
            self.fault(FaultKind::KeyMissing, name, format!("{key} is missing"));
        }
        value
    }

    /// A count.
    pub fn u32(&mut self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::U32(n) => Some(u64::from(*n)),
            other => {
                self.wrong(name, other, "u32");
                None
            }
        }
    }

    /// A count that must be there.
    pub fn need_u32(&mut self, name: &str) -> Dim {
        let value = self.u32(name);
        Dim(self.required(name, value).unwrap_or(0))
    }

    /// A count, or this where the key is absent.
    pub fn u32_or(&mut self, name: &str, otherwise: impl Into<Dim>) -> Dim {
        self.u32(name).map_or_else(|| otherwise.into(), Dim)
    }

    /// A float.
    pub fn f32(&mut self, name: &str) -> Option<f32> {
        match self.value(name)? {
            Value::F32(v) => Some(*v),
            other => {
                self.wrong(name, other, "f32");
                None
            }
        }
    }

    /// A float that must be there.
    pub fn need_f32(&mut self, name: &str) -> f32 {
        let value = self.f32(name);
        self.required(name, value).unwrap_or(0.0)
    }

    /// A float, or this where the key is absent.
    pub fn f32_or(&mut self, name: &str, otherwise: f32) -> f32 {
        self.f32(name).unwrap_or(otherwise)
    }

    /// A boolean.
    pub fn bool(&mut self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Value::Bool(b) => Some(*b),
            other => {
                self.wrong(name, other, "bool");
                None
            }
        }
    }

    /// A boolean that must be there.
    pub fn need_bool(&mut self, name: &str) -> bool {
        let value = self.bool(name);
        self.required(name, value).unwrap_or(false)
    }

    /// A count that the loader does not read: one of another type is not there.
    pub fn unread_u32(&mut self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::U32(n) => Some(u64::from(*n)),
            _ => None,
        }
    }

    /// A float that the loader does not read.
    pub fn unread_f32(&mut self, name: &str) -> Option<f32> {
        match self.value(name)? {
            Value::F32(v) => Some(*v),
            _ => None,
        }
    }

    /// Floats that the loader does not read.
    pub fn unread_f32s(&mut self, name: &str) -> Option<Vec<f32>> {
        self.value(name)?.as_array()?.to_f32s()
    }

    /// What is said of windows where there are none.
    pub fn no_windows(&mut self) {
        self.unused(&["attention.sliding_window_pattern", "rope.freq_base_swa"]);
    }

    /// A string.
    pub fn str(&mut self, name: &str) -> Option<String> {
        let value = self.value(name)?;
        match value.as_str() {
            Some(s) => Some(s.to_owned()),
            None => {
                self.wrong(name, value, "string");
                None
            }
        }
    }

    /// The length of an array.
    pub fn array_len(&mut self, name: &str) -> Option<u64> {
        let value = self.value(name)?;
        match value.as_array() {
            Some(array) => Some(array.len()),
            None => {
                self.wrong(name, value, "array");
                None
            }
        }
    }

    /// A count for all layers, or an array with one for each of `len`.
    pub fn u32s(&mut self, name: &str, len: usize) -> Option<Vec<Dim>> {
        let value = self.value(name)?;
        match value {
            Value::U32(n) => Some(vec![Dim(u64::from(*n)); len]),
            Value::Array(_) => self.whole_array(name, value, len).map(|all| all.into_iter().map(Dim).collect()),
            other => {
                self.wrong(name, other, "u32 or an array of u32");
                None
            }
        }
    }

    /// The same, which must be there.
    pub fn need_u32s(&mut self, name: &str, len: usize) -> Vec<Dim> {
        let value = self.u32s(name, len);
        self.required(name, value).unwrap_or_default()
    }

    /// An i32 for all of `len`, or an array of so many.
    pub fn i32s(&mut self, name: &str, len: usize) -> Option<Vec<i64>> {
        let value = self.value(name)?;
        match value {
            Value::I32(n) => Some(vec![i64::from(*n); len]),
            Value::Array(_) => {
                self.whole_array(name, value, len).map(|all| all.into_iter().map(|n| n as i64).collect())
            }
            other => {
                self.wrong(name, other, "i32 or an array of i32");
                None
            }
        }
    }

    fn whole_array(&mut self, name: &str, value: &Value, len: usize) -> Option<Vec<u64>> {
        let numbers = self.numbers(name, value)?;
        if numbers.len() != len {
            let key = self.key(name);
            let message = format!("{key} has {} elements, not {len}", numbers.len());
            self.fault(FaultKind::ArrayLength, name, message);
            return None;
        }
        Some(numbers)
    }

    /// The whole numbers of an array of u32, i32 or bool.
    fn numbers(&mut self, name: &str, value: &Value) -> Option<Vec<u64>> {
        let array = value.as_array()?;
        if !matches!(array.element_type(), ValueType::U32 | ValueType::I32 | ValueType::Bool) {
            let key = self.key(name);
            let message = format!("{key} is an array of {}, not of u32, i32 or bool", array.element_type());
            self.fault(FaultKind::KeyType, name, message);
            return None;
        }
        // Bounded by the file, whose arrays were validated when it was read.
        Some(
            array
                .iter()
                .map(|v| v.as_i64().map_or_else(|| u64::from(v.as_bool() == Some(true)), |n| n as u64))
                .collect(),
        )
    }

    /// An array of whole numbers; a single number reads as absent.
    pub fn array(&mut self, name: &str) -> Option<Vec<u64>> {
        let value = self.value(name)?;
        value.as_array()?;
        self.numbers(name, value)
    }

    /// The same, which must be there.
    pub fn need_array(&mut self, name: &str) -> Vec<u64> {
        let value = self.array(name);
        self.required(name, value).unwrap_or_default()
    }

    /// An array of 64-bit numbers; a single number reads as absent.
    pub fn u64_array(&mut self, name: &str) -> Option<Vec<u64>> {
        let value = self.value(name)?;
        let array = value.as_array()?;
        if array.element_type() != ValueType::U64 {
            let key = self.key(name);
            self.fault(FaultKind::KeyType, name, format!("{key} is an array of {}, not of u64", array.element_type()));
            return None;
        }
        array.to_u64s()
    }

    /// A float for all layers, or an array with one for each of `len`.
    pub fn f32s(&mut self, name: &str, len: usize) -> Option<Vec<f32>> {
        let value = self.value(name)?;
        match value {
            Value::F32(v) => Some(vec![*v; len]),
            Value::Array(array) if array.element_type() == ValueType::F32 => {
                let all = array.to_f32s().unwrap_or_default();
                if all.len() != len {
                    let key = self.key(name);
                    let message = format!("{key} has {} elements, not {len}", all.len());
                    self.fault(FaultKind::ArrayLength, name, message);
                    return None;
                }
                Some(all)
            }
            other => {
                self.wrong(name, other, "f32 or an array of f32");
                None
            }
        }
    }

    /// The same, which must be there.
    pub fn need_f32s(&mut self, name: &str, len: usize) -> Vec<f32> {
        let value = self.f32s(name, len);
        self.required(name, value).unwrap_or_default()
    }

    /// Keeps a number that only this family has, under its key.
    pub fn keep(&mut self, key: &'static str, value: Own) {
        self.d.own.insert(key, value);
    }

    /// Reads and keeps a count that only this family has.
    pub fn own_u32(&mut self, key: &'static str) {
        if let Some(n) = self.u32(key) {
            self.keep(key, Own::Count(n));
        }
    }

    /// The same, which must be there.
    pub fn own_need_u32(&mut self, key: &'static str) {
        let n = self.need_u32(key);
        self.keep(key, Own::Count(n.get()));
    }

    /// Reads and keeps a float that only this family has.
    pub fn own_f32(&mut self, key: &'static str) {
        if let Some(v) = self.f32(key) {
            self.keep(key, Own::Float(v));
        }
    }

    /// The same, which must be there.
    pub fn own_need_f32(&mut self, key: &'static str) {
        let v = self.need_f32(key);
        self.keep(key, Own::Float(v));
    }

    /// Names keys that converters write and that change nothing.
    pub fn unused(&mut self, names: &[&str]) {
        for name in names {
            let key = self.key(name);
            self.d.read.insert(key);
        }
    }

    // What most architectures share.

    /// The epsilon of norms by the root of the mean square, which must be there; some converters write the other too.
    pub fn rms(&mut self) {
        self.d.rms_eps = self.need_f32("attention.layer_norm_rms_epsilon");
        self.unused(&["attention.layer_norm_epsilon"]);
    }

    /// The epsilon of norms by mean and variance, which must be there; some converters write the other too.
    pub fn layer_norm(&mut self) {
        self.d.norm_eps = self.need_f32("attention.layer_norm_epsilon");
        self.unused(&["attention.layer_norm_rms_epsilon"]);
    }

    /// Feed-forward length of experts, for all layers or one a layer.
    pub fn expert_ff(&mut self) {
        let len = self.d.layers_all;
        if let Some(all) = self.u32s("expert_feed_forward_length", len) {
            self.d.expert_ff = all;
        }
    }

    /// The same, which must be there.
    pub fn need_expert_ff(&mut self) {
        let len = self.d.layers_all;
        self.d.expert_ff = self.need_u32s("expert_feed_forward_length", len);
    }

    /// Sizes of a state space; `groups` where the architecture has them.
    pub fn state_space(&mut self, groups: bool) {
        self.d.ssm = StateSpace {
            kernel: self.need_u32("ssm.conv_kernel"),
            inner: self.need_u32("ssm.inner_size"),
            state: self.need_u32("ssm.state_size"),
            rank: self.need_u32("ssm.time_step_rank"),
            groups: if groups { self.need_u32("ssm.group_count") } else { Dim(0) },
        };
    }

    /// Which layers are windowed: the array `attention.sliding_window_pattern`, or every n-th is not, n from the same
    /// key or this.
    pub fn window_pattern(&mut self, period: u64, dense_first: bool) {
        let name = "attention.sliding_window_pattern";
        match self.array(name) {
            Some(all) => self.d.windowed = all.iter().map(|&n| n != 0).collect(),
            None => {
                let n = self.u32(name).unwrap_or(period);
                self.d.set_window_pattern(n, dense_first);
            }
        }
    }

    /// Which layers are windowed: the array `attention.sliding_window_pattern`, which must be there.
    pub fn need_window_list(&mut self) {
        let name = "attention.sliding_window_pattern";
        let list = self.array(name);
        let list = self.required(name, list).unwrap_or_default();
        self.d.windowed = list.iter().map(|&n| n != 0).collect();
    }

    /// Windowed layers rotate as the others do, unless `rope.freq_base_swa` says otherwise.
    pub fn windowed_rope_as_others(&mut self) {
        self.d.rope_scale_windowed = self.d.rope_scale;
        self.d.rope_base_windowed = self.f32("rope.freq_base_swa").unwrap_or(self.d.rope_base);
    }

    /// Layers rotate unless `rope.scaling.finetuned` is false.
    pub fn rotates_by_finetuned(&mut self) {
        self.d.rope_finetuned = self.bool("rope.scaling.finetuned").unwrap_or(true);
        self.d.rotates = vec![self.d.rope_finetuned; self.d.layers_all];
    }

    /// The length of experts that all tokens share.
    pub fn shared_ff(&mut self) {
        self.d.shared_ff = self.u32_or("expert_shared_feed_forward_length", 0);
    }

    /// Heads, their length and the number of chosen tokens of an indexer, which must be there.
    pub fn indexer(&mut self) {
        super::sparse::KEYS.iter().for_each(|key| self.own_need_u32(key));
    }

    /// Which layers have an indexer of their own, or these where no key says so.
    pub fn indexer_types(&mut self, otherwise: fn(usize) -> bool) {
        let name = super::sparse::TYPES;
        let trunk = self.d.layers();
        let types = match self.u32s(name, trunk) {
            Some(types) => types.iter().map(|t| t.get()).collect(),
            None => (0..trunk).map(|l| otherwise(l).into()).collect(),
        };
        self.keep(name, Own::Counts(types));
    }

    /// Limits of SwiGLU, for all layers or one a layer.
    pub fn swiglu_limits(&mut self, key: &'static str) {
        if let Some(limits) = self.f32s(key, self.d.layers_all) {
            self.keep(key, Own::Floats(limits));
        }
    }

    /// Layers of the trunk without key-value heads are recurrent.
    pub fn recurrent_without_kv(&mut self) {
        let trunk = self.d.layers();
        self.d.recurrent = (0..self.d.layers_all).map(|l| l < trunk && self.d.kv_heads(l) == 0).collect();
    }

    /// Rotation by sections of the dimensions.
    pub fn rope_sections(&mut self) {
        if let Some(all) = self.i32s("rope.dimension_sections", 4) {
            self.d.rope_sections.copy_from_slice(&all);
        }
    }

    /// The same, which must be there.
    pub fn need_rope_sections(&mut self) {
        let all = self.i32s("rope.dimension_sections", 4);
        if let Some(all) = self.required("rope.dimension_sections", all) {
            self.d.rope_sections.copy_from_slice(&all);
        }
    }

    /// How experts are chosen and weighted: the keys that most mixtures have, all optional.
    pub fn expert_weights(&mut self) {
        self.expert_scale();
        self.expert_norm();
        self.expert_gating();
    }

    /// `expert_weights_scale`.
    pub fn expert_scale(&mut self) {
        self.d.expert_weights_scale = self.f32_or("expert_weights_scale", 0.0);
    }

    /// `expert_weights_norm`.
    pub fn expert_norm(&mut self) {
        self.d.expert_weights_norm = self.bool("expert_weights_norm").unwrap_or(false);
    }

    /// `expert_gating_func`.
    pub fn expert_gating(&mut self) {
        self.d.expert_gating = self.u32("expert_gating_func").unwrap_or(0);
    }

    /// The leading layers without experts.
    pub fn dense_lead(&mut self) {
        self.d.dense_lead = self.u32("leading_dense_block_count").map_or(0, |n| Dim(n).len());
    }

    /// The same, which must be there.
    pub fn need_dense_lead(&mut self) {
        self.d.dense_lead = self.need_u32("leading_dense_block_count").len();
    }

    /// Reads what every architecture has, in the loader's order.
    pub(super) fn common(&mut self, arch: &Arch) {
        self.d.context = self.need_u32("context_length");
        self.d.embd = self.need_u32("embedding_length");
        self.d.embd_out = self.u32_or("embedding_length_out", 0);
        self.d.causal = self.bool("attention.causal").unwrap_or(true);
        self.d.pooling = self.u32("pooling_type").map_or(-1, |n| n as i64);
        self.d.classifier_pooling = self.u32("classifier.pooling_type").map_or(-1, |n| n as i64);
        let layers = self.need_u32("block_count");
        let fits = layers > 0 && layers <= MAX_LAYERS as u64;
        self.demand(fits, "block_count", &format!("{layers} layers; 1 to {MAX_LAYERS} are possible"));
        self.d.layers_all = if fits { layers.len() } else { 0 };
        let nextn = self.u32_or("nextn_predict_layers", 0);
        self.demand(
            nextn <= layers,
            "nextn_predict_layers",
            &format!("{nextn} of {layers} layers cannot be of multi-token prediction"),
        );
        self.d.nextn = nextn.len().min(self.d.layers_all);
        self.experts(arch);
        (arch.early)(self);
        let all = self.d.layers_all;
        self.d.rotates = vec![true; all];
        self.d.recurrent = vec![arch.recurrent; all];
        self.d.windowed = vec![false; all];
        self.d.ff = self.u32s("feed_forward_length", all).unwrap_or_default();
        self.d.heads = self.u32s("attention.head_count", all).unwrap_or_default();
        self.d.kv_heads = self.u32s("attention.head_count_kv", all).unwrap_or_else(|| self.d.heads.clone());
        self.d.rope_finetuned = self.bool("rope.scaling.finetuned").unwrap_or(false);
        self.d.original_context = self.u32_or("rope.scaling.original_context_length", self.d.context);
        self.d.rope_base = self.f32_or("rope.freq_base", 10_000.0);
        self.rope_scaling();
        self.d.rope_attn_factor = self.f32_or("rope.scaling.attn_factor", 1.0);
        self.f32("rope.scaling.alpha");
        self.heads(arch);
        if let Some(n) = self.array_len("classifier.output_labels") {
            self.d.labels = n;
        }
        self.vocabulary();
    }

    fn experts(&mut self, arch: &Arch) {
        let mut count = self.u32_or("expert_count", 0);
        let all = self.d.layers_all;
        let mut used = self.u32s("expert_used_count", all).unwrap_or_default();
        let groups = self.u32_or("expert_group_count", 0);
        let groups_used = self.u32_or("expert_group_used_count", 0);
        if arch.one_expert_is_none && count <= 1 {
            count = Dim(0);
            used.clear();
        }
        let most = used.iter().copied().max().unwrap_or_default();
        self.demand(count <= MAX_EXPERTS, "expert_count", &format!("{count} experts; {MAX_EXPERTS} at most"));
        self.demand(most <= count, "expert_used_count", &format!("{most} of {count} experts cannot be used"));
        if count > 0 {
            self.demand(most > 0, "expert_used_count", &format!("a token uses none of {count} experts"));
            let rule = format!("{groups} groups of {count} experts, {groups_used} of them used, are impossible");
            let fits =
                groups < count && (groups <= 1 || count % groups == 0 && groups_used > 0 && groups_used < groups);
            self.demand(fits, "expert_group_count", &rule);
        } else {
            self.demand(most == 0, "expert_used_count", "there are no experts to use");
            self.demand(groups == 0, "expert_group_count", "there are no experts to form groups");
        }
        self.d.experts = count;
        self.d.experts_used = used;
        self.d.expert_groups = groups;
        self.d.expert_groups_used = groups_used;
    }

    fn rope_scaling(&mut self) {
        let name = self.str("rope.scaling.type");
        self.d.rope_scaling = match name.as_deref() {
            None | Some("linear") => Scaling::Linear,
            Some("none") => Scaling::None,
            Some("yarn") => Scaling::Yarn,
            Some("longrope") => Scaling::LongRope,
            Some(other) => {
                let message = format!("rope.scaling.type is \"{}\", not none, linear, yarn or longrope", quoted(other));
                self.fault(FaultKind::Scaling, "rope.scaling.type", message);
                Scaling::None
            }
        };
        self.d.rope_scaling_windowed = self.d.rope_scaling;
        let factor = self.f32("rope.scaling.factor").or_else(|| self.f32("rope.scale_linear"));
        let factor = factor.filter(|f| *f != 0.0);
        self.d.rope_scale = factor.map_or(1.0, |f| 1.0 / f);
        // Read where the context is made, from any architecture.
        self.d.yarn_ext_factor = self.f32_or("rope.scaling.yarn_ext_factor", -1.0);
        self.d.yarn_attn_factor = self.f32_or("rope.scaling.yarn_attn_factor", 1.0);
        self.d.yarn_beta_fast = self.f32_or("rope.scaling.yarn_beta_fast", 32.0);
        self.d.yarn_beta_slow = self.f32_or("rope.scaling.yarn_beta_slow", 1.0);
    }

    fn heads(&mut self, arch: &Arch) {
        let heads = self.d.heads(0);
        if heads > 0 {
            let quotient = self.d.embd / heads;
            self.d.key_len = self.u32_or("attention.key_length", quotient);
            self.d.value_len = self.u32_or("attention.value_length", quotient);
            self.d.rot = self.u32_or("rope.dimension_count", self.d.key_len);
            if arch.rotates_whole_heads && self.d.rot != self.d.key_len {
                let (rot, key) = (self.d.rot, self.d.key_len);
                let message = format!("{rot} rotated dimensions, where {} rotates the whole head of {key}", arch.name);
                self.fault(FaultKind::Rotation, "rope.dimension_count", message);
            }
        }
        self.d.key_len_windowed = self.u32_or("attention.key_length_swa", self.d.key_len);
        self.d.value_len_windowed = self.u32_or("attention.value_length_swa", self.d.value_len);
        self.d.rot_windowed = self.u32_or("rope.dimension_count_swa", self.d.rot);
    }

    fn vocabulary(&mut self) {
        let listed = (self.get)("tokenizer.ggml.tokens").and_then(Value::as_array).map(crate::Array::len);
        let said = self.u32("vocab_size");
        self.d.vocab = Dim(listed.or(said).unwrap_or(0));
        let types = (self.get)("tokenizer.ggml.token_type_count").and_then(Value::as_u64);
        self.d.token_types = Dim(types.unwrap_or(0));
    }
}

/// A string of a file for a message.
fn quoted(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// The hyperparameters before any key is read.
fn unset(arch: &'static str, shapes: HashMap<String, Vec<u64>>) -> Dims {
    let none = Dim(0);
    Dims {
        arch,
        shapes,
        any_size: false,
        read: HashSet::new(),
        vocab: none,
        token_types: none,
        context: none,
        embd: none,
        embd_out: none,
        labels: 0,
        layers_all: 0,
        nextn: 0,
        decoder_layers: 0,
        heads: Vec::new(),
        kv_heads: Vec::new(),
        ff: Vec::new(),
        key_len: none,
        value_len: none,
        key_len_windowed: none,
        value_len_windowed: none,
        rot: none,
        rot_windowed: none,
        experts: none,
        experts_used: Vec::new(),
        experts_shared: none,
        expert_groups: none,
        expert_groups_used: none,
        experts_per_group: none,
        expert_ff: Vec::new(),
        shared_ff: none,
        chunk_ff: none,
        dense_lead: 0,
        expert_weights_scale: 0.0,
        expert_weights_norm: false,
        expert_gating: 0,
        expert_group_scale: 0.05,
        expert_every: 0,
        expert_latent: none,
        causal: true,
        pooling: -1,
        classifier_pooling: -1,
        norm_eps: 0.0,
        rms_eps: 0.0,
        group_eps: 0.0,
        norm_groups: none,
        window_kind: WindowKind::None,
        window: none,
        windowed: Vec::new(),
        recurrent: Vec::new(),
        own_kv_layers: None,
        rope_finetuned: false,
        rope_base: 10_000.0,
        rope_base_windowed: 10_000.0,
        rope_scale: 1.0,
        rope_scale_windowed: 1.0,
        rope_scaling: Scaling::Linear,
        rope_scaling_windowed: Scaling::Linear,
        rotates: Vec::new(),
        rope_sections: [0; 4],
        rope_attn_factor: 1.0,
        original_context: none,
        yarn_ext_factor: -1.0,
        yarn_attn_factor: 1.0,
        yarn_beta_fast: 32.0,
        yarn_beta_slow: 1.0,
        yarn_log_mul: 0.0,
        q_rank: none,
        kv_rank: none,
        key_len_mla: none,
        value_len_mla: none,
        ssm: StateSpace::default(),
        ssm_norms: false,
        shortconv: none,
        wkv_head: none,
        token_shift: Dim(2),
        clamp_qkv: 0.0,
        alibi_bias: 0.0,
        use_alibi: false,
        attn_softcap: 0.0,
        final_softcap: 0.0,
        logit_scale: 0.0,
        residual_scale: 0.0,
        embedding_scale: 0.0,
        attention_scale: 0.0,
        parallel_residual: false,
        relative_buckets: none,
        per_layer_embd: none,
        own: HashMap::new(),
    }
}
