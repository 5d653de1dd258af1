//! Lanes as a plain array, left to the compiler. With one lane this is scalar code.

use std::array::from_fn;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

use super::{Floats, Ints, Masks, Routine};

/// `N` lanes of `T`; a search takes `WIDE` of them.
///
/// Compilers turn a loop over neighbours into vector instructions themselves, so there one lane does best; a search that
/// is to run in several lanes must be told so.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<const N: usize, T = f32, const WIDE: usize = N>(pub(crate) [T; N]);

macro_rules! operator {
    ($trait:ident $name:ident $type:ty, |$a:ident, $b:ident| $value:expr) => {
        impl<const N: usize, const WIDE: usize> $trait for Lanes<N, $type, WIDE> {
            type Output = Self;
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                Lanes(from_fn(|i| {
                    let ($a, $b) = (self.0[i], other.0[i]);
                    $value
                }))
            }
        }
    };
}

operator!(Add add f32, |a, b| a + b);
operator!(Sub sub f32, |a, b| a - b);
operator!(Mul mul f32, |a, b| a * b);
operator!(Div div f32, |a, b| a / b);
operator!(Add add i32, |a, b| a.wrapping_add(b));
operator!(Sub sub i32, |a, b| a.wrapping_sub(b));
operator!(Mul mul i32, |a, b| a.wrapping_mul(b));
operator!(BitAnd bitand i32, |a, b| a & b);
operator!(BitOr bitor i32, |a, b| a | b);
operator!(BitAnd bitand bool, |a, b| a & b);
operator!(BitOr bitor bool, |a, b| a | b);

impl<const N: usize, const WIDE: usize> Neg for Lanes<N, f32, WIDE> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Lanes(self.0.map(|a| -a))
    }
}

impl<const N: usize, const WIDE: usize> Floats for Lanes<N, f32, WIDE> {
    const N: usize = N;
    type Int = Lanes<N, i32, WIDE>;
    type Mask = Lanes<N, bool, WIDE>;
    type Wide = Lanes<WIDE, f32, WIDE>;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Lanes([value; N])
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Lanes(from_fn(|i| from[i]))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..N].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Lanes(self.0.map(f32::abs))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Lanes(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn fused(self, factor: Self, sum: Self) -> Self {
        Lanes(from_fn(|i| self.0[i].mul_add(factor.0[i], sum.0[i])))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Lanes(from_fn(|i| if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Lanes(from_fn(|i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        Lanes(from_fn(|i| self.0[i] < other.0[i]))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        Lanes(from_fn(|i| self.0[i] == other.0[i]))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Lanes(from_fn(|i| if mask.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn bits(self) -> Self::Int {
        Lanes(self.0.map(|a| a.to_bits() as i32))
    }
    #[inline(always)]
    fn from_bits(bits: Self::Int) -> Self {
        Lanes(bits.0.map(|a| f32::from_bits(a as u32)))
    }
    #[inline(always)]
    fn from_int(int: Self::Int) -> Self {
        Lanes(int.0.map(|a| a as f32))
    }
    #[inline(always)]
    fn truncate(self) -> Self::Int {
        Lanes(self.0.map(|a| if a.abs() < 2_147_483_648.0 { a as i32 } else { i32::MIN }))
    }
    #[inline(never)]
    fn call<R: Routine>(routine: R) -> R::Output {
        routine.run()
    }
    #[inline(always)]
    fn lookup16(table: &[f32; 16], index: Self::Int) -> Self {
        Lanes(index.0.map(|i| table[(i & 15) as usize]))
    }
    #[inline(always)]
    fn lookup8(table: &[f32; 8], index: Self::Int) -> Self {
        Lanes(index.0.map(|i| table[(i & 7) as usize]))
    }
    #[inline(always)]
    fn lookup4(table: &[f32; 4], index: Self::Int) -> Self {
        Lanes(index.0.map(|i| table[(i & 3) as usize]))
    }
}

impl<const N: usize, const WIDE: usize> Ints for Lanes<N, i32, WIDE> {
    const N: usize = N;
    type Mask = Lanes<N, bool, WIDE>;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        Lanes([value; N])
    }
    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        Lanes(from_fn(|i| from[i]))
    }
    #[inline(always)]
    fn store(self, to: &mut [i32]) {
        to[..N].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn load_u8(from: &[u8]) -> Self {
        Lanes(from_fn(|i| i32::from(from[i])))
    }
    #[inline(always)]
    fn load_i8(from: &[u8]) -> Self {
        Lanes(from_fn(|i| i32::from(from[i] as i8)))
    }
    #[inline(always)]
    fn store_u8(self, to: &mut [u8]) {
        to[..N].copy_from_slice(&self.0.map(|a| a as u8));
    }
    #[inline(always)]
    fn load_u16(from: &[u8]) -> Self {
        Lanes(from_fn(|i| i32::from(u16::from_le_bytes([from[2 * i], from[2 * i + 1]]))))
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u8]) {
        for (to, a) in to[..2 * N].chunks_exact_mut(2).zip(self.0) {
            to.copy_from_slice(&(a as u16).to_le_bytes());
        }
    }
    #[inline(always)]
    fn shl(self, bits: u32) -> Self {
        Lanes(self.0.map(|a| a.wrapping_shl(bits)))
    }
    #[inline(always)]
    fn shr(self, bits: u32) -> Self {
        Lanes(self.0.map(|a| (a as u32).wrapping_shr(bits) as i32))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Lanes(from_fn(|i| self.0[i].min(other.0[i])))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Lanes(from_fn(|i| self.0[i].max(other.0[i])))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        Lanes(from_fn(|i| self.0[i] == other.0[i]))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        Lanes(from_fn(|i| self.0[i] > other.0[i]))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Lanes(from_fn(|i| if mask.0[i] { yes.0[i] } else { no.0[i] }))
    }
}

impl<const N: usize, const WIDE: usize> Masks for Lanes<N, bool, WIDE> {
    const N: usize = N;

    #[inline(always)]
    fn not(self) -> Self {
        Lanes(self.0.map(|a| !a))
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        let mut bits = 0;
        for (i, lane) in self.0.into_iter().enumerate() {
            bits |= u64::from(lane) << i;
        }
        bits
    }
}
