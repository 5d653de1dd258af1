//! Output that appears whole or not at all.
//!
//! A file is written under a temporary name beside its target, synced and renamed. Only regular files are replaced, and
//! links are followed, so that neither a device nor a link becomes a file. Several files of one result appear so that a
//! reader never takes a part of them, or old ones among new ones, for the whole: see [`commit_all`].

use std::collections::HashSet;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::beside::{self, folder_of};
use crate::error::{Error, Result};
#[cfg(feature = "cli")]
use crate::fault;
use crate::temporary::{self, Temporary};

static UNFINISHED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

fn unfinished(change: impl FnOnce(&mut HashSet<PathBuf>)) {
    change(&mut UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner));
}

static CRITICAL: Mutex<()> = Mutex::new(());

/// Does work that Ctrl-C must wait for. Keep it short.
pub fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    let _critical = CRITICAL.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// Ends the program after what must not be cut in two, with nothing unfinished left behind: for handlers of Ctrl-C.
#[cfg(feature = "cli")]
pub(crate) fn abandon(code: i32) -> ! {
    // Never given back.
    let critical = CRITICAL.lock();
    remove_unfinished();
    std::mem::forget(critical);
    std::process::exit(code)
}

/// Removes the temporary files and folders of outputs that were not finished.
#[cfg(feature = "cli")]
fn remove_unfinished() {
    unfinished(|paths| {
        for path in paths.drain() {
            // Best effort on the way out: the name says that it is temporary.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    });
    let mut places: Vec<PathBuf> = PLACES.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
    // The inner ones first.
    places.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
    for path in places {
        let _ = fs::remove_dir(path);
    }
}

/// A temporary that goes away however the program ends, as far as it can do something about it.
#[derive(Debug)]
struct Watched {
    temporary: Temporary,
    #[cfg(feature = "cli")]
    slot: Option<usize>,
}

impl Watched {
    fn new(temporary: Temporary, is_file: bool) -> Watched {
        unfinished(|paths| _ = paths.insert(temporary.path().to_path_buf()));
        #[cfg(not(feature = "cli"))]
        let _ = is_file;
        Watched {
            #[cfg(feature = "cli")]
            slot: is_file.then(|| fault::remember(temporary.path())).flatten(),
            temporary,
        }
    }

    fn path(&self) -> &Path {
        self.temporary.path()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        unfinished(|paths| _ = paths.remove(self.temporary.path()));
        #[cfg(feature = "cli")]
        if let Some(slot) = self.slot {
            fault::forget(slot);
        }
    }
}

/// Whether a path names a folder: one that is there, or, by the separator at its end, one that is to be made.
pub fn names_folder(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    path.is_dir() || last.is_some_and(|&byte| std::path::is_separator(char::from(byte)))
}

/// A folder that outputs go into. Where it was made for them and none came, it goes away again.
#[derive(Debug)]
pub struct OutputPlace {
    /// From the inside out.
    made: Vec<PathBuf>,
}

static PLACES: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

impl OutputPlace {
    /// Makes the folder where it is not there yet, with those around it.
    ///
    /// # Errors
    /// A path at which something else is, and a folder that cannot be made.
    pub fn make(folder: &Path) -> Result<OutputPlace> {
        let mut place = OutputPlace { made: Vec::new() };
        if folder.is_dir() {
            return Ok(place);
        }
        if fs::symlink_metadata(folder).is_ok() {
            return Err(Error::usage("is a file, and the outputs go into a folder")
                .at(folder)
                .help("give the name of a folder with -o; it is made where it is not there"));
        }
        let missing: Vec<_> =
            folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
        for path in missing.into_iter().rev() {
            fs::create_dir(path).map_err(|e| Error::io(path, "make this folder", e).help("choose another with -o"))?;
            place.made.insert(0, path.to_path_buf());
            PLACES.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf());
        }
        Ok(place)
    }
}

impl Drop for OutputPlace {
    fn drop(&mut self) {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        for path in &self.made {
            places.remove(path);
            // One that holds something stays.
            let _ = fs::remove_dir(path);
        }
    }
}

/// The name that an output leads to, which no device, pipe or open file stands behind.
fn real_target(target: &Path) -> Result<PathBuf> {
    let refused = |what: &str| Error::usage(what).at(target).help("give the name of a file");
    if target.as_os_str() == "-" {
        return Err(refused("output goes to a file, not to standard output").help("./- is a file of that name"));
    }
    // What is open already has no name that could be given to a finished file.
    let opened = |path: &Path| {
        let whole = path.components().map(|c| c.as_os_str()).collect::<Vec<_>>();
        path.starts_with("/dev/fd") || (path.starts_with("/proc") && whole.len() == 5 && whole[3] == "fd")
    };
    let mut hops = beside::hops(target)?;
    if hops.iter().any(|hop| opened(hop)) {
        return Err(refused("is an open file of a program, not the name of one"));
    }
    Ok(hops.pop().unwrap_or_default())
}

/// The checks of a target that files and folders share; gives the name it leads to.
fn check_target(target: &Path, force: bool, wanted: fn(&fs::Metadata) -> bool, not_wanted: &str) -> Result<PathBuf> {
    let real = real_target(target)?;
    match fs::metadata(&real) {
        Ok(meta) if meta.is_file() || meta.is_dir() => {
            if !wanted(&meta) {
                let (is, give) = if meta.is_dir() { ("folder", "file") } else { ("file", "folder") };
                return Err(Error::usage(format!("the output is a {is}"))
                    .at(target)
                    .help(format!("give the name of a {give}")));
            }
            if !force {
                return Err(Error::usage("exists already").at(target).help("--force replaces it"));
            }
        }
        Ok(_) => {
            return Err(Error::usage(not_wanted).at(target).help("give a name that is free, or that of a file"));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = folder_of(&real);
            match fs::metadata(folder) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(cannot_create(folder, io::ErrorKind::NotADirectory.into())),
                Err(e) => return Err(cannot_create(folder, e)),
            }
        }
        Err(e) => return Err(Error::io(target, "examine", e)),
    }
    if real.file_name().is_none() {
        return Err(Error::usage("the output has no name of its own").at(target));
    }
    Ok(real)
}

fn cannot_create(folder: &Path, e: io::Error) -> Error {
    Error::io(folder, "create a file in this folder", e).help("choose another output with -o")
}

/// The inputs of an output that is made of none.
pub const NO_INPUTS: &[&Path] = &[];

/// A file under a temporary sibling name until [`Output::commit`].
///
/// Dropping it without a commit, an error or Ctrl-C remove the temporary file and leave the name as it was. What a
/// killed run left goes away when the same target is written again.
#[derive(Debug)]
pub struct Output {
    target: PathBuf,
    /// The target where its links lead.
    real: PathBuf,
    force: bool,
    /// Closed once the file is sealed.
    file: Option<fs::File>,
    temporary: Watched,
}

impl Output {
    /// Begins a file that will be called `target`, or what `target` links to.
    ///
    /// # Errors
    /// A target that exists (without `force`), is no regular file or is one of the `inputs`, or a folder that cannot be
    /// written.
    pub fn create(target: &Path, force: bool, inputs: &[impl AsRef<Path>]) -> Result<Output> {
        let real = Output::checked(target, force, inputs)?;
        // What replaces a private file is never readable by more.
        let (temporary, file) =
            Temporary::file(&real, real.exists()).map_err(|e| cannot_create(folder_of(&real), e))?;
        let temporary = Watched::new(temporary, true);
        Ok(Output { target: target.to_path_buf(), real, force, file: Some(file), temporary })
    }

    /// The checks of [`Output::create`] alone, for refusing before any work.
    ///
    /// # Errors
    /// Those of [`Output::create`], as far as they can be told beforehand.
    pub fn check(target: &Path, force: bool, inputs: &[impl AsRef<Path>]) -> Result<()> {
        Output::checked(target, force, inputs).map(drop)
    }

    fn checked(target: &Path, force: bool, inputs: &[impl AsRef<Path>]) -> Result<PathBuf> {
        if let Some(input) = inputs.iter().find(|input| same_file(input.as_ref(), target)) {
            return Err(Error::usage("the output is the input").at(input).help("choose another output name"));
        }
        if names_folder(target) && !target.is_dir() {
            return Err(Error::usage("the output is a file, and this names a folder")
                .at(target)
                .help("leave the separator at the end off"));
        }
        check_target(target, force, fs::Metadata::is_file, "is a device, pipe or socket, which no file replaces")
    }

    /// The name the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the bytes are until the commit.
    pub fn temporary(&self) -> &Path {
        self.temporary.path()
    }

    /// Sets room for so many bytes aside, where the system can: a full disk shows before any work, and writing takes half
    /// the time of the processor.
    ///
    /// # Errors
    /// There is not as much room.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        #[cfg(target_os = "linux")]
        if let (Some(file), Ok(len @ 1..)) = (&self.file, libc::off64_t::try_from(bytes)) {
            use std::os::fd::AsRawFd;
            // SAFETY: the descriptor is open as long as `file` is.
            let failed = unsafe { libc::fallocate64(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, len) } != 0;
            // A system that cannot set room aside for a file says other things.
            let error = io::Error::last_os_error();
            let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG].map(Some).contains(&error.raw_os_error());
            if failed && full {
                return Err(Error::io(&self.target, "set room aside for this file", error)
                    .help(format!("it takes {}", crate::text::bytes(bytes))));
            }
        }
        let _ = bytes;
        Ok(())
    }

    /// Syncs the file and closes it: no more can be written, and thousands can wait for their names without running
    /// out of file handles. Of the outputs that wait together the first stays open, so that others see them alive.
    ///
    /// # Errors
    /// What syncing meets.
    pub fn seal(&mut self) -> Result<()> {
        let failed = |e: io::Error| Error::io(&self.target, "finish writing", e);
        let Some(mut file) = self.file.take() else { return Ok(()) };
        file.flush().map_err(failed)?;
        self.finish(&file)
    }

    fn finish(&self, file: &fs::File) -> Result<()> {
        let failed = |e: io::Error| Error::io(&self.target, "finish writing", e);
        if self.force
            && let Ok(old) = fs::metadata(&self.real)
        {
            file.set_permissions(old.permissions()).map_err(failed)?;
        }
        file.sync_all().map_err(failed)
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// What syncing or renaming meets; the temporary file is removed then.
    pub fn commit(self) -> Result<()> {
        commit_all(vec![self])
    }

    fn open(&mut self) -> io::Result<&mut fs::File> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the output is sealed"))
    }
}

