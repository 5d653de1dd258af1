//! Evaluation on a graphics processor: kernels in WGSL, run by wgpu on Vulkan, Metal or DirectX 12.
//!
//! Everything is f32. A matrix goes to the device as it is stored, in pieces of whole rows that one binding can hold, is
//! decoded there into a panel of f32 ([`formats`]) and multiplied. Commands are recorded and run when something is
//! wanted in memory; a kernel has no atomic operations on floats, so that the same run gives the same figures.

mod formats;
mod layers;
mod memory;
mod product;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use gguf::arch::NormKind;
use gguf::{Error, ErrorKind, Result, TensorType};
use wgpu::util::{BufferInitDescriptor, DeviceExt};

use crate::device::{
    Attention, Buffer, Choice, Device, Elementwise, Facts, Kept, Kernels, Operand, Place, Product, Rotation,
    StoredMatrix,
};
use memory::{Lease, Memory};

/// Invocations of a workgroup; every device has as many.
const GROUP: u32 = 256;

/// Commands that are recorded before they are run.
const RECORDED: usize = 64;

/// The bindings of a kernel behind its sizes: what it reads, then what it writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// A kernel: its name, its source, and what is bound to it.
struct Spec<'a> {
    name: &'a str,
    source: &'a dyn Fn() -> String,
    access: &'a [Access],
}

/// Rounding to 16 bits, for the sources of kernels.
const HALF: &str = include_str!("half.wgsl");

const MATMUL: Spec<'_> = Spec {
    name: "matmul",
    source: &|| include_str!("matmul.wgsl").to_owned(),
    access: &[Access::Read, Access::Read, Access::Write],
};

struct Kernel {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// A device that was opened.
pub struct Gpu {
    facts: Facts,
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Most bytes of a binding.
    binding: u64,
    groups: u32,
    memory: Arc<Memory>,
    kernels: Mutex<HashMap<String, Arc<Kernel>>>,
    grids: OnceLock<wgpu::Buffer>,
    recording: Mutex<(Option<wgpu::CommandEncoder>, usize)>,
    failed: Arc<Mutex<Option<String>>>,
    told: Mutex<HashSet<String>>,
    say: fn(&str),
}

/// How a device is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most bytes of its memory; by default three quarters of what it says it has.
    pub memory: Option<u64>,
    /// Most bytes of a binding, if fewer than the device's.
    pub binding: Option<u64>,
    /// Told once of each thing that the device has no kernel for.
    pub say: fn(&str),
}

impl Default for Options {
    fn default() -> Options {
        Options { memory: None, binding: None, say: |_| () }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a future that is ready at once or after other threads' work.
fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}

fn system(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::System, message)
}

/// Kinds of devices with their names, the best first.
const KINDS: [(wgpu::DeviceType, &str); 5] = [
    (wgpu::DeviceType::DiscreteGpu, "discrete"),
    (wgpu::DeviceType::IntegratedGpu, "integrated"),
    (wgpu::DeviceType::VirtualGpu, "virtual"),
    (wgpu::DeviceType::Other, "other"),
    (wgpu::DeviceType::Cpu, SOFTWARE),
];

const SOFTWARE: &str = "software";

fn backend_name(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DirectX 12",
        _ => "other",
    }
}

