//! How each format of weights is decoded in a shader: one row a format, beside what they share in `decode.wgsl`.
//!
//! A row says what value `i` of the block at byte `at` is. The operations and their order are those of the decoders for
//! the processor, and every product that something is added to passes `rounded`, so that the bits are the same.

use std::fmt::Write;

use gguf::TensorType;
use gguf::decode::grids;

/// A format: its type, and the body of `fn value(at: u32, i: u32) -> f32`.
pub(super) struct Row {
    pub(super) ty: TensorType,
    value: &'static str,
}

const fn row(ty: TensorType, value: &'static str) -> Row {
    Row { ty, value }
}

/// Every format, in the order of the types.
pub(super) static ROWS: &[Row] = &[
    row(TensorType::F32, "return bitcast<f32>(u32_at(at));"),
    row(TensorType::F16, "return half_at(at);"),
    row(
        TensorType::Q4_0,
        "let level = (byte(at + 2u + (i & 15u)) >> (4u * (i >> 4u))) & 15u;
         return (f32(level) - 8.0) * half_at(at);",
    ),
    row(
        TensorType::Q4_1,
        "let level = (byte(at + 4u + (i & 15u)) >> (4u * (i >> 4u))) & 15u;
         return rounded(f32(level) * half_at(at)) + half_at(at + 2u);",
    ),
    row(
        TensorType::Q5_0,
        "let low = (byte(at + 6u + (i & 15u)) >> (4u * (i >> 4u))) & 15u;
         let level = low | (((u32_at(at + 2u) >> i) & 1u) << 4u);
         return (f32(level) - 16.0) * half_at(at);",
    ),
    row(
        TensorType::Q5_1,
        "let low = (byte(at + 8u + (i & 15u)) >> (4u * (i >> 4u))) & 15u;
         let level = low | (((u32_at(at + 4u) >> i) & 1u) << 4u);
         return rounded(f32(level) * half_at(at)) + half_at(at + 2u);",
    ),
    row(TensorType::Q8_0, "return signed_byte(at + 2u + i) * half_at(at);"),
    row(
        TensorType::Q2_K,
        "let both = byte(at + i / 16u);
         let level = (byte(at + 16u + i / 128u * 32u + (i & 31u)) >> (i / 32u % 4u * 2u)) & 3u;
         let scale = rounded(half_at(at + 80u) * f32(both & 15u));
         let minimum = rounded(half_at(at + 82u) * f32(both >> 4u));
         return rounded(scale * f32(level)) - minimum;",
    ),
    row(
        TensorType::Q3_K,
        "let j = i / 16u;
         let six = ((byte(at + 96u + j % 8u) >> (j / 8u * 4u)) & 15u)
             | (((byte(at + 104u + j % 4u) >> (j / 4u * 2u)) & 3u) << 4u);
         let low = (byte(at + 32u + i / 128u * 32u + (i & 31u)) >> (i / 32u % 4u * 2u)) & 3u;
         let high = (byte(at + (i & 31u)) >> (i / 32u)) & 1u;
         let scale = rounded(half_at(at + 108u) * (f32(six) - 32.0));
         return scale * (f32(low | (high << 2u)) - 4.0);",
    ),
    row(
        TensorType::Q4_K,
        "let j = i / 32u;
         return with_minimum(at, j, (byte(at + 16u + j / 2u * 32u + (i & 31u)) >> (j % 2u * 4u)) & 15u);",
    ),
    row(
        TensorType::Q5_K,
        "let j = i / 32u;
         let low = (byte(at + 48u + j / 2u * 32u + (i & 31u)) >> (j % 2u * 4u)) & 15u;
         let high = (byte(at + 16u + (i & 31u)) >> j) & 1u;
         return with_minimum(at, j, low | (high << 4u));",
    ),
    row(
        TensorType::Q6_K,
        "let half = i / 128u;
         let k = i / 32u % 4u;
         let low = (byte(at + half * 64u + k % 2u * 32u + (i & 31u)) >> (k / 2u * 4u)) & 15u;
         let high = (byte(at + 128u + half * 32u + (i & 31u)) >> (2u * k)) & 3u;
         let scale = rounded(half_at(at + 208u) * signed_byte(at + 192u + i / 16u));
         return scale * (f32(low | (high << 4u)) - 32.0);",
    ),
    row(
        TensorType::IQ2_XXS,
        "let words = at + 2u + i / 32u * 8u;
         let k = i / 8u % 4u;
         let word = u32_at(words + 4u);
         let signs = even((word >> (7u * k)) & 127u);
         let x = iq2_scale(half_at(at), word >> 28u) * iq2_level(grids[GRID_IQ2_XXS + byte(words + k)], i % 8u);
         return with_sign(x, signs >> (i % 8u));",
    ),
    row(
        TensorType::IQ2_XS,
        "let k = i / 8u;
         let word = u16_at(at + 2u + 2u * k);
         let d = iq2_scale(half_at(at), nibble(at + 66u, k / 2u));
         let x = d * iq2_level(grids[GRID_IQ2_XS + (word & 511u)], i % 8u);
         return with_sign(x, even(word >> 9u) >> (i % 8u));",
    ),
    row(
        TensorType::IQ3_XXS,
        "let word = u32_at(at + 66u + i / 32u * 4u);
         let signs = even((word >> (7u * (i / 8u % 4u))) & 127u);
         let code = grids[GRID_IQ3_XXS + byte(at + 2u + i / 4u)];
         let level = array<f32, 8>(4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0)[(code >> (i % 4u * 3u)) & 7u];
         let d = rounded(half_at(at) * (0.5 + f32(word >> 28u))) * 0.5;
         return with_sign(d * level, signs >> (i % 8u));",
    ),
    row(
        TensorType::IQ1_S,
        "let k = i / 8u;
         let word = u16_at(at + 34u + k / 4u * 2u);
         let d = rounded(half_at(at) * f32(2u * ((word >> 12u) & 7u) + 1u));
         let index = byte(at + 2u + k) | (((word >> (3u * (k % 4u))) & 7u) << 8u);
         return d * iq1_level(index, i % 8u, (word >> 15u) != 0u);",
    ),
    row(TensorType::IQ4_NL, "return half_at(at) * iq4_level((byte(at + 2u + (i & 15u)) >> (4u * (i >> 4u))) & 15u);"),
    row(
        TensorType::IQ3_S,
        "let k = i / 4u;
         let d = rounded(half_at(at) * (1.0 + 2.0 * f32(nibble(at + 106u, k / 8u))));
         let high = (byte(at + 66u + k / 8u) >> (k % 8u)) & 1u;
         let code = grids[GRID_IQ3_S + (byte(at + 2u + k) | (high << 8u))];
         return with_sign(d * f32(((code >> (i % 4u * 3u)) & 7u) * 2u + 1u), byte(at + 74u + k / 2u) >> (i % 8u));",
    ),
    row(
        TensorType::IQ2_S,
        "let k = i / 8u;
         let high = (byte(at + 66u + k / 4u) >> (k % 4u * 2u)) & 3u;
         let code = grids[GRID_IQ2_S + (byte(at + 2u + k) | (high << 8u))];
         let d = iq2_scale(half_at(at), nibble(at + 74u, k / 2u));
         return with_sign(d * iq2_level(code, i % 8u), byte(at + 34u + k) >> (i % 8u));",
    ),
    row(
        TensorType::IQ4_XS,
        "let j = i / 32u;
         let six = nibble(at + 4u, j) | (((u16_at(at + 2u) >> (2u * j)) & 3u) << 4u);
         let d = rounded(half_at(at) * (f32(six) - 32.0));
         return d * iq4_level((byte(at + 8u + 16u * j + (i & 15u)) >> (i / 16u % 2u * 4u)) & 15u);",
    ),
    row(
        TensorType::IQ1_M,
        "let k = i / 8u;
         var d = 0u;
         for (var word = 0u; word < 4u; word++) {
             d |= (u16_at(at + 48u + 2u * word) >> 12u) << (4u * word);
         }
         let level = (u16_at(at + 48u + k / 8u * 2u) >> (3u * (k / 2u % 4u))) & 7u;
         let high = nibble(at + 32u, k);
         let index = byte(at + k) | ((high & 7u) << 8u);
         return rounded(from_half(d) * f32(2u * level + 1u)) * iq1_level(index, i % 8u, (high & 8u) != 0u);",
    ),
    row(TensorType::BF16, "return bitcast<f32>(u16_at(at) << 16u);"),
    row(
        TensorType::TQ1_0,
        "let powers = array<u32, 5>(1u, 3u, 9u, 27u, 81u);
         // Where a run of digits begins, in bytes and in values, and how many bytes it has.
         var run = vec3<u32>(0u, 0u, 32u);
         if i >= 240u {
             run = vec3<u32>(48u, 240u, 4u);
         } else if i >= 160u {
             run = vec3<u32>(32u, 160u, 16u);
         }
         let within = i - run.y;
         let digits = (byte(at + run.x + within % run.z) * powers[within / run.z]) & 255u;
         return (f32((digits * 3u) >> 8u) - 1.0) * half_at(at + 52u);",
    ),
    row(
        TensorType::TQ2_0,
        "let digit = (byte(at + i / 128u * 32u + (i & 31u)) >> (i / 32u % 4u * 2u)) & 3u;
         return (f32(digit) - 1.0) * half_at(at + 64u);",
    ),
    row(
        TensorType::MXFP4,
        "return e2m1((byte(at + 1u + (i & 15u)) >> (4u * (i >> 4u))) & 15u) * half_of_e8m0(byte(at));",
    ),
    row(
        TensorType::NVFP4,
        "let s = i / 16u;
         let code = (byte(at + 4u + 8u * s + (i & 7u)) >> (i / 8u % 2u * 4u)) & 15u;
         return e2m1(code) * half_of_ue4m3(byte(at + s));",
    ),
    row(TensorType::Q1_0, "return with_sign(half_at(at), ~(byte(at + 2u + i / 8u) >> (i % 8u)));"),
    row(TensorType::Q2_0, "return (f32((byte(at + 2u + i / 4u) >> (i % 4u * 2u)) & 3u) - 1.0) * half_at(at);"),
];

