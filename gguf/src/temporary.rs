//! Files and folders under a temporary name, and how names change hands.
//!
//! A file is written under a hidden name in the folder of its target, `.NAME.TOKEN.tmp`, and renamed when it is whole.
//! Who writes holds a lock on the temporary file, so that another run can tell the stray of a killed program from the
//! work of a living one. All files of a run share the first part of the token: while one of them is locked, all live.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::beside::{folder_of, hidden, os_str, stem};

/// Characters of a token: the first tell the run, the others count its files.
const RUN: usize = 10;
const FILE: usize = 4;
const SUFFIX: &str = ".tmp";

fn base36(mut number: u64, digits: usize) -> String {
    let mut out = vec![0; digits];
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
    }
    out.into_iter().map(char::from).collect()
}

/// What tells this run from others. The standard library seeds its hashers by the system's randomness.
static OWN: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    base36(hasher.finish(), RUN)
});

fn fresh_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    hidden(path, &format!("{}{}{SUFFIX}", *OWN, base36(number.into(), FILE)))
}

/// A file or folder under a temporary name, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    /// Holds the lock that says that its writer lives.
    lock: Option<File>,
}

impl Temporary {
    /// A new file for this target. Strays of killed runs for the same target go away first.
    ///
    /// # Errors
    /// What creating a file meets.
    pub(crate) fn file(target: &Path, private: bool) -> io::Result<(Temporary, File)> {
        sweep(target);
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        if private {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        #[cfg(not(unix))]
        let _ = private;
        loop {
            let path = fresh_name(target);
            let file = options.open(&path)?;
            let temporary = Temporary { path, lock: None };
            if is_ours(&file, &temporary.path) {
                return Ok((temporary, file));
            }
        }
    }

    /// A new folder for this target. Strays of killed runs for the same target go away first.
    ///
    /// # Errors
    /// What creating a folder meets.
    pub(crate) fn folder(target: &Path) -> io::Result<Temporary> {
        sweep(target);
        loop {
            let path = fresh_name(target);
            fs::create_dir(&path)?;
            let mut temporary = Temporary { path, lock: None };
            // A folder that cannot be opened here is one that cannot be locked.
            let Ok(opened) = File::open(&temporary.path) else { return Ok(temporary) };
            if is_ours(&opened, &temporary.path) {
                temporary.lock = Some(opened);
                return Ok(temporary);
            }
        }
    }

    /// A name that nothing has, for what is moved aside.
    pub(crate) fn aside(target: &Path) -> Temporary {
        Temporary { path: fresh_name(target), lock: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What lay under the name has got another one; nothing is to be removed.
    pub(crate) fn keep(mut self) {
        self.path.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Best effort: where it fails the next run for the target tries again.
            let _ = remove(&self.path);
        }
    }
}

/// Locks a file that was just created; `false` where another run swept it away in that moment.
fn is_ours(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => false,
        // Where files cannot be locked nobody sweeps.
        Err(TryLockError::Error(_)) => true,
        Ok(()) => path.exists(),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Takes a temporary name apart: whose file it is, and the run.
fn parse(name: &OsStr) -> Option<(&[u8], &[u8])> {
    let rest = name.as_encoded_bytes().strip_prefix(b".")?.strip_suffix(SUFFIX.as_bytes())?;
    let (front, token) = rest.split_at_checked(rest.len().checked_sub(RUN + FILE)?)?;
    let whole = token.iter().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    Some((front.strip_suffix(b".")?, &token[..RUN])).filter(|(stem, _)| whole && !stem.is_empty())
}

/// Removes what killed runs left of this target; of a shard, what they left of any shard of that model.
fn sweep(target: &Path) {
    static SWEPT: LazyLock<Mutex<HashSet<(PathBuf, OsString)>>> = LazyLock::new(Mutex::default);
    let own = stem(target.file_name().unwrap_or_default(), RUN + FILE + SUFFIX.len());
    let model = |name: &OsStr| crate::shard_name::parse(name).map(|(prefix, ..)| prefix.into_os_string());
    let prefix = model(&own);
    let whose = (folder_of(target).to_path_buf(), prefix.clone().unwrap_or_else(|| own.clone()));
    if !SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(whose) {
        return;
    }
    let Ok(entries) = fs::read_dir(folder_of(target)) else { return };
    let names: Vec<OsString> = entries.flatten().map(|e| e.file_name()).collect();
    let same =
        |stem: &[u8]| os_str(stem).is_some_and(|stem| stem == own || (prefix.is_some() && model(stem) == prefix));
    let mut runs: HashMap<&[u8], Vec<(PathBuf, bool)>> = HashMap::new();
    for (name, (stem, run)) in names.iter().filter_map(|name| Some((name, parse(name)?))) {
        runs.entry(run).or_default().push((folder_of(target).join(name), same(stem)));
    }
    runs.remove(OWN.as_bytes());
    for files in runs.into_values().filter(|files| files.iter().any(|(_, same)| *same)) {
        if !files.iter().any(|(path, _)| is_live(path)) {
            // Best effort: a stray takes room and harms nothing.
            files.iter().filter(|(_, same)| *same).for_each(|(path, _)| _ = remove(path));
        }
    }
}

/// Whether somebody holds the lock. What cannot be told is taken for alive.
fn is_live(path: &Path) -> bool {
    let plain = fs::symlink_metadata(path).is_ok_and(|m| m.is_file() || m.is_dir());
    let lock = plain.then(|| File::open(path).ok()).flatten();
    lock.is_none_or(|file| file.try_lock().is_err())
}

/// Renames without replacing anything.
///
/// # Errors
/// A name that is taken, and what renaming meets.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(done) = flagged(from, to, Flag::NoReplace) {
        return done;
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// Exchanges two names in one step; `false` where the system cannot.
///
/// # Errors
/// What renaming meets.
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<bool> {
    flagged(a, b, Flag::Exchange).map_or(Ok(false), |done| done.map(|()| true))
}

enum Flag {
    NoReplace,
    Exchange,
}

/// Renames by Linux's own call; `None` where the system or the file system has none.
#[cfg(target_os = "linux")]
fn flagged(from: &Path, to: &Path, flag: Flag) -> Option<io::Result<()>> {
    use std::os::unix::ffi::OsStrExt;
    let name = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).ok();
    let (from, to) = (name(from)?, name(to)?);
    let flags = match flag {
        Flag::NoReplace => libc::RENAME_NOREPLACE,
        Flag::Exchange => libc::RENAME_EXCHANGE,
    };
    // SAFETY: two NUL-terminated names that outlive the call; nothing else is passed or returned.
    let code = unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if code == 0 {
        return Some(Ok(()));
    }
    let error = io::Error::last_os_error();
    let unsupported = matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ENOTSUP));
    (!unsupported).then_some(Err(error))
}

