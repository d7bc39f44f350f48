//! Writes the measurements as Markdown and SVG.

use std::{error::Error, fs, path::Path};

use plotters::prelude::*;

use crate::stats::Spread;

/// How often each goal is measured.
pub(crate) const RUNS: usize = 5;

/// A goal with its measurements.
pub(crate) struct Goal {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) figures: Vec<Figure>,
}

/// One number of a goal, as measured in each run.
pub(crate) struct Figure {
    what: &'static str,
    runs: Vec<f64>,
    bound: Option<f64>,
    /// Whether every run must be within the bound, not only the median.
    in_every_run: bool,
    /// The lower end of an interval whose upper end is in `runs`.
    lower_end: Vec<f64>,
}

impl Figure {
    /// Creates a number whose median must not exceed the bound.
    pub(crate) fn at_most(bound: f64, what: &'static str, runs: Vec<f64>) -> Self {
        Self { bound: Some(bound), ..Self::unbounded(what, runs) }
    }

    /// Creates a number that must not exceed the bound in any run.
    pub(crate) fn never_above(bound: f64, what: &'static str, runs: Vec<f64>) -> Self {
        Self { in_every_run: true, ..Self::at_most(bound, what, runs) }
    }

    /// Creates a number without a bound.
    pub(crate) fn unbounded(what: &'static str, runs: Vec<f64>) -> Self {
        Self { what, runs, bound: None, in_every_run: false, lower_end: Vec::new() }
    }

    /// Makes this number the upper end of an interval. If the bound lies within the interval, the
    /// result is inconclusive.
    pub(crate) fn with_lower_end(mut self, lower_end: &[f64]) -> Self {
        self.lower_end = lower_end.to_owned();
        self
    }

    fn is_inconclusive(&self) -> bool {
        let lower_end = Spread::of(self.lower_end.clone()).median;
        !self.is_met() && lower_end <= self.bound.unwrap_or_default()
    }

    fn is_met(&self) -> bool {
        let spread = Spread::of(self.runs.clone());
        let value = if self.in_every_run { spread.max } else { spread.median };
        self.bound.is_none_or(|bound| value <= bound)
    }

    /// Returns the number of runs within the bound.
    fn met(&self) -> usize {
        let bound = self.bound.unwrap_or(f64::INFINITY);
        self.runs.iter().filter(|run| **run <= bound).count()
    }

    fn cells(&self) -> [String; 4] {
        let met = match self.bound {
            Some(_) if self.is_met() => format!("yes ({} of {})", self.met(), self.runs.len()),
            Some(_) if self.is_inconclusive() => {
                format!("inconclusive ({} of {})", self.met(), self.runs.len())
            }
            Some(_) => format!("**no** ({} of {})", self.met(), self.runs.len()),
            None => String::new(),
        };
        let bound = self.bound.map_or_else(String::new, |bound| format!("≤ {bound}"));
        let measured = Spread::of(self.runs.clone()).to_string();
        [self.what.to_owned(), bound, measured, met]
    }
}

/// Collects the measurements.
#[derive(Default)]
pub(crate) struct Report {
    goals: Vec<Goal>,
    sections: String,
    plots: Vec<Plot>,
}

/// A bar chart, drawn at the end.
struct Plot {
    name: &'static str,
    title: &'static str,
    bars: Vec<(String, f64)>,
}

const BEGIN: &str = "<!-- measured: everything below is generated -->";

impl Report {
    pub(crate) fn goal(&mut self, goal: Goal) {
        for figure in &goal.figures {
            println!("{}: {}", goal.name, figure.cells().join(" | "));
        }
        self.goals.push(goal);
    }

    pub(crate) fn table(
        &mut self,
        title: &str,
        about: &str,
        head: &[&str],
        rows: Vec<Vec<String>>,
    ) {
        let mut table = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
        for mut row in rows {
            row.resize(head.len(), String::new());
            table += &format!("| {} |\n", row.join(" | "));
        }
        println!("\n{title}\n{table}");
        self.sections += &format!("\n### {title}\n\n{about}\n\n{table}");
    }

