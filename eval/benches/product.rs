//! GFLOP/s of the matrix product: `cargo bench -p eval`.

use std::time::Instant;

use eval::matmul::product;
use eval::weights::Matrix;

fn main() {
    for (tokens, rows, cols) in [
        (512, 2048, 2048),
        (2048, 2048, 2048),
        (2048, 5632, 2048),
        (2048, 2048, 5632),
        (256, 32000, 2048),
        (1, 5632, 2048),
    ] {
        let x = vec![0.5_f32; tokens * cols];
        let bytes = vec![0x3f_u8; rows * cols * 2];
        let info =
            gguf::TensorInfo::new("w", gguf::Shape::new(&[cols as u64, rows as u64]).unwrap(), gguf::TensorType::BF16)
                .unwrap();
        let w = Matrix::from_bytes(&info, bytes.into()).unwrap();
        let mut y = vec![0.0; tokens * rows];
        let mut best = f64::INFINITY;
        for _ in 0..6 {
            let begun = Instant::now();
            product(&x, &w, 0..rows, &mut y).unwrap();
            best = best.min(begun.elapsed().as_secs_f64());
        }
        println!(
            "{tokens:5} tokens × {rows} × {cols}: {:.1} GFLOP/s",
            2.0 * (tokens * rows * cols) as f64 / best / 1e9
        );
    }
}
