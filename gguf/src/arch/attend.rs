//! Attention as families of loaders describe it: which lengths they take from the first layer, and what a layer adds.

use super::dim::Dim;
use super::dims::{Dims, WindowKind};
use super::slot::Need;
use super::step::{Attention, HeadNorm, HeadNorms, NormKind};

impl Attention {
    /// The same where the loader takes the length of values for that of keys too.
    pub fn grouped(d: &Dims, l: usize) -> Attention {
        let mut a = Attention::uniform(d, l);
        a.rows[1] = a.rows[2];
        a
    }

    /// The same where the loader takes the model's width for the length of all queries too.
    pub fn wide(d: &Dims, l: usize) -> Attention {
        Attention::square(d, 0).at(d, l)
    }

    /// The same with what layer `l` has besides lengths: its window, keys and values of its own or not.
    #[must_use]
    pub fn at(mut self, d: &Dims, l: usize) -> Attention {
        let there = Attention::new(d, l);
        self.need = there.need;
        self.own_kv = there.own_kv;
        self.windowed_rope = there.windowed_rope;
        self.window = there.window;
        self
    }

    /// The same with these numbers of heads in place of the first layer's.
    #[must_use]
    pub fn heads(mut self, heads: Dim, kv_heads: Dim) -> Attention {
        (self.heads, self.kv_heads) = (heads, kv_heads);
        let (key, value) = (self.key_len, self.value_len);
        self.rows = [heads * key, kv_heads * key, kv_heads * value, heads * value];
        self
    }

    /// The same with the rotation that layers without windows have, windowed or not.
    #[must_use]
    pub fn usual_rope(mut self) -> Attention {
        self.windowed_rope = false;
        self
    }

    /// The same, positions unscaled where the layer has a window.
    #[must_use]
    pub fn plain_rope_in_windows(mut self, d: &Dims, l: usize) -> Attention {
        self.windowed_rope = false;
        self.plain_rope = d.windowed(l);
        self
    }

    /// The same with a window that the loader does not know of.
    #[must_use]
    pub fn window(mut self, kind: WindowKind, len: Dim) -> Attention {
        self.window = if len > 0 { (kind, len) } else { (WindowKind::None, Dim(0)) };
        self
    }

    /// The same with its scores multiplied with this.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Attention {
        self.scale = scale;
        self
    }

    /// The same with norms of queries and keys, this one over this much, before the rotation and without biases.
    #[must_use]
    pub fn norms(mut self, kind: NormKind, query: HeadNorm) -> Attention {
        self.norms = Some(HeadNorms { kind, query, ..HeadNorms::PLAIN });
        self
    }

    /// The same with its norms changed.
    #[must_use]
    pub fn with_norms(mut self, change: impl FnOnce(&mut HeadNorms)) -> Attention {
        if let Some(norms) = &mut self.norms {
            change(norms);
        }
        self
    }

    /// The same with its norms behind the rotation.
    #[must_use]
    pub fn norms_after_rotation(self) -> Attention {
        self.with_norms(|n| n.after_rotation = true)
    }

    /// The same with its projections where the file has them.
    #[must_use]
    pub fn optional(mut self) -> Attention {
        self.need = Need::Optional;
        self
    }
}
