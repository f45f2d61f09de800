//! Builder of a scrape: samples by family, encoded as Prometheus' text format.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as Sizes, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::observe::metrics::counter::Histogram;
use crate::observe::metrics::family::{Family, MetricKind};

/// The samples so far, by the names of their families.
#[derive(Default)]
pub struct Exposition(BTreeMap<&'static str, MetricFamily>);

impl Exposition {
    /// Adds a sample of a counter or a gauge; `values` are in the order of the family's labels.
    pub fn sample(&mut self, family: &Family, values: &[&str], value: f64) {
        let mut metric = metric(family, values);
        match family.kind {
            MetricKind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            // Samples of a histogram come from `histogram`, never from here.
            MetricKind::Gauge | MetricKind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.family(family).mut_metric().push(metric);
    }

    /// Adds a sample that is a whole number.
    pub fn count(&mut self, family: &Family, values: &[&str], count: u64) {
        self.sample(family, values, count as f64);
    }

    /// Adds a sample unless it is 0: the series begins with its first count.
    pub fn count_any(&mut self, family: &Family, values: &[&str], count: u64) {
        if count > 0 {
            self.count(family, values, count);
        }
    }

    /// Adds a histogram with its buckets, sum and count.
    pub fn histogram<const N: usize>(
        &mut self,
        family: &Family,
        values: &[&str],
        bounds: &[f64; N],
        histogram: &Histogram<N>,
    ) {
        let (within, total) = histogram.cumulative();
        let bucket = |(bound, count): (&f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut sizes = Sizes::default();
        sizes.set_bucket(bounds.iter().zip(within).map(bucket).collect());
        sizes.set_sample_count(total);
        sizes.set_sample_sum(histogram.seconds());
        let mut metric = metric(family, values);
        metric.set_histogram(sizes);
        self.family(family).mut_metric().push(metric);
    }

    /// Encodes the text format 0.0.4: families by name, each with its help and type.
    pub fn text(self) -> String {
        let families: Vec<_> = self.0.into_values().collect();
        // The encoder fails only for a family without a name or without samples, and `Exposition`
        // holds neither.
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }

    fn family(&mut self, family: &Family) -> &mut MetricFamily {
        self.0.entry(family.name).or_insert_with(|| {
            let mut made = MetricFamily::default();
            made.set_name(family.name.into());
            made.set_help(family.help.into());
            made.set_field_type(match family.kind {
                MetricKind::Counter => MetricType::COUNTER,
                MetricKind::Gauge => MetricType::GAUGE,
                MetricKind::Histogram => MetricType::HISTOGRAM,
            });
            made
        })
    }
}

fn metric(family: &Family, values: &[&str]) -> Metric {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pair = |(label, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*label).into());
        pair.set_value((*value).into());
        pair
    };
    Metric::from_label(family.labels.iter().zip(values).map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: Family =
        Family { name: "t_total", kind: MetricKind::Counter, labels: &["a", "b"], help: "Test." };
    const NOW: Family =
        Family { name: "now", kind: MetricKind::Gauge, labels: &["a"], help: "Test." };

    #[test]
    fn label_values_with_equal_concatenation_are_two_series() {
        let mut exposition = Exposition::default();
        exposition.count(&TOTAL, &["ab", "c"], 1);
        exposition.count(&TOTAL, &["a", "bc"], 2);
        let text = "# HELP t_total Test.\n# TYPE t_total counter\nt_total{a=\"ab\",b=\"c\"} 1\nt_total{a=\"a\",b=\"bc\"} 2\n";
        assert_eq!(exposition.text(), text);
    }

    #[test]
    fn families_are_sorted_and_empty_ones_left_out() {
        let mut exposition = Exposition::default();
        exposition.count_any(&TOTAL, &["x", "y"], 0);
        assert_eq!(exposition.text(), "");
        let mut exposition = Exposition::default();
        exposition.count_any(&TOTAL, &["x", "y"], 1);
        exposition.sample(&NOW, &["x"], 0.5);
        assert!(
            exposition.text().starts_with(
                "# HELP now Test.\n# TYPE now gauge\nnow{a=\"x\"} 0.5\n# HELP t_total"
            )
        );
    }

    #[test]
    fn label_values_are_escaped() {
        let mut exposition = Exposition::default();
        exposition.sample(&NOW, &["unix:/run/a\"b\\c\nd.sock"], 1.0);
        assert!(exposition.text().ends_with("now{a=\"unix:/run/a\\\"b\\\\c\\nd.sock\"} 1\n"));
    }
}
