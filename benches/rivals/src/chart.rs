//! Charts as SVG, with one row per contender, sorted by value. Each chart has its own background,
//! so that it is readable on light and dark pages.

use std::{io, path::Path};

use svg::{
    Document,
    node::element::{Circle, Description, Group, Line, Rectangle, Text, Title},
};

const WIDTH: f64 = 860.0;
/// Where the plot begins and ends. The names are to its left, and the longest value to its right.
const LEFT: f64 = 330.0;
const RIGHT: f64 = 770.0;
const TOP: f64 = 62.0;
const ROW: f64 = 28.0;

const BACKGROUND: &str = "#ffffff";
const TEXT: &str = "#1f2328";
const FAINT: &str = "#59636e";
const GRID: &str = "#d8dee4";
const OURS: &str = "#0a7d4b";
const OTHERS: &str = "#6e7781";

/// How values are placed on the axis.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    /// Bars that begin at zero.
    Linear,
    /// Points, because a bar has no length on a logarithmic axis.
    Logarithmic,
}

/// A chart with one row per contender.
pub(crate) struct Chart {
    /// The name of its file.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What the values are, with their unit.
    pub(crate) axis: &'static str,
    pub(crate) scale: Scale,
    pub(crate) rows: Vec<(String, f64)>,
}

impl Chart {
    /// Writes the chart into this folder.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut rows = self.rows.clone();
        rows.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        let bottom = TOP + ROW * rows.len() as f64;
        let height = bottom + 56.0;
        let (ticks, position) = self.axis(&rows);

        let text = |x: f64, y: f64, anchor: &str, color: &str, text: String| {
            let text = Text::new(text).set("x", round(x)).set("y", round(y));
            text.set("text-anchor", anchor).set("fill", color)
        };
        let mut plot = Group::new().set("font-family", "sans-serif").set("font-size", 13);
        let title = text(20.0, 32.0, "start", TEXT, self.title.to_owned());
        plot = plot.add(title.set("font-size", 17).set("font-weight", "bold"));
        for tick in ticks {
            let x = round(position(tick));
            let line = Line::new().set("x1", x).set("x2", x).set("y1", TOP).set("y2", bottom);
            plot = plot.add(line.set("stroke", GRID));
            plot = plot.add(text(x, bottom + 18.0, "middle", FAINT, number(tick)));
        }
        let middle = f64::midpoint(LEFT, RIGHT);
        plot = plot.add(text(middle, bottom + 42.0, "middle", TEXT, self.axis.to_owned()));
        for (index, (name, value)) in rows.iter().enumerate() {
            let center = TOP + ROW * (index as f64 + 0.5);
            let is_ours = name.starts_with("sitecore-auth");
            let (color, weight) = if is_ours { (OURS, "bold") } else { (OTHERS, "normal") };
            let name = text(LEFT - 12.0, center + 4.5, "end", TEXT, name.clone());
            plot = plot.add(name.set("font-weight", weight));
            let end = position(*value);
            match self.scale {
                Scale::Linear => {
                    let bar = Rectangle::new().set("x", LEFT).set("y", center - 8.0);
                    // A zero is visible too.
                    let bar = bar.set("width", round((end - LEFT).max(2.0))).set("height", 16);
                    plot = plot.add(bar.set("fill", color));
                }
                Scale::Logarithmic => {
                    let line = Line::new().set("x1", LEFT).set("x2", round(end));
                    let line = line.set("y1", center).set("y2", center);
                    plot = plot.add(line.set("stroke", color).set("stroke-width", 2));
                    let point = Circle::new().set("cx", round(end)).set("cy", center);
                    plot = plot.add(point.set("r", 6).set("fill", color));
                }
            }
            let value = text(end + 12.0, center + 4.5, "start", TEXT, number(*value));
            plot = plot.add(value.set("font-weight", weight));
        }

        let background = Rectangle::new().set("x", 0.5).set("y", 0.5).set("rx", 8);
        let background = background.set("width", WIDTH - 1.0).set("height", height - 1.0);
        let values: Vec<_> =
            rows.iter().map(|(name, value)| format!("{name}: {}", number(*value))).collect();
        let document = Document::new()
            .set("viewBox", (0, 0, WIDTH, height))
            .set("width", WIDTH)
            .set("height", height)
            .set("role", "img")
            .set("aria-labelledby", "title description")
            .add(Title::new(self.title).set("id", "title"))
            .add(Description::new().set("id", "description").add(svg::node::Text::new(format!(
                "{}. {}.",
                self.axis,
                values.join("; ")
            ))))
            .add(background.set("fill", BACKGROUND).set("stroke", GRID))
            .add(plot);
        svg::save(folder.join(format!("{}.svg", self.name)), &document)
    }

    /// Returns the ticks of the axis, and where a value is on it.
    fn axis(&self, rows: &[(String, f64)]) -> (Vec<f64>, impl Fn(f64) -> f64 + use<>) {
        let scale = self.scale;
        let values = || rows.iter().map(|(_, value)| *value);
        let most = values().fold(1.0, f64::max);
        let (first, ticks) = match scale {
            Scale::Linear => {
                let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power_of_ten(most / 4.0));
                let step = step.into_iter().find(|step| most / step <= 5.0).unwrap_or(most);
                let count = (most / step).floor() as u32;
                (0.0, (0..=count).map(|tick| f64::from(tick) * step).collect::<Vec<_>>())
            }
            Scale::Logarithmic => {
                let least = values().fold(1.0, f64::min);
                let all =
                    (-3..7).flat_map(|power| [1.0, 2.0, 5.0].map(|it| it * 10_f64.powi(power)));
                let first = all.clone().filter(|tick| *tick <= least).last().unwrap_or(least);
                (first, all.filter(|tick| (first..=most).contains(tick)).collect())
            }
        };
        let position = move |value: f64| {
            let part = match scale {
                Scale::Linear => value / most,
                Scale::Logarithmic => (value / first).ln() / (most / first).ln(),
            };
            LEFT + (RIGHT - LEFT) * part
        };
        (ticks, position)
    }
}

/// Returns the power of ten at or below a number.
fn power_of_ten(number: f64) -> f64 {
    10_f64.powf(number.log10().floor())
}

/// Rounds to a tenth of a pixel.
fn round(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// Returns a number as text, with thousands separated.
fn number(value: f64) -> String {
    if value.fract() != 0.0 {
        let digits = match value {
            ..10.0 => 2,
            ..100.0 => 1,
            _ => 0,
        };
        return format!("{value:.digits$}");
    }
    let digits = format!("{value:.0}");
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
