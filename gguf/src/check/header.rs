//! The first 24 bytes.

use super::finding::{Place, Sink};
use super::scan::Reader;
use crate::journal::MARK;
use crate::read::MAGIC;
use crate::value::Endian;

rules! { Header;
    HEADER_TRUNCATED = "header-truncated" Error "specification"
        "a GGUF file has at least the 24 bytes of its header"
        => "fetch or write the file again";
    MAGIC_INVALID = "magic-invalid" Error "specification, ggml"
        "a GGUF file begins with the bytes \"GGUF\""
        => "this is another kind of file, or it is damaged; check what was fetched";
    VERSION_UNSUPPORTED = "version-unsupported" Error "ggml"
        "the version is 2 or 3"
        => "convert the original checkpoint again with a current program";
    VERSION_LEGACY = "version-legacy" Warning "specification"
        "version 2 was replaced by version 3, which has the same layout"
        => "any edit with `gguf set FILE KEY VALUE -o NEW` writes version 3";
    BIG_ENDIAN = "big-endian" Warning "ggml"
        "the file is big-endian; readers on little-endian machines refuse it"
        => "`gguf copy --endian little FILE NEW` writes the other byte order";
    EDIT_INTERRUPTED = "edit-interrupted" Error "ours"
        "no edit of the header was interrupted"
        => "`gguf recover FILE` puts the old header back";
    COUNT_EXCEEDS_FILE = "count-exceeds-file" Error "ggml; CVE-2024-25664"
        "every key takes at least 13 bytes and every tensor 24: the counts must fit the file"
        => "the header is damaged or hostile; fetch the file again from a source you trust";
}

pub(super) struct Header {
    pub(super) version: u32,
    pub(super) n_tensors: u64,
    pub(super) n_kv: u64,
}

/// An edit that was interrupted, whatever it left of the file.
pub(super) fn interrupted(sink: &mut Sink<'_>) {
    sink.add(&EDIT_INTERRUPTED, Place::byte(0), format_args!("an edit of this file was interrupted"));
}

/// Reads the header; `None` where what follows cannot be told apart.
pub(super) fn read(reader: &mut Reader, sink: &mut Sink<'_>) -> Option<Header> {
    let len = reader.remaining();
    if reader.peek(4).is_some_and(|magic| magic == MARK) {
        interrupted(sink);
        return None;
    }
    if let Some(magic) = reader.peek(4)
        && magic[..] != MAGIC
    {
        sink.add(&MAGIC_INVALID, Place::byte(0), format_args!("the file begins with {magic:02x?}, not with \"GGUF\""));
        return None;
    }
    if len < 24 {
        sink.add(&HEADER_TRUNCATED, Place::byte(len), format_args!("the file has {len} bytes, its header takes 24"));
        return None;
    }
    reader.skip(4);
    let mut version = reader.u32()?;
    if version & 0xFFFF == 0 && matches!(version.swap_bytes(), 2 | 3) {
        reader.endian = Endian::Big;
        version = version.swap_bytes();
        sink.add(&BIG_ENDIAN, Place::byte(4), format_args!("the file is big-endian"));
    }
    match version {
        3 => {}
        2 => sink.add(&VERSION_LEGACY, Place::byte(4), format_args!("the file has version 2")),
        other => {
            sink.add(&VERSION_UNSUPPORTED, Place::byte(4), format_args!("the file has version {other}"));
            return None;
        }
    }
    let (n_tensors, n_kv) = (reader.u64()?, reader.u64()?);
    let least = n_kv.checked_mul(13).zip(n_tensors.checked_mul(24)).and_then(|(a, b)| a.checked_add(b));
    if least.is_none_or(|n| n > reader.remaining()) {
        sink.add(
            &COUNT_EXCEEDS_FILE,
            Place::byte(8),
            format_args!("{n_tensors} tensors and {n_kv} keys cannot fit the {} bytes that remain", reader.remaining()),
        );
        return None;
    }
    Some(Header { version, n_tensors, n_kv })
}
