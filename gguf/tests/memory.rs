//! Refusing a hostile file takes little memory: the peak of a counting allocator stays under 16 MiB.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use gguf::check::{self, Options};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged; the counters touch no memory of callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn refusing_a_hostile_file_takes_little_memory() {
    let verdicts = fixtures::json("golden/hostile/verdicts.json");
    let mut most = 0;
    for name in verdicts["cases"].as_object().expect("cases").keys() {
        let path = fixtures::path(&format!("golden/hostile/{name}"));
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        drop(gguf::File::open(&path));
        drop(check::check(&path, &Options { data: true, ..Options::default() }));
        let used = PEAK.load(Ordering::Relaxed) - before;
        assert!(used < 16 << 20, "{name} took {used} bytes");
        most = most.max(used);
    }
    // The counter counts.
    assert!(most > 1000);
}
