//! Shared by the integration tests.
#![allow(dead_code)]

pub mod bodies;
pub mod program;

use gguf::{Array, Metadata, Shape, TensorInfo, TensorType, Value};

/// A file put together field by field, so that any of them can be wrong.
#[derive(Clone)]
pub struct Raw {
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_keys: Option<u64>,
    pub keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

impl Default for Raw {
    /// One architecture, one F32 tensor of 8 ones.
    fn default() -> Raw {
        Raw {
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: vec![(b"general.architecture".to_vec(), 8, text(b"llama"))],
            tensors: vec![(b"a".to_vec(), vec![8], 0, 0)],
            alignment: 32,
            data: 1_f32.to_le_bytes().repeat(8),
        }
    }
}

/// An encoded string.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

impl Raw {
    pub fn key(mut self, key: &[u8], ty: u32, value: &[u8]) -> Raw {
        self.keys.push((key.to_vec(), ty, value.to_vec()));
        self
    }

    pub fn tensor(mut self, name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Raw {
        self.tensors.push((name.to_vec(), dims.to_vec(), ty, offset));
        self
    }

    pub fn only(mut self, name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Raw {
        self.tensors.clear();
        self.tensor(name, dims, ty, offset)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, ty, value) in &self.keys {
            out.extend(text(key));
            out.extend(ty.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, ty, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

/// A whole Llama of one block that breaks no rule.
#[derive(Clone)]
pub struct Model {
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
}

impl Model {
    pub fn llama() -> Model {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
        tokens.push("a".into());
        let n = tokens.len();
        let mut m = Metadata::new();
        m.set("general.architecture", "llama");
        m.set("general.type", "model");
        m.set("general.name", "Tiny");
        m.set("general.file_type", 0_u32);
        m.set("general.quantization_version", 2_u32);
        m.set("llama.context_length", 64_u32);
        m.set("llama.embedding_length", 8_u32);
        m.set("llama.block_count", 1_u32);
        m.set("llama.feed_forward_length", 16_u32);
        m.set("llama.attention.head_count", 2_u32);
        m.set("llama.attention.head_count_kv", 1_u32);
        m.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
        m.set("llama.rope.freq_base", 10000_f32);
        m.set("llama.rope.dimension_count", 4_u32);
        m.set("llama.vocab_size", n as u32);
        m.set("tokenizer.ggml.model", "llama");
        m.set("tokenizer.ggml.tokens", Array::strings(&tokens));
        m.set("tokenizer.ggml.scores", Array::from(&vec![0_f32; n][..]));
        m.set("tokenizer.ggml.token_type", Array::from(&vec![1_i32; n][..]));
        m.set("tokenizer.ggml.bos_token_id", 1_u32);
        let tensor = |name: &str, dims: &[u64]| {
            TensorInfo::new(name, Shape::new(dims).expect("small"), TensorType::F32).expect("plain")
        };
        let v = n as u64;
        let tensors = vec![
            tensor("token_embd.weight", &[8, v]),
            tensor("output_norm.weight", &[8]),
            tensor("output.weight", &[8, v]),
            tensor("blk.0.attn_norm.weight", &[8]),
            tensor("blk.0.attn_q.weight", &[8, 8]),
            tensor("blk.0.attn_k.weight", &[8, 4]),
            tensor("blk.0.attn_v.weight", &[8, 4]),
            tensor("blk.0.attn_output.weight", &[8, 8]),
            tensor("blk.0.ffn_norm.weight", &[8]),
            tensor("blk.0.ffn_gate.weight", &[8, 16]),
            tensor("blk.0.ffn_up.weight", &[8, 16]),
            tensor("blk.0.ffn_down.weight", &[16, 8]),
        ];
        Model { metadata: m, tensors }
    }

    /// A projector file of one layer that breaks no rule.
    pub fn projector() -> Model {
        let mut m = Metadata::new();
        m.set("general.architecture", "clip");
        m.set("general.type", "mmproj");
        m.set("general.name", "Tiny");
        m.set("general.file_type", 0_u32);
        m.set("clip.has_vision_encoder", true);
        m.set("clip.projector_type", "pixtral");
        for (key, value) in [
            ("projection_dim", 8),
            ("image_size", 32),
            ("patch_size", 8),
            ("embedding_length", 8),
            ("feed_forward_length", 16),
            ("block_count", 1),
            ("attention.head_count", 2),
        ] {
            m.set(format!("clip.vision.{key}"), value);
        }
        m.set("clip.vision.attention.layer_norm_epsilon", 1e-5_f32);
        for key in ["image_mean", "image_std"] {
            m.set(format!("clip.vision.{key}"), Array::from(&[0.5_f32; 3][..]));
        }
        m.set("general.quantization_version", 2_u32);
        let tensor = |name: &str, dims: &[u64]| {
            TensorInfo::new(name, Shape::new(dims).expect("small"), TensorType::F32).expect("plain")
        };
        let tensors = vec![
            tensor("mm.1.weight", &[8, 8]),
            tensor("mm.2.weight", &[8, 8]),
            tensor("v.token_embd.img_break", &[8]),
            tensor("v.patch_embd.weight", &[8, 8, 3, 8]),
            tensor("v.blk.0.attn_q.weight", &[8, 8]),
            tensor("v.blk.0.attn_k.weight", &[8, 8]),
            tensor("v.blk.0.attn_v.weight", &[8, 8]),
            tensor("v.blk.0.attn_out.weight", &[8, 8]),
            tensor("v.blk.0.ffn_up.weight", &[8, 16]),
            tensor("v.blk.0.ffn_down.weight", &[16, 8]),
        ];
        Model { metadata: m, tensors }
    }

    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Model {
        self.metadata.set(key, value);
        self
    }

    pub fn without(mut self, key: &str) -> Model {
        assert!(self.metadata.remove(key).is_some(), "{key}");
        self
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], ty: TensorType) -> Model {
        self.tensors.retain(|t| t.name() != name);
        self.tensors.push(TensorInfo::new(name, Shape::new(dims).expect("small"), ty).expect("whole blocks"));
        self
    }

    pub fn without_tensor(mut self, name: &str) -> Model {
        self.tensors.retain(|t| t.name() != name);
        self
    }

    /// The file with this byte in all data.
    pub fn filled(&self, byte: u8) -> Vec<u8> {
        let size = |i: usize| vec![byte; self.tensors[i].bytes() as usize];
        gguf::write::to_bytes(&self.metadata, &self.tensors, |i| Ok(size(i))).expect("a good model")
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.filled(0)
    }
}
