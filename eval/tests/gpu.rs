//! What a device computes is what the processor computes: decoders bit for bit, products and whole models within the
//! error of f32 sums. Runs on the first device, which may be one of software; without one, that is said and nothing is run.

use std::ops::Range;

use eval::compare::{Baseline, compare};
use eval::device::{Choice, Device, OnDevice};
use eval::divergence::Divergence;
use eval::encoded::{Encoded, Precision};
use eval::forward::{Forward, Input, Stream};
use eval::gpu::{Gpu, Options, open_with};
use eval::matmul::{Order, product};
use eval::model::{Model, Shape};
use eval::perplexity::{Chunks, Plan, Score, perplexity};
use eval::weights::{Matrix, Stored, Weights};
use gguf::{Shape as Dims, Source, TensorInfo, TensorType};
use quantize::Codec;

/// The first device, or a word that there is none.
fn device(options: Options) -> Option<Device> {
    match open_with(Choice::Gpu, options) {
        Ok(device) => Some(device),
        Err(e) => {
            assert!(std::env::var_os("DOWNCAST_NEEDS_DEVICE").is_none(), "{e}");
            eprintln!("skipped: {}", e.message());
            None
        }
    }
}

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Rows of a type, made of the goldens' values.
fn encoded(ty: TensorType, rows: usize, cols: usize) -> Vec<u8> {
    let input = fixtures::bytes("golden/blocks/input.f32");
    let mut values: Vec<f32> = input.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values = values.iter().copied().cycle().take(rows * cols).collect();
    let importance: Vec<f32> = (0..cols).map(|i| 1.0 + (i % 7) as f32).collect();
    let mut bytes = vec![0; ty.bytes_for((rows * cols) as u64).unwrap() as usize];
    quantize::encode_rows(ty, &values, cols, Some(&importance), &mut bytes).unwrap();
    bytes
}

#[test]
fn every_format_is_decoded_to_the_processor_s_bits() {
    if device(Options::default()).is_none() {
        return;
    }
    let gpu = Gpu::open(Choice::Gpu, Options::default()).unwrap();
    for format in quantize::FORMATS {
        let (ty, rows, cols) = (format.ty(), 32, 1024);
        let mut bytes = encoded(ty, rows, cols);
        // And any bytes, where no bits are a number that is none: all codes, signs, scales and subnormal halves.
        let block = ty.block_bytes() as usize;
        let any = numbers(64 * block, 9).into_iter().map(|x| (x.to_bits() >> 3) as u8);
        let more: Vec<u8> = any.collect();
        bytes.extend(&more[..more.len() / block * block]);
        let whole = cols / ty.block_len() as usize * block;
        bytes.truncate(bytes.len() / whole * whole);
        let mut want = vec![0.0; bytes.len() / block * ty.block_len() as usize];
        quantize::decode_rows(ty, &bytes, &mut want).unwrap();
        let got = gpu.decode(ty, &bytes, cols).unwrap();
        assert_eq!(got.len(), want.len(), "{ty}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            // A subnormal result may be flushed to zero, which the interfaces leave to the device.
            let flushed = want.is_subnormal() && *got == 0.0;
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()) || flushed;
            assert!(same, "{ty}: value {i} is {got:e}, not {want:e}");
        }
    }
}

fn matrix(ty: TensorType, rows: usize, cols: usize) -> Matrix<'static> {
    let info = TensorInfo::new("w", Dims::new(&[cols as u64, rows as u64]).unwrap(), ty).unwrap();
    Matrix::from_bytes(&info, encoded(ty, rows, cols).into()).unwrap()
}

