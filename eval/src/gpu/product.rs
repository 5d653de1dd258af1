//! Products of activations with stored matrices.

use std::ops::Range;

use gguf::{Result, TensorType};

use super::memory::Lease;
use super::{Access, Bound, Gpu, MATMUL, Spec, formats, lease};
use crate::device::{Buffer, Kept, Operand, Product};
use crate::weights::{Form, Matrix};

/// Most bytes of a decoded panel.
const PANEL: u64 = 1 << 26;

/// Most bytes of a piece of a matrix.
const PIECE: u64 = 1 << 28;

/// Multiplications of a product that is not recorded together with others: a slow device takes a tenth of a second for it.
const AT_ONCE: usize = 1 << 33;

/// The rows of a matrix on the device, in pieces.
struct Pieces {
    ty: TensorType,
    each: usize,
    pieces: Vec<Lease>,
}

/// One matrix of a batched product: where it begins, its steps by row and by column, and the step to the next.
pub(super) type Steps = [usize; 4];

impl Gpu {
    /// Decodes rows of stored blocks into a buffer, from its beginning on.
    pub(super) fn decode_rows(
        &self,
        ty: TensorType,
        words: &Lease,
        rows: Range<usize>,
        cols: usize,
        to: &Lease,
    ) -> Result<()> {
        if !formats::ROWS.iter().any(|row| row.ty == ty) {
            return Err(gguf::Error::input(format!("weights of type {ty} cannot be decoded on a device")));
        }
        let spec = Spec {
            name: &format!("decode_{ty}"),
            source: &|| formats::shader(ty).unwrap_or_default(),
            access: &[Access::Read, Access::Read, Access::Write],
        };
        let count = rows.len() * cols;
        let row_bytes = ty.bytes_for(cols as u64).unwrap_or(0);
        let sizes = [count as u32, cols as u32, row_bytes as u32, rows.start as u32, 0];
        self.run(&spec, &sizes, &[Bound::Lease(words), Bound::Raw(self.grids()), Bound::Lease(to)], self.spread(count))
    }

    fn grids(&self) -> &wgpu::Buffer {
        use wgpu::util::DeviceExt;
        self.grids.get_or_init(|| {
            self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("grids"),
                contents: bytemuck::cast_slice(&formats::points()),
                usage: wgpu::BufferUsages::STORAGE,
            })
        })
    }

    /// `c = scale · a · b` for a batch of matrices, of which `share` after each other have one `b`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn matmul(
        &self,
        [rows, cols, inner]: [usize; 3],
        scale: f32,
        (a, a_steps): (&Lease, Steps),
        (b, b_steps): (&Lease, Steps),
        (c, c_steps): (&Lease, Steps),
        (batch, share): (usize, usize),
    ) -> Result<()> {
        let mut sizes = vec![rows as u32, cols as u32, inner as u32, scale.to_bits()];
        sizes.extend([a_steps, b_steps, c_steps].as_flattened().iter().map(|&n| n as u32));
        sizes.push(share as u32);
        let groups = [cols.div_ceil(64) as u32, rows.div_ceil(64) as u32, batch as u32];
        self.run(&MATMUL, &sizes, &[Bound::Lease(a), Bound::Lease(b), Bound::Lease(c)], groups)?;
        if rows * cols * inner * batch > AT_ONCE {
            self.go();
        }
        Ok(())
    }

    /// Rows of a matrix, in pieces that can be bound.
    fn pieces(&self, w: &Matrix<'_>, rows: Range<usize>) -> Result<Pieces> {
        let (ty, bytes) = match w.form() {
            Form::Blocks { ty, bytes } => (ty, bytes),
            Form::Values(values) => (TensorType::F32, bytemuck::cast_slice(values)),
            Form::Function => (TensorType::F32, [].as_slice()),
        };
        let row_bytes = ty.bytes_for(w.cols() as u64).unwrap_or(0).max(1) as usize;
        let each = (self.binding.min(PIECE) as usize / row_bytes).max(1);
        let mut decoded = Vec::new();
        let pieces = rows.clone().step_by(each).map(|start| {
            let part = start..(start + each).min(rows.end);
            if bytes.is_empty() {
                let values = w.decoded_by_all(part, 64, &mut decoded)?;
                return self.store(w.name(), bytemuck::cast_slice(values));
            }
            self.store(w.name(), &bytes[part.start * row_bytes..part.end * row_bytes])
        });
        Ok(Pieces { ty, each, pieces: pieces.collect::<Result<_>>()? })
    }
}

/// Bytes of a matrix's rows on the device.
fn stored_bytes(w: &Matrix<'_>) -> u64 {
    let all = (w.rows() * w.cols()) as u64;
    match w.form() {
        Form::Blocks { bytes, .. } => bytes.len() as u64,
        Form::Values(_) | Form::Function => all * 4,
    }
}

