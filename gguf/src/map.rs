//! Mapping files, and giving mapped pages back to the system.

use std::fs;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, Result};

struct Map(memmap2::Mmap);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes of a file through a memory map, and whether they are one (an empty file cannot be mapped).
///
/// # Errors
/// A folder, or a file that cannot be read.
pub fn open(path: impl AsRef<Path>) -> Result<(Bytes, bool)> {
    let path = path.as_ref();
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, "examine", e))?;
    if meta.is_dir() {
        return Err(Error::input("is a folder, not a GGUF file").at(path));
    }
    if !meta.is_file() {
        return Err(Error::input("is no regular file, which a memory map needs").at(path));
    }
    if meta.len() == 0 {
        return Ok((Bytes::new(), false));
    }
    // SAFETY: the map is read-only and private. Another process that shortens the file while it is read can still
    // raise SIGBUS; that risk is shared by every reader over a map and is handled by the caller's signal handler
    // where it matters.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
    Ok((Bytes::from_owner(Map(map)), true))
}

/// Says that these bytes of a read-only file map will not be needed soon.
///
/// Goes a little beyond both ends: the page that two neighbouring spans share would stay for ever otherwise, and so
/// would those that the system maps around each fault.
pub fn release(map: &[u8], span: Range<usize>) {
    #[cfg(unix)]
    {
        const PAGE: usize = 4096;
        /// Linux maps what it has of the aligned 64 KiB around a fault.
        const AROUND: usize = 64 * 1024;
        let base = map.as_ptr() as usize;
        let start = ((base + span.start) / AROUND * AROUND).max(base / PAGE * PAGE);
        let end = (base + span.end.min(map.len())).next_multiple_of(PAGE);
        if span.start < span.end && start < end {
            // SAFETY: the range lies inside the pages that `map` touches, all of one map of a file, and MADV_DONTNEED on a read-only mapping of a file drops only resident copies: a later access reads the
            // same bytes from the file again.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
    #[cfg(not(unix))]
    let _ = (map, span);
}
