//! Tensor types: one table row a member.
//!
//! Ids, block lengths and block sizes are those of `ggml.h` and `ggml-common.h` (ggml 0.25.3). Everything
//! that needs to know how a type is laid out asks this table; what the bytes of a block mean is the
//! business of the crate `quantize`.

use std::fmt;
use std::str::FromStr;

/// Which f16/f32 fields of a block hold scales that must be finite (used by `gguf check --data`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleField {
    /// A little-endian `f16` at this byte of the block.
    F16(u32),
    /// A little-endian `f32` at this byte of the block.
    F32(u32),
    /// The `f16` of `IQ1_M`: its four nibbles are the top nibbles of four `u16` starting at this byte.
    Iq1m(u32),
    /// An `E8M0` exponent byte, where 0xFF means NaN.
    E8m0(u32),
    /// An unsigned `E4M3` byte, where 0x7F means NaN; the sign bit says nothing.
    E4m3(u32),
}

impl ScaleField {
    /// The bytes of a block that the field lies in.
    pub fn span(self) -> std::ops::Range<usize> {
        let (at, len) = match self {
            ScaleField::F16(at) => (at, 2),
            ScaleField::F32(at) => (at, 4),
            ScaleField::Iq1m(at) => (at, 8),
            ScaleField::E8m0(at) | ScaleField::E4m3(at) => (at, 1),
        };
        at as usize..at as usize + len
    }
}

macro_rules! tensor_types {
    ($( $variant:ident = $id:literal, $len:literal, $bytes:literal, [$($field:expr),*], $doc:literal; )*) => {
        /// The type of a tensor's elements, with the specification's spelling.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum TensorType {
            $( #[doc = $doc] $variant = $id, )*
        }

        const TABLE: &[TypeRow] = &[
            $( TypeRow {
                ty: TensorType::$variant,
                name: stringify!($variant),
                block_len: $len,
                block_bytes: $bytes,
                scales: &[$($field),*],
            }, )*
        ];
    };
}

struct TypeRow {
    ty: TensorType,
    name: &'static str,
    block_len: u32,
    block_bytes: u32,
    scales: &'static [ScaleField],
}

use ScaleField::{E4m3 as U, E8m0, F16 as H, F32 as S, Iq1m};

tensor_types! {
    F32     =  0,   1,   4, [],           "IEEE binary32.";
    F16     =  1,   1,   2, [],           "IEEE binary16.";
    Q4_0    =  2,  32,  18, [H(0)],       "4 bits, one scale for 32 weights.";
    Q4_1    =  3,  32,  20, [H(0), H(2)], "4 bits, scale and minimum for 32 weights.";
    Q5_0    =  6,  32,  22, [H(0)],       "5 bits, one scale for 32 weights.";
    Q5_1    =  7,  32,  24, [H(0), H(2)], "5 bits, scale and minimum for 32 weights.";
    Q8_0    =  8,  32,  34, [H(0)],       "8 bits, one scale for 32 weights.";
    Q8_1    =  9,  32,  36, [],           "8 bits with a sum: an intermediate of dot products, not for files.";
    Q2_K    = 10, 256,  84, [H(80), H(82)], "2 bits in superblocks of 16 blocks with 4-bit scales and minima.";
    Q3_K    = 11, 256, 110, [H(108)],     "3 bits in superblocks of 16 blocks with 6-bit scales.";
    Q4_K    = 12, 256, 144, [H(0), H(2)], "4 bits in superblocks of 8 blocks with 6-bit scales and minima.";
    Q5_K    = 13, 256, 176, [H(0), H(2)], "5 bits in superblocks of 8 blocks with 6-bit scales and minima.";
    Q6_K    = 14, 256, 210, [H(208)],     "6 bits in superblocks of 16 blocks with 8-bit scales.";
    Q8_K    = 15, 256, 292, [S(0)],       "8 bits with sums: an intermediate of dot products, not for files.";
    IQ2_XXS = 16, 256,  66, [H(0)],       "2.06 bits, vectors of 8 from a grid of 256.";
    IQ2_XS  = 17, 256,  74, [H(0)],       "2.31 bits, vectors of 8 from a grid of 512.";
    IQ3_XXS = 18, 256,  98, [H(0)],       "3.06 bits, vectors of 4 from a grid of 256.";
    IQ1_S   = 19, 256,  50, [H(0)],       "1.56 bits, vectors of 8 from a grid of 2048.";
    IQ4_NL  = 20,  32,  18, [H(0)],       "4 bits on 16 uneven levels, one scale for 32 weights.";
    IQ3_S   = 21, 256, 110, [H(0)],       "3.44 bits, vectors of 4 from a grid of 512.";
    IQ2_S   = 22, 256,  82, [H(0)],       "2.56 bits, vectors of 8 from a grid of 1024.";
    IQ4_XS  = 23, 256, 136, [H(0)],       "4 bits on 16 uneven levels in superblocks with 6-bit scales.";
    I8      = 24,   1,   1, [],           "Signed 8-bit integer.";
    I16     = 25,   1,   2, [],           "Signed 16-bit integer.";
    I32     = 26,   1,   4, [],           "Signed 32-bit integer.";
    I64     = 27,   1,   8, [],           "Signed 64-bit integer.";
    F64     = 28,   1,   8, [],           "IEEE binary64.";
    IQ1_M   = 29, 256,  56, [Iq1m(48)],   "1.75 bits, vectors of 8 from a grid of 2048 with finer scales.";
    BF16    = 30,   1,   2, [],           "The upper half of a binary32.";
    TQ1_0   = 34, 256,  54, [H(52)],      "1.69 bits, ternary, five to a byte.";
    TQ2_0   = 35, 256,  66, [H(64)],      "2.06 bits, ternary, four to a byte.";
    MXFP4   = 39,  32,  17, [E8m0(0)],    "OCP microscaling FP4: E2M1 elements, one E8M0 scale for 32.";
    NVFP4   = 40,  64,  36, [U(0), U(1), U(2), U(3)], "FP4 with four unsigned E4M3 scales for 64 weights.";
    Q1_0    = 41, 128,  18, [H(0)],       "1 bit, one scale for 128 weights.";
    Q2_0    = 42,  64,  18, [H(0)],       "2 bits, one scale for 64 weights.";
}

