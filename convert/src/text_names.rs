//! What the tensors of a checkpoint are called without what wrappers put in front.

use std::ops::Range;

use gguf::Result;

use crate::config::Config;
use crate::hf::Class;
use crate::names::{self, Renamed};

/// What the tensors of the text model are called without what wrappers put in front.
#[derive(Debug)]
pub(crate) struct TextNames<'a> {
    class: &'static Class,
    config: &'a Config,
    /// The blocks after the layers.
    further: Range<u64>,
}

impl TextNames<'_> {
    pub(crate) fn new<'a>(class: &'static Class, config: &'a Config) -> Result<TextNames<'a>> {
        let blocks = config.blocks()?;
        let further = config.layers().unwrap_or(blocks).min(blocks)..blocks;
        Ok(TextNames { class, config, further })
    }

    /// The number of layers, before those of prediction.
    pub(crate) fn layers(&self) -> u64 {
        self.further.start
    }

    /// The names that a tensor has, none of them where it is of no use; nothing where it belongs to vision or
    /// audio.
    pub(crate) fn of(&self, name: &str) -> Option<Vec<Renamed>> {
        let name = name.strip_prefix(self.class.inner)?;
        if names::is_vision_or_audio(name) {
            return None;
        }
        let mut name = name.replace("language_model.", "");
        if name.ends_with("e_score_correction_bias") {
            name = name.replace("e_score_correction_bias", "e_score_correction.bias");
        }
        // The norms of old BERTs.
        for (old, new) in [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")] {
            if let Some(stem) = name.strip_suffix(old) {
                name = format!("{stem}{new}");
            }
        }
        let of_use = |renamed: &Renamed| {
            let unused = self.class.unused.iter().any(|beginning| renamed.name.starts_with(beginning));
            !unused && !names::is_buffer(&renamed.name)
        };
        if !self.class.keeps(self.config, &name) {
            return Some(Vec::new());
        }
        let renamed = names::replaced(self.class.prefixes, name, &self.further).into_iter();
        let renamed = renamed.filter_map(|Renamed { name, moved }| {
            Some(Renamed { name: (self.class.rename)(self.config, &name)?, moved })
        });
        Some(renamed.filter(of_use).collect())
    }
}
