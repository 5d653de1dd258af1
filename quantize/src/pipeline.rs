//! The pipeline: streams a model through encoders into one or more files.
//!
//! A tensor is cut into chunks of whole rows. Workers take chunks in order, read and decode a piece at a time, and
//! encode it once for each type that some output wants; the calling thread writes finished chunks in order. A chunk is
//! taken only when it is less than a window ahead of the writer, which bounds memory whatever the model's size, and
//! makes the bytes the same for any number of threads.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use gguf::lost::{self, Degenerate, Lost, largest, unit_len};
use gguf::{Error, ErrorKind, Result, Source, TensorType, Writer, finite};

use crate::codec::Codec;
use crate::plan::{Plan, Planned};
use crate::rows::{codec, first_not_finite};
use crate::suspects::{Blocks, suspects};

/// The most weights of a chunk: enough that handing it over costs nothing, few enough that a window is small.
const CHUNK_WEIGHTS: u64 = 512 * 1024;
/// Weights that are decoded at a time, at least: they stay in the first-level cache until they are encoded.
const PIECE_WEIGHTS: u64 = 8 * 1024;
/// As many at most where more rows fill the lanes better (and one row in any case).
const LARGE_PIECE_WEIGHTS: u64 = 4 * PIECE_WEIGHTS;

/// Rows that are decoded and encoded at a time: as few as fill the lanes of a search, which has a lane for each block
/// of 256 weights, as well as any number in the bounds does.
fn piece_rows(row_len: u64) -> u64 {
    const LANES: u64 = 32;
    const BLOCK: u64 = 256;
    let (least, most) = ((PIECE_WEIGHTS / row_len).max(1), (LARGE_PIECE_WEIGHTS / row_len).max(1));
    let idle = |rows: u64| {
        let blocks = (rows * row_len).div_ceil(BLOCK);
        let groups = blocks.div_ceil(LANES);
        (groups * LANES - blocks) as f64 / groups as f64
    };
    (least..=most).min_by(|&a, &b| idle(a).total_cmp(&idle(b))).unwrap_or(least)
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that encode.
    pub threads: usize,
    /// Bytes of buffers.
    pub max_memory: u64,
    /// Weights that are NaN or infinite pass: as they are in plain types; in blocks NaN becomes 0 and an infinity the
    /// largest f16.
    pub allow_nonfinite: bool,
    /// Blocks that cannot hold their weights are an error.
    pub no_degenerate: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Settings { threads, max_memory: 1 << 30, allow_nonfinite: false, no_degenerate: false }
    }
}

/// One output: a plan, and the files its tensors go to, in order.
pub struct Job<W: Write> {
    /// What to write.
    pub plan: Plan,
    /// The layout of each file and where it goes. Their tensors in a row are those of the plan. A file is written to for
    /// the first time when the one before is complete, and flushed when it is complete itself.
    pub files: Vec<(gguf::FileLayout, W)>,
}

/// What a run met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Weights that were NaN or infinite and were let pass.
    pub nonfinite: u64,
    /// Tensors with blocks that cannot hold their weights, in order.
    pub degenerate: Vec<Degenerate>,
}