/// Gives several files of one result their names, all or none. The first is the one that readers open: it is taken away
/// before any other changes and gets its name last, so that whatever stops the program, nobody reads a mixture.
///
/// # Errors
/// What syncing or renaming meets; the names are then as they were.
pub fn commit_all(outputs: Vec<Output>) -> Result<()> {
    crate::map::unchanged()?;
    for output in &outputs {
        if let Some(file) = &output.file {
            output.finish(file)?;
        }
    }
    // The first one is still open, and locked, while the others get their names.
    uninterrupted(|| name_all(&outputs))?;
    for output in &outputs {
        crate::journal::forget(&output.real);
    }
    Ok(())
}

fn name_all(outputs: &[Output]) -> Result<()> {
    let mut done = Vec::with_capacity(outputs.len() + 1);
    name_each(outputs, &mut done).inspect_err(|_| done.into_iter().rev().for_each(Step::undo))
}

/// A name that changed hands, and how it comes back. What was kept aside goes away with its step.
enum Step<'a> {
    /// What had the name is kept aside.
    Aside { name: &'a Path, kept: Temporary },
    /// The temporary file has the name, and what had it is under the temporary name.
    Exchanged { name: &'a Path, temporary: &'a Path },
    /// The temporary file has the name, which was free.
    Named { name: &'a Path, temporary: &'a Path },
}

