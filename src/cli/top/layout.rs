//! Where each panel is drawn: in one, two or three stacks beside each other.

use ratatui::layout::Rect;

use crate::cli::top::panels::Panel;

/// The least width of a stack beside others.
const MIN_STACK: u16 = 38;

/// The least width of each of three stacks.
const MIN_THIRD: u16 = 60;

/// Columns between two stacks.
const GAP: u16 = 2;

/// The least lines of a panel: its head and two rows.
const MIN_LINES: u16 = 3;

/// A panel with its place on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedPanel {
    /// The panel that is drawn.
    pub panel: Panel,
    /// Its place on the screen.
    pub area: Rect,
}

/// The stacks of panels, the most important ones of each stack first.
fn stacks(width: u16) -> &'static [&'static [Panel]] {
    const ONE: &[&[Panel]] = &[&[
        Panel::Routes,
        Panel::Reasons,
        Panel::Clients,
        Panel::Refused,
        Panel::Bans,
        Panel::Candidates,
        Panel::Certificates,
    ]];
    const TWO: &[&[Panel]] = &[
        &[Panel::Routes, Panel::Clients, Panel::Refused, Panel::Notes],
        &[
            Panel::Reasons,
            Panel::Candidates,
            Panel::Certificates,
            Panel::Bans,
            Panel::Backends,
            Panel::Lapsing,
        ],
    ];
    const THREE: &[&[Panel]] = &[
        &[Panel::Routes, Panel::Backends, Panel::Notes, Panel::Lapsing],
        &[Panel::Clients, Panel::Refused],
        &[Panel::Reasons, Panel::Candidates, Panel::Certificates, Panel::Bans],
    ];
    match width {
        _ if width >= 3 * MIN_THIRD + 2 * GAP => THREE,
        _ if width >= 2 * MIN_STACK + GAP => TWO,
        _ => ONE,
    }
}

/// Places the panels in `room`. `wanted` says how many rows a panel has.
pub fn place_panels(room: Rect, wanted: impl Fn(Panel) -> usize) -> Vec<PlacedPanel> {
    let stacks = stacks(room.width);
    let mut placed = Vec::new();
    let mut x = room.x;
    for (at, stack) in stacks.iter().enumerate() {
        let left = (room.x + room.width).saturating_sub(x);
        let width = stack_width(left, stacks.len() - at, at);
        let shown = stack.len().min(usize::from(room.height / MIN_LINES));
        let wants = stack[..shown].iter().map(|panel| wanted(*panel));
        let heights = heights(&wants.collect::<Vec<_>>(), room.height);
        let mut y = room.y;
        for (panel, height) in stack.iter().zip(heights) {
            placed.push(PlacedPanel { panel: *panel, area: Rect { x, y, width, height } });
            y += height;
        }
        x = (x + width + GAP).min(room.x + room.width);
    }
    placed
}

/// The width of the stack `at`, if so many stacks are left for `left` columns.
fn stack_width(left: u16, count: usize, at: usize) -> u16 {
    let gaps = GAP * u16::try_from(count - 1).unwrap_or_default();
    let room = left.saturating_sub(gaps);
    match (count, at) {
        (1, _) => left,
        // The second of three has the clients, whose tables have the most columns.
        (3, _) => room * 3 / 10,
        (2, 1) => room * 4 / 7,
        _ => room / 2,
    }
}

/// Shares `room` lines among panels with so many rows each.
fn heights(wants: &[usize], room: u16) -> Vec<u16> {
    // A head and the rows, or the sentence in their place, and a blank line below.
    let most = |want: &usize| u16::try_from(want.saturating_add(2).max(3)).unwrap_or(u16::MAX);
    let mut heights: Vec<u16> = wants.iter().map(|want| most(want).min(MIN_LINES)).collect();
    let mut left = room.saturating_sub(heights.iter().sum());
    while left > 0 {
        let before = left;
        for (height, want) in heights.iter_mut().zip(wants) {
            if left > 0 && *height < most(want) {
                *height += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(width: u16, height: u16, rows: usize) -> Vec<PlacedPanel> {
        let room = Rect { x: 0, y: 7, width, height };
        let placed = place_panels(room, |_| rows);
        for (at, one) in placed.iter().enumerate() {
            assert!(room.intersection(one.area) == one.area, "{one:?} in {room:?}");
            let others = placed[at + 1..].iter();
            assert!(others.clone().all(|other| !other.area.intersects(one.area)), "{one:?}");
            assert!(others.clone().all(|other| other.panel != one.panel), "{one:?}");
        }
        placed
    }

    #[test]
    fn every_panel_of_the_summary_is_on_eighty_by_twenty_four() {
        let placed = check(80, 16, 20);
        for panel in [
            Panel::Routes,
            Panel::Clients,
            Panel::Refused,
            Panel::Reasons,
            Panel::Candidates,
            Panel::Certificates,
            Panel::Bans,
        ] {
            assert!(placed.iter().any(|one| one.panel == panel), "{panel:?}");
        }
    }

    #[test]
    fn panels_never_overlap_and_large_screens_have_all() {
        for width in [1, 37, 60, 78, 80, 120, 183, 184, 200, 400] {
            for height in [0, 2, 3, 7, 16, 40, 100] {
                for rows in [0, 1, 3, 20, 200] {
                    check(width, height, rows);
                }
            }
        }
        assert_eq!(check(200, 52, 20).len(), Panel::ALL.len());
        assert_eq!(check(120, 40, 20).len(), Panel::ALL.len());
    }

    #[test]
    fn short_panels_leave_their_lines_to_long_ones() {
        assert_eq!(heights(&[1, 50, 0], 20), [3, 14, 3]);
        assert_eq!(heights(&[1, 2, 0], 20), [3, 4, 3]);
        assert_eq!(heights(&[9, 9], 6), [3, 3]);
    }
}