/// `x · wᵀ` for these rows of `w`.
pub(super) fn product(gpu: &Gpu, x: Operand<'_>, w: &Matrix<'_>, kept: &Kept, rows: Range<usize>) -> Result<Product> {
    let cols = w.cols();
    let tokens = match x {
        Operand::Host(x) => x.len() / cols,
        Operand::Device(x) => lease(x).bytes() as usize / 4 / cols,
    };
    // A matrix stays on the device while it lives, if it leaves half of the memory to activations.
    if kept.get().is_none() && stored_bytes(w) < gpu.memory.left() / 2 {
        let pieces = gpu.pieces(w, 0..w.rows())?;
        let _ = kept.set(Buffer(Box::new(pieces)));
    }
    let kept = kept.get().and_then(|kept| kept.0.downcast_ref::<Pieces>());
    let whole = (tokens * rows.len()) as u64 * 4;
    if let Operand::Device(x) = x
        && whole <= gpu.binding
        && whole <= gpu.memory.left() / 2
    {
        let y = gpu.allocate(w.name(), tokens * rows.len())?;
        let out = rows.len();
        onto(gpu, lease(x), tokens, w, kept, rows, (&y, out))?;
        return Ok(Product::Device(Buffer(Box::new(y)), tokens * out));
    }
    let downloaded;
    let x = match x {
        Operand::Host(x) => x,
        Operand::Device(x) => {
            downloaded = gpu.read(lease(x), tokens * cols)?;
            &downloaded
        }
    };
    // In blocks of tokens and of rows of which both fit.
    let room = gpu.binding.min(gpu.memory.left() / 8).max(4 * cols as u64) as usize / 4;
    let tokens_each = (room / cols).clamp(1, tokens);
    let rows_each = (room / tokens_each).clamp(1, rows.len());
    let out = rows.len();
    let mut y = vec![0.0; if tokens_each == tokens && rows_each == out { 0 } else { tokens * out }];
    for (block, x) in x.chunks(tokens_each * cols).enumerate() {
        let here = x.len() / cols;
        let on = gpu.allocate(w.name(), x.len())?;
        gpu.write(&on, x)?;
        for start in rows.clone().step_by(rows_each) {
            let part = start..(start + rows_each).min(rows.end);
            let width = part.len();
            let found = gpu.allocate(w.name(), here * width)?;
            onto(gpu, &on, here, w, kept, part, (&found, width))?;
            let found = gpu.read(&found, here * width)?;
            if y.is_empty() {
                return Ok(Product::Host(found));
            }
            for (t, found) in found.chunks(width).enumerate() {
                let row = (block * tokens_each + t) * out + start - rows.start;
                y[row..row + width].copy_from_slice(found);
            }
        }
    }
    Ok(Product::Host(y))
}

/// The same on the device: `y` has rows of so many values.
fn onto(
    gpu: &Gpu,
    x: &Lease,
    tokens: usize,
    w: &Matrix<'_>,
    kept: Option<&Pieces>,
    rows: Range<usize>,
    (y, width): (&Lease, usize),
) -> Result<()> {
    let cols = w.cols();
    let panel_rows = ((gpu.binding.min(PANEL).min(gpu.memory.left() / 8) as usize / 4) / cols).max(1);
    let mut at = rows.start;
    while at < rows.end {
        let own;
        let (pieces, piece, first) = match kept {
            Some(pieces) => (pieces, at / pieces.each, at % pieces.each),
            None => {
                own = gpu.pieces(w, at..(at + panel_rows).min(rows.end))?;
                (&own, 0, 0)
            }
        };
        let end = rows.end.min(at + pieces.each - first).min(at + panel_rows);
        let here = end - at;
        let words = &pieces.pieces[piece];
        let to = (y, [at - rows.start, width, 1, 0]);
        if pieces.ty == TensorType::F32 {
            let b = (words, [first * cols, 1, cols, 0]);
            gpu.matmul([tokens, here, cols], 1.0, (x, [0, cols, 1, 0]), b, to, (1, 1))?;
        } else {
            let panel = gpu.allocate(w.name(), here * cols)?;
            gpu.decode_rows(pieces.ty, words, first..first + here, cols, &panel)?;
            gpu.matmul([tokens, here, cols], 1.0, (x, [0, cols, 1, 0]), (&panel, [0, 1, cols, 0]), to, (1, 1))?;
        }
        if kept.is_none() {
            // What was sent for this panel alone is given back before the next one comes.
            gpu.settle()?;
        }
        at = end;
    }
    Ok(())
}
