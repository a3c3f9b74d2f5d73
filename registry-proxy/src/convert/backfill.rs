//! `convert --all-tags`: every image of a repository, one after the other.
//!
//! What one image has is used again by the next, out of its artifact: so memory does not grow with the
//! repository, and a run that was killed is simply repeated. An image that fails takes nothing from the
//! others.

use jaunt_distribution::Client;
use serde_json::{Value, json};

use super::converter::Converter;
use super::report::Totals;
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
    let (mut documents, mut totals, mut failed) = (Vec::new(), Totals::default(), 0);
    for (number, one) in (1..).zip(&all) {
        let reference = one.to.as_ref().unwrap_or(&one.common.reference);
        console.line(&format!("{reference}, {number} of {}", all.len()));
        let error = match super::one(client, one, converter, console).await {
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
            failed += 1;
        }
        converter.forget_layers();
    }
    let repository = args.common.reference.to_string();
    console.line(&format!("{} tags, {failed} of them with images that could not be converted", all.len()));
    let document = json!({ "repository": repository, "references": documents, "failed": failed });
    let (tags, outcome) = (all.len(), failed == 0);
    let outcome = if outcome { Ok(()) } else { Err(Error::Tags { repository, failed, tags }) };
    Ok((document, totals, outcome))
}