/// The grids with their names, in the order in which they stand in one buffer.
static GRIDS: [(&str, &[u16]); 6] = [
    ("IQ2_XXS", &grids::IQ2_XXS),
    ("IQ2_XS", &grids::IQ2_XS),
    ("IQ2_S", &grids::IQ2_S),
    ("IQ1", &grids::IQ1),
    ("IQ3_XXS", &grids::IQ3_XXS),
    ("IQ3_S", &grids::IQ3_S),
];

/// The points of all grids.
pub(super) fn points() -> Vec<u32> {
    GRIDS.iter().flat_map(|(_, points)| points.iter().map(|&p| u32::from(p))).collect()
}

/// The shader that decodes a format; `None` for a type of no weights.
pub(super) fn shader(ty: TensorType) -> Option<String> {
    let row = ROWS.iter().find(|row| row.ty == ty)?;
    let mut source = include_str!("decode.wgsl").to_owned();
    let mut at = 0;
    for (name, points) in &GRIDS {
        // Writing to a string cannot fail.
        let _ = writeln!(source, "const GRID_{name}: u32 = {at}u;");
        at += points.len();
    }
    let _ = writeln!(
        source,
        "const BLOCK_LEN: u32 = {}u;\nconst BLOCK_BYTES: u32 = {}u;",
        ty.block_len(),
        ty.block_bytes()
    );
    let _ = writeln!(source, "fn value(at: u32, i: u32) -> f32 {{\n{}\n}}", row.value);
    Some(source)
}

#[cfg(test)]
mod tests {
    use quantize::Codec;

    use super::*;

    #[test]
    fn every_format_of_weights_has_a_row() {
        let rows: Vec<TensorType> = ROWS.iter().map(|row| row.ty).collect();
        let formats: Vec<TensorType> = quantize::FORMATS.iter().map(Codec::ty).collect();
        assert_eq!(rows, formats);
    }
}