/// The largest difference in shares of the root of the mean square.
fn far(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt().max(f32::MIN_POSITIVE);
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

fn check_product(device: &Device, tokens: usize, w: &Matrix<'_>, rows: Range<usize>) {
    let x = numbers(tokens * w.cols(), 3);
    let want = product(&x, w, rows.clone(), Order::Fixed).unwrap();
    let on = w.clone().on(device);
    let got = product(&x, &on, rows.clone(), Order::Fixed).unwrap();
    let far = far(&got, &want);
    assert!(far < 1e-5, "{tokens} tokens, {w:?}, rows {rows:?}: {far:e}");
    let again = product(&x, &on, rows, Order::Fixed).unwrap();
    assert_eq!(got, again, "the same product gives the same bits");
}

#[test]
fn products_of_odd_shapes_are_those_of_the_processor() {
    let Some(device) = device(Options::default()) else { return };
    for (tokens, rows, cols) in [(1, 1, 1), (1, 200, 64), (7, 65, 96), (63, 31, 5), (65, 130, 33), (130, 513, 128)] {
        let w = Matrix::from_f32("w", numbers(rows * cols, 2), cols);
        check_product(&device, tokens, &w, 0..rows);
    }
    for format in quantize::FORMATS {
        check_product(&device, 5, &matrix(format.ty(), 67, 256), 3..66);
    }
    let decode = |rows: Range<usize>, out: &mut [f32]| {
        out.iter_mut().zip(rows.start * 12..).for_each(|(x, i)| *x = (i as f32).sin());
        Ok(())
    };
    check_product(&device, 9, &Matrix::from_fn("w", 70, 12, std::sync::Arc::new(decode)), 0..70);
}

#[test]
fn a_vocabulary_of_262144_is_cut_to_what_a_binding_holds() {
    // As on a device whose bindings and memory are small.
    let small = Options { memory: Some(48 << 20), binding: Some(4 << 20) };
    let Some(device) = device(small) else { return };
    check_product(&device, 3, &matrix(TensorType::Q8_0, 262_144, 64), 0..262_144);
    check_product(&device, 300, &matrix(TensorType::Q4_K, 5000, 256), 7..4999);
}

#[test]
fn too_little_memory_is_told_with_the_tensor_and_the_way_out() {
    let Some(device) = device(Options { memory: Some(1 << 12), binding: None }) else { return };
    let w = matrix(TensorType::F32, 4096, 256).on(&device);
    let error = product(&numbers(256 * 256, 1), &w, 0..4096, Order::Fixed).unwrap_err();
    assert_eq!(error.kind(), gguf::ErrorKind::System);
    assert!(error.message().contains("takes") && !error.message().contains('\n'), "{error}");
    assert!(error.way_out().unwrap().contains("--device-memory"), "{error}");
}

#[test]
fn a_device_that_is_not_there_is_told_of() {
    let error = open_with(Choice::Number(99), Options::default()).unwrap_err();
    assert_eq!(error.kind(), gguf::ErrorKind::System);
    assert!(error.message().contains("no device") && error.way_out().is_some(), "{error}");
}

/// Folders of small models with their names.
fn models(under: &str) -> Vec<(String, Box<dyn Source + Send>)> {
    let mut names: Vec<String> = std::fs::read_dir(fixtures::path(under))
        .unwrap()
        .map(|folder| folder.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let open = |name: String| {
        let options = convert::Options { any_pre: true, ..convert::Options::default() };
        let source = convert::open(&fixtures::path(&format!("{under}/{name}/hf/{name}")), &options).unwrap();
        (name, source)
    };
    names.into_iter().map(open).collect()
}

/// Tokens as a text has them: any that the model knows.
fn inputs(model: &Model, sequences: usize, len: usize) -> Vec<Input> {
    let token = |i: usize| (numbers(1, i as u32 * 7 + 1)[0].abs() * (model.vocabulary.min(250) - 1) as f32) as u32;
    (0..sequences)
        .map(|s| {
            let tokens: Vec<u32> = (0..len - s % 2).map(|i| token(s * len + i)).collect();
            let encoder = if model.shape == Shape::EncoderDecoder { tokens.clone() } else { Vec::new() };
            Input { tokens, encoder, second: 0 }
        })
        .collect()
}

fn hidden(model: &Model, weights: &dyn Weights, inputs: &[Input]) -> Vec<f32> {
    Forward::new(model, weights).hidden(inputs).unwrap().remove(0)
}

fn mean_nll(model: &Model, weights: &dyn Weights, chunks: &Chunks) -> f64 {
    let mut nll = Vec::new();
    let plan = Plan::new(model, 1, chunks.inputs[0].tokens.len(), 1 << 28);
    perplexity(model, weights, chunks, plan, None, |chunk| nll.extend_from_slice(chunk)).unwrap();
    Score::of(&nll).nll()
}

fn mean_kld(model: &Model, [base, other]: [&dyn Weights; 2], chunks: &Chunks) -> f64 {
    let stream = |weights| Stream { model, weights };
    let plan = Plan::new(model, 2, chunks.inputs[0].tokens.len(), 1 << 28);
    let found = compare(Baseline::Run(stream(base)), &[stream(other)], chunks, plan, None, |_| Ok(())).unwrap();
    Divergence::of(&found.base_nll, &found.models[0], chunks.scored.len()).kld.value
}

/// What differs from the processor's figures, with the number of models.
fn check_models(device: &Device, under: &str) -> (usize, Vec<String>) {
    let models = models(under);
    let faults = models.iter().filter_map(|(name, source)| Some(format!("{name}: {}", fault(device, &**source)?)));
    (models.len(), faults.collect())
}

fn fault(device: &Device, source: &dyn Source) -> Option<String> {
    let stored = Stored(source);
    let model = Model::new(source.metadata(), &stored).unwrap();
    let on = OnDevice::new(stored, Some(device));
    let inputs = inputs(&model, 3, 24);
    if model.shape == Shape::Encoder {
        let far = far(&hidden(&model, &on, &inputs), &hidden(&model, &stored, &inputs));
        return (far >= 2e-5).then(|| format!("states differ by {far:e}"));
    }
    let chunks = Chunks { inputs, scored: 2..22, first: 0 };
    let (want, got) = (mean_nll(&model, &stored, &chunks), mean_nll(&model, &on, &chunks));
    if (got - want).abs() >= 1e-5 {
        return Some(format!("the perplexity is {} times the processor's", (got - want).exp()));
    }
    if got != mean_nll(&model, &on, &chunks) {
        return Some("the same run gives other figures".to_owned());
    }
    let coarse = Encoded::new(source, "q8_0".parse::<Precision>().unwrap(), None).unwrap();
    let want = mean_kld(&model, [&stored, &coarse], &chunks);
    let got = mean_kld(&model, [&on, &OnDevice::new(&coarse, Some(device))], &chunks);
    let fits = (got - want).abs() <= (1e-4 * want).max(1e-8);
    (!fits).then(|| format!("the divergence is {got:e}, not {want:e}"))
}

#[test]
fn every_architecture_gives_the_processor_s_figures() {
    let Some(device) = device(Options::default()) else { return };
    assert_eq!(check_models(&device, "golden/arch"), (40, Vec::new()));
}

#[test]
fn every_encoder_gives_the_processor_s_states() {
    let Some(device) = device(Options::default()) else { return };
    assert_eq!(check_models(&device, "golden/encoders"), (26, Vec::new()));
}
