//! Chat templates: parsed to find mistakes, searched for tricks, never run.

/// Templates beyond this are searched for tricks but not parsed.
const MAX_BYTES: usize = 1 << 20;

/// What a Jinja parser says against the template.
pub(super) fn syntax_error(text: &str) -> Option<String> {
    if text.len() > MAX_BYTES {
        return None;
    }
    // A tag of transformers that marks what the assistant said; no Jinja parser but theirs knows it.
    let plain = without_generation_tags(text);
    let mut environment = minijinja::Environment::empty();
    environment.add_template("template", &plain).err().map(|e| match e.line() {
        Some(line) => format!("line {line}: {e}"),
        None => e.to_string(),
    })
}

fn without_generation_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        let Some((inner, after)) = tag.split_once("%}") else {
            out.push_str("{%");
            rest = tag;
            continue;
        };
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        if word != "generation" && word != "endgeneration" {
            out.push_str("{%");
            out.push_str(inner);
            out.push_str("%}");
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What a template for messages has no use for: ways out of a sandbox and endless work.
pub(super) fn tricks(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut add = |trick: String| {
        if out.len() < 8 && !out.contains(&trick) {
            out.push(trick);
        }
    };
    for code in code_of(text) {
        let mut words = code.char_indices().peekable();
        while let Some((start, c)) = words.next() {
            if !(c.is_alphanumeric() || c == '_') {
                continue;
            }
            let mut end = start + c.len_utf8();
            while let Some((at, next)) = words.next_if(|(_, n)| n.is_alphanumeric() || *n == '_') {
                end = at + next.len_utf8();
            }
            let word = &code[start..end];
            let before = code[..start].trim_end();
            let after = code[end..].trim_start();
            if word.len() > 4 && word.starts_with("__") && word.ends_with("__") {
                add(format!("the dunder attribute {word}"));
            } else if word == "attr" && before.ends_with('|') {
                add("the filter attr".to_owned());
            } else if word == "range"
                && let Some(args) = after.strip_prefix('(').and_then(|a| a.split(')').next())
            {
                let digits = |a: &str| a.trim().replace('_', "").parse::<u64>().ok();
                if args.contains("**") || args.split(',').filter_map(digits).any(|n| n > 1_000_000) {
                    add(format!("the loop range({args})"));
                }
            }
        }
    }
    out
}

/// What stands between `{{ }}` and `{% %}`.
fn code_of(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find("{{").into_iter().chain(rest.find("{%")).min()?;
        let close = if rest[start..].starts_with("{{") { "}}" } else { "%}" };
        let inner = &rest[start + 2..];
        let end = inner.find(close).unwrap_or(inner.len());
        rest = inner.get(end + 2..).unwrap_or("");
        Some(&inner[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_templates_pass_and_broken_ones_do_not() {
        let good = "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
        assert_eq!(syntax_error(good), None);
        assert!(tricks(good).is_empty());
        assert!(syntax_error("{% for m in messages %}").is_some());
        assert!(syntax_error("{{ 'unclosed }}").is_some());
        assert!(syntax_error(&"{% if x %}".repeat(10_000)).is_some());
    }

    #[test]
    fn ways_out_of_a_sandbox_are_named() {
        let evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ x | attr('y') }}{% for i in range(10 ** 9) %}{% endfor %}";
        let found = tricks(evil);
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(tricks("__class__ outside of code, {% for i in range(999999999) %}").len(), 1);
    }
}
