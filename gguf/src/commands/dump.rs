//! `gguf dump`.

use std::io::Write;
use std::path::{Path, PathBuf};

use gguf::cli::{Common, Exit, Output, say};
use gguf::write::for_each_piece;
use gguf::{Error, Result, Source, TensorInfo, TensorType, decode, quote};
use serde_json::json;

/// Write a tensor's data as an .npy file, or its values
///
/// Plain types keep their element type (BF16 as u2, its bits); quantized types become u1 [rows, bytes of a row]. With
/// --decode every type becomes its values: f32 rows in an .npy file, or lines of numbers in a .csv file.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gguf dump model.gguf token_embd.weight
  gguf dump model.gguf blk.0.attn_q.weight -o q.npy --force
  gguf dump model.gguf blk.0.attn_q.weight --decode
  gguf dump model.gguf blk.0.attn_q.weight --decode -o q.csv")]
pub struct Dump {
    /// The GGUF file, or the first shard of a split model
    file: PathBuf,

    /// The tensor's name
    tensor: String,

    /// The new file (TENSOR.npy, if not given)
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Write the values as f32 instead of the stored bytes
    #[arg(long)]
    decode: bool,

    /// The form of decoded values (by the ending of the output's name, if not given; else npy)
    #[arg(long, value_enum, value_name = "FORM", requires = "decode")]
    format: Option<Form>,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

/// What decoded values are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// An array of f32 for numpy.
    Npy,
    /// A line a row, numbers between commas.
    Csv,
}

impl Form {
    fn ending(self) -> &'static str {
        match self {
            Form::Npy => "npy",
            Form::Csv => "csv",
        }
    }
}

impl Dump {
    /// The form of the output: the one asked for, or that of its name.
    fn form(&self) -> Form {
        let csv = self.output.as_ref().and_then(|path| path.extension()).is_some_and(|e| e.eq_ignore_ascii_case("csv"));
        self.format.unwrap_or(if csv && self.decode { Form::Csv } else { Form::Npy })
    }

    pub fn run(self, common: &Common) -> Result<Exit> {
        let source = gguf::open(&self.file)?;
        let index = source.find(&self.tensor).ok_or_else(|| {
            Error::usage(format!("there is no tensor {}", self.tensor))
                .at(&self.file)
                .help("`gguf show FILE` lists the tensors")
        })?;
        let info = &source.tensors()[index];
        let form = self.form();
        let target = self.output.clone().unwrap_or_else(|| {
            // A name is not trusted to be a path.
            PathBuf::from(format!("{}.{}", info.name().replace(['/', '\\'], "_"), form.ending()))
        });
        if self.decode && !decode::is_decoded(info.ty()) {
            let what = format!("tensor {}: {} is not decoded to numbers here", info.name(), info.ty());
            return Err(Error::input(what)
                .at(&self.file)
                .help("without --decode its bytes are written; evaluate decodes weights of every type"));
        }
        let (descr, shape) = if self.decode { ("<f4", row_major(info)) } else { npy_type(info) };
        let inputs = gguf::split::files(&self.file);
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let mut output = Output::create(&target, self.force, &inputs)?;
        let failed = |e| Error::io(&target, "write", e);
        if form == Form::Npy {
            output.write_all(&npy_header(descr, &shape)).map_err(failed)?;
        }
        if self.decode {
            for_each_row(&source, index, |row| output.write_all(&written(row, form)).map_err(failed))?;
        } else {
            for_each_piece(&source, index, |bytes| output.write_all(bytes).map_err(failed))?;
        }
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

/// Calls `each` with the values of every row of a tensor.
fn for_each_row(source: &dyn Source, tensor: usize, mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let info = &source.tensors()[tensor];
    let width = info.elements().checked_div(info.rows()).unwrap_or(0);
    let width = usize::try_from(width).map_err(|_| Error::input(format!("tensor {} is too wide", info.name())))?;
    let mut values = vec![0.0_f32; width];
    // A megabyte or so at once.
    let step = ((1 << 20) / info.row_bytes().max(1)).max(1);
    for first in (0..info.rows()).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        let rows = first..(first + step).min(info.rows());
        let bytes = source.rows(tensor, rows.clone())?;
        for row in bytes.chunks_exact((info.row_bytes() as usize).max(1)) {
            decode::rows(info.ty(), row, &mut values)?;
            each(&values)?;
        }
        source.release(tensor, rows);
    }
    Ok(())
}

/// A row of values as the file has it. The numbers of a line are the shortest that read back as the same f32.
fn written(row: &[f32], form: Form) -> Vec<u8> {
    match form {
        Form::Npy => row.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Form::Csv => {
            let numbers: Vec<String> = row
                .iter()
                .map(|v| if v.abs() < 1e-4 && *v != 0.0 { format!("{v:e}") } else { v.to_string() })
                .collect();
            (numbers.join(",") + "\n").into_bytes()
        }
    }
}

/// The shape, the slowest dimension first.
fn row_major(info: &TensorInfo) -> Vec<u64> {
    info.shape().dims().iter().rev().copied().collect()
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
    let mut shape = row_major(info);
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
