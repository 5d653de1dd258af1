//! Questions with several answers of which one is right: which answer a model finds the likeliest.
//!
//! The formats and the scores are those of llama-perplexity: of HellaSwag and of multiple choice an answer's mean
//! log-probability behind the question, of WinoGrande that of what follows the choice. A model is told from its base by
//! the questions that it answers otherwise: their number says more than the difference of two accuracies, which hides
//! that as many may be lost as gained.

use gguf::{Error, Result};
use serde_json::Value;

use crate::forward::{Forward, Input, Progress, Stream};
use crate::numeric;
use crate::perplexity::Schedule;

/// How questions are written and scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Six lines a question: context, number of the right ending from 0, four endings.
    Hellaswag,
    /// Lines `number,sentence,choice 1,choice 2,answer`: a sentence with `_` for the choice, the answer 1 or 2.
    Winogrande,
    /// llama.cpp's binary form of ARC, MMLU and TruthfulQA.
    MultipleChoice,
}

impl Format {
    /// The names.
    pub const ALL: [(&'static str, Format); 3] = [
        ("hellaswag", Format::Hellaswag),
        ("winogrande", Format::Winogrande),
        ("multiple-choice", Format::MultipleChoice),
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        Format::ALL[self as usize].0
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Format> {
        Format::ALL.iter().find(|row| row.0.eq_ignore_ascii_case(name)).map(|row| row.1).ok_or_else(|| {
            Error::usage(format!("there is no format \"{name}\"")).help(Format::ALL.map(|row| row.0).join(", "))
        })
    }
}

/// A question as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What stands before a choice.
    pub before: String,
    /// The choices.
    pub choices: Vec<String>,
    /// What stands behind it (WinoGrande).
    pub behind: String,
    /// The number of the right one, from 0.
    pub answer: usize,
}

/// The most choices of a question.
const MOST_CHOICES: usize = 100;

/// Reads the questions of a file: in the format's own form, or JSON lines.
///
/// # Errors
/// What is no question is named by its line or number.
pub fn read(bytes: &[u8], format: Format) -> Result<Vec<Written>> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if format == Format::MultipleChoice && first != Some(&b'{') {
        return read_binary(bytes);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| Error::input("is not UTF-8").caused_by(e))?;
    let questions: Vec<Written> = if first == Some(&b'{') {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.map(|(i, line)| of_json(line, format).map_err(|e| on_line(i, e))).collect::<Result<_>>()?
    } else if format == Format::Hellaswag {
        let lines: Vec<&str> = text.lines().collect();
        if !lines.len().is_multiple_of(6) {
            return Err(Error::input(format!(
                "has {} lines, which are not a whole number of questions of 6",
                lines.len()
            )));
        }
        let question = |(i, lines): (usize, &[&str])| {
            let answer = lines[1].trim().parse().ok().filter(|n| *n < 4);
            let answer = answer.ok_or_else(|| on_line(6 * i + 1, Error::input("is no number of an ending, 0 to 3")))?;
            let choices = lines[2..].iter().map(|&line| line.to_owned()).collect();
            Ok(Written { before: lines[0].to_owned(), choices, behind: String::new(), answer })
        };
        lines.chunks(6).enumerate().map(question).collect::<Result<_>>()?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
        lines.map(|(i, line)| of_csv(line).map_err(|e| on_line(i, e))).collect::<Result<_>>()?
    };
    if questions.is_empty() {
        return Err(Error::input("holds no question"));
    }
    Ok(questions)
}

fn on_line(i: usize, error: Error) -> Error {
    error.about(format_args!("line {}", i + 1))
}

/// A sentence in which `_` stands for the choice.
fn gapped(sentence: &str, choices: Vec<String>, answer: Option<usize>) -> Result<Written> {
    let (before, behind) = sentence.split_once('_').ok_or_else(|| Error::input("the sentence has no _"))?;
    let answer = answer.filter(|n| (1..=2).contains(n)).ok_or_else(|| Error::input("the answer is neither 1 nor 2"))?;
    Ok(Written { before: before.to_owned(), choices, behind: behind.to_owned(), answer: answer - 1 })
}

