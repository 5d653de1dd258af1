//! What happens when a page of a mapped file cannot be read: one error and no temporary file, instead of a crash.
//!
//! Reading a mapped file that another process cuts short, or whose disk fails, raises SIGBUS. Nothing can be unwound
//! from there, so the handler says which file it was, removes what is unfinished and ends the program with the exit
//! code of a system that failed. It keeps to what a signal handler may do: system calls on memory that exists already.

#[cfg(unix)]
pub(crate) use unix::{forget, install, remember};

#[cfg(not(unix))]
mod other {
    pub fn install() {}
    pub fn remember(_: &std::path::Path) -> Option<usize> {
        None
    }
    pub fn forget(_: usize) {}
}
#[cfg(not(unix))]
pub(crate) use other::{forget, install, remember};

#[cfg(unix)]
mod unix {
    use std::ffi::{CString, c_char, c_int, c_void};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    /// The most unfinished files that the handler knows: as many as a model can have shards, and some.
    const SLOTS: usize = 1 << 17;
    static UNFINISHED: [AtomicPtr<c_char>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    /// Notes a file that is to be removed if the program ends now; gives its number. The name is never freed: the handler
    /// may read it.
    pub fn remember(path: &Path) -> Option<usize> {
        let name = CString::new(path.as_os_str().as_bytes()).ok()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        UNFINISHED.get(number)?.store(name.into_raw(), Ordering::Release);
        Some(number)
    }

    /// The file of this number is finished or gone.
    pub fn forget(number: usize) {
        if let Some(slot) = UNFINISHED.get(number) {
            slot.store(ptr::null_mut(), Ordering::Release);
        }
    }

    /// Puts the handler in place.
    pub fn install() {
        // SAFETY: the action is fully initialized, and the handler does only what is safe in one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            // On the stack of the thread: the alternate ones are too small for a frame of AVX-512 and the buffers below.
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
            // A file that grows past a limit of the system shall be an error of the write, not the end.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
    }

    extern "C" fn handler(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        let mut name = [0_u8; 1024];
        // SAFETY: the system gives a valid `siginfo_t` for handlers with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        let len = mapped_file(address, &mut name);
        if len == 0 {
            // No page of a file: a fault of the program, which shall look like one.
            // SAFETY: setting the default action; the fault comes again as soon as this returns.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
            return;
        }
        say(b"error: ");
        say(&name[..len]);
        say(b": a page cannot be read: the file was cut short, or its disk failed\n  help: fetch the file again\n");
        for slot in &UNFINISHED {
            let name = slot.load(Ordering::Acquire);
            if !name.is_null() {
                // SAFETY: a NUL-terminated name that is never freed; unlink is safe in a handler.
                unsafe { libc::unlink(name) };
            }
        }
        // SAFETY: ends the process at once, without running anything else of it.
        unsafe { libc::_exit(4) }
    }

    fn say(text: &[u8]) {
        // SAFETY: a write of initialized bytes; nothing can be done where it fails.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }

    /// Finds the file that is mapped at an address in the system's list of maps. Returns the length of its name, 0
    /// where there is none.
    fn mapped_file(address: usize, name: &mut [u8]) -> usize {
        // SAFETY: a constant NUL-terminated name; the descriptor is closed below.
        let fd = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if fd < 0 {
            return unnamed(name);
        }
        let mut buffer = [0_u8; 4096];
        let mut line = Line::default();
        let mut found = 0;
        'read: loop {
            // SAFETY: reads into a buffer of that length.
            let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
            let Ok(n) = usize::try_from(n) else { break };
            if n == 0 {
                break;
            }
            for &byte in &buffer[..n] {
                if byte == b'\n' {
                    if line.holds(address) {
                        found = line.len;
                        break 'read;
                    }
                    line = Line::default();
                } else {
                    line.push(byte, name);
                }
            }
        }
        // SAFETY: closes the descriptor opened above.
        unsafe { libc::close(fd) };
        found
    }

    /// What stands for the name on systems that list no maps.
    fn unnamed(name: &mut [u8]) -> usize {
        let text = b"a mapped file";
        name[..text.len()].copy_from_slice(text);
        text.len()
    }

    /// One line of the list, `start-end flags offset device inode name`, read byte by byte.
    #[derive(Default)]
    struct Line {
        /// The field the next byte belongs to: 0 start, 1 end, 2 to 5 the next four, 6 the name.
        field: u8,
        in_gap: bool,
        start: usize,
        end: usize,
        len: usize,
    }

    impl Line {
        fn push(&mut self, byte: u8, name: &mut [u8]) {
            match (self.field, byte) {
                (0, b'-') => self.field = 1,
                (0, _) => self.start = self.start << 4 | hex(byte),
                (1..=5, b' ') => self.in_gap = true,
                (1..=5, _) => {
                    if self.in_gap {
                        self.in_gap = false;
                        self.field += 1;
                    }
                    match self.field {
                        1 => self.end = self.end << 4 | hex(byte),
                        6 => self.keep(byte, name),
                        _ => {}
                    }
                }
                _ => self.keep(byte, name),
            }
        }

        fn keep(&mut self, byte: u8, name: &mut [u8]) {
            if let Some(at) = name.get_mut(self.len) {
                *at = byte;
                self.len += 1;
            }
        }

        fn holds(&self, address: usize) -> bool {
            (self.start..self.end).contains(&address)
        }
    }

    fn hex(byte: u8) -> usize {
        usize::from(match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => 0,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_list_of_maps_gives_the_file_behind_an_address() {
            let mut name = [0; 1024];
            // The code of this test is mapped from the test's executable.
            let here = the_list_of_maps_gives_the_file_behind_an_address as *const () as usize;
            let len = mapped_file(here, &mut name);
            assert_eq!(&name[..len], std::env::current_exe().unwrap().as_os_str().as_bytes());
            assert_eq!(mapped_file(8, &mut name), 0);
        }
    }
}
