//! One program, many lanes.
//!
//! The body of a codec is written once over [`Floats`], a vector of `N` values. The scalar program is the specification
//! and the instance with one lane; wider instances do the same operations in the same order in each lane, so their bytes
//! are equal. There are two ways to use the lanes:
//!
//! * a search (`Q4_K`) has one lane per block: [`Group`] turns `N` blocks into a struct of arrays, branches become
//!   selects;
//! * a format without a search (`Q8_0`) fills the lanes with neighbours of one block, which is the same thing as long
//!   as only exact operations (maximum, minimum) go across lanes.
//!
//! [`Path::run`] chooses the instance at run time and enters it through a thin `#[target_feature]` shell. Nothing but
//! those shells names the types of `x86`, which is what makes their intrinsics sound: every function between a shell
//! and an intrinsic is `#[inline(always)]`. Closures and functions without that attribute do not belong in a body.
//!
//! No instance contracts a product and a sum into one operation by itself: the reference rounds twice. The products of
//! the searches, which follow no reference, ask for it by [`Floats::fused`].

mod array;
mod group;
#[cfg(target_arch = "x86_64")]
mod pair;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};
use std::str::FromStr;
use std::sync::OnceLock;

use gguf::{Error, Result};

use array::Lanes;
pub(crate) use group::{Group, Rows, Slots};

/// `N` lanes of f32. Arithmetic is IEEE binary32, round to nearest even, in every lane.
pub(crate) trait Floats:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// The number of lanes.
    const N: usize;
    /// As many lanes of i32.
    type Int: Ints<Mask = Self::Mask>;
    /// As many lanes of bool.
    type Mask: Masks;
    /// The lanes that serve a search best on the same machine: several registers side by side hide the latency of a
    /// chain of sums.
    type Wide: Floats<Wide = Self::Wide>;

    fn splat(value: f32) -> Self;
    /// The first `N` values.
    fn load(from: &[f32]) -> Self;
    /// Into the first `N` places.
    fn store(self, to: &mut [f32]);
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    /// `self` × `factor` + `sum`, rounded once. For the searches: the codecs follow a reference that rounds twice.
    fn fused(self, factor: Self, sum: Self) -> Self;
    /// `if self < other { self } else { other }`
    fn min(self, other: Self) -> Self;
    /// `if self > other { self } else { other }`
    fn max(self, other: Self) -> Self;
    /// False where either is NaN, as `eq`.
    fn lt(self, other: Self) -> Self::Mask;
    fn eq(self, other: Self) -> Self::Mask;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    fn bits(self) -> Self::Int;
    fn from_bits(bits: Self::Int) -> Self;
    fn from_int(int: Self::Int) -> Self;
    /// Towards zero; what does not fit (and NaN) becomes `i32::MIN`, as on x86.
    fn truncate(self) -> Self::Int;
    /// `table[index]`, with `index` below 16.
    fn lookup16(table: &[f32; 16], index: Self::Int) -> Self;
    /// `table[index & 7]`
    fn lookup8(table: &[f32; 8], index: Self::Int) -> Self;
    /// `table[index & 3]`
    fn lookup4(table: &[f32; 4], index: Self::Int) -> Self;
    /// `out[k]` lane `l` = `from[starts[l] + k]`: blocks become a struct of arrays. `starts` holds `N` of them.
    #[inline(always)]
    fn transpose(from: &[f32], starts: &[usize], out: &mut [Self]) {
        for (k, out) in out.iter_mut().enumerate() {
            *out = Self::column(from, starts, k);
        }
    }

    /// Lane `l` is `from[starts[l] + at]`.
    #[inline(always)]
    fn column(from: &[f32], starts: &[usize], at: usize) -> Self {
        let mut column = [0.0f32; MAX_LANES];
        for (lane, start) in column[..Self::N].iter_mut().zip(starts) {
            *lane = from[start + at];
        }
        Self::load(&column)
    }

    /// Runs a routine as a function of its own, compiled for the machine that these lanes stand for: a search that
    /// several formats share is compiled once for each kind of lanes.
    fn call<R: Routine>(routine: R) -> R::Output;

    /// The largest lane. No lane may be NaN.
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        let mut all = [0.0f32; MAX_LANES];
        self.store(&mut all);
        let mut max = all[0];
        for &value in &all[1..Self::N] {
            max = if value > max { value } else { max };
        }
        max
    }

    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        other.lt(self)
    }

    /// To the nearest integer, halves to even; for magnitudes up to 2^22 the same as [`nearest_int`] (adding and
    /// subtracting 1.5 × 2^23 leaves no fraction).
    #[inline(always)]
    fn nearest(self) -> Self {
        let magic = Self::splat(MAGIC);
        (self + magic) - magic
    }

    /// To the nearest integer, halves away from zero, as C's `roundf`; for magnitudes below 2^22.
    #[inline(always)]
    fn round(self) -> Self::Int {
        let sign = self.bits() & Self::Int::splat(i32::MIN);
        let half = Self::from_bits(Self::Int::splat(0x3eff_ffff) | sign); // the largest value below 0.5
        (self + half).truncate()
    }

    /// The bits of an IEEE binary16, ties to even, too large to infinity.
    #[inline(always)]
    fn to_half(self) -> Self::Int {
        let int = Self::Int::splat;
        let bits = self.bits();
        let sign = (bits & int(i32::MIN)).shr(16);
        let magnitude = bits & int(i32::MAX);
        // Above the range of binary16 this overflows to infinity, then back down loses no bit.
        let base = (self.abs() * Self::splat(f32::from_bits(0x7780_0000))) * Self::splat(f32::from_bits(0x0880_0000));
        // Adding a power of two 13 places above the last bit to keep makes the addition round.
        let exponent = (magnitude & int(0x7f80_0000)).max(int(0x3880_0000));
        let rounded = (Self::from_bits(exponent + int(0x0780_0000)) + base).bits();
        let half = (rounded.shr(13) & int(0x7c00)) + (rounded & int(0x0fff));
        let nan = magnitude.gt(int(0x7f80_0000));
        Self::Int::select(nan, int(0x7e00), half) | sign
    }

    /// The value of the IEEE binary16 in the low 16 bits.
    #[inline(always)]
    fn from_half(half: Self::Int) -> Self {
        let int = Self::Int::splat;
        let sign = (half & int(0x8000)).shl(16);
        let magnitude = half & int(0x7fff);
        let normal = Self::from_bits(magnitude.shl(13) + int(0x3800_0000));
        // Subnormal halves: count units of 2^-24.
        let tiny = Self::from_int(magnitude) * Self::splat(f32::from_bits(0x3380_0000));
        let value = Self::select(int(0x0400).gt(magnitude), tiny, normal);
        let special = magnitude.gt(int(0x7bff));
        let bits = Self::Int::select(special, magnitude.shl(13) + int(0x7000_0000), value.bits());
        Self::from_bits(bits | sign)
    }
}

