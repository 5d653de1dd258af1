//! Progress with rate and time left: a bar on a terminal, JSON lines for programs, nothing otherwise.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// Where progress goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// A bar on standard error when that is a terminal.
    #[default]
    Auto,
    /// JSON lines on standard output, a few a second.
    Json,
    /// Nothing.
    None,
}

/// The unit that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Tokens,
}

/// Progress of one job.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: Option<Mutex<Lines>>,
}

#[derive(Debug)]
struct Lines {
    label: String,
    unit: Unit,
    done: u64,
    total: u64,
    begun: Instant,
    last: Option<Instant>,
}

const LINE_INTERVAL: Duration = Duration::from_millis(250);

impl Progress {
    /// Progress over this many bytes.
    pub fn bytes(mode: ProgressMode, quiet: bool, label: &str, total: u64) -> Progress {
        let style = "{msg:14} {bar:32} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
        Progress::new(mode, quiet, label, total, Unit::Bytes, style)
    }

    /// Progress over this many tokens.
    pub fn tokens(mode: ProgressMode, quiet: bool, label: &str, total: u64) -> Progress {
        let style = "{msg:14} {bar:32} {percent:>3} %  {human_pos} of {human_len} tokens  {per_sec}  {eta} left";
        Progress::new(mode, quiet, label, total, Unit::Tokens, style)
    }

    fn new(mode: ProgressMode, quiet: bool, label: &str, total: u64, unit: Unit, style: &str) -> Progress {
        let bar = (mode == ProgressMode::Auto && !quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total);
            bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(label.to_owned());
            bar
        });
        let lines = (mode == ProgressMode::Json).then(|| {
            Mutex::new(Lines { label: label.to_owned(), unit, done: 0, total, begun: Instant::now(), last: None })
        });
        Progress { bar, lines }
    }

    /// Counts more of the job as done.
    pub fn add(&self, amount: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(amount);
        }
        if let Some(mut lines) = self.lines.as_ref().and_then(|l| l.lock().ok()) {
            lines.done += amount;
            lines.print(false);
        }
    }

    /// Prints a line for people above the bar (or plainly, where there is none).
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => super::say(line),
        }
    }

    /// Ends the job.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(mut lines) = self.lines.as_ref().and_then(|l| l.lock().ok()) {
            lines.print(true);
        }
    }
}

impl Lines {
    fn print(&mut self, last: bool) {
        let now = Instant::now();
        if !last && self.last.is_some_and(|then| now - then < LINE_INTERVAL) {
            return;
        }
        self.last = Some(now);
        let seconds = (now - self.begun).as_secs_f64();
        let rate = if seconds > 0.0 { self.done as f64 / seconds } else { 0.0 };
        let left = if rate > 0.0 { json!(self.total.saturating_sub(self.done) as f64 / rate) } else { json!(null) };
        let unit = match self.unit {
            Unit::Bytes => "bytes",
            Unit::Tokens => "tokens",
        };
        let line = json!({"event": "progress", "job": self.label, "unit": unit, "done": self.done, "total": self.total,
            "per_second": rate, "seconds_left": left});
        // A consumer that went away must not stop the work.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}
