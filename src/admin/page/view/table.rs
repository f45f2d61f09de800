//! Tables of the page, which a narrow screen shows as one block for each row.
//!
//! The blocks would lose their meaning for a screen reader without the roles that each element has
//! here.

use maud::{Markup, html};

/// A column of a table.
pub struct Column {
    /// The heading, which narrow screens show at each cell.
    pub name: &'static str,
    /// Whether its cells are numbers, which are aligned by their digits.
    pub is_number: bool,
}

impl Column {
    fn class(&self) -> Option<&'static str> {
        self.is_number.then_some("number")
    }
}

/// A column of text.
pub const fn words(name: &'static str) -> Column {
    Column { name, is_number: false }
}

/// A column of numbers.
pub const fn numbers(name: &'static str) -> Column {
    Column { name, is_number: true }
}

/// A table whose first column names its rows. `total` is the number of rows that there are, of
/// which `rows` may be the first few.
pub fn table(
    caption: &str,
    columns: &[Column],
    rows: impl ExactSizeIterator<Item = Vec<Markup>>,
    total: u64,
) -> Markup {
    let shown = rows.len() as u64;
    html! {
        table role="table" {
            caption { (caption) }
            thead role="rowgroup" {
                tr role="row" {
                    @for column in columns {
                        th role="columnheader" scope="col" class=[column.class()] {
                            (column.name)
                        }
                    }
                }
            }
            tbody role="rowgroup" {
                @for cells in rows {
                    tr role="row" { (row(columns, cells)) }
                }
            }
        }
        @if shown < total {
            p.more { "The first " (shown) " of " (super::text::count(total)) }
        }
    }
}

fn row(columns: &[Column], cells: Vec<Markup>) -> Markup {
    html! {
        @for (index, (column, cell)) in columns.iter().zip(cells).enumerate() {
            @if index == 0 {
                th role="rowheader" scope="row" { (cell) }
            } @else {
                td role="cell" class=[column.class()] data-label=(column.name) { (cell) }
            }
        }
    }
}
