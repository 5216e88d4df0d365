//! Pictures of a dashboard for the documentation: SVG without scripts, fonts or links, readable on a light and on a dark
//! page. The layout, the colours and the units follow Grafana's.

use std::fmt::Write;

use serde_json::Value;

/// The width of a grid's column and the height of its row, in pixels, with the gap between panels.
const COLUMN: f64 = 50.0;
const ROW: f64 = 34.0;
const GAP: f64 = 8.0;
const COLUMNS: f64 = 24.0;
const HEADER: f64 = 44.0;

const LETTER: f64 = 5.9;
const LEGEND_ROW: f64 = 17.0;
const LEGEND_VALUE: f64 = 62.0;

const HOUR: i64 = 60 * 60;

/// The colours of lines. They can be told apart on both backgrounds.
const LINES: [&str; 10] = [
    "#56a64b", "#f2a70b", "#3274d9", "#ff780a", "#e02f44", "#a352cc", "#1fa7b8", "#b3692b", "#e377c2",
    "#7f8c8d",
];

const STYLE: &str = "\
.page{fill:#f4f5f5}.panel{fill:#fff;stroke:#e1e3e5}.text{fill:#24292e}.dim{fill:#646a73}.grid{stroke:#e9eaec}\
@media(prefers-color-scheme:dark){.page{fill:#111217}.panel{fill:#181b1f;stroke:#2c3235}.text{fill:#d5d5e0}\
.dim{fill:#9a9aa8}.grid{stroke:#2a2d33}}";

/// A series of a panel: its name in the legend, and its values by time in seconds.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(i64, f64)>,
}

/// A panel of a dashboard, and its series.
pub struct Panel<'a> {
    pub json: &'a Value,
    pub series: Vec<Series>,
}

