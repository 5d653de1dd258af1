//! The journal of an edit that was interrupted, which readers and checks must know of: see [`crate::edit`].

use std::fs;
#[cfg(feature = "edit")]
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::beside;
#[cfg(feature = "write")]
use crate::error::{Error, Result};
#[cfg(feature = "edit")]
use crate::temporary::Temporary;

/// What a file begins with while its header is being replaced, instead of `GGUF`.
pub const MARK: [u8; 4] = *b"EDIT";

pub(crate) fn inode(meta: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::ino(meta);
    #[cfg(not(unix))]
    return meta.len().wrapping_mul(0);
}

/// What an interrupted edit leaves: whose it is, and both headers.
pub(crate) struct Journal {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
}

const JOURNAL_MAGIC: &[u8; 8] = b"GGUFEDI2";

/// Where the journal of an edit lies; the path has no link at its end.
pub(crate) fn journal_path(real: &Path) -> PathBuf {
    beside::hidden(real, "edit-journal")
}

#[cfg(feature = "write")]
pub(crate) fn remove_journal(real: &Path) -> Result<()> {
    let journal = journal_path(real);
    fs::remove_file(&journal).map_err(|e| {
        Error::io(&journal, "remove the journal, though the file is whole", e)
            .help("remove it: with it the file counts as one whose edit was interrupted")
    })?;
    crate::temporary::sync_folder(beside::folder_of(real));
    Ok(())
}

impl Journal {
    /// Puts the journal beside the file, on disk when this returns.
    #[cfg(feature = "edit")]
    pub(crate) fn write(&self, real: &Path) -> Result<()> {
        let journal = journal_path(real);
        let failed = |e| Error::io(&journal, "write the journal of the edit", e);
        let mut body = Vec::new();
        for number in [self.inode, self.size, self.old.len() as u64] {
            body.extend(number.to_le_bytes());
        }
        body.extend_from_slice(&self.old);
        body.extend_from_slice(&self.new);
        let (temporary, mut file) = Temporary::file(real, true).map_err(failed)?;
        file.write_all(&[&JOURNAL_MAGIC[..], &Sha256::digest(&body), &body].concat()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        // One that lies there already is void: the file was looked at before it was opened.
        fs::rename(temporary.path(), &journal).map_err(failed)?;
        temporary.keep();
        crate::temporary::sync_folder(beside::folder_of(real));
        Ok(())
    }

    /// The journal beside this file, where there is a whole one.
    pub(crate) fn read(real: &Path) -> Option<Journal> {
        let path = journal_path(real);
        // Nothing but what an edit writes: a pipe of this name would never end.
        let meta = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        // Two headers, each within the file.
        let most = fs::metadata(real).ok()?.len().saturating_mul(2).saturating_add(64);
        let bytes = (meta.len() <= most).then(|| fs::read(&path).ok()).flatten()?;
        let (sum, body) = bytes.strip_prefix(JOURNAL_MAGIC)?.split_at_checked(32)?;
        if Sha256::digest(body)[..] != *sum {
            return None;
        }
        let (numbers, headers) = body.split_at_checked(24)?;
        let number = |i: usize| numbers.get(8 * i..).and_then(<[u8]>::first_chunk).map(|b| u64::from_le_bytes(*b));
        let (old, new) = headers.split_at_checked(usize::try_from(number(2)?).ok()?)?;
        (old.len() == new.len())
            .then(|| Some(Journal { inode: number(0)?, size: number(1)?, old: old.to_vec(), new: new.to_vec() }))?
    }

    /// Whether the edit that wrote this one was of the file that this is, which begins with these bytes.
    pub(crate) fn belongs_to(&self, meta: &fs::Metadata, bytes: &[u8]) -> bool {
        let Some(now) = bytes.get(..self.old.len()).filter(|_| meta.len() == self.size) else { return false };
        // A file with the mark is no sound one, so that a copy of the folder may have given it another number.
        let marked = now.starts_with(&MARK);
        let headers = now.iter().zip(self.old.iter().zip(&self.new)).skip(if marked { MARK.len() } else { 0 });
        (marked || inode(meta) == self.inode) && headers.into_iter().all(|(now, (old, new))| now == old || now == new)
    }
}

/// Whether an edit of this file was interrupted: it has the mark of one, or the journal beside it is its own.
#[cfg(feature = "write")]
pub fn is_interrupted(path: impl AsRef<Path>) -> bool {
    crate::map::open(path.as_ref()).is_ok_and(|mapped| is_interrupted_in(path.as_ref(), &mapped.bytes))
}

/// The same of a file that begins with these bytes.
pub(crate) fn is_interrupted_in(path: &Path, bytes: &[u8]) -> bool {
    if bytes.starts_with(&MARK) {
        return true;
    }
    let Ok(real) = beside::real(path) else { return false };
    let meta = || fs::metadata(&real).ok();
    Journal::read(&real).and_then(|journal| Some(journal.belongs_to(&meta()?, bytes))).unwrap_or(false)
}

/// Removes the journal beside a file that was just written anew: it belonged to the one before.
#[cfg(feature = "write")]
pub(crate) fn forget(real: &Path) {
    if fs::symlink_metadata(journal_path(real)).is_ok() && !is_interrupted(real) {
        // One that stays is void all the same.
        let _ = remove_journal(real);
    }
}