/// Streams `source` into every job. All jobs' plans are of this source and leave out the same tensors. `progress` is
/// called with bytes of the source that are done.
///
/// # Errors
/// What reading and writing meet, and weights that are not finite, with the tensor's name. Of several errors the one
/// that comes first in the file is reported.
pub fn run<W: Write>(
    source: &dyn Source,
    jobs: Vec<Job<W>>,
    settings: &Settings,
    mut progress: impl FnMut(u64),
) -> Result<(Vec<Vec<W>>, Summary)> {
    let steps = Steps::new(jobs.iter().map(|j| &j.plan).collect(), settings)?;
    let mut sinks = Vec::with_capacity(jobs.len());
    for job in jobs {
        sinks.push(Sink::new(job.files)?);
    }
    let window = settings.threads * 2 + 2;
    let shared = Shared::new(window);
    let mut summary = Summary::default();
    let outcome = std::thread::scope(|scope| {
        // Whatever way this closure is left, workers must not wait for a writer that is gone.
        let _stop = StopOnDrop(&shared);
        for _ in 0..settings.threads.max(1) {
            scope.spawn(|| {
                let mut worker = Worker { source, steps: &steps, settings, scratch: Vec::new(), decoded: Vec::new() };
                while let Some(ticket) = shared.take(steps.total) {
                    let promise = Promise { shared: &shared, ticket };
                    let done = worker.run(&steps.chunk(ticket), &mut || shared.buffer());
                    promise.keep(done);
                }
            });
        }
        for ticket in 0..steps.total {
            let done = shared.wait(ticket)?;
            let step = &steps.steps[steps.chunk(ticket).step];
            for (sink, &target) in sinks.iter_mut().zip(&step.target_of_job) {
                sink.write(done.outputs[target].bytes())?;
            }
            summary.nonfinite += done.nonfinite;
            summary.count(step, &done);
            progress(done.source_bytes);
            shared.written(done.outputs);
        }
        Ok(())
    });
    outcome?;
    Ok((sinks.into_iter().map(Sink::finish).collect::<Result<_>>()?, summary))
}

impl Summary {
    /// Adds up what the chunks of a tensor lost, for each of its types.
    fn count(&mut self, step: &Step, done: &Done) {
        let types = step.targets.iter().zip(&done.lost).chain([(&step.from, &done.narrowed)]);
        for (&ty, lost) in types.filter(|(_, lost)| lost.blocks > 0) {
            let same = |d: &&mut Degenerate| d.ty == ty.name() && d.tensor == step.name;
            match self.degenerate.iter_mut().rev().find(same) {
                Some(known) => {
                    known.blocks += lost.blocks;
                    known.largest = known.largest.max(lost.largest);
                }
                None => self.degenerate.push(step.degenerate(ty, *lost)),
            }
        }
    }
}

/// The tensors to do, cut into chunks.
struct Steps {
    steps: Vec<Step>,
    /// The number of chunks.
    total: u64,
}

/// One tensor for all outputs.
struct Step {
    tensor: usize,
    name: String,
    from: TensorType,
    row_len: u64,
    rows: u64,
    /// Rows of one matrix of a stack: they share an importance.
    matrix_rows: u64,
    importance: Option<std::sync::Arc<Vec<f32>>>,
    /// The distinct types that outputs want.
    targets: Vec<TensorType>,
    target_of_job: Vec<usize>,
    rows_per_chunk: u64,
    /// Chunks of the tensors before this one.
    first_chunk: u64,
}

impl Step {
    fn degenerate(&self, ty: TensorType, lost: Lost) -> Degenerate {
        Degenerate::new(&self.name, ty, lost, self.rows * self.row_len, self.row_len)
    }
}

/// Magnitudes between which every type holds the largest weight of a block: below, a scale of 16 bits may be 0, above,
/// sums of squares overflow. NVFP4's scales have 8 bits and end earlier.
fn held(ty: TensorType) -> Range<f32> {
    if ty == TensorType::NVFP4 { 0.1..1e9 } else { 1e-3..1e9 }
}

/// Looks for blocks that hold nothing of some weights which share a scale. Almost none need decoding: their largest
/// weights are of a magnitude that every scale can hold.
fn unheld(codec: &dyn Codec, weights: &[f32], row_len: usize, encoded: &[u8], decoded: &mut Vec<f32>) -> Lost {
    let ty = codec.ty();
    let len = unit_len(ty, row_len as u64) as usize;
    let part = if ty.is_quantized() { ty.scale_len() as usize } else { len };
    let bytes = encoded.len() / (weights.len() / len).max(1);
    let mut lost = Lost::default();
    decoded.resize(len, 0.0);
    for block in suspects(weights, Blocks { len, part }, held(ty)) {
        let weights = &weights[block * len..(block + 1) * len];
        codec.decode(&encoded[block * bytes..(block + 1) * bytes], decoded);
        let gone = weights.chunks_exact(part).zip(decoded.chunks_exact(part)).filter_map(|(weights, decoded)| {
            let most = largest(weights);
            let zero = weights.iter().zip(decoded).any(|(w, d)| w.abs() == most && *d == 0.0);
            // A part beside larger weights is lost when nothing of it is left.
            let all = decoded.iter().all(|d| *d == 0.0);
            (most > 0.0 && zero && (part == len || all)).then_some(most)
        });
        if let Some(most) = gone.reduce(f32::max) {
            lost.count(most);
        }
    }
    lost
}

