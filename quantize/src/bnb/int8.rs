//! INT8 by rows: the weights of LLM.int8().
//!
//! Weights go through f16 first. A row's scale is its largest magnitude (`SCB`), and a weight becomes
//! round(weight × 127 ÷ scale) (Dettmers et al., *LLM.int8()*, 2022). Outliers are a matter of the activations at run
//! time and of `llm_int8_threshold`; the weights know nothing of them.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::absmax::absmax;

/// Encodes a row into `codes` and gives its scale; none where a value is not finite as f16.
pub fn encode_row(row: &mut [f32], codes: &mut [u8]) -> Option<f32> {
    const LANES: usize = 64;
    let mut halves = [f16::ZERO; LANES];
    for part in row.chunks_mut(LANES) {
        let halves = &mut halves[..part.len()];
        halves.convert_from_f32_slice(part);
        halves.convert_to_f32_slice(part);
    }
    let scale = absmax(row)?;
    // The reciprocal first, then times 127: so the library's arithmetic goes.
    let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale * 127.0 };
    // Adding 1.5 · 2²³ rounds to a whole number, ties to even, and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    for (code, value) in codes.iter_mut().zip(row.iter()) {
        *code = (value * factor + ROUND).to_bits() as u8;
    }
    Some(scale)
}
