//! `gguf dump`.

use std::io::Write;
use std::path::{Path, PathBuf};

use gguf::cli::{Common, Exit, Output, say};
use gguf::write::for_each_piece;
use gguf::{Error, Result, TensorInfo, TensorType, quote};
use serde_json::json;

/// Write a tensor's data as an .npy file
///
/// Plain types keep their element type (BF16 as u2, its bits); quantized types become u1 [rows, bytes of a row].
/// `evaluate` decodes them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf dump model.gguf token_embd.weight
  gguf dump model.gguf blk.0.attn_q.weight -o q.npy --force")]
pub struct Dump {
    /// The GGUF file, or the first shard of a split model
    file: PathBuf,

    /// The tensor's name
    tensor: String,

    /// The new file (TENSOR.npy, if not given)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

impl Dump {
    pub fn run(self, common: &Common) -> Result<Exit> {
        let source = gguf::open(&self.file)?;
        let index = source.find(&self.tensor).ok_or_else(|| {
            Error::usage(format!("there is no tensor {}", self.tensor))
                .at(&self.file)
                .help("`gguf show FILE` lists the tensors")
        })?;
        let info = &source.tensors()[index];
        let target = self.output.clone().unwrap_or_else(|| {
            // A name is not trusted to be a path.
            PathBuf::from(format!("{}.npy", info.name().replace(['/', '\\'], "_")))
        });
        let (descr, shape) = npy_type(info);
        let inputs = gguf::split::files(&self.file);
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let mut output = Output::create(&target, self.force, &inputs)?;
        let failed = |e| Error::io(&target, "write", e);
        output.write_all(&npy_header(descr, &shape)).map_err(failed)?;
        for_each_piece(&source, index, |bytes| output.write_all(bytes).map_err(failed))?;
        output.commit()?;
        if common.wants_document() {
            let fields = json!({"file": quote::json(&target), "tensor": info.name(), "type": info.ty().name(),
                "descr": descr, "shape": shape});
            super::print_document(common, "dump", false, &gguf::split::files(&self.file), &[target], fields)?;
        } else if !common.quiet {
            say(&format!("{}: {descr} {shape:?} of {}", quote::path(&target), info.ty()));
        }
        Ok(Exit::Done)
    }
}

/// numpy's type and the shape, row-major: the slowest dimension first.
fn npy_type(info: &TensorInfo) -> (&'static str, Vec<u64>) {
    let descr = match info.ty() {
        TensorType::F32 => "<f4",
        TensorType::F16 => "<f2",
        TensorType::F64 => "<f8",
        TensorType::BF16 => "<u2",
        TensorType::I8 => "|i1",
        TensorType::I16 => "<i2",
        TensorType::I32 => "<i4",
        TensorType::I64 => "<i8",
        _ => "|u1",
    };
    let mut shape: Vec<u64> = info.shape().dims().iter().rev().copied().collect();
    if info.ty().is_quantized()
        && let Some(last) = shape.last_mut()
    {
        *last = info.row_bytes();
    }
    (descr, shape)
}

/// The header of version 1.0: a Python literal, padded with spaces so that data begins at a multiple of 64.
fn npy_header(descr: &str, shape: &[u64]) -> Vec<u8> {
    let dims: String = shape.iter().map(|d| format!("{d},")).collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    let whole = (10 + text.len() + 1).next_multiple_of(64);
    text.extend(std::iter::repeat_n(' ', whole - 11 - text.len()));
    text.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.into_bytes());
    out
}
