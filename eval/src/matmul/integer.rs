//! Products in integers, as programs that run quantized models take them.
//!
//! The activations of a token are rounded to 8 bits with a scale for each 32 or 256 of them ([`quantize::Rounded`]); a
//! type's levels are 8 bits as well ([`quantize::Levels`]), with a scale for each group of 16 or 32. The products of a
//! group add up in integers, where no order matters; then the sum goes to f32, times the activations' scale, times the
//! weights'. Minima meet the group's sum of activations. Weights are bytes without a sign, or with one where a machine
//! multiplies such ones alone, which are less by 128: a group's sum begins at minus their offset times the group's sum of
//! codes.
//!
//! [`Pair`] is what differs between machines: how four bytes of each lane meet four bytes of an activation. The plain one
//! is the specification, the others give the same bits.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

use gguf::{Error, Result};
use quantize::{Levels, SimdPath};
use rayon::prelude::*;

use super::kernel::{self, Lanes, MOST_ROWS, WIDE};
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
use super::tiles;
use super::{Edge, PANEL_ROWS, Target, View, aligned, pack};
use crate::weights::Matrix;

/// Columns that are multiplied before the next ones: their panel stays in the second-level cache.
const BLOCK_COLS: usize = 1024;

/// The largest code of weights whose products with two activations fit 16 bits: 2 × 129 × 127 < 2¹⁵.
const NARROW_CODE: u8 = 129;

thread_local! {
    static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers::new()) };
}

/// What a thread needs for a panel.
struct Buffers {
    /// As they are stored: codes, scales and minima of a strip of rows.
    codes: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
    /// In the order in which the kernel reads them.
    panel: Vec<u32>,
    panel_scales: Vec<f32>,
    panel_mins: Vec<f32>,
}

impl Buffers {
    const fn new() -> Buffers {
        Buffers {
            codes: Vec::new(),
            scales: Vec::new(),
            mins: Vec::new(),
            panel: Vec::new(),
            panel_scales: Vec::new(),
            panel_mins: Vec::new(),
        }
    }
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers::new()
    }
}

/// Rounded activations in the order in which the kernel reads them, block of columns by block, tile by tile.
struct Activations {
    /// Four codes each, `[cols / 4][tokens of a tile]`.
    codes: Vec<u32>,
    /// `[groups][tokens of a tile]`, as the next two.
    scales: Vec<f32>,
    /// Where the sum of a group begins.
    starts: Vec<i32>,
    /// What minima are multiplied with.
    sums: Vec<f32>,
}

