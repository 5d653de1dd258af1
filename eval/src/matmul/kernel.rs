//! The innermost loops: a tile of a product in registers, and dot products for a few tokens.
//!
//! Both are written once over [`Lanes`] and compiled for AVX-512, for AVX2 with FMA, and without either. Every sum runs
//! over the columns in ascending order, in one chain for each value of a tile, so that a result does not depend on which
//! tile it falls into. Every product is added with one rounding, also where the machine has no instruction for that, and
//! a dot product has as many chains on each path: all paths give the same bits.
//!
//! The sizes follow Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication", 2008): a tile's sums
//! stay in registers, its activations in the first-level cache, its weights stream from the second.

use std::sync::OnceLock;

use quantize::SimdPath;

/// One tile: activations `x` `[cols][tokens]` and weights `w` `[cols][Kernel::rows]`, both packed, give
/// `y[token · ld + row]` for the first `rows` rows.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// At most [`Kernel::tokens`].
    pub(super) tokens: usize,
    pub(super) cols: usize,
    pub(super) x: *const f32,
    pub(super) w: *const f32,
    pub(super) y: *mut f32,
    pub(super) ld: usize,
    /// At most [`Kernel::rows`].
    pub(super) rows: usize,
    /// Whether the sums are added to what `y` holds.
    pub(super) add: bool,
}

/// The loops as compiled for one kind of machine.
pub(super) struct Kernel {
    /// The most tokens of a tile.
    pub(super) tokens: usize,
    /// Rows of a tile.
    pub(super) rows: usize,
    tile: unsafe fn(Tile),
    dot: unsafe fn(&[f32], &[f32]) -> f32,
}

impl Kernel {
    /// Computes a tile.
    ///
    /// # Safety
    /// The pointers are valid for the sizes, and nobody else writes these values of `y`.
    #[inline]
    pub(super) unsafe fn tile(&self, tile: Tile) {
        debug_assert!((1..=self.tokens).contains(&tile.tokens) && (1..=self.rows).contains(&tile.rows));
        // SAFETY: the caller's promise; a kernel is only made on a machine that can run it.
        unsafe { (self.tile)(tile) }
    }

    /// The sum of products of two slices of one length.
    #[inline]
    pub(super) fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        // SAFETY: of one length, as just asserted; a kernel is only made on a machine that can run it.
        unsafe { (self.dot)(a, b) }
    }
}

const PLAIN: Kernel = Kernel { tokens: 4, rows: 8, tile: tile_plain, dot: dot_plain };
#[cfg(target_arch = "x86_64")]
const AVX2: Kernel = Kernel { tokens: 6, rows: 16, tile: tile_avx2, dot: dot_avx2 };
#[cfg(target_arch = "x86_64")]
const AVX512: Kernel = Kernel { tokens: 12, rows: 32, tile: tile_avx512, dot: dot_avx512 };

/// The kernel for a path; `None` where this machine cannot run it.
pub(super) fn kernel_for(path: SimdPath) -> Option<&'static Kernel> {
    if !path.is_available() {
        return None;
    }
    match path {
        #[cfg(target_arch = "x86_64")]
        SimdPath::Avx512 => Some(&AVX512),
        #[cfg(target_arch = "x86_64")]
        SimdPath::Avx2 => std::arch::is_x86_feature_detected!("fma").then_some(&AVX2),
        _ => Some(&PLAIN),
    }
}

/// The kernel of the path that the program runs.
pub(super) fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<&Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| kernel_for(SimdPath::current()).unwrap_or(&PLAIN))
}

/// Some values of f32 in a register.
pub(super) trait Lanes: Copy {
    const N: usize;
    fn zero() -> Self;
    fn splat(value: f32) -> Self;
    /// # Safety
    /// `N` values can be read.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `N` values can be written.
    unsafe fn store(self, to: *mut f32);
    /// `self + a · b`
    fn add_product(self, a: Self, b: Self) -> Self;
    fn add(self, other: Self) -> Self;
    /// Says that this place will be read soon; it need not exist.
    fn prefetch(place: *const f32);
}

