// One operation on every value of x, in place, with the value of y that its place asks for.

struct Sizes {
    count: u32,
    operation: u32,
    activation: u32,
    // y is read at i / inner % outer.
    inner: u32,
    outer: u32,
    first: f32,
    second: f32,
    third: f32,
    fourth: f32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

fn activated(x: f32) -> f32 {
    switch sizes.activation {
        case GELU: { return 0.5 * x * complementary_error(-x * 0.70710678); }
        case GELU_TANH: { return x * sigmoid(1.595769 * (x + 0.044715 * x * x * x)); }
        case RELU: { return max(x, 0.0); }
        case RELU_SQUARED: { return max(x, 0.0) * max(x, 0.0); }
        case XIELU: {
            // The slopes below and above zero, the linear part, and where the exponential ends.
            if x > 0.0 {
                return sizes.second * x * x + sizes.third * x;
            }
            return (exponential_less_1(min(x, sizes.fourth)) - x) * sizes.first + sizes.third * x;
        }
        default: { return x * sigmoid(x); }
    }
}

// What becomes of a value by its gate.
fn gated(up: f32, gate: f32) -> f32 {
    let limit = sizes.first;
    switch sizes.activation {
        case SWIGLU_OAI: {
            let g = min(gate, 7.0);
            return (clamp(up, -7.0, 7.0) + 1.0) * g * sigmoid(1.702 * g);
        }
        case SILU_LIMITED: { return clamp(up, -limit, limit) * min(gate * sigmoid(gate), limit); }
        case SILU_CLAMPED: {
            let g = min(gate, limit);
            return clamp(up, -limit, limit) * g * sigmoid(g);
        }
        case SITU: {
            // The factors of the gate and of the other half, which is as it is where its factor is zero.
            let beta = sizes.first;
            let linear = sizes.second;
            var other = up;
            if linear != 0.0 {
                other = linear * hyperbolic_tangent(up / linear);
            }
            return beta * hyperbolic_tangent(gate / beta) * sigmoid(gate) * other;
        }
        default: { return up * activated(gate); }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.y * groups.x * 256u + id.x;
    if i >= sizes.count {
        return;
    }
    let other = y[i / sizes.inner % sizes.outer];
    let own = x[i];
    switch sizes.operation {
        case ADD_SCALED: { x[i] = own + sizes.first * other; }
        case SCALE: { x[i] = own * sizes.first; }
        case MULTIPLY: { x[i] = own * other; }
        case DIVIDE: { x[i] = own / other; }
        case CLAMP: { x[i] = clamp(own, -sizes.first, sizes.first); }
        case ACTIVATE: { x[i] = activated(own); }
        case GATED: { x[i] = gated(own, other); }
        case SIGMOID: { x[i] = own * sigmoid(other); }
        case ROUND_F16: { x[i] = to_f16(own, bitcast<u32>(sizes.first)); }
        case ROUND_BF16: { x[i] = to_bf16(own); }
        default: {}
    }
}
