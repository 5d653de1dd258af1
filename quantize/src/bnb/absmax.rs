//! The largest magnitude of values that have to be finite.

/// The largest magnitude, or none where a value is NaN or infinite.
///
/// Magnitudes of finite floats order as their bits do, and everything that is not finite lies above them.
#[inline(always)]
pub fn absmax(values: &[f32]) -> Option<f32> {
    let bits = values.iter().fold(0, |max: u32, v| max.max(v.to_bits() & 0x7fff_ffff));
    (bits < 0x7f80_0000).then_some(f32::from_bits(bits))
}