/// `x · wᵀ` in integers; `y` has room for `tokens` rows of `rows` values.
pub(super) fn wide(
    kernel: &Kernel,
    levels: &Levels,
    x: &[f32],
    w: &Matrix<'_>,
    bytes: &[u8],
    rows: Range<usize>,
    y: Target,
) -> Result<()> {
    let (cols, out, group) = (w.cols(), rows.len(), levels.group);
    let tokens = x.len() / cols;
    let named = |e: Error| e.in_tensor(w.name());
    let ordered = activations(kernel, levels, x, cols).map_err(named)?;
    let row_bytes = bytes.len() / w.rows().max(1);
    let rows_each = PANEL_ROWS.min(out.div_ceil(4 * rayon::current_num_threads())).next_multiple_of(kernel.rows);
    (0..out.div_ceil(rows_each)).into_par_iter().try_for_each(|i| {
        let part = i * rows_each..((i + 1) * rows_each).min(out);
        let mut buffers = BUFFERS.take();
        let Buffers { codes, scales, mins, panel, panel_scales, panel_mins } = &mut buffers;
        let padded = part.len().next_multiple_of(kernel.rows);
        resize(panel, padded * cols / 4);
        let panel_scales = aligned(panel_scales, padded * cols / group);
        let panel_mins = aligned(panel_mins, if levels.mins { padded * cols / group } else { 0 });
        for at in part.clone().step_by(kernel.rows) {
            let strip = at..(at + kernel.rows).min(part.end);
            let (n, groups) = (strip.len(), strip.len() * cols / group);
            resize(codes, n * cols);
            resize(scales, groups);
            resize(mins, if levels.mins { groups } else { 0 });
            let stored = &bytes[(rows.start + strip.start) * row_bytes..(rows.start + strip.end) * row_bytes];
            levels.unpack(stored, codes, scales, mins).map_err(named)?;
            for col in (0..cols).step_by(BLOCK_COLS) {
                let block = BLOCK_COLS.min(cols - col);
                let within = at - part.start;
                let to = &mut panel[(padded * col + within * block) / 4..][..kernel.rows * block / 4];
                strip_of_words(&codes[col..], cols, n, block / 4, kernel.rows, to);
                if kernel.signed {
                    to.iter_mut().for_each(|four| *four ^= 0x8080_8080);
                }
                let place = |from: &[f32], to: &mut [f32]| {
                    let to = &mut to[(padded * col + within * block) / group..][..kernel.rows * block / group];
                    let view = View::new(&from[col / group..], cols / group, 1);
                    pack(view, n, block / group, 1.0, kernel.rows, Edge::Zeros, to);
                };
                place(scales, panel_scales);
                if levels.mins {
                    place(mins, panel_mins);
                }
            }
        }
        for col in (0..cols).step_by(BLOCK_COLS) {
            let block = BLOCK_COLS.min(cols - col);
            for token in (0..tokens).step_by(kernel.tokens) {
                let here = kernel.tokens.min(tokens - token);
                let x_at = tokens * col + token * block;
                for row in (0..part.len()).step_by(kernel.rows) {
                    let w_at = padded * col + row * block;
                    let tile = Tile {
                        tokens: here,
                        groups: block / group,
                        steps: group / 4,
                        alike: levels.rounded.block() / group,
                        narrow: levels.most <= NARROW_CODE,
                        x: ordered.codes[x_at / 4..][..here * block / 4].as_ptr(),
                        x_scales: ordered.scales[x_at / group..][..here * block / group].as_ptr(),
                        x_starts: ordered.starts[x_at / group..][..here * block / group].as_ptr(),
                        x_sums: ordered.sums[x_at / group..][..here * block / group].as_ptr(),
                        w: panel[w_at / 4..][..kernel.rows * block / 4].as_ptr().cast(),
                        w_scales: panel_scales[w_at / group..][..kernel.rows * block / group].as_ptr(),
                        w_mins: levels.mins.then(|| panel_mins[w_at / group..][..kernel.rows * block / group].as_ptr()),
                        // SAFETY: within the room for `tokens` rows of `out` values.
                        y: unsafe { y.get().add(token * out + part.start + row) },
                        ld: out,
                        rows: kernel.rows.min(part.len() - row),
                        add: col > 0,
                    };
                    // SAFETY: the operands are as long as the slices just taken; this task alone writes these columns.
                    unsafe { (kernel.tile)(tile) };
                }
            }
        }
        BUFFERS.set(buffers);
        Ok(())
    })
}

/// Rounds the activations of all tokens.
fn activations(kernel: &Kernel, levels: &Levels, x: &[f32], cols: usize) -> Result<Activations> {
    let tokens = x.len() / cols;
    let (group, groups) = (levels.group, cols / levels.group);
    let alike = levels.rounded.block() / group;
    if !cols.is_multiple_of(levels.rounded.block()) {
        return Err(Error::input(format!(
            "row length {cols} is not a multiple of the block size {}",
            levels.rounded.block()
        )));
    }
    let mut codes = vec![0_i8; x.len()];
    let mut scales = vec![0.0; tokens * groups];
    let mut sums = vec![0.0; tokens * groups];
    x.par_chunks(cols)
        .zip(codes.par_chunks_mut(cols))
        .zip(scales.par_chunks_mut(groups).zip(sums.par_chunks_mut(groups)))
        .with_min_len(4)
        .try_for_each(|((x, codes), (scales, sums))| levels.round(x, codes, scales, sums))?;
    let mut ordered = Activations {
        codes: vec![0; x.len() / 4],
        scales: vec![0.0; tokens * groups],
        starts: vec![0; tokens * groups],
        sums: vec![0.0; tokens * groups],
    };
    let words = ordered.codes.par_chunks_mut(tokens * BLOCK_COLS / 4);
    let block_groups = tokens * BLOCK_COLS / group;
    let others = ordered
        .scales
        .par_chunks_mut(block_groups)
        .zip(ordered.starts.par_chunks_mut(block_groups).zip(ordered.sums.par_chunks_mut(block_groups)));
    words.zip(others).enumerate().for_each(|(i, (words, (to_scales, (starts, to_sums))))| {
        let col = i * BLOCK_COLS;
        let block = BLOCK_COLS.min(cols - col);
        for token in (0..tokens).step_by(kernel.tokens) {
            let here = kernel.tokens.min(tokens - token);
            let bytes = bytes_of(&codes[token * cols + col..]);
            let to = &mut words[token * block / 4..][..here * block / 4];
            if kernel.by_token {
                strip_of_rows(bytes, cols, to, block / 4);
            } else {
                strip_of_words(bytes, cols, here, block / 4, here, to);
            }
            for t in 0..here {
                for g in 0..block / group {
                    let from = (token + t) * groups + col / group + g;
                    let to = token * block / group + g * here + t;
                    let of = (token + t) * cols + col + g * group;
                    let sum: i32 = codes[of..of + group].iter().map(|&code| i32::from(code)).sum();
                    to_scales[to] = scales[from];
                    // Where groups share a scale, it is applied to all that they add up to.
                    to_sums[to] = if alike > 1 { sum as f32 } else { sums[from] };
                    starts[to] = (if kernel.signed { 128 } else { 0 } - i32::from(levels.offset)) * sum;
                }
            }
        }
    });
    Ok(ordered)
}

