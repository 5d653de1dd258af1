// Normalizes groups of values in place, a workgroup each.

struct Sizes {
    groups: u32,
    len: u32,
    epsilon: f32,
    // Whether the mean is taken from the values.
    centered: u32,
    // Weights and biases repeat after so many values; 0: there are none.
    weights: u32,
    biases: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

var<workgroup> sums: array<f32, 64>;

fn total(own: u32, value: f32) -> f32 {
    workgroupBarrier();
    sums[own] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if own < half {
            sums[own] += sums[own + half];
        }
        workgroupBarrier();
    }
    return sums[0];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) own: u32,
) {
    let number = group.y * groups.x + group.x;
    if number >= sizes.groups {
        return;
    }
    let start = number * sizes.len;
    let count = f32(sizes.len);
    var mean = 0.0;
    if sizes.centered != 0u {
        var sum = 0.0;
        for (var i = own; i < sizes.len; i += 64u) {
            sum += x[start + i];
        }
        mean = total(own, sum) / count;
    }
    var squares = 0.0;
    for (var i = own; i < sizes.len; i += 64u) {
        let value = x[start + i] - mean;
        squares += value * value;
    }
    let scale = 1.0 / sqrt(total(own, squares) / count + sizes.epsilon);
    for (var i = own; i < sizes.len; i += 64u) {
        var value = (x[start + i] - mean) * scale;
        if sizes.weights != 0u {
            value *= weight[(start + i) % sizes.weights];
        }
        if sizes.biases != 0u {
            value += bias[(start + i) % sizes.biases];
        }
        x[start + i] = value;
    }
}
