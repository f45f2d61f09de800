//! A history as one line of bars.

use sidegate::admin::wire::{ActivityPoint, ActivityRates, Time};

/// The seconds that a line of bars covers.
const PERIOD: f64 = 900.0;

/// Bars for 0, for the least and up to the most.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The averages of `rate` over the last fifteen minutes in so many columns. `None` means that
/// nothing is known of that time.
pub fn columns(
    history: &[ActivityPoint],
    now: Time,
    count: usize,
    rate: fn(&ActivityRates) -> f64,
) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0.0); count];
    let each = PERIOD / count.max(1) as f64;
    for point in history {
        let ago = now.0.duration_since(point.at.0).as_secs_f64();
        let (end, seconds) = (PERIOD - ago, point.rates.over_seconds);
        // An interval may be longer than a column, after a stall, or shorter.
        let (first, last) = ((end - seconds) / each, end / each);
        for (at, (sum, known)) in sums.iter_mut().enumerate() {
            let overlap = last.min(at as f64 + 1.0) - first.max(at as f64);
            if overlap > 0.0 {
                *sum += overlap * rate(&point.rates);
                *known += overlap;
            }
        }
    }
    // A part of a column is enough: intervals don't begin where columns do.
    let average = |(sum, known): (f64, f64)| (known > 0.0).then(|| sum / known);
    sums.into_iter().map(average).collect()
}

/// The bars of `values`, the highest as high as can be. A blank means not known.
pub fn bars(values: &[Option<f64>]) -> String {
    let most = values.iter().flatten().fold(0.0, |most: f64, value| most.max(*value));
    let bar = |value: &Option<f64>| match value {
        None => ' ',
        Some(value) if *value <= 0.0 => BARS[0],
        // The lowest bar is kept for 0, so that one event is seen.
        Some(value) => {
            let steps = (BARS.len() - 1) as f64;
            BARS[((value / most * steps).ceil() as usize).clamp(1, BARS.len() - 1)]
        }
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    /// Intervals of so many seconds, each with its rate; the last ends now.
    fn history(intervals: &[(f64, f64)]) -> (Vec<ActivityPoint>, Time) {
        let now = Timestamp::from_second(100_000).unwrap();
        let mut at = now;
        let mut points = Vec::new();
        for (over_seconds, opened) in intervals.iter().rev() {
            let rates = ActivityRates {
                over_seconds: *over_seconds,
                connections: 0.0,
                opened: *opened,
                refused: 0.0,
                plain: 0.0,
                bytes_from_client: 0.0,
                bytes_from_backend: 0.0,
            };
            points.push(ActivityPoint { at: Time(at), tunnels: 0, rates });
            at -= SignedDuration::from_secs(*over_seconds as i64);
        }
        points.reverse();
        (points, Time(now))
    }

    fn shown(intervals: &[(f64, f64)], count: usize) -> String {
        let (points, now) = history(intervals);
        bars(&columns(&points, now, count, |rates| rates.opened))
    }

    #[test]
    fn young_history_is_blank_on_the_left() {
        assert_eq!(shown(&[], 5), "     ");
        assert_eq!(shown(&[(180.0, 0.0)], 5), "    ▁");
        assert_eq!(shown(&[(180.0, 1.0), (180.0, 7.0)], 5), "   ▂█");
    }

    #[test]
    fn long_interval_fills_its_columns() {
        assert_eq!(shown(&[(5.0, 1.0), (540.0, 2.0), (180.0, 4.0)], 5), "▃▅▅▅█");
        // A point that is older than the period counts for its part within.
        assert_eq!(shown(&[(3600.0, 3.0)], 3), "███");
    }

    #[test]
    fn more_columns_than_points_leave_no_gap() {
        let intervals = vec![(5.0, 1.0); 180];
        assert_eq!(shown(&intervals, 400), "█".repeat(400));
        assert_eq!(shown(&intervals, 0), "");
    }
}