/// Draws a dashboard over the time from `start` to `end`.
pub fn draw(title: &str, panels: &[Panel<'_>], start: i64, end: i64) -> String {
    let bottom = |panel: &Panel<'_>| panel.edge("y") + panel.edge("h");
    let rows = panels.iter().map(bottom).fold(0.0, f64::max);
    let (width, height) = (COLUMNS * COLUMN + GAP, rows * ROW + HEADER + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" font-family=\"Inter, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\" font-size=\"11\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n\
         <text class=\"text\" x=\"{x}\" y=\"28\" font-size=\"16\" font-weight=\"600\">{title}</text>\n",
        x = GAP + 6.0,
    );
    for panel in panels {
        panel.draw(&mut svg, start, end);
    }
    svg + "</svg>\n"
}

/// Returns the title and the expressions of each panel of a picture.
pub fn panels_of(picture: &str) -> Vec<(String, String)> {
    let part = |line: &str, tag: &str| {
        let (_, rest) = line.split_once(&format!("<{tag}>"))?;
        Some(unescaped(rest.split_once(&format!("</{tag}>"))?.0))
    };
    picture.lines().filter_map(|line| Some((part(line, "title")?, part(line, "desc")?))).collect()
}

/// The expressions of a panel, one a line of text.
pub fn expressions_of(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    targets.iter().filter_map(|target| target["expr"].as_str()).collect()
}

impl Panel<'_> {
    fn edge(&self, name: &str) -> f64 {
        self.json["gridPos"][name].as_f64().expect("a number")
    }

    fn defaults(&self) -> &Value {
        &self.json["fieldConfig"]["defaults"]
    }

    fn unit(&self) -> &str {
        self.defaults()["unit"].as_str().expect("a unit")
    }

    fn draw(&self, svg: &mut String, start: i64, end: i64) {
        let (x, y) = (self.edge("x") * COLUMN + GAP, self.edge("y") * ROW + HEADER);
        let (width, height) = (self.edge("w") * COLUMN - GAP, self.edge("h") * ROW - GAP);
        let title = self.json["title"].as_str().expect("a title");
        let expressions = expressions_of(self.json).join(" ;; ");
        let _ = writeln!(
            svg,
            "<g transform=\"translate({x} {y})\"><title>{}</title><desc>{}</desc>",
            escaped(title),
            escaped(&expressions)
        );
        let _ = writeln!(svg, "<rect class=\"panel\" width=\"{width}\" height=\"{height}\" rx=\"3\"/>");
        let _ = writeln!(
            svg,
            "<text class=\"text\" x=\"9\" y=\"18\" font-size=\"12\" font-weight=\"600\">{}</text>",
            escaped(title)
        );
        if self.json["type"] == "stat" {
            self.draw_stat(svg, width, height);
        } else {
            self.draw_lines(svg, width, height, start, end);
        }
        svg.push_str("</g>\n");
    }

    /// Draws the last value of each series side by side, on the colour of its threshold.
    fn draw_stat(&self, svg: &mut String, width: f64, height: f64) {
        let count = count(self.series.len().max(1));
        let cell = (width - 2.0 * GAP) / count;
        for (number, series) in self.series.iter().enumerate() {
            let value = series.points.last().map_or(0.0, |(_, value)| *value);
            let x = GAP + cell * self::count(number);
            let (top, middle) = (26.0, x + (cell - 4.0) / 2.0);
            let text = in_unit(value, self.unit());
            let size = (1.4 * (cell - 12.0) / self::count(text.len())).min(22.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\" fill=\"{}\"/>\n\
                 <g fill=\"#fff\" text-anchor=\"middle\"><text x=\"{middle:.1}\" y=\"{:.1}\">{}</text>\
                 <text x=\"{middle:.1}\" y=\"{:.1}\" font-size=\"{size:.0}\" font-weight=\"600\">{text}</text></g>",
                cell - 4.0,
                height - top - GAP,
                self.colour_of(value),
                top + 22.0,
                escaped(&series.name),
                height - GAP - 20.0,
            );
        }
    }

    fn colour_of(&self, value: f64) -> &'static str {
        let steps = self.defaults()["thresholds"]["steps"].as_array().expect("steps");
        let reached = steps.iter().rev().find(|step| step["value"].as_f64().is_none_or(|from| value >= from));
        match reached.and_then(|step| step["color"].as_str()) {
            Some("red") => "#c4162a",
            Some("orange") => "#d9700f",
            _ => "#37872d",
        }
    }

    fn draw_lines(&self, svg: &mut String, width: f64, height: f64, start: i64, end: i64) {
        let custom = &self.defaults()["custom"];
        let is_stacked = custom["stacking"]["mode"] == "normal";
        let letters = self.series.iter().map(|series| series.name.len()).max().unwrap_or_default();
        let legend = count(letters) * LETTER + 18.0 + 2.0 * LEGEND_VALUE;
        let plot = Plot {
            left: 58.0,
            top: 30.0,
            width: width - 58.0 - legend - 22.0,
            height: height - 30.0 - 24.0,
            start,
            end,
            top_value: 0.0,
            gap: custom["spanNulls"].as_i64().expect("milliseconds") / 1000,
        };
        let stacked = if is_stacked { stacked(&self.series) } else { self.series.clone() };
        let values = stacked.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value));
        let (step, top_value) = scale(values.fold(0.0, f64::max), self.unit());
        let plot = Plot { top_value, ..plot };
        plot.draw_axes(svg, step, self.unit());
        for (number, series) in stacked.iter().enumerate() {
            let colour = LINES[number % LINES.len()];
            if custom["drawStyle"] == "bars" {
                plot.draw_bars(svg, &series.points, colour);
                continue;
            }
            let line = plot.path(&series.points);
            if is_stacked {
                let below = number.checked_sub(1).map(|below| stacked[below].points.clone());
                let below = below.unwrap_or_else(|| series.points.iter().map(|(at, _)| (*at, 0.0)).collect());
                let back: Vec<_> = below.into_iter().rev().collect();
                let area = format!("{line}{}z", plot.path(&back).replacen('M', "L", 1));
                let _ = writeln!(svg, "<path fill=\"{colour}\" fill-opacity=\"0.25\" d=\"{area}\"/>");
            }
            let _ =
                writeln!(svg, "<path fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\" d=\"{line}\"/>");
        }
        let limit = self.defaults()["thresholds"]["steps"][1]["value"].as_f64();
        if let Some(limit) =
            limit.filter(|limit| custom["thresholdsStyle"].is_object() && *limit <= top_value)
        {
            let y = plot.y(limit);
            let _ = writeln!(
                svg,
                "<path stroke=\"#e02f44\" stroke-dasharray=\"6 4\" d=\"M{} {y:.1}h{:.1}\"/>",
                plot.left, plot.width
            );
        }
        self.draw_legend(svg, width - legend - 9.0, legend);
    }

    fn draw_legend(&self, svg: &mut String, x: f64, width: f64) {
        let (last, max) = (x + width - LEGEND_VALUE, x + width);
        let _ = writeln!(
            svg,
            "<g class=\"dim\" text-anchor=\"end\"><text x=\"{last:.0}\" y=\"36\">Last</text>\
             <text x=\"{max:.0}\" y=\"36\">Max</text></g>"
        );
        for (number, series) in self.series.iter().enumerate() {
            let y = 36.0 + LEGEND_ROW * (count(number) + 1.0);
            let largest = series.points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
            let newest = series.points.last().map_or(0.0, |(_, value)| *value);
            let _ = writeln!(
                svg,
                "<path stroke=\"{}\" stroke-width=\"3\" d=\"M{x:.0} {:.0}h11\"/>\
                 <text class=\"text\" x=\"{:.0}\" y=\"{y:.0}\">{}</text><g class=\"text\" text-anchor=\"end\">\
                 <text x=\"{last:.0}\" y=\"{y:.0}\">{}</text><text x=\"{max:.0}\" y=\"{y:.0}\">{}</text></g>",
                LINES[number % LINES.len()],
                y - 4.0,
                x + 17.0,
                escaped(&series.name),
                in_unit(newest, self.unit()),
                in_unit(largest, self.unit()),
            );
        }
    }
}

