//! The lanes of x86-64: AVX-512 (16 lanes in a register) and AVX2 (8).
//!
//! The types of this module are named only by the shells of the parent module, which are entered after their features
//! were found. That is the safety argument of every intrinsic here.

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

use super::pair::Pair;
use super::{Floats, Ints, Masks, Routine};

/// An intrinsic that needs nothing but its features.
macro_rules! op {
    ($call:expr) => {{
        // SAFETY: only instantiated inside a shell whose features include this intrinsic's.
        unsafe { $call }
    }};
}

/// An intrinsic that reads or writes through a pointer into a slice that is long enough.
macro_rules! memory {
    ($slice:expr, $len:expr, $call:expr) => {{
        assert!($slice.len() >= $len);
        // SAFETY: the features as in `op!`; the slice holds what the (unaligned) access touches, as just asserted.
        unsafe { $call }
    }};
}

macro_rules! operator {
    ($trait:ident $name:ident $type:ident, $intrinsic:ident) => {
        impl $trait for $type {
            type Output = Self;
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                Self(op!($intrinsic(self.0, other.0)))
            }
        }
    };
}

/// 16 lanes of f32.
#[derive(Clone, Copy)]
pub(crate) struct F512(__m512);

/// 16 lanes of i32.
#[derive(Clone, Copy)]
pub(crate) struct I512(__m512i);

/// 16 lanes of bool.
#[derive(Clone, Copy)]
pub(crate) struct M512(__mmask16);

operator!(Add add F512, _mm512_add_ps);
operator!(Sub sub F512, _mm512_sub_ps);
operator!(Mul mul F512, _mm512_mul_ps);
operator!(Div div F512, _mm512_div_ps);
operator!(Add add I512, _mm512_add_epi32);
operator!(Sub sub I512, _mm512_sub_epi32);
operator!(Mul mul I512, _mm512_mullo_epi32);
operator!(BitAnd bitand I512, _mm512_and_si512);
operator!(BitOr bitor I512, _mm512_or_si512);
operator!(BitAnd bitand M512, _kand_mask16);
operator!(BitOr bitor M512, _kor_mask16);

impl Neg for F512 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(op!(_mm512_xor_ps(self.0, _mm512_set1_ps(-0.0))))
    }
}