/// Lanes for machines without wide registers: the compiler uses what the target has.
impl Lanes for [f32; 4] {
    const N: usize = 4;
    #[inline(always)]
    fn zero() -> Self {
        [0.0; 4]
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 is aligned as f32.
        unsafe { from.cast::<Self>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<Self>().write(self) }
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        if FUSES {
            return std::array::from_fn(|i| a[i].mul_add(b[i], self[i]));
        }
        // Rounding to f64 and then to f32 differs from rounding once only where the first lands on the middle of two
        // f32 (of normal ones: the 29 bits that are cut off are a one and zeros), which is rare.
        let sums: [f64; 4] = std::array::from_fn(|i| f64::from(a[i]) * f64::from(b[i]) + f64::from(self[i]));
        let doubtful = |sum: f64| {
            let middle = sum.to_bits() & 0x1fff_ffff == 0x1000_0000;
            middle | ((sum.abs() < f64::from(f32::MIN_POSITIVE)) & (sum != 0.0))
        };
        if sums.map(doubtful) == [false; 4] {
            return sums.map(|sum| sum as f32);
        }
        std::array::from_fn(|i| fused(a[i], b[i], self[i]))
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }
    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

/// Whether every machine of the target adds a product with one rounding.
const FUSES: bool = cfg!(any(not(target_arch = "x86_64"), target_feature = "fma"));

/// `a · b + c`, rounded once, without an instruction for it.
#[cold]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    // The product is exact in f64. The sum is not; what it lost makes its last bit odd, which stands for "and a bit
    // more": rounding that to f32 gives what rounding the exact sum would (Boldo and Melquiond, "Emulation of FMA and
    // correctly rounded sums", 2008).
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let part = sum - product;
    let lost = (product - (sum - part)) + (c - part);
    let bits = sum.to_bits();
    let away = (lost > 0.0) == (sum > 0.0);
    let odd = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = (lost > 0.0) | (lost < 0.0);
    f64::from_bits(if inexact & (bits & 1 == 0) { odd } else { bits }) as f32
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Lanes of a register; only the shells below name the types, after the features were found.
    macro_rules! lanes {
        ($type:ty, $n:literal, $zero:ident, $splat:ident, $load:ident, $store:ident, $add:ident, $fma:ident) => {
            impl super::Lanes for $type {
                const N: usize = $n;
                #[inline(always)]
                fn zero() -> Self {
                    // SAFETY: the features are there, see above.
                    unsafe { $zero() }
                }
                #[inline(always)]
                fn splat(value: f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: as above, and the caller's promise.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as above, and the caller's promise.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $fma(a, b, self) }
                }
                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $add(self, other) }
                }
                #[inline(always)]
                fn prefetch(place: *const f32) {
                    // SAFETY: every x86-64 has the instruction, and it never faults.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
                }
            }
        };
    }
    lanes!(
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_fmadd_ps
    );
    lanes!(
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_fmadd_ps
    );
}

