//! A device's memory: what is used of it, and buffers that can be used again.

use std::sync::{Arc, Mutex};

use super::lock;

/// Bytes in use, and free buffers.
pub(super) struct Memory {
    budget: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of all buffers, also of free ones.
    used: u64,
    free: Vec<wgpu::Buffer>,
}

/// Sizes are multiples of it, so that buffers of nearly one size serve each other.
const STEP: u64 = 1 << 12;

impl Memory {
    pub(super) fn new(budget: u64) -> Arc<Memory> {
        Arc::new(Memory { budget, state: Mutex::default() })
    }

    /// Bytes that may still be used.
    pub(super) fn left(&self) -> u64 {
        let state = lock(&self.state);
        let free: u64 = state.free.iter().map(wgpu::Buffer::size).sum();
        self.budget.saturating_sub(state.used - free)
    }

    /// A buffer of at least so many bytes: one that is free, or a new one. Fails with what is left.
    pub(super) fn lease(
        memory: &Arc<Memory>,
        bytes: u64,
        make: impl FnOnce(u64) -> wgpu::Buffer,
    ) -> Result<Lease, u64> {
        let size = bytes.next_multiple_of(STEP);
        let mut state = lock(&memory.state);
        let fits = |buffer: &wgpu::Buffer| buffer.size() >= bytes && buffer.size() <= size.saturating_mul(2);
        let best = (0..state.free.len()).filter(|&i| fits(&state.free[i])).min_by_key(|&i| state.free[i].size());
        if let Some(i) = best {
            let raw = state.free.swap_remove(i);
            return Ok(Lease { memory: Arc::clone(memory), raw: Some(raw), bytes, again: true });
        }
        state.make_room(size, memory.budget)?;
        drop(state);
        Ok(Lease { memory: Arc::clone(memory), raw: Some(make(size)), bytes, again: true })
    }

    /// A buffer of exactly so many bytes that is not used again.
    pub(super) fn once(memory: &Arc<Memory>, size: u64, make: impl FnOnce(u64) -> wgpu::Buffer) -> Result<Lease, u64> {
        lock(&memory.state).make_room(size, memory.budget)?;
        Ok(Lease { memory: Arc::clone(memory), raw: Some(make(size)), bytes: size, again: false })
    }
}

impl State {
    /// Counts so many bytes more; free buffers are given up where they are in the way.
    fn make_room(&mut self, size: u64, budget: u64) -> Result<(), u64> {
        while self.used.saturating_add(size) > budget {
            let Some(buffer) = self.free.pop() else { return Err(budget.saturating_sub(self.used)) };
            self.used -= buffer.size();
        }
        self.used += size;
        Ok(())
    }
}

/// A buffer in use.
pub(super) struct Lease {
    memory: Arc<Memory>,
    raw: Option<wgpu::Buffer>,
    bytes: u64,
    again: bool,
}

impl Lease {
    pub(super) fn raw(&self) -> &wgpu::Buffer {
        self.raw.as_ref().unwrap_or_else(|| unreachable!("a lease has its buffer until it ends"))
    }

    /// The bytes that were asked for.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(raw) = self.raw.take() else { return };
        let mut state = lock(&self.memory.state);
        if self.again {
            state.free.push(raw);
        } else {
            state.used -= raw.size();
        }
    }
}

/// Bytes of an adapter's own memory, where its interface says so.
pub(super) fn of(adapter: &wgpu::Adapter) -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "windows", target_os = "android"))]
    {
        // SAFETY: the handles are only read, while the adapter lives.
        let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
        let instance = vulkan.shared_instance().raw_instance();
        // SAFETY: the physical device belongs to this instance.
        let memory = unsafe { instance.get_physical_device_memory_properties(vulkan.raw_physical_device()) };
        const OWN: u32 = 1;
        let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
        Some(heaps.filter(|heap| heap.flags.as_raw() & OWN != 0).map(|heap| heap.size).sum())
    }
    #[cfg(not(any(target_os = "linux", target_os = "windows", target_os = "android")))]
    {
        let _ = adapter;
        None
    }
}