    /// Adds a bar chart below the last table.
    pub(crate) fn plot(
        &mut self,
        name: &'static str,
        title: &'static str,
        bars: Vec<(String, f64)>,
    ) {
        self.sections += &format!("\n![{title}](benchmarks/{name}.svg)\n");
        self.plots.push(Plot { name, title, bars });
    }

    /// Replaces the generated part of `docs/benchmarks.md`, and draws the charts.
    pub(crate) fn write(mut self, machine: &str) -> Result<(), Box<dyn Error>> {
        for plot in &self.plots {
            plot.draw()?;
        }
        let path = folder().join("benchmarks.md");
        let page = fs::read_to_string(&path)?;
        let (by_hand, _) =
            page.split_once(BEGIN).ok_or("docs/benchmarks.md has no line `measured`")?;
        self.goals.sort_by_key(|goal| goal.name[1..].parse::<u32>().unwrap_or(0));
        let mut goals = "| | what | | goal | measured | met |\n|".to_owned() + &" --- |".repeat(6);
        for goal in &self.goals {
            let mut heads = [goal.name, goal.what];
            for figure in &goal.figures {
                goals += &format!("\n| {} | {} |", heads.join(" | "), figure.cells().join(" | "));
                heads = ["", ""];
            }
        }
        let about = format!(
            "Each figure is the median of {RUNS} runs (minimum–maximum). A time must be within \
             its bound in the median, a count in every run. The last column also counts the runs \
             within the bound."
        );
        let sections = self.sections;
        let page = format!(
            "{by_hand}{BEGIN}\n\n{machine}\n\n### The goals\n\n{about}\n\n{goals}\n{sections}"
        );
        Ok(fs::write(path, page)?)
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"))
}

impl Plot {
    fn draw(&self) -> Result<(), Box<dyn Error>> {
        let Self { name, title, bars } = self;
        let plots = folder().join("benchmarks");
        fs::create_dir_all(&plots)?;
        let path = plots.join(format!("{name}.svg"));
        let height = 70 + 26 * bars.len() as u32;
        let area = SVGBackend::new(&path, (860, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let values = || bars.iter().map(|(_, value)| *value);
        let max = values().fold(1.0, f64::max);
        // The axis is logarithmic. It begins to the left of the shortest bar.
        let min = 0.7 * values().filter(|value| *value > 0.0).fold(1.0, f64::min);
        let longest = bars.iter().map(|(name, _)| name.len()).max();
        let names = 20 + 6 * longest.unwrap_or_default() as u32;
        let mut chart = ChartBuilder::on(&area)
            .caption(*title, ("sans-serif", 18))
            .margin(8)
            .set_label_area_size(LabelAreaPosition::Left, names)
            .set_label_area_size(LabelAreaPosition::Bottom, 24)
            .build_cartesian_2d((min..max * 2.0).log_scale(), (0..bars.len()).into_segmented())?;
        let name = |segment: &SegmentValue<usize>| match segment {
            SegmentValue::CenterOf(index) => {
                bars.get(bars.len().wrapping_sub(1 + index)).map_or("", |(name, _)| name).to_owned()
            }
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(bars.len())
            .y_label_formatter(&name)
            .draw()?;
        for (index, (name, value)) in bars.iter().rev().enumerate() {
            let color = if name.starts_with("sitecore-auth") {
                RGBColor(0, 110, 60)
            } else {
                RGBColor(130, 130, 140)
            };
            let corner = (value.max(min), SegmentValue::Exact(index + 1));
            let mut bar =
                Rectangle::new([(min, SegmentValue::Exact(index)), corner], color.filled());
            bar.set_margin(4, 4, 0, 0);
            chart.draw_series([bar])?;
            let label = Text::new(
                match value.fract() {
                    0.0 => value.to_string(),
                    _ => format!("{value:.2}"),
                },
                (value.max(min), SegmentValue::CenterOf(index)),
                ("sans-serif", 13),
            );
            chart.draw_series([label])?;
        }
        Ok(area.present()?)
    }
}
