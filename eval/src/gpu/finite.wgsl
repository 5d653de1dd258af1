// The largest magnitude as bits, which order as integers do: those of what is no finite number are the largest.

struct Sizes {
    count: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> most: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let all = groups.x * groups.y * 256u;
    var largest = 0u;
    for (var i = id.y * groups.x * 256u + id.x; i < sizes.count; i += all) {
        largest = max(largest, x[i] & 0x7fffffffu);
    }
    atomicMax(&most[0], largest);
}
