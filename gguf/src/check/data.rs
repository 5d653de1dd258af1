//! The values of tensors: what a program that multiplies with them cannot recover from.

use std::ops::Range;

use super::blocks::each_piece;
use super::finding::{Place, Rule, Sink};
use super::lost;
use super::scan::{Scan, Tensor};
use crate::finite;
use crate::quote::shortened;
use crate::types::TensorType;

rules! { Data;
    DATA_NONFINITE = "data-nonfinite" Error "llama.cpp (--check-tensors)"
        "no value is NaN or infinite"
        => "the checkpoint is damaged or overflowed in F16; convert again, with --outtype bf16 or f32";
    BLOCK_SCALE_NONFINITE = "block-scale-nonfinite" Error "ggml (row validation)"
        "no block's scale is NaN or infinite"
        => "quantize again from finite weights";
    MXFP4_SCALE_INVALID = "mxfp4-scale-invalid" Error "ggml (row validation)"
        "no MXFP4 block has the exponent 0xFF, which is NaN"
        => "quantize again from finite weights";
}

pub(super) fn check(scan: &Scan, sink: &mut Sink<'_>) {
    let Some(start) = scan.data_start() else { return };
    for tensor in &scan.tensors {
        let Some((ty, bytes)) = tensor.ty.zip(tensor.bytes) else { continue };
        let span = start.checked_add(tensor.offset).and_then(|from| Some((from, from.checked_add(bytes)?)));
        let Some((from, to)) = span.filter(|&(_, to)| to <= scan.bytes.len() as u64) else { continue };
        let span = from as usize..to as usize;
        if let Some(judge) = Judge::of(ty) {
            judge.run(scan, tensor, span.clone(), sink);
        }
        if ty.is_quantized() && !ty.scale_fields().is_empty() {
            lost::check(scan, tensor, ty, span, sink);
        }
    }
}

/// How the values or blocks of a type are judged.
struct Judge {
    ty: TensorType,
    rule: &'static Rule,
    noun: &'static str,
}

impl Judge {
    fn of(ty: TensorType) -> Option<Judge> {
        match ty {
            TensorType::F16 | TensorType::BF16 | TensorType::F32 | TensorType::F64 => {
                Some(Judge { ty, rule: &DATA_NONFINITE, noun: "value" })
            }
            TensorType::MXFP4 => Some(Judge { ty, rule: &MXFP4_SCALE_INVALID, noun: "block" }),
            _ if ty.scale_fields().is_empty() => None,
            _ => Some(Judge { ty, rule: &BLOCK_SCALE_NONFINITE, noun: "block" }),
        }
    }

    fn run(&self, scan: &Scan, tensor: &Tensor, span: Range<usize>, sink: &mut Sink<'_>) {
        let (mut count, mut first) = (0_u64, None);
        let total = each_piece(scan, self.ty, span.clone(), |before, piece| {
            first = first.or_else(|| finite::first(self.ty, piece).map(|at| before + at as u64));
            count += finite::count(self.ty, piece);
        });
        if let Some(first) = first {
            let at = span.start as u64 + first * self.ty.block_bytes();
            let (name, noun) = (shortened(&tensor.name), self.noun);
            let message =
                format_args!("tensor {name}: {count} of {total} {noun}s not finite, the first is {noun} {first}");
            sink.add(self.rule, Place::tensor(at, &tensor.name), message);
        }
    }
}