/// Ids that once named a type and were removed from GGUF files.
pub const REMOVED_IDS: [u32; 8] = [4, 5, 31, 32, 33, 36, 37, 38];

/// The first id that no type has (`GGML_TYPE_COUNT`).
pub const FIRST_UNKNOWN_ID: u32 = 43;

impl TensorType {
    /// Every type, by ascending id.
    pub fn all() -> impl Iterator<Item = TensorType> {
        TABLE.iter().map(|row| row.ty)
    }

    /// The type with this id in a file, if there is one.
    pub fn from_id(id: u32) -> Option<TensorType> {
        TABLE.binary_search_by_key(&id, |row| row.ty as u32).ok().map(|i| TABLE[i].ty)
    }

    fn row(self) -> &'static TypeRow {
        TABLE
            .binary_search_by_key(&(self as u32), |row| row.ty as u32)
            .map(|i| &TABLE[i])
            .expect("the enum and the table are made by one macro")
    }

    /// The id in a file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The specification's spelling, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements in a block (1 for plain types). A row holds whole blocks.
    pub fn block_len(self) -> u64 {
        u64::from(self.row().block_len)
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> u64 {
        u64::from(self.row().block_bytes)
    }

    /// The elements and the bytes of a block, for proofs when a program is compiled.
    pub const fn block_size(self) -> (u32, u32) {
        let mut i = 0;
        while TABLE[i].ty as u32 != self as u32 {
            i += 1;
        }
        (TABLE[i].block_len, TABLE[i].block_bytes)
    }

    /// The scale fields of a block.
    pub fn scale_fields(self) -> &'static [ScaleField] {
        self.row().scales
    }

    /// Weights that share a scale which can be 0: those of a block, or a part of a superblock with scales of its own.
    pub fn scale_len(self) -> u64 {
        match self {
            TensorType::Q2_K | TensorType::Q3_K | TensorType::Q6_K | TensorType::NVFP4 => 16,
            TensorType::Q4_K | TensorType::Q5_K | TensorType::IQ4_XS => 32,
            // The scales inside the other superblocks are odd numbers.
            _ => self.block_len(),
        }
    }

    /// Whether blocks hold more than one element, that is, whether the type is a quantized one.
    pub fn is_quantized(self) -> bool {
        self.row().block_len > 1
    }

    /// Bits per weight, scales included.
    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block_len() as f64
    }

    /// Bytes of `elements` elements; `None` where they are not a whole number of blocks or the product overflows.
    pub fn bytes_for(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error of [`TensorType::from_str`]: no type has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownType(pub String);

impl fmt::Display for UnknownType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no tensor type is called \"{}\"", self.0)
    }
}

impl std::error::Error for UnknownType {}

impl FromStr for TensorType {
    type Err = UnknownType;

    /// Takes the specification's spelling in any case.
    fn from_str(s: &str) -> Result<Self, UnknownType> {
        TABLE
            .iter()
            .find(|row| row.name.eq_ignore_ascii_case(s))
            .map(|row| row.ty)
            .ok_or_else(|| UnknownType(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_unique_and_complete() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].ty.id() < pair[1].ty.id());
        }
        for id in 0..FIRST_UNKNOWN_ID {
            assert_eq!(TensorType::from_id(id).is_none(), REMOVED_IDS.contains(&id), "id {id}");
        }
        assert_eq!(TensorType::from_id(FIRST_UNKNOWN_ID), None);
    }

    #[test]
    fn names_round_trip_and_fields_lie_inside_the_block() {
        for ty in TensorType::all() {
            assert_eq!(ty.name().parse(), Ok(ty));
            assert_eq!(ty.block_len() % ty.scale_len(), 0);
            assert_eq!(ty.name().to_lowercase().parse(), Ok(ty));
            for field in ty.scale_fields() {
                assert!(field.span().end as u64 <= ty.block_bytes(), "{ty}");
            }
        }
    }
}
