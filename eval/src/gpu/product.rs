//! Products of activations with stored matrices.

use std::ops::Range;

use gguf::{Error, Result, TensorType};
use quantize::{Levels, Rounded};
use rayon::prelude::*;

use super::memory::Lease;
use super::{Access, Bound, Gpu, HALF, MATMUL, Spec, formats, lease, source};
use crate::device::{Buffer, Elementwise, Form, Kept, Multiplied, Operand, Product, StoredMatrix};

/// Most bytes of a decoded panel.
const PANEL: u64 = 1 << 26;

/// Most bytes of a piece of a matrix.
const PIECE: u64 = 1 << 28;

/// Multiplications of a product that is not recorded together with others: a slow device takes a tenth of a second for it.
const AT_ONCE: usize = 1 << 33;

/// Rows whose integers a thread unpacks at a time.
const UNPACKED_ROWS: usize = 16;

/// What activations are rounded to, as the kernels number it.
const ROUNDINGS: [&str; 3] = ["Q8_0", "Q8_1", "Q8_K"];

/// The rows of a matrix on the device, in pieces.
struct Pieces {
    each: usize,
    pieces: Vec<Piece>,
}

enum Piece {
    /// Blocks of a type.
    Blocks(TensorType, Lease),
    /// Codes of 8 bits with a sign.
    Codes(&'static Levels, Codes),
}

/// Codes, four in a word, and two numbers for each group: its scale and what is added or what minima are multiplied with.
struct Codes {
    words: Lease,
    groups: Lease,
}

/// Activations as a product takes them.
enum Activations<'a> {
    Floats(&'a Lease),
    Rounded(Lease),
    Codes(Codes),
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
    fn pieces(&self, w: &dyn StoredMatrix, rows: Range<usize>) -> Result<Pieces> {
        if let Multiplied::Levels { levels, bytes } = w.multiplied() {
            return self.pieces_of_codes(w, levels, bytes, rows);
        }
        let (ty, bytes) = match w.form() {
            Form::Blocks { ty, bytes } => (ty, bytes),
            Form::Values(values) => (TensorType::F32, bytemuck::cast_slice(values)),
            Form::Function => (TensorType::F32, [].as_slice()),
        };
        let row_bytes = ty.bytes_for(w.cols() as u64).unwrap_or(0).max(1) as usize;
        let each = (self.binding.min(PIECE) as usize / row_bytes).max(1);
        let pieces = rows.clone().step_by(each).map(|start| {
            let part = start..(start + each).min(rows.end);
            let words = if bytes.is_empty() {
                self.store(w.name(), bytemuck::cast_slice(&w.values(part)?))?
            } else {
                self.store(w.name(), &bytes[part.start * row_bytes..part.end * row_bytes])?
            };
            Ok(Piece::Blocks(ty, words))
        });
        Ok(Pieces { each, pieces: pieces.collect::<Result<_>>()? })
    }

    /// The same as codes of 8 bits: products are taken in integers of four at a time.
    fn pieces_of_codes(
        &self,
        w: &dyn StoredMatrix,
        levels: &'static Levels,
        bytes: &[u8],
        rows: Range<usize>,
    ) -> Result<Pieces> {
        let (cols, groups) = (w.cols(), w.cols() / levels.group);
        let row_bytes = bytes.len() / w.rows().max(1);
        let each = (self.binding.min(PIECE) as usize / cols.max(8 * groups).max(1)).max(1);
        let pieces = rows.clone().step_by(each).map(|start| {
            let part = start..(start + each).min(rows.end);
            let mut codes = vec![0_u8; part.len() * cols];
            let mut pairs = vec![[0.0_f32; 2]; part.len() * groups];
            bytes[part.start * row_bytes..part.end * row_bytes]
                .par_chunks(UNPACKED_ROWS * row_bytes)
                .zip(codes.par_chunks_mut(UNPACKED_ROWS * cols).zip(pairs.par_chunks_mut(UNPACKED_ROWS * groups)))
                .try_for_each(|(bytes, (codes, pairs))| {
                    let mut scales = vec![0.0; pairs.len()];
                    let mut mins = vec![0.0; pairs.len()];
                    levels.unpack(bytes, codes, &mut scales, &mut mins)?;
                    codes.iter_mut().for_each(|code| *code = code.wrapping_sub(levels.offset));
                    let both = scales.into_iter().zip(mins);
                    pairs.iter_mut().zip(both).for_each(|(pair, (scale, min))| *pair = [scale, min]);
                    Ok(())
                })
                .map_err(|e: Error| e.in_tensor(w.name()))?;
            let groups = self.store(w.name(), bytemuck::cast_slice(&pairs))?;
            Ok(Piece::Codes(levels, Codes { words: self.store(w.name(), &codes)?, groups }))
        });
        Ok(Pieces { each, pieces: pieces.collect::<Result<_>>()? })
    }

    /// Activations as a product with this matrix takes them.
    fn activations<'a>(&self, x: &'a Lease, tokens: usize, w: &dyn StoredMatrix) -> Result<Activations<'a>> {
        let levels = match w.multiplied() {
            Multiplied::Exact => return Ok(Activations::Floats(x)),
            Multiplied::Int8 { .. } => {
                return Err(Error::usage("LLM.int8 is multiplied on the processor alone").in_tensor(w.name()));
            }
            Multiplied::Rounded(float) | Multiplied::Computed(float) => {
                let copy = self.copied(x)?;
                self.change(Elementwise::Round(float), &copy, None)?;
                return Ok(Activations::Rounded(copy));
            }
            Multiplied::Levels { levels, .. } => levels,
        };
        let (cols, group, len) = (w.cols(), levels.group, levels.rounded.block());
        if !cols.is_multiple_of(len) {
            return Err(Error::input(format!("row length {cols} is not a multiple of the block size {len}"))
                .in_tensor(w.name()));
        }
        let words = self.allocate(w.name(), tokens * cols / 4)?;
        let groups = self.allocate(w.name(), tokens * cols / group * 2)?;
        let blocks = tokens * cols / len;
        let kind = match levels.rounded {
            Rounded::Q80 => 0,
            Rounded::Q81 => 1,
            Rounded::Q8K => 2,
        };
        let whole = u32::from(len > group);
        let bits = [f32::INFINITY, f32::NAN].map(f32::to_bits);
        let sizes = [blocks as u32, len as u32, group as u32, kind, whole, bits[0], bits[1]];
        let spec = Spec {
            name: "round",
            source: &|| source(&[include_str!("round.wgsl"), HALF], &[&ROUNDINGS]),
            access: &[Access::Read, Access::Write, Access::Write],
        };
        let bound = [Bound::Lease(x), Bound::Lease(&words), Bound::Lease(&groups)];
        self.run(&spec, &sizes, &bound, self.spread(blocks))?;
        Ok(Activations::Codes(Codes { words, groups }))
    }

    /// Products in integers with rows of a piece, from one on: `y` has rows of so many values, written from a column on.
    fn multiply_codes(
        &self,
        [tokens, rows, cols]: [usize; 3],
        levels: &Levels,
        x: &Codes,
        (piece, first): (&Codes, usize),
        (y, to, width): (&Lease, usize, usize),
    ) -> Result<()> {
        let sizes = [
            tokens,
            rows,
            cols / levels.group,
            levels.group / 4,
            levels.rounded.block() / levels.group,
            usize::from(levels.mins),
            first,
            to,
            width,
        ]
        .map(|n| n as u32);
        let spec = Spec {
            name: "integer",
            source: &|| include_str!("integer.wgsl").to_owned(),
            access: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
        };
        let bound = [&x.words, &x.groups, &piece.words, &piece.groups, y].map(Bound::Lease);
        self.run(&spec, &sizes, &bound, [rows.div_ceil(64) as u32, tokens.div_ceil(64) as u32, 1])?;
        if rows * cols * tokens > AT_ONCE {
            self.go();
        }
        Ok(())
    }
}