/// The area of a panel that lines are drawn in.
struct Plot {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    start: i64,
    end: i64,
    /// The value at the upper edge; that at the lower edge is zero.
    top_value: f64,
    /// The longest time between two points that a line connects, in seconds.
    gap: i64,
}

impl Plot {
    fn x(&self, at: i64) -> f64 {
        self.left + self.width * seconds(at - self.start) / seconds(self.end - self.start)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - value / self.top_value)
    }

    /// Returns a path through the points. Points in the middle of a level part are left out.
    fn path(&self, points: &[(i64, f64)]) -> String {
        let mut path = String::new();
        for (place, &(at, value)) in points.iter().enumerate() {
            let is_connected =
                |other: Option<&(i64, f64)>| other.is_some_and(|(other, _)| (at - other).abs() <= self.gap);
            let before = place.checked_sub(1).and_then(|before| points.get(before));
            let after = points.get(place + 1);
            let y = self.y(value);
            let is_level = |other: Option<&(i64, f64)>| {
                other.is_some_and(|(_, other)| (self.y(*other) - y).abs() < 0.05)
            };
            let continues = is_connected(before);
            if continues && is_connected(after) && is_level(before) && is_level(after) {
                continue;
            }
            let _ = write!(path, "{}{:.1} {y:.1}", if continues { 'L' } else { 'M' }, self.x(at));
        }
        path
    }

    fn draw_bars(&self, svg: &mut String, points: &[(i64, f64)], colour: &str) {
        for &(at, value) in points {
            let (x, y) = (self.x(at) - 2.0, self.y(value));
            let _ = writeln!(
                svg,
                "<rect fill=\"{colour}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"4\" height=\"{:.1}\"/>",
                self.top + self.height - y
            );
        }
    }

    fn draw_axes(&self, svg: &mut String, step: f64, unit: &str) {
        let mut value = 0.0;
        while value <= self.top_value * 1.001 {
            let (left, y) = (self.left, self.y(value));
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{left} {y:.1}h{:.1}\"/>\
                 <text class=\"dim\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                self.width,
                left - 6.0,
                y + 4.0,
                in_unit(value, unit)
            );
            value += step;
        }
        let hours = (self.end - self.start) / HOUR;
        for hour in (0..hours).step_by(4) {
            let (x, bottom) = (self.x(self.start + hour * HOUR), self.top + self.height);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{x:.1} {}v{:.1}\"/>\
                 <text class=\"dim\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{hour:02}:00</text>",
                self.top,
                self.height,
                bottom + 15.0
            );
        }
    }
}

/// Returns the series with the values of those before added.
fn stacked(series: &[Series]) -> Vec<Series> {
    let mut sums = std::collections::BTreeMap::new();
    let mut stack = Vec::new();
    for Series { name, points } in series {
        for (at, value) in points {
            *sums.entry(*at).or_default() += *value;
        }
        stack.push(Series { name: name.clone(), points: sums.iter().map(|(at, sum)| (*at, *sum)).collect() });
    }
    stack
}

/// Returns the distance of the lines of a grid for values up to this one, and the value of the highest line.
fn scale(max: f64, unit: &str) -> (f64, f64) {
    const PARTS: f64 = 4.0;
    let rough = (if max > 0.0 { max } else { 1.0 }) / PARTS;
    let power = 10_f64.powf(rough.log10().floor());
    let decimal = [1.0, 2.0, 2.5, 5.0, 10.0].map(|part| part * power);
    let times = [60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0];
    let step = match unit {
        "s" if rough > 30.0 => times.into_iter().find(|step| *step >= rough),
        _ => decimal.into_iter().find(|step| *step >= rough * 0.999),
    };
    let step = step.unwrap_or(rough);
    (step, step * (max / step).ceil().max(1.0))
}

/// Returns a value with Grafana's name of its unit.
fn in_unit(value: f64, unit: &str) -> String {
    let scaled = |factors: &[(f64, &str)]| {
        let (factor, name) =
            factors.iter().rev().find(|(factor, _)| value.abs() >= *factor).unwrap_or(&factors[0]);
        format!("{}{name}", trimmed(value / factor))
    };
    match unit {
        _ if value == 0.0 => format!("0{}", if unit == "percentunit" { "%" } else { "" }),
        "s" => scaled(&[
            (0.001, " ms"),
            (1.0, " s"),
            (60.0, " min"),
            (3_600.0, " h"),
            (86_400.0, " d"),
            (604_800.0, " weeks"),
        ]),
        "Bps" => scaled(&[(1.0, " B/s"), (1e3, " kB/s"), (1e6, " MB/s")]),
        "percentunit" => format!("{}%", trimmed(value * 100.0)),
        _ => scaled(&[(1.0, ""), (1e3, " K"), (1e6, " Mil")]),
    }
}

/// Returns a number with three digits, without zeros at its end.
fn trimmed(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a small number"))
}

fn seconds(seconds: i64) -> f64 {
    f64::from(i32::try_from(seconds).expect("less than 68 years"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