/// Some rows of a step.
struct Chunk {
    step: usize,
    rows: Range<u64>,
}

impl Steps {
    fn new(plans: Vec<&Plan>, settings: &Settings) -> Result<Steps> {
        let count = plans.first().map_or(0, |p| p.tensors.len());
        let same = |a: &Planned, b: &Planned| a.source == b.source;
        if plans
            .iter()
            .any(|p| p.tensors.len() != count || !p.tensors.iter().zip(&plans[0].tensors).all(|(a, b)| same(a, b)))
        {
            return Err(Error::usage("the outputs of one run have to hold the same tensors in the same order"));
        }
        let (mut steps, mut total) = (Vec::with_capacity(count), 0);
        for i in 0..count {
            let first = &plans[0].tensors[i];
            let (mut targets, mut target_of_job) = (Vec::new(), Vec::new());
            for plan in &plans {
                let ty = plan.tensors[i].info.ty();
                let at = targets.iter().position(|&t| t == ty).unwrap_or_else(|| {
                    targets.push(ty);
                    targets.len() - 1
                });
                target_of_job.push(at);
            }
            let (row_len, rows) = (first.info.shape().row_len(), first.info.rows());
            // An empty tensor has no chunk; its place in the file takes no bytes.
            let rows = if row_len == 0 { 0 } else { rows };
            let rows_per_chunk = (chunk_weights(&targets, settings) / row_len.max(1)).clamp(1, rows.max(1));
            steps.push(Step {
                tensor: first.source,
                name: first.info.name().to_owned(),
                from: first.from,
                row_len,
                rows,
                matrix_rows: first.info.shape().dim(1),
                importance: plans.iter().find_map(|p| p.tensors[i].importance.clone()),
                targets,
                target_of_job,
                rows_per_chunk,
                first_chunk: total,
            });
            total += rows.div_ceil(rows_per_chunk);
        }
        Ok(Steps { steps, total })
    }

    fn chunk(&self, ticket: u64) -> Chunk {
        // The last tensor that begins at or before this chunk; empty ones share their beginning with the next.
        let step = self.steps.partition_point(|s| s.first_chunk <= ticket).saturating_sub(1);
        let at = &self.steps[step];
        let start = (ticket - at.first_chunk) * at.rows_per_chunk;
        Chunk { step, rows: start..(start + at.rows_per_chunk).min(at.rows) }
    }
}

/// Weights of a chunk so that a window of outputs and what each worker holds of the source stay below the bound.
fn chunk_weights(targets: &[TensorType], settings: &Settings) -> u64 {
    let window = (settings.threads * 2 + 2) as f64;
    let out: f64 = targets.iter().map(|t| t.bits_per_weight() / 8.0).sum();
    let per_weight = window * out + settings.threads as f64 * 8.0;
    let scratch = settings.threads as u64 * LARGE_PIECE_WEIGHTS * 4;
    let weights = settings.max_memory.saturating_sub(scratch) as f64 / per_weight;
    (weights as u64).clamp(1, CHUNK_WEIGHTS)
}

/// A finished chunk.
struct Done {
    /// The bytes for each target of the step.
    outputs: Vec<Buffer>,
    source_bytes: u64,
    nonfinite: u64,
    /// What each target of the step could not hold.
    lost: Vec<Lost>,
    /// What the type that the source gives could not hold.
    narrowed: Lost,
}

/// A buffer that is used again; only its first `len` bytes count.
#[derive(Default)]
struct Buffer {
    data: Vec<u8>,
    len: usize,
}

