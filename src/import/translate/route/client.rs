//! Notes the locations whose requests a listener judges as another client than nginx.

use std::collections::BTreeSet;

use crate::import::nginx::ImportContext;
use crate::import::nginx::location::LocationHandler;
use crate::import::report::{DirectiveOutcome, NoteScope};
use crate::import::translate::host::UnsupportedHosts;
use crate::import::translate::identity::{IdentityNote, JudgedLocation, NoteExtent};
use crate::import::translate::paths::PatternTarget;
use crate::import::translate::route::writer::RouteWriter;

impl RouteWriter<'_> {
    /// Notes the locations of the server at `place` that pass requests on.
    pub fn note_identity(&self, place: usize, context: &mut ImportContext<'_>) {
        let routed = self.routed(place);
        for (number, notes) in self.identity_notes(place) {
            let location = &self.site.nginx.servers[place].locations[number];
            let of_location = self.scopes(place, location);
            let of_server = self.scoped(place, "/", &[]);
            for note in notes {
                let scopes = match note.extent {
                    NoteExtent::Location => &of_location,
                    NoteExtent::Server => &of_server,
                };
                // Behind closed routes it makes no difference who the client is.
                let is_void = !routed.contains(&number) && note.word == DirectiveOutcome::Opens;
                if !is_void {
                    add(note, scopes, context);
                }
            }
        }
    }

    /// Notes the requests of a stray host, which the default server's routes answer.
    pub fn note_stray_identity(&self, stray: &UnsupportedHosts, context: &mut ImportContext<'_>) {
        let scopes = vec![self.scope(&stray.scope, "/", &[])];
        for (_, notes) in self.identity_notes(stray.server) {
            for note in notes {
                add(note, &scopes, context);
            }
        }
    }

    /// Returns the notes on the locations of a server, by their number.
    fn identity_notes(&self, place: usize) -> Vec<(usize, Vec<IdentityNote>)> {
        let server = &self.site.nginx.servers[place];
        let zones = &self.site.nginx.zones;
        let passes = |serves: &LocationHandler| {
            matches!(serves, LocationHandler::Proxy(_) | LocationHandler::Named(..))
        };
        let locations = server.locations.iter().enumerate();
        let passing = locations.filter(|(_, location)| passes(&location.serves));
        passing
            .map(|(number, location)| {
                let at = JudgedLocation { server, location, zones };
                (number, self.site.identities.iter().flat_map(|one| one.notes(at)).collect())
            })
            .collect()
    }

    /// Returns the locations whose requests may come to an open route.
    fn routed(&self, place: usize) -> BTreeSet<usize> {
        let Some((side, paths)) = self.sides.get(&place) else { return BTreeSet::new() };
        let cells = side.model.cells();
        let open = cells.filter(|cell| matches!(paths.find(cell), PatternTarget::Open(_)));
        open.flat_map(|cell| {
            let answers = side.model.answers(&cell);
            let outcomes = answers.sure.into_iter().chain(answers.maybe);
            outcomes.flat_map(|outcome| outcome.stages).collect::<Vec<_>>()
        })
        .collect()
    }
}

fn add(note: IdentityNote, scopes: &[NoteScope], context: &mut ImportContext<'_>) {
    let IdentityNote { ids, word, text, .. } = note;
    // All other notes are about no decision, or about headers that are none.
    let decides = matches!(word, DirectiveOutcome::Opens | DirectiveOutcome::Closes);
    for id in ids {
        let scopes = if decides { scopes.to_vec() } else { Vec::new() };
        context.notes.add_scoped(id, word, text.clone(), scopes);
    }
}
