//! Words in title case as Python's `str.title` has it, which is not upper case for every letter.

/// Whether the word has letters with case and none of them is a capital.
pub(crate) fn is_lower(word: &str) -> bool {
    word.chars().any(char::is_lowercase) && !word.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// The word with a capital wherever a letter follows none.
pub(crate) fn word(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut inside = false;
    for c in word.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            push(c, &mut out);
        }
        inside = c.is_lowercase() || c.is_uppercase() || is_title(c);
    }
    out
}

/// Letters that are a capital and a small one together.
fn is_title(c: char) -> bool {
    let iota = matches!(c, '\u{1F88}'..='\u{1F8F}' | '\u{1F98}'..='\u{1F9F}' | '\u{1FA8}'..='\u{1FAF}');
    iota || ['\u{1C5}', '\u{1C8}', '\u{1CB}', '\u{1F2}', '\u{1FBC}', '\u{1FCC}', '\u{1FFC}'].contains(&c)
}

/// Appends a letter in title case (Unicode 14, `SpecialCasing.txt` and the simple mapping of `UnicodeData.txt`).
fn push(c: char, out: &mut String) {
    match c {
        '\u{1C4}'..='\u{1C6}' => out.push('\u{1C5}'),
        '\u{1C7}'..='\u{1C9}' => out.push('\u{1C8}'),
        '\u{1CA}'..='\u{1CC}' => out.push('\u{1CB}'),
        '\u{1F1}'..='\u{1F3}' => out.push('\u{1F2}'),
        // Georgian has capitals for words that are capitals throughout.
        '\u{10D0}'..='\u{10FF}' => out.push(c),
        // Greek vowels keep their iota below.
        '\u{1F80}'..='\u{1FAF}' => out.extend(char::from_u32(c as u32 | 8)),
        '\u{1FB3}' | '\u{1FC3}' | '\u{1FF3}' => out.extend(char::from_u32(c as u32 + 9)),
        '\u{1FBC}' | '\u{1FCC}' | '\u{1FFC}' => out.push(c),
        '\u{1FB2}'..='\u{1FFF}' => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.map(|c| if c == '\u{399}' { '\u{345}' } else { c }));
        }
        // An apostrophe before a letter is no letter.
        '\u{149}' => out.extend(c.to_uppercase()),
        // Of what becomes several letters only the first is a capital.
        _ => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_those_of_python() {
        // "…".title() of Python 3.11.
        for (text, expected) in [
            ("ß", "Ss"),
            ("straße", "Straße"),
            ("ﬁn", "Fin"),
            ("ﬄ", "Ffl"),
            ("ŉa", "ʼNa"),
            ("ǆur", "ǅur"),
            ("ǳ", "ǲ"),
            ("ǰ", "J\u{30C}"),
            ("და", "და"),
            ("ᾳ", "ᾼ"),
            ("ᾷ", "\u{391}\u{342}\u{345}"),
            ("ῴ", "\u{38F}\u{345}"),
            ("ᾀ", "ᾈ"),
            ("և", "Եւ"),
            ("ﬓ", "Մն"),
            ("中文model", "中文Model"),
            ("a1b", "A1B"),
            ("don't", "Don'T"),
            ("my_finetune", "My_Finetune"),
            ("élan", "Élan"),
            ("ıi", "Ii"),
        ] {
            assert_eq!(word(text), expected);
        }
        assert!(is_lower("ß-3") && !is_lower("3") && !is_lower("aB") && !is_lower("aǅ"));
    }
}