impl Buffer {
    fn sized(mut self, len: usize) -> Buffer {
        if self.data.len() < len {
            self.data.resize(len, 0);
        }
        self.len = len;
        self
    }

    fn bytes(&self) -> &[u8] {
        &self.data[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }
}

/// What a worker keeps from chunk to chunk.
struct Worker<'a> {
    source: &'a dyn Source,
    steps: &'a Steps,
    settings: &'a Settings,
    scratch: Vec<f32>,
    /// One block, decoded again.
    decoded: Vec<f32>,
}

impl Worker<'_> {
    fn run(&mut self, chunk: &Chunk, buffer: &mut dyn FnMut() -> Buffer) -> Result<Done> {
        let step = &self.steps.steps[chunk.step];
        let name_it = |e: Error| e.in_tensor(&step.name);
        let bytes = self.source.rows(step.tensor, chunk.rows.clone()).map_err(name_it)?;
        let rows = chunk.rows.end - chunk.rows.start;
        let size = |ty: TensorType| ty.bytes_for(rows * step.row_len).and_then(|n| usize::try_from(n).ok());
        if size(step.from) != Some(bytes.len()) {
            return Err(Error::input(format!("the source gave {} bytes", bytes.len())).in_tensor(&step.name));
        }
        let narrowed = lost::narrowed(self.source, step.tensor, chunk.rows.clone(), &bytes)?;
        if narrowed.blocks > 0 && self.settings.no_degenerate {
            let degenerate = step.degenerate(step.from, narrowed);
            return Err(Error::input(degenerate.to_string())
                .help("convert the folder with --outtype f32 and quantize that file, or leave --no-degenerate out"));
        }
        let mut nonfinite = 0;
        let mut lost = vec![Lost::default(); step.targets.len()];
        let mut outputs = Vec::with_capacity(step.targets.len());
        for &ty in &step.targets {
            let len = size(ty).ok_or_else(|| Error::usage(format!("rows do not fit {ty}")).in_tensor(&step.name))?;
            let mut out = buffer().sized(len);
            if ty == step.from {
                out.bytes_mut().copy_from_slice(&bytes);
            }
            outputs.push(out);
        }
        let encoders: Vec<(usize, &dyn Codec)> = step
            .targets
            .iter()
            .enumerate()
            .filter(|(_, ty)| **ty != step.from)
            .map(|(i, &ty)| Ok((i, known(ty, &step.name)?)))
            .collect::<Result<_>>()?;
        if encoders.is_empty() {
            if let Some(at) = plain_nonfinite(step.from, &bytes) {
                nonfinite += self.refuse(step, chunk.rows.start * step.row_len + at as u64)?;
            }
        } else {
            nonfinite += self.encode(step, chunk, &bytes, &encoders, (&mut outputs, &mut lost))?;
        }
        let source_bytes = bytes.len() as u64;
        drop(bytes);
        self.source.release(step.tensor, chunk.rows.clone());
        Ok(Done { outputs, source_bytes, nonfinite, lost, narrowed })
    }

    /// Decodes piece by piece and encodes each for every target.
    fn encode(
        &mut self,
        step: &Step,
        chunk: &Chunk,
        bytes: &[u8],
        encoders: &[(usize, &dyn Codec)],
        (outputs, losses): (&mut [Buffer], &mut [Lost]),
    ) -> Result<u64> {
        let decoder = known(step.from, &step.name)?;
        let row_len = step.row_len as usize;
        let row_bytes = bytes.len() / (chunk.rows.end - chunk.rows.start) as usize;
        let piece_rows = piece_rows(step.row_len);
        let mut nonfinite = 0;
        let mut row = chunk.rows.start;
        while row < chunk.rows.end {
            // A piece does not cross into the next matrix of a stack, whose importance is another.
            let matrix = row / step.matrix_rows.max(1);
            let end = (row + piece_rows).min(chunk.rows.end).min((matrix + 1) * step.matrix_rows.max(1));
            let (from, n) = ((row - chunk.rows.start) as usize, (end - row) as usize);
            let piece = &bytes[from * row_bytes..(from + n) * row_bytes];
            if self.scratch.len() < n * row_len {
                self.scratch.resize(n * row_len, 0.0);
            }
            let weights = &mut self.scratch[..n * row_len];
            decoder.decode(piece, weights);
            let mut blocks_only = false;
            if let Some(at) = first_not_finite(weights) {
                let at = row * step.row_len + at as u64;
                if !self.settings.allow_nonfinite {
                    return Err(not_finite(step, at));
                }
                nonfinite += weights.iter().filter(|v| !v.is_finite()).count() as u64;
                for &(i, codec) in encoders.iter().filter(|(_, c)| !c.ty().is_quantized()) {
                    let out = part(&mut outputs[i], from, n, chunk);
                    codec.encode(weights, row_len, None, out);
                }
                weights.iter_mut().for_each(|v| *v = replaced(*v));
                blocks_only = true;
            }
            let importance = step.importance.as_deref().and_then(|all| {
                let at = matrix as usize * row_len;
                // One row of weights may serve all matrices of a stack.
                all.get(at..at + row_len).or_else(|| all.get(..row_len))
            });
            for &(i, codec) in encoders.iter().filter(|(_, c)| c.ty().is_quantized() || !blocks_only) {
                let out = part(&mut outputs[i], from, n, chunk);
                codec.encode(weights, row_len, importance, out);
                // Eight bits of exponent lose nothing but subnormal numbers.
                if !matches!(codec.ty(), TensorType::F32 | TensorType::BF16) {
                    let sum = &mut losses[i];
                    sum.add(unheld(codec, weights, row_len, out, &mut self.decoded));
                    if sum.blocks > 0 && self.settings.no_degenerate {
                        let degenerate = step.degenerate(codec.ty(), *sum);
                        return Err(Error::input(degenerate.to_string()).help(
                            "choose a type with more bits for it with --tensor-type, or leave --no-degenerate out",
                        ));
                    }
                }
                if codec.ty() == TensorType::F16 && !blocks_only && plain_nonfinite(TensorType::F16, out).is_some() {
                    let at = weights.iter().position(|v| v.abs() > 65504.0).unwrap_or(0);
                    return Err(Error::input(format!("the weight {} is too large for F16", weights[at]))
                        .in_tensor(&step.name)
                        .help("choose bf16 or f32"));
                }
            }
            row = end;
        }
        Ok(nonfinite)
    }

    fn refuse(&self, step: &Step, at: u64) -> Result<u64> {
        if self.settings.allow_nonfinite { Ok(1) } else { Err(not_finite(step, at)) }
    }
}

