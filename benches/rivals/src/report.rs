//! What was measured, as Markdown and SVG.

use std::{error::Error, fs, path::Path};

use plotters::prelude::*;

/// A goal, and what came of it.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) goal: &'static str,
    pub(crate) measured: String,
    pub(crate) is_met: bool,
}

/// Collects what is measured.
#[derive(Default)]
pub(crate) struct Report {
    goals: Vec<Row>,
    sections: String,
    plots: Vec<(&'static str, String)>,
}

const BEGIN: &str = "<!-- measured: from here on `cargo run` writes -->";

impl Report {
    pub(crate) fn goal(&mut self, row: Row) {
        println!(
            "{} {}: {}",
            row.name,
            if row.is_met { "met" } else { "NOT MET" },
            row.measured
        );
        self.goals.push(row);
    }

    pub(crate) fn table(
        &mut self,
        title: &str,
        about: &str,
        head: &[&str],
        rows: Vec<Vec<String>>,
    ) {
        let mut table = format!(
            "| {} |\n|{}\n",
            head.join(" | "),
            " --- |".repeat(head.len())
        );
        for mut row in rows {
            row.resize(head.len(), String::new());
            table += &format!("| {} |\n", row.join(" | "));
        }
        println!("\n{title}\n{table}");
        self.sections += &format!("\n### {title}\n\n{about}\n\n{table}");
        for (name, title) in self.plots.drain(..) {
            self.sections += &format!("\n![{title}](benchmarks/{name}.svg)\n");
        }
    }

    /// Draws bars beside the next table.
    pub(crate) fn plot(&mut self, name: &'static str, title: &str, bars: &[(String, f64)]) {
        let drawn = draw(
            &folder().join(format!("benchmarks/{name}.svg")),
            title,
            bars,
        );
        drawn.expect("docs/ can be written to");
        self.plots.push((name, title.to_owned()));
    }

    /// Puts all into `docs/benchmarks.md`, below what is written by hand there.
    pub(crate) fn write(mut self, machine: &str) -> Result<(), Box<dyn Error>> {
        let path = folder().join("benchmarks.md");
        let page = fs::read_to_string(&path)?;
        let (by_hand, _) = page
            .split_once(BEGIN)
            .ok_or("docs/benchmarks.md has no place for this")?;
        self.goals
            .sort_by_key(|row| row.name[1..].parse::<u32>().unwrap_or(0));
        let mut goals =
            "| | what | goal | measured | met |\n| --- | --- | --- | --- | --- |\n".to_owned();
        for Row {
            name,
            what,
            goal,
            measured,
            is_met,
        } in &self.goals
        {
            let is_met = if *is_met { "yes" } else { "**no**" };
            goals += &format!("| {name} | {what} | {goal} | {measured} | {is_met} |\n");
        }
        let sections = self.sections;
        let page = format!("{by_hand}{BEGIN}\n\n{machine}\n\n### The goals\n\n{goals}{sections}");
        Ok(fs::write(path, page)?)
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"))
}

fn draw(path: &Path, title: &str, bars: &[(String, f64)]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    let height = 70 + 26 * bars.len() as u32;
    let area = SVGBackend::new(path, (860, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(8)
        .set_label_area_size(LabelAreaPosition::Left, 190)
        .set_label_area_size(LabelAreaPosition::Bottom, 24)
        .build_cartesian_2d(
            (0.7..most * 1.6).log_scale(),
            (0..bars.len()).into_segmented(),
        )?;
    let name = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(place) => bars
            .get(bars.len().wrapping_sub(1 + place))
            .map_or("", |(name, _)| name)
            .to_owned(),
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
        let corner = (*value, SegmentValue::Exact(place + 1));
        let mut bar = Rectangle::new([(0.7, SegmentValue::Exact(place)), corner], color.filled());
        bar.set_margin(4, 4, 0, 0);
        chart.draw_series([bar])?;
        let label = Text::new(
            format!("{value:.2}"),
            (*value, SegmentValue::CenterOf(place)),
            ("sans-serif", 13),
        );
        chart.draw_series([label])?;
    }
    Ok(area.present()?)
}
