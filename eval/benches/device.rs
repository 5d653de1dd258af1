//! Speed of each kernel of a device beside the processor: `cargo bench -p downcast-eval --features gpu --bench device`; the
//! number of a device of `evaluate devices` takes another than the first.
//!
//! Each line gives operations per second of elapsed time. What is counted is what the result needs: multiplications and
//! additions of products and attention, one operation a value elsewhere. Activations are on the device before and after.

use std::time::Instant;

use eval::device::{Attention, Choice, Device, Operand, Product, Rotation, Values};
use eval::gpu::{Options, open};
use eval::layers::attention::attend_spans;
use eval::layers::rope::{Rope, Scaling};
use eval::layers::sight::Sight;
use eval::matmul::{Order, product};
use eval::weights::Matrix;
use gguf::arch::{Activation, Dim, NormKind, WindowKind};
use gguf::{Shape, TensorInfo, TensorType};
use rayon::prelude::*;

/// Bytes that decode to small numbers in every type.
fn weights(ty: TensorType, rows: usize, cols: usize) -> Matrix<'static> {
    let info = TensorInfo::new("w", Shape::new(&[cols as u64, rows as u64]).unwrap(), ty).unwrap();
    let values: Vec<f32> = (0..cols).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
    let mut row = vec![0; info.row_bytes() as usize];
    quantize::encode_rows(ty, &values, cols, Some(&vec![1.0; cols]), &mut row).unwrap();
    Matrix::from_bytes(&info, row.repeat(rows).into()).unwrap()
}

/// The best of three runs, in seconds.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let times = (0..3).map(|_| {
        let begun = Instant::now();
        run();
        begun.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn line(kernel: &str, work: f64, host: f64, device: f64) {
    println!("{kernel:40} {:10.2} {:10.2}", work / host / 1e9, work / device / 1e9);
}

fn main() {
    let number = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let device = match open(number.map_or(Choice::Gpu, Choice::Number), Options::default()) {
        Ok(device) => device,
        Err(e) => return println!("skipped: {e}"),
    };
    let facts = device.facts();
    println!("{} ({}), {}, {}", facts.name, facts.kind, facts.backend, facts.driver);
    println!("{} threads of the processor beside it\n", std::thread::available_parallelism().map_or(1, usize::from));
    println!("{:40} {:>10} {:>10}", "GFLOP/s", "processor", "device");
    products(&device);
    elementwise(&device);
    attention(&device);
}

/// Products with encoded weights, decoding included; and as deployed, where the device keeps their integers.
fn products(device: &Device) {
    let (tokens, rows, cols) = (256, 2048, 2048);
    let x = vec![0.5; tokens * cols];
    for format in quantize::FORMATS {
        let ty = quantize::Codec::ty(format);
        let exact = weights(ty, rows, cols);
        let deployed = quantize::levels(ty).map(|_| (", deployed", exact.clone().deployed()));
        for (how, w) in std::iter::once(("", exact)).chain(deployed) {
            let host = best(|| drop(std::hint::black_box(product(&x, &w, 0..rows, Order::Fixed).unwrap())));
            let on = w.on(device);
            let (_, kept) = on.device().unwrap();
            let kernels = device.kernels();
            let there = kernels.upload(&x).unwrap();
            let run = || match kernels.product(Operand::Device(&there), &on, kept, 0..rows).unwrap() {
                // What is asked for last is there only when all is done.
                Product::Device(y, _) => drop(kernels.magnitude(&y).unwrap()),
                Product::Host(y) => drop(y),
            };
            line(&format!("product, {ty} {rows} × {cols}{how}"), 2.0 * (tokens * rows * cols) as f64, host, best(run));
        }
    }
}

/// What works on each value.
fn elementwise(device: &Device) {
    let (tokens, width) = (1024, 2048);
    let x: Vec<f32> = (0..tokens * width).map(|i| (i % 31) as f32 / 16.0 - 1.0).collect();
    let weight = vec![1.0; width];
    let both = |name: &str, act: &dyn Fn(&mut Values)| {
        let mut host = Values::from(x.clone());
        let mut on = Values::from(x.clone());
        on.bring(device).unwrap();
        let on_host = best(|| act(&mut host));
        let on_device = best(|| {
            act(&mut on);
            on.broken().unwrap();
        });
        line(name, (tokens * width) as f64, on_host, on_device);
    };
    both("RMS norm", &|x| x.normalize(NormKind::Rms(1e-5), width, Some(&weight), None).unwrap());
    both("SiLU", &|x| x.activate(Activation::Silu).unwrap());
    both("GELU", &|x| x.activate(Activation::Gelu).unwrap());
    both("bias", &|x| x.add_rows(&weight).unwrap());
    both("columns", &|x| drop(x.columns(width, width / 2, width / 2).unwrap()));
    let heads = 32;
    let rope = Rope::new(width / heads, width / heads, false, 1e4, &Scaling::none(), None, false).unwrap();
    let (table, half) = (rope.table(tokens), width / heads / 2);
    let mut host = x.clone();
    let on_host = best(|| {
        host.par_chunks_mut(width).enumerate().for_each(|(position, token)| {
            token.chunks_mut(width / heads).for_each(|head| table.rotate(head, position));
        });
    });
    let angles = vec![[0.6, 0.8]; tokens * half];
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let kernels = device.kernels();
    let there = kernels.upload(&x).unwrap();
    let kept = Default::default();
    let rotation =
        Rotation { half, neighbours: false, angles: &angles, positions: &positions, heads, len: width / heads };
    let on_device = best(|| {
        kernels.rotate(&rotation, &kept, &there).unwrap();
        kernels.magnitude(&there).unwrap();
    });
    line("rotation", 3.0 * (tokens * width) as f64, on_host, on_device);
}

/// Attention of a sequence, both ways.
fn attention(device: &Device) {
    let (tokens, heads, kv_heads, len) = (512, 16, 4, 64);
    let a = Attention {
        heads,
        kv_heads,
        key_len: len,
        value_len: len,
        scale: 0.125,
        cap: None,
        sight: Sight::new((WindowKind::None, Dim(0)), false),
        slopes: None,
        sinks: None,
        biases: None,
    };
    let x = |heads: usize| -> Vec<f32> { (0..tokens * heads * len).map(|i| (i % 29) as f32 / 16.0 - 1.0).collect() };
    let (q, k, v) = (x(heads), x(kv_heads), x(kv_heads));
    let kernels = device.kernels();
    let [on_q, on_k, on_v] = [&q, &k, &v].map(|x| kernels.upload(x).unwrap());
    let on_device = best(|| {
        let jobs = [(0..tokens, 0..tokens, 0)];
        let out = kernels.attend(&a, &on_q, (&on_k, &on_v), &jobs).unwrap();
        kernels.magnitude(&out).unwrap();
    });
    let spans = [(0..tokens, 0..tokens)];
    let on_host = best(|| drop(std::hint::black_box(attend_spans((heads, kv_heads, len), 0.125, &q, &k, &v, &spans))));
    line("attention, 16 heads of 64", 4.0 * (tokens * tokens * heads * len) as f64, on_host, on_device);
}