/// Bytes of a matrix's rows on the device.
fn stored_bytes(w: &dyn StoredMatrix) -> u64 {
    let all = (w.rows() * w.cols()) as u64;
    if let Multiplied::Levels { levels, .. } = w.multiplied() {
        return all + all / levels.group as u64 * 8;
    }
    match w.form() {
        Form::Blocks { bytes, .. } => bytes.len() as u64,
        Form::Values(_) | Form::Function => all * 4,
    }
}

/// `x · wᵀ` for these rows of `w`.
pub(super) fn product(
    gpu: &Gpu,
    x: Operand<'_>,
    w: &dyn StoredMatrix,
    kept: &Kept,
    rows: Range<usize>,
) -> Result<Product> {
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
        let x = gpu.activations(lease(x), tokens, w)?;
        onto(gpu, &x, tokens, w, kept, rows, (&y, out))?;
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
        let on = gpu.activations(&on, here, w)?;
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
    x: &Activations<'_>,
    tokens: usize,
    w: &dyn StoredMatrix,
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
        let shape = [tokens, here, cols];
        let to = (y, at - rows.start, width);
        match (x, &pieces.pieces[piece]) {
            (Activations::Codes(x), Piece::Codes(levels, piece)) => {
                gpu.multiply_codes(shape, levels, x, (piece, first), to)?;
            }
            (Activations::Floats(x), Piece::Blocks(ty, words)) => floats(gpu, shape, x, (w, *ty, words, first), to)?,
            (Activations::Rounded(x), Piece::Blocks(ty, words)) => floats(gpu, shape, x, (w, *ty, words, first), to)?,
            _ => unreachable!("activations and rows are both of what the product takes"),
        }
        if kept.is_none() {
            // What was sent for this panel alone is given back before the next one comes.
            gpu.settle()?;
        }
        at = end;
    }
    match w.multiplied() {
        Multiplied::Computed(float) => gpu.change(Elementwise::Round(float), y, None),
        _ => Ok(()),
    }
}

/// The product in f32 with rows of a piece, from one on.
fn floats(
    gpu: &Gpu,
    shape: [usize; 3],
    x: &Lease,
    (w, ty, words, first): (&dyn StoredMatrix, TensorType, &Lease, usize),
    (y, to, width): (&Lease, usize, usize),
) -> Result<()> {
    let [_, here, cols] = shape;
    let (x, to) = ((x, [0, cols, 1, 0]), (y, [to, width, 1, 0]));
    if ty == TensorType::F32 {
        return gpu.matmul(shape, 1.0, x, (words, [first * cols, 1, cols, 0]), to, (1, 1));
    }
    let panel = gpu.allocate(w.name(), here * cols)?;
    gpu.decode_rows(ty, words, first..first + here, cols, &panel)?;
    gpu.matmul(shape, 1.0, x, (&panel, [0, 1, cols, 0]), to, (1, 1))
}
