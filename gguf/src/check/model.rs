//! The view of a whole model that the model's rules share: the keys of the first shard, the tensors of all.

use std::collections::HashMap;
use std::path::Path;

use super::finding::{Place, Rule, Sink};
use super::scan::{Scan, Tensor};
use super::splits::Shard;
use crate::value::Value;

pub(super) struct Model<'a> {
    pub(super) first: &'a Scan,
    /// Each tensor with its file.
    pub(super) tensors: Vec<(&'a Path, &'a Tensor)>,
    pub(super) by_name: HashMap<&'a str, &'a Tensor>,
    pub(super) arch: &'a str,
    /// `general.type`, by default a model.
    pub(super) kind: &'a str,
}

impl<'a> Model<'a> {
    pub(super) fn new(shards: &'a [Shard]) -> Model<'a> {
        let first = &shards[0].scan;
        let tensors: Vec<_> =
            shards.iter().flat_map(|s| s.scan.tensors.iter().map(|t| (s.path.as_path(), t))).collect();
        let by_name = tensors.iter().map(|&(_, t)| (t.name.as_str(), t)).collect();
        let text = |key| first.get(key).and_then(Value::as_str);
        Model {
            first,
            tensors,
            by_name,
            arch: text("general.architecture").unwrap_or(""),
            kind: text("general.type").unwrap_or("model"),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.first.get(key)
    }

    /// A key of the architecture.
    pub(super) fn own(&self, suffix: &str) -> Option<&'a Value> {
        self.first.get(&self.own_key(suffix))
    }

    pub(super) fn own_key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    /// A key of the architecture that is a single number.
    pub(super) fn number(&self, suffix: &str) -> Option<u64> {
        self.own(suffix)?.as_u64()
    }

    /// A breach by a key, whether or not the key is there.
    pub(super) fn fault(&self, sink: &mut Sink<'_>, rule: &'static Rule, key: &str, message: std::fmt::Arguments<'_>) {
        let place = self.first.at(key).map_or(Place::absent_key(key), |at| Place::key(at, key));
        sink.add(rule, place, message);
    }

    /// A breach by a tensor.
    pub(super) fn tensor_fault(
        &self,
        sink: &mut Sink<'_>,
        rule: &'static Rule,
        (path, tensor): (&Path, &Tensor),
        message: std::fmt::Arguments<'_>,
    ) {
        sink.enter(path);
        sink.add(rule, Place::tensor(tensor.at, &tensor.name), message);
        sink.enter(self.tensors.first().map_or(path, |t| t.0));
    }
}