fn of_csv(line: &str) -> Result<Written> {
    // The first four commas outside of quotes; the answer is what follows the last.
    let (mut open, mut commas) = (false, Vec::new());
    for (i, byte) in line.bytes().enumerate() {
        match byte {
            b'"' => open = !open,
            b',' if !open && commas.len() < 4 => commas.push(i),
            _ => {}
        }
    }
    let [a, b, c, d] = commas[..] else { return Err(Error::input("has no five fields")) };
    let sentence = &line[a + 1..b];
    let sentence = sentence.strip_prefix('"').and_then(|s| s.strip_suffix('"')).unwrap_or(sentence);
    let choices = vec![line[b + 1..c].to_owned(), line[c + 1..d].to_owned()];
    gapped(sentence, choices, line[d + 1..].trim().parse().ok())
}

fn of_json(line: &str, format: Format) -> Result<Written> {
    let value: Value = serde_json::from_str(line).map_err(|e| Error::input("is no JSON").caused_by(e))?;
    let any = |names: &[&str]| names.iter().find_map(|name| value.get(*name));
    let text = |names: &[&str]| {
        let found = any(names).and_then(Value::as_str).map(str::to_owned);
        found.ok_or_else(|| Error::input(format!("has no text \"{}\"", names[0])))
    };
    let number = |names: &[&str]| match any(names) {
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_u64().map(|n| n as usize),
        None => None,
    };
    if format == Format::Winogrande {
        let choices = vec![text(&["option1"])?, text(&["option2"])?];
        return gapped(&text(&["sentence"])?, choices, number(&["answer"]));
    }
    let choices = any(&["choices", "endings"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let choices: Option<Vec<String>> = choices.iter().map(|c| c.as_str().map(str::to_owned)).collect();
    let choices = choices.filter(|c| (2..=MOST_CHOICES).contains(&c.len()));
    let choices = choices.ok_or_else(|| Error::input("has no list of at least two texts \"choices\""))?;
    let answer = number(&["answer", "label"]).filter(|n| *n < choices.len());
    let answer = answer.ok_or_else(|| Error::input("\"answer\" is no number of a choice, from 0"))?;
    Ok(Written { before: text(&["question", "context", "ctx"])?, choices, behind: String::new(), answer })
}

/// llama.cpp's form: the number of tasks, where each begins, then each as a text and two sets of answers with labels, of
/// which the first has one right answer. All numbers are little-endian u32, texts have their length before them.
fn read_binary(bytes: &[u8]) -> Result<Vec<Written>> {
    struct Reader<'b>(&'b [u8]);
    impl<'b> Reader<'b> {
        fn take(&mut self, len: usize) -> Result<&'b [u8]> {
            let (head, rest) = self.0.split_at_checked(len).ok_or_else(|| Error::input("ends within a question"))?;
            self.0 = rest;
            Ok(head)
        }
        fn number(&mut self) -> Result<usize> {
            let bytes = self.take(4)?;
            Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))
        }
        fn text(&mut self) -> Result<String> {
            let len = self.number()?;
            String::from_utf8(self.take(len)?.to_vec()).map_err(|e| Error::input("is not UTF-8").caused_by(e))
        }
        fn answers(&mut self) -> Result<(Vec<String>, Vec<usize>)> {
            let count = self.number()?;
            if count > MOST_CHOICES {
                return Err(Error::input(format!("has {count} choices, {MOST_CHOICES} are the most")));
            }
            let texts = (0..count).map(|_| self.text()).collect::<Result<_>>()?;
            Ok((texts, (0..count).map(|_| self.number()).collect::<Result<_>>()?))
        }
    }
    let mut reader = Reader(bytes);
    let count = reader.number()?;
    reader.take(count.saturating_mul(4))?;
    let question = |i: usize, reader: &mut Reader<'_>| -> Result<Written> {
        let before = reader.text()?;
        let (choices, labels) = reader.answers()?;
        reader.answers()?;
        let answer = labels.iter().position(|&label| label == 1);
        if before.is_empty() || choices.len() < 2 || choices.iter().any(String::is_empty) {
            return Err(Error::input(format!("question {i} has no text, or fewer than two answers")));
        }
        let answer = answer.ok_or_else(|| Error::input(format!("question {i} has no right answer")))?;
        Ok(Written { before, choices, behind: String::new(), answer })
    };
    let mut questions = Vec::new();
    for i in 0..count {
        questions.push(question(i, &mut reader)?);
    }
    if questions.is_empty() {
        return Err(Error::input("holds no question"));
    }
    Ok(questions)
}