fn resize<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    buffer.resize(len, T::default());
}

fn bytes_of(codes: &[i8]) -> &[u8] {
    // SAFETY: both are one byte of any value.
    unsafe { std::slice::from_raw_parts(codes.as_ptr().cast(), codes.len()) }
}

/// `rows` rows of codes, `stride` apart, as columns of words of four codes: `to[word · width + row]`; zeros beyond them.
fn strip_of_words(codes: &[u8], stride: usize, rows: usize, words: usize, width: usize, to: &mut [u32]) {
    let word = |row: usize, at: usize| {
        let at = row * stride + 4 * at;
        u32::from_ne_bytes([codes[at], codes[at + 1], codes[at + 2], codes[at + 3]])
    };
    let fours = rows / 4 * 4;
    let whole = words / 4 * 4;
    assert!(rows == 0 || codes.len() >= (rows - 1) * stride + 4 * words);
    assert!(to.len() >= words * width && width >= rows);
    for row in (0..fours).step_by(4) {
        for at in (0..whole).step_by(4) {
            // SAFETY: each row holds `words` words, and `to` that many columns of `width`, as asserted. Moving numbers
            // as f32 does not change their bits.
            unsafe {
                let four: [[f32; 4]; 4] = std::array::from_fn(|i| {
                    codes.as_ptr().add((row + i) * stride + 4 * at).cast::<[f32; 4]>().read_unaligned()
                });
                for (i, column) in kernel::transposed(four).into_iter().enumerate() {
                    to.as_mut_ptr().add((at + i) * width + row).cast::<[f32; 4]>().write_unaligned(column);
                }
            }
        }
    }
    for row in 0..rows {
        for at in if row < fours { whole..words } else { 0..words } {
            to[at * width + row] = word(row, at);
        }
    }
    if rows < width {
        to.chunks_mut(width).take(words).for_each(|column| column[rows..].fill(0));
    }
}

/// Rows of codes, `stride` apart, as rows of `words` words of four codes.
fn strip_of_rows(codes: &[u8], stride: usize, to: &mut [u32], words: usize) {
    for (codes, to) in codes.chunks(stride).zip(to.chunks_mut(words)) {
        let (fours, _) = codes.as_chunks::<4>();
        to.iter_mut().zip(fours).for_each(|(to, four)| *to = u32::from_ne_bytes(*four));
    }
}

/// One tile.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) tokens: usize,
    pub(super) groups: usize,
    /// Words of four codes in a group.
    pub(super) steps: usize,
    /// Groups that follow each other and have the same scale of activations.
    pub(super) alike: usize,
    /// Whether products of two neighbours fit 16 bits.
    narrow: bool,
    pub(super) x: *const u32,
    pub(super) x_scales: *const f32,
    pub(super) x_starts: *const i32,
    pub(super) x_sums: *const f32,
    pub(super) w: *const u8,
    pub(super) w_scales: *const f32,
    pub(super) w_mins: Option<*const f32>,
    y: *mut f32,
    ld: usize,
    pub(super) rows: usize,
    add: bool,
}

