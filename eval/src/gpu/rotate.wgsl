// Rotates heads in place by the angles of their positions, a pair of values an invocation.

struct Sizes {
    count: u32,
    heads: u32,
    len: u32,
    // Pairs of a head.
    half: u32,
    // Whether neighbours make a pair.
    neighbours: u32,
    // Positions that have angles; beyond them nothing rotates.
    known: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.y * groups.x * 256u + id.x;
    if i >= sizes.count {
        return;
    }
    let pair = i % sizes.half;
    let head = i / sizes.half;
    let position = positions[head / sizes.heads];
    if position >= sizes.known {
        return;
    }
    let start = head * sizes.len;
    let low = start + select(pair, 2u * pair, sizes.neighbours != 0u);
    let high = select(low + sizes.half, low + 1u, sizes.neighbours != 0u);
    let turn = angles[position * sizes.half + pair];
    let a = x[low];
    let b = x[high];
    x[low] = a * turn.x - b * turn.y;
    x[high] = a * turn.y + b * turn.x;
}
