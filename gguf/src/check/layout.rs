//! Where data lies, and what lies between.

use super::finding::{Place, Sink};
use super::scan::{Scan, Tensor};
use super::tensors;
use crate::quote::shortened;

rules! { Layout;
    TENSOR_OFFSET_UNALIGNED = "tensor-offset-unaligned" Error "specification"
        "a tensor's offset is a multiple of the alignment"
        => "write the file again";
    TENSOR_OFFSET_OVERFLOW = "tensor-offset-overflow" Error "ours: one reader returned header bytes as data"
        "offset plus size does not wrap"
        => "the file is damaged or hostile";
    TENSOR_OVERLAP = "tensor-overlap" Error "ours: readers disagree"
        "no two tensors share bytes"
        => "write the file again";
    TENSOR_OFFSET_NOT_CONTIGUOUS = "tensor-offset-not-contiguous" Error "ggml"
        "tensors follow each other in the order of their infos, each padded to the alignment"
        => "write the file again; `gguf copy FILE NEW` cannot, since readers disagree where the data is";
    TENSOR_OUT_OF_FILE = "tensor-out-of-file" Error "llama.cpp; CVE-2026-7482"
        "a tensor's data ends inside the file"
        => "the file is cut short: fetch or write it again";
    FINAL_PADDING_MISSING = "final-padding-missing" Warning "specification"
        "the last tensor is padded to the alignment"
        => "`gguf copy FILE NEW` writes the padding";
    TRAILING_BYTES = "trailing-bytes" Warning "ours"
        "nothing follows the last tensor's padding"
        => "`gguf copy FILE NEW` leaves them out";
    PADDING_NONZERO = "padding-nonzero" Warning "specification"
        "padding is zero"
        => "`gguf copy FILE NEW` writes zeros";
}

pub(super) fn check(scan: &Scan, sink: &mut Sink<'_>) {
    let (Some(infos_end), Some(alignment), Some(start)) = (scan.infos_end, scan.alignment, scan.data_start()) else {
        return;
    };
    let len = scan.bytes.len() as u64;
    offsets(&scan.tensors, alignment, sink);
    let fits = inside(&scan.tensors, start, len, sink);
    overlaps(&scan.tensors, sink);
    if !fits {
        return;
    }
    let nonzero = |from: u64, to: u64, sink: &mut Sink<'_>, before: &str| {
        let gap = scan.bytes.get(from as usize..to.min(len) as usize).unwrap_or_default();
        if let Some(i) = gap.iter().position(|&b| b != 0) {
            let message = format_args!("the padding {before} holds the byte {:#04x}", gap[i]);
            sink.add(&PADDING_NONZERO, Place::byte(from + i as u64), message);
        }
    };
    nonzero(infos_end, start, sink, "behind the tensor infos");
    if scan.tensors.is_empty() {
        if len > start {
            sink.add(&TRAILING_BYTES, Place::byte(start), format_args!("{} bytes follow the header", len - start));
        } else if len < start {
            let message = format_args!("{} bytes of padding behind the header are missing", start - len);
            sink.add(&FINAL_PADDING_MISSING, Place::byte(len), message);
        }
        return;
    }
    let mut last_end = Some(start);
    for tensor in &scan.tensors {
        let end = tensor.bytes.and_then(|n| start.checked_add(tensor.offset)?.checked_add(n));
        if let Some((end, padded)) = end.zip(end.and_then(|e| padded(e, start, alignment))) {
            nonzero(end, padded, sink, &format!("behind tensor {}", shortened(&tensor.name)));
        }
        last_end = last_end.zip(end).map(|(a, b)| a.max(b));
    }
    // Where one size is unknown nobody can tell where the data should end.
    if let Some(end) = last_end.and_then(|e| padded(e, start, alignment)) {
        if len < end {
            let message = format_args!("{} bytes of padding behind the last tensor are missing", end - len);
            sink.add(&FINAL_PADDING_MISSING, Place::byte(len), message);
        } else if len > end {
            sink.add(&TRAILING_BYTES, Place::byte(end), format_args!("{} bytes follow the last tensor", len - end));
        }
    }
}

/// The end of padded data; padding counts from the start of the data, which is aligned itself.
fn padded(end: u64, start: u64, alignment: u64) -> Option<u64> {
    (end - start).checked_next_multiple_of(alignment)?.checked_add(start)
}

