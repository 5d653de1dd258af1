//! The finished file.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use gguf::{Error, Result, Writer};
use quantize::bnb::chosen::Coded;
use quantize::plan::Plan;

use super::{Job, Outcome, Store};

/// A finished layer that was read: its number, and the bytes of its tensors.
type Layer = (usize, BTreeMap<usize, Vec<u8>>);

impl Job<'_> {
    /// Writes every tensor in the order of the plan: from the store, from what was chosen outside of the layers, or as
    /// the source has it. `plan` is the job's, with other metadata.
    ///
    /// # Errors
    /// What reading and writing meet.
    pub fn write<W: Write>(&self, plan: &Plan, store: &Store, outcome: &Outcome, out: W) -> Result<W> {
        let failed = |e| Error::new(gguf::ErrorKind::System, "cannot write the output").caused_by(e);
        let mut layer_of = HashMap::new();
        for (layer, finished) in store.finished().iter().enumerate() {
            finished.tensors.iter().for_each(|t| _ = layer_of.insert(t.0, layer));
        }
        let mut open: Option<Layer> = None;
        let mut writer = Writer::new(out, plan.layouts()?.remove(0)).map_err(failed)?;
        for tensor in &plan.tensors {
            let ours = |e: Error| e.in_tensor(tensor.info.name());
            if let Some(&layer) = layer_of.get(&tensor.source) {
                if open.as_ref().is_none_or(|o| o.0 != layer) {
                    open = Some((layer, store.read(layer)?.0.into_iter().collect()));
                }
                let bytes = open.as_ref().and_then(|o| o.1.get(&tensor.source));
                writer.write(bytes.map_or(&[][..], Vec::as_slice)).map_err(failed)?;
            } else if let Some(chosen) = outcome.ends.get(&tensor.source) {
                writer.write(&chosen.bytes).map_err(failed)?;
            } else if self.converts(tensor) {
                // Layers that are not run.
                writer.write(&self.plain(tensor, None)?.bytes).map_err(failed)?;
            } else {
                let rows = self.source.tensors()[tensor.source].rows();
                writer.write(&self.source.rows(tensor.source, 0..rows).map_err(ours)?).map_err(failed)?;
                self.source.release(tensor.source, 0..rows);
            }
        }
        writer.finish().map_err(failed)
    }

    /// Gives what a folder stores of each tensor.
    pub fn coded<'s>(&'s self, store: &'s Store) -> impl Fn(usize) -> Result<Option<Coded>> + Sync + 's {
        let layer_of: HashMap<usize, usize> = store
            .finished()
            .iter()
            .enumerate()
            .flat_map(|(layer, finished)| finished.tensors.iter().map(move |t| (t.0, layer)))
            .collect();
        let open: Mutex<Option<Layer>> = Mutex::new(None);
        move |tensor| {
            let Some(&layer) = layer_of.get(&tensor) else { return Ok(None) };
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.as_ref().is_none_or(|o| o.0 != layer) {
                *open = Some((layer, store.read(layer)?.0.into_iter().collect()));
            }
            let bytes = open.as_ref().and_then(|o| o.1.get(&tensor));
            let elements = self.source.tensors()[tensor].elements() as usize;
            Ok(bytes.map(|bytes| Coded::from_bytes(bytes, elements)))
        }
    }

    /// The plan of the plain file: the same types, with the importance that was measured.
    pub fn plain_plan(&self, outcome: &Outcome) -> Plan {
        let mut plan = self.plan.clone();
        for tensor in &mut plan.tensors {
            tensor.importance = outcome.importance.get(&tensor.source).map(|i| Arc::new(i.clone()));
        }
        plan
    }
}
