// Rounding to 16 bits, to the nearest, halves to even; what is no finite number stays.

fn to_f16(x: f32, infinity: u32) -> f32 {
    let bits = bitcast<u32>(x);
    let magnitude = bits & 0x7fffffffu;
    if magnitude >= 0x7f800000u {
        return x;
    }
    // Below the normal numbers: multiples of 2⁻²⁴.
    if magnitude < 0x38800000u {
        return round(x * 16777216.0) * 5.9604645e-8;
    }
    let rounded = (magnitude + 0xfffu + ((magnitude >> 13u) & 1u)) & 0xffffe000u;
    return bitcast<f32>((bits & 0x80000000u) | select(rounded, infinity, rounded >= 0x47800000u));
}

fn to_bf16(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7f800000u) == 0x7f800000u {
        return x;
    }
    return bitcast<f32>((bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u);
}
