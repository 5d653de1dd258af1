//! Which keys a query sees.

use gguf::arch::{Dim, WindowKind};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    pub(super) causal: bool,
    window: Option<(WindowKind, usize)>,
}

impl Sight {
    /// What a layer's window and its direction say.
    pub fn new((kind, len): (WindowKind, Dim), causal: bool) -> Sight {
        Sight { causal, window: (kind != WindowKind::None && len > 0).then(|| (kind, len.len())) }
    }

    /// Everything, in both directions: for keys that are chosen.
    pub(crate) fn all() -> Sight {
        Sight { causal: false, window: None }
    }

    /// Whether it looks back alone, and its window.
    pub fn told(self) -> (bool, WindowKind, usize) {
        let (kind, len) = self.window.unwrap_or((WindowKind::None, 0));
        (self.causal, kind, len)
    }

    /// The keys that a query at `position` sees, of `all`.
    pub fn of(self, position: usize, all: usize) -> (usize, usize) {
        let end = if self.causal { all.min(position + 1) } else { all };
        match self.window {
            None | Some((WindowKind::None, _)) => (0, end),
            Some((WindowKind::Sliding, n)) => ((position + 1).saturating_sub(n), end),
            Some((WindowKind::Chunked, n)) => (position / n * n, end),
            Some((WindowKind::Symmetric, n)) => (position.saturating_sub(n / 2), end.min(position + n / 2 + 1)),
        }
    }
}
