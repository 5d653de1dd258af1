//! A model's weights, some of them replaced: what the search has chosen so far.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gguf::{Error, Result, TensorInfo};

use crate::device::Device;
use crate::weights::{Matrix, Weights};

/// A tensor's new type and bytes.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Name, shape and new type.
    pub info: TensorInfo,
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// What a folder stores of it, where it goes into one.
    pub coded: Option<Arc<Vec<u8>>>,
}

impl Chosen {
    /// What is kept of it on disk.
    pub fn stored(&self) -> &[u8] {
        self.coded.as_ref().unwrap_or(&self.bytes)
    }
}

/// Weights of which some are replaced. A run can be stopped at some of its products.
pub struct Overlay<'a> {
    base: &'a dyn Weights,
    chosen: HashMap<usize, Chosen>,
    stops: HashSet<usize>,
    stopped: AtomicBool,
}

impl<'a> Overlay<'a> {
    /// The weights as they are.
    pub fn new(base: &'a dyn Weights) -> Overlay<'a> {
        Overlay { base, chosen: HashMap::new(), stops: HashSet::new(), stopped: AtomicBool::new(false) }
    }

    /// Replaces a tensor.
    pub fn replace(&mut self, tensor: usize, chosen: Chosen) {
        self.chosen.insert(tensor, chosen);
    }

    /// Puts a tensor back to what it was.
    pub fn restore(&mut self, tensor: usize) {
        self.chosen.remove(&tensor);
    }

    /// What a tensor was replaced with.
    pub fn chosen(&self, tensor: usize) -> Option<&Chosen> {
        self.chosen.get(&tensor)
    }

    /// Products with these tensors end the run; none do where the list is empty.
    pub fn stop_at(&mut self, tensors: &[usize]) {
        self.stops = tensors.iter().copied().collect();
        self.stopped.store(false, Ordering::Relaxed);
    }

    /// Whether a run ended at such a product; forgets it.
    pub fn was_stopped(&self) -> bool {
        self.stopped.swap(false, Ordering::Relaxed)
    }
}

impl Weights for Overlay<'_> {
    fn tensors(&self) -> &[TensorInfo] {
        self.base.tensors()
    }

    fn matrix(&self, tensor: usize) -> Result<Matrix<'_>> {
        if self.stops.contains(&tensor) {
            let info = &self.base.tensors()[tensor];
            let stop = move |_: std::ops::Range<usize>, _: &mut [f32]| {
                self.stopped.store(true, Ordering::Relaxed);
                Err(Error::usage("the run ends here"))
            };
            return Ok(Matrix::from_fn(
                info.name(),
                info.rows() as usize,
                info.shape().row_len() as usize,
                Arc::new(stop),
            ));
        }
        match self.chosen.get(&tensor) {
            Some(chosen) => {
                let matrix = Matrix::from_bytes(&chosen.info, Cow::Borrowed(&chosen.bytes))?;
                Ok(match self.base.device() {
                    Some(device) => matrix.on(device),
                    None => matrix,
                })
            }
            None => self.base.matrix(tensor),
        }
    }

    fn device(&self) -> Option<&Device> {
        self.base.device()
    }

    fn release(&self, tensor: usize) {
        if !self.chosen.contains_key(&tensor) {
            self.base.release(tensor);
        }
    }
}
