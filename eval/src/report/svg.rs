//! The drawings of the page: scatter plots, spreads and heat maps as inline SVG that takes its colours from the page.

use std::fmt::Write as _;

use super::gate::xml;

/// How a value becomes a place on an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
    /// Where what is smaller, or nothing at all, is drawn: log₁₀ of it.
    floor: Option<f64>,
}

impl Scale {
    /// An axis over these values with some air at both ends, drawn between two places of the picture.
    pub(super) fn over(values: impl Iterator<Item = f64>, log: bool, from: f64, to: f64) -> Option<Scale> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite() && (!log || *v > 0.0)) {
            let value = if log { value.log10() } else { value };
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            return None;
        }
        let air = if high > low { 0.06 * (high - low) } else { 0.5 * low.abs().max(0.1) };
        Some(Scale { low: low - air, high: high + air, log, from, to, floor: None })
    }

    /// A logarithmic axis that ends at a floor, so that differences of nothing but rounding do not stretch it; without
    /// values below the floor it is as any other.
    pub(super) fn floored(values: impl Iterator<Item = f64>, floor: f64, from: f64, to: f64) -> Option<Scale> {
        let values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        let above: Vec<f64> = values.iter().copied().filter(|v| *v > floor).collect();
        if above.is_empty() || above.len() == values.len() {
            return Scale::over(values.into_iter(), true, from, to);
        }
        let scale = Scale::over(above.into_iter().chain([floor]), true, from, to)?;
        Some(Scale { floor: Some(floor.log10()), ..scale })
    }

    /// Whether a value is drawn at the floor in place of where it is.
    pub(super) fn is_below(&self, value: f64) -> bool {
        self.floor.is_some_and(|floor| value <= 0.0 || value.log10() <= floor)
    }

    /// The place of a value; what a logarithmic axis cannot show lies at its low end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let least = self.floor.unwrap_or(self.low);
        let value = match self.log {
            true if value > 0.0 => value.log10().max(least),
            true => least,
            false => value,
        };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Places and labels of the marks along the axis, of which no two lie nearer than their `room`.
    pub(super) fn ticks(&self, room: fn(&str) -> f64) -> Vec<(f64, String)> {
        let floor = self.floor.map(|floor| 10f64.powf(floor));
        let floor = floor.map(|floor| (self.place(floor), format!("≤ {}", label(floor))));
        let mut all: Vec<(f64, String)> = floor.into_iter().collect();
        // The roundest marks first: others give way.
        for (place, text) in self.marks() {
            let clear = |other: &(f64, String)| (place - other.0).abs() >= 0.5 * (room(&text) + room(&other.1));
            if all.iter().all(clear) {
                all.push((place, text));
            }
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }

    /// The marks that there might be, roundest first.
    fn marks(&self) -> Vec<(f64, String)> {
        let at = |value: f64| (self.place(value), label(value));
        if self.log {
            let decades = self.low.floor() as i32..=self.high.floor() as i32;
            let few = self.high.floor() - self.low.ceil() < 2.0;
            let steps: &[f64] = if few { &[1.0, 5.0, 2.0] } else { &[1.0] };
            let least = self.floor.unwrap_or(self.low);
            let inside = |v: &f64| (least..=self.high).contains(&v.log10());
            return steps
                .iter()
                .flat_map(|s| decades.clone().map(move |d| s * 10f64.powi(d)))
                .filter(inside)
                .map(at)
                .collect();
        }
        let raw = (self.high - self.low) / 6.0;
        let magnitude = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|s| s * magnitude).into_iter().find(|&s| s >= raw).unwrap_or(raw);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|i| at(i as f64 * step)).collect()
    }
}

/// The width of a mark's text below an axis, with air.
fn wide(text: &str) -> f64 {
    8.5 * text.chars().count() as f64 + 8.0
}

/// The height of a mark's text beside an axis, with air.
fn high(_: &str) -> f64 {
    18.0
}

