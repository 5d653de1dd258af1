//! Block codecs, the recipes that choose one for each tensor, and the pipeline that streams a model through them.

pub mod bnb;
pub mod codec;
