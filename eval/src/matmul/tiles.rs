//! Products of bytes in tiles: the two-dimensional registers of AMX (Intel 64 and IA-32 Architectures Software Developer's
//! Manual, volume 1, chapter "Programming with Intel AMX").
//!
//! A tile is up to 16 rows of up to 64 bytes. A group of columns of 16 tokens is one, the group of 16 rows of weights
//! another, four columns of a row beside the next row's; their product is 16 × 16 sums in 32 bits. [`Instructions`] are
//! those that are needed, by the machine or [`Emulated`]; the machine's are used only where a product of theirs was
//! compared with the emulation.
//!
//! The program takes them only when they are forced: sums leave the tiles through memory for each group's scale, every 16 or
//! 32 columns, which costs more than the products save.

use super::integer::{Pair, Tile};
use super::kernel::{self, MOST_ROWS, WIDE};

/// Rows of a tile: tokens, or rows of weights.
pub(super) const TOKENS: usize = 16;

/// Bytes of a tile's row.
const ROW_BYTES: usize = 64;

/// Sums of a group: tokens × rows of weights.
type Sums<T> = [[T; MOST_ROWS]; TOKENS];

/// The tiles that are used: two of sums, one of activations, two of weights.
const USED: usize = 5;

/// What each tile holds, as the instruction reads it.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Tiles for so many tokens, and groups of so many columns.
    fn new(tokens: usize, group: usize) -> Config {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let shapes =
            [(tokens, ROW_BYTES), (tokens, ROW_BYTES), (tokens, group), (group / 4, ROW_BYTES), (group / 4, ROW_BYTES)];
        for (i, (rows, bytes)) in shapes.into_iter().enumerate() {
            (config.rows[i], config.row_bytes[i]) = (rows as u8, bytes as u16);
        }
        config
    }
}

/// The instructions, for a thread that configured its tiles.
trait Instructions {
    /// # Safety
    /// The machine has them, and allows them to this process.
    unsafe fn configure(config: &Config) -> Self;
    /// # Safety
    /// The tile's rows can be read, `stride` bytes apart.
    unsafe fn load<const TILE: usize>(&mut self, from: *const u8, stride: usize);
    /// # Safety
    /// The tile's rows can be written, `stride` bytes apart.
    unsafe fn store<const TILE: usize>(&self, to: *mut u8, stride: usize);
    /// To the sums of tile `C` the products of the bytes of `A`, with a sign, with those of `B`, without.
    ///
    /// # Safety
    /// The three tiles fit each other.
    unsafe fn dot<const C: usize, const A: usize, const B: usize>(&mut self);
    /// # Safety
    /// As [`Instructions::configure`].
    unsafe fn release(self);
}

/// To `sums` the products of a group: rows of activations `x_stride` bytes apart, words of weights as the panel has them.
///
/// # Safety
/// The tiles are configured for tokens and group, and that much can be read.
#[inline(always)]
unsafe fn group_products<I: Instructions>(
    tiles: &mut I,
    x: *const u8,
    x_stride: usize,
    w: *const u8,
    sums: &mut Sums<i32>,
) {
    const WIDTH: usize = 4 * MOST_ROWS;
    let to: *mut u8 = sums.as_mut_ptr().cast();
    // SAFETY: sums have `TOKENS` rows of two tiles' width, the panel's words too; the rest is the caller's promise.
    unsafe {
        tiles.load::<0>(to, WIDTH);
        tiles.load::<1>(to.add(ROW_BYTES), WIDTH);
        tiles.load::<2>(x, x_stride);
        tiles.load::<3>(w, WIDTH);
        tiles.load::<4>(w.add(ROW_BYTES), WIDTH);
        tiles.dot::<0, 2, 3>();
        tiles.dot::<1, 2, 4>();
        tiles.store::<0>(to, WIDTH);
        tiles.store::<1>(to.add(ROW_BYTES), WIDTH);
    }
}

