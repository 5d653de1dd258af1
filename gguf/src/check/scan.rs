//! The walk through header, keys and tensor infos that goes on where the strict reader stops.

use std::collections::HashMap;

use bytes::Bytes;

use crate::map::Mapped;
use crate::types::TensorType;
use crate::value::{Endian, Value};

/// What could be read of a file.
#[derive(Default)]
pub(crate) struct Scan {
    pub(crate) bytes: Bytes,
    pub(super) mapped: Mapped,
    pub(crate) endian: Endian,
    pub(crate) version: u32,
    pub(crate) keys: Vec<Key>,
    pub(crate) by_key: HashMap<String, usize>,
    pub(crate) tensors: Vec<Tensor>,
    /// `None` where it is invalid, so that the layout cannot be judged.
    pub(crate) alignment: Option<u64>,
    /// Where the tensor infos end; `None` where they could not all be read.
    pub(crate) infos_end: Option<u64>,
}

pub(crate) struct Key {
    pub(crate) at: u64,
    pub(crate) name: String,
    pub(crate) value: Value,
}

pub(crate) struct Tensor {
    pub(crate) at: u64,
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) ty: Option<TensorType>,
    /// Bytes of the data where shape and type make sense.
    pub(crate) bytes: Option<u64>,
    pub(crate) offset: u64,
}

impl Scan {
    /// The value of a key (of the first of that name).
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&i| &self.keys[i].value)
    }

    /// Says that these bytes will not be needed soon.
    pub(super) fn release(&self, span: std::ops::Range<usize>) {
        self.mapped.release(span);
    }

    /// The byte at which a key stands.
    pub(crate) fn at(&self, key: &str) -> Option<u64> {
        self.by_key.get(key).map(|&i| self.keys[i].at)
    }

    /// Where the tensors' data begins.
    pub(crate) fn data_start(&self) -> Option<u64> {
        self.infos_end?.checked_next_multiple_of(self.alignment?)
    }
}

/// Bytes with a position; every read says `None` instead of running past the end.
pub(super) struct Reader {
    pub(super) bytes: Bytes,
    pub(super) at: u64,
    pub(super) endian: Endian,
}

impl Reader {
    pub(super) fn remaining(&self) -> u64 {
        self.bytes.len() as u64 - self.at
    }

    pub(super) fn peek(&self, len: u64) -> Option<&[u8]> {
        let start = self.at as usize;
        self.bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?)
    }

    /// Steps over bytes; `false`, and no step, where fewer remain.
    pub(super) fn skip(&mut self, len: u64) -> bool {
        let fits = len <= self.remaining();
        if fits {
            self.at += len;
        }
        fits
    }

    pub(super) fn take(&mut self, len: u64) -> Option<Bytes> {
        let start = self.at as usize;
        self.skip(len).then(|| self.bytes.slice(start..self.at as usize))
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut out: [u8; N] = *self.peek(N as u64)?.first_chunk()?;
        self.at += N as u64;
        if self.endian == Endian::Big {
            out.reverse();
        }
        Some(out)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.fixed().map(u64::from_le_bytes)
    }
}
