// Products in integers: c = x · wᵀ, where both are codes of 8 bits with scales for groups of 16 or 32. A workgroup makes a
// tile of 64 × 64 values, an invocation 4 × 4 of them. The codes of a group are multiplied four at a time and add up in
// integers; what follows is f32, group after group, as on the processor.

struct Sizes {
    rows: u32,
    cols: u32,
    groups: u32,
    // Words of four codes in a group: 4 or 8.
    words: u32,
    // Groups that follow each other and have the same scale of activations.
    alike: u32,
    // Whether groups of weights have minima.
    mins: u32,
    // The first row of the weights, the first column of c, and values of a row of c.
    first: u32,
    to: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<u32>;
// The scale of each group and what minima are multiplied with.
@group(0) @binding(2) var<storage, read> x_groups: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> w: array<u32>;
// The scale of each group and its minimum.
@group(0) @binding(4) var<storage, read> w_groups: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;

var<workgroup> tile_x: array<array<vec4<u32>, 16>, 8>;
var<workgroup> tile_w: array<array<vec4<u32>, 16>, 8>;
var<workgroup> scales_x: array<vec2<f32>, 64>;
var<workgroup> scales_w: array<vec2<f32>, 64>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let first_row = group.y * 64u;
    let first_col = group.x * 64u;
    let quad_row = own / 16u;
    let quad_col = own % 16u;
    var sums: array<vec4<f32>, 4>;
    // What groups of one scale add up to.
    var parts: array<vec4<f32>, 4>;
    for (var g = 0u; g < sizes.groups; g++) {
        for (var at = own; at < 64u * sizes.words; at += 256u) {
            let word = at % sizes.words;
            let line = at / sizes.words;
            var value = 0u;
            if first_row + line < sizes.rows {
                value = x[((first_row + line) * sizes.groups + g) * sizes.words + word];
            }
            tile_x[word][line / 4u][line % 4u] = value;
            value = 0u;
            if first_col + line < sizes.cols {
                value = w[((sizes.first + first_col + line) * sizes.groups + g) * sizes.words + word];
            }
            tile_w[word][line / 4u][line % 4u] = value;
        }
        if own < 64u {
            scales_x[own] = vec2(0.0);
            if first_row + own < sizes.rows {
                scales_x[own] = x_groups[(first_row + own) * sizes.groups + g];
            }
        } else if own < 128u {
            let line = own - 64u;
            scales_w[line] = vec2(0.0);
            if first_col + line < sizes.cols {
                scales_w[line] = w_groups[(sizes.first + first_col + line) * sizes.groups + g];
            }
        }
        workgroupBarrier();
        var ints: array<vec4<i32>, 4>;
        for (var word = 0u; word < sizes.words; word++) {
            let four_x = tile_x[word][quad_row];
            let four_w = tile_w[word][quad_col];
            for (var i = 0u; i < 4u; i++) {
                ints[i] += vec4(
                    dot4I8Packed(four_x[i], four_w.x),
                    dot4I8Packed(four_x[i], four_w.y),
                    dot4I8Packed(four_x[i], four_w.z),
                    dot4I8Packed(four_x[i], four_w.w),
                );
            }
        }
        let last = (g + 1u) % sizes.alike == 0u;
        for (var i = 0u; i < 4u; i++) {
            let own_x = scales_x[quad_row * 4u + i];
            for (var j = 0u; j < 4u; j++) {
                let own_w = scales_w[quad_col * 4u + j];
                let whole = f32(ints[i][j]);
                if sizes.alike == 1u {
                    sums[i][j] = fma(whole * own_x.x, own_w.x, sums[i][j]);
                    if sizes.mins == 1u {
                        sums[i][j] = fma(own_x.y, own_w.y, sums[i][j]);
                    }
                } else {
                    parts[i][j] = fma(whole, own_w.x, parts[i][j]);
                    if sizes.mins == 1u {
                        parts[i][j] = fma(own_x.y, own_w.y, parts[i][j]);
                    }
                    if last {
                        sums[i][j] = fma(parts[i][j], own_x.x, sums[i][j]);
                        parts[i][j] = 0.0;
                    }
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            let row = first_row + quad_row * 4u + i;
            let col = first_col + quad_col * 4u + j;
            if row < sizes.rows && col < sizes.cols {
                c[row * sizes.width + sizes.to + col] = sums[i][j];
            }
        }
    }
}
