//! Names, shapes and types of tensors.

use std::collections::HashSet;

use super::finding::{Place, Sink};
use super::scan::{Reader, Scan, Tensor};
use crate::quote::shortened;
use crate::read::MAX_NAME_BYTES;
use crate::source::MAX_DIMS;
use crate::types::{REMOVED_IDS, TensorType};

rules! { Tensors;
    TENSOR_INFO_TRUNCATED = "tensor-info-truncated" Error "ggml"
        "every tensor that the header counts is described in the file"
        => "the file is cut short or its count is wrong; fetch or write it again";
    TENSOR_NAME_EMPTY = "tensor-name-empty" Error "ours: no reader can ask for it"
        "a tensor has a name"
        => "write the file again";
    TENSOR_NAME_TOO_LONG = "tensor-name-too-long" Error "ggml (the specification allows 64)"
        "a tensor's name has at most 63 bytes"
        => "write the file again with a shorter name";
    TENSOR_NAME_DUPLICATE = "tensor-name-duplicate" Error "ggml"
        "a tensor's name stands once"
        => "write the file again; readers take different ones of the two";
    TENSOR_NAME_CONTROL = "tensor-name-control" Error "ours: readers in C stop at a NUL"
        "a tensor's name is UTF-8 without control characters"
        => "write the file again";
    TENSOR_TOO_MANY_DIMS = "tensor-too-many-dims" Error "ggml"
        "a tensor has at most 4 dimensions"
        => "merge dimensions before writing";
    TENSOR_ZERO_DIMS = "tensor-zero-dims" Warning "ours"
        "a tensor has at least one dimension"
        => "write a scalar with the shape [1]";
    TENSOR_DIM_ZERO = "tensor-dim-zero" Warning "ours: a division by it broke readers"
        "no dimension is zero"
        => "leave empty tensors out";
    TENSOR_DIM_NEGATIVE = "tensor-dim-negative" Error "ggml"
        "a dimension fits i64"
        => "the file is damaged or hostile";
    TENSOR_ELEMENTS_OVERFLOW = "tensor-elements-overflow" Error "ggml; CVE-2026-33298"
        "the number of elements fits i64"
        => "the file is damaged or hostile";
    TENSOR_BYTES_OVERFLOW = "tensor-bytes-overflow" Error "ggml; CVE-2025-53630, CVE-2026-27940"
        "sizes, padded sizes and their running sum do not wrap"
        => "the file is damaged or hostile";
    TENSOR_TYPE_UNKNOWN = "tensor-type-unknown" Error "ggml"
        "a tensor's type is one that ggml 0.25 knows (below 43)"
        => "a newer program may read it; otherwise convert again";
    TENSOR_TYPE_REMOVED = "tensor-type-removed" Error "ggml"
        "a tensor's type was not removed from the format (4, 5, 31 to 33, 36 to 38)"
        => "quantize the original again";
    TENSOR_TYPE_INTERMEDIATE = "tensor-type-intermediate" Warning "ggml"
        "Q8_1 and Q8_K are intermediates of dot products, not for files"
        => "quantize to Q8_0 instead";
    TENSOR_ROW_NOT_BLOCK_MULTIPLE = "tensor-row-not-block-multiple" Error "ggml"
        "a row holds whole blocks"
        => "give this tensor a type whose blocks divide its rows";
}

/// Reads the tensor infos; `false` where they could not all be read.
pub(super) fn read(reader: &mut Reader, count: u64, scan: &mut Scan, sink: &mut Sink<'_>) -> bool {
    let mut complete = true;
    for i in 0..count {
        let at = reader.at;
        let Some(tensor) = read_info(reader, sink) else {
            let message = format_args!("the description of tensor {i} of {count} is cut short or cannot be followed");
            sink.add(&TENSOR_INFO_TRUNCATED, Place::byte(at), message);
            complete = false;
            break;
        };
        scan.tensors.push(tensor);
    }
    let mut names = HashSet::with_capacity(scan.tensors.len());
    for tensor in &scan.tensors {
        if !names.insert(tensor.name.as_str()) {
            let message = format_args!("tensor {} is named twice", shortened(&tensor.name));
            sink.add(&TENSOR_NAME_DUPLICATE, Place::tensor(tensor.at, &tensor.name), message);
        }
    }
    complete
}

