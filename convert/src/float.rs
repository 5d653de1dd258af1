//! The float types a weight is stored in, and their way to f32 and back.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::safetensors::Dtype;

/// A float type that checkpoints store weights in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl Float {
    /// Every float type, for tables and tests.
    pub const ALL: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

    /// The float type that elements of a safetensors file have, if it is one of these.
    pub fn from_safetensors(dtype: Dtype) -> Option<Float> {
        Float::ALL.into_iter().find(|f| f.safetensors() == dtype)
    }

    /// The type that torch, and with it `config.json`, calls by this name.
    pub fn from_torch(name: &str) -> Option<Float> {
        Float::ALL.into_iter().find(|f| f.torch() == name)
    }

    /// The type in a safetensors file.
    pub fn safetensors(self) -> Dtype {
        match self {
            Float::F32 => Dtype::F32,
            Float::F16 => Dtype::F16,
            Float::Bf16 => Dtype::BF16,
        }
    }

    /// The name torch gives it, without `torch.`.
    pub fn torch(self) -> &'static str {
        match self {
            Float::F32 => "float32",
            Float::F16 => "float16",
            Float::Bf16 => "bfloat16",
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }

    /// Decodes little-endian elements. `bytes` holds `out.len()` of them.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Float::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Float::Bf16 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
            Float::F16 => {
                const LANES: usize = 64;
                let mut halves = [f16::ZERO; LANES];
                for (out, bytes) in out.chunks_mut(LANES).zip(bytes.chunks(2 * LANES)) {
                    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    halves[..out.len()].convert_to_f32_slice(out);
                }
            }
        }
    }

    /// The element at this place of little-endian elements.
    ///
    /// # Panics
    /// Past the end.
    pub fn at(self, bytes: &[u8], i: usize) -> f32 {
        let mut one = [0.0];
        self.decode(&bytes[i * self.size()..(i + 1) * self.size()], &mut one);
        one[0]
    }

    /// The value after a trip through this type, rounded to nearest even.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Float::F32 => value,
            Float::F16 => f16::from_f32(value).to_f32(),
            Float::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Appends a value, rounded to nearest even.
    pub fn push(self, value: f32, out: &mut Vec<u8>) {
        match self {
            Float::F32 => out.extend_from_slice(&value.to_le_bytes()),
            Float::F16 => out.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
            Float::Bf16 => out.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
        }
    }
}
