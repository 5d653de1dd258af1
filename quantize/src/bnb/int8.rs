//! INT8 by rows: the weights of LLM.int8().
//!
//! Weights go through f16 first. A row's scale is its largest magnitude (`SCB`), and a weight becomes
//! round(weight × 127 ÷ scale) (Dettmers et al., *LLM.int8()*, 2022). Outliers are a matter of the activations at run
//! time and of `llm_int8_threshold`; the weights know nothing of them.

use convert::packed::Float;

use super::absmax::absmax;

/// Encodes a row into `codes` and gives its scale; none where a value is not finite as f16.
pub fn encode_row(row: &mut [f32], codes: &mut [u8]) -> Option<f32> {
    for value in row.iter_mut() {
        *value = Float::F16.round(*value);
    }
    let scale = absmax(row)?;
    // The reciprocal first, then times 127: so the library's arithmetic goes.
    let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale * 127.0 };
    for (code, value) in codes.iter_mut().zip(row.iter()) {
        *code = (value * factor).round_ties_even() as i8 as u8;
    }
    Some(scale)
}