impl Tile {
    /// Puts a token's sums from a row on where they belong.
    ///
    /// # Safety
    /// `y` has room for the tile.
    #[inline(always)]
    pub(super) unsafe fn finish<V: Lanes>(&self, token: usize, row: usize, sums: &[V; WIDE]) {
        let rows = self.rows - row;
        // SAFETY: the caller's promise. What is not a full row goes through a buffer of one.
        unsafe {
            let y = self.y.add(token * self.ld + row);
            if rows >= WIDE * V::N {
                kernel::store(sums, y, self.add);
            } else {
                let mut full = [0.0; MOST_ROWS];
                if self.add {
                    full.as_mut_ptr().copy_from_nonoverlapping(y, rows);
                }
                kernel::store(sums, full.as_mut_ptr(), self.add);
                y.copy_from_nonoverlapping(full.as_ptr(), rows);
            }
        }
    }
}

/// The loops as compiled for one kind of machine.
pub(crate) struct Kernel {
    /// What `DOWNCAST_SIMD` calls it.
    name: &'static str,
    tokens: usize,
    rows: usize,
    /// Whether weights are read with a sign.
    signed: bool,
    /// Whether a tile's activations are stored token by token, not four codes of each in turn.
    by_token: bool,
    tile: unsafe fn(Tile),
}

const PLAIN: Kernel = Kernel { name: "plain", tokens: 4, rows: 8, signed: false, by_token: false, tile: tile_plain };
#[cfg(target_arch = "aarch64")]
const NEON_DOT: Kernel =
    Kernel { name: "neon-dot", tokens: 4, rows: 8, signed: true, by_token: false, tile: tile_neon_dot };
#[cfg(target_arch = "x86_64")]
const AVX2: Kernel = Kernel { name: "avx2", tokens: 4, rows: 16, signed: false, by_token: false, tile: tile_avx2 };
#[cfg(target_arch = "x86_64")]
const AVX_VNNI: Kernel =
    Kernel { name: "avx-vnni", tokens: 4, rows: 16, signed: false, by_token: false, tile: tile_avx_vnni };
#[cfg(target_arch = "x86_64")]
const AVX512_VNNI: Kernel =
    Kernel { name: "avx512-vnni", tokens: 6, rows: 32, signed: false, by_token: false, tile: tile_avx512_vnni };
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const AMX: Kernel = Kernel {
    name: "amx",
    tokens: tiles::TOKENS,
    rows: MOST_ROWS,
    signed: false,
    by_token: true,
    tile: tiles::tile_amx,
};

/// Every kernel that this machine can run on a path, the fastest first.
pub(super) fn kernels_for(path: SimdPath) -> Vec<&'static Kernel> {
    let mut kernels: Vec<&'static Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma");
        if path == SimdPath::Avx512 && path.is_available() && has!("avx512vnni") {
            kernels.push(&AVX512_VNNI);
            // Each group's sums go through memory to be scaled: 1.5 times the time of the whole program with VNNI.
            #[cfg(target_os = "linux")]
            if tiles::is_available() {
                kernels.push(&AMX);
            }
        }
        if matches!(path, SimdPath::Avx512 | SimdPath::Avx2) && avx2 {
            if has!("avxvnni") {
                kernels.push(&AVX_VNNI);
            }
            kernels.push(&AVX2);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if path == SimdPath::Plain && std::arch::is_aarch64_feature_detected!("dotprod") {
        kernels.push(&NEON_DOT);
    }
    let _ = path;
    kernels.push(&PLAIN);
    kernels
}

/// The kernel that `DOWNCAST_SIMD` forces behind its path (`avx512:avx512-vnni`), if it does.
///
/// # Errors
/// A kernel that the path does not have on this machine.
pub(crate) fn forced() -> Result<Option<&'static Kernel>> {
    let Some(name) = SimdPath::forced_kernel() else { return Ok(None) };
    let path = SimdPath::current();
    let kernels = kernels_for(path);
    kernels.iter().find(|kernel| kernel.name.eq_ignore_ascii_case(&name)).map(|kernel| Some(*kernel)).ok_or_else(|| {
        let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name).collect();
        Error::usage(format!("DOWNCAST_SIMD asks for the kernel {name}, which {path} does not have on this machine"))
            .help(format!("it has {}", names.join(", ")))
    })
}