/// Every adapter with what is known of it, the best first.
fn adapters() -> Vec<(wgpu::Adapter, Facts)> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let flags = wgpu::InstanceFlags::empty();
    let descriptor =
        wgpu::InstanceDescriptor { backends, flags, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let mut found = wait(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
    let rank = |adapter: &wgpu::Adapter| KINDS.iter().position(|k| k.0 == adapter.get_info().device_type);
    found.sort_by_key(rank);
    let facts = |(number, adapter): (usize, &wgpu::Adapter)| {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let kind = KINDS.iter().find(|k| k.0 == info.device_type).map_or("other", |k| k.1);
        let driver = format!("{} {}", info.driver, info.driver_info);
        Facts {
            number,
            name: info.name,
            kind,
            backend: backend_name(info.backend).to_owned(),
            driver: driver.trim().to_owned(),
            memory: memory::of(adapter),
            largest_binding: limits.max_storage_buffer_binding_size,
            largest_buffer: limits.max_buffer_size,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            lacks: lacks(&limits),
        }
    };
    let all: Vec<Facts> = found.iter().enumerate().map(facts).collect();
    found.into_iter().zip(all).collect()
}

/// What limits lack of what the kernels need.
fn lacks(limits: &wgpu::Limits) -> Option<String> {
    let needed = [
        ("invocations of a workgroup", u64::from(limits.max_compute_invocations_per_workgroup), u64::from(GROUP)),
        ("bytes that a workgroup shares", u64::from(limits.max_compute_workgroup_storage_size), 8192),
        ("buffers of a kernel", u64::from(limits.max_storage_buffers_per_shader_stage), 5),
        ("bytes of a binding", limits.max_storage_buffer_binding_size, 1 << 24),
    ];
    let (what, has, needs) = needed.into_iter().find(|(_, has, needs)| has < needs)?;
    Some(format!("it has {has} {what}, the kernels need {needs}"))
}

/// The devices of this machine, the best first.
pub fn devices() -> Vec<Facts> {
    adapters().into_iter().map(|(_, facts)| facts).collect()
}

/// Opens what was asked for.
///
/// # Errors
/// No such device, or one that lacks what the kernels need.
pub fn open(choice: Choice, options: Options) -> Result<Device> {
    Gpu::open(choice, options).map(Device::new)
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Gpu {
    /// Opens what was asked for.
    ///
    /// # Errors
    /// No such device, or one that lacks what the kernels need.
    pub fn open(choice: Choice, options: Options) -> Result<Gpu> {
        let fits = |facts: &Facts| match choice {
            Choice::Number(number) => facts.number == number,
            Choice::Auto => facts.kind != SOFTWARE && facts.lacks.is_none(),
            _ => true,
        };
        let all = adapters();
        let count = all.len();
        let (adapter, facts) = all.into_iter().find(|(_, facts)| fits(facts)).ok_or_else(|| {
            let none = match choice {
                Choice::Number(number) if count > 0 => format!("there is no device {number}, there are {count}"),
                _ if count > 0 => "there is no device but those of software".to_owned(),
                _ => "there is no device: no Vulkan, Metal or DirectX 12 driver was found".to_owned(),
            };
            system(none).help("`evaluate devices` lists them; --device cpu takes the processor")
        })?;
        if let Some(lacks) = &facts.lacks {
            return Err(system(format!("{} cannot be used: {lacks}", facts.name)).help("use --device cpu"));
        }
        let limits = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = wait(adapter.request_device(&descriptor))
            .map_err(|e| system(format!("{} cannot be opened", facts.name)).caused_by(e).help("use --device cpu"))?;
        let failed: Arc<Mutex<Option<String>>> = Arc::default();
        let of = Arc::clone(&failed);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&of).get_or_insert_with(|| one_line(&e.to_string()));
        }));
        let of = Arc::clone(&failed);
        device.set_device_lost_callback(move |_, message| {
            lock(&of).get_or_insert_with(|| format!("the device was lost: {}", one_line(&message)));
        });
        // Offsets of values are u32.
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(1 << 31);
        let binding = options.binding.map_or(binding, |b| b.min(binding)) / 256 * 256;
        let budget = options.memory.or(facts.memory.map(|m| m / 4 * 3)).unwrap_or(u64::MAX);
        Ok(Gpu {
            facts,
            device,
            queue,
            binding,
            groups: limits.max_compute_workgroups_per_dimension,
            memory: Memory::new(budget),
            kernels: Mutex::default(),
            grids: OnceLock::new(),
            recording: Mutex::default(),
            failed,
            told: Mutex::default(),
            say: options.say,
        })
    }

    /// Decodes `count` values of a type.
    ///
    /// # Errors
    /// A type of no weights, or a failure of the device.
    pub fn decode(&self, ty: TensorType, bytes: &[u8], cols: usize) -> Result<Vec<f32>> {
        let row_bytes = ty.bytes_for(cols as u64).unwrap_or(0).max(1) as usize;
        let rows = bytes.len() / row_bytes;
        let words = self.store("blocks", bytes)?;
        let out = self.allocate("decoded blocks", rows * cols)?;
        self.decode_rows(ty, &words, 0..rows, cols, &out)?;
        self.read(&out, rows * cols)
    }

    /// A kernel, compiled when it is first asked for.
    fn kernel(&self, spec: &Spec<'_>) -> Result<Arc<Kernel>> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(spec.name) {
            return Ok(Arc::clone(kernel));
        }
        let scopes =
            [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation].map(|f| self.device.push_error_scope(f));
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(spec.name),
            source: wgpu::ShaderSource::Wgsl((spec.source)().into()),
        });
        let entry = |binding: usize, ty: wgpu::BufferBindingType| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage =
            spec.access.iter().enumerate().map(|(i, access)| {
                entry(i + 1, wgpu::BufferBindingType::Storage { read_only: *access == Access::Read })
            });
        let entries: Vec<_> = std::iter::once(entry(0, wgpu::BufferBindingType::Uniform)).chain(storage).collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(spec.name), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(spec.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(spec.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        });
        for scope in scopes.into_iter().rev() {
            if let Some(e) = wait(scope.pop()) {
                let (kernel, device) = (spec.name, &self.facts.name);
                return Err(system(format!(
                    "kernel {kernel} does not compile for {device}: {}",
                    one_line(&e.to_string())
                ))
                .help("use --device cpu, and report the device and its driver"));
            }
        }
        let kernel = Arc::new(Kernel { pipeline, layout });
        kernels.insert(spec.name.to_owned(), Arc::clone(&kernel));
        Ok(kernel)
    }

    /// Records a kernel's run over so many workgroups.
    fn run(&self, spec: &Spec<'_>, sizes: &[u32], bound: &[Bound<'_>], groups: [u32; 3]) -> Result<()> {
        self.state()?;
        let kernel = self.kernel(spec)?;
        if groups.iter().any(|&n| n > self.groups) {
            return Err(system(format!("kernel {} needs more workgroups than {} has", spec.name, self.facts.name))
                .help("use a smaller --ctx, or --device cpu"));
        }
        // A uniform is a whole number of vectors.
        let mut sizes = sizes.to_vec();
        sizes.resize(sizes.len().next_multiple_of(4), 0);
        let sizes = self.device.create_buffer_init(&BufferInitDescriptor {
            label: Some(spec.name),
            contents: bytemuck::cast_slice(&sizes),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let whole = std::iter::once(sizes.as_entire_binding());
        let entries: Vec<_> = whole
            .chain(bound.iter().map(|b| b.resource()))
            .enumerate()
            .map(|(i, resource)| wgpu::BindGroupEntry { binding: i as u32, resource })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(spec.name),
            layout: &kernel.layout,
            entries: &entries,
        });
        let mut recording = lock(&self.recording);
        let (encoder, count) = &mut *recording;
        let encoder = encoder.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&kernel.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        }
        *count += 1;
        if *count >= RECORDED {
            self.submit(&mut recording);
        }
        Ok(())
    }

    /// Runs what is recorded, so that the device is not given more at once than drivers are patient for.
    fn go(&self) {
        self.submit(&mut lock(&self.recording));
    }

    /// Runs what is recorded, and waits for it.
    fn settle(&self) -> Result<()> {
        self.go();
        let settled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.state()?;
        settled.map(|_| ()).map_err(|e| self.lost(&one_line(&e.to_string())))
    }

    /// Runs what is recorded.
    fn submit(&self, (encoder, count): &mut (Option<wgpu::CommandEncoder>, usize)) {
        if let Some(encoder) = encoder.take() {
            self.queue.submit([encoder.finish()]);
        }
        *count = 0;
    }

    /// Workgroups for so many invocations, in two dimensions.
    fn spread(&self, invocations: usize) -> [u32; 3] {
        let groups = invocations.div_ceil(GROUP as usize).max(1) as u32;
        let x = groups.min(self.groups);
        [x, groups.div_ceil(x), 1]
    }

    /// Room for so many f32.
    fn allocate(&self, what: &str, len: usize) -> Result<Lease> {
        let bytes = (len as u64 * 4).max(4);
        if bytes > self.binding {
            return Err(self.too_large(what, bytes));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        Memory::lease(&self.memory, bytes, |size| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(what),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
        .map_err(|free| self.too_small(what, bytes, free))
    }

    /// Bytes on the device, to be read only.
    fn store(&self, what: &str, bytes: &[u8]) -> Result<Lease> {
        let size = (bytes.len() as u64).next_multiple_of(4).max(4);
        if size > self.binding {
            return Err(self.too_large(what, size));
        }
        Memory::once(&self.memory, size, |size| {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(what),
                size,
                usage,
                mapped_at_creation: true,
            });
            if let Ok(mut to) = buffer.slice(..bytes.len().next_multiple_of(4) as u64).get_mapped_range_mut() {
                let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
                let mut last = [0_u8; 4];
                last[..rest.len()].copy_from_slice(rest);
                to.slice(..whole.len()).copy_from_slice(whole);
                if !rest.is_empty() {
                    to.slice(whole.len()..).copy_from_slice(&last);
                }
            }
            buffer.unmap();
            buffer
        })
        .map_err(|free| self.too_small(what, size, free))
    }

    /// The first `len` values, in memory.
    fn read(&self, from: &Lease, len: usize) -> Result<Vec<f32>> {
        self.state()?;
        let size = (len as u64 * 4).max(4);
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("values to read"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        {
            let mut recording = lock(&self.recording);
            let encoder = recording.0.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
            encoder.copy_buffer_to_buffer(from.raw(), 0, &staging, 0, size);
            self.submit(&mut recording);
        }
        let slice = staging.slice(..);
        let (sender, receiver) = std::sync::mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |mapped| {
            // Nobody waits any more where polling failed.
            let _ = sender.send(mapped.is_ok());
        });
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.state()?;
        if polled.is_err() || receiver.try_recv() != Ok(true) {
            return Err(self.lost("the values cannot be read back"));
        }
        let view = slice.get_mapped_range().map_err(|_| self.lost("the values cannot be read back"))?;
        let mut values = vec![0.0; len];
        bytemuck::cast_slice_mut::<f32, u8>(&mut values).copy_from_slice(&view[..len * 4]);
        Ok(values)
    }

    fn lost(&self, what: &str) -> Error {
        system(format!("{}: {what}", self.facts.name)).help("use --device cpu, or --device auto to go on there")
    }

    fn too_large(&self, what: &str, bytes: u64) -> Error {
        system(format!("{what} takes {bytes} bytes, a buffer of {} holds {}", self.facts.name, self.binding))
            .help("use a smaller --ctx or --max-memory, or --device cpu")
    }

    fn too_small(&self, what: &str, bytes: u64, free: u64) -> Error {
        system(format!("{what} takes {bytes} bytes, of the memory of {} {free} are free", self.facts.name))
            .help("use a larger --device-memory, a smaller --ctx or --max-memory, or --device cpu")
    }
}

