//! What layers do to values wherever these are: by a kernel on a device, else by the functions for the processor.

use convert::packed::Float;
use gguf::Result;
use gguf::arch::{Activation, NormKind};
use quantize::first_not_finite;
use rayon::prelude::*;

use super::{PIECE, ffn, norm, numeric};
use crate::device::{Device, Elementwise, Operand, Place, Values};

impl Values {
    /// A copy in the same place.
    ///
    /// # Errors
    /// A device that fails or has no room.
    pub fn copied(&self) -> Result<Values> {
        match self.resident() {
            Some((device, buffer)) => Ok(Values::on(device, device.kernels().copy(buffer)?, self.len())),
            None => Ok(super::copied(self).into()),
        }
    }

    /// Brings the values to a device that has room for them and what a layer makes of them.
    ///
    /// # Errors
    /// A device that fails.
    pub fn bring(&mut self, device: &Device) -> Result<()> {
        if self.resident().is_none() && !self.is_empty() && device.kernels().room(self.len()) {
            *self = Values::on(device, device.kernels().upload(self)?, self.len());
        }
        Ok(())
    }

    /// Changes each value with its counterpart by a kernel, where they are on a device.
    fn changed(&mut self, operation: Elementwise, y: Option<(Operand<'_>, Place)>) -> Result<bool> {
        let Some((device, buffer)) = self.changing() else { return Ok(false) };
        device.kernels().change(operation, buffer, y)?;
        Ok(true)
    }

    /// `x += scale · y`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn add_scaled(&mut self, y: &Values, scale: f32) -> Result<()> {
        let place = Place { inner: 1, outer: y.len() };
        if !self.changed(Elementwise::AddScaled(scale), Some((y.operand(), place)))? {
            super::add_scaled(self.host(), y, scale);
        }
        Ok(())
    }

