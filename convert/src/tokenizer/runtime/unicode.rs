//! Classes of characters, as the reference's tables have them: Unicode's general categories and white space.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

pub(crate) const LETTER: u8 = 1;
pub(crate) const NUMBER: u8 = 2;
pub(crate) const MARK: u8 = 4;
pub(crate) const PUNCTUATION: u8 = 8;
pub(crate) const SYMBOL: u8 = 16;
/// Control, format, private use; not what is unassigned.
pub(crate) const CONTROL: u8 = 32;
pub(crate) const SPACE: u8 = 64;
/// Marks that take no room of their own: accents.
pub(crate) const ACCENT: u8 = 128;

const CLASSES: [(u8, &str); 8] = [
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (MARK, r"\p{M}"),
    (PUNCTUATION, r"\p{P}"),
    (SYMBOL, r"\p{S}"),
    (CONTROL, r"[\p{Cc}\p{Cf}\p{Co}]"),
    (SPACE, r"\s"),
    (ACCENT, r"\p{Mn}"),
];

/// The classes of every code point, one byte each.
pub(crate) struct Table(Box<[u8]>);

impl Table {
    /// The table, built when it is asked for first.
    pub fn get() -> &'static Table {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut flags = vec![0_u8; 0x11_0000].into_boxed_slice();
            for (flag, class) in CLASSES {
                // The classes are those of this table, which parse; without one its characters would be in none.
                let Ok(hir) = regex_syntax::parse(class) else { continue };
                if let HirKind::Class(Class::Unicode(ranges)) = hir.kind() {
                    for range in ranges.iter() {
                        for slot in &mut flags[range.start() as usize..=range.end() as usize] {
                            *slot |= flag;
                        }
                    }
                }
            }
            Table(flags)
        })
    }

    /// The classes of a character.
    #[inline]
    pub fn of(&self, c: char) -> u8 {
        self.0[c as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_there() {
        let table = Table::get();
        for (c, flags) in [
            ('a', LETTER),
            ('ß', LETTER),
            ('७', NUMBER),
            ('\u{301}', MARK | ACCENT),
            ('\u{903}', MARK),
            ('¿', PUNCTUATION),
            ('€', SYMBOL),
            ('\u{200d}', CONTROL),
            (' ', SPACE),
            ('\n', SPACE | CONTROL),
            ('\u{3000}', SPACE),
            ('\u{378}', 0),
        ] {
            assert_eq!(table.of(c), flags, "{c:?}");
        }
    }
}
