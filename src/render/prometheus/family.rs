//! Metric families, and how they are encoded.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// The name and the value of a label.
pub(super) type Label = (&'static str, String);

/// The labels of a series. Series of several families share them.
pub(super) type Labels = Arc<[Label]>;

/// The name of a metric without prefix and unit, and its help text.
#[derive(Debug, Clone, Copy)]
pub(super) struct MetricName(pub(super) &'static str, pub(super) &'static str);

/// The value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Gauge(u64),
    RealGauge(f64),
    Counter(u64),
    RealCounter(f64),
}

/// The series of one name.
#[derive(Debug)]
pub(super) struct Family {
    name: MetricName,
    unit: Option<Unit>,
    series: Vec<(Labels, Value)>,
}

/// All families, in order. Families without series are left out.
#[derive(Debug, Default)]
pub(super) struct Families(pub(super) Vec<Family>);

/// Series that can be added: labels, and a figure that may be unknown.
pub(super) trait Series<T>: IntoIterator<Item = (Labels, Option<T>)> {}

impl<T, I: IntoIterator<Item = (Labels, Option<T>)>> Series<T> for I {}

impl Families {
    fn add<T>(
        &mut self,
        name: MetricName,
        unit: Option<Unit>,
        value: fn(T) -> Value,
        series: impl Series<T>,
    ) {
        let known = series.into_iter().filter_map(|(l, figure)| Some((l, value(figure?))));
        let series: Vec<_> = known.collect();
        if !series.is_empty() {
            self.0.push(Family { name, unit, series });
        }
    }

    /// Adds a gauge in bytes; its name gets the suffix `_bytes`.
    pub(super) fn bytes(&mut self, name: MetricName, series: impl Series<u64>) {
        self.add(name, Some(Unit::Bytes), Value::Gauge, series);
    }

    /// Adds a gauge in seconds; its name gets the suffix `_seconds`.
    pub(super) fn seconds(&mut self, name: MetricName, series: impl Series<f64>) {
        self.add(name, Some(Unit::Seconds), Value::RealGauge, series);
    }

    /// Adds a gauge without a unit.
    pub(super) fn number(&mut self, name: MetricName, series: impl Series<u64>) {
        self.add(name, None, Value::Gauge, series);
    }

    /// Adds a gauge from 0 to 1.
    pub(super) fn ratio(&mut self, name: MetricName, series: impl Series<f64>) {
        self.add(name, None, Value::RealGauge, series);
    }

    /// Adds a counter, which only grows; its name gets the suffix `_total`.
    pub(super) fn counter(&mut self, name: MetricName, series: impl Series<u64>) {
        self.add(name, None, Value::Counter, series);
    }

    /// Adds a counter of seconds; its name gets the suffix `_seconds_total`.
    pub(super) fn seconds_counter(&mut self, name: MetricName, series: impl Series<f64>) {
        self.add(name, Some(Unit::Seconds), Value::RealCounter, series);
    }
}

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Family { name: MetricName(name, help), unit, series } = self;
        let kind = match series.first() {
            Some((_, Value::Counter(_) | Value::RealCounter(_))) => MetricType::Counter,
            _ => MetricType::Gauge,
        };
        let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in series {
            let labels = &labels[..];
            let one = metric.encode_family(&labels)?;
            match *value {
                Value::Gauge(value) => ConstGauge::new(value).encode(one)?,
                Value::RealGauge(value) => ConstGauge::new(value).encode(one)?,
                Value::Counter(value) => ConstCounter::new(value).encode(one)?,
                Value::RealCounter(value) => ConstCounter::new(value).encode(one)?,
            }
        }
        Ok(())
    }
}
