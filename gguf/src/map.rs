//! Mapping files, and giving mapped pages back to the system.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::error::{Error, Result};

use memmap2::Mmap;

/// A file in memory, through a map where there are bytes to map.
#[derive(Clone, Debug, Default)]
pub struct Mapped {
    /// The bytes from where the GGUF begins. Slices of them keep the map alive.
    pub(crate) bytes: Bytes,
    map: Option<Arc<Map>>,
}

struct Owner(Arc<Map>);

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
            map.release(start + span.start..start + span.end);
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
    let map = Arc::new(Map::of(&file, path)?);
    Ok(Mapped { bytes: Bytes::from_owner(Owner(map.clone())), map: Some(map) })
}

/// A file in memory, whose length is looked at again before what was read of it counts.
#[derive(Debug)]
pub struct Map {
    mmap: Mmap,
    seen: Arc<Seen>,
}

/// A mapped file as it was when it was mapped.
#[derive(Debug)]
struct Seen {
    path: PathBuf,
    id: Option<Id>,
    len: u64,
}

/// What tells a file from another that got its name.
type Id = (u64, u64);

fn id(meta: &fs::Metadata) -> Option<Id> {
    #[cfg(unix)]
    return Some((std::os::unix::fs::MetadataExt::dev(meta), std::os::unix::fs::MetadataExt::ino(meta)));
    #[cfg(not(unix))]
    {
        let _ = meta;
        None
    }
}

impl Seen {
    /// Whether the file of this name is the one that was mapped, and shorter now.
    fn is_shorter(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| id(&meta) == self.id && meta.len() < self.len)
    }
}

/// The files that are mapped, and those that were shorter when their map went.
static MAPPED: Mutex<(Vec<Weak<Seen>>, Vec<PathBuf>)> = Mutex::new((Vec::new(), Vec::new()));

impl Map {
    /// Maps an open file that is called `path`.
    ///
    /// # Errors
    /// What the system meets.
    pub fn of(file: &fs::File, path: &Path) -> Result<Map> {
        let meta = file.metadata().map_err(|e| Error::io(path, "examine", e))?;
        // SAFETY: the map is read-only and private. Another process that shortens the file while it is read can still
        // raise SIGBUS; that risk is shared by every reader over a map and is handled by the caller's signal handler
        // where it matters. Within the last page zeros are read instead, which `unchanged` finds.
        let mmap = unsafe { Mmap::map(file) }.map_err(|e| Error::io(path, "map", e))?;
        let seen = Arc::new(Seen { path: path.to_path_buf(), id: id(&meta), len: mmap.len() as u64 });
        let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
        if mapped.0.len() == mapped.0.capacity() {
            mapped.0.retain(|seen| seen.strong_count() > 0);
        }
        mapped.0.push(Arc::downgrade(&seen));
        Ok(Map { mmap, seen })
    }

    /// Says that these bytes will not be needed soon.
    pub fn release(&self, span: Range<usize>) {
        release(&self.mmap, span);
    }
}

impl std::ops::Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.mmap
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.seen.is_shorter() {
            MAPPED.lock().unwrap_or_else(PoisonError::into_inner).1.push(self.seen.path.clone());
        }
    }
}

/// Looks whether a file was cut short while it was mapped: what was read of its last page may be zeros. A map that is
/// gone is told of once.
///
/// # Errors
/// Such a file, by name.
pub fn unchanged() -> Result<()> {
    let (living, mut shorter) = {
        let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
        let living: Vec<Arc<Seen>> = mapped.0.iter().filter_map(Weak::upgrade).collect();
        (living, std::mem::take(&mut mapped.1))
    };
    shorter.extend(living.iter().filter(|seen| seen.is_shorter()).map(|seen| seen.path.clone()));
    match shorter.first() {
        Some(path) => Err(became_shorter().at(path)),
        None => Ok(()),
    }
}

/// The error where bytes that were there are gone.
pub(crate) fn became_shorter() -> Error {
    Error::input("became shorter while it was read").help("run it again when nobody writes to the file")
}

/// Says that these bytes of a read-only file map will not be needed soon.
///
/// Goes a little beyond both ends: the page that two neighbouring spans share would stay for ever otherwise, and so
/// would those that the system maps around each fault.
fn release(map: &Mmap, span: Range<usize>) {
    #[cfg(unix)]
    {
        const PAGE: usize = 4096;
        /// Linux maps what it has around a fault: 64 KiB or a whole folio, within what one page of the page table spans.
        const AROUND: usize = 2 << 20;
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