fn offsets(tensors: &[Tensor], alignment: u64, sink: &mut Sink<'_>) {
    let mut expected = Some(0_u64);
    for tensor in tensors {
        let (place, name) = (Place::tensor(tensor.at, &tensor.name), shortened(&tensor.name));
        if !tensor.offset.is_multiple_of(alignment) {
            let message = format_args!("tensor {name}: offset {} is no multiple of {alignment}", tensor.offset);
            sink.add(&TENSOR_OFFSET_UNALIGNED, place, message);
        }
        if let Some(expected) = expected.filter(|&e| e != tensor.offset) {
            let message =
                format_args!("tensor {name}: offset {}, the tensors before it end at {expected}", tensor.offset);
            sink.add(&TENSOR_OFFSET_NOT_CONTIGUOUS, place, message);
        }
        // Behind a tensor of unknown size the count begins anew with the next one.
        let Some(bytes) = tensor.bytes else {
            expected = None;
            continue;
        };
        let contiguous = expected.is_none_or(|e| e == tensor.offset);
        // Behind a fault the count goes on from where the tensor lies: one fault, one finding.
        expected = bytes.checked_next_multiple_of(alignment).and_then(|n| tensor.offset.checked_add(n));
        if expected.is_none() && contiguous {
            let message = format_args!("tensor {name}: its padded size added to the sum of those before it wraps");
            sink.add(&tensors::TENSOR_BYTES_OVERFLOW, place, message);
        }
    }
}

/// Whether all data lies inside the file. However many tensors lie beyond its end, the file is cut short once.
fn inside(tensors: &[Tensor], start: u64, len: u64, sink: &mut Sink<'_>) -> bool {
    let mut fits = true;
    let mut outside: Vec<(u64, &Tensor)> = Vec::new();
    for tensor in tensors {
        let Some(bytes) = tensor.bytes else { continue };
        let end = start.checked_add(tensor.offset).and_then(|n| n.checked_add(bytes));
        match end {
            None => {
                let (place, name) = (Place::tensor(tensor.at, &tensor.name), shortened(&tensor.name));
                let message = format_args!("tensor {name}: offset {} plus {bytes} bytes wraps", tensor.offset);
                sink.add(&TENSOR_OFFSET_OVERFLOW, place, message);
                fits = false;
            }
            Some(end) if end > len => outside.push((end, tensor)),
            Some(_) => {}
        }
    }
    let (first, last) = (outside.iter().min_by_key(|o| o.0), outside.iter().map(|o| o.0).max());
    let (Some((end, tensor)), Some(last)) = (first, last) else { return fits };
    let (place, name) = (Place::tensor(tensor.at, &tensor.name), shortened(&tensor.name));
    match outside.len() - 1 {
        0 => {
            let message = format_args!("tensor {name}: its data ends at byte {end}, the file at {len}");
            sink.add(&TENSOR_OUT_OF_FILE, place, message);
        }
        more => {
            let message = format_args!(
                "tensor {name} and {more} behind it: their data ends at byte {last}, the file at {len}; {} bytes are missing",
                last - len
            );
            sink.add(&TENSOR_OUT_OF_FILE, place, message);
        }
    }
    false
}

fn overlaps(tensors: &[Tensor], sink: &mut Sink<'_>) {
    let mut spans: Vec<(u64, u64, &Tensor)> = tensors
        .iter()
        .filter_map(|t| Some((t.offset, t.offset.checked_add(t.bytes.filter(|&n| n > 0)?)?, t)))
        .collect();
    spans.sort_by_key(|&(start, end, _)| (start, end));
    // The furthest end so far, and whose it is: a long tensor may cover several.
    let mut furthest: Option<(u64, &Tensor)> = None;
    for (start, end, tensor) in spans {
        if let Some((_, other)) = furthest.filter(|&(e, _)| start < e) {
            let (a, b) = (shortened(&other.name), shortened(&tensor.name));
            let message = format_args!("tensors {a} and {b} share bytes from offset {start}");
            sink.add(&TENSOR_OVERLAP, Place::tensor(tensor.at, &tensor.name), message);
        }
        if furthest.is_none_or(|(e, _)| end > e) {
            furthest = Some((end, tensor));
        }
    }
}
