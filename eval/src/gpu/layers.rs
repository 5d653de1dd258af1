//! What layers do to values on the device, beside products.

use std::ops::Range;

use convert::packed::Float;
use gguf::Result;
use gguf::arch::{Activation, NormKind, WindowKind};

use super::memory::Lease;
use super::{Access, Bound, GROUP, Gpu, HALF, Spec, lease, source};
use crate::device::{Attention, Elementwise, Kept, Operand, Place, Rotation};
use crate::numeric::softplus;

/// The numbers of a kernel's choices, by name.
const OPERATIONS: [&str; 10] =
    ["ADD_SCALED", "SCALE", "MULTIPLY", "DIVIDE", "CLAMP", "ACTIVATE", "GATED", "SIGMOID", "ROUND_F16", "ROUND_BF16"];
const ACTIVATIONS: [&str; 10] = [
    "SILU",
    "GELU",
    "GELU_TANH",
    "RELU",
    "RELU_SQUARED",
    "XIELU",
    "SWIGLU_OAI",
    "SILU_CLAMPED",
    "SILU_LIMITED",
    "SITU",
];
const WINDOWS: [&str; 4] = ["NONE", "SLIDING", "CHUNKED", "SYMMETRIC"];
const ROWS: [&str; 3] = ["COPY", "GATHER", "SCATTER"];

const READ: Access = Access::Read;
const WRITE: Access = Access::Write;

const MATH: &str = include_str!("math.wgsl");

/// An activation's number and its parameters.
fn activation(activation: Activation) -> (usize, [f32; 4]) {
    match activation {
        Activation::Silu => (0, [0.0; 4]),
        Activation::Gelu => (1, [0.0; 4]),
        Activation::GeluTanh => (2, [0.0; 4]),
        Activation::Relu => (3, [0.0; 4]),
        Activation::ReluSquared => (4, [0.0; 4]),
        Activation::Xielu([negative, positive, beta, epsilon]) => {
            (5, [beta + softplus(negative), softplus(positive), beta, epsilon])
        }
        Activation::SwigluOai => (6, [0.0; 4]),
        Activation::SiluClamped(limit) => (7, [limit, 0.0, 0.0, 0.0]),
        Activation::SiluLimited(limit) => (8, [limit, 0.0, 0.0, 0.0]),
        Activation::Situ { beta, linear } => (9, [beta, linear, 0.0, 0.0]),
    }
}

impl Gpu {
    /// Small values on the device, or those that are there.
    fn small<'a>(&self, own: &'a mut Option<Lease>, values: Operand<'a>) -> Result<&'a Lease> {
        match values {
            Operand::Device(buffer) => Ok(lease(buffer)),
            Operand::Host(values) => Ok(own.insert(self.store("values", bytemuck::cast_slice(values))?)),
        }
    }