unsafe fn tile_plain(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe { up_to_six::<[f32; 4]>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe { up_to_six::<std::arch::x86_64::__m256>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512(tile: Tile) {
    type V = std::arch::x86_64::__m512;
    // SAFETY: the caller's promise.
    unsafe {
        match tile.tokens {
            7 => sized::<V, 7>(tile),
            8 => sized::<V, 8>(tile),
            9 => sized::<V, 9>(tile),
            10 => sized::<V, 10>(tile),
            11 => sized::<V, 11>(tile),
            12 => sized::<V, 12>(tile),
            _ => up_to_six::<V>(tile),
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], for at most six tokens.
#[inline(always)]
unsafe fn up_to_six<V: Lanes>(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.tokens {
            1 => sized::<V, 1>(tile),
            2 => sized::<V, 2>(tile),
            3 => sized::<V, 3>(tile),
            4 => sized::<V, 4>(tile),
            5 => sized::<V, 5>(tile),
            _ => sized::<V, 6>(tile),
        }
    }
}

/// Registers side by side in a tile's row of sums.
pub(super) const WIDE: usize = 2;

/// The registers of a tile's row. Written out: a closure is compiled without the features of the function around it, and
/// whether it is inlined there is chance.
///
/// # Safety
/// `WIDE` times `N` values can be read.
#[inline(always)]
pub(super) unsafe fn load_row<V: Lanes>(from: *const f32) -> [V; WIDE] {
    // SAFETY: the caller's promise.
    unsafe { [V::load(from), V::load(from.add(V::N))] }
}

/// # Safety
/// As [`Kernel::tile`], for exactly `T` tokens.
#[inline(always)]
unsafe fn sized<V: Lanes, const T: usize>(tile: Tile) {
    let Tile { cols, mut x, mut w, y, ld, rows, add, .. } = tile;
    let mut sums = [[V::zero(); WIDE]; T];
    // SAFETY: `x` holds `cols` times `T` values, `w` `cols` times a tile's rows, `y` `T` rows of `rows` values `ld`
    // apart: the caller's promise. What is not a full row of `y` goes through a buffer of a full row.
    unsafe {
        for t in 0..T {
            V::prefetch(y.add(t * ld));
        }
        for _ in 0..cols {
            V::prefetch(w.wrapping_add(AHEAD * WIDE * V::N));
            V::prefetch(w.wrapping_add((AHEAD * WIDE + 1) * V::N));
            let weights = load_row::<V>(w);
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*x.add(t));
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum = sum.add_product(x, w);
                }
            }
            x = x.add(T);
            w = w.add(WIDE * V::N);
        }
        for (t, sums) in sums.iter().enumerate() {
            let y = y.add(t * ld);
            if rows == WIDE * V::N {
                store(sums, y, add);
            } else {
                let mut row = [0.0; MOST_ROWS];
                if add {
                    row.as_mut_ptr().copy_from_nonoverlapping(y, rows);
                }
                store(sums, row.as_mut_ptr(), add);
                y.copy_from_nonoverlapping(row.as_ptr(), rows);
            }
        }
    }
}

/// Stores a full row of sums, or adds them to what is there.
///
/// # Safety
/// There is room for it.
#[inline(always)]
pub(super) unsafe fn store<V: Lanes>(sums: &[V; WIDE], to: *mut f32, add: bool) {
    for (i, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let to = to.add(i * V::N);
            (if add { V::load(to).add(sum) } else { sum }).store(to);
        }
    }
}

/// Columns of weights that are asked for before they are needed.
const AHEAD: usize = 16;

/// No kernel has tiles of more rows.
pub(super) const MOST_ROWS: usize = 32;

unsafe fn dot_plain(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { dot::<[f32; 4]>(a, b) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { dot::<std::arch::x86_64::__m256>(a, b) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { dot::<std::arch::x86_64::__m512>(a, b) }
}

/// # Safety
/// The slices have one length.
#[inline(always)]
unsafe fn dot<V: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    // Several sums hide the latency of an addition. Of whatever width, they are the same 64.
    const SUMS: usize = 64;
    let whole = a.len() / SUMS * SUMS;
    let mut sums = [V::zero(); SUMS / 4];
    let sums = &mut sums[..SUMS / V::N];
    for at in (0..whole).step_by(SUMS) {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `at + SUMS` is at most the length of both.
            unsafe {
                let from = at + i * V::N;
                *sum = sum.add_product(V::load(a.as_ptr().add(from)), V::load(b.as_ptr().add(from)));
            }
        }
    }
    let mut values = [0.0_f32; SUMS];
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: there are as many places as sums.
        unsafe { sum.store(values.as_mut_ptr().add(i * V::N)) };
    }
    let total = values.chunks(16).fold(0.0, |total, values| total + values.iter().sum::<f32>());
    total + a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum::<f32>()
}

