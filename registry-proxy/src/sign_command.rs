//! `sign`: signs the launch artifacts of an image that is converted already, each after it was read back whole.

use jaunt_distribution::Client;
use jaunt_formats::cosign;
use serde_json::json;

use crate::cli::SignArgs;
use crate::console::Console;
use crate::error::Error;
use crate::image;
use crate::place::Place;
use crate::sign::Signer;
use crate::verify;

/// Runs the command.
pub async fn run(client: Client, args: &SignArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let signer = Signer::load(&args.sign_key)?;
    let reference = &args.common.reference;
    let place = Place::of(&client, reference);
    let resolved = image::resolve(&place, reference, &args.platforms.wanted).await?;
    if resolved.images.is_empty() && resolved.failed.is_empty() {
        return Err(resolved.nothing(reference));
    }
    let mut signed = Vec::new();
    for image in &resolved.images {
        let artifact = verify::verify(&place, image, &console).await;
        let artifact = artifact.map_err(|error| error.of_image(reference, image.descriptor.digest))?;
        signer.sign(&place, reference, artifact, &console).await?;
        signed.push(json!({
            "manifest": image.descriptor.digest,
            "artifact": artifact,
            "signature_tag": cosign::tag(&artifact),
        }));
    }
    if let Some(error) = resolved.failed.into_iter().next() {
        return Err(error);
    }
    let key = signer.fingerprint();
    console.result(&json!({ "reference": reference.to_string(), "key": key, "images": signed }))
}
