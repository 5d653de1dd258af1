use eval::forward::*;
use eval::model::Model;
use eval::weights::Stored;
use gguf::Source;
fn main() {
    for dir in std::env::args().skip(1) {
        let name = std::path::Path::new(&dir).file_name().unwrap().to_str().unwrap().to_owned();
        let r = run(&dir, &name);
        println!(
            "{name:30} {}",
            match r {
                Ok(d) => format!("{d:.2e}{}", if d < 2e-3 { "" } else { "   <-----" }),
                Err(e) => format!("ERR {e}"),
            }
        );
    }
}
fn run(dir: &str, name: &str) -> gguf::Result<f32> {
    let e: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{dir}/expected.json")).unwrap()).unwrap();
    let want: Vec<f32> = std::fs::read(format!("{dir}/expected.f32"))
        .unwrap()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let tokens: Vec<u32> = e["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let f = gguf::File::open(format!("{dir}/{name}-bf16.gguf"))?;
    let w = Stored(&f);
    let model = Model::new(f.metadata(), &w)?;
    let mut got = vec![];
    let fw = Forward::new(&model, &w);
    match model.row.shape {
        eval::model::Shape::Encoder => got = fw.hidden(&[tokens.into()])?.remove(0),
        s => {
            let n = e["expected_shape"][0].as_u64().unwrap() as usize;
            let input = if s == eval::model::Shape::EncoderDecoder {
                Input { tokens: tokens[..n].to_vec(), encoder: tokens }
            } else {
                tokens.into()
            };
            fw.logits(
                &[input],
                |_| 0..usize::MAX,
                |l| {
                    got.extend_from_slice(&l.streams[0]);
                    Ok(())
                },
            )?;
        }
    }
    assert_eq!(got.len(), want.len());
    if std::env::var_os("V").is_some() {
        let v = want.len() / e["expected_shape"][0].as_u64().unwrap() as usize;
        for (i, (a, b)) in got.chunks(v).zip(want.chunks(v)).enumerate() {
            println!("{i} {:.2e}", a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max));
        }
    }
    Ok(got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}
