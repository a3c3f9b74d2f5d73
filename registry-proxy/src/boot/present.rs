//! The learnt pack that an image has while another one is made of what nodes left: it stands for the starts whose traces are gone.
//!
//! It counts as one more start, so that what most starts touch stays in the pack, and several that do without something outvote it. It
//! does not where it would be counted of traces that are all at hand, nor is a pack made of what it knows already: without new traces an
//! image keeps its artifact, however often they are gathered.

use std::collections::HashSet;

use jaunt_formats::Digest;
use jaunt_formats::media_type::BOOT_TRACES;

use crate::artifact::has_traces;
use crate::manifest::Descriptor;

/// What the pack that an image has adds to some traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// Nothing: there is none that was made of starts, or all that it was made of is among them.
    Nothing,
    /// Starts that are not among them.
    Starts,
    /// It was made of all of them, and of others.
    All,
}

impl Present {
    /// That of a pack beside the traces with these digests.
    pub fn beside(pack: Option<&Descriptor>, traces: &[Digest]) -> Self {
        let Some(pack) = pack.filter(|pack| has_traces(pack)) else { return Self::Nothing };
        let made_of: HashSet<&str> =
            pack.annotation(BOOT_TRACES).into_iter().flat_map(str::split_whitespace).collect();
        let traces: HashSet<String> = traces.iter().map(Digest::to_string).collect();
        if made_of.iter().all(|name| traces.contains(*name)) {
            Self::Nothing
        } else if traces.iter().all(|name| made_of.contains(name.as_str())) {
            Self::All
        } else {
            Self::Starts
        }
    }
}

#[cfg(test)]
mod tests {
    use jaunt_formats::media_type::LAUNCH_BOOT_PACK;

    use super::*;

    #[test]
    fn a_pack_counts_for_the_starts_whose_traces_are_gone() {
        let digests =
            |texts: &[&str]| texts.iter().map(|text| Digest::of(text.as_bytes())).collect::<Vec<_>>();
        let pack = |texts: &[&str]| {
            let names: Vec<String> = digests(texts).iter().map(Digest::to_string).collect();
            let annotations = [(BOOT_TRACES.to_owned(), names.join(" "))].into_iter().collect();
            let pack = Descriptor::new(LAUNCH_BOOT_PACK, Digest::of(b"pack"), 1);
            Descriptor { annotations: Some(annotations), ..pack }
        };
        let cases: [(&[&str], &[&str], Present); 8] = [
            (&[], &["a"], Present::Nothing),
            (&["a", "b"], &["b", "a"], Present::Nothing),
            (&["a", "b"], &["a", "b", "c"], Present::Nothing),
            (&["a", "b"], &["c"], Present::Starts),
            (&["a", "b"], &["b", "c"], Present::Starts),
            (&["a", "b"], &["a"], Present::All),
            (&["a", "b"], &[], Present::All),
            (&["a", "pack before"], &["a"], Present::All),
        ];
        for (made_of, traces, expected) in cases {
            let present = Present::beside(Some(&pack(made_of)), &digests(traces));
            assert_eq!(present, expected, "{made_of:?} {traces:?}");
        }
        assert_eq!(Present::beside(None, &digests(&["a"])), Present::Nothing);
    }
}