    pub(super) fn change(&self, operation: Elementwise, x: &Lease, y: Option<(Operand<'_>, Place)>) -> Result<()> {
        let (number, (kind, parameters)) = match operation {
            Elementwise::AddScaled(scale) => (0, (0, [scale, 0.0, 0.0, 0.0])),
            Elementwise::Scale(scale) => (1, (0, [scale, 0.0, 0.0, 0.0])),
            Elementwise::Multiply => (2, (0, [0.0; 4])),
            Elementwise::Divide => (3, (0, [0.0; 4])),
            Elementwise::Clamp(limit) => (4, (0, [limit, 0.0, 0.0, 0.0])),
            Elementwise::Activate(of) => (5, activation(of)),
            Elementwise::Gated(of) => (6, activation(of)),
            Elementwise::Sigmoid => (7, (0, [0.0; 4])),
            Elementwise::Round(Float::F32) => return Ok(()),
            Elementwise::Round(Float::F16) => (8, (0, [f32::INFINITY, 0.0, 0.0, 0.0])),
            Elementwise::Round(Float::Bf16) => (9, (0, [0.0; 4])),
        };
        let count = (x.bytes() / 4) as usize;
        let mut own = None;
        let (y, place) = y.unwrap_or((Operand::Host(&[0.0]), Place { inner: 1, outer: 1 }));
        let y = self.small(&mut own, y)?;
        let mut sizes = vec![count as u32, number, kind as u32, place.inner.max(1) as u32, place.outer.max(1) as u32];
        sizes.extend(parameters.map(f32::to_bits));
        let spec = Spec {
            name: "elementwise",
            source: &|| source(&[include_str!("elementwise.wgsl"), MATH, HALF], &[&OPERATIONS, &ACTIVATIONS]),
            access: &[READ, WRITE],
        };
        self.run(&spec, &sizes, &[Bound::Lease(y), Bound::Lease(x)], self.spread(count))
    }

    pub(super) fn norm(
        &self,
        kind: NormKind,
        x: &Lease,
        len: usize,
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
    ) -> Result<()> {
        let (epsilon, centered) = match kind {
            NormKind::Rms(epsilon) => (epsilon, 0),
            NormKind::Layer(epsilon) => (epsilon, 1),
        };
        let groups = (x.bytes() / 4) as usize / len.max(1);
        let length = |values: Option<&[f32]>| values.map_or(0, <[f32]>::len) as u32;
        let sizes = [groups as u32, len as u32, epsilon.to_bits(), centered, length(weight), length(bias)];
        let (mut own_weight, mut own_bias) = (None, None);
        let weight = self.small(&mut own_weight, Operand::Host(weight.unwrap_or(&[0.0])))?;
        let bias = self.small(&mut own_bias, Operand::Host(bias.unwrap_or(&[0.0])))?;
        let spec =
            Spec { name: "norm", source: &|| include_str!("norm.wgsl").to_owned(), access: &[READ, READ, WRITE] };
        let bound = [Bound::Lease(weight), Bound::Lease(bias), Bound::Lease(x)];
        self.run(&spec, &sizes, &bound, self.spread(groups * GROUP as usize))
    }

    pub(super) fn turn(&self, rotation: &Rotation<'_>, kept: &Kept, x: &Lease) -> Result<()> {
        let Rotation { half, neighbours, angles, positions, heads, len } = *rotation;
        if kept.get().is_none() {
            let all = self.store("rotations", bytemuck::cast_slice(angles))?;
            let _ = kept.set(crate::device::Buffer(Box::new(all)));
        }
        let Some(angles_on) = kept.get() else { return Ok(()) };
        let count = positions.len() * heads * half;
        let known = angles.len() / half.max(1);
        let sizes = [count, heads, len, half, usize::from(neighbours), known].map(|n| n as u32);
        let positions = self.store("positions", bytemuck::cast_slice(positions))?;
        let spec =
            Spec { name: "rotate", source: &|| include_str!("rotate.wgsl").to_owned(), access: &[READ, READ, WRITE] };
        let bound = [Bound::Lease(lease(angles_on)), Bound::Lease(&positions), Bound::Lease(x)];
        self.run(&spec, &sizes, &bound, self.spread(count))
    }

    /// Columns of rows, rows that a list names, or rows added to those that a list names.
    #[allow(clippy::too_many_arguments)]
    fn move_rows(
        &self,
        operation: u32,
        [rows, len, from, first, to]: [usize; 5],
        x: &Lease,
        list: &[u32],
        factors: &[f32],
        y: &Lease,
    ) -> Result<()> {
        let count = rows * len;
        let sizes = [count as u32, len as u32, from as u32, first as u32, to as u32, operation];
        let list = self.store("rows", bytemuck::cast_slice(list))?;
        let factors = self.store("factors", bytemuck::cast_slice(factors))?;
        let spec = Spec {
            name: "rows",
            source: &|| source(&[include_str!("rows.wgsl")], &[&ROWS]),
            access: &[READ, READ, READ, WRITE],
        };
        let bound = [Bound::Lease(x), Bound::Lease(&list), Bound::Lease(&factors), Bound::Lease(y)];
        self.run(&spec, &sizes, &bound, self.spread(count))
    }

    pub(super) fn part_of_rows(&self, x: &Lease, width: usize, first: usize, len: usize) -> Result<Lease> {
        let rows = (x.bytes() / 4) as usize / width.max(1);
        let y = self.allocate("columns", rows * len)?;
        self.move_rows(0, [rows, len, width, first, len], x, &[0], &[0.0], &y)?;
        Ok(y)
    }

    pub(super) fn gathered(&self, x: &Lease, width: usize, list: &[u32], factors: &[f32]) -> Result<Lease> {
        let y = self.allocate("rows", list.len() * width)?;
        self.move_rows(1, [list.len(), width, width, 0, width], x, list, factors, &y)?;
        Ok(y)
    }

    pub(super) fn scattered(&self, x: &Lease, width: usize, list: &[u32], factors: &[f32], y: &Lease) -> Result<()> {
        self.move_rows(2, [list.len(), width, width, 0, width], x, list, factors, y)
    }

    /// The largest magnitude: infinite or no number where one is.
    pub(super) fn magnitude(&self, x: &Lease) -> Result<f32> {
        let count = (x.bytes() / 4) as usize;
        let most = self.store_writable("magnitude", &[0])?;
        let spec = Spec { name: "finite", source: &|| include_str!("finite.wgsl").to_owned(), access: &[READ, WRITE] };
        // Fewer workgroups than values: each takes several.
        let groups = self.spread(count.min(1 << 18));
        self.run(&spec, &[count as u32], &[Bound::Lease(x), Bound::Lease(&most)], groups)?;
        Ok(self.read(&most, 1)?[0])
    }

    /// Attention of all heads of some sequences.
    pub(super) fn attention(
        &self,
        a: &Attention<'_>,
        q: &Lease,
        (k, v): (&Lease, &Lease),
        jobs: &[(Range<usize>, Range<usize>, usize)],
    ) -> Result<Lease> {
        let Attention { heads, kv_heads, key_len, value_len, .. } = *a;
        let (wide, width) = (heads * key_len, heads * value_len);
        let (key_step, value_step) = (kv_heads * key_len, kv_heads * value_len);
        let tokens = (q.bytes() / 4) as usize / wide.max(1);
        let out = self.allocate("attention", tokens * width)?;
        let share = (heads / kv_heads.max(1)).max(1);
        for (queries, keys, first) in jobs {
            let room = (self.binding.min(self.memory.left() / 4) / 4) as usize;
            let each = (room / (heads * keys.len()).max(1)).clamp(1, queries.len().max(1));
            for start in (0..queries.len()).step_by(each) {
                let count = each.min(queries.len() - start);
                let (top, bottom) = (first + start, first + start + count - 1);
                let (begin, end) = (a.sight.of(top, keys.len()).0, a.sight.of(bottom, keys.len()).1);
                let seen = end.saturating_sub(begin);
                let scores = self.allocate("the scores of attention", heads * count * seen)?;
                let row = queries.start + start;
                let from = keys.start + begin;
                self.matmul(
                    [count, seen, key_len],
                    a.scale,
                    (q, [row * wide, wide, 1, key_len]),
                    (k, [from * key_step, 1, key_step, key_len]),
                    (&scores, [0, seen, 1, count * seen]),
                    (heads, share),
                )?;
                self.shares(a, &scores, [count, seen, top, begin, keys.len()])?;
                self.matmul(
                    [count, value_len, seen],
                    1.0,
                    (&scores, [0, seen, 1, count * seen]),
                    (v, [from * value_step, value_step, 1, value_len]),
                    (&out, [row * width, width, 1, value_len]),
                    (heads, share),
                )?;
            }
        }
        Ok(out)
    }

    fn shares(&self, a: &Attention<'_>, scores: &Lease, [queries, keys, query, key, all]: [usize; 5]) -> Result<()> {
        let (causal, window, length) = a.sight.told();
        let window = match window {
            WindowKind::None => 0,
            WindowKind::Sliding => 1,
            WindowKind::Chunked => 2,
            WindowKind::Symmetric => 3,
        };
        let reach = a.biases.as_ref().map_or(0, |b| b.reach);
        let mut sizes =
            [queries, keys, query, key, all, window, length, usize::from(causal)].map(|n| n as u32).to_vec();
        sizes.push(a.cap.unwrap_or(0.0).to_bits());
        sizes.extend([a.slopes.is_some() as u32, a.sinks.is_some() as u32, reach as u32]);
        let (mut slopes, mut sinks, mut biases) = (None, None, None);
        let none: &[f32] = &[0.0];
        let slopes = self.small(&mut slopes, Operand::Host(a.slopes.unwrap_or(none)))?;
        let sinks = self.small(&mut sinks, Operand::Host(a.sinks.unwrap_or(none)))?;
        let of = a.biases.as_ref().map_or(none, |b| &b.values);
        let biases = self.small(&mut biases, Operand::Host(of))?;
        let spec = Spec {
            name: "softmax",
            source: &|| source(&[include_str!("softmax.wgsl"), MATH], &[&WINDOWS]),
            access: &[READ, READ, READ, WRITE],
        };
        let bound = [Bound::Lease(slopes), Bound::Lease(sinks), Bound::Lease(biases), Bound::Lease(scores)];
        self.run(&spec, &sizes, &bound, [queries as u32, a.heads as u32, 1])
    }
}