/// The kernel that the program runs: the [forced](forced) one where that is valid, else the fastest of the path.
pub(super) fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<&Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| forced().ok().flatten().unwrap_or_else(|| kernels_for(SimdPath::current())[0]))
}

/// Lanes of f32 with as many of i32.
pub(super) trait Pair: Lanes {
    type Int: Copy;
    fn splat_int(value: i32) -> Self::Int;
    /// # Safety
    /// `4 N` bytes can be read.
    unsafe fn load_codes(from: *const u8) -> Self::Int;
    /// To each lane's sum the products of its four unsigned bytes of `w` with the four signed ones of `x`. `narrow`: two
    /// neighbouring products fit 16 bits.
    fn dot(sum: Self::Int, w: Self::Int, x: Self::Int, narrow: bool) -> Self::Int;
    /// As numbers, rounded to the nearest.
    fn of_int(int: Self::Int) -> Self;
    fn mul(self, other: Self) -> Self;
}

impl Pair for [f32; 4] {
    type Int = [i32; 4];
    #[inline(always)]
    fn splat_int(value: i32) -> [i32; 4] {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load_codes(from: *const u8) -> [i32; 4] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    fn dot(sum: [i32; 4], w: [i32; 4], x: [i32; 4], _: bool) -> [i32; 4] {
        std::array::from_fn(|i| {
            let (w, x) = (w[i].to_ne_bytes(), x[i].to_ne_bytes());
            (0..4).fold(sum[i], |sum, k| sum + i32::from(w[k]) * i32::from(x[k] as i8))
        })
    }
    #[inline(always)]
    fn of_int(int: [i32; 4]) -> Self {
        int.map(|i| i as f32)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, Pair};

    // Only the shells below name these types, after the features were found: that is what makes the calls sound.

    impl Pair for __m256 {
        type Int = __m256i;
        #[inline(always)]
        fn splat_int(value: i32) -> __m256i {
            // SAFETY: the features are there, see above; so in all that follow.
            unsafe { _mm256_set1_epi32(value) }
        }
        #[inline(always)]
        unsafe fn load_codes(from: *const u8) -> __m256i {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        fn dot(sum: __m256i, w: __m256i, x: __m256i, narrow: bool) -> __m256i {
            // SAFETY: as above.
            unsafe {
                if narrow {
                    let pairs = _mm256_maddubs_epi16(w, x);
                    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                }
                let (w_even, w_odd) = (_mm256_and_si256(w, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(w, 8));
                let (x_even, x_odd) = (_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8));
                let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w_even, x_even));
                _mm256_add_epi32(sum, _mm256_madd_epi16(w_odd, x_odd))
            }
        }
        #[inline(always)]
        fn of_int(int: __m256i) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtepi32_ps(int) }
        }
        #[inline(always)]
        fn mul(self, other: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(self, other) }
        }
    }

    impl Pair for __m512 {
        type Int = __m512i;
        #[inline(always)]
        fn splat_int(value: i32) -> __m512i {
            // SAFETY: as above.
            unsafe { _mm512_set1_epi32(value) }
        }
        #[inline(always)]
        unsafe fn load_codes(from: *const u8) -> __m512i {
            // SAFETY: as above, and the caller's promise.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        fn dot(sum: __m512i, w: __m512i, x: __m512i, _: bool) -> __m512i {
            // SAFETY: as above.
            unsafe { _mm512_dpbusd_epi32(sum, w, x) }
        }
        #[inline(always)]
        fn of_int(int: __m512i) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_cvtepi32_ps(int) }
        }
        #[inline(always)]
        fn mul(self, other: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(self, other) }
        }
    }

    /// The lanes of AVX2 on a machine that has the instruction for bytes.
    #[derive(Clone, Copy)]
    pub(super) struct Vnni(__m256);

    impl Lanes for Vnni {
        const N: usize = 8;
        #[inline(always)]
        fn zero() -> Self {
            Vnni(__m256::zero())
        }
        #[inline(always)]
        fn splat(value: f32) -> Self {
            Vnni(__m256::splat(value))
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            Vnni(unsafe { __m256::load(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { self.0.store(to) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            Vnni(self.0.add_product(a.0, b.0))
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Vnni(Lanes::add(self.0, other.0))
        }
        #[inline(always)]
        fn prefetch(place: *const f32) {
            __m256::prefetch(place);
        }
    }

    impl Pair for Vnni {
        type Int = __m256i;
        #[inline(always)]
        fn splat_int(value: i32) -> __m256i {
            __m256::splat_int(value)
        }
        #[inline(always)]
        unsafe fn load_codes(from: *const u8) -> __m256i {
            // SAFETY: the caller's promise.
            unsafe { __m256::load_codes(from) }
        }
        #[inline(always)]
        fn dot(sum: __m256i, w: __m256i, x: __m256i, _: bool) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_dpbusd_avx_epi32(sum, w, x) }
        }
        #[inline(always)]
        fn of_int(int: __m256i) -> Self {
            Vnni(__m256::of_int(int))
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Vnni(self.0.mul(other.0))
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::{Lanes, Pair};

    /// Lanes of f32 beside the instruction that multiplies bytes with a sign. Only the shell below names it, after the
    /// feature was found: that is what makes the calls sound.
    #[derive(Clone, Copy)]
    pub(super) struct Dot([f32; 4]);

    impl Lanes for Dot {
        const N: usize = 4;
        #[inline(always)]
        fn zero() -> Self {
            Dot(<[f32; 4]>::zero())
        }
        #[inline(always)]
        fn splat(value: f32) -> Self {
            Dot(<[f32; 4]>::splat(value))
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            Dot(unsafe { <[f32; 4]>::load(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { self.0.store(to) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            Dot(self.0.add_product(a.0, b.0))
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Dot(self.0.add(other.0))
        }
        #[inline(always)]
        fn prefetch(place: *const f32) {
            <[f32; 4]>::prefetch(place);
        }
    }

    impl Pair for Dot {
        type Int = int32x4_t;
        #[inline(always)]
        fn splat_int(value: i32) -> int32x4_t {
            // SAFETY: every machine of this kind has it; so in all that follow but the sum of products.
            unsafe { vdupq_n_s32(value) }
        }
        #[inline(always)]
        unsafe fn load_codes(from: *const u8) -> int32x4_t {
            // SAFETY: as above, and the caller's promise.
            unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
        }
        #[inline(always)]
        fn dot(sum: int32x4_t, w: int32x4_t, x: int32x4_t, _: bool) -> int32x4_t {
            let mut sum = sum;
            // SAFETY: the feature is there, see above; registers alone are read and written.
            unsafe {
                asm!(
                    ".arch_extension dotprod",
                    "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                    sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }
        #[inline(always)]
        fn of_int(int: int32x4_t) -> Self {
            let mut values = [0.0; 4];
            // SAFETY: as above; four values fit.
            unsafe { vst1q_f32(values.as_mut_ptr(), vcvtq_f32_s32(int)) };
            Dot(values)
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Dot(self.0.mul(other.0))
        }
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile_neon_dot(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe { up_to_four::<arm::Dot>(tile) }
}

unsafe fn tile_plain(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe { up_to_four::<[f32; 4]>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe { up_to_four::<std::arch::x86_64::__m256>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn tile_avx_vnni(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe { up_to_four::<x86::Vnni>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_avx512_vnni(tile: Tile) {
    type V = std::arch::x86_64::__m512;
    // SAFETY: the caller's promise.
    unsafe {
        match tile.tokens {
            5 => sized::<V, 5>(tile),
            6 => sized::<V, 6>(tile),
            _ => up_to_four::<V>(tile),
        }
    }
}

/// # Safety
/// As a tile, for at most four tokens.
#[inline(always)]
unsafe fn up_to_four<V: Pair>(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.tokens {
            1 => sized::<V, 1>(tile),
            2 => sized::<V, 2>(tile),
            3 => sized::<V, 3>(tile),
            _ => sized::<V, 4>(tile),
        }
    }
}

/// # Safety
/// For exactly `T` tokens, with operands of the sizes of the tile.
#[inline(always)]
unsafe fn sized<V: Pair, const T: usize>(tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match (tile.narrow, tile.w_mins) {
            (true, Some(mins)) => alike::<V, T, true, true>(tile, mins),
            (true, None) => alike::<V, T, true, false>(tile, std::ptr::null()),
            (false, Some(mins)) => alike::<V, T, false, true>(tile, mins),
            (false, None) => alike::<V, T, false, false>(tile, std::ptr::null()),
        }
    }
}

/// # Safety
/// As [`grouped`].
#[inline(always)]
unsafe fn alike<V: Pair, const T: usize, const NARROW: bool, const MINS: bool>(tile: Tile, w_mins: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.alike {
            1 => grouped::<V, T, NARROW, MINS, false>(tile, w_mins),
            _ => grouped::<V, T, NARROW, MINS, true>(tile, w_mins),
        }
    }
}

/// `ALIKE`: scales of activations are those of several groups, and meet what these add up to.
///
/// # Safety
/// As [`sized`]; `w_mins` is as long as the scales where `MINS` says so.
#[inline(always)]
unsafe fn grouped<V: Pair, const T: usize, const NARROW: bool, const MINS: bool, const ALIKE: bool>(
    tile: Tile,
    mut w_mins: *const f32,
) {
    let Tile { groups, steps, alike, mut x, mut x_scales, mut x_starts, mut x_sums, mut w, mut w_scales, .. } = tile;
    let mut sums = [[V::zero(); WIDE]; T];
    // SAFETY: `groups` times `steps` words of `T` tokens and of a tile's rows, `groups` scales and sums of each: the
    // caller's promise.
    unsafe {
        for _ in 0..groups / alike {
            let mut parts = if ALIKE { [[V::zero(); WIDE]; T] } else { sums };
            for _ in 0..alike {
                let mut ints = [[V::splat_int(0); WIDE]; T];
                for (t, ints) in ints.iter_mut().enumerate() {
                    *ints = [V::splat_int(*x_starts.add(t)); WIDE];
                }
                for _ in 0..steps {
                    let weights: [V::Int; WIDE] = [V::load_codes(w), V::load_codes(w.add(4 * V::N))];
                    for (t, ints) in ints.iter_mut().enumerate() {
                        let x = V::splat_int(*x.add(t) as i32);
                        for (sum, w) in ints.iter_mut().zip(weights) {
                            *sum = V::dot(*sum, w, x, NARROW);
                        }
                    }
                    x = x.add(T);
                    w = w.add(WIDE * 4 * V::N);
                }
                let scales = kernel::load_row::<V>(w_scales);
                for (t, (sums, ints)) in parts.iter_mut().zip(ints).enumerate() {
                    for ((sum, int), w) in sums.iter_mut().zip(ints).zip(scales) {
                        let int = V::of_int(int);
                        let int = if ALIKE { int } else { int.mul(V::splat(*x_scales.add(t))) };
                        *sum = sum.add_product(int, w);
                    }
                }
                if MINS {
                    let mins = kernel::load_row::<V>(w_mins);
                    for (t, sums) in parts.iter_mut().enumerate() {
                        let all = V::splat(*x_sums.add(t));
                        for (sum, min) in sums.iter_mut().zip(mins) {
                            *sum = sum.add_product(all, min);
                        }
                    }
                    w_mins = w_mins.add(WIDE * V::N);
                }
                x_starts = x_starts.add(T);
                x_sums = x_sums.add(T);
                w_scales = w_scales.add(WIDE * V::N);
            }
            if ALIKE {
                for (t, (sums, parts)) in sums.iter_mut().zip(parts).enumerate() {
                    let scale = V::splat(*x_scales.add(t));
                    for (sum, part) in sums.iter_mut().zip(parts) {
                        *sum = sum.add_product(part, scale);
                    }
                }
            } else {
                sums = parts;
            }
            x_scales = x_scales.add(alike * T);
        }
        for (t, sums) in sums.iter().enumerate() {
            tile.finish(t, 0, sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use gguf::{Shape, TensorInfo};
    use quantize::LEVELS;

    use super::*;

    const AMX_EMULATED: Kernel = Kernel {
        name: "amx, emulated",
        tokens: tiles::TOKENS,
        rows: MOST_ROWS,
        signed: false,
        by_token: true,
        tile: tiles::tile_emulated,
    };

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn product(
        kernel: &Kernel,
        levels: &Levels,
        x: &[f32],
        w: &Matrix<'_>,
        bytes: &[u8],
        rows: Range<usize>,
    ) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / w.cols() * rows.len()];
        wide(kernel, levels, x, w, bytes, rows, Target(y.as_mut_ptr())).unwrap();
        y
    }

    #[test]
    fn every_kernel_gives_the_bits_of_the_plain_one() {
        let mut run = BTreeSet::from(["plain"]);
        use gguf::TensorType::{IQ4_NL, Q4_K, Q6_K, Q8_0};
        // Without columns: rows of a single block, which is a single group for some.
        for (tokens, rows, cols) in [(13, 41, Some(256)), (1, 1, Some(256)), (19, 33, Some(1280)), (3, 35, None)] {
            let some = LEVELS.iter().filter(|l| rows > 33 || [IQ4_NL, Q4_K, Q6_K, Q8_0].contains(&l.ty()));
            for levels in some {
                let cols = cols.unwrap_or(levels.rounded.block().max(levels.ty().block_len() as usize));
                let x = numbers(tokens * cols, 3);
                let values = numbers(rows * cols, 4);
                let importance = vec![1.0; cols];
                let shape = Shape::new(&[cols as u64, rows as u64]).unwrap();
                let info = TensorInfo::new("w", shape, levels.ty()).unwrap();
                let mut bytes = vec![0; info.bytes() as usize];
                quantize::encode_rows(levels.ty(), &values, cols, Some(&importance), &mut bytes).unwrap();
                let w = Matrix::from_bytes(&info, bytes.clone().into()).unwrap();
                let want = product(&PLAIN, levels, &x, &w, &bytes, 0..rows);
                // Against f64 on the rounded numbers.
                let groups = cols / levels.group;
                let (mut codes, mut scales, mut sums) = (vec![0; cols], vec![0.0; groups], vec![0.0; groups]);
                let decoded = w.to_f32().unwrap();
                for (x, y) in x.chunks(cols).zip(want.chunks(rows)) {
                    levels.round(x, &mut codes, &mut scales, &mut sums).unwrap();
                    for (w, y) in decoded.chunks(cols).zip(y) {
                        let rounded = |i: usize| f64::from(codes[i]) * f64::from(scales[i / levels.group]);
                        let sum: f64 = (0..cols).map(|i| f64::from(w[i]) * rounded(i)).sum();
                        // The sum that minima meet is itself rounded to 16 bits in one form.
                        assert!((f64::from(*y) - sum).abs() < 0.02, "{}: {y} {sum}", levels.ty());
                    }
                }
                let kernels: BTreeMap<&str, &Kernel> =
                    SimdPath::ALL.into_iter().flat_map(kernels_for).map(|kernel| (kernel.name, kernel)).collect();
                let kernels = kernels.into_iter().filter(|(name, _)| *name != "plain");
                for (name, kernel) in kernels.chain([("amx, emulated", &AMX_EMULATED)]) {
                    run.insert(name);
                    let got = product(kernel, levels, &x, &w, &bytes, 0..rows);
                    let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got), bits(&want), "{name} of {}", levels.ty());
                }
                if rows > 40 {
                    let some = product(kernel(), levels, &x, &w, &bytes, 10..37);
                    for (some, all) in some.chunks(27).zip(want.chunks(rows)) {
                        assert_eq!(some, &all[10..37], "{}", levels.ty());
                    }
                }
            }
        }
        for name in ["amx", "avx512-vnni", "avx-vnni", "avx2", "neon-dot"] {
            if !run.contains(name) {
                eprintln!("skipped: this machine has no {name}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let levels = quantize::levels(gguf::TensorType::Q8_0).unwrap();
        let mut x = numbers(64, 5);
        x[40] = f32::NAN;
        let shape = Shape::new(&[64, 2]).unwrap();
        let info = TensorInfo::new("w", shape, levels.ty()).unwrap();
        let mut bytes = vec![0; info.bytes() as usize];
        quantize::encode_rows(levels.ty(), &numbers(128, 6), 64, None, &mut bytes).unwrap();
        let w = Matrix::from_bytes(&info, bytes.clone().into()).unwrap();
        assert!(product(kernel(), levels, &x, &w, &bytes, 0..2).iter().all(|y| y.is_nan()));
    }
}
