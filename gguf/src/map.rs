//! Giving mapped pages back to the system.

use std::ops::Range;

/// Says that these bytes of a read-only file map will not be needed soon. Pages that lie wholly inside go.
pub fn release(map: &[u8], span: Range<usize>) {
    #[cfg(unix)]
    {
        const PAGE: usize = 4096;
        let base = map.as_ptr() as usize;
        let start = (base + span.start).next_multiple_of(PAGE);
        let end = (base + span.end.min(map.len())) / PAGE * PAGE;
        if start < end {
            // SAFETY: the range lies inside the map that `map` borrows, and MADV_DONTNEED on a read-only mapping
            // of a file drops only resident copies: a later access reads the same bytes from the file again.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
    #[cfg(not(unix))]
    let _ = (map, span);
}
