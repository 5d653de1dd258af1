//! What bitsandbytes keeps beside the codes: the JSON inside `weight.quant_state.bitsandbytes__nf4`.

pub use convert::packed::bnb::QuantState;
use serde_json::{Map, Value, json};

use convert::python::{Layout, dumps};

/// The state as the library writes it.
pub fn to_json(state: &QuantState) -> String {
    let mut map = Map::new();
    map.insert("quant_type".into(), json!(state.code.name()));
    map.insert("blocksize".into(), json!(state.block));
    map.insert("dtype".into(), json!(state.float.torch()));
    map.insert("shape".into(), json!(state.shape));
    if let Some(offset) = state.offset {
        map.insert("nested_blocksize".into(), json!(state.nested_block));
        map.insert("nested_dtype".into(), json!("float32"));
        map.insert("nested_offset".into(), json!(f64::from(offset)));
    }
    dumps(&Value::Object(map), Layout::Line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use convert::packed::Float;
    use convert::packed::bnb::Code;

    #[test]
    fn states_are_read_back() {
        for offset in [None, Some(0.133_935_76)] {
            let state = QuantState {
                code: Code::Nf4,
                block: 64,
                float: Float::Bf16,
                shape: vec![256, 768],
                offset,
                nested_block: 256,
            };
            assert_eq!(QuantState::from_json(to_json(&state).as_bytes()).unwrap(), state);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, word) in [
            ("[]", "no JSON object"),
            (r#"{"quant_type": "nf4"}"#, "blocksize"),
            (r#"{"quant_type": "af4"}"#, "af4"),
            (r#"{"quant_type": "nf4", "blocksize": 65}"#, "65"),
            (r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float8"}"#, "float8"),
            (r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [-1]}"#, "shape"),
        ] {
            let error = QuantState::from_json(json.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
