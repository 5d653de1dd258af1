//! A folder that bitsandbytes' form was written to: transformers, the transformer here and the GGUF made of it agree.

use convert::packed::bnb::Code;
use eval::forward::Forward;
use eval::model::Model;
use eval::weights::Stored;
use gguf::Source;
use quantize::bnb::{Form, Options, Storage, write};

fn logits(source: &dyn Source, tokens: &[u32]) -> Vec<f32> {
    let weights = Stored(source);
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
        let square = |v: f64| v * v;
        let error: f64 = ours.iter().zip(&theirs).map(|(a, b)| square(f64::from(a - b))).sum();
        let size: f64 = theirs.iter().map(|&v| square(f64::from(v))).sum();
        let relative = (error / size).sqrt();
        assert!(relative < 0.02, "{name}: {relative}");

        // The GGUF made of the folder is the folder.
        let path = folder.path().join(format!("{name}.gguf"));
        let file = std::fs::File::create(&path).unwrap();
        gguf::write::copy(&packed, packed.metadata(), std::io::BufWriter::new(file), |_| {}).unwrap();
        assert_eq!(logits(&gguf::File::open(&path).unwrap(), &tokens), ours);
    }
}
