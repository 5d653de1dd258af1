//! Each key and tensor of a good file is removed, retyped and resized: a model that is not the same any more is refused,
//! or gives the same logits.

use eval::forward::Forward;
use eval::model::Model;
use eval::perplexity::{Chunks, Protocol};
use eval::weights::SourceWeights;
use gguf::{Metadata, Shape, Source, TensorInfo, TensorType, Value};

/// A tensor with its bytes.
type Tensor = (TensorInfo, Vec<u8>);

fn tensor(name: &str, dims: &[u64]) -> Tensor {
    let info = TensorInfo::new(name, Shape::new(dims).unwrap(), TensorType::F32).unwrap();
    // Numbers of some variety, the same in every run; norms near 1.
    let mut state = name.bytes().fold(7_u32, |s, b| s.wrapping_mul(31).wrapping_add(u32::from(b)));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let norm = if dims.len() == 1 { 1.0 } else { 0.0 };
    let bytes = (0..info.elements()).flat_map(|_| (norm + next()).to_le_bytes()).collect();
    (info, bytes)
}

/// A llama of two layers with two heads for each key/value head.
fn good() -> (Metadata, Vec<Tensor>) {
    let u = |n: u32| Value::from(n);
    let metadata = Metadata::from_iter([
        ("general.architecture", Value::from("llama")),
        ("general.name", Value::from("damaged")),
        ("llama.context_length", u(64)),
        ("llama.embedding_length", u(32)),
        ("llama.block_count", u(2)),
        ("llama.feed_forward_length", u(48)),
        ("llama.attention.head_count", u(4)),
        ("llama.attention.head_count_kv", u(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::from(1e-5_f32)),
        ("llama.rope.freq_base", Value::from(5000_f32)),
        ("llama.rope.dimension_count", u(8)),
        ("llama.vocab_size", u(40)),
    ]);
    let mut tensors = vec![
        tensor("token_embd.weight", &[32, 40]),
        tensor("output_norm.weight", &[32]),
        tensor("output.weight", &[32, 40]),
    ];
    for layer in 0..2 {
        for (slot, dims) in [
            ("attn_norm", &[32][..]),
            ("attn_q", &[32, 32]),
            ("attn_k", &[32, 16]),
            ("attn_v", &[32, 16]),
            ("attn_output", &[32, 32]),
            ("ffn_norm", &[32]),
            ("ffn_gate", &[32, 48]),
            ("ffn_up", &[32, 48]),
            ("ffn_down", &[48, 32]),
        ] {
            tensors.push(tensor(&format!("blk.{layer}.{slot}.weight"), dims));
        }
    }
    (metadata, tensors)
}

/// The logits of a few tokens, or why there are none.
fn logits(metadata: &Metadata, tensors: &[Tensor]) -> gguf::Result<Vec<f32>> {
    let infos: Vec<TensorInfo> = tensors.iter().map(|t| t.0.clone()).collect();
    let bytes = gguf::write::to_bytes(metadata, &infos, |i| Ok(tensors[i].1.clone()))?;
    let file = gguf::File::from_bytes(bytes.into())?;
    let weights = SourceWeights(&file);
    let model = Model::new(file.metadata(), &weights)?;
    let chunks = Chunks::new(&[1, 5, 9, 33, 2, 7, 11, 3], None, 8, None, Protocol::Plain)?;
    let mut found = Vec::new();
    Forward::new(&model, &weights).logits(
        &chunks.inputs,
        |_| 0..8,
        |logits| {
            found.extend_from_slice(&logits.streams[0]);
            Ok(())
        },
    )?;
    Ok(found)
}

#[test]
fn a_damaged_model_is_refused_or_the_same() {
    let (metadata, tensors) = good();
    let right = logits(&metadata, &tensors).unwrap();
    assert!(right.len() == 8 * 40 && right.iter().all(|v| v.is_finite()));
    let mut wrong = Vec::new();
    let (mut runs, mut refused) = (0, 0);
    // What llama.cpp's loader has a default for: the base of the rotation, and the embedding as the output.
    let defaults = ["llama.rope.freq_base removed", "output.weight removed"];
    let mut judge = |what: String, found: gguf::Result<Vec<f32>>| {
        runs += 1;
        match found {
            Err(e) => {
                refused += 1;
                assert!(!fixtures::speaks_rust(&e.to_string()), "{what}: {e}");
            }
            Ok(found) if found == right || defaults.contains(&&*what) => {}
            Ok(_) => wrong.push(what),
        }
    };
    for (key, value) in metadata.iter() {
        let mut removed = metadata.clone();
        removed.remove(key);
        judge(format!("{key} removed"), logits(&removed, &tensors));
        let number = value.as_f64().unwrap_or(1.0);
        let others = [
            Value::from(number as f32),
            Value::from(number as f32 as f64),
            Value::from(number as u32 as i32),
            Value::from(u64::from(number as u32)),
            Value::from(true),
            Value::from("text"),
            Value::from(gguf::Array::from(&[number as u32; 2][..])),
        ];
        for other in others.into_iter().filter(|other| other.value_type() != value.value_type()) {
            let mut retyped = metadata.clone();
            let what = format!("{key} as {other:?}");
            retyped.set(key, other);
            judge(what, logits(&retyped, &tensors));
        }
    }
    for (i, (info, bytes)) in tensors.iter().enumerate() {
        let name = info.name();
        let with = |tensor: Option<Tensor>| {
            let mut all = tensors.clone();
            all.splice(i..=i, tensor);
            logits(&metadata, &all)
        };
        judge(format!("{name} removed"), with(None));
        let dims = info.shape().dims();
        for axis in 0..dims.len() {
            for len in [0, 1, dims[axis] / 2, dims[axis] - 1, dims[axis] + 1, dims[axis] * 2] {
                let mut resized = dims.to_vec();
                resized[axis] = len;
                judge(format!("{name} as {resized:?}"), with(Some(tensor(name, &resized))));
            }
        }
        let mut turned = dims.to_vec();
        turned.reverse();
        if turned != dims {
            judge(format!("{name} turned"), with(Some(tensor(name, &turned))));
        }
        for ty in [TensorType::I32, TensorType::I8, TensorType::F64] {
            let other = TensorInfo::new(name, *info.shape(), ty).unwrap();
            let bytes = bytes.iter().copied().cycle().take(other.bytes() as usize).collect();
            judge(format!("{name} as {ty}"), with(Some((other, bytes))));
        }
        let mut more = tensors.clone();
        more.push((TensorInfo::new(format!("{name}.more"), *info.shape(), info.ty()).unwrap(), bytes.clone()));
        judge(format!("{name} twice"), logits(&metadata, &more));
    }
    assert!(wrong.is_empty(), "{} of {runs} gave other numbers: {wrong:#?}", wrong.len());
    assert!(refused > 300, "only {refused} of {runs} were refused");
}