    /// `x += y` for each row of the length of `y`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn add_rows(&mut self, y: &[f32]) -> Result<()> {
        let place = Place { inner: 1, outer: y.len() };
        if !self.changed(Elementwise::AddScaled(1.0), Some((Operand::Host(y), place)))? {
            self.host().par_chunks_mut(y.len()).with_min_len(16).for_each(|row| super::add(row, y));
        }
        Ok(())
    }

    /// Multiplies all values.
    ///
    /// # Errors
    /// A device that fails.
    pub fn scale(&mut self, by: f32) -> Result<()> {
        if !self.changed(Elementwise::Scale(by), None)? {
            self.host().par_chunks_mut(PIECE).for_each(|x| numeric::scale(x, by));
        }
        Ok(())
    }

    /// Multiplies groups of `len` values with a factor each; the factors repeat.
    ///
    /// # Errors
    /// A device that fails.
    pub fn scale_groups(&mut self, len: usize, factors: &[f32]) -> Result<()> {
        let place = Place { inner: len, outer: factors.len() };
        if !self.changed(Elementwise::Multiply, Some((Operand::Host(factors), place)))? {
            let groups = self.host().chunks_mut(len).zip(factors.iter().cycle());
            groups.for_each(|(group, factor)| numeric::scale(group, *factor));
        }
        Ok(())
    }

    /// Divides each row by these values.
    ///
    /// # Errors
    /// A device that fails.
    pub fn divide_rows(&mut self, by: &[f32]) -> Result<()> {
        let place = Place { inner: 1, outer: by.len() };
        if !self.changed(Elementwise::Divide, Some((Operand::Host(by), place)))? {
            let rows = self.host().chunks_mut(by.len());
            rows.for_each(|row| row.iter_mut().zip(by).for_each(|(x, by)| *x /= by));
        }
        Ok(())
    }

    /// Limits all values to ± this.
    ///
    /// # Errors
    /// A device that fails.
    pub fn clamp(&mut self, limit: f32) -> Result<()> {
        if !self.changed(Elementwise::Clamp(limit), None)? {
            self.host().iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
        }
        Ok(())
    }

    /// Rounds all values to a type, to the nearest, halves to even.
    ///
    /// # Errors
    /// A device that fails.
    pub fn round_to(&mut self, float: Float) -> Result<()> {
        if !self.is_empty() && !self.changed(Elementwise::Round(float), None)? {
            numeric::round_to(float, self.host());
        }
        Ok(())
    }

    /// Applies an activation without a gate.
    ///
    /// # Errors
    /// A device that fails.
    pub fn activate(&mut self, activation: Activation) -> Result<()> {
        if !self.changed(Elementwise::Activate(activation), None)? {
            self.host().par_chunks_mut(PIECE).for_each(|x| ffn::activate(activation, x));
        }
        Ok(())
    }

    /// `x = activation(gate) · x`. What `gate` holds afterwards is of no use.
    ///
    /// # Errors
    /// A device that fails.
    pub fn gate(&mut self, activation: Activation, gate: &mut Values) -> Result<()> {
        let place = Place { inner: 1, outer: gate.len() };
        if !self.changed(Elementwise::Gated(activation), Some((gate.operand(), place)))? {
            ffn::gated(activation, gate.host(), self.host());
        }
        Ok(())
    }

    /// Multiplies groups of `len` values with σ of a gate each.
    ///
    /// # Errors
    /// A device that fails.
    pub fn gate_groups(&mut self, len: usize, gates: &Values) -> Result<()> {
        let place = Place { inner: len, outer: gates.len() };
        if !self.changed(Elementwise::Sigmoid, Some((gates.operand(), place)))? {
            for (group, &gate) in self.host().chunks_mut(len).zip(gates.iter()) {
                numeric::scale(group, ffn::sigmoid(gate));
            }
        }
        Ok(())
    }

    /// As [`norm::normalize`].
    ///
    /// # Errors
    /// A device that fails.
    pub fn normalize(
        &mut self,
        kind: NormKind,
        len: usize,
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
    ) -> Result<()> {
        match self.changing() {
            Some((device, buffer)) if len > 0 => device.kernels().normalize(kind, buffer, len, weight, bias),
            _ => {
                norm::normalize(kind, self.host(), len, weight, bias);
                Ok(())
            }
        }
    }

    /// `len` columns of rows of `width`, from one on.
    ///
    /// # Errors
    /// A device that fails.
    pub fn columns(&self, width: usize, from: usize, len: usize) -> Result<Values> {
        match self.resident() {
            Some((device, buffer)) => {
                let buffer = device.kernels().columns(buffer, width, from, len)?;
                Ok(Values::on(device, buffer, self.len() / width.max(1) * len))
            }
            None => Ok(numeric::columns(self, width, from, len).into()),
        }
    }

    /// These rows of `width`, each times its factor.
    ///
    /// # Errors
    /// A device that fails.
    pub fn gather(&self, width: usize, rows: &[(usize, f32)]) -> Result<Values> {
        if let Some((device, buffer)) = self.resident() {
            let (list, factors) = apart(rows);
            let buffer = device.kernels().gather(buffer, width, &list, &factors)?;
            return Ok(Values::on(device, buffer, rows.len() * width));
        }
        let row = |&(row, factor): &(usize, f32)| self[row * width..(row + 1) * width].iter().map(move |x| x * factor);
        Ok(rows.iter().flat_map(row).collect::<Vec<f32>>().into())
    }

    /// Adds each row of `made`, times its factor, to the row that is named; none is named twice.
    ///
    /// # Errors
    /// A device that fails.
    pub fn scatter(&mut self, made: &Values, width: usize, rows: &[(usize, f32)]) -> Result<()> {
        // Rows that are named twice are added one after the other.
        let apart_rows = rows.is_sorted_by(|a, b| a.0 < b.0);
        if let Some((_, from)) = made.resident().filter(|_| apart_rows)
            && let Some((device, to)) = self.changing()
        {
            let (list, factors) = apart(rows);
            return device.kernels().scatter(from, width, &list, &factors, to);
        }
        let out = self.host();
        for (&(row, factor), made) in rows.iter().zip(made.chunks(width)) {
            super::add_scaled(&mut out[row * width..(row + 1) * width], made, factor);
        }
        Ok(())
    }

    /// Zeros, as many, in the same place.
    ///
    /// # Errors
    /// A device that fails.
    pub fn zeros(&self) -> Result<Values> {
        if self.resident().is_none() {
            return Ok(vec![0.0; self.len()].into());
        }
        let mut zeros = self.copied()?;
        // Not by multiplying: 0 · ∞ is no number.
        zeros.clamp(0.0)?;
        Ok(zeros)
    }

    /// A value that is no finite number, if there is one.
    ///
    /// # Errors
    /// A device that fails.
    pub fn broken(&self) -> Result<Option<f32>> {
        if let Some((device, buffer)) = self.resident()
            && device.kernels().magnitude(buffer)?.is_finite()
        {
            return Ok(None);
        }
        Ok(self.par_chunks(PIECE).find_map_first(|x| first_not_finite(x).map(|at| x[at])))
    }
}

fn apart(rows: &[(usize, f32)]) -> (Vec<u32>, Vec<f32>) {
    rows.iter().map(|&(row, factor)| (row as u32, factor)).unzip()
}