/// The part of an output that some rows of a chunk go to.
fn part<'b>(out: &'b mut Buffer, from: usize, rows: usize, chunk: &Chunk) -> &'b mut [u8] {
    let row_bytes = out.len / (chunk.rows.end - chunk.rows.start) as usize;
    &mut out.bytes_mut()[from * row_bytes..(from + rows) * row_bytes]
}

fn known(ty: TensorType, name: &str) -> Result<&'static dyn Codec> {
    codec(ty).ok_or_else(|| Error::input(format!("{ty} has no codec")).in_tensor(name))
}

fn not_finite(step: &Step, at: u64) -> Error {
    let (row, column) = (at / step.row_len, at % step.row_len);
    Error::input(format!("the weight at row {row}, column {column} is NaN or infinite"))
        .in_tensor(&step.name)
        .help("the checkpoint is damaged or its training diverged; --allow-nonfinite goes on all the same")
}

/// What stands for a weight that is not finite in types of blocks, where it would spoil its neighbours.
fn replaced(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(-65504.0, 65504.0) }
}

/// The first NaN or infinity of a plain type; blocks are judged when the file is verified.
fn plain_nonfinite(ty: TensorType, bytes: &[u8]) -> Option<usize> {
    if ty.is_quantized() { None } else { finite::first(ty, bytes) }
}

/// What workers and the writer share.
struct Shared {
    state: Mutex<State>,
    /// A chunk was written: workers may take another.
    room: Condvar,
    /// A chunk is done: the writer may go on.
    done: Condvar,
    window: u64,
}