impl Floats for F512 {
    const N: usize = 16;
    type Int = I512;
    type Mask = M512;
    type Wide = Pair<Self>;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(op!(_mm512_set1_ps(value)))
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(memory!(from, 16, _mm512_loadu_ps(from.as_ptr())))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        memory!(to, 16, _mm512_storeu_ps(to.as_mut_ptr(), self.0));
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(op!(_mm512_andnot_ps(_mm512_set1_ps(-0.0), self.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(op!(_mm512_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn fused(self, factor: Self, sum: Self) -> Self {
        Self(op!(_mm512_fmadd_ps(self.0, factor.0, sum.0)))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(op!(_mm512_min_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(op!(_mm512_max_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> M512 {
        M512(op!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> M512 {
        M512(op!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn select(mask: M512, yes: Self, no: Self) -> Self {
        Self(op!(_mm512_mask_blend_ps(mask.0, no.0, yes.0)))
    }
    #[inline(always)]
    fn lookup16(table: &[f32; 16], index: I512) -> Self {
        let table = Self::load(table);
        Self(op!(_mm512_permutexvar_ps(index.0, table.0)))
    }
    #[inline(always)]
    fn lookup8(table: &[f32; 8], index: I512) -> Self {
        let table = memory!(table, 8, _mm512_broadcast_f32x8(_mm256_loadu_ps(table.as_ptr())));
        Self(op!(_mm512_permutexvar_ps(index.0, table)))
    }
    #[inline(always)]
    fn lookup4(table: &[f32; 4], index: I512) -> Self {
        let table = memory!(table, 4, _mm512_broadcast_f32x4(_mm_loadu_ps(table.as_ptr())));
        Self(op!(_mm512_permutevar_ps(table, index.0)))
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        op!(_mm512_reduce_max_ps(self.0))
    }
    #[inline(always)]
    fn to_half(self) -> I512 {
        I512(op!(_mm512_cvtepu16_epi32(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0))))
    }
    #[inline(always)]
    fn from_half(half: I512) -> Self {
        Self(op!(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(half.0))))
    }
    #[inline(always)]
    fn call<R: Routine>(routine: R) -> R::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline(never)]
        fn shell<R: Routine>(routine: R) -> R::Output {
            routine.run()
        }
        op!(shell(routine))
    }
    #[inline(always)]
    fn transpose(from: &[f32], starts: &[usize], out: &mut [Self]) {
        let (squares, rest) = out.as_chunks_mut::<16>();
        for (i, out) in squares.iter_mut().enumerate() {
            let mut rows = [Self::splat(0.0); 16];
            for (row, start) in rows.iter_mut().zip(starts) {
                *row = Self::load(&from[start + 16 * i..]);
            }
            transpose16(&rows, out);
        }
        let done = 16 * squares.len();
        for (k, out) in rest.iter_mut().enumerate() {
            *out = Self::column(from, starts, done + k);
        }
    }
    #[inline(always)]
    fn bits(self) -> I512 {
        I512(op!(_mm512_castps_si512(self.0)))
    }
    #[inline(always)]
    fn from_bits(bits: I512) -> Self {
        Self(op!(_mm512_castsi512_ps(bits.0)))
    }
    #[inline(always)]
    fn from_int(int: I512) -> Self {
        Self(op!(_mm512_cvtepi32_ps(int.0)))
    }
    #[inline(always)]
    fn truncate(self) -> I512 {
        I512(op!(_mm512_cvttps_epi32(self.0)))
    }
}

impl Ints for I512 {
    const N: usize = 16;
    type Mask = M512;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        Self(op!(_mm512_set1_epi32(value)))
    }
    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        Self(memory!(from, 16, _mm512_loadu_si512(from.as_ptr().cast())))
    }
    #[inline(always)]
    fn store(self, to: &mut [i32]) {
        memory!(to, 16, _mm512_storeu_si512(to.as_mut_ptr().cast(), self.0));
    }
    #[inline(always)]
    fn load_u8(from: &[u8]) -> Self {
        Self(memory!(from, 16, _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()))))
    }
    #[inline(always)]
    fn load_i8(from: &[u8]) -> Self {
        Self(memory!(from, 16, _mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store_u8(self, to: &mut [u8]) {
        memory!(to, 16, _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(self.0)));
    }
    #[inline(always)]
    fn load_u16(from: &[u8]) -> Self {
        Self(memory!(from, 32, _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u8]) {
        memory!(to, 32, _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(self.0)));
    }
    #[inline(always)]
    fn eq(self, other: Self) -> M512 {
        M512(op!(_mm512_cmpeq_epi32_mask(self.0, other.0)))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> M512 {
        M512(op!(_mm512_cmpgt_epi32_mask(self.0, other.0)))
    }
    #[inline(always)]
    fn select(mask: M512, yes: Self, no: Self) -> Self {
        Self(op!(_mm512_mask_blend_epi32(mask.0, no.0, yes.0)))
    }
    #[inline(always)]
    fn shl(self, bits: u32) -> Self {
        Self(op!(_mm512_sll_epi32(self.0, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    fn shr(self, bits: u32) -> Self {
        Self(op!(_mm512_srl_epi32(self.0, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(op!(_mm512_min_epi32(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(op!(_mm512_max_epi32(self.0, other.0)))
    }
}

impl Masks for M512 {
    const N: usize = 16;

    #[inline(always)]
    fn not(self) -> Self {
        Self(op!(_knot_mask16(self.0)))
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self.0)
    }
}

/// 8 lanes of f32.
#[derive(Clone, Copy)]
pub(crate) struct F256(__m256);

/// 8 lanes of i32.
#[derive(Clone, Copy)]
pub(crate) struct I256(__m256i);

/// 8 lanes of bool: all bits of a lane, or none.
#[derive(Clone, Copy)]
pub(crate) struct M256(__m256);

operator!(Add add F256, _mm256_add_ps);
operator!(Sub sub F256, _mm256_sub_ps);
operator!(Mul mul F256, _mm256_mul_ps);
operator!(Div div F256, _mm256_div_ps);
operator!(Add add I256, _mm256_add_epi32);
operator!(Sub sub I256, _mm256_sub_epi32);
operator!(Mul mul I256, _mm256_mullo_epi32);
operator!(BitAnd bitand I256, _mm256_and_si256);
operator!(BitOr bitor I256, _mm256_or_si256);
operator!(BitAnd bitand M256, _mm256_and_ps);
operator!(BitOr bitor M256, _mm256_or_ps);

impl Neg for F256 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(op!(_mm256_xor_ps(self.0, _mm256_set1_ps(-0.0))))
    }
}

impl Floats for F256 {
    const N: usize = 8;
    type Int = I256;
    type Mask = M256;
    type Wide = Pair<Self>;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(op!(_mm256_set1_ps(value)))
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(memory!(from, 8, _mm256_loadu_ps(from.as_ptr())))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        memory!(to, 8, _mm256_storeu_ps(to.as_mut_ptr(), self.0));
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Self(op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(op!(_mm256_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn fused(self, factor: Self, sum: Self) -> Self {
        Self(op!(_mm256_fmadd_ps(self.0, factor.0, sum.0)))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(op!(_mm256_min_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(op!(_mm256_max_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> M256 {
        M256(op!(_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn eq(self, other: Self) -> M256 {
        M256(op!(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0)))
    }
    #[inline(always)]
    fn select(mask: M256, yes: Self, no: Self) -> Self {
        Self(op!(_mm256_blendv_ps(no.0, yes.0, mask.0)))
    }
    #[inline(always)]
    fn lookup16(table: &[f32; 16], index: I256) -> Self {
        let (low, high) = (Self::load(table), Self::load(&table[8..]));
        // The permutation looks at three bits of the index, the blend at the sign: bit 3 moved there.
        Self(op!(_mm256_blendv_ps(
            _mm256_permutevar8x32_ps(low.0, index.0),
            _mm256_permutevar8x32_ps(high.0, index.0),
            _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index.0)),
        )))
    }
    #[inline(always)]
    fn lookup8(table: &[f32; 8], index: I256) -> Self {
        Self(op!(_mm256_permutevar8x32_ps(Self::load(table).0, index.0)))
    }
    #[inline(always)]
    fn lookup4(table: &[f32; 4], index: I256) -> Self {
        let table = memory!(table, 4, _mm256_broadcast_ps(&*table.as_ptr().cast::<__m128>()));
        Self(op!(_mm256_permutevar_ps(table, index.0)))
    }
    #[inline(always)]
    fn to_half(self) -> I256 {
        I256(op!(_mm256_cvtepu16_epi32(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0))))
    }
    #[inline(always)]
    fn from_half(half: I256) -> Self {
        Self(op!(_mm256_cvtph_ps(narrow16(half.0))))
    }
    #[inline(always)]
    fn call<R: Routine>(routine: R) -> R::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        fn shell<R: Routine>(routine: R) -> R::Output {
            routine.run()
        }
        op!(shell(routine))
    }
    #[inline(always)]
    fn transpose(from: &[f32], starts: &[usize], out: &mut [Self]) {
        let (squares, rest) = out.as_chunks_mut::<8>();
        for (i, out) in squares.iter_mut().enumerate() {
            let mut rows = [Self::splat(0.0); 8];
            for (row, start) in rows.iter_mut().zip(starts) {
                *row = Self::load(&from[start + 8 * i..]);
            }
            transpose8(&rows, out);
        }
        let done = 8 * squares.len();
        for (k, out) in rest.iter_mut().enumerate() {
            *out = Self::column(from, starts, done + k);
        }
    }
    #[inline(always)]
    fn bits(self) -> I256 {
        I256(op!(_mm256_castps_si256(self.0)))
    }
    #[inline(always)]
    fn from_bits(bits: I256) -> Self {
        Self(op!(_mm256_castsi256_ps(bits.0)))
    }
    #[inline(always)]
    fn from_int(int: I256) -> Self {
        Self(op!(_mm256_cvtepi32_ps(int.0)))
    }
    #[inline(always)]
    fn truncate(self) -> I256 {
        I256(op!(_mm256_cvttps_epi32(self.0)))
    }
}

impl Ints for I256 {
    const N: usize = 8;
    type Mask = M256;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        Self(op!(_mm256_set1_epi32(value)))
    }
    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        Self(memory!(from, 8, _mm256_loadu_si256(from.as_ptr().cast())))
    }
    #[inline(always)]
    fn store(self, to: &mut [i32]) {
        memory!(to, 8, _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0));
    }
    #[inline(always)]
    fn load_u8(from: &[u8]) -> Self {
        Self(memory!(from, 8, _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.as_ptr().cast()))))
    }
    #[inline(always)]
    fn load_i8(from: &[u8]) -> Self {
        Self(memory!(from, 8, _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store_u8(self, to: &mut [u8]) {
        let words = op!(narrow16(_mm256_and_si256(self.0, _mm256_set1_epi32(0xff))));
        memory!(to, 8, _mm_storel_epi64(to.as_mut_ptr().cast(), _mm_packus_epi16(words, words)));
    }
    #[inline(always)]
    fn load_u16(from: &[u8]) -> Self {
        Self(memory!(from, 16, _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u8]) {
        memory!(to, 16, _mm_storeu_si128(to.as_mut_ptr().cast(), narrow16(self.0)));
    }
    #[inline(always)]
    fn eq(self, other: Self) -> M256 {
        M256(op!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(self.0, other.0))))
    }
    #[inline(always)]
    fn gt(self, other: Self) -> M256 {
        M256(op!(_mm256_castsi256_ps(_mm256_cmpgt_epi32(self.0, other.0))))
    }
    #[inline(always)]
    fn select(mask: M256, yes: Self, no: Self) -> Self {
        Self(op!(_mm256_blendv_epi8(no.0, yes.0, _mm256_castps_si256(mask.0))))
    }
    #[inline(always)]
    fn shl(self, bits: u32) -> Self {
        Self(op!(_mm256_sll_epi32(self.0, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    fn shr(self, bits: u32) -> Self {
        Self(op!(_mm256_srl_epi32(self.0, _mm_cvtsi32_si128(bits as i32))))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(op!(_mm256_min_epi32(self.0, other.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(op!(_mm256_max_epi32(self.0, other.0)))
    }
}

impl Masks for M256 {
    const N: usize = 8;

    #[inline(always)]
    fn not(self) -> Self {
        Self(op!(_mm256_xor_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))))
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        op!(_mm256_movemask_ps(self.0)) as u64
    }
}

/// The low 16 bits of each of eight lanes.
#[inline(always)]
fn narrow16(lanes: __m256i) -> __m128i {
    op!({
        let words = _mm256_and_si256(lanes, _mm256_set1_epi32(0xffff));
        // Packing works in each half of the register; the permutation brings the two quarters together.
        let packed = _mm256_packus_epi32(words, words);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
    })
}

/// A square of 16 rows becomes its columns: four rows at a time within quarters of a register, then the quarters.
#[inline(always)]
fn transpose16(rows: &[F512; 16], columns: &mut [F512; 16]) {
    let mut fours = [rows[0].0; 16];
    for i in (0..16).step_by(4) {
        op!({
            let (a, b) = (_mm512_unpacklo_ps(rows[i].0, rows[i + 1].0), _mm512_unpackhi_ps(rows[i].0, rows[i + 1].0));
            let (c, d) =
                (_mm512_unpacklo_ps(rows[i + 2].0, rows[i + 3].0), _mm512_unpackhi_ps(rows[i + 2].0, rows[i + 3].0));
            fours[i] = _mm512_shuffle_ps::<0x44>(a, c);
            fours[i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
            fours[i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
            fours[i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
        });
    }
    // Quarter q of fours[i + k] is column 4 q + k of rows i to i + 3.
    for k in 0..4 {
        op!({
            let even_ab = _mm512_shuffle_f32x4::<0x88>(fours[k], fours[4 + k]);
            let odd_ab = _mm512_shuffle_f32x4::<0xdd>(fours[k], fours[4 + k]);
            let even_cd = _mm512_shuffle_f32x4::<0x88>(fours[8 + k], fours[12 + k]);
            let odd_cd = _mm512_shuffle_f32x4::<0xdd>(fours[8 + k], fours[12 + k]);
            columns[k].0 = _mm512_shuffle_f32x4::<0x88>(even_ab, even_cd);
            columns[4 + k].0 = _mm512_shuffle_f32x4::<0x88>(odd_ab, odd_cd);
            columns[8 + k].0 = _mm512_shuffle_f32x4::<0xdd>(even_ab, even_cd);
            columns[12 + k].0 = _mm512_shuffle_f32x4::<0xdd>(odd_ab, odd_cd);
        });
    }
}

/// A square of 8 rows becomes its columns, in the same way.
#[inline(always)]
fn transpose8(rows: &[F256; 8], columns: &mut [F256; 8]) {
    let mut fours = [rows[0].0; 8];
    for i in (0..8).step_by(4) {
        op!({
            let (a, b) = (_mm256_unpacklo_ps(rows[i].0, rows[i + 1].0), _mm256_unpackhi_ps(rows[i].0, rows[i + 1].0));
            let (c, d) =
                (_mm256_unpacklo_ps(rows[i + 2].0, rows[i + 3].0), _mm256_unpackhi_ps(rows[i + 2].0, rows[i + 3].0));
            fours[i] = _mm256_shuffle_ps::<0x44>(a, c);
            fours[i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            fours[i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            fours[i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        });
    }
    for k in 0..4 {
        columns[k].0 = op!(_mm256_permute2f128_ps::<0x20>(fours[k], fours[4 + k]));
        columns[4 + k].0 = op!(_mm256_permute2f128_ps::<0x31>(fours[k], fours[4 + k]));
    }
}
