// Functions whose accuracy the language leaves open, by sums and products alone.

// e to the x within two units of the last place; zero below the normal numbers.
fn exponential(x: f32) -> f32 {
    let within = clamp(x, -87.3, 88.37);
    let n = round(within * 1.442695);
    let r = within - n * 0.6933594 + n * 2.1219444e-4;
    var fit = 1.9875691e-4;
    fit = fit * r + 1.3981999e-3;
    fit = fit * r + 8.333452e-3;
    fit = fit * r + 4.1665796e-2;
    fit = fit * r + 1.6666665e-1;
    fit = fit * r + 5e-1;
    let y = (fit * r * r + r + 1.0) * bitcast<f32>(u32(i32(n) + 127) << 23u);
    return select(y, 0.0, x < -87.3);
}

// e to the x, less 1.
fn exponential_less_1(x: f32) -> f32 {
    if abs(x) > 0.5 {
        return exponential(x) - 1.0;
    }
    var fit = 1.0 / 40320.0;
    fit = fit * x + 1.0 / 5040.0;
    fit = fit * x + 1.0 / 720.0;
    fit = fit * x + 1.0 / 120.0;
    fit = fit * x + 1.0 / 24.0;
    fit = fit * x + 1.0 / 6.0;
    fit = fit * x + 0.5;
    fit = fit * x + 1.0;
    return fit * x;
}

fn hyperbolic_tangent(x: f32) -> f32 {
    let size = min(abs(x), 20.0);
    let e = exponential_less_1(-2.0 * size);
    let y = -e / (2.0 + e);
    return select(y, -y, x < 0.0);
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exponential(-x));
}

// The complementary error function: a Chebyshev fit (Numerical Recipes, section 6.2).
fn complementary_error(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * abs(x));
    var fit = 0.17087277;
    fit = fit * t - 0.82215223;
    fit = fit * t + 1.48851587;
    fit = fit * t - 1.13520398;
    fit = fit * t + 0.27886807;
    fit = fit * t - 0.18628806;
    fit = fit * t + 0.09678418;
    fit = fit * t + 0.37409196;
    fit = fit * t + 1.00002368;
    fit = fit * t - 1.26551223;
    let tail = t * exponential(fit - x * x);
    return select(2.0 - tail, tail, x >= 0.0);
}
