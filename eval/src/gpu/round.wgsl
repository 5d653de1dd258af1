// Activations rounded to 8 bits, as a type of weights needs them: of each block of 32 or 256 values the codes, four in a
// word, and for each group of 16 or 32 of them the scale and what minima are multiplied with. The formats are those of
// `quantize::Levels::round`.

struct Sizes {
    blocks: u32,
    len: u32,
    group: u32,
    // Q8_0, Q8_1 or Q8_K.
    kind: u32,
    // Whether minima meet the sums of codes, since a scale is applied to what several groups add up to.
    whole: u32,
    // The bits of infinity and of what is no number, which a shader cannot name.
    infinity: u32,
    no_number: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;
// The scale and the sum of each group.
@group(0) @binding(3) var<storage, read_write> groups: array<vec2<f32>>;

// Halves away start zero.
fn nearest(x: f32) -> f32 {
    let whole = trunc(x);
    return whole + select(0.0, sign(x), abs(x - whole) >= 0.5);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let block = id.y * workgroups.x * 256u + id.x;
    if block >= sizes.blocks {
        return;
    }
    let start = block * sizes.len;
    var largest = 0.0;
    // The first value of that magnitude.
    var peak = 0.0;
    var finite = true;
    for (var i = 0u; i < sizes.len; i++) {
        let value = x[start + i];
        finite = finite && (bitcast<u32>(value) & 0x7f800000u) != 0x7f800000u;
        if abs(value) > largest {
            largest = abs(value);
            peak = value;
        }
    }
    var inverse = 0.0;
    var scale = 0.0;
    if largest > 0.0 {
        if sizes.kind == Q8_K {
            inverse = -127.0 / peak;
            scale = 1.0 / inverse;
        } else {
            scale = largest / 127.0;
            inverse = 1.0 / scale;
        }
    }
    var stored = scale;
    if sizes.kind != Q8_K {
        stored = to_f16(scale, sizes.infinity);
    }
    if !finite {
        stored = bitcast<f32>(sizes.no_number);
    }
    let words = sizes.group / 4u;
    for (var group = 0u; group < sizes.len / sizes.group; group++) {
        var total = 0;
        for (var word = 0u; word < words; word++) {
            let at = group * words + word;
            var four = 0u;
            for (var i = 0u; i < 4u; i++) {
                let scaled = x[start + at * 4u + i] * inverse;
                let code = i32(min(select(nearest(scaled), round(scaled), sizes.kind == Q8_K), 127.0));
                total += code;
                four |= (u32(code) & 0xffu) << (i * 8u);
            }
            codes[start / 4u + at] = four;
        }
        var sum = f32(total);
        if sizes.whole == 0u {
            sum = select(sum * stored, to_f16(sum * scale, sizes.infinity), sizes.kind == Q8_1);
        }
        groups[start / sizes.group + group] = vec2(stored, sum);
    }
}