struct State {
    next: u64,
    written: u64,
    stopped: bool,
    slots: Vec<Option<Result<Done>>>,
    spare: Vec<Buffer>,
}

impl Shared {
    fn new(window: usize) -> Shared {
        let slots = (0..window).map(|_| None).collect();
        let state = State { next: 0, written: 0, stopped: false, slots, spare: Vec::new() };
        Shared { state: Mutex::new(state), room: Condvar::new(), done: Condvar::new(), window: window as u64 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next chunk to do, as soon as there is room; `None` at the end.
    fn take(&self, total: u64) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.next >= total {
                return None;
            }
            if state.next < state.written + self.window {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn buffer(&self) -> Buffer {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Waits for a chunk.
    fn wait(&self, ticket: u64) -> Result<Done> {
        let slot = (ticket % self.window) as usize;
        let mut state = self.lock();
        loop {
            if let Some(done) = state.slots[slot].take() {
                return done;
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A chunk is written: its buffers are free.
    fn written(&self, outputs: Vec<Buffer>) {
        let mut state = self.lock();
        state.written += 1;
        state.spare.extend(outputs);
        drop(state);
        self.room.notify_all();
    }
}

struct StopOnDrop<'a>(&'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.room.notify_all();
    }
}

/// A taken chunk: the writer waits for it, so it has to be answered whatever happens.
struct Promise<'a> {
    shared: &'a Shared,
    ticket: u64,
}

impl Promise<'_> {
    fn keep(self, done: Result<Done>) {
        self.answer(done);
        std::mem::forget(self);
    }

    fn answer(&self, done: Result<Done>) {
        self.shared.lock().slots[(self.ticket % self.shared.window) as usize] = Some(done);
        self.shared.done.notify_all();
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.answer(Err(Error::new(ErrorKind::System, "an encoder gave up: this is a fault of the program")));
    }
}

/// The files of one output, one after the other.
struct Sink<W: Write> {
    waiting: std::vec::IntoIter<(gguf::FileLayout, W)>,
    current: Option<Writer<W>>,
    left: u64,
    finished: Vec<W>,
}

fn cannot_write(e: io::Error) -> Error {
    let full = e.kind() == io::ErrorKind::StorageFull || e.kind() == io::ErrorKind::FileTooLarge;
    let error = Error::new(ErrorKind::System, "cannot write the output").caused_by(e);
    if full { error.help("free some space, or name an output on another disk") } else { error }
}

impl<W: Write> Sink<W> {
    fn new(files: Vec<(gguf::FileLayout, W)>) -> Result<Sink<W>> {
        let mut sink = Sink { waiting: files.into_iter(), current: None, left: 0, finished: Vec::new() };
        sink.advance()?;
        Ok(sink)
    }

    /// Ends files that are complete and begins the next.
    fn advance(&mut self) -> Result<()> {
        while self.left == 0 {
            if let Some(writer) = self.current.take() {
                let mut out = writer.finish().map_err(cannot_write)?;
                // A file that is complete may be closed: there may be more of them than handles.
                out.flush().map_err(cannot_write)?;
                self.finished.push(out);
            }
            let Some((plan, out)) = self.waiting.next() else { break };
            self.left = plan.tensors().iter().map(|t| t.bytes()).sum();
            self.current = Some(Writer::new(out, plan).map_err(cannot_write)?);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(writer) = &mut self.current {
            writer.write(bytes).map_err(cannot_write)?;
            self.left -= (bytes.len() as u64).min(self.left);
        }
        self.advance()
    }

    fn finish(mut self) -> Result<Vec<W>> {
        self.advance()?;
        Ok(self.finished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_the_lanes_with_few_rows() {
        for (row_len, rows) in
            [(2048, 4), (4096, 2), (5632, 4), (8192, 1), (14336, 1), (11008, 2), (256, 32), (100_000, 1)]
        {
            assert_eq!(piece_rows(row_len), rows, "{row_len}");
        }
        assert!((1..=1024).contains(&piece_rows(32)));
    }
}
