// Scores of queries and keys become shares, in place: capped, biased, masked, and divided by their sum. A workgroup has a
// query of a head.

struct Sizes {
    // Scores are [heads, queries, keys].
    queries: u32,
    keys: u32,
    // The positions of the first query and of the first key.
    query: u32,
    key: u32,
    // All keys of the sequence, the kind of window and its length, and whether queries see what comes behind them.
    all: u32,
    window: u32,
    length: u32,
    causal: u32,
    // 0: none.
    cap: f32,
    sloped: u32,
    sinks: u32,
    // Distances that a head has biases for on each side; 0: none.
    reach: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
// A slope, a sink, and biases by distance, of each head.
@group(0) @binding(1) var<storage, read> slopes: array<f32>;
@group(0) @binding(2) var<storage, read> sinks: array<f32>;
@group(0) @binding(3) var<storage, read> biases: array<f32>;
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;

const LEAST: f32 = -3.0e38;

var<workgroup> found: array<f32, 64>;

fn largest(own: u32, value: f32) -> f32 {
    workgroupBarrier();
    found[own] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if own < half {
            found[own] = max(found[own], found[own + half]);
        }
        workgroupBarrier();
    }
    return found[0];
}

fn total(own: u32, value: f32) -> f32 {
    workgroupBarrier();
    found[own] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if own < half {
            found[own] += found[own + half];
        }
        workgroupBarrier();
    }
    return found[0];
}

// The keys that a query sees.
fn sight(position: u32) -> vec2<u32> {
    var seen = vec2<u32>(0u, select(sizes.all, min(sizes.all, position + 1u), sizes.causal != 0u));
    switch sizes.window {
        case SLIDING: { seen.x = max(position + 1u, sizes.length) - sizes.length; }
        case CHUNKED: { seen.x = position / sizes.length * sizes.length; }
        case SYMMETRIC: {
            let half = sizes.length / 2u;
            seen = vec2<u32>(max(position, half) - half, min(seen.y, position + half + 1u));
        }
        default: {}
    }
    return seen;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let row = group.x;
    let head = group.y;
    let start = (head * sizes.queries + row) * sizes.keys;
    let position = sizes.query + row;
    let seen = sight(position);
    var peak = LEAST;
    if sizes.sinks != 0u {
        peak = sinks[head];
    }
    let sink = peak;
    for (var i = own; i < sizes.keys; i += 64u) {
        let key = sizes.key + i;
        var score = scores[start + i];
        if sizes.cap > 0.0 {
            score = hyperbolic_tangent(score / sizes.cap) * sizes.cap;
        }
        if sizes.sloped != 0u {
            let distance = f32(key) - f32(position);
            score += slopes[head] * select(-abs(distance), distance, sizes.causal != 0u);
        }
        if sizes.reach != 0u {
            score += biases[head * (2u * sizes.reach + 1u) + key + sizes.reach - position];
        }
        if key < seen.x || key >= seen.y {
            score = LEAST;
        }
        scores[start + i] = score;
        peak = max(peak, score);
    }
    peak = largest(own, peak);
    var sum = 0.0;
    for (var i = own; i < sizes.keys; i += 64u) {
        let score = scores[start + i];
        var share = 0.0;
        if score > LEAST {
            share = exponential(score - peak);
        }
        scores[start + i] = share;
        sum += share;
    }
    sum = total(own, sum);
    if sizes.sinks != 0u {
        sum += exponential(sink - peak);
    }
    let scale = select(0.0, 1.0 / sum, sum > 0.0);
    for (var i = own; i < sizes.keys; i += 64u) {
        scores[start + i] *= scale;
    }
}