/// A question in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The tokens with each choice.
    pub sequences: Vec<Vec<u32>>,
    /// For each choice what is scored: the sequence and position whose logits count, and the token they should predict.
    pub scored: Vec<Vec<(usize, usize, u32)>>,
    /// The number of the right one.
    pub answer: usize,
    /// Whether of two equal choices the last one is taken.
    last_of_equals: bool,
}

/// The least tokens behind a choice of WinoGrande for the choice itself to be left out.
const TRAILING: usize = 3;

impl Question {
    /// Brings a question into tokens, with special ones as a text has them.
    ///
    /// # Errors
    /// What the tokenizer refuses, and choices that leave nothing to score.
    pub fn new(written: &Written, format: Format, encode: impl Fn(&str) -> Result<Vec<u32>>) -> Result<Question> {
        let space = if format == Format::Winogrande { "" } else { " " };
        let with = |choice: &str, behind: &str| encode(&format!("{}{space}{choice}{behind}", written.before));
        let sequences: Vec<Vec<u32>> =
            written.choices.iter().map(|choice| with(choice, &written.behind)).collect::<Result<_>>()?;
        let shortest = sequences.iter().map(Vec::len).min().unwrap_or(0);
        let common = (0..shortest).take_while(|&k| sequences.iter().all(|s| s[k] == sequences[0][k])).count();
        let mut scored = Vec::with_capacity(sequences.len());
        let skips = format == Format::Winogrande && shortest > common + TRAILING;
        for (i, (tokens, choice)) in sequences.iter().zip(&written.choices).enumerate() {
            let (first, end) = match format {
                Format::Winogrande => {
                    let first = if skips { with(choice, "")?.len() } else { common };
                    (first, tokens.len() - usize::from(tokens.len().saturating_sub(first) > 1))
                }
                _ => (common, tokens.len()),
            };
            // Without a token in front of it nothing predicts the first one.
            let targets: Vec<(usize, usize, u32)> = (first.max(1)..end)
                .map(|at| {
                    // The reference reads the logits behind the whole first sentence there.
                    let odd = format == Format::Winogrande && i == 1 && at == common;
                    let (sequence, position) = if odd { (0, sequences[0].len() - 1) } else { (i, at - 1) };
                    (sequence, position, tokens[at])
                })
                .collect();
            if targets.is_empty() {
                return Err(Error::input(format!("the choice \"{choice}\" leaves nothing to score")));
            }
            scored.push(targets);
        }
        Ok(Question { sequences, scored, answer: written.answer, last_of_equals: format == Format::Winogrande })
    }

    /// The choice with the greatest score.
    fn best(&self, scores: &[f64]) -> usize {
        let mut best = 0;
        for (i, score) in scores.iter().enumerate().skip(1) {
            if *score > scores[best] || (self.last_of_equals && *score == scores[best]) {
                best = i;
            }
        }
        best
    }
}

/// What a model answers: the number of a choice for each question.
pub type Answers = Vec<usize>;

