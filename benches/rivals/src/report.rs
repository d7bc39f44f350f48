//! What was measured, as Markdown and SVG.

use std::{error::Error, fs, path::Path};

use plotters::prelude::*;

use crate::stats::Spread;

/// How often each goal is measured: what a table says of it is the median, the least and the most of so many runs.
pub(crate) const RUNS: usize = 5;

/// A goal, and what came of it.
pub(crate) struct Goal {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) figures: Vec<Figure>,
}

/// What one number of a goal was, in each run.
pub(crate) struct Figure {
    what: &'static str,
    runs: Vec<f64>,
    most: Option<f64>,
    /// Kept in every run, or not at all.
    is_promise: bool,
    /// What it is at least, where noise leaves that open.
    least: Vec<f64>,
}

impl Figure {
    /// A number whose median must not be more than this.
    pub(crate) fn at_most(most: f64, what: &'static str, runs: Vec<f64>) -> Self {
        Self { what, runs, most: Some(most), is_promise: false, least: Vec::new() }
    }

    /// A number that must not be more than this in any run.
    pub(crate) fn never_above(most: f64, what: &'static str, runs: Vec<f64>) -> Self {
        Self { is_promise: true, ..Self::at_most(most, what, runs) }
    }

    /// A number that is told, and has no bound.
    pub(crate) fn told(what: &'static str, runs: Vec<f64>) -> Self {
        Self { what, runs, most: None, is_promise: false, least: Vec::new() }
    }

    /// Says what the number is at least: where the bound lies between the two, nothing is decided.
    pub(crate) fn and_at_least(mut self, least: &[f64]) -> Self {
        self.least = least.to_owned();
        self
    }

    fn is_open(&self) -> bool {
        !self.is_met() && Spread::of(self.least.clone()).median <= self.most.unwrap_or_default()
    }

    fn is_met(&self) -> bool {
        let spread = Spread::of(self.runs.clone());
        let value = if self.is_promise { spread.most } else { spread.median };
        self.most.is_none_or(|most| value <= most)
    }

    /// In how many runs it was within its bound.
    fn met(&self) -> usize {
        let most = self.most.unwrap_or(f64::INFINITY);
        self.runs.iter().filter(|run| **run <= most).count()
    }

    fn cells(&self) -> [String; 4] {
        let met = match self.most {
            Some(_) if self.is_met() => format!("yes ({} of {})", self.met(), self.runs.len()),
            Some(_) if self.is_open() => {
                format!("inconclusive ({} of {})", self.met(), self.runs.len())
            }
            Some(_) => format!("**no** ({} of {})", self.met(), self.runs.len()),
            None => String::new(),
        };
        let most = self.most.map_or_else(String::new, |most| format!("≤ {most}"));
        let measured = Spread::of(self.runs.clone()).to_string();
        [self.what.to_owned(), most, measured, met]
    }
}

/// Collects what is measured.
#[derive(Default)]
pub(crate) struct Report {
    goals: Vec<Goal>,
    sections: String,
    plots: Vec<Plot>,
}

/// Bars that are drawn when all is measured.
struct Plot {
    name: &'static str,
    title: &'static str,
    bars: Vec<(String, f64)>,
}

const BEGIN: &str = "<!-- measured: from here on `cargo run` writes -->";

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

    /// Draws bars below the last table.
    pub(crate) fn plot(
        &mut self,
        name: &'static str,
        title: &'static str,
        bars: Vec<(String, f64)>,
    ) {
        self.sections += &format!("\n![{title}](benchmarks/{name}.svg)\n");
        self.plots.push(Plot { name, title, bars });
    }

    /// Puts all into `docs/benchmarks.md`, below what is written by hand there.
    pub(crate) fn write(mut self, machine: &str) -> Result<(), Box<dyn Error>> {
        for plot in &self.plots {
            plot.draw()?;
        }
        let path = folder().join("benchmarks.md");
        let page = fs::read_to_string(&path)?;
        let (by_hand, _) =
            page.split_once(BEGIN).ok_or("docs/benchmarks.md has no place for this")?;
        self.goals.sort_by_key(|goal| goal.name[1..].parse::<u32>().unwrap_or(0));
        let mut goals = "| | what | | goal | measured | met |\n|".to_owned() + &" --- |".repeat(6);
        for goal in &self.goals {
            let mut heads = [goal.name, goal.what];
            for figure in &goal.figures {
                goals += &format!("\n| {} | {} |", heads.join(" | "), figure.cells().join(" | "));
                heads = ["", ""];
            }
        }
        let sections = self.sections;
        let page = format!(
            "{by_hand}{BEGIN}\n\n{machine}\n\n### The goals\n\nMedians of {RUNS} runs (least–most), and in how many of them the goal was met. A time must keep its bound in the median, a count in every run.\n\n{goals}\n{sections}"
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
        let most = values().fold(1.0, f64::max);
        // The axis is logarithmic, and begins left of the smallest bar.
        let least = 0.7 * values().filter(|value| *value > 0.0).fold(1.0, f64::min);
        let longest = bars.iter().map(|(name, _)| name.len()).max();
        let names = 20 + 6 * longest.unwrap_or_default() as u32;
        let mut chart = ChartBuilder::on(&area)
            .caption(*title, ("sans-serif", 18))
            .margin(8)
            .set_label_area_size(LabelAreaPosition::Left, names)
            .set_label_area_size(LabelAreaPosition::Bottom, 24)
            .build_cartesian_2d(
                (least..most * 2.0).log_scale(),
                (0..bars.len()).into_segmented(),
            )?;
        let name = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(place) => {
                bars.get(bars.len().wrapping_sub(1 + place)).map_or("", |(name, _)| name).to_owned()
            }
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(bars.len())
            .y_label_formatter(&name)
            .draw()?;
        for (place, (name, value)) in bars.iter().rev().enumerate() {
            let color = if name.starts_with("sitecore-auth") {
                RGBColor(0, 110, 60)
            } else {
                RGBColor(130, 130, 140)
            };
            let corner = (value.max(least), SegmentValue::Exact(place + 1));
            let mut bar =
                Rectangle::new([(least, SegmentValue::Exact(place)), corner], color.filled());
            bar.set_margin(4, 4, 0, 0);
            chart.draw_series([bar])?;
            let label = Text::new(
                match value.fract() {
                    0.0 => value.to_string(),
                    _ => format!("{value:.2}"),
                },
                (value.max(least), SegmentValue::CenterOf(place)),
                ("sans-serif", 13),
            );
            chart.draw_series([label])?;
        }
        Ok(area.present()?)
    }
}
