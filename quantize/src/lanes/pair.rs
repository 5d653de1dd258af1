//! Two vectors side by side: twice the lanes, and two independent chains of sums for the machine to overlap.

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

use super::{Floats, Ints, Masks, Routine};

/// The lanes of the first, then those of the second.
#[derive(Clone, Copy)]
pub(crate) struct Pair<T>(T, T);

macro_rules! operator {
    ($($trait:ident $name:ident)*) => { $(
        impl<T: $trait<Output = T>> $trait for Pair<T> {
            type Output = Self;
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                Pair(self.0.$name(other.0), self.1.$name(other.1))
            }
        }
    )* };
}

operator!(Add add Sub sub Mul mul Div div BitAnd bitand BitOr bitor);

impl<T: Neg<Output = T>> Neg for Pair<T> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Pair(-self.0, -self.1)
    }
}

impl<F: Floats> Floats for Pair<F> {
    const N: usize = 2 * F::N;
    type Int = Pair<F::Int>;
    type Mask = Pair<F::Mask>;
    type Wide = Self;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Pair(F::splat(value), F::splat(value))
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Pair(F::load(from), F::load(&from[F::N..]))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let (first, second) = to.split_at_mut(F::N);
        self.0.store(first);
        self.1.store(second);
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Pair(self.0.abs(), self.1.abs())
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Pair(self.0.sqrt(), self.1.sqrt())
    }
    #[inline(always)]
    fn fused(self, factor: Self, sum: Self) -> Self {
        Pair(self.0.fused(factor.0, sum.0), self.1.fused(factor.1, sum.1))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Pair(self.0.min(other.0), self.1.min(other.1))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Pair(self.0.max(other.0), self.1.max(other.1))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        Pair(self.0.lt(other.0), self.1.lt(other.1))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        Pair(self.0.eq(other.0), self.1.eq(other.1))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Pair(F::select(mask.0, yes.0, no.0), F::select(mask.1, yes.1, no.1))
    }
    #[inline(always)]
    fn bits(self) -> Self::Int {
        Pair(self.0.bits(), self.1.bits())
    }
    #[inline(always)]
    fn from_bits(bits: Self::Int) -> Self {
        Pair(F::from_bits(bits.0), F::from_bits(bits.1))
    }
    #[inline(always)]
    fn from_int(int: Self::Int) -> Self {
        Pair(F::from_int(int.0), F::from_int(int.1))
    }
    #[inline(always)]
    fn truncate(self) -> Self::Int {
        Pair(self.0.truncate(), self.1.truncate())
    }
    #[inline(always)]
    fn lookup16(table: &[f32; 16], index: Self::Int) -> Self {
        Pair(F::lookup16(table, index.0), F::lookup16(table, index.1))
    }
    #[inline(always)]
    fn call<R: Routine>(routine: R) -> R::Output {
        F::call(routine)
    }
    #[inline(always)]
    fn lookup8(table: &[f32; 8], index: Self::Int) -> Self {
        Pair(F::lookup8(table, index.0), F::lookup8(table, index.1))
    }
    #[inline(always)]
    fn lookup4(table: &[f32; 4], index: Self::Int) -> Self {
        Pair(F::lookup4(table, index.0), F::lookup4(table, index.1))
    }
    #[inline(always)]
    fn to_half(self) -> Self::Int {
        Pair(self.0.to_half(), self.1.to_half())
    }
    #[inline(always)]
    fn from_half(half: Self::Int) -> Self {
        Pair(F::from_half(half.0), F::from_half(half.1))
    }
    #[inline(always)]
    fn transpose(from: &[f32], starts: &[usize], out: &mut [Self]) {
        const STEP: usize = 16;
        let mut half = [F::splat(0.0); STEP];
        for (step, out) in out.chunks_mut(STEP).enumerate() {
            let (from, half) = (&from[step * STEP..], &mut half[..out.len()]);
            F::transpose(from, &starts[..F::N], half);
            for (out, half) in out.iter_mut().zip(half.iter()) {
                out.0 = *half;
            }
            F::transpose(from, &starts[F::N..], half);
            for (out, half) in out.iter_mut().zip(half.iter()) {
                out.1 = *half;
            }
        }
    }
}

impl<I: Ints> Ints for Pair<I> {
    const N: usize = 2 * I::N;
    type Mask = Pair<I::Mask>;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        Pair(I::splat(value), I::splat(value))
    }
    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        Pair(I::load(from), I::load(&from[I::N..]))
    }
    #[inline(always)]
    fn store(self, to: &mut [i32]) {
        let (first, second) = to.split_at_mut(I::N);
        self.0.store(first);
        self.1.store(second);
    }
    #[inline(always)]
    fn load_u8(from: &[u8]) -> Self {
        Pair(I::load_u8(from), I::load_u8(&from[I::N..]))
    }
    #[inline(always)]
    fn load_i8(from: &[u8]) -> Self {
        Pair(I::load_i8(from), I::load_i8(&from[I::N..]))
    }
    #[inline(always)]
    fn store_u8(self, to: &mut [u8]) {
        let (first, second) = to.split_at_mut(I::N);
        self.0.store_u8(first);
        self.1.store_u8(second);
    }
    #[inline(always)]
    fn load_u16(from: &[u8]) -> Self {
        Pair(I::load_u16(from), I::load_u16(&from[2 * I::N..]))
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u8]) {
        let (first, second) = to.split_at_mut(2 * I::N);
        self.0.store_u16(first);
        self.1.store_u16(second);
    }
    #[inline(always)]
    fn shl(self, bits: u32) -> Self {
        Pair(self.0.shl(bits), self.1.shl(bits))
    }
    #[inline(always)]
    fn shr(self, bits: u32) -> Self {
        Pair(self.0.shr(bits), self.1.shr(bits))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Pair(self.0.min(other.0), self.1.min(other.1))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Pair(self.0.max(other.0), self.1.max(other.1))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        Pair(self.0.eq(other.0), self.1.eq(other.1))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        Pair(self.0.gt(other.0), self.1.gt(other.1))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Pair(I::select(mask.0, yes.0, no.0), I::select(mask.1, yes.1, no.1))
    }
}

impl<M: Masks> Masks for Pair<M> {
    const N: usize = 2 * M::N;

    #[inline(always)]
    fn not(self) -> Self {
        Pair(self.0.not(), self.1.not())
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self.0.bits() | self.1.bits() << M::N
    }
}