/// One tile of a product; activations are stored token by token.
///
/// # Safety
/// As the tiles of [`super::integer`], with the instructions and the lanes there.
#[inline(always)]
unsafe fn tile<I: Instructions, V: Pair>(tile: Tile) {
    let Tile { tokens, groups, steps, alike, x_scales, x_starts, x_sums, w_scales, w_mins, .. } = tile;
    let (x, group): (*const u8, usize) = (tile.x.cast(), 4 * steps);
    let (mut ints, mut parts, mut sums): (Sums<i32>, Sums<f32>, Sums<f32>) =
        ([[0; MOST_ROWS]; TOKENS], [[0.0; MOST_ROWS]; TOKENS], [[0.0; MOST_ROWS]; TOKENS]);
    // SAFETY: `groups` of `group` codes of each token, as many words of a tile's rows, a scale, a start and a sum of each:
    // the caller's promise.
    unsafe {
        let mut tiles = I::configure(&Config::new(tokens, group));
        for g in 0..groups {
            for (t, ints) in ints.iter_mut().enumerate().take(tokens) {
                ints.fill(*x_starts.add(g * tokens + t));
            }
            group_products(&mut tiles, x.add(g * group), groups * group, tile.w.add(g * group * MOST_ROWS), &mut ints);
            if alike > 1 && g % alike == 0 {
                parts = [[0.0; MOST_ROWS]; TOKENS];
            }
            let into = if alike > 1 { &mut parts } else { &mut sums };
            for (t, (ints, into)) in ints.iter().zip(into).enumerate().take(tokens) {
                let at = g * tokens + t;
                for row in (0..MOST_ROWS).step_by(V::N) {
                    let int = V::of_int(V::load_codes(ints.as_ptr().add(row).cast()));
                    let int = if alike > 1 { int } else { int.mul(V::splat(*x_scales.add(at))) };
                    let of = g * MOST_ROWS + row;
                    let mut sum = V::load(into.as_ptr().add(row)).add_product(int, V::load(w_scales.add(of)));
                    if let Some(mins) = w_mins {
                        sum = sum.add_product(V::splat(*x_sums.add(at)), V::load(mins.add(of)));
                    }
                    sum.store(into.as_mut_ptr().add(row));
                }
            }
            if alike > 1 && (g + 1) % alike == 0 {
                for (t, (sums, parts)) in sums.iter_mut().zip(&parts).enumerate().take(tokens) {
                    let scale = V::splat(*x_scales.add((g + 1 - alike) * tokens + t));
                    for row in (0..MOST_ROWS).step_by(V::N) {
                        let part = V::load(parts.as_ptr().add(row));
                        V::load(sums.as_ptr().add(row)).add_product(part, scale).store(sums.as_mut_ptr().add(row));
                    }
                }
            }
        }
        tiles.release();
        for (t, sums) in sums.iter().enumerate().take(tokens) {
            for row in (0..tile.rows).step_by(WIDE * V::N) {
                tile.finish(t, row, &kernel::load_row::<V>(sums.as_ptr().add(row)));
            }
        }
    }
}

/// What the instructions do, in a program.
struct Emulated {
    rows: [usize; USED],
    row_bytes: [usize; USED],
    tiles: [[[u8; ROW_BYTES]; TOKENS]; USED],
}