fn read_info(reader: &mut Reader, sink: &mut Sink<'_>) -> Option<Tensor> {
    let at = reader.at;
    let len = reader.u64()?;
    let bytes = reader.take(len)?;
    let name = String::from_utf8_lossy(&bytes).into_owned();
    let place = Place::tensor(at, &name);
    let shown = shortened(&name);
    if bytes.is_empty() {
        sink.add(&TENSOR_NAME_EMPTY, place, format_args!("a tensor has an empty name"));
    } else if len >= MAX_NAME_BYTES {
        sink.add(&TENSOR_NAME_TOO_LONG, place, format_args!("the tensor name {shown} has {len} bytes"));
    }
    if std::str::from_utf8(&bytes).is_err() || name.contains(char::is_control) {
        let message = format_args!("the tensor name {shown} is not UTF-8 or holds control characters");
        sink.add(&TENSOR_NAME_CONTROL, place, message);
    }
    let n_dims = reader.u32()?;
    if n_dims as usize > MAX_DIMS {
        sink.add(&TENSOR_TOO_MANY_DIMS, place, format_args!("tensor {shown} has {n_dims} dimensions"));
        // A few more can still be stepped over; a number like this was never written by anyone.
        if n_dims > 64 {
            return None;
        }
    }
    let dims = (0..n_dims).map(|_| reader.u64()).collect::<Option<Vec<u64>>>()?;
    let (id, offset) = (reader.u32()?, reader.u64()?);
    let elements = judge_dims(&dims, place, &shown, sink);
    let ty = TensorType::from_id(id);
    match ty {
        None if REMOVED_IDS.contains(&id) => {
            sink.add(&TENSOR_TYPE_REMOVED, place, format_args!("tensor {shown} has the type {id}"));
        }
        None => sink.add(&TENSOR_TYPE_UNKNOWN, place, format_args!("tensor {shown} has the type {id}")),
        Some(ty @ (TensorType::Q8_1 | TensorType::Q8_K)) => {
            sink.add(&TENSOR_TYPE_INTERMEDIATE, place, format_args!("tensor {shown} has the type {ty}"));
        }
        Some(_) => {}
    }
    let size = ty.zip(elements).and_then(|(ty, elements)| {
        let row = dims.first().copied().unwrap_or(1);
        if !row.is_multiple_of(ty.block_len()) {
            let block = ty.block_len();
            let message = format_args!("tensor {shown}: rows of {row} elements, {ty} has blocks of {block}");
            sink.add(&TENSOR_ROW_NOT_BLOCK_MULTIPLE, place, message);
            return None;
        }
        let size = (elements / ty.block_len()).checked_mul(ty.block_bytes());
        if size.is_none_or(|n| i64::try_from(n).is_err()) {
            let message = format_args!("tensor {shown}: the size of {dims:?} {ty} overflows");
            sink.add(&TENSOR_BYTES_OVERFLOW, place, message);
            return None;
        }
        size
    });
    let bytes = size.filter(|_| dims.len() <= MAX_DIMS);
    Some(Tensor { at, name, dims, ty, bytes, offset })
}

/// The number of elements, where the dimensions make sense.
fn judge_dims(dims: &[u64], place: Place<'_>, shown: &str, sink: &mut Sink<'_>) -> Option<u64> {
    if dims.is_empty() {
        sink.add(&TENSOR_ZERO_DIMS, place, format_args!("tensor {shown} has no dimensions"));
    }
    if let Some(&dim) = dims.iter().find(|&&d| i64::try_from(d).is_err()) {
        let message = format_args!("tensor {shown} has a dimension of {dim}, which is {} as i64", dim as i64);
        sink.add(&TENSOR_DIM_NEGATIVE, place, message);
        return None;
    }
    if dims.contains(&0) {
        sink.add(&TENSOR_DIM_ZERO, place, format_args!("tensor {shown} has the shape {dims:?}"));
    }
    // A zero does not excuse the others: their product is the number of rows.
    let most = dims.iter().try_fold(1_u64, |n, &d| n.checked_mul(d.max(1))).filter(|&n| i64::try_from(n).is_ok());
    let elements = most.map(|n| if dims.contains(&0) { 0 } else { n });
    if elements.is_none() {
        let message = format_args!("tensor {shown}: the number of elements of {dims:?} overflows");
        sink.add(&TENSOR_ELEMENTS_OVERFLOW, place, message);
    }
    elements
}