fn label(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if !(1e-3..1e5).contains(&v) => format!("{value:.0e}").replace("e-", "e−"),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// A point of a scatter plot.
pub(super) struct Point {
    pub(super) name: String,
    pub(super) x: f64,
    pub(super) y: f64,
    /// One standard error of `y`, NaN where there is none.
    pub(super) error: f64,
    pub(super) front: bool,
    /// What the tooltip and a screen reader say.
    pub(super) told: String,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 48.0;
const TOP: f64 = 14.0;
const RIGHT: f64 = 20.0;

/// The vertical axis of a scatter plot.
#[derive(Clone, Copy, Debug)]
pub(super) enum Axis {
    /// As values are.
    Linear,
    /// Logarithmic, with what is this or less at one place below.
    Log(f64),
}

/// A scatter plot with labelled points and their errors; those on the front are filled and joined by a line.
pub(super) fn scatter(title: &str, x_name: &str, y_name: &str, axis: Axis, points: &[Point]) -> String {
    let x = Scale::over(points.iter().map(|p| p.x), false, LEFT, WIDTH - RIGHT);
    let (bottom, ys) = (HEIGHT - BOTTOM, points.iter().map(|p| p.y));
    let y = match axis {
        Axis::Linear => Scale::over(ys, false, bottom, TOP),
        Axis::Log(floor) => Scale::floored(ys, floor, bottom, TOP),
    };
    let (Some(x), Some(y)) = (x, y) else { return format!("<p>No {} to draw.</p>", xml(y_name)) };
    let mut out = open(title, WIDTH, HEIGHT);
    axes(&mut out, &x, &y, x_name, y_name);
    let mut front: Vec<(f64, f64)> = points.iter().filter(|p| p.front).map(|p| (x.place(p.x), y.place(p.y))).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    let line: Vec<String> = front.iter().map(|(px, py)| format!("{px:.1},{py:.1}")).collect();
    put(&mut out, format_args!("<polyline class=\"front\" points=\"{}\"/>", line.join(" ")));
    let mut taken: Vec<[f64; 4]> = points
        .iter()
        .map(|p| (x.place(p.x), y.place(p.y)))
        .map(|(px, py)| [px - 6.0, py - 6.0, px + 6.0, py + 6.0])
        .collect();
    for point in points {
        let (px, py) = (x.place(point.x), y.place(point.y));
        let class = match (y.is_below(point.y), point.front) {
            (true, _) => "point floor",
            (_, true) => "point on",
            _ => "point",
        };
        if point.error.is_finite() && point.error > 0.0 && !y.is_below(point.y) {
            let (low, high) = (point.y - point.error, point.y + point.error);
            // An error larger than the value reaches down to the end of a logarithmic axis.
            let (low, high) = (y.place(low).min(bottom), y.place(high).max(TOP));
            put(
                &mut out,
                format_args!(
                    "<path class=\"error\" d=\"M{px:.1} {low:.1}V{high:.1}M{0:.1} {low:.1}h6M{0:.1} {high:.1}h6\"/>",
                    px - 3.0
                ),
            );
        }
        put(
            &mut out,
            format_args!(
                "<circle class=\"{class}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"5\"><title>{}</title></circle>",
                xml(&point.told)
            ),
        );
        if let Some((tx, ty, anchor)) = room_for(&point.name, px, py, &mut taken) {
            let weight = if point.front { " on" } else { "" };
            put(
                &mut out,
                format_args!(
                    "<text class=\"name{weight}\" x=\"{tx:.1}\" y=\"{ty:.1}\" text-anchor=\"{anchor}\">{}</text>",
                    xml(&point.name)
                ),
            );
        }
    }
    out + "</svg>"
}

/// A place for a label beside a point where it covers nothing, if there is one.
fn room_for(name: &str, x: f64, y: f64, taken: &mut Vec<[f64; 4]>) -> Option<(f64, f64, &'static str)> {
    // Bold letters of the labels are about this wide.
    let width = 7.4 * name.chars().count() as f64;
    let places = [
        (x + 9.0, y + 4.0, "start"),
        (x - 9.0, y + 4.0, "end"),
        (x, y - 10.0, "middle"),
        (x, y + 19.0, "middle"),
        (x + 7.0, y - 9.0, "start"),
        (x + 7.0, y + 17.0, "start"),
        (x - 7.0, y - 9.0, "end"),
        (x - 7.0, y + 17.0, "end"),
    ];
    for (tx, ty, anchor) in places {
        let left = match anchor {
            "start" => tx,
            "end" => tx - width,
            _ => tx - width / 2.0,
        };
        let area = [left, ty - 10.0, left + width, ty + 3.0];
        let inside = area[0] >= LEFT && area[2] <= WIDTH && area[1] >= 0.0 && area[3] <= HEIGHT - BOTTOM;
        let clear = taken.iter().all(|t| area[2] < t[0] || area[0] > t[2] || area[3] < t[1] || area[1] > t[3]);
        if inside && clear {
            taken.push(area);
            return Some((tx, ty, anchor));
        }
    }
    None
}

/// The spread of one model: values at 0.1, 5, 50, 95 and 99.9 percent, and the mean.
pub(super) struct Spread {
    pub(super) name: String,
    pub(super) at: [f64; 5],
    pub(super) mean: f64,
    /// One standard error of the mean, NaN where there is none.
    pub(super) error: f64,
    pub(super) told: String,
}

/// One bar a model on a logarithmic axis.
pub(super) fn spreads(title: &str, x_name: &str, floor: f64, rows: &[Spread]) -> String {
    const ROW: f64 = 30.0;
    let names = 7.4 * rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(0) as f64;
    let left = names.clamp(60.0, 220.0) + 12.0;
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    // The lowest values are rounding noise around 0, so the axis begins at the smallest 5 % point.
    let values = rows.iter().flat_map(|r| r.at[1..].iter().copied().chain([r.mean]));
    let Some(x) = Scale::floored(values, floor, left, WIDTH - RIGHT) else {
        return format!("<p>No {} to draw.</p>", xml(x_name));
    };
    let mut out = open(title, WIDTH, height);
    for (place, text) in x.ticks(wide) {
        let end = height - BOTTOM;
        put(
            &mut out,
            format_args!("<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{end:.1}\"/>"),
        );
        put(
            &mut out,
            format_args!(
                "<text class=\"tick\" x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                end + 16.0
            ),
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let at = row.at.map(|v| x.place(v));
        put(&mut out, format_args!("<g><title>{}</title>", xml(&row.told)));
        put(
            &mut out,
            format_args!(
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                y + 4.0,
                xml(&row.name)
            ),
        );
        put(
            &mut out,
            format_args!(
                "<line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                at[0], at[4]
            ),
        );
        put(
            &mut out,
            format_args!(
                "<rect class=\"box\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" rx=\"3\"/>",
                at[1],
                y - 7.0,
                (at[3] - at[1]).max(1.0)
            ),
        );
        put(
            &mut out,
            format_args!(
                "<line class=\"median\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>",
                at[2],
                y - 8.0,
                y + 8.0
            ),
        );
        let m = x.place(row.mean);
        if row.error.is_finite() && row.error > 0.0 && !x.is_below(row.mean) {
            let (low, high) = (x.place(row.mean - row.error), x.place(row.mean + row.error).min(WIDTH - RIGHT));
            put(&mut out, format_args!("<path class=\"error\" d=\"M{low:.1} {y:.1}H{high:.1}\"/>"));
        }
        put(&mut out, format_args!("<path class=\"mean\" d=\"M{m:.1} {:.1}l5 5l-5 5l-5 -5z\"/></g>", y - 5.0));
    }
    axis_name(&mut out, x_name, (left + WIDTH - RIGHT) / 2.0, height - 8.0);
    out + "</svg>"
}

/// A cell of a heat map: its fraction of the colour scale and its tooltip; none where there is no tensor.
pub(super) type Cell = Option<(f64, String)>;

/// A heat map: a row a kind of tensor, a column a layer.
pub(super) fn heat(title: &str, rows: &[(String, Vec<Cell>)]) -> String {
    const CELL: f64 = 22.0;
    let columns = rows.iter().map(|r| r.1.len()).max().unwrap_or(0);
    let left = 7.2 * rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0) as f64 + 12.0;
    let (width, height) = (left + CELL * columns as f64 + 8.0, CELL * rows.len() as f64 + 26.0);
    let mut out = open(title, width, height).replacen("max-width:", "width:", 1);
    for (i, (name, cells)) in rows.iter().enumerate() {
        let y = CELL * i as f64;
        put(
            &mut out,
            format_args!(
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 15.0,
                xml(name)
            ),
        );
        for (column, cell) in cells.iter().enumerate() {
            let Some((fraction, told)) = cell else { continue };
            put(
                &mut out,
                format_args!(
                    "<rect class=\"cell\" style=\"--v:{0:.0}%\" x=\"{1:.1}\" y=\"{2:.1}\" width=\"{3}\" height=\"{3}\"><title>{4}</title></rect>",
                    100.0 * fraction.clamp(0.0, 1.0),
                    left + CELL * column as f64,
                    y + 1.0,
                    CELL - 2.0,
                    xml(told),
                ),
            );
        }
    }
    let step = columns.div_ceil(16).max(1);
    for column in (0..columns).step_by(step) {
        put(
            &mut out,
            format_args!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{column}</text>",
                left + CELL * (column as f64 + 0.5) - 1.0,
                height - 10.0
            ),
        );
    }
    out + "</svg>"
}

fn open(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" style=\"max-width:{width:.0}px\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
        xml(title)
    )
}