impl Emulated {
    fn sum(&self, tile: usize, row: usize, col: usize) -> i32 {
        let bytes = &self.tiles[tile][row][4 * col..];
        i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl Instructions for Emulated {
    unsafe fn configure(config: &Config) -> Emulated {
        // What the machine would answer with a fault.
        assert!(config.palette == 1 && config.start_row == 0 && config.reserved == [0; 14]);
        let (rows, row_bytes) = (config.rows.map(usize::from), config.row_bytes.map(usize::from));
        assert!(rows.iter().zip(row_bytes).all(|(&rows, bytes)| rows <= TOKENS && bytes <= ROW_BYTES));
        assert!(rows[..USED].iter().zip(row_bytes).all(|(&rows, bytes)| rows > 0 && bytes > 0));
        Emulated {
            rows: std::array::from_fn(|i| rows[i]),
            row_bytes: std::array::from_fn(|i| row_bytes[i]),
            tiles: [[[0; ROW_BYTES]; TOKENS]; USED],
        }
    }

    unsafe fn load<const TILE: usize>(&mut self, from: *const u8, stride: usize) {
        self.tiles[TILE] = [[0; ROW_BYTES]; TOKENS];
        for row in 0..self.rows[TILE] {
            // SAFETY: the caller's promise; a row of a tile has so many bytes at most.
            unsafe {
                self.tiles[TILE][row]
                    .as_mut_ptr()
                    .copy_from_nonoverlapping(from.add(row * stride), self.row_bytes[TILE]);
            }
        }
    }

    unsafe fn store<const TILE: usize>(&self, to: *mut u8, stride: usize) {
        for row in 0..self.rows[TILE] {
            // SAFETY: as above.
            unsafe {
                to.add(row * stride).copy_from_nonoverlapping(self.tiles[TILE][row].as_ptr(), self.row_bytes[TILE])
            };
        }
    }

    unsafe fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
        assert!(self.rows[C] == self.rows[A] && self.row_bytes[C] == self.row_bytes[B]);
        assert!(self.row_bytes[A] == 4 * self.rows[B] && self.row_bytes[A].is_multiple_of(4));
        for row in 0..self.rows[C] {
            for col in 0..self.row_bytes[C] / 4 {
                let products = (0..self.row_bytes[A])
                    .map(|k| i32::from(self.tiles[A][row][k] as i8) * i32::from(self.tiles[B][k / 4][4 * col + k % 4]));
                let sum = products.fold(self.sum(C, row, col), i32::wrapping_add);
                self.tiles[C][row][4 * col..][..4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    unsafe fn release(self) {}
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use machine::{is_available, tile_amx};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod machine {
    use std::arch::asm;
    use std::sync::OnceLock;

    use super::{Config, Emulated, Instructions, MOST_ROWS, Sums, TOKENS, Tile, group_products, tile};

    /// The machine's tiles. A thread's own: they are configured and released within a function.
    struct Amx;

    // The compiler keeps nothing in tiles.
    impl Instructions for Amx {
        #[inline(always)]
        unsafe fn configure(config: &Config) -> Amx {
            // SAFETY: 64 bytes are read; the instruction is there, by the caller's promise, as are those below.
            unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(readonly, nostack, preserves_flags)) };
            Amx
        }

        #[inline(always)]
        unsafe fn load<const TILE: usize>(&mut self, from: *const u8, stride: usize) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "tileloadd tmm{tile}, [{from} + {stride}*1]",
                    tile = const TILE, from = in(reg) from, stride = in(reg) stride,
                    options(nostack, preserves_flags),
                );
            }
        }

        #[inline(always)]
        unsafe fn store<const TILE: usize>(&self, to: *mut u8, stride: usize) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "tilestored [{to} + {stride}*1], tmm{tile}",
                    tile = const TILE, to = in(reg) to, stride = in(reg) stride,
                    options(nostack, preserves_flags),
                );
            }
        }

        #[inline(always)]
        unsafe fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "tdpbsud tmm{c}, tmm{a}, tmm{b}",
                    c = const C, a = const A, b = const B,
                    options(nostack, preserves_flags),
                );
            }
        }

        #[inline(always)]
        unsafe fn release(self) {
            // SAFETY: the caller's promise.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
        }
    }

    /// Whether the machine has tiles of bytes, the system lets this process use them, and they do what the emulation does.
    pub(in super::super) fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| are_there() && are_allowed() && are_as_emulated())
    }

    fn are_there() -> bool {
        use std::arch::is_x86_feature_detected as has;
        /// AMX-TILE and AMX-INT8 in EDX of leaf 7.
        const TILES_AND_BYTES: u32 = 1 << 24 | 1 << 25;
        /// The state of tiles and of their configuration in XCR0.
        const STATE: u32 = 1 << 17 | 1 << 18;
        if !(has!("avx512f") && has!("avx512bw") && has!("xsave")) {
            return false;
        }
        let leaf = |leaf: u32| {
            #[allow(unused_unsafe)]
            // SAFETY: every processor of 64 bits has the instruction.
            unsafe {
                std::arch::x86_64::__cpuid_count(leaf, 0)
            }
        };
        if leaf(0).eax < 7 || leaf(7).edx & TILES_AND_BYTES != TILES_AND_BYTES {
            return false;
        }
        let state: u32;
        // SAFETY: the system lets programs read this register where it lets them use AVX, which was found.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack, preserves_flags))
        };
        state & STATE == STATE
    }

    /// Asks the system: the tiles make a thread's state larger by 8 KiB, so it wants to be asked.
    fn are_allowed() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        // SAFETY: the call takes two numbers and changes what this process may use, nothing else.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    /// A product of all values, of every size that is used.
    fn are_as_emulated() -> bool {
        const MOST: usize = 32;
        let x: Vec<u8> = (0..TOKENS * MOST).map(|i| (i * 37 + i / 7) as u8).collect();
        let w: Vec<u8> = (0..MOST * MOST_ROWS).map(|i| (i * 91 + i / 5) as u8).collect();
        [(TOKENS, MOST), (TOKENS, 16), (3, MOST), (1, 16)].into_iter().all(|(tokens, group)| {
            let mut sums: [Sums<i32>; 2] = [[[1000; MOST_ROWS]; TOKENS]; 2];
            let config = Config::new(tokens, group);
            // SAFETY: the instructions are there and allowed; `x` and `w` have more than tokens and group ask for.
            unsafe {
                let mut tiles = Amx::configure(&config);
                group_products(&mut tiles, x.as_ptr(), MOST, w.as_ptr(), &mut sums[0]);
                tiles.release();
                group_products(&mut Emulated::configure(&config), x.as_ptr(), MOST, w.as_ptr(), &mut sums[1]);
            }
            sums[0] == sums[1]
        })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(in super::super) unsafe fn tile_amx(of: Tile) {
        // SAFETY: the caller's promise.
        unsafe { tile::<Amx, std::arch::x86_64::__m512>(of) }
    }
}

/// The same on any machine.
#[cfg(test)]
pub(super) unsafe fn tile_emulated(of: Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Emulated, [f32; 4]>(of) }
}
