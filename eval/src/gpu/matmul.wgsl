// c = scale · a · b for a batch of matrices in f32. A workgroup makes a tile of 64 × 64 values, an invocation 4 × 4 of
// them; a sum runs over the columns in ascending order.

struct Sizes {
    // a is [rows, inner], b [inner, cols].
    rows: u32,
    cols: u32,
    inner: u32,
    scale: f32,
    // Where each begins, and the steps from row to row, from column to column and from matrix to matrix.
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    // As many matrices of the batch share one b.
    share: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

const DEEP: u32 = 16u;

var<workgroup> tile_a: array<array<vec4<f32>, 16>, 16>;
var<workgroup> tile_b: array<array<vec4<f32>, 16>, 16>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let first_row = group.y * 64u;
    let first_col = group.x * 64u;
    let from_a = sizes.a.x + group.z * sizes.a.w;
    let from_b = sizes.b.x + group.z / sizes.share * sizes.b.w;
    let quad_row = own / 16u;
    let quad_col = own % 16u;
    // Neighbouring invocations read neighbouring values, whichever way the matrix lies.
    let along = sizes.b.z < sizes.b.y;
    var sums: array<vec4<f32>, 4>;
    for (var start = 0u; start < sizes.inner; start += DEEP) {
        for (var part = 0u; part < 4u; part++) {
            let at = own + part * 256u;
            let deep = at % DEEP;
            let row = at / DEEP;
            var value = 0.0;
            if first_row + row < sizes.rows && start + deep < sizes.inner {
                value = a[from_a + (first_row + row) * sizes.a.y + (start + deep) * sizes.a.z];
            }
            tile_a[deep][row / 4u][row % 4u] = value;
            let deep_b = select(at % DEEP, at / 64u, along);
            let col = select(at / DEEP, at % 64u, along);
            value = 0.0;
            if first_col + col < sizes.cols && start + deep_b < sizes.inner {
                value = b[from_b + (start + deep_b) * sizes.b.y + (first_col + col) * sizes.b.z];
            }
            tile_b[deep_b][col / 4u][col % 4u] = value;
        }
        workgroupBarrier();
        for (var deep = 0u; deep < DEEP; deep++) {
            let four_a = tile_a[deep][quad_row];
            let four_b = tile_b[deep][quad_col];
            sums[0] += four_a.x * four_b;
            sums[1] += four_a.y * four_b;
            sums[2] += four_a.z * four_b;
            sums[3] += four_a.w * four_b;
        }
        workgroupBarrier();
    }
    let row = first_row + quad_row * 4u;
    let col = first_col + quad_col * 4u;
    let to = sizes.c.x + group.z * sizes.c.w;
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            if row + i < sizes.rows && col + j < sizes.cols {
                c[to + (row + i) * sizes.c.y + (col + j) * sizes.c.z] = sums[i][j] * sizes.scale;
            }
        }
    }
}
