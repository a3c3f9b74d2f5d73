//! `convert --all-tags`: every image of a repository, one after the other.
//!
//! What one image has is used again by the next, out of its artifact: so memory does not grow with the
//! repository, and a run that was killed is simply repeated. An image that fails takes nothing from the
//! others.

use jaunt_distribution::Client;
use serde_json::{Value, json};

use super::converter::Converter;
use super::report::Totals;
use super::summary::Summary;
use crate::artifact;
use crate::cli::ConvertArgs;
use crate::console::Console;
use crate::error::Error;
use crate::place::Place;

/// The arguments for each tag, as if it had been named alone.
pub async fn each_tag(client: &Client, args: &ConvertArgs) -> Result<Vec<ConvertArgs>, Error> {
    let repository = &args.common.reference;
    let mut tags = Place::of(client, repository).tags().await?;
    tags.retain(|tag| !artifact::is_of_another(tag));
    tags.sort();
    tags.dedup();
    // Registries say the same of a repository that does not exist: a wrong name must not look like success.
    if tags.is_empty() {
        return Err(Error::NoTags { repository: repository.place_name() });
    }
    let of_tag = |tag: String| {
        let mut one = args.clone();
        one.common.reference = repository.with_tag(&tag);
        one.to = args.to.as_ref().map(|to| to.with_tag(&tag));
        one
    };
    Ok(tags.into_iter().map(of_tag).collect())
}

/// Converts them; what became of each, all together, and whether all of them could be converted.
pub async fn run(
    client: &Client,
    args: &ConvertArgs,
    converter: &mut Converter<'_>,
    console: &Console,
) -> Result<(Value, Totals, Result<(), Error>), Error> {
    let all = each_tag(client, args).await?;
    let (mut documents, mut totals, mut summary) = (Vec::new(), Totals::default(), Summary::default());
    let progress = console.overall(all.len(), "tags");
    for (number, one) in (1..).zip(&all) {
        let reference = one.to.as_ref().unwrap_or(&one.common.reference);
        console.line(&format!("[{number}/{}] {reference}", all.len()));
        let done = super::one(client, one, converter, console).await;
        summary.add(&one.common.reference.manifest_name(), &done);
        let error = match done {
            Ok(done) => {
                totals.join(&done.totals);
                documents.push(done.document);
                done.failed
            }
            Err(error) => {
                documents.push(json!({ "reference": reference.to_string(), "error": error.to_string() }));
                Some(error)
            }
        };
        if let Some(error) = error {
            console.error(&error);
        }
        converter.forget_layers();
        progress.step();
    }
    drop(progress);
    summary.tell(console);
    let (repository, tags, failed) = (args.common.reference.place_name(), all.len(), summary.failed());
    let document = json!({
        "repository": repository, "references": documents, "failed": failed, "summary": summary.json(),
    });
    let outcome = if failed == 0 { Ok(()) } else { Err(Error::Tags { repository, failed, tags }) };
    Ok((document, totals, outcome))
}