/// What each stream answers, all in one run, `plan.sequences` choices in a pass.
///
/// # Errors
/// As [`Forward::logits`].
pub fn answer(
    streams: &[Stream<'_>],
    questions: &[Question],
    plan: Schedule,
    progress: Option<Progress<'_>>,
) -> Result<Vec<Answers>> {
    let mut answers = vec![Vec::with_capacity(questions.len()); streams.len()];
    let mut rest = questions;
    while !rest.is_empty() {
        let mut count = 0;
        let fits = |q: &&Question| {
            count += q.sequences.len();
            count <= plan.sequences
        };
        let together = rest.iter().take_while(fits).count().max(1);
        let (now, behind) = rest.split_at(together);
        let done = (questions.len() - rest.len()) as u64;
        let told = |part: u64, total: u64| {
            if let Some(progress) = progress {
                progress(done * total + part * now.len() as u64, questions.len() as u64 * total);
            }
        };
        rest = behind;
        let inputs: Vec<Input> = now.iter().flat_map(|q| q.sequences.iter().cloned().map(Input::from)).collect();
        // What is scored of each sequence: the position, the token, and whose score it counts for.
        let mut wanted: Vec<Vec<(usize, u32, usize)>> = vec![Vec::new(); inputs.len()];
        let (mut first, mut lengths) = (0, Vec::with_capacity(inputs.len()));
        for question in now {
            for (choice, targets) in question.scored.iter().enumerate() {
                lengths.push(targets.len());
                targets
                    .iter()
                    .for_each(|&(s, position, token)| wanted[first + s].push((position, token, first + choice)));
            }
            first += question.sequences.len();
        }
        let range = |i: usize| {
            let positions = wanted[i].iter().map(|w| w.0);
            let least = positions.clone().min().unwrap_or(0);
            least..positions.max().map_or(least, |most| most + 1)
        };
        let mut scores = vec![vec![0.0_f64; inputs.len()]; streams.len()];
        Forward::lockstep(streams.to_vec())?.limits(plan.limits).progress(&told).logits(&inputs, range, |logits| {
            for (position, token, of) in &wanted[logits.sequence] {
                let Some(row) = position.checked_sub(logits.positions.start) else { continue };
                if row >= logits.positions.len() {
                    continue;
                }
                for (scores, all) in scores.iter_mut().zip(logits.streams) {
                    let row = &all[row * logits.vocabulary..(row + 1) * logits.vocabulary];
                    scores[*of] += f64::from(row[*token as usize]) - numeric::log_sum(row);
                }
            }
            Ok(())
        })?;
        for (answers, scores) in answers.iter_mut().zip(&mut scores) {
            scores.iter_mut().zip(&lengths).for_each(|(score, len)| *score /= *len as f64);
            let mut scores = &scores[..];
            for question in now {
                let (own, others) = scores.split_at(question.sequences.len());
                answers.push(question.best(own));
                scores = others;
            }
        }
    }
    Ok(answers)
}

/// A model's answers beside the base's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Questions.
    pub count: usize,
    /// Right answers.
    pub right: usize,
    /// Questions that the base answered rightly and the model does not.
    pub lost: usize,
    /// Questions that the model answers rightly and the base did not.
    pub gained: usize,
    /// Questions that are answered otherwise than by the base, rightly or not.
    pub changed: usize,
}

impl Paired {
    /// Counts.
    pub fn new(questions: &[Question], base: &[usize], model: &[usize]) -> Paired {
        let mut paired = Paired { count: questions.len(), right: 0, lost: 0, gained: 0, changed: 0 };
        for ((question, base), model) in questions.iter().zip(base).zip(model) {
            let (before, now) = (*base == question.answer, *model == question.answer);
            paired.right += usize::from(now);
            paired.lost += usize::from(before && !now);
            paired.gained += usize::from(now && !before);
            paired.changed += usize::from(base != model);
        }
        paired
    }

    /// The share of right answers, with its standard error.
    pub fn accuracy(&self) -> (f64, f64) {
        share(self.right, self.count)
    }

    /// The share of questions whose answer became wrong or right, with its standard error.
    pub fn flips(&self) -> (f64, f64) {
        share(self.lost + self.gained, self.count)
    }

    /// The difference of the accuracies with its standard error, of the pairs.
    pub fn difference(&self) -> (f64, f64) {
        let n = self.count as f64;
        let (lost, gained) = (self.lost as f64, self.gained as f64);
        let value = (gained - lost) / n;
        (value, (((lost + gained) / n - value * value).max(0.0) / (n - 1.0).max(1.0)).sqrt())
    }

    /// How often chance alone would flip as unevenly as this or more: the exact two-sided test of McNemar.
    pub fn p_value(&self) -> f64 {
        let n = self.lost + self.gained;
        let mut term = (-(n as f64) * std::f64::consts::LN_2).exp();
        let few = self.lost.min(self.gained);
        if term == 0.0 {
            return far_p_value(n, few);
        }
        let mut sum = 0.0;
        for k in 0..=few {
            sum += term;
            term *= (n - k) as f64 / (k + 1) as f64;
        }
        (2.0 * sum).min(1.0)
    }
}