/// Work over lanes that is worth a function of its own. `run` is `#[inline(always)]`.
pub(crate) trait Routine {
    type Output;
    fn run(self) -> Self::Output;
}

/// `N` lanes of i32, wrapping.
pub(crate) trait Ints:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + BitAnd<Output = Self> + BitOr<Output = Self>
{
    /// The number of lanes.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const N: usize;
    type Mask: Masks;

    fn splat(value: i32) -> Self;
    fn load(from: &[i32]) -> Self;
    fn store(self, to: &mut [i32]);
    /// `N` bytes, zero-extended.
    fn load_u8(from: &[u8]) -> Self;
    /// `N` bytes, sign-extended.
    fn load_i8(from: &[u8]) -> Self;
    /// The low byte of each lane.
    fn store_u8(self, to: &mut [u8]);
    /// `N` little-endian 16-bit words, zero-extended.
    fn load_u16(from: &[u8]) -> Self;
    /// The low 16 bits of each lane, little-endian.
    fn store_u16(self, to: &mut [u8]);
    fn shl(self, bits: u32) -> Self;
    /// Logical.
    fn shr(self, bits: u32) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn eq(self, other: Self) -> Self::Mask;
    fn gt(self, other: Self) -> Self::Mask;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
}

/// `N` lanes of bool.
pub(crate) trait Masks: Copy + BitAnd<Output = Self> + BitOr<Output = Self> {
    /// The number of lanes.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const N: usize;

    fn not(self) -> Self;
    /// Lane `l` is bit `l`.
    fn bits(self) -> u64;
    #[inline(always)]
    fn any(self) -> bool {
        self.bits() != 0
    }
}

/// No instance has more lanes than this.
pub(crate) const MAX_LANES: usize = 32;

/// 1.5 × 2^23: added to a small number, the sum has no room for a fraction.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// ggml's `nearest_int` on any input: exact up to 4194303, and beyond it (where ggml only asserts) the same bits.
#[inline(always)]
pub(crate) fn nearest_int<F: Floats>(value: F) -> F::Int {
    let bits = (value + F::splat(MAGIC)).bits();
    (bits & F::Int::splat(0x007f_ffff)) - F::Int::splat(0x0040_0000)
}