/// Four rows of one length, multiplied with `scale`, as columns: `to[col · width + row]`.
#[inline]
pub(super) fn side_by_side(rows: [&[f32]; 4], scale: f32, width: usize, to: &mut [f32]) {
    let cols = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == cols) && (cols == 0 || to.len() >= (cols - 1) * width + 4));
    let whole = cols / 4 * 4;
    for col in (0..whole).step_by(4) {
        // SAFETY: `col + 4` is at most the length of each row, and the last column written begins at
        // `(col + 3) · width`, which leaves four places, as asserted.
        unsafe {
            let block = rows.map(|row| row.as_ptr().add(col).cast::<[f32; 4]>().read());
            for (i, column) in transposed(block).into_iter().enumerate() {
                let column: [f32; 4] = std::array::from_fn(|j| column[j] * scale);
                to.as_mut_ptr().add((col + i) * width).cast::<[f32; 4]>().write(column);
            }
        }
    }
    for col in whole..cols {
        to[col * width..][..4].copy_from_slice(&rows.map(|row| row[col] * scale));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn transposed(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::{
        _mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps,
    };
    // SAFETY: every x86-64 has these instructions; each access is of one array of four.
    unsafe {
        let [a, b, c, d] = rows.map(|row| _mm_loadu_ps(row.as_ptr()));
        let (ab, cd, ab_high, cd_high) =
            (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d), _mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        [_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab), _mm_movelh_ps(ab_high, cd_high), _mm_movehl_ps(cd_high, ab_high)]
            .map(|column| {
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), column);
                out
            })
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn transposed(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|i| rows.map(|row| row[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_added_with_one_rounding() {
        let mut state = 9_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // All exponents that do not overflow.
            f32::from_bits((state & 0x807f_ffff) | (((state >> 9 & 0x3f) + 0x60) << 23))
        };
        for _ in 0..200_000 {
            let (a, b, c) = (next(), next(), next());
            assert_eq!(fused(a, b, c), a.mul_add(b, c), "{a:e} {b:e} {c:e}");
            // Sums that nearly cancel.
            let c = -(a * b);
            assert_eq!(fused(a, b, c), a.mul_add(b, c), "{a:e} {b:e} {c:e}");
        }
        assert!(fused(f32::NAN, 1.0, 1.0).is_nan() && fused(f32::INFINITY, 1.0, 0.0).is_infinite());
    }

    #[test]
    fn plain_lanes_add_products_with_one_rounding_whatever_the_sum() {
        let mut state = 5_u32;
        let mut bits = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 7
        };
        let one = |a: f32, b: f32, c: f32| {
            let got = [c; 4].add_product([a; 4], [b; 4]);
            assert_eq!(got.map(f32::to_bits), [a.mul_add(b, c).to_bits(); 4], "{a:e} {b:e} {c:e}");
        };
        for _ in 0..200_000 {
            // Few bits, so that sums often lie in the middle of two numbers, and of all sizes down to the smallest.
            let mut few = |least: i32, span: u32| {
                let (digits, power) = (bits() % 4096, least + (bits() % span) as i32);
                (digits as f32 - 2048.0) * (power as f32).exp2()
            };
            one(few(-20, 40), few(-20, 40), few(-30, 60));
            one(few(-80, 20), few(-70, 10), few(-149, 12));
        }
        for (a, b, c) in [(1.0, 16_777_216.0, 1.0), (3.0, 1e-45, 0.0), (0.0, 1.0, -0.0), (-1.0, 1.0, 1.0)] {
            one(a, b, c);
        }
    }

    #[test]
    fn every_path_gives_the_same_dot_product() {
        let numbers = |seed: u32| -> Vec<f32> { (0..333).map(|i| ((i * seed) % 97) as f32 / 31.0 - 1.5).collect() };
        let (a, b) = (numbers(13), numbers(29));
        let kernels = SimdPath::ALL.into_iter().filter_map(kernel_for);
        let dots: Vec<u32> = kernels.map(|kernel| kernel.dot(&a, &b).to_bits()).collect();
        assert!(dots.windows(2).all(|pair| pair[0] == pair[1]), "{dots:x?}");
    }
}
