//! A report as a person or a program reads it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Finding, Remedy, Report};

/// A line for what was done, and for each finding.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for (finding, done) in &report.done {
        let _ = writeln!(
            out,
            "repaired  {}  {}: {}\n          {done}",
            finding.code.as_str(),
            finding.what,
            finding.detail
        );
    }
    for finding in &report.findings {
        let level = finding.code.level().as_str();
        let _ = writeln!(out, "{level:8}  {}  {}: {}", finding.code.as_str(), finding.what, finding.detail);
        let (flag, steps) = match &finding.remedy {
            Remedy::None => continue,
            Remedy::Safe(steps) => ("--repair", steps),
            Remedy::GiveUp(steps) => ("--give-up", steps),
        };
        let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "          {flag} would {}", steps.join("; "));
    }
    let beside = if report.live { ", beside a running daemon" } else { "" };
    let verdict = match (report.is_sound(), report.findings.len()) {
        (true, 0) => "sound".to_owned(),
        (true, minor) => format!("sound, {minor} things to tidy up"),
        (false, all) => format!("{all} findings"),
    };
    let _ = writeln!(out, "{verdict}: {} snapshots checked{beside}", report.snapshots);
    out
}

/// Everything, one JSON object.
pub fn json(report: &Report) -> Value {
    let done = |(finding, done): &(Finding, String)| {
        let mut value = finding_json(finding);
        value["done"] = json!(done);
        value
    };
    json!({
        "sound": report.is_sound(),
        "live": report.live,
        "snapshots": report.snapshots,
        "repaired": report.done.iter().map(done).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

fn finding_json(finding: &Finding) -> Value {
    let steps: Vec<String> = finding.remedy.actions().iter().map(ToString::to_string).collect();
    json!({
        "level": finding.code.level().as_str(), "code": finding.code.as_str(), "what": finding.what,
        "detail": finding.detail, "remedy": finding.remedy.as_str(), "steps": steps,
    })
}