/// One lane: the f16 bits of a value.
#[inline(always)]
pub(crate) fn half_bits(value: f32) -> u16 {
    Lanes::<1>([value]).to_half().0[0] as u16
}

/// One lane: the value of f16 bits.
#[inline(always)]
pub(crate) fn half_value(bits: [u8; 2]) -> f32 {
    Lanes::<1>::from_half(Lanes([i32::from(u16::from_le_bytes(bits))])).0[0]
}

/// An instance of the codecs: which instructions they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
    /// AVX2, FMA and F16C.
    Avx2,
    /// No instruction beyond the target's baseline: plain arrays, on any machine.
    Plain,
    /// One lane: the scalar program, the specification of the others. Never chosen by itself.
    OneLane,
}

impl Path {
    /// Every path, the fastest first.
    pub const ALL: [Path; 4] = [Path::Avx512, Path::Avx2, Path::Plain, Path::OneLane];

    /// The name that `DOWNCAST_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Path::Avx512 => "avx512",
            Path::Avx2 => "avx2",
            Path::Plain => "plain",
            Path::OneLane => "one-lane",
        }
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Path::Avx512 | Path::Avx2 => false,
            Path::Plain | Path::OneLane => true,
        }
    }

    /// The path that the environment variable `DOWNCAST_SIMD` forces, if it is set. Behind a colon it may name a kernel of
    /// that path, see [`Path::forced_kernel`].
    ///
    /// # Errors
    /// Where it names no path, or one that this machine cannot run.
    pub fn forced() -> Result<Option<Path>> {
        let Some(name) = std::env::var_os("DOWNCAST_SIMD") else { return Ok(None) };
        let name = name.to_string_lossy();
        let path: Path =
            name.split(':').next().unwrap_or_default().parse().map_err(|e: Error| {
                e.about("DOWNCAST_SIMD").help("unset it, or use avx512, avx2, plain or one-lane")
            })?;
        if !path.is_available() {
            let message = format!("DOWNCAST_SIMD asks for {path}, which this machine does not have");
            return Err(Error::usage(message).help("unset it"));
        }
        Ok(Some(path))
    }

    /// What `DOWNCAST_SIMD` names behind the path and a colon: the kernel of products in integers.
    pub fn forced_kernel() -> Option<String> {
        let name = std::env::var("DOWNCAST_SIMD").ok()?;
        name.split_once(':').map(|(_, kernel)| kernel.to_owned())
    }

    /// The path that codecs take: the [forced](Path::forced) one where that is valid, else the fastest. Decided once.
    pub fn current() -> Path {
        static CURRENT: OnceLock<Path> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let fastest = || Path::ALL.into_iter().find(|path| path.is_available());
            Path::forced().ok().flatten().or_else(fastest).unwrap_or(Path::Plain)
        })
    }

    /// Runs the instance of `task` for this path; the plain one where this machine lacks it.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 if self.is_available() => {
                // SAFETY: the features were found at run time.
                unsafe { run_avx512(task) }
            }
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 if self.is_available() => {
                // SAFETY: the features were found at run time.
                unsafe { run_avx2(task) }
            }
            Path::OneLane => task.run::<Lanes<1>>(),
            _ => task.run::<Lanes<1, f32, 4>>(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Path {
    type Err = Error;

    fn from_str(name: &str) -> Result<Path> {
        Path::ALL.into_iter().find(|path| path.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            Error::usage(format!("there is no SIMD path \"{name}\"")).help("use avx512, avx2, plain or one-lane")
        })
    }
}

