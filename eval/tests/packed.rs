//! A folder that bitsandbytes' form was written to: transformers, the transformer here and the GGUF made of it agree.

use convert::packed::Float;
use convert::packed::bnb::Code;
use eval::forward::Forward;
use eval::model::Model;
use eval::weights::{Deployed, SourceWeights, Weights};
use gguf::{Runtime, Source, TensorType};
use quantize::bnb::{Form, Options, Storage, write};

fn logits(source: &dyn Source, tokens: &[u32]) -> Vec<f32> {
    multiplied(source, SourceWeights(source), tokens)
}

fn multiplied(source: &dyn Source, weights: impl Weights, tokens: &[u32]) -> Vec<f32> {
    let model = Model::new(source.metadata(), &weights).unwrap();
    let mut all = Vec::new();
    Forward::new(&model, &weights)
        .logits(
            &[tokens.to_vec().into()],
            |_| 0..tokens.len(),
            |block| {
                all.extend_from_slice(&block.streams[0]);
                Ok(())
            },
        )
        .unwrap();
    all
}

/// The root of the squared differences, relative to the second.
fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = ours.iter().zip(theirs).map(|(a, b)| square(f64::from(a - b))).sum();
    let size: f64 = theirs.iter().map(|&v| square(f64::from(v))).sum();
    (error / size).sqrt()
}

#[test]
fn the_library_s_logits_are_ours_within_bf16_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let four = Form::FourBit { code: Code::Nf4, block: 64, double: false, storage: Storage::Uint8 };
    for (name, form) in [("nf4", four), ("int8", Form::Int8 { threshold: 6.0 })] {
        let out = folder.path().join(name);
        write(&fixtures::path("models/tiny-llama"), &out, &Options::new(form), &|_| {}).unwrap();
        let packed = convert::open(&out, &convert::Options::default()).unwrap();
        let told = fixtures::json(&format!("golden/bnb/folders/{name}/logits.json"));
        let tokens: Vec<u32> = told["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        let bytes = fixtures::bytes(&format!("golden/bnb/folders/{name}/logits.f32"));
        let theirs: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let ours = logits(&packed, &tokens);
        assert_eq!(ours.len(), theirs.len());

        // The library multiplies in bf16 (INT8: with activations in 8 bits), so each of some thirty roundings in a row
        // moves a logit by up to 1/256 of its size: as a whole they stay within 2 %.
        let exact = distance(&ours, &theirs);
        assert!(exact < 0.02, "{name}: {exact}");

        // Rounded as there we are as near, not nearer: a difference in the last bit of bf16 moves an activation to the next
        // of its 255 levels, so that two runs with the same rules part within a layer or two.
        let unrounded = convert::open(&out, &convert::Options { exact: true, ..convert::Options::default() }).unwrap();
        let deployed = distance(&multiplied(&unrounded, Deployed::new(SourceWeights(&unrounded)), &tokens), &theirs);
        assert!(deployed < 0.02 && deployed != exact, "{name}: {deployed} as deployed, {exact} exactly");

        // The GGUF made of the folder is the folder.
        let path = folder.path().join(format!("{name}.gguf"));
        let file = std::fs::File::create(&path).unwrap();
        gguf::write::copy(&packed, packed.metadata(), std::io::BufWriter::new(file), |_| {}).unwrap();
        assert_eq!(logits(&gguf::File::open(&path).unwrap(), &tokens), ours);
    }
}

/// A column is an outlier for all tokens of a product, so sequences pass the layers one by one.
#[test]
fn with_outliers_a_sequence_does_not_depend_on_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("int8");
    // So low a threshold that most columns have outliers somewhere.
    let form = Form::Int8 { threshold: 1.5 };
    write(&fixtures::path("models/tiny-llama"), &out, &Options::new(form), &|_| {}).unwrap();
    let source = convert::open(&out, &convert::Options::default()).unwrap();
    let weights = Deployed::new(SourceWeights(&source));
    let model = Model::new(source.metadata(), &weights).unwrap();
    let hidden = |sequences: &[&[u32]]| {
        let inputs: Vec<_> = sequences.iter().map(|s| s.to_vec().into()).collect();
        Forward::new(&model, &weights).hidden(&inputs).unwrap().remove(0)
    };
    let (first, second): (&[u32], &[u32]) = (&[5, 17, 3, 42, 8, 9], &[61, 29, 77]);
    let together = hidden(&[first, second]);
    assert_eq!(together, [hidden(&[first]), hidden(&[second])].concat());
    // What precedes a token in its own sequence decides together with what follows, as in the library.
    assert_ne!(hidden(&[first])[..model.width], hidden(&[&first[..1]])[..]);
}

/// The threshold of outliers and the type of products are those of the folder's configuration.
#[test]
fn the_configuration_says_how_packed_weights_are_multiplied() {
    let folder = tempfile::tempdir().unwrap();
    let four = Form::FourBit { code: Code::Nf4, block: 64, double: false, storage: Storage::Uint8 };
    let runtimes = |form: &Form, compute: Float| {
        let out = folder.path().join(format!("{form:?}{compute:?}").replace(|c: char| !c.is_alphanumeric(), ""));
        let options = Options { compute, ..Options::new(form.clone()) };
        write(&fixtures::path("models/tiny-llama"), &out, &options, &|_| {}).unwrap();
        let source = convert::open(&out, &convert::Options::default()).unwrap();
        let of = |name: &str| source.runtime(source.find(name).unwrap());
        // A norm is no matrix, the head is left alone, and q is one whose rows were put in another order.
        assert_eq!(of("output_norm.weight"), Runtime::Ggml);
        assert_eq!(of("token_embd.weight"), Runtime::Ggml);
        assert_eq!(of("blk.0.attn_q.weight"), of("blk.1.ffn_down.weight"));
        of("blk.0.attn_q.weight")
    };
    assert_eq!(runtimes(&four, Float::F16), Runtime::FourBit(TensorType::F16));
    assert_eq!(runtimes(&four, Float::F32), Runtime::FourBit(TensorType::F32));
    for threshold in [6.0, 0.0, 2.5] {
        let runtime = runtimes(&Form::Int8 { threshold }, Float::Bf16);
        assert_eq!(runtime, Runtime::Int8 { threshold: threshold as f32 });
    }
}