fn axes(out: &mut String, x: &Scale, y: &Scale, x_name: &str, y_name: &str) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for (place, text) in x.ticks(wide) {
        put(
            out,
            format_args!("<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"),
        );
        put(
            out,
            format_args!(
                "<text class=\"tick\" x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                bottom + 16.0
            ),
        );
    }
    for (place, text) in y.ticks(high) {
        put(
            out,
            format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>"),
        );
        put(
            out,
            format_args!(
                "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                place + 4.0
            ),
        );
    }
    axis_name(out, x_name, (LEFT + right) / 2.0, HEIGHT - 8.0);
    put(
        out,
        format_args!(
            "<text class=\"axis\" x=\"14\" y=\"{0}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {0})\">{1}</text>",
            (TOP + bottom) / 2.0,
            xml(y_name)
        ),
    );
}

fn axis_name(out: &mut String, name: &str, x: f64, y: f64) {
    put(
        out,
        format_args!("<text class=\"axis\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", xml(name)),
    );
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_lie_on_round_numbers_inside_the_axis() {
        let linear = Scale::over([2.0, 16.0].into_iter(), false, 0.0, 100.0).expect("values");
        let ticks = linear.ticks(wide);
        assert!(ticks.len() >= 3, "{ticks:?}");
        assert!(ticks.iter().all(|t| (0.0..=100.0).contains(&t.0)));
        let log = Scale::over([1e-5, 0.5].into_iter(), true, 0.0, 100.0).expect("values");
        let labels: Vec<String> = log.ticks(high).into_iter().map(|t| t.1).collect();
        assert!(labels.contains(&"0.01".to_owned()), "{labels:?}");
    }

    #[test]
    fn what_an_axis_cannot_show_is_left_out() {
        assert!(Scale::over([0.0, -1.0, f64::NAN].into_iter(), true, 0.0, 1.0).is_none());
        let scale = Scale::over([0.1, 1.0].into_iter(), true, 0.0, 1.0).expect("values");
        assert_eq!(scale.place(0.0), 0.0);
        let one = Scale::over([5.0].into_iter(), false, 0.0, 1.0).expect("one value");
        assert!((one.place(5.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_lossless_lies_at_a_floor_and_marks_keep_apart() {
        let values = [1e-13, 0.0, 2e-5, 0.3];
        let scale = Scale::floored(values.into_iter(), 1e-7, 370.0, 14.0).expect("values");
        assert_eq!(scale.place(1e-13), scale.place(0.0));
        assert!(scale.place(2e-5) < scale.place(1e-7) && scale.is_below(1e-13) && !scale.is_below(2e-5));
        let ticks = scale.ticks(high);
        assert!(ticks.iter().any(|t| t.1 == "≤ 1e−7"), "{ticks:?}");
        for (low, high_end) in [(1e-12, 1e3), (0.011, 0.02), (3.0, 3.1)] {
            let scale = Scale::over([low, high_end].into_iter(), true, 0.0, 300.0).expect("values");
            let ticks = scale.ticks(wide);
            let near = ticks.windows(2).filter(|w| w[1].0 - w[0].0 < 0.5 * (wide(&w[0].1) + wide(&w[1].1)) - 1e-9);
            assert_eq!(near.count(), 0, "{ticks:?}");
        }
        // Without anything below the floor the axis is as any other.
        let plain = Scale::floored([1e-3, 1.0].into_iter(), 1e-7, 0.0, 1.0).expect("values");
        assert!(plain.floor.is_none());
        // Where all is below it, it is shown as it is.
        assert!(Scale::floored([1e-9, 1e-8].into_iter(), 1e-7, 0.0, 1.0).expect("values").floor.is_none());
    }

    #[test]
    fn crowded_labels_give_way() {
        let mut taken = Vec::new();
        let placed = (0..40).filter(|_| room_for("Q4_K_M", 300.0, 200.0, &mut taken).is_some()).count();
        assert!((1..40).contains(&placed));
    }
}
