//! What stands before and behind a model's layers.

use super::altup::AltUpEnds;
use super::classifier::Classifier;
use super::dim::Dim;
use super::dims::Dims;
use super::per_layer::PerLayerInputs;
use super::residual::Residual;
use super::slot::{Bias, Item, Slot, bias, either, linear, optional};
use super::step::Norm;

/// The tensors before and behind the layers, and what is done there.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The norm behind the last layer, if there is one.
    pub norm: Option<Norm>,
    /// A norm behind the embeddings, if there is one.
    pub embedding_norm: Option<Norm>,
    /// All tensors but those of the norms.
    pub items: Vec<Item>,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// What logits are multiplied with.
    pub logit_scale: f32,
    /// Logits are squeezed into ± this; 0: not.
    pub logit_cap: f32,
    /// Tokens that are never predicted: their logits are the least there are.
    pub never: std::ops::Range<usize>,
    /// What the state behind the layers is read from, before the norm.
    pub residual: Residual,
    /// Whether the model gives logits.
    pub logits: bool,
    /// The first token that has a logit (more in one model of speech).
    pub first_logit: Dim,
    /// Whether a row of `position_embd` is added to each embedding, where the file has it.
    pub positions: bool,
    /// The row of a text's first token.
    pub first_position: usize,
    /// Whether the first row of `token_types` is added to each embedding, where the file has it.
    pub token_types: bool,
    /// How often the layers run, one pass after the other.
    pub loops: usize,
    /// Whether the last norm is applied between two passes too.
    pub loop_norm: bool,
    /// Inputs that layers get beside the stream.
    pub per_layer: Option<PerLayerInputs>,
    /// Several streams in place of one.
    pub altup: Option<AltUpEnds>,
    /// Matrices that a pooled state goes through, where the file has them.
    pub after_pooling: &'static [&'static str],
    /// What makes scores of a pooled state.
    pub classifier: Option<Classifier>,
}

impl Ends {
    /// Token embeddings, a norm by the root of the mean square, and an output matrix that may be the embeddings.
    pub fn tied(d: &Dims) -> Ends {
        Ends::of(d, Norm::rms(d, "output_norm")).with([output(d).optional().into()])
    }

    /// The same with an output matrix that must be there.
    pub fn untied(d: &Dims) -> Ends {
        Ends::of(d, Norm::rms(d, "output_norm")).with([output(d).into()])
    }

    /// The same without an output matrix: logits are products with the embeddings.
    pub fn embedding_only(d: &Dims) -> Ends {
        Ends::of(d, Norm::rms(d, "output_norm"))
    }

    /// Token embeddings and this norm.
    pub fn of(d: &Dims, norm: impl Into<Option<Norm>>) -> Ends {
        Ends {
            norm: norm.into(),
            embedding_norm: None,
            items: vec![Slot::new("token_embd.weight", [d.embd, d.vocab]).into()],
            embedding_scale: if d.embedding_scale == 0.0 { 1.0 } else { d.embedding_scale },
            logit_scale: if d.logit_scale == 0.0 { 1.0 } else { d.logit_scale },
            logit_cap: d.final_softcap,
            never: 0..0,
            residual: Residual::Stream,
            logits: true,
            first_logit: Dim(0),
            positions: false,
            first_position: 0,
            token_types: false,
            loops: 1,
            loop_norm: false,
            per_layer: None,
            altup: None,
            after_pooling: &[],
            classifier: None,
        }
    }

    /// The same with another last norm.
    #[must_use]
    pub fn norm(mut self, norm: impl Into<Option<Norm>>) -> Ends {
        self.norm = norm.into();
        self
    }

    /// The same with a norm behind the embeddings.
    #[must_use]
    pub fn embedding_norm(mut self, norm: Norm) -> Ends {
        self.embedding_norm = Some(norm);
        self
    }

    /// The same with more tensors.
    #[must_use]
    pub fn with(mut self, items: impl IntoIterator<Item = Item>) -> Ends {
        self.items.extend(items);
        self
    }

    /// The same with logits divided by `logit_scale` instead of multiplied.
    #[must_use]
    pub fn divided(mut self, d: &Dims) -> Ends {
        self.logit_scale = if d.logit_scale == 0.0 { 1.0 } else { 1.0 / d.logit_scale };
        self
    }

    /// The same with the state read from this.
    #[must_use]
    pub fn reads(mut self, residual: Residual) -> Ends {
        self.residual = residual;
        self
    }

    /// The same without logits: an encoder.
    #[must_use]
    pub fn hidden(mut self) -> Ends {
        self.logits = false;
        self
    }

    /// The same with learned positions.
    #[must_use]
    pub fn positions(mut self, d: &Dims, required: bool) -> Ends {
        self.positions = true;
        self.with([Slot::new("position_embd.weight", [d.embd, d.context]).needed(required).into()])
    }

    /// The same with learned kinds of tokens.
    #[must_use]
    pub fn token_types(mut self, d: &Dims, required: bool) -> Ends {
        self.token_types = true;
        self.with([Slot::new("token_types.weight", [d.embd, d.token_types]).needed(required).into()])
    }

    /// The same with a classifier.
    #[must_use]
    pub fn classifier(mut self, d: &Dims, classifier: Classifier) -> Ends {
        let items = classifier.items(d);
        self.classifier = Some(classifier);
        self.with(items)
    }

    /// The same with two matrices behind the pooling (Gemma's embedders); a length of 0 has no tensor that fits.
    #[must_use]
    pub fn dense_after_pooling(mut self, d: &Dims) -> Ends {
        self.after_pooling = &["dense_2", "dense_3"];
        let mut items = linear("dense_2", d.embd, d.count("dense_2_feat_out"), Bias::Never);
        items.extend(linear("dense_3", d.count("dense_3_feat_in"), d.embd, Bias::Never));
        self.with(optional(items))
    }

    /// The same with the factors of the rotation's frequencies that Llama 3 and long contexts have.
    #[must_use]
    pub fn rope_factors(self, d: &Dims) -> Ends {
        let half = d.rot(0) / 2;
        if d.rope_scaling == super::Scaling::LongRope { self.long_rope(half) } else { self.rope_freqs(half) }
    }

    /// The same with `rope_freqs`.
    #[must_use]
    pub fn rope_freqs(self, len: Dim) -> Ends {
        self.with([Slot::new("rope_freqs.weight", [len]).optional().into()])
    }

    /// The same with the factors of long and short contexts.
    #[must_use]
    pub fn long_rope(self, len: Dim) -> Ends {
        self.with(["long", "short"].map(|n| Slot::new(format!("rope_factors_{n}.weight"), [len]).optional().into()))
    }

    /// The same with a bias of the output.
    #[must_use]
    pub fn output_bias(self, d: &Dims, kind: Bias) -> Ends {
        let item = bias("output", d.vocab, kind);
        self.with(item)
    }

    /// All items, in order, each once.
    pub fn items(&self) -> Vec<Item> {
        let mut items = self.items.clone();
        items.extend(self.embedding_norm.iter().flat_map(Norm::items));
        items.extend(self.norm.iter().flat_map(Norm::items));
        items.extend(self.residual.reading_items());
        for name in ["output.scale", "output.input_scale"] {
            items.push(either(name, vec![Slot::new(name, [Dim(1)]).into()], Vec::new()));
        }
        items
    }
}

/// The output matrix.
pub fn output(d: &Dims) -> Slot {
    Slot::new("output.weight", [d.embd, d.vocab])
}
