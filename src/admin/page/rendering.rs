//! One rendering of the page: its sections, and which of them changed since when.
//!
//! The sections arrive as finished HTML. This module puts them into a document, or into an event
//! for a page that is already open.

use std::sync::Arc;

use bytes::Bytes;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Seconds after which a page without a script loads itself anew.
const REFRESH_SECONDS: u32 = 10;

/// Ids of the sections above and below the main part.
pub const HEAD: &str = "top";
pub const FOOT: &str = "notes";

/// The HTML of one part of the page, which is one element with the id of that part.
pub struct Section {
    /// Id of the element.
    pub id: &'static str,
    /// The element itself, with everything in it.
    pub html: Markup,
}

/// The page at one moment.
pub struct Rendering {
    /// Counts renderings, from 1.
    pub number: u64,
    title: String,
    sections: Vec<RenderedSection>,
}

struct RenderedSection {
    id: &'static str,
    html: Arc<str>,
    /// Number of the rendering in which it last changed.
    changed: u64,
}

impl Rendering {
    /// Puts `sections` together, which follow those of `before`.
    pub fn new(title: String, sections: Vec<Section>, before: Option<&Rendering>) -> Self {
        let number = before.map_or(1, |before| before.number + 1);
        let sections = sections.into_iter().map(|Section { id, html }| {
            let html = html.into_string();
            let same = before
                .and_then(|before| before.sections.iter().find(|section| section.id == id))
                .filter(|section| *section.html == *html);
            match same {
                Some(same) => {
                    RenderedSection { id, html: Arc::clone(&same.html), changed: same.changed }
                }
                None => RenderedSection { id, html: html.into(), changed: number },
            }
        });
        Rendering { number, title, sections: sections.collect() }
    }

    /// The whole page. `refreshes` says whether it loads itself anew where no script runs.
    pub fn document(&self, refreshes: bool) -> Bytes {
        // Landmarks: the head and the notes are outside of the main part.
        let part = |of: fn(&str) -> bool| {
            let sections = self.sections.iter().filter(move |section| of(section.id));
            PreEscaped(sections.map(|section| &*section.html).collect::<String>())
        };
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    title { (self.title) }
                    link rel="icon" type="image/svg+xml" href="/status/icon.svg";
                    link rel="stylesheet" href="/status/style.css";
                    script src="/status/script.js" defer {}
                    @if refreshes {
                        noscript { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                    }
                }
                body {
                    a.skip href="#main" { "Skip to the state" }
                    header { (part(|id| id == HEAD)) (controls(refreshes)) }
                    main #main tabindex="-1" { (part(|id| id != HEAD && id != FOOT)) }
                    (part(|id| id == FOOT))
                }
            }
        };
        page.into_string().into()
    }

    /// The event with all sections that changed after the rendering `seen`; 0 means all sections.
    pub fn update_since(&self, seen: u64) -> Bytes {
        // A rendering of another process, or none: all of it is news.
        let seen = if seen < self.number { seen } else { 0 };
        let mut event = format!("id: {}\ndata: ", self.number);
        for section in self.sections.iter().filter(|section| section.changed > seen) {
            push_data(&mut event, &section.html);
        }
        event.push_str("\n\n");
        event.into()
    }
}

/// What a reader can do about the updates, by script or without.
fn controls(refreshes: bool) -> Markup {
    html! {
        div #updates {
            p #feed hidden { "Connecting" }
            button #pause type="button" hidden { "Pause updates" }
            noscript {
                p {
                    @if refreshes {
                        "Loads anew every " (REFRESH_SECONDS) " s. "
                        a href="/status?refresh=off" { "Stop that" }
                    } @else {
                        "As of the time above. "
                        a href="/status?refresh=off" { "Load anew" }
                        " or "
                        a href="/status" { "do so by itself" }
                    }
                }
            }
        }
    }
}

/// Appends `html` to the data of an event, in which each line has the name of its field (HTML
/// §9.2.6). A carriage return ends a line there as well.
fn push_data(event: &mut String, html: &str) {
    let mut lines = html.split(['\n', '\r']);
    event.push_str(lines.next().unwrap_or_default());
    for line in lines {
        event.push_str("\ndata: ");
        event.push_str(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendering(texts: [&str; 2], before: Option<&Rendering>) -> Rendering {
        let section =
            |(id, text): (&'static str, &str)| Section { id, html: html! { p { (text) } } };
        let sections = ["one", "two"].into_iter().zip(texts).map(section).collect();
        Rendering::new("a <page>".into(), sections, before)
    }

    fn update(rendering: &Rendering, seen: u64) -> String {
        String::from_utf8(rendering.update_since(seen).to_vec()).unwrap()
    }

    #[test]
    fn an_update_has_the_sections_that_changed_since() {
        let first = rendering(["a", "b"], None);
        assert_eq!(update(&first, 0), "id: 1\ndata: <p>a</p><p>b</p>\n\n");
        let second = rendering(["a", "c"], Some(&first));
        assert_eq!(update(&second, 1), "id: 2\ndata: <p>c</p>\n\n");
        let third = rendering(["d", "c"], Some(&second));
        assert_eq!(update(&third, 2), "id: 3\ndata: <p>d</p>\n\n");
        assert_eq!(update(&third, 1), "id: 3\ndata: <p>d</p><p>c</p>\n\n", "one was missed");
        assert_eq!(update(&third, 0), update(&third, 1));
        assert_eq!(update(&third, 99), update(&third, 0), "of another process");
    }

    #[test]
    fn no_text_ends_the_data_of_an_event() {
        let rendering = rendering(["a\r\nevent: x\n\nid: 7", "\rb"], None);
        let update = update(&rendering, 0);
        assert_eq!(
            update,
            "id: 1\ndata: <p>a\ndata: \ndata: event: x\ndata: \ndata: id: 7</p><p>\ndata: b</p>\n\n"
        );
    }

    #[test]
    fn only_a_page_that_shall_refreshes_itself() {
        let rendering = rendering(["a", "b"], None);
        let page = |refreshes| String::from_utf8(rendering.document(refreshes).to_vec()).unwrap();
        assert!(page(true).contains(r#"<noscript><meta http-equiv="refresh" content="10">"#));
        assert!(!page(false).contains("http-equiv"));
        assert!(page(true).contains("<title>a &lt;page&gt;</title>"));
    }
}