#[cfg(not(target_os = "linux"))]
fn flagged(_: &Path, _: &Path, _: Flag) -> Option<io::Result<()>> {
    None
}

/// Makes renames in a folder durable. Not every file system lets a folder be synced.
pub(crate) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beside::NAME_MAX;

    #[test]
    fn hidden_names_fit() {
        let long = |c: char| PathBuf::from("d").join(c.to_string().repeat(250));
        for path in [PathBuf::from("d/m.gguf"), long('a'), long('b')] {
            let name = fresh_name(&path);
            assert!(name.starts_with("d") && name.file_name().unwrap().len() <= NAME_MAX);
            assert!(parse(name.file_name().unwrap()).is_some_and(|(_, run)| run == OWN.as_bytes()));
        }
    }

    #[test]
    fn strays_go_and_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::write(folder.path().join(name), "x").unwrap();
            File::open(folder.path().join(name)).unwrap()
        };
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        make(".m.gguf.aaaaaaaaaa0000.tmp");
        make(".m.gguf.backup.tmp");
        make(".other.gguf.aaaaaaaaaa0001.tmp");
        make(".m.gguf.bbbbbbbbbb0001.tmp");
        fs::create_dir(folder.path().join(".m.gguf.cccccccccc0000.tmp")).unwrap();
        // A run lives as long as it holds the lock of one of its files.
        let living = make(".first.gguf.bbbbbbbbbb0000.tmp");
        living.lock().unwrap();
        sweep(&folder.path().join("m.gguf"));
        let left = [
            ".first.gguf.bbbbbbbbbb0000.tmp",
            ".m.gguf.backup.tmp",
            ".m.gguf.bbbbbbbbbb0001.tmp",
            ".other.gguf.aaaaaaaaaa0001.tmp",
        ];
        assert_eq!(names(), left);
        // Shards of one model are one target.
        make(".s-00001-of-00003.gguf.aaaaaaaaaa0000.tmp");
        make(".s-00007-of-00009.gguf.aaaaaaaaaa0001.tmp");
        make(".t-00007-of-00009.gguf.aaaaaaaaaa0002.tmp");
        sweep(&folder.path().join("s-00001-of-00002.gguf"));
        assert_eq!(names().iter().filter(|n| n.contains("-of-")).count(), 1);
    }

    #[test]
    fn names_change_hands() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        assert!(rename_new(&a, &b).is_err());
        if exchange(&a, &b).unwrap() {
            assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
        }
        fs::remove_file(&b).unwrap();
        rename_new(&a, &b).unwrap();
        assert!(!a.exists() && b.exists());
    }
}
