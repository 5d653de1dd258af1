//! What a device computes is what the processor computes: decoders bit for bit, products and whole models within the
//! error of f32 sums. Runs on the first device, which may be one of software; without one, that is said and nothing is run.

use std::ops::Range;
use std::path::{Path, PathBuf};

use convert::packed::Float;
use eval::compare::{Baseline, compare};
use eval::device::{Attention, Biases, Choice, Device, Rotation, Values};
use eval::divergence::Divergence;
use eval::encoded::{Encoded, Precision};
use eval::forward::{Forward, Input, Stream};
use eval::gpu::{Gpu, Options, open};
use eval::layers::sight::Sight;
use eval::matmul::{Order, product};
use eval::model::{Model, Shape};
use eval::perplexity::{Chunks, Schedule, Score, perplexity};
use eval::weights::{Deployed, Matrix, OnDevice, SourceWeights, Weights};
use gguf::arch::{Activation, Dim, NormKind, WindowKind};
use gguf::{Runtime, Shape as Dims, Source, TensorInfo, TensorType};
use quantize::Codec;

/// The first device, or a word that there is none.
fn device(options: Options) -> Option<Device> {
    match open(Choice::Gpu, options) {
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
fn products_as_deployed_are_those_of_the_processor() {
    let Some(device) = device(Options::default()) else { return };
    let types = quantize::LEVELS.iter().map(|row| row.ty()).chain([TensorType::F16, TensorType::BF16]);
    let mut count = 0;
    for ty in types {
        for (tokens, rows, part) in [(1, 1, 0..1), (5, 67, 3..66), (70, 130, 0..130)] {
            check_product(&device, tokens, &matrix(ty, rows, 512).deployed(), part);
        }
        count += 1;
    }
    assert_eq!(count, 27);
    // Activations that are zero, and weights that a program computes in 16 bits.
    let w = matrix(TensorType::Q4_K, 9, 256).deployed().on(&device);
    assert_eq!(product(&[0.0; 512], &w, 0..9, Order::Fixed).unwrap(), [0.0; 18]);
    let half = Matrix::from_f32("w", numbers(70 * 33, 2), 33).run_by(Runtime::FourBit(TensorType::BF16)).deployed();
    check_product(&device, 9, &half, 0..70);
    // A row that is no whole number of blocks is refused as on the processor.
    let odd = matrix(TensorType::Q8_0, 4, 96).deployed().on(&device);
    assert!(product(&numbers(96, 1), &odd, 0..4, Order::Fixed).is_ok());
}

#[test]
fn what_is_not_finite_is_no_number_in_products_as_deployed() {
    let Some(device) = device(Options::default()) else { return };
    for ty in [TensorType::Q8_0, TensorType::Q4_1, TensorType::Q6_K] {
        let mut x = numbers(2 * 512, 4);
        x[700] = f32::NEG_INFINITY;
        let found = product(&x, &matrix(ty, 3, 512).deployed().on(&device), 0..3, Order::Fixed).unwrap();
        assert!(found[..3].iter().all(|y| y.is_finite()) && found[3..].iter().all(|y| y.is_nan()), "{ty}: {found:?}");
    }
}

#[test]
fn a_vocabulary_of_262144_is_cut_to_what_a_binding_holds() {
    // As on a device whose bindings and memory are small.
    let small = Options { memory: Some(48 << 20), binding: Some(4 << 20), ..Options::default() };
    let Some(device) = device(small) else { return };
    check_product(&device, 3, &matrix(TensorType::Q8_0, 262_144, 64), 0..262_144);
    check_product(&device, 300, &matrix(TensorType::Q4_K, 5000, 256), 7..4999);
    check_product(&device, 3, &matrix(TensorType::Q8_0, 262_144, 64).deployed(), 0..262_144);
    check_product(&device, 300, &matrix(TensorType::Q4_K, 5000, 256).deployed(), 7..4999);
}

#[test]
fn too_little_memory_is_told_with_the_tensor_and_the_way_out() {
    let Some(device) = device(Options { memory: Some(1 << 12), ..Options::default() }) else { return };
    let w = matrix(TensorType::F32, 4096, 256).on(&device);
    let error = product(&numbers(256 * 256, 1), &w, 0..4096, Order::Fixed).unwrap_err();
    assert_eq!(error.kind(), gguf::ErrorKind::System);
    assert!(error.message().contains("takes") && !error.message().contains('\n'), "{error}");
    assert!(error.way_out().unwrap().contains("--device-memory"), "{error}");
}

#[test]
fn a_device_that_is_not_there_is_told_of() {
    let error = open(Choice::Number(99), Options::default()).unwrap_err();
    assert_eq!(error.kind(), gguf::ErrorKind::System);
    assert!(error.message().contains("no device") && error.way_out().is_some(), "{error}");
}

/// Folders of small models with their names.
fn models(under: &Path) -> Vec<(String, Box<dyn Source + Send>)> {
    let folders = std::fs::read_dir(under).unwrap().map(|folder| folder.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|folder| folder.join("hf").is_dir()).collect();
    folders.sort();
    let open = |folder: PathBuf| {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let options = convert::Options { any_pre: true, ..convert::Options::default() };
        match convert::open(&folder.join("hf").join(&name), &options) {
            Ok(source) => Some((name, source)),
            Err(e) => {
                eprintln!("skipped: {name}: {e}");
                None
            }
        }
    };
    folders.into_iter().filter_map(open).collect()
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
    let plan = Schedule::new(model, 1, chunks.inputs[0].tokens.len(), 1 << 28);
    perplexity(model, weights, chunks, plan, None, |chunk| nll.extend_from_slice(chunk)).unwrap();
    Score::of(&nll).nll()
}

fn mean_kld(model: &Model, [base, other]: [&dyn Weights; 2], chunks: &Chunks) -> f64 {
    let stream = |weights| Stream { model, weights };
    let plan = Schedule::new(model, 2, chunks.inputs[0].tokens.len(), 1 << 28);
    let found = compare(Baseline::Run(stream(base)), &[stream(other)], chunks, plan, None, |_| Ok(())).unwrap();
    Divergence::of(&found.base_nll, &found.models[0], chunks.scored.len()).kld.value
}

/// What differs from the processor's figures, with the number of models.
fn check_models(device: &Device, under: &Path) -> (usize, Vec<String>) {
    let models = models(under);
    let faults = models.iter().filter_map(|(name, source)| Some(format!("{name}: {}", fault(device, &**source)?)));
    (models.len(), faults.collect())
}

fn fault(device: &Device, source: &dyn Source) -> Option<String> {
    let stored = SourceWeights(source);
    let model = match Model::new(source.metadata(), &stored) {
        Ok(model) => model,
        Err(e) => {
            eprintln!("skipped: {e}");
            return None;
        }
    };
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
    assert_eq!(check_models(&device, &fixtures::path("golden/arch")), (40, Vec::new()));
}

/// A rounded activation that lies between two codes may take the other one where the last bit of a sum differs: models as
/// deployed are near the processor's figures, nearly all of them as near as exact ones, and none has them by chance.
#[test]
fn models_as_deployed_give_the_processor_s_figures() {
    let Some(device) = device(Options::default()) else { return };
    let (mut count, mut equal) = (0, 0);
    for (name, source) in models(&fixtures::path("golden/arch")) {
        let stored = SourceWeights(&*source);
        let model = Model::new(source.metadata(), &stored).unwrap();
        if model.shape == Shape::Encoder {
            continue;
        }
        let chunks = Chunks { inputs: inputs(&model, 3, 24), scored: 2..22, first: 0 };
        for ty in ["q8_0", "q4_k_m"] {
            let coarse = Encoded::new(&*source, ty.parse::<Precision>().unwrap(), None).unwrap();
            let here = Deployed::new(&coarse);
            let on = OnDevice::new(Deployed::new(&coarse), Some(&device));
            let far = (mean_nll(&model, &on, &chunks) - mean_nll(&model, &here, &chunks)).abs();
            assert!(far < 5e-4, "{name} as {ty}: the perplexity is {} times the processor's", far.exp());
            let want = mean_kld(&model, [&stored, &here], &chunks);
            let got = mean_kld(&model, [&stored, &on], &chunks);
            let apart = (got - want).abs();
            assert!(apart <= (0.01 * want).max(1e-8), "{name} as {ty}: the divergence is {got:e}, not {want:e}");
            count += 1;
            equal += usize::from(far < 1e-5 && apart <= (1e-4 * want).max(1e-8));
        }
    }
    assert_eq!(count, 78);
    assert!(equal >= 60, "{equal} of {count} are as near as exact ones");
}

#[test]
fn every_encoder_gives_the_processor_s_states() {
    let Some(device) = device(Options::default()) else { return };
    assert_eq!(check_models(&device, &fixtures::path("golden/encoders")), (26, Vec::new()));
}

/// The same on the processor and on the device: how far values are apart at most, in shares of their size, or of the root
/// of the mean square for those near zero, which are differences of larger ones.
fn both(device: &Device, x: &[f32], act: impl Fn(&mut Values)) -> f32 {
    let (mut host, mut on) = (Values::from(x.to_vec()), Values::from(x.to_vec()));
    on.bring(device).unwrap();
    assert!(on.resident().is_some(), "there is room for {} values", x.len());
    act(&mut host);
    act(&mut on);
    assert!(on.resident().is_some(), "the values stay on the device");
    let found = on.to_vec();
    device.state().unwrap();
    assert_eq!(found.len(), host.len());
    let root = (host.iter().map(|v| v * v).sum::<f32>() / host.len() as f32).sqrt().max(f32::MIN_POSITIVE);
    found.iter().zip(&*host).map(|(a, b)| (a - b).abs() / b.abs().max(root)).fold(0.0, f32::max)
}

#[test]
fn every_activation_and_gate_is_that_of_the_processor() {
    let Some(device) = device(Options::default()) else { return };
    let activations = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::ReluSquared,
        Activation::Xielu([0.3, -0.2, 0.5, -1e-6]),
        Activation::SwigluOai,
        Activation::SiluClamped(3.0),
        Activation::SiluLimited(2.0),
        Activation::Situ { beta: 4.0, linear: 25.0 },
        Activation::Situ { beta: 4.0, linear: 0.0 },
    ];
    // Small, usual and large arguments, and more of them than a workgroup has invocations.
    let x: Vec<f32> = numbers(3001, 5).iter().enumerate().map(|(i, x)| x * [1e-3, 1.0, 9.0, 60.0][i % 4]).collect();
    for activation in activations {
        let alone = both(&device, &x, |x| x.activate(activation).unwrap());
        // Each of up to three functions in a row is within three units of the last place, 3.6e-7.
        assert!(alone < 1.1e-6, "{activation:?}: {alone:e}");
        let gates: Vec<f32> = x.iter().rev().copied().collect();
        let gated = both(&device, &x, |x| x.gate(activation, &mut gates.clone().into()).unwrap());
        assert!(gated < 1.1e-6, "{activation:?} as a gate: {gated:e}");
    }
}

/// A change of values, with its name.
type Change<'a> = (&'a str, &'a dyn Fn(&mut Values));

#[test]
fn what_changes_each_value_is_that_of_the_processor() {
    let Some(device) = device(Options::default()) else { return };
    let (x, row) = (numbers(77 * 40, 5), numbers(40, 6));
    let other = Values::from(numbers(77 * 40, 7));
    let checks: [Change<'_>; 9] = [
        ("sum", &|x| x.add_scaled(&other, 0.3).unwrap()),
        ("bias", &|x| x.add_rows(&row).unwrap()),
        ("scale", &|x| x.scale(-1.7).unwrap()),
        ("factors of groups", &|x| x.scale_groups(8, &row[..5]).unwrap()),
        ("quotient", &|x| x.divide_rows(&row).unwrap()),
        ("limit", &|x| x.clamp(0.4).unwrap()),
        ("gates of groups", &|x| x.gate_groups(40, &numbers(77, 8).into()).unwrap()),
        ("rounding to bf16", &|x| x.round_to(Float::Bf16).unwrap()),
        ("zeros", &|x| *x = x.zeros().unwrap()),
    ];
    for (name, act) in checks {
        let far = both(&device, &x, act);
        assert!(far < 1e-6, "{name}: {far:e}");
    }
    // Of every size that a half has, and beyond both ends.
    let sizes: Vec<f32> = (0..3080).map(|i| (1.0 + i as f32 / 3840.0) * 2f32.powi(i % 60 - 40)).collect();
    let halves: Vec<f32> = sizes.iter().zip(&x[..]).map(|(size, x)| size.copysign(*x)).collect();
    for float in [Float::F16, Float::Bf16] {
        let mut host = Values::from(halves.clone());
        let mut on = Values::from(halves.clone());
        on.bring(&device).unwrap();
        host.round_to(float).unwrap();
        on.round_to(float).unwrap();
        assert!(on.resident().is_some());
        assert_eq!(on[..], host[..], "{float:?}");
    }
    let rows = [(3, 0.5), (0, 1.0), (76, -2.0), (3, 4.0)];
    let apart = both(&device, &x, |x| *x = x.gather(40, &rows).unwrap());
    assert_eq!(apart, 0.0, "rows");
    assert_eq!(both(&device, &x, |x| *x = x.columns(40, 7, 19).unwrap()), 0.0, "columns");
    let into = |x: &mut Values| {
        let made = x.gather(40, &[(5, 1.0), (6, 2.0)]).unwrap();
        x.scatter(&made, 40, &[(1, 0.5), (70, -1.0)]).unwrap();
    };
    assert_eq!(both(&device, &x, into), 0.0, "rows that are added");
    let mut broken = x.clone();
    broken[1234] = f32::NEG_INFINITY;
    for (x, want) in [(x, None), (broken, Some(f32::NEG_INFINITY))] {
        let mut on = Values::from(x);
        on.bring(&device).unwrap();
        assert_eq!(on.broken().unwrap(), want);
    }
}

#[test]
fn norms_of_any_length_are_those_of_the_processor() {
    let Some(device) = device(Options::default()) else { return };
    for (len, groups) in [(1, 3), (5, 70), (64, 9), (257, 30), (4096, 3)] {
        let x: Vec<f32> = numbers(len * groups, 5).iter().map(|x| 3.0 + x).collect();
        let (weight, bias) = (numbers(len, 6), numbers(len, 7));
        for kind in [NormKind::Rms(1e-5), NormKind::Layer(1e-3)] {
            for (weight, bias) in [(None, None), (Some(&*weight), None), (Some(&weight), Some(&*bias))] {
                let far = both(&device, &x, |x| x.normalize(kind, len, weight, bias).unwrap());
                assert!(far < 3e-6, "{kind:?} of {len}: {far:e}");
            }
        }
        let heads = numbers(len * groups, 8);
        let far = both(&device, &x, |x| x.normalize(NormKind::Rms(1e-5), len, Some(&heads), None).unwrap());
        assert!(far < 3e-6, "heads of {len} with weights of their own: {far:e}");
    }
}

/// Attention by its definition, in f64.
fn defined(a: &Attention<'_>, q: &[f32], k: &[f32], v: &[f32], spans: &[Range<usize>]) -> Vec<f32> {
    let (wide, width) = (a.heads * a.key_len, a.heads * a.value_len);
    let mut out = vec![0.0; q.len() / wide * width];
    for (span, head) in spans.iter().flat_map(|span| (0..a.heads).map(move |head| (span, head))) {
        let shared = head / (a.heads / a.kv_heads);
        for i in 0..span.len() {
            let (first, last) = a.sight.of(i, span.len());
            let score = |j: usize| {
                let q = &q[(span.start + i) * wide + head * a.key_len..][..a.key_len];
                let k = &k[((span.start + j) * a.kv_heads + shared) * a.key_len..][..a.key_len];
                let mut score = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
                score *= f64::from(a.scale);
                if let Some(cap) = a.cap {
                    score = (score / f64::from(cap)).tanh() * f64::from(cap);
                }
                let distance = j as f64 - i as f64;
                let causal = a.sight.told().0;
                score += a.slopes.map_or(0.0, |s| f64::from(s[head]) * if causal { distance } else { -distance.abs() });
                let bias = |b: &Biases| b.values[head * (2 * b.reach + 1) + (j + b.reach - i)];
                score + a.biases.as_ref().map_or(0.0, |b| f64::from(bias(b)))
            };
            let powers: Vec<f64> = (first..last).map(|j| score(j).exp()).collect();
            let sum = powers.iter().sum::<f64>() + a.sinks.map_or(0.0, |s| f64::from(s[head]).exp());
            for c in 0..a.value_len {
                let value = |j: usize| f64::from(v[((span.start + j) * a.kv_heads + shared) * a.value_len + c]);
                let total: f64 = powers.iter().zip(first..last).map(|(p, j)| p * value(j)).sum();
                out[(span.start + i) * width + head * a.value_len + c] = (total / sum) as f32;
            }
        }
    }
    out
}

#[test]
fn attention_is_that_of_its_definition() {
    let all = device(Options::default());
    // Where few scores fit at once, queries go in blocks.
    let small = device(Options { memory: Some(1 << 19), ..Options::default() });
    let (Some(all), Some(small)) = (all, small) else { return };
    let spans = [0..70, 70..71, 71..200];
    let (heads, kv_heads, key_len, value_len) = (4, 2, 20, 12);
    let x = |len: usize, seed: u32| -> Vec<f32> { numbers(200 * len, seed).iter().map(|x| 2.0 * x).collect() };
    let (q, k, v) = (x(heads * key_len, 1), x(kv_heads * key_len, 2), x(kv_heads * value_len, 3));
    let (slopes, sinks) = ([0.5, 0.25, 0.1, 0.0], [0.3, -1.0, 2.0, 0.0]);
    let plain = |causal: bool, window: WindowKind, len: usize| Attention {
        heads,
        kv_heads,
        key_len,
        value_len,
        scale: 0.3,
        cap: None,
        sight: Sight::new((window, Dim(len as u64)), causal),
        slopes: None,
        sinks: None,
        biases: None,
    };
    let causal = || plain(true, WindowKind::None, 0);
    let biases = |reach: usize| Biases { reach, values: numbers(heads * (2 * reach + 1), 4) };
    let kinds = [
        ("causal", causal()),
        ("both ways", plain(false, WindowKind::None, 0)),
        ("sliding", plain(true, WindowKind::Sliding, 9)),
        ("chunked", plain(true, WindowKind::Chunked, 32)),
        ("symmetric", plain(false, WindowKind::Symmetric, 10)),
        ("capped", Attention { cap: Some(1.5), ..causal() }),
        ("sloped", Attention { slopes: Some(&slopes), ..causal() }),
        ("sloped both ways", Attention { slopes: Some(&slopes), ..plain(false, WindowKind::None, 0) }),
        ("with sinks", Attention { sinks: Some(&sinks), ..plain(true, WindowKind::Sliding, 9) }),
        ("biased", Attention { biases: Some(biases(128)), ..plain(false, WindowKind::None, 0) }),
    ];
    for (name, a) in &kinds {
        let want = defined(a, &q, &k, &v, &spans);
        for device in [&all, &small] {
            let kernels = device.kernels();
            let [q, k, v] = [&q, &k, &v].map(|x| kernels.upload(x).unwrap());
            let jobs: Vec<_> = spans.iter().map(|s| (s.clone(), s.clone(), 0)).collect();
            let got = kernels.download(&kernels.attend(a, &q, (&k, &v), &jobs).unwrap()).unwrap();
            let far = far(&got, &want);
            assert!(far < 3e-6, "{name}: {far:e}");
        }
    }
}

#[test]
fn rotations_are_those_of_the_processor() {
    let Some(device) = device(Options::default()) else { return };
    let (heads, len, half, positions) = (3, 20, 8, [0, 5, 2, 9, 1]);
    let angles: Vec<[f32; 2]> = (0..8 * half).map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
    let x = numbers(positions.len() * heads * len, 3);
    for neighbours in [false, true] {
        let rotation = Rotation { half, neighbours, angles: &angles, positions: &positions, heads, len };
        let kernels = device.kernels();
        let on = kernels.upload(&x).unwrap();
        kernels.rotate(&rotation, &Default::default(), &on).unwrap();
        let mut want = x.clone();
        for (head, position) in want.chunks_mut(len).zip(positions.iter().flat_map(|p| [*p as usize; 3])) {
            for pair in 0..half {
                let (a, b) = if neighbours { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
                // Beyond the table nothing rotates.
                let Some([cos, sin]) = angles.get(position * half + pair).copied() else { continue };
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
        let far = far(&kernels.download(&on).unwrap(), &want);
        assert!(far < 1e-6, "{neighbours}: {far:e}");
    }
}

/// Folders of models beside those of this repository: `DOWNCAST_MODELS=FOLDER:FOLDER`, each with `NAME/hf/NAME`.
#[test]
fn other_models_give_the_processor_s_figures() {
    let Some(folders) = std::env::var_os("DOWNCAST_MODELS") else { return };
    let Some(device) = device(Options::default()) else { return };
    for folder in std::env::split_paths(&folders) {
        let (count, faults) = check_models(&device, &folder);
        assert!(faults.is_empty(), "of {count}:\n{}", faults.join("\n"));
    }
}