impl Step<'_> {
    /// Best effort: the error that led here is the one to tell.
    fn undo(self) {
        let _ = match self {
            Step::Aside { name, kept } => {
                let moved = fs::rename(kept.path(), name);
                // Where even that fails it must not go away with the step.
                kept.keep();
                moved
            }
            Step::Exchanged { name, temporary } => temporary::exchange(name, temporary).map(drop),
            Step::Named { name, temporary } => fs::rename(name, temporary),
        };
    }
}

fn name_each<'a>(outputs: &'a [Output], done: &mut Vec<Step<'a>>) -> Result<()> {
    let Some((first, others)) = outputs.split_first() else { return Ok(()) };
    let mut folders: Vec<&Path> = outputs.iter().map(|o| folder_of(&o.real)).collect();
    folders.dedup();
    let sync = || folders.iter().for_each(|folder| temporary::sync_folder(folder));
    if others.is_empty() && first.force {
        // One file alone takes the place of another in one step.
        fs::rename(first.temporary.path(), &first.real).map_err(|e| first.failed(e))?;
        sync();
        return Ok(());
    }
    if first.force && first.real.exists() {
        first.move_aside(done)?;
        sync();
    }
    for output in others {
        output.name(done)?;
    }
    sync();
    first.name(done)?;
    sync();
    Ok(())
}

impl Output {
    fn failed(&self, e: io::Error) -> Error {
        Error::io(&self.target, "rename the finished file", e)
    }