/// Work that is generic over the lanes. `run` is `#[inline(always)]`.
pub(crate) trait Task {
    fn run<F: Floats>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<T: Task>(task: T) {
    task.run::<x86::F512>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<T: Task>(task: T) {
    task.run::<x86::F256>();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check that is run for the narrow and the wide lanes of every path of this machine.
    trait Check {
        fn check<F: Floats>();
    }

    struct Both<C>(std::marker::PhantomData<C>);

    impl<C: Check> Task for Both<C> {
        #[inline(always)]
        fn run<F: Floats>(self) {
            C::check::<F>();
            C::check::<F::Wide>();
        }
    }

    fn on_all_paths<C: Check>() {
        for path in Path::ALL {
            if path.is_available() {
                path.run(Both::<C>(std::marker::PhantomData));
            } else {
                eprintln!("skipped: this machine has no {path}");
            }
        }
    }

    #[inline(always)]
    fn lanes_of<F: Floats>(of: impl Fn(usize) -> f32) -> F {
        let mut lanes = [0.0; MAX_LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = of(i);
        }
        F::load(&lanes)
    }

    #[inline(always)]
    fn stored<I: Ints>(int: I) -> Vec<i32> {
        let mut lanes = vec![0; MAX_LANES];
        int.store(&mut lanes);
        lanes.truncate(I::N);
        lanes
    }

    #[test]
    fn halves_equal_those_of_the_crate_half() {
        struct Halves;
        impl Check for Halves {
            fn check<F: Floats>() {
                for first in (0..=0xffffu32).step_by(F::N) {
                    let mut words = [0; MAX_LANES];
                    for (i, word) in words.iter_mut().enumerate() {
                        *word = ((first + i as u32) & 0xffff) as i32;
                    }
                    let values = F::from_half(F::Int::load(&words));
                    let mut bits = [0.0; MAX_LANES];
                    values.store(&mut bits);
                    let back = stored(values.to_half());
                    // Ties and their neighbours: the half, plus half a unit of its last place.
                    let above = F::from_bits(values.bits() + F::Int::splat(0x1000));
                    let rounded = stored(above.to_half());
                    let mut ties = [0.0; MAX_LANES];
                    above.store(&mut ties);
                    for i in 0..F::N {
                        let half = half::f16::from_bits(words[i] as u16);
                        if half.is_nan() {
                            assert!(bits[i].is_nan());
                            continue;
                        }
                        assert_eq!(bits[i].to_bits(), half.to_f32_const().to_bits(), "{half:?}");
                        assert_eq!(back[i], words[i], "{half:?}");
                        if !ties[i].is_nan() {
                            assert_eq!(rounded[i], i32::from(half::f16::from_f32_const(ties[i]).to_bits()), "{half:?}");
                        }
                    }
                }
            }
        }
        on_all_paths::<Halves>();
    }

    #[test]
    fn rounding_goes_where_it_should() {
        struct Rounding;
        impl Check for Rounding {
            fn check<F: Floats>() {
                let value = |i: usize| (i as f32 - 7.0) * 0.25 + if i.is_multiple_of(3) { 1e-4 } else { 0.0 };
                let lanes = lanes_of::<F>(value);
                let mut even = [0.0; MAX_LANES];
                lanes.nearest().store(&mut even);
                let (ints, away) = (stored(nearest_int(lanes)), stored(lanes.round()));
                for i in 0..F::N {
                    assert_eq!(even[i], value(i).round_ties_even());
                    assert_eq!(ints[i] as f32, even[i]);
                    assert_eq!(away[i] as f32, value(i).round());
                }
                for odd in [f32::NAN, f32::INFINITY, -f32::INFINITY, 3e9, -3e9] {
                    assert_eq!(stored(F::splat(odd).truncate())[F::N - 1], i32::MIN, "{odd}");
                }
                assert_eq!(stored(nearest_int(F::splat(f32::NAN)))[0], 0);
                assert_eq!(stored(nearest_int(F::splat(f32::INFINITY)))[0], -0x0040_0000);
            }
        }
        on_all_paths::<Rounding>();
    }

    #[test]
    fn blocks_become_a_struct_of_arrays() {
        struct Transposing;
        impl Check for Transposing {
            fn check<F: Floats>() {
                const LEN: usize = 37;
                let from: Vec<f32> = (0..MAX_LANES * 41 + LEN).map(|i| i as f32).collect();
                let mut starts = [0; MAX_LANES];
                for (lane, start) in starts.iter_mut().enumerate() {
                    *start = lane * 41 + lane % 3;
                }
                let mut out = [F::splat(-1.0); LEN];
                F::transpose(&from, &starts, &mut out);
                for (k, out) in out.iter().enumerate() {
                    let mut lanes = [0.0; MAX_LANES];
                    out.store(&mut lanes);
                    for lane in 0..F::N {
                        assert_eq!(lanes[lane], (starts[lane] + k) as f32);
                    }
                }
            }
        }
        on_all_paths::<Transposing>();
    }

    #[test]
    fn names_of_paths_are_read_back() {
        for path in Path::ALL {
            assert_eq!(path.name().to_uppercase().parse::<Path>().ok(), Some(path));
        }
        assert!("sse".parse::<Path>().is_err());
        assert!(Path::current().is_available());
    }
}
