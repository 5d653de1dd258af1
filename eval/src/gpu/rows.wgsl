// Copies parts of rows, or adds rows to those that a list names.

struct Sizes {
    count: u32,
    // Values of a row that are copied, of a row that is read with the first one, and of a row that is written.
    len: u32,
    step_read: u32,
    first: u32,
    step_write: u32,
    operation: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> list: array<u32>;
@group(0) @binding(3) var<storage, read> factors: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.y * groups.x * 256u + id.x;
    if i >= sizes.count {
        return;
    }
    let row = i / sizes.len;
    let col = i % sizes.len;
    switch sizes.operation {
        case GATHER: { y[row * sizes.step_write + col] = x[list[row] * sizes.step_read + sizes.first + col] * factors[row]; }
        case SCATTER: { y[list[row] * sizes.step_write + col] += x[row * sizes.step_read + sizes.first + col] * factors[row]; }
        default: { y[row * sizes.step_write + col] = x[row * sizes.step_read + sizes.first + col]; }
    }
}