    fn move_aside<'a>(&'a self, done: &mut Vec<Step<'a>>) -> Result<()> {
        let kept = Temporary::aside(&self.real);
        temporary::rename_new(&self.real, kept.path()).map_err(|e| self.failed(e))?;
        done.push(Step::Aside { name: &self.real, kept });
        Ok(())
    }

    fn name<'a>(&'a self, done: &mut Vec<Step<'a>>) -> Result<()> {
        let (name, temporary) = (&*self.real, self.temporary.path());
        if self.force && name.exists() {
            if temporary::exchange(temporary, name).map_err(|e| self.failed(e))? {
                done.push(Step::Exchanged { name, temporary });
                return Ok(());
            }
            self.move_aside(done)?;
        }
        temporary::rename_new(temporary, name).map_err(|e| self.failed(e))?;
        done.push(Step::Named { name, temporary });
        Ok(())
    }
}

/// A folder under a temporary sibling name until [`OutputFolder::commit`].
///
/// Dropping it without a commit, an error or Ctrl-C remove the temporary folder and leave the name as it was. What a
/// killed run left goes away when the same target is written again.
#[derive(Debug)]
pub struct OutputFolder {
    target: PathBuf,
    /// The target where its links lead.
    real: PathBuf,
    force: bool,
    folder: Watched,
}

/// Brings everything in a folder to the disk.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            fs::File::open(path)?.sync_all()?;
        }
    }
    temporary::sync_folder(folder);
    Ok(())
}

impl OutputFolder {
    /// Begins a folder that will be called `target`, or what `target` links to.
    ///
    /// # Errors
    /// A target that exists (without `force`), or is one of the `inputs`, holds one or lies in one, or a folder that
    /// cannot be written.
    pub fn create(target: &Path, force: bool, inputs: &[&Path]) -> Result<OutputFolder> {
        let real = OutputFolder::checked(target, force, inputs)?;
        let folder = Temporary::folder(&real).map_err(|e| {
            Error::io(folder_of(&real), "create a folder in this folder", e).help("choose another output")
        })?;
        Ok(OutputFolder { target: target.to_path_buf(), real, force, folder: Watched::new(folder, false) })
    }

    /// The checks of [`OutputFolder::create`] alone, for refusing before any work.
    ///
    /// # Errors
    /// Those of [`OutputFolder::create`], as far as they can be told beforehand.
    pub fn check(target: &Path, force: bool, inputs: &[&Path]) -> Result<()> {
        OutputFolder::checked(target, force, inputs).map(drop)
    }

    fn checked(target: &Path, force: bool, inputs: &[&Path]) -> Result<PathBuf> {
        let whole = |path: &Path| match path.canonicalize() {
            Ok(whole) => Some(whole),
            Err(_) => {
                let real = beside::real(path).ok()?;
                Some(folder_of(&real).canonicalize().ok()?.join(real.file_name()?))
            }
        };
        let clash = |input: &&&Path| match (whole(input), whole(target)) {
            (Some(input), Some(target)) => input.starts_with(&target) || target.starts_with(&input),
            _ => false,
        };
        if let Some(input) = inputs.iter().find(clash) {
            let what = "the output and the input are the same folder, or one lies in the other";
            return Err(Error::usage(what).at(input).help("choose an output folder beside the input"));
        }
        check_target(target, force, fs::Metadata::is_dir, "is a device, pipe or socket, which no folder replaces")
    }

    /// The name the folder will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the files are until the commit.
    pub fn temporary(&self) -> &Path {
        self.folder.path()
    }

    /// Syncs the files and gives the folder its name. A folder that is replaced changes places with the new one in one
    /// step, where the system can do that, and is removed then.
    ///
    /// # Errors
    /// What syncing or renaming meets; the temporary folder is removed then, and the old one stays or comes back.
    pub fn commit(self) -> Result<()> {
        crate::map::unchanged()?;
        let temporary = self.folder.path();
        sync_all(temporary).map_err(|e| Error::io(&self.target, "finish writing", e))?;
        let old = uninterrupted(|| {
            let failed = |e| Error::io(&self.target, "rename a folder to this", e);
            if !(self.force && self.real.exists()) {
                return temporary::rename_new(temporary, &self.real).map_err(failed).map(|()| None);
            }
            if temporary::exchange(temporary, &self.real).map_err(failed)? {
                return Ok(None);
            }
            let aside = Temporary::aside(&self.real);
            fs::rename(&self.real, aside.path()).map_err(failed)?;
            if let Err(error) = fs::rename(temporary, &self.real) {
                let _ = fs::rename(aside.path(), &self.real);
                return Err(failed(error));
            }
            Ok(Some(aside))
        })?;
        temporary::sync_folder(folder_of(&self.real));
        // What was replaced goes with `self`, whose name it has now, or from where it was moved.
        drop(old);
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), fs::File::flush)
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.open()?.seek(to)
    }
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
