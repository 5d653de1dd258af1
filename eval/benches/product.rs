//! Speed of the matrix product, and of a Llama of 1.1 B parameters: `cargo bench -p downcast-eval`. `DOWNCAST_SIMD=avx2` (or
//! `plain`) measures another kernel; types and numbers of tokens can be named: `cargo bench -p downcast-eval -- BF16 512`.
//!
//! Each line gives operations per second of elapsed time and per second of processor time; the latter is the speed of
//! one core whatever else the machine does.

use std::time::{Duration, Instant};

use eval::matmul::{Order, product};
use eval::weights::Matrix;
use gguf::{Shape, TensorInfo, TensorType};
use quantize::SimdPath;

/// Processor time that all threads of this process have used.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes the structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes that decode to small numbers in every type.
fn weights(ty: TensorType, rows: usize, cols: usize) -> Matrix<'static> {
    let info = TensorInfo::new("w", Shape::new(&[cols as u64, rows as u64]).unwrap(), ty).unwrap();
    let values: Vec<f32> = (0..cols).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
    let mut row = vec![0; info.row_bytes() as usize];
    quantize::encode_rows(ty, &values, cols, None, &mut row).unwrap();
    Matrix::from_bytes(&info, row.repeat(rows).into()).unwrap()
}

/// The layers' matrices of a Llama of 1.1 B parameters, with how many of each a token meets.
const LLAMA_1B: [(usize, usize, usize); 4] =
    [(2048, 2048, 2 * 22), (256, 2048, 2 * 22), (5632, 2048, 2 * 22), (2048, 5632, 22)];

fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let of = |all: &[String]| all.iter().any(|a| named.contains(a));
    let types = [TensorType::BF16, TensorType::Q8_0, TensorType::Q4_K];
    let tokens = [1, 512, 2048];
    let (types_named, tokens_named) = (of(&types.map(|t| t.to_string())), of(&tokens.map(|t| t.to_string())));
    println!("kernel: {}", SimdPath::current());
    println!("{:8} {:>6} {:>6} {:>6} {:>10} {:>14}", "type", "tokens", "rows", "cols", "GFLOP/s", "GFLOP/s·core");
    for ty in types.into_iter().filter(|t| !types_named || named.contains(&t.to_string())) {
        for tokens in tokens.into_iter().filter(|t| !tokens_named || named.contains(&t.to_string())) {
            let (mut elapsed, mut used) = (0.0, 0.0);
            for (rows, cols, count) in LLAMA_1B {
                let w = weights(ty, rows, cols);
                let x = vec![0.5; tokens * cols];
                let mut best = (f64::INFINITY, f64::INFINITY);
                for _ in 0..5 {
                    let (begun, before) = (Instant::now(), processor_time());
                    std::hint::black_box(product(&x, &w, 0..rows, Order::Quickest).unwrap());
                    best.1 = best.1.min((processor_time() - before).as_secs_f64());
                    best.0 = best.0.min(begun.elapsed().as_secs_f64());
                }
                let work = 2.0 * (tokens * rows * cols) as f64 / 1e9;
                println!("{ty:8} {tokens:6} {rows:6} {cols:6} {:10.1} {:14.1}", work / best.0, work / best.1);
                elapsed += best.0 * count as f64;
                used += best.1 * count as f64;
            }
            println!(
                "{ty:8} {tokens:6} products of a 1.1 B Llama: {:.1} tokens/s, {:.1} tokens per core and second",
                tokens as f64 / elapsed,
                tokens as f64 / used
            );
        }
    }
}
