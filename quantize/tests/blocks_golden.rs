//! Every format on every path against `fixtures/golden/blocks`: the bytes of ggml, by hash.

use gguf::TensorType;
use quantize::{Codec, FORMATS, Format, ImportanceUse, SimdPath};

struct Golden {
    manifest: serde_json::Value,
    input: Vec<f32>,
    importance: Vec<f32>,
}

impl Golden {
    fn open() -> Golden {
        let floats = |name: &str| -> Vec<f32> {
            let bytes = fixtures::bytes(&format!("golden/blocks/{name}"));
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        Golden {
            manifest: fixtures::json("golden/blocks/manifest.json"),
            input: floats("input.f32"),
            importance: floats("importance.f32"),
        }
    }

    fn hash(&self, ty: TensorType, field: &str) -> Option<&str> {
        self.manifest["types"][ty.name()][field].as_str()
    }
}

/// The paths of this machine; the others are reported.
fn paths() -> Vec<SimdPath> {
    let (here, missing): (Vec<_>, Vec<_>) = SimdPath::ALL.into_iter().partition(|path| path.is_available());
    for path in missing {
        eprintln!("skipped: this machine has no {path}");
    }
    here
}

fn encode(format: &Format, path: SimdPath, rows: &[f32], row_len: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0xaa; format.ty().bytes_for(rows.len() as u64).unwrap() as usize];
    format.encode_on(path, rows, row_len, importance, &mut bytes);
    bytes
}

#[test]
fn bytes_and_values_equal_the_reference_on_every_path() {
    let golden = Golden::open();
    let cols = golden.importance.len();
    let mut failures = Vec::new();
    for format in FORMATS {
        let ty = format.ty();
        assert_eq!(golden.manifest["types"][ty.name()]["block_bytes"].as_u64(), Some(ty.block_bytes()), "{ty}");
        let cases = [("bytes", "f32", None), ("bytes.imatrix", "f32.imatrix", Some(golden.importance.as_slice()))];
        let mut found = 0;
        for (bytes_field, values_field, importance) in cases {
            let Some(expected) = golden.hash(ty, bytes_field) else { continue };
            found += 1;
            for path in paths() {
                let bytes = encode(format, path, &golden.input, cols, importance);
                if fixtures::sha256(&bytes) != expected {
                    failures.push(format!("{ty} {bytes_field} on {path}"));
                    continue;
                }
                let Some(expected) = golden.hash(ty, values_field) else { continue };
                let mut values = vec![0.0f32; golden.input.len()];
                format.decode_on(path, &bytes, &mut values);
                let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                if fixtures::sha256(&values) != expected {
                    failures.push(format!("{ty} {values_field} on {path}"));
                }
            }
        }
        assert!(found > 0, "no golden for {ty}");
    }
    assert!(failures.is_empty(), "differ from the reference:\n{}", failures.join("\n"));
}

#[test]
fn rows_and_groups_do_not_change_the_bytes() {
    let golden = Golden::open();
    let cols = golden.importance.len();
    for format in FORMATS {
        for importance in [None, Some(golden.importance.as_slice())] {
            if importance.is_none() && format.importance() == ImportanceUse::Required {
                continue;
            }
            for path in paths() {
                let rows = &golden.input[..7 * cols];
                let whole = encode(format, path, rows, cols, importance);
                let parts: Vec<u8> =
                    rows.chunks(cols).flat_map(|row| encode(format, path, row, cols, importance)).collect();
                assert_eq!(whole, parts, "{} on {path}", format.ty());
            }
        }
    }
}

#[test]
fn the_table_covers_every_type_of_the_goldens() {
    let golden = Golden::open();
    let types = golden.manifest["types"].as_object().unwrap();
    let missing: Vec<_> = types.keys().filter(|name| quantize::codec(name.parse().unwrap()).is_none()).collect();
    assert!(missing.is_empty(), "no codec for {missing:?}");
    assert_eq!(types.len(), FORMATS.len());
}

#[test]
fn entry_points_refuse_what_does_not_fit() {
    let ty = TensorType::Q8_0;
    let mut out = [0; 34];
    let fails = |result: quantize::Result<()>| result.unwrap_err().to_string();

    assert!(fails(quantize::encode_rows(ty, &[0.0; 33], 33, None, &mut out)).contains("block size 32"));
    assert!(fails(quantize::encode_rows(ty, &[0.0; 33], 32, None, &mut out)).contains("rows of 32"));
    assert!(fails(quantize::encode_rows(ty, &[0.0; 32], 0, None, &mut out)).contains("rows of 0"));
    assert!(fails(quantize::encode_rows(ty, &[0.0; 32], 32, None, &mut [0; 33])).contains("34 bytes, not 33"));
    assert!(fails(quantize::encode_rows(ty, &[0.0; 32], 32, Some(&[1.0; 31]), &mut out)).contains("31 values"));
    assert!(fails(quantize::decode_rows(ty, &[0; 34], &mut [0.0; 31])).contains("blocks of 32"));
    assert!(fails(quantize::decode_rows(ty, &[0; 33], &mut [0.0; 32])).contains("34 bytes, not 33"));
    assert!(fails(quantize::decode_rows(TensorType::I32, &[0; 4], &mut [0.0; 1])).contains("I32"));

    let mut rows = [0.0; 64];
    rows[37] = f32::NAN;
    let mut two = [0; 68];
    assert!(fails(quantize::encode_rows(ty, &rows, 32, None, &mut two)).contains("row 1, column 5 is NaN"));
    rows[37] = f32::NEG_INFINITY;
    assert!(fails(quantize::encode_rows(ty, &rows, 32, None, &mut two)).contains("row 1, column 5 is -inf"));
    rows[37] = 0.0;
    assert!(quantize::encode_rows(ty, &rows, 32, None, &mut two).is_ok());
    assert!(quantize::encode_rows(ty, &[], 32, None, &mut []).is_ok());
}