/// The same where 2⁻ⁿ is below all numbers: terms by their logarithms.
fn far_p_value(n: usize, few: usize) -> f64 {
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=few {
        sum += log.exp();
        log += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

fn share(part: usize, all: usize) -> (f64, f64) {
    let (p, n) = (part as f64 / all as f64, all as f64);
    (p, (p * (1.0 - p) / (n - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<Vec<u32>> {
        Ok([1].into_iter().chain(text.bytes().map(u32::from)).collect())
    }

    #[test]
    fn each_format_is_read() {
        let hellaswag = "Ctx\n2\na\nb\nc\nd\n";
        let questions = read(hellaswag.as_bytes(), Format::Hellaswag).unwrap();
        assert_eq!((questions[0].answer, questions[0].choices[3].as_str()), (2, "d"));
        let line = "0,\"Sarah, unlike Maria, knew that _ was right.\",Sarah,Maria,2\n";
        let questions = read(line.as_bytes(), Format::Winogrande).unwrap();
        assert_eq!(questions[0].before, "Sarah, unlike Maria, knew that ");
        assert_eq!((questions[0].behind.as_str(), questions[0].answer), (" was right.", 1));
        let json = r#"{"question": "Q", "choices": ["x", "y", "z"], "answer": 1}"#;
        for format in [Format::Hellaswag, Format::MultipleChoice] {
            assert_eq!(read(json.as_bytes(), format).unwrap()[0].choices.len(), 3);
        }
        let json = r#"{"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "1"}"#;
        assert_eq!(read(json.as_bytes(), Format::Winogrande).unwrap()[0].answer, 0);
        let mut binary = Vec::new();
        let number = |n: u32, to: &mut Vec<u8>| to.extend(n.to_le_bytes());
        let text = |s: &str, to: &mut Vec<u8>| {
            to.extend((s.len() as u32).to_le_bytes());
            to.extend(s.as_bytes());
        };
        number(1, &mut binary);
        number(8, &mut binary);
        text("Why", &mut binary);
        number(2, &mut binary);
        text("no", &mut binary);
        text("yes", &mut binary);
        number(0, &mut binary);
        number(1, &mut binary);
        number(0, &mut binary);
        let questions = read(&binary, Format::MultipleChoice).unwrap();
        assert_eq!((questions[0].before.as_str(), questions[0].answer), ("Why", 1));
        for cut in 0..binary.len() {
            assert!(read(&binary[..cut], Format::MultipleChoice).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_is_no_question_is_named() {
        for (text, format, says) in [
            ("a\nb\n", Format::Hellaswag, "2 lines"),
            ("a\n4\nb\nc\nd\ne\n", Format::Hellaswag, "line 2"),
            ("0,no gap,a,b,1\n", Format::Winogrande, "line 1"),
            ("0,a _,a,b,3\n", Format::Winogrande, "neither 1 nor 2"),
            ("{\"question\": \"Q\"}\n", Format::MultipleChoice, "choices"),
            ("", Format::Hellaswag, "no question"),
        ] {
            let error = read(text.as_bytes(), format).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn what_follows_the_common_part_is_scored() {
        let written =
            Written { before: "ab".into(), choices: vec!["cd".into(), "ce".into()], behind: String::new(), answer: 0 };
        let question = Question::new(&written, Format::Hellaswag, bytes).unwrap();
        // 1 a b space c | d
        assert_eq!(question.scored[0], [(0, 4, u32::from(b'd'))]);
        assert_eq!(question.scored[1], [(1, 4, u32::from(b'e'))]);
        let written = Written { behind: " end.".into(), ..written };
        let question = Question::new(&written, Format::Winogrande, bytes).unwrap();
        // Behind the choice, without the last token.
        let targets: Vec<u32> = question.scored[1].iter().map(|s| s.2).collect();
        assert_eq!(targets, b" end".map(u32::from));
        assert_eq!(question.scored[1][0], (1, 4, u32::from(b' ')));
    }

    #[test]
    fn the_test_of_pairs_is_exact() {
        let paired = |lost, gained| Paired { count: 1000, right: 500, lost, gained, changed: lost + gained };
        assert_eq!(paired(0, 0).p_value(), 1.0);
        assert_eq!(paired(5, 5).p_value(), 1.0);
        assert!((paired(10, 0).p_value() - 2.0 / 1024.0).abs() < 1e-12);
        // Σ C(20, k) for k ≤ 5 is 21700.
        assert!((paired(5, 15).p_value() - 2.0 * 21_700.0 / 1_048_576.0).abs() < 1e-12);
        assert!((far_p_value(20, 5) - paired(5, 15).p_value()).abs() < 1e-12);
        assert!((paired(12, 30).difference().0 - 0.018).abs() < 1e-12);
    }
}
