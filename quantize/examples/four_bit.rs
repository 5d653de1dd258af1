//! The figures and the drawing of `docs/four-bit.md`.
//!
//!     cargo run --release -p downcast-quantize --example four_bit -- docs
//!
//! writes `docs/four-bit.svg` and prints the tables.

use std::fmt::Write;

use convert::packed::Float;
use convert::packed::bnb::{Code, decode, decode_int8};
use gguf::TensorType;
use quantize::bnb::nested::Nested;
use quantize::bnb::{four_bit, int8};

const ROWS: usize = 256;
const COLS: usize = 4096;

/// A generator of random numbers small enough to be read (xorshift64*), so that the figures are the same everywhere.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Student's t of three degrees of freedom: tails as heavy as those of weights with outliers.
    fn heavy(&mut self) -> f64 {
        let chi: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / (chi / 3.0).sqrt()
    }
}

/// Weights there and back.
type Trip = Box<dyn Fn(&[f32]) -> Vec<f32>>;

/// A way to store weights: its name, bits per weight, and the weights after the trip.
struct Way {
    name: String,
    bits: f64,
    trip: Trip,
}

fn bnb(code: Code, block: usize, double: bool) -> Way {
    // A byte for each scale, an f32 for each 256 of these, and the offset of the tensor.
    let scale_bits = if double { 8.0 + 32.0 / 256.0 } else { 32.0 };
    let name = format!("{} in {block}{}", code.name().to_uppercase(), if double { ", double" } else { "" });
    let trip = move |weights: &[f32]| {
        let (mut codes, mut scales) = (vec![0; weights.len() / 2], vec![0.0; weights.len() / block]);
        assert!(four_bit::encode(code, weights, block, &mut codes, &mut scales));
        if double {
            scales = Nested::encode(&scales).decode();
        }
        let mut out = vec![0.0; weights.len()];
        decode(code.points(), &codes, &scales, block, 0, &mut out);
        out
    };
    Way { name, bits: 4.0 + scale_bits / block as f64, trip: Box::new(trip) }
}

fn gguf_type(ty: TensorType) -> Way {
    let bits = (ty.block_bytes() * 8) as f64 / ty.block_len() as f64;
    let trip = move |weights: &[f32]| {
        let codec = quantize::codec(ty).expect("the type has a codec");
        let mut bytes = vec![0; ty.bytes_for(weights.len() as u64).unwrap_or_default() as usize];
        codec.encode(weights, COLS, None, &mut bytes);
        let mut out = vec![0.0; weights.len()];
        codec.decode(&bytes, &mut out);
        out
    };
    Way { name: ty.name().to_owned(), bits, trip: Box::new(trip) }
}

fn int8_rows() -> Way {
    let trip = |weights: &[f32]| {
        let mut out = vec![0.0; weights.len()];
        let mut codes = vec![0; COLS];
        for (row, out) in weights.chunks(COLS).zip(out.chunks_mut(COLS)) {
            let scale = int8::encode_row(&mut row.to_vec(), &mut codes).expect("finite weights");
            decode_int8(&codes, scale, out);
        }
        out
    };
    Way { name: "INT8 by rows".into(), bits: 8.0 + 32.0 / COLS as f64, trip: Box::new(trip) }
}

/// The root of the mean squared error over the root of the mean square.
fn error(before: &[f32], after: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = before.iter().zip(after).map(|(a, b)| square(f64::from(a - b))).sum();
    let power: f64 = before.iter().map(|a| square(f64::from(*a))).sum();
    (error / power).sqrt()
}

fn main() {
    let mut random = Random(20_261_121);
    let mut weights = |heavy: bool| -> Vec<f32> {
        let draw = |r: &mut Random| Float::Bf16.round((0.02 * if heavy { r.heavy() } else { r.normal() }) as f32);
        (0..ROWS * COLS).map(|_| draw(&mut random)).collect()
    };
    let (normal, heavy) = (weights(false), weights(true));
    let mut ways = Vec::new();
    for code in Code::ALL {
        for (block, double) in [(64, false), (64, true), (128, false), (256, true)] {
            ways.push(bnb(code, block, double));
        }
    }
    ways.extend([TensorType::Q4_0, TensorType::IQ4_NL, TensorType::Q4_K].map(gguf_type));
    ways.push(int8_rows());
    println!("| stored as | bits per weight | error, normal | error, heavy tails |\n|---|---:|---:|---:|");
    for way in &ways {
        let [a, b] = [&normal, &heavy].map(|w| 100.0 * error(w, &(way.trip)(w)));
        println!("| {} | {:.3} | {a:.2} % | {b:.2} % |", way.name, way.bits);
    }
    if let Some(folder) = std::env::args().nth(1) {
        std::fs::write(std::path::Path::new(&folder).join("four-bit.svg"), drawing())
            .expect("the folder can be written");
    }
}

/// The code points of each format on a line from −1 to 1.
fn drawing() -> String {
    let even = |low: i32, high: i32| (low..=high).map(|q| f64::from(q) / f64::from(-low)).collect::<Vec<f64>>();
    let points = |code: Code| code.points().iter().map(|p| f64::from(*p)).collect::<Vec<f64>>();
    let iq4: Vec<f64> = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
        .map(|v| f64::from(v) / 127.0)
        .to_vec();
    let q4_k = (0..16).map(|q| f64::from(q) * 2.0 / 15.0 - 1.0).collect();
    let lines: [(&str, Vec<f64>); 6] = [
        ("NF4", points(Code::Nf4)),
        ("FP4", points(Code::Fp4)),
        ("IQ4_NL", iq4),
        ("Q4_0", even(-8, 7)),
        ("Q4_K", q4_k),
        ("INT8", (-127..=127).map(|q| f64::from(q) / 127.0).collect()),
    ];
    let (left, width, step) = (80.0, 600.0, 44.0);
    let height = step * (lines.len() as f64 + 1.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <title>Code points of 4-bit formats and INT8 between -1 and 1</title>\n\
         <rect width=\"720\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let x = |v: f64| left + (v + 1.0) / 2.0 * width;
    for (i, (name, points)) in lines.iter().enumerate() {
        let y = step * (i as f64 + 0.8);
        let _ = writeln!(svg, "<text x=\"70\" y=\"{}\" text-anchor=\"end\">{name}</text>", y + 5.0);
        let _ = writeln!(svg, "<line x1=\"{}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#bbb\"/>", x(-1.0), x(1.0));
        for point in points {
            let reach = if points.len() > 16 { 4.0 } else { 9.0 };
            let _ = writeln!(
                svg,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#1f5fa8\" stroke-width=\"1.5\"/>",
                x(*point),
                y - reach,
                y + reach
            );
        }
    }
    for v in [-1.0, -0.5, 0.0, 0.5, 1.0] {
        let y = height - 14.0;
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#555\">{v}</text>", x(v));
    }
    svg + "</svg>\n"
}
