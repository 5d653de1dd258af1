// Decodes blocks into f32, one value an invocation. What stands behind it is made from the table of formats: BLOCK_LEN,
// BLOCK_BYTES, where each grid begins, and value(), a value of the block at a byte.

struct Sizes {
    // Values to decode, and values of a row.
    count: u32,
    cols: u32,
    // Bytes of a row, and the first row.
    row_bytes: u32,
    first: u32,
    // Zero, which no compiler knows.
    zero: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> grids: array<u32>;
@group(0) @binding(3) var<storage, read_write> decoded: array<f32>;

fn byte(at: u32) -> u32 {
    return (words[at >> 2u] >> ((at & 3u) * 8u)) & 255u;
}

fn signed_byte(at: u32) -> f32 {
    return f32(i32(byte(at) << 24u) >> 24u);
}

fn u16_at(at: u32) -> u32 {
    return byte(at) | (byte(at + 1u) << 8u);
}

fn u32_at(at: u32) -> u32 {
    return u16_at(at) | (u16_at(at + 2u) << 16u);
}

// A binary16 by integer operations: its subnormals are normal numbers of binary32, whatever a device does with its own.
fn from_half(bits: u32) -> f32 {
    let sign = (bits & 0x8000u) << 16u;
    let exponent = (bits >> 10u) & 31u;
    let mantissa = bits & 1023u;
    if exponent == 31u {
        return bitcast<f32>(sign | 0x7f800000u | (mantissa << 13u));
    }
    if exponent > 0u {
        return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (mantissa << 13u));
    }
    if mantissa == 0u {
        return bitcast<f32>(sign);
    }
    let shift = countLeadingZeros(mantissa) - 21u;
    return bitcast<f32>(sign | ((113u - shift) << 23u) | (((mantissa << shift) & 1023u) << 13u));
}

fn half_at(at: u32) -> f32 {
    return from_half(u16_at(at));
}

// Rounds here: a product that is added to something may otherwise become a fused multiply-add.
fn rounded(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sizes.zero);
}

// The eighth sign makes the number of minus signs even.
fn even(signs: u32) -> u32 {
    return signs | ((countOneBits(signs) & 1u) << 7u);
}

fn with_sign(x: f32, minus: u32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ ((minus & 1u) << 31u));
}

fn two_bits(code: u32, i: u32) -> u32 {
    return (code >> (2u * i)) & 3u;
}

// What the levels of IQ2 stand for.
fn iq2_level(code: u32, i: u32) -> f32 {
    return array<f32, 4>(8.0, 25.0, 43.0, 0.0)[two_bits(code, i)];
}

fn iq2_scale(d: f32, level: u32) -> f32 {
    return rounded(d * (0.5 + f32(level))) * 0.25;
}

// What the levels of IQ1 stand for, shifted up or down.
fn iq1_level(index: u32, i: u32, down: bool) -> f32 {
    let level = f32(two_bits(grids[GRID_IQ1 + index], i)) - 1.0;
    return level + select(0.125, -0.125, down);
}

fn nibble(at: u32, number: u32) -> u32 {
    return (byte(at + number / 2u) >> (4u * (number & 1u))) & 15u;
}

// The scale and the minimum of 32 values of Q4_K and Q5_K, of 6 bits each.
fn six_bits(at: u32, j: u32) -> vec2<f32> {
    if j < 4u {
        return vec2<f32>(f32(byte(at + j) & 63u), f32(byte(at + j + 4u) & 63u));
    }
    let low = byte(at + j + 4u);
    let scale = (low & 15u) | ((byte(at + j - 4u) >> 6u) << 4u);
    let minimum = (low >> 4u) | ((byte(at + j) >> 6u) << 4u);
    return vec2<f32>(f32(scale), f32(minimum));
}

fn with_minimum(at: u32, j: u32, level: u32) -> f32 {
    let six = six_bits(at + 4u, j);
    let scale = rounded(half_at(at) * six.x);
    let minimum = rounded(half_at(at + 2u) * six.y);
    return rounded(scale * f32(level)) - minimum;
}

// The uneven levels of IQ4.
fn iq4_level(code: u32) -> f32 {
    return array<f32, 16>(
        -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0
    )[code];
}

// Twice the values of E2M1.
fn e2m1(code: u32) -> f32 {
    let size = array<f32, 8>(0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)[code & 7u];
    return select(size, -size, code > 8u);
}

// Half of 2^(e - 127).
fn half_of_e8m0(e: u32) -> f32 {
    return bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u));
}

// Half of an unsigned E4M3.
fn half_of_ue4m3(bits: u32) -> f32 {
    if bits == 0u || bits == 0x7fu {
        return 0.0;
    }
    let mantissa = f32(bits & 7u);
    if bits < 8u {
        return mantissa * 0.0009765625;
    }
    return (1.0 + mantissa * 0.125) * bitcast<f32>((((bits >> 3u) & 15u) + 119u) << 23u);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.y * groups.x * 256u + id.x;
    if i >= sizes.count {
        return;
    }
    let row = i / sizes.cols;
    let col = i - row * sizes.cols;
    let at = (sizes.first + row) * sizes.row_bytes + col / BLOCK_LEN * BLOCK_BYTES;
    decoded[i] = value(at, col % BLOCK_LEN);
}