/// What is bound to a kernel: a buffer, as a whole or its first bytes.
enum Bound<'a> {
    Lease(&'a Lease),
    Raw(&'a wgpu::Buffer),
}

impl Bound<'_> {
    fn resource(&self) -> wgpu::BindingResource<'_> {
        match self {
            Bound::Raw(buffer) => buffer.as_entire_binding(),
            Bound::Lease(lease) => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: lease.raw(),
                offset: 0,
                size: wgpu::BufferSize::new(lease.bytes()),
            }),
        }
    }
}

/// The source of a kernel: its parts, and the numbers that it chooses by.
fn source(parts: &[&str], names: &[&[&str]]) -> String {
    let mut source = parts.concat();
    for (number, name) in names.iter().flat_map(|names| names.iter().enumerate()) {
        // Writing to a string cannot fail.
        let _ = writeln!(source, "const {name}: u32 = {number}u;");
    }
    source
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

impl Kernels for Gpu {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn state(&self) -> Result<()> {
        match &*lock(&self.failed) {
            None => Ok(()),
            Some(failure) => Err(self.lost(failure)),
        }
    }

    fn upload(&self, x: &[f32]) -> Result<Buffer> {
        let lease = self.allocate("values", x.len())?;
        self.write(&lease, x)?;
        Ok(Buffer(Box::new(lease)))
    }

    fn download(&self, x: &Buffer) -> Result<Vec<f32>> {
        let lease = lease(x);
        let values = self.read(lease, (lease.bytes() / 4) as usize);
        if let Err(e) = &values {
            lock(&self.failed).get_or_insert_with(|| e.message().to_owned());
        }
        values
    }

    fn product(&self, x: Operand<'_>, w: &dyn StoredMatrix, kept: &Kept, rows: Range<usize>) -> Result<Product> {
        product::product(self, x, w, kept, rows)
    }

    fn largest(&self) -> usize {
        (self.binding / 4) as usize
    }

    fn room(&self, len: usize) -> bool {
        let bytes = len as u64 * 4;
        bytes <= self.binding && bytes <= self.memory.left() / 16
    }

    fn copy(&self, x: &Buffer) -> Result<Buffer> {
        Ok(Buffer(Box::new(self.copied(lease(x))?)))
    }

    fn change(&self, operation: Elementwise, x: &Buffer, y: Option<(Operand<'_>, Place)>) -> Result<()> {
        Gpu::change(self, operation, lease(x), y)
    }

    fn normalize(
        &self,
        kind: NormKind,
        x: &Buffer,
        len: usize,
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
    ) -> Result<()> {
        self.norm(kind, lease(x), len, weight, bias)
    }

    fn rotate(&self, rotation: &Rotation<'_>, kept: &Kept, x: &Buffer) -> Result<()> {
        self.turn(rotation, kept, lease(x))
    }

    fn columns(&self, x: &Buffer, width: usize, first: usize, len: usize) -> Result<Buffer> {
        Ok(Buffer(Box::new(self.part_of_rows(lease(x), width, first, len)?)))
    }

    fn gather(&self, x: &Buffer, width: usize, list: &[u32], factors: &[f32]) -> Result<Buffer> {
        Ok(Buffer(Box::new(self.gathered(lease(x), width, list, factors)?)))
    }

    fn scatter(&self, x: &Buffer, width: usize, list: &[u32], factors: &[f32], y: &Buffer) -> Result<()> {
        self.scattered(lease(x), width, list, factors, lease(y))
    }

    fn attend(
        &self,
        a: &Attention<'_>,
        q: &Buffer,
        (k, v): (&Buffer, &Buffer),
        jobs: &[(Range<usize>, Range<usize>, usize)],
    ) -> Result<Buffer> {
        Ok(Buffer(Box::new(self.attention(a, lease(q), (lease(k), lease(v)), jobs)?)))
    }

    fn magnitude(&self, x: &Buffer) -> Result<f32> {
        Gpu::magnitude(self, lease(x))
    }

    fn say_once(&self, what: &str) {
        if lock(&self.told).insert(what.to_owned()) {
            (self.say)(what);
        }
    }
}

impl Gpu {
    /// A copy.
    fn copied(&self, x: &Lease) -> Result<Lease> {
        let copy = self.allocate("values", (x.bytes() / 4) as usize)?;
        self.copy_bytes(x, &copy, x.bytes());
        Ok(copy)
    }

    /// Records that the first bytes of a buffer are copied to another's beginning.
    fn copy_bytes(&self, from: &Lease, to: &Lease, bytes: u64) {
        let mut recording = lock(&self.recording);
        let encoder = recording.0.get_or_insert_with(|| self.device.create_command_encoder(&Default::default()));
        encoder.copy_buffer_to_buffer(from.raw(), 0, to.raw(), 0, bytes);
    }

    /// A few numbers that a kernel adds to.
    fn store_writable(&self, what: &str, values: &[u32]) -> Result<Lease> {
        let lease = self.allocate(what, values.len())?;
        let from = self.store(what, bytemuck::cast_slice(values))?;
        self.copy_bytes(&from, &lease, values.len() as u64 * 4);
        Ok(lease)
    }

    /// Writes values to the beginning of a buffer that recorded commands may still read.
    fn write(&self, to: &Lease, x: &[f32]) -> Result<()> {
        if x.is_empty() {
            return Ok(());
        }
        let from = self.store("values", bytemuck::cast_slice(x))?;
        self.copy_bytes(&from, to, x.len() as u64 * 4);
        Ok(())
    }
}

/// What a buffer is on this device.
fn lease(buffer: &Buffer) -> &Lease {
    buffer.0.downcast_ref().unwrap_or_else(|| unreachable!("buffers of a device are its own"))
}
