//! Starts as bars: a panel a network, a group an image, a bar a system.

use super::svg::{Anchor, Drawing, step};
use super::{Figure, Report, System};

const WIDTH: f64 = 900.0;
/// Where bars begin, right of the images' names.
const LEFT: f64 = 150.0;
/// Where the longest bar ends, left of its number.
const RIGHT: f64 = 820.0;
const BAR: f64 = 12.0;
/// Between groups.
const GAP: f64 = 10.0;
/// Title and axis of a panel.
const HEAD: f64 = 44.0;
/// Systems in a row of the legend, how far apart, and how high a row is: all of it has room in [`WIDTH`].
const ABREAST: usize = 4;
const APART: f64 = 200.0;
const LINE: f64 = 18.0;
const LEGEND: f64 = 12.0 + LINE * System::ALL.len().div_ceil(ABREAST) as f64;

/// The chart of everything in a report.
pub fn draw(report: &Report) -> String {
    let networks = report.networks();
    let panels: Vec<Vec<Vec<&Figure>>> = networks.iter().map(|network| groups(report, network)).collect();
    let height: f64 = panels.iter().map(|groups| panel_height(groups)).sum();
    let mut drawing = Drawing::new(WIDTH, LEGEND + height + GAP);
    legend(&mut drawing);
    let mut top = LEGEND;
    for (network, groups) in networks.iter().zip(&panels) {
        panel(&mut drawing, top, network, groups);
        top += panel_height(groups);
    }
    drawing.finish()
}

fn groups<'r>(report: &'r Report, network: &str) -> Vec<Vec<&'r Figure>> {
    let images = report.images(network);
    let of = |image: &String| {
        let figures = report.figures.iter();
        figures.filter(|figure| figure.network == network && figure.image == *image).collect()
    };
    images.iter().map(of).collect()
}

fn panel_height(groups: &[Vec<&Figure>]) -> f64 {
    HEAD + groups.iter().map(|group| group.len() as f64 * BAR + GAP).sum::<f64>()
}

fn legend(drawing: &mut Drawing) {
    for (at, system) in System::ALL.into_iter().enumerate() {
        let (x, y) = (10.0 + (at % ABREAST) as f64 * APART, 10.0 + (at / ABREAST) as f64 * LINE);
        drawing.rectangle([x, y, BAR, BAR], system.colour(), system.title());
        drawing.text([x + BAR + 5.0, y + 10.0], Anchor::Start, system.title());
    }
}

fn panel(drawing: &mut Drawing, top: f64, network: &str, groups: &[Vec<&Figure>]) {
    let longest = groups.iter().flatten().map(|figure| figure.ready_s.median).fold(0.0, f64::max);
    let scale = (RIGHT - LEFT) / longest.max(0.001);
    let bottom = top + panel_height(groups) - GAP;
    drawing.title([10.0, top + 20.0], &format!("{network}: seconds from the pull command until ready"));
    let mut mark = 0.0;
    while mark <= longest {
        let x = LEFT + mark * scale;
        drawing.line([x, top + HEAD - 4.0], [x, bottom], "#dddddd");
        drawing.text([x, top + HEAD - 8.0], Anchor::Middle, &format!("{mark:.1}"));
        mark += step(longest).max(0.1);
    }
    let mut y = top + HEAD;
    for group in groups {
        let middle = y + group.len() as f64 * BAR / 2.0 + 4.0;
        if let Some(first) = group.first() {
            drawing.text([LEFT - 8.0, middle], Anchor::End, &first.image);
        }
        for figure in group {
            bar(drawing, y, scale, figure);
            y += BAR;
        }
        y += GAP;
    }
}

fn bar(drawing: &mut Drawing, y: f64, scale: f64, figure: &Figure) {
    let Figure { image, system, ready_s, .. } = figure;
    let tip = format!("{image}, {}: {ready_s:.3} s", system.title());
    let width = ready_s.median * scale;
    drawing.rectangle([LEFT, y, width, BAR - 1.0], system.colour(), &tip);
    drawing.text([LEFT + width + 4.0, y + BAR - 2.5], Anchor::Start, &format!("{:.2}", ready_s.median));
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::{case, round};
    use super::*;

    #[test]
    fn every_start_has_a_bar_as_long_as_it_took() {
        let figures = Figure::all(&case(), "1g", &[round(1.0, 4.0)], None);
        let report = Report { figures, ..Report::default() };
        let chart = draw(&report);
        assert_eq!(chart.matches("an-image, ").count(), 3);
        let width = |seconds: f64| format!("width=\"{:.1}\"", (RIGHT - LEFT) * seconds / 4.0);
        assert!(chart.contains(&width(4.0)) && chart.contains(&width(1.0)), "{chart}");
    }
}
