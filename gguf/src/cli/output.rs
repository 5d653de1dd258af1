//! Output that appears whole or not at all.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use tempfile::{NamedTempFile, TempDir};

use super::fault;
use crate::error::{Error, Result};

static UNFINISHED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

fn unfinished(change: impl FnOnce(&mut HashSet<PathBuf>)) {
    change(&mut UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Removes the temporary files and folders of outputs that were not finished.
pub(super) fn remove_unfinished() {
    unfinished(|paths| {
        for path in paths.drain() {
            // Best effort on the way out: the name says that it is temporary.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    });
}

/// A file under a temporary sibling name until [`Output::commit`].
///
/// Dropping it without a commit, an error or Ctrl-C remove the temporary file and leave the name as it was.
#[derive(Debug)]
pub struct Output {
    target: PathBuf,
    force: bool,
    file: NamedTempFile,
}

impl Output {
    /// Begins a file that will be called `target`.
    ///
    /// # Errors
    /// A target that exists (without `force`) or is one of the `inputs`, or a folder that cannot be written.
    pub fn create(target: &Path, force: bool, inputs: &[&Path]) -> Result<Output> {
        Output::check(target, force, inputs)?;
        let folder = folder_of(target);
        let name = target.file_name().ok_or_else(|| Error::usage("the output has no file name").at(target))?;
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".tmp")
            .tempfile_in(folder)
            .map_err(|e| Error::io(folder, "create a file in this folder", e).help("choose another output with -o"))?;
        unfinished(|paths| _ = paths.insert(file.path().to_path_buf()));
        fault::remember(file.path());
        Ok(Output { target: target.to_path_buf(), force, file })
    }

    /// The checks of [`Output::create`] alone, for refusing before any work.
    ///
    /// # Errors
    /// A target that exists (without `force`) or is one of the `inputs`.
    pub fn check(target: &Path, force: bool, inputs: &[&Path]) -> Result<()> {
        if let Some(input) = inputs.iter().find(|input| same_file(input, target)) {
            return Err(Error::usage("the output is the input").at(input).help("choose another output name"));
        }
        if target.is_dir() {
            return Err(Error::usage("the output is a folder").at(target).help("give the name of a file"));
        }
        if !force && target.exists() {
            return Err(Error::usage("exists already").at(target).help("--force replaces it"));
        }
        Ok(())
    }

    /// The name the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the bytes are until the commit.
    pub fn temporary(&self) -> &Path {
        self.file.path()
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// What syncing or renaming meets; the temporary file is removed then.
    pub fn commit(mut self) -> Result<()> {
        let failed = |e: io::Error| Error::io(&self.target, "finish writing", e);
        self.file.flush().map_err(failed)?;
        self.file.as_file().sync_all().map_err(failed)?;
        set_usual_permissions(self.file.as_file()).map_err(failed)?;
        let temporary = self.file.path().to_path_buf();
        let Output { target, force, file } = self;
        let renamed = if force { file.persist(&target) } else { file.persist_noclobber(&target) };
        unfinished(|paths| _ = paths.remove(&temporary));
        fault::forget(&temporary);
        renamed.map_err(|e| Error::io(&target, "rename the finished file", e.error))?;
        // The rename is durable once the folder is; not every file system lets a folder be synced.
        if let Ok(folder) = fs::File::open(folder_of(&target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// A folder under a temporary sibling name until [`OutputFolder::commit`].
///
/// Dropping it without a commit, an error or Ctrl-C remove the temporary folder and leave the name as it was.
#[derive(Debug)]
pub struct OutputFolder {
    target: PathBuf,
    force: bool,
    folder: TempDir,
}

impl OutputFolder {
    /// Begins a folder that will be called `target`.
    ///
    /// # Errors
    /// A target that exists (without `force`), or is one of the `inputs`, holds one or lies in one, or a folder that
    /// cannot be written.
    pub fn create(target: &Path, force: bool, inputs: &[&Path]) -> Result<OutputFolder> {
        OutputFolder::check(target, force, inputs)?;
        let parent = folder_of(target);
        let name = target.file_name().ok_or_else(|| Error::usage("the output has no name").at(target))?;
        let folder = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".tmp")
            .tempdir_in(parent)
            .map_err(|e| Error::io(parent, "create a folder in this folder", e).help("choose another output"))?;
        unfinished(|paths| _ = paths.insert(folder.path().to_path_buf()));
        Ok(OutputFolder { target: target.to_path_buf(), force, folder })
    }

    /// The checks of [`OutputFolder::create`] alone, for refusing before any work.
    ///
    /// # Errors
    /// A target that exists (without `force`), or is one of the `inputs`, holds one or lies in one.
    pub fn check(target: &Path, force: bool, inputs: &[&Path]) -> Result<()> {
        let whole = |path: &Path| match path.canonicalize() {
            Ok(whole) => Some(whole),
            Err(_) => Some(folder_of(path).canonicalize().ok()?.join(path.file_name()?)),
        };
        let clash = |input: &&&Path| match (whole(input), whole(target)) {
            (Some(input), Some(target)) => input.starts_with(&target) || target.starts_with(&input),
            _ => false,
        };
        if let Some(input) = inputs.iter().find(clash) {
            let what = "the output and the input are the same folder, or one lies in the other";
            return Err(Error::usage(what).at(input).help("choose an output folder beside the input"));
        }
        if target.is_file() {
            return Err(Error::usage("the output is a file").at(target).help("give the name of a folder"));
        }
        if !force && target.exists() {
            return Err(Error::usage("exists already").at(target).help("--force replaces it"));
        }
        Ok(())
    }

    /// The name the folder will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the files are until the commit.
    pub fn temporary(&self) -> &Path {
        self.folder.path()
    }

    /// Syncs the files and gives the folder its name. A folder replaced by force is moved aside first and removed last.
    ///
    /// # Errors
    /// What syncing or renaming meets; the temporary folder is removed then, and the old one stays or comes back.
    pub fn commit(self) -> Result<()> {
        let failed = |e: io::Error| Error::io(&self.target, "finish writing", e);
        let temporary = self.folder.path().to_path_buf();
        for entry in fs::read_dir(&temporary).map_err(failed)? {
            let file = fs::File::open(entry.map_err(failed)?.path()).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o777 & !umask())).map_err(failed)?;
        }
        let rename =
            |from: &Path, to: &Path| fs::rename(from, to).map_err(|e| Error::io(to, "rename a folder to this", e));
        let aside = self.force && self.target.exists();
        let old = temporary.with_extension("old");
        if aside {
            rename(&self.target, &old)?;
        }
        if let Err(error) = rename(&temporary, &self.target) {
            if aside {
                rename(&old, &self.target)?;
            }
            return Err(error);
        }
        unfinished(|paths| _ = paths.remove(&temporary));
        let _ = self.folder.keep();
        if aside {
            fs::remove_dir_all(&old).map_err(|e| Error::io(&old, "remove the replaced folder", e))?;
        }
        if let Ok(parent) = fs::File::open(folder_of(&self.target)) {
            let _ = parent.sync_all();
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => true,
        #[cfg(unix)]
        (Ok(a), Ok(b)) => {
            use std::os::unix::fs::MetadataExt;
            // Hard links have different names and one inode.
            matches!((fs::metadata(a), fs::metadata(b)), (Ok(a), Ok(b)) if a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()))
        }
        _ => false,
    }
}

/// Temporary files are private; a finished artifact has the permissions any new file has.
fn set_usual_permissions(file: &fs::File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o666 & !umask()))?;
    }
    Ok(())
}

/// The permissions that new files do not get.
#[cfg(unix)]
// The mask has 16 bits on some systems and 32 on others.
#[allow(clippy::useless_conversion)]
fn umask() -> u32 {
    // SAFETY: umask only reads and sets a number of the process; it is set back at once.
    unsafe {
        let mask = libc::umask(0);
        libc::umask(mask);
        u32::from(mask)
    }
}
