//! Mapping files, and giving mapped pages back to the system.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};

use memmap2::Mmap;

/// A file in memory, through a map where there are bytes to map.
#[derive(Clone, Debug, Default)]
pub struct Mapped {
    /// The bytes from where the GGUF begins. Slices of them keep the map alive.
    pub(crate) bytes: Bytes,
    map: Option<Arc<Mmap>>,
}

struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapped {
    /// The part that begins at this byte.
    ///
    /// # Errors
    /// A byte beyond the end.
    pub(crate) fn at(self, at: u64) -> Result<Mapped> {
        match usize::try_from(at) {
            Ok(at) if at <= self.bytes.len() => Ok(Mapped { bytes: self.bytes.slice(at..), map: self.map }),
            _ => Err(Error::usage(format!("the file has {} bytes, none at {at}", self.bytes.len()))),
        }
    }

    /// Says that these bytes will not be needed soon.
    pub(crate) fn release(&self, span: Range<usize>) {
        if let Some(map) = &self.map {
            let start = map.len() - self.bytes.len();
            release(map, start + span.start..start + span.end);
        }
    }
}

impl From<Bytes> for Mapped {
    fn from(bytes: Bytes) -> Mapped {
        Mapped { bytes, map: None }
    }
}

/// Maps a file.
///
/// # Errors
/// A folder, or a file that cannot be read.
pub(crate) fn open(path: impl AsRef<Path>) -> Result<Mapped> {
    let path = path.as_ref();
    let examined = |meta: io::Result<fs::Metadata>| match meta {
        Err(e) => Err(Error::io(path, "open", e)),
        Ok(meta) if meta.is_dir() => Err(Error::input("is a folder, not a GGUF file").at(path)),
        Ok(meta) if !meta.is_file() => Err(Error::input("is no regular file, which a memory map needs").at(path)),
        Ok(meta) => Ok(meta),
    };
    // Before it is opened as well: opening a pipe waits for its other end.
    examined(fs::metadata(path))?;
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let meta = examined(file.metadata())?;
    if meta.len() == 0 {
        return Ok(Mapped::default());
    }
    // SAFETY: the map is read-only and private. Another process that shortens the file while it is read can still
    // raise SIGBUS; that risk is shared by every reader over a map and is handled by the caller's signal handler
    // where it matters.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
    let map = Arc::new(map);
    Ok(Mapped { bytes: Bytes::from_owner(Owner(map.clone())), map: Some(map) })
}

/// Says that these bytes of a read-only file map will not be needed soon.
///
/// Goes a little beyond both ends: the page that two neighbouring spans share would stay for ever otherwise, and so
/// would those that the system maps around each fault.
pub fn release(map: &Mmap, span: Range<usize>) {
    #[cfg(unix)]
    {
        const PAGE: usize = 4096;
        /// Linux maps what it has of the aligned 64 KiB around a fault.
        const AROUND: usize = 64 * 1024;
        let base = map.as_ptr() as usize;
        let start = ((base + span.start) / AROUND * AROUND).max(base / PAGE * PAGE);
        let end = (base + span.end.min(map.len())).next_multiple_of(PAGE);
        if span.start < span.end && start < end {
            // SAFETY: the range lies inside the pages that `map` touches, all of one map of a file, and MADV_DONTNEED on
            // a read-only mapping of a file drops only resident copies: a later access reads the same bytes from the
            // file again.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
    #[cfg(not(unix))]
    let _ = (map, span);
}
